/* Control registers, system calls, flags, I/O rights and the other system instructions. */
#include "soft-fixture.h"

struct args {
    u64 a, b;
    unsigned n;
};

#define OP(name, call)                              \
    static void name(struct soft_cpu *c, void *arg) \
    {                                               \
        struct args *x = arg;                       \
        (void)x;                                    \
        call;                                       \
    }
OP(do_read_cr, x->a = soft_read_cr(c, x->n))
OP(do_read_dr, x->a = soft_read_dr(c, x->n))
OP(do_write_dr, soft_write_dr(c, x->n, x->a))
OP(do_lmsw, soft_lmsw(c, (u16)x->a))
OP(do_clts, soft_clts(c))
OP(do_rdmsr, soft_rdmsr(c))
OP(do_wrmsr, soft_wrmsr(c))
OP(do_rdtsc, soft_rdtsc(c, true))
OP(do_cpuid, soft_cpuid(c))
OP(do_xsetbv, soft_xsetbv(c))
OP(do_invpcid, soft_invpcid(c, x->a, x->b))
OP(do_lgdt, soft_lgdt(c, x->a, x->n, false))
OP(do_sgdt, soft_sgdt(c, x->a, x->n, false))
OP(do_hlt, soft_hlt(c))
OP(do_syscall, soft_syscall(c))
OP(do_sysret, soft_sysret(c, x->n))
OP(do_sysenter, soft_sysenter(c))
OP(do_sysexit, soft_sysexit(c, x->n))
OP(do_swapgs, soft_swapgs(c))
OP(do_hypercall, soft_hypercall(c))
OP(do_cli, soft_cli(c))
OP(do_sti, soft_sti(c))
OP(do_pushf, x->a = soft_pushf_image(c, x->n))
OP(do_popf, soft_popf(c, x->a, x->n))
OP(do_check_io, soft_check_io(c, (u16)x->a, x->n))

static int try(struct fixture *f, void (*op)(struct soft_cpu *, void *), u64 a, u64 b, unsigned n)
{
    struct args x = {a, b, n};
    return fx_try(f, op, &x);
}

/* A feature that the host may not have is offered for the test. */
static void offer(struct fixture *f, u32 leaf, unsigned reg, unsigned bit)
{
    for (unsigned i = 0; i < f->cpuid.count; i++) {
        struct cpuid_leaf *l = &f->cpuid.leaf[i];
        u32 *regs[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};
        if (l->leaf == leaf && l->subleaf == 0)
            *regs[reg] |= (u32)BIT(bit);
    }
}

/* --- control registers --- */

static void cr0_rules(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_assert_fault(f, fx_write_cr(f, 0, X86_CR0_PG), X86_GP, 0); /* without PE */
    fx_assert_fault(f, fx_write_cr(f, 0, X86_CR0_PE | X86_CR0_NW), X86_GP, 0);
    fx_assert_fault(f, fx_write_cr(f, 0, X86_CR0_PE | BIT(32)), X86_GP, 0);
    assert_int_equal(fx_write_cr(f, 0, X86_CR0_PE | BIT(6) | BIT(28)), FX_NO_FAULT);
    assert_int_equal(f->s->cr0, X86_CR0_PE | X86_CR0_ET); /* reserved bits stay 0, ET stays 1 */
    assert_int_equal(fx_write_cr(f, 0, 0), FX_NO_FAULT);
    assert_false(f->c->mode & SOFT_MODE_PE);
}

