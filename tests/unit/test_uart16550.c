/* The 16550A against a backend that the test drives. */
#include "device.h"

#include "hw/uart16550.h"

#define BASE 0x3f8

/* What the host side saw and will take. */
struct probe_char {
    struct chardev base;
    u8 out[65536];
    size_t out_len;
    size_t takes; /* bytes that it still takes */
    size_t room;
};

struct fixture {
    struct bench b;
    struct probe_char host;
    struct uart16550 uart;
};

static ssize_t probe_write(struct chardev *c, const u8 *data, size_t len)
{
    struct probe_char *p = container_of(c, struct probe_char, base);

    len = MIN(len, p->takes);
    assert_true(p->out_len + len <= sizeof p->out);
    memcpy(p->out + p->out_len, data, len);
    p->out_len += len;
    p->takes -= len;
    return len;
}

static void probe_set_room(struct chardev *c, size_t room)
{
    container_of(c, struct probe_char, base)->room = room;
}

static const struct chardev_ops probe_ops = {.write = probe_write, .set_room = probe_set_room};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    f->host = (struct probe_char){.base = {.ops = &probe_ops, .connected = true}, .takes = ~0ull};
    assert_int_equal(uart16550_init(&f->uart, &f->b.memory, BASE, f->b.loop, &f->b.clock,
                                    bench_line(&f->b, 4), &f->host.base, NULL),
                     0);
    bench_jump(&f->b, MS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    uart16550_release(&f->uart);
    bench_release(&f->b);
    free(f);
    return 0;
}

static u8 rd(struct fixture *f, unsigned reg)
{
    return in8(&f->b, BASE + reg);
}
static void wr(struct fixture *f, unsigned reg, u8 value)
{
    out8(&f->b, BASE + reg, value);
}

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

/* The host sends as much as there is room for; returns how much that was. */
static size_t host_sends(struct fixture *f, const u8 *data, size_t len)
{
    len = MIN(len, f->host.room);
    f->host.room -= len;
    if (len)
        f->host.base.listener->receive(f->host.base.listener, data, len);
    return len;
}

static void host_takes(struct fixture *f, size_t n)
{
    f->host.takes = n;
    f->host.base.listener->writable(f->host.base.listener);
}

static void fifo_on(struct fixture *f, u8 trigger_bits)
{
    wr(f, FCR, 0x01 | trigger_bits);
    wr(f, MCR, 0x08);
}

/* --- registers --- */

static void reset_values_are_those_of_the_data_sheet(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rd(f, IER), 0x00);
    assert_int_equal(rd(f, IIR), 0x01);
    assert_int_equal(rd(f, LCR), 0x00);
    assert_int_equal(rd(f, MCR), 0x00);
    assert_int_equal(rd(f, LSR), 0x60);
    assert_int_equal(rd(f, MSR), 0xb0);
}

static void scratch_and_line_control_read_back(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        wr(f, SCR, v);
        assert_int_equal(rd(f, SCR), v);
        wr(f, LCR, v);
        assert_int_equal(rd(f, LCR), v);
    }
}

static void unimplemented_bits_of_ier_and_mcr_read_zero(void **state)
{
    struct fixture *f = *state;

    wr(f, IER, 0xff);
    assert_int_equal(rd(f, IER), 0x0f);
    wr(f, MCR, 0xff);
    assert_int_equal(rd(f, MCR), 0x1f);
}

static void dlab_shows_the_divisor(void **state)
{
    struct fixture *f = *state;

    wr(f, IER, 0x05);
    wr(f, LCR, 0x83);
    wr(f, 0, 0x34);
    wr(f, 1, 0x12);
    assert_int_equal(rd(f, 0), 0x34);
    assert_int_equal(rd(f, 1), 0x12);
    wr(f, LCR, 0x03);
    assert_int_equal(rd(f, IER), 0x05);
    assert_int_equal(f->host.out_len, 0);
}

static void line_and_modem_status_ignore_writes(void **state)
{
    struct fixture *f = *state;

    wr(f, LSR, 0xff);
    wr(f, MSR, 0x00);
    assert_int_equal(rd(f, LSR), 0x60);
    assert_int_equal(rd(f, MSR), 0xb0);
}

