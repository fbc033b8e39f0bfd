/*
 * Segment registers and far transfers (SDM vol. 3, chapters 5 and 6; vol. 2, the instructions).
 *
 * Every transfer gathers what it needs (descriptors, the new stack, values popped), with all the
 * checks that may raise, and then sets registers: rule 1 of soft.h. The CPL is SS's DPL, so SS is
 * given the new level's DPL even when it is null.
 */
#include "soft/system-internal.h"

/* --- loading data segments --- */

static bool wide_code(const struct soft_cpu *c)
{
    return c->code_size == 8;
}

static void load_null(struct soft_cpu *c, enum x86_seg seg, u16 selector)
{
    struct x86_segment *r = &c->s->seg[seg];
    if (seg == X86_SS) {
        /* A null SS is for 64-bit kernels only. */
        if (!wide_code(c) || c->cpl == 3 || (selector & SELECTOR_RPL) != c->cpl)
            soft_gp0(c);
        *r = null_ss(c->cpl);
        return;
    }
    /* Intel's processors clear the hidden base, AMD's keep it. */
    u64 base = c->vcpu->vm->cpuid->amd ? r->base : 0;
    *r = (struct x86_segment){.base = base, .attr = X86_ATTR_UNUSABLE, .selector = selector};
}

static void check_ss(struct soft_cpu *c, const struct descriptor *d, u16 selector, unsigned cpl)
{
    if ((selector & SELECTOR_RPL) != cpl || desc_dpl(d) != cpl || !desc_is_writable_data(d))
        desc_fault(c, X86_GP, selector);
    if (!desc_present(d))
        desc_fault(c, X86_SS_, selector);
}

static bool readable(const struct descriptor *d)
{
    unsigned type = desc_type(d);
    return (type & X86_ATTR_S) && (!(type & X86_ATTR_CODE) || (type & X86_ATTR_RW));
}

static void check_data(struct soft_cpu *c, const struct descriptor *d, u16 selector)
{
    unsigned rpl = selector & SELECTOR_RPL;
    if (!readable(d))
        desc_fault(c, X86_GP, selector);
    if (!desc_is_conforming(d) && (rpl > desc_dpl(d) || c->cpl > desc_dpl(d)))
        desc_fault(c, X86_GP, selector);
    if (!desc_present(d))
        desc_fault(c, X86_NP, selector);
}

void soft_load_segment(struct soft_cpu *c, enum x86_seg seg, u16 selector)
{
    struct x86_state *s = c->s;
    if (!x86_protected(s) || x86_v8086(s)) {
        s->seg[seg] = real_segment(&s->seg[seg], selector, false, x86_v8086(s));
    } else if (selector_null(selector)) {
        load_null(c, seg, selector);
    } else {
        struct descriptor d;
        desc_fetch(c, selector, &d, X86_GP);
        if (seg == X86_SS)
            check_ss(c, &d, selector, c->cpl);
        else
            check_data(c, &d, selector);
        desc_mark_accessed(c, &d);
        s->seg[seg] = desc_segment(&d, selector);
    }
    if (seg == X86_SS)
        soft_mode_changed(c);
    else
        soft_data_segment_changed(c);
}

void drop_inner_segments(struct soft_cpu *c, unsigned cpl)
{
    static const u8 data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct x86_segment *r = &c->s->seg[data[i]];
        bool conforming = (r->attr & X86_ATTR_CODE) && (r->attr & X86_ATTR_DC);
        unsigned dpl = (r->attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT;
        if (!(r->attr & X86_ATTR_UNUSABLE) && dpl < cpl && !conforming)
            *r = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    }
}

/* --- LDTR and TR --- */

static void require_protected(struct soft_cpu *c)
{
    if (!x86_protected(c->s) || x86_v8086(c->s))
        soft_ud(c);
}

static void fetch_system(struct soft_cpu *c, u16 selector, struct descriptor *d)
{
    if (selector & SELECTOR_TI)
        desc_fault(c, X86_GP, selector);
    desc_fetch(c, selector, d, X86_GP);
    if (x86_long_mode(c->s))
        desc_fetch_high(c, selector, d, X86_GP);
}

