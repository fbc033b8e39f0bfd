/*
 * System instructions, port I/O, segment registers, and what runs on the host as it is. Most of these
 * publish the state, call one function of soft.h and leave the block, since modes may have changed.
 */
#include <sched.h>

#include "soft/interpret/handlers.h"

#define PAUSES_PER_YIELD 64

/* --- undecodable --- */

H(insn_ud)
{
    state_publish(c, i, s);
    soft_ud(c);
}

/* Longer than 15 bytes. */
H(insn_gp)
{
    state_publish(c, i, s);
    soft_gp0(c);
}

/* --- on the host --- */

H(insn_native)
{
    state_publish(c, i, s);
    OPERAND(native_run(c, i->stub, la));
    state_adopt(c, s);
    if (unlikely(c->stop_block))
        DONE;
    NEXT;
}

/* The same for a stub without arithmetic flags: then nothing needs to be published but its address. */
H(insn_native_no_flags)
{
    c->cur = i;
    c->insn_rip = insn_rip(c, i);
    native_run(c, i->stub, la);
    AFTER_WRITE;
    NEXT;
}

/* Outside 64-bit mode, with @la not checked yet: what is masked out raises nothing of its segment either. */
H(insn_native_masked)
{
    unsigned first, size = native_masked_bytes(c, i->stub, &first);
    if (size)
        segment_linear(c, s, i->seg, (u32)(la - s->seg[i->seg].base + first), size,
                       i->flags & INSN_WRITE ? SOFT_WRITE : SOFT_READ);
    return insn_native_no_flags(c, i, s, la);
}

/* --- segment registers; r2 or r is the enum x86_seg --- */

SYSTEM_MILD(mov_from_seg_r, reg_set(s, i->r, s->seg[i->r2].selector, i->size))
SYSTEM_MILD(mov_from_seg_m, OPERAND(soft_write16(c, la, s->seg[i->r2].selector)))

static void load_segment(struct soft_cpu *c, struct x86_state *s, enum x86_seg seg, u16 selector)
{
    soft_load_segment(c, seg, selector);
    if (seg == X86_SS)
        s->int_shadow = 2;
}

/* SS, or another bit for flat segments, ends the block. */
SYSTEM_MILD(mov_to_seg_r, load_segment(c, s, i->r, reg_get16(s, i->r2)))
SYSTEM_MILD(mov_to_seg_m, load_segment(c, s, i->r, operand_read16(c, i, la)))

/* LDS and its kind: register r of r2 bytes, segment imm. */
H(load_far_pointer)
{
    state_publish(c, i, s);
    u64 off;
    OPERAND(off = soft_read_slow(c, la, i->r2));
    u16 selector = operand_read16(c, i, la + i->r2);
    soft_load_segment(c, (enum x86_seg)i->imm, selector);
    reg_set(s, i->r, off, i->r2);
    c->stop_block = true;
    DONE;
}

/* --- ports --- */

static void port_in(struct soft_cpu *c, struct insn *i, struct x86_state *s, u16 port)
{
    soft_check_io(c, port, i->size);
    reg_set(s, R_AX, cpu_pio_read(c->vcpu, port, i->size), i->size);
}

static void port_out(struct soft_cpu *c, struct insn *i, struct x86_state *s, u16 port)
{
    soft_check_io(c, port, i->size);
    cpu_pio_write(c->vcpu, port, (u32)reg_get(s, R_AX, i->size), i->size);
}

SYSTEM_MILD(insn_in_imm, port_in(c, i, s, (u8)i->imm))
SYSTEM_MILD(insn_in_dx, port_in(c, i, s, reg_get16(s, R_DX)))
SYSTEM_MILD(insn_out_imm, port_out(c, i, s, (u8)i->imm))
SYSTEM_MILD(insn_out_dx, port_out(c, i, s, reg_get16(s, R_DX)))

/* --- interrupts and checks --- */

SYSTEM(insn_int, soft_interrupt(c, (u8)i->imm, SOFT_INT_SOFTWARE, false, 0))
SYSTEM(insn_int3, soft_interrupt(c, X86_BP, SOFT_INT_INT3, false, 0))
SYSTEM(insn_int1, soft_interrupt(c, X86_DB, SOFT_INT_INT1, false, 0))

