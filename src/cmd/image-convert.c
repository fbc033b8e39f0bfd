/* "trapeze image convert" */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/image.h"

static bool all_zero(const u8 *buf, u64 len)
{
    return len == 0 || (buf[0] == 0 && !memcmp(buf, buf + 1, len - 1));
}

struct convert_options {
    struct image_make make;
    const char *from, *to, *backing, *backing_format, *snapshot;
    u64 sparse;
    bool compressed, progress, existing;
};

static int set_make(void *target, char *text, struct error *err)
{
    struct convert_options *o = target;
    return image_make_options(&o->make, text, err);
}

#define AT(m) .offset = offsetof(struct convert_options, m)

static const struct option convert_list[] = {
    IMAGE_OPTION_FORMAT("of the first file: raw or qcow2; without it the file says", from),
    {.name = "to",
     .letter = 'O',
     .arg = "FORMAT",
     .help = "of the second file: raw (default) or qcow2",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     AT(to)},
    {.name = "options",
     .letter = 'o',
     .arg = "LIST",
     .help = image_make_help,
     .kind = OPTION_CALL,
     .set = set_make},
    {.name = "compressed",
     .letter = 'c',
     .help = "compress a qcow2 image",
     .kind = OPTION_FLAG,
     AT(compressed)},
    IMAGE_OPTION_PROGRESS,
    {.name = "sparse",
     .letter = 'S',
     .arg = "SIZE",
     .help = "leave zeroes of at least SIZE out (default 4K); 0: write all",
     .kind = OPTION_SIZE,
     .max = IMAGE_BUFFER,
     .unit = BLOCK_SECTOR,
     AT(sparse)},
    {.name = "snapshot",
     .letter = 'l',
     .arg = "NAME",
     .help = "copy what the snapshot holds",
     .kind = OPTION_STRING,
     AT(snapshot)},
    {.name = "existing",
     .letter = 'n',
     .help = "write into the file that is there",
     .kind = OPTION_FLAG,
     AT(existing)},
    OPTION_LIST_END,
};

struct copy {
    const struct convert_options *o;
    struct block_device *from, *to;
    u64 unit;        /* zeroes are left out in multiples of it */
    bool has_zeroes; /* the target reads as zeroes where nothing is written */
    u8 *buf;
    struct progress progress;
};

static int copy_zeroes(struct copy *c, u64 at, u64 len)
{
    return c->has_zeroes ? 0 : block_write_zeroes(c->to, at, len, true);
}

/* [at, at + len) is in the buffer: runs of zeroes and of data in turn. */
static int write_runs(struct copy *c, u64 at, u64 len)
{
    for (u64 done = 0, n; done < len; done += n) {
        u64 unit = MIN(len - done, c->unit);
        bool zero = c->o->sparse && all_zero(c->buf + done, unit);
        int r;

        for (n = unit; done + n < len; n += unit) {
            unit = MIN(len - done - n, c->unit);
            if ((c->o->sparse && all_zero(c->buf + done + n, unit)) != zero)
                break;
        }
        if (zero)
            r = copy_zeroes(c, at + done, n);
        else if (c->o->compressed)
            r = qcow2_write_compressed(c->to, at + done, c->buf + done, n);
        else
            r = block_write(c->to, at + done, c->buf + done, n);
        if (r)
            return r;
    }
    return 0;
}

/* Compressed clusters are written whole, so what is known to be zero is looked at in whole units too. */
static int copy_all(struct copy *c, struct error *err)
{
    u64 size = c->from->size;
    struct block_extent e;

    c->progress.total = size;
    for (u64 at = 0, n; at < size; at += n) {
        int r = block_extent(c->from, at, size - at, &e);
        if (r)
            return image_io_error(err, r, "read the tables of", c->from);
        n = MIN(ALIGN_DOWN(e.len, c->unit) ? ALIGN_DOWN(e.len, c->unit) : c->unit, size - at);
        if (e.zero && e.len >= n && c->o->sparse) {
            r = copy_zeroes(c, at, n);
        } else {
            n = MIN(n, (u64)IMAGE_BUFFER);
            r = block_read(c->from, at, c->buf, n);
            if (r)
                return image_io_error(err, r, "read", c->from);
            r = write_runs(c, at, n);
        }
        if (r)
            return image_io_error(err, r, "write", c->to);
        progress_show(&c->progress, at + n);
    }
    return 0;
}

static int sync_path(const char *path, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fsync(fd) < 0)
        return error_set_errno(err, errno, "cannot sync '%s'", path);
    return 0;
}

/* One sync at the end is enough: an unfinished copy is of no use. */
static struct block_device *open_target(const struct convert_options *o, const char *path, struct error *err)
{
    struct block_options open = {.cache = BLOCK_CACHE_UNSAFE, .synchronous = true};

    open.format = block_format_find(o->to);
    return block_open(path, &open, err);
}

static int copy_into(struct copy *c, const char *path, struct error *err)
{
    struct qcow2_info info;
    int r;

    c->to = open_target(c->o, path, err);
    if (!c->to)
        return -EIO;
    c->has_zeroes = !c->o->existing && !c->o->make.backing;
    c->unit = c->o->sparse ? c->o->sparse : IMAGE_BUFFER;
    if (qcow2_get_info(c->to, &info))
        c->unit = c->o->compressed ? info.cluster_size : MIN(c->unit, info.cluster_size);
    c->buf = aligned_alloc(4096, IMAGE_BUFFER);
    r = c->buf ? 0 : error_set_errno(err, ENOMEM, "cannot convert '%s'", c->from->path);
    if (!r && c->to->size < c->from->size)
        r = error_set(err, ENOSPC, "'%s' is smaller than '%s'", path, c->from->path);
    if (!r)
        r = copy_all(c, err);
    if (!r) {
        r = block_flush(c->to);
        if (r)
            image_io_error(err, r, "write", c->to);
    }
    free(c->buf);
    block_close(c->to);
    return r ? r : sync_path(path, err);
}

static int convert(struct convert_options *o, struct block_device *from, const char *path, struct error *err)
{
    struct copy c = {.o = o, .from = from, .progress = {.on = o->progress}};
    int r = 0;

    if (o->snapshot)
        r = qcow2_snapshot_view(from, o->snapshot, err);
    if (!r && o->compressed && strcmp(o->to, "qcow2") != 0)
        r = error_set(err, EINVAL, "only qcow2 images can be compressed: give --to qcow2");
    o->make.format = o->to;
    o->make.size = from->size;
    if (!r && !o->existing)
        r = image_make(path, &o->make, err);
    if (!r)
        r = copy_into(&c, path, err);
    if (!r)
        progress_end(&c.progress);
    return r;
}

int image_convert(int argc, char **argv)
{
    struct convert_options o = {.to = "raw", .sparse = 4096};
    struct error err;
    int status = image_options(convert_list, &o, argc, argv, "convert [OPTIONS] FILE NEWFILE", 2, 2), r;
    struct block_device *from;

    if (status >= 0)
        return status;
    from = image_open(argv[0], o.from, (struct block_options){.read_only = true});
    if (!from)
        return STATUS_ERROR;
    r = convert(&o, from, argv[1], &err);
    block_close(from);
    return r ? cmd_fail(&err) : STATUS_OK;
}
