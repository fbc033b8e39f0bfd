/*
 * Mutexes with a rank. A thread may take a lock only when its rank is higher than that of every
 * lock it holds; debug builds check that and BUG() otherwise, which rules out deadlock by order.
 */
#ifndef TRAPEZE_BASE_LOCK_H
#define TRAPEZE_BASE_LOCK_H

#include <pthread.h>

#include "base/compiler.h"

enum lock_rank {
    LOCK_RANK_VM = 1,  /* life cycle of a VM: pause, resume, stop */
    LOCK_RANK_MACHINE, /* device state, the I/O map, interrupt controllers ("the machine lock") */
    LOCK_RANK_VCPU,    /* sleeping and waking of one vCPU, exclusive sections */
    LOCK_RANK_CODE,    /* code caches */
    LOCK_RANK_COMMIT,  /* the metadata of a disk image on their way to its file */
    LOCK_RANK_BACKEND, /* queues between a device and its backend's threads */
    LOCK_RANK_EVENT,   /* the event loop's timers and sources */
    LOCK_RANK_LEAF,    /* log and the like: nothing is taken under it */
};

struct lock {
    pthread_mutex_t mutex;
    enum lock_rank rank;
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_release(struct lock *l);
void lock_acquire(struct lock *l);
void lock_drop(struct lock *l);

/* Waits for @cond with @l held, as pthread_cond_wait() does. The rank of @l stays taken meanwhile. */
void lock_wait(struct lock *l, pthread_cond_t *cond);

/* Does the calling thread hold @l, or not? Both are always true in release builds: BUG_ON(!...) only. */
bool lock_held(const struct lock *l);
bool lock_not_held(const struct lock *l);

#endif