H(insn_into)
{
    if (!(c->arith_flags & AF_OF))
        NEXT;
    state_publish(c, i, s);
    soft_interrupt(c, X86_OFV, SOFT_INT_INTO, false, 0);
    state_adopt(c, s);
    c->stop_block = true;
    DONE;
}

/* r: index of r2 bytes; the bounds are signed. */
H(insn_bound)
{
    state_publish(c, i, s);
    i32 low, high, index;
    if (i->r2 == 2) {
        low = (i16)soft_read16(c, la);
        high = (i16)soft_read16(c, la + 2);
        index = (i16)reg_get16(s, i->r);
    } else {
        low = (i32)soft_read32(c, la);
        high = (i32)soft_read32(c, la + 4);
        index = (i32)reg_get32(s, i->r);
    }
    if (index < low || index > high)
        soft_raise(c, X86_BR);
    NEXT;
}

static void set_zf(struct x86_state *s, bool set)
{
    s->rflags = set ? s->rflags | X86_ZF : s->rflags & ~X86_ZF;
}

/* These exist in protected mode only. */
static void require_protected(struct soft_cpu *c)
{
    if (!x86_protected(c->s) || x86_v8086(c->s))
        soft_ud(c);
}

static u16 arpl(struct soft_cpu *c, struct x86_state *s, u16 dst, u16 src, bool *raise)
{
    require_protected(c);
    *raise = (dst & 3) < (src & 3);
    return *raise ? (u16)((dst & ~3) | (src & 3)) : dst;
}

H(insn_arpl_r)
{
    bool raise;
    state_publish(c, i, s);
    reg_set16(s, i->r, arpl(c, s, reg_get16(s, i->r), reg_get16(s, i->r2), &raise));
    set_zf(s, raise);
    state_adopt(c, s);
    NEXT;
}

H(insn_arpl_m)
{
    bool raise;
    state_publish(c, i, s);
    require_protected(c);
    u16 v = arpl(c, s, soft_read16(c, la), reg_get16(s, i->r2), &raise);
    if (raise) {
        segment_linear(c, s, i->seg, (u32)(la - s->seg[i->seg].base), 2, SOFT_WRITE);
        soft_write16(c, la, v);
    }
    set_zf(s, raise);
    state_adopt(c, s);
    AFTER_WRITE;
    NEXT;
}

/* --- flags --- */

/* Whoever may do it at once: real mode, CPL 0, or an IOPL that allows it, with no virtual-8086 mode. */
static ALWAYS_INLINE bool owns_if(const struct soft_cpu *c, const struct x86_state *s)
{
    return !(s->cr0 & X86_CR0_PE) || (!(s->rflags & X86_VM) && c->cpl <= (s->rflags & X86_IOPL) >> 12);
}

H(insn_cli)
{
    if (likely(owns_if(c, s))) {
        s->rflags &= ~X86_IF;
        NEXT;
    }
    state_publish(c, i, s);
    soft_cli(c);
    c->stop_block = true;
    DONE;
}

SYSTEM(insn_sti, soft_sti(c))

static void set_ac(struct soft_cpu *c, struct x86_state *s, bool set)
{
    if (c->cpl != 0 || !(s->cr0 & X86_CR0_PE))
        soft_ud(c);
    soft_set_ac(c, set);
}

SYSTEM_MILD(insn_clac, set_ac(c, s, false))
SYSTEM_MILD(insn_stac, set_ac(c, s, true))

/* --- processor control --- */

SYSTEM(insn_hlt, soft_hlt(c))

