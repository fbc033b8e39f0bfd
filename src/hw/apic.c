/*
 * Registers and priorities of the local APIC. Section titles are those of the SDM, vol. 3, chapter
 * "Advanced Programmable Interrupt Controller".
 *
 * Rules:
 *  1. Whatever changes IRR, ISR, TPR, LVT LINT0, an enable bit or the LINT0 level ends with
 *     apic_update(), so that the processor's request is true whenever the machine lock is dropped.
 *  2. While pv_eoi_offered is set the ISR may lag behind the guest. It is caught up by apic_pv_eoi_settle()
 *     on the vCPU's own thread only; until then apic_update() asks for an acknowledge on any IRR bit.
 */
#include <errno.h>

#include "base/log.h"
#include "hw/apic-internal.h"

#define VERSION_VALUE (0x14u | (APIC_LVT_COUNT - 1) << 16)
#define VERSION_NO_BROADCAST BIT(24)
#define SVR_WRITABLE (0xffu | APIC_SVR_ENABLE | APIC_SVR_NO_BROADCAST)
#define SVR_RESET 0xffu
#define LVT_READ_ONLY (1u << 12 | 1u << 14) /* delivery status, remote IRR */
#define DIVIDE_WRITABLE 0xbu
#define DFR_RESERVED 0x0fffffffu
#define ICR_DELIVERY_STATUS (1u << 12)
#define ICR_WRITABLE (0x000ccfffu | ICR_DELIVERY_STATUS)

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range (SDM vol. 4) */
#define MSR_BASE 0x1b
#define MSR_DEADLINE 0x6e0
#define MSR_APIC_FIRST 0x800
#define MSR_APIC_LAST 0x8ff

static const u32 lvt_writable[APIC_LVT_COUNT] = {
    0x700ff, /* timer: mode, mask, vector */
    0x107ff, /* thermal */
    0x107ff, /* performance */
    0x1a7ff, /* LINT0: trigger, polarity, mode */
    0x1a7ff, /* LINT1 */
    0x100ff, /* error */
};

/* --- priority --- */

static int highest(const u32 set[8])
{
    int n;

    for (n = 7; n >= 0; n--)
        if (set[n])
            return n * 32 + 31 - __builtin_clz(set[n]);
    return -1;
}

static bool test_vector(const u32 set[8], u8 vector)
{
    return set[vector >> 5] >> (vector & 31) & 1;
}

static void assign_vector(u32 set[8], u8 vector, bool value)
{
    u32 bit = 1u << (vector & 31);

    set[vector >> 5] = value ? set[vector >> 5] | bit : set[vector >> 5] & ~bit;
}

/* "Task and Processor Priorities" */
u8 apic_ppr(const struct apic *a)
{
    int isr = highest(a->isr);

    if (isr < 0 || a->tpr >> 4 >= (unsigned)isr >> 4)
        return a->tpr;
    return isr & 0xf0;
}

/* The vector that may be delivered now, or -1. */
static int deliverable(const struct apic *a)
{
    int irr = highest(a->irr);

    if (irr < 0 || !apic_hw_enabled(a) || irr >> 4 <= apic_ppr(a) >> 4)
        return -1;
    return irr;
}

/* Do the 8259s interrupt this processor? Without an APIC their INTR reaches the first one's pin. */
static bool extint_pending(const struct apic *a)
{
    u32 lint0 = apic_lvt(a, APIC_LVT_LINT0);

    if (!a->set->lint[0])
        return false;
    if (!apic_hw_enabled(a))
        return a->id == 0;
    return !(lint0 & APIC_LVT_MASKED) && apic_lvt_mode(lint0) == APIC_MODE_EXTINT;
}

void apic_update(struct apic *a)
{
    const struct apic_target_ops *ops = a->set->ops;

    if (deliverable(a) >= 0 || extint_pending(a) || (a->pv_eoi_offered && highest(a->irr) >= 0))
        ops->raise(a->set->owner, a->id, APIC_SIGNAL_INTERRUPT);
    else
        ops->lower(a->set->owner, a->id);
}

