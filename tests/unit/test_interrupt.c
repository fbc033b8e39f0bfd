/* Delivery of interrupts and exceptions in each mode, double and triple faults, events at boundaries. */
#include "soft-fixture.h"

#define HANDLER 0x4321u
#define GATE_INT 14
#define GATE_TRAP 15
#define SEL_A FX_GDT_FREE

static u64 on_stack(struct fixture *f, unsigned i, unsigned size)
{
    return fx_peek(f, f->s->gpr[X86_RSP] + i * size, size);
}

/* --- real mode --- */

static void real_mode_pushes_flags_cs_ip(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    f->s->rflags |= X86_IF | X86_TF | X86_CF;
    fx_poke(f, 0x21 * 4, 0xf0001234, 4);
    assert_int_equal(fx_interrupt(f, 0x21, SOFT_INT_SOFTWARE), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], 0x6ffa);
    assert_int_equal(on_stack(f, 0, 2), 0x7c00);
    assert_int_equal(on_stack(f, 1, 2), 0);
    assert_int_equal(on_stack(f, 2, 2), X86_IF | X86_TF | X86_CF | X86_FLAG1);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->seg[X86_CS].base, 0xf0000);
    assert_int_equal(f->s->rflags, X86_CF | X86_FLAG1);
}

static void real_mode_exceptions_have_no_error_code(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    fx_poke(f, X86_GP * 4, 0xf0001234, 4);
    assert_true(fx_exception(f, X86_GP, true, 0));
    assert_int_equal(f->s->gpr[X86_RSP], 0x6ffa);
    assert_int_equal(on_stack(f, 0, 2), 0x7c00);
}

static void real_mode_vector_beyond_the_table_ends_in_triple_fault(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    f->s->idt.limit = 3;
    assert_false(fx_exception(f, X86_UD, false, 0));
}

/* --- protected mode --- */

static void same_level_interrupt_keeps_the_stack(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    u64 rsp = f->s->gpr[X86_RSP];
    f->s->rflags |= X86_IF | X86_NT;
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], rsp - 12);
    assert_int_equal(on_stack(f, 0, 4), FX_FREE);
    assert_int_equal(on_stack(f, 1, 4), FX_CODE32);
    assert_int_equal(on_stack(f, 2, 4), X86_IF | X86_NT | X86_FLAG1);
    assert_int_equal(f->s->rip, HANDLER);
    assert_int_equal(f->s->rflags, X86_FLAG1);
}

static void trap_gate_keeps_if(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    f->s->rflags |= X86_IF;
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_TRAP, 0, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
    assert_int_equal(f->s->rflags, X86_IF | X86_FLAG1);
}

static void interrupt_from_user_switches_the_stack(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_gate(f, 0x80, FX_CODE32, HANDLER, GATE_INT, 3, 0);
    assert_int_equal(fx_interrupt(f, 0x80, SOFT_INT_SOFTWARE), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 20);
    assert_int_equal(on_stack(f, 0, 4), FX_FREE);
    assert_int_equal(on_stack(f, 1, 4), FX_USER_CODE32);
    assert_int_equal(on_stack(f, 3, 4), FX_STACK3);
    assert_int_equal(on_stack(f, 4, 4), FX_USER_DATA);
    assert_int_equal(f->s->seg[X86_SS].selector, FX_DATA);
}

static void error_code_comes_last(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_gate(f, X86_GP, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    assert_true(fx_exception(f, X86_GP, true, 0x1234));
    assert_int_equal(on_stack(f, 0, 4), 0x1234);
    assert_int_equal(on_stack(f, 1, 4), FX_FREE);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 24);
}

static void faults_push_rf_and_traps_do_not(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_gate(f, X86_UD, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    fx_gate(f, X86_BP, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    assert_true(fx_exception(f, X86_UD, false, 0));
    assert_int_equal(on_stack(f, 2, 4), X86_RF | X86_FLAG1);
    assert_int_equal(fx_interrupt(f, X86_BP, SOFT_INT_INT3), FX_NO_FAULT);
    assert_int_equal(on_stack(f, 2, 4), X86_FLAG1);
}

static void software_interrupts_need_the_gates_privilege(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, 0x40 * 8 + 2);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_INT3), X86_GP, 0x40 * 8 + 2);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
}

