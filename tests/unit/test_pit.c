/* The 8254 and port 0x61. Counts are chosen so that ticks (838 ns) fall clearly between the times looked at.
 */
#include "device.h"

#include "hw/pit.h"

struct fixture {
    struct bench b;
    struct pit pit;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    assert_int_equal(pit_init(&f->pit, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 0), NULL), 0);
    bench_jump(&f->b, MS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pit_release(&f->pit);
    bench_release(&f->b);
    free(f);
    return 0;
}

/* In the middle of tick @n after @from: away from where a count changes. */
static u64 tick(u64 from, u64 n)
{
    return from + (n * 2 + 1) * NS_PER_SEC / 2 / PIT_HZ;
}

static void program(struct fixture *f, unsigned channel, unsigned mode, u16 count)
{
    out8(&f->b, 0x43, channel << 6 | 0x30 | mode << 1);
    out8(&f->b, 0x40 + channel, count & 0xff);
    out8(&f->b, 0x40 + channel, count >> 8);
}

static u16 latched(struct fixture *f, unsigned channel)
{
    u8 low;

    out8(&f->b, 0x43, channel << 6);
    low = in8(&f->b, 0x40 + channel);
    return low | in8(&f->b, 0x40 + channel) << 8;
}

static u8 status(struct fixture *f, unsigned channel)
{
    out8(&f->b, 0x43, 0xe0 | 2 << channel);
    return in8(&f->b, 0x40 + channel);
}

static bool out_pin(struct fixture *f, unsigned channel)
{
    return status(f, channel) & 0x80;
}

static void mode0_output_rises_once_at_terminal_count(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 0, 1000);
    assert_false(out_pin(f, 0));
    bench_jump(&f->b, tick(MS, 999));
    assert_false(out_pin(f, 0));
    assert_int_equal(f->b.rises[0], 0);
    bench_jump(&f->b, tick(MS, 1000));
    assert_true(out_pin(f, 0));
    assert_int_equal(f->b.rises[0], 1);
    bench_run(&f->b, 200 * MS, MS);
    assert_int_equal(f->b.rises[0], 1);
    assert_true(f->b.level[0]);
}

static void mode0_counter_goes_on_after_terminal_count(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 0, 1000);
    assert_int_equal(latched(f, 0), 1000);
    bench_jump(&f->b, tick(MS, 400));
    assert_int_equal(latched(f, 0), 600);
    bench_jump(&f->b, tick(MS, 1001));
    assert_int_equal(latched(f, 0), 0xffff);
}

static void mode0_first_byte_of_a_count_stops_counting(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 0, 1000);
    bench_jump(&f->b, tick(MS, 10));
    out8(&f->b, 0x40, 0xff);
    bench_run(&f->b, 10 * MS, MS);
    assert_int_equal(f->b.rises[0], 0);
    out8(&f->b, 0x40, 0x00);
    bench_run(&f->b, MS, 100 * US);
    assert_int_equal(f->b.rises[0], 1);
}

static void mode0_short_counts_are_not_lost(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 1; i <= 20; i++) {
        program(f, 0, 0, 1);
        bench_run(&f->b, 100 * US, 10 * US);
        assert_int_equal(f->b.rises[0], i);
    }
}

static void mode1_is_triggered_by_the_gate(void **state)
{
    struct fixture *f = *state;
    u64 start;

    program(f, 2, 1, 100);
    assert_true(out_pin(f, 2));
    bench_run(&f->b, MS, MS);
    assert_true(out_pin(f, 2));
    start = vclock_ns(&f->b.clock);
    out8(&f->b, 0x61, 1);
    assert_false(out_pin(f, 2));
    bench_jump(&f->b, tick(start, 99));
    assert_false(out_pin(f, 2));
    bench_jump(&f->b, tick(start, 100));
    assert_true(out_pin(f, 2));
    out8(&f->b, 0x61, 0); /* a falling gate does nothing, the next rise triggers again */
    assert_true(out_pin(f, 2));
    out8(&f->b, 0x61, 1);
    assert_false(out_pin(f, 2));
}

static void mode2_interrupts_each_period(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 11932); /* 100.0 Hz */
    f->b.rises[0] = 0;
    bench_run(&f->b, NS_PER_SEC, 500 * US);
    assert_int_equal(f->b.rises[0], 99); /* the hundredth is 15 us late */
    bench_run(&f->b, 20 * US, US);
    assert_int_equal(f->b.rises[0], 100);
}

