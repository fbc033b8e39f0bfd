/* The timer of a local APIC: one-shot, periodic, TSC deadline (SDM vol. 3, "APIC Timer"). */
#include "base/log.h"
#include "hw/apic-internal.h"

#define TIMER_DIVIDE_MASK 0xbu

/* Longest wait for a deadline before it is looked at again: keeps all sums far from overflow. */
#define DEADLINE_SLICE_NS (3600 * NS_PER_SEC)

static u32 timer_mode(const struct apic *a)
{
    return apic_lvt(a, APIC_LVT_TIMER) & APIC_LVT_TIMER_MODE;
}

/* Bits 3, 1 and 0: 0 is divide by 2, up to 6 by 128; 7 is by 1. */
static unsigned divide_shift(const struct apic *a)
{
    return ((a->timer_divide & 3) + (a->timer_divide >> 1 & 4) + 1) & 7;
}

static u64 timer_period(const struct apic *a)
{
    return (u64)a->timer_initial << divide_shift(a);
}

static void timer_count_to(struct apic *a, u64 deadline)
{
    a->timer_deadline = deadline;
    timer_arm(&a->timer, deadline);
}

void apic_timer_stop(struct apic *a)
{
    a->timer_deadline = 0;
    a->tsc_deadline = 0;
    timer_cancel(&a->timer);
}

static void timer_expired(struct apic *a)
{
    u32 lvt = apic_lvt(a, APIC_LVT_TIMER);

    trace(irq, "APIC %u timer expires, LVT 0x%08x", a->id, lvt);
    if (!(lvt & APIC_LVT_MASKED))
        apic_accept(a, lvt, false);
}

/* --- TSC deadline --- */

static void deadline_check(struct apic *a)
{
    u64 tsc, wait;

    if (!a->tsc_deadline)
        return;
    tsc = vclock_tsc(a->set->clock) + (u64)a->set->ops->tsc_offset(a->set->owner, a->id);
    if (tsc >= a->tsc_deadline) {
        apic_timer_stop(a);
        timer_expired(a);
        return;
    }
    wait = clock_tsc_to_ns(MIN(a->tsc_deadline - tsc, clock_ns_to_tsc(DEADLINE_SLICE_NS)));
    /* One more: the conversion rounds down, and waking early would only mean to wait again. */
    timer_arm(&a->timer, vclock_ns(a->set->clock) + wait + 1);
}

u64 apic_timer_read_deadline(const struct apic *a)
{
    return timer_mode(a) == APIC_TIMER_TSC_DEADLINE ? a->tsc_deadline : 0;
}

void apic_timer_write_deadline(struct apic *a, u64 value)
{
    if (!apic_hw_enabled(a) || timer_mode(a) != APIC_TIMER_TSC_DEADLINE)
        return;
    a->tsc_deadline = value;
    if (value)
        deadline_check(a);
    else
        apic_timer_stop(a);
}

void apic_tsc_changed(struct apic *a)
{
    deadline_check(a);
}

/* --- the counter --- */

/* Nanoseconds until the count reaches 0. */
static u64 timer_remaining(const struct apic *a)
{
    u64 now = vclock_ns(a->set->clock), period = timer_period(a);

    if (timer_mode(a) != APIC_TIMER_PERIODIC)
        return a->timer_deadline > now ? a->timer_deadline - now : 0;
    if (!period)
        return 0;
    /* The deadline is some tick of the train, not always the next one. */
    if (a->timer_deadline > now)
        return (a->timer_deadline - now - 1) % period + 1;
    return period - (now - a->timer_deadline) % period;
}

u32 apic_timer_current(const struct apic *a)
{
    unsigned shift = divide_shift(a);

    if (!a->timer_deadline)
        return 0;
    return MIN((timer_remaining(a) + MASK(shift)) >> shift, (u64)a->timer_initial);
}

void apic_timer_write_initial(struct apic *a, u32 value)
{
    u32 mode = timer_mode(a);

    if (mode != 0 && mode != APIC_TIMER_PERIODIC)
        return;
    a->timer_initial = value;
    if (value)
        timer_count_to(a, vclock_ns(a->set->clock) + timer_period(a));
    else
        apic_timer_stop(a);
}

/* The count goes on from where it is, at the new rate. */
void apic_timer_write_divide(struct apic *a, u32 value)
{
    u32 count = apic_timer_current(a);

    a->timer_divide = value & TIMER_DIVIDE_MASK;
    if (a->timer_deadline)
        timer_count_to(a, vclock_ns(a->set->clock) + ((u64)count << divide_shift(a)));
}

/* Going to or from TSC-deadline mode disarms the timer. */
void apic_timer_write_lvt(struct apic *a, u32 value)
{
    u32 *lvt = &a->lvt[apic_lvt_index(APIC_LVT_TIMER)];
    bool counts = !(*lvt & APIC_TIMER_TSC_DEADLINE), will_count = !(value & APIC_TIMER_TSC_DEADLINE);

    if (counts != will_count)
        apic_timer_stop(a);
    *lvt = value;
}

/* The next tick of the train after the one at the deadline that is not too near (see apic.h). */
static void timer_next_period(struct apic *a)
{
    u64 period = timer_period(a), next = a->timer_deadline + period;
    u64 earliest = vclock_ns(a->set->clock) + APIC_MIN_PERIOD_NS;

    if (next < earliest)
        next += (earliest - next + period - 1) / period * period;
    timer_count_to(a, next);
}

static void timer_fired(struct timer *t)
{
    struct apic *a = container_of(t, struct apic, timer);

    if (a->tsc_deadline) {
        deadline_check(a);
        return;
    }
    if (!a->timer_deadline)
        return;
    if (timer_mode(a) == APIC_TIMER_PERIODIC && a->timer_initial)
        timer_next_period(a);
    else
        a->timer_deadline = 0;
    timer_expired(a);
}

void apic_timer_restore(struct apic *a)
{
    timer_cancel(&a->timer);
    if (timer_mode(a) != APIC_TIMER_TSC_DEADLINE)
        a->tsc_deadline = 0;
    else
        a->timer_deadline = 0;
    /* The processor's TSC may be loaded later: look at the deadline once the clock runs. */
    if (a->tsc_deadline)
        timer_arm(&a->timer, vclock_ns(a->set->clock));
    else if (a->timer_deadline)
        timer_arm(&a->timer, a->timer_deadline);
}

bool apic_timer_done(const struct apic *a)
{
    return timer_mode(a) == APIC_TIMER_ONE_SHOT && !a->timer_deadline;
}

void apic_timer_resume(struct apic *a, u32 current)
{
    bool due = timer_mode(a) == APIC_TIMER_ONE_SHOT && a->timer_initial;
    u64 now = vclock_ns(a->set->clock);

    a->timer_deadline = current || due ? MAX(now + ((u64)current << divide_shift(a)), 1ull) : 0;
    apic_timer_restore(a);
}

void apic_timer_init(struct apic *a)
{
    timer_init(&a->timer, a->set->loop, a->set->clock, timer_fired);
}
