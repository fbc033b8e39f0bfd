/* The timer of the local APIC: one-shot, periodic, TSC deadline (SDM vol. 3, "APIC Timer"). */
#include "apic-fixture.h"

/* --- timer --- */

static void one_shot_counts_at_the_divided_bus_clock(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0xec);
    apic_write(a, APIC_TIMER_DIVIDE, 0x3); /* by 16 */
    apic_write(a, APIC_TIMER_INITIAL, 1000);
    assert_int_equal(apic_read(a, APIC_TIMER_CURRENT), 1000);
    advance(t, 8000);
    assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 499, 501);
    assert_false(t->requested[0]);
    advance(t, 8001);
    assert_int_equal(apic_read(a, APIC_TIMER_CURRENT), 0);
    assert_int_equal(apic_ack(a), 0xec);
    eoi(a);
    advance(t, 100000);
    assert_false(t->requested[0]);
}

static void divide_values(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);
    static const u8 config[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa};

    for (unsigned n = 0; n < 8; n++) {
        apic_write(a, APIC_TIMER_INITIAL, 0);
        apic_write(a, APIC_TIMER_DIVIDE, config[n]);
        apic_write(a, APIC_TIMER_INITIAL, 100000);
        advance(t, 1000ull << n);
        assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 98999, 99001);
    }
}

static void reserved_divide_bits_are_dropped(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_TIMER_DIVIDE, 0xffffffff);
    assert_int_equal(apic_read(cpu(t, 0), APIC_TIMER_DIVIDE), 0xb);
}

static void changing_the_divider_keeps_the_count(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TIMER_DIVIDE, 0xb);
    apic_write(a, APIC_TIMER_INITIAL, 100000);
    advance(t, 50000);
    apic_write(a, APIC_TIMER_DIVIDE, 0x0); /* by 2 */
    assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 49999, 50001);
    advance(t, 50000);
    assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 24998, 25002);
}

static void masked_timer_counts_silently(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x100ec);
    apic_write(a, APIC_TIMER_DIVIDE, 0xb);
    apic_write(a, APIC_TIMER_INITIAL, 50000);
    advance(t, 60000);
    assert_int_equal(apic_read(a, APIC_TIMER_CURRENT), 0);
    assert_false(t->requested[0]);
}

static void initial_count_zero_stops(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0xec);
    apic_write(a, APIC_TIMER_INITIAL, 50000);
    apic_write(a, APIC_TIMER_INITIAL, 0);
    assert_int_equal(apic_read(a, APIC_TIMER_CURRENT), 0);
    advance(t, 200000);
    assert_false(t->requested[0]);
}

static void periodic_keeps_its_phase(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TIMER_DIVIDE, 0xb);
    apic_write(a, APIC_LVT_TIMER, 0x200ec);
    apic_write(a, APIC_TIMER_INITIAL, 1000000);
    for (unsigned n = 0; n < 5; n++) {
        advance(t, 1000010); /* a little late each time */
        assert_int_equal(apic_ack(a), 0xec);
        eoi(a);
        assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 999940 - 1, 1000000);
    }
    advance(t, 900000);
    assert_false(t->requested[0]);
    advance(t, 100000);
    assert_true(t->requested[0]);
}

static void tiny_period_does_not_storm(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);
    unsigned ticks = 0;

    apic_write(a, APIC_TIMER_DIVIDE, 0xb);
    apic_write(a, APIC_LVT_TIMER, 0x200ec);
    apic_write(a, APIC_TIMER_INITIAL, 1);
    for (unsigned n = 0; n < 1000; n++) {
        advance(t, 1000);
        if (t->requested[0]) {
            ticks++;
            apic_ack(a);
            eoi(a);
        }
        assert_in_range(apic_read(a, APIC_TIMER_CURRENT), 0, 1);
    }
    assert_in_range(ticks, 1, 1000000 / APIC_MIN_PERIOD_NS + 1);
}

static void missed_periods_are_one_interrupt(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TIMER_DIVIDE, 0xb);
    apic_write(a, APIC_LVT_TIMER, 0x200ec);
    apic_write(a, APIC_TIMER_INITIAL, 100000);
    advance(t, 10 * NS_PER_SEC);
    assert_int_equal(apic_ack(a), 0xec);
    eoi(a);
    assert_int_equal(apic_ack(a), -1);
    advance(t, 120000);
    assert_int_equal(apic_ack(a), 0xec);
}

