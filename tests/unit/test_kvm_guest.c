/* Small guests under KVM, each with something that a kernel does not do every day. Needs /dev/kvm. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "cpu/vm.h"
#include "kvm/kvm.h"

/* Guest-physical. The first MiB is mapped one to one for the kernel; VIEW and TABLE for user code as well. */
enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT = 0x4000,
    GDT = 0x5000,
    TSS = 0x6000,
    CODE = 0x8000,
    STACK = 0xa000, /* grows down */
    RESULT = 0xb000,
    OLD = 0xc000,
    NEW = 0xd000,
    VIEW = 0x20000, /* a linear address: OLD, later NEW */
    RAM = 1 << 20,
};
enum { ALL = 7 }; /* present, writable, user */
enum { SEL_CODE = 8, SEL_DATA = 16, SEL_USER_CODE = 0x18 | 3, SEL_USER_DATA = 0x20 | 3, SEL_TSS = 0x28 };

/* RBX is VIEW, RDI is RESULT, RSI is the address of VIEW's entry, RCX its new value. */
static const u8 code[] = {
    0x48, 0x89, 0x0e,       /* mov %rcx, (%rsi) */
    0x0f, 0x01, 0x3b,       /* invlpg (%rbx) */
    0x48, 0xcf,             /* iretq */
    0x48, 0x8b, 0x03,       /* 1: mov (%rbx), %rax */
    0x48, 0x89, 0x07,       /* mov %rax, (%rdi) */
    0x48, 0xff, 0x47, 0x08, /* incq 8(%rdi) */
    0xeb, 0xf4,             /* jmp 1b */
};
enum { USER = CODE + 8 };

struct guest {
    struct memory memory;
    struct cpuid_table cpuid;
    struct vm vm;
};

static void put(struct guest *g, u64 gpa, u64 value)
{
    put_le64(g->memory.ram + gpa, value);
}

static void make(struct guest *g)
{
    struct error err = {0};
    struct kvm_verdict verdict;
    if (!kvm_available(&verdict))
        skip();
    if (memory_init(&g->memory, RAM, &err) || cpuid_build(&g->cpuid, "host", 1, clock_tsc_khz(), &err) ||
        kvm_engine.limit_cpuid(&g->cpuid, false, &err) ||
        vm_init(&g->vm, &g->memory, NULL, &kvm_engine, &g->cpuid, 1, &err))
        fail_msg("%s", err.text);
    g->vm.rescue = &interpret_rescue;
    vm_pause(&g->vm);
}

static void start(struct guest *g)
{
    struct error err = {0};
    if (vm_start(&g->vm, &err))
        fail_msg("%s", err.text);
}

static void destroy(struct guest *g)
{
    vm_release(&g->vm);
    memory_release(&g->memory);
}

static void build_tables(struct guest *g)
{
    put(g, PML4, PDPT | ALL);
    put(g, PDPT, PD | ALL);
    put(g, PD, PT | ALL);
    for (u64 page = 0; page < RAM; page += PAGE_SIZE)
        put(g, PT + page / PAGE_SIZE * 8, page | ALL);
    put(g, PT + VIEW / PAGE_SIZE * 8, OLD | ALL);
    put(g, GDT + SEL_CODE, 0x00af9b000000ffff);
    put(g, GDT + SEL_DATA, 0x00cf93000000ffff);
    put(g, GDT + (SEL_USER_CODE & ~3), 0x00affb000000ffff);
    put(g, GDT + (SEL_USER_DATA & ~3), 0x00cff3000000ffff);
    put(g, GDT + SEL_TSS, 0x00008b0000000067ull | (u64)TSS << 16);
    put(g, TSS + 4, STACK);
    put(g, OLD, 1);
    put(g, NEW, 2);
    memcpy(g->memory.ram + CODE, code, sizeof code);
}

static struct x86_segment segment(u16 selector, u32 attr)
{
    return (struct x86_segment){.selector = selector, .limit = 0xffffffff, .attr = attr};
}

static void set_level(struct x86_state *s, bool user)
{
    s->seg[X86_CS] = user ? segment(SEL_USER_CODE, 0xa0fb) : segment(SEL_CODE, 0xa09b);
    s->seg[X86_SS] = user ? segment(SEL_USER_DATA, 0xc0f3) : segment(SEL_DATA, 0xc093);
    s->rip = user ? USER : CODE;
}

static void build_state(struct x86_state *s)
{
    const u32 data = 0xc0f3;
    for (int i = 0; i < X86_SEG_COUNT; i++)
        s->seg[i] = segment(SEL_USER_DATA, data);
    set_level(s, true);
    s->gdt = (struct x86_table){.base = GDT, .limit = 0x37};
    s->idt = (struct x86_table){.base = 0, .limit = 0};
    s->tr = (struct x86_segment){.selector = SEL_TSS, .base = TSS, .limit = 0x67, .attr = 0x8b};
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    s->cr3 = PML4;
    s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    s->efer = X86_EFER_LME | X86_EFER_LMA;
    s->rflags = X86_FLAG1;
    s->gpr[X86_RSP] = STACK;
    s->gpr[X86_RBX] = VIEW;
    s->gpr[X86_RDI] = RESULT;
    s->gpr[X86_RSI] = PT + VIEW / PAGE_SIZE * 8;
    s->gpr[X86_RCX] = NEW | ALL;
}

