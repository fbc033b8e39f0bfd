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

static struct fake_net *fake(struct net_backend *n)
{
    return container_of(n, struct fake_net, base);
}

static bool fake_send(struct net_backend *n, const struct net_frame *f)
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

static void fake_resume(struct net_backend *n)
{
    fake(n)->resumed++;
}

static void fake_offloads(struct net_backend *n, unsigned can)
{
    fake(n)->offloads = can;
}

static void fake_forget(struct fake_net *net)
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

static void make(struct fixture *f, const struct virtio_net_config *config)
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

static int setup_with(void **state, u64 features, unsigned pairs, u16 mtu)
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

static int setup(void **state)
{
    return setup_with(state, 0, 1, 0);
}

static int setup_packed(void **state)
{
    return setup_with(state, PACKED_RING, 1, 0);
}

static int setup_pairs(void **state)
{
    return setup_with(state, 0, 4, 0);
}

static int setup_mtu(void **state)
{
    return setup_with(state, 0, 1, 1000);
}

static int teardown(void **state)
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

static void start_sized(struct fixture *f, u64 features, u16 size)
{
    unsigned pairs = features & MQ ? f->card.given.pairs : 1;
    f->control_queue = 2 * pairs;
    driver_start(&f->d, f->features | features, 2 * pairs + 1, size);
    assert_true(get_status(&f->d) & VIRTIO_STATUS_DRIVER_OK);
}

static void start(struct fixture *f, u64 features)
{
    start_sized(f, features, 64);
}

static u8 *guest(struct fixture *f, u64 gpa, u64 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

static u64 config(struct fixture *f, unsigned offset, unsigned size)
{
    return reg_read(&f->d, VIRTIO_PCI_CONFIG + offset, size);
}

static bool broken(struct fixture *f)
{
    return get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET;
}

static bool used(struct fixture *f, unsigned queue, u32 *len)
{
    u32 id;
    return ring_take(&f->d.ring[queue], &id, len);
}

/* --- what the guest sends --- */

static const struct net_offload no_offload;

static void put_header(struct fixture *f, u64 gpa, const struct net_offload *o)
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

static u8 pattern(unsigned seed, size_t i)
{
    return (u8)((seed * 17 + i) % 251);
}

/* Sends a frame of @len bytes by @queue, in one buffer with its header. */
static void send_by(struct fixture *f, unsigned queue, unsigned seed, u32 len, const struct net_offload *o)
{
    u64 gpa = DATA + 0x1000 * (seed % 64);
    put_header(f, gpa, o);
    for (u32 i = 0; i < len; i++)
        guest(f, gpa, HEADER + len)[HEADER + i] = pattern(seed, i);
    ring_add(&f->d.ring[queue], &(struct buffer){gpa, HEADER + len, false}, 1);
    ring_doorbell(&f->d, (u16)queue);
}

static void send_one(struct fixture *f, unsigned seed, u32 len)
{
    send_by(f, TX, seed, len, &no_offload);
}

static void assert_sent(struct fixture *f, unsigned which, unsigned seed, size_t len)
{
    assert_true(f->net.sent > which);
    assert_int_equal(f->net.frame[which].len, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(f->net.frame[which].data[i], pattern(seed, i));
}

static void a_frame_is_sent_without_its_header(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, 0);
    send_one(f, 1, 60);
    assert_sent(f, 0, 1, 60);
    assert_true(used(f, TX, &len));
    assert_int_equal(len, 0);
    assert_int_equal(f->d.messages[TX + 1], 1);
}

static void a_frame_may_be_cut_anywhere(void **state)
{
    struct fixture *f = *state;
    const unsigned cuts[][2] = {{1, 11}, {12, 1}, {5, 30}, {13, 20}, {40, 7}};
    start(f, 0);
    for (unsigned c = 0; c < ARRAY_SIZE(cuts); c++) {
        u8 all[HEADER + 80] = {0};
        for (unsigned i = 0; i < 80; i++)
            all[HEADER + i] = pattern(c, i);
        u32 a = cuts[c][0], b = cuts[c][1];
        const struct buffer buffers[] = {
            {DATA, a, false}, {DATA + 0x1000, b, false}, {DATA + 0x2000, (u32)sizeof all - a - b, false}};
        memcpy(guest(f, DATA, a), all, a);
        memcpy(guest(f, DATA + 0x1000, b), all + a, b);
        memcpy(guest(f, DATA + 0x2000, sizeof all - a - b), all + a + b, sizeof all - a - b);
        ring_add(&f->d.ring[TX], buffers, 3);
        ring_doorbell(&f->d, TX);
        assert_sent(f, c, c, 80);
    }
}

static void a_frame_waits_for_the_network(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, 0);
    f->net.room = 1;
    for (unsigned i = 0; i < 4; i++)
        send_one(f, i, 60 + i);
    assert_int_equal(f->net.sent, 1);
    assert_true(used(f, TX, &len));
    assert_false(used(f, TX, &len));
    f->net.room = 2;
    f->card.listener.writable(&f->card.listener);
    assert_int_equal(f->net.sent, 3);
    f->net.room = 2;
    f->card.listener.writable(&f->card.listener);
    for (unsigned i = 0; i < 4; i++)
        assert_sent(f, i, i, 60 + i);
    for (unsigned i = 0; i < 3; i++)
        assert_true(used(f, TX, &len));
    assert_false(used(f, TX, &len));
}

