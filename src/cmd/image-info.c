/* "trapeze image info" */
#include <string.h>
#include <sys/stat.h>

#include "cmd/image.h"
#include "cmd/json.h"

static u64 disk_usage(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
}

#define AT(m) .offset = offsetof(struct image_show, m)

static const struct option info_list[] = {
    IMAGE_OPTION_FORMAT("raw or qcow2; without it the file says", format),
    {.name = "backing-chain", .help = "its backing files as well", .kind = OPTION_FLAG, AT(chain)},
    IMAGE_OPTIONS_JSON,
    IMAGE_OPTION_SHARE,
    OPTION_LIST_END,
};

static void print_qcow2(const struct block_device *b, const struct qcow2_info *q,
                        const struct qcow2_snapshot *s)
{
    char path[8192];

    printf("cluster_size: %llu\n", (unsigned long long)q->cluster_size);
    if (q->backing) {
        printf("backing file: %s", q->backing);
        if (!qcow2_backing_path(b->path, q->backing, path, sizeof path, NULL) &&
            strcmp(path, q->backing) != 0)
            printf(" (actual path: %s)", path);
        putchar('\n');
    }
    if (q->backing_format)
        printf("backing file format: %s\n", q->backing_format);
    if (q->snapshot_count) {
        puts("Snapshot list:");
        image_list_snapshots(s, q->snapshot_count);
    }
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
           q->version == 2 ? "0.10" : "1.1", q->zstd ? "zstd" : "zlib");
    if (q->version >= 3)
        printf("    lazy refcounts: %s\n", image_yes_no(q->lazy_refcounts));
    printf("    refcount bits: %u\n", q->refcount_bits);
    if (q->version >= 3)
        printf("    corrupt: %s\n    extended l2: %s\n", image_yes_no(q->corrupt),
               image_yes_no(q->extended_l2));
    if (q->dirty)
        puts("    dirty: true (not closed by its last user)");
}

static void print_info(struct block_device *b)
{
    struct qcow2_info q;
    bool is_qcow2 = qcow2_get_info(b, &q);
    unsigned count;
    char size[32], used[32];

    image_human_size(size, sizeof size, b->size);
    image_human_size(used, sizeof used, disk_usage(b->path));
    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", b->path,
           is_qcow2 ? "qcow2" : "raw", size, (unsigned long long)b->size, used);
    if (is_qcow2)
        print_qcow2(b, &q, qcow2_snapshots(b, &count));
}

static void json_qcow2(struct json *j, struct block_device *b, const struct qcow2_info *q)
{
    unsigned count;
    const struct qcow2_snapshot *s = qcow2_snapshots(b, &count);
    char path[8192];

    json_u64(j, "cluster-size", q->cluster_size);
    if (q->backing) {
        json_string(j, "backing-filename", q->backing);
        if (!qcow2_backing_path(b->path, q->backing, path, sizeof path, NULL))
            json_string(j, "full-backing-filename", path);
    }
    if (q->backing_format)
        json_string(j, "backing-filename-format", q->backing_format);
    if (count)
        image_json_snapshots(j, s, count);
    json_open(j, "format-specific", '{');
    json_string(j, "type", "qcow2");
    json_open(j, "data", '{');
    json_string(j, "compat", q->version == 2 ? "0.10" : "1.1");
    json_string(j, "compression-type", q->zstd ? "zstd" : "zlib");
    json_u64(j, "refcount-bits", q->refcount_bits);
    if (q->version >= 3) {
        json_bool(j, "lazy-refcounts", q->lazy_refcounts);
        json_bool(j, "corrupt", q->corrupt);
        json_bool(j, "extended-l2", q->extended_l2);
    }
    json_close(j, '}');
    json_close(j, '}');
}

static void json_info(struct json *j, struct block_device *b)
{
    struct qcow2_info q = {0};
    bool is_qcow2 = qcow2_get_info(b, &q);

    json_open(j, NULL, '{');
    json_string(j, "filename", b->path);
    json_string(j, "format", is_qcow2 ? "qcow2" : "raw");
    json_u64(j, "virtual-size", b->size);
    json_u64(j, "actual-size", disk_usage(b->path));
    json_bool(j, "dirty-flag", q.dirty);
    if (is_qcow2)
        json_qcow2(j, b, &q);
    json_close(j, '}');
}

int image_info(int argc, char **argv)
{
    struct image_show o = {NULL};
    int status = image_options(info_list, &o, argc, argv, "info [OPTIONS] FILE", 1, 1);
    struct block_device *top;
    struct json j = {.out = stdout};

    if (status >= 0)
        return status;
    top = image_open(argv[0], o.format,
                     (struct block_options){
                         .read_only = true, .no_lock = o.share, .no_backing = !o.chain, .damaged_ok = true});
    if (!top)
        return STATUS_ERROR;
    if (image_wants_json(&o) && o.chain)
        json_open(&j, NULL, '[');
    for (struct block_device *b = top; b; b = qcow2_backing(b)) {
        if (image_wants_json(&o)) {
            json_info(&j, b);
            continue;
        }
        if (b != top)
            putchar('\n');
        print_info(b);
    }
    if (image_wants_json(&o) && o.chain)
        json_close(&j, ']');
    block_close(top);
    return STATUS_OK;
}
