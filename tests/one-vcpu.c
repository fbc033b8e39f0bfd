#include "one-vcpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the interrupt controller --- */

static int chip_ack(struct irqchip *chip, struct vcpu *vcpu)
{
    return -1;
}

static u8 chip_get_cr8(struct irqchip *chip, struct vcpu *vcpu)
{
    return 0;
}

static void chip_set_cr8(struct irqchip *chip, struct vcpu *vcpu, u8 value) {}

static u64 chip_apic_page(struct irqchip *chip, struct vcpu *vcpu)
{
    return ~0ull;
}

static int chip_msr_read(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 *value)
{
    return -1;
}

static int chip_msr_write(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 value)
{
    return -1;
}

static void chip_vcpu_reset(struct irqchip *chip, struct vcpu *vcpu, bool init) {}

static void chip_set_pv_eoi(struct irqchip *chip, struct vcpu *vcpu, u64 msr) {}

static const struct irqchip_ops no_interrupts = {
    .ack = chip_ack,
    .get_cr8 = chip_get_cr8,
    .set_cr8 = chip_set_cr8,
    .apic_page = chip_apic_page,
    .msr_read = chip_msr_read,
    .msr_write = chip_msr_write,
    .vcpu_reset = chip_vcpu_reset,
    .set_pv_eoi = chip_set_pv_eoi,
};

/* --- the machine --- */

static void check(bool ok, const struct error *err)
{
    if (ok)
        return;
    (void)fprintf(stderr, "%s\n", err->text);
    exit(2);
}

struct one_vcpu *one_vcpu_new(const struct engine_ops *engine, const struct cpuid_table *cpuid, u64 ram_size)
{
    struct error err = {.text = "no memory"};
    struct one_vcpu *m = aligned_alloc(64, ALIGN_UP(sizeof *m, 64));
    check(m, &err);
    memset(m, 0, sizeof *m);
    check(memory_init(&m->memory, ram_size, &err) == 0, &err);
    m->loop = event_loop_new(&err);
    check(m->loop, &err);
    check(vm_init(&m->vm, &m->memory, m->loop, engine, cpuid, 1, &err) == 0, &err);
    m->chip.ops = &no_interrupts;
    m->vm.irqchip = &m->chip;
    m->vcpu = m->vm.vcpus[0];
    m->s = &m->vcpu->state;
    check(engine->vm_init(&m->vm, &err) == 0 && engine->vcpu_init(m->vcpu, &err) == 0, &err);
    m->vcpu->in_guest = true; /* as vcpu.c does around run(): exclusive sections count that */
    m->vm.in_guest = 1;
    return m;
}

void one_vcpu_free(struct one_vcpu *m)
{
    m->vcpu->in_guest = false;
    m->vm.in_guest = 0;
    m->vm.engine->vcpu_release(m->vcpu);
    m->vm.engine->vm_release(&m->vm);
    vm_release(&m->vm);
    event_loop_free(m->loop);
    memory_release(&m->memory);
    free(m);
}

void one_vcpu_put(struct one_vcpu *m, u64 gpa, const void *bytes, u64 len)
{
    BUG_ON(memory_write(&m->memory, gpa, bytes, len) != 0);
}

void one_vcpu_put64(struct one_vcpu *m, u64 gpa, u64 value)
{
    u8 bytes[8];
    put_le64(bytes, value);
    one_vcpu_put(m, gpa, bytes, sizeof bytes);
}

/* Most pages are zero already; reading that is faster than noting a write. */
void one_vcpu_reset(struct one_vcpu *m)
{
    static const u8 zeros[PAGE_SIZE];
    for (u64 offset = 0; offset < m->memory.ram_size; offset += PAGE_SIZE) {
        u64 gpa = memory_offset_gpa(&m->memory, offset);
        if (memory_ram(&m->memory, gpa) && memcmp(memory_ram(&m->memory, gpa), zeros, PAGE_SIZE) != 0)
            one_vcpu_put(m, gpa, zeros, PAGE_SIZE);
    }
    x86_state_reset(m->s, true);
}
