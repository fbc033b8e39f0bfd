/*
 * Breakpoints and steps of a guest that knows nothing of them. Where KVM is there and has them, a guest in
 * 64-bit mode stops where it should and computes what it would have; elsewhere they are refused.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "cpu/vm.h"
#include "kvm/kvm-internal.h"
#include "kvm/kvm.h"

#define RAM (4u << 20)
#define CODE 0x1000
#define TABLES 0x10000
#define COUNTER 0x2000
#define INC_AT (CODE + 5)
#define STORE_AT (CODE + 8)
#define HALT_AT (CODE + 17)

static const u8 code[] = {
    0xb8, 0x05, 0x00, 0x00, 0x00,             /* mov $5, %eax */
    0x48, 0xff, 0xc0,                         /* inc %rax */
    0x48, 0x89, 0x04, 0x25, 0x00, 0x20, 0, 0, /* mov %rax, COUNTER */
    0xfa,                                     /* cli */
    0xf4,                                     /* hlt */
};

struct guest {
    struct memory memory;
    struct cpuid_table cpuid;
    struct vm vm;
};

static _Atomic unsigned hits;

static void debug_hit(struct vm *vm, struct vcpu *vcpu)
{
    atomic_fetch_add(&hits, 1);
}

static void put64(struct guest *g, u64 at, u64 value)
{
    assert_int_equal(memory_write(&g->memory, at, &value, sizeof value), 0);
}

/* The first 2 MiB stand where they are. */
static void enter_long_mode(struct guest *g)
{
    struct x86_state *s = &g->vm.vcpus[0]->state;
    put64(g, TABLES, (TABLES + 0x1000) | 3);
    put64(g, TABLES + 0x1000, (TABLES + 0x2000) | 3);
    put64(g, TABLES + 0x2000, 0x83);
    s->cr0 = 0x80000011;
    s->cr3 = TABLES;
    s->cr4 = 0x20;
    s->efer = X86_EFER_LME | X86_EFER_LMA;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        if (i <= X86_GS)
            s->seg[i] = (struct x86_segment){.selector = 16, .limit = 0xffffffff, .attr = 0xc093};
    s->seg[X86_CS] = (struct x86_segment){.selector = 8, .limit = 0xffffffff, .attr = 0xa09b};
    s->rip = CODE;
    s->gpr[X86_RSP] = 0x8000;
}

static struct guest *make(const struct engine_ops *engine)
{
    struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof *g, 64));
    struct error err = {0};
    assert_non_null(g);
    memset(g, 0, sizeof *g);
    if (memory_init(&g->memory, RAM, &err) || cpuid_build(&g->cpuid, "host", 1, clock_tsc_khz(), &err) ||
        (engine->limit_cpuid && engine->limit_cpuid(&g->cpuid, false, &err)) ||
        vm_init(&g->vm, &g->memory, NULL, engine, &g->cpuid, 1, &err))
        fail_msg("%s", err.text);
    g->vm.rescue = &interpret_rescue;
    g->vm.debug_hit = debug_hit;
    enter_long_mode(g);
    assert_int_equal(memory_write(&g->memory, CODE, code, sizeof code), 0);
    vm_pause(&g->vm);
    if (vm_start(&g->vm, &err))
        fail_msg("%s", err.text);
    atomic_store(&hits, 0);
    return g;
}

static void unmake(struct guest *g)
{
    vm_release(&g->vm);
    memory_release(&g->memory);
    free(g);
}

/* Goes on until it stops at a breakpoint (true) or halts; paused again. */
static bool go_on(struct guest *g)
{
    struct vcpu *vcpu = g->vm.vcpus[0];
    unsigned before = atomic_load(&hits);
    vm_resume(&g->vm);
    while (atomic_load(&hits) == before && !atomic_load(&vcpu->sleeping) &&
           atomic_load(&g->vm.end_reason) == VM_END_NONE)
        sched_yield();
    vm_pause(&g->vm);
    kvm_engine.sync(vcpu);
    return atomic_load(&hits) != before;
}

static u64 counter(const struct guest *g)
{
    return get_le64(g->memory.ram + COUNTER);
}

static bool set(struct guest *g, const struct vcpu_debug *d)
{
    struct error err = {0};
    int r = vm_debug_vcpu(&g->vm, 0, d, &err);
    if (r)
        print_message("%s\n", err.text);
    return r == 0;
}

static struct guest *make_for_kvm(void)
{
    struct kvm_verdict verdict;
    if (kvm_available(&verdict))
        return make(&kvm_engine);
    print_message("%s\n", verdict.text);
    return NULL;
}

