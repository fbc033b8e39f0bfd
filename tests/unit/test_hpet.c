/* The high precision event timers. One tick is 10 ns. */
#include "device.h"

#include "hw/hpet.h"

#define TICK HPET_PERIOD_NS
#define ROUTE 20

enum { ID = 0x000, CONFIG = 0x010, STATUS = 0x020, COUNTER = 0x0f0 };
enum {
    LEVEL = 0x002,
    INT = 0x004,
    PERIODIC = 0x008,
    SET_VALUE = 0x040,
    BITS_32 = 0x100,
    ROUTED = ROUTE << 9
};

struct fixture {
    struct bench b;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    bench_jump(&f->b, MS);
    assert_int_equal(pit_init(&f->pit, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 30), NULL), 0);
    assert_int_equal(rtc_init(&f->rtc, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 31), NULL), 0);
    assert_int_equal(hpet_init(&f->hpet, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, 0), &f->pit,
                               &f->rtc, NULL),
                     0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    hpet_release(&f->hpet);
    rtc_release(&f->rtc);
    pit_release(&f->pit);
    bench_release(&f->b);
    free(f);
    return 0;
}

static u64 rd(struct fixture *f, unsigned reg)
{
    return memory_mmio_read(&f->b.memory, HPET_BASE + reg, 8);
}
static u32 rd32(struct fixture *f, unsigned reg)
{
    return memory_mmio_read(&f->b.memory, HPET_BASE + reg, 4);
}
static void wr(struct fixture *f, unsigned reg, u64 v)
{
    memory_mmio_write(&f->b.memory, HPET_BASE + reg, v, 8);
}
static void wr32(struct fixture *f, unsigned reg, u32 v)
{
    memory_mmio_write(&f->b.memory, HPET_BASE + reg, v, 4);
}
static unsigned config_of(unsigned n)
{
    return 0x100 + n * 0x20;
}
static unsigned comparator_of(unsigned n)
{
    return 0x108 + n * 0x20;
}

static void capabilities(void **state)
{
    struct fixture *f = *state;
    u64 id = rd(f, ID);

    assert_int_equal(id >> 32, 10000000);  /* fs */
    assert_int_equal(id & 0xffff, 0xa201); /* legacy, 64 bits, three timers, revision 1 */
    assert_int_equal(rd32(f, ID + 4), 10000000);
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        assert_int_equal(rd(f, config_of(n)), (u64)HPET_ROUTES << 32 | 0x30);
    assert_int_equal(rd(f, config_of(HPET_TIMERS)), 0);
    assert_int_equal(rd(f, comparator_of(1)), ~0ull);
}

static void counter_stands_until_enabled(void **state)
{
    struct fixture *f = *state;

    bench_run(&f->b, MS, MS);
    assert_int_equal(rd(f, COUNTER), 0);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    assert_int_equal(rd(f, COUNTER), MS / TICK);
    wr(f, CONFIG, 0);
    bench_run(&f->b, MS, MS);
    assert_int_equal(rd(f, COUNTER), MS / TICK);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    assert_int_equal(rd(f, COUNTER), 2 * MS / TICK);
}

static void counter_is_64_bits_and_writable_by_halves(void **state)
{
    struct fixture *f = *state;

    wr32(f, COUNTER, 0xffffff00);
    wr32(f, COUNTER + 4, 0x12345678);
    assert_int_equal(rd(f, COUNTER), 0x12345678ffffff00ull);
    wr(f, CONFIG, 1);
    bench_run(&f->b, 0x200 * TICK, MS);
    assert_int_equal(rd(f, COUNTER), 0x1234567900000100ull);
    assert_int_equal(rd32(f, COUNTER), 0x100);
    assert_int_equal(rd32(f, COUNTER + 4), 0x12345679);
}

static void one_shot_interrupts_once(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(2), INT | ROUTED);
    wr(f, comparator_of(2), 100000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS - TICK, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 0);
    bench_run(&f->b, TICK, TICK);
    assert_int_equal(f->b.rises[ROUTE], 1);
    bench_run(&f->b, 10 * MS, MS);
    assert_int_equal(f->b.rises[ROUTE], 1);
    assert_int_equal(rd(f, STATUS), 0); /* edge: no status */
    wr(f, comparator_of(2), rd(f, COUNTER) + 1000);
    bench_run(&f->b, 10 * US, US);
    assert_int_equal(f->b.rises[ROUTE], 2);
}

static void comparator_in_the_past_does_not_interrupt(void **state)
{
    struct fixture *f = *state;

    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    wr(f, config_of(2), INT | ROUTED);
    wr(f, comparator_of(2), 100);
    bench_run(&f->b, NS_PER_SEC, 100 * MS);
    assert_int_equal(f->b.rises[ROUTE], 0);
}

