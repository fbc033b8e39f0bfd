/* The stack: pushing and popping on the current one and on one that is about to become current. */
#include "soft/mmu-inline.h"
#include "soft/system-internal.h"

u64 segment_address(struct soft_cpu *c, const struct x86_segment *seg, u64 offset, unsigned size, bool wide,
                    enum x86_vector v, u16 error)
{
    if (wide) {
        if (!x86_canonical(offset) || !x86_canonical(offset + size - 1))
            soft_raise_err(c, v, error);
        return offset;
    }
    u64 last = offset + size - 1;
    bool inside = last <= seg->limit;
    bool data = (seg->attr & (X86_ATTR_S | X86_ATTR_CODE)) == X86_ATTR_S;
    if (data && (seg->attr & X86_ATTR_DC)) /* expand down: above the limit */
        inside = offset > seg->limit && last <= (seg->attr & X86_ATTR_DB ? 0xffffffffu : 0xffffu);
    else if (seg->limit == 0xffffffffu) /* wraps around like the processors do */
        inside = true;
    if (!inside)
        soft_raise_err(c, v, error);
    return (seg->base + offset) & 0xffffffffu;
}

static u64 width_mask(unsigned width)
{
    return MASK(width * 8);
}

void stack_current(const struct soft_cpu *c, struct stack *st)
{
    st->ss = c->s->seg[X86_SS];
    st->rsp = c->s->gpr[X86_RSP];
    st->width = c->stack_size;
    st->cls = mmu_class_of_cpl(c->cpl);
    if (c->cpl != 3 && (c->s->rflags & X86_AC) && (c->s->cr4 & X86_CR4_SMAP))
        st->cls = MMU_SYS_AC;
    st->error = 0;
}

void stack_push(struct soft_cpu *c, struct stack *st, u64 value, unsigned size)
{
    u64 rsp = (st->rsp - size) & width_mask(st->width);
    u64 la = segment_address(c, &st->ss, rsp, size, st->width == 8, X86_SS_, st->error);
    mmu_write_as(c, st->cls, la, value, size);
    st->rsp = rsp;
}

u64 stack_pop(struct soft_cpu *c, struct stack *st, unsigned size)
{
    u64 rsp = st->rsp & width_mask(st->width);
    u64 la = segment_address(c, &st->ss, rsp, size, st->width == 8, X86_SS_, st->error);
    u64 value = mmu_read_as(c, st->cls, la, size);
    stack_skip(st, size);
    return value;
}

void stack_skip(struct stack *st, u64 n)
{
    st->rsp = (st->rsp + n) & width_mask(st->width);
}

void stack_commit(struct soft_cpu *c, const struct stack *st)
{
    u64 *rsp = &c->s->gpr[X86_RSP];
    c->s->seg[X86_SS] = st->ss;
    if (st->width == 2)
        *rsp = (*rsp & ~0xffffull) | (st->rsp & 0xffff);
    else
        *rsp = st->rsp & width_mask(st->width);
}

u64 stack_tss64(struct soft_cpu *c, unsigned index)
{
    const struct x86_segment *tr = &c->s->tr;
    /* RSP0..2 at 4, IST1..7 at 36 (SDM vol. 3, figure 8-11) */
    u64 offset = index < 3 ? 4 + 8 * index : 36 + 8 * (index - 4);
    if (offset + 7 > tr->limit)
        desc_fault(c, X86_TS, tr->selector);
    u64 rsp = soft_sys_read(c, tr->base + offset, 8);
    if (!x86_canonical(rsp))
        soft_raise_err(c, X86_SS_, 0);
    return rsp;
}

/* SS:ESP for @cpl from a 16- or 32-bit TSS. */
static void read_tss_stack(struct soft_cpu *c, unsigned cpl, u16 *ss, u32 *esp)
{
    const struct x86_segment *tr = &c->s->tr;
    bool tss32 = tr->attr & 8;
    unsigned offset = tss32 ? 8 * cpl + 4 : 4 * cpl + 2;
    if (offset + (tss32 ? 5 : 3) > tr->limit)
        desc_fault(c, X86_TS, tr->selector);
    u64 la = tr->base + offset;
    *esp = (u32)soft_sys_read(c, la & 0xffffffffu, tss32 ? 4 : 2);
    *ss = (u16)soft_sys_read(c, (la + (tss32 ? 4 : 2)) & 0xffffffffu, 2);
}

void stack_inner(struct soft_cpu *c, unsigned cpl, struct stack *st)
{
    st->cls = mmu_class_of_cpl(cpl);
    if (x86_long_mode(c->s)) {
        st->rsp = stack_tss64(c, cpl);
        st->ss = null_ss(cpl);
        st->width = 8;
        st->error = 0;
        return;
    }
    u16 ss;
    u32 esp;
    struct descriptor d;
    read_tss_stack(c, cpl, &ss, &esp);
    desc_fetch(c, ss, &d, X86_TS);
    if ((ss & SELECTOR_RPL) != cpl || desc_dpl(&d) != cpl || !desc_is_writable_data(&d))
        desc_fault(c, X86_TS, ss);
    if (!desc_present(&d))
        desc_fault(c, X86_SS_, ss);
    desc_mark_accessed(c, &d);
    st->ss = desc_segment(&d, ss);
    st->rsp = esp;
    st->width = st->ss.attr & X86_ATTR_DB ? 4 : 2;
    st->error = ss & ~SELECTOR_RPL;
}

static u64 stack_address(struct soft_cpu *c, u64 rsp, unsigned size)
{
    return segment_address(c, &c->s->seg[X86_SS], rsp, size, c->stack_size == 8, X86_SS_, 0);
}

static void set_rsp(struct soft_cpu *c, u64 rsp)
{
    u64 *reg = &c->s->gpr[X86_RSP];
    if (c->stack_size == 2)
        *reg = (*reg & ~0xffffull) | (rsp & 0xffff);
    else
        *reg = rsp & width_mask(c->stack_size);
}

void soft_push(struct soft_cpu *c, u64 value, unsigned size)
{
    u64 rsp = (c->s->gpr[X86_RSP] - size) & width_mask(c->stack_size);
    soft_write(c, stack_address(c, rsp, size), value, size);
    set_rsp(c, rsp);
}

u64 soft_pop(struct soft_cpu *c, unsigned size)
{
    u64 rsp = c->s->gpr[X86_RSP] & width_mask(c->stack_size);
    u64 value = soft_read(c, stack_address(c, rsp, size), size);
    set_rsp(c, rsp + size);
    return value;
}
