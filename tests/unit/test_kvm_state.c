/* Conversions between KVM's structs and x86_state: there and back, and what must not survive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvm/kvm-internal.h"

/* The standard format of a CPU with AVX-512 and protection keys. */
static const struct kvm_xsave_layout layout = {
    .size = 4096,
    .components = 0x2e7,
    .offset = {[2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688},
};

/* Every byte different from its neighbours, and from one field to the next. */
static void fill(void *p, size_t len, u8 seed)
{
    u8 *b = p;
    for (size_t i = 0; i < len; i++)
        b[i] = (u8)(seed + i * 7 + (i >> 8));
}

static struct x86_state *state_new(void)
{
    struct x86_state *s = aligned_alloc(64, ALIGN_UP(sizeof *s, 64));
    assert_non_null(s);
    memset(s, 0, sizeof *s);
    x86_state_reset(s, true);
    return s;
}

static void general_registers_survive(void **ctx)
{
    struct x86_state *a = state_new(), *b = state_new();
    struct kvm_regs regs;
    fill(a->gpr, sizeof a->gpr, 3);
    a->rip = 0xffffffff81000000;
    a->rflags = X86_FLAG1 | X86_IF | X86_ZF;
    kvm_regs_from_state(&regs, a);
    assert_int_equal(regs.rsp, a->gpr[X86_RSP]);
    assert_int_equal(regs.rbx, a->gpr[X86_RBX]);
    assert_int_equal(regs.r15, a->gpr[X86_R15]);
    kvm_regs_to_state(&regs, b);
    assert_memory_equal(a->gpr, b->gpr, sizeof a->gpr);
    assert_int_equal(b->rip, a->rip);
    assert_int_equal(b->rflags, a->rflags);
    free(a);
    free(b);
}

static struct x86_segment segment(unsigned n, u32 attr)
{
    return (struct x86_segment){
        .base = 0x1000 * n, .limit = 0xfffff + n, .attr = attr, .selector = (u16)(8 * n)};
}

static void system_registers_survive(void **ctx)
{
    struct x86_state *a = state_new(), *b = state_new();
    struct kvm_sregs sregs = {.cr8 = 5};
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        a->seg[i] = segment(i + 1, 0x93 | i << 12 | (i & 3) << 5);
    a->seg[X86_GS].attr = X86_ATTR_UNUSABLE | 3 << 5;
    a->ldt = segment(9, 0x82);
    a->tr = segment(10, 0x8b);
    a->gdt = (struct x86_table){.base = 0xffff800000001000, .limit = 0x7f};
    a->idt = (struct x86_table){.base = 0xffff800000002000, .limit = 0xfff};
    a->cr0 = 0x80050033;
    a->cr2 = 0x1234;
    a->cr3 = 0x5000;
    a->cr4 = 0x6f0;
    a->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    kvm_sregs_from_state(&sregs, a);
    assert_int_equal(sregs.cr8, 5);
    assert_int_equal(sregs.cs.base, 0x2000);
    kvm_sregs_to_state(&sregs, b);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        assert_int_equal(b->seg[i].base, a->seg[i].base);
        assert_int_equal(b->seg[i].limit, a->seg[i].limit);
        assert_int_equal(b->seg[i].attr, a->seg[i].attr);
        assert_int_equal(b->seg[i].selector, a->seg[i].selector);
    }
    assert_int_equal(b->ldt.attr, a->ldt.attr);
    assert_int_equal(b->tr.attr, a->tr.attr);
    assert_int_equal(b->gdt.base, a->gdt.base);
    assert_int_equal(b->idt.limit, a->idt.limit);
    assert_int_equal(b->cr0, a->cr0);
    assert_int_equal(b->cr2, a->cr2);
    assert_int_equal(b->cr3, a->cr3);
    assert_int_equal(b->cr4, a->cr4);
    assert_int_equal(b->efer, a->efer);
    free(a);
    free(b);
}

static void debug_registers_survive(void **ctx)
{
    struct x86_state *a = state_new(), *b = state_new();
    struct kvm_debugregs regs = {0};
    fill(a->dr, sizeof a->dr, 9);
    a->dr6 = X86_DR6_FIXED | X86_DR6_BS;
    a->dr7 = X86_DR7_FIXED | 3;
    kvm_debugregs_from_state(&regs, a);
    kvm_debugregs_to_state(&regs, b);
    assert_memory_equal(a->dr, b->dr, sizeof a->dr);
    assert_int_equal(b->dr6, a->dr6);
    assert_int_equal(b->dr7, a->dr7);
    free(a);
    free(b);
}

