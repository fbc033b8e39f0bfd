/*
 * A machine for tests of the interpreter: one vCPU, 16 MiB of RAM, no devices. Programs are written in
 * assembly in the test (PROGRAM), put into guest memory and run until HLT.
 */
#ifndef TRAPEZE_TESTS_INTERPRET_FIXTURE_H
#define TRAPEZE_TESTS_INTERPRET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "soft/interpret/interpret.h"

#ifndef FIXTURE_ENGINE
#define FIXTURE_ENGINE interpret_engine
#endif

/* A guest program of @bits-bit code, followed by HLT. */
#define PROGRAM(name, bits, text)                                                               \
    asm(".pushsection .rodata.program,\"a\"\n.code" #bits "\n" #name ":\n" text "\nhlt\n" #name \
        "_end:\n.code64\n.popsection\n");                                                       \
    extern const u8 name[], name##_end[]

#define RAM_SIZE (16ull << 20)
#define CODE_AT 0x10000ull  /* programs */
#define DATA_AT 0x20000ull  /* for them to play with, several pages */
#define STACK_AT 0x80000ull /* grows down from here */
#define GDT_AT 0x1000ull
#define IDT_AT 0x2000ull
#define HANDLER_AT 0x3000ull /* each vector's handler: HLT at HANDLER_AT + vector * 16 */
#define TABLES_AT 0x100000ull

struct machine {
    struct memory memory;
    struct event_loop *loop;
    struct cpuid_table cpuid;
    struct vm vm;
    struct vcpu *vcpu;
    struct soft_cpu *cpu;
    struct x86_state *s;
};

static inline void *guest(struct machine *m, u64 gpa)
{
    return m->memory.ram + gpa;
}

static inline void machine_init(struct machine *m)
{
    struct error err = {0};
    memset(m, 0, sizeof *m);
    assert_int_equal(memory_init(&m->memory, RAM_SIZE, &err), 0);
    m->loop = event_loop_new(&err);
    assert_non_null(m->loop);
    assert_int_equal(cpuid_build(&m->cpuid, "host", 1, 1000000, &err), 0);
    assert_int_equal(vm_init(&m->vm, &m->memory, m->loop, &FIXTURE_ENGINE, &m->cpuid, 1, &err), 0);
    m->vcpu = m->vm.vcpus[0];
    assert_int_equal(FIXTURE_ENGINE.vm_init(&m->vm, &err), 0);
    assert_int_equal(FIXTURE_ENGINE.vcpu_init(m->vcpu, &err), 0);
    m->cpu = m->vcpu->engine_data;
    m->s = &m->vcpu->state;
    /* As vcpu.c does around run(); exclusive sections count on it. */
    m->vcpu->in_guest = true;
    m->vm.in_guest = 1;
}

static inline void machine_release(struct machine *m)
{
    m->vcpu->in_guest = false;
    m->vm.in_guest = 0;
    FIXTURE_ENGINE.vcpu_release(m->vcpu);
    FIXTURE_ENGINE.vm_release(&m->vm);
    vm_release(&m->vm);
    event_loop_free(m->loop);
    memory_release(&m->memory);
}

static inline void segment_set(struct x86_segment *seg, u16 selector, u32 attr)
{
    *seg = (struct x86_segment){.selector = selector, .limit = 0xffffffff, .attr = attr};
}

/* Identity mapping of the first GiB in 2 MiB pages, user-accessible; 4 KiB pages for the first 2 MiB. */
static inline void machine_page_tables(struct machine *m)
{
    u64 *pml4 = guest(m, TABLES_AT), *pdpt = pml4 + 512, *pd = pdpt + 512, *pt = pd + 512;
    pml4[0] = (TABLES_AT + 0x1000) | 7;
    pdpt[0] = (TABLES_AT + 0x2000) | 7;
    pd[0] = (TABLES_AT + 0x3000) | 7;
    for (u64 n = 0; n < 512; n++)
        pt[n] = n << 12 | 7;
    for (u64 n = 1; n < 512; n++)
        pd[n] = n << 21 | 0x87;
}

static inline u64 *machine_pte(struct machine *m, u64 la)
{
    return (u64 *)guest(m, TABLES_AT + 0x3000) + (la >> 12);
}

