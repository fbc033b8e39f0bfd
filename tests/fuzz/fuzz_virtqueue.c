/*
 * Hostile drivers: the input is a program of register accesses, doorbells and writes to the memory
 * that holds the rings, run against a disk and a console behind the PCI transport. The first byte
 * chooses the features of the start, so that split and packed rings are reached soon.
 *
 *     byte 0      bit 0 packed, 1 event index, 2 indirect, 3..5 size of the rings
 *     then        operations: one byte of kind, then its operands (see run_one())
 */
#include "backend/block/block.h"
#include "backend/char/chardev.h"
#include "base/log.h"
#include "hw/pci.h"
#include "state/codec.h"
#include "virtio/blk.h"
#include "virtio/console.h"

#define RAM (1u << 20)
#define BAR0(n) (0xe0000000ull + 0x100000ull * (n))
#define RING(queue) (0x1000ull + 0x3000ull * (queue))
#define QUEUES 4

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
    const u8 *data;
    size_t len;
};

struct target {
    struct memory memory;
    struct pci_bus bus;
    struct lock lock;
    struct block_device *disk;
    struct virtio_blk blk;
    struct chardev chardev;
    struct virtio_console console;
    size_t room;
    u8 sum;
    unsigned forged;
    bool packed; /* as the last start chose */
};

static u64 take(struct input *in, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes && in->len; i++, in->len--)
        v |= (u64)*in->data++ << 8 * i;
    return v;
}

/* Takes half of what is offered, so that chains stay held. Reads it, so that a bad span is noticed. */
static ssize_t half_write(struct chardev *c, const u8 *data, size_t len)
{
    struct target *t = container_of(c, struct target, chardev);
    for (size_t i = 0; i < len; i++)
        t->sum ^= data[i];
    return (ssize_t)(len / 2);
}

static void set_room(struct chardev *c, size_t room)
{
    container_of(c, struct target, chardev)->room = room;
}

static const struct chardev_ops chardev_ops = {.write = half_write, .set_room = set_room};

static void reg(struct target *t, unsigned dev, u64 offset, u64 value, unsigned size)
{
    memory_mmio_write(&t->memory, BAR0(dev) + offset, value, size);
}

static void plug(struct target *t, struct device *dev, u8 devfn, unsigned n)
{
    dev->reset(dev);
    pci_config_write(&t->bus, devfn, 0x10, (u32)BAR0(n), 4);
    pci_config_write(&t->bus, devfn, 0x14, (u32)BAR0(n) + 0x8000, 4);
    pci_config_write(&t->bus, devfn, 0x04, 6, 2);
}

static void start(struct target *t, unsigned dev, u8 flags)
{
    u32 low = (flags & 2 ? 1u << VIRTIO_F_EVENT_IDX : 0) | (flags & 4 ? 1u << VIRTIO_F_INDIRECT_DESC : 0);
    t->packed = flags & 1;
    reg(t, dev, 0x14, 0, 1);
    reg(t, dev, 0x14, 3, 1);
    reg(t, dev, 0x08, 0, 4);
    reg(t, dev, 0x0c, low | (dev == 0 ? 0x6200 : 0), 4);
    reg(t, dev, 0x08, 1, 4);
    reg(t, dev, 0x0c, 1 | (flags & 1 ? 4 : 0), 4);
    reg(t, dev, 0x14, 11, 1);
    for (unsigned q = 0; q < 2; q++) {
        u64 base = RING(2 * dev + q);
        reg(t, dev, 0x16, q, 2);
        reg(t, dev, 0x18, 1u << (flags >> 3 & 7), 2);
        reg(t, dev, 0x20, base, 8);
        reg(t, dev, 0x28, base + 0x1000, 8);
        reg(t, dev, 0x30, base + 0x2000, 8);
        reg(t, dev, 0x1c, 1, 2);
    }
    reg(t, dev, 0x14, 15, 1);
}

static void write_memory(struct target *t, struct input *in)
{
    u64 at = take(in, 2);
    unsigned len = MIN((unsigned)take(in, 1), (unsigned)in->len);
    (void)memory_write(&t->memory, at, in->data, len);
    in->data += len;
    in->len -= len;
}

/* A descriptor that is likely to be walked: its address is in low RAM or anywhere. */
static void write_descriptor(struct target *t, struct input *in)
{
    u8 raw[16];
    unsigned where = (unsigned)take(in, 1);
    put_le64(raw, where & 0x80 ? take(in, 8) : take(in, 2));
    put_le32(raw + 8, where & 0x40 ? (u32)take(in, 4) : (u32)take(in, 1));
    put_le16(raw + 12, (u16)take(in, 1));
    put_le16(raw + 14, (u16)take(in, 2));
    (void)memory_write(&t->memory, RING(where >> 4 & 3) + 16 * (where & 15), raw, sizeof raw);
}

static void put_descriptor(struct target *t, u64 at, u64 addr, u32 len, u16 flags, u16 next)
{
    u8 raw[16];
    put_le64(raw, addr);
    put_le32(raw + 8, len);
    put_le16(raw + (t->packed ? 14 : 12), (u16)(flags | (t->packed ? 0x80 : 0)));
    put_le16(raw + (t->packed ? 12 : 14), next);
    (void)memory_write(&t->memory, at, raw, sizeof raw);
}

