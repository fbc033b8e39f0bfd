/*
 * High precision event timers. Section numbers are those of IA-PC HPET 1.0a.
 *
 * The main counter is a function of virtual time. A comparator remembers up to which counter value
 * its matches have been seen (`checked`); check() finds those since then and arms the next one.
 */
#include "hw/hpet.h"

#include "base/log.h"

enum {
    REG_ID = 0x000,
    REG_CONFIG = 0x010,
    REG_STATUS = 0x020,
    REG_COUNTER = 0x0f0,
    REG_TIMERS = 0x100, /* 0x20 each */
    TIMER_CONFIG = 0x00,
    TIMER_COMPARATOR = 0x08,

    CONFIG_ENABLE = 0x01,
    CONFIG_LEGACY = 0x02,

    T_LEVEL = 0x0002,
    T_INTERRUPT = 0x0004,
    T_PERIODIC = 0x0008,
    T_CAN_PERIODIC = 0x0010,
    T_CAN_64 = 0x0020,
    T_SET_VALUE = 0x0040,
    T_32BIT = 0x0100,
    T_ROUTE_SHIFT = 9,
    T_ROUTE = 0x3e00,
    T_WRITABLE = T_LEVEL | T_INTERRUPT | T_PERIODIC | T_SET_VALUE | T_32BIT | T_ROUTE,
    T_CAPABILITIES = T_CAN_PERIODIC | T_CAN_64,
};

#define LEGACY_TIMER_GSI 0
#define LEGACY_RTC_GSI 8
#define NEVER (~0ull)
/* Matches further away than this (over 90 years) are never armed. */
#define HORIZON_TICKS (1ull << 58)

static bool running(const struct hpet *h)
{
    return h->config & CONFIG_ENABLE;
}

static u64 counter(const struct hpet *h)
{
    if (!running(h))
        return h->counter;
    return h->counter + (vclock_ns(h->clock) - h->start_ns) / HPET_PERIOD_NS;
}

/* --- comparators --- */

static u64 width_mask(const struct hpet_timer *t)
{
    return t->config & T_32BIT ? MASK(32) : ~0ull;
}

static unsigned index_of(const struct hpet_timer *t)
{
    return t - t->hpet->timer;
}

/* The line that a comparator drives (2.3.8, 2.3.9 table 4); none when it is routed where it cannot be. */
static struct irq_line line_of(const struct hpet_timer *t)
{
    struct irq_line line = t->hpet->gsi;
    unsigned route = (t->config & T_ROUTE) >> T_ROUTE_SHIFT, n = index_of(t);

    if ((t->hpet->config & CONFIG_LEGACY) && n < 2)
        line.line += n ? LEGACY_RTC_GSI : LEGACY_TIMER_GSI;
    else if (HPET_ROUTES >> route & 1)
        line.line += route;
    else
        line.set = NULL;
    return line;
}

/* The level of @t's line follows status and enables; an edge leaves it high until the next one. */
static void update_level(struct hpet_timer *t)
{
    struct irq_line line = line_of(t);
    bool on = running(t->hpet) && (t->config & T_INTERRUPT) && (t->hpet->status & BIT(index_of(t)));

    if (t->config & T_LEVEL)
        irq_set(&line, on);
}

static void interrupt(struct hpet_timer *t)
{
    struct irq_line line = line_of(t);

    if (t->config & T_LEVEL) {
        t->hpet->status |= BIT(index_of(t));
        update_level(t);
    } else if (t->config & T_INTERRUPT) {
        irq_set(&line, false);
        irq_set(&line, true);
    }
}

/* Ticks from counter value @from (exclusive) to the next match; 0: 2^64 or more than is ever armed. */
static u64 distance(const struct hpet_timer *t, u64 from)
{
    u64 d = (t->comparator - from) & width_mask(t);

    return d || !(t->config & T_32BIT) ? d : MASK(32) + 1;
}

/* Steps over the matches in (checked, now]; true when there was one. */
static bool step(struct hpet_timer *t, u64 now)
{
    u64 passed = now - t->checked, d = distance(t, t->checked);

    t->checked = now;
    if (!d || d > passed)
        return false;
    if ((t->config & T_PERIODIC) && t->period)
        t->comparator = (t->comparator + ((passed - d) / t->period + 1) * t->period) & width_mask(t);
    return true;
}