static void paging_with_lme_activates_long_mode(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    u64 cr0 = f->s->cr0;
    fx_assert_fault(f, fx_write_cr(f, 0, cr0 & ~X86_CR0_PG), X86_GP, 0); /* in 64-bit mode */
    f->s->seg[X86_CS].attr = FX_ATTR_CODE32;
    soft_mode_changed(f->c);
    assert_int_equal(fx_write_cr(f, 0, cr0 & ~X86_CR0_PG), FX_NO_FAULT);
    assert_int_equal(f->s->efer & X86_EFER_LMA, 0);
    f->s->cr4 &= ~X86_CR4_PAE;
    fx_assert_fault(f, fx_write_cr(f, 0, cr0), X86_GP, 0);
    f->s->cr4 |= X86_CR4_PAE;
    f->s->seg[X86_CS].attr = FX_ATTR_CODE64;
    fx_assert_fault(f, fx_write_cr(f, 0, cr0), X86_GP, 0); /* CS.L set before LMA */
    f->s->seg[X86_CS].attr = FX_ATTR_CODE32;
    assert_int_equal(fx_write_cr(f, 0, cr0), FX_NO_FAULT);
    assert_true(f->s->efer & X86_EFER_LMA);
    assert_int_equal(f->c->code_size, 4);
}

static void cr3_reserved_bits(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_assert_fault(f, fx_write_cr(f, 3, FX_TABLES | BIT(63)), X86_GP, 0); /* no PCIDE */
    fx_assert_fault(f, fx_write_cr(f, 3, FX_TABLES | BIT(f->cpuid.maxphyaddr)), X86_GP, 0);
    assert_int_equal(f->s->cr3, FX_TABLES);
}

static void cr4_rules(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    u64 cr4 = f->s->cr4;
    fx_assert_fault(f, fx_write_cr(f, 4, cr4 | X86_CR4_VMXE), X86_GP, 0);
    fx_assert_fault(f, fx_write_cr(f, 4, cr4 | X86_CR4_LA57), X86_GP, 0);
    fx_assert_fault(f, fx_write_cr(f, 4, cr4 | BIT(32)), X86_GP, 0);
    fx_assert_fault(f, fx_write_cr(f, 4, cr4 & ~X86_CR4_PAE), X86_GP, 0);
    f->s->cr3 |= 0x18;
    fx_assert_fault(f, fx_write_cr(f, 4, cr4 | X86_CR4_PCIDE), X86_GP, 0); /* CR3[11:0] not 0 */
    f->s->cr3 &= PAGE_MASK;
    assert_int_equal(fx_write_cr(f, 4, cr4 | X86_CR4_PCIDE), FX_NO_FAULT);
    f->s->seg[X86_CS].attr = FX_ATTR_CODE32;
    soft_mode_changed(f->c);
    fx_assert_fault(f, fx_write_cr(f, 0, f->s->cr0 & ~X86_CR0_PG), X86_GP, 0); /* with PCIDE */
    fx_protected(f, 0);
    fx_assert_fault(f, fx_write_cr(f, 4, X86_CR4_PCIDE), X86_GP, 0); /* outside long mode */
}

static void control_registers_are_for_cpl_0(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    for (unsigned n = 0; n <= 8; n++) {
        bool exists = n == 0 || (n >= 2 && n <= 4) || n == 8;
        assert_int_equal(fx_write_cr(f, n, 0), exists ? X86_GP : X86_UD);
        assert_int_equal(try(f, do_read_cr, 0, 0, n), exists ? X86_GP : X86_UD);
    }
}

static void cr8_is_the_task_priority(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write_cr(f, 8, 9), FX_NO_FAULT);
    assert_int_equal(f->cr8, 9);
    f->cr8 = 5;
    assert_int_equal(soft_read_cr(f->c, 8), 5);
    fx_assert_fault(f, fx_write_cr(f, 8, 16), X86_GP, 0);
}

