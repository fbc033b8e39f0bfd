/*
 * A driver of virtio PCI devices for tests: a PCI bus without a machine, where messages and INTA#
 * are counted, and the steps from reset to DRIVER_OK as a stock driver takes them.
 */
#ifndef TRAPEZE_TESTS_VIRTIO_PCI_DRIVER_H
#define TRAPEZE_TESTS_VIRTIO_PCI_DRIVER_H

#include "base/lock.h"
#include "hw/pci.h"
#include "virtio-driver.h"
#include "virtio/virtio-pci.h"

#define DRIVER_RAM (8u << 20)
#define DRIVER_RINGS 0x100000ull /* ring N at + N * 0x8000 */
#define DRIVER_DATA 0x400000ull
#define DRIVER_BAR0 0xe0000000ull
#define DRIVER_BAR1 0xe0010000ull
#define DRIVER_DEVFN PCI_DEVFN(4, 0)
#define DRIVER_CONFIG_VECTOR 0

enum {
    REG_DEVICE_FEATURE_SELECT = 0x00,
    REG_DEVICE_FEATURE = 0x04,
    REG_DRIVER_FEATURE_SELECT = 0x08,
    REG_DRIVER_FEATURE = 0x0c,
    REG_CONFIG_VECTOR = 0x10,
    REG_NUM_QUEUES = 0x12,
    REG_STATUS = 0x14,
    REG_GENERATION = 0x15,
    REG_QUEUE_SELECT = 0x16,
    REG_QUEUE_SIZE = 0x18,
    REG_QUEUE_VECTOR = 0x1a,
    REG_QUEUE_ENABLE = 0x1c,
    REG_QUEUE_NOTIFY_OFF = 0x1e,
    REG_QUEUE_DESC = 0x20,
    REG_QUEUE_DRIVER = 0x28,
    REG_QUEUE_DEVICE = 0x30,
};

struct driver {
    struct memory memory;
    struct pci_bus bus;
    struct lock lock; /* the machine lock: the test holds it but for driver_wait() */
    pthread_cond_t interrupted;
    unsigned messages[PCI_MSIX_MAX]; /* by vector */
    bool intx;
    struct ring ring[VIRTIO_MAX_QUEUES];
};

static inline void driver_message(void *owner, u64 addr, u32 data)
{
    struct driver *d = owner;
    (void)addr;
    d->messages[data % PCI_MSIX_MAX]++;
    pthread_cond_broadcast(&d->interrupted);
}

static inline void driver_intx(void *owner, unsigned line, bool level)
{
    struct driver *d = owner;
    (void)line;
    d->intx = level;
}

static inline void driver_init(struct driver *d)
{
    memset(d, 0, sizeof *d);
    BUG_ON(memory_init(&d->memory, DRIVER_RAM, NULL) < 0);
    pci_bus_init(&d->bus, &d->memory, (struct msi_sink){.send = driver_message, .owner = d});
    for (unsigned i = 0; i < 4; i++)
        d->bus.pirq[i] = (struct irq_line){.set = driver_intx, .owner = d, .line = i};
    lock_init(&d->lock, LOCK_RANK_MACHINE);
    pthread_cond_init(&d->interrupted, NULL);
    lock_acquire(&d->lock);
}

static inline void driver_release(struct driver *d)
{
    lock_drop(&d->lock);
    pthread_cond_destroy(&d->interrupted);
    lock_release(&d->lock);
    memory_release(&d->memory);
}

/* Waits until @vector has been sent @count times in all. */
static inline void driver_wait(struct driver *d, unsigned vector, unsigned count)
{
    while (d->messages[vector] < count)
        pthread_cond_wait(&d->interrupted, &d->lock.mutex);
}

static inline u32 config_read32(struct driver *d, unsigned offset)
{
    return pci_config_read(&d->bus, DRIVER_DEVFN, offset, 4);
}

static inline void config_write(struct driver *d, unsigned offset, u32 value, unsigned size)
{
    pci_config_write(&d->bus, DRIVER_DEVFN, offset, value, size);
}

/* Offset of the capability @id (for 9: with configuration type @type), or 0. */
static inline u8 find_capability(struct driver *d, u8 id, u8 type)
{
    u8 at = (u8)config_read32(d, 0x34);
    for (unsigned n = 0; at && n < 32; n++) {
        u32 head = config_read32(d, at);
        if ((u8)head == id && (id != 9 || head >> 24 == type))
            return at;
        at = (u8)(head >> 8);
    }
    return 0;
}