static void mode2_output_is_low_for_the_last_tick(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 2, 10);
    out8(&f->b, 0x61, 1);
    for (unsigned i = 0; i < 30; i++) {
        bench_jump(&f->b, tick(MS, i));
        assert_int_equal(out_pin(f, 2), i % 10 != 9);
        assert_int_equal(latched(f, 2), 10 - i % 10);
    }
}

static void mode2_takes_a_new_count_at_the_end_of_the_period(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 2, 100);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(MS, 30));
    out8(&f->b, 0x42, 50);
    out8(&f->b, 0x42, 0);
    assert_int_equal(status(f, 2) & 0x40, 0x40); /* null count: not yet loaded */
    bench_jump(&f->b, tick(MS, 99));
    assert_int_equal(latched(f, 2), 1);
    bench_jump(&f->b, tick(MS, 100));
    assert_int_equal(latched(f, 2), 50);
    assert_int_equal(status(f, 2) & 0x40, 0);
    bench_jump(&f->b, tick(MS, 149));
    assert_int_equal(latched(f, 2), 1);
}

static void mode3_counts_by_two_and_is_high_for_half(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 3, 10);
    out8(&f->b, 0x61, 1);
    for (unsigned i = 0; i < 30; i++) {
        bench_jump(&f->b, tick(MS, i));
        assert_int_equal(out_pin(f, 2), i % 10 < 5);
        assert_int_equal(latched(f, 2), 10 - i % 5 * 2);
    }
}

static void mode3_odd_count_has_the_longer_half_high(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 3, 7);
    out8(&f->b, 0x61, 1);
    for (unsigned i = 0; i < 21; i++) {
        bench_jump(&f->b, tick(MS, i));
        assert_int_equal(out_pin(f, 2), i % 7 < 4);
    }
}

static void mode3_takes_a_new_count_at_the_end_of_the_half_period(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 3, 100);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(MS, 30));
    out8(&f->b, 0x42, 20);
    out8(&f->b, 0x42, 0);
    bench_jump(&f->b, tick(MS, 49));
    assert_true(out_pin(f, 2));
    for (unsigned i = 0; i < 40; i++) {
        bench_jump(&f->b, tick(MS, 50 + i));
        assert_int_equal(out_pin(f, 2), i % 20 >= 10);
    }
}

static void mode3_interrupts_each_period(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 3, 0); /* 65536: 18.2 Hz */
    f->b.rises[0] = 0;
    bench_run(&f->b, 10 * NS_PER_SEC, MS);
    assert_int_equal(f->b.rises[0], 182);
}

static void mode4_strobes_once(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 4, 100);
    bench_jump(&f->b, tick(MS, 99));
    assert_true(out_pin(f, 0));
    bench_jump(&f->b, tick(MS, 100));
    assert_false(out_pin(f, 0));
    bench_jump(&f->b, tick(MS, 101));
    assert_true(out_pin(f, 0));
    bench_run(&f->b, 200 * MS, 10 * MS);
    assert_int_equal(f->b.rises[0], 2); /* the control word's, and the strobe's end */
}

static void mode5_strobes_after_the_gate(void **state)
{
    struct fixture *f = *state;
    u64 start;

    program(f, 2, 5, 100);
    bench_run(&f->b, MS, MS);
    start = vclock_ns(&f->b.clock);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(start, 99));
    assert_true(out_pin(f, 2));
    bench_jump(&f->b, tick(start, 100));
    assert_false(out_pin(f, 2));
    bench_jump(&f->b, tick(start, 101));
    assert_true(out_pin(f, 2));
}

static void modes_6_and_7_are_2_and_3(void **state)
{
    struct fixture *f = *state;

    program(f, 2, 6, 10);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(MS, 9));
    assert_false(out_pin(f, 2));
    out8(&f->b, 0x61, 0);
    program(f, 2, 7, 10);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(tick(MS, 9), 5));
    assert_false(out_pin(f, 2));
}

static void gate_low_freezes_mode0_and_resets_mode2(void **state)
{
    struct fixture *f = *state;
    u64 start;

    out8(&f->b, 0x61, 1);
    program(f, 2, 0, 1000);
    bench_jump(&f->b, tick(MS, 400));
    out8(&f->b, 0x61, 0);
    start = tick(MS, 400) + 50 * MS;
    bench_jump(&f->b, start);
    assert_int_equal(latched(f, 2), 600);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(start, 100));
    assert_int_equal(latched(f, 2), 500);

    program(f, 2, 2, 1000);
    bench_run(&f->b, 100 * US, 100 * US);
    out8(&f->b, 0x61, 0);
    assert_true(out_pin(f, 2));
    start = vclock_ns(&f->b.clock);
    out8(&f->b, 0x61, 1);
    bench_jump(&f->b, tick(start, 3));
    assert_int_equal(latched(f, 2), 997);
}

