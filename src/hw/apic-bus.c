/* Messages between local APICs, I/O APICs and devices (SDM vol. 3, "Determining IPI Destination"). */
#include "base/log.h"
#include "hw/apic-internal.h"

#define DFR_FLAT 0xf

static bool matches_logical(const struct apic *a, u32 dest)
{
    u32 ldr = apic_ldr(a);

    if (apic_x2(a))
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    ldr >>= 24;
    if (a->dfr >> 28 == DFR_FLAT)
        return dest < 0x100 && (dest & ldr);
    return dest >> 4 == ldr >> 4 && (dest & ldr & 0xf);
}

static bool matches(const struct apic *a, const struct apic_message *m)
{
    if (!apic_hw_enabled(a))
        return false;
    if (m->dest == APIC_BROADCAST)
        return true;
    return m->logical ? matches_logical(a, m->dest) : m->dest == a->id;
}

static bool deliver_to(struct apic *a, const struct apic_message *m)
{
    const struct apic_target_ops *ops = a->set->ops;
    void *owner = a->set->owner;

    switch (m->mode) {
    case APIC_MODE_FIXED:
    case APIC_MODE_LOWEST: return apic_sw_enabled(a) && apic_accept(a, m->vector, m->level);
    case APIC_MODE_NMI: ops->raise(owner, a->id, APIC_SIGNAL_NMI); return true;
    case APIC_MODE_INIT: ops->raise(owner, a->id, APIC_SIGNAL_INIT); return true;
    case APIC_MODE_SIPI: ops->start(owner, a->id, m->vector); return true;
    default: return false; /* SMI: no SMM here. ExtINT: only through LINT0. */
    }
}

/* The matching processor that does the least important work; equals take turns. */
static struct apic *lowest_priority(struct apic_set *s, const struct apic_message *m)
{
    struct apic *best = NULL;
    unsigned n;

    for (n = 0; n < s->count; n++) {
        struct apic *a = &s->apic[(s->arbiter + n) % s->count];

        if (apic_sw_enabled(a) && matches(a, m) && (!best || apic_ppr(a) < apic_ppr(best)))
            best = a;
    }
    if (best)
        s->arbiter = (best->id + 1) % s->count;
    return best;
}

bool apic_deliver(struct apic_set *s, const struct apic_message *m)
{
    bool accepted = false;
    unsigned n;

    if (m->mode == APIC_MODE_LOWEST) {
        struct apic *a = lowest_priority(s, m);

        return a && deliver_to(a, m);
    }
    for (n = 0; n < s->count; n++)
        if (matches(&s->apic[n], m))
            accepted |= deliver_to(&s->apic[n], m);
    return accepted;
}

/* SDM vol. 3, "Message Signalled Interrupts". The redirection hint makes a fixed message lowest-priority. */
bool apic_decode_msi(u64 addr, u32 data, struct apic_message *m)
{
    if (addr >> 20 != APIC_DEFAULT_BASE >> 20)
        return false;
    *m = (struct apic_message){
        .dest = bits(addr, 19, 12),
        .logical = addr & BIT(2),
        .mode = bits(data, 10, 8),
        .vector = data & 0xff,
        /* Level-triggered with the level deasserted is no message at all; devices do not send it. */
        .level = data & BIT(15),
    };
    if (m->dest == 0xff)
        m->dest = APIC_BROADCAST;
    if ((addr & BIT(3)) && m->logical && m->mode == APIC_MODE_FIXED)
        m->mode = APIC_MODE_LOWEST;
    return true;
}

void apic_encode_msi(const struct apic_message *m, u64 *addr, u32 *data)
{
    *addr = APIC_DEFAULT_BASE | (m->dest & 0xff) << 12 | (m->logical ? BIT(2) : 0);
    *data = (u32)m->mode << 8 | m->vector | (m->level ? BIT(15) | BIT(14) : 0);
}

/* --- interprocessor interrupts --- */

void apic_self_ipi(struct apic *a, u8 vector)
{
    if (vector < 16)
        apic_error(a, APIC_ESR_SEND_VECTOR);
    else if (apic_sw_enabled(a))
        apic_accept(a, vector, false);
}

static void broadcast_ipi(struct apic *a, const struct apic_message *m, bool self)
{
    unsigned n;

    for (n = 0; n < a->set->count; n++) {
        struct apic *to = &a->set->apic[n];

        if ((self || to != a) && apic_hw_enabled(to))
            deliver_to(to, m);
    }
}

void apic_send_ipi(struct apic *a)
{
    struct apic_message m = {
        .dest = apic_x2(a) ? a->icr2 : a->icr2 >> 24,
        .logical = a->icr & APIC_ICR_LOGICAL,
        .mode = bits(a->icr, 10, 8),
        .vector = a->icr & 0xff,
    };

    if (!apic_x2(a) && m.dest == 0xff)
        m.dest = APIC_BROADCAST;
    trace(irq, "APIC %u sends ICR 0x%08x to 0x%x", a->id, a->icr, m.dest);
    /* INIT level de-assert only synchronised the arbitration of processors before the Pentium 4. */
    if (m.mode == APIC_MODE_INIT && (a->icr & (APIC_ICR_ASSERT | APIC_ICR_LEVEL)) == APIC_ICR_LEVEL)
        return;
    if (m.mode <= APIC_MODE_LOWEST && m.vector < 16) {
        apic_error(a, APIC_ESR_SEND_VECTOR);
        return;
    }
    switch (bits(a->icr, 19, 18)) {
    case 0: apic_deliver(a->set, &m); break;
    case 1:
        if (m.mode == APIC_MODE_FIXED)
            apic_self_ipi(a, m.vector);
        break;
    case 2: broadcast_ipi(a, &m, true); break;
    case 3: broadcast_ipi(a, &m, false); break;
    }
}
