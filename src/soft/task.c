/*
 * Hardware task switch (SDM vol. 3, 8.3).
 *
 * Up to the moment where the old task's state is written to its TSS, a fault belongs to the old
 * task and nothing has changed. From then on the new task is current: selectors are loaded without
 * their descriptors, and a fault while those are checked is raised at the new task's first
 * instruction.
 */
#include "base/log.h"
#include "soft/system-internal.h"

enum { TASK_SEGS = 6 };

/* Where things are in the two kinds of TSS. */
struct tss_layout {
    unsigned size; /* of a general register */
    unsigned min_limit;
    unsigned cr3, ip, flags, regs, segs, seg_step, ldt, trap;
    unsigned seg_count; /* ES CS SS DS [FS GS] */
};

static const struct tss_layout tss32 = {
    .size = 4,
    .min_limit = 0x67,
    .cr3 = 0x1c,
    .ip = 0x20,
    .flags = 0x24,
    .regs = 0x28,
    .segs = 0x48,
    .seg_step = 4,
    .ldt = 0x60,
    .trap = 0x64,
    .seg_count = 6,
};

static const struct tss_layout tss16 = {
    .size = 2,
    .min_limit = 0x2b,
    .ip = 0x0e,
    .flags = 0x10,
    .regs = 0x12,
    .segs = 0x22,
    .seg_step = 2,
    .ldt = 0x2a,
    .seg_count = 4,
};

struct task {
    const struct tss_layout *layout;
    struct descriptor desc;
    struct x86_segment tr;
    u32 cr3, ip, flags, regs[8];
    u16 segs[TASK_SEGS]; /* by enum x86_seg */
    u16 ldt;
    bool trap;
};

static u64 at(const struct x86_segment *tr, unsigned offset)
{
    return (tr->base + offset) & 0xffffffffu;
}

/* The incoming TSS: descriptor checks, then its contents. */
static void read_task(struct soft_cpu *c, u16 selector, enum soft_task_reason reason, struct task *t)
{
    bool iret = reason == SOFT_TASK_IRET;
    enum x86_vector v = iret ? X86_TS : X86_GP;
    if (selector & SELECTOR_TI)
        desc_fault(c, v, selector);
    desc_fetch(c, selector, &t->desc, v);
    unsigned type = desc_type(&t->desc);
    unsigned busy = iret ? 2 : 0;
    if (type != (DESC_TSS | busy) && type != (DESC_TSS16 | busy))
        desc_fault(c, v, selector);
    if (!desc_present(&t->desc))
        desc_fault(c, X86_NP, selector);
    t->layout = type & 8 ? &tss32 : &tss16;
    t->tr = desc_segment(&t->desc, selector);
    t->tr.attr |= 2;
    const struct tss_layout *l = t->layout;
    if (t->tr.limit < l->min_limit)
        desc_fault(c, X86_TS, selector);

    t->cr3 = l->cr3 ? (u32)soft_sys_read(c, at(&t->tr, l->cr3), 4) : 0;
    t->ip = (u32)soft_sys_read(c, at(&t->tr, l->ip), l->size);
    t->flags = (u32)soft_sys_read(c, at(&t->tr, l->flags), l->size);
    for (unsigned i = 0; i < 8; i++)
        t->regs[i] = (u32)soft_sys_read(c, at(&t->tr, l->regs + i * l->size), l->size);
    for (unsigned i = 0; i < l->seg_count; i++)
        t->segs[i] = (u16)soft_sys_read(c, at(&t->tr, l->segs + i * l->seg_step), 2);
    t->ldt = (u16)soft_sys_read(c, at(&t->tr, l->ldt), 2);
    t->trap = l->trap && (soft_sys_read(c, at(&t->tr, l->trap), 2) & 1);
}

static void check_old_task(struct soft_cpu *c, const struct tss_layout *l)
{
    const struct x86_segment *tr = &c->s->tr;
    if (tr->limit < l->min_limit)
        desc_fault(c, X86_TS, tr->selector);
    mmu_probe_as(c, MMU_SYS, at(tr, l->ip), l->segs + l->seg_count * l->seg_step - l->ip, SOFT_WRITE);
}

static void save_old_task(struct soft_cpu *c, const struct tss_layout *l, u32 flags)
{
    const struct x86_state *s = c->s;
    const struct x86_segment *tr = &s->tr;
    soft_sys_write(c, at(tr, l->ip), s->rip, l->size);
    soft_sys_write(c, at(tr, l->flags), flags, l->size);
    for (unsigned i = 0; i < 8; i++)
        soft_sys_write(c, at(tr, l->regs + i * l->size), s->gpr[i], l->size);
    for (unsigned i = 0; i < l->seg_count; i++)
        soft_sys_write(c, at(tr, l->segs + i * l->seg_step), s->seg[i].selector, 2);
}

/* Registers, selectors without descriptors, CR3. Does not raise. */
static void enter_task(struct soft_cpu *c, const struct task *t, u64 flags)
{
    struct x86_state *s = c->s;
    s->tr = t->tr;
    s->cr0 |= X86_CR0_TS;
    s->dr7 &= ~0x155ull; /* L0..L3 and LE: local to the task */
    s->rip = t->ip;
    c->insn_rip = t->ip;
    u64 mask = X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT;
    if (t->layout->size == 4)
        mask |= X86_RF | X86_VM | X86_AC | X86_VIF | X86_VIP | X86_ID;
    else
        flags &= 0xffff;
    set_flags(c, flags, mask | X86_VM);
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = t->regs[i];
    unsigned cpl = s->rflags & X86_VM ? 3 : t->segs[X86_CS] & SELECTOR_RPL;
    for (unsigned i = 0; i < TASK_SEGS; i++) {
        if (s->rflags & X86_VM)
            s->seg[i] = real_segment(&s->seg[i], t->segs[i], i == X86_CS, true);
        else
            s->seg[i] = (struct x86_segment){.selector = t->segs[i], .attr = X86_ATTR_UNUSABLE};
    }
    s->seg[X86_SS].attr |= cpl << X86_ATTR_DPL_SHIFT;
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE, .selector = t->ldt};
    if (t->layout->cr3 && x86_paging(s)) {
        s->cr3 = t->cr3;
        soft_tlb_flush_all(c, false);
    }
    soft_mode_changed(c);
}

