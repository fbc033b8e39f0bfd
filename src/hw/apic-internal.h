/* What the files of the local APIC share: registers and priority (apic.c), bus (apic-bus.c), timer. */
#ifndef TRAPEZE_HW_APIC_INTERNAL_H
#define TRAPEZE_HW_APIC_INTERNAL_H

#include "hw/apic.h"

#define APIC_LVT_MODE_SHIFT 8
#define APIC_ICR_LOGICAL BIT(11)
#define APIC_ICR_ASSERT BIT(14)
#define APIC_ICR_LEVEL BIT(15)

static inline bool apic_hw_enabled(const struct apic *a)
{
    return a->base & APIC_BASE_ENABLE;
}
static inline bool apic_x2(const struct apic *a)
{
    return (a->base & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) == (APIC_BASE_ENABLE | APIC_BASE_EXTD);
}
static inline bool apic_sw_enabled(const struct apic *a)
{
    return apic_hw_enabled(a) && (a->svr & APIC_SVR_ENABLE);
}
static inline unsigned apic_lvt_index(u32 reg)
{
    return (reg - APIC_LVT_TIMER) >> 4;
}
static inline u32 apic_lvt(const struct apic *a, enum apic_reg reg)
{
    return a->lvt[apic_lvt_index(reg)];
}
static inline unsigned apic_lvt_mode(u32 lvt)
{
    return bits(lvt, APIC_LVT_MODE_SHIFT + 2, APIC_LVT_MODE_SHIFT);
}

/* apic.c */

/* Raises or takes back the processor's interrupt request, after any change of what it depends on. */
void apic_update(struct apic *a);
u8 apic_ppr(const struct apic *a);
/* Logical destination register as it reads: made from the id in x2APIC mode. */
u32 apic_ldr(const struct apic *a);
/* Accepts @vector into the IRR; an illegal one is an error instead. */
bool apic_accept(struct apic *a, u8 vector, bool level);
void apic_error(struct apic *a, u32 bit);

/* False: no such register. */
bool apic_register_read(struct apic *a, u32 reg, u32 *value);
/* Clears what cannot be in loaded registers. */
void apic_sanitize(struct apic *a);
/* Takes an offered PV EOI back. */
void apic_pv_eoi_settle(struct apic *a);

/* apic-bus.c: the ICR's low half was written. */
void apic_send_ipi(struct apic *a);
void apic_self_ipi(struct apic *a, u8 vector);

/* apic-timer.c */
void apic_timer_init(struct apic *a);
void apic_timer_stop(struct apic *a);
/* The initial count, the divide register or the LVT entry changed. */
void apic_timer_write_initial(struct apic *a, u32 value);
void apic_timer_write_divide(struct apic *a, u32 value);
void apic_timer_write_lvt(struct apic *a, u32 value);
u32 apic_timer_current(const struct apic *a);
u64 apic_timer_read_deadline(const struct apic *a);
void apic_timer_write_deadline(struct apic *a, u64 value);
/* Arms the timer for loaded state. */
void apic_timer_restore(struct apic *a);
/* A count of one-shot mode has expired, or there was none. */
bool apic_timer_done(const struct apic *a);
/*
 * The same when @current is what is left to count. With nothing left of a one-shot count it expires now: a
 * kernel may have seen that and not told its processor yet. (One that it did tell hears it twice: better than
 * never.)
 */
void apic_timer_resume(struct apic *a, u32 current);

#endif
