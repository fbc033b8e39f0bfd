/*
 * Port and memory-mapped accesses of a vCPU, on its thread, without locks held (they take the
 * machine lock). The local APIC page is the vCPU's own and is served by the irqchip.
 */
#ifndef TRAPEZE_CPU_IO_H
#define TRAPEZE_CPU_IO_H

#include "cpu/vm.h"

/* @size 1, 2 or 4. */
u32 cpu_pio_read(struct vcpu *vcpu, u16 port, unsigned size);
void cpu_pio_write(struct vcpu *vcpu, u16 port, u32 value, unsigned size);

/* @size 1..8, within one page that is not RAM. */
u64 cpu_mmio_read(struct vcpu *vcpu, u64 gpa, unsigned size);
void cpu_mmio_write(struct vcpu *vcpu, u64 gpa, u64 value, unsigned size);

#endif