/* Gates of every vector to a HLT of its own. @type 0xe, in 64-bit mode 16 bytes each, else 8. */
static inline void machine_idt(struct machine *m, bool wide, u16 selector)
{
    for (u64 v = 0; v < 256; v++) {
        u64 at = HANDLER_AT + v * 16;
        u64 lo = (at & 0xffff) | (u64)selector << 16 | 0x8e00ull << 32 | (at >> 16) << 48;
        if (v == 3 || v == 4 || v >= 32)
            lo |= 3ull << 45;
        u8 *gate = (u8 *)guest(m, IDT_AT) + v * (wide ? 16 : 8);
        put_le64(gate, lo);
        if (wide)
            put_le64(gate + 8, 0);
        *(u8 *)guest(m, at) = 0xf4;
    }
    m->s->idt = (struct x86_table){IDT_AT, wide ? 4095 : 2047};
}

/* Null, code64, data, code32, user code64, user data, code16, data16. */
static inline void machine_gdt(struct machine *m)
{
    static const u64 gdt[] = {0,
                              0x00af9b000000ffff,
                              0x00cf93000000ffff,
                              0x00cf9b000000ffff,
                              0x00affb000000ffff,
                              0x00cff3000000ffff,
                              0x000f9b000000ffff,
                              0x000f93000000ffff};
    memcpy(guest(m, GDT_AT), gdt, sizeof gdt);
    m->s->gdt = (struct x86_table){GDT_AT, sizeof gdt - 1};
}

static inline void machine_common(struct machine *m)
{
    struct x86_state *s = m->s;
    machine_gdt(m);
    s->rflags = X86_FLAG1;
    s->gpr[X86_RSP] = STACK_AT;
    s->rip = CODE_AT;
    s->cr4 |= X86_CR4_OSFXSR;
}

static inline void machine_mode64(struct machine *m)
{
    struct x86_state *s = m->s;
    machine_common(m);
    machine_page_tables(m);
    machine_idt(m, true, 8);
    s->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
    s->cr3 = TABLES_AT;
    s->cr4 |= X86_CR4_PAE;
    s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    segment_set(&s->seg[X86_CS], 8, 0xa09b);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++)
        if (n != X86_CS)
            segment_set(&s->seg[n], 16, 0xc093);
    FIXTURE_ENGINE.state_changed(m->vcpu);
}

static inline void machine_mode32(struct machine *m)
{
    struct x86_state *s = m->s;
    machine_common(m);
    machine_idt(m, false, 24);
    s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
    segment_set(&s->seg[X86_CS], 24, 0xc09b);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++)
        if (n != X86_CS)
            segment_set(&s->seg[n], 16, 0xc093);
    FIXTURE_ENGINE.state_changed(m->vcpu);
}

/* Real mode with CS:IP at CODE_AT, DS and ES at DATA_AT, the stack below 7000:fffe. */
static inline void machine_mode16(struct machine *m)
{
    struct x86_state *s = m->s;
    static const u16 selector[X86_SEG_COUNT] = {DATA_AT >> 4, CODE_AT >> 4, 0x7000, DATA_AT >> 4, 0, 0};
    machine_common(m);
    s->cr0 = X86_CR0_ET;
    s->rip = 0;
    s->gpr[X86_RSP] = 0xfffe;
    for (unsigned n = 0; n < X86_SEG_COUNT; n++)
        s->seg[n] = (struct x86_segment){
            .selector = selector[n], .base = selector[n] * 16ull, .limit = 0xffff, .attr = 0x93};
    s->seg[X86_CS].attr = 0x9b;
    s->idt = (struct x86_table){0, 0x3ff};
    for (unsigned v = 0; v < 256; v++) {
        put_le32((u8 *)guest(m, v * 4), HANDLER_AT >> 4 << 16 | v * 16);
        *(u8 *)guest(m, HANDLER_AT + v * 16) = 0xf4;
    }
    FIXTURE_ENGINE.state_changed(m->vcpu);
}

static inline void machine_load(struct machine *m, u64 gpa, const u8 *code, const u8 *end)
{
    assert_int_equal(memory_write(&m->memory, gpa, code, (u64)(end - code)), 0);
}

/* Runs what is at rip to a HLT. The address of that HLT. */
static inline u64 machine_run(struct machine *m)
{
    m->s->mp_state = VCPU_MP_RUNNABLE;
    assert_int_equal(FIXTURE_ENGINE.run(m->vcpu), VCPU_EXIT_HALT);
    return m->s->rip - 1;
}

#define machine_run_program(m, name) (machine_load(m, CODE_AT, name, name##_end), machine_run(m))

/* The vector whose handler's HLT was reached, or -1. */
static inline int machine_vector(u64 hlt)
{
    u64 v = (hlt - HANDLER_AT) / 16;
    return hlt >= HANDLER_AT && v < 256 ? (int)v : -1;
}

#endif