static void faults_in_delivery_carry_ext(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_gate(f, 0x40, FX_CODE32, HANDLER, 0, 3, 0); /* no such type */
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), X86_GP, 0x40 * 8 + 3);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, 0x40 * 8 + 2);
    fx_gate(f, 0x40, FX_DATA, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), X86_GP, FX_DATA + 1);
    fx_gate(f, 0x40, 0, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), X86_GP, 1);
    fx_poke(f, FX_IDT + 0x40 * 8 + 5, 0x6e, 1); /* absent */
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), X86_NP, 0x40 * 8 + 3);
    f->s->idt.limit = 0x40 * 8 + 6;
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, 0x40 * 8 + 2);
    /* and not afterwards */
    fx_assert_fault(f, fx_load(f, X86_DS, FX_GDT_LIMIT + 1), X86_GP, FX_GDT_LIMIT + 1);
}

static void delivery_that_faults_changes_nothing(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_gate(f, 0x80, FX_CODE32, HANDLER, GATE_INT, 3, 0);
    fx_poke(f, FX_TSS + 8, FX_USER_DATA, 2); /* a bad SS0 */
    struct x86_state before = *f->s;
    fx_assert_fault(f, fx_interrupt(f, 0x80, SOFT_INT_SOFTWARE), X86_TS, FX_USER_DATA & ~3);
    assert_memory_equal(before.gpr, f->s->gpr, sizeof before.gpr);
    assert_memory_equal(before.seg, f->s->seg, sizeof before.seg);
    assert_int_equal(f->s->rflags, before.rflags);
    assert_int_equal(f->s->rip, before.rip);
}

static void gate_16_pushes_words(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    u64 rsp = f->s->gpr[X86_RSP];
    fx_gate(f, 0x40, FX_CODE32, 0x12344321, 6, 0, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], rsp - 6);
    assert_int_equal(f->s->rip, 0x4321);
}

static void conforming_handler_keeps_cpl(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_descriptor(f, SEL_A, 0, 0xfffff, 0xc09e);
    fx_gate(f, 0x40, SEL_A, HANDLER, GATE_INT, 3, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->seg[X86_CS].selector, SEL_A | 3);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK3 - 12);
}

static void task_gate_switches_tasks_and_pushes_the_error(void **state)
{
    struct fixture *f = *state;
    u64 tss = 0x4000;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, (u32)tss, 0x67, 0x89);
    fx_poke(f, tss + 0x20, 0x1234, 4);
    fx_poke(f, tss + 0x38, 0x9000, 4);
    for (unsigned i = 0; i < 4; i++)
        fx_poke(f, tss + 0x48 + 4 * i, i == 1 ? FX_CODE32 : FX_DATA, 2);
    fx_poke(f, FX_IDT + X86_DF_ * 8, (u64)SEL_A << 16 | 0x85ull << 40, 8);
    assert_true(fx_exception(f, X86_DF_, true, 0));
    assert_int_equal(f->s->tr.selector, SEL_A);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->gpr[X86_RSP], 0x8ffc);
    assert_int_equal(fx_peek(f, 0x8ffc, 4), 0);
    assert_int_equal(fx_peek(f, tss, 2), FX_TSS_SEL);
    assert_true(f->s->rflags & X86_NT);
}

/* --- virtual-8086 mode --- */

static void enter_v86(struct fixture *f, u64 flags)
{
    static const u32 frame[] = {0x1234, 0x2000, 0, 0x5678, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};
    fx_protected(f, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(frame); i++)
        fx_poke(f, f->s->gpr[X86_RSP] + 4 * i, i == 2 ? X86_VM | flags : frame[i], 4);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
}