/* Virtual time at which the next interrupt is due, ~0 for none. */
static u64 next_due(const struct hpet_timer *t)
{
    const struct hpet *h = t->hpet;
    u64 d = distance(t, t->checked), at;

    if (t->owed)
        return t->quiet_until_ns;
    if (!d || d >= HORIZON_TICKS || !(t->config & (T_INTERRUPT | T_LEVEL)))
        return NEVER;
    at = h->start_ns + (t->checked - h->counter + d) * HPET_PERIOD_NS;
    return MAX(at, t->quiet_until_ns);
}

/* Brings a comparator up to date: interrupts for what has matched, and arms the timer for what will. */
static void check(struct hpet_timer *t)
{
    u64 now = vclock_ns(t->hpet->clock), due;

    if (!running(t->hpet)) {
        timer_cancel(&t->timer);
        return;
    }
    if (step(t, counter(t->hpet)))
        t->owed = true;
    if (t->owed && now >= t->quiet_until_ns) {
        t->owed = false;
        t->quiet_until_ns = now + HPET_MIN_PERIOD_NS;
        interrupt(t);
    }
    due = next_due(t);
    if (due == NEVER)
        timer_cancel(&t->timer);
    else
        timer_arm(&t->timer, due);
}

static void fired(struct timer *timer)
{
    check(container_of(timer, struct hpet_timer, timer));
}

static void check_all(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        check(&h->timer[i]);
}

/* --- registers, as 64-bit words --- */

static u64 read_timer(const struct hpet_timer *t, unsigned reg)
{
    switch (reg) {
    case TIMER_CONFIG: return t->config | T_CAPABILITIES | (u64)HPET_ROUTES << 32;
    case TIMER_COMPARATOR: return t->comparator;
    default: return 0; /* no FSB delivery */
    }
}

static u64 read_register(struct hpet *h, unsigned reg)
{
    unsigned n = (reg - REG_TIMERS) / 0x20;

    check_all(h);
    if (reg >= REG_TIMERS)
        return n < HPET_TIMERS ? read_timer(&h->timer[n], reg & 0x1f) : 0;
    switch (reg) {
    case REG_ID: return HPET_ID | (u64)HPET_PERIOD_FS << 32;
    case REG_CONFIG: return h->config;
    case REG_STATUS: return h->status;
    case REG_COUNTER: return counter(h);
    default: return 0;
    }
}

static void lower_line(const struct hpet_timer *t)
{
    struct irq_line line = line_of(t);

    irq_set(&line, false);
}

static void write_timer_config(struct hpet_timer *t, u64 value)
{
    unsigned route = (value & T_ROUTE) >> T_ROUTE_SHIFT;

    lower_line(t); /* it may lead elsewhere from now on */
    t->config = value & T_WRITABLE;
    if (!(HPET_ROUTES >> route & 1))
        t->config &= ~T_ROUTE; /* software reads back whether a route was taken */
    if (!(t->config & T_LEVEL))
        t->hpet->status &= ~BIT(index_of(t));
    t->comparator &= width_mask(t);
    t->period &= width_mask(t);
    update_level(t);
}

/*
 * 2.3.9.2.2: a write to a periodic comparator sets the period, and with T_SET_VALUE (which clears
 * itself) also the next match.
 */
static void write_comparator(struct hpet_timer *t, u64 value, u64 mask)
{
    mask &= width_mask(t);
    value &= mask;
    if (!(t->config & T_PERIODIC) || (t->config & T_SET_VALUE))
        t->comparator = (t->comparator & ~mask) | value;
    if (t->config & T_PERIODIC)
        t->period = (t->period & ~mask) | value;
    t->config &= ~T_SET_VALUE;
}

static void set_counter(struct hpet *h, u64 value)
{
    h->counter = value;
    h->start_ns = vclock_ns(h->clock);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        h->timer[i].checked = value;
}

static void set_legacy(struct hpet *h, bool on)
{
    if (h->pit)
        pit_set_muted(h->pit, on);
    if (h->rtc)
        rtc_set_muted(h->rtc, on);
}

static void write_config(struct hpet *h, u64 value)
{
    u64 changed = (h->config ^ value) & (CONFIG_ENABLE | CONFIG_LEGACY), now = counter(h);

    for (unsigned i = 0; i < HPET_TIMERS; i++)
        lower_line(&h->timer[i]);
    h->config ^= changed;
    if (changed & CONFIG_ENABLE)
        set_counter(h, now);
    if (changed & CONFIG_LEGACY)
        set_legacy(h, value & CONFIG_LEGACY);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        update_level(&h->timer[i]);
}

