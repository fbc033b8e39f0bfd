/* A network card in front of a network that keeps what is sent, and a driver that tests both. */
#ifndef TRAPEZE_TESTS_UNIT_VIRTIO_NET_FIXTURE_H
#define TRAPEZE_TESTS_UNIT_VIRTIO_NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "state/codec.h"
#include "virtio-pci-driver.h"
#include "virtio/net.h"

enum { RX, TX };
enum { HEADER = 12, MAX_SENT = 512 };
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10 };
enum { OK = 0, ERR = 1, NO_ANSWER = 0xee };

#define F(n) BIT(n)
#define CSUM F(0)
#define GUEST_CSUM F(1)
#define GUEST_OFFLOADS F(2)
#define MTU F(3)
#define GUEST_TSO4 F(7)
#define GUEST_TSO6 F(8)
#define GUEST_ECN F(9)
#define HOST_TSO4 F(11)
#define HOST_TSO6 F(12)
#define HOST_ECN F(13)
#define MRG_RXBUF F(15)
#define STATUS F(16)
#define CTRL (F(17) | F(18) | F(19) | F(20) | F(23))
#define ANNOUNCE F(21)
#define MQ F(22)
#define GUEST_USO (F(54) | F(55))
#define HOST_USO F(56)
#define PACKED_RING BIT(VIRTIO_F_RING_PACKED)

#define DATA DRIVER_DATA
#define ANSWER (DRIVER_DATA + 0x300000)

static const u8 own_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

/* A network that takes `room` frames and keeps them. */
struct fake_net {
    struct net_backend base;
    unsigned room, sent, resumed, offloads;
    struct {
        u8 *data;
        size_t len;
        struct net_offload offload;
        unsigned queue;
    } frame[MAX_SENT];
};

static inline struct fake_net *fake(struct net_backend *n)
{
    return container_of(n, struct fake_net, base);
}

static inline bool fake_send(struct net_backend *n, const struct net_frame *f)
{
    struct fake_net *net = fake(n);
    if (!net->room)
        return false;
    net->room--;
    assert_in_range(f->len, NET_HEADER, NET_FRAME_MAX);
    u8 *data = malloc(f->len);
    assert_non_null(data);
    assert_int_equal(iov_read(f->iov, f->iovcnt, 0, data, f->len), f->len);
    if (net->sent < MAX_SENT) {
        net->frame[net->sent].data = data;
        net->frame[net->sent].len = f->len;
        net->frame[net->sent].offload = f->offload;
        net->frame[net->sent].queue = f->queue;
    } else {
        free(data);
    }
    net->sent++;
    return true;
}

static inline void fake_resume(struct net_backend *n)
{
    fake(n)->resumed++;
}

static inline void fake_offloads(struct net_backend *n, unsigned can)
{
    fake(n)->offloads = can;
}

static inline void fake_forget(struct fake_net *net)
{
    for (unsigned i = 0; i < net->sent && i < MAX_SENT; i++)
        free(net->frame[i].data);
    net->sent = 0;
}

static const struct net_backend_ops fake_ops = {
    .send = fake_send, .resume = fake_resume, .set_offloads = fake_offloads};

struct fixture {
    struct driver d;
    struct fake_net net;
    struct virtio_net card;
    struct event_loop *loop;
    u64 features; /* wanted in all starts, besides those of start() */
    unsigned control_queue;
};

static inline void make(struct fixture *f, const struct virtio_net_config *config)
{
    unsigned pairs = config->pairs ? config->pairs : 1;
    driver_init(&f->d);
    f->net.base = (struct net_backend){.ops = &fake_ops,
                                       .queues = 1,
                                       .link = true,
                                       .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN |
                                              NET_CAN_USO};
    f->net.room = MAX_SENT;
    f->loop = event_loop_new(NULL);
    assert_non_null(f->loop);
    assert_int_equal(
        virtio_net_init(&f->card, &f->d.bus, DRIVER_DEVFN, &f->d.memory, f->loop, &f->net.base, config, NULL),
        0);
    driver_plug(&f->d, &f->card.pci.function.dev);
    enable_msix(&f->d, 2 * pairs + 2);
}