void soft_lldt(struct soft_cpu *c, u16 selector)
{
    struct descriptor d;
    require_protected(c);
    soft_require_cpl0(c);
    if (selector_null(selector)) {
        c->s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE, .selector = selector};
        return;
    }
    fetch_system(c, selector, &d);
    if (desc_type(&d) != DESC_LDT)
        desc_fault(c, X86_GP, selector);
    if (!desc_present(&d))
        desc_fault(c, X86_NP, selector);
    c->s->ldt = desc_segment(&d, selector);
}

void soft_ltr(struct soft_cpu *c, u16 selector)
{
    struct descriptor d;
    require_protected(c);
    soft_require_cpl0(c);
    if (selector_null(selector))
        soft_gp0(c);
    fetch_system(c, selector, &d);
    bool tss16 = desc_type(&d) == DESC_TSS16 && !x86_long_mode(c->s);
    if (desc_type(&d) != DESC_TSS && !tss16)
        desc_fault(c, X86_GP, selector);
    if (!desc_present(&d))
        desc_fault(c, X86_NP, selector);
    desc_set_busy(c, &d, true);
    c->s->tr = desc_segment(&d, selector);
    c->s->tr.attr |= 2;
}

/* --- LAR, LSL, VERR, VERW --- */

/* System descriptor types that LAR and LSL show, by mode. */
#define LAR_LEGACY (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12)
#define LAR_LONG (1u << 2 | 1u << 9 | 1u << 11 | 1u << 12)
#define LSL_LEGACY (1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11)
#define LSL_LONG (1u << 2 | 1u << 9 | 1u << 11)

static bool visible(struct soft_cpu *c, u16 selector, struct descriptor *d, u32 system_types)
{
    require_protected(c);
    if (selector_null(selector) || !desc_try_fetch(c, selector, d))
        return false;
    unsigned type = desc_type(d);
    if (!(type & X86_ATTR_S) && !(system_types & 1u << type))
        return false;
    return desc_is_conforming(d) || (c->cpl <= desc_dpl(d) && (selector & SELECTOR_RPL) <= desc_dpl(d));
}

bool soft_lar(struct soft_cpu *c, u16 selector, u32 *value)
{
    struct descriptor d;
    if (!visible(c, selector, &d, x86_long_mode(c->s) ? LAR_LONG : LAR_LEGACY))
        return false;
    *value = (u32)(d.low >> 32) & 0x00ffff00;
    return true;
}

bool soft_lsl(struct soft_cpu *c, u16 selector, u32 *value)
{
    struct descriptor d;
    if (!visible(c, selector, &d, x86_long_mode(c->s) ? LSL_LONG : LSL_LEGACY))
        return false;
    *value = desc_segment(&d, selector).limit;
    return true;
}

bool soft_verr(struct soft_cpu *c, u16 selector, bool write)
{
    struct descriptor d;
    if (!visible(c, selector, &d, 0))
        return false;
    return write ? desc_is_writable_data(&d) : readable(&d);
}

/* --- checks of memory operands --- */

u64 soft_segment_check(struct soft_cpu *c, enum x86_seg seg, u64 offset, unsigned size,
                       enum soft_access access)
{
    const struct x86_segment *r = &c->s->seg[seg];
    enum x86_vector v = seg == X86_SS ? X86_SS_ : X86_GP;
    if (wide_code(c)) {
        if (seg == X86_FS || seg == X86_GS)
            offset += r->base;
        return segment_address(c, r, offset, size, true, v, 0);
    }
    if (x86_protected(c->s) && !x86_v8086(c->s)) {
        bool code = r->attr & X86_ATTR_CODE, rw = r->attr & X86_ATTR_RW;
        if (r->attr & X86_ATTR_UNUSABLE)
            soft_raise_err(c, v, 0);
        if (access == SOFT_WRITE ? code || !rw : access == SOFT_READ && code && !rw)
            soft_raise_err(c, v, 0);
    }
    return segment_address(c, r, offset, size, false, v, 0);
}

