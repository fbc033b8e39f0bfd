/*
 * virtio-scsi (VIRTIO 1.2, 5.6): a host adapter with up to 16 targets (hw/scsi.h), each with logical unit 0.
 * Queues: control, event, then request queues. Nothing is plugged while the machine runs, so no event is
 * ever sent.
 *
 * Requests run as in blk.h. A task management function that ends requests waits until they have ended by
 * themselves, since what is with the host cannot be taken back.
 */
#ifndef TRAPEZE_VIRTIO_SCSI_H
#define TRAPEZE_VIRTIO_SCSI_H

#include "hw/scsi.h"
#include "virtio/completion.h"
#include "virtio/virtio-pci.h"

#define VIRTIO_SCSI_TARGETS 16
#define VIRTIO_SCSI_MAX_QUEUES (VIRTIO_MAX_QUEUES - 2)
#define VIRTIO_SCSI_QUEUE_SIZE 256

struct virtio_scsi {
    struct virtio_device vdev;
    struct virtio_pci pci;                          /* the board's device is pci.function.dev */
    struct scsi_target target[VIRTIO_SCSI_TARGETS]; /* without a backend: none */
    u32 sense_size, cdb_size;                       /* in requests, as the driver wants them */

    struct list free;      /* commands to reuse */
    struct list running;   /* commands that have not ended */
    struct list functions; /* task management functions that wait for commands */
    u64 next_number;
    struct completions completions;
};

/* @queues: request queues, 1..VIRTIO_SCSI_MAX_QUEUES; one for each vCPU is best. */
int virtio_scsi_init(struct virtio_scsi *s, struct pci_bus *bus, u8 devfn, struct memory *memory,
                     struct event_loop *loop, struct lock *machine_lock, unsigned queues, struct error *err);

/* Waits for the backends. Not under the machine lock, no vCPU running. */
void virtio_scsi_release(struct virtio_scsi *s);

/* Before the guest runs. The backend stays the caller's: close it after virtio_scsi_release(). */
void virtio_scsi_attach(struct virtio_scsi *s, unsigned target, enum scsi_type type,
                        struct block_device *backend, const char *serial);

#endif
