/*
 * Between the structs of KVM's interface and x86_state. Nothing here talks to the kernel, so that tests
 * can go there and back.
 */
#include <string.h>

#include "kvm/kvm-internal.h"

#define KVM_IOAPIC_BASE 0xfec00000ull

/* --- general registers --- */

/* struct kvm_regs begins with the registers in the order of its declaration, not of their encoding. */
static const u8 gpr_order[16] = {
    X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RSP, X86_RBP,
    X86_R8,  X86_R9,  X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
};

void kvm_regs_from_state(struct kvm_regs *r, const struct x86_state *s)
{
    __u64 *gpr = &r->rax;
    for (unsigned i = 0; i < 16; i++)
        gpr[i] = s->gpr[gpr_order[i]];
    r->rip = s->rip;
    r->rflags = s->rflags;
}

void kvm_regs_to_state(const struct kvm_regs *r, struct x86_state *s)
{
    const __u64 *gpr = &r->rax;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[gpr_order[i]] = gpr[i];
    s->rip = r->rip;
    s->rflags = r->rflags | X86_FLAG1;
}

/* --- segments and control registers --- */

static struct kvm_segment segment_from(const struct x86_segment *s)
{
    u32 a = s->attr;
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = a & X86_ATTR_TYPE,
        .s = !!(a & X86_ATTR_S),
        .dpl = (a & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT,
        .present = !!(a & X86_ATTR_P),
        .avl = !!(a & X86_ATTR_AVL),
        .l = !!(a & X86_ATTR_L),
        .db = !!(a & X86_ATTR_DB),
        .g = !!(a & X86_ATTR_G),
        .unusable = !!(a & X86_ATTR_UNUSABLE),
    };
}

static void segment_to(const struct kvm_segment *k, struct x86_segment *s)
{
    u32 a = k->type & X86_ATTR_TYPE;
    a |= k->s ? X86_ATTR_S : 0;
    a |= (u32)(k->dpl & 3) << X86_ATTR_DPL_SHIFT;
    a |= k->present ? X86_ATTR_P : 0;
    a |= k->avl ? X86_ATTR_AVL : 0;
    a |= k->l ? X86_ATTR_L : 0;
    a |= k->db ? X86_ATTR_DB : 0;
    a |= k->g ? X86_ATTR_G : 0;
    a |= k->unusable ? X86_ATTR_UNUSABLE : 0;
    *s = (struct x86_segment){.base = k->base, .limit = k->limit, .attr = a, .selector = k->selector};
}

static const struct {
    u16 kvm; /* offset in struct kvm_sregs */
    enum x86_seg seg;
} segments[] = {
    {offsetof(struct kvm_sregs, cs), X86_CS}, {offsetof(struct kvm_sregs, ds), X86_DS},
    {offsetof(struct kvm_sregs, es), X86_ES}, {offsetof(struct kvm_sregs, fs), X86_FS},
    {offsetof(struct kvm_sregs, gs), X86_GS}, {offsetof(struct kvm_sregs, ss), X86_SS},
};

void kvm_sregs_from_state(struct kvm_sregs *r, const struct x86_state *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(segments); i++)
        *(struct kvm_segment *)((char *)r + segments[i].kvm) = segment_from(&s->seg[segments[i].seg]);
    r->ldt = segment_from(&s->ldt);
    r->tr = segment_from(&s->tr);
    r->gdt = (struct kvm_dtable){.base = s->gdt.base, .limit = s->gdt.limit};
    r->idt = (struct kvm_dtable){.base = s->idt.base, .limit = s->idt.limit};
    r->cr0 = s->cr0;
    r->cr2 = s->cr2;
    r->cr3 = s->cr3;
    r->cr4 = s->cr4;
    r->efer = s->efer;
}

void kvm_sregs_to_state(const struct kvm_sregs *r, struct x86_state *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(segments); i++)
        segment_to((const struct kvm_segment *)((const char *)r + segments[i].kvm), &s->seg[segments[i].seg]);
    segment_to(&r->ldt, &s->ldt);
    segment_to(&r->tr, &s->tr);
    s->gdt = (struct x86_table){.base = r->gdt.base, .limit = r->gdt.limit};
    s->idt = (struct x86_table){.base = r->idt.base, .limit = r->idt.limit};
    s->cr0 = r->cr0;
    s->cr2 = r->cr2;
    s->cr3 = r->cr3;
    s->cr4 = r->cr4;
    s->efer = r->efer;
}

/*
 * The kernel has no debug traps that are due; they become a #DB in delivery with DR6 and DR7 as it leaves
 * them (SDM vol. 3, 18.2.3 and 18.2.4). RIP is behind the instruction already.
 */
static bool debug_trap_due(const struct x86_state *s)
{
    return s->pending_db && !s->exception_pending;
}

