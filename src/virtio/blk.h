/*
 * virtio-blk (VIRTIO 1.2, 5.2): a disk with one or more request queues.
 *
 * A doorbell validates requests and submits them to the backend on the vCPU's thread; the backend
 * reads and writes guest RAM directly on its own threads. Whichever thread completes a request takes
 * the machine lock, pushes all that have completed by then, and raises the interrupts itself.
 *
 * Locks: `done_lock` (LOCK_RANK_BACKEND) guards the list of completed requests and `running`. It
 * makes it possible to wait for the backend with the machine lock held: a completing thread enters
 * its request in the list before it asks for the machine lock, and only one thread at a time asks
 * (`collecting`), so that the others get on with the requests that are waited for.
 */
#ifndef TRAPEZE_VIRTIO_BLK_H
#define TRAPEZE_VIRTIO_BLK_H

#include "backend/block/block.h"
#include "base/lock.h"
#include "virtio/virtio-pci.h"

#define VIRTIO_BLK_MAX_QUEUES 16
#define VIRTIO_BLK_QUEUE_SIZE 256
#define VIRTIO_BLK_ID_BYTES 20

struct virtio_blk_config {
    unsigned queues;    /* 1..VIRTIO_BLK_MAX_QUEUES; 0 means 1. One for each vCPU is best. */
    const char *serial; /* at most VIRTIO_BLK_ID_BYTES are used; NULL: empty */
};

struct virtio_blk {
    struct virtio_device vdev;
    struct virtio_pci pci; /* the board's device is pci.function.dev */
    struct block_device *backend;
    struct lock *machine_lock;
    char serial[VIRTIO_BLK_ID_BYTES];
    bool writeback;     /* as saved: the cache mode in the configuration */
    bool write_through; /* each write is flushed before it completes */

    struct list free;   /* requests to reuse */
    unsigned in_flight; /* requests popped and not pushed (machine lock) */

    struct lock done_lock;
    pthread_cond_t idle; /* running became 0 */
    struct list done;    /* completed, not pushed */
    unsigned running;    /* with the backend */
    bool collecting;     /* some thread is going to push what is in `done` */
};

/* The backend stays the caller's: close it after virtio_blk_release(). */
int virtio_blk_init(struct virtio_blk *b, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct lock *machine_lock, struct block_device *backend,
                    const struct virtio_blk_config *config, struct error *err);

/* Waits for the backend. Not under the machine lock, no vCPU running. */
void virtio_blk_release(struct virtio_blk *b);

#endif
