/*
 * Raw files and block devices. Short transfers that the page cache can take or give are done at once
 * by the submitter, since waking another thread costs more than the copy; what is longer or has to wait
 * goes to io_uring, or to a few threads that make blocking system calls.
 *
 * Buffers may be guest RAM that the guest changes meanwhile: nothing here depends on their contents,
 * except where it copies them first.
 */
#include <errno.h>
#include <unistd.h>

#include "backend/block/block-internal.h"
#include "backend/block/file.h"
#include "backend/block/pool.h"
#include "backend/block/uring.h"
#include "base/iov.h"
#include "base/log.h"

struct raw {
    struct block_device base;
    struct host_file file;
    struct block_pool pool;
    struct block_uring *uring; /* NULL: threads only */
    bool guarded;              /* the format was probed: sector 0 must not become that of another */
    atomic_bool told;          /* that such a write was refused */
};

static struct raw *from_base(struct block_device *b)
{
    return container_of(b, struct raw, base);
}

/* --- the system calls --- */

/* A write that begins with sector 0 of a probed disk: looked at in a copy that the guest cannot change. */
static int write_guarded(struct raw *raw, const struct block_request *r)
{
    struct iovec rest[FILE_MAX_IOV], *iov = rest;
    unsigned count = r->iovcnt;
    u8 first[BLOCK_SECTOR];
    if (count > FILE_MAX_IOV)
        return -EINVAL;
    memcpy(rest, r->iov, count * sizeof *rest);
    for (u64 have = 0, n; have < sizeof first; have += n) {
        n = MIN(sizeof first - have, (u64)iov->iov_len);
        memcpy(first + have, iov->iov_base, n);
        iov_trim_front(&iov, &count, n);
    }
    if (block_probe_bytes(first, sizeof first) != BLOCK_FORMAT_RAW) {
        if (!atomic_exchange(&raw->told, true))
            log_warn("'%s': a write of the header of another image format to sector 0 is refused, since the "
                     "format was guessed; format=raw allows it",
                     raw->base.path);
        return -EPERM;
    }
    int ret = host_file_write(&raw->file, 0, first, sizeof first);
    if (ret < 0 || r->len == sizeof first)
        return ret;
    return host_file_transfer(&raw->file, BLOCK_WRITE, iov, count, sizeof first, r->len - sizeof first);
}

static bool needs_guard(const struct raw *raw, const struct block_request *r)
{
    return raw->guarded && r->op == BLOCK_WRITE && r->offset == 0;
}

static int raw_execute(struct block_device *b, const struct block_request *r)
{
    struct raw *raw = from_base(b);
    if (r->op == BLOCK_FLUSH)
        return host_file_sync(&raw->file);
    if (r->offset > b->size || r->len > b->size - r->offset)
        return -EINVAL;
    if (r->op == BLOCK_READ)
        return host_file_transfer(&raw->file, BLOCK_READ, r->iov, r->iovcnt, r->offset, r->len);
    if (b->read_only)
        return -EROFS;
    if (r->len == 0)
        return 0;
    switch (r->op) {
    case BLOCK_WRITE:
        if (needs_guard(raw, r))
            return write_guarded(raw, r);
        return host_file_transfer(&raw->file, BLOCK_WRITE, r->iov, r->iovcnt, r->offset, r->len);
    case BLOCK_DISCARD: return host_file_discard(&raw->file, r->offset, r->len);
    case BLOCK_WRITE_ZEROES: return host_file_write_zeroes(&raw->file, r->offset, r->len, r->unmap);
    default: return -EINVAL;
    }
}

/* --- requests --- */

static bool plain_transfer(const struct raw *raw, const struct block_request *r)
{
    return r->op <= BLOCK_WRITE && r->iovcnt <= FILE_MAX_IOV && r->offset <= raw->base.size && r->len &&
           r->len <= raw->base.size - r->offset && !(r->op == BLOCK_WRITE && raw->base.read_only) &&
           !needs_guard(raw, r);
}

static void uring_done(void *owner, struct block_request *r, int result)
{
    struct raw *raw = owner;
    if (result != (int)r->len) /* short, or refused: once more with calls that wait */
        result = raw_execute(&raw->base, r);
    block_pool_finish(&raw->pool, r, MIN(result, 0));
    block_pool_leave(&raw->pool);
}

static bool submit_uring(struct raw *raw, struct block_request *r)
{
    if (!raw->uring || r->len > INT32_MAX)
        return false;
    block_pool_enter(&raw->pool);
    if (block_uring_submit(raw->uring, r, host_file_fd(&raw->file, r->iov, r->iovcnt, r->offset)))
        return true;
    block_pool_leave(&raw->pool);
    return false;
}

