/* The MC146818 and its CMOS memory. */
#include "device.h"

#include "hw/rtc.h"

#define T0 1709164799ull /* Wed 2024-02-28 23:59:59 UTC; a leap year */

struct fixture {
    struct bench b;
    struct rtc rtc;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    bench_jump(&f->b, 10 * NS_PER_SEC);
    assert_int_equal(rtc_init(&f->rtc, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 8), NULL), 0);
    rtc_set_time(&f->rtc, T0 * NS_PER_SEC);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    rtc_release(&f->rtc);
    bench_release(&f->b);
    free(f);
    return 0;
}

static u8 rd(struct fixture *f, u8 reg)
{
    out8(&f->b, 0x70, reg);
    return in8(&f->b, 0x71);
}

static void wr(struct fixture *f, u8 reg, u8 value)
{
    out8(&f->b, 0x70, reg);
    out8(&f->b, 0x71, value);
}

/* century, year, month, day, weekday, hour, minute, second as they stand in the registers */
static void assert_time(struct fixture *f, const u8 expect[8])
{
    static const u8 regs[8] = {0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00};

    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(rd(f, regs[i]), expect[i]);
}

#define ASSERT_TIME(f, ...) assert_time(f, (const u8[8]){__VA_ARGS__})

static void starts_with_the_wall_time_in_bcd_24h(void **state)
{
    struct fixture *f = *state;
    struct rtc other;
    u64 before = clock_wall_ns() / NS_PER_SEC, after;
    i64 seconds;

    rtc_release(&f->rtc);
    assert_int_equal(rtc_init(&other, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 8), NULL), 0);
    after = clock_wall_ns() / NS_PER_SEC;
    seconds = other.base_s + ((i64)vclock_ns(&f->b.clock) - other.base_ns) / (i64)NS_PER_SEC;
    assert_in_range(seconds, before, after);
    assert_int_equal(rd(f, 0x0b), 0x02);
    rtc_release(&other);
    assert_int_equal(rtc_init(&f->rtc, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 8), NULL), 0);
}

static void time_advances_over_a_leap_day(void **state)
{
    struct fixture *f = *state;

    ASSERT_TIME(f, 0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    ASSERT_TIME(f, 0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00);
    bench_run(&f->b, 86400 * NS_PER_SEC, 86400 * NS_PER_SEC);
    ASSERT_TIME(f, 0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00);
}

static void formats_follow_register_b(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x06);
    ASSERT_TIME(f, 20, 24, 2, 28, 4, 23, 59, 59);
    wr(f, 0x0b, 0x00); /* BCD, 12 hours */
    assert_int_equal(rd(f, 0x04), 0x91);
    wr(f, 0x0b, 0x04);
    assert_int_equal(rd(f, 0x04), 0x8b);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(rd(f, 0x04), 12); /* midnight is 12 AM */
    bench_run(&f->b, 12 * 3600 * NS_PER_SEC, 3600 * NS_PER_SEC);
    assert_int_equal(rd(f, 0x04), 0x80 | 12);
}

static void every_month_has_its_length(void **state)
{
    static const u8 lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct fixture *f = *state;
    u64 day = 1672531200ull; /* 2023-01-01 */

    wr(f, 0x0b, 0x06);
    for (unsigned m = 0; m < 12; m++) {
        rtc_set_time(&f->rtc, day * NS_PER_SEC);
        assert_int_equal(rd(f, 0x08), m + 1);
        assert_int_equal(rd(f, 0x07), 1);
        rtc_set_time(&f->rtc, (day + 86400ull * (lengths[m] - 1)) * NS_PER_SEC);
        assert_int_equal(rd(f, 0x08), m + 1);
        assert_int_equal(rd(f, 0x07), lengths[m]);
        day += 86400ull * lengths[m];
    }
}

static void set_time(struct fixture *f, u8 century, u8 year, u8 month, u8 day, u8 hour, u8 minute, u8 second)
{
    wr(f, 0x0b, rd(f, 0x0b) | 0x80);
    wr(f, 0x32, century);
    wr(f, 0x09, year);
    wr(f, 0x08, month);
    wr(f, 0x07, day);
    wr(f, 0x04, hour);
    wr(f, 0x02, minute);
    wr(f, 0x00, second);
    wr(f, 0x0b, rd(f, 0x0b) & ~0x80);
}

