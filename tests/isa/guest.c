/*
 * A case under one of our engines: a machine of RAM and one vCPU in 64-bit mode. Each IDT entry
 * leads to a HLT of its own at CPL 0, so the run ends in a halt whose RIP tells the vector and whose
 * stack holds the interrupted state. Nothing here depends on which engine runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "one-vcpu.h"

/*
 * Where the system's tables are mapped: in the half that the host's processes cannot reach either, so that
 * stray addresses of a case find nothing on both sides.
 */
#define LA_SYSTEM 0xffff800000000000ull

/* Guest-physical layout. */
enum {
    PA_PML4 = 0x1000,
    PA_PDPT = 0x2000,
    PA_PD = 0x3000,
    PA_PT_SYSTEM = 0x4000,
    PA_PT_CODE = 0x5000,
    PA_PT_DATA = 0x6000,
    PA_GDT = 0x7000,
    PA_IDT = 0x8000,
    PA_TSS = 0x9000,
    PA_STUBS = 0xa000, /* vector N halts at PA_STUBS + 16 * N */
    PA_STACK = 0xc000, /* grows down from the end of the page at 0xb000 */
    PA_CODE = 0x10000,
    PA_DATA = 0x12000,
    PA_RO = 0x16000,
    PA_PDPT_SYSTEM = 0x17000,
    PA_PD_SYSTEM = 0x18000,
    RAM_SIZE = 1 << 20,
};

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };
#define PTE_NX BIT(63)

struct isa_guest {
    struct one_vcpu *machine;
    struct x86_state start;
};

static void put_physical(struct isa_guest *g, u64 gpa, u64 value)
{
    one_vcpu_put64(g->machine, gpa, value);
}

static void map_page(struct isa_guest *g, u64 pt, u64 la, u64 pa, u64 flags)
{
    put_physical(g, pt + ((la >> 12) & 511) * 8, pa | flags | PTE_P);
}

static void build_page_tables(struct isa_guest *g)
{
    const u64 all = PTE_P | PTE_W | PTE_U;
    put_physical(g, PA_PML4, PA_PDPT | all);
    put_physical(g, PA_PDPT, PA_PD | all);
    put_physical(g, PA_PML4 + 256 * 8, PA_PDPT_SYSTEM | all);
    put_physical(g, PA_PDPT_SYSTEM, PA_PD_SYSTEM | all);
    put_physical(g, PA_PD_SYSTEM, PA_PT_SYSTEM | all);
    put_physical(g, PA_PD + (ISA_CODE >> 21) * 8, PA_PT_CODE | all);
    put_physical(g, PA_PD + (ISA_DATA >> 21) * 8, PA_PT_DATA | all);
    for (u64 pa = PA_GDT; pa < PA_CODE; pa += PAGE_SIZE)
        map_page(g, PA_PT_SYSTEM, LA_SYSTEM + pa, pa, PTE_W);
    map_page(g, PA_PT_CODE, ISA_CODE, PA_CODE, PTE_U);
    for (u64 at = 0; at < ISA_DATA_SIZE; at += PAGE_SIZE)
        map_page(g, PA_PT_DATA, ISA_DATA + at, PA_DATA + at, PTE_U | PTE_W | PTE_NX);
    map_page(g, PA_PT_DATA, ISA_RO, PA_RO, PTE_U | PTE_NX);
}