/* A spinning vCPU lets others run now and then: the one that it waits for may have no host CPU. */
static void pause_now_and_then(struct soft_cpu *c)
{
    if (c->vcpu->vm->vcpu_count > 1 && ++c->interpret->pauses % PAUSES_PER_YIELD == 0)
        sched_yield();
}
SYSTEM_MILD(insn_pause, pause_now_and_then(c))
SYSTEM_MILD(insn_cpuid, soft_cpuid(c))
SYSTEM_MILD(insn_rdtsc, soft_rdtsc(c, false))
SYSTEM_MILD(insn_rdtscp, soft_rdtsc(c, true))
SYSTEM_MILD(insn_rdpid, reg_set64(s, i->r, s->tsc_aux))
SYSTEM(insn_rdmsr, soft_rdmsr(c))
SYSTEM(insn_wrmsr, soft_wrmsr(c))
SYSTEM(insn_syscall, soft_syscall(c))
SYSTEM(insn_sysret, soft_sysret(c, i->size))
SYSTEM(insn_sysenter, soft_sysenter(c))
SYSTEM(insn_sysexit, soft_sysexit(c, i->size))
SYSTEM(insn_swapgs, soft_swapgs(c))
SYSTEM(insn_hypercall, soft_hypercall(c))
SYSTEM_MILD(insn_invd, soft_require_cpl0(c))

static void clts(struct soft_cpu *c)
{
    soft_require_cpl0(c);
    soft_clts(c);
}
SYSTEM(insn_clts, clts(c))

/* There are no counters: every index is reserved. */
SYSTEM(insn_rdpmc, soft_gp0(c))

/* MWAIT is a hint that is not taken: it returns at once, as after a store to the line. Also where not
 * offered. */
static void require_monitor(struct soft_cpu *c)
{
    if (c->cpl != 0)
        soft_ud(c);
}
SYSTEM_MILD(insn_monitor, require_monitor(c); OPERAND(soft_probe(c, la, 1, SOFT_READ)))
SYSTEM_MILD(insn_mwait, require_monitor(c))

static void xgetbv(struct soft_cpu *c, struct x86_state *s)
{
    u32 index = reg_get32(s, R_CX);
    if (!(s->cr4 & X86_CR4_OSXSAVE))
        soft_ud(c);
    if (index > 1 || (index == 1 && !cpuid_has(c->vcpu->vm->cpuid, CPUID_XGETBV1)))
        soft_gp0(c);
    reg_set32(s, R_AX, (u32)s->xcr0);
    reg_set32(s, R_DX, (u32)(s->xcr0 >> 32));
}
SYSTEM_MILD(insn_xgetbv, xgetbv(c, s))
SYSTEM(insn_xsetbv, soft_xsetbv(c))

/* --- control and debug registers; their number is in imm --- */

static void from_cr(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    soft_require_cpl0(c);
    reg_set(s, i->r, soft_read_cr(c, (unsigned)i->imm), i->size);
}
static void to_cr(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    soft_require_cpl0(c);
    soft_write_cr(c, (unsigned)i->imm, reg_get(s, i->r, i->size));
}
static void from_dr(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    soft_require_cpl0(c);
    reg_set(s, i->r, soft_read_dr(c, (unsigned)i->imm), i->size);
}
static void to_dr(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    soft_require_cpl0(c);
    soft_write_dr(c, (unsigned)i->imm, reg_get(s, i->r, i->size));
}
SYSTEM_MILD(insn_mov_from_cr, from_cr(c, i, s))
SYSTEM(insn_mov_to_cr, to_cr(c, i, s))
SYSTEM_MILD(insn_mov_from_dr, from_dr(c, i, s))
SYSTEM(insn_mov_to_dr, to_dr(c, i, s))

static void lmsw(struct soft_cpu *c, u16 v)
{
    soft_require_cpl0(c);
    soft_lmsw(c, v);
}
SYSTEM(insn_lmsw_r, lmsw(c, reg_get16(s, i->r)))
SYSTEM(insn_lmsw_m, soft_require_cpl0(c); lmsw(c, operand_read16(c, i, la)))

/* SGDT, SIDT, SLDT, STR and SMSW tell user code nothing under UMIP. */
static void check_umip(struct soft_cpu *c)
{
    if (c->cpl != 0 && (c->s->cr4 & X86_CR4_UMIP))
        soft_gp0(c);
}

SYSTEM_MILD(insn_smsw_r, check_umip(c); reg_set(s, i->r, s->cr0, i->size))
SYSTEM_MILD(insn_smsw_m, check_umip(c); OPERAND(soft_write16(c, la, (u16)s->cr0)))

/* --- descriptor tables --- */

