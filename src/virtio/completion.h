/*
 * Requests that a backend completes on its own threads, and their way back to the device, which pushes
 * them under the machine lock. A device embeds a `struct completions`, each request a
 * `struct completion`:
 *
 *     more = completions_begin(cs);            (machine lock held, for a batch of requests)
 *     pop; cs->in_flight++; completions_submitted(cs); hand the request to the backend; ...
 *     completions_end(cs, more);
 *     ... on the backend's thread, or on ours while it takes the request: completion_done(cs, c, result)
 *     ... cs->finish(c), machine lock held: push the request, cs->in_flight--
 *
 * Whichever thread completes a request takes the machine lock, pushes all that have completed by then,
 * and raises the interrupts itself.
 *
 * Locks: `lock` (LOCK_RANK_BACKEND) guards the list of completed requests and `running`. It makes it
 * possible to wait for the backend with the machine lock held: a completing thread enters its request in
 * the list before it asks for the machine lock, and only one thread at a time asks (`collecting`), so that
 * the others get on with the requests that are waited for.
 */
#ifndef TRAPEZE_VIRTIO_COMPLETION_H
#define TRAPEZE_VIRTIO_COMPLETION_H

#include "base/list.h"
#include "base/lock.h"
#include "virtio/virtio.h"

struct completion {
    struct list link;
    unsigned queue; /* set by the device: notified after finish() */
    int result;
};

struct completions {
    struct virtio_device *vdev;
    struct lock *machine_lock;
    void (*finish)(struct completions *cs, struct completion *c);
    unsigned in_flight; /* requests popped and not pushed (machine lock); 0 ends a reset */

    struct lock lock;
    pthread_cond_t idle; /* running became 0 */
    struct list done;    /* completed, not pushed */
    unsigned running;    /* with the backend */
    bool collecting;     /* some thread is going to push what is in `done` */
};

void completions_init(struct completions *cs, struct virtio_device *vdev, struct lock *machine_lock,
                      void (*finish)(struct completions *cs, struct completion *c));

/* Nothing is with the backend any more. */
void completions_release(struct completions *cs);

/*
 * A device begins no more than these bytes of requests in one go: the backend may copy them at once, and
 * others wait for the machine lock meanwhile.
 */
#define COMPLETIONS_BATCH (8ull << 20)

/* From here to the end completions pile up in `done`, then they are pushed. */
bool completions_begin(struct completions *cs);
void completions_end(struct completions *cs, bool more);

/* A request is about to go to the backend. */
void completions_submitted(struct completions *cs);

/* It came back. Any thread; the machine lock is held only between begin and end. */
void completion_done(struct completions *cs, struct completion *c, int result);

/* The same in two steps, the first of which does not block. */
void completion_enter(struct completions *cs, struct completion *c, int result);
void completions_wake(struct completions *cs);

/* Waits for the backend with the machine lock held, and pushes all. */
void completions_drain(struct completions *cs);

#endif