/* What firmware does: BARs, memory decoding and bus mastering on. */
static inline void driver_plug(struct driver *d, struct device *dev)
{
    dev->reset(dev);
    config_write(d, 0x10, (u32)DRIVER_BAR0, 4);
    config_write(d, 0x14, (u32)DRIVER_BAR1, 4);
    config_write(d, 0x04, 6, 2);
}

static inline u64 reg_read(struct driver *d, u64 offset, unsigned size)
{
    return memory_mmio_read(&d->memory, DRIVER_BAR0 + offset, size);
}

static inline void reg_write(struct driver *d, u64 offset, u64 value, unsigned size)
{
    memory_mmio_write(&d->memory, DRIVER_BAR0 + offset, value, size);
}

static inline void set_status(struct driver *d, u8 status)
{
    reg_write(d, REG_STATUS, status, 1);
}

static inline u8 get_status(struct driver *d)
{
    return (u8)reg_read(d, REG_STATUS, 1);
}

static inline u64 device_features(struct driver *d)
{
    u64 f;
    reg_write(d, REG_DEVICE_FEATURE_SELECT, 0, 4);
    f = reg_read(d, REG_DEVICE_FEATURE, 4);
    reg_write(d, REG_DEVICE_FEATURE_SELECT, 1, 4);
    return f | reg_read(d, REG_DEVICE_FEATURE, 4) << 32;
}

/* Vector N sends data N, unmasked. */
static inline void enable_msix(struct driver *d, unsigned count)
{
    u8 cap = find_capability(d, 0x11, 0);
    for (unsigned i = 0; i < count; i++) {
        memory_mmio_write(&d->memory, DRIVER_BAR1 + 16 * i, 0xfee00000, 4);
        memory_mmio_write(&d->memory, DRIVER_BAR1 + 16 * i + 4, 0, 4);
        memory_mmio_write(&d->memory, DRIVER_BAR1 + 16 * i + 8, i, 4);
        memory_mmio_write(&d->memory, DRIVER_BAR1 + 16 * i + 12, 0, 4);
    }
    config_write(d, cap + 2u, 0x8000, 2);
}

static inline void set_features(struct driver *d, u64 features)
{
    set_status(d, VIRTIO_STATUS_ACKNOWLEDGE);
    set_status(d, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        reg_write(d, REG_DRIVER_FEATURE_SELECT, i, 4);
        reg_write(d, REG_DRIVER_FEATURE, (u32)(features >> 32 * i), 4);
    }
    set_status(d, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
}

/* Queue @n with @size entries; vector n + 1. */
static inline void set_up_queue(struct driver *d, u16 n, u16 size, bool packed)
{
    struct ring *r = &d->ring[n];
    ring_init(r, &d->memory, DRIVER_RINGS + 0x8000ull * n, size, packed);
    reg_write(d, REG_QUEUE_SELECT, n, 2);
    reg_write(d, REG_QUEUE_SIZE, size, 2);
    reg_write(d, REG_QUEUE_VECTOR, n + 1u, 2);
    const u64 area[3] = {r->desc, r->driver, r->device};
    for (unsigned i = 0; i < 3; i++) {
        reg_write(d, REG_QUEUE_DESC + 8 * i, (u32)area[i], 4);
        reg_write(d, REG_QUEUE_DESC + 8 * i + 4, area[i] >> 32, 4);
    }
    reg_write(d, REG_QUEUE_ENABLE, 1, 2);
}

/* From reset to DRIVER_OK, with VERSION_1, indirect descriptors and what the device offers of @features. */
static inline void driver_start(struct driver *d, u64 features, unsigned queues, u16 size)
{
    set_status(d, 0);
    BUG_ON(get_status(d) != 0);
    features &= device_features(d);
    set_features(d, features | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC));
    reg_write(d, REG_CONFIG_VECTOR, DRIVER_CONFIG_VECTOR, 2);
    for (u16 n = 0; n < queues; n++)
        set_up_queue(d, n, size, features >> VIRTIO_F_RING_PACKED & 1);
    set_status(d, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
                      VIRTIO_STATUS_DRIVER_OK);
}

static inline void ring_doorbell(struct driver *d, u16 queue)
{
    reg_write(d, VIRTIO_PCI_NOTIFY + 4u * queue, queue, 2);
}

#endif
