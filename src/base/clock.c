/*
 * Time. The frequency of the host's TSC and whether it can be trusted are facts of the host, found
 * once a process; everything else belongs to a vclock.
 */
#include "base/clock.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#define CALIBRATION_NS (20 * NS_PER_MS)
#define CALIBRATION_SAMPLES 32

static pthread_once_t tsc_begun = PTHREAD_ONCE_INIT, tsc_once = PTHREAD_ONCE_INIT;
static struct clock_pair {
    u64 ns, tsc;
} tsc_first;
static u32 tsc_khz;
static bool tsc_trusted;

static u64 read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

u64 clock_host_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

u64 clock_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

/* LFENCE keeps the read behind earlier loads, so that threads that synchronise see it grow. */
static u64 read_tsc(void)
{
    _mm_lfence();
    return __rdtsc();
}

/* The pair whose two readings lie closest together: an interruption between them shows as latency. */
static struct clock_pair sample_pair(void)
{
    struct clock_pair best = {0, 0};
    u64 best_latency = ~0ull;
    for (int i = 0; i < CALIBRATION_SAMPLES; i++) {
        u64 before = read_tsc();
        u64 ns = clock_host_ns();
        u64 latency = read_tsc() - before;
        if (latency < best_latency) {
            best_latency = latency;
            best = (struct clock_pair){ns, before + latency / 2};
        }
    }
    return best;
}

/* CPUID 80000007H:EDX[8]: the TSC runs at one rate in all states (SDM vol. 3, 18.17.1). */
static bool cpu_has_invariant_tsc(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8);
}

/*
 * The kernel watches the TSC and takes another clock when it finds it wrong on this machine, whatever
 * CPUID says. Under a hypervisor its clock is a paravirtual one, which says nothing against the TSC.
 */
static bool kernel_rejects_tsc(void)
{
    static const char *const instead[] = {"hpet", "acpi_pm", "jiffies", "refined-jiffies"};
    char name[32] = "";
    FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (!f)
        return false;
    if (fgets(name, sizeof name, f))
        name[strcspn(name, "\n")] = '\0';
    fclose(f);
    for (unsigned i = 0; i < ARRAY_SIZE(instead); i++) {
        if (!strcmp(name, instead[i]))
            return true;
    }
    return false;
}

static void begin(void)
{
    tsc_first = sample_pair();
}

void clock_tsc_begin(void)
{
    pthread_once(&tsc_begun, begin);
}

static void calibrate(void)
{
    clock_tsc_begin();
    struct clock_pair first = tsc_first;
    u64 passed = clock_host_ns() - first.ns;
    if (passed < CALIBRATION_NS) {
        struct timespec wait = {.tv_nsec = (long)(CALIBRATION_NS - passed)};
        nanosleep(&wait, NULL);
    }
    struct clock_pair last = sample_pair();
    /* cycles per ns * 10^6 = kHz, rounded to nearest */
    u64 ns = MAX(last.ns - first.ns, (u64)1);
    u64 khz = muldiv64(last.tsc - first.tsc, NS_PER_SEC / 1000, ns);
    tsc_trusted = cpu_has_invariant_tsc() && !kernel_rejects_tsc();
    tsc_khz = khz && khz <= UINT32_MAX ? (u32)khz : 1000000;
}

u32 clock_tsc_khz(void)
{
    pthread_once(&tsc_once, calibrate);
    return tsc_khz;
}

u64 clock_ns_to_tsc(u64 ns)
{
    return (u64)(((u128)ns * clock_tsc_khz() + 999999) / 1000000);
}

u64 clock_tsc_to_ns(u64 cycles)
{
    return muldiv64(cycles, 1000000, clock_tsc_khz());
}

/* The counter that virtual time follows. */
static u64 host_cycles(void)
{
    pthread_once(&tsc_once, calibrate);
    return tsc_trusted ? read_tsc() : clock_ns_to_tsc(clock_host_ns());
}

void vclock_init(struct vclock *c)
{
    *c = (struct vclock){.running = false};
}

void vclock_init_manual(struct vclock *c)
{
    *c = (struct vclock){.running = true, .manual = true};
}

/*
 * A reader that sees `running` also sees the offset or the stopped time that belongs to it: each is
 * written before `running` changes, and not again before it has changed back.
 */
void vclock_start(struct vclock *c)
{
    if (vclock_running(c))
        return;
    u64 stopped = atomic_load_explicit(&c->stopped_tsc, memory_order_relaxed);
    atomic_store_explicit(&c->offset_tsc, host_cycles() - stopped, memory_order_relaxed);
    atomic_store_explicit(&c->running, true, memory_order_release);
}

void vclock_stop(struct vclock *c)
{
    if (!vclock_running(c) || c->manual)
        return;
    atomic_store_explicit(&c->stopped_tsc, vclock_tsc(c), memory_order_relaxed);
    atomic_store_explicit(&c->running, false, memory_order_release);
}

void vclock_set_ns(struct vclock *c, u64 ns)
{
    BUG_ON(vclock_running(c) && !c->manual);
    atomic_store_explicit(&c->stopped_tsc, clock_ns_to_tsc(ns), memory_order_relaxed);
}

u64 vclock_tsc(const struct vclock *c)
{
    if (c->manual || !vclock_running(c))
        return atomic_load_explicit(&c->stopped_tsc, memory_order_relaxed);
    return host_cycles() - atomic_load_explicit(&c->offset_tsc, memory_order_relaxed);
}

bool vclock_tsc_offset(const struct vclock *c, i64 *offset)
{
    bool fixed = vclock_running(c) && !c->manual && tsc_trusted;
    if (fixed)
        *offset = -(i64)atomic_load_explicit(&c->offset_tsc, memory_order_relaxed);
    else
        *offset = (i64)(vclock_tsc(c) - read_tsc());
    return fixed;
}

u64 vclock_ns(const struct vclock *c)
{
    return clock_tsc_to_ns(vclock_tsc(c));
}

u64 vclock_to_host_ns(const struct vclock *c, u64 ns)
{
    u64 now = vclock_ns(c);
    if (!vclock_running(c) || (c->manual && now < ns))
        return ~0ull;
    u64 host = clock_host_ns();
    if (now < ns)
        return ns - now > ~0ull - host ? ~0ull : host + (ns - now);
    return now - ns > host ? 0 : host - (now - ns);
}
