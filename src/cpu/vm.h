/*
 * What the vCPUs of one VM share, and the VM's life cycle. Devices see a VM only through memory.h,
 * irq lines, the event loop and `struct lifecycle`.
 */
#ifndef TRAPEZE_CPU_VM_H
#define TRAPEZE_CPU_VM_H

#include "base/clock.h"
#include "base/event_loop.h"
#include "cpu/irqchip.h"
#include "cpu/vcpu.h"
#include "memory/memory.h"
#include "x86/cpuid.h"

#define VM_MAX_VCPUS 16

/* Why a VM stopped. */
enum vm_end {
    VM_END_NONE,
    VM_END_POWEROFF,     /* the guest powered off */
    VM_END_RESET,        /* the guest asked for a reset */
    VM_END_TRIPLE_FAULT, /* the guest died */
    VM_END_DEBUG_EXIT,   /* isa-debug-exit: code is the monitor's status */
    VM_END_QUIT,         /* the user asked (Ctrl-a x, signal, control socket) */
    VM_END_ERROR,        /* the host failed: vm->error */
};

struct vm {
    struct memory *memory;
    struct irqchip *irqchip; /* set by the board before vm_start() */
    const struct engine_ops *engine;
    void *engine_data;
    const struct cpuid_table *cpuid;
    struct event_loop *loop;
    struct vclock clock;
    struct lock machine_lock;
    struct vcpu *vcpus[VM_MAX_VCPUS];
    unsigned vcpu_count;
    struct error error;

    /*
     * Called once a stop is requested, on whichever thread asked, possibly under the machine lock;
     * it may only post to the loop. May be NULL.
     */
    void (*ended)(struct vm *vm, enum vm_end why, int code);
    void *ended_owner;

    /* private to vm.c and vcpu.c */
    struct lock run_lock;
    pthread_cond_t run_cond;
    unsigned in_guest;  /* vCPUs inside run() */
    unsigned exclusive; /* a holder or waiters */
    bool exclusive_held;
    _Atomic int end_reason; /* enum vm_end, first one wins */
    int end_code;
    bool threads_running;
    bool paused;
};

/* @engine and @cpuid live as long as the VM. vCPUs are made in reset state, memory by the caller. */
int vm_init(struct vm *vm, struct memory *memory, struct event_loop *loop, const struct engine_ops *engine,
            const struct cpuid_table *cpuid, unsigned vcpu_count, struct error *err);
void vm_release(struct vm *vm);

/* Creates the engine's resources and the vCPU threads, starts virtual time. */
int vm_start(struct vm *vm, struct error *err);

/* Stops vCPU threads and joins them. Not from a vCPU thread, not under the machine lock. */
void vm_stop(struct vm *vm);

/* Stops virtual time and waits until no vCPU executes; resume undoes it. Not from a vCPU thread. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/* Back to power-on state for every vCPU and its interrupt controller. Paused or not started. */
void vm_reset_vcpus(struct vm *vm);

/* Ends the VM: vCPUs leave guest code and wait, vm->ended() is called. First caller wins. Any thread. */
void vm_end(struct vm *vm, enum vm_end why, int code);

/*
 * No vCPU but the caller's (NULL: none) is inside guest code between begin and end. A vCPU thread
 * calls it from within run() and must not hold the machine lock. Not recursive.
 */
void vm_exclusive_begin(struct vm *vm, struct vcpu *self);
void vm_exclusive_end(struct vm *vm, struct vcpu *self);

/* Every vCPU drops its address translations before it executes another guest instruction. */
void vm_flush_tlbs(struct vm *vm);

#endif