static inline int setup_with(void **state, u64 features, unsigned pairs, u16 mtu)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct virtio_net_config config = {.pairs = pairs, .mtu = mtu};
    assert_non_null(f);
    memcpy(config.mac, own_mac, 6);
    make(f, &config);
    f->features = features;
    *state = f;
    return 0;
}

static inline int setup(void **state)
{
    return setup_with(state, 0, 1, 0);
}

static inline int setup_packed(void **state)
{
    return setup_with(state, PACKED_RING, 1, 0);
}

static inline int setup_pairs(void **state)
{
    return setup_with(state, 0, 4, 0);
}

static inline int setup_mtu(void **state)
{
    return setup_with(state, 0, 1, 1000);
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    virtio_net_release(&f->card);
    assert_null(f->net.base.listener);
    fake_forget(&f->net);
    event_loop_free(f->loop);
    driver_release(&f->d);
    free(f);
    return 0;
}

static inline void start_sized(struct fixture *f, u64 features, u16 size)
{
    unsigned pairs = features & MQ ? f->card.given.pairs : 1;
    f->control_queue = 2 * pairs;
    driver_start(&f->d, f->features | features, 2 * pairs + 1, size);
    assert_true(get_status(&f->d) & VIRTIO_STATUS_DRIVER_OK);
}

static inline void start(struct fixture *f, u64 features)
{
    start_sized(f, features, 64);
}

