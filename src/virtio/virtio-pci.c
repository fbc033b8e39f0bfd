/* Registers of the PCI transport. Section numbers are those of VIRTIO 1.2. */
#include "virtio/virtio-pci.h"

#include <errno.h>

#include "base/log.h"

enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI }; /* 4.1.4 */
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };                            /* 4.1.4.5 */

#define PCI_CAP_VENDOR 0x09
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_COMMAND 0x04
#define VIRTIO_CAP_SIZE 16u

/* struct virtio_pci_common_cfg (4.1.4.3) */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_SIZE = 0x38,
};

static struct virtqueue *selected(struct virtio_pci *p)
{
    return p->queue_select < p->vdev->queue_count ? &p->vdev->queue[p->queue_select] : NULL;
}

static struct virtio_pci *from_vdev(struct virtio_device *vdev)
{
    return vdev->transport_owner;
}

/* --- interrupts --- */

/* With MSI-X the ISR is not used; a queue without a vector is polled by its driver (4.1.4.5.1). */
static void interrupt(struct virtio_pci *p, u16 vector, u8 isr)
{
    if (pci_msix_enabled(&p->function)) {
        if (vector != VIRTQ_NO_VECTOR)
            pci_msix_notify(&p->function, vector);
        return;
    }
    p->isr |= isr;
    pci_set_intx(&p->function, true);
}

static void queue_interrupt(struct virtio_device *vdev, struct virtqueue *vq)
{
    interrupt(from_vdev(vdev), vq->msix_vector, ISR_QUEUE);
}

static void config_interrupt(struct virtio_device *vdev)
{
    struct virtio_pci *p = from_vdev(vdev);
    interrupt(p, p->config_vector, ISR_CONFIG);
}

static void transport_reset(struct virtio_device *vdev)
{
    struct virtio_pci *p = from_vdev(vdev);
    p->config_vector = VIRTQ_NO_VECTOR;
    p->device_feature_select = p->driver_feature_select = 0;
    p->queue_select = 0;
    p->isr = 0;
    pci_set_intx(&p->function, false);
}

static bool may_dma(struct virtio_device *vdev)
{
    return pci_bus_master(&from_vdev(vdev)->function);
}

static const struct virtio_transport_ops pci_transport = {
    .queue_interrupt = queue_interrupt,
    .config_interrupt = config_interrupt,
    .reset = transport_reset,
    .may_dma = may_dma,
};

/* --- common configuration --- */

static void common_image(struct virtio_pci *p, u8 image[COMMON_SIZE])
{
    const struct virtio_device *vdev = p->vdev;
    const struct virtqueue *vq = selected(p);

    memset(image, 0, COMMON_SIZE);
    put_le32(image + COMMON_DEVICE_FEATURE_SELECT, p->device_feature_select);
    put_le32(image + COMMON_DRIVER_FEATURE_SELECT, p->driver_feature_select);
    if (p->device_feature_select < 2)
        put_le32(image + COMMON_DEVICE_FEATURE, (u32)(vdev->offered >> 32 * p->device_feature_select));
    if (p->driver_feature_select < 2)
        put_le32(image + COMMON_DRIVER_FEATURE, (u32)(vdev->features >> 32 * p->driver_feature_select));
    put_le16(image + COMMON_CONFIG_VECTOR, p->config_vector);
    put_le16(image + COMMON_NUM_QUEUES, (u16)vdev->queue_count);
    image[COMMON_STATUS] = vdev->status;
    image[COMMON_GENERATION] = vdev->generation;
    put_le16(image + COMMON_QUEUE_SELECT, p->queue_select);
    put_le16(image + COMMON_QUEUE_VECTOR, vq ? vq->msix_vector : VIRTQ_NO_VECTOR);
    if (!vq)
        return; /* queue_size 0: there is no such queue */
    put_le16(image + COMMON_QUEUE_SIZE, vq->size);
    put_le16(image + COMMON_QUEUE_ENABLE, vq->enabled);
    put_le16(image + COMMON_QUEUE_NOTIFY_OFF, vq->index);
    put_le64(image + COMMON_QUEUE_DESC, vq->desc);
    put_le64(image + COMMON_QUEUE_DRIVER, vq->driver);
    put_le64(image + COMMON_QUEUE_DEVICE, vq->device);
}

