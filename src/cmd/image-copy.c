/* "trapeze image convert", compare and commit. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/parse.h"
#include "cmd/image.h"

static bool all_zero(const u8 *buf, u64 len)
{
    return len == 0 || (buf[0] == 0 && !memcmp(buf, buf + 1, len - 1));
}

static int io_error(struct error *err, int r, const char *what, const struct block_device *b)
{
    return error_set_errno(err, -r, "cannot %s '%s'", what, b->path);
}

/* --- convert --- */

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
    {.name = "format",
     .letter = 'f',
     .arg = "FORMAT",
     .help = "of the first file: raw or qcow2; without it the file says",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     AT(from)},
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
    {.name = "progress", .letter = 'p', .help = "show how far it is", .kind = OPTION_FLAG, AT(progress)},
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
            return io_error(err, r, "read the tables of", c->from);
        n = MIN(ALIGN_DOWN(e.len, c->unit) ? ALIGN_DOWN(e.len, c->unit) : c->unit, size - at);
        if (e.zero && e.len >= n && c->o->sparse) {
            r = copy_zeroes(c, at, n);
        } else {
            n = MIN(n, (u64)IMAGE_BUFFER);
            r = block_read(c->from, at, c->buf, n);
            if (r)
                return io_error(err, r, "read", c->from);
            r = write_runs(c, at, n);
        }
        if (r)
            return io_error(err, r, "write", c->to);
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
            io_error(err, r, "write", c->to);
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

/* --- compare --- */

struct compare_options {
    const char *first, *second;
    bool strict, progress, quiet, share;
};

static const struct option compare_list[] = {
    {.name = "format",
     .letter = 'f',
     .arg = "FORMAT",
     .help = "of the first file; without it the file says",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     .offset = offsetof(struct compare_options, first)},
    {.name = "second-format",
     .letter = 'F',
     .arg = "FORMAT",
     .help = "of the second file",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     .offset = offsetof(struct compare_options, second)},
    {.name = "strict",
     .letter = 's',
     .help = "sizes must be the same as well; else what one lacks must be\nzeroes in the other",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct compare_options, strict)},
    {.name = "progress",
     .letter = 'p',
     .help = "show how far it is",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct compare_options, progress)},
    {.name = "quiet",
     .letter = 'q',
     .help = "the exit status says it: 0 the same, 1 not, 2 an error",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct compare_options, quiet)},
    {.name = "force-share",
     .letter = 'U',
     .help = "also while a machine writes to them",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct compare_options, share)},
    OPTION_LIST_END,
};

/* Reads what there is of [at, at + len); zeroes beyond the end. *zero: nothing was read since all is zero. */
static int read_part(struct block_device *b, u64 at, u64 *len, u8 *buf, bool *zero, struct error *err)
{
    struct block_extent e;
    int r;

    *zero = at >= b->size;
    if (*zero)
        return 0;
    *len = MIN(*len, b->size - at);
    r = block_extent(b, at, *len, &e);
    if (r)
        return io_error(err, r, "read the tables of", b);
    *zero = e.zero;
    *len = e.zero ? e.len : MIN(e.len, (u64)IMAGE_BUFFER);
    r = e.zero ? 0 : block_read(b, at, buf, *len);
    return r ? io_error(err, r, "read", b) : 0;
}

/* Returns the offset of the first difference within @len of the buffers, or @len. */
static u64 first_difference(const u8 *a, bool a_zero, const u8 *b, bool b_zero, u64 len)
{
    u64 i = 0;

    if (a_zero && b_zero)
        return len;
    if (!a_zero && !b_zero && !memcmp(a, b, len))
        return len;
    while (i < len && (a_zero ? 0 : a[i]) == (b_zero ? 0 : b[i]))
        i++;
    return i;
}

/* 0 the same, 1 different, or -errno. */
static int compare(const struct compare_options *o, struct block_device *a, struct block_device *b, u8 *buf,
                   struct error *err)
{
    u64 size = MAX(a->size, b->size), n;
    struct progress p = {.on = o->progress, .total = size};

    if (a->size != b->size && o->strict) {
        if (!o->quiet)
            puts("Strict mode: Image size mismatch!");
        return 1;
    }
    for (u64 at = 0; at < size; at += n) {
        bool a_zero, b_zero;
        u64 na = size - at, nb, same;
        int r = read_part(a, at, &na, buf, &a_zero, err);

        nb = na;
        if (!r)
            r = read_part(b, at, &nb, buf + IMAGE_BUFFER, &b_zero, err);
        if (r)
            return r;
        n = MIN(na, nb);
        same = first_difference(buf, a_zero, buf + IMAGE_BUFFER, b_zero, n);
        if (same < n) {
            same += at;
            if (!o->quiet)
                printf("Content mismatch at offset %llu!\n", (unsigned long long)same);
            return 1;
        }
        progress_show(&p, at + n);
    }
    progress_end(&p);
    if (!o->quiet) {
        if (a->size != b->size)
            puts("Warning: Image size mismatch!");
        puts("Images are identical.");
    }
    return 0;
}

int image_compare(int argc, char **argv)
{
    struct compare_options o = {NULL};
    struct error err;
    int status = image_options(compare_list, &o, argc, argv, "compare [OPTIONS] FILE FILE", 2, 2), r = -EIO;
    struct block_device *a, *b = NULL;
    u8 *buf = NULL;

    if (status >= 0)
        return status == STATUS_OK ? STATUS_OK : IMAGE_COMPARE_FAILED;
    a = image_open(argv[0], o.first, (struct block_options){.read_only = true, .no_lock = o.share});
    if (a)
        b = image_open(argv[1], o.second, (struct block_options){.read_only = true, .no_lock = o.share});
    if (b && (buf = aligned_alloc(4096, 2 * (size_t)IMAGE_BUFFER))) {
        r = compare(&o, a, b, buf, &err);
        if (r < 0)
            cmd_fail(&err);
    }
    free(buf);
    block_close(b);
    block_close(a);
    return r < 0 ? IMAGE_COMPARE_FAILED : r ? IMAGE_DIFFERS : STATUS_OK;
}

/* --- commit --- */

struct commit_options {
    bool keep, progress, quiet;
};

static const struct option commit_list[] = {
    {.name = "keep",
     .letter = 'd',
     .help = "do not empty the overlay afterwards",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct commit_options, keep)},
    {.name = "progress",
     .letter = 'p',
     .help = "show how far it is",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct commit_options, progress)},
    {.name = "quiet",
     .letter = 'q',
     .help = "say nothing",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct commit_options, quiet)},
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
