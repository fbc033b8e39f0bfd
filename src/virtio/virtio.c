#include "virtio/virtio.h"

#include <errno.h>
#include <stdarg.h>

#include "base/log.h"

#define COMMON_FEATURES                                                                \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | \
     BIT(VIRTIO_F_RING_PACKED))

static void kick_again(struct deferred *d)
{
    struct virtio_device *dev = container_of(d, struct virtio_device, again);
    u32 mask = dev->again_mask;
    dev->again_mask = 0;
    for (unsigned i = 0; i < dev->queue_count; i++) {
        if (mask >> i & 1 && dev->queue[i].enabled && virtio_running(dev))
            dev->ops->kick(dev, i);
    }
}

void virtio_device_init(struct virtio_device *dev, enum virtio_type type, const char *name,
                        const struct virtio_device_ops *ops, u64 features, struct memory *memory,
                        struct event_loop *loop)
{
    *dev = (struct virtio_device){
        .ops = ops,
        .name = name,
        .type = type,
        .memory = memory,
        .loop = loop,
        .offered = features | COMMON_FEATURES,
        .again.call = kick_again,
    };
}

struct virtqueue *virtio_add_queue(struct virtio_device *dev, u16 max_size)
{
    BUG_ON(dev->queue_count == VIRTIO_MAX_QUEUES);
    struct virtqueue *vq = &dev->queue[dev->queue_count];
    virtqueue_init(vq, dev, (u16)dev->queue_count++, max_size);
    return vq;
}

bool virtio_running(struct virtio_device *dev)
{
    if (!(dev->status & VIRTIO_STATUS_DRIVER_OK) || dev->status & VIRTIO_STATUS_NEEDS_RESET || dev->resetting)
        return false;
    return !dev->transport->may_dma || dev->transport->may_dma(dev);
}

void virtio_device_error(struct virtio_device *dev, const char *fmt, ...)
{
    char text[160];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);

    dev->counters.guest_errors++;
    log_guest("%s: %s", dev->name, text);
    if (dev->status & VIRTIO_STATUS_NEEDS_RESET)
        return;
    dev->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (dev->status & VIRTIO_STATUS_DRIVER_OK) /* 2.1.2: the device must tell only then */
        dev->transport->config_interrupt(dev);
}

void virtio_config_changed(struct virtio_device *dev)
{
    dev->generation++;
    if (dev->status & VIRTIO_STATUS_DRIVER_OK)
        dev->transport->config_interrupt(dev);
}

void virtio_kick_later(struct virtio_device *dev, unsigned queue)
{
    dev->again_mask |= (u32)BIT(queue);
    if (dev->loop)
        event_loop_post(dev->loop, &dev->again);
}

void virtio_kick(struct virtio_device *dev, unsigned queue)
{
    if (queue >= dev->queue_count || !dev->queue[queue].enabled || !virtio_running(dev))
        return;
    dev->counters.virtio_kicks++;
    trace(virtio, "%s: doorbell of queue %u", dev->name, queue);
    dev->ops->kick(dev, queue);
}

void virtio_kick_all(struct virtio_device *dev)
{
    for (unsigned i = 0; i < dev->queue_count; i++) {
        if (dev->queue[i].enabled && virtio_running(dev))
            dev->ops->kick(dev, i);
    }
}

/* --- status --- */

void virtio_reset_done(struct virtio_device *dev)
{
    dev->features = 0;
    dev->status = 0;
    dev->resetting = false;
    if (dev->transport->reset)
        dev->transport->reset(dev);
    trace(virtio, "%s: reset done", dev->name);
}

/* The driver waits until it reads status 0 (4.1.4.3.2), so requests in flight need not be waited for here. */
static void start_reset(struct virtio_device *dev)
{
    if (dev->resetting)
        return;
    dev->resetting = true;
    dev->again_mask = 0;
    for (unsigned i = 0; i < dev->queue_count; i++)
        virtqueue_reset(&dev->queue[i]);
    if (!dev->ops->reset || dev->ops->reset(dev))
        virtio_reset_done(dev);
}

static void drain(struct virtio_device *dev)
{
    if (dev->ops->drain)
        dev->ops->drain(dev);
}

