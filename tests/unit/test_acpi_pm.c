/* ACPI fixed hardware and the ports that reset, stop or report the end of a machine. */
#include "device.h"

#include "hw/acpi-pm.h"
#include "hw/isa-debug-exit.h"
#include "hw/port92.h"
#include "hw/pvpanic.h"
#include "hw/reset-port.h"

#define STATUS (ACPI_PM_BASE + ACPI_PM1_EVENT)
#define ENABLE (STATUS + 2)
#define CONTROL (ACPI_PM_BASE + ACPI_PM1_CONTROL)
#define TIMER (ACPI_PM_BASE + ACPI_PM_TIMER)
#define GPE_STATUS (ACPI_PM_BASE + ACPI_PM_GPE0)
#define GPE_ENABLE (GPE_STATUS + 2)
#define SCI 9

struct fixture {
    struct bench b;
    struct acpi_pm pm;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    assert_int_equal(acpi_pm_init(&f->pm, &f->b.memory, f->b.loop, &f->b.clock, bench_line(&f->b, SCI),
                                  &f->b.lifecycle, NULL),
                     0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    acpi_pm_release(&f->pm);
    bench_release(&f->b);
    free(f);
    return 0;
}

static void acpi_mode(struct fixture *f)
{
    out8(&f->b, ACPI_PM_SMI_COMMAND, ACPI_PM_ENABLE);
}

static void timer_counts_at_3_579545_mhz(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in32(&f->b, TIMER), 0);
    bench_jump(&f->b, NS_PER_SEC);
    assert_int_equal(in32(&f->b, TIMER), 3579545);
    bench_jump(&f->b, 1000 * NS_PER_SEC);
    assert_int_equal(in32(&f->b, TIMER), 3579545000u);
    bench_jump(&f->b, 10000 * NS_PER_SEC);
    assert_int_equal(in32(&f->b, TIMER), (u32)35795450000ull);
}

static void timer_reads_by_bytes_too(void **state)
{
    struct fixture *f = *state;

    bench_jump(&f->b, 1000 * NS_PER_SEC);
    assert_int_equal(in8(&f->b, TIMER), 3579545000u & 0xff);
    assert_int_equal(in8(&f->b, TIMER + 3), 3579545000u >> 24);
    assert_int_equal(in16(&f->b, TIMER + 1), 3579545000u >> 8 & 0xffff);
}

static void timer_ignores_writes(void **state)
{
    struct fixture *f = *state;

    bench_jump(&f->b, NS_PER_SEC);
    out32(&f->b, TIMER, 0);
    assert_int_equal(in32(&f->b, TIMER), 3579545);
}

/* 2^31 ticks are 599.93 s. */
static void timer_overflow_sets_its_status_bit(void **state)
{
    struct fixture *f = *state;

    bench_jump(&f->b, 599 * NS_PER_SEC);
    assert_int_equal(in16(&f->b, STATUS), 0);
    bench_jump(&f->b, 600 * NS_PER_SEC);
    assert_int_equal(in16(&f->b, STATUS), 1);
    out16(&f->b, STATUS, 1);
    assert_int_equal(in16(&f->b, STATUS), 0);
    bench_jump(&f->b, 1200 * NS_PER_SEC);
    assert_int_equal(in16(&f->b, STATUS), 1);
}

static void timer_overflow_raises_the_sci(void **state)
{
    struct fixture *f = *state;

    acpi_mode(f);
    out16(&f->b, ENABLE, 1);
    bench_run(&f->b, 599 * NS_PER_SEC, 100 * NS_PER_SEC);
    assert_false(f->b.level[SCI]);
    bench_run(&f->b, NS_PER_SEC, NS_PER_SEC);
    assert_true(f->b.level[SCI]);
    out16(&f->b, STATUS, 1);
    assert_false(f->b.level[SCI]);
    bench_run(&f->b, 600 * NS_PER_SEC, 600 * NS_PER_SEC);
    assert_int_equal(f->b.rises[SCI], 2);
}

static void smi_command_turns_acpi_mode_on_and_off(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in16(&f->b, CONTROL) & 1, 0);
    acpi_mode(f);
    assert_int_equal(in16(&f->b, CONTROL) & 1, 1);
    out8(&f->b, ACPI_PM_SMI_COMMAND, ACPI_PM_DISABLE);
    assert_int_equal(in16(&f->b, CONTROL) & 1, 0);
    out8(&f->b, ACPI_PM_SMI_COMMAND + 1, 0x42);
    assert_int_equal(in8(&f->b, ACPI_PM_SMI_COMMAND), ACPI_PM_DISABLE);
    assert_int_equal(in8(&f->b, ACPI_PM_SMI_COMMAND + 1), 0x42);
}