static void a_long_queue_goes_on_from_the_loop(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;
    u32 len;
    start_sized(f, 0, 16);
    f->net.room = 0;
    for (unsigned i = 0; i < 16; i++)
        send_one(f, i, 60);
    f->net.room = MAX_SENT;
    f->card.listener.writable(&f->card.listener);
    event_loop_poll(f->loop, 0);
    while (used(f, TX, &len))
        taken++;
    assert_int_equal(taken, 16);
    assert_int_equal(f->net.sent, 16);
}

static void assert_offload(const struct net_offload *got, const struct net_offload *want)
{
    assert_int_equal(got->flags, want->flags);
    assert_int_equal(got->gso_type, want->gso_type);
    assert_int_equal(got->hdr_len, want->hdr_len);
    assert_int_equal(got->gso_size, want->gso_size);
    assert_int_equal(got->csum_start, want->csum_start);
    assert_int_equal(got->csum_offset, want->csum_offset);
}

static void what_the_driver_leaves_undone_is_told(void **state)
{
    struct fixture *f = *state;
    const struct net_offload o[] = {
        {NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 54, 1460, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4 | NET_GSO_ECN, 54, 536, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV6, 74, 1440, 54, 16},
        {NET_NEEDS_CSUM, NET_GSO_UDP_L4, 42, 1472, 34, 6},
        {NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 2998, 0}, /* the last two bytes */
    };
    start(f, CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO);
    for (unsigned i = 0; i < ARRAY_SIZE(o); i++) {
        send_by(f, TX, i, 3000, &o[i]);
        assert_sent(f, i, i, 3000);
        assert_offload(&f->net.frame[i].offload, &o[i]);
    }
}

static void what_may_not_be_left_undone_is_dropped(void **state)
{
    struct fixture *f = *state;
    const struct net_offload o[] = {
        {NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 2999, 0},
        {NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 0, 2999},
        {NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 0xffff, 0xffff},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 54, 0, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 3001, 1460, 34, 16},
        {0, NET_GSO_TCPV4, 54, 1460, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV6, 74, 1440, 54, 16}, /* not accepted */
        {NET_NEEDS_CSUM, NET_GSO_TCPV4 | NET_GSO_ECN, 54, 1460, 34, 16},
        {NET_NEEDS_CSUM, NET_GSO_UDP_L4, 42, 1472, 34, 6},
        {NET_NEEDS_CSUM, 3, 42, 1472, 34, 6},
        {NET_NEEDS_CSUM, 2, 42, 1472, 34, 6},
        {NET_NEEDS_CSUM, 0x7f, 42, 1472, 34, 6},
        {NET_NEEDS_CSUM, NET_GSO_ECN, 42, 1472, 34, 6},
    };
    u32 len;
    start(f, CSUM | HOST_TSO4);
    for (unsigned i = 0; i < ARRAY_SIZE(o); i++) {
        send_by(f, TX, i, 3000, &o[i]);
        assert_true(used(f, TX, &len));
    }
    assert_int_equal(f->net.sent, 0);
    assert_false(broken(f));
    send_one(f, 9, 60);
    assert_sent(f, 0, 9, 60);

    start(f, 0);
    send_by(f, TX, 0, 3000, &(struct net_offload){NET_NEEDS_CSUM, NET_GSO_NONE, 0, 0, 34, 16});
    assert_int_equal(f->net.sent, 1);
}

static void a_frame_has_a_possible_length(void **state)
{
    struct fixture *f = *state;
    struct buffer b[3] = {{DATA, 0x8000, false}, {DATA + 0x8000, 0x8000, false}, {DATA, HEADER + 33, false}};
    start(f, 0);
    send_one(f, 0, 13);
    assert_int_equal(f->net.sent, 0);
    memset(guest(f, DATA, 0x10000), 0, 0x10000);
    ring_add(&f->d.ring[TX], b, 3);
    ring_doorbell(&f->d, TX);
    assert_int_equal(f->net.sent, 0);
    b[2].len--;
    ring_add(&f->d.ring[TX], b, 3);
    ring_doorbell(&f->d, TX);
    assert_int_equal(f->net.sent, 1);
    assert_int_equal(f->net.frame[0].len, NET_FRAME_MAX);
    assert_false(broken(f));
}

static void a_frame_without_a_header_breaks_the_card(void **state)
{
    struct fixture *f = *state;
    start(f, 0);
    ring_add(&f->d.ring[TX], &(struct buffer){DATA, HEADER - 1, false}, 1);
    ring_doorbell(&f->d, TX);
    assert_true(broken(f));
    start(f, 0);
    ring_add(&f->d.ring[TX], &(struct buffer){DATA, 100, true}, 1);
    ring_doorbell(&f->d, TX);
    assert_true(broken(f));
    start(f, 0);
    send_one(f, 0, 60);
    assert_sent(f, 0, 0, 60);
}

/* --- what the guest receives --- */

static void offer(struct fixture *f, unsigned queue, u64 gpa, u32 len)
{
    ring_add(&f->d.ring[queue], &(struct buffer){gpa, len, true}, 1);
    ring_doorbell(&f->d, (u16)queue);
}

