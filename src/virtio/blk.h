/*
 * virtio-blk (VIRTIO 1.2, 5.2): a disk with one or more request queues.
 *
 * A doorbell validates requests and submits them to the backend on the vCPU's thread; the backend
 * reads and writes guest RAM directly on its own threads. completion.h says how requests come back.
 */
#ifndef TRAPEZE_VIRTIO_BLK_H
#define TRAPEZE_VIRTIO_BLK_H

#include "backend/block/block.h"
#include "virtio/completion.h"
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
    char serial[VIRTIO_BLK_ID_BYTES];
    bool writeback;     /* as saved: the cache mode in the configuration */
    bool write_through; /* each write is flushed before it completes */

    struct list free; /* requests to reuse */
    struct completions completions;
};

/* The backend stays the caller's: close it after virtio_blk_release(). */
int virtio_blk_init(struct virtio_blk *b, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct lock *machine_lock, struct block_device *backend,
                    const struct virtio_blk_config *config, struct error *err);

/* Waits for the backend. Not under the machine lock, no vCPU running. */
void virtio_blk_release(struct virtio_blk *b);

#endif