/* @value and @mask: the bits written and where they are. */
static void write_register(struct hpet *h, unsigned reg, u64 value, u64 mask)
{
    unsigned n = (reg - REG_TIMERS) / 0x20;

    check_all(h);
    if (reg >= REG_TIMERS) {
        if (n >= HPET_TIMERS)
            return;
        if ((reg & 0x1f) == TIMER_CONFIG)
            write_timer_config(&h->timer[n], (h->timer[n].config & ~mask) | value);
        else if ((reg & 0x1f) == TIMER_COMPARATOR)
            write_comparator(&h->timer[n], value, mask);
        check(&h->timer[n]);
        return;
    }
    switch (reg) {
    case REG_CONFIG: write_config(h, (h->config & ~mask) | value); break;
    case REG_STATUS:
        h->status &= ~value;
        for (unsigned i = 0; i < HPET_TIMERS; i++)
            update_level(&h->timer[i]);
        break;
    case REG_COUNTER: set_counter(h, (counter(h) & ~mask) | value); break;
    default: break;
    }
    check_all(h);
}

static u64 hpet_read(struct io_region *r, u64 offset, unsigned size)
{
    struct hpet *h = container_of(r, struct hpet, region);

    return read_register(h, offset & ~7ull) >> (offset & 7) * 8 & MASK(size * 8);
}

static void hpet_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct hpet *h = container_of(r, struct hpet, region);
    unsigned shift = (offset & 7) * 8;
    u64 mask = MASK(size * 8) << shift;

    trace(timer, "hpet write %#x: %#llx", (unsigned)offset, (unsigned long long)value);
    write_register(h, offset & ~7ull, value << shift & mask, mask);
}

static const struct io_ops hpet_ops = {.read = hpet_read, .write = hpet_write, .min_size = 4, .max_size = 8};

/* --- life cycle --- */

static void hpet_reset(struct device *dev)
{
    struct hpet *h = dev->object;

    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_timer *t = &h->timer[i];

        lower_line(t);
        timer_cancel(&t->timer);
        t->config = t->period = t->checked = t->quiet_until_ns = 0;
        t->comparator = ~0ull;
        t->owed = false;
    }
    h->config = h->status = h->counter = h->start_ns = 0;
    set_legacy(h, false);
}

static int hpet_post_load(void *object, unsigned version, struct error *err)
{
    struct hpet *h = object;
    u64 now = vclock_ns(h->clock);

    h->config &= CONFIG_ENABLE | CONFIG_LEGACY;
    h->status &= MASK(HPET_TIMERS);
    h->start_ns = MIN(h->start_ns, now);
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_timer *t = &h->timer[i];

        t->config &= T_WRITABLE;
        t->comparator &= width_mask(t);
        t->period &= width_mask(t);
        t->quiet_until_ns = MIN(t->quiet_until_ns, now + HPET_MIN_PERIOD_NS);
        update_level(t);
        check(t);
    }
    return 0;
}

static const struct field timer_fields[] = {
    FIELD(struct hpet_timer, config),
    FIELD(struct hpet_timer, comparator),
    FIELD(struct hpet_timer, period),
    FIELD(struct hpet_timer, checked),
    FIELD(struct hpet_timer, quiet_until_ns),
    FIELD(struct hpet_timer, owed),
    FIELD_END,
};
static const struct state_desc timer_state = {.name = "hpet-timer", .version = 1, .fields = timer_fields};

static const struct field hpet_fields[] = {
    FIELD(struct hpet, config),
    FIELD(struct hpet, status),
    FIELD(struct hpet, counter),
    FIELD(struct hpet, start_ns),
    FIELD_STRUCT_ARRAY(struct hpet, timer, timer_state),
    FIELD_END,
};
static const struct state_desc hpet_state = {
    .name = "hpet", .version = 1, .fields = hpet_fields, .post_load = hpet_post_load};

int hpet_init(struct hpet *h, struct memory *m, struct event_loop *loop, const struct vclock *clock,
              struct irq_line gsi, struct pit *pit, struct rtc *rtc, struct error *err)
{
    *h = (struct hpet){
        .dev = {.name = "hpet", .state = &hpet_state, .object = h, .reset = hpet_reset},
        .gsi = gsi,
        .clock = clock,
        .memory = m,
        .pit = pit,
        .rtc = rtc,
    };
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        h->timer[i].hpet = h;
        timer_init(&h->timer[i].timer, loop, clock, fired);
    }
    io_region_init(&h->region, "hpet", &hpet_ops, HPET_SIZE);
    hpet_reset(&h->dev);
    return memory_map_mmio(m, &h->region, HPET_BASE, err);
}

void hpet_release(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_cancel(&h->timer[i].timer);
    memory_unmap(h->memory, &h->region);
}
