/*
 * Raw files and block devices: a few threads that make blocking system calls. Short transfers that
 * the page cache can take or give are done at once by the submitter, since waking another thread
 * costs more than the copy. (io_uring can take the place of the threads behind the same interface.)
 *
 * Buffers may be guest RAM that the guest changes meanwhile: nothing here depends on their contents.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "base/iov.h"
#include "base/lock.h"
#include "base/log.h"

#define THREADS 4
#define MAX_IOV 256
#define AT_ONCE_MAX (64u << 10) /* longer copies do not belong on a vCPU's thread */
#define ZERO_CHUNK (64u << 10)

struct raw {
    struct block_device base;
    int fd;
    atomic_bool no_zero_range, complained;
    atomic_bool no_nowait[2]; /* BLOCK_READ, BLOCK_WRITE: the file system cannot do RWF_NOWAIT */

    struct lock lock;    /* guards what follows */
    pthread_cond_t work; /* the queue got longer, or stop */
    pthread_cond_t idle; /* in_flight became 0 */
    struct list queue;
    unsigned in_flight; /* submitted, and done() not returned */
    bool stop;
    pthread_t threads[THREADS];
    unsigned thread_count;
};

static struct raw *from_base(struct block_device *b)
{
    return container_of(b, struct raw, base);
}

/* --- the system calls --- */

/* The file may end before the rounded-up size, or have been cut by someone: that part reads zeroes. */
static int fill_zeroes(const struct iovec *iov, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
    return 0;
}

