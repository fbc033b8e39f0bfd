/*
 * MC146818 clock and CMOS memory. Nothing ticks: time and flags are computed when they are looked at,
 * and one timer is armed for the next event that has its interrupt enabled and its flag still clear.
 */
#include "hw/rtc.h"

#include <errno.h>

#include "base/log.h"

enum {
    SECONDS = 0x00,
    SECONDS_ALARM = 0x01,
    MINUTES = 0x02,
    MINUTES_ALARM = 0x03,
    HOURS = 0x04,
    HOURS_ALARM = 0x05,
    WEEKDAY = 0x06,
    DAY = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,

    A_UIP = 0x80,
    A_DIVIDER = 0x70,
    A_DIVIDER_32K = 0x20,   /* the divider runs from 32768 Hz */
    A_DIVIDER_RESET = 0x60, /* 11x: held in reset */
    A_RATE = 0x0f,

    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,
    B_INTERRUPTS = 0x70,

    C_IRQF = 0x80,

    D_VALID = 0x80, /* the battery is good */

    HOUR_PM = 0x80,
};

#define UIP_NS (244 * NS_PER_US) /* UIP is high this long before an update */
#define CRYSTAL_HZ 32768u
#define DAY_SECONDS 86400
#define NEVER (~0ull)

/* --- calendar (proleptic Gregorian, days since 1970-01-01) --- */

struct date {
    i64 year;
    unsigned month, day, weekday, hour, minute, second; /* month and day from 1, weekday 1 is Sunday */
};

/* Years are counted from March, so that the leap day ends one: 400 years are 146097 days. */
static i64 days_from_date(i64 year, unsigned month, unsigned day)
{
    i64 y = month <= 2 ? year - 1 : year;
    i64 era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = y - era * 400;
    unsigned doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

    return era * 146097 + (i64)(yoe * 365 + yoe / 4 - yoe / 100 + doy) - 719468;
}

static struct date date_from_seconds(i64 t)
{
    i64 days = (t >= 0 ? t : t - (DAY_SECONDS - 1)) / DAY_SECONDS;
    unsigned rest = t - days * DAY_SECONDS;
    i64 z = days + 719468;
    i64 era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned doe = z - era * 146097;
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;

    return (struct date){
        .year = yoe + era * 400 + (mp >= 10),
        .month = mp < 10 ? mp + 3 : mp - 9,
        .day = doy - (153 * mp + 2) / 5 + 1,
        .weekday = (unsigned)(((days + 4) % 7 + 7) % 7) + 1,
        .hour = rest / 3600,
        .minute = rest / 60 % 60,
        .second = rest % 60,
    };
}

/* --- how registers hold numbers --- */

static u8 encode(const struct rtc *r, unsigned v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v / 10) << 4 | v % 10;
}

static unsigned decode(const struct rtc *r, u8 v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct rtc *r, unsigned hour)
{
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *r, u8 v)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* --- time --- */

static bool divider_runs(const struct rtc *r)
{
    return (r->cmos[REG_A] & A_DIVIDER_RESET) != A_DIVIDER_RESET;
}

/* Does the time in the registers advance? */
static bool clock_runs(const struct rtc *r)
{
    return !(r->cmos[REG_B] & B_SET) && divider_runs(r);
}

static i64 floor_div(i64 a, i64 b)
{
    return a / b - (a % b < 0);
}

/* Seconds since 1970 at virtual time @now. */
static i64 seconds_at(const struct rtc *r, u64 now)
{
    return r->base_s + floor_div((i64)now - r->base_ns, NS_PER_SEC);
}

/* Virtual time at which second @s begins. */
static i64 second_starts(const struct rtc *r, i64 s)
{
    return r->base_ns + (s - r->base_s) * (i64)NS_PER_SEC;
}

static void store_time(struct rtc *r, i64 seconds)
{
    struct date d = date_from_seconds(seconds);

    r->cmos[SECONDS] = encode(r, d.second);
    r->cmos[MINUTES] = encode(r, d.minute);
    r->cmos[HOURS] = encode_hour(r, d.hour);
    r->cmos[WEEKDAY] = encode(r, d.weekday);
    r->cmos[DAY] = encode(r, d.day);
    r->cmos[MONTH] = encode(r, d.month);
    r->cmos[YEAR] = encode(r, d.year % 100);
    r->cmos[RTC_CENTURY] = encode(r, d.year / 100 % 100);
}

