/*
 * Hostile drivers of a network card and hostile networks in front of it: the input is a program of register
 * accesses, ring contents, commands and frames. The network reads every byte that it is given, so that a
 * buffer outside of the guest's memory is noticed.
 *
 *     byte 0..2   features of the start, see start()
 *     then        operations: one byte of kind, then its operands (see run_one())
 */
#include "base/log.h"
#include "hw/pci.h"
#include "state/codec.h"
#include "virtio/net.h"

#define RAM (1u << 20)
#define BAR0 0xe0000000ull
#define DEVFN PCI_DEVFN(1, 0)
#define PAIRS 2
#define QUEUES (2 * PAIRS + 1)
#define RING(queue) (0x1000ull + 0x3000ull * (queue))
#define DATA 0x10000ull
#define DATA_SIZE 0x8000u
#define ENTRIES 16
#define HEADER 12

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
    const u8 *data;
    size_t len;
};

struct target {
    struct memory memory;
    struct pci_bus bus;
    struct lock lock;
    struct net_backend network;
    struct virtio_net card;
    unsigned room; /* frames that the network takes */
    u8 sum;
    unsigned forged;
    bool packed;
    u16 avail[QUEUES]; /* where well-formed chains go */
};

static u64 take(struct input *in, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes && in->len; i++, in->len--)
        v |= (u64)*in->data++ << 8 * i;
    return v;
}

/* --- the network --- */

static bool network_send(struct net_backend *n, const struct net_frame *f)
{
    struct target *t = container_of(n, struct target, network);
    size_t len = 0;
    if (!t->room)
        return false;
    t->room--;
    for (unsigned i = 0; i < f->iovcnt; i++) {
        for (size_t k = 0; k < f->iov[i].iov_len; k++)
            t->sum ^= ((const u8 *)f->iov[i].iov_base)[k];
        len += f->iov[i].iov_len;
    }
    BUG_ON(len != f->len || len < NET_HEADER || len > NET_FRAME_MAX || f->queue >= PAIRS);
    BUG_ON(f->offload.flags & NET_NEEDS_CSUM && f->offload.csum_start + f->offload.csum_offset + 2u > f->len);
    BUG_ON(f->offload.gso_type != NET_GSO_NONE && !f->offload.gso_size);
    return true;
}

static void network_resume(struct net_backend *n) {}
static void network_offloads(struct net_backend *n, unsigned can)
{
    BUG_ON(can && !(can & NET_CAN_CSUM));
}

static const struct net_backend_ops network_ops = {
    .send = network_send, .resume = network_resume, .set_offloads = network_offloads};

static void network_frame(struct target *t, struct input *in)
{
    static u8 buf[NET_FRAME_MAX];
    u8 shape = (u8)take(in, 1);
    size_t len = shape & 0x80 ? NET_FRAME_MAX - (size_t)take(in, 1) : (size_t)take(in, 2) % NET_FRAME_MAX;
    size_t given = MIN(MIN(len, (size_t)(shape & 63)), in->len), cut;
    memset(buf, 0, sizeof buf);
    memcpy(buf, in->data, given);
    in->data += given;
    in->len -= given;
    cut = MIN(len, (size_t)take(in, 1));
    struct iovec iov[] = {{buf, cut}, {buf + cut, len - cut}};
    struct net_frame f = {.iov = iov, .iovcnt = 2, .len = len, .queue = shape & 7};
    if (shape & 0x40)
        f.offload = (struct net_offload){NET_NEEDS_CSUM, (u8)take(in, 1), 54, (u16)take(in, 2), 34, 16};
    t->card.listener.receive(&t->card.listener, &f);
}

/* --- the driver --- */

static void reg(struct target *t, u64 offset, u64 value, unsigned size)
{
    memory_mmio_write(&t->memory, BAR0 + offset, value, size);
}

static void plug(struct target *t)
{
    struct device *dev = &t->card.pci.function.dev;
    dev->reset(dev);
    pci_config_write(&t->bus, DEVFN, 0x10, (u32)BAR0, 4);
    pci_config_write(&t->bus, DEVFN, 0x14, (u32)BAR0 + 0x8000, 4);
    pci_config_write(&t->bus, DEVFN, 0x04, 6, 2);
}