static void iir_tells_that_the_fifos_are_on(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rd(f, IIR) & 0xc0, 0x00);
    wr(f, FCR, 0x01);
    assert_int_equal(rd(f, IIR) & 0xc0, 0xc0);
    wr(f, FCR, 0xc6); /* bit 0 clear: off, whatever else is set */
    assert_int_equal(rd(f, IIR) & 0xc0, 0x00);
}

/* --- transmitter --- */

static void bytes_written_reach_the_host_in_order(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(rd(f, LSR) & 0x60, 0x60);
        wr(f, DATA, i);
    }
    assert_int_equal(f->host.out_len, 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(f->host.out[i], i & 0xff);
}

static void slow_host_holds_thre_until_it_takes_the_bytes(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0);
    f->host.takes = 0;
    wr(f, DATA, 'a');
    assert_int_equal(rd(f, LSR) & 0x60, 0x00);
    for (unsigned i = 1; i < 16; i++)
        wr(f, DATA, 'a' + i);
    host_takes(f, 10);
    assert_int_equal(rd(f, LSR) & 0x60, 0x00);
    host_takes(f, 10);
    assert_int_equal(rd(f, LSR) & 0x60, 0x60);
    assert_memory_equal(f->host.out, "abcdefghijklmnop", 16);
}

/* A driver as drivers are: fills the FIFO when THRE says that it is empty. */
static void no_byte_is_lost_to_a_host_that_takes_few(void **state)
{
    struct fixture *f = *state;
    unsigned sent = 0;

    fifo_on(f, 0);
    f->host.takes = 0;
    for (unsigned round = 0; sent < 20000; round++) {
        if (rd(f, LSR) & 0x20)
            for (unsigned i = 0; i < 16; i++, sent++)
                wr(f, DATA, sent * 7);
        host_takes(f, round % 5);
    }
    while (!(rd(f, LSR) & 0x40))
        host_takes(f, 3);
    assert_int_equal(f->host.out_len, sent);
    for (unsigned i = 0; i < sent; i++)
        assert_int_equal(f->host.out[i], i * 7 & 0xff);
}

static void full_transmit_fifo_drops_the_new_byte(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0);
    f->host.takes = 0;
    for (unsigned i = 0; i < 20; i++)
        wr(f, DATA, i);
    host_takes(f, 100);
    assert_int_equal(f->host.out_len, 16);
    assert_int_equal(f->host.out[15], 15);
}

static void without_fifo_the_transmitter_holds_one_byte(void **state)
{
    struct fixture *f = *state;

    f->host.takes = 0;
    wr(f, DATA, 'x');
    wr(f, DATA, 'y');
    host_takes(f, 100);
    assert_int_equal(f->host.out_len, 1);
    assert_int_equal(f->host.out[0], 'y');
}

static void fcr_clears_the_transmit_fifo(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0);
    f->host.takes = 0;
    wr(f, DATA, 'x');
    wr(f, FCR, 0x05);
    assert_int_equal(rd(f, LSR) & 0x60, 0x60);
    host_takes(f, 100);
    assert_int_equal(f->host.out_len, 0);
}

static void thre_interrupt_comes_and_iir_clears_it(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x08);
    wr(f, IER, 0x02);
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x02);
    assert_false(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x01);
    wr(f, DATA, 'x'); /* empties at once */
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x02);
}

static void thre_interrupt_waits_for_the_host(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x08);
    wr(f, IER, 0x02);
    f->host.takes = 0;
    wr(f, DATA, 'x');
    assert_false(f->b.level[4]);
    host_takes(f, 1);
    assert_true(f->b.level[4]);
}

static void enabling_the_thre_interrupt_anew_raises_it(void **state)
{
    struct fixture *f = *state;

    /* The probe of drivers for chips that do not. */
    wr(f, MCR, 0x08);
    wr(f, IER, 0x02);
    assert_int_equal(rd(f, IIR), 0x02);
    wr(f, IER, 0x00);
    wr(f, IER, 0x02);
    assert_int_equal(rd(f, IIR), 0x02);
}

/* --- receiver --- */

