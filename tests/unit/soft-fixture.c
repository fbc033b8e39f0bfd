#include "soft-fixture.h"

/* --- a VM that never runs --- */

static int nothing_vm(struct vm *vm, struct error *err)
{
    return 0;
}
static void nothing_vm_release(struct vm *vm) {}
static int nothing_vcpu(struct vcpu *vcpu, struct error *err)
{
    return 0;
}
static void nothing(struct vcpu *vcpu) {}
static enum vcpu_exit nothing_run(struct vcpu *vcpu)
{
    return VCPU_EXIT_HALT;
}
static const struct engine_ops null_engine = {
    .name = "null",
    .vm_init = nothing_vm,
    .vm_release = nothing_vm_release,
    .vcpu_init = nothing_vcpu,
    .vcpu_release = nothing,
    .run = nothing_run,
    .kick = nothing,
    .sync = nothing,
    .state_changed = nothing,
    .flush_tlb = nothing,
};

static struct fixture *fixture_of(struct irqchip *chip)
{
    return container_of(chip, struct fixture, irqchip);
}
static int fake_ack(struct irqchip *chip, struct vcpu *vcpu)
{
    struct fixture *f = fixture_of(chip);
    int vector = f->vector;
    f->vector = -1;
    vcpu_request_clear(vcpu, VCPU_REQ_INTERRUPT);
    return vector;
}
static u8 fake_get_cr8(struct irqchip *chip, struct vcpu *vcpu)
{
    return fixture_of(chip)->cr8;
}
static void fake_set_cr8(struct irqchip *chip, struct vcpu *vcpu, u8 value)
{
    fixture_of(chip)->cr8 = value;
}
static int fake_msr_read(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 *value)
{
    *value = index == MSR_APIC_BASE ? 0xfee00900 : 0;
    return 0;
}
static int fake_msr_write(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 value)
{
    return 0;
}
static u64 fake_apic_page(struct irqchip *chip, struct vcpu *vcpu)
{
    return ~0ull;
}
static void fake_reset(struct irqchip *chip, struct vcpu *vcpu, bool init) {}
static void fake_pv_eoi(struct irqchip *chip, struct vcpu *vcpu, u64 msr) {}
static const struct irqchip_ops fake_ops = {
    .ack = fake_ack,
    .get_cr8 = fake_get_cr8,
    .set_cr8 = fake_set_cr8,
    .msr_read = fake_msr_read,
    .msr_write = fake_msr_write,
    .apic_page = fake_apic_page,
    .vcpu_reset = fake_reset,
    .set_pv_eoi = fake_pv_eoi,
};

int fx_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error err = {0};
    assert_non_null(f);
    f->vector = -1;
    f->next_table = FX_TABLES;
    f->irqchip.ops = &fake_ops;
    assert_int_equal(memory_init(&f->memory, FX_RAM, &err), 0);
    assert_int_equal(cpuid_build(&f->cpuid, "host", 1, 1000000, &err), 0);
    assert_int_equal(vm_init(&f->vm, &f->memory, NULL, &null_engine, &f->cpuid, 1, &err), 0);
    f->vm.irqchip = &f->irqchip;
    f->vcpu = f->vm.vcpus[0];
    f->s = &f->vcpu->state;
    f->c = aligned_alloc(64, sizeof *f->c);
    assert_non_null(f->c);
    memset(f->c, 0, sizeof *f->c);
    assert_int_equal(soft_cpu_init(f->c, f->vcpu, &err), 0);
    *state = f;
    return 0;
}

int fx_teardown(void **state)
{
    struct fixture *f = *state;
    soft_cpu_release(f->c);
    free(f->c);
    vm_release(&f->vm);
    memory_release(&f->memory);
    free(f);
    return 0;
}

void fx_set_amd(struct fixture *f, bool amd)
{
    f->cpuid.amd = amd;
}

/* --- memory --- */

void fx_poke(struct fixture *f, u64 gpa, u64 value, unsigned size)
{
    assert_int_equal(memory_write(&f->memory, gpa, &value, size), 0);
}

u64 fx_peek(struct fixture *f, u64 gpa, unsigned size)
{
    u64 value = 0;
    assert_int_equal(memory_read(&f->memory, gpa, &value, size), 0);
    return value;
}