SYSTEM(insn_lgdt, soft_require_cpl0(c); OPERAND(soft_lgdt(c, la, i->r2, false)))
SYSTEM(insn_lidt, soft_require_cpl0(c); OPERAND(soft_lgdt(c, la, i->r2, true)))
SYSTEM_MILD(insn_sgdt, check_umip(c); OPERAND(soft_sgdt(c, la, i->r2, false)))
SYSTEM_MILD(insn_sidt, check_umip(c); OPERAND(soft_sgdt(c, la, i->r2, true)))

static void lldt(struct soft_cpu *c, u16 selector)
{
    require_protected(c);
    soft_require_cpl0(c);
    soft_lldt(c, selector);
}
static void ltr(struct soft_cpu *c, u16 selector)
{
    require_protected(c);
    soft_require_cpl0(c);
    soft_ltr(c, selector);
}
SYSTEM(insn_lldt_r, lldt(c, reg_get16(s, i->r)))
SYSTEM(insn_lldt_m, require_protected(c); soft_require_cpl0(c); lldt(c, operand_read16(c, i, la)))
SYSTEM(insn_ltr_r, ltr(c, reg_get16(s, i->r)))
SYSTEM(insn_ltr_m, require_protected(c); soft_require_cpl0(c); ltr(c, operand_read16(c, i, la)))

static u16 store_selector(struct soft_cpu *c, const struct x86_segment *seg)
{
    require_protected(c);
    check_umip(c);
    return seg->selector;
}
SYSTEM_MILD(insn_sldt_r, reg_set(s, i->r, store_selector(c, &s->ldt), i->size))
SYSTEM_MILD(insn_sldt_m, OPERAND(soft_write16(c, la, store_selector(c, &s->ldt))))
SYSTEM_MILD(insn_str_r, reg_set(s, i->r, store_selector(c, &s->tr), i->size))
SYSTEM_MILD(insn_str_m, OPERAND(soft_write16(c, la, store_selector(c, &s->tr))))

/* --- questions about selectors; the destination register has imm bytes --- */

static void ask_lar(struct soft_cpu *c, struct insn *i, struct x86_state *s, u16 selector)
{
    u32 v;
    bool visible = soft_lar(c, selector, &v);
    if (visible)
        reg_set(s, i->r, v, (unsigned)i->imm);
    set_zf(s, visible);
}
static void ask_lsl(struct soft_cpu *c, struct insn *i, struct x86_state *s, u16 selector)
{
    u32 v;
    bool visible = soft_lsl(c, selector, &v);
    if (visible)
        reg_set(s, i->r, v, (unsigned)i->imm);
    set_zf(s, visible);
}
SYSTEM_MILD(insn_lar_r, require_protected(c); ask_lar(c, i, s, reg_get16(s, i->r2)))
SYSTEM_MILD(insn_lar_m, require_protected(c); ask_lar(c, i, s, operand_read16(c, i, la)))
SYSTEM_MILD(insn_lsl_r, require_protected(c); ask_lsl(c, i, s, reg_get16(s, i->r2)))
SYSTEM_MILD(insn_lsl_m, require_protected(c); ask_lsl(c, i, s, operand_read16(c, i, la)))
SYSTEM_MILD(insn_verr_r, require_protected(c); set_zf(s, soft_verr(c, reg_get16(s, i->r), false)))
SYSTEM_MILD(insn_verr_m, require_protected(c); set_zf(s, soft_verr(c, operand_read16(c, i, la), false)))
SYSTEM_MILD(insn_verw_r, require_protected(c); set_zf(s, soft_verr(c, reg_get16(s, i->r), true)))
SYSTEM_MILD(insn_verw_m, require_protected(c); set_zf(s, soft_verr(c, operand_read16(c, i, la), true)))

/* --- address translation and caches --- */

SYSTEM(insn_invlpg, soft_once(c); soft_require_cpl0(c); soft_tlb_invlpg(c, la))
SYSTEM(insn_invpcid, soft_require_cpl0(c); OPERAND(soft_invpcid(c, reg_get(s, i->r, (unsigned)i->imm), la)))
H(insn_clflush)
{
    c->cur = i;
    soft_probe(c, la, 1, SOFT_READ);
    NEXT;
}

H(insn_fence)
{
    atomic_thread_fence(memory_order_seq_cst);
    NEXT;
}

