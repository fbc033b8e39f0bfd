/*
 * A device with a limited speed: a bucket of tokens for bytes and one for operations, filled at the
 * allowed rate up to the burst. A request passes while no bucket is below zero, and then takes what it
 * costs, so that one of any size passes at some time. Requests pass in their order.
 *
 * A request that need not wait goes on at once on the submitter's thread, others on two threads of the
 * filter (see block.h for why two).
 */
#include <errno.h>
#include <time.h>

#include "backend/block/pool.h"
#include "base/clock.h"

#define THREADS 2

struct bucket {
    u64 rate; /* a second; 0: no limit */
    i64 most, tokens;
};

struct throttle {
    struct block_device base;
    struct block_device *below;
    struct lock lock; /* guards what follows */
    pthread_cond_t changed;
    struct list queue;
    struct bucket bytes, ops;
    u64 filled_at;    /* ns */
    unsigned passing; /* threads with a request between the queue and the device below */
    bool stop, hurry; /* hurry: nobody waits any more, the queue is to be emptied */
    pthread_t threads[THREADS];
    unsigned thread_count;
};

static struct throttle *from_base(struct block_device *b)
{
    return container_of(b, struct throttle, base);
}

/* --- buckets: lock held --- */

static void bucket_init(struct bucket *b, u64 rate, u64 burst)
{
    b->rate = MIN(rate, (u64)INT64_MAX / 4);
    b->most = (i64)MAX(MIN(burst ? burst : b->rate / 10, (u64)INT64_MAX / 4), 1u);
    b->tokens = b->most;
}

static void bucket_fill(struct bucket *b, u64 ns)
{
    u64 more = muldiv64(MIN(ns, 1000 * NS_PER_SEC), b->rate, NS_PER_SEC);
    b->tokens = (i64)MIN((u64)(b->most - b->tokens), more) + b->tokens;
}

/* Time until the bucket has a token, 0 when it has. */
static u64 bucket_wait(const struct bucket *b)
{
    if (!b->rate || b->tokens > 0)
        return 0;
    return muldiv64((u64)(1 - b->tokens), NS_PER_SEC, b->rate) + 1;
}

/* Whole microseconds are filled in, so that slow rates lose nothing to rounding. */
static u64 time_to_wait(struct throttle *t)
{
    u64 now = clock_host_ns(), step = NS_PER_SEC / MAX(MAX(t->bytes.rate, t->ops.rate), 1u) + 1;
    if (now - t->filled_at >= step) {
        bucket_fill(&t->bytes, now - t->filled_at);
        bucket_fill(&t->ops, now - t->filled_at);
        t->filled_at = now;
    }
    return MAX(bucket_wait(&t->bytes), bucket_wait(&t->ops));
}

static void pay(struct throttle *t, const struct block_request *r)
{
    if (t->bytes.rate && r->op <= BLOCK_WRITE)
        t->bytes.tokens -= (i64)MIN(r->len, (u64)INT32_MAX);
    if (t->ops.rate)
        t->ops.tokens--;
}

/* --- requests --- */

static void wait_ns(struct throttle *t, u64 ns)
{
    struct timespec at;
    u64 until = clock_host_ns() + MIN(ns, NS_PER_SEC);
    at.tv_sec = (time_t)(until / NS_PER_SEC);
    at.tv_nsec = (long)(until % NS_PER_SEC);
    pthread_cond_timedwait(&t->changed, &t->lock.mutex, &at);
}

/* The first of the queue, when its time has come; NULL when the thread is to end. */
static struct block_request *next(struct throttle *t)
{
    for (;;) {
        u64 wait = list_empty(&t->queue) || t->hurry ? 0 : time_to_wait(t);
        if (!list_empty(&t->queue) && !wait) {
            struct block_request *r = list_entry(t->queue.next, struct block_request, link);
            list_remove(&r->link);
            pay(t, r);
            return r;
        }
        if (t->stop)
            return NULL;
        if (wait)
            wait_ns(t, wait);
        else
            lock_wait(&t->lock, &t->changed);
    }
}

static void *worker(void *arg)
{
    struct throttle *t = arg;
    lock_acquire(&t->lock);
    for (struct block_request *r; (r = next(t));) {
        t->passing++;
        lock_drop(&t->lock);
        block_submit(t->below, r);
        lock_acquire(&t->lock);
        t->passing--;
        pthread_cond_broadcast(&t->changed);
    }
    lock_drop(&t->lock);
    return NULL;
}

static void throttle_submit(struct block_device *b, struct block_request *r)
{
    struct throttle *t = from_base(b);
    lock_acquire(&t->lock);
    bool now = list_empty(&t->queue) && time_to_wait(t) == 0;
    if (now) {
        pay(t, r);
    } else {
        list_push_back(&t->queue, &r->link);
        pthread_cond_broadcast(&t->changed);
    }
    lock_drop(&t->lock);
    if (now)
        block_submit(t->below, r);
}

/* Who waits for the device does not want to wait for its limits. */
static void throttle_drain(struct block_device *b)
{
    struct throttle *t = from_base(b);
    lock_acquire(&t->lock);
    t->hurry = true;
    pthread_cond_broadcast(&t->changed);
    while (!list_empty(&t->queue) || t->passing)
        lock_wait(&t->lock, &t->changed);
    t->hurry = false;
    lock_drop(&t->lock);
    block_drain(t->below);
}

static int throttle_execute(struct block_device *b, const struct block_request *r)
{
    struct block_device *below = from_base(b)->below;
    return below->ops->execute(below, r);
}

/* --- life --- */

static void throttle_close(struct block_device *b)
{
    struct throttle *t = from_base(b);
    lock_acquire(&t->lock);
    t->hurry = t->stop = true;
    pthread_cond_broadcast(&t->changed);
    lock_drop(&t->lock);
    for (unsigned i = 0; i < t->thread_count; i++)
        pthread_join(t->threads[i], NULL);
    block_close(t->below);
    pthread_cond_destroy(&t->changed);
    lock_release(&t->lock);
    free(b->path);
    free(t);
}

static const struct block_ops throttle_ops = {
    .submit = throttle_submit, .drain = throttle_drain, .close = throttle_close, .execute = throttle_execute};

static struct throttle *throttle_new(struct block_device *below, const struct block_limits *l)
{
    struct throttle *t = calloc(1, sizeof *t);
    pthread_condattr_t attr;
    if (!t)
        return NULL;
    t->base = *below;
    t->base.ops = &throttle_ops;
    t->base.path = strdup(below->path);
    if (!t->base.path) {
        free(t);
        return NULL;
    }
    t->below = below;
    list_init(&t->queue);
    lock_init(&t->lock, LOCK_RANK_BACKEND);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    bucket_init(&t->bytes, l->bytes, l->bytes_burst);
    bucket_init(&t->ops, l->ops, l->ops_burst);
    t->filled_at = clock_host_ns();
    return t;
}

struct block_device *block_throttle_open(struct block_device *below, const struct block_limits *l,
                                         struct error *err)
{
    struct throttle *t = throttle_new(below, l);
    int ret = 0;
    if (!t) {
        error_set_errno(err, ENOMEM, "cannot limit '%s'", below->path);
        block_close(below);
        return NULL;
    }
    while (t->thread_count < THREADS && ret == 0) {
        ret = block_thread_start(&t->threads[t->thread_count], worker, t);
        t->thread_count += ret == 0;
    }
    if (ret == 0)
        return &t->base;
    error_set_errno(err, ret, "cannot create a thread for '%s'", below->path);
    throttle_close(&t->base);
    return NULL;
}