void fx_descriptor(struct fixture *f, u16 selector, u32 base, u32 limit, u32 attr)
{
    u64 d = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)attr << 40 | (u64)(limit & 0xf0000) << 32 |
            (u64)(base & 0xff000000u) << 32;
    fx_poke(f, FX_GDT + (selector & ~7u), d, 8);
}

void fx_gate(struct fixture *f, unsigned vector, u16 selector, u64 offset, unsigned type, unsigned dpl,
             unsigned ist)
{
    u64 low = (offset & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
              (offset & 0xffff0000u) << 32;
    if (x86_long_mode(f->s)) {
        fx_poke(f, FX_IDT + vector * 16, low, 8);
        fx_poke(f, FX_IDT + vector * 16 + 8, offset >> 32, 8);
    } else {
        fx_poke(f, FX_IDT + vector * 8, low, 8);
    }
}

/* The entry of the table at @table for @la at @level, making a lower table where there is none. */
static u64 next_level(struct fixture *f, u64 table, u64 la, unsigned level)
{
    u64 gpa = table + (la >> (12 + 9 * level) & 0x1ff) * 8;
    u64 e = fx_peek(f, gpa, 8);
    if (!(e & 1)) {
        e = f->next_table | 7;
        f->next_table += PAGE_SIZE;
        fx_poke(f, gpa, e, 8);
    }
    return e & MASK(52) & PAGE_MASK;
}

void fx_map(struct fixture *f, u64 la, u64 gpa, unsigned shift, u64 flags)
{
    u64 table = FX_TABLES;
    unsigned leaf = (shift - 12) / 9;
    for (unsigned level = 3; level > leaf; level--)
        table = next_level(f, table, la, level);
    fx_poke(f, table + (la >> shift & 0x1ff) * 8, gpa | flags, 8);
}

/* --- modes --- */

void fx_real(struct fixture *f)
{
    x86_state_reset(f->s, true);
    f->s->seg[X86_CS].selector = 0;
    f->s->seg[X86_CS].base = 0;
    f->s->rip = 0x7c00;
    f->s->gpr[X86_RSP] = 0x7000;
    soft_tlb_flush_all(f->c, true);
    soft_mode_changed(f->c);
}

static void make_gdt(struct fixture *f)
{
    fx_descriptor(f, FX_CODE32, 0, 0xfffff, FX_ATTR_CODE32);
    fx_descriptor(f, FX_DATA, 0, 0xfffff, FX_ATTR_DATA);
    fx_descriptor(f, FX_USER_CODE32, 0, 0xfffff, FX_ATTR_CODE32 | FX_DPL(3));
    fx_descriptor(f, FX_USER_DATA, 0, 0xfffff, FX_ATTR_DATA | FX_DPL(3));
    fx_descriptor(f, FX_CODE64, 0, 0xfffff, FX_ATTR_CODE64);
    fx_descriptor(f, FX_USER_CODE64, 0, 0xfffff, FX_ATTR_CODE64 | FX_DPL(3));
    fx_descriptor(f, FX_TSS_SEL, FX_TSS, 0x67, 0x8b);
    f->s->gdt = (struct x86_table){.base = FX_GDT, .limit = FX_GDT_LIMIT};
}

static struct x86_segment segment(u16 selector, u32 attr)
{
    return (struct x86_segment){.selector = selector, .limit = 0xffffffffu, .attr = attr};
}

void fx_set_cpl(struct fixture *f, unsigned cpl)
{
    struct x86_state *s = f->s;
    bool wide = x86_long_mode(s);
    u16 data = cpl == 3 ? FX_USER_DATA : FX_DATA;
    u16 code = wide ? (cpl == 3 ? FX_USER_CODE64 : FX_CODE64) : (cpl == 3 ? FX_USER_CODE32 : FX_CODE32);
    s->seg[X86_CS] = segment(code, (wide ? FX_ATTR_CODE64 : FX_ATTR_CODE32) | FX_DPL(cpl));
    s->seg[X86_SS] = s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_FS] = s->seg[X86_GS] =
        segment(data, FX_ATTR_DATA | FX_DPL(cpl));
    s->gpr[X86_RSP] = cpl == 3 ? FX_STACK3 : FX_STACK0 - 0x1000;
    soft_mode_changed(f->c);
}

