/* Reads and writes through io_uring, with two threads that take what is complete. */
#ifndef TRAPEZE_BACKEND_BLOCK_URING_H
#define TRAPEZE_BACKEND_BLOCK_URING_H

#include "backend/block/pool.h"

struct block_uring;

/* Runs on a thread of the ring; @result is what readv(2) would return, or -errno. */
typedef void block_uring_done(void *owner, struct block_request *r, int result);

/* Nothing is in flight. NULL is fine. */
void block_uring_free(struct block_uring *u);

/* Submits a READ or WRITE to @fd at r->offset; false when the ring is full. Any thread. */
bool block_uring_submit(struct block_uring *u, struct block_request *r, int fd);

/*
 * Starts what executes the requests of @pool's device, as @o says: a ring, which *@u then is, and the
 * threads of the pool.
 */
int block_start(struct block_pool *pool, struct block_uring **u, block_uring_done *done, void *owner,
                const struct block_options *o, struct error *err);

#endif