void soft_jump(struct soft_cpu *c, u64 target)
{
    if (wide_code(c) ? !x86_canonical(target) : target > c->s->seg[X86_CS].limit)
        soft_gp0(c);
    c->s->rip = target;
}

/* --- far JMP and CALL --- */

static u64 opsize_mask(unsigned opsize)
{
    return MASK(opsize * 8);
}

static bool real_or_v86(const struct soft_cpu *c)
{
    return !x86_protected(c->s) || x86_v8086(c->s);
}

static void set_real_cs(struct soft_cpu *c, u16 selector, u64 rip)
{
    struct x86_segment *cs = &c->s->seg[X86_CS];
    *cs = real_segment(cs, selector, true, x86_v8086(c->s));
    c->s->rip = rip;
    soft_mode_changed(c);
}

static void check_real_target(struct soft_cpu *c, u64 rip)
{
    const struct x86_segment *cs = &c->s->seg[X86_CS];
    if (rip > real_segment(cs, 0, true, x86_v8086(c->s)).limit)
        soft_gp0(c);
}

/* The code segment has both L and D set, or is not what a gate of long mode leads to. */
static void check_long_code(struct soft_cpu *c, const struct descriptor *d, u16 selector, bool gate)
{
    u32 attr = desc_attr(d);
    if (!x86_long_mode(c->s))
        return;
    if (gate ? !(attr & X86_ATTR_L) || (attr & X86_ATTR_DB) : (attr & X86_ATTR_L) && (attr & X86_ATTR_DB))
        desc_fault(c, X86_GP, selector);
}

/* Enters the checked code segment @d at @rip with CS.RPL = @cpl. Does not raise. */
static void set_cs(struct soft_cpu *c, const struct descriptor *d, u16 selector, unsigned cpl, u64 rip)
{
    c->s->seg[X86_CS] = desc_segment(d, (u16)((selector & ~SELECTOR_RPL) | cpl));
    c->s->rip = rip;
    soft_mode_changed(c);
}

/* The checks of a transfer straight to a code segment, which keeps CPL. */
static void check_direct(struct soft_cpu *c, struct descriptor *d, u16 selector)
{
    if (desc_is_conforming(d)) {
        if (desc_dpl(d) > c->cpl)
            desc_fault(c, X86_GP, selector);
    } else if ((selector & SELECTOR_RPL) > c->cpl || desc_dpl(d) != c->cpl) {
        desc_fault(c, X86_GP, selector);
    }
    if (!desc_present(d))
        desc_fault(c, X86_NP, selector);
    check_long_code(c, d, selector, false);
}

static void check_gate(struct soft_cpu *c, const struct descriptor *gate, u16 selector)
{
    if (desc_dpl(gate) < c->cpl || desc_dpl(gate) < (selector & SELECTOR_RPL))
        desc_fault(c, X86_GP, selector);
    if (!desc_present(gate))
        desc_fault(c, X86_NP, selector);
}

/* The code segment that a call gate leads to. */
static void fetch_gate_target(struct soft_cpu *c, u16 selector, struct descriptor *d)
{
    desc_fetch(c, selector, d, X86_GP);
    if (!desc_is_code(d) || desc_dpl(d) > c->cpl)
        desc_fault(c, X86_GP, selector);
    check_long_code(c, d, selector, true);
    if (!desc_present(d))
        desc_fault(c, X86_NP, selector);
}

static void jmp_call_gate(struct soft_cpu *c, const struct descriptor *gate)
{
    u16 selector = gate_selector(gate);
    struct descriptor d;
    fetch_gate_target(c, selector, &d);
    if (!desc_is_conforming(&d) && desc_dpl(&d) != c->cpl)
        desc_fault(c, X86_GP, selector);
    u64 rip = gate_offset(gate, desc_type(gate) != DESC_CALL16);
    check_code_target(c, &d, rip);
    desc_mark_accessed(c, &d);
    set_cs(c, &d, selector, c->cpl, rip);
}