static bool receive_bytes(struct fixture *f, const u8 *data, size_t len, const struct net_offload *o,
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
static bool receive_one(struct fixture *f, unsigned seed, size_t len, const struct net_offload *o)
{
    static u8 data[NET_FRAME_MAX];
    for (size_t i = 0; i < len; i++)
        data[i] = pattern(seed, i);
    memset(data, 0xff, MIN(len, (size_t)6));
    return receive_bytes(f, data, len, o, 0);
}

static void settle(struct fixture *f)
{
    for (unsigned i = 0; i < 4; i++)
        event_loop_poll(f->loop, 0);
}

static void assert_part(struct fixture *f, u64 gpa, unsigned seed, size_t from, size_t len)
{
    for (size_t i = 0; i < len; i++)
        assert_int_equal(guest(f, gpa, len)[i], from + i < 6 ? 0xff : pattern(seed, from + i));
}

static unsigned buffers_of(struct fixture *f, u64 gpa)
{
    return get_le16(guest(f, gpa, HEADER) + 10);
}

static void a_frame_is_received_behind_a_header(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, 0);
    memset(guest(f, DATA, 100), 0xaa, 100);
    offer(f, RX, DATA, 2000);
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_true(used(f, RX, &len));
    assert_int_equal(len, HEADER + 60);
    assert_part(f, DATA + HEADER, 1, 0, 60);
    assert_int_equal(buffers_of(f, DATA), 1);
    assert_int_equal(get_le64(guest(f, DATA, 8)), 0);
    assert_int_equal(guest(f, DATA, 100)[HEADER + 60], 0xaa);
    settle(f);
    assert_int_equal(f->d.messages[RX + 1], 1);
}

static void a_received_frame_is_scattered(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{DATA, 5, true}, {DATA + 0x1000, 20, true}, {DATA + 0x2000, 100, true}};
    start(f, 0);
    ring_add(&f->d.ring[RX], b, 3);
    ring_doorbell(&f->d, RX);
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_part(f, DATA + 0x1000 + 7, 1, 0, 13);
    assert_part(f, DATA + 0x2000, 1, 13, 47);
}

static void a_burst_is_one_interrupt(void **state)
{
    struct fixture *f = *state;
    start(f, 0);
    for (unsigned i = 0; i < 20; i++)
        offer(f, RX, DATA + 0x1000 * i, 2000);
    for (unsigned i = 0; i < 20; i++)
        assert_true(receive_one(f, i, 60, &no_offload));
    assert_int_equal(f->d.messages[RX + 1], 0);
    settle(f);
    assert_int_equal(f->d.messages[RX + 1], 1);
}

static void a_frame_waits_for_buffers(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, 0);
    assert_false(receive_one(f, 1, 60, &no_offload));
    assert_int_equal(f->net.resumed, 0);
    offer(f, RX, DATA, 2000);
    assert_int_equal(f->net.resumed, 1);
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_true(used(f, RX, &len));
    offer(f, RX, DATA, 2000);
    assert_int_equal(f->net.resumed, 1);
}

static void a_large_frame_lies_in_several_buffers(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, MRG_RXBUF);
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 5; i++)
            offer(f, RX, DATA + 0x1000 * i, 1000);
        assert_true(receive_one(f, round, 3500, &no_offload));
        assert_int_equal(buffers_of(f, DATA), 4);
        assert_part(f, DATA + HEADER, round, 0, 988);
        for (unsigned i = 1; i < 4; i++)
            assert_part(f, DATA + 0x1000 * i, round, 988 + 1000 * (i - 1), i < 3 ? 1000 : 512);
        for (unsigned i = 0; i < 4; i++) {
            assert_true(used(f, RX, &len));
            assert_int_equal(len, i < 3 ? 1000 : 512);
        }
        assert_false(used(f, RX, &len));
        assert_true(receive_one(f, round, 100, &no_offload)); /* the fifth */
        assert_int_equal(buffers_of(f, DATA + 0x4000), 1);
        assert_true(used(f, RX, &len));
        assert_int_equal(len, HEADER + 100);
    }
}

static void a_large_frame_waits_for_all_its_buffers(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, MRG_RXBUF);
    for (unsigned i = 0; i < 3; i++) {
        offer(f, RX, DATA + 0x1000 * i, 1000);
        assert_false(receive_one(f, 1, 3500, &no_offload));
        assert_false(used(f, RX, &len));
    }
    offer(f, RX, DATA + 0x3000, 1000);
    assert_int_equal(f->net.resumed, 3);
    assert_true(receive_one(f, 1, 3500, &no_offload));
    assert_int_equal(buffers_of(f, DATA), 4);
    for (unsigned i = 0; i < 4; i++)
        assert_true(used(f, RX, &len));
}

static void a_frame_that_never_fits_is_dropped(void **state)
{
    struct fixture *f = *state;
    u32 len;
    start(f, 0); /* one buffer a frame */
    offer(f, RX, DATA, 1000);
    assert_true(receive_one(f, 1, 1000, &no_offload));
    assert_false(used(f, RX, &len));
    assert_true(receive_one(f, 1, 988, &no_offload));
    assert_true(used(f, RX, &len));

    start_sized(f, MRG_RXBUF, 4);
    for (unsigned i = 0; i < 4; i++)
        offer(f, RX, DATA + 0x1000 * i, 1000);
    assert_true(receive_one(f, 1, 4000, &no_offload));
    assert_false(used(f, RX, &len));
    assert_true(receive_one(f, 1, 3988, &no_offload));
    assert_true(used(f, RX, &len));

    start_sized(f, MRG_RXBUF, 128);
    for (unsigned i = 0; i < 100; i++)
        offer(f, RX, DATA + 0x1000 * i, 20);
    assert_true(receive_one(f, 1, 1900, &no_offload));
    assert_false(used(f, RX, &len));
    assert_true(receive_one(f, 1, 20u * VIRTIO_NET_MERGE - HEADER, &no_offload));
    assert_int_equal(buffers_of(f, DATA), VIRTIO_NET_MERGE);
}

