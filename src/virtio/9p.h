/*
 * virtio-9p: a directory of the host that the guest mounts by its tag (VIRTIO 1.2 reserves the type, 9; the
 * configuration is that of Linux' virtio_9p.h). One queue of messages and replies.
 *
 * A doorbell hands messages to the server (backend/share/share.h), which answers what it can at once and
 * the rest on its own threads, reading and writing guest RAM directly.
 *
 * State: fids stand for open files of the host and are not saved. A machine that is restored while its
 * guest has the directory mounted answers ESTALE until the guest mounts it anew; virtio_9p_can_save() says so
 * before that.
 */
#ifndef TRAPEZE_VIRTIO_9P_H
#define TRAPEZE_VIRTIO_9P_H

#include "backend/share/share.h"
#include "virtio/completion.h"
#include "virtio/virtio-pci.h"

#define VIRTIO_9P_TAG_MAX 32 /* bytes of a tag */
#define VIRTIO_9P_QUEUE_SIZE 128

struct virtio_9p {
    struct virtio_device vdev;
    struct virtio_pci pci; /* the board's device is pci.function.dev */
    struct share *share;
    struct share_listener listener;
    char tag[VIRTIO_9P_TAG_MAX + 1];
    bool mounted; /* as saved */

    struct list free; /* requests to reuse */
    struct completions completions;
};

/* The share stays the caller's: close it after virtio_9p_release(). */
int virtio_9p_init(struct virtio_9p *p, struct pci_bus *bus, u8 devfn, struct memory *memory,
                   struct event_loop *loop, struct lock *machine_lock, struct share *share, const char *tag,
                   struct error *err);

/* Waits for requests in flight. Not under the machine lock, no vCPU running. */
void virtio_9p_release(struct virtio_9p *p);

/* -EBUSY when the guest has the directory mounted. */
int virtio_9p_can_save(struct virtio_9p *p, struct error *err);

#endif