static void tsc_deadline_fires_when_the_guest_tsc_reaches_it(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);
    u64 now;

    t->tsc_offset = -123456789;
    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    now = vclock_tsc(&t->clock) + (u64)t->tsc_offset;
    assert_int_equal(apic_msr_write(a, MSR_DEADLINE, now + clock_ns_to_tsc(50000)), 0);
    assert_int_equal(msr(a, MSR_DEADLINE), now + clock_ns_to_tsc(50000));
    assert_int_equal(apic_read(a, APIC_TIMER_CURRENT), 0);
    advance(t, 49000);
    assert_false(t->requested[0]);
    advance(t, 1010);
    assert_int_equal(apic_ack(a), 0xec);
    assert_int_equal(msr(a, MSR_DEADLINE), 0);
}

static void past_deadline_fires_at_once(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, 1);
    assert_int_equal(apic_ack(a), 0xec);
}

static void deadline_zero_disarms(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, vclock_tsc(&t->clock) + clock_ns_to_tsc(50000));
    apic_msr_write(a, MSR_DEADLINE, 0);
    advance(t, 100000);
    assert_false(t->requested[0]);
}

static void deadline_outside_its_mode_is_ignored(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0xec);
    assert_int_equal(apic_msr_write(a, MSR_DEADLINE, 1), 0);
    assert_int_equal(msr(a, MSR_DEADLINE), 0);
    assert_false(t->requested[0]);
    /* and the other way round */
    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_write(a, APIC_TIMER_INITIAL, 1000);
    assert_int_equal(apic_read(a, APIC_TIMER_INITIAL), 0);
}

static void leaving_deadline_mode_disarms(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, vclock_tsc(&t->clock) + clock_ns_to_tsc(50000));
    apic_write(a, APIC_LVT_TIMER, 0xec);
    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    assert_int_equal(msr(a, MSR_DEADLINE), 0);
    advance(t, 100000);
    assert_false(t->requested[0]);
}

static void deadline_follows_a_changed_tsc(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, vclock_tsc(&t->clock) + clock_ns_to_tsc(NS_PER_SEC));
    t->tsc_offset = (i64)clock_ns_to_tsc(2 * NS_PER_SEC);
    apic_tsc_changed(a);
    assert_true(t->requested[0]);
}

static void deadline_beyond_all_time_never_fires(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, ~0ull);
    for (unsigned n = 0; n < 10; n++)
        advance(t, 5000 * NS_PER_SEC);
    assert_false(t->requested[0]);
    assert_int_equal(msr(a, MSR_DEADLINE), ~0ull);
}

static void loaded_deadline_fires(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);
    struct state_buf b = {0};

    apic_write(a, APIC_LVT_TIMER, 0x400ec);
    apic_msr_write(a, MSR_DEADLINE, vclock_tsc(&t->clock) + clock_ns_to_tsc(50000));
    assert_int_equal(state_save(&b, a->dev.state, 0, a, NULL), 0);
    apic_reset(a, false);
    assert_int_equal(state_load(&b, a->dev.state, 0, a, NULL), 0);
    advance(t, 10000);
    assert_false(t->requested[0]);
    advance(t, 41000);
    assert_true(t->requested[0]);
    state_buf_release(&b);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_shot_counts_at_the_divided_bus_clock),
        T(divide_values),
        T(reserved_divide_bits_are_dropped),
        T(changing_the_divider_keeps_the_count),
        T(masked_timer_counts_silently),
        T(initial_count_zero_stops),
        T(periodic_keeps_its_phase),
        T(tiny_period_does_not_storm),
        T(missed_periods_are_one_interrupt),
        T(tsc_deadline_fires_when_the_guest_tsc_reaches_it),
        T(past_deadline_fires_at_once),
        T(deadline_zero_disarms),
        T(deadline_outside_its_mode_is_ignored),
        T(leaving_deadline_mode_disarms),
        T(deadline_follows_a_changed_tsc),
        T(deadline_beyond_all_time_never_fires),
        T(loaded_deadline_fires),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