static void v86_interrupt_saves_and_nulls_the_segments(void **state)
{
    struct fixture *f = *state;
    enter_v86(f, X86_IOPL);
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_INT, 3, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
    static const u32 expected[] = {
        0x1234, 0x2000, X86_VM | X86_IOPL | X86_FLAG1, 0x5678, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 36);
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
        assert_int_equal(on_stack(f, i, 4), expected[i]);
    assert_false(x86_v8086(f->s));
    assert_int_equal(f->c->cpl, 0);
    assert_true(f->s->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_true(f->s->seg[X86_GS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_true(x86_v8086(f->s));
    assert_int_equal(f->s->seg[X86_GS].base, 0x70000);
}

static void v86_int_needs_iopl_3(void **state)
{
    struct fixture *f = *state;
    enter_v86(f, 0);
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_INT3), FX_NO_FAULT); /* INT3 does not ask */
}

static void v86_handler_must_be_ring_0(void **state)
{
    struct fixture *f = *state;
    enter_v86(f, X86_IOPL);
    fx_gate(f, 0x40, FX_USER_CODE32, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, FX_USER_CODE32 & ~3);
}

/* The redirection bitmap is the 32 bytes below the I/O bitmap. */
static void vme_tss(struct fixture *f)
{
    f->s->cr4 |= X86_CR4_VME;
    f->s->tr.limit = 0x200;
    fx_poke(f, FX_TSS + 102, 0x88, 2);
    for (unsigned i = 0; i < 32; i += 8)
        fx_poke(f, FX_TSS + 0x68 + i, 0, 8);
}

static void vme_redirects_to_the_8086_handler(void **state)
{
    struct fixture *f = *state;
    enter_v86(f, X86_VIF);
    vme_tss(f);
    fx_poke(f, 0x21 * 4, 0x0a000b00, 4);
    assert_int_equal(fx_interrupt(f, 0x21, SOFT_INT_SOFTWARE), FX_NO_FAULT);
    assert_true(x86_v8086(f->s));
    assert_int_equal(f->s->seg[X86_CS].base, 0xa000);
    assert_int_equal(f->s->rip, 0xb00);
    assert_int_equal(fx_peek(f, 0x30000 + 0x5678 - 2, 2), X86_IOPL | X86_IF | X86_FLAG1); /* VIF as IF */
    assert_int_equal(f->s->rflags & (X86_VIF | X86_IF), 0);
}

static void vme_bit_set_goes_to_the_monitor(void **state)
{
    struct fixture *f = *state;
    enter_v86(f, 0);
    vme_tss(f);
    fx_poke(f, FX_TSS + 0x68 + 0x21 / 8, 1 << (0x21 % 8), 1);
    fx_assert_fault(f, fx_interrupt(f, 0x21, SOFT_INT_SOFTWARE), X86_GP, 0);
}

/* --- long mode --- */

static void long_mode_frame_is_aligned_and_whole(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->gpr[X86_RSP] = 0x7abc;
    fx_gate(f, 0x40, FX_CODE64, 0xffff800000001234, GATE_INT, 0, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_EXTERNAL), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], 0x7ab0 - 40);
    assert_int_equal(on_stack(f, 0, 8), FX_FREE);
    assert_int_equal(on_stack(f, 1, 8), FX_CODE64);
    assert_int_equal(on_stack(f, 3, 8), 0x7abc);
    assert_int_equal(on_stack(f, 4, 8), FX_DATA);
    assert_int_equal(f->s->rip, 0xffff800000001234);
    assert_int_equal(f->s->seg[X86_SS].selector, FX_DATA); /* no change of level, no new SS */
}

static void long_mode_user_interrupt_loads_a_null_ss(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_gate(f, X86_PF_, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    assert_true(fx_exception(f, X86_PF_, true, 7));
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 48);
    assert_int_equal(on_stack(f, 0, 8), 7);
    assert_int_equal(on_stack(f, 5, 8), FX_USER_DATA);
    assert_int_equal(f->s->seg[X86_SS].selector, 0);
    /* ... and IRETQ goes back */
    f->s->gpr[X86_RSP] += 8;
    assert_int_equal(fx_iret(f, 8), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK3);
}

static void ist_is_used_at_any_level(void **state)
{
    struct fixture *f = *state;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        fx_long(f, cpl);
        fx_poke(f, FX_TSS + 36 + 8, 0x6008, 8); /* IST2 */
        fx_gate(f, X86_NMI, FX_CODE64, HANDLER, GATE_INT, 0, 2);
        assert_int_equal(fx_interrupt(f, X86_NMI, SOFT_INT_EXTERNAL), FX_NO_FAULT);
        assert_int_equal(f->s->gpr[X86_RSP], 0x6000 - 40);
    }
}

