/* Local APICs on a manual clock with processors that only note what reaches them. */
#ifndef TRAPEZE_TESTS_APIC_FIXTURE_H
#define TRAPEZE_TESTS_APIC_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "hw/apic.h"
#include "state/codec.h"

#define CPUS 4
#define MSR_BASE 0x1b
#define MSR_DEADLINE 0x6e0
#define MSR(reg) (0x800 + ((reg) >> 4))
#define BASE_DEFAULT (APIC_DEFAULT_BASE | APIC_BASE_ENABLE)
#define PV_FLAG 0x3000

struct fixture {
    struct memory memory;
    struct event_loop *loop;
    struct vclock clock;
    struct apic_set set;
    bool requested[APIC_MAX_CPUS];
    unsigned nmis[APIC_MAX_CPUS], inits[APIC_MAX_CPUS], starts[APIC_MAX_CPUS];
    u8 sipi_vector;
    i64 tsc_offset;
    unsigned eois;
    u8 eoi_vector;
    u8 pic_vector;
};

static inline void target_raise(void *owner, unsigned cpu, enum apic_signal signal)
{
    struct fixture *t = owner;

    switch (signal) {
    case APIC_SIGNAL_INTERRUPT: t->requested[cpu] = true; break;
    case APIC_SIGNAL_NMI: t->nmis[cpu]++; break;
    case APIC_SIGNAL_INIT: t->inits[cpu]++; break;
    }
}

static inline void target_lower(void *owner, unsigned cpu)
{
    ((struct fixture *)owner)->requested[cpu] = false;
}

static inline void target_start(void *owner, unsigned cpu, u8 vector)
{
    struct fixture *t = owner;

    t->starts[cpu]++;
    t->sipi_vector = vector;
}

static inline i64 target_tsc_offset(void *owner, unsigned cpu)
{
    return ((struct fixture *)owner)->tsc_offset;
}

static inline void target_eoi(void *owner, u8 vector)
{
    struct fixture *t = owner;

    t->eois++;
    t->eoi_vector = vector;
}

static inline u8 target_extint_ack(void *owner)
{
    struct fixture *t = owner;

    apic_set_lint(&t->set, 0, false);
    return t->pic_vector;
}

static const struct apic_target_ops target_ops = {
    .raise = target_raise,
    .start = target_start,
    .lower = target_lower,
    .tsc_offset = target_tsc_offset,
    .eoi = target_eoi,
    .extint_ack = target_extint_ack,
};

static inline struct apic *cpu(struct fixture *t, unsigned n)
{
    return &t->set.apic[n];
}

static inline void advance(struct fixture *t, u64 ns)
{
    vclock_set_ns(&t->clock, vclock_ns(&t->clock) + ns);
    event_loop_clock_changed(t->loop);
    event_loop_poll(t->loop, 0);
}

static inline int setup_cpus(void **state, unsigned cpus)
{
    struct fixture *t = calloc(1, sizeof *t);
    struct apic_config config = {
        .cpus = cpus, .maxphyaddr = 40, .x2apic = true, .ops = &target_ops, .owner = t};

    assert_non_null(t);
    assert_int_equal(memory_init(&t->memory, 1 << 20, NULL), 0);
    t->loop = event_loop_new(NULL);
    assert_non_null(t->loop);
    vclock_init_manual(&t->clock);
    vclock_set_ns(&t->clock, NS_PER_SEC);
    config.memory = &t->memory;
    config.loop = t->loop;
    config.clock = &t->clock;
    assert_int_equal(apic_set_init(&t->set, &config, NULL), 0);
    for (unsigned n = 0; n < cpus; n++)
        apic_write(cpu(t, n), APIC_SVR, 0x1ff);
    *state = t;
    return 0;
}

static inline int setup(void **state)
{
    return setup_cpus(state, CPUS);
}

static inline int setup16(void **state)
{
    return setup_cpus(state, 16);
}

static inline int teardown(void **state)
{
    struct fixture *t = *state;

    apic_set_release(&t->set);
    event_loop_free(t->loop);
    memory_release(&t->memory);
    free(t);
    return 0;
}

static inline bool deliver(struct fixture *t, u32 dest, bool logical, u8 mode, u8 vector, bool level)
{
    struct apic_message m = {
        .dest = dest, .logical = logical, .mode = mode, .vector = vector, .level = level};

    return apic_deliver(&t->set, &m);
}

static inline bool fixed(struct fixture *t, unsigned dest, u8 vector)
{
    return deliver(t, dest, false, APIC_MODE_FIXED, vector, false);
}

static inline void eoi(struct apic *a)
{
    apic_write(a, APIC_EOI, 0);
}

static inline bool has(struct apic *a, u32 set, u8 vector)
{
    return apic_read(a, set + (vector >> 5) * 0x10) >> (vector & 31) & 1;
}

static inline void enter_x2apic(struct apic *a)
{
    assert_int_equal(apic_msr_write(a, MSR_BASE, a->base | APIC_BASE_EXTD), 0);
}

static inline u64 msr(struct apic *a, u32 index)
{
    u64 value = 0xdeadbeef;

    assert_int_equal(apic_msr_read(a, index, &value), 0);
    return value;
}

#endif
