/*
 * 8254 interval timer. A channel holds no counter: its value and output are computed from the ticks
 * since it was loaded. Loading takes effect at once (the chip takes one clock more).
 */
#include "hw/pit.h"

#include <errno.h>

#include "base/log.h"

enum {
    CONTROL_BCD = 0x01,
    CONTROL_KEPT = 0x3f,
    STATUS_NULL = 0x40,
    STATUS_OUT = 0x80,
    READBACK_NO_COUNT = 0x20,
    READBACK_NO_STATUS = 0x10,
    ACCESS_LATCH = 0,
    ACCESS_LOW = 1,
    ACCESS_HIGH = 2,
    ACCESS_BOTH = 3,
    SPEAKER_GATE = 0x01,
    SPEAKER_BITS = 0x0f,
    SPEAKER_REFRESH = 0x10,
    SPEAKER_OUT = 0x20,
};

#define CONTROL_PORT 3
#define REFRESH_NS 15085u /* port 0x61 bit 4 toggles with each refresh request of an AT */
#define NEVER (~0ull)

static unsigned mode_of(const struct pit_channel *c)
{
    unsigned mode = c->control >> 1 & 7;

    return mode > 5 ? mode - 4 : mode; /* 6 and 7 are 2 and 3 */
}

static unsigned access_of(const struct pit_channel *c)
{
    return c->control >> 4 & 3;
}

static u32 modulus(const struct pit_channel *c)
{
    return c->control & CONTROL_BCD ? 10000 : 0x10000;
}

static u64 ns_to_ticks(u64 ns)
{
    return muldiv64(ns, PIT_HZ, NS_PER_SEC);
}

