/*
 * A machine for tests that drive an engine themselves: RAM, one vCPU, no devices, and an interrupt controller
 * that never interrupts. The vCPU's thread is the caller's. Whatever fails ends the process.
 */
#ifndef TRAPEZE_TESTS_ONE_VCPU_H
#define TRAPEZE_TESTS_ONE_VCPU_H

#include "cpu/vm.h"

struct one_vcpu {
    struct memory memory;
    struct event_loop *loop;
    struct vm vm;
    struct irqchip chip;
    struct vcpu *vcpu;
    struct x86_state *s;
};

/* @cpuid stays the caller's, and has to outlive the machine. */
struct one_vcpu *one_vcpu_new(const struct engine_ops *engine, const struct cpuid_table *cpuid, u64 ram_size);
void one_vcpu_free(struct one_vcpu *m);

/* As new: RAM is zero, the vCPU's state that of power-on. The engine keeps its caches. */
void one_vcpu_reset(struct one_vcpu *m);

/* Little-endian, at guest-physical @gpa. */
void one_vcpu_put64(struct one_vcpu *m, u64 gpa, u64 value);
void one_vcpu_put(struct one_vcpu *m, u64 gpa, const void *bytes, u64 len);

/* After changes of the state from outside, before run(). */
static inline void one_vcpu_state_changed(struct one_vcpu *m)
{
    m->vm.engine->state_changed(m->vcpu);
}

#endif
