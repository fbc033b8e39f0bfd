/*
 * Threads that execute requests of one block device with blocking calls: ops->execute() of the device,
 * then done().
 */
#ifndef TRAPEZE_BACKEND_BLOCK_POOL_H
#define TRAPEZE_BACKEND_BLOCK_POOL_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/block/block.h"
#include "base/lock.h"

#define BLOCK_POOL_THREADS 4

struct block_pool {
    struct block_device *owner;
    atomic_bool complained;

    struct lock lock;    /* guards what follows */
    pthread_cond_t work; /* the queue got longer, or stop */
    pthread_cond_t idle; /* in_flight became 0 */
    struct list queue;
    unsigned in_flight; /* entered, and not left */
    bool shared;        /* block_pool_shares() said yes the last time */
    unsigned alone;     /* so often in a row without use */
    bool stop;
    pthread_t threads[BLOCK_POOL_THREADS];
    unsigned thread_count;
};

/* No threads yet: everything but start, add and drain works from here on. */
void block_pool_init(struct block_pool *p, struct block_device *owner);
int block_pool_start(struct block_pool *p, struct error *err);
/* The queue is emptied first; then the threads end. */
void block_pool_stop(struct block_pool *p);
void block_pool_release(struct block_pool *p);

void block_pool_add(struct block_pool *p, struct block_request *r);
void block_pool_drain(struct block_pool *p);

/*
 * Is @r, which its submitter could copy at once, better given to a thread? Long copies are, as long as the
 * guest submits others meanwhile, which the submitter copies: so both work. They are two at a time, so that
 * the next one is there when a thread has done one. A guest that waits for each request would only wait
 * longer; it is tried again now and then.
 */
bool block_pool_shares(struct block_pool *p, const struct block_request *r);

/* For requests that are executed elsewhere, so that drain waits for them as well. */
void block_pool_enter(struct block_pool *p);
void block_pool_leave(struct block_pool *p);

/*
 * Calls done(). The guest sees each failure; whoever runs it is told of the first. @r belongs to its owner
 * again when done() is called, and may be gone when it returns.
 */
void block_pool_finish(struct block_pool *p, struct block_request *r, int result);

/* A thread with all signals blocked: they are for the threads that expect them. */
int block_thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

#endif