void kvm_debugregs_from_state(struct kvm_debugregs *r, const struct x86_state *s)
{
    bool trap = debug_trap_due(s);

    for (unsigned i = 0; i < 4; i++)
        r->db[i] = s->dr[i];
    r->dr6 = trap ? (s->dr6 & ~0xfull) | s->pending_db : s->dr6;
    r->dr7 = trap ? s->dr7 & ~X86_DR7_GD : s->dr7;
}

void kvm_debugregs_to_state(const struct kvm_debugregs *r, struct x86_state *s)
{
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = r->db[i];
    s->dr6 = r->dr6;
    s->dr7 = r->dr7;
}

/* --- events in flight --- */

enum { SHADOW_STI = 1, SHADOW_MOV_SS = 2 }; /* of x86_state.int_shadow */

void kvm_events_from_state(struct kvm_vcpu_events *e, const struct x86_state *s)
{
    *e = (struct kvm_vcpu_events){.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};
    e->exception.injected = s->exception_pending || debug_trap_due(s);
    e->exception.nr = debug_trap_due(s) ? X86_DB : s->exception_vector;
    e->exception.has_error_code = s->exception_pending && s->exception_has_error;
    e->exception.error_code = s->exception_error;
    e->interrupt.injected = s->interrupt_pending;
    e->interrupt.nr = s->interrupt_vector;
    if (s->int_shadow)
        e->interrupt.shadow =
            s->int_shadow == SHADOW_STI ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
    e->nmi.pending = s->nmi_pending;
    e->nmi.masked = s->nmi_blocked;
}

/*
 * INT n, INT3 and INTO that the kernel was delivering when it stopped are left out: RIP is still at the
 * instruction, which will be executed again. An NMI half delivered has not blocked others yet.
 */
void kvm_events_to_state(const struct kvm_vcpu_events *e, struct x86_state *s)
{
    bool soft_exception = e->exception.injected && (e->exception.nr == X86_BP || e->exception.nr == X86_OFV);

    s->exception_pending = (e->exception.injected && !soft_exception) || e->exception.pending;
    s->exception_vector = s->exception_pending ? e->exception.nr & 31 : 0;
    s->exception_has_error = s->exception_pending && e->exception.has_error_code;
    s->exception_error = s->exception_has_error ? e->exception.error_code : 0;
    s->interrupt_pending = e->interrupt.injected && !e->interrupt.soft;
    s->interrupt_vector = s->interrupt_pending ? e->interrupt.nr : 0;
    s->pending_db = 0;
    s->int_shadow = 0;
    if (e->interrupt.shadow)
        s->int_shadow = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : SHADOW_STI;
    s->nmi_pending = e->nmi.injected || e->nmi.pending;
    s->nmi_blocked = e->nmi.masked && !e->nmi.injected;
}

/* --- XSAVE (SDM vol. 1, 13.4) --- */

#define XSAVE_XMM 160
#define XSAVE_BV 512
#define XSAVE_HEADER_END 576

enum { COMPONENT_YMM = 2, COMPONENT_K = 5, COMPONENT_ZMM = 6, COMPONENT_ZMM_HIGH = 7, COMPONENT_PKRU = 9 };

/*
 * How the pieces of x86_fpu lie in a component: @count pieces of @size bytes, one after the other there
 * and @stride apart here.
 */
static const struct piece {
    u8 component, count, size, stride;
    u16 offset; /* in x86_fpu */
} pieces[] = {
    {COMPONENT_YMM, 16, 16, 64, offsetof(struct x86_fpu, vec) + 16},
    {COMPONENT_K, 8, 8, 8, offsetof(struct x86_fpu, k)},
    {COMPONENT_ZMM, 16, 32, 64, offsetof(struct x86_fpu, vec) + 32},
    {COMPONENT_ZMM_HIGH, 16, 64, 64, offsetof(struct x86_fpu, vec) + 16 * 64},
    {COMPONENT_PKRU, 1, 4, 4, offsetof(struct x86_fpu, pkru)},
};

void kvm_xsave_from_state(void *image, const struct kvm_xsave_layout *l, const struct x86_state *s)
{
    u8 *to = image;
    memset(to, 0, l->size);
    memcpy(to, s->fpu.fxsave, XSAVE_XMM);
    for (unsigned i = 0; i < 16; i++)
        memcpy(to + XSAVE_XMM + 16 * i, s->fpu.vec[i], 16);
    for (unsigned p = 0; p < ARRAY_SIZE(pieces); p++) {
        const struct piece *q = &pieces[p];
        for (unsigned i = 0; l->offset[q->component] && i < q->count; i++)
            memcpy(to + l->offset[q->component] + i * q->size,
                   (const u8 *)&s->fpu + q->offset + i * q->stride, q->size);
    }
    put_le64(to + XSAVE_BV, l->components);
}

