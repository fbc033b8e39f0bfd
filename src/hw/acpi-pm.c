/* ACPI fixed hardware. Section numbers are those of ACPI 6.4. */
#include "hw/acpi-pm.h"

#include <errno.h>

#include "base/log.h"

enum {
    /* PM1 status and enable (4.8.3.1) */
    PM1_TIMER = 0x0001,
    PM1_GLOBAL = 0x0020,
    PM1_POWER_BUTTON = 0x0100,
    PM1_SLEEP_BUTTON = 0x0200,
    PM1_RTC = 0x0400,
    PM1_ENABLE_BITS = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC,

    /* PM1 control (4.8.3.2) */
    CONTROL_SCI_EN = 0x0001,
    CONTROL_BM_RLD = 0x0002,
    CONTROL_SLP_TYP = 0x1c00,
    CONTROL_SLP_EN = 0x2000, /* write-only */
    CONTROL_KEPT = CONTROL_SCI_EN | CONTROL_BM_RLD | CONTROL_SLP_TYP,
};

static u64 timer_ticks(const struct acpi_pm *p)
{
    return muldiv64(vclock_ns(p->clock), ACPI_PM_TIMER_HZ, NS_PER_SEC);
}

/* TMR_STS is set whenever the timer's top bit, 31, changes (4.8.3.3). */
static void collect_overflow(struct acpi_pm *p)
{
    u64 half_wraps = timer_ticks(p) >> 31;

    if (half_wraps != p->overflow_seen)
        p->status |= PM1_TIMER;
    p->overflow_seen = half_wraps;
}

/* Levels and timer follow from the registers. */
static void update(struct acpi_pm *p)
{
    bool wants_timer = (p->control & CONTROL_SCI_EN) && (p->enable & ~p->status & PM1_TIMER);

    p->gpe_status |= p->gpe_level;
    irq_set(&p->sci,
            (p->control & CONTROL_SCI_EN) && ((p->status & p->enable) || (p->gpe_status & p->gpe_enable)));
    if (!wants_timer) {
        timer_cancel(&p->timer);
        return;
    }
    timer_arm(&p->timer, (u64)((((u128)(p->overflow_seen + 1) << 31) * NS_PER_SEC + ACPI_PM_TIMER_HZ - 1) /
                               ACPI_PM_TIMER_HZ));
}

static void fired(struct timer *t)
{
    struct acpi_pm *p = container_of(t, struct acpi_pm, timer);

    collect_overflow(p);
    update(p);
}

/* --- registers: read by aligned double words, written by bytes --- */

/*
 * SMI_EN (ICH9 data sheet 316972, 13.8.3.9): SMIs by command are on. There is no SMM; firmware that finds it
 * set up leaves it alone.
 */
#define SMI_BY_COMMAND 0x21u

static u32 read_dword(struct acpi_pm *p, unsigned offset)
{
    switch (offset) {
    case ACPI_PM1_EVENT: collect_overflow(p); return p->status | (u32)p->enable << 16;
    case ACPI_PM1_CONTROL: return p->control;
    case ACPI_PM_TIMER: return (u32)timer_ticks(p);
    case ACPI_PM_GPE0: return p->gpe_status | (u32)p->gpe_enable << 16;
    case ACPI_PM_SMI_ENABLE: return SMI_BY_COMMAND;
    default: return 0;
    }
}

static u64 pm_read(struct io_region *r, u64 offset, unsigned size)
{
    struct acpi_pm *p = container_of(r, struct acpi_pm, region);
    unsigned at = offset & 3;
    u64 value = read_dword(p, offset & ~3ull);

    if (at + size > 4)
        value |= (u64)read_dword(p, (offset & ~3ull) + 4) << 32;
    return value >> at * 8 & MASK(size * 8);
}

static void put_byte(u16 *reg, bool high, u8 value)
{
    *reg = high ? (*reg & 0x00ff) | value << 8 : (*reg & 0xff00) | value;
}

static void clear_byte(u16 *reg, bool high, u8 value)
{
    *reg &= ~(high ? value << 8 : value);
}

static void sleep_now(struct acpi_pm *p)
{
    unsigned type = p->control >> 10 & 7;

    trace(power, "sleep type %u", type);
    if (type == ACPI_PM_S5)
        lifecycle_request(p->lifecycle, LIFECYCLE_POWEROFF, 0);
    else
        log_guest("acpi-pm: sleep type %u is not offered", type);
}

static void write_control(struct acpi_pm *p, bool high, u8 value)
{
    put_byte(&p->control, high, value);
    if (p->control & CONTROL_SLP_EN)
        sleep_now(p);
    p->control &= CONTROL_KEPT;
}