/* The registers as seconds since 1970. What the guest left there may be nonsense: clamped. */
static i64 load_time(const struct rtc *r)
{
    unsigned month = decode(r, r->cmos[MONTH]), day = decode(r, r->cmos[DAY]);
    unsigned century = decode(r, r->cmos[RTC_CENTURY]), year = decode(r, r->cmos[YEAR]);

    month = month < 1 ? 1 : MIN(month, 12u);
    day = day < 1 ? 1 : MIN(day, 31u);
    return days_from_date(MIN(century, 99u) * 100 + MIN(year, 99u), month, day) * DAY_SECONDS +
           (i64)MIN(decode_hour(r, r->cmos[HOURS]), 23u) * 3600 +
           (i64)MIN(decode(r, r->cmos[MINUTES]), 59u) * 60 + (i64)MIN(decode(r, r->cmos[SECONDS]), 59u);
}

/* Brings the time registers up to @now while the clock runs. */
static void refresh_time(struct rtc *r, u64 now)
{
    if (clock_runs(r))
        store_time(r, seconds_at(r, now));
}

/* --- flags and the interrupt --- */

/* Periodic rate in periods of the crystal, 0 for none (table 5: rates 1 and 2 repeat 8 and 9). */
static u64 periodic_cycles(const struct rtc *r)
{
    unsigned rate = r->cmos[REG_A] & A_RATE;

    if (!rate || !divider_runs(r))
        return 0;
    return 1ull << (rate < 3 ? rate + 6 : rate - 1);
}