bool apic_accept(struct apic *a, u8 vector, bool level)
{
    if (vector < 16) {
        apic_error(a, APIC_ESR_RECEIVE_VECTOR);
        return false;
    }
    trace(irq, "APIC %u accepts vector 0x%02x%s", a->id, vector, level ? " (level)" : "");
    assign_vector(a->irr, vector, true);
    assign_vector(a->tmr, vector, level);
    apic_update(a);
    return true;
}

/* "Error Handling": collected until ESR is written; the LVT entry tells of each new kind. */
void apic_error(struct apic *a, u32 bit)
{
    u32 lvt = apic_lvt(a, APIC_LVT_ERROR);
    bool news = !(a->esr_pending & bit);

    a->esr_pending |= bit;
    /* An illegal vector in this very entry must not report itself for ever. */
    if (news && !(lvt & APIC_LVT_MASKED) && (lvt & 0xff) >= 16)
        apic_accept(a, lvt, false);
}

/* --- end of interrupt --- */

static void end_of_interrupt(struct apic *a)
{
    int vector = highest(a->isr);

    if (vector < 0)
        return;
    trace(irq, "APIC %u ends vector 0x%02x", a->id, vector);
    assign_vector(a->isr, vector, false);
    if (test_vector(a->tmr, vector) && !(a->svr & APIC_SVR_NO_BROADCAST))
        a->set->ops->eoi(a->set->owner, vector);
}

static bool pv_eoi_flag(struct apic *a, u32 *flag)
{
    return !memory_read(a->set->memory, a->pv_eoi & ~3ull, flag, sizeof *flag);
}

/* Takes the offer back; if the guest had taken it, the interrupt has ended. */
void apic_pv_eoi_settle(struct apic *a)
{
    u32 flag;

    if (!a->pv_eoi_offered)
        return;
    a->pv_eoi_offered = 0;
    if (!pv_eoi_flag(a, &flag))
        return;
    if (flag & 1) {
        flag &= ~1u;
        memory_write(a->set->memory, a->pv_eoi & ~3ull, &flag, sizeof flag);
    } else {
        end_of_interrupt(a);
    }
}

/* @vector went into service. Its EOI needs no write if nobody waits for it. */
static void pv_eoi_offer(struct apic *a, u8 vector)
{
    u32 flag;

    if (!(a->pv_eoi & 1) || test_vector(a->tmr, vector) || highest(a->irr) >= 0 || !pv_eoi_flag(a, &flag))
        return;
    flag |= 1;
    if (!memory_write(a->set->memory, a->pv_eoi & ~3ull, &flag, sizeof flag))
        a->pv_eoi_offered = 1;
}

void apic_set_pv_eoi(struct apic *a, u64 msr)
{
    apic_pv_eoi_settle(a);
    a->pv_eoi = msr & 1 ? msr & ~2ull : 0;
    apic_update(a);
}

static void eoi_written(struct apic *a)
{
    apic_pv_eoi_settle(a);
    end_of_interrupt(a);
    apic_update(a);
}

int apic_ack(struct apic *a)
{
    int vector;

    apic_pv_eoi_settle(a);
    vector = deliverable(a);
    if (vector >= 0) {
        assign_vector(a->irr, vector, false);
        assign_vector(a->isr, vector, true);
        pv_eoi_offer(a, vector);
    } else if (extint_pending(a)) {
        vector = a->set->ops->extint_ack(a->set->owner);
    }
    apic_update(a);
    return vector;
}

u8 apic_get_cr8(struct apic *a)
{
    return a->tpr >> 4;
}

void apic_set_cr8(struct apic *a, u8 value)
{
    a->tpr = (u32)(value & 0xf) << 4;
    apic_update(a);
}

/* --- LINT pins --- */

