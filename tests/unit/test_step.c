/* A vCPU of a paused VM is stepped, under each engine that there is here; the engine goes on behind. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "cpu/vm.h"
#include "kvm/kvm.h"

#define RAM (1u << 20)
#define CODE 0x1000
#define COUNTER 0x2000

/* 16-bit code: five instructions and a halt. */
static const u8 code[] = {
    0xb8, 0x05,           0x00,         /* mov $5, %ax */
    0x40,                               /* inc %ax */
    0xa3, COUNTER & 0xff, COUNTER >> 8, /* mov %ax, COUNTER */
    0x40,                               /* inc %ax */
    0xa3, COUNTER & 0xff, COUNTER >> 8, /* mov %ax, COUNTER */
    0xfa, 0xf4,                         /* cli, hlt */
};

struct guest {
    struct memory memory;
    struct cpuid_table cpuid;
    struct vm vm;
};

static void make(struct guest *g, const struct engine_ops *engine)
{
    struct error err = {0};
    if (memory_init(&g->memory, RAM, &err) || cpuid_build(&g->cpuid, "host", 1, clock_tsc_khz(), &err) ||
        (engine->limit_cpuid && engine->limit_cpuid(&g->cpuid, false, &err)) ||
        vm_init(&g->vm, &g->memory, NULL, engine, &g->cpuid, 1, &err))
        fail_msg("%s", err.text);
    g->vm.rescue = &interpret_rescue;
    struct x86_state *s = &g->vm.vcpus[0]->state;
    s->seg[X86_CS].selector = 0;
    s->seg[X86_CS].base = 0;
    s->rip = CODE;
    assert_int_equal(memory_write(&g->memory, CODE, code, sizeof code), 0);
    vm_pause(&g->vm);
    if (vm_start(&g->vm, &err))
        fail_msg("%s", err.text);
}

static u16 counter(const struct guest *g)
{
    return get_le16(g->memory.ram + COUNTER);
}

static void steps(const struct engine_ops *engine)
{
    struct guest g = {0};
    struct error err = {0};
    enum vcpu_exit why;
    make(&g, engine);
    struct vcpu *vcpu = g.vm.vcpus[0];
    assert_int_equal(vm_step_vcpu(&g.vm, 0, 2, &why, &err), 0);
    assert_int_equal(why, VCPU_EXIT_REQUEST);
    assert_int_equal(vcpu->state.rip, CODE + 4);
    assert_int_equal(counter(&g), 0);
    assert_int_equal(vm_step_vcpu(&g.vm, 0, 1, &why, &err), 0);
    assert_int_equal(counter(&g), 6);
    vm_resume(&g.vm);
    while (!atomic_load(&vcpu->sleeping) && g.vm.end_reason == VM_END_NONE)
        sched_yield();
    assert_int_equal(vm_step_vcpu(&g.vm, 0, 1, &why, &err), -EINVAL); /* it runs */
    vm_pause(&g.vm);
    assert_int_equal(counter(&g), 7);
    vm_release(&g.vm);
    memory_release(&g.memory);
}

static void under_the_interpreter(void **state)
{
    steps(&interpret_engine);
}

static void under_the_translator(void **state)
{
    steps(&translate_engine);
}

static void under_kvm(void **state)
{
    struct kvm_verdict verdict;
    if (!kvm_available(&verdict))
        skip();
    steps(&kvm_engine);
}

/*
 * For an engine that watches writes: the first may be any instruction, and it is told when that wrote; the
 * next that writes is left to it.
 */
static void a_watched_stretch_ends_in_front_of_writes(void **state)
{
    struct guest g = {0};
    struct error err = {0};
    make(&g, &interpret_engine);
    struct vcpu *vcpu = g.vm.vcpus[0];
    vm_stop(&g.vm);
    vcpu_request_clear(vcpu, VCPU_REQ_PAUSE); /* or it stops at once */
    void *rescue = interpret_rescue.attach(vcpu, &err);
    assert_non_null(rescue);
    vm_enter_guest(&g.vm, vcpu);
    bool missed = false;
    assert_int_equal(interpret_rescue.step(rescue, 100, &missed), VCPU_EXIT_REQUEST);
    assert_int_equal(vcpu->state.rip, CODE + 4);
    assert_int_equal(counter(&g), 0);
    assert_false(missed);
    assert_int_equal(interpret_rescue.step(rescue, 100, &missed), VCPU_EXIT_REQUEST);
    assert_true(missed);
    assert_int_equal(vcpu->state.rip, CODE + 8);
    assert_int_equal(counter(&g), 6);
    vm_leave_guest(&g.vm, vcpu);
    interpret_rescue.detach(rescue);
    vm_release(&g.vm);
    memory_release(&g.memory);
}

/* What belongs to a processor or a thread is no page table, and neither is what registers are saved in. */
static void a_watched_stretch_goes_on_over_local_writes(void **state)
{
    static const u8 local[] = {
        0x65, 0xa3, COUNTER & 0xff, COUNTER >> 8,       /* mov %ax, %gs:COUNTER */
        0x0f, 0xae, 0x06,           0x00,         0x40, /* fxsave 0x4000 */
        0x50,                                           /* push %ax */
        0xfa, 0xf4,                                     /* cli, hlt */
    };
    struct guest g = {0};
    struct error err = {0};
    bool missed = false;
    make(&g, &interpret_engine);
    struct vcpu *vcpu = g.vm.vcpus[0];
    assert_int_equal(memory_write(&g.memory, CODE, local, sizeof local), 0);
    vcpu->state.gpr[X86_RSP] = 0x8000;
    vm_stop(&g.vm);
    vcpu_request_clear(vcpu, VCPU_REQ_PAUSE);
    void *rescue = interpret_rescue.attach(vcpu, &err);
    assert_non_null(rescue);
    vm_enter_guest(&g.vm, vcpu);
    assert_int_equal(interpret_rescue.step(rescue, 100, &missed), VCPU_EXIT_HALT);
    assert_int_equal(vcpu->state.rip, CODE + sizeof local);
    assert_false(missed);
    vm_leave_guest(&g.vm, vcpu);
    interpret_rescue.detach(rescue);
    vm_release(&g.vm);
    memory_release(&g.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(under_the_interpreter),
        cmocka_unit_test(under_the_translator),
        cmocka_unit_test(under_kvm),
        cmocka_unit_test(a_watched_stretch_ends_in_front_of_writes),
        cmocka_unit_test(a_watched_stretch_goes_on_over_local_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
