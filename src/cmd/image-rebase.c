/* "trapeze image rebase" */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/image.h"

struct rebase_options {
    const char *backing, *backing_format;
    bool unsafe, progress;
};

#define AT(m) .offset = offsetof(struct rebase_options, m)

static const struct option rebase_list[] = {
    {.name = "backing",
     .letter = 'b',
     .arg = "FILE",
     .help = "the new backing file; \"\" for none",
     .kind = OPTION_STRING,
     AT(backing)},
    {.name = "backing-format",
     .letter = 'F',
     .arg = "FORMAT",
     .help = "raw or qcow2: what FILE is",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     AT(backing_format)},
    {.name = "unsafe",
     .letter = 'u',
     .help = "change the name only: the old backing file was moved",
     .kind = OPTION_FLAG,
     AT(unsafe)},
    IMAGE_OPTION_PROGRESS,
    OPTION_LIST_END,
};

static int read_or_zero(struct block_device *b, u64 offset, u8 *buf, u64 len)
{
    u64 have = b && offset < b->size ? MIN(len, b->size - offset) : 0;

    memset(buf + have, 0, len - have);
    return have ? block_read(b, offset, buf, have) : 0;
}

/* Data of the old backing file that differ in the new one become the image's own. */
static int keep_differences(struct block_device *top, struct block_device *fresh, u64 offset, u64 len,
                            u8 *buf)
{
    struct block_device *old = qcow2_backing(top);
    int r = read_or_zero(old, offset, buf, len);

    if (!r)
        r = read_or_zero(fresh, offset, buf + IMAGE_BUFFER, len);
    if (r || !memcmp(buf, buf + IMAGE_BUFFER, len))
        return r;
    return block_write(top, offset, buf, len);
}

static int rebase_data(struct block_device *top, struct block_device *fresh, struct progress *p,
                       struct error *err)
{
    u8 *buf = malloc(2 * (size_t)IMAGE_BUFFER);
    struct qcow2_info info;
    struct block_extent e;
    int r = buf ? 0 : -ENOMEM;

    qcow2_get_info(top, &info);
    p->total = top->size;
    for (u64 at = 0; at < top->size && !r; at += e.len) {
        r = block_extent(top, at, MIN(top->size - at, info.cluster_size - at % info.cluster_size), &e);
        if (!r && (!e.allocated || e.depth > 0))
            r = keep_differences(top, fresh, at, e.len, buf);
        progress_show(p, at);
    }
    if (!r)
        r = block_flush(top);
    free(buf);
    return r ? error_set_errno(err, -r, "cannot rebase '%s'", top->path) : 0;
}

static int open_fresh(const char *image, const struct rebase_options *o, struct block_device **b,
                      struct error *err)
{
    char path[8192];
    struct block_options open = {.read_only = true, .synchronous = true};

    *b = NULL;
    if (!o->backing[0])
        return 0;
    open.format = block_format_find(o->backing_format);
    if (qcow2_backing_path(image, o->backing, path, sizeof path, err))
        return -err->code;
    *b = block_open(path, &open, err);
    return *b ? 0 : -err->code;
}

static int rebase(const struct rebase_options *o, struct block_device *top, struct error *err)
{
    struct progress p = {.on = o->progress};
    struct block_device *fresh = NULL;
    struct qcow2_info info;
    int r = 0;

    if (!qcow2_get_info(top, &info))
        return error_set(err, EINVAL, "'%s' is raw: only qcow2 images have backing files", top->path);
    if (o->backing[0])
        r = image_need_format(top->path, o->backing, o->backing_format, err);
    if (!r && !o->unsafe) {
        r = open_fresh(top->path, o, &fresh, err);
        if (!r)
            r = rebase_data(top, fresh, &p, err);
        block_close(fresh);
    }
    if (!r)
        r = qcow2_set_backing(top, o->backing[0] ? o->backing : NULL, o->backing_format, err);
    if (!r)
        progress_end(&p);
    return r;
}

int image_rebase(int argc, char **argv)
{
    struct rebase_options o = {NULL};
    struct error err;
    int status = image_options(rebase_list, &o, argc, argv, "rebase --backing FILE [OPTIONS] IMAGE", 1, 1);
    struct block_device *b;
    int r;

    if (status >= 0)
        return status;
    if (!o.backing) {
        error_set(&err, EINVAL,
                  "the new backing file is missing: --backing FILE, or --backing \"\" for none");
        return cmd_fail(&err);
    }
    b = image_open(argv[0], NULL, (struct block_options){.no_backing = o.unsafe});
    if (!b)
        return STATUS_ERROR;
    r = rebase(&o, b, &err);
    block_close(b);
    return r ? cmd_fail(&err) : STATUS_OK;
}