static void a_buffer_without_room_for_the_header_breaks_the_card(void **state)
{
    struct fixture *f = *state;
    start(f, MRG_RXBUF);
    offer(f, RX, DATA, HEADER - 1);
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_true(broken(f));
    start(f, MRG_RXBUF);
    ring_add(&f->d.ring[RX], &(struct buffer){DATA, 100, false}, 1);
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_true(broken(f));
}

static void what_the_network_leaves_undone_is_told(void **state)
{
    struct fixture *f = *state;
    const struct net_offload o = {NET_NEEDS_CSUM, NET_GSO_TCPV4, 54, 1460, 34, 16};
    start(f, GUEST_CSUM | GUEST_TSO4);
    offer(f, RX, DATA, 3100);
    assert_true(receive_one(f, 1, 3000, &o));
    const u8 *h = guest(f, DATA, HEADER);
    assert_offload(
        &(struct net_offload){h[0], h[1], get_le16(h + 2), get_le16(h + 4), get_le16(h + 6), get_le16(h + 8)},
        &o);
    start(f, 0);
    offer(f, RX, DATA, 3100);
    assert_true(receive_one(f, 1, 60, &(struct net_offload){.flags = NET_DATA_VALID}));
    assert_int_equal(guest(f, DATA, HEADER)[0], 0);
}

static void nobody_receives_without_a_driver(void **state)
{
    struct fixture *f = *state;
    assert_true(receive_one(f, 1, 60, &no_offload));
    start(f, 0);
    assert_false(receive_one(f, 1, 60, &no_offload));
    set_status(&f->d, 0);
    assert_int_equal(f->net.resumed, 1); /* so that it is dropped */
    assert_true(receive_one(f, 1, 60, &no_offload));
    assert_int_equal(f->card.vdev.counters.net_dropped, 2);
}

static void the_network_is_told_what_the_driver_takes(void **state)
{
    struct fixture *f = *state;
    start(f, GUEST_CSUM | GUEST_TSO4 | GUEST_ECN);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO_ECN);
    set_status(&f->d, 0);
    assert_int_equal(f->net.offloads, 0);
    start(f, GUEST_CSUM | GUEST_TSO6 | GUEST_USO);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM | NET_CAN_TSO6 | NET_CAN_USO);
    start(f, GUEST_TSO4);
    assert_int_equal(f->net.offloads, 0);
}

static void the_driver_is_offered_what_the_network_takes(void **state)
{
    struct fixture *f = *state;
    const struct virtio_net_config given = {.pairs = 1};
    const u64 host = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO;
    assert_int_equal(device_features(&f->d) & (host | MQ | MTU), host);
    const struct {
        unsigned can;
        u64 offered;
    } cases[] = {
        {0, 0},
        {NET_CAN_CSUM, CSUM},
        {NET_CAN_TSO4, 0},
        {NET_CAN_CSUM | NET_CAN_TSO4, CSUM | HOST_TSO4},
        {NET_CAN_CSUM | NET_CAN_TSO6 | NET_CAN_TSO_ECN, CSUM | HOST_TSO6 | HOST_ECN},
        {NET_CAN_CSUM | NET_CAN_USO, CSUM | HOST_USO},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct virtio_net other;
        struct fake_net net = {.base = {.ops = &fake_ops, .queues = 1, .can = cases[i].can}};
        assert_int_equal(virtio_net_init(&other, &f->d.bus, PCI_DEVFN(5, 0), &f->d.memory, f->loop, &net.base,
                                         &given, NULL),
                         0);
        assert_int_equal(other.vdev.offered & host, cases[i].offered);
        virtio_net_release(&other);
    }
}

/* --- the control queue --- */

static u8 command(struct fixture *f, u8 class, u8 cmd, const void *data, u32 len)
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

static u8 command8(struct fixture *f, u8 class, u8 cmd, u8 value)
{
    return command(f, class, cmd, &value, 1);
}

static u8 command16(struct fixture *f, u8 class, u8 cmd, u16 value)
{
    return command(f, class, cmd, &value, 2);
}

static u8 command64(struct fixture *f, u8 class, u8 cmd, u64 value)
{
    return command(f, class, cmd, &value, 8);
}

/* Does a frame to @mac, with a tag if @vlan is not -1, come in? */
static bool comes_in(struct fixture *f, const u8 mac[6], int vlan)
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

static void the_filter_is_set_by_commands(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL);
    assert_true(comes_in(f, other_mac, -1)); /* until the driver says what it wants */
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_true(comes_in(f, own_mac, -1));
    assert_true(comes_in(f, broadcast_mac, -1));
    assert_false(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, group_mac, -1));
    assert_int_equal(command8(f, 0, 1, 1), OK); /* all multicast */
    assert_true(comes_in(f, group_mac, -1));
    assert_false(comes_in(f, other_mac, -1));
    assert_int_equal(command8(f, 0, 2, 1), OK); /* all unicast */
    assert_true(comes_in(f, other_mac, -1));
    assert_int_equal(command8(f, 0, 3, 1), OK);
    assert_false(comes_in(f, group_mac, -1));
    assert_int_equal(command8(f, 0, 4, 1), OK);
    assert_false(comes_in(f, own_mac, -1));
    assert_int_equal(command8(f, 0, 5, 1), OK);
    assert_false(comes_in(f, broadcast_mac, -1));
    assert_int_equal(command8(f, 0, 0, 1), OK);
    assert_true(comes_in(f, other_mac, -1));
    start(f, CTRL);
    assert_true(comes_in(f, other_mac, -1));
}

