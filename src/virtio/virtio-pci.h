/*
 * The PCI transport of virtio devices (VIRTIO 1.2, 4.1), non-transitional only.
 *
 * BAR 0 holds the registers, one page each: common configuration, ISR, device configuration,
 * notifications. BAR 1 holds the MSI-X table. Vectors: one for each queue and one for changes of
 * the configuration; without MSI-X the device uses INTA# and the ISR register.
 */
#ifndef TRAPEZE_VIRTIO_VIRTIO_PCI_H
#define TRAPEZE_VIRTIO_VIRTIO_PCI_H

#include "hw/pci.h"
#include "virtio/virtio.h"

#define VIRTIO_PCI_VENDOR 0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040

/* Offsets in BAR 0. */
#define VIRTIO_PCI_COMMON 0x0000
#define VIRTIO_PCI_ISR 0x1000
#define VIRTIO_PCI_CONFIG 0x2000
#define VIRTIO_PCI_NOTIFY 0x3000
#define VIRTIO_PCI_PAGE 0x1000
#define VIRTIO_PCI_BAR_SIZE 0x4000
#define VIRTIO_PCI_NOTIFY_MULTIPLIER 4

struct virtio_pci {
    struct pci_function function; /* function.dev is what the board resets and saves */
    struct io_region registers;
    struct virtio_device *vdev;

    u32 device_feature_select, driver_feature_select;
    u16 queue_select;
    u16 config_vector;
    u8 isr;
    u8 cfg_cap; /* offset of the PCI configuration access capability */
};

/*
 * Puts @vdev, whose queues have been added, on @bus as function @devfn. @class_code as in struct
 * pci_id; @state and @object are what the board saves: a table that nests virtio_device_state and
 * virtio_pci_state.
 */
int virtio_pci_init(struct virtio_pci *p, struct virtio_device *vdev, struct pci_bus *bus, u8 devfn,
                    u32 class_code, const struct state_desc *state, void *object, struct error *err);
void virtio_pci_release(struct virtio_pci *p);

extern const struct state_desc virtio_pci_state;

#endif