static void set_stops_the_registers_and_takes_what_was_written(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x82);
    bench_run(&f->b, 5 * NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(rd(f, 0x00), 0x59);
    wr(f, 0x0b, 0x02);
    set_time(f, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    bench_run(&f->b, 3 * NS_PER_SEC, NS_PER_SEC);
    ASSERT_TIME(f, 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x01);
}

static void nonsense_in_the_time_registers_is_harmless(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        for (unsigned mode = 0; mode < 8; mode += 2) {
            wr(f, 0x0b, 0x80 | mode);
            for (u8 reg = 0; reg < 10; reg++)
                wr(f, reg, v);
            wr(f, 0x32, v);
            wr(f, 0x0b, 0x70 | mode);
            bench_run(&f->b, 2 * NS_PER_SEC, NS_PER_SEC);
            rd(f, 0x0c);
        }
    }
    wr(f, 0x0b, 0x06);
    assert_in_range(rd(f, 0x08), 1, 12);
    assert_in_range(rd(f, 0x07), 1, 31);
}

static void a_write_without_set_keeps_the_rest(void **state)
{
    struct fixture *f = *state;

    bench_run(&f->b, 300 * MS, 300 * MS);
    wr(f, 0x02, 0x10);
    ASSERT_TIME(f, 0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x10, 0x59);
    bench_run(&f->b, 600 * MS, 600 * MS);
    assert_int_equal(rd(f, 0x00), 0x59);
    bench_run(&f->b, 200 * MS, 200 * MS);
    assert_int_equal(rd(f, 0x00), 0x00);
    assert_int_equal(rd(f, 0x02), 0x11);
}

static void divider_reset_starts_the_next_second_after_half_a_second(void **state)
{
    struct fixture *f = *state;

    bench_run(&f->b, 900 * MS, 900 * MS);
    wr(f, 0x0a, 0x76);
    bench_run(&f->b, 5 * NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(rd(f, 0x00), 0x59);
    wr(f, 0x0a, 0x26);
    bench_run(&f->b, 490 * MS, 490 * MS);
    assert_int_equal(rd(f, 0x00), 0x59);
    bench_run(&f->b, 20 * MS, 20 * MS);
    assert_int_equal(rd(f, 0x00), 0x00);
}

static void uip_warns_244_us_before_the_second(void **state)
{
    struct fixture *f = *state;

    bench_run(&f->b, NS_PER_SEC - 250 * US, NS_PER_SEC);
    assert_int_equal(rd(f, 0x0a), 0x26);
    bench_run(&f->b, 10 * US, 10 * US);
    assert_int_equal(rd(f, 0x0a), 0xa6);
    assert_int_equal(rd(f, 0x00), 0x59);
    bench_run(&f->b, 250 * US, 250 * US);
    assert_int_equal(rd(f, 0x0a), 0x26);
    assert_int_equal(rd(f, 0x00), 0x00);
}

static void uip_cannot_be_written(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0a, 0xa6);
    assert_int_equal(rd(f, 0x0a), 0x26);
}

static void update_interrupt_comes_every_second(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x12);
    for (unsigned i = 1; i <= 5; i++) {
        bench_run(&f->b, NS_PER_SEC, 100 * MS);
        assert_int_equal(f->b.rises[8], i);
        assert_int_equal(rd(f, 0x0c) & 0x90, 0x90);
        assert_false(f->b.level[8]);
        assert_int_equal(rd(f, 0x0c), 0x00);
    }
}

static void update_flag_is_set_without_its_interrupt(void **state)
{
    struct fixture *f = *state;

    rd(f, 0x0c);
    bench_run(&f->b, 2 * NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(rd(f, 0x0c) & 0x90, 0x10);
    assert_int_equal(f->b.rises[8], 0);
}

static void enabling_an_interrupt_whose_flag_is_set_raises_it(void **state)
{
    struct fixture *f = *state;

    rd(f, 0x0c);
    bench_run(&f->b, 2 * NS_PER_SEC, NS_PER_SEC);
    wr(f, 0x0b, 0x12);
    assert_true(f->b.level[8]);
}

static void interrupt_stays_until_c_is_read(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x12);
    bench_run(&f->b, 5 * NS_PER_SEC, 100 * MS);
    assert_int_equal(f->b.rises[8], 1);
    assert_true(f->b.level[8]);
}

static void periodic_rates_are_those_of_the_table(void **state)
{
    struct fixture *f = *state;

    for (unsigned rate = 3; rate < 16; rate++) {
        unsigned hz = 32768u >> (rate - 1), seen = 0;

        wr(f, 0x0b, 0x02);
        wr(f, 0x0a, 0x20 | rate);
        rd(f, 0x0c);
        wr(f, 0x0b, 0x42);
        for (unsigned i = 0; i < 20000; i++) {
            bench_run(&f->b, 50 * US, 50 * US);
            if (f->b.level[8])
                seen += (rd(f, 0x0c) & 0x40) != 0;
        }
        assert_in_range(seen, hz - 1, hz + 1);
    }
}