static void vector_registers_survive(void **ctx)
{
    struct x86_state *a = state_new(), *b = state_new();
    u8 *image = aligned_alloc(64, layout.size);
    fill(a->fpu.fxsave, 160, 1);
    fill(a->fpu.vec, sizeof a->fpu.vec, 5);
    fill(a->fpu.k, sizeof a->fpu.k, 77);
    a->fpu.pkru = 0x55555554;
    b->fpu.mxcsr_mask = a->fpu.mxcsr_mask;
    kvm_xsave_from_state(image, &layout, a);
    assert_int_equal(get_le64(image + 512), layout.components);
    assert_memory_equal(image + 160 + 16 * 3, a->fpu.vec[3], 16);
    assert_memory_equal(image + 576 + 16 * 3, a->fpu.vec[3] + 16, 16);
    kvm_xsave_to_state(image, &layout, b);
    assert_memory_equal(a->fpu.fxsave, b->fpu.fxsave, 160);
    assert_memory_equal(a->fpu.vec, b->fpu.vec, sizeof a->fpu.vec);
    assert_memory_equal(a->fpu.k, b->fpu.k, sizeof a->fpu.k);
    assert_int_equal(b->fpu.pkru, a->fpu.pkru);
    free(image);
    free(a);
    free(b);
}

static void an_absent_component_is_in_its_initial_state(void **ctx)
{
    struct x86_state *s = state_new();
    u8 *image = aligned_alloc(64, layout.size);
    static const u8 zeros[sizeof s->fpu.vec];
    fill(image, layout.size, 11);
    put_le64(image + 512, 0);
    fill(s->fpu.vec, sizeof s->fpu.vec, 5);
    fill(s->fpu.k, sizeof s->fpu.k, 5);
    kvm_xsave_to_state(image, &layout, s);
    assert_memory_equal(s->fpu.vec, zeros, sizeof s->fpu.vec);
    assert_memory_equal(s->fpu.k, zeros, sizeof s->fpu.k);
    assert_int_equal(s->fpu.fcw, 0x37f);
    assert_int_equal(s->fpu.ftw, 0);
    free(image);
    free(s);
}

static void components_that_the_host_lacks_keep_their_values(void **ctx)
{
    static const struct kvm_xsave_layout sse = {.size = 4096, .components = 3};
    struct x86_state *s = state_new();
    u8 *image = aligned_alloc(64, sse.size);
    s->fpu.pkru = 7;
    s->fpu.vec[1][16] = 99;
    kvm_xsave_from_state(image, &sse, s);
    kvm_xsave_to_state(image, &sse, s);
    assert_int_equal(s->fpu.pkru, 7);
    assert_int_equal(s->fpu.vec[1][16], 99);
    free(image);
    free(s);
}

static void pending_events_survive(void **ctx)
{
    for (unsigned shadow = 0; shadow <= 2; shadow++) {
        struct x86_state *a = state_new(), *b = state_new();
        struct kvm_vcpu_events e;
        a->exception_pending = 1;
        a->exception_vector = X86_PF_;
        a->exception_has_error = 1;
        a->exception_error = 2;
        a->interrupt_pending = 1;
        a->interrupt_vector = 0xec;
        a->int_shadow = (u8)shadow;
        a->nmi_pending = a->nmi_blocked = 1;
        kvm_events_from_state(&e, a);
        kvm_events_to_state(&e, b);
        assert_int_equal(b->exception_pending, 1);
        assert_int_equal(b->exception_vector, X86_PF_);
        assert_int_equal(b->exception_has_error, 1);
        assert_int_equal(b->exception_error, 2);
        assert_int_equal(b->interrupt_pending, 1);
        assert_int_equal(b->interrupt_vector, 0xec);
        assert_int_equal(b->int_shadow, shadow);
        assert_int_equal(b->nmi_pending, 1);
        assert_int_equal(b->nmi_blocked, 1);
        free(a);
        free(b);
    }
}

