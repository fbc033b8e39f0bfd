/*
 * The event loop: one thread that serves file descriptors, timers and deferred calls of a VM.
 *
 * Any thread may arm and cancel timers and post deferred calls. Callbacks run on the loop's thread,
 * with the loop's callback lock (event_loop_set_lock(): the machine lock) held, so device callbacks
 * need no other locking. File sources are changed by the loop's thread, by a holder of that lock, or
 * before the loop runs. A callback may re-arm its timer, and may cancel or remove anything, itself
 * included. After timer_cancel(), event_source_remove() or event_loop_unpost() returns to a caller
 * that holds the lock, the callback does not run.
 */
#ifndef TRAPEZE_BASE_EVENT_LOOP_H
#define TRAPEZE_BASE_EVENT_LOOP_H

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"

struct event_loop;

struct event_loop *event_loop_new(struct error *err);
void event_loop_free(struct event_loop *loop);

/* Callbacks run with @l held. NULL for none. */
void event_loop_set_lock(struct event_loop *loop, struct lock *l);

/* Serves events until event_loop_stop(); the calling thread is the loop's thread meanwhile. */
void event_loop_run(struct event_loop *loop);

/* Serves what is due now, waiting at most @timeout_ns (0: do not wait). For tests. */
void event_loop_poll(struct event_loop *loop, u64 timeout_ns);

/* Makes event_loop_run(), or the next call of it, return soon. Any thread; async-signal-safe. */
void event_loop_stop(struct event_loop *loop);

/* --- timers: one-shot, in virtual or host time --- */

struct timer {
    struct event_loop *loop;
    const struct vclock *clock; /* NULL: host time */
    void (*fire)(struct timer *t);
    u64 deadline;    /* in the timer's clock, ns */
    size_t heap_pos; /* 0 when not armed */
};

/* @clock NULL means host CLOCK_MONOTONIC. The timer is embedded in its owner (container_of). */
void timer_init(struct timer *t, struct event_loop *loop, const struct vclock *clock,
                void (*fire)(struct timer *t));

/* Fires once when the clock reaches @deadline_ns; re-arming replaces. */
void timer_arm(struct timer *t, u64 deadline_ns);
void timer_cancel(struct timer *t);
bool timer_armed(const struct timer *t);

/* Virtual time was started or stopped: deadlines must be looked at anew. */
void event_loop_clock_changed(struct event_loop *loop);

/* --- file descriptors --- */

struct event_source {
    struct event_loop *loop;
    int fd;     /* -1 when not registered; not owned */
    u32 events; /* EPOLLIN, EPOLLOUT; 0: nothing is reported, not even a hang-up */
    bool plain; /* epoll refused it: always ready */
    void (*ready)(struct event_source *s, u32 events);
    struct list link;
};

/* Plain files, which epoll refuses, are treated as always ready. */
int event_source_add(struct event_source *s, struct event_loop *loop, int fd, u32 events,
                     void (*ready)(struct event_source *s, u32 events), struct error *err);
void event_source_set_events(struct event_source *s, u32 events);
void event_source_remove(struct event_source *s);

/* --- deferred calls --- */

struct deferred {
    void (*call)(struct deferred *d);
    struct list link;
    bool queued;
};

/* Runs @d->call once on the loop's thread; posting one that is queued does nothing. Any thread. */
void event_loop_post(struct event_loop *loop, struct deferred *d);
void event_loop_unpost(struct event_loop *loop, struct deferred *d);

#endif