static void long_mode_handler_must_be_64_bit_code(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_gate(f, 0x40, FX_CODE32, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, FX_CODE32);
    fx_gate(f, 0x40, FX_CODE64, HANDLER, 6, 3, 0); /* a 16-bit gate */
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_GP, 0x40 * 8 + 2);
}

static void non_canonical_stack_is_ss(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_poke(f, FX_TSS + 4, 0x0000800000000000, 8);
    fx_gate(f, 0x40, FX_CODE64, HANDLER, GATE_INT, 3, 0);
    fx_assert_fault(f, fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), X86_SS_, 0);
}

/* --- double and triple faults --- */

struct pair {
    u8 first;
    bool second_pf; /* the second is #PF, else #NP by an absent gate */
    u8 delivered;
};

static const struct pair pairs[] = {
    {X86_UD, false, X86_NP},  /* benign, contributory: one after the other */
    {X86_UD, true, X86_PF_},  /* benign, page fault */
    {X86_GP, false, X86_DF_}, /* contributory twice */
    {X86_GP, true, X86_PF_},  /* contributory, then page fault */
    {X86_PF_, false, X86_DF_}, {X86_PF_, true, X86_DF_}, {X86_DE, false, X86_DF_},
};

#define HOLE 0x40000000ull /* not mapped */

static void second_fault_by_class(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++) {
        const struct pair *p = &pairs[i];
        fx_long(f, 0);
        fx_gate(f, X86_NP, FX_CODE64, 0x1000 + X86_NP, GATE_INT, 0, 0);
        fx_gate(f, X86_PF_, FX_CODE64, 0x1000 + X86_PF_, GATE_INT, 0, 0);
        fx_gate(f, X86_DF_, FX_CODE64, 0x1000 + X86_DF_, GATE_INT, 0, 0);
        fx_gate(f, p->first, FX_CODE64, HANDLER, GATE_INT, 0, p->second_pf ? 1 : 0);
        fx_poke(f, FX_TSS + 36, HOLE, 8); /* IST1 is not mapped */
        if (!p->second_pf)
            fx_poke(f, FX_IDT + p->first * 16 + 5, 0x0e, 1); /* absent */
        assert_true(fx_exception(f, p->first, false, 0));
        if (f->s->rip != 0x1000u + p->delivered)
            fail_msg("case %u: delivered at 0x%llx", i, (unsigned long long)f->s->rip);
        if (p->delivered == X86_DF_)
            assert_int_equal(on_stack(f, 0, 8), 0);
        assert_int_equal(on_stack(f, 1, 8), FX_FREE); /* of the interrupted instruction */
    }
}

static void fault_in_double_fault_delivery_is_a_triple_fault(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_gate(f, X86_DF_, FX_CODE64, HANDLER, GATE_INT, 0, 1);
    fx_poke(f, FX_TSS + 36, HOLE, 8);
    assert_false(fx_exception(f, X86_GP, true, 0)); /* no gate for #GP at all */
}

/* --- events between instructions --- */