static int transfer(struct raw *raw, const struct block_request *r)
{
    struct iovec copy[MAX_IOV], *iov = copy;
    unsigned count = r->iovcnt;
    u64 offset = r->offset, left = r->len;
    if (count > MAX_IOV)
        return -EINVAL;
    memcpy(copy, r->iov, count * sizeof *iov);
    while (left) {
        ssize_t n = r->op == BLOCK_READ ? preadv(raw->fd, iov, (int)count, (off_t)offset)
                                        : pwritev(raw->fd, iov, (int)count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return r->op == BLOCK_READ ? fill_zeroes(iov, count) : -EIO;
        iov_trim_front(&iov, &count, (u64)n);
        offset += (u64)n;
        left -= (u64)n;
    }
    return 0;
}

static int punch_hole(struct raw *raw, u64 offset, u64 len)
{
    int ret = fallocate(raw->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    return ret < 0 ? -errno : 0;
}

/* A discard is a hint: a host that cannot do it has done enough. */
static int discard(struct raw *raw, u64 offset, u64 len)
{
    int ret = punch_hole(raw, offset, len);
    return ret == -EOPNOTSUPP ? 0 : ret;
}

static int write_zero_chunks(struct raw *raw, u64 offset, u64 len)
{
    static const u8 zeroes[ZERO_CHUNK];
    while (len) {
        ssize_t n = pwrite(raw->fd, zeroes, (size_t)MIN(len, (u64)ZERO_CHUNK), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        offset += (u64)n;
        len -= (u64)n;
    }
    return 0;
}

static int write_zeroes(struct raw *raw, const struct block_request *r)
{
    if (r->unmap && punch_hole(raw, r->offset, r->len) == 0)
        return 0;
    if (!atomic_load(&raw->no_zero_range)) {
        if (fallocate(raw->fd, FALLOC_FL_ZERO_RANGE, (off_t)r->offset, (off_t)r->len) == 0)
            return 0;
        if (errno != EOPNOTSUPP)
            return -errno;
        atomic_store(&raw->no_zero_range, true);
    }
    return write_zero_chunks(raw, r->offset, r->len);
}

static int execute(struct raw *raw, const struct block_request *r)
{
    if (r->op == BLOCK_FLUSH)
        return raw->base.read_only || fdatasync(raw->fd) == 0 ? 0 : -errno;
    if (r->offset > raw->base.size || r->len > raw->base.size - r->offset)
        return -EINVAL;
    if (r->op == BLOCK_READ)
        return transfer(raw, r);
    if (raw->base.read_only)
        return -EROFS;
    switch (r->op) {
    case BLOCK_WRITE: return transfer(raw, r);
    case BLOCK_DISCARD: return discard(raw, r->offset, r->len);
    case BLOCK_WRITE_ZEROES: return write_zeroes(raw, r);
    default: return -EINVAL;
    }
}

/* The guest sees each failure; whoever runs it is told of the first. */
static void complain(struct raw *raw, const struct block_request *r, int result)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "zero"};
    if (!atomic_exchange(&raw->complained, true))
        log_warn("cannot %s %llu bytes at %llu of '%s': %s", names[r->op], (unsigned long long)r->len,
                 (unsigned long long)r->offset, raw->base.path, strerror(-result));
}

/* --- threads --- */

/* @r belongs to the caller again when done() is called, and may be gone when it returns. */
static void finish(struct raw *raw, struct block_request *r, int result)
{
    trace(block_io, "%s: op %d, %llu bytes at %llu: %d", raw->base.path, r->op, (unsigned long long)r->len,
          (unsigned long long)r->offset, result);
    if (result < 0)
        complain(raw, r, result);
    r->done(r, result);
}

static void *worker(void *arg)
{
    struct raw *raw = arg;
    lock_acquire(&raw->lock);
    for (;;) {
        while (list_empty(&raw->queue) && !raw->stop)
            pthread_cond_wait(&raw->work, &raw->lock.mutex);
        if (list_empty(&raw->queue))
            break;
        struct block_request *r = list_entry(raw->queue.next, struct block_request, link);
        list_remove(&r->link);
        lock_drop(&raw->lock);

        finish(raw, r, execute(raw, r));

        lock_acquire(&raw->lock);
        if (--raw->in_flight == 0)
            pthread_cond_broadcast(&raw->idle);
    }
    lock_drop(&raw->lock);
    return NULL;
}

/* The whole transfer from or to the page cache without waiting for anything, or nothing that counts. */
static bool do_at_once(struct raw *raw, const struct block_request *r)
{
    if (r->op > BLOCK_WRITE || r->len > AT_ONCE_MAX || r->iovcnt > MAX_IOV || r->offset > raw->base.size ||
        r->len > raw->base.size - r->offset || atomic_load(&raw->no_nowait[r->op]) ||
        (r->op == BLOCK_WRITE && raw->base.read_only))
        return false;
    ssize_t n = r->op == BLOCK_READ ? preadv2(raw->fd, r->iov, (int)r->iovcnt, (off_t)r->offset, RWF_NOWAIT)
                                    : pwritev2(raw->fd, r->iov, (int)r->iovcnt, (off_t)r->offset, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP)
        atomic_store(&raw->no_nowait[r->op], true);
    return n == (ssize_t)r->len;
}

static void raw_submit(struct block_device *b, struct block_request *r)
{
    struct raw *raw = from_base(b);
    if (do_at_once(raw, r)) {
        finish(raw, r, 0);
        return;
    }
    lock_acquire(&raw->lock);
    raw->in_flight++;
    list_push_back(&raw->queue, &r->link);
    pthread_cond_signal(&raw->work);
    lock_drop(&raw->lock);
}

static void raw_drain(struct block_device *b)
{
    struct raw *raw = from_base(b);
    lock_acquire(&raw->lock);
    while (raw->in_flight)
        pthread_cond_wait(&raw->idle, &raw->lock.mutex);
    lock_drop(&raw->lock);
}

static void stop_threads(struct raw *raw)
{
    lock_acquire(&raw->lock);
    raw->stop = true;
    pthread_cond_broadcast(&raw->work);
    lock_drop(&raw->lock);
    for (unsigned i = 0; i < raw->thread_count; i++)
        pthread_join(raw->threads[i], NULL);
}

/* Signals are for the threads that expect them: these block them all. */
static int start_threads(struct raw *raw, struct error *err)
{
    sigset_t all, old;
    int ret = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (raw->thread_count < THREADS && ret == 0) {
        ret = pthread_create(&raw->threads[raw->thread_count], NULL, worker, raw);
        if (ret == 0)
            pthread_setname_np(raw->threads[raw->thread_count++], "block");
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret ? error_set_errno(err, ret, "cannot create a thread for '%s'", raw->base.path) : 0;
}

static void raw_free(struct raw *raw)
{
    pthread_cond_destroy(&raw->idle);
    pthread_cond_destroy(&raw->work);
    lock_release(&raw->lock);
    if (raw->fd >= 0)
        (void)close(raw->fd);
    free(raw->base.path);
    free(raw);
}

static void raw_close(struct block_device *b)
{
    struct raw *raw = from_base(b);
    stop_threads(raw); /* they empty the queue first */
    if (!b->read_only && fdatasync(raw->fd) < 0)
        log_warn("cannot flush '%s': %s", b->path, strerror(errno));
    raw_free(raw);
}

static const struct block_ops raw_ops = {.submit = raw_submit, .drain = raw_drain, .close = raw_close};

/* --- opening --- */

/* One writer or any number of readers, in this process and all others. */
static int lock_file(const struct raw *raw, struct error *err)
{
    struct flock fl = {.l_type = raw->base.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(raw->fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, EBUSY, "'%s' is in use by another virtual machine", raw->base.path);
    log_warn("'%s' is not protected against a second user: %s", raw->base.path, strerror(errno));
    return 0;
}

static int find_size(struct raw *raw, struct error *err)
{
    struct stat st;
    u64 size = 0;
    if (fstat(raw->fd, &st) < 0)
        return error_set_errno(err, errno, "cannot examine '%s'", raw->base.path);
    if (S_ISREG(st.st_mode))
        size = (u64)st.st_size;
    else if (!S_ISBLK(st.st_mode))
        return error_set(err, EINVAL, "'%s' is neither a file nor a block device", raw->base.path);
    else if (ioctl(raw->fd, BLKGETSIZE64, &size) < 0)
        return error_set_errno(err, errno, "cannot find the size of '%s'", raw->base.path);
    if (size == 0)
        return error_set(err, EINVAL, "'%s' is empty", raw->base.path);
    raw->base.size = ALIGN_UP(size, (u64)BLOCK_SECTOR); /* the last sector is filled up with zeroes */
    raw->base.can_discard = !raw->base.read_only;
    return 0;
}

static int open_file(struct raw *raw, struct error *err)
{
    int flags = (raw->base.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    raw->fd = open(raw->base.path, flags);
    if (raw->fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", raw->base.path);
    int ret = find_size(raw, err);
    return ret < 0 ? ret : lock_file(raw, err);
}

struct block_device *block_raw_open(const char *path, bool read_only, struct error *err)
{
    struct raw *raw = calloc(1, sizeof *raw);
    char *name = raw ? strdup(path) : NULL;
    if (!name) {
        free(raw);
        error_set_errno(err, ENOMEM, "cannot open '%s'", path);
        return NULL;
    }
    raw->base = (struct block_device){.ops = &raw_ops, .read_only = read_only, .path = name};
    raw->fd = -1;
    list_init(&raw->queue);
    lock_init(&raw->lock, LOCK_RANK_BACKEND);
    pthread_cond_init(&raw->work, NULL);
    pthread_cond_init(&raw->idle, NULL);
    if (open_file(raw, err) < 0) {
        raw_free(raw);
        return NULL;
    }
    if (start_threads(raw, err) < 0) {
        stop_threads(raw);
        raw_free(raw);
        return NULL;
    }
    return &raw->base;
}