void fx_protected(struct fixture *f, unsigned cpl)
{
    struct x86_state *s = f->s;
    x86_state_reset(s, true);
    s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
    make_gdt(f);
    s->idt = (struct x86_table){.base = FX_IDT, .limit = 256 * 8 - 1};
    fx_poke(f, FX_TSS + 4, FX_STACK0, 4);
    fx_poke(f, FX_TSS + 8, FX_DATA, 2);
    s->tr = (struct x86_segment){.base = FX_TSS, .limit = 0x67, .attr = 0x8b, .selector = FX_TSS_SEL};
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    s->rip = FX_FREE;
    s->rflags = X86_FLAG1;
    soft_tlb_flush_all(f->c, true);
    fx_set_cpl(f, cpl);
}

void fx_long(struct fixture *f, unsigned cpl)
{
    struct x86_state *s = f->s;
    fx_protected(f, 0);
    f->next_table = FX_TABLES + PAGE_SIZE;
    for (u64 la = 0; la < FX_RAM; la += 2ull << 20)
        fx_map(f, la, la, 21, 0x87);
    s->cr3 = FX_TABLES;
    s->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE;
    s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    s->cr0 |= X86_CR0_PG | X86_CR0_WP;
    s->idt = (struct x86_table){.base = FX_IDT, .limit = 256 * 16 - 1};
    fx_poke(f, FX_TSS + 4, FX_STACK0, 8);
    soft_tlb_flush_all(f->c, true);
    fx_set_cpl(f, cpl);
}

/* --- operations --- */

int fx_try(struct fixture *f, void (*op)(struct soft_cpu *c, void *arg), void *arg)
{
    f->s->exception_pending = 0;
    f->s->exception_error = 0;
    f->c->insn_rip = f->s->rip;
    if (setjmp(f->c->fault) == 0)
        op(f->c, arg);
    if (!f->s->exception_pending)
        return FX_NO_FAULT;
    f->s->exception_pending = 0;
    return f->s->exception_vector;
}

struct access {
    u64 la, value;
    unsigned size;
};

static void do_read(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    a->value = soft_read(c, a->la, a->size);
}
static void do_write(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    soft_write(c, a->la, a->value, a->size);
}
static void do_exec(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    a->value = soft_fetch_gpa(c, a->la);
}
static void do_load(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    soft_load_segment(c, (enum x86_seg)a->size, (u16)a->value);
}
static void do_cr(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    soft_write_cr(c, a->size, a->value);
}
static void do_interrupt(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    soft_interrupt(c, (u8)a->value, (enum soft_int_kind)a->size, false, 0);
}
static void do_iret(struct soft_cpu *c, void *arg)
{
    struct access *a = arg;
    soft_iret(c, a->size);
}

int fx_read(struct fixture *f, u64 la, unsigned size, u64 *value)
{
    struct access a = {.la = la, .size = size};
    int v = fx_try(f, do_read, &a);
    if (value)
        *value = a.value;
    return v;
}

int fx_write(struct fixture *f, u64 la, u64 value, unsigned size)
{
    struct access a = {.la = la, .size = size, .value = value};
    return fx_try(f, do_write, &a);
}

int fx_exec(struct fixture *f, u64 la)
{
    struct access a = {.la = la};
    return fx_try(f, do_exec, &a);
}

int fx_load(struct fixture *f, enum x86_seg seg, u16 selector)
{
    struct access a = {.size = seg, .value = selector};
    return fx_try(f, do_load, &a);
}

int fx_write_cr(struct fixture *f, unsigned n, u64 value)
{
    struct access a = {.size = n, .value = value};
    return fx_try(f, do_cr, &a);
}

int fx_interrupt(struct fixture *f, u8 vector, enum soft_int_kind kind)
{
    struct access a = {.size = kind, .value = vector};
    return fx_try(f, do_interrupt, &a);
}

int fx_iret(struct fixture *f, unsigned opsize)
{
    struct access a = {.size = opsize};
    return fx_try(f, do_iret, &a);
}

bool fx_exception(struct fixture *f, enum x86_vector v, bool has_error, u32 error)
{
    f->c->insn_rip = f->s->rip;
    f->s->exception_pending = 1;
    f->s->exception_vector = (u8)v;
    f->s->exception_has_error = has_error;
    f->s->exception_error = error;
    return soft_deliver_exception(f->c);
}