static void one_shot_of_32_bits_comes_again_with_each_wrap(void **state)
{
    struct fixture *f = *state;
    u64 wrap = (1ull << 32) * TICK;

    wr(f, config_of(2), INT | ROUTED | BITS_32);
    wr(f, comparator_of(2), 0xabcdef0000001000ull);
    assert_int_equal(rd(f, comparator_of(2)), 0x1000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    assert_int_equal(f->b.rises[ROUTE], 1);
    bench_run(&f->b, wrap, NS_PER_SEC);
    assert_int_equal(f->b.rises[ROUTE], 2);
}

static void periodic_interrupts_each_period(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(0), INT | ROUTED | PERIODIC | SET_VALUE);
    wr(f, comparator_of(0), 50000);
    wr(f, comparator_of(0), 100000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, 500 * US - TICK, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 0);
    bench_run(&f->b, TICK, TICK);
    assert_int_equal(f->b.rises[ROUTE], 1);
    bench_run(&f->b, 100 * MS, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 101);
    assert_int_equal(rd(f, comparator_of(0)), 50000 + 101 * 100000);
}

static void set_value_clears_itself(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(0), PERIODIC | SET_VALUE);
    wr(f, comparator_of(0), 777);
    assert_int_equal(rd32(f, config_of(0)) & SET_VALUE, 0);
    assert_int_equal(rd(f, comparator_of(0)), 777);
    wr(f, comparator_of(0), 888); /* the period only */
    assert_int_equal(rd(f, comparator_of(0)), 777);
}

/* As Linux sets up its periodic clock event device: 32 bits, counter running, both writes. */
static void periodic_while_running(void **state)
{
    struct fixture *f = *state;
    u32 now;

    wr32(f, CONFIG, 1);
    bench_run(&f->b, 3 * MS, MS);
    now = rd32(f, COUNTER);
    wr32(f, config_of(0), INT | ROUTED | PERIODIC | SET_VALUE | BITS_32);
    wr32(f, comparator_of(0), now + 400000);
    bench_run(&f->b, US, US);
    wr32(f, comparator_of(0), 400000);
    bench_run(&f->b, 40 * MS, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 10);
}

static void late_host_merges_periods_and_keeps_the_phase(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(0), INT | ROUTED | PERIODIC | SET_VALUE);
    wr(f, comparator_of(0), 100000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, 10 * MS + 500 * US, 20 * MS);
    assert_int_equal(f->b.rises[ROUTE], 1);
    assert_int_equal(rd(f, comparator_of(0)), 11 * 100000);
    bench_run(&f->b, 499 * US, MS);
    assert_int_equal(f->b.rises[ROUTE], 1);
    bench_run(&f->b, US, US);
    assert_int_equal(f->b.rises[ROUTE], 2);
}

static void shortest_periods_are_merged(void **state)
{
    struct fixture *f = *state;

    for (unsigned period = 0; period <= 2; period++) {
        f->b.rises[ROUTE] = 0;
        wr(f, config_of(0), INT | ROUTED | PERIODIC | SET_VALUE);
        wr(f, comparator_of(0), rd(f, COUNTER) + 1);
        wr(f, comparator_of(0), period);
        wr(f, CONFIG, 1);
        bench_run(&f->b, MS, US);
        assert_in_range(f->b.rises[ROUTE], period ? 40 : 1, MS / HPET_MIN_PERIOD_NS + 1);
    }
}

static void short_one_shots_are_not_lost(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(2), INT | ROUTED);
    wr(f, CONFIG, 1);
    for (unsigned i = 1; i <= 20; i++) {
        wr(f, comparator_of(2), rd(f, COUNTER) + 100);
        bench_run(&f->b, 30 * US, US);
        assert_int_equal(f->b.rises[ROUTE], i);
    }
}

static void level_interrupt_stays_until_its_status_is_cleared(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(1), INT | LEVEL | ROUTED);
    wr(f, comparator_of(1), 1000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    assert_true(f->b.level[ROUTE]);
    assert_int_equal(rd(f, STATUS), 2);
    wr(f, STATUS, 1);
    assert_true(f->b.level[ROUTE]);
    wr(f, STATUS, 2);
    assert_false(f->b.level[ROUTE]);
    assert_int_equal(rd(f, STATUS), 0);
}

static void status_is_set_with_the_interrupt_disabled(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(1), LEVEL | ROUTED);
    wr(f, comparator_of(1), 1000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    assert_int_equal(rd(f, STATUS), 2);
    assert_false(f->b.level[ROUTE]);
    wr(f, config_of(1), INT | LEVEL | ROUTED);
    assert_true(f->b.level[ROUTE]);
}