static void raw_submit(struct block_device *b, struct block_request *r)
{
    struct raw *raw = from_base(b);
    bool plain = plain_transfer(raw, r);
    if (plain && raw->file.at_once && block_pool_shares(&raw->pool, r))
        plain = false;
    if (plain && host_file_transfer_now(&raw->file, r->op, r->iov, r->iovcnt, r->offset, r->len))
        block_pool_finish(&raw->pool, r, 0);
    else if (!plain || !submit_uring(raw, r))
        block_pool_add(&raw->pool, r);
}

static void raw_drain(struct block_device *b)
{
    block_pool_drain(&from_base(b)->pool);
}

/* --- what it is made of --- */

static int raw_extent(struct block_device *b, u64 offset, u64 len, struct block_extent *e)
{
    struct raw *raw = from_base(b);
    off_t data = lseek(raw->file.fd, (off_t)offset, SEEK_DATA), hole;
    *e = (struct block_extent){
        .len = len, .allocated = true, .has_offset = true, .offset = offset, .path = raw->base.path};
    if (data < 0 && errno == ENXIO) /* a hole up to the end */
        e->zero = true;
    if (data < 0)
        return 0; /* or a file without such a thing as holes */
    if ((u64)data >= ALIGN_UP(offset + 1, (u64)BLOCK_SECTOR)) {
        e->zero = true;
        e->len = MIN(len, ALIGN_DOWN((u64)data - offset, (u64)BLOCK_SECTOR));
        return 0;
    }
    hole = lseek(raw->file.fd, (off_t)offset, SEEK_HOLE);
    if (hole > (off_t)offset)
        e->len = MIN(len, ALIGN_UP((u64)hole - offset, (u64)BLOCK_SECTOR));
    return 0;
}

static int raw_resize(struct block_device *b, u64 size, struct error *err)
{
    struct raw *raw = from_base(b);
    if (!raw->file.regular)
        return error_set(err, EINVAL, "'%s' is a block device and cannot be resized", b->path);
    int ret = host_file_truncate(&raw->file, size);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot resize '%s'", b->path);
    b->size = size;
    return 0;
}

/* --- opening and closing --- */

static void raw_free(struct raw *raw)
{
    block_pool_stop(&raw->pool); /* it empties the queue first */
    block_pool_drain(&raw->pool);
    block_uring_free(raw->uring);
    block_pool_release(&raw->pool);
    host_file_close(&raw->file);
    free(raw->base.path);
    free(raw);
}

static void raw_close(struct block_device *b)
{
    struct raw *raw = from_base(b);
    block_pool_drain(&raw->pool);
    int ret = host_file_sync(&raw->file);
    if (ret < 0)
        log_warn("cannot flush '%s': %s", b->path, strerror(-ret));
    raw_free(raw);
}

static const struct block_ops raw_ops = {
    .submit = raw_submit,
    .drain = raw_drain,
    .close = raw_close,
    .execute = raw_execute,
    .extent = raw_extent,
    .resize = raw_resize,
};

static int find_size(struct raw *raw, struct error *err)
{
    u64 size;
    int ret = host_file_size(&raw->file, &size);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot find the size of '%s'", raw->base.path);
    raw->base.size = ALIGN_UP(size, (u64)BLOCK_SECTOR); /* the last sector is filled up with zeroes */
    raw->base.can_discard = !raw->base.read_only;
    raw->base.discard_unit = (u32)PAGE_SIZE; /* what usual filesystems can make a hole of */
    return 0;
}

struct block_device *raw_open(const char *path, const struct block_options *o, struct error *err)
{
    struct raw *raw = calloc(1, sizeof *raw);
    char *name = raw ? strdup(path) : NULL;
    if (!name) {
        free(raw);
        error_set_errno(err, ENOMEM, "cannot open '%s'", path);
        return NULL;
    }
    if (host_file_open(&raw->file, path, o, err) < 0) {
        free(name);
        free(raw);
        return NULL;
    }
    raw->base = (struct block_device){.ops = &raw_ops, .read_only = o->read_only, .path = name};
    raw->guarded = o->format == BLOCK_FORMAT_PROBE && !o->read_only;
    block_pool_init(&raw->pool, &raw->base);
    if (find_size(raw, err) < 0 || block_start(&raw->pool, &raw->uring, uring_done, raw, o, err) < 0) {
        raw_free(raw);
        return NULL;
    }
    return &raw->base;
}

const struct host_file *raw_file(struct block_device *b)
{
    return b->ops == &raw_ops ? &from_base(b)->file : NULL;
}