/* --- FS and GS bases --- */

static void require_fsgsbase(struct soft_cpu *c)
{
    if (!(c->s->cr4 & X86_CR4_FSGSBASE))
        soft_ud(c);
}

static void write_base(struct soft_cpu *c, struct insn *i, struct x86_state *s, enum x86_seg seg)
{
    u64 v = reg_get(s, i->r, i->size);
    require_fsgsbase(c);
    if (!x86_canonical(v))
        soft_gp0(c);
    s->seg[seg].base = v;
}
SYSTEM_MILD(insn_rdfsbase, require_fsgsbase(c); reg_set(s, i->r, s->seg[X86_FS].base, i->size))
SYSTEM_MILD(insn_rdgsbase, require_fsgsbase(c); reg_set(s, i->r, s->seg[X86_GS].base, i->size))
SYSTEM_MILD(insn_wrfsbase, write_base(c, i, s, X86_FS))
SYSTEM_MILD(insn_wrgsbase, write_base(c, i, s, X86_GS))

/* --- random numbers: the host's, with its flags; one try, as the guest expects that it may fail --- */

#define DEFINE_RANDOM(name, INSN)                                              \
    H(name)                                                                    \
    {                                                                          \
        u64 v;                                                                 \
        u32 f;                                                                 \
        c->cur = i;                                                            \
        soft_once(c);                                                          \
        if (i->size == 2)                                                      \
            asm volatile(INSN " %w0" FLAGS_OUT : "=&r"(v), "=&a"(f) : : "cc"); \
        else if (i->size == 4)                                                 \
            asm volatile(INSN " %k0" FLAGS_OUT : "=&r"(v), "=&a"(f) : : "cc"); \
        else                                                                   \
            asm volatile(INSN " %q0" FLAGS_OUT : "=&r"(v), "=&a"(f) : : "cc"); \
        c->arith_flags = (u16)f;                                               \
        reg_set(s, i->r, v, i->size);                                          \
        NEXT;                                                                  \
    }
DEFINE_RANDOM(insn_rdrand, "rdrand")
DEFINE_RANDOM(insn_rdseed, "rdseed")

/* --- saved FPU state; r2: REX.W --- */

SYSTEM_MILD(insn_fxsave, OPERAND(soft_fxsave(c, la, i->r2)))
SYSTEM_MILD(insn_fxrstor, OPERAND(soft_fxrstor(c, la, i->r2)))
SYSTEM_MILD(insn_xsave, OPERAND(soft_xsave(c, la, i->r2, SOFT_XSAVE)))
SYSTEM_MILD(insn_xsaveopt, OPERAND(soft_xsave(c, la, i->r2, SOFT_XSAVEOPT)))
SYSTEM_MILD(insn_xsavec, OPERAND(soft_xsave(c, la, i->r2, SOFT_XSAVEC)))
SYSTEM_MILD(insn_xsaves, OPERAND(soft_xsave(c, la, i->r2, SOFT_XSAVES)))
SYSTEM_MILD(insn_xrstor, OPERAND(soft_xrstor(c, la, i->r2, false)))
SYSTEM_MILD(insn_xrstors, OPERAND(soft_xrstor(c, la, i->r2, true)))

/* --- protection keys --- */

static void check_pkru(struct soft_cpu *c, struct x86_state *s)
{
    if (!(s->cr4 & X86_CR4_PKE))
        soft_ud(c);
    if (reg_get32(s, R_CX) != 0)
        soft_gp0(c);
}
static void rdpkru(struct soft_cpu *c, struct x86_state *s)
{
    check_pkru(c, s);
    reg_set32(s, R_AX, s->fpu.pkru);
    reg_set32(s, R_DX, 0);
}
static void wrpkru(struct soft_cpu *c, struct x86_state *s)
{
    check_pkru(c, s);
    if (reg_get32(s, R_DX) != 0)
        soft_gp0(c);
    s->fpu.pkru = reg_get32(s, R_AX);
    soft_mode_changed(c);
}
SYSTEM_MILD(insn_rdpkru, rdpkru(c, s))
SYSTEM(insn_wrpkru, wrpkru(c, s))