/* Until user code has gone round once more, from its first instruction on. */
static void await_round(struct guest *g)
{
    volatile u64 *rounds = (volatile u64 *)(g->memory.ram + RESULT + 8);
    u64 before = *rounds;
    while (*rounds < before + 2 && g->vm.end_reason == VM_END_NONE)
        sched_yield();
}

/* A frame for IRETQ to user code. */
static void prepare_return(struct guest *g, struct x86_state *s)
{
    const u64 frame[] = {USER, SEL_USER_CODE, X86_FLAG1, STACK - 0x800, SEL_USER_DATA};
    set_level(s, false);
    s->gpr[X86_RSP] = STACK - sizeof frame;
    memcpy(g->memory.ram + s->gpr[X86_RSP], frame, sizeof frame);
}

static void page_tables_change_in_single_steps(void **state)
{
    struct guest g = {0};
    struct error err = {0};
    enum vcpu_exit why;
    make(&g);
    struct vcpu *vcpu = g.vm.vcpus[0];
    build_tables(&g);
    build_state(&vcpu->state);
    start(&g);
    vm_resume(&g.vm);
    await_round(&g);
    vm_pause(&g.vm);
    assert_int_equal(g.vm.end_reason, VM_END_NONE);
    assert_int_equal(get_le64(g.memory.ram + RESULT), 1);
    kvm_engine.sync(vcpu);
    prepare_return(&g, &vcpu->state);
    kvm_engine.state_changed(vcpu);
    assert_int_equal(vm_step_vcpu(&g.vm, 0, 3, &why, &err), 0);
    assert_int_equal(vcpu->state.rip, USER);
    vm_resume(&g.vm);
    await_round(&g);
    vm_pause(&g.vm);
    assert_int_equal(g.vm.end_reason, VM_END_NONE);
    assert_int_equal(get_le64(g.memory.ram + RESULT), 2);
    destroy(&g);
}

/* Half an instruction that goes on for hours: REP LODSB from where there is no RAM. */
static void a_pause_does_not_wait_for_a_string_without_end(void **state)
{
    static const u8 rep_lodsb[] = {0xf3, 0xac};
    struct guest g = {0};
    make(&g);
    struct x86_state *s = &g.vm.vcpus[0]->state;
    build_tables(&g);
    put(&g, PDPT + 8, TSS | ALL); /* as a page directory: all of its GiB is the same 2 MiB behind RAM */
    for (unsigned i = 0; i < 512; i++)
        put(&g, TSS + 8 * i, 0x200000 | 0x80 | ALL);
    build_state(s);
    set_level(s, false);
    memcpy(g.memory.ram + CODE, rep_lodsb, sizeof rep_lodsb);
    s->gpr[X86_RSI] = 1u << 30;
    s->gpr[X86_RCX] = 1u << 30;
    start(&g);
    vm_resume(&g.vm);
    while (!g.vm.vcpus[0]->counters.mmio_reads && g.vm.end_reason == VM_END_NONE)
        sched_yield();
    vm_pause(&g.vm);
    destroy(&g);
}

/* In real mode: an MSR that CPUID promises, whatever this KVM says. */
static void arch_capabilities_can_be_read(void **state)
{
    static const u8 read_msr[] = {
        0x66, 0xb9, 0x0a,          0x01,        0, 0, /* mov $0x10a, %ecx */
        0x0f, 0x32,                                   /* rdmsr */
        0x66, 0xa3, RESULT & 0xff, RESULT >> 8,       /* mov %eax, RESULT */
        0xfa, 0xf4,                                   /* cli, hlt */
    };
    struct guest g = {0};
    make(&g);
    struct vcpu *vcpu = g.vm.vcpus[0];
    bool promised = cpuid_has(&g.cpuid, CPUID_ARCH_CAPABILITIES);
    put(&g, RESULT, 0x1234567);
    put(&g, X86_GP * 4, CODE + sizeof read_msr - 1); /* the HLT */
    memcpy(g.memory.ram + CODE, read_msr, sizeof read_msr);
    vcpu->state.seg[X86_CS].selector = 0;
    vcpu->state.seg[X86_CS].base = 0;
    vcpu->state.rip = CODE;
    vcpu->state.gpr[X86_RSP] = STACK;
    start(&g);
    vm_resume(&g.vm);
    while (!atomic_load(&vcpu->sleeping) && g.vm.end_reason == VM_END_NONE)
        sched_yield();
    vm_pause(&g.vm);
    assert_int_equal(g.vm.end_reason, VM_END_NONE);
    assert_int_equal(get_le32(g.memory.ram + RESULT), promised ? (u32)g.cpuid.arch_capabilities : 0x1234567);
    destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_tables_change_in_single_steps),
        cmocka_unit_test(a_pause_does_not_wait_for_a_string_without_end),
        cmocka_unit_test(arch_capabilities_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