static void a_table_of_addresses_is_kept(void **state)
{
    struct fixture *f = *state;
    u8 table[4 + 6 + 4 + 6];
    start(f, CTRL);
    put_le32(table, 1);
    memcpy(table + 4, other_mac, 6);
    put_le32(table + 10, 1);
    memcpy(table + 14, group_mac, 6);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_int_equal(command(f, 1, 0, table, sizeof table), OK);
    assert_true(comes_in(f, own_mac, -1));
    assert_true(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, third_mac, -1));
    assert_true(comes_in(f, group_mac, -1));
    assert_false(comes_in(f, other_group, -1));
    memset(table, 0, 8);
    assert_int_equal(command(f, 1, 0, table, 8), OK);
    assert_false(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, group_mac, -1));
}

static void a_table_too_long_lets_all_in(void **state)
{
    struct fixture *f = *state;
    u32 count = 1 << 16, len = 4 + 6 * count + 4;
    u8 *table = calloc(1, len);
    assert_non_null(table);
    start(f, CTRL);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    put_le32(table, count);
    assert_int_equal(command(f, 1, 0, table, len), OK);
    assert_true(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, group_mac, -1));
    put_le32(table, 0);
    put_le32(table + 4, count);
    assert_int_equal(command(f, 1, 0, table, len), OK);
    assert_false(comes_in(f, other_mac, -1));
    assert_true(comes_in(f, group_mac, -1));
    free(table);
}

static void a_table_of_an_impossible_length_is_refused(void **state)
{
    struct fixture *f = *state;
    const u32 counts[] = {2, 3, 1000, 0x2aaaaaab, 0x80000000, 0xffffffff};
    u8 table[4 + 6 + 4 + 6] = {0};
    start(f, CTRL);
    put_le32(table, 1);
    memcpy(table + 4, other_mac, 6);
    table[19] = 1; /* no count */
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_int_equal(command(f, 1, 0, table, 14), OK);
    for (u32 len = 0; len < 14; len++)
        assert_int_equal(command(f, 1, 0, table, len), ERR);
    assert_int_equal(command(f, 1, 0, table, 15), ERR);
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        put_le32(table, counts[i]);
        assert_int_equal(command(f, 1, 0, table, 20), ERR);
        put_le32(table, 1);
        put_le32(table + 10, counts[i]);
        assert_int_equal(command(f, 1, 0, table, 20), ERR);
    }
    assert_true(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, third_mac, -1));
}

static void the_address_can_be_changed(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_int_equal(command(f, 1, 1, other_mac, 6), OK);
    assert_true(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, own_mac, -1));
    assert_int_equal(config(f, CONFIG_MAC + 4, 2), 0x0101);
    assert_int_equal(command(f, 1, 1, group_mac, 6), ERR);
    assert_int_equal(command(f, 1, 1, third_mac, 5), ERR);
    assert_int_equal(command(f, 1, 1, third_mac, 7), ERR);
    assert_true(comes_in(f, other_mac, -1));
    set_status(&f->d, 0);
    assert_int_equal(config(f, CONFIG_MAC + 4, 2), 0x5634);
}

static void virtual_networks_are_filtered(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_true(comes_in(f, own_mac, -1));
    assert_true(comes_in(f, own_mac, 0));
    assert_false(comes_in(f, own_mac, 5));
    assert_int_equal(command16(f, 2, 0, 5), OK);
    assert_int_equal(command16(f, 2, 0, 4095), OK);
    assert_true(comes_in(f, own_mac, 5));
    assert_true(comes_in(f, own_mac, 0xe005)); /* with a priority */
    assert_true(comes_in(f, own_mac, 4095));
    assert_false(comes_in(f, own_mac, 6));
    assert_int_equal(command16(f, 2, 1, 5), OK);
    assert_false(comes_in(f, own_mac, 5));
    assert_int_equal(command16(f, 2, 0, 4096), ERR);
    assert_int_equal(command16(f, 2, 0, 0xffff), ERR);
    start(f, F(17) | F(18)); /* without CTRL_VLAN */
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_true(comes_in(f, own_mac, 5));
}