static void received_byte_sets_dr_and_interrupts(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x08);
    wr(f, IER, 0x01);
    assert_int_equal(host_sends(f, (const u8 *)"A", 1), 1);
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x04);
    assert_int_equal(rd(f, LSR), 0x61);
    assert_int_equal(rd(f, DATA), 'A');
    assert_false(f->b.level[4]);
    assert_int_equal(rd(f, LSR), 0x60);
}

static void room_is_one_byte_without_fifo_and_sixteen_with(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(f->host.room, 1);
    fifo_on(f, 0);
    assert_int_equal(f->host.room, 16);
}

static void trigger_level_holds_the_interrupt_back(void **state)
{
    static const u8 levels[] = {1, 4, 8, 14};
    struct fixture *f = *state;

    wr(f, IER, 0x01);
    for (unsigned t = 0; t < 4; t++) {
        wr(f, FCR, 0x03 | t << 6);
        wr(f, MCR, 0x08);
        for (unsigned i = 0; i < levels[t]; i++) {
            assert_false(f->b.level[4]);
            host_sends(f, (const u8 *)"x", 1);
        }
        assert_true(f->b.level[4]);
        assert_int_equal(rd(f, IIR), 0xc4);
        rd(f, DATA);
        assert_false(f->b.level[4]);
    }
}

static void time_out_tells_of_bytes_below_the_trigger(void **state)
{
    struct fixture *f = *state;

    wr(f, LCR, 0x80); /* 115200: four characters take 347 us */
    wr(f, 0, 1);
    wr(f, 1, 0);
    wr(f, LCR, 0x03);
    fifo_on(f, 0xc0);
    wr(f, IER, 0x01);
    host_sends(f, (const u8 *)"ab", 2);
    bench_run(&f->b, 300 * US, 100 * US);
    assert_false(f->b.level[4]);
    bench_run(&f->b, 100 * US, 10 * US);
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0xcc);
    assert_int_equal(rd(f, DATA), 'a');
    assert_false(f->b.level[4]); /* reading starts it anew */
    bench_run(&f->b, 400 * US, 10 * US);
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, DATA), 'b');
    assert_false(f->b.level[4]);
    bench_run(&f->b, MS, 10 * US);
    assert_false(f->b.level[4]);
}

static void a_new_byte_starts_the_time_out_anew(void **state)
{
    struct fixture *f = *state;

    wr(f, LCR, 0x80);
    wr(f, 0, 1);
    wr(f, LCR, 0x03);
    fifo_on(f, 0xc0);
    wr(f, IER, 0x01);
    for (unsigned i = 0; i < 5; i++) {
        host_sends(f, (const u8 *)"a", 1);
        bench_run(&f->b, 300 * US, 50 * US);
        assert_false(f->b.level[4]);
    }
    bench_run(&f->b, 100 * US, 50 * US);
    assert_true(f->b.level[4]);
}

/* An interrupt-driven reader and 1 MB as fast as there is room: everything arrives, in order. */
static void no_byte_is_lost_in_a_flood(void **state)
{
    struct fixture *f = *state;
    u8 chunk[4096];
    size_t sent = 0, got = 0, total = 1 << 20;

    fifo_on(f, 0x80);
    wr(f, IER, 0x05);
    while (got < total) {
        size_t n = MIN(sizeof chunk, total - sent);

        for (size_t i = 0; i < MIN(n, (size_t)16); i++)
            chunk[i] = (sent + i) * 31 >> 3;
        sent += host_sends(f, chunk, MIN(n, (size_t)1 + sent % 16));
        if (!f->b.level[4])
            bench_run(&f->b, 5 * MS, 5 * MS);
        while (rd(f, LSR) & 1) {
            assert_int_equal(rd(f, DATA), (u8)(got * 31 >> 3));
            got++;
        }
        assert_true(got <= sent);
    }
}

static void fcr_clears_the_receive_fifo(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0);
    wr(f, IER, 0x01);
    host_sends(f, (const u8 *)"abc", 3);
    assert_true(f->b.level[4]);
    wr(f, FCR, 0x03);
    assert_false(f->b.level[4]);
    assert_int_equal(rd(f, LSR), 0x60);
    assert_int_equal(f->host.room, 16);
}

