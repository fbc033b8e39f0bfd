#include "backend/block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/block/block-internal.h"

static const char *const format_names[] = {"probe", "raw", "qcow2"};

const char *block_format_name(enum block_format format)
{
    return format_names[format];
}

enum block_format block_format_find(const char *name)
{
    for (unsigned i = BLOCK_FORMAT_RAW; i < ARRAY_SIZE(format_names); i++)
        if (!strcmp(format_names[i], name))
            return (enum block_format)i;
    return BLOCK_FORMAT_PROBE;
}

enum block_cache block_cache_find(const char *name)
{
    if (!strcmp(name, "none"))
        return BLOCK_CACHE_NONE;
    return strcmp(name, "unsafe") ? BLOCK_CACHE_WRITEBACK : BLOCK_CACHE_UNSAFE;
}

/* --- probing --- */

enum block_format block_probe_bytes(const u8 *data, size_t len)
{
    return len >= 4 && !memcmp(data, "QFI\xfb", 4) ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
}

int block_probe(const char *path, enum block_format *format, struct error *err)
{
    u8 first[BLOCK_SECTOR];
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", path);
    ssize_t n = pread(fd, first, sizeof first, 0);
    if (n < 0)
        return error_set_errno(err, errno, "cannot read '%s'", path);
    *format = block_probe_bytes(first, (size_t)n);
    return 0;
}

/* --- opening --- */

struct block_device *block_open_in_chain(const char *path, const struct block_options *o,
                                         const struct block_chain *above, struct error *err)
{
    enum block_format format = o->format;
    if (format == BLOCK_FORMAT_PROBE && block_probe(path, &format, err) < 0)
        return NULL;
    return format == BLOCK_FORMAT_QCOW2 ? qcow2_open(path, o, above, err) : raw_open(path, o, err);
}

struct block_device *block_open(const char *path, const struct block_options *o, struct error *err)
{
    return block_open_in_chain(path, o, NULL, err);
}

struct block_device *block_raw_open(const char *path, bool read_only, struct error *err)
{
    struct block_options o = {.format = BLOCK_FORMAT_RAW, .read_only = read_only};
    struct block_device *b = raw_open(path, &o, err);
    if (b && b->size == 0) {
        block_close(b);
        error_set(err, EINVAL, "'%s' is empty", path);
        return NULL;
    }
    return b;
}

/* --- blocking calls --- */

int block_read(struct block_device *b, u64 offset, void *buf, u64 len)
{
    struct iovec iov = {buf, (size_t)len};
    struct block_request r = {.op = BLOCK_READ, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1};
    return b->ops->execute(b, &r);
}

int block_write(struct block_device *b, u64 offset, const void *buf, u64 len)
{
    struct iovec iov = {(void *)buf, (size_t)len};
    struct block_request r = {.op = BLOCK_WRITE, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1};
    return b->ops->execute(b, &r);
}

int block_write_zeroes(struct block_device *b, u64 offset, u64 len, bool unmap)
{
    struct block_request r = {.op = BLOCK_WRITE_ZEROES, .offset = offset, .len = len, .unmap = unmap};
    return b->ops->execute(b, &r);
}

int block_flush(struct block_device *b)
{
    struct block_request r = {.op = BLOCK_FLUSH};
    return b->ops->execute(b, &r);
}

int block_extent(struct block_device *b, u64 offset, u64 len, struct block_extent *e)
{
    if (len == 0 || offset > b->size || len > b->size - offset)
        return -EINVAL;
    return b->ops->extent(b, offset, len, e);
}

int block_resize(struct block_device *b, u64 size, struct error *err)
{
    if (b->read_only)
        return error_set(err, EROFS, "'%s' is read-only", b->path);
    return b->ops->resize(b, ALIGN_UP(size, (u64)BLOCK_SECTOR), err);
}