/* A call through a gate to more privilege: a new stack, with parameters copied (not in long mode). */
static void call_inner(struct soft_cpu *c, const struct descriptor *gate, struct descriptor *d, unsigned size,
                       u64 rip)
{
    struct x86_state *s = c->s;
    struct stack from, to;
    unsigned cpl = desc_dpl(d);
    stack_current(c, &from);
    stack_inner(c, cpl, &to);
    stack_push(c, &to, s->seg[X86_SS].selector, size);
    stack_push(c, &to, s->gpr[X86_RSP], size);
    if (!x86_long_mode(s)) {
        unsigned count = (unsigned)(gate->low >> 32) & 31;
        for (unsigned i = count; i > 0; i--) {
            struct stack at = from;
            stack_skip(&at, (u64)(i - 1) * size);
            stack_push(c, &to, stack_pop(c, &at, size), size);
        }
    }
    stack_push(c, &to, s->seg[X86_CS].selector, size);
    stack_push(c, &to, s->rip, size);
    desc_mark_accessed(c, d);
    stack_commit(c, &to);
    set_cs(c, d, gate_selector(gate), cpl, rip);
}

static void call_same(struct soft_cpu *c, struct descriptor *d, u16 selector, unsigned size, u64 rip)
{
    struct stack st;
    stack_current(c, &st);
    stack_push(c, &st, c->s->seg[X86_CS].selector, size);
    stack_push(c, &st, c->s->rip, size);
    desc_mark_accessed(c, d);
    stack_commit(c, &st);
    set_cs(c, d, selector, c->cpl, rip);
}

static void call_call_gate(struct soft_cpu *c, const struct descriptor *gate)
{
    bool gate16 = desc_type(gate) == DESC_CALL16;
    unsigned size = x86_long_mode(c->s) ? 8 : gate16 ? 2 : 4;
    struct descriptor d;
    fetch_gate_target(c, gate_selector(gate), &d);
    u64 rip = gate_offset(gate, !gate16);
    check_code_target(c, &d, rip);
    if (!desc_is_conforming(&d) && desc_dpl(&d) < c->cpl)
        call_inner(c, gate, &d, size, rip);
    else
        call_same(c, &d, gate_selector(gate), size, rip);
}

/* A far JMP or CALL to something that is not a code segment. */
static void system_transfer(struct soft_cpu *c, u16 selector, struct descriptor *d, bool call)
{
    enum soft_task_reason reason = call ? SOFT_TASK_CALL : SOFT_TASK_JMP;
    unsigned type = desc_type(d);
    if (x86_long_mode(c->s)) {
        if (type != DESC_CALL)
            desc_fault(c, X86_GP, selector);
        desc_fetch_high(c, selector, d, X86_GP);
    }
    switch (type) {
    case DESC_CALL16:
    case DESC_CALL:
        check_gate(c, d, selector);
        if (call)
            call_call_gate(c, d);
        else
            jmp_call_gate(c, d);
        break;
    case DESC_TASK_GATE:
        check_gate(c, d, selector);
        soft_task_switch(c, gate_selector(d), reason, false, 0);
        break;
    case DESC_TSS16:
    case DESC_TSS:
        if (desc_dpl(d) < c->cpl || desc_dpl(d) < (selector & SELECTOR_RPL))
            desc_fault(c, X86_GP, selector);
        soft_task_switch(c, selector, reason, false, 0);
        break;
    default: desc_fault(c, X86_GP, selector);
    }
}

void soft_jmp_far(struct soft_cpu *c, u16 selector, u64 offset, unsigned opsize)
{
    struct descriptor d;
    offset &= opsize_mask(opsize);
    if (real_or_v86(c)) {
        check_real_target(c, offset);
        set_real_cs(c, selector, offset);
        return;
    }
    desc_fetch(c, selector, &d, X86_GP);
    if (!(desc_type(&d) & X86_ATTR_S)) {
        system_transfer(c, selector, &d, false);
        return;
    }
    if (!desc_is_code(&d))
        desc_fault(c, X86_GP, selector);
    check_direct(c, &d, selector);
    check_code_target(c, &d, offset);
    desc_mark_accessed(c, &d);
    set_cs(c, &d, selector, c->cpl, offset);
}

