/* virtio-rng (VIRTIO 1.2, 5.4): the host's random numbers for the guest. */
#ifndef TRAPEZE_VIRTIO_RNG_H
#define TRAPEZE_VIRTIO_RNG_H

#include "virtio/virtio-pci.h"

#define VIRTIO_RNG_MAX_BYTES 4096 /* for one request; the rest of its buffer stays unused */

struct virtio_rng {
    struct virtio_device vdev;
    struct virtio_pci pci; /* the board's device is pci.function.dev */
};

int virtio_rng_init(struct virtio_rng *r, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct error *err);
void virtio_rng_release(struct virtio_rng *r);

#endif