static void power_button_raises_the_sci_when_enabled(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->pm);
    assert_false(f->b.level[SCI]);
    assert_false(acpi_pm_power_button_enabled(&f->pm));
    out16(&f->b, STATUS, 0xffff);
    acpi_mode(f);
    out16(&f->b, ENABLE, 0x0100);
    assert_true(acpi_pm_power_button_enabled(&f->pm));
    acpi_pm_power_button(&f->pm);
    assert_true(f->b.level[SCI]);
    assert_int_equal(in16(&f->b, STATUS), 0x0100);
    out16(&f->b, STATUS, 0x0100);
    assert_false(f->b.level[SCI]);
}

static void sleep_button_has_its_own_bit(void **state)
{
    struct fixture *f = *state;

    acpi_mode(f);
    out16(&f->b, ENABLE, 0x0200);
    acpi_pm_sleep_button(&f->pm);
    assert_int_equal(in16(&f->b, STATUS), 0x0200);
    assert_true(f->b.level[SCI]);
}

static void status_bits_clear_one_by_one(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->pm);
    acpi_pm_sleep_button(&f->pm);
    out16(&f->b, STATUS, 0x0000);
    assert_int_equal(in16(&f->b, STATUS), 0x0300);
    out8(&f->b, STATUS + 1, 0x01);
    assert_int_equal(in16(&f->b, STATUS), 0x0200);
}

static void reserved_enable_bits_read_zero(void **state)
{
    struct fixture *f = *state;

    out16(&f->b, ENABLE, 0xffff);
    assert_int_equal(in16(&f->b, ENABLE), 0x0721);
    assert_int_equal(in32(&f->b, STATUS) >> 16, 0x0721);
}

static void s5_powers_off(void **state)
{
    struct fixture *f = *state;

    out16(&f->b, CONTROL, ACPI_PM_S5 << 10);
    assert_int_equal(f->b.requests, 0);
    out16(&f->b, CONTROL, ACPI_PM_S5 << 10 | 0x2000);
    assert_int_equal(f->b.requests, 1);
    assert_int_equal(f->b.event, LIFECYCLE_POWEROFF);
    assert_int_equal(in16(&f->b, CONTROL), ACPI_PM_S5 << 10); /* SLP_EN is write-only */
}

static void other_sleep_types_do_nothing(void **state)
{
    struct fixture *f = *state;

    for (unsigned type = 0; type < 8; type++)
        if (type != ACPI_PM_S5)
            out16(&f->b, CONTROL, type << 10 | 0x2000);
    assert_int_equal(f->b.requests, 0);
}

static void gpe_follows_its_level_and_enable(void **state)
{
    struct fixture *f = *state;

    acpi_mode(f);
    acpi_pm_set_gpe(&f->pm, 3, true);
    assert_int_equal(in16(&f->b, GPE_STATUS), 0x0008);
    assert_false(f->b.level[SCI]);
    out16(&f->b, GPE_ENABLE, 0x0008);
    assert_true(f->b.level[SCI]);
    out16(&f->b, GPE_STATUS, 0x0008); /* the level is still there */
    assert_true(f->b.level[SCI]);
    acpi_pm_set_gpe(&f->pm, 3, false);
    assert_int_equal(in16(&f->b, GPE_STATUS), 0x0008);
    out16(&f->b, GPE_STATUS, 0x0008);
    assert_int_equal(in16(&f->b, GPE_STATUS), 0);
    assert_false(f->b.level[SCI]);
}

static void unused_offsets_read_zero(void **state)
{
    struct fixture *f = *state;

    for (unsigned at = 0; at < ACPI_PM_SIZE; at++) {
        out8(&f->b, ACPI_PM_BASE + 0x0c + at % 0x14, 0xff);
        out8(&f->b, ACPI_PM_BASE + 0x24 + at % 0x1c, 0xff);
    }
    for (unsigned at = 0x0c; at < 0x20; at++)
        assert_int_equal(in8(&f->b, ACPI_PM_BASE + at), 0);
    for (unsigned at = 0x24; at < ACPI_PM_SIZE; at++)
        assert_int_equal(in8(&f->b, ACPI_PM_BASE + at), at == ACPI_PM_SMI_ENABLE ? 0x21 : 0);
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    acpi_mode(f);
    out16(&f->b, ENABLE, 0x0101);
    out16(&f->b, GPE_ENABLE, 0x1234);
    acpi_pm_power_button(&f->pm);
    bench_round_trip(&f->pm.dev);
    assert_true(f->b.level[SCI]);
    assert_int_equal(in16(&f->b, STATUS), 0x0100);
    assert_int_equal(in16(&f->b, GPE_ENABLE), 0x1234);
    out16(&f->b, STATUS, 0x0100);
    bench_run(&f->b, 600 * NS_PER_SEC, 600 * NS_PER_SEC);
    assert_true(f->b.level[SCI]);
}

/* --- the small ports --- */