static void bad_commands_are_refused(void **state)
{
    struct fixture *f = *state;
    const u8 zero[16] = {0};
    start(f, CTRL | ANNOUNCE | GUEST_OFFLOADS | GUEST_CSUM);
    for (unsigned class = 0; class < 256; class ++)
        for (unsigned cmd = class <= 5 ? 6 : 0; cmd < 256; cmd += class <= 5 ? 1 : 51)
            assert_int_equal(command(f, (u8) class, (u8)cmd, zero, 8), ERR);
    for (u8 cmd = 0; cmd < 6; cmd++) {
        assert_int_equal(command(f, 0, cmd, zero, 0), ERR);
        assert_int_equal(command(f, 0, cmd, zero, 2), ERR);
    }
    assert_int_equal(command(f, 2, 0, zero, 1), ERR);
    assert_int_equal(command(f, 2, 1, zero, 3), ERR);
    assert_int_equal(command(f, 2, 2, zero, 2), ERR);
    assert_int_equal(command(f, 3, 0, zero, 1), ERR);
    assert_int_equal(command(f, 4, 0, zero, 2), ERR);
    assert_int_equal(command(f, 5, 0, zero, 7), ERR);
    assert_int_equal(command(f, 5, 0, zero, 9), ERR);
    assert_false(broken(f));

    start(f, F(17)); /* the queue, and nothing to say on it */
    assert_int_equal(command8(f, 0, 0, 0), ERR);
    assert_int_equal(command8(f, 0, 2, 0), ERR);
    assert_int_equal(command(f, 1, 0, zero, 8), ERR);
    assert_int_equal(command(f, 1, 1, own_mac, 6), ERR);
    assert_int_equal(command16(f, 2, 0, 5), ERR);
    assert_int_equal(command(f, 3, 0, zero, 0), ERR);
    assert_int_equal(command16(f, 4, 0, 1), ERR);
    assert_int_equal(command64(f, 5, 0, 0), ERR);
}

static void a_short_command_is_answered(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{DATA, 1, false}, {ANSWER, 1, true}};
    u32 len;
    start(f, CTRL);
    *guest(f, ANSWER, 1) = NO_ANSWER;
    ring_add(&f->d.ring[2], b, 2);
    ring_doorbell(&f->d, 2);
    assert_true(used(f, 2, &len));
    assert_int_equal(*guest(f, ANSWER, 1), ERR);
    *guest(f, ANSWER, 1) = NO_ANSWER;
    ring_add(&f->d.ring[2], b + 1, 1);
    ring_doorbell(&f->d, 2);
    assert_true(used(f, 2, &len));
    assert_int_equal(*guest(f, ANSWER, 1), ERR);
    ring_add(&f->d.ring[2], b, 1);
    ring_doorbell(&f->d, 2);
    assert_true(broken(f));
}

static void offloads_can_be_switched(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL | GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4);
    assert_int_equal(command64(f, 5, 0, 0), OK);
    assert_int_equal(f->net.offloads, 0);
    assert_int_equal(command64(f, 5, 0, GUEST_CSUM), OK);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM);
    assert_int_equal(command64(f, 5, 0, GUEST_CSUM | GUEST_TSO6), ERR); /* not accepted before */
    assert_int_equal(command64(f, 5, 0, GUEST_CSUM | F(40)), ERR);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM);
    assert_int_equal(command64(f, 5, 0, GUEST_CSUM | GUEST_TSO4), OK);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM | NET_CAN_TSO4);
}

/* --- link, announcement, MTU --- */

static void the_link_goes_down_and_up(void **state)
{
    struct fixture *f = *state;
    start(f, STATUS);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 1);
    virtio_net_set_link(&f->card, false);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 0);
    assert_int_equal(f->d.messages[DRIVER_CONFIG_VECTOR], 1);
    virtio_net_set_link(&f->card, false);
    assert_int_equal(f->d.messages[DRIVER_CONFIG_VECTOR], 1);
    send_one(f, 0, 60);
    assert_int_equal(f->net.sent, 0);
    assert_false(comes_in(f, broadcast_mac, -1));
    f->net.base.link = false;
    f->card.listener.link_changed(&f->card.listener, false);
    virtio_net_set_link(&f->card, true);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 0);
    f->net.base.link = true;
    f->card.listener.link_changed(&f->card.listener, true);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 1);
    assert_int_equal(f->d.messages[DRIVER_CONFIG_VECTOR], 2);
    assert_true(comes_in(f, broadcast_mac, -1));
}

static void a_frame_that_waits_is_dropped_with_the_link(void **state)
{
    struct fixture *f = *state;
    start(f, STATUS);
    assert_false(receive_one(f, 1, 60, &no_offload));
    virtio_net_set_link(&f->card, false);
    assert_int_equal(f->net.resumed, 1);
    assert_true(receive_one(f, 1, 60, &no_offload));
}

static void the_driver_announces_itself_when_asked(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL | ANNOUNCE | STATUS);
    virtio_net_announce(&f->card);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 3);
    assert_int_equal(f->d.messages[DRIVER_CONFIG_VECTOR], 1);
    assert_int_equal(command(f, 3, 0, NULL, 0), OK);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 1);
    assert_int_equal(f->d.messages[DRIVER_CONFIG_VECTOR], 1);
    start(f, STATUS);
    virtio_net_announce(&f->card);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 1);
}

static void no_frame_is_longer_than_the_mtu(void **state)
{
    struct fixture *f = *state;
    start(f, MTU | GUEST_CSUM | GUEST_TSO4);
    assert_int_equal(config(f, CONFIG_MTU, 2), 1000);
    for (unsigned i = 0; i < 3; i++)
        offer(f, RX, DATA + 0x1000 * i, 2000);
    assert_true(receive_one(f, 1, 1018, &no_offload));
    assert_true(receive_one(f, 1, 1019, &no_offload));
    assert_int_equal(f->card.vdev.counters.net_dropped, 1);
    assert_true(
        receive_one(f, 1, 1900, &(struct net_offload){NET_NEEDS_CSUM, NET_GSO_TCPV4, 54, 946, 34, 16}));
    assert_int_equal(f->card.vdev.counters.net_received, 2);
}