static u64 common_read(struct virtio_pci *p, u64 offset, unsigned size)
{
    u8 image[COMMON_SIZE], value[8] = {0};
    if (offset >= COMMON_SIZE)
        return 0;
    common_image(p, image);
    memcpy(value, image + offset, MIN((u64)size, COMMON_SIZE - offset));
    return get_le64(value);
}

/* 4.1.5.1.2: a vector that cannot be had reads back as NO_VECTOR. */
static u16 valid_vector(const struct virtio_pci *p, u64 vector)
{
    return vector < p->function.msix_count ? (u16)vector : VIRTQ_NO_VECTOR;
}

/* A 64-bit field may be written in two halves (4.1.3.1). */
static void write_half(u64 *field, u64 offset, u64 value, unsigned size)
{
    if (size == 8)
        *field = value;
    else
        put_le32((u8 *)field + (offset & 4), (u32)value);
}

static void queue_address_write(struct virtqueue *vq, u64 offset, u64 value, unsigned size)
{
    if (offset < COMMON_QUEUE_DRIVER)
        write_half(&vq->desc, offset, value, size);
    else if (offset < COMMON_QUEUE_DEVICE)
        write_half(&vq->driver, offset, value, size);
    else
        write_half(&vq->device, offset, value, size);
}

/* An enabled queue keeps its size and addresses until a reset (4.1.4.3.2). */
static void queue_write(struct virtio_pci *p, u64 offset, u64 value, unsigned size)
{
    struct virtqueue *vq = selected(p);
    if (!vq || p->vdev->resetting)
        return;
    if (offset == COMMON_QUEUE_VECTOR)
        vq->msix_vector = valid_vector(p, value);
    else if (vq->enabled)
        log_guest("%s: queue %u is set up while enabled", p->vdev->name, vq->index);
    else if (offset == COMMON_QUEUE_SIZE)
        vq->size = (u16)value;
    else if (offset >= COMMON_QUEUE_DESC)
        queue_address_write(vq, offset, value, size);
    else if (value == 1 && p->vdev->status & VIRTIO_STATUS_FEATURES_OK)
        virtqueue_enable(vq); /* the layout depends on the features */
    else
        log_guest("%s: queue %u: bad enable", p->vdev->name, vq->index);
}

/* Width of the field at @offset that a driver may write, 0 when there is none. */
static unsigned common_width(u64 offset)
{
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
    case COMMON_DRIVER_FEATURE_SELECT:
    case COMMON_DRIVER_FEATURE: return 4;
    case COMMON_CONFIG_VECTOR:
    case COMMON_QUEUE_SELECT:
    case COMMON_QUEUE_SIZE:
    case COMMON_QUEUE_VECTOR:
    case COMMON_QUEUE_ENABLE: return 2;
    case COMMON_STATUS: return 1;
    case COMMON_QUEUE_DESC:
    case COMMON_QUEUE_DRIVER:
    case COMMON_QUEUE_DEVICE: return 8;
    case COMMON_QUEUE_DESC + 4:
    case COMMON_QUEUE_DRIVER + 4:
    case COMMON_QUEUE_DEVICE + 4: return 4;
    default: return 0;
    }
}

static void common_write(struct virtio_pci *p, u64 offset, u64 value, unsigned size)
{
    unsigned width = common_width(offset);
    if (size != width && !(width == 8 && size == 4)) {
        log_guest("%s: write of %u bytes at %#llx of the common configuration", p->vdev->name, size,
                  (unsigned long long)offset);
        return;
    }
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT: p->device_feature_select = (u32)value; break;
    case COMMON_DRIVER_FEATURE_SELECT: p->driver_feature_select = (u32)value; break;
    case COMMON_DRIVER_FEATURE: virtio_set_features(p->vdev, p->driver_feature_select, (u32)value); break;
    case COMMON_CONFIG_VECTOR: p->config_vector = valid_vector(p, value); break;
    case COMMON_STATUS: virtio_set_status(p->vdev, (u8)value); break;
    case COMMON_QUEUE_SELECT: p->queue_select = (u16)value; break;
    default: queue_write(p, offset, value, size); break;
    }
}

