/*
 * Virtqueues: the one walker for split and packed rings (VIRTIO 1.2, 2.7 and 2.8).
 *
 * A device pops chains of buffers, fills or reads them through host iovecs, pushes them back, and
 * notifies the driver once for a batch:
 *
 *     while (virtqueue_pop(vq, &chain)) {
 *         size_t n = ...chain.iov[0 .. chain.out), then [chain.out .. chain.out + chain.in)...
 *         virtqueue_push(vq, &chain, n);
 *     }
 *     virtqueue_notify(vq);
 *
 * Everything in a ring is hostile. Each field is copied once and checked before use, each address
 * goes through memory_span() when it is used, a chain has at most VIRTQ_MAX_SEGMENTS buffers and
 * 4 GiB, and no more chains are in flight than the ring has entries. A malformed ring breaks the
 * device (virtio_device_error()): pop then yields nothing and push does nothing until the driver
 * resets it.
 *
 * Doorbells are suppressed while a device has not yet seen the ring empty: a pop that finds nothing
 * asks the driver for a doorbell and looks again. So a device either pops until it gets nothing, or
 * sees to it that it pops again later by itself.
 *
 * All functions are called with the machine lock held. Host addresses in a chain stay valid without
 * it, since RAM never moves.
 */
#ifndef TRAPEZE_VIRTIO_VIRTQUEUE_H
#define TRAPEZE_VIRTIO_VIRTQUEUE_H

#include "base/error.h"
#include "base/iov.h"
#include "state/fields.h"

#define VIRTQ_MAX_SIZE 1024
#define VIRTQ_MAX_SEGMENTS 128
#define VIRTQ_MAX_BYTES (4ull << 30)
#define VIRTQ_NO_VECTOR 0xffff /* 4.1.5.1.2 */

struct virtio_device;

struct virtqueue {
    struct virtio_device *dev;
    u16 index;
    u16 max_size; /* what the device offers; a power of two */

    /* Programmed by the driver through the transport. */
    u16 size;
    u16 msix_vector;
    u64 desc;   /* gpa of the descriptor table, or of the packed ring */
    u64 driver; /* gpa of the avail ring, or of the driver event suppression structure */
    u64 device; /* gpa of the used ring, or of the device event suppression structure */
    bool enabled;

    /* Where the device stands. */
    u16 avail_idx;              /* next entry to take: free running (split) or a ring position (packed) */
    u16 used_idx;               /* next entry to fill, likewise */
    bool avail_wrap, used_wrap; /* packed: wrap counters (2.8.1) */
    u16 in_flight;              /* ring entries popped and not pushed yet */
    u32 unsignalled;            /* ring entries pushed since the last virtqueue_notify() */
    bool doorbell_off;          /* the driver was told that doorbells are not needed */
};

/* A chain of buffers, readable ones first. Owned by the device from pop to push. */
struct virtq_chain {
    u16 id;           /* head of the chain, or the buffer id (packed) */
    u16 ring_entries; /* ring entries that it takes */
    unsigned out, in; /* device-readable and device-writable segments */
    u64 out_bytes, in_bytes;
    struct iovec iov[VIRTQ_MAX_SEGMENTS]; /* the device may change these */
    u64 gpa[VIRTQ_MAX_SEGMENTS];          /* the same segments as the driver gave them */
    u32 len[VIRTQ_MAX_SEGMENTS];
};

void virtqueue_init(struct virtqueue *vq, struct virtio_device *dev, u16 index, u16 max_size);

/* Back to the state of a device reset. Chains in flight are forgotten. */
void virtqueue_reset(struct virtqueue *vq);

/* Are the size that the driver chose and its addresses possible? */
bool virtqueue_layout_ok(const struct virtqueue *vq);

/* The driver enables the queue: virtqueue_layout_ok(), or else the device is broken. */
void virtqueue_enable(struct virtqueue *vq);

/* Takes the next chain; false when there is none or the device is not running. */
bool virtqueue_pop(struct virtqueue *vq, struct virtq_chain *chain);

/* Undoes the most recent pop, which must not have been followed by another one. */
void virtqueue_unpop(struct virtqueue *vq, const struct virtq_chain *chain);

/* What is left of a chain when its buffers are done with. */
struct virtq_taken {
    u16 id, ring_entries;
    u32 written;
};

/*
 * For what lies in several chains: virtqueue_taken() notes what was written to one, then either
 * virtqueue_push_all() gives the @n chains back such that the driver finds all of them or none, or
 * virtqueue_unpop_all() undoes the @n most recent pops.
 */
struct virtq_taken virtqueue_taken(struct virtqueue *vq, const struct virtq_chain *chain, u64 written);
void virtqueue_push_all(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n);
void virtqueue_unpop_all(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n);

/*
 * Gives @chain back. The first @written bytes of its writable segments have been written, and are
 * noted in the dirty log and the code tracking. The driver is not notified yet.
 */
void virtqueue_push(struct virtqueue *vq, const struct virtq_chain *chain, u64 written);

/* Interrupts the driver for what was pushed since the last call, unless it asked not to. */
void virtqueue_notify(struct virtqueue *vq);

/* Is there nothing to pop? */
bool virtqueue_empty(struct virtqueue *vq);

extern const struct state_desc virtqueue_state;

#endif