/* --- several pairs of queues --- */

static void the_pairs_in_use_are_set(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL | MQ);
    assert_int_equal(config(f, CONFIG_PAIRS, 2), 4);
    assert_int_equal(f->control_queue, 8);
    assert_int_equal(command16(f, 4, 0, 4), OK);
    assert_int_equal(command16(f, 4, 0, 0), ERR);
    assert_int_equal(command16(f, 4, 0, 5), ERR);
    assert_int_equal(command(f, 4, 0, "\1", 1), ERR);
    assert_int_equal(command16(f, 4, 0, 1), OK);
    for (unsigned pair = 0; pair < 4; pair++) {
        send_by(f, 2 * pair + 1, pair, 100 + pair, &no_offload);
        assert_sent(f, pair, pair, 100 + pair);
        assert_int_equal(f->net.frame[pair].queue, pair);
    }
}

static void without_mq_the_third_queue_controls(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL);
    assert_int_equal(f->control_queue, 2);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_true(comes_in(f, own_mac, -1));
    assert_false(comes_in(f, other_mac, -1));
    ring_doorbell(&f->d, 5);
    ring_doorbell(&f->d, 8);
    ring_doorbell(&f->d, 9);
    assert_false(broken(f));
}

/* An IPv4 or IPv6 frame of TCP between ports 1000 + @a and 80, to the network or back. */
static size_t tcp_frame(u8 *p, unsigned a, bool v6, bool answer)
{
    size_t ip = 14, l4 = ip + (v6 ? 40 : 20), addr = ip + (v6 ? 8 : 12), width = v6 ? 16 : 4;
    memset(p, 0, 100);
    p[12] = v6 ? 0x86 : 8;
    p[13] = v6 ? 0xdd : 0;
    p[ip] = v6 ? 0x60 : 0x45;
    p[ip + (v6 ? 6 : 9)] = 6;
    p[addr + (answer ? width : 0)] = 10;
    p[addr + (answer ? 0 : width)] = 192;
    p[l4 + (answer ? 2 : 0)] = (u8)((1000 + a) >> 8);
    p[l4 + (answer ? 3 : 1)] = (u8)(1000 + a);
    p[l4 + (answer ? 1 : 3)] = 80;
    return l4 + 20;
}

static void answers_come_by_the_pair_of_their_flow(void **state)
{
    struct fixture *f = *state;
    u8 p[100];
    u32 len;
    start(f, CTRL | MQ);
    assert_int_equal(command16(f, 4, 0, 4), OK);
    for (unsigned i = 0; i < 32; i++) {
        unsigned pair = i * 7 % 4;
        size_t n = tcp_frame(p, i, i & 1, false);
        put_header(f, DATA, &no_offload);
        memcpy(guest(f, DATA + HEADER, n), p, n);
        ring_add(&f->d.ring[2 * pair + 1], &(struct buffer){DATA, HEADER + (u32)n, false}, 1);
        ring_doorbell(&f->d, (u16)(2 * pair + 1));
        offer(f, 2 * pair, DATA + 0x10000 * (1 + pair), 2000);
        n = tcp_frame(p, i, i & 1, true);
        assert_true(receive_bytes(f, p, n, &no_offload, 0));
        assert_true(used(f, 2 * pair, &len));
        assert_int_equal(len, HEADER + n);
    }
}

static void a_backend_of_several_queues_steers_itself(void **state)
{
    struct fixture *f = *state;
    u8 p[100];
    u32 len;
    f->net.base.queues = 4;
    start(f, CTRL | MQ);
    assert_int_equal(command16(f, 4, 0, 2), OK);
    for (unsigned queue = 0; queue < 8; queue++) {
        size_t n = tcp_frame(p, queue, false, true);
        offer(f, 2 * (queue % 2), DATA + 0x1000 * queue, 2000);
        assert_true(receive_bytes(f, p, n, &no_offload, queue));
        assert_true(used(f, 2 * (queue % 2), &len));
    }
}

static void each_pair_waits_for_the_network(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL | MQ);
    f->net.room = 0;
    for (unsigned pair = 0; pair < 4; pair++)
        send_by(f, 2 * pair + 1, pair, 60, &no_offload);
    f->net.room = 10;
    f->card.listener.writable(&f->card.listener);
    assert_int_equal(f->net.sent, 4);
}

/* --- resets and state --- */

static void a_reset_forgets_all(void **state)
{
    struct fixture *f = *state;
    start(f, CTRL);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    f->net.room = 0;
    send_one(f, 0, 60);
    set_status(&f->d, 0);
    assert_int_equal(get_status(&f->d), 0);
    f->net.room = 10;
    f->card.listener.writable(&f->card.listener);
    assert_int_equal(f->net.sent, 0);
    start(f, 0);
    send_one(f, 1, 61);
    assert_sent(f, 0, 1, 61);
}

static void save_and_load(struct fixture *f)
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

