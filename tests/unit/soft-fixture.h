/*
 * A software CPU without an engine around it, for tests of the system half: RAM, a VM with one vCPU,
 * a fake interrupt controller, and ready-made real, 32-bit protected and long mode set-ups.
 *
 * Guest memory: GDT at FX_GDT, IDT at FX_IDT, TSS at FX_TSS, page tables from FX_TABLES on; from
 * FX_FREE on it belongs to the test.
 */
#ifndef TRAPEZE_TESTS_SOFT_FIXTURE_H
#define TRAPEZE_TESTS_SOFT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "soft/mmu-inline.h"
#include "soft/soft.h"

#define FX_RAM (16ull << 20)
#define FX_GDT 0x1000
#define FX_IDT 0x2000
#define FX_TSS 0x3000
#define FX_STACK0 0x8000 /* top of the CPL 0 stack in the TSS */
#define FX_STACK3 0xa000 /* top of the CPL 3 stack */
#define FX_TABLES 0x100000
#define FX_FREE 0x200000

/* Selectors of the ready-made GDT. Entries from FX_GDT_FREE / 8 on are the test's. */
#define FX_CODE32 0x08
#define FX_DATA 0x10
#define FX_USER_CODE32 0x1b
#define FX_USER_DATA 0x23
#define FX_CODE64 0x28
#define FX_USER_CODE64 0x33
#define FX_TSS_SEL 0x38 /* 16 bytes */
#define FX_GDT_FREE 0x48
#define FX_GDT_LIMIT 0xff

/* Access rights in the layout of x86_segment.attr */
#define FX_ATTR_CODE32 0xc09b
#define FX_ATTR_CODE64 0xa09b
#define FX_ATTR_DATA 0xc093
#define FX_DPL(n) ((n) << 5)

#define FX_NO_FAULT (-1)

struct fixture {
    struct memory memory;
    struct cpuid_table cpuid;
    struct irqchip irqchip;
    struct vm vm;
    struct vcpu *vcpu;
    struct soft_cpu *c;
    struct x86_state *s;
    u64 next_table; /* page tables made so far end here */
    int vector;     /* what the fake irqchip's ack() returns once; -1: none */
    u8 cr8;
    bool failed; /* soft_deliver_exception() said triple fault */
};

/* cmocka's set-up and tear-down: *state is the fixture, in reset state. */
int fx_setup(void **state);
int fx_teardown(void **state);

/* Chooses the vendor whose rules apply where they differ. */
void fx_set_amd(struct fixture *f, bool amd);

/* Guest physical memory. */
void fx_poke(struct fixture *f, u64 gpa, u64 value, unsigned size);
u64 fx_peek(struct fixture *f, u64 gpa, unsigned size);

/* CPU set-ups at @cpl. Paging is off in the first two, identity (2 MiB pages, user, writable) in the third.
 */
void fx_real(struct fixture *f);
void fx_protected(struct fixture *f, unsigned cpl);
void fx_long(struct fixture *f, unsigned cpl);

/* Writes an 8-byte descriptor; attr as in x86_segment.attr, limit in the units that its G says. */
void fx_descriptor(struct fixture *f, u16 selector, u32 base, u32 limit, u32 attr);

/* Writes an interrupt gate (or @type) for the mode that is on. */
void fx_gate(struct fixture *f, unsigned vector, u16 selector, u64 offset, unsigned type, unsigned dpl,
             unsigned ist);

/* 4-level tables: maps the 4 KiB page @la (or larger: @shift 21, 30) with the raw low bits @flags. */
void fx_map(struct fixture *f, u64 la, u64 gpa, unsigned shift, u64 flags);

/* Runs op(c, arg); the vector of the fault it raised (its code in s->exception_error), or FX_NO_FAULT. */
int fx_try(struct fixture *f, void (*op)(struct soft_cpu *c, void *arg), void *arg);

/* Memory accesses and common operations, with the same result. */
int fx_read(struct fixture *f, u64 la, unsigned size, u64 *value);
int fx_write(struct fixture *f, u64 la, u64 value, unsigned size);
int fx_exec(struct fixture *f, u64 la);
int fx_load(struct fixture *f, enum x86_seg seg, u16 selector);
int fx_write_cr(struct fixture *f, unsigned n, u64 value);
int fx_interrupt(struct fixture *f, u8 vector, enum soft_int_kind kind);
int fx_iret(struct fixture *f, unsigned opsize);

/* Raises @v as an instruction would and delivers it with all that follows. False: triple fault. */
bool fx_exception(struct fixture *f, enum x86_vector v, bool has_error, u32 error);

/* Puts the CPU at another privilege level with the ready-made selectors. */
void fx_set_cpl(struct fixture *f, unsigned cpl);

#define fx_assert_fault(f, got, v, error)                        \
    do {                                                         \
        assert_int_equal(got, v);                                \
        assert_int_equal((f)->s->exception_error, (u32)(error)); \
    } while (0)

#endif