/* A component that XSTATE_BV does not name is in its initial state: the kernel wrote zeros there or nothing.
 */
void kvm_xsave_to_state(const void *image, const struct kvm_xsave_layout *l, struct x86_state *s)
{
    const u8 *from = image;
    u64 present = get_le64(from + XSAVE_BV);
    u32 mxcsr_mask = s->fpu.mxcsr_mask;
    memcpy(s->fpu.fxsave, from, XSAVE_XMM);
    s->fpu.mxcsr_mask = mxcsr_mask;
    if (!(present & X86_XCR0_X87)) {
        memset(s->fpu.st, 0, sizeof s->fpu.st);
        s->fpu.fcw = 0x37f;
        s->fpu.fsw = s->fpu.fop = 0;
        s->fpu.ftw = 0;
        s->fpu.fip = s->fpu.fdp = 0;
    }
    for (unsigned i = 0; i < 16; i++) {
        if (present & X86_XCR0_SSE)
            memcpy(s->fpu.vec[i], from + XSAVE_XMM + 16 * i, 16);
        else
            memset(s->fpu.vec[i], 0, 16);
    }
    for (unsigned p = 0; p < ARRAY_SIZE(pieces); p++) {
        const struct piece *q = &pieces[p];
        for (unsigned i = 0; l->offset[q->component] && i < q->count; i++) {
            u8 *to = (u8 *)&s->fpu + q->offset + i * q->stride;
            if (present >> q->component & 1)
                memcpy(to, from + l->offset[q->component] + i * q->size, q->size);
            else
                memset(to, 0, q->size);
        }
    }
}

/* --- interrupt controllers --- */

static void pic_from_image(struct kvm_pic_state *k, const struct pic_image *p)
{
    *k = (struct kvm_pic_state){
        .last_irr = p->lines,
        .irr = p->irr,
        .imr = p->imr,
        .isr = p->isr,
        .priority_add = p->highest,
        .irq_base = p->base,
        .read_reg_select = p->read_isr,
        .poll = p->poll,
        .special_mask = p->special_mask,
        .init_state = p->init_step,
        .auto_eoi = p->auto_eoi,
        .rotate_on_auto_eoi = p->rotate_auto_eoi,
        .special_fully_nested_mode = p->nested_specially,
        .init4 = p->icw4,
        .elcr = p->elcr,
    };
}

static void pic_to_image(const struct kvm_pic_state *k, struct pic_image *p)
{
    *p = (struct pic_image){
        .lines = k->last_irr,
        .irr = k->irr,
        .imr = k->imr,
        .isr = k->isr,
        .highest = k->priority_add,
        .base = k->irq_base,
        .read_isr = k->read_reg_select,
        .poll = k->poll,
        .special_mask = k->special_mask,
        .init_step = k->init_state,
        .auto_eoi = k->auto_eoi,
        .rotate_auto_eoi = k->rotate_on_auto_eoi,
        .nested_specially = k->special_fully_nested_mode,
        .icw4 = k->init4,
        .elcr = k->elcr,
    };
}

/* irr are asserted level-triggered pins: of an edge the kernel would send another message. */
static void ioapic_from_image(struct kvm_ioapic_state *k, const struct chips_image *image)
{
    *k = (struct kvm_ioapic_state){
        .base_address = KVM_IOAPIC_BASE, .ioregsel = image->select, .id = image->id, .irr = image->asserted};
    for (unsigned pin = 0; pin < IRQCHIP_PINS; pin++)
        k->redirtbl[pin].bits = image->redir[pin];
}

static void ioapic_to_image(const struct kvm_ioapic_state *k, struct chips_image *image)
{
    image->select = (u8)k->ioregsel;
    image->id = (u8)k->id;
    image->asserted = k->irr;
    for (unsigned pin = 0; pin < IRQCHIP_PINS; pin++)
        image->redir[pin] = k->redirtbl[pin].bits;
}

/* What each 8259 lets the guest write of ELCR stands in the state, and the kernel takes it as given. */
void kvm_chip_from_image(struct kvm_irqchip *chip, const struct chips_image *image)
{
    static const u8 elcr_mask[2] = {0xf8, 0xde};
    if (chip->chip_id == KVM_IRQCHIP_IOAPIC) {
        ioapic_from_image(&chip->chip.ioapic, image);
        return;
    }
    pic_from_image(&chip->chip.pic, &image->pic[chip->chip_id]);
    chip->chip.pic.elcr_mask = elcr_mask[chip->chip_id];
}

void kvm_chip_to_image(const struct kvm_irqchip *chip, struct chips_image *image)
{
    if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
        ioapic_to_image(&chip->chip.ioapic, image);
    else
        pic_to_image(&chip->chip.pic, &image->pic[chip->chip_id]);
}