/* --- BAR 0 --- */

/* Reading the ISR acknowledges it (4.1.4.5). */
static u8 isr_read(struct virtio_pci *p)
{
    u8 isr = p->isr;
    p->isr = 0;
    pci_set_intx(&p->function, false);
    return isr;
}

static u64 registers_read(struct io_region *r, u64 offset, unsigned size)
{
    struct virtio_pci *p = container_of(r, struct virtio_pci, registers);
    u64 at = offset % VIRTIO_PCI_PAGE;
    switch (offset - at) {
    case VIRTIO_PCI_COMMON: return common_read(p, at, size);
    case VIRTIO_PCI_ISR: return at == 0 ? isr_read(p) : 0;
    case VIRTIO_PCI_CONFIG: return virtio_config_read(p->vdev, at, size);
    default: return 0;
    }
}

static void registers_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct virtio_pci *p = container_of(r, struct virtio_pci, registers);
    u64 at = offset % VIRTIO_PCI_PAGE;
    switch (offset - at) {
    case VIRTIO_PCI_COMMON: common_write(p, at, value, size); break;
    case VIRTIO_PCI_CONFIG: virtio_config_write(p->vdev, at, value, size); break;
    case VIRTIO_PCI_NOTIFY: virtio_kick(p->vdev, (unsigned)(at / VIRTIO_PCI_NOTIFY_MULTIPLIER)); break;
    default: break;
    }
}

static const struct io_ops register_ops = {.read = registers_read, .write = registers_write};

/* --- capabilities --- */

static u8 add_capability(struct virtio_pci *p, u8 type, u32 offset, u32 length, u8 cap_len)
{
    u8 at = pci_add_capability(&p->function, PCI_CAP_VENDOR, cap_len);
    u8 *cap = p->function.config + at;
    cap[2] = cap_len;
    cap[3] = type;
    cap[4] = 0; /* BAR */
    put_le32(cap + 8, offset);
    put_le32(cap + 12, length);
    return at;
}

/* The window of 4.1.4.9: bar, offset and length choose a register, the data field accesses it. */
static bool window(const struct virtio_pci *p, u32 *offset, unsigned *size)
{
    const u8 *cap = p->function.config + p->cfg_cap;
    *offset = get_le32(cap + 8);
    *size = get_le32(cap + 12);
    return cap[4] == 0 && (*size == 1 || *size == 2 || *size == 4) && *offset % *size == 0 &&
           *offset < VIRTIO_PCI_BAR_SIZE;
}

static struct virtio_pci *from_function(struct pci_function *f)
{
    return container_of(f, struct virtio_pci, function);
}

static bool config_read(struct pci_function *f, unsigned offset, unsigned size, u32 *value)
{
    struct virtio_pci *p = from_function(f);
    u32 at;
    unsigned width;
    (void)size;
    if (offset != p->cfg_cap + VIRTIO_CAP_SIZE || !window(p, &at, &width))
        return false;
    *value = (u32)registers_read(&p->registers, at, width);
    return true;
}

static void config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct virtio_pci *p = from_function(f);
    u32 at;
    unsigned width;
    (void)size;
    if (offset == p->cfg_cap + VIRTIO_CAP_SIZE && window(p, &at, &width)) {
        u32 value = get_le32(f->config + offset);
        registers_write(&p->registers, at, value & MASK(8 * width), width);
    } else if (offset == PCI_COMMAND) {
        virtio_kick_all(p->vdev); /* doorbells were ignored without bus mastering */
    }
}

static const struct pci_function_ops function_ops = {.config_written = config_written,
                                                     .config_read = config_read};