static void rate_zero_is_off_and_1_and_2_are_256_and_128_hz(void **state)
{
    static const unsigned hz[] = {0, 256, 128};
    struct fixture *f = *state;

    for (unsigned rate = 0; rate < 3; rate++) {
        unsigned seen = 0;

        wr(f, 0x0a, 0x20 | rate);
        rd(f, 0x0c);
        for (unsigned i = 0; i < 1000; i++) {
            bench_run(&f->b, MS, MS);
            seen += (rd(f, 0x0c) & 0x40) != 0;
        }
        assert_in_range(seen, hz[rate] - !!hz[rate], hz[rate] + 1);
    }
}

static void alarm_comes_at_its_time_only(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x01, 0x05);
    wr(f, 0x03, 0x01);
    wr(f, 0x05, 0x00);
    rd(f, 0x0c);
    wr(f, 0x0b, 0x22);
    bench_run(&f->b, 65 * NS_PER_SEC, NS_PER_SEC); /* 00:01:04 */
    assert_int_equal(f->b.rises[8], 0);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 1);
    assert_int_equal(rd(f, 0x0c) & 0xa0, 0xa0);
    bench_run(&f->b, 86400 * NS_PER_SEC - NS_PER_SEC, 3600 * NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 1);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 2);
}

static void alarm_with_wildcards_repeats(void **state)
{
    struct fixture *f = *state;
    unsigned seen = 0;

    wr(f, 0x01, 0x30);
    wr(f, 0x03, 0xff);
    wr(f, 0x05, 0xc0);
    rd(f, 0x0c);
    wr(f, 0x0b, 0x22);
    for (unsigned i = 0; i < 600; i++) {
        bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
        seen += (rd(f, 0x0c) & 0x20) != 0;
    }
    assert_int_equal(seen, 10);
}

static void alarm_in_12_hour_mode(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x00);
    wr(f, 0x01, 0x00);
    wr(f, 0x03, 0x00);
    wr(f, 0x05, 0x81); /* 1 PM */
    rd(f, 0x0c);
    wr(f, 0x0b, 0x20);
    bench_run(&f->b, 13 * 3600 * NS_PER_SEC, 60 * NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 0);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 1);
}

static void impossible_alarm_never_comes(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x01, 0x75);
    wr(f, 0x03, 0xff);
    wr(f, 0x05, 0xff);
    wr(f, 0x0b, 0x22);
    bench_run(&f->b, 3 * 86400 * NS_PER_SEC, 3600 * NS_PER_SEC);
    assert_int_equal(f->b.rises[8], 0);
}

static void set_clears_uie_and_stops_updates(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x0b, 0x12);
    wr(f, 0x0b, 0x92);
    assert_int_equal(rd(f, 0x0b), 0x82);
    rd(f, 0x0c);
    bench_run(&f->b, 5 * NS_PER_SEC, NS_PER_SEC);
    assert_int_equal(rd(f, 0x0c) & 0x10, 0);
}

static void c_and_d_are_read_only(void **state)
{
    struct fixture *f = *state;

    rd(f, 0x0c);
    wr(f, 0x0c, 0xff);
    wr(f, 0x0d, 0x00);
    assert_int_equal(rd(f, 0x0c), 0x00);
    assert_int_equal(rd(f, 0x0d), 0x80);
}

static void nvram_keeps_bytes_in_both_banks(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0x0e; i < 0x80; i++)
        if (i != RTC_CENTURY)
            wr(f, i, i ^ 0x55);
    for (unsigned i = 0; i < 0x80; i++) {
        out8(&f->b, 0x72, i);
        assert_int_equal(in8(&f->b, 0x72), i);
        out8(&f->b, 0x73, i ^ 0xaa);
    }
    f->rtc.dev.reset(&f->rtc.dev);
    for (unsigned i = 0x0e; i < 0x80; i++)
        if (i != RTC_CENTURY)
            assert_int_equal(rd(f, i), i ^ 0x55);
    for (unsigned i = 0; i < 0x80; i++) {
        out8(&f->b, 0x72, i);
        assert_int_equal(in8(&f->b, 0x73), i ^ 0xaa);
    }
}

static void nmi_bit_of_the_index_is_ignored(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x80 | 0x40, 0x12);
    assert_int_equal(rd(f, 0x40), 0x12);
    assert_int_equal(in8(&f->b, 0x70), 0xff);
}