static void call_far_real(struct soft_cpu *c, u16 selector, u64 offset, unsigned opsize)
{
    struct stack st;
    stack_current(c, &st);
    stack_push(c, &st, c->s->seg[X86_CS].selector, opsize);
    stack_push(c, &st, c->s->rip, opsize);
    check_real_target(c, offset);
    stack_commit(c, &st);
    set_real_cs(c, selector, offset);
}

void soft_call_far(struct soft_cpu *c, u16 selector, u64 offset, unsigned opsize)
{
    struct descriptor d;
    offset &= opsize_mask(opsize);
    if (real_or_v86(c)) {
        call_far_real(c, selector, offset, opsize);
        return;
    }
    desc_fetch(c, selector, &d, X86_GP);
    if (!(desc_type(&d) & X86_ATTR_S)) {
        system_transfer(c, selector, &d, true);
        return;
    }
    if (!desc_is_code(&d))
        desc_fault(c, X86_GP, selector);
    check_direct(c, &d, selector);
    check_code_target(c, &d, offset);
    call_same(c, &d, selector, opsize, offset);
}

/* --- far RET and IRET --- */

/* The checks of the code segment that RETF and IRET return to; returns the new CPL. */
static unsigned fetch_return_code(struct soft_cpu *c, u16 selector, struct descriptor *d)
{
    unsigned rpl = selector & SELECTOR_RPL;
    desc_fetch(c, selector, d, X86_GP);
    if (!desc_is_code(d) || rpl < c->cpl)
        desc_fault(c, X86_GP, selector);
    if (desc_is_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl)
        desc_fault(c, X86_GP, selector);
    check_long_code(c, d, selector, false);
    if (!desc_present(d))
        desc_fault(c, X86_NP, selector);
    return rpl;
}

/* SS:RSP of the level returned to, checked, into @to. */
static void load_return_stack(struct soft_cpu *c, const struct descriptor *code, unsigned cpl, u16 selector,
                              u64 rsp, struct stack *to)
{
    bool code64 = x86_long_mode(c->s) && desc_is_code64(code);
    to->rsp = rsp;
    if (selector_null(selector)) {
        if (!code64 || cpl == 3 || (selector & SELECTOR_RPL) != cpl)
            soft_gp0(c);
        to->ss = null_ss(cpl);
        to->width = 8;
        return;
    }
    struct descriptor d;
    desc_fetch(c, selector, &d, X86_GP);
    check_ss(c, &d, selector, cpl);
    desc_mark_accessed(c, &d);
    to->ss = desc_segment(&d, selector);
    to->width = code64 ? 8 : to->ss.attr & X86_ATTR_DB ? 4 : 2;
}

static void ret_far_real(struct soft_cpu *c, unsigned opsize, u16 pop)
{
    struct stack st;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    check_real_target(c, rip);
    stack_skip(&st, pop);
    stack_commit(c, &st);
    set_real_cs(c, cs, rip);
}

void soft_ret_far(struct soft_cpu *c, unsigned opsize, u16 pop)
{
    if (real_or_v86(c)) {
        ret_far_real(c, opsize, pop);
        return;
    }
    struct stack st;
    struct descriptor d;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    unsigned cpl = fetch_return_code(c, cs, &d);
    stack_skip(&st, pop);
    if (cpl != c->cpl) {
        u64 rsp = stack_pop(c, &st, opsize);
        u16 ss = (u16)stack_pop(c, &st, opsize);
        load_return_stack(c, &d, cpl, ss, rsp, &st);
        stack_skip(&st, pop);
    }
    check_code_target(c, &d, rip);
    desc_mark_accessed(c, &d);
    bool outer = cpl != c->cpl;
    stack_commit(c, &st);
    if (outer)
        drop_inner_segments(c, cpl);
    set_cs(c, &d, cs, cpl, rip);
}

static void iret_real(struct soft_cpu *c, unsigned opsize)
{
    struct stack st;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    u64 flags = stack_pop(c, &st, opsize);
    check_real_target(c, rip);
    stack_commit(c, &st);
    set_flags(c, flags, popf_mask(c, opsize));
    c->s->nmi_blocked = 0;
    set_real_cs(c, cs, rip);
}