static void disabling_the_block_drops_level_interrupts(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(1), INT | LEVEL | ROUTED);
    wr(f, comparator_of(1), 1000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    wr(f, CONFIG, 0);
    assert_false(f->b.level[ROUTE]);
}

static void legacy_routing_replaces_pit_and_rtc(void **state)
{
    struct fixture *f = *state;

    wr(f, CONFIG, 3);
    assert_true(f->pit.muted);
    assert_true(f->rtc.muted);
    wr(f, config_of(0), INT | ROUTED);
    wr(f, config_of(1), INT | ROUTED);
    wr(f, config_of(2), INT | ROUTED);
    wr(f, comparator_of(0), rd(f, COUNTER) + 10000);
    wr(f, comparator_of(1), rd(f, COUNTER) + 20000);
    wr(f, comparator_of(2), rd(f, COUNTER) + 30000);
    bench_run(&f->b, 110 * US, 10 * US);
    assert_int_equal(f->b.rises[0], 1);
    assert_int_equal(f->b.rises[8], 0);
    bench_run(&f->b, 100 * US, 10 * US);
    assert_int_equal(f->b.rises[8], 1);
    assert_int_equal(f->b.rises[ROUTE], 0);
    bench_run(&f->b, 100 * US, 10 * US);
    assert_int_equal(f->b.rises[ROUTE], 1); /* the third keeps its route */
    wr(f, CONFIG, 1);
    assert_false(f->pit.muted);
    assert_false(f->rtc.muted);
}

static void routes_not_offered_are_not_taken(void **state)
{
    struct fixture *f = *state;

    for (unsigned route = 0; route < 32; route++) {
        wr(f, config_of(2), route << 9);
        assert_int_equal(rd32(f, config_of(2)) >> 9 & 31, HPET_ROUTES >> route & 1 ? route : 0);
    }
    wr(f, config_of(2), INT | 5 << 9);
    wr(f, comparator_of(2), 1000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, MS, MS);
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(f->b.rises[i], 0);
}

static void unused_registers_read_zero(void **state)
{
    struct fixture *f = *state;

    for (unsigned reg = 0x160; reg < HPET_SIZE; reg += 8) {
        wr(f, reg, ~0ull);
        assert_int_equal(rd(f, reg), 0);
    }
    wr(f, config_of(0) + 0x10, ~0ull); /* FSB route */
    assert_int_equal(rd(f, config_of(0) + 0x10), 0);
    assert_int_equal(rd(f, config_of(0)) & 0xc000, 0);
}

static void hostile_values_end(void **state)
{
    static const u64 values[] = {0, 1, 0x7fffffff, 0xffffffff, 1ull << 32, 1ull << 63, ~0ull, ~0ull - 1};
    struct fixture *f = *state;

    for (unsigned c = 0; c < 0x200; c += 0x0e)
        for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
            for (unsigned j = 0; j < ARRAY_SIZE(values); j++) {
                wr(f, CONFIG, 0);
                wr(f, config_of(0), c | SET_VALUE | ROUTED);
                wr(f, COUNTER, values[j]);
                wr(f, comparator_of(0), values[i]);
                wr(f, comparator_of(0), values[j]);
                wr(f, CONFIG, 3);
                bench_run(&f->b, 100 * US, 50 * US);
                rd(f, comparator_of(0));
                rd(f, STATUS);
            }
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    wr(f, config_of(0), INT | ROUTED | PERIODIC | SET_VALUE);
    wr(f, comparator_of(0), 100000);
    wr(f, CONFIG, 1);
    bench_run(&f->b, 10 * MS + 500 * US, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 10);
    bench_round_trip(&f->hpet.dev);
    assert_int_equal(rd(f, COUNTER), 1050000);
    bench_run(&f->b, 10 * MS, 100 * US);
    assert_int_equal(f->b.rises[ROUTE], 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(capabilities),
        TEST(counter_stands_until_enabled),
        TEST(counter_is_64_bits_and_writable_by_halves),
        TEST(one_shot_interrupts_once),
        TEST(comparator_in_the_past_does_not_interrupt),
        TEST(one_shot_of_32_bits_comes_again_with_each_wrap),
        TEST(periodic_interrupts_each_period),
        TEST(set_value_clears_itself),
        TEST(periodic_while_running),
        TEST(late_host_merges_periods_and_keeps_the_phase),
        TEST(shortest_periods_are_merged),
        TEST(short_one_shots_are_not_lost),
        TEST(level_interrupt_stays_until_its_status_is_cleared),
        TEST(status_is_set_with_the_interrupt_disabled),
        TEST(disabling_the_block_drops_level_interrupts),
        TEST(legacy_routing_replaces_pit_and_rtc),
        TEST(routes_not_offered_are_not_taken),
        TEST(unused_registers_read_zero),
        TEST(hostile_values_end),
        TEST(state_survives_save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
