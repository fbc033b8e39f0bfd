/* Port and memory-mapped accesses of a vCPU. */
#include "cpu/io.h"

#include <inttypes.h>

#include "base/log.h"

u32 cpu_pio_read(struct vcpu *vcpu, u16 port, unsigned size)
{
    struct vm *vm = vcpu->vm;
    vcpu->counters.pio_reads++;
    lock_acquire(&vm->machine_lock);
    u32 value = (u32)memory_pio_read(vm->memory, port, size);
    lock_drop(&vm->machine_lock);
    trace(pio, "vcpu %u: in%u 0x%04x = 0x%x", vcpu->index, size, port, value);
    return value;
}

void cpu_pio_write(struct vcpu *vcpu, u16 port, u32 value, unsigned size)
{
    struct vm *vm = vcpu->vm;
    vcpu->counters.pio_writes++;
    trace(pio, "vcpu %u: out%u 0x%04x = 0x%x", vcpu->index, size, port, value);
    lock_acquire(&vm->machine_lock);
    memory_pio_write(vm->memory, port, value, size);
    lock_drop(&vm->machine_lock);
}

static bool is_apic_page(struct vcpu *vcpu, u64 gpa)
{
    struct irqchip *chip = vcpu->vm->irqchip;
    return chip && (gpa & PAGE_MASK) == chip->ops->apic_page(chip, vcpu);
}

/* Registers are 32 bits wide at multiples of 16; other accesses are undefined (SDM vol. 3, 11.4.1). */
static bool is_apic_register(u64 gpa, unsigned size)
{
    return size == 4 && gpa % 4 == 0;
}

static u64 mmio_read(struct vcpu *vcpu, u64 gpa, unsigned size)
{
    struct vm *vm = vcpu->vm;
    if (!is_apic_page(vcpu, gpa))
        return memory_mmio_read(vm->memory, gpa, size);
    if (!is_apic_register(gpa, size))
        return 0;
    return vm->irqchip->ops->apic_read(vm->irqchip, vcpu, (u32)(gpa & ~PAGE_MASK));
}

static void mmio_write(struct vcpu *vcpu, u64 gpa, u64 value, unsigned size)
{
    struct vm *vm = vcpu->vm;
    if (!is_apic_page(vcpu, gpa))
        memory_mmio_write(vm->memory, gpa, value, size);
    else if (is_apic_register(gpa, size))
        vm->irqchip->ops->apic_write(vm->irqchip, vcpu, (u32)(gpa & ~PAGE_MASK), (u32)value);
}

u64 cpu_mmio_read(struct vcpu *vcpu, u64 gpa, unsigned size)
{
    struct vm *vm = vcpu->vm;
    vcpu->counters.mmio_reads++;
    lock_acquire(&vm->machine_lock);
    u64 value = mmio_read(vcpu, gpa, size);
    lock_drop(&vm->machine_lock);
    trace(mmio, "vcpu %u: read%u 0x%" PRIx64 " = 0x%" PRIx64, vcpu->index, size, gpa, value);
    return value;
}

void cpu_mmio_write(struct vcpu *vcpu, u64 gpa, u64 value, unsigned size)
{
    struct vm *vm = vcpu->vm;
    vcpu->counters.mmio_writes++;
    trace(mmio, "vcpu %u: write%u 0x%" PRIx64 " = 0x%" PRIx64, vcpu->index, size, gpa, value);
    lock_acquire(&vm->machine_lock);
    mmio_write(vcpu, gpa, value, size);
    lock_drop(&vm->machine_lock);
}