static void break_shows_with_its_byte(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0x40);
    wr(f, IER, 0x05);
    host_sends(f, (const u8 *)"a", 1);
    f->host.base.listener->line_break(f->host.base.listener);
    assert_int_equal(rd(f, LSR), 0xe1); /* an error is in the FIFO, but not of the next byte */
    assert_int_equal(rd(f, DATA), 'a');
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0xc6);
    assert_int_equal(rd(f, LSR), 0xf1);
    assert_int_equal(rd(f, LSR), 0x61);
    assert_int_equal(rd(f, DATA), 0);
    assert_int_equal(rd(f, LSR), 0x60);
}

/* --- priorities, modem, loop --- */

static void interrupts_are_identified_in_order_of_priority(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x18); /* loop: modem inputs and received bytes are ours */
    wr(f, IER, 0x0f);
    rd(f, MSR);
    wr(f, MCR, 0x1a); /* CTS changes */
    wr(f, DATA, '1');
    wr(f, DATA, '2'); /* overrun */
    assert_int_equal(rd(f, IIR), 0x06);
    rd(f, LSR);
    assert_int_equal(rd(f, IIR), 0x04);
    rd(f, DATA);
    assert_int_equal(rd(f, IIR), 0x02);
    assert_int_equal(rd(f, IIR), 0x00);
    rd(f, MSR);
    assert_int_equal(rd(f, IIR), 0x01);
}

static void carrier_follows_the_peer(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x08);
    wr(f, IER, 0x08);
    rd(f, MSR);
    f->host.base.listener->hangup(f->host.base.listener, false);
    assert_true(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x00);
    assert_int_equal(rd(f, MSR), 0x1a); /* CTS stays; DCD and DSR changed */
    assert_false(f->b.level[4]);
    f->host.base.listener->hangup(f->host.base.listener, true);
    assert_int_equal(rd(f, MSR), 0xba);
    assert_int_equal(rd(f, MSR), 0xb0);
}

static void loop_connects_modem_outputs_to_inputs(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 16; v++) {
        u8 expect = (v & 1) << 5 | (v & 2) << 3 | (v & 4) << 4 | (v & 8) << 4;

        wr(f, MCR, 0x10 | v);
        assert_int_equal(rd(f, MSR) & 0xf0, expect);
    }
}

static void ring_indicator_counts_only_its_trailing_edge(void **state)
{
    struct fixture *f = *state;

    wr(f, MCR, 0x10);
    rd(f, MSR);
    wr(f, MCR, 0x14);
    assert_int_equal(rd(f, MSR), 0x40);
    wr(f, MCR, 0x10);
    assert_int_equal(rd(f, MSR), 0x04);
}

static void loop_returns_bytes_and_cuts_off_the_host(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0);
    wr(f, MCR, 0x18);
    assert_int_equal(f->host.room, 0);
    for (unsigned i = 0; i < 20; i++)
        wr(f, DATA, i);
    assert_int_equal(rd(f, LSR), 0x63); /* four too many */
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(rd(f, DATA), i);
    assert_int_equal(rd(f, LSR), 0x60);
    assert_int_equal(f->host.out_len, 0);
    wr(f, MCR, 0x08);
    assert_int_equal(f->host.room, 16);
}

/* How drivers find the size of the FIFO. */
static void loop_probe_counts_sixteen_bytes(void **state)
{
    struct fixture *f = *state;
    unsigned n = 0;

    wr(f, FCR, 0x07);
    wr(f, MCR, 0x10);
    wr(f, LCR, 0x80);
    wr(f, 0, 1);
    wr(f, 1, 0);
    wr(f, LCR, 0x03);
    for (unsigned i = 0; i < 256; i++)
        wr(f, DATA, i);
    while ((rd(f, LSR) & 1) && n < 256) {
        rd(f, DATA);
        n++;
    }
    assert_int_equal(n, 16);
}

static void out2_gates_the_interrupt(void **state)
{
    struct fixture *f = *state;

    wr(f, IER, 0x02);
    assert_false(f->b.level[4]);
    assert_int_equal(rd(f, IIR), 0x02);
    wr(f, IER, 0x00);
    wr(f, IER, 0x02);
    wr(f, MCR, 0x08);
    assert_true(f->b.level[4]);
    wr(f, MCR, 0x00);
    assert_false(f->b.level[4]);
}