static void lint_edge(struct apic *a, u32 lvt)
{
    const struct apic_target_ops *ops = a->set->ops;

    if ((lvt & APIC_LVT_MASKED) || !apic_hw_enabled(a))
        return;
    switch (apic_lvt_mode(lvt)) {
    case APIC_MODE_FIXED: apic_accept(a, lvt, false); break;
    case APIC_MODE_NMI: ops->raise(a->set->owner, a->id, APIC_SIGNAL_NMI); break;
    case APIC_MODE_INIT: ops->raise(a->set->owner, a->id, APIC_SIGNAL_INIT); break;
    }
}

void apic_set_lint(struct apic_set *s, unsigned lint, bool level)
{
    bool edge = level && !s->lint[lint & 1];
    unsigned n;

    s->lint[lint & 1] = level;
    for (n = 0; n < s->count; n++) {
        struct apic *a = &s->apic[n];

        if (edge)
            lint_edge(a, apic_lvt(a, lint & 1 ? APIC_LVT_LINT1 : APIC_LVT_LINT0));
        apic_update(a);
    }
}

/* --- registers --- */

u32 apic_ldr(const struct apic *a)
{
    /* "Logical Destination Mode in x2APIC Mode": derived from the id. */
    return apic_x2(a) ? (a->id >> 4) << 16 | 1u << (a->id & 15) : a->ldr;
}

static bool is_lvt(u32 reg)
{
    return reg >= APIC_LVT_TIMER && reg <= APIC_LVT_ERROR;
}

/* False: no such register, or one that only can be written. */
bool apic_register_read(struct apic *a, u32 reg, u32 *value)
{
    if (is_lvt(reg)) {
        *value = apic_lvt(a, reg);
        return true;
    }
    if (reg >= APIC_ISR && reg < APIC_ESR) {
        const u32 *set = reg < APIC_TMR ? a->isr : reg < APIC_IRR ? a->tmr : a->irr;

        apic_pv_eoi_settle(a);
        *value = set[reg >> 4 & 7];
        return true;
    }
    switch (reg) {
    case APIC_ID: *value = apic_x2(a) ? a->id : a->id << 24; return true;
    case APIC_VERSION:
        *value = VERSION_VALUE | (a->set->always_broadcasts ? 0 : VERSION_NO_BROADCAST);
        return true;
    case APIC_TPR: *value = a->tpr; return true;
    case APIC_PPR:
        apic_pv_eoi_settle(a);
        *value = apic_ppr(a);
        return true;
    case APIC_LDR: *value = apic_ldr(a); return true;
    case APIC_SVR: *value = a->svr; return true;
    case APIC_ESR: *value = a->esr; return true;
    case APIC_ICR: *value = a->icr; return true;
    case APIC_TIMER_INITIAL: *value = a->timer_initial; return true;
    case APIC_TIMER_CURRENT: *value = apic_timer_current(a); return true;
    case APIC_TIMER_DIVIDE: *value = a->timer_divide; return true;
    }
    return false;
}

static void svr_write(struct apic *a, u32 value)
{
    unsigned n;

    a->svr = value & (a->set->always_broadcasts ? SVR_WRITABLE & ~APIC_SVR_NO_BROADCAST : SVR_WRITABLE);
    /* "Local APIC State After It Has Been Software Disabled" */
    if (!(a->svr & APIC_SVR_ENABLE))
        for (n = 0; n < APIC_LVT_COUNT; n++)
            a->lvt[n] |= APIC_LVT_MASKED;
}

static void lvt_write(struct apic *a, u32 reg, u32 value)
{
    unsigned n = apic_lvt_index(reg);

    value &= lvt_writable[n];
    if (!(a->svr & APIC_SVR_ENABLE))
        value |= APIC_LVT_MASKED;
    if (reg == APIC_LVT_TIMER)
        apic_timer_write_lvt(a, value);
    else
        a->lvt[n] = value;
}