static void port61_calibration_loop_sees_channel_2_expire(void **state)
{
    struct fixture *f = *state;
    u64 start = vclock_ns(&f->b.clock);

    /* What kernels do to measure the TSC: gate on, speaker off, mode 0, wait for bit 5. */
    out8(&f->b, 0x61, (in8(&f->b, 0x61) & ~2) | 1);
    program(f, 2, 0, 59659); /* 50 ms */
    while (!(in8(&f->b, 0x61) & 0x20)) {
        bench_run(&f->b, 10 * US, 10 * US);
        assert_in_range(vclock_ns(&f->b.clock) - start, 0, 51 * MS);
    }
    assert_in_range(vclock_ns(&f->b.clock) - start, 50 * MS - US, 50 * MS + 20 * US);
}

static void port61_keeps_its_low_bits_and_toggles_refresh(void **state)
{
    struct fixture *f = *state;
    u8 first;

    out8(&f->b, 0x61, 0xff);
    assert_int_equal(in8(&f->b, 0x61) & 0xcf, 0x0f);
    first = in8(&f->b, 0x61) & 0x10;
    bench_run(&f->b, 15085, 15085);
    assert_int_equal(in8(&f->b, 0x61) & 0x10, first ^ 0x10);
}

static void access_modes_choose_bytes(void **state)
{
    struct fixture *f = *state;

    out8(&f->b, 0x43, 0x90); /* channel 2, low byte only, mode 0 */
    out8(&f->b, 0x42, 0x34);
    assert_int_equal(in8(&f->b, 0x42), 0x34);
    assert_int_equal(in8(&f->b, 0x42), 0x34);
    out8(&f->b, 0x43, 0xa0); /* high byte only */
    out8(&f->b, 0x42, 0x12);
    assert_int_equal(in8(&f->b, 0x42), 0x12);
    out8(&f->b, 0x43, 0xb0); /* both */
    out8(&f->b, 0x42, 0x78);
    out8(&f->b, 0x42, 0x56);
    assert_int_equal(in8(&f->b, 0x42), 0x78);
    assert_int_equal(in8(&f->b, 0x42), 0x56);
}

static void first_latch_holds_until_read(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 1000);
    bench_jump(&f->b, tick(MS, 100));
    out8(&f->b, 0x43, 0x00);
    bench_jump(&f->b, tick(MS, 200));
    out8(&f->b, 0x43, 0x00);
    assert_int_equal(in8(&f->b, 0x40), 900 & 0xff);
    assert_int_equal(in8(&f->b, 0x40), 900 >> 8);
    assert_int_equal(in8(&f->b, 0x40), 800 & 0xff);
}

static void readback_latches_status_and_count_of_several(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 1000);
    out8(&f->b, 0x61, 1);
    program(f, 2, 3, 500);
    bench_jump(&f->b, tick(MS, 100));
    out8(&f->b, 0x43, 0xc0 | 2 | 8); /* count and status of 0 and 2 */
    bench_jump(&f->b, tick(MS, 300));
    assert_int_equal(in8(&f->b, 0x40), 0x80 | 0x34);
    assert_int_equal(in8(&f->b, 0x40), 900 & 0xff);
    assert_int_equal(in8(&f->b, 0x40), 900 >> 8);
    assert_int_equal(in8(&f->b, 0x42), 0x80 | 0x36);
    assert_int_equal(in8(&f->b, 0x42), 300 & 0xff);
    assert_int_equal(in8(&f->b, 0x42), 300 >> 8);
}

static void null_count_is_set_until_a_count_is_written(void **state)
{
    struct fixture *f = *state;

    out8(&f->b, 0x43, 0xb4);
    assert_int_equal(status(f, 2), 0x80 | 0x40 | 0x34);
    out8(&f->b, 0x42, 1);
    out8(&f->b, 0x42, 1);
    assert_int_equal(status(f, 2), 0x80 | 0x34);
}

static void bcd_counts_in_decimal(void **state)
{
    struct fixture *f = *state;

    out8(&f->b, 0x61, 1);
    out8(&f->b, 0x43, 0xb1);
    out8(&f->b, 0x42, 0x00);
    out8(&f->b, 0x42, 0x10); /* 1000 */
    bench_jump(&f->b, tick(MS, 1));
    assert_int_equal(latched(f, 2), 0x0999);
    bench_jump(&f->b, tick(MS, 1001));
    assert_int_equal(latched(f, 2), 0x9999);
}

static void control_port_reads_as_all_ones(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in8(&f->b, 0x43), 0xff);
}