/* 3.1.1 step 5: the device confirms FEATURES_OK only for a set that it can work with. */
static bool features_acceptable(struct virtio_device *dev)
{
    return !(dev->features & ~dev->offered) && virtio_has(dev, VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio_device *dev, u8 value)
{
    trace(virtio, "%s: status %#x -> %#x", dev->name, dev->status, value);
    if (value == 0) {
        start_reset(dev);
        return;
    }
    if (dev->resetting)
        drain(dev); /* this driver does not wait for the reset to end */

    u8 added = (u8)(value & ~dev->status & ~VIRTIO_STATUS_NEEDS_RESET);
    if (added & VIRTIO_STATUS_FEATURES_OK && !features_acceptable(dev)) {
        log_guest("%s: driver accepted features %#llx of %#llx", dev->name, (unsigned long long)dev->features,
                  (unsigned long long)dev->offered);
        added &= (u8)~VIRTIO_STATUS_FEATURES_OK;
    }
    if (added & VIRTIO_STATUS_DRIVER_OK && !((dev->status | added) & VIRTIO_STATUS_FEATURES_OK)) {
        log_guest("%s: DRIVER_OK before FEATURES_OK", dev->name);
        added &= (u8)~VIRTIO_STATUS_DRIVER_OK;
    }
    dev->status |= added; /* bits go away only by a reset (2.1.1) */
    if (added & VIRTIO_STATUS_FEATURES_OK && dev->ops->features_ok)
        dev->ops->features_ok(dev);
    if (added & VIRTIO_STATUS_DRIVER_OK)
        virtio_kick_all(dev);
}

void virtio_set_features(struct virtio_device *dev, u32 select, u32 value)
{
    if (dev->status & VIRTIO_STATUS_FEATURES_OK || dev->resetting || select > 1)
        return;
    unsigned shift = select * 32;
    dev->features = (dev->features & ~(MASK(32) << shift)) | (u64)value << shift;
}

void virtio_device_reset(struct virtio_device *dev)
{
    drain(dev);
    start_reset(dev);
    BUG_ON(dev->resetting);
}

/* --- configuration space --- */

u64 virtio_config_read(struct virtio_device *dev, u64 offset, unsigned size)
{
    u8 bytes[8] = {0};
    for (unsigned i = 0; i < size && offset + i < dev->config_size; i++)
        bytes[i] = dev->config[offset + i];
    return get_le64(bytes);
}

void virtio_config_write(struct virtio_device *dev, u64 offset, u64 value, unsigned size)
{
    if (dev->ops->config_written && size <= 4 && offset < dev->config_size &&
        size <= dev->config_size - offset)
        dev->ops->config_written(dev, (unsigned)offset, size, (u32)value);
}

/* --- state --- */

static void virtio_pre_save(void *object)
{
    drain(object);
}

/* What virtqueue_enable() and the walker ensure in a device that was not loaded. */
static bool queue_loaded_ok(const struct virtqueue *vq)
{
    if (!vq->enabled)
        return true;
    if (!(vq->dev->status & VIRTIO_STATUS_FEATURES_OK) || !virtqueue_layout_ok(vq))
        return false;
    return !virtio_has(vq->dev, VIRTIO_F_RING_PACKED) ||
           (vq->avail_idx < vq->size && vq->used_idx < vq->size);
}

static int virtio_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_device *dev = object;
    (void)version;
    bool ok = !(dev->status & VIRTIO_STATUS_FEATURES_OK) || features_acceptable(dev);
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
        struct virtqueue *vq = &dev->queue[i];
        vq->unsignalled = 0;
        vq->in_flight = 0; /* pre_save drained */
        if (i >= dev->queue_count)
            vq->enabled = false;
        else if (!queue_loaded_ok(vq))
            ok = false;
    }
    if (!ok)
        return error_set(err, EINVAL, "%s: saved state is not possible", dev->name);
    dev->resetting = false;
    dev->again_mask = (u32)MASK(dev->queue_count);
    if (dev->loop)
        event_loop_post(dev->loop, &dev->again);
    return 0;
}

static const struct field virtio_fields[] = {
    FIELD(struct virtio_device, features),
    FIELD(struct virtio_device, status),
    FIELD(struct virtio_device, generation),
    FIELD_STRUCT_ARRAY(struct virtio_device, queue, virtqueue_state),
    FIELD_END,
};

const struct state_desc virtio_device_state = {
    .name = "virtio",
    .version = 1,
    .fields = virtio_fields,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
};