/* The first nanosecond at which ns_to_ticks() gives @ticks. */
static u64 ticks_to_ns(u64 ticks)
{
    return (u64)(((u128)ticks * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

/* Ticks that the count now running has seen. */
static u64 elapsed(const struct pit_channel *c, u64 now)
{
    if (!c->running)
        return 0;
    if (!c->gate && (mode_of(c) == 0 || mode_of(c) == 4))
        return c->held;
    return now > c->start_ns ? ns_to_ticks(now - c->start_ns) : 0;
}

/* Ticks for which the output of mode 3 is high in each period: an odd count has the longer half high. */
static u32 high_half(u32 count)
{
    return (count + 1) / 2;
}

static bool output(const struct pit_channel *c, u64 now)
{
    unsigned mode = mode_of(c);
    u64 d = elapsed(c, now);

    if (!c->running)
        return mode != 0;
    switch (mode) {
    case 0:
    case 1: return d >= c->count;
    case 2: return !c->gate || c->count == 1 || d % c->count != c->count - 1;
    case 3: return !c->gate || d % c->count < high_half(c->count);
    default: return d != c->count;
    }
}

/* The counting element, in binary. */
static u32 counter(const struct pit_channel *c, u64 now)
{
    u64 d = elapsed(c, now);
    u32 x;

    switch (mode_of(c)) {
    case 2: return c->count - d % c->count;
    case 3:
        x = d % c->count;
        if (x >= high_half(c->count))
            x -= high_half(c->count);
        return (c->count & ~1u) - 2 * x;
    default: return (c->count + modulus(c) - d % modulus(c)) % modulus(c);
    }
}

static u16 counter_as_read(const struct pit_channel *c, u64 now)
{
    u32 v = counter(c, now) % modulus(c);

    if (c->control & CONTROL_BCD)
        v = v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
    return v;
}

/* A count written while another one was running takes over at the end of the (half) period. */
static void settle(struct pit_channel *c, u64 now)
{
    unsigned mode = mode_of(c);
    bool was_high;

    if (!c->next || !c->running || (mode != 2 && mode != 3) || now < c->switch_ns)
        return;
    was_high = mode == 3 && !output(c, c->switch_ns);
    c->count = c->next;
    c->next = 0;
    c->start_ns = c->switch_ns;
    if (was_high) { /* the new count starts with its low half */
        u64 back = ticks_to_ns(high_half(c->count));
        c->start_ns = c->start_ns > back ? c->start_ns - back : 0;
    }
}

/* --- interrupt of channel 0 --- */

/* Virtual time of the next change of channel 0's output from low to high after @now. */
static u64 next_rise(const struct pit_channel *c, u64 now)
{
    u64 d = elapsed(c, now);

    if (!c->running || !c->gate)
        return NEVER;
    switch (mode_of(c)) {
    case 0: return d < c->count ? c->start_ns + ticks_to_ns(c->count) : NEVER;
    case 2:
    case 3: return c->start_ns + ticks_to_ns((d / c->count + 1) * c->count);
    case 4: return d <= c->count ? c->start_ns + ticks_to_ns((u64)c->count + 1) : NEVER;
    default: return NEVER; /* the gate of channel 0 is never triggered */
    }
}

static void set_level(struct pit *p, bool level)
{
    p->level = level;
    irq_set(&p->irq, level && !p->muted);
}

static void arm_at_due(struct pit *p)
{
    if (p->due_ns == NEVER || p->muted)
        timer_cancel(&p->timer);
    else
        timer_arm(&p->timer, p->due_ns);
}

static void arm(struct pit *p, u64 now)
{
    const struct pit_channel *c = &p->channel[0];

    p->due_ns = next_rise(c, now);
    p->due_rise = true;
    /* Too fast: this edge comes late, and those until then merge with it. */
    if (p->due_ns < p->last_rise_ns + PIT_MIN_PERIOD_NS)
        p->due_ns = p->last_rise_ns + PIT_MIN_PERIOD_NS;
    if (c->next && c->switch_ns < p->due_ns) {
        p->due_ns = c->switch_ns;
        p->due_rise = false;
    }
    arm_at_due(p);
}

static void fired(struct timer *t)
{
    struct pit *p = container_of(t, struct pit, timer);
    u64 now = vclock_ns(p->clock);

    settle(&p->channel[0], now);
    if (p->due_rise) {
        p->last_rise_ns = now;
        set_level(p, false);
        set_level(p, true);
    }
    arm(p, now);
}

/* --- channels --- */

static void load(struct pit_channel *c, u32 count, u64 now)
{
    unsigned mode = mode_of(c);
    bool counting = c->loaded && c->running;

    c->loaded = true;
    if ((mode == 2 || mode == 3) && counting && c->gate) {
        u64 d = elapsed(c, now), period = d / c->count * c->count, half = high_half(c->count);
        u64 end = mode == 3 && d - period < half ? period + half : period + c->count;

        c->next = count;
        c->switch_ns = c->start_ns + ticks_to_ns(end);
        return;
    }
    if (mode == 1 || mode == 5) {
        if (counting)
            c->next = count; /* the count that runs is not disturbed: next trigger */
        else
            c->count = count;
        return;
    }
    c->count = count;
    c->next = 0;
    c->start_ns = now;
    c->held = 0;
    c->running = true;
}

static void write_count(struct pit *p, unsigned n, u8 value, u64 now)
{
    struct pit_channel *c = &p->channel[n];
    u32 count;

    switch (access_of(c)) {
    case ACCESS_LOW: count = value; break;
    case ACCESS_HIGH: count = value << 8; break;
    default:
        c->wrote_low = !c->wrote_low;
        if (c->wrote_low) {
            c->write_low = value;
            if (mode_of(c) == 0)
                c->running = false; /* the first byte stops the count and drops the output */
            return;
        }
        count = value << 8 | c->write_low;
    }
    if (c->control & CONTROL_BCD)
        count = (count >> 12) * 1000 + (count >> 8 & 15) * 100 + (count >> 4 & 15) * 10 + (count & 15);
    if (!count || count > modulus(c))
        count = modulus(c);
    load(c, count, now);
}

static void set_gate(struct pit_channel *c, bool gate, u64 now)
{
    unsigned mode = mode_of(c);

    settle(c, now);
    if (gate == c->gate)
        return;
    if (!gate) {
        c->held = elapsed(c, now);
        c->gate = false;
        return;
    }
    c->gate = true;
    if (!c->loaded)
        return;
    if (mode == 0 || mode == 4) {
        c->start_ns = now - MIN(now, ticks_to_ns(c->held)); /* goes on where it stopped */
        return;
    }
    if (c->next)
        c->count = c->next;
    c->next = 0;
    c->start_ns = now;
    c->running = true;
}

static void latch_count(struct pit_channel *c, u64 now)
{
    if (c->count_latched)
        return; /* the first latch holds until it is read */
    c->count_latched = true;
    c->latched_count = counter_as_read(c, now);
}

static void latch_status(struct pit_channel *c, u64 now)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->latched_status = (c->control & CONTROL_KEPT) | (output(c, now) ? STATUS_OUT : 0) |
                        (!c->loaded || c->next ? STATUS_NULL : 0);
}

static void set_control(struct pit_channel *c, u8 control)
{
    *c = (struct pit_channel){.control = control & CONTROL_KEPT, .gate = c->gate, .count = modulus(c)};
    c->count = modulus(c);
}

static void write_control(struct pit *p, u8 value, u64 now)
{
    unsigned n = value >> 6;

    if (n == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & 2 << i))
                continue;
            if (!(value & READBACK_NO_COUNT))
                latch_count(&p->channel[i], now);
            if (!(value & READBACK_NO_STATUS))
                latch_status(&p->channel[i], now);
        }
    } else if ((value >> 4 & 3) == ACCESS_LATCH) {
        latch_count(&p->channel[n], now);
    } else {
        set_control(&p->channel[n], value);
    }
}