static void memory_size_bytes(void **state)
{
    struct fixture *f = *state;

    rtc_set_memory_size(&f->rtc, 3ull << 30, 5ull << 30);
    assert_int_equal(rd(f, 0x15) | rd(f, 0x16) << 8, 640);
    assert_int_equal(rd(f, 0x17) | rd(f, 0x18) << 8, 0xffff);
    assert_int_equal(rd(f, 0x30) | rd(f, 0x31) << 8, 0xffff);
    assert_int_equal(rd(f, 0x34) | rd(f, 0x35) << 8, ((3ull << 30) - (16 << 20)) >> 16);
    assert_int_equal(rd(f, 0x5b) | rd(f, 0x5c) << 8 | rd(f, 0x5d) << 16, (5ull << 30) >> 16);
    rtc_set_memory_size(&f->rtc, 8ull << 20, 0);
    assert_int_equal(rd(f, 0x17) | rd(f, 0x18) << 8, 7168);
    assert_int_equal(rd(f, 0x34) | rd(f, 0x35) << 8, 0);
}

static void reset_keeps_the_time_the_guest_set(void **state)
{
    struct fixture *f = *state;

    set_time(f, 0x20, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06);
    wr(f, 0x0b, 0x72);
    f->rtc.dev.reset(&f->rtc.dev);
    assert_int_equal(rd(f, 0x0b), 0x02);
    ASSERT_TIME(f, 0x20, 0x01, 0x02, 0x03, 7, 0x04, 0x05, 0x06);
}

static void muted_clock_does_not_interrupt(void **state)
{
    struct fixture *f = *state;

    rtc_set_muted(&f->rtc, true);
    wr(f, 0x0b, 0x12);
    bench_run(&f->b, 2 * NS_PER_SEC, NS_PER_SEC);
    assert_false(f->b.level[8]);
    rtc_set_muted(&f->rtc, false);
    assert_true(f->b.level[8]);
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x40, 0x99);
    wr(f, 0x0b, 0x12);
    bench_run(&f->b, 400 * MS, 400 * MS);
    bench_round_trip(&f->rtc.dev);
    assert_int_equal(rd(f, 0x40), 0x99);
    ASSERT_TIME(f, 0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59);
    assert_int_equal(f->b.rises[8], 0);
    bench_run(&f->b, 700 * MS, 100 * MS);
    assert_int_equal(f->b.rises[8], 1);
}

static void load_rejects_a_time_out_of_range(void **state)
{
    struct fixture *f = *state;
    struct state_buf buf = {0};

    f->rtc.base_s = INT64_MAX;
    assert_int_equal(state_save(&buf, f->rtc.dev.state, 0, &f->rtc, NULL), 0);
    assert_int_not_equal(state_load(&buf, f->rtc.dev.state, 0, &f->rtc, NULL), 0);
    state_buf_release(&buf);
    rtc_set_time(&f->rtc, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(starts_with_the_wall_time_in_bcd_24h),
        TEST(time_advances_over_a_leap_day),
        TEST(formats_follow_register_b),
        TEST(every_month_has_its_length),
        TEST(set_stops_the_registers_and_takes_what_was_written),
        TEST(nonsense_in_the_time_registers_is_harmless),
        TEST(a_write_without_set_keeps_the_rest),
        TEST(divider_reset_starts_the_next_second_after_half_a_second),
        TEST(uip_warns_244_us_before_the_second),
        TEST(uip_cannot_be_written),
        TEST(update_interrupt_comes_every_second),
        TEST(update_flag_is_set_without_its_interrupt),
        TEST(enabling_an_interrupt_whose_flag_is_set_raises_it),
        TEST(interrupt_stays_until_c_is_read),
        TEST(periodic_rates_are_those_of_the_table),
        TEST(rate_zero_is_off_and_1_and_2_are_256_and_128_hz),
        TEST(alarm_comes_at_its_time_only),
        TEST(alarm_with_wildcards_repeats),
        TEST(alarm_in_12_hour_mode),
        TEST(impossible_alarm_never_comes),
        TEST(set_clears_uie_and_stops_updates),
        TEST(c_and_d_are_read_only),
        TEST(nvram_keeps_bytes_in_both_banks),
        TEST(nmi_bit_of_the_index_is_ignored),
        TEST(memory_size_bytes),
        TEST(reset_keeps_the_time_the_guest_set),
        TEST(muted_clock_does_not_interrupt),
        TEST(state_survives_save_and_load),
        TEST(load_rejects_a_time_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
