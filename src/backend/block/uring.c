#include "backend/block/uring.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>

#include "backend/block/pool.h"
#include "base/lock.h"

#define ENTRIES 128
#define THREADS 2 /* see block.h */

struct block_uring {
    struct io_uring ring;
    block_uring_done *done;
    void *owner;
    struct lock lock;        /* the submission queue, and in_flight */
    unsigned in_flight;      /* at most ENTRIES, so that no completion is lost */
    pthread_mutex_t reaping; /* one thread waits for a completion at a time */
    pthread_t threads[THREADS];
    unsigned thread_count;
};

/* Waits for one completion. False: the ring ends. */
static bool reap(struct block_uring *u, struct block_request **r, int *result)
{
    struct io_uring_cqe *cqe;
    int ret;
    pthread_mutex_lock(&u->reaping);
    do {
        ret = io_uring_wait_cqe(&u->ring, &cqe);
    } while (ret == -EINTR);
    if (ret == 0) {
        *r = io_uring_cqe_get_data(cqe);
        *result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    pthread_mutex_unlock(&u->reaping);
    return ret == 0 && *r;
}

static void *reaper(void *arg)
{
    struct block_uring *u = arg;
    struct block_request *r;
    int result;
    while (reap(u, &r, &result)) {
        lock_acquire(&u->lock);
        u->in_flight--;
        lock_drop(&u->lock);
        u->done(u->owner, r, result);
    }
    return NULL;
}

bool block_uring_submit(struct block_uring *u, struct block_request *r, int fd)
{
    lock_acquire(&u->lock);
    struct io_uring_sqe *sqe = u->in_flight < ENTRIES ? io_uring_get_sqe(&u->ring) : NULL;
    if (!sqe) {
        lock_drop(&u->lock);
        return false;
    }
    if (r->op == BLOCK_READ)
        io_uring_prep_readv(sqe, fd, r->iov, r->iovcnt, r->offset);
    else
        io_uring_prep_writev(sqe, fd, r->iov, r->iovcnt, r->offset);
    io_uring_sqe_set_data(sqe, r);
    u->in_flight++;
    /* What the kernel cannot take now stays in the queue; it is never given to a second owner. */
    while (io_uring_submit(&u->ring) < 0) {
        lock_drop(&u->lock);
        sched_yield();
        lock_acquire(&u->lock);
        if (!io_uring_sq_ready(&u->ring))
            break;
    }
    lock_drop(&u->lock);
    return true;
}

static void send_end(struct block_uring *u)
{
    lock_acquire(&u->lock);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, NULL);
        (void)io_uring_submit(&u->ring);
    }
    lock_drop(&u->lock);
}

void block_uring_free(struct block_uring *u)
{
    if (!u)
        return;
    for (unsigned i = 0; i < u->thread_count; i++)
        send_end(u);
    for (unsigned i = 0; i < u->thread_count; i++)
        pthread_join(u->threads[i], NULL);
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->reaping);
    lock_release(&u->lock);
    free(u);
}

static struct block_uring *block_uring_new(block_uring_done *done, void *owner)
{
    struct block_uring *u = calloc(1, sizeof *u);
    if (!u || io_uring_queue_init(ENTRIES, &u->ring, 0) < 0) {
        free(u);
        return NULL;
    }
    u->done = done;
    u->owner = owner;
    lock_init(&u->lock, LOCK_RANK_BACKEND);
    pthread_mutex_init(&u->reaping, NULL);
    while (u->thread_count < THREADS && block_thread_start(&u->threads[u->thread_count], reaper, u) == 0)
        u->thread_count++;
    if (u->thread_count == THREADS)
        return u;
    block_uring_free(u);
    return NULL;
}

int block_start(struct block_pool *pool, struct block_uring **u, block_uring_done *done, void *owner,
                const struct block_options *o, struct error *err)
{
    if (o->synchronous)
        return 0;
    if (o->aio != BLOCK_AIO_THREADS) {
        *u = block_uring_new(done, owner);
        if (!*u && o->aio == BLOCK_AIO_URING)
            return error_set(err, ENOSYS, "io_uring is not available for '%s' (use aio=threads)",
                             pool->owner->path);
    }
    return block_pool_start(pool, err);
}