static u8 read_count(struct pit_channel *c, u64 now)
{
    u16 value;

    if (c->status_latched) {
        c->status_latched = false;
        return c->latched_status;
    }
    value = c->count_latched ? c->latched_count : counter_as_read(c, now);
    switch (access_of(c)) {
    case ACCESS_LOW: c->count_latched = false; return value & 0xff;
    case ACCESS_HIGH: c->count_latched = false; return value >> 8;
    default:
        c->read_high = !c->read_high;
        if (c->read_high)
            return value & 0xff;
        c->count_latched = false;
        return value >> 8;
    }
}

/* --- ports --- */

static u64 settle_all(struct pit *p)
{
    u64 now = vclock_ns(p->clock);

    for (unsigned i = 0; i < 3; i++)
        settle(&p->channel[i], now);
    return now;
}

static u64 pit_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pit *p = container_of(r, struct pit, region);
    u64 now = settle_all(p);

    if (offset == CONTROL_PORT)
        return 0xff; /* write-only */
    return read_count(&p->channel[offset], now);
}

static void pit_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pit *p = container_of(r, struct pit, region);
    u64 now = settle_all(p);
    bool rearm = offset == 0;

    trace(timer, "pit write %u: %#x", (unsigned)offset, (unsigned)value);
    if (offset == CONTROL_PORT) {
        write_control(p, value, now);
        rearm = value >> 6 == 0 && (value >> 4 & 3) != ACCESS_LATCH;
    } else {
        write_count(p, offset, value, now);
    }
    if (!rearm)
        return;
    if (!p->channel[0].next)
        set_level(p, output(&p->channel[0], now));
    arm(p, now);
}

static const struct io_ops pit_ops = {.read = pit_read, .write = pit_write, .min_size = 1, .max_size = 1};

static u64 speaker_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pit *p = container_of(r, struct pit, speaker_region);
    u64 now = settle_all(p);

    return p->speaker | (now / REFRESH_NS & 1 ? SPEAKER_REFRESH : 0) |
           (output(&p->channel[2], now) ? SPEAKER_OUT : 0);
}

static void speaker_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pit *p = container_of(r, struct pit, speaker_region);

    p->speaker = value & SPEAKER_BITS;
    set_gate(&p->channel[2], value & SPEAKER_GATE, vclock_ns(p->clock));
}

static const struct io_ops speaker_ops = {
    .read = speaker_read, .write = speaker_write, .min_size = 1, .max_size = 1};