static void periods_too_short_are_merged(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 1);
    f->b.rises[0] = 0;
    bench_run(&f->b, MS, US);
    assert_in_range(f->b.rises[0], 40, MS / PIT_MIN_PERIOD_NS);
}

static void a_late_host_merges_periods_and_keeps_the_phase(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 11932);
    f->b.rises[0] = 0;
    bench_jump(&f->b, MS + 95 * MS);
    assert_int_equal(f->b.rises[0], 1);
    bench_jump(&f->b, MS + 99 * MS);
    assert_int_equal(f->b.rises[0], 1);
    bench_jump(&f->b, MS + 101 * MS);
    assert_int_equal(f->b.rises[0], 2);
}

static void muted_channel_does_not_interrupt(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 2, 1193);
    pit_set_muted(&f->pit, true);
    f->b.rises[0] = 0;
    bench_run(&f->b, 20 * MS, MS);
    assert_int_equal(f->b.rises[0], 0);
    assert_false(f->b.level[0]);
    pit_set_muted(&f->pit, false);
    f->b.rises[0] = 0;
    bench_run(&f->b, 20 * MS, 100 * US);
    assert_in_range(f->b.rises[0], 19, 20);
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    program(f, 0, 0, 10000);
    out8(&f->b, 0x61, 1);
    program(f, 2, 2, 1000);
    bench_jump(&f->b, tick(MS, 300));
    bench_round_trip(&f->pit.dev);
    assert_int_equal(latched(f, 2), 700);
    assert_int_equal(in8(&f->b, 0x61) & 0x0f, 1);
    assert_int_equal(f->b.rises[0], 0);
    bench_run(&f->b, 20 * MS, MS);
    assert_int_equal(f->b.rises[0], 1);
}

static void load_rejects_a_count_of_zero(void **state)
{
    struct fixture *f = *state;
    struct state_buf buf = {0};
    struct error err = {0};

    f->pit.channel[1].count = 0;
    assert_int_equal(state_save(&buf, f->pit.dev.state, 0, &f->pit, &err), 0);
    assert_int_not_equal(state_load(&buf, f->pit.dev.state, 0, &f->pit, &err), 0);
    state_buf_release(&buf);
    f->pit.dev.reset(&f->pit.dev);
}

/* Its timer would fire for ever: nothing but the end of a period takes the new count over. */
static void load_rejects_a_new_count_that_waits_for_no_period(void **state)
{
    struct fixture *f = *state;
    struct state_buf buf = {0};
    struct error err;

    f->pit.channel[0].control = 0x32; /* mode 1 */
    f->pit.channel[0].running = true;
    f->pit.channel[0].next = 5;
    assert_int_equal(state_save(&buf, f->pit.dev.state, 0, &f->pit, &err), 0);
    assert_int_not_equal(state_load(&buf, f->pit.dev.state, 0, &f->pit, &err), 0);
    f->pit.dev.reset(&f->pit.dev);
    state_buf_release(&buf);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mode0_output_rises_once_at_terminal_count),
        TEST(mode0_counter_goes_on_after_terminal_count),
        TEST(mode0_first_byte_of_a_count_stops_counting),
        TEST(mode0_short_counts_are_not_lost),
        TEST(mode1_is_triggered_by_the_gate),
        TEST(mode2_interrupts_each_period),
        TEST(mode2_output_is_low_for_the_last_tick),
        TEST(mode2_takes_a_new_count_at_the_end_of_the_period),
        TEST(mode3_counts_by_two_and_is_high_for_half),
        TEST(mode3_odd_count_has_the_longer_half_high),
        TEST(mode3_takes_a_new_count_at_the_end_of_the_half_period),
        TEST(mode3_interrupts_each_period),
        TEST(mode4_strobes_once),
        TEST(mode5_strobes_after_the_gate),
        TEST(modes_6_and_7_are_2_and_3),
        TEST(gate_low_freezes_mode0_and_resets_mode2),
        TEST(port61_calibration_loop_sees_channel_2_expire),
        TEST(port61_keeps_its_low_bits_and_toggles_refresh),
        TEST(access_modes_choose_bytes),
        TEST(first_latch_holds_until_read),
        TEST(readback_latches_status_and_count_of_several),
        TEST(null_count_is_set_until_a_count_is_written),
        TEST(bcd_counts_in_decimal),
        TEST(control_port_reads_as_all_ones),
        TEST(periods_too_short_are_merged),
        TEST(a_late_host_merges_periods_and_keeps_the_phase),
        TEST(muted_channel_does_not_interrupt),
        TEST(state_survives_save_and_load),
        TEST(load_rejects_a_count_of_zero),
        TEST(load_rejects_a_new_count_that_waits_for_no_period),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
