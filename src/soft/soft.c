/* The software CPU object: derived state and the way out of a faulting instruction. */
#include "soft/soft.h"
#include "base/log.h"
#include "soft/system-internal.h"
#include "soft/window.h"

int soft_cpu_init(struct soft_cpu *c, struct vcpu *vcpu, struct error *err)
{
    c->vcpu = vcpu;
    c->s = &vcpu->state;
    c->ext = 0;
    c->no_step = false;
    c->insn_rip = c->s->rip;
    c->requests = &vcpu->requests;
    int rc = mmu_init(c, err);
    if (rc != 0)
        return rc;
    soft_xsave_init(c);
    soft_mode_changed(c);
    return 0;
}

void soft_cpu_release(struct soft_cpu *c)
{
    mmu_release(c);
}

/* Base 0, limit 4 GiB, expand-up and allowing @type: accesses through it need no checks. */
static bool flat(const struct x86_segment *seg, u32 type)
{
    u32 mask = X86_ATTR_UNUSABLE | X86_ATTR_P | X86_ATTR_S | X86_ATTR_CODE | X86_ATTR_RW;
    if (seg->base != 0 || seg->limit != 0xffffffffu)
        return false;
    if (!(type & X86_ATTR_CODE) && (seg->attr & X86_ATTR_DC))
        return false;
    return (seg->attr & mask) == (X86_ATTR_P | X86_ATTR_S | X86_ATTR_RW | type);
}

static u32 mode_bits(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    u32 mode = 0;
    if (x86_protected(s))
        mode |= SOFT_MODE_PE;
    if (c->cpl == 3)
        mode |= SOFT_MODE_CPL3;
    if (c->cpl == 0)
        mode |= SOFT_MODE_CPL0;
    if (c->code_size == 8) {
        if (c->windows && (c->cpl == 3 || c->cpl == 0) && windows_on(c))
            mode |= SOFT_MODE_WINDOW;
        return mode | SOFT_MODE_CODE64 | SOFT_MODE_FLAT;
    }
    if (x86_v8086(s))
        mode |= SOFT_MODE_VM86;
    if (c->code_size == 4)
        mode |= SOFT_MODE_CODE32;
    if (c->stack_size == 4)
        mode |= SOFT_MODE_STACK32;
    if (flat(&s->seg[X86_CS], X86_ATTR_CODE) && flat(&s->seg[X86_SS], 0) && flat(&s->seg[X86_DS], 0) &&
        flat(&s->seg[X86_ES], 0))
        mode |= SOFT_MODE_FLAT;
    return mode;
}

void soft_mode_changed(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    c->cpl = x86_protected(s) ? (u8)x86_cpl(s) : 0;
    if (x86_code64(s)) {
        c->code_size = c->stack_size = 8;
    } else {
        c->code_size = s->seg[X86_CS].attr & X86_ATTR_DB ? 4 : 2;
        c->stack_size = s->seg[X86_SS].attr & X86_ATTR_DB ? 4 : 2;
    }
    c->mode = mode_bits(c);
    c->stop_block = true;
    mmu_update(c);
}

void soft_data_segment_changed(struct soft_cpu *c)
{
    if (mode_bits(c) != c->mode)
        soft_mode_changed(c);
}

static NORETURN void raise(struct soft_cpu *c, enum x86_vector v, bool has_error, u32 error)
{
    struct x86_state *s = c->s;
    if (has_error && (v == X86_TS || v == X86_NP || v == X86_SS_ || v == X86_GP))
        error |= c->ext;
    c->ext = 0;
    s->exception_pending = 1;
    s->exception_vector = (u8)v;
    s->exception_has_error = has_error;
    s->exception_error = error;
    s->rip = c->insn_rip;
    /* Traps that the instruction had noted so far will come again when it is run again. */
    s->pending_db = 0;
    c->no_step = false;
    longjmp(c->fault, 1);
}

NORETURN void soft_raise(struct soft_cpu *c, enum x86_vector v)
{
    raise(c, v, false, 0);
}

NORETURN void soft_raise_err(struct soft_cpu *c, enum x86_vector v, u32 error)
{
    c->not_canonical = false;
    raise(c, v, true, error);
}

NORETURN void soft_raise_not_canonical(struct soft_cpu *c)
{
    c->not_canonical = true;
    raise(c, X86_GP, true, 0);
}

NORETURN void soft_raise_pf(struct soft_cpu *c, u64 la, u32 error)
{
    c->vcpu->counters.page_faults++;
    trace(mmu, "cpu%u: page fault at 0x%llx error 0x%x rip 0x%llx", c->vcpu->index, (unsigned long long)la,
          error, (unsigned long long)c->insn_rip);
    c->s->cr2 = la;
    raise(c, X86_PF_, true, error);
}

NORETURN void soft_raise_db(struct soft_cpu *c, u64 dr6_bits)
{
    c->s->dr6 = (c->s->dr6 & ~0xfull) | dr6_bits;
    raise(c, X86_DB, false, 0);
}
