/*
 * Mutexes with a rank. Debug builds keep the locks that a thread holds in a thread-local table, which
 * is state of the thread and not of any VM.
 */
#include "base/lock.h"

#ifndef NDEBUG

/* There are as many ranks, and ranks held by a thread only rise. */
#define MAX_HELD (LOCK_RANK_LEAF + 1)

static _Thread_local const struct lock *held[MAX_HELD];
static _Thread_local unsigned held_count;

static void check_rank(const struct lock *l)
{
    for (unsigned i = 0; i < held_count; i++) {
        if (held[i] == l)
            bug_at(__FILE__, __LINE__, "a lock is taken twice by one thread");
        if (held[i]->rank >= l->rank)
            bug_at(__FILE__, __LINE__, "a lock is taken out of the order of ranks");
    }
}

static void note_taken(const struct lock *l)
{
    BUG_ON(held_count == MAX_HELD);
    held[held_count++] = l;
}

static void note_dropped(const struct lock *l)
{
    for (unsigned i = 0; i < held_count; i++) {
        if (held[i] == l) {
            held[i] = held[--held_count];
            return;
        }
    }
    bug_at(__FILE__, __LINE__, "a lock is dropped that this thread does not hold");
}

bool lock_held(const struct lock *l)
{
    for (unsigned i = 0; i < held_count; i++) {
        if (held[i] == l)
            return true;
    }
    return false;
}

bool lock_not_held(const struct lock *l)
{
    return !lock_held(l);
}

#else

static void check_rank(const struct lock *l) {}
static void note_taken(const struct lock *l) {}
static void note_dropped(const struct lock *l) {}

bool lock_held(const struct lock *l)
{
    return true;
}

bool lock_not_held(const struct lock *l)
{
    return true;
}

#endif

void lock_init(struct lock *l, enum lock_rank rank)
{
    pthread_mutex_init(&l->mutex, NULL);
    l->rank = rank;
}

void lock_release(struct lock *l)
{
    BUG_ON(pthread_mutex_destroy(&l->mutex));
}

void lock_acquire(struct lock *l)
{
    check_rank(l);
    pthread_mutex_lock(&l->mutex);
    note_taken(l);
}

void lock_drop(struct lock *l)
{
    note_dropped(l);
    pthread_mutex_unlock(&l->mutex);
}

void lock_wait(struct lock *l, pthread_cond_t *cond)
{
    BUG_ON(!lock_held(l));
    pthread_cond_wait(cond, &l->mutex);
}