/* False: no such register, or one that cannot be written. */
static bool register_write(struct apic *a, u32 reg, u32 value)
{
    if (is_lvt(reg)) {
        lvt_write(a, reg, value);
        return true;
    }
    switch (reg) {
    case APIC_TPR: a->tpr = value & 0xff; return true;
    case APIC_EOI: eoi_written(a); return true;
    case APIC_SVR: svr_write(a, value); return true;
    case APIC_ESR:
        a->esr = a->esr_pending;
        a->esr_pending = 0;
        return true;
    case APIC_ICR:
        a->icr = value & ICR_WRITABLE & ~ICR_DELIVERY_STATUS;
        apic_send_ipi(a);
        return true;
    case APIC_TIMER_INITIAL: apic_timer_write_initial(a, value); return true;
    case APIC_TIMER_DIVIDE: apic_timer_write_divide(a, value); return true;
    }
    return false;
}

u32 apic_read(struct apic *a, u32 offset)
{
    u32 value = 0;

    if (!apic_hw_enabled(a) || apic_x2(a))
        return 0xffffffff;
    if (apic_register_read(a, offset, &value)) {
        apic_update(a);
        return value;
    }
    switch (offset) {
    case APIC_APR: return apic_ppr(a); /* arbitration is that of lowest_priority() */
    case APIC_EOI:
    case APIC_RRD: return 0;
    case APIC_DFR: return a->dfr;
    case APIC_ICR2: return a->icr2;
    }
    apic_error(a, APIC_ESR_REGISTER);
    return 0;
}

void apic_write(struct apic *a, u32 offset, u32 value)
{
    u32 unused;

    if (!apic_hw_enabled(a) || apic_x2(a))
        return;
    switch (offset) {
    case APIC_LDR: a->ldr = value & 0xff000000; break;
    case APIC_DFR: a->dfr = value | DFR_RESERVED; break;
    case APIC_ICR2: a->icr2 = value & 0xff000000; break;
    case APIC_APR:
    case APIC_RRD: break;
    default:
        /* Writes to read-only registers vanish; the id is fixed as on processors since Nehalem. */
        if (!register_write(a, offset, value) && !apic_register_read(a, offset, &unused))
            apic_error(a, APIC_ESR_REGISTER);
    }
    apic_update(a);
}

/* --- MSRs --- */

/* "x2APIC State Transitions": what is not drawn there is #GP. */
static int base_write(struct apic *a, u64 value)
{
    u64 mode = value & (APIC_BASE_ENABLE | APIC_BASE_EXTD);
    u64 old = a->base & (APIC_BASE_ENABLE | APIC_BASE_EXTD);

    if ((value & a->set->base_reserved) || mode == APIC_BASE_EXTD)
        return -1;
    if ((mode & APIC_BASE_EXTD) && !(a->set->x2apic && old))
        return -1;
    if ((old & APIC_BASE_EXTD) && mode == APIC_BASE_ENABLE)
        return -1;
    trace(irq, "APIC %u base 0x%llx", a->id, (unsigned long long)value);
    /* Disabling loses the state as a power-on reset does. */
    if (old && !mode)
        apic_reset(a, true);
    __atomic_store_n(&a->base, value, __ATOMIC_RELEASE);
    apic_update(a);
    return 0;
}

/*
 * Bits of the x2APIC register @reg that a write may have set; anything else is reserved and faults. The
 * read-only ones of LVT entries and ICR (delivery status, remote IRR) are dropped without a fault.
 */
