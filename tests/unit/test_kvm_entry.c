/* What VT-x refuses is known by its rule, and what vCPUs begin with is not refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kvm/kvm-internal.h"

struct registers {
    struct kvm_regs r;
    struct kvm_sregs s;
    struct kvm_vcpu_events e;
};

static struct registers reset_state(void)
{
    struct x86_state *s = aligned_alloc(64, ALIGN_UP(sizeof *s, 64));
    struct registers g = {.s = {.cr8 = 0}};
    assert_non_null(s);
    x86_state_reset(s, true);
    kvm_regs_from_state(&g.r, s);
    kvm_sregs_from_state(&g.s, s);
    kvm_events_from_state(&g.e, s);
    free(s);
    return g;
}

/* 64-bit code of user mode, with a null DS. */
static struct registers long_state(void)
{
    struct registers g = reset_state();
    const struct kvm_segment code = {
        .selector = 0x33, .limit = 0xffffffff, .type = 11, .s = 1, .dpl = 3, .present = 1, .l = 1, .g = 1};
    const struct kvm_segment data = {
        .selector = 0x2b, .limit = 0xffffffff, .type = 3, .s = 1, .dpl = 3, .present = 1, .db = 1, .g = 1};
    g.s.cs = code;
    g.s.ss = data;
    g.s.ds = g.s.es = g.s.fs = g.s.gs = (struct kvm_segment){.unusable = 1};
    g.s.fs.base = 0xffff888000000000;
    g.s.tr = (struct kvm_segment){.selector = 0x40, .limit = 0x67, .type = 11, .present = 1};
    g.s.ldt = (struct kvm_segment){.unusable = 1};
    g.s.cr0 = X86_CR0_PE | X86_CR0_PG;
    g.s.cr4 = X86_CR4_PAE;
    g.s.efer = X86_EFER_LME | X86_EFER_LMA;
    g.r.rip = 0x7fff00001000;
    g.r.rflags = X86_FLAG1 | X86_IF;
    return g;
}

static const char *fault(const struct registers *g)
{
    return kvm_entry_fault(&g->r, &g->s, &g->e);
}

static void a_vcpu_after_reset_can_be_entered(void **state)
{
    struct registers g = reset_state();
    assert_null(fault(&g));
}

static void sixty_four_bit_code_can_be_entered(void **state)
{
    struct registers g = long_state();
    assert_null(fault(&g));
    g.e.interrupt.injected = 1;
    assert_null(fault(&g));
}

static void virtual_8086_mode_wants_its_segments(void **state)
{
    struct registers g = reset_state();
    const struct kvm_segment seg = {
        .selector = 0x1234, .base = 0x12340, .limit = 0xffff, .type = 3, .s = 1, .dpl = 3, .present = 1};
    g.s.cs = g.s.ds = g.s.es = g.s.fs = g.s.gs = g.s.ss = seg;
    g.s.cr0 |= X86_CR0_PE;
    g.r.rflags |= X86_VM;
    g.r.rip = 0;
    assert_null(fault(&g));
    g.s.gs.limit = 0xffffffff;
    assert_string_equal(fault(&g), "a segment is not one of virtual-8086 mode");
}

#define REFUSED(change, text)                 \
    do {                                      \
        struct registers g = long_state();    \
        change;                               \
        assert_non_null(fault(&g));           \
        assert_string_equal(fault(&g), text); \
    } while (0)

static void each_rule_is_named(void **state)
{
    REFUSED(g.s.cr0 = X86_CR0_PG, "CR0.PG without PE");
    REFUSED(g.s.efer = X86_EFER_LMA, "EFER.LMA is not LME and PG");
    REFUSED(g.s.cr4 = 0, "long mode without PAE");
    REFUSED(g.r.rflags = X86_IF, "reserved bits of RFLAGS");
    REFUSED(g.r.rflags |= X86_VM, "virtual-8086 mode where there is none");
    REFUSED(g.s.cs.l = 0, "RIP is above 4 GiB");
    REFUSED(g.r.rflags = X86_FLAG1;
            g.e.interrupt.shadow = KVM_X86_SHADOW_INT_STI, "the shadow of STI with IF clear");
    REFUSED(g.e.interrupt.shadow = 3, "the shadows of STI and of MOV SS at once");
    REFUSED(g.e.interrupt.injected = 1; g.r.rflags = X86_FLAG1, "an interrupt while the guest takes none");
    REFUSED(g.s.tr.type = 9, "TR is no busy TSS");
    REFUSED(g.s.tr.unusable = 1, "TR is no present TSS");
    REFUSED(g.s.tr.base = 1ull << 60, "TR has an impossible limit or base");
    REFUSED(g.s.ds.unusable = 0; g.s.ds.present = 1; g.s.ds.type = 2;
            g.s.ds.s = 1, "a data segment is not accessed");
    REFUSED(g.s.ss.g = 0, "SS has a limit that does not fit G");
    REFUSED(g.s.ss.type = 11, "SS is no accessed stack segment");
    REFUSED(g.s.ss.dpl = 0, "CS and SS are of different privilege");
    REFUSED(g.s.cs.type = 10, "CS is no accessed code segment");
    REFUSED(g.s.cs.db = 1, "CS has both L and D");
    REFUSED(g.s.cs.base = 1ull << 40, "a segment begins above 4 GiB");
    REFUSED(g.s.gs.base = 1ull << 60, "FS or GS has no canonical base");
    REFUSED(g.s.idt.base = 1ull << 60, "GDTR or IDTR has no canonical base");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vcpu_after_reset_can_be_entered),
        cmocka_unit_test(sixty_four_bit_code_can_be_entered),
        cmocka_unit_test(virtual_8086_mode_wants_its_segments),
        cmocka_unit_test(each_rule_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