/* @choice: bits 0..15 take away features of the card, 16 packed, 17 event index. */
static void start(struct target *t, u32 choice)
{
    static const u8 bit[16] = {0, 1, 2, 3, 5, 7, 8, 11, 12, 15, 16, 17, 18, 19, 22, 23};
    u64 features = t->card.vdev.offered & ~(BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED));
    for (unsigned i = 0; i < 16; i++)
        features &= choice >> i & 1 ? ~BIT(bit[i]) : ~0ull;
    t->packed = choice >> 16 & 1;
    features |=
        (t->packed ? BIT(VIRTIO_F_RING_PACKED) : 0) | (choice >> 17 & 1 ? BIT(VIRTIO_F_EVENT_IDX) : 0);
    reg(t, 0x14, 0, 1);
    reg(t, 0x14, 3, 1);
    for (unsigned i = 0; i < 2; i++) {
        reg(t, 0x08, i, 4);
        reg(t, 0x0c, (u32)(features >> 32 * i), 4);
    }
    reg(t, 0x14, 11, 1);
    for (unsigned q = 0; q < QUEUES; q++) {
        memset(memory_span(&t->memory, RING(q), 0x3000), 0, 0x3000);
        t->avail[q] = 0;
        reg(t, 0x16, q, 2);
        reg(t, 0x18, ENTRIES, 2);
        reg(t, 0x20, RING(q), 8);
        reg(t, 0x28, RING(q) + 0x1000, 8);
        reg(t, 0x30, RING(q) + 0x2000, 8);
        reg(t, 0x1c, 1, 2);
    }
    reg(t, 0x14, 15, 1);
}

static void put_descriptor(struct target *t, unsigned queue, unsigned pos, u64 addr, u32 len, u16 flags)
{
    u8 *raw = memory_span(&t->memory, RING(queue) + 16 * (u64)(pos % ENTRIES), 16);
    bool wrap = !(pos / ENTRIES & 1);
    put_le64(raw, addr);
    put_le32(raw + 8, len);
    put_le16(raw + (t->packed ? 12 : 14), (u16)((pos + 1) % ENTRIES));
    put_le16(raw + (t->packed ? 14 : 12), (u16)(flags | (!t->packed ? 0 : wrap ? 0x80 : 0x8000)));
}

/* A chain in good order but for what it says: @count buffers, of which the last @writable are the device's.
 */
static void add_chain(struct target *t, unsigned queue, const u32 *len, unsigned count, unsigned writable)
{
    u64 at = DATA;
    u16 head = t->avail[queue];
    for (unsigned i = 0; i < count; i++) {
        u16 flags = (u16)((i + 1 < count ? 1 : 0) | (i + writable >= count ? 2 : 0));
        put_descriptor(t, queue, head + i, at, len[i], flags);
        at += len[i] % 0x4000;
    }
    t->avail[queue] = (u16)(head + count);
    if (t->packed)
        return;
    u8 *avail = memory_span(&t->memory, RING(queue) + 0x1000, 4 + 2 * ENTRIES);
    u16 idx = get_le16(avail + 2);
    put_le16(avail + 4 + 2 * (size_t)(idx % ENTRIES), (u16)(head % ENTRIES));
    put_le16(avail + 2, (u16)(idx + 1));
}

static void fill(struct target *t, struct input *in, u64 at)
{
    unsigned len = MIN((unsigned)take(in, 1), (unsigned)in->len);
    (void)memory_write(&t->memory, at, in->data, len);
    in->data += len;
    in->len -= len;
}

static void send_frame(struct target *t, struct input *in, unsigned queue)
{
    u8 shape = (u8)take(in, 1);
    u32 len[3] = {shape & 1 ? HEADER : (u32)take(in, 1), (u32)take(in, 1), (u32)take(in, shape & 2 ? 2 : 1)};
    fill(t, in, DATA);
    add_chain(t, queue, len, 1 + (shape >> 2) % 3, 0);
    reg(t, VIRTIO_PCI_NOTIFY + 4 * queue, 0, 2);
}

static void offer_buffers(struct target *t, struct input *in, unsigned queue)
{
    u8 shape = (u8)take(in, 1);
    u32 len[2] = {(u32)take(in, 2), (u32)take(in, 1)};
    for (unsigned n = 0; n <= (shape & 7); n++)
        add_chain(t, queue, len, 1 + (shape >> 3 & 1), shape >> 4 & 1 ? 1 : 2);
    reg(t, VIRTIO_PCI_NOTIFY + 4 * queue, 0, 2);
}