void pit_set_muted(struct pit *p, bool muted)
{
    p->muted = muted;
    set_level(p, p->level);
    arm(p, settle_all(p));
}

/* --- life cycle --- */

/* The chip's state after power-on is undefined; here every channel waits in mode 0 for a count. */
static void pit_reset(struct device *dev)
{
    struct pit *p = dev->object;

    for (unsigned i = 0; i < 3; i++) {
        p->channel[i].gate = i != 2;
        set_control(&p->channel[i], ACCESS_BOTH << 4);
    }
    p->speaker = 0;
    p->last_rise_ns = 0;
    p->due_ns = NEVER;
    p->muted = false;
    set_level(p, false);
    arm_at_due(p);
}

static int pit_post_load(void *object, unsigned version, struct error *err)
{
    struct pit *p = object;

    for (unsigned i = 0; i < 3; i++) {
        const struct pit_channel *c = &p->channel[i];
        if (!c->count || c->count > modulus(c) || c->next > modulus(c))
            return error_set(err, EINVAL, "pit: count out of range");
        /* A switch that settle() would never make kept the timer firing for ever. */
        if (i == 0 && c->next && (!c->running || (mode_of(c) != 2 && mode_of(c) != 3)))
            return error_set(err, EINVAL, "pit: a new count waits for no period");
    }
    p->last_rise_ns = MIN(p->last_rise_ns, vclock_ns(p->clock));
    set_level(p, p->level);
    arm_at_due(p);
    return 0;
}

static const struct field channel_fields[] = {
    FIELD(struct pit_channel, start_ns),
    FIELD(struct pit_channel, held),
    FIELD(struct pit_channel, switch_ns),
    FIELD(struct pit_channel, count),
    FIELD(struct pit_channel, next),
    FIELD(struct pit_channel, latched_count),
    FIELD(struct pit_channel, control),
    FIELD(struct pit_channel, latched_status),
    FIELD(struct pit_channel, write_low),
    FIELD(struct pit_channel, wrote_low),
    FIELD(struct pit_channel, read_high),
    FIELD(struct pit_channel, loaded),
    FIELD(struct pit_channel, running),
    FIELD(struct pit_channel, gate),
    FIELD(struct pit_channel, count_latched),
    FIELD(struct pit_channel, status_latched),
    FIELD_END,
};
static const struct state_desc channel_state = {
    .name = "pit-channel", .version = 1, .fields = channel_fields};

static const struct field pit_fields[] = {
    FIELD_STRUCT_ARRAY(struct pit, channel, channel_state),
    FIELD(struct pit, last_rise_ns),
    FIELD(struct pit, due_ns),
    FIELD(struct pit, due_rise),
    FIELD(struct pit, level),
    FIELD(struct pit, muted),
    FIELD(struct pit, speaker),
    FIELD_END,
};
static const struct state_desc pit_state = {
    .name = "pit", .version = 1, .fields = pit_fields, .post_load = pit_post_load};

int pit_init(struct pit *p, struct memory *m, struct event_loop *loop, const struct vclock *clock,
             struct irq_line irq, struct error *err)
{
    int ret;

    *p = (struct pit){
        .dev = {.name = "pit", .state = &pit_state, .object = p, .reset = pit_reset},
        .irq = irq,
        .clock = clock,
        .memory = m,
    };
    timer_init(&p->timer, loop, clock, fired);
    io_region_init(&p->region, "pit", &pit_ops, 4);
    io_region_init(&p->speaker_region, "port61", &speaker_ops, 1);
    ret = memory_map_pio(m, &p->region, PIT_PORT, err);
    if (ret)
        return ret;
    ret = memory_map_pio(m, &p->speaker_region, PIT_SPEAKER_PORT, err);
    if (ret) {
        memory_unmap(m, &p->region);
        return ret;
    }
    pit_reset(&p->dev);
    return 0;
}

void pit_release(struct pit *p)
{
    timer_cancel(&p->timer);
    memory_unmap(p->memory, &p->speaker_region);
    memory_unmap(p->memory, &p->region);
}