static void a_card_goes_on_after_save_and_load(void **state)
{
    struct fixture *f = *state;
    u8 table[14] = {1};
    u32 len;
    start(f, CTRL | STATUS | ANNOUNCE | MRG_RXBUF | GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4);
    memcpy(table + 4, other_mac, 6);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_int_equal(command(f, 1, 0, table, 14), OK);
    assert_int_equal(command(f, 1, 1, third_mac, 6), OK);
    assert_int_equal(command16(f, 2, 0, 77), OK);
    assert_int_equal(command64(f, 5, 0, GUEST_CSUM), OK);
    f->net.room = 1;
    for (unsigned i = 0; i < 3; i++)
        send_one(f, i, 60 + i);
    f->net.offloads = 0;
    save_and_load(f);
    assert_int_equal(f->net.offloads, NET_CAN_CSUM);
    assert_int_equal(config(f, CONFIG_MAC + 4, 2), 0x0201);
    f->net.room = 10;
    settle(f);
    for (unsigned i = 0; i < 3; i++) {
        assert_sent(f, i, i, 60 + i);
        assert_true(used(f, TX, &len));
    }
    assert_int_equal(config(f, CONFIG_STATUS, 2), 3); /* it is asked to announce itself */
    assert_int_equal(command(f, 3, 0, NULL, 0), OK);
    assert_true(comes_in(f, other_mac, -1));
    assert_true(comes_in(f, third_mac, 77));
    assert_false(comes_in(f, own_mac, -1));
    assert_false(comes_in(f, other_mac, 78));
}

static void a_pulled_cable_is_saved(void **state)
{
    struct fixture *f = *state;
    start(f, STATUS);
    virtio_net_set_link(&f->card, false);
    save_and_load(f);
    settle(f);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 0);
    virtio_net_set_link(&f->card, true);
    assert_int_equal(config(f, CONFIG_STATUS, 2), 1);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct device *dev = &f->card.pci.function.dev;
    for (unsigned which = 0; which < 4; which++) {
        struct state_buf b = {0};
        struct error err = {0};
        start(f, CTRL | MQ | GUEST_CSUM);
        if (which == 0)
            f->card.active_pairs = 5;
        else if (which == 1)
            f->card.unicast.count = VIRTIO_NET_MACS + 1;
        else if (which == 2)
            f->card.offloads = GUEST_TSO4;
        else
            f->card.active_pairs = 0;
        assert_int_equal(state_save(&b, dev->state, 0, dev->object, &err), 0);
        dev->reset(dev);
        assert_true(state_load(&b, dev->state, 0, dev->object, &err) < 0);
        state_buf_release(&b);
        dev->reset(dev);
        driver_plug(&f->d, dev);
        enable_msix(&f->d, 10);
    }
}

#define WITH_CARD(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ON_PACKED(test)                                       \
    {                                                         \
#test " (packed)", test, setup_packed, teardown, NULL \
    }
#define ON_BOTH(test) WITH_CARD(test), ON_PACKED(test)
#define WITH_PAIRS(test) cmocka_unit_test_setup_teardown(test, setup_pairs, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(a_frame_is_sent_without_its_header),
        ON_BOTH(a_frame_may_be_cut_anywhere),
        ON_BOTH(a_frame_waits_for_the_network),
        ON_BOTH(a_long_queue_goes_on_from_the_loop),
        WITH_CARD(what_the_driver_leaves_undone_is_told),
        WITH_CARD(what_may_not_be_left_undone_is_dropped),
        WITH_CARD(a_frame_has_a_possible_length),
        WITH_CARD(a_frame_without_a_header_breaks_the_card),
        ON_BOTH(a_frame_is_received_behind_a_header),
        ON_BOTH(a_received_frame_is_scattered),
        ON_BOTH(a_burst_is_one_interrupt),
        ON_BOTH(a_frame_waits_for_buffers),
        ON_BOTH(a_large_frame_lies_in_several_buffers),
        ON_BOTH(a_large_frame_waits_for_all_its_buffers),
        ON_BOTH(a_frame_that_never_fits_is_dropped),
        WITH_CARD(a_buffer_without_room_for_the_header_breaks_the_card),
        WITH_CARD(what_the_network_leaves_undone_is_told),
        WITH_CARD(nobody_receives_without_a_driver),
        WITH_CARD(the_network_is_told_what_the_driver_takes),
        WITH_CARD(the_driver_is_offered_what_the_network_takes),
        ON_BOTH(the_filter_is_set_by_commands),
        WITH_CARD(a_table_of_addresses_is_kept),
        WITH_CARD(a_table_too_long_lets_all_in),
        WITH_CARD(a_table_of_an_impossible_length_is_refused),
        WITH_CARD(the_address_can_be_changed),
        WITH_CARD(virtual_networks_are_filtered),
        WITH_CARD(bad_commands_are_refused),
        WITH_CARD(a_short_command_is_answered),
        WITH_CARD(offloads_can_be_switched),
        WITH_CARD(the_link_goes_down_and_up),
        WITH_CARD(a_frame_that_waits_is_dropped_with_the_link),
        WITH_CARD(the_driver_announces_itself_when_asked),
        cmocka_unit_test_setup_teardown(no_frame_is_longer_than_the_mtu, setup_mtu, teardown),
        WITH_PAIRS(the_pairs_in_use_are_set),
        WITH_PAIRS(without_mq_the_third_queue_controls),
        WITH_PAIRS(answers_come_by_the_pair_of_their_flow),
        WITH_PAIRS(a_backend_of_several_queues_steers_itself),
        WITH_PAIRS(each_pair_waits_for_the_network),
        WITH_CARD(a_reset_forgets_all),
        ON_BOTH(a_card_goes_on_after_save_and_load),
        WITH_CARD(a_pulled_cable_is_saved),
        WITH_PAIRS(impossible_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
