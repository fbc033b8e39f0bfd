#include "virtio-net-fixture.h"

/* --- what the guest sends --- */

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
