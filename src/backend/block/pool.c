#include "backend/block/pool.h"

#include <errno.h>
#include <signal.h>

#include "base/log.h"

#define LONG_COPY (256u << 10)
#define SHARED_MAX 2 /* when a thread has done one, the next is there */
#define ALONE_MAX 4
#define ALONE_PAUSE 256 /* long requests until it is tried again */

static void complain(struct block_pool *p, const struct block_request *r, int result)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "zero"};
    if (!atomic_exchange(&p->complained, true))
        log_warn("cannot %s %llu bytes at %llu of '%s': %s", names[r->op], (unsigned long long)r->len,
                 (unsigned long long)r->offset, p->owner->path, strerror(-result));
}

void block_pool_finish(struct block_pool *p, struct block_request *r, int result)
{
    trace(block_io, "%s: op %d, %llu bytes at %llu: %d", p->owner->path, r->op, (unsigned long long)r->len,
          (unsigned long long)r->offset, result);
    if (result < 0)
        complain(p, r, result);
    r->done(r, result);
}

static void *worker(void *arg)
{
    struct block_pool *p = arg;
    lock_acquire(&p->lock);
    for (;;) {
        while (list_empty(&p->queue) && !p->stop)
            lock_wait(&p->lock, &p->work);
        if (list_empty(&p->queue))
            break;
        struct block_request *r = list_entry(p->queue.next, struct block_request, link);
        list_remove(&r->link);
        lock_drop(&p->lock);

        block_pool_finish(p, r, p->owner->ops->execute(p->owner, r));

        lock_acquire(&p->lock);
        if (--p->in_flight == 0)
            pthread_cond_broadcast(&p->idle);
    }
    lock_drop(&p->lock);
    return NULL;
}

void block_pool_add(struct block_pool *p, struct block_request *r)
{
    lock_acquire(&p->lock);
    p->in_flight++;
    list_push_back(&p->queue, &r->link);
    pthread_cond_signal(&p->work);
    lock_drop(&p->lock);
}

bool block_pool_shares(struct block_pool *p, const struct block_request *r)
{
    if (r->len < LONG_COPY)
        return false;
    lock_acquire(&p->lock);
    if (p->in_flight)
        p->alone = 0;
    else if (p->shared || p->alone >= ALONE_MAX)
        p->alone = (p->alone + 1) % (ALONE_MAX + ALONE_PAUSE);
    bool shares = p->shared = p->in_flight < SHARED_MAX && p->alone < ALONE_MAX;
    lock_drop(&p->lock);
    return shares;
}

void block_pool_enter(struct block_pool *p)
{
    lock_acquire(&p->lock);
    p->in_flight++;
    lock_drop(&p->lock);
}

void block_pool_leave(struct block_pool *p)
{
    lock_acquire(&p->lock);
    if (--p->in_flight == 0)
        pthread_cond_broadcast(&p->idle);
    lock_drop(&p->lock);
}

void block_pool_drain(struct block_pool *p)
{
    lock_acquire(&p->lock);
    while (p->in_flight)
        lock_wait(&p->lock, &p->idle);
    lock_drop(&p->lock);
}

void block_pool_init(struct block_pool *p, struct block_device *owner)
{
    p->owner = owner;
    atomic_init(&p->complained, false);
    list_init(&p->queue);
    lock_init(&p->lock, LOCK_RANK_BACKEND);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->idle, NULL);
    p->in_flight = p->thread_count = p->alone = 0;
    p->shared = false;
    p->stop = false;
}

int block_thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int ret = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret == 0)
        pthread_setname_np(*thread, "block");
    return ret;
}

int block_pool_start(struct block_pool *p, struct error *err)
{
    while (p->thread_count < BLOCK_POOL_THREADS) {
        int ret = block_thread_start(&p->threads[p->thread_count], worker, p);
        if (ret)
            return error_set_errno(err, ret, "cannot create a thread for '%s'", p->owner->path);
        p->thread_count++;
    }
    return 0;
}

void block_pool_stop(struct block_pool *p)
{
    lock_acquire(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    lock_drop(&p->lock);
    for (unsigned i = 0; i < p->thread_count; i++)
        pthread_join(p->threads[i], NULL);
    p->thread_count = 0;
}

void block_pool_release(struct block_pool *p)
{
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->work);
    lock_release(&p->lock);
}