static inline u8 *guest(struct fixture *f, u64 gpa, u64 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

static inline u64 config(struct fixture *f, unsigned offset, unsigned size)
{
    return reg_read(&f->d, VIRTIO_PCI_CONFIG + offset, size);
}

static inline bool broken(struct fixture *f)
{
    return get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET;
}

static inline bool used(struct fixture *f, unsigned queue, u32 *len)
{
    u32 id;
    return ring_take(&f->d.ring[queue], &id, len);
}

/* --- frames both ways --- */

static const struct net_offload no_offload;

static inline void put_header(struct fixture *f, u64 gpa, const struct net_offload *o)
{
    u8 *h = guest(f, gpa, HEADER);
    memset(h, 0, HEADER);
    h[0] = o->flags;
    h[1] = o->gso_type;
    put_le16(h + 2, o->hdr_len);
    put_le16(h + 4, o->gso_size);
    put_le16(h + 6, o->csum_start);
    put_le16(h + 8, o->csum_offset);
}

static inline u8 pattern(unsigned seed, size_t i)
{
    return (u8)((seed * 17 + i) % 251);
}

/* Sends a frame of @len bytes by @queue, in one buffer with its header. */
static inline void send_by(struct fixture *f, unsigned queue, unsigned seed, u32 len,
                           const struct net_offload *o)
{
    u64 gpa = DATA + 0x1000 * (seed % 64);
    put_header(f, gpa, o);
    for (u32 i = 0; i < len; i++)
        guest(f, gpa, HEADER + len)[HEADER + i] = pattern(seed, i);
    ring_add(&f->d.ring[queue], &(struct buffer){gpa, HEADER + len, false}, 1);
    ring_doorbell(&f->d, (u16)queue);
}

static inline void send_one(struct fixture *f, unsigned seed, u32 len)
{
    send_by(f, TX, seed, len, &no_offload);
}

static inline void assert_sent(struct fixture *f, unsigned which, unsigned seed, size_t len)
{
    assert_true(f->net.sent > which);
    assert_int_equal(f->net.frame[which].len, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(f->net.frame[which].data[i], pattern(seed, i));
}

static inline void offer(struct fixture *f, unsigned queue, u64 gpa, u32 len)
{
    ring_add(&f->d.ring[queue], &(struct buffer){gpa, len, true}, 1);
    ring_doorbell(&f->d, (u16)queue);
}

static inline bool receive_bytes(struct fixture *f, const u8 *data, size_t len, const struct net_offload *o,
                                 unsigned queue)
{
    const struct iovec iov[] = {
        {(void *)(uintptr_t)data, MIN(len, (size_t)14)},
        {(void *)(uintptr_t)(data + MIN(len, (size_t)14)), len - MIN(len, (size_t)14)}};
    return f->card.listener.receive(
        &f->card.listener,
        &(struct net_frame){.iov = iov, .iovcnt = 2, .len = len, .offload = *o, .queue = queue});
}

/* A frame to everybody. */
static inline bool receive_one(struct fixture *f, unsigned seed, size_t len, const struct net_offload *o)
{
    static u8 data[NET_FRAME_MAX];
    for (size_t i = 0; i < len; i++)
        data[i] = pattern(seed, i);
    memset(data, 0xff, MIN(len, (size_t)6));
    return receive_bytes(f, data, len, o, 0);
}

static inline void settle(struct fixture *f)
{
    for (unsigned i = 0; i < 4; i++)
        event_loop_poll(f->loop, 0);
}

/* --- the control queue --- */

static inline u8 command(struct fixture *f, u8 class, u8 cmd, const void *data, u32 len)
{
    const struct buffer b[] = {{ANSWER - 0x1000, 2, false}, {DATA, len, false}, {ANSWER, 1, true}};
    const struct buffer empty[] = {b[0], b[2]};
    u32 id, written;
    guest(f, ANSWER - 0x1000, 2)[0] = class;
    guest(f, ANSWER - 0x1000, 2)[1] = cmd;
    *guest(f, ANSWER, 1) = NO_ANSWER;
    if (len)
        memcpy(guest(f, DATA, len), data, len);
    ring_add(&f->d.ring[f->control_queue], len ? b : empty, len ? 3 : 2);
    ring_doorbell(&f->d, (u16)f->control_queue);
    assert_true(ring_take(&f->d.ring[f->control_queue], &id, &written));
    assert_int_equal(written, 1);
    return *guest(f, ANSWER, 1);
}

static inline u8 command8(struct fixture *f, u8 class, u8 cmd, u8 value)
{
    return command(f, class, cmd, &value, 1);
}

static inline u8 command16(struct fixture *f, u8 class, u8 cmd, u16 value)
{
    return command(f, class, cmd, &value, 2);
}

static inline u8 command64(struct fixture *f, u8 class, u8 cmd, u64 value)
{
    return command(f, class, cmd, &value, 8);
}

/* Does a frame to @mac, with a tag if @vlan is not -1, come in? */
static inline bool comes_in(struct fixture *f, const u8 mac[6], int vlan)
{
    u8 data[64] = {0};
    u32 len;
    memcpy(data, mac, 6);
    if (vlan >= 0) {
        data[12] = 0x81;
        data[14] = (u8)(vlan >> 8);
        data[15] = (u8)vlan;
    }
    offer(f, RX, DATA + 0x10000, 200);
    assert_true(receive_bytes(f, data, sizeof data, &no_offload, 0));
    return used(f, RX, &len);
}

static const u8 other_mac[6] = {0x52, 0x54, 0, 1, 1, 1}, third_mac[6] = {0x52, 0x54, 0, 1, 1, 2},
                group_mac[6] = {1, 0, 0x5e, 0, 0, 1}, other_group[6] = {1, 0, 0x5e, 0, 0, 2},
                broadcast_mac[6] = {255, 255, 255, 255, 255, 255};

static inline void save_and_load(struct fixture *f)
{
    struct device *dev = &f->card.pci.function.dev;
    struct state_buf b = {0};
    struct error err = {0};
    assert_int_equal(state_save(&b, dev->state, 0, dev->object, &err), 0);
    dev->reset(dev);
    if (state_load(&b, dev->state, 0, dev->object, &err))
        fail_msg("%s", err.text);
    state_buf_release(&b);
}

#define WITH_CARD(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ON_PACKED(test)                                       \
    {                                                         \
#test " (packed)", test, setup_packed, teardown, NULL \
    }
#define ON_BOTH(test) WITH_CARD(test), ON_PACKED(test)
#define WITH_PAIRS(test) cmocka_unit_test_setup_teardown(test, setup_pairs, teardown)

#endif
