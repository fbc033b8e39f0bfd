/*
 * virtio-console (VIRTIO 1.2, 5.3) with one port: queue 0 receives (host to guest), queue 1
 * transmits. No byte is lost either way: output that the chardev does not take stays in the ring
 * until it is writable, and input stays in the host until the driver has supplied a buffer.
 */
#ifndef TRAPEZE_VIRTIO_CONSOLE_H
#define TRAPEZE_VIRTIO_CONSOLE_H

#include "backend/char/chardev.h"
#include "virtio/virtio-pci.h"

struct virtio_console {
    struct virtio_device vdev;
    struct virtio_pci pci; /* the board's device is pci.function.dev */
    struct chardev *chardev;
    struct chardev_listener listener;

    bool rx_held; /* rx is a chain waiting for input */
    struct virtq_chain rx;
    bool tx_held; /* tx is a chain of which tx_done bytes are written */
    struct virtq_chain tx;
    u32 tx_done; /* survives save and restore, where the chain goes back to the ring */
};

/* The chardev stays the caller's: free it after virtio_console_release(). */
int virtio_console_init(struct virtio_console *c, struct pci_bus *bus, u8 devfn, struct memory *memory,
                        struct event_loop *loop, struct chardev *chardev, struct error *err);
void virtio_console_release(struct virtio_console *c);

#endif
