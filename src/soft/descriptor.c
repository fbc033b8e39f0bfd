/* Descriptors as they stand in the tables, and what segment registers hold after loading them. */
#include "soft/system-internal.h"

NORETURN void desc_fault(struct soft_cpu *c, enum x86_vector v, u16 selector)
{
    soft_raise_err(c, v, selector & ~SELECTOR_RPL);
}

/* Linear address of @len bytes of @selector's descriptor; false when they are not all in the table. */
static bool locate(const struct soft_cpu *c, u16 selector, unsigned len, u64 *la)
{
    const struct x86_state *s = c->s;
    u64 base = s->gdt.base, limit = s->gdt.limit;
    if (selector & SELECTOR_TI) {
        if (s->ldt.attr & X86_ATTR_UNUSABLE)
            return false;
        base = s->ldt.base;
        limit = s->ldt.limit;
    }
    u64 offset = selector & ~7u;
    if (offset + len - 1 > limit)
        return false;
    *la = base + offset;
    if (!x86_long_mode(s))
        *la &= 0xffffffffu;
    return true;
}

bool desc_try_fetch(struct soft_cpu *c, u16 selector, struct descriptor *d)
{
    d->high = 0;
    if (!locate(c, selector, 8, &d->la))
        return false;
    d->low = soft_sys_read(c, d->la, 8);
    return true;
}

void desc_fetch(struct soft_cpu *c, u16 selector, struct descriptor *d, enum x86_vector v)
{
    if (selector_null(selector))
        soft_raise_err(c, v, 0);
    if (!desc_try_fetch(c, selector, d))
        desc_fault(c, v, selector);
}

void desc_fetch_high(struct soft_cpu *c, u16 selector, struct descriptor *d, enum x86_vector v)
{
    u64 la;
    if (!locate(c, selector, 16, &la))
        desc_fault(c, v, selector);
    d->high = soft_sys_read(c, la + 8, 8);
    /* The type field of the second half must be 0, so that it cannot be used as a descriptor. */
    if (d->high & (0x1full << 40))
        desc_fault(c, v, selector);
}

void desc_mark_accessed(struct soft_cpu *c, struct descriptor *d)
{
    if (d->low & BIT(40))
        return;
    d->low |= BIT(40);
    soft_sys_write(c, d->la + 5, (u8)(d->low >> 40), 1);
}

void desc_set_busy(struct soft_cpu *c, const struct descriptor *d, bool busy)
{
    u8 access = (u8)soft_sys_read(c, d->la + 5, 1);
    access = busy ? access | 2 : access & ~2;
    soft_sys_write(c, d->la + 5, access, 1);
}

struct x86_segment desc_segment(const struct descriptor *d, u16 selector)
{
    struct x86_segment seg = {
        .base = ((d->low >> 16) & 0xffffff) | ((d->low >> 32) & 0xff000000u) | (d->high << 32),
        .limit = (u32)((d->low & 0xffff) | ((d->low >> 32) & 0xf0000)),
        .attr = desc_attr(d),
        .selector = selector,
    };
    if (seg.attr & X86_ATTR_G)
        seg.limit = seg.limit << 12 | 0xfff;
    return seg;
}

struct x86_segment null_ss(unsigned cpl)
{
    return (struct x86_segment){
        .attr = X86_ATTR_UNUSABLE | cpl << X86_ATTR_DPL_SHIFT,
        .selector = (u16)cpl,
    };
}

/*
 * Virtual-8086 mode fixes limit and attributes. Real mode sets only selector and base and keeps the
 * limit and size that protected mode left behind ("unreal mode").
 */
struct x86_segment real_segment(const struct x86_segment *old, u16 selector, bool code, bool v86)
{
    struct x86_segment seg = {.base = (u32)selector << 4, .limit = 0xffff, .selector = selector};
    if (v86) {
        seg.attr = 0xf3;
        return seg;
    }
    seg.attr = code ? 0x9b : 0x93;
    if (!(old->attr & X86_ATTR_UNUSABLE)) {
        seg.limit = old->limit;
        seg.attr |= old->attr & (X86_ATTR_DB | X86_ATTR_G);
    }
    return seg;
}

void check_code_target(struct soft_cpu *c, const struct descriptor *d, u64 rip)
{
    if (x86_long_mode(c->s) && desc_is_code64(d)) {
        if (!x86_canonical(rip))
            soft_gp0(c);
    } else if (rip > desc_segment(d, 0).limit) {
        soft_gp0(c);
    }
}
