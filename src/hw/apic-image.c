/*
 * A local APIC as the page of registers that it shows (SDM vol. 3, "The Local APIC Block Diagram"), which is
 * how a kernel takes and gives one: KVM_GET_LAPIC and KVM_SET_LAPIC of Linux. There the id stands in bits
 * 31:24 in x2APIC mode too, and the high half of the ICR in its own register.
 */
#include "cpu/irqchip.h"
#include "hw/apic-internal.h"

/* Those that are read and written as they are; the rest is made up or has rules. */
static const struct {
    u16 reg, offset;
} plain[] = {
    {APIC_TPR, offsetof(struct apic, tpr)},
    {APIC_LDR, offsetof(struct apic, ldr)},
    {APIC_DFR, offsetof(struct apic, dfr)},
    {APIC_SVR, offsetof(struct apic, svr)},
    {APIC_ESR, offsetof(struct apic, esr)},
    {APIC_ICR, offsetof(struct apic, icr)},
    {APIC_ICR2, offsetof(struct apic, icr2)},
    {APIC_TIMER_INITIAL, offsetof(struct apic, timer_initial)},
    {APIC_TIMER_DIVIDE, offsetof(struct apic, timer_divide)},
};

static u32 *plain_field(struct apic *a, unsigned i)
{
    return (u32 *)((char *)a + plain[i].offset);
}

static u32 image_reg(const struct apic_image *image, unsigned reg)
{
    return get_le32(image->page + reg);
}

static void set_image_reg(struct apic_image *image, unsigned reg, u32 value)
{
    put_le32(image->page + reg, value);
}

void apic_get_image(struct apic *a, struct apic_image *image)
{
    u32 version = 0;

    *image = (struct apic_image){.base = a->base, .tsc_deadline = apic_timer_read_deadline(a)};
    apic_pv_eoi_settle(a);
    image->pv_eoi = a->pv_eoi;
    apic_register_read(a, APIC_VERSION, &version);
    set_image_reg(image, APIC_ID, a->id << 24);
    set_image_reg(image, APIC_VERSION, version);
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
        set_image_reg(image, plain[i].reg, *plain_field(a, i));
    set_image_reg(image, APIC_LDR, apic_ldr(a));
    set_image_reg(image, APIC_PPR, apic_ppr(a));
    for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
        set_image_reg(image, APIC_LVT_TIMER + 16 * i, a->lvt[i]);
    for (unsigned i = 0; i < 8; i++) {
        set_image_reg(image, APIC_ISR + 16 * i, a->isr[i]);
        set_image_reg(image, APIC_TMR + 16 * i, a->tmr[i]);
        set_image_reg(image, APIC_IRR + 16 * i, a->irr[i]);
    }
    set_image_reg(image, APIC_TIMER_CURRENT, apic_timer_current(a));
    if (apic_timer_done(a)) /* with an initial count, a kernel would have it expire again */
        set_image_reg(image, APIC_TIMER_INITIAL, 0);
}

/* What it holds comes from the host's kernel, which checked what the guest wrote. */
void apic_put_image(struct apic *a, const struct apic_image *image)
{
    apic_timer_stop(a);
    __atomic_store_n(&a->base, image->base, __ATOMIC_RELEASE);
    a->pv_eoi = image->pv_eoi & 1 ? image->pv_eoi & ~2ull : 0;
    a->pv_eoi_offered = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
        *plain_field(a, i) = image_reg(image, plain[i].reg);
    if (apic_x2(a))
        a->ldr = 0; /* made from the id */
    for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
        a->lvt[i] = image_reg(image, APIC_LVT_TIMER + 16 * i);
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = image_reg(image, APIC_ISR + 16 * i);
        a->tmr[i] = image_reg(image, APIC_TMR + 16 * i);
        a->irr[i] = image_reg(image, APIC_IRR + 16 * i);
    }
    a->tsc_deadline = image->tsc_deadline;
    apic_timer_resume(a, image_reg(image, APIC_TIMER_CURRENT));
    apic_sanitize(a);
    apic_update(a);
}