static void external_interrupt_needs_if_and_no_shadow(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_gate(f, 0x55, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    f->vector = 0x55;
    vcpu_request(f->vcpu, VCPU_REQ_INTERRUPT);
    assert_false(soft_poll_events(f->c));
    f->s->rflags |= X86_IF;
    f->s->int_shadow = 1;
    assert_false(soft_poll_events(f->c));
    soft_shadow_done(f->c, 1);
    f->s->mp_state = VCPU_MP_HALTED;
    assert_true(soft_poll_events(f->c));
    assert_int_equal(f->s->rip, HANDLER);
    assert_int_equal(f->s->mp_state, VCPU_MP_RUNNABLE);
    assert_false(soft_poll_events(f->c));
}

static void fault_while_an_interrupt_is_delivered_is_left_pending(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->rflags |= X86_IF;
    fx_gate(f, X86_GP, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    f->vector = 0x55; /* has no gate */
    vcpu_request(f->vcpu, VCPU_REQ_INTERRUPT);
    assert_true(soft_poll_events(f->c));
    assert_true(f->s->exception_pending);
    assert_true(soft_deliver_exception(f->c));
    assert_int_equal(f->s->rip, HANDLER);
    assert_int_equal(on_stack(f, 0, 8), 0x55 * 8 + 3);
}

static void nmi_is_blocked_until_iret(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_gate(f, X86_NMI, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    vcpu_request(f->vcpu, VCPU_REQ_NMI);
    assert_true(soft_poll_events(f->c));
    assert_int_equal(f->s->rip, HANDLER);
    vcpu_request(f->vcpu, VCPU_REQ_NMI);
    assert_false(soft_poll_events(f->c));
    assert_true(f->s->nmi_pending);
    assert_int_equal(fx_iret(f, 8), FX_NO_FAULT);
    assert_true(soft_poll_events(f->c));
    assert_int_equal(f->s->rip, HANDLER);
}

static void single_step_traps_before_an_interrupt(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->rflags |= X86_TF | X86_IF;
    fx_gate(f, X86_DB, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    f->vector = 0x55;
    vcpu_request(f->vcpu, VCPU_REQ_INTERRUPT);
    soft_step_done(f->c);
    assert_true(soft_poll_events(f->c));
    assert_int_equal(f->s->rip, HANDLER);
    assert_int_equal(f->s->dr6, X86_DR6_FIXED | X86_DR6_BS);
    assert_int_equal(on_stack(f, 2, 8) & (X86_TF | X86_RF), X86_TF);
    assert_false(f->s->rflags & X86_TF);
}

static void int_n_is_not_followed_by_a_step_trap(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->rflags |= X86_TF;
    fx_gate(f, 0x40, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), FX_NO_FAULT);
    soft_step_done(f->c);
    assert_int_equal(f->s->pending_db, 0);
    assert_int_equal(fx_interrupt(f, 0x40, SOFT_INT_SOFTWARE), FX_NO_FAULT); /* not stepped */
    soft_step_done(f->c);
    assert_int_equal(f->s->pending_db, X86_DR6_BS);
}

static void check_code(struct soft_cpu *c, void *arg)
{
    soft_check_code_breakpoint(c, *(u64 *)arg);
}

static void code_breakpoint_is_a_fault_that_rf_holds_off(void **state)
{
    struct fixture *f = *state;
    u64 la = FX_FREE;
    fx_long(f, 0);
    f->s->dr[2] = la;
    f->s->dr7 = X86_DR7_FIXED | BIT(5);
    soft_mode_changed(f->c);
    assert_int_equal(fx_try(f, check_code, &la), X86_DB);
    assert_int_equal(f->s->dr6 & 0xf, 4);
    f->s->rflags |= X86_RF;
    assert_int_equal(fx_try(f, check_code, &la), FX_NO_FAULT);
    assert_false(f->s->rflags & X86_RF);
    la++;
    assert_int_equal(fx_try(f, check_code, &la), FX_NO_FAULT);
}

/* --- a second opinion (take-back.c) --- */

static void delivered_ud_and_gp_are_taken_back(void **state)
{
    struct fixture *f = *state;
    static const enum x86_vector vectors[] = {X86_UD, X86_GP};
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
        fx_long(f, 3);
        f->s->rflags |= X86_IF | X86_CF;
        struct x86_state before = *f->s;
        fx_gate(f, vectors[i], FX_CODE64, HANDLER + vectors[i], GATE_INT, 0, 0);
        assert_true(fx_exception(f, vectors[i], vectors[i] == X86_GP, 0x18));
        assert_int_equal(f->s->rip, HANDLER + vectors[i]);
        assert_true(soft_take_back(f->c));
        assert_int_equal(f->s->rip, before.rip);
        assert_int_equal(f->s->rflags, before.rflags);
        assert_int_equal(f->s->gpr[X86_RSP], before.gpr[X86_RSP]);
        assert_int_equal(f->s->seg[X86_SS].selector, before.seg[X86_SS].selector);
        assert_int_equal(f->c->cpl, 3);
    }
}

static void half_a_syscall_is_done_again(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_gate(f, X86_PF_, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    f->s->efer |= X86_EFER_SCE;
    f->s->lstar = f->s->cr2 = f->s->rip = 0xffffffff81000000;
    f->s->gpr[X86_RCX] = FX_FREE + 2;
    f->s->gpr[X86_R11] = X86_FLAG1 | X86_IF | X86_ZF;
    assert_true(fx_exception(f, X86_PF_, true, 0x15));
    assert_true(soft_take_back(f->c));
    assert_int_equal(f->s->rip, FX_FREE);
    assert_int_equal(f->s->rflags, X86_FLAG1 | X86_IF | X86_ZF);
    assert_int_equal(f->c->cpl, 3);
}

static void nothing_else_is_taken_back(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_gate(f, X86_UD, FX_CODE64, HANDLER, GATE_INT, 0, 0);
    fx_gate(f, X86_PF_, FX_CODE64, HANDLER + 0x100, GATE_INT, 0, 0);
    assert_false(soft_take_back(f->c)); /* not at a handler */
    f->s->cr2 = 0x1000;
    assert_true(fx_exception(f, X86_PF_, true, 0));
    struct x86_state before = *f->s;
    assert_false(soft_take_back(f->c)); /* a page fault like any other */
    f->s->rip = HANDLER;
    f->s->idt.base = 1ull << 47; /* unreadable */
    assert_false(soft_take_back(f->c));
    assert_int_equal(f->s->exception_pending, 0);
    assert_int_equal(f->s->gpr[X86_RSP], before.gpr[X86_RSP]);
    fx_protected(f, 0);
    fx_gate(f, X86_UD, FX_CODE32, HANDLER, GATE_INT, 0, 0);
    assert_true(fx_exception(f, X86_UD, false, 0));
    assert_false(soft_take_back(f->c)); /* only 64-bit mode pushes all that is needed */
}

static void flush_request_is_served(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_read(f, FX_FREE, 8, NULL), FX_NO_FAULT);
    assert_true(soft_tlb_entry(f->c, FX_FREE)->read[0] != SOFT_TLB_NONE);
    vcpu_request(f->vcpu, VCPU_REQ_FLUSH_TLB);
    assert_false(soft_poll_events(f->c));
    assert_true(soft_tlb_entry(f->c, FX_FREE)->read[0] == SOFT_TLB_NONE);
    assert_int_equal(vcpu_requests(f->vcpu), 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(delivered_ud_and_gp_are_taken_back),
        T(half_a_syscall_is_done_again),
        T(nothing_else_is_taken_back),
        T(real_mode_pushes_flags_cs_ip),
        T(real_mode_exceptions_have_no_error_code),
        T(real_mode_vector_beyond_the_table_ends_in_triple_fault),
        T(same_level_interrupt_keeps_the_stack),
        T(trap_gate_keeps_if),
        T(interrupt_from_user_switches_the_stack),
        T(error_code_comes_last),
        T(faults_push_rf_and_traps_do_not),
        T(software_interrupts_need_the_gates_privilege),
        T(faults_in_delivery_carry_ext),
        T(delivery_that_faults_changes_nothing),
        T(gate_16_pushes_words),
        T(conforming_handler_keeps_cpl),
        T(task_gate_switches_tasks_and_pushes_the_error),
        T(v86_interrupt_saves_and_nulls_the_segments),
        T(v86_int_needs_iopl_3),
        T(v86_handler_must_be_ring_0),
        T(vme_redirects_to_the_8086_handler),
        T(vme_bit_set_goes_to_the_monitor),
        T(long_mode_frame_is_aligned_and_whole),
        T(long_mode_user_interrupt_loads_a_null_ss),
        T(ist_is_used_at_any_level),
        T(long_mode_handler_must_be_64_bit_code),
        T(non_canonical_stack_is_ss),
        T(second_fault_by_class),
        T(fault_in_double_fault_delivery_is_a_triple_fault),
        T(external_interrupt_needs_if_and_no_shadow),
        T(fault_while_an_interrupt_is_delivered_is_left_pending),
        T(nmi_is_blocked_until_iret),
        T(single_step_traps_before_an_interrupt),
        T(int_n_is_not_followed_by_a_step_trap),
        T(code_breakpoint_is_a_fault_that_rf_holds_off),
        T(flush_request_is_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