static void command(struct target *t, struct input *in, unsigned queue)
{
    u8 shape = (u8)take(in, 1);
    u32 len[3] = {2, (u32)take(in, shape & 1 ? 2 : 1), 1};
    fill(t, in, DATA);
    add_chain(t, queue, len, 3, 1);
    reg(t, VIRTIO_PCI_NOTIFY + 4 * queue, 0, 2);
}

/* A snapshot with one byte changed: what is refused ends in a reset, what is accepted must be harmless. */
static void forge_state(struct target *t, struct input *in)
{
    struct device *d = &t->card.pci.function.dev;
    struct state_buf b = {0};
    if (t->forged++ >= 4) /* they take long */
        return;
    BUG_ON(state_save(&b, d->state, 0, d->object, NULL) < 0);
    size_t at = (size_t)take(in, 2);
    b.data[at % b.len] ^= (u8)take(in, 1);
    if (state_load(&b, d->state, 0, d->object, NULL) < 0)
        plug(t);
    state_buf_release(&b);
}

static void host_side(struct target *t, struct input *in, unsigned arg)
{
    switch (arg & 3) {
    case 0:
        t->room = (unsigned)take(in, 1);
        t->card.listener.writable(&t->card.listener);
        break;
    case 1: virtio_net_set_link(&t->card, arg & 4); break;
    case 2: virtio_net_announce(&t->card); break;
    default:
        t->network.link = arg & 4;
        t->card.listener.link_changed(&t->card.listener, t->network.link);
        break;
    }
}

static void run_one(struct target *t, struct input *in)
{
    u8 kind = (u8)take(in, 1);
    unsigned arg = kind >> 4, queue = arg % (QUEUES + 1);
    switch (kind & 15) {
    case 0: send_frame(t, in, arg & 1 ? 1 : 3); break;
    case 1: offer_buffers(t, in, arg & 1 ? 0 : 2); break;
    case 2: network_frame(t, in); break;
    case 3: command(t, in, arg & 1 ? 2 : QUEUES - 1); break;
    case 4: host_side(t, in, arg); break;
    case 5: start(t, (u32)take(in, 3)); break;
    case 6: reg(t, VIRTIO_PCI_NOTIFY + 4 * queue, 0, 2); break;
    case 7: forge_state(t, in); break;
    case 8: reg(t, take(in, 2), take(in, 1u << (arg & 3)), 1u << (arg & 3)); break;
    case 9: (void)memory_mmio_read(&t->memory, BAR0 + take(in, 2), 1u << (arg & 3)); break;
    case 10: pci_config_write(&t->bus, DEVFN, (unsigned)take(in, 1), (u32)take(in, 4), 4); break;
    case 11: fill(t, in, RING(queue) + take(in, 2) % 0x3000); break;
    default: fill(t, in, DATA + take(in, 1)); break;
    }
}

static void target_init(struct target *t)
{
    const struct virtio_net_config config = {.mac = {2, 0, 0, 0, 0, 1}, .pairs = PAIRS, .mtu = 9000};
    lock_init(&t->lock, LOCK_RANK_MACHINE);
    BUG_ON(memory_init(&t->memory, RAM, NULL) < 0);
    pci_bus_init(&t->bus, &t->memory, (struct msi_sink){0});
    t->room = 8;
    t->network = (struct net_backend){.ops = &network_ops,
                                      .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN |
                                             NET_CAN_USO,
                                      .queues = 1,
                                      .link = true};
    BUG_ON(virtio_net_init(&t->card, &t->bus, DEVFN, &t->memory, NULL, &t->network, &config, NULL) < 0);
    plug(t);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct target t;
    struct input in = {data, size};
    memset(&t, 0, sizeof t);
    target_init(&t);
    lock_acquire(&t.lock);
    start(&t, (u32)take(&in, 3));
    while (in.len)
        run_one(&t, &in);
    lock_drop(&t.lock);
    virtio_net_release(&t.card);
    memory_release(&t.memory);
    lock_release(&t.lock);
    return 0;
}
