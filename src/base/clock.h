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

/* a * num / den without overflow of the intermediate product. */
static inline u64 muldiv64(u64 a, u64 num, u64 den)
{
    return (u64)((u128)a * num / den);
}

struct vclock {
    u64 offset_ns;  /* running: virtual = host - offset */
    u64 stopped_ns; /* virtual time at which it was stopped */
    bool running;
};

/* Starts stopped at 0. Start and stop are called with no vCPU running. */
void vclock_init(struct vclock *c);
void vclock_start(struct vclock *c);
void vclock_stop(struct vclock *c);

/* Virtual ns. Any thread. */
u64 vclock_ns(const struct vclock *c);

/* Host CLOCK_MONOTONIC time at which the virtual clock will show @ns (clock running). */
u64 vclock_to_host_ns(const struct vclock *c, u64 ns);

/* The TSC that a guest whose offset is 0 reads at this moment: virtual time in TSC cycles. */
u64 vclock_tsc(const struct vclock *c);

/* Conversions at clock_tsc_khz(). */
u64 clock_ns_to_tsc(u64 ns);
u64 clock_tsc_to_ns(u64 cycles);

#endif
