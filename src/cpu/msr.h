/* RDMSR and WRMSR for every engine. On the vCPU's thread, without locks. 0, or -1 for #GP(0). */
#ifndef TRAPEZE_CPU_MSR_H
#define TRAPEZE_CPU_MSR_H

#include "cpu/vm.h"

int cpu_rdmsr(struct vcpu *vcpu, u32 index, u64 *value);

/* May change EFER, segment bases and so on in vcpu->state: the engine re-derives its modes after it. */
int cpu_wrmsr(struct vcpu *vcpu, u32 index, u64 value);

/* kvmclock (cpu/pvclock.c): writes the time page(s) of @vcpu anew, for example after a resume. */
void pvclock_update(struct vcpu *vcpu);
void pvclock_write_wall(struct vcpu *vcpu, u64 gpa);

/* Steal time (cpu/steal.c): the MSR or the whole state changed. On the vCPU's thread, or while it is parked.
 */
void steal_follow(struct vcpu *vcpu);
/* Adds what its thread waited since the last time. Machine lock held. */
void steal_update(struct vcpu *vcpu);
/* For vm.c and vcpu.c. */
void steal_init(struct vm *vm);
void steal_release(struct vm *vm);
void steal_thread_begins(struct vcpu *vcpu);
void steal_thread_ends(struct vcpu *vcpu);

#endif
