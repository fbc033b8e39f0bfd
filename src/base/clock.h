/*
 * Time of the host and time of a VM.
 *
 * Host time is CLOCK_MONOTONIC in nanoseconds. A VM's virtual clock follows it but stands still
 * while the VM is paused. Everything in the guest that counts time (PIT, HPET, PM timer, RTC, APIC
 * timer, TSC, kvmclock) is derived from the one virtual clock of its VM, and so agrees.
 *
 * The guest's TSC is the host's TSC plus an offset (the frequency is the host's own); vclock_tsc()
 * and vclock_ns() are tied together by the frequency measured once by clock_tsc_khz().
 */
#ifndef TRAPEZE_BASE_CLOCK_H
#define TRAPEZE_BASE_CLOCK_H

#include <stdatomic.h>

#include "base/compiler.h"

#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

/* CLOCK_MONOTONIC, ns. */
u64 clock_host_ns(void);

/* CLOCK_REALTIME, ns since 1970. */
u64 clock_wall_ns(void);

/* Frequency of the host's TSC in kHz, measured once (about 20 ms at the first call; thread-safe). */
u32 clock_tsc_khz(void);

/* The measurement begins now: who calls this early waits less at the first clock_tsc_khz(). */
void clock_tsc_begin(void);

/* a * num / den without overflow of the intermediate product. */
static inline u64 muldiv64(u64 a, u64 num, u64 den)
{
    return (u64)((u128)a * num / den);
}

/*
 * Virtual time counts in TSC cycles from a host counter: the TSC where it is invariant, else
 * CLOCK_MONOTONIC in cycles. Nanoseconds are derived from cycles, so the two cannot drift apart.
 */
struct vclock {
    _Atomic u64 offset_tsc;  /* running: virtual = host counter - offset */
    _Atomic u64 stopped_tsc; /* stopped or manual: virtual time */
    _Atomic bool running;
    bool manual;
};

/* Starts stopped at 0. Start and stop are called with no vCPU running. */
void vclock_init(struct vclock *c);
void vclock_start(struct vclock *c);
void vclock_stop(struct vclock *c);

/*
 * A clock that counts as running but moves only by vclock_set_ns(), for tests of what depends on
 * time: set it, then event_loop_clock_changed() and event_loop_poll(loop, 0).
 */
void vclock_init_manual(struct vclock *c);

/* Sets a stopped or manual clock. */
void vclock_set_ns(struct vclock *c, u64 ns);

static inline bool vclock_running(const struct vclock *c)
{
    return atomic_load_explicit(&c->running, memory_order_acquire);
}

/* Virtual ns. Any thread. */
u64 vclock_ns(const struct vclock *c);

/* Host CLOCK_MONOTONIC time at which the clock will show @ns; ~0 while it does not move towards it. */
u64 vclock_to_host_ns(const struct vclock *c, u64 ns);

/* The TSC that a guest whose offset is 0 reads at this moment: virtual time in TSC cycles. */
u64 vclock_tsc(const struct vclock *c);

/*
 * What a counter that follows the host's TSC lacks to show vclock_tsc() of a running clock. False when
 * virtual time does not count the host's TSC: *offset is then good for this moment only.
 */
bool vclock_tsc_offset(const struct vclock *c, i64 *offset);

/*
 * Conversions at clock_tsc_khz(). To cycles rounds up and to ns rounds down, so that ns survive the
 * way there and back; a deadline in cycles that must not come early is clock_tsc_to_ns() + 1.
 */
u64 clock_ns_to_tsc(u64 ns);
u64 clock_tsc_to_ns(u64 cycles);

#endif