static void nothing_connected_swallows_output(void **state)
{
    struct fixture *f = *state;
    struct uart16550 u;

    assert_int_equal(
        uart16550_init(&u, &f->b.memory, 0x2f8, f->b.loop, &f->b.clock, bench_line(&f->b, 3), NULL, NULL), 0);
    for (unsigned i = 0; i < 100; i++) {
        out8(&f->b, 0x2f8, i);
        assert_int_equal(in8(&f->b, 0x2fd), 0x60);
    }
    assert_int_equal(in8(&f->b, 0x2fe), 0x10);
    uart16550_release(&u);
}

static void wide_accesses_are_bytes(void **state)
{
    struct fixture *f = *state;

    wr(f, SCR, 0x5a);
    out16(&f->b, BASE + MSR, 0xa500); /* the high byte is the scratch register's */
    assert_int_equal(rd(f, SCR), 0xa5);
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    fifo_on(f, 0x40);
    wr(f, IER, 0x01);
    wr(f, SCR, 0x77);
    host_sends(f, (const u8 *)"xy", 2);
    f->host.takes = 0;
    wr(f, DATA, 'q');
    bench_round_trip(&f->uart.dev);
    assert_int_equal(rd(f, SCR), 0x77);
    assert_int_equal(f->host.room, 14);
    bench_run(&f->b, 20 * MS, MS);
    assert_true(f->b.level[4]); /* the time-out was saved too */
    assert_int_equal(rd(f, DATA), 'x');
    assert_int_equal(rd(f, DATA), 'y');
    host_takes(f, 10);
    assert_int_equal(f->host.out_len, 1);
    assert_int_equal(f->host.out[0], 'q');
}

static void load_rejects_fifo_positions_out_of_range(void **state)
{
    struct fixture *f = *state;
    struct state_buf buf = {0};

    f->uart.rx_head = 16;
    assert_int_equal(state_save(&buf, f->uart.dev.state, 0, &f->uart, NULL), 0);
    assert_int_not_equal(state_load(&buf, f->uart.dev.state, 0, &f->uart, NULL), 0);
    state_buf_release(&buf);
    f->uart.dev.reset(&f->uart.dev);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reset_values_are_those_of_the_data_sheet),
        TEST(scratch_and_line_control_read_back),
        TEST(unimplemented_bits_of_ier_and_mcr_read_zero),
        TEST(dlab_shows_the_divisor),
        TEST(line_and_modem_status_ignore_writes),
        TEST(iir_tells_that_the_fifos_are_on),
        TEST(bytes_written_reach_the_host_in_order),
        TEST(slow_host_holds_thre_until_it_takes_the_bytes),
        TEST(no_byte_is_lost_to_a_host_that_takes_few),
        TEST(full_transmit_fifo_drops_the_new_byte),
        TEST(without_fifo_the_transmitter_holds_one_byte),
        TEST(fcr_clears_the_transmit_fifo),
        TEST(thre_interrupt_comes_and_iir_clears_it),
        TEST(thre_interrupt_waits_for_the_host),
        TEST(enabling_the_thre_interrupt_anew_raises_it),
        TEST(received_byte_sets_dr_and_interrupts),
        TEST(room_is_one_byte_without_fifo_and_sixteen_with),
        TEST(trigger_level_holds_the_interrupt_back),
        TEST(time_out_tells_of_bytes_below_the_trigger),
        TEST(a_new_byte_starts_the_time_out_anew),
        TEST(no_byte_is_lost_in_a_flood),
        TEST(fcr_clears_the_receive_fifo),
        TEST(break_shows_with_its_byte),
        TEST(interrupts_are_identified_in_order_of_priority),
        TEST(carrier_follows_the_peer),
        TEST(loop_connects_modem_outputs_to_inputs),
        TEST(ring_indicator_counts_only_its_trailing_edge),
        TEST(loop_returns_bytes_and_cuts_off_the_host),
        TEST(loop_probe_counts_sixteen_bytes),
        TEST(out2_gates_the_interrupt),
        TEST(nothing_connected_swallows_output),
        TEST(wide_accesses_are_bytes),
        TEST(state_survives_save_and_load),
        TEST(load_rejects_fifo_positions_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