static void port_cf9_resets_on_the_rise_of_bit_2(void **state)
{
    struct fixture *f = *state;
    struct reset_port p;

    reset_port_init(&p, &f->b.lifecycle);
    assert_int_equal(memory_map_pio(&f->b.memory, &p.region, RESET_PORT, NULL), 0);
    out8(&f->b, RESET_PORT, 0x02);
    assert_int_equal(f->b.requests, 0);
    assert_int_equal(in8(&f->b, RESET_PORT), 0x02);
    out8(&f->b, RESET_PORT, RESET_PORT_VALUE);
    assert_int_equal(f->b.requests, 1);
    assert_int_equal(f->b.event, LIFECYCLE_RESET);
    out8(&f->b, RESET_PORT, RESET_PORT_VALUE);
    assert_int_equal(f->b.requests, 1);
    memory_unmap(&f->b.memory, &p.region);
    reset_port_release(&p);
}

static void port_92_resets_on_the_rise_of_bit_0(void **state)
{
    struct fixture *f = *state;
    struct port92 p;

    assert_int_equal(port92_init(&p, &f->b.memory, &f->b.lifecycle, NULL), 0);
    assert_int_equal(in8(&f->b, 0x92), 0x02);
    out8(&f->b, 0x92, 0x00);
    assert_int_equal(in8(&f->b, 0x92), 0x00);
    assert_int_equal(f->b.requests, 0);
    out8(&f->b, 0x92, 0x01);
    assert_int_equal(f->b.requests, 1);
    assert_int_equal(f->b.event, LIFECYCLE_RESET);
    out8(&f->b, 0x92, 0x03);
    assert_int_equal(f->b.requests, 1);
    port92_release(&p);
}

static void debug_exit_ends_with_an_odd_status(void **state)
{
    struct fixture *f = *state;
    struct isa_debug_exit d;

    assert_int_equal(isa_debug_exit_init(&d, &f->b.memory, 0xf4, &f->b.lifecycle, NULL), 0);
    out8(&f->b, 0xf4, 0);
    assert_int_equal(f->b.event, LIFECYCLE_DEBUG_EXIT);
    assert_int_equal(f->b.code, 1);
    out32(&f->b, 0xf4, 0x10);
    assert_int_equal(f->b.code, 33);
    out16(&f->b, 0xf6, 0x31);
    assert_int_equal(f->b.code, 99);
    out32(&f->b, 0xf4, 0xffffffff);
    assert_int_equal(f->b.code, 255);
    assert_int_equal(f->b.requests, 4);
    assert_int_equal(in32(&f->b, 0xf4), 0);
    isa_debug_exit_release(&d);
}

static void debug_exit_refuses_ports_that_are_taken(void **state)
{
    struct fixture *f = *state;
    struct isa_debug_exit d;
    struct error err = {0};

    assert_int_not_equal(isa_debug_exit_init(&d, &f->b.memory, CONTROL, &f->b.lifecycle, &err), 0);
    assert_int_not_equal(err.text[0], 0);
}

static void pvpanic_tells_panic_from_crash_loaded(void **state)
{
    struct fixture *f = *state;
    struct pvpanic p;

    assert_int_equal(pvpanic_init(&p, &f->b.memory, &f->b.lifecycle, NULL), 0);
    assert_int_equal(in8(&f->b, PVPANIC_PORT), 0x03);
    out8(&f->b, PVPANIC_PORT, 0);
    assert_int_equal(f->b.requests, 0);
    out8(&f->b, PVPANIC_PORT, PVPANIC_CRASH_LOADED);
    assert_int_equal(f->b.event, LIFECYCLE_PANICKED);
    assert_int_equal(f->b.code, PVPANIC_CRASH_LOADED);
    assert_true(p.crash_loaded);
    out8(&f->b, PVPANIC_PORT, PVPANIC_PANICKED);
    assert_int_equal(f->b.code, PVPANIC_PANICKED);
    pvpanic_release(&p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(timer_counts_at_3_579545_mhz),
        TEST(timer_reads_by_bytes_too),
        TEST(timer_ignores_writes),
        TEST(timer_overflow_sets_its_status_bit),
        TEST(timer_overflow_raises_the_sci),
        TEST(smi_command_turns_acpi_mode_on_and_off),
        TEST(power_button_raises_the_sci_when_enabled),
        TEST(sleep_button_has_its_own_bit),
        TEST(status_bits_clear_one_by_one),
        TEST(reserved_enable_bits_read_zero),
        TEST(s5_powers_off),
        TEST(other_sleep_types_do_nothing),
        TEST(gpe_follows_its_level_and_enable),
        TEST(unused_offsets_read_zero),
        TEST(state_survives_save_and_load),
        TEST(port_cf9_resets_on_the_rise_of_bit_2),
        TEST(port_92_resets_on_the_rise_of_bit_0),
        TEST(debug_exit_ends_with_an_odd_status),
        TEST(debug_exit_refuses_ports_that_are_taken),
        TEST(pvpanic_tells_panic_from_crash_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