static u32 x2_writable(u32 reg)
{
    /* Delivery status and remote IRR are read-only, not reserved: Linux writes them as ones. */
    if (reg == APIC_LVT_LINT0 || reg == APIC_LVT_LINT1)
        return lvt_writable[apic_lvt_index(reg)] | BIT(12) | BIT(14);
    if (is_lvt(reg))
        return lvt_writable[apic_lvt_index(reg)] | LVT_READ_ONLY;
    switch (reg) {
    case APIC_TPR:
    case APIC_SELF_IPI: return 0xff;
    case APIC_SVR: return SVR_WRITABLE;
    case APIC_ICR: return ICR_WRITABLE;
    case APIC_TIMER_INITIAL: return 0xffffffff;
    case APIC_TIMER_DIVIDE: return DIVIDE_WRITABLE;
    default: return 0; /* EOI and ESR */
    }
}

static int x2_write(struct apic *a, u32 reg, u64 value)
{
    u64 allowed = x2_writable(reg) | (reg == APIC_ICR ? 0xffffffffull << 32 : 0);

    if (value & ~allowed)
        return -1;
    if (reg == APIC_SELF_IPI) {
        apic_self_ipi(a, value);
        return 0;
    }
    if (reg == APIC_ICR)
        a->icr2 = value >> 32;
    if (!register_write(a, reg, value))
        return -1;
    apic_update(a);
    return 0;
}

static int x2_read(struct apic *a, u32 reg, u64 *value)
{
    u32 low;

    if (!apic_register_read(a, reg, &low))
        return -1;
    *value = low;
    if (reg == APIC_ICR)
        *value |= (u64)a->icr2 << 32;
    apic_update(a);
    return 0;
}

int apic_msr_read(struct apic *a, u32 index, u64 *value)
{
    if (index == MSR_BASE) {
        *value = a->base;
        return 0;
    }
    if (index == MSR_DEADLINE) {
        *value = apic_timer_read_deadline(a);
        return 0;
    }
    if (index < MSR_APIC_FIRST || index > MSR_APIC_LAST || !apic_x2(a))
        return -1;
    return x2_read(a, (index - MSR_APIC_FIRST) << 4, value);
}

int apic_msr_write(struct apic *a, u32 index, u64 value)
{
    if (index == MSR_BASE)
        return base_write(a, value);
    if (index == MSR_DEADLINE) {
        apic_timer_write_deadline(a, value);
        return 0;
    }
    if (index < MSR_APIC_FIRST || index > MSR_APIC_LAST || !apic_x2(a))
        return -1;
    return x2_write(a, (index - MSR_APIC_FIRST) << 4, value);
}

u64 apic_page(const struct apic *a)
{
    u64 base = __atomic_load_n(&a->base, __ATOMIC_ACQUIRE);

    if ((base & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) != APIC_BASE_ENABLE)
        return ~0ull;
    return base & PAGE_MASK;
}

/* --- state and life cycle --- */

/* "Local APIC State After Power-Up or Reset"; an INIT keeps the base MSR and with it the mode. */
void apic_reset(struct apic *a, bool init)
{
    unsigned n;

    apic_timer_stop(a);
    if (!init)
        __atomic_store_n(&a->base, APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (a->id ? 0 : APIC_BASE_BSP),
                         __ATOMIC_RELEASE);
    a->tpr = a->ldr = a->icr = a->icr2 = a->esr = a->esr_pending = 0;
    a->timer_initial = a->timer_divide = 0;
    a->dfr = ~0u;
    a->svr = SVR_RESET;
    for (n = 0; n < APIC_LVT_COUNT; n++)
        a->lvt[n] = APIC_LVT_MASKED;
    memset(a->isr, 0, sizeof a->isr);
    memset(a->tmr, 0, sizeof a->tmr);
    memset(a->irr, 0, sizeof a->irr);
    a->pv_eoi = 0;
    a->pv_eoi_offered = 0;
    apic_update(a);
}

void apic_suspend(struct apic *a)
{
    timer_cancel(&a->timer);
    a->set->ops->lower(a->set->owner, a->id);
}