static void lmsw_sets_pe_but_does_not_clear_it(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    assert_int_equal(try(f, do_lmsw, 0xffff, 0, 0), FX_NO_FAULT);
    u64 low = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;
    assert_int_equal(f->s->cr0 & 0xffff & ~X86_CR0_ET, low);
    assert_int_equal(try(f, do_lmsw, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->cr0 & low, X86_CR0_PE);
    f->s->cr0 |= X86_CR0_TS;
    assert_int_equal(try(f, do_clts, 0, 0, 0), FX_NO_FAULT);
    assert_false(f->s->cr0 & X86_CR0_TS);
}

/* --- debug registers --- */

static void debug_registers(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(try(f, do_write_dr, 0x1234, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->dr[0], 0x1234);
    assert_int_equal(try(f, do_write_dr, 0, 0, 5), FX_NO_FAULT); /* DR7 by its old name */
    assert_int_equal(f->s->dr7, X86_DR7_FIXED);
    assert_int_equal(try(f, do_write_dr, 0xffffffff, 0, 6), FX_NO_FAULT);
    assert_int_equal(f->s->dr6, 0xffffefff);
    fx_assert_fault(f, try(f, do_write_dr, BIT(32), 0, 7), X86_GP, 0);
    f->s->cr4 |= X86_CR4_DE;
    assert_int_equal(try(f, do_read_dr, 0, 0, 4), X86_UD);
    f->s->dr7 |= X86_DR7_GD;
    assert_int_equal(try(f, do_read_dr, 0, 0, 0), X86_DB);
    assert_true(f->s->dr6 & X86_DR6_BD);
}

/* --- MSR, CPUID, TSC, XCR0 --- */

static void msr_instructions(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->gpr[X86_RCX] = 0xffffffff00000000 | MSR_LSTAR;
    f->s->gpr[X86_RAX] = 0xffffffff12345678;
    f->s->gpr[X86_RDX] = 0xffffffffffff8000;
    assert_int_equal(try(f, do_wrmsr, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->lstar, 0xffff800012345678);
    f->s->gpr[X86_RAX] = f->s->gpr[X86_RDX] = ~0ull;
    assert_int_equal(try(f, do_rdmsr, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RAX], 0x12345678);
    assert_int_equal(f->s->gpr[X86_RDX], 0xffff8000);
    f->s->gpr[X86_RCX] = 0x12345;
    fx_assert_fault(f, try(f, do_rdmsr, 0, 0, 0), X86_GP, 0);
    fx_set_cpl(f, 3);
    f->s->gpr[X86_RCX] = MSR_LSTAR;
    fx_assert_fault(f, try(f, do_rdmsr, 0, 0, 0), X86_GP, 0);
    fx_assert_fault(f, try(f, do_wrmsr, 0, 0, 0), X86_GP, 0);
}

static void clearing_nxe_makes_nx_a_reserved_bit_at_once(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_map(f, 0x40000000, FX_FREE, 12, 3 | BIT(63));
    assert_int_equal(fx_read(f, 0x40000000, 1, NULL), FX_NO_FAULT);
    f->s->gpr[X86_RCX] = MSR_EFER;
    f->s->gpr[X86_RAX] = f->s->efer & ~X86_EFER_NXE;
    f->s->gpr[X86_RDX] = 0;
    assert_int_equal(try(f, do_wrmsr, 0, 0, 0), FX_NO_FAULT);
    fx_assert_fault(f, fx_read(f, 0x40000000, 1, NULL), X86_PF_, X86_PFEC_P | X86_PFEC_RSVD);
}

static void rdtsc_obeys_tsd(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    f->s->tsc_aux = 7;
    vcpu_set_tsc(f->vcpu, 0x123456789);
    assert_int_equal(try(f, do_rdtsc, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RCX], 7);
    assert_int_equal(f->s->gpr[X86_RAX], 0x23456789); /* virtual time stands still */
    assert_int_equal(f->s->gpr[X86_RDX], 1);
    f->s->cr4 |= X86_CR4_TSD;
    fx_assert_fault(f, try(f, do_rdtsc, 0, 0, 0), X86_GP, 0);
    fx_set_cpl(f, 0);
    assert_int_equal(try(f, do_rdtsc, 0, 0, 0), FX_NO_FAULT);
}

static void cpuid_shows_osxsave(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    for (unsigned on = 0; on < 2; on++) {
        f->s->gpr[X86_RAX] = 1;
        f->s->cr4 = (f->s->cr4 & ~X86_CR4_OSXSAVE) | (on ? X86_CR4_OSXSAVE : 0);
        assert_int_equal(try(f, do_cpuid, 0, 0, 0), FX_NO_FAULT);
        assert_int_equal(f->s->gpr[X86_RCX] >> 27 & 1, on);
        assert_int_equal(f->s->gpr[X86_RDX] >> 9 & 1, 1);
    }
}

static void xsetbv_rules(void **state)
{
    static const struct {
        u64 value;
        int fault;
    } cases[] = {
        {1, FX_NO_FAULT}, {3, FX_NO_FAULT},   {7, FX_NO_FAULT},    {0, X86_GP},    {2, X86_GP},
        {5, X86_GP},      {0x21 | 6, X86_GP}, {0xe7, FX_NO_FAULT}, {0xe3, X86_GP}, {1 | BIT(62), X86_GP},
    };
    struct fixture *f = *state;
    fx_long(f, 0);
    f->cpuid.xcr0_mask = 0xe7;
    f->s->gpr[X86_RCX] = 0;
    assert_int_equal(try(f, do_xsetbv, 0, 0, 0), X86_UD); /* OSXSAVE is off */
    f->s->cr4 |= X86_CR4_OSXSAVE;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        f->s->gpr[X86_RAX] = (u32)cases[i].value;
        f->s->gpr[X86_RDX] = cases[i].value >> 32;
        if (try(f, do_xsetbv, 0, 0, 0) != cases[i].fault)
            fail_msg("case %u", i);
        if (cases[i].fault == FX_NO_FAULT)
            assert_int_equal(f->s->xcr0, cases[i].value);
    }
    f->s->gpr[X86_RCX] = 1;
    f->s->gpr[X86_RAX] = 1;
    f->s->gpr[X86_RDX] = 0;
    fx_assert_fault(f, try(f, do_xsetbv, 0, 0, 0), X86_GP, 0);
}

/* --- INVPCID, tables --- */

static void invpcid_rules(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_poke(f, FX_FREE, 0, 8);
    fx_poke(f, FX_FREE + 8, 0x1000, 8);
    for (unsigned type = 0; type < 4; type++)
        assert_int_equal(try(f, do_invpcid, type, FX_FREE, 0), FX_NO_FAULT);
    fx_assert_fault(f, try(f, do_invpcid, 4, FX_FREE, 0), X86_GP, 0);
    fx_poke(f, FX_FREE + 8, 0x0000800000000000, 8);
    fx_assert_fault(f, try(f, do_invpcid, 0, FX_FREE, 0), X86_GP, 0);
    assert_int_equal(try(f, do_invpcid, 1, FX_FREE, 0), FX_NO_FAULT);
    fx_poke(f, FX_FREE, 1, 8);
    fx_assert_fault(f, try(f, do_invpcid, 1, FX_FREE, 0), X86_GP, 0); /* PCID 1 without PCIDE */
    f->s->cr4 |= X86_CR4_PCIDE;
    assert_int_equal(try(f, do_invpcid, 1, FX_FREE, 0), FX_NO_FAULT);
    fx_poke(f, FX_FREE, 0x1000, 8);
    fx_assert_fault(f, try(f, do_invpcid, 1, FX_FREE, 0), X86_GP, 0);
}

static void lgdt_and_sgdt_by_operand_size(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_poke(f, FX_FREE, 0x1234, 2);
    fx_poke(f, FX_FREE + 2, 0xffff800089abcdef, 8);
    assert_int_equal(try(f, do_lgdt, FX_FREE, 0, 2), FX_NO_FAULT);
    assert_int_equal(f->s->gdt.base, 0xabcdef);
    assert_int_equal(f->s->gdt.limit, 0x1234);
    assert_int_equal(try(f, do_lgdt, FX_FREE, 0, 4), FX_NO_FAULT);
    assert_int_equal(f->s->gdt.base, 0x89abcdef);
    assert_int_equal(try(f, do_lgdt, FX_FREE, 0, 8), FX_NO_FAULT);
    assert_int_equal(f->s->gdt.base, 0xffff800089abcdef);
    assert_int_equal(try(f, do_sgdt, FX_FREE + 0x100, 0, 8), FX_NO_FAULT);
    assert_int_equal(fx_peek(f, FX_FREE + 0x100, 2), 0x1234);
    assert_int_equal(fx_peek(f, FX_FREE + 0x102, 8), 0xffff800089abcdef);
    fx_poke(f, FX_FREE + 2, 0x0000800000000000, 8);
    fx_assert_fault(f, try(f, do_lgdt, FX_FREE, 0, 8), X86_GP, 0);
    fx_set_cpl(f, 3);
    fx_assert_fault(f, try(f, do_lgdt, FX_FREE, 0, 4), X86_GP, 0);
    assert_int_equal(try(f, do_sgdt, FX_FREE, 0, 4), FX_NO_FAULT);
    f->s->cr4 |= X86_CR4_UMIP;
    fx_assert_fault(f, try(f, do_sgdt, FX_FREE, 0, 4), X86_GP, 0);
}

static void hlt_is_for_cpl_0(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_assert_fault(f, try(f, do_hlt, 0, 0, 0), X86_GP, 0);
    assert_int_equal(f->s->mp_state, VCPU_MP_RUNNABLE);
    fx_set_cpl(f, 0);
    assert_int_equal(try(f, do_hlt, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->mp_state, VCPU_MP_HALTED);
}

/* --- fast system calls --- */

static void set_up_syscall(struct fixture *f)
{
    f->s->star = (u64)FX_CODE64 << 32 | (u64)0x1b << 48; /* SYSRET: 0x1b + 16 = 0x2b, + 8 = 0x23 */
    f->s->lstar = 0xffff800000001000;
    f->s->cstar = 0xffff800000002000;
    f->s->sfmask = X86_IF | X86_TF | X86_DF;
}

static void syscall_and_sysret_in_64_bit_mode(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    set_up_syscall(f);
    f->s->rflags |= X86_IF | X86_DF | X86_CF;
    u64 flags = f->s->rflags;
    assert_int_equal(try(f, do_syscall, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0xffff800000001000);
    assert_int_equal(f->s->gpr[X86_RCX], FX_FREE);
    assert_int_equal(f->s->gpr[X86_R11], flags);
    assert_int_equal(f->s->rflags, X86_CF | X86_FLAG1);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->seg[X86_CS].selector, FX_CODE64);
    assert_int_equal(f->s->seg[X86_SS].selector, FX_CODE64 + 8);
    assert_int_equal(try(f, do_sysret, 0, 0, 8), FX_NO_FAULT);
    assert_int_equal(f->s->rip, FX_FREE);
    assert_int_equal(f->s->rflags, flags);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->code_size, 8);
    assert_int_equal(f->s->seg[X86_CS].selector, 0x2b);
    assert_int_equal(f->s->seg[X86_SS].selector, 0x23);
}

static void single_steps_around_system_calls(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    set_up_syscall(f);
    f->s->rflags |= X86_TF;
    assert_int_equal(try(f, do_syscall, 0, 0, 0), FX_NO_FAULT);
    soft_step_done(f->c);
    assert_int_equal(f->s->pending_db, 0); /* SFMASK took TF away */
    assert_int_equal(try(f, do_sysret, 0, 0, 8), FX_NO_FAULT);
    assert_true(f->s->rflags & X86_TF);
    assert_int_equal(f->s->pending_db, X86_DR6_BS);
}

static void sysret_to_compatibility_mode(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    set_up_syscall(f);
    f->s->gpr[X86_RCX] = 0x1234567812345678;
    f->s->gpr[X86_R11] = X86_IF | X86_VM | X86_RF;
    assert_int_equal(try(f, do_sysret, 0, 0, 4), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0x12345678);
    assert_int_equal(f->c->code_size, 4);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->rflags, X86_IF | X86_FLAG1);
    assert_int_equal(f->s->seg[X86_CS].selector, 0x1b);
}

static void sysret_to_a_non_canonical_address(void **state)
{
    struct fixture *f = *state;
    fx_set_amd(f, false);
    fx_long(f, 0);
    set_up_syscall(f);
    f->s->gpr[X86_RCX] = 0x0000800000000000;
    fx_assert_fault(f, try(f, do_sysret, 0, 0, 8), X86_GP, 0);
    assert_int_equal(f->c->cpl, 0);
    fx_set_amd(f, true);
    assert_int_equal(try(f, do_sysret, 0, 0, 8), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    fx_assert_fault(f, fx_exec(f, f->s->rip), X86_GP, 0);
}

static void syscall_in_compatibility_mode_is_amds(void **state)
{
    struct fixture *f = *state;
    for (unsigned amd = 0; amd < 2; amd++) {
        fx_set_amd(f, amd);
        fx_long(f, 3);
        set_up_syscall(f);
        f->s->seg[X86_CS].attr = FX_ATTR_CODE32 | FX_DPL(3);
        soft_mode_changed(f->c);
        assert_int_equal(try(f, do_syscall, 0, 0, 0), amd ? FX_NO_FAULT : X86_UD);
    }
    assert_int_equal(f->s->rip, 0xffff800000002000);
    assert_int_equal(f->c->code_size, 8);
}

static void syscall_needs_sce(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->efer &= ~X86_EFER_SCE;
    assert_int_equal(try(f, do_syscall, 0, 0, 0), X86_UD);
    assert_int_equal(try(f, do_sysret, 0, 0, 8), X86_UD);
}

static void sysret_is_for_cpl_0(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_assert_fault(f, try(f, do_sysret, 0, 0, 8), X86_GP, 0);
}

static void sysenter_and_sysexit(void **state)
{
    struct fixture *f = *state;
    fx_set_amd(f, false);
    fx_protected(f, 3);
    fx_assert_fault(f, try(f, do_sysenter, 0, 0, 0), X86_GP, 0); /* no code segment */
    f->s->sysenter_cs = FX_CODE32;
    f->s->sysenter_esp = 0x9000;
    f->s->sysenter_eip = 0x1234;
    f->s->rflags |= X86_IF;
    assert_int_equal(try(f, do_sysenter, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->gpr[X86_RSP], 0x9000);
    assert_int_equal(f->s->seg[X86_SS].selector, FX_CODE32 + 8);
    assert_false(f->s->rflags & X86_IF);
    f->s->gpr[X86_RDX] = 0x5678;
    f->s->gpr[X86_RCX] = 0xa000;
    assert_int_equal(try(f, do_sysexit, 0, 0, 4), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->rip, 0x5678);
    assert_int_equal(f->s->seg[X86_CS].selector, (FX_CODE32 + 16) | 3);
    assert_int_equal(f->s->seg[X86_SS].selector, (FX_CODE32 + 24) | 3);
    fx_assert_fault(f, try(f, do_sysexit, 0, 0, 4), X86_GP, 0);
}

static void sysenter_in_long_mode_by_vendor(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    f->s->sysenter_cs = FX_CODE64;
    f->s->sysenter_eip = 0xffff800000001234;
    fx_set_amd(f, true);
    assert_int_equal(try(f, do_sysenter, 0, 0, 0), X86_UD);
    fx_set_amd(f, false);
    assert_int_equal(try(f, do_sysenter, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0xffff800000001234);
    assert_int_equal(f->c->code_size, 8);
}

static void swapgs_exchanges_the_bases(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->seg[X86_GS].base = 1;
    f->s->kernel_gs_base = 2;
    assert_int_equal(try(f, do_swapgs, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_GS].base, 2);
    assert_int_equal(f->s->kernel_gs_base, 1);
    fx_set_cpl(f, 3);
    fx_assert_fault(f, try(f, do_swapgs, 0, 0, 0), X86_GP, 0);
    fx_protected(f, 0);
    assert_int_equal(try(f, do_swapgs, 0, 0, 0), X86_UD);
}

static void unknown_hypercalls_say_so(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->gpr[X86_RAX] = 12345;
    assert_int_equal(try(f, do_hypercall, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RAX], (u64)-1000);
    fx_set_cpl(f, 3);
    assert_int_equal(try(f, do_hypercall, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RAX], (u64)-1);
}

/* --- flags --- */

static void popf_by_privilege(void **state)
{
    static const struct {
        unsigned cpl, iopl;
        bool sets_if, sets_iopl;
    } cases[] = {{0, 0, true, true}, {3, 0, false, false}, {3, 3, true, false}};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        fx_protected(f, cases[i].cpl);
        f->s->rflags = X86_FLAG1 | (u64)cases[i].iopl << 12;
        u64 iopl = cases[i].sets_iopl ? X86_IOPL : f->s->rflags & X86_IOPL;
        assert_int_equal(try(f, do_popf, 0xffffffff, 0, 4), FX_NO_FAULT);
        u64 expected = X86_ARITH | X86_FLAG1 | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID | iopl |
                       (cases[i].sets_if ? X86_IF : 0);
        assert_int_equal(f->s->rflags, expected); /* never RF, VM, VIF, VIP */
    }
}

static void popf_16_keeps_the_upper_half(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    f->s->rflags |= X86_ID;
    assert_int_equal(try(f, do_popf, 0, 0, 2), FX_NO_FAULT);
    assert_int_equal(f->s->rflags, X86_ID | X86_FLAG1);
}

static void cli_and_sti_by_privilege(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_assert_fault(f, try(f, do_cli, 0, 0, 0), X86_GP, 0);
    fx_assert_fault(f, try(f, do_sti, 0, 0, 0), X86_GP, 0);
    f->s->cr4 |= X86_CR4_PVI;
    assert_int_equal(try(f, do_sti, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rflags & (X86_VIF | X86_IF), X86_VIF);
    assert_int_equal(f->s->int_shadow, 0);
    assert_int_equal(try(f, do_cli, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rflags & X86_VIF, 0);
    f->s->rflags |= X86_VIP;
    fx_assert_fault(f, try(f, do_sti, 0, 0, 0), X86_GP, 0);
    f->s->rflags = X86_FLAG1 | X86_IOPL;
    assert_int_equal(try(f, do_sti, 0, 0, 0), FX_NO_FAULT);
    assert_true(f->s->rflags & X86_IF);
}

static void sti_shadows_only_when_it_enables(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    assert_int_equal(try(f, do_sti, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->int_shadow, 1);
    soft_shadow_done(f->c, 1);
    assert_int_equal(f->s->int_shadow, 0);
    assert_int_equal(try(f, do_sti, 0, 0, 0), FX_NO_FAULT);
    assert_int_equal(f->s->int_shadow, 0);
}

static void v86_flags_by_iopl_and_vme(void **state)
{
    struct fixture *f = *state;
    struct args x = {.n = 2};
    fx_protected(f, 3);
    f->s->rflags |= X86_VM | X86_VIF;
    soft_mode_changed(f->c);
    fx_assert_fault(f, fx_try(f, do_pushf, &x), X86_GP, 0);
    fx_assert_fault(f, try(f, do_popf, 0, 0, 2), X86_GP, 0);
    f->s->cr4 |= X86_CR4_VME;
    assert_int_equal(fx_try(f, do_pushf, &x), FX_NO_FAULT);
    assert_int_equal(x.a & 0xffff, X86_IF | X86_IOPL | X86_FLAG1);
    assert_int_equal(try(f, do_popf, 0, 0, 2), FX_NO_FAULT);
    assert_int_equal(f->s->rflags & (X86_VIF | X86_VM), X86_VM);
    f->s->rflags |= X86_VIP;
    fx_assert_fault(f, try(f, do_popf, X86_IF, 0, 2), X86_GP, 0);
    fx_assert_fault(f, try(f, do_popf, X86_TF, 0, 2), X86_GP, 0);
    fx_assert_fault(f, try(f, do_popf, 0, 0, 4), X86_GP, 0);
}

/* --- I/O permission --- */

static void io_needs_iopl_or_the_bitmap(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_poke(f, FX_TSS + 102, 0x68, 2);
    fx_assert_fault(f, try(f, do_check_io, 0x80, 0, 1), X86_GP, 0); /* the bitmap is outside the TSS */
    f->s->tr.limit = 0x68 + 0x20;
    for (unsigned i = 0; i < 0x28; i += 8)
        fx_poke(f, FX_TSS + 0x68 + i, 0, 8);
    assert_int_equal(try(f, do_check_io, 0x80, 0, 1), FX_NO_FAULT);
    fx_poke(f, FX_TSS + 0x68 + 0x10, 0x02, 1); /* port 0x81 */
    assert_int_equal(try(f, do_check_io, 0x80, 0, 1), FX_NO_FAULT);
    fx_assert_fault(f, try(f, do_check_io, 0x80, 0, 2), X86_GP, 0);
    fx_assert_fault(f, try(f, do_check_io, 0x81, 0, 1), X86_GP, 0);
    assert_int_equal(try(f, do_check_io, 0xf8, 0, 4), FX_NO_FAULT);
    fx_assert_fault(f, try(f, do_check_io, 0x100, 0, 1), X86_GP, 0); /* its second byte is outside */
    f->s->rflags |= X86_IOPL;
    assert_int_equal(try(f, do_check_io, 0x1000, 0, 4), FX_NO_FAULT);
}

static void io_breakpoints_trap(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    f->s->dr[3] = 0x80;
    f->s->dr7 = X86_DR7_FIXED | BIT(6) | 2ull << 28; /* L3, I/O, 1 byte */
    assert_int_equal(try(f, do_check_io, 0x80, 0, 1), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 0);
    f->s->cr4 |= X86_CR4_DE;
    assert_int_equal(try(f, do_check_io, 0x81, 0, 1), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 0);
    assert_int_equal(try(f, do_check_io, 0x7f, 0, 2), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 8);
}

static int setup(void **state)
{
    int rc = fx_setup(state);
    struct fixture *f = *state;
    offer(f, 1, 2, 26); /* XSAVE */
    offer(f, 1, 2, 17); /* PCID */
    offer(f, 7, 2, 2);  /* UMIP */
    return rc;
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(cr0_rules),
        T(paging_with_lme_activates_long_mode),
        T(cr3_reserved_bits),
        T(cr4_rules),
        T(control_registers_are_for_cpl_0),
        T(cr8_is_the_task_priority),
        T(lmsw_sets_pe_but_does_not_clear_it),
        T(debug_registers),
        T(msr_instructions),
        T(clearing_nxe_makes_nx_a_reserved_bit_at_once),
        T(rdtsc_obeys_tsd),
        T(cpuid_shows_osxsave),
        T(xsetbv_rules),
        T(invpcid_rules),
        T(lgdt_and_sgdt_by_operand_size),
        T(hlt_is_for_cpl_0),
        T(syscall_and_sysret_in_64_bit_mode),
        T(single_steps_around_system_calls),
        T(sysret_to_compatibility_mode),
        T(sysret_to_a_non_canonical_address),
        T(syscall_in_compatibility_mode_is_amds),
        T(syscall_needs_sce),
        T(sysret_is_for_cpl_0),
        T(sysenter_and_sysexit),
        T(sysenter_in_long_mode_by_vendor),
        T(swapgs_exchanges_the_bases),
        T(unknown_hypercalls_say_so),
        T(popf_by_privilege),
        T(popf_16_keeps_the_upper_half),
        T(cli_and_sti_by_privilege),
        T(sti_shadows_only_when_it_enables),
        T(v86_flags_by_iopl_and_vme),
        T(io_needs_iopl_or_the_bitmap),
        T(io_breakpoints_trap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
