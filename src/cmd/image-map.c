/* "trapeze image map" */
#include <errno.h>

#include "cmd/image.h"

#define AT(m) .offset = offsetof(struct image_show, m)

static const struct option map_list[] = {
    IMAGE_OPTION_FORMAT("raw or qcow2; without it the file says", format),
    IMAGE_OPTIONS_JSON,
    IMAGE_OPTION_SHARE,
    OPTION_LIST_END,
};

static bool joins(const struct block_extent *a, const struct block_extent *b)
{
    return a->depth == b->depth && a->allocated == b->allocated && a->zero == b->zero &&
           a->compressed == b->compressed && a->has_offset == b->has_offset && a->path == b->path &&
           (!a->has_offset || a->offset + a->len == b->offset);
}

static void print_extent(u64 start, const struct block_extent *e, bool json, bool first)
{
    if (!json) {
        if (e->allocated && !e->zero && e->has_offset)
            printf("%#-16llx%#-16llx%#-16llx%s\n", (unsigned long long)start, (unsigned long long)e->len,
                   (unsigned long long)e->offset, e->path);
        return;
    }
    printf(
        "%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s, "
        "\"compressed\": %s",
        first ? "[" : ",\n", (unsigned long long)start, (unsigned long long)e->len, e->depth,
        image_yes_no(e->allocated), image_yes_no(e->zero), image_yes_no(e->allocated && !e->zero),
        image_yes_no(e->compressed));
    if (e->has_offset)
        printf(", \"offset\": %llu", (unsigned long long)e->offset);
    putchar('}');
}

static int map(struct block_device *b, bool json, struct error *err)
{
    struct block_extent e, next;
    u64 start = 0;
    bool first = true;

    if (!json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    for (u64 at = 0; at < b->size; at += next.len) {
        int r = block_extent(b, at, b->size - at, &next);
        if (r)
            return error_set_errno(err, -r, "cannot read the tables of '%s'", b->path);
        if (at && joins(&e, &next)) {
            e.len += next.len;
            continue;
        }
        if (at) {
            print_extent(start, &e, json, first);
            first = false;
        }
        e = next;
        start = at;
    }
    if (b->size)
        print_extent(start, &e, json, first);
    if (json)
        puts(b->size ? "]" : "[]");
    return 0;
}

int image_map(int argc, char **argv)
{
    struct image_show o = {NULL};
    struct error err;
    int status = image_options(map_list, &o, argc, argv, "map [OPTIONS] FILE", 1, 1), r;
    struct block_device *b;

    if (status >= 0)
        return status;
    b = image_open(argv[0], o.format, (struct block_options){.read_only = true, .no_lock = o.share});
    if (!b)
        return STATUS_ERROR;
    r = map(b, image_wants_json(&o), &err);
    block_close(b);
    return r ? cmd_fail(&err) : STATUS_OK;
}