static void each_step_is_told(void **state)
{
    struct guest *g = make_for_kvm();
    static const u64 rip[] = {INC_AT, STORE_AT, STORE_AT + 8, HALT_AT};
    if (!g || !set(g, &(struct vcpu_debug){.step = true})) {
        if (g)
            unmake(g);
        skip();
    }
    const struct vcpu *vcpu = g->vm.vcpus[0];
    for (unsigned i = 0; i < ARRAY_SIZE(rip); i++) {
        assert_true(go_on(g));
        assert_int_equal(vcpu->debug_hit.vector, X86_DB);
        assert_int_equal(vcpu->debug_hit.rip, rip[i]);
        assert_int_equal(vcpu->state.rip, rip[i]);
        assert_int_equal(vcpu->state.rflags & X86_TF, 0);
        assert_int_equal(counter(g), i < 2 ? 0 : 6);
    }
    assert_true(set(g, &(struct vcpu_debug){.step = false}));
    assert_false(go_on(g));
    unmake(g);
}

/* Twice, since the interpreter leads past it. */
static void a_breakpoint_stops_in_front_of_its_instruction(void **state)
{
    struct guest *g = make_for_kvm();
    struct vcpu_debug d = {.breaks = 2,
                           .at = {{STORE_AT, VCPU_BREAK_EXEC, 1}, {HALT_AT, VCPU_BREAK_EXEC, 1}}};
    struct error err = {0};
    enum vcpu_exit why;
    if (!g || !set(g, &d)) {
        if (g)
            unmake(g);
        skip();
    }
    const struct vcpu *vcpu = g->vm.vcpus[0];
    assert_true(go_on(g));
    assert_int_equal(vcpu->debug_hit.vector, X86_DB);
    assert_int_equal(vcpu->debug_hit.rip, STORE_AT);
    assert_int_equal(vcpu->debug_hit.dr6 & 0xf, 1);
    assert_int_equal(counter(g), 0);
    assert_int_equal(vm_step_vcpu(&g->vm, 0, 1, &why, &err), 0);
    assert_int_equal(counter(g), 6);
    assert_true(go_on(g));
    assert_int_equal(vcpu->debug_hit.rip, HALT_AT);
    assert_int_equal(vcpu->debug_hit.dr6 & 0xf, 2);
    unmake(g);
}

static void int3_is_the_debuggers(void **state)
{
    struct guest *g = make_for_kvm();
    if (!g || !set(g, &(struct vcpu_debug){.software = true})) {
        if (g)
            unmake(g);
        skip();
    }
    const struct vcpu *vcpu = g->vm.vcpus[0];
    g->memory.ram[STORE_AT] = 0xcc;
    assert_true(go_on(g));
    assert_int_equal(vcpu->debug_hit.vector, X86_BP);
    assert_int_equal(vcpu->debug_hit.rip, STORE_AT);
    assert_int_equal(vcpu->state.rip, STORE_AT);
    g->memory.ram[STORE_AT] = 0x48;
    assert_false(go_on(g));
    assert_int_equal(counter(g), 6);
    unmake(g);
}

static void engines_without_breakpoints_refuse(void **state)
{
    struct guest *g = make(&interpret_engine);
    struct vcpu_debug d = {.step = true};
    struct error err = {0};
    assert_int_equal(vm_debug_vcpu(&g->vm, 0, &d, &err), -ENOTSUP);
    assert_string_equal(err.text, "engine interpret has no breakpoints");
    assert_false(g->vm.vcpus[0]->debug.step);
    unmake(g);
}

static void breakpoints_become_debug_registers(void **state)
{
    struct kvm_guest_debug g;
    struct vcpu_debug d = {
        .breaks = 3,
        .at = {{0x1001, VCPU_BREAK_EXEC, 1}, {0x2000, VCPU_BREAK_WRITE, 8}, {0x3004, VCPU_BREAK_ACCESS, 4}}};
    assert_int_equal(kvm_debug_from(&g, &d), 0);
    assert_int_equal(g.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
    assert_int_equal(g.arch.debugreg[0], 0x1001);
    assert_int_equal(g.arch.debugreg[2], 0x3004);
    assert_int_equal(g.arch.debugreg[7], 0x0f90002a);
    d.at[1].len = 3;
    assert_int_equal(kvm_debug_from(&g, &d), -EINVAL);
    d.at[1].len = 8;
    d.at[1].addr = 0x2004;
    assert_int_equal(kvm_debug_from(&g, &d), -EINVAL);
    assert_int_equal(kvm_debug_from(&g, &(struct vcpu_debug){.step = false}), 0);
    assert_int_equal(g.control, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(breakpoints_become_debug_registers),
        cmocka_unit_test(engines_without_breakpoints_refuse),
        cmocka_unit_test(each_step_is_told),
        cmocka_unit_test(a_breakpoint_stops_in_front_of_its_instruction),
        cmocka_unit_test(int3_is_the_debuggers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
