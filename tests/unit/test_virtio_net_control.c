#include "virtio-net-fixture.h"

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
    static const u8 long_mac[7] = {2};
    struct fixture *f = *state;
    start(f, CTRL);
    assert_int_equal(command8(f, 0, 0, 0), OK);
    assert_int_equal(command(f, 1, 1, other_mac, 6), OK);
    assert_true(comes_in(f, other_mac, -1));
    assert_false(comes_in(f, own_mac, -1));
    assert_int_equal(config(f, CONFIG_MAC + 4, 2), 0x0101);
    assert_int_equal(command(f, 1, 1, group_mac, 6), ERR);
    assert_int_equal(command(f, 1, 1, long_mac, 5), ERR);
    assert_int_equal(command(f, 1, 1, long_mac, 7), ERR);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