static void add_capabilities(struct virtio_pci *p)
{
    add_capability(p, CFG_COMMON, VIRTIO_PCI_COMMON, COMMON_SIZE, VIRTIO_CAP_SIZE);
    add_capability(p, CFG_ISR, VIRTIO_PCI_ISR, 1, VIRTIO_CAP_SIZE);
    if (p->vdev->config_size)
        add_capability(p, CFG_DEVICE, VIRTIO_PCI_CONFIG, VIRTIO_PCI_PAGE, VIRTIO_CAP_SIZE);
    u8 notify = add_capability(p, CFG_NOTIFY, VIRTIO_PCI_NOTIFY, VIRTIO_PCI_PAGE, VIRTIO_CAP_SIZE + 4u);
    put_le32(p->function.config + notify + VIRTIO_CAP_SIZE, VIRTIO_PCI_NOTIFY_MULTIPLIER);

    p->cfg_cap = add_capability(p, CFG_PCI, 0, 0, VIRTIO_CAP_SIZE + 4u);
    u8 *writable = p->function.writable + p->cfg_cap;
    writable[4] = 0xff;
    memset(writable + 8, 0xff, 12); /* offset, length, data */
}

/* --- life --- */

static void device_reset(struct device *dev)
{
    struct virtio_pci *p = container_of(dev, struct virtio_pci, function.dev);
    virtio_device_reset(p->vdev);
    pci_function_reset(&p->function);
}

int virtio_pci_init(struct virtio_pci *p, struct virtio_device *vdev, struct pci_bus *bus, u8 devfn,
                    u32 class_code, const struct state_desc *state, void *object, struct error *err)
{
    *p = (struct virtio_pci){.vdev = vdev, .config_vector = VIRTQ_NO_VECTOR};
    const struct pci_id id = {
        .vendor = VIRTIO_PCI_VENDOR,
        .device = (u16)(VIRTIO_PCI_DEVICE_BASE + vdev->type),
        .subsys_vendor = VIRTIO_PCI_VENDOR,
        .subsys = (u16)(0x40 + vdev->type), /* 4.1.2.1: 0x40 or more means non-transitional */
        .class_code = class_code,
        .revision = 1,
    };
    int ret = pci_function_init(&p->function, bus, devfn, &id, &function_ops, err);
    if (ret < 0)
        return ret;
    vdev->transport = &pci_transport;
    vdev->transport_owner = p;
    p->function.dev.name = vdev->name;
    p->function.dev.reset = device_reset;
    p->function.dev.state = state;
    p->function.dev.object = object;
    p->function.config[PCI_INTERRUPT_PIN] = 1;

    io_region_init(&p->registers, vdev->name, &register_ops, VIRTIO_PCI_BAR_SIZE);
    p->registers.doorbells = (struct io_doorbells){
        .offset = VIRTIO_PCI_NOTIFY, .stride = VIRTIO_PCI_NOTIFY_MULTIPLIER, .count = vdev->queue_count};
    pci_add_bar(&p->function, 0, &p->registers, false, false, false);
    pci_add_msix(&p->function, 1, vdev->queue_count + 1);
    add_capabilities(p);
    return 0;
}

void virtio_pci_release(struct virtio_pci *p)
{
    pci_function_release(&p->function);
}

/* --- state --- */

static int post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_pci *p = object;
    (void)version;
    bool ok = p->config_vector == valid_vector(p, p->config_vector);
    for (unsigned i = 0; i < p->vdev->queue_count; i++)
        ok = ok && p->vdev->queue[i].msix_vector == valid_vector(p, p->vdev->queue[i].msix_vector);
    return ok ? 0 : error_set(err, EINVAL, "%s: saved MSI-X vectors are not possible", p->vdev->name);
}

static const struct field virtio_pci_fields[] = {
    FIELD_STRUCT(struct virtio_pci, function, pci_function_state),
    FIELD(struct virtio_pci, device_feature_select),
    FIELD(struct virtio_pci, driver_feature_select),
    FIELD(struct virtio_pci, queue_select),
    FIELD(struct virtio_pci, config_vector),
    FIELD(struct virtio_pci, isr),
    FIELD_END,
};

const struct state_desc virtio_pci_state = {
    .name = "virtio-pci",
    .version = 1,
    .fields = virtio_pci_fields,
    .post_load = post_load,
};