static void write_byte(struct acpi_pm *p, unsigned offset, u8 value)
{
    bool high = offset & 1;

    switch (offset & ~1u) {
    case ACPI_PM1_EVENT: clear_byte(&p->status, high, value); break;
    case ACPI_PM1_EVENT + 2:
        put_byte(&p->enable, high, value);
        p->enable &= PM1_ENABLE_BITS;
        break;
    case ACPI_PM1_CONTROL: write_control(p, high, value); break;
    case ACPI_PM_GPE0: clear_byte(&p->gpe_status, high, value); break;
    case ACPI_PM_GPE0 + 2: put_byte(&p->gpe_enable, high, value); break;
    default: break;
    }
}

static void pm_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct acpi_pm *p = container_of(r, struct acpi_pm, region);

    collect_overflow(p);
    for (unsigned i = 0; i < size; i++)
        write_byte(p, offset + i, value >> i * 8);
    update(p);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write, .min_size = 1, .max_size = 4};

/* --- SMI command port: what firmware's handler would do (4.8.2.1) --- */

static u64 smi_read(struct io_region *r, u64 offset, unsigned size)
{
    struct acpi_pm *p = container_of(r, struct acpi_pm, smi_region);

    return offset ? p->smi_status : p->smi_command;
}

static void smi_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct acpi_pm *p = container_of(r, struct acpi_pm, smi_region);

    if (offset) {
        p->smi_status = value;
        return;
    }
    p->smi_command = value;
    collect_overflow(p);
    if (p->smi_command == ACPI_PM_ENABLE)
        p->control |= CONTROL_SCI_EN;
    else if (p->smi_command == ACPI_PM_DISABLE)
        p->control &= ~CONTROL_SCI_EN;
    update(p);
}

static const struct io_ops smi_ops = {.read = smi_read, .write = smi_write, .min_size = 1, .max_size = 1};

/* --- for boards --- */

void acpi_pm_power_button(struct acpi_pm *p)
{
    p->status |= PM1_POWER_BUTTON;
    update(p);
}

void acpi_pm_sleep_button(struct acpi_pm *p)
{
    p->status |= PM1_SLEEP_BUTTON;
    update(p);
}

bool acpi_pm_power_button_enabled(const struct acpi_pm *p)
{
    return (p->control & CONTROL_SCI_EN) && (p->enable & PM1_POWER_BUTTON);
}

void acpi_pm_set_gpe(struct acpi_pm *p, unsigned n, bool level)
{
    BUG_ON(n >= 16);
    p->gpe_level = level ? p->gpe_level | BIT(n) : p->gpe_level & ~BIT(n);
    update(p);
}

/* --- life cycle --- */

static void pm_reset(struct device *dev)
{
    struct acpi_pm *p = dev->object;

    p->status = p->enable = p->control = 0;
    p->gpe_status = p->gpe_enable = 0;
    p->smi_command = p->smi_status = 0;
    p->overflow_seen = timer_ticks(p) >> 31;
    update(p);
}

static int pm_post_load(void *object, unsigned version, struct error *err)
{
    struct acpi_pm *p = object;

    p->enable &= PM1_ENABLE_BITS;
    p->control &= CONTROL_KEPT;
    /* A half-wrap in the future would arm a timer that never fires. */
    p->overflow_seen = MIN(p->overflow_seen, timer_ticks(p) >> 31);
    update(p);
    return 0;
}

static const struct field pm_fields[] = {
    FIELD(struct acpi_pm, status),     FIELD(struct acpi_pm, enable),
    FIELD(struct acpi_pm, control),    FIELD(struct acpi_pm, overflow_seen),
    FIELD(struct acpi_pm, gpe_status), FIELD(struct acpi_pm, gpe_enable),
    FIELD(struct acpi_pm, gpe_level),  FIELD(struct acpi_pm, smi_command),
    FIELD(struct acpi_pm, smi_status), FIELD_END,
};

static const struct state_desc pm_state = {
    .name = "acpi-pm", .version = 1, .fields = pm_fields, .post_load = pm_post_load};

int acpi_pm_init(struct acpi_pm *p, struct memory *m, struct event_loop *loop, const struct vclock *clock,
                 struct irq_line sci, struct lifecycle *lifecycle, struct error *err)
{
    int ret;

    *p = (struct acpi_pm){
        .dev = {.name = "acpi-pm", .state = &pm_state, .object = p, .reset = pm_reset},
        .sci = sci,
        .clock = clock,
        .lifecycle = lifecycle,
        .memory = m,
    };
    timer_init(&p->timer, loop, clock, fired);
    io_region_init(&p->region, "acpi-pm", &pm_ops, ACPI_PM_SIZE);
    io_region_init(&p->smi_region, "smi-command", &smi_ops, 2);
    ret = memory_map_pio(m, &p->region, ACPI_PM_BASE, err);
    if (ret)
        return ret;
    ret = memory_map_pio(m, &p->smi_region, ACPI_PM_SMI_COMMAND, err);
    if (ret) {
        memory_unmap(m, &p->region);
        return ret;
    }
    pm_reset(&p->dev);
    return 0;
}

void acpi_pm_release(struct acpi_pm *p)
{
    timer_cancel(&p->timer);
    memory_unmap(p->memory, &p->smi_region);
    memory_unmap(p->memory, &p->region);
}
