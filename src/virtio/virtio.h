/*
 * What all virtio devices share, whatever the transport: features, status, queues, configuration
 * space (VIRTIO 1.2, chapters 2 and 3). A device embeds a `struct virtio_device` and a transport.
 *
 * Life: virtio_device_init(), then virtio_add_queue() for each queue, then the transport's init.
 * The driver negotiates through the transport, which calls the virtio_set_... functions here. From
 * DRIVER_OK on, doorbells reach ops->kick(). All with the machine lock held.
 *
 * A broken ring or a request outside the protocol calls virtio_device_error(): the driver sees
 * DEVICE_NEEDS_RESET, and the device does nothing more until it is reset (2.1.1).
 */
#ifndef TRAPEZE_VIRTIO_VIRTIO_H
#define TRAPEZE_VIRTIO_VIRTIO_H

#include "base/counter.h"
#include "base/event_loop.h"
#include "memory/memory.h"
#include "state/fields.h"
#include "virtio/virtqueue.h"

/* Device types (chapter 5). */
enum virtio_type {
    VIRTIO_NET = 1,
    VIRTIO_BLK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_RNG = 4,
    VIRTIO_SCSI = 8,
    VIRTIO_9P = 9,
};

/* Device status bits (2.1). */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* Features that belong to no device type (chapter 6), as bit numbers. */
enum {
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VIRTIO_F_VERSION_1 = 32,
    VIRTIO_F_ACCESS_PLATFORM = 33,
    VIRTIO_F_RING_PACKED = 34,
    VIRTIO_F_RING_RESET = 40,
};

#define VIRTIO_MAX_QUEUES 17
#define VIRTIO_CONFIG_MAX 64

struct virtio_device_ops {
    /* The driver rang the doorbell of an enabled queue, or DRIVER_OK was set: look at the ring. */
    void (*kick)(struct virtio_device *dev, unsigned queue);

    /* Optional: the driver accepted dev->features (FEATURES_OK was set). */
    void (*features_ok)(struct virtio_device *dev);

    /* Optional: the driver wrote @size bytes at @offset of the configuration. */
    void (*config_written)(struct virtio_device *dev, unsigned offset, unsigned size, u32 value);

    /* Optional: waits until the host is done with all requests in flight, and pushes them. */
    void (*drain)(struct virtio_device *dev);

    /*
     * Optional: drop all work. False when requests are still in flight: the device then calls
     * virtio_reset_done() when the last one ended, and pushes nothing more before.
     */
    bool (*reset)(struct virtio_device *dev);
};

struct virtio_transport_ops {
    void (*queue_interrupt)(struct virtio_device *dev, struct virtqueue *vq);
    void (*config_interrupt)(struct virtio_device *dev);
    void (*reset)(struct virtio_device *dev);   /* the device was reset: forget vectors */
    bool (*may_dma)(struct virtio_device *dev); /* NULL: always */
};

struct virtio_device {
    const struct virtio_device_ops *ops;
    const struct virtio_transport_ops *transport;
    void *transport_owner;
    const char *name; /* for messages */
    enum virtio_type type;
    struct memory *memory;
    struct event_loop *loop;

    u64 offered;  /* features the device offers */
    u64 features; /* features the driver accepted */
    u8 status;
    u8 generation; /* of the configuration (2.5.1) */
    bool resetting;

    u8 config[VIRTIO_CONFIG_MAX]; /* device-specific configuration as the driver reads it */
    unsigned config_size;

    struct virtqueue queue[VIRTIO_MAX_QUEUES];
    unsigned queue_count;

    struct deferred again; /* queues that used up their budget go on from the event loop */
    u32 again_mask;

    struct counters counters; /* virtio_kicks, virtio_irqs, guest_errors; under the machine lock */
};

/*
 * @features: those of the device type; the common ones are added here. @name is not copied. The
 * device is in reset state afterwards; @loop may be NULL in tests.
 */
void virtio_device_init(struct virtio_device *dev, enum virtio_type type, const char *name,
                        const struct virtio_device_ops *ops, u64 features, struct memory *memory,
                        struct event_loop *loop);

/* Adds the next queue with room for up to @max_size entries. */
struct virtqueue *virtio_add_queue(struct virtio_device *dev, u16 max_size);

/* --- for devices --- */

static inline bool virtio_has(const struct virtio_device *dev, unsigned feature)
{
    return dev->features >> feature & 1;
}

/* May queues be worked on: DRIVER_OK, not broken, not in reset, allowed to do DMA? */
bool virtio_running(struct virtio_device *dev);

/* The guest broke the protocol: log it, set DEVICE_NEEDS_RESET, tell the driver. */
void virtio_device_error(struct virtio_device *dev, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The device changed its configuration: new generation and an interrupt. */
void virtio_config_changed(struct virtio_device *dev);

/* Kicks @queue again from the event loop, so that one guest cannot keep the machine lock for long. */
void virtio_kick_later(struct virtio_device *dev, unsigned queue);

/* The last request in flight ended during a reset. */
void virtio_reset_done(struct virtio_device *dev);

/* --- for transports --- */

/* The driver rings the doorbell of @queue, any number. */
void virtio_kick(struct virtio_device *dev, unsigned queue);

/* Kicks each enabled queue: after DRIVER_OK or a restore. */
void virtio_kick_all(struct virtio_device *dev);

/* The driver writes the status register (3.1.1); 0 starts a reset. */
void virtio_set_status(struct virtio_device *dev, u8 value);

/* The driver accepts features: 32-bit window @select of them. */
void virtio_set_features(struct virtio_device *dev, u32 select, u32 value);

/* Configuration space, @size 1, 2, 4 or 8; outside of it reads 0 and writes vanish. */
u64 virtio_config_read(struct virtio_device *dev, u64 offset, unsigned size);
void virtio_config_write(struct virtio_device *dev, u64 offset, u64 value, unsigned size);

/* System reset: waits for requests in flight, then everything is as after init. */
void virtio_device_reset(struct virtio_device *dev);

/* Saved state; pre_save drains. Nested in the state of each device, before that of its transport. */
extern const struct state_desc virtio_device_state;

#endif