static void a_debug_trap_that_is_due_becomes_one_in_delivery(void **ctx)
{
    struct x86_state *a = state_new(), *b = state_new();
    struct kvm_vcpu_events e;
    struct kvm_debugregs regs = {0};
    a->pending_db = X86_DR6_BS | 2;
    a->exception_has_error = 1; /* of an exception long delivered */
    a->dr6 = X86_DR6_FIXED | 1;
    a->dr7 = X86_DR7_FIXED | X86_DR7_GD;
    kvm_debugregs_from_state(&regs, a);
    kvm_events_from_state(&e, a);
    assert_int_equal(e.exception.injected, 1);
    assert_int_equal(e.exception.nr, X86_DB);
    assert_int_equal(e.exception.has_error_code, 0);
    assert_int_equal(regs.dr6, X86_DR6_FIXED | X86_DR6_BS | 2);
    assert_int_equal(regs.dr7, X86_DR7_FIXED);
    b->pending_db = 1;
    kvm_debugregs_to_state(&regs, b);
    kvm_events_to_state(&e, b);
    assert_int_equal(b->pending_db, 0);
    assert_int_equal(b->exception_pending, 1);
    assert_int_equal(b->exception_vector, X86_DB);
    free(a);
    free(b);
}

static void a_software_interrupt_in_delivery_is_executed_again(void **ctx)
{
    struct x86_state *s = state_new();
    struct kvm_vcpu_events e = {.interrupt = {.injected = 1, .nr = 0x80, .soft = 1},
                                .exception = {.injected = 1, .nr = X86_BP}};
    kvm_events_to_state(&e, s);
    assert_int_equal(s->interrupt_pending, 0);
    assert_int_equal(s->exception_pending, 0);
    free(s);
}

static void an_nmi_in_delivery_has_not_blocked_others_yet(void **ctx)
{
    struct x86_state *s = state_new();
    struct kvm_vcpu_events e = {.nmi = {.injected = 1, .masked = 1}};
    kvm_events_to_state(&e, s);
    assert_int_equal(s->nmi_pending, 1);
    assert_int_equal(s->nmi_blocked, 0);
    free(s);
}

/* Each of the three chips there and back; a flag is 0 or 1 in the kernel's structs. */
static void shared_chips_survive(void **ctx)
{
    struct chips_image a = {.select = 0x2a, .id = 5, .asserted = 0x10001}, b = {.select = 0};
    for (unsigned n = 0; n < 2; n++)
        a.pic[n] = (struct pic_image){.lines = 0x11,
                                      .irr = 0x22,
                                      .imr = 0x44,
                                      .isr = 0x88,
                                      .base = (u8)(0x30 + 8 * n),
                                      .highest = 3,
                                      .init_step = (u8)n,
                                      .icw4 = true,
                                      .read_isr = n,
                                      .poll = !n,
                                      .special_mask = n,
                                      .auto_eoi = !n,
                                      .rotate_auto_eoi = n,
                                      .nested_specially = !n,
                                      .elcr = 0x08};
    for (unsigned pin = 0; pin < IRQCHIP_PINS; pin++)
        a.redir[pin] = (u64)pin << 56 | 0xc031 | pin;
    for (u32 id = 0; id < 3; id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        kvm_chip_from_image(&chip, &a);
        if (id < 2)
            assert_int_equal(chip.chip.pic.elcr_mask, id ? 0xde : 0xf8);
        else
            assert_int_equal(chip.chip.ioapic.base_address, 0xfec00000);
        kvm_chip_to_image(&chip, &b);
    }
    assert_memory_equal(a.pic, b.pic, sizeof a.pic);
    assert_memory_equal(a.redir, b.redir, sizeof a.redir);
    assert_int_equal(b.select, 0x2a);
    assert_int_equal(b.id, 5);
    assert_int_equal(b.asserted, 0x10001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(general_registers_survive),
        cmocka_unit_test(system_registers_survive),
        cmocka_unit_test(debug_registers_survive),
        cmocka_unit_test(vector_registers_survive),
        cmocka_unit_test(an_absent_component_is_in_its_initial_state),
        cmocka_unit_test(components_that_the_host_lacks_keep_their_values),
        cmocka_unit_test(pending_events_survive),
        cmocka_unit_test(a_debug_trap_that_is_due_becomes_one_in_delivery),
        cmocka_unit_test(a_software_interrupt_in_delivery_is_executed_again),
        cmocka_unit_test(an_nmi_in_delivery_has_not_blocked_others_yet),
        cmocka_unit_test(shared_chips_survive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