/* In virtual-8086 mode: SDM vol. 3, 21.2.5 and table 21-2. */
static void iret_v86(struct soft_cpu *c, unsigned opsize)
{
    struct x86_state *s = c->s;
    if ((s->rflags & X86_IOPL) == X86_IOPL) {
        iret_real(c, opsize);
        return;
    }
    if (!(s->cr4 & X86_CR4_VME) || opsize != 2)
        soft_gp0(c);
    struct stack st;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    u64 flags = stack_pop(c, &st, opsize);
    if ((flags & X86_TF) || ((flags & X86_IF) && (s->rflags & X86_VIP)))
        soft_gp0(c);
    check_real_target(c, rip);
    if (flags & X86_IF)
        flags |= X86_VIF;
    stack_commit(c, &st);
    set_flags(c, flags, popf_mask(c, 2) | X86_VIF); /* which at this IOPL has neither IF nor IOPL */
    s->nmi_blocked = 0;
    set_real_cs(c, cs, rip);
}

/* IRET at CPL 0 with VM set in the image: enters virtual-8086 mode. */
static void iret_to_v86(struct soft_cpu *c, struct stack *st, u32 eip, u16 cs, u32 flags)
{
    static const u8 order[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    struct x86_state *s = c->s;
    u16 selector[ARRAY_SIZE(order)];
    u32 esp = (u32)stack_pop(c, st, 4);
    u16 ss = (u16)stack_pop(c, st, 4);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        selector[i] = (u16)stack_pop(c, st, 4);
    if (eip > 0xffff)
        soft_gp0(c);
    set_flags(c, flags, popf_mask(c, 4) | X86_VM | X86_VIF | X86_VIP);
    s->gpr[X86_RSP] = esp;
    s->seg[X86_SS] = real_segment(&s->seg[X86_SS], ss, false, true);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        s->seg[order[i]] = real_segment(&s->seg[order[i]], selector[i], false, true);
    s->nmi_blocked = 0;
    set_real_cs(c, cs, eip);
}

static void iret_protected(struct soft_cpu *c, unsigned opsize)
{
    struct stack st;
    struct descriptor d;
    stack_current(c, &st);
    u64 rip = stack_pop(c, &st, opsize);
    u16 cs = (u16)stack_pop(c, &st, opsize);
    u64 flags = stack_pop(c, &st, opsize);
    if ((flags & X86_VM) && opsize == 4 && c->cpl == 0 && !x86_long_mode(c->s)) {
        iret_to_v86(c, &st, (u32)rip, cs, (u32)flags);
        return;
    }
    unsigned cpl = fetch_return_code(c, cs, &d);
    bool outer = cpl != c->cpl;
    if (outer || wide_code(c)) { /* 64-bit mode pops SS:RSP always */
        u64 rsp = stack_pop(c, &st, opsize);
        u16 ss = (u16)stack_pop(c, &st, opsize);
        load_return_stack(c, &d, cpl, ss, rsp, &st);
    }
    check_code_target(c, &d, rip);
    desc_mark_accessed(c, &d);
    u64 mask = popf_mask(c, opsize); /* as the old CPL allows */
    if (c->cpl == 0 && opsize >= 4)
        mask |= X86_VIF | X86_VIP;
    set_flags(c, flags, mask);
    stack_commit(c, &st);
    if (outer)
        drop_inner_segments(c, cpl);
    c->s->nmi_blocked = 0;
    set_cs(c, &d, cs, cpl, rip);
}

void soft_iret(struct soft_cpu *c, unsigned opsize)
{
    if (!x86_protected(c->s)) {
        iret_real(c, opsize);
    } else if (x86_v8086(c->s)) {
        iret_v86(c, opsize);
    } else if (c->s->rflags & X86_NT) {
        if (x86_long_mode(c->s))
            soft_gp0(c);
        u16 link = (u16)soft_sys_read(c, c->s->tr.base, 2);
        soft_task_switch(c, link, SOFT_TASK_IRET, false, 0);
    } else {
        iret_protected(c, opsize);
    }
}