/* --- the segments of the new task; #TS in place of #GP --- */

static void load_ldt(struct soft_cpu *c, u16 selector)
{
    struct descriptor d;
    if (selector_null(selector))
        return;
    if (selector & SELECTOR_TI)
        desc_fault(c, X86_TS, selector);
    desc_fetch(c, selector, &d, X86_TS);
    if (desc_type(&d) != DESC_LDT || !desc_present(&d))
        desc_fault(c, X86_TS, selector);
    c->s->ldt = desc_segment(&d, selector);
}

static void load_cs(struct soft_cpu *c, u16 selector)
{
    struct descriptor d;
    unsigned rpl = selector & SELECTOR_RPL;
    desc_fetch(c, selector, &d, X86_TS);
    if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        desc_fault(c, X86_TS, selector);
    if (!desc_present(&d))
        desc_fault(c, X86_NP, selector);
    desc_mark_accessed(c, &d);
    c->s->seg[X86_CS] = desc_segment(&d, selector);
}

static void load_ss(struct soft_cpu *c, u16 selector, unsigned cpl)
{
    struct descriptor d;
    desc_fetch(c, selector, &d, X86_TS);
    if (!desc_is_writable_data(&d) || desc_dpl(&d) != cpl || (selector & SELECTOR_RPL) != cpl)
        desc_fault(c, X86_TS, selector);
    if (!desc_present(&d))
        desc_fault(c, X86_SS_, selector);
    desc_mark_accessed(c, &d);
    c->s->seg[X86_SS] = desc_segment(&d, selector);
}

static void load_data(struct soft_cpu *c, enum x86_seg seg, u16 selector, unsigned cpl)
{
    struct descriptor d;
    if (selector_null(selector))
        return;
    desc_fetch(c, selector, &d, X86_TS);
    unsigned type = desc_type(&d);
    bool readable = (type & X86_ATTR_S) && (!(type & X86_ATTR_CODE) || (type & X86_ATTR_RW));
    bool privileged = cpl > desc_dpl(&d) || (selector & SELECTOR_RPL) > desc_dpl(&d);
    if (!readable || (!desc_is_conforming(&d) && privileged))
        desc_fault(c, X86_TS, selector);
    if (!desc_present(&d))
        desc_fault(c, X86_NP, selector);
    desc_mark_accessed(c, &d);
    c->s->seg[seg] = desc_segment(&d, selector);
}

static void load_segments(struct soft_cpu *c, const struct task *t)
{
    unsigned cpl = t->segs[X86_CS] & SELECTOR_RPL;
    load_ldt(c, t->ldt);
    if (c->s->rflags & X86_VM)
        return;
    load_cs(c, t->segs[X86_CS]);
    load_ss(c, t->segs[X86_SS], cpl);
    load_data(c, X86_DS, t->segs[X86_DS], cpl);
    load_data(c, X86_ES, t->segs[X86_ES], cpl);
    load_data(c, X86_FS, t->segs[X86_FS], cpl);
    load_data(c, X86_GS, t->segs[X86_GS], cpl);
    soft_mode_changed(c);
}

void soft_task_switch(struct soft_cpu *c, u16 tss_selector, enum soft_task_reason reason, bool has_error,
                      u32 error)
{
    struct x86_state *s = c->s;
    struct task t = {0};
    struct descriptor old;
    bool nested = reason == SOFT_TASK_CALL || reason == SOFT_TASK_GATE;
    soft_once(c);
    const struct tss_layout *old_layout = s->tr.attr & 8 ? &tss32 : &tss16;
    trace(exc, "cpu%u: task switch to TSS 0x%x reason %d", c->vcpu->index, tss_selector, (int)reason);

    read_task(c, tss_selector, reason, &t);
    check_old_task(c, old_layout);
    bool have_old = desc_try_fetch(c, s->tr.selector, &old);
    if (have_old)
        mmu_probe_as(c, MMU_SYS, old.la, 8, SOFT_WRITE);
    mmu_probe_as(c, MMU_SYS, t.desc.la, 8, SOFT_WRITE);
    mmu_probe_as(c, MMU_SYS, t.tr.base, 2, nested ? SOFT_WRITE : SOFT_READ);

    /* Nothing below raises until the new task is current. */
    u64 old_flags = s->rflags;
    if (reason == SOFT_TASK_IRET)
        old_flags &= ~X86_NT;
    save_old_task(c, old_layout, (u32)old_flags);
    if (!nested && have_old)
        desc_set_busy(c, &old, false);
    if (nested)
        soft_sys_write(c, at(&t.tr, 0), s->tr.selector, 2);
    if (reason != SOFT_TASK_IRET)
        desc_set_busy(c, &t.desc, true);
    enter_task(c, &t, t.flags | (nested ? X86_NT : 0));

    load_segments(c, &t);
    if (t.trap)
        s->pending_db |= X86_DR6_BT;
    if (has_error)
        soft_push(c, error, t.layout->size);
    if (t.ip > s->seg[X86_CS].limit)
        soft_gp0(c);
}
