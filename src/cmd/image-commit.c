/* "trapeze image commit" */
#include <errno.h>
#include <stdlib.h>

#include "cmd/image.h"

struct commit_options {
    bool keep, progress, quiet;
};

#define AT(m) .offset = offsetof(struct commit_options, m)

static const struct option commit_list[] = {
    {.name = "keep",
     .letter = 'd',
     .help = "do not empty the overlay afterwards",
     .kind = OPTION_FLAG,
     AT(keep)},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET("say nothing"),
    OPTION_LIST_END,
};

static int commit_data(struct block_device *top, struct block_device *base, struct progress *p,
                       struct error *err)
{
    u8 *buf = aligned_alloc(4096, IMAGE_BUFFER);
    struct block_extent e;
    int r = buf ? 0 : -ENOMEM;

    p->total = top->size;
    for (u64 at = 0; !r && at < top->size; at += e.len) {
        r = block_extent(top, at, MIN(top->size - at, (u64)IMAGE_BUFFER), &e);
        if (!r && e.allocated && e.zero) {
            r = block_write_zeroes(base, at, e.len, true);
        } else if (!r && e.allocated) {
            r = block_read(top, at, buf, e.len);
            if (!r)
                r = block_write(base, at, buf, e.len);
        }
        progress_show(p, at);
    }
    if (!r)
        r = block_flush(base);
    free(buf);
    return r ? error_set_errno(err, -r, "cannot commit '%s' into '%s'", top->path, base->path) : 0;
}

/* The overlay was opened without its backing file, which is opened for writing here. */
static int commit(const struct commit_options *o, struct block_device *top, struct error *err)
{
    struct progress p = {.on = o->progress};
    struct block_options open = {.synchronous = true};
    struct qcow2_info info;
    struct block_device *base;
    char path[8192];
    int r;

    if (!qcow2_get_info(top, &info) || !info.backing)
        return error_set(err, EINVAL, "'%s' has no backing file", top->path);
    if (qcow2_backing_path(top->path, info.backing, path, sizeof path, err))
        return -err->code;
    if (info.backing_format)
        open.format = block_format_find(info.backing_format);
    base = block_open(path, &open, err);
    if (!base)
        return -err->code;
    r = base->size < top->size ? block_resize(base, top->size, err) : 0;
    if (!r)
        r = commit_data(top, base, &p, err);
    block_close(base);
    if (!r && !o->keep)
        r = qcow2_empty(top, err);
    if (!r)
        progress_end(&p);
    return r;
}

int image_commit(int argc, char **argv)
{
    struct commit_options o = {0};
    struct error err;
    int status = image_options(commit_list, &o, argc, argv, "commit [OPTIONS] FILE", 1, 1), r;
    struct block_device *top;

    if (status >= 0)
        return status;
    top = image_open(argv[0], NULL, (struct block_options){.no_backing = true});
    if (!top)
        return STATUS_ERROR;
    r = commit(&o, top, &err);
    block_close(top);
    if (r)
        return cmd_fail(&err);
    if (!o.quiet)
        puts("Image committed.");
    return STATUS_OK;
}