/* A disk request in good order but for its contents: header, data, status from entry @pos on. */
static void write_request(struct target *t, struct input *in, unsigned queue, unsigned pos)
{
    u8 header[16] = {(u8)take(in, 1)}, shape = (u8)take(in, 1);
    put_le64(header + 8, take(in, 1) << (shape & 0x40 ? 56 : 0));
    (void)memory_write(&t->memory, 0xe000, header, sizeof header);
    u32 len = shape & 1 ? 16 : 512u * (shape >> 1 & 15);
    u64 at = RING(queue) + 16 * pos;
    put_descriptor(t, at, 0xe000, 16, 1, (u16)(pos + 1));
    put_descriptor(t, at + 16, 0xe200, len, shape & 0x80 ? 3 : 1, (u16)(pos + 2));
    put_descriptor(t, at + 32, 0xe100, 1, 2, 0);
}

static void publish(struct target *t, struct input *in)
{
    u8 idx[2], which = (u8)take(in, 1);
    if (which & 0x80)
        write_request(t, in, which & 1, which >> 4 & 7);
    u64 avail = RING(which & 3) + 0x1000;
    (void)memory_read(&t->memory, avail + 2, idx, 2);
    put_le16(idx, (u16)(get_le16(idx) + (which >> 2 & 3)));
    (void)memory_write(&t->memory, avail + 2, idx, 2);
}

static void host_input(struct target *t, struct input *in)
{
    size_t len = MIN(MIN((size_t)take(in, 1), t->room), in->len);
    if (len)
        t->console.listener.receive(&t->console.listener, in->data, len);
    t->console.listener.writable(&t->console.listener);
}

/* A snapshot with one byte changed: what is refused ends in a reset, what is accepted must be harmless. */
static void forge_state(struct target *t, struct input *in, unsigned dev)
{
    struct device *d = dev ? &t->console.pci.function.dev : &t->blk.pci.function.dev;
    struct state_buf b = {0};
    if (t->forged++ >= 4) /* they take long */
        return;
    BUG_ON(state_save(&b, d->state, 0, d->object, NULL) < 0);
    size_t at = (size_t)take(in, 2);
    b.data[at % b.len] ^= (u8)take(in, 1);
    if (state_load(&b, d->state, 0, d->object, NULL) < 0)
        plug(t, d, PCI_DEVFN(1 + dev, 0), dev);
    state_buf_release(&b);
}

static void run_one(struct target *t, struct input *in)
{
    u8 kind = (u8)take(in, 1);
    unsigned dev = kind >> 7, arg = kind >> 3 & 15;
    switch (kind & 7) {
    case 0: write_memory(t, in); break;
    case 1: write_descriptor(t, in); break;
    case 2: publish(t, in); break;
    case 3: reg(t, dev, VIRTIO_PCI_NOTIFY + 4 * (arg & 3), 0, 2); break;
    case 4: reg(t, dev, take(in, 2), take(in, 1u << (arg & 3)), 1u << (arg & 3)); break;
    case 5: start(t, dev, (u8)take(in, 1)); break;
    case 6: host_input(t, in); break;
    case 7:
        if (arg & 8)
            forge_state(t, in, dev);
        else if (arg & 1)
            (void)memory_mmio_read(&t->memory, BAR0(dev) + take(in, 2), 1u << (arg >> 1 & 3));
        else
            pci_config_write(&t->bus, PCI_DEVFN(1 + dev, 0), (unsigned)take(in, 1), (u32)take(in, 4), 4);
        break;
    }
}

static void target_init(struct target *t)
{
    const struct virtio_blk_config config = {.queues = 2, .serial = "fuzz"};
    lock_init(&t->lock, LOCK_RANK_MACHINE);
    BUG_ON(memory_init(&t->memory, RAM, NULL) < 0);
    pci_bus_init(&t->bus, &t->memory, (struct msi_sink){0});
    t->disk = block_null_open(1 << 20);
    t->chardev.ops = &chardev_ops;
    BUG_ON(virtio_blk_init(&t->blk, &t->bus, PCI_DEVFN(1, 0), &t->memory, NULL, &t->lock, t->disk, &config,
                           NULL) < 0);
    BUG_ON(virtio_console_init(&t->console, &t->bus, PCI_DEVFN(2, 0), &t->memory, NULL, &t->chardev, NULL) <
           0);
    plug(t, &t->blk.pci.function.dev, PCI_DEVFN(1, 0), 0);
    plug(t, &t->console.pci.function.dev, PCI_DEVFN(2, 0), 1);
}

static void target_release(struct target *t)
{
    virtio_blk_release(&t->blk);
    virtio_console_release(&t->console);
    block_close(t->disk);
    memory_release(&t->memory);
    lock_release(&t->lock);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct target t;
    struct input in = {data, size};
    memset(&t, 0, sizeof t);
    target_init(&t);
    lock_acquire(&t.lock);
    u8 flags = (u8)take(&in, 1);
    start(&t, 0, flags);
    start(&t, 1, flags);
    while (in.len)
        run_one(&t, &in);
    lock_drop(&t.lock);
    target_release(&t);
    return 0;
}