/* The selectors are those of a Linux process, so that MOV from a segment register gives the same. */
static void build_tables(struct isa_guest *g)
{
    static const u64 gdt[] = {
        [1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,
        [4] = 0x00cffb000000ffff, [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff,
    };
    one_vcpu_put(g->machine, PA_GDT, gdt, sizeof gdt);
    put_physical(g, PA_GDT + 0x40, 0x00008b0000000067ull | (u64)PA_TSS << 16);
    put_physical(g, PA_GDT + 0x48, LA_SYSTEM >> 32);
    put_physical(g, PA_TSS + 4, LA_SYSTEM + PA_STACK); /* RSP0 */
    put_physical(g, PA_TSS + 0x60, 0xffffull << 48);   /* no I/O permission bitmap */
    /*
     * HLT. A KVM that emulates raises #UD for what it does not know: it does not know VERW either, and so
     * asks the rescuing interpreter, which then has a second look at the exception (soft/take-back.c).
     */
    u64 handler = g->machine->vm.engine == &kvm_engine ? 0xf4f4f4f4f4e8000full : 0xf4f4f4f4f4f4f4f4ull;
    for (u64 v = 0; v < 256; v++) {
        u64 stub = LA_SYSTEM + PA_STUBS + 16 * v;
        u64 dpl = v == 3 || v == 4 ? 3 : 0;
        put_physical(g, PA_IDT + 16 * v,
                     (stub & 0xffff) | 0x10 << 16 | (0x8e00ull | dpl << 13) << 32 | (stub >> 16) << 48);
        put_physical(g, PA_IDT + 16 * v + 8, stub >> 32);
        put_physical(g, stub - LA_SYSTEM, handler);
    }
}

static struct x86_segment segment(u16 selector, u32 attr)
{
    return (struct x86_segment){.selector = selector, .limit = 0xffffffff, .attr = attr};
}

static void build_start(struct isa_guest *g, const struct cpuid_table *cpuid)
{
    struct x86_state *s = &g->start;
    x86_state_reset(s, true);
    const u32 data = 0xc0f3;
    for (int i = 0; i < X86_SEG_COUNT; i++)
        s->seg[i] = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    s->seg[X86_SS] = s->seg[X86_DS] = s->seg[X86_ES] = segment(0x2b, data);
    s->tr = (struct x86_segment){.selector = 0x40, .base = LA_SYSTEM + PA_TSS, .limit = 0x67, .attr = 0x8b};
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    s->gdt = (struct x86_table){.base = LA_SYSTEM + PA_GDT, .limit = 0x4f};
    s->idt = (struct x86_table){.base = LA_SYSTEM + PA_IDT, .limit = 0xfff};
    s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    s->cr3 = PA_PML4;
    s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    if (cpuid_has(cpuid, CPUID_FSGSBASE))
        s->cr4 |= X86_CR4_FSGSBASE;
    s->xcr0 = X86_XCR0_X87;
    if (cpuid_has(cpuid, CPUID_XSAVE)) {
        s->cr4 |= X86_CR4_OSXSAVE;
        s->xcr0 = cpuid->xcr0_mask & 0xff;
    }
    s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
}

struct isa_guest *isa_guest_new(const struct engine_ops *engine, const struct cpuid_table *cpuid)
{
    struct isa_guest *g = aligned_alloc(64, ALIGN_UP(sizeof *g, 64));
    if (!g)
        exit(2);
    g->machine = one_vcpu_new(engine, cpuid, RAM_SIZE);
    g->machine->vm.rescue = &interpret_rescue;
    build_page_tables(g);
    build_tables(g);
    build_start(g, cpuid);
    return g;
}

void isa_guest_free(struct isa_guest *g)
{
    one_vcpu_free(g->machine);
    free(g);
}

u64 isa_guest_translated(const struct isa_guest *g)
{
    return g->machine->vcpu->counters.blocks_translated;
}

static void load_state(struct isa_guest *g, const struct isa_case *c)
{
    const struct isa_state *in = &c->in;
    struct x86_state *s = g->machine->s;
    *s = g->start;
    memcpy(s->gpr, in->gpr, sizeof s->gpr);
    s->rip = in->rip;
    s->rflags = in->rflags | X86_FLAG1 | X86_IF;
    s->seg[X86_CS] = c->mode32 ? segment(0x23, 0xc0fb) : segment(0x33, 0xa0fb);
    s->fpu.fcw = in->fcw;
    s->fpu.fsw = in->fsw;
    s->fpu.ftw = in->ftw;
    s->fpu.mxcsr = in->mxcsr;
    memcpy(s->fpu.st, in->st, sizeof s->fpu.st);
    memcpy(s->fpu.vec, in->vec, sizeof s->fpu.vec);
    memcpy(s->fpu.k, in->k, sizeof s->fpu.k);
}

static void store_state(struct isa_guest *g, struct isa_state *out)
{
    static const u32 with_error = BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17);
    const struct x86_state *s = g->machine->s;
    memset(out, 0, sizeof *out);
    out->vector = (u32)((s->rip - LA_SYSTEM - PA_STUBS) / 16);
    u64 frame[6] = {0};
    bool has_error = out->vector < 32 && (with_error & BIT(out->vector));
    if (memory_read(&g->machine->memory, PA_STACK - (has_error ? 48 : 40), frame, has_error ? 48 : 40) != 0)
        BUG();
    const u64 *iret = has_error ? frame + 1 : frame;
    memcpy(out->gpr, s->gpr, sizeof out->gpr);
    out->error = has_error ? (u32)frame[0] : 0;
    out->rip = iret[0];
    out->rflags = iret[2];
    out->gpr[X86_RSP] = iret[3];
    out->cr2 = out->vector == 14 ? s->cr2 : 0;
    out->fcw = s->fpu.fcw;
    out->fsw = s->fpu.fsw;
    out->ftw = s->fpu.ftw;
    out->mxcsr = s->fpu.mxcsr;
    for (int i = 0; i < 8; i++)
        memcpy(out->st[i], s->fpu.st[i], 10);
    memcpy(out->vec, s->fpu.vec, sizeof out->vec);
    memcpy(out->k, s->fpu.k, sizeof out->k);
}

void isa_guest_run(struct isa_guest *g, const struct isa_batch *b, const struct isa_case *c,
                   struct isa_result *out)
{
    u8 page[ISA_DATA_SIZE];
    memset(page, 0xcc, PAGE_SIZE);
    memcpy(page + (c->in.rip - ISA_CODE), c->code, c->len);
    one_vcpu_put(g->machine, PA_CODE, page, PAGE_SIZE);
    isa_case_data(b, c, page);
    one_vcpu_put(g->machine, PA_DATA, page, ISA_DATA_SIZE);
    load_state(g, c);
    const struct engine_ops *engine = g->machine->vm.engine;
    one_vcpu_state_changed(g->machine);
    enum vcpu_exit exit = engine->run(g->machine->vcpu);
    engine->sync(g->machine->vcpu);
    if (exit == VCPU_EXIT_HALT) {
        store_state(g, &out->out);
    } else {
        memset(out, 0, sizeof *out);
        out->out.vector = 1000 + exit;
    }
    if (memory_read(&g->machine->memory, PA_DATA, out->data, ISA_DATA_SIZE) != 0)
        BUG();
}
