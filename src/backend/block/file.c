#include "backend/block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/iov.h"
#include "base/log.h"

#define ZERO_CHUNK (64u << 10)
#define AT_ONCE_MAX (4u << 20) /* longer copies do not belong on a vCPU's thread */
#define LONG_WAIT_NS (5 * NS_PER_MS)
#define WAIT_SHARE 50

/* --- opening --- */

static int examine(struct host_file *f, struct error *err)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return error_set_errno(err, errno, "cannot examine '%s'", f->path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(err, EINVAL, "'%s' is neither a file nor a block device", f->path);
    f->regular = S_ISREG(st.st_mode);
    f->inode = st.st_ino;
    f->device = st.st_dev;
    return 0;
}

static int open_descriptors(struct host_file *f, struct error *err)
{
    int flags = (f->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    f->fd = open(f->path, flags);
    if (f->fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", f->path);
    int ret = examine(f, err);
    if (ret < 0 || f->cache != BLOCK_CACHE_NONE)
        return ret;
    char name[32];
    (void)snprintf(name, sizeof name, "/proc/self/fd/%d",
                   f->fd); /* the same file, whatever the path is now */
    f->direct_fd = open(name, flags | O_DIRECT);
    if (f->direct_fd < 0)
        return error_set_errno(err, errno, "cannot bypass the page cache for '%s' (use cache=writeback)",
                               f->path);
    return 0;
}

int host_file_open(struct host_file *f, const char *path, const struct block_options *options,
                   struct error *err)
{
    *f = (struct host_file){.path = strdup(path),
                            .fd = -1,
                            .direct_fd = -1,
                            .read_only = options->read_only,
                            .cache = options->cache,
                            .at_once = options->cache != BLOCK_CACHE_NONE && options->aio == BLOCK_AIO_AUTO};
    if (!f->path)
        return error_set_errno(err, ENOMEM, "cannot open '%s'", path);
    int ret = open_descriptors(f, err);
    if (ret == 0 && !options->no_lock)
        ret = host_file_lock(f, err);
    if (ret < 0)
        host_file_close(f);
    return ret;
}

void host_file_close(struct host_file *f)
{
    if (f->direct_fd >= 0)
        (void)close(f->direct_fd);
    if (f->fd >= 0)
        (void)close(f->fd);
    free(f->path);
    f->path = NULL;
    f->fd = f->direct_fd = -1;
}

/* --- transfers --- */

static bool direct_ok(const struct iovec *iov, unsigned count, u64 offset)
{
    u64 all = offset;
    for (unsigned i = 0; i < count; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return (all & (FILE_DIRECT_ALIGN - 1)) == 0;
}

int host_file_fd(const struct host_file *f, const struct iovec *iov, unsigned count, u64 offset)
{
    return f->direct_fd >= 0 && direct_ok(iov, count, offset) ? f->direct_fd : f->fd;
}

/* The file may end before the disk does, or have been cut by someone: that part reads zeroes. */
static int fill_zeroes(const struct iovec *iov, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
    return 0;
}

int host_file_transfer(struct host_file *f, enum block_op op, const struct iovec *buffers, unsigned count,
                       u64 offset, u64 len)
{
    struct iovec copy[FILE_MAX_IOV], *iov = copy;
    if (count > FILE_MAX_IOV)
        return -EINVAL;
    memcpy(copy, buffers, count * sizeof *iov);
    while (len) {
        int fd = host_file_fd(f, iov, count, offset);
        ssize_t n = op == BLOCK_READ ? preadv(fd, iov, (int)count, (off_t)offset)
                                     : pwritev(fd, iov, (int)count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return op == BLOCK_READ ? fill_zeroes(iov, count) : -EIO;
        iov_trim_front(&iov, &count, (u64)n);
        offset += (u64)n;
        len -= (u64)n;
    }
    return 0;
}

int host_file_read(struct host_file *f, u64 offset, void *buf, u64 len)
{
    struct iovec iov = {buf, (size_t)len};
    return host_file_transfer(f, BLOCK_READ, &iov, 1, offset, len);
}

int host_file_write(struct host_file *f, u64 offset, const void *buf, u64 len)
{
    struct iovec iov = {(void *)buf, (size_t)len};
    return host_file_transfer(f, BLOCK_WRITE, &iov, 1, offset, len);
}

/*
 * For file systems that cannot say whether a write would wait (ext4). It seldom does, for the journal or
 * since too much is dirty; what then took long is not tried again for WAIT_SHARE times as long. So writes
 * wait here for little of the time, and others are spared two changes of thread.
 */
static bool write_now(struct host_file *f, const struct iovec *iov, unsigned count, u64 offset, u64 len)
{
    u64 begin = clock_host_ns();
    if (begin < atomic_load_explicit(&f->no_write_before, memory_order_relaxed))
        return false;
    ssize_t n = pwritev(f->fd, iov, (int)count, (off_t)offset);
    u64 end = clock_host_ns();
    if (end - begin > LONG_WAIT_NS)
        atomic_store_explicit(&f->no_write_before, end + WAIT_SHARE * (end - begin), memory_order_relaxed);
    return n == (ssize_t)len;
}

bool host_file_transfer_now(struct host_file *f, enum block_op op, const struct iovec *iov, unsigned count,
                            u64 offset, u64 len)
{
    if (!f->at_once || len > AT_ONCE_MAX)
        return false;
    if (atomic_load(&f->no_nowait[op]))
        return op == BLOCK_WRITE && f->regular && write_now(f, iov, count, offset, len);
    ssize_t n = op == BLOCK_READ ? preadv2(f->fd, iov, (int)count, (off_t)offset, RWF_NOWAIT)
                                 : pwritev2(f->fd, iov, (int)count, (off_t)offset, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP)
        atomic_store(&f->no_nowait[op], true);
    return n == (ssize_t)len;
}

/* --- ranges and the whole --- */

static int punch_hole(struct host_file *f, u64 offset, u64 len)
{
    if (atomic_load(&f->no_punch))
        return -EOPNOTSUPP;
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (fallocate(f->fd, mode, (off_t)offset, (off_t)len) == 0)
        return 0;
    if (errno == EOPNOTSUPP)
        atomic_store(&f->no_punch, true);
    return -errno;
}

int host_file_discard(struct host_file *f, u64 offset, u64 len)
{
    int ret = punch_hole(f, offset, len);
    return ret == -EOPNOTSUPP ? 0 : ret;
}

int host_file_write_zero_data(struct host_file *f, u64 offset, u64 len)
{
    static const u8 zeroes[ZERO_CHUNK] ALIGNED(FILE_DIRECT_ALIGN);
    for (u64 n; len; offset += n, len -= n) {
        n = MIN(len, (u64)ZERO_CHUNK);
        int ret = host_file_write(f, offset, zeroes, n);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int host_file_write_zeroes(struct host_file *f, u64 offset, u64 len, bool unmap)
{
    if (unmap && punch_hole(f, offset, len) == 0)
        return 0;
    if (!atomic_load(&f->no_zero_range)) {
        if (fallocate(f->fd, FALLOC_FL_ZERO_RANGE, (off_t)offset, (off_t)len) == 0)
            return 0;
        if (errno != EOPNOTSUPP)
            return -errno;
        atomic_store(&f->no_zero_range, true);
    }
    return host_file_write_zero_data(f, offset, len);
}

int host_file_sync(struct host_file *f)
{
    if (f->read_only || f->cache == BLOCK_CACHE_UNSAFE)
        return 0;
    return fdatasync(f->fd) == 0 ? 0 : -errno;
}

int host_file_size(const struct host_file *f, u64 *size)
{
    struct stat st;
    *size = 0;
    if (!f->regular)
        return ioctl(f->fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    *size = (u64)st.st_size;
    return 0;
}

int host_file_truncate(struct host_file *f, u64 size)
{
    if (!f->regular)
        return 0;
    return ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
}

int host_file_extend(struct host_file *f, u64 size)
{
    u64 now;
    int ret = host_file_size(f, &now);
    if (ret < 0 || now >= size)
        return ret;
    return f->regular ? host_file_truncate(f, size) : -ENOSPC;
}