void apic_set_virtual_wire(struct apic_set *s)
{
    struct apic *bsp = &s->apic[0];

    svr_write(bsp, SVR_RESET | APIC_SVR_ENABLE);
    bsp->lvt[apic_lvt_index(APIC_LVT_LINT0)] = APIC_MODE_EXTINT << APIC_LVT_MODE_SHIFT;
    bsp->lvt[apic_lvt_index(APIC_LVT_LINT1)] = APIC_MODE_NMI << APIC_LVT_MODE_SHIFT;
    apic_update(bsp);
}

static const struct field apic_fields[] = {
    FIELD(struct apic, base),
    FIELD(struct apic, tpr),
    FIELD(struct apic, ldr),
    FIELD(struct apic, dfr),
    FIELD(struct apic, svr),
    FIELD(struct apic, icr),
    FIELD(struct apic, icr2),
    FIELD(struct apic, esr),
    FIELD(struct apic, esr_pending),
    FIELD_ARRAY(struct apic, lvt),
    FIELD_ARRAY(struct apic, isr),
    FIELD_ARRAY(struct apic, tmr),
    FIELD_ARRAY(struct apic, irr),
    FIELD(struct apic, timer_initial),
    FIELD(struct apic, timer_divide),
    FIELD(struct apic, timer_deadline),
    FIELD(struct apic, tsc_deadline),
    FIELD(struct apic, pv_eoi),
    FIELD(struct apic, pv_eoi_offered),
    FIELD_END,
};

void apic_sanitize(struct apic *a)
{
    unsigned n;

    a->tpr &= 0xff;
    a->dfr |= DFR_RESERVED;
    a->icr &= ICR_WRITABLE;
    a->timer_divide &= DIVIDE_WRITABLE;
    svr_write(a, a->svr);
    for (n = 0; n < APIC_LVT_COUNT; n++)
        a->lvt[n] &= lvt_writable[n];
    a->isr[0] &= 0xffff0000; /* vectors 0..15 do not exist */
    a->tmr[0] &= 0xffff0000;
    a->irr[0] &= 0xffff0000;
}

static int apic_post_load(void *object, unsigned version, struct error *err)
{
    struct apic *a = object;

    if ((a->base & a->set->base_reserved) ||
        (a->base & (APIC_BASE_EXTD | APIC_BASE_ENABLE)) == APIC_BASE_EXTD)
        return error_set(err, EINVAL, "saved APIC base 0x%llx is not valid", (unsigned long long)a->base);
    apic_sanitize(a);
    apic_timer_restore(a);
    apic_update(a);
    return 0;
}

static const struct state_desc apic_state = {
    .name = "apic", .version = 1, .fields = apic_fields, .post_load = apic_post_load};

static void apic_device_reset(struct device *dev)
{
    apic_reset(container_of(dev, struct apic, dev), false);
}

int apic_set_init(struct apic_set *s, const struct apic_config *c, struct error *err)
{
    unsigned n;

    memset(s, 0, sizeof *s);
    if (!c->cpus || c->cpus > APIC_MAX_CPUS)
        return error_set(err, EINVAL, "%u processors: 1 to %u are possible", c->cpus, APIC_MAX_CPUS);
    s->count = c->cpus;
    s->ops = c->ops;
    s->owner = c->owner;
    s->memory = c->memory;
    s->loop = c->loop;
    s->clock = c->clock;
    s->x2apic = c->x2apic;
    s->always_broadcasts = c->always_broadcasts;
    s->base_reserved = ~MASK(c->maxphyaddr) | 0x2ff;
    for (n = 0; n < s->count; n++) {
        struct apic *a = &s->apic[n];

        a->set = s;
        a->id = n;
        apic_timer_init(a);
        a->dev = (struct device){
            .name = "apic", .instance = n, .state = &apic_state, .object = a, .reset = apic_device_reset};
        list_init(&a->dev.link);
        apic_reset(a, false);
    }
    return 0;
}

void apic_set_release(struct apic_set *s)
{
    unsigned n;

    for (n = 0; n < s->count; n++)
        timer_cancel(&s->apic[n].timer);
}