/* Virtual time of the first periodic edge after @after. */
static u64 next_periodic(const struct rtc *r, u64 after)
{
    u64 cycles = periodic_cycles(r), n;

    if (!cycles)
        return NEVER;
    n = after > r->divider_ns ? muldiv64(after - r->divider_ns, CRYSTAL_HZ, NS_PER_SEC) / cycles + 1 : 1;
    return r->divider_ns + (u64)(((u128)n * cycles * NS_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ);
}

static u64 next_update(const struct rtc *r, u64 after)
{
    return clock_runs(r) ? (u64)second_starts(r, seconds_at(r, after) + 1) : NEVER;
}

/* An alarm byte with its two top bits set matches everything. */
static bool alarm_matches(u8 alarm, u8 value)
{
    return (alarm & 0xc0) == 0xc0 || alarm == value;
}

/* Can the alarm bytes ever match? Nonsense there must not make next_alarm() search a whole day. */
static bool alarm_possible(const struct rtc *r)
{
    bool hour = false, minute = false, second = false;
    unsigned n;

    for (n = 0; n < 24; n++)
        hour |= alarm_matches(r->cmos[HOURS_ALARM], encode_hour(r, n));
    for (n = 0; n < 60; n++) {
        minute |= alarm_matches(r->cmos[MINUTES_ALARM], encode(r, n));
        second |= alarm_matches(r->cmos[SECONDS_ALARM], encode(r, n));
    }
    return hour && minute && second;
}

/* Virtual time of the first second in (@after, @until] that matches the alarm; it comes within a day or
 * never. */
static u64 next_alarm(const struct rtc *r, u64 after, u64 until)
{
    i64 from, t;

    if (!clock_runs(r) || !alarm_possible(r))
        return NEVER;
    from = seconds_at(r, after) + 1;
    for (t = from; t <= from + DAY_SECONDS && (u64)second_starts(r, t) <= until;) {
        struct date d = date_from_seconds(t);

        if (!alarm_matches(r->cmos[HOURS_ALARM], encode_hour(r, d.hour)))
            t += 3600 - d.minute * 60 - d.second;
        else if (!alarm_matches(r->cmos[MINUTES_ALARM], encode(r, d.minute)))
            t += 60 - d.second;
        else if (!alarm_matches(r->cmos[SECONDS_ALARM], encode(r, d.second)))
            t++;
        else
            return (u64)second_starts(r, t);
    }
    return NEVER;
}

static void update_irq(struct rtc *r)
{
    bool raise = r->cmos[REG_C] & r->cmos[REG_B] & B_INTERRUPTS;

    r->cmos[REG_C] = (r->cmos[REG_C] & ~C_IRQF) | (raise ? C_IRQF : 0);
    irq_set(&r->irq, raise && !r->muted);
}

/* Puts what happened up to @now into register C. The enable bits of B have the places of C's flags. */
static void collect_flags(struct rtc *r, u64 now)
{
    u8 *c = &r->cmos[REG_C];

    if (!(*c & B_PIE) && next_periodic(r, r->flags_ns) <= now)
        *c |= B_PIE;
    if (!(*c & B_UIE) && next_update(r, r->flags_ns) <= now)
        *c |= B_UIE;
    if (!(*c & B_AIE) && next_alarm(r, r->flags_ns, now) != NEVER)
        *c |= B_AIE;
    r->flags_ns = now;
    update_irq(r);
}

static void arm(struct rtc *r)
{
    u8 wanted = r->cmos[REG_B] & ~r->cmos[REG_C] & B_INTERRUPTS;
    u64 next = NEVER, at;

    if (wanted & B_PIE)
        next = next_periodic(r, r->flags_ns);
    if ((wanted & B_UIE) && (at = next_update(r, r->flags_ns)) < next)
        next = at;
    if ((wanted & B_AIE) && (at = next_alarm(r, r->flags_ns, NEVER)) < next)
        next = at;
    if (next == NEVER)
        timer_cancel(&r->timer);
    else
        timer_arm(&r->timer, next);
}

static void fired(struct timer *t)
{
    struct rtc *r = container_of(t, struct rtc, timer);

    collect_flags(r, vclock_ns(r->clock));
    arm(r);
}

/* --- registers --- */

static u8 read_cmos(struct rtc *r, u8 index)
{
    u64 now = vclock_ns(r->clock);
    u8 value;

    switch (index) {
    case REG_A:
        value = r->cmos[REG_A];
        if (clock_runs(r) && next_update(r, now) - now <= UIP_NS)
            value |= A_UIP;
        return value;
    case REG_C:
        collect_flags(r, now);
        value = r->cmos[REG_C];
        r->cmos[REG_C] = 0;
        update_irq(r);
        arm(r);
        return value;
    default:
        if (index <= YEAR || index == RTC_CENTURY)
            refresh_time(r, now);
        return r->cmos[index];
    }
}

/* The clock goes on from what the registers say; the seconds keep their phase. */
static void adopt_registers(struct rtc *r, u64 now)
{
    i64 phase = r->base_ns + ((i64)now - r->base_ns) / (i64)NS_PER_SEC * (i64)NS_PER_SEC;

    if (phase > (i64)now)
        phase -= NS_PER_SEC;
    r->base_s = load_time(r);
    r->base_ns = phase;
    r->guest_set = true;
}

static void write_a(struct rtc *r, u8 value, u64 now)
{
    bool ran = divider_runs(r);

    refresh_time(r, now);
    r->cmos[REG_A] = value & ~A_UIP;
    if (ran || !divider_runs(r))
        return;
    /* Released from reset, the first update comes half a second later. */
    r->divider_ns = now;
    r->base_s = load_time(r);
    r->base_ns = (i64)now - (i64)NS_PER_SEC / 2;
    r->guest_set = true;
}

static void write_b(struct rtc *r, u8 value, u64 now)
{
    bool was_set = r->cmos[REG_B] & B_SET, format = (r->cmos[REG_B] ^ value) & (B_BINARY | B_24H);

    refresh_time(r, now);
    if (value & B_SET)
        value &= ~B_UIE; /* SET clears UIE */
    r->cmos[REG_B] = value;
    if (was_set && !(value & B_SET))
        adopt_registers(r, now);
    else if (format)
        refresh_time(r, now);
}

static void write_cmos(struct rtc *r, u8 index, u8 value)
{
    u64 now = vclock_ns(r->clock);

    if (index > REG_D && index != RTC_CENTURY) {
        r->cmos[index] = value;
        return;
    }
    collect_flags(r, now);
    switch (index) {
    case REG_A: write_a(r, value, now); break;
    case REG_B: write_b(r, value, now); break;
    case REG_C:
    case REG_D: break; /* read-only */
    default:
        refresh_time(r, now);
        r->cmos[index] = value;
        if (clock_runs(r) && index != SECONDS_ALARM && index != MINUTES_ALARM && index != HOURS_ALARM)
            adopt_registers(r, now);
    }
    update_irq(r);
    arm(r);
}

static u64 rtc_read(struct io_region *region, u64 offset, unsigned size)
{
    struct rtc *r = container_of(region, struct rtc, region);

    switch (offset) {
    case 1: return read_cmos(r, r->index & 0x7f);
    case 2: return r->ext_index;
    case 3: return r->cmos[0x80 | r->ext_index];
    default: return 0xff; /* the index is write-only */
    }
}

static void rtc_write(struct io_region *region, u64 offset, u64 value, unsigned size)
{
    struct rtc *r = container_of(region, struct rtc, region);

    switch (offset) {
    case 0: r->index = value; break;
    case 1:
        trace(timer, "rtc write %#x: %#x", r->index & 0x7f, (unsigned)value);
        write_cmos(r, r->index & 0x7f, value);
        break;
    case 2: r->ext_index = value & 0x7f; break;
    default: r->cmos[0x80 | r->ext_index] = value; break;
    }
}

static const struct io_ops rtc_ops = {.read = rtc_read, .write = rtc_write, .min_size = 1, .max_size = 1};

/* --- for boards --- */

static void set_time(struct rtc *r, u64 ns)
{
    u64 now = vclock_ns(r->clock);

    collect_flags(r, now);
    r->base_s = ns / NS_PER_SEC;
    r->base_ns = (i64)now - (i64)(ns % NS_PER_SEC);
    store_time(r, r->base_s);
    arm(r);
}

void rtc_set_time(struct rtc *r, u64 ns)
{
    set_time(r, ns);
    r->guest_set = true;
}

void rtc_set_cmos(struct rtc *r, u8 index, u8 value)
{
    if (index > REG_D && index != RTC_CENTURY)
        r->cmos[index] = value;
}

static void set_cmos16(struct rtc *r, u8 index, u64 value)
{
    value = MIN(value, (u64)0xffff);
    r->cmos[index] = value & 0xff;
    r->cmos[index + 1] = value >> 8;
}

void rtc_set_memory_size(struct rtc *r, u64 below_4g, u64 above_4g)
{
    u64 extended_k = below_4g > BIT(20) ? (below_4g - BIT(20)) >> 10 : 0;
    u64 chunks = MIN(above_4g >> 16, (u64)0xffffff);

    set_cmos16(r, 0x15, 640); /* KiB of base memory */
    set_cmos16(r, 0x17, extended_k);
    set_cmos16(r, 0x30, extended_k);
    set_cmos16(r, 0x34, below_4g > 16 * BIT(20) ? (below_4g - 16 * BIT(20)) >> 16 : 0);
    r->cmos[0x5b] = chunks & 0xff;
    r->cmos[0x5c] = chunks >> 8;
    r->cmos[0x5d] = chunks >> 16;
}

void rtc_set_muted(struct rtc *r, bool muted)
{
    r->muted = muted;
    update_irq(r);
}

/* --- life cycle --- */

/* The RESET pin clears the interrupts and the square wave; time and memory have a battery. */
static void rtc_reset(struct device *dev)
{
    struct rtc *r = dev->object;

    r->flags_ns = vclock_ns(r->clock);
    r->cmos[REG_B] &= ~(B_INTERRUPTS | 0x08);
    r->cmos[REG_C] = 0;
    r->index = r->ext_index = 0;
    r->muted = false;
    if (!r->guest_set)
        set_time(r, clock_wall_ns());
    update_irq(r);
    arm(r);
}

static int rtc_post_load(void *object, unsigned version, struct error *err)
{
    struct rtc *r = object;
    i64 century = (i64)100 * 366 * DAY_SECONDS;

    /* The bounds of what a guest can set, and of virtual time, with room to spare. */
    if (r->base_s < -century * 30 || r->base_s > century * 100 || r->base_ns < -(i64)NS_PER_SEC ||
        r->base_ns > INT64_MAX / 2) {
        r->base_s = r->base_ns = 0;
        return error_set(err, EINVAL, "rtc: time out of range");
    }
    r->ext_index &= 0x7f;
    r->cmos[REG_D] = D_VALID;
    r->flags_ns = MIN(r->flags_ns, vclock_ns(r->clock));
    r->divider_ns = MIN(r->divider_ns, vclock_ns(r->clock));
    update_irq(r);
    arm(r);
    return 0;
}

static const struct field rtc_fields[] = {
    FIELD(struct rtc, index),      FIELD(struct rtc, ext_index),
    FIELD_BYTES(struct rtc, cmos), FIELD(struct rtc, base_s),
    FIELD(struct rtc, base_ns),    FIELD(struct rtc, divider_ns),
    FIELD(struct rtc, flags_ns),   FIELD(struct rtc, guest_set),
    FIELD(struct rtc, muted),      FIELD_END,
};

static const struct state_desc rtc_state = {
    .name = "rtc", .version = 1, .fields = rtc_fields, .post_load = rtc_post_load};

int rtc_init(struct rtc *r, struct memory *m, struct event_loop *loop, const struct vclock *clock,
             struct irq_line irq, struct error *err)
{
    int ret;

    *r = (struct rtc){
        .dev = {.name = "rtc", .state = &rtc_state, .object = r, .reset = rtc_reset},
        .irq = irq,
        .clock = clock,
        .memory = m,
    };
    timer_init(&r->timer, loop, clock, fired);
    r->cmos[REG_A] = A_DIVIDER_32K | 6;
    r->cmos[REG_B] = B_24H;
    r->cmos[REG_D] = D_VALID;
    r->cmos[0x14] = 0x06; /* equipment: coprocessor, mouse */
    io_region_init(&r->region, "rtc", &rtc_ops, 4);
    ret = memory_map_pio(m, &r->region, RTC_PORT, err);
    if (ret)
        return ret;
    rtc_reset(&r->dev);
    return 0;
}

void rtc_release(struct rtc *r)
{
    timer_cancel(&r->timer);
    memory_unmap(r->memory, &r->region);
}
