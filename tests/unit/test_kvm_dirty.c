/* The dirty log of a guest that runs under KVM, by ring and by bitmap. Skipped where there is no KVM. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cpu/vm.h"
#include "kvm/kvm.h"

#define RAM (64u << 20)
#define PAGES (RAM / PAGE_SIZE)
#define CODE 0x1000
#define MANY 8192u /* pages, more than a ring has entries */

/* 16-bit code with a flat data segment. */
static const u8 code[] = {
    0x67, 0x66, 0x88, 0x03,                   /* 1: mov %al, (%ebx) */
    0x66, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, /* add $4096, %ebx */
    0x66, 0x49,                               /* dec %ecx */
    0x75, 0xf1,                               /* jnz 1b */
    0xf4,                                     /* hlt */
};

struct guest {
    struct memory memory;
    struct cpuid_table cpuid;
    struct vm vm;
    u64 bitmap[PAGES / 64];
};

static int setup(void **state)
{
    struct kvm_verdict verdict;
    struct error err = {0};
    if (!kvm_available(&verdict)) {
        print_message("%s\n", verdict.text);
        return 0;
    }
    struct guest *g = calloc(1, sizeof *g);
    if (memory_init(&g->memory, RAM, &err) || cpuid_build(&g->cpuid, "host", 1, clock_tsc_khz(), &err) ||
        kvm_engine.limit_cpuid(&g->cpuid, false, &err) ||
        vm_init(&g->vm, &g->memory, NULL, &kvm_engine, &g->cpuid, 1, &err))
        fail_msg("%s", err.text);
    vm_pause(&g->vm);
    if (vm_start(&g->vm, &err))
        fail_msg("%s", err.text);
    assert_int_equal(memory_write(&g->memory, CODE, code, sizeof code), 0);
    *state = g;
    return 0;
}

static int setup_bitmap(void **state)
{
    setenv("TRAPEZE_KVM_DIRTY", "bitmap", 1);
    return setup(state);
}

static int setup_ring(void **state)
{
    setenv("TRAPEZE_KVM_DIRTY", "ring", 1);
    return setup(state);
}

static int teardown(void **state)
{
    struct guest *g = *state;
    unsetenv("TRAPEZE_KVM_DIRTY");
    if (!g)
        return 0;
    vm_release(&g->vm);
    memory_release(&g->memory);
    free(g);
    return 0;
}

/* The guest writes @count pages from @page on, and halts. */
static void guest_writes(struct guest *g, u64 page, u32 count)
{
    struct vcpu *vcpu = g->vm.vcpus[0];
    struct x86_state *s = &vcpu->state;
    kvm_engine.sync(vcpu);
    s->seg[X86_CS].selector = 0;
    s->seg[X86_CS].base = 0;
    s->seg[X86_DS].limit = 0xffffffff;
    s->seg[X86_DS].attr |= X86_ATTR_G;
    s->rip = CODE;
    s->gpr[X86_RBX] = page * PAGE_SIZE;
    s->gpr[X86_RCX] = count;
    s->mp_state = VCPU_MP_RUNNABLE;
    kvm_engine.state_changed(vcpu);
    vm_resume(&g->vm);
    while (!atomic_load(&vcpu->sleeping) && g->vm.end_reason == VM_END_NONE)
        sched_yield();
    if (g->vm.end_reason != VM_END_NONE)
        fail_msg("%s", g->vm.error.text);
    vm_pause(&g->vm);
}

static void assert_dirty(struct guest *g, u64 first, u32 count)
{
    assert_int_equal(memory_dirty_log_fetch(&g->memory, g->bitmap), count);
    for (u64 page = first; page < first + count; page++)
        if (!(g->bitmap[page / 64] >> page % 64 & 1))
            fail_msg("page %llu is not reported", (unsigned long long)page);
}

static void written_pages_are_reported_once(void **state)
{
    struct guest *g = *state;
    if (!g)
        skip();
    guest_writes(g, 3, 2); /* before the log */
    assert_int_equal(memory_dirty_log_start(&g->memory), 0);
    assert_dirty(g, 0, 0);
    guest_writes(g, 5, 3);
    assert_dirty(g, 5, 3);
    assert_dirty(g, 0, 0);
    guest_writes(g, 7, 1);
    assert_dirty(g, 7, 1);
    memory_dirty_log_stop(&g->memory);
    guest_writes(g, 9, 1);
    assert_int_equal(memory_dirty_log_start(&g->memory), 0);
    guest_writes(g, 300, 2); /* above the VGA window */
    assert_dirty(g, 300, 2);
}

static void more_pages_than_a_ring_holds_are_reported(void **state)
{
    struct guest *g = *state;
    if (!g)
        skip();
    assert_int_equal(memory_dirty_log_start(&g->memory), 0);
    guest_writes(g, 512, MANY);
    assert_dirty(g, 512, MANY);
}

static void writes_survive_the_end_of_the_engine(void **state)
{
    struct guest *g = *state;
    if (!g)
        skip();
    assert_int_equal(memory_dirty_log_start(&g->memory), 0);
    guest_writes(g, 20, 4);
    vm_stop(&g->vm);
    assert_dirty(g, 20, 4);
    assert_int_equal(vm_start(&g->vm, NULL), 0); /* the log goes on */
    guest_writes(g, 30, 1);
    assert_dirty(g, 30, 1);
}

int main(void)
{
#define WITH(how, name) cmocka_unit_test_setup_teardown(name, how, teardown)
    const struct CMUnitTest tests[] = {
        WITH(setup_ring, written_pages_are_reported_once),
        WITH(setup_ring, writes_survive_the_end_of_the_engine),
        WITH(setup_bitmap, written_pages_are_reported_once),
        WITH(setup_bitmap, writes_survive_the_end_of_the_engine),
        WITH(setup, more_pages_than_a_ring_holds_are_reported), /* rings only where they are reliable */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
