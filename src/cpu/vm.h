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

/* Which interrupt controllers an engine's kernel may have. */
enum kernel_irqchip {
    KERNEL_IRQCHIP_AUTO,
    KERNEL_IRQCHIP_NONE,
    KERNEL_IRQCHIP_SPLIT, /* local APICs */
    KERNEL_IRQCHIP_WHOLE, /* I/O APIC and 8259s as well */
};

struct vm {
    struct memory *memory;
    struct irqchip *irqchip; /* set by the board before vm_start() */
    const struct engine_ops *engine;
    void *engine_data;
    const struct cpuid_table *cpuid;
    const struct rescue_ops *rescue; /* NULL: none */
    enum kernel_irqchip kernel_irqchip;
    bool irqfd;     /* messages of devices to chips in the kernel go by eventfd */
    bool ioeventfd; /* doorbells of devices are no exits, where the engine can */
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

    /*
     * Called on a vCPU's thread, without locks, when its engine failed (vcpu->error). True: another engine
     * will be there soon (vm_switch_engine() from another thread), the vCPU waits for it. NULL: never.
     */
    bool (*engine_failed)(struct vm *vm, const struct error *why);

    /*
     * Called on a vCPU's thread, without locks, when what vm_debug_vcpu() asked for came (vcpu->debug_hit).
     * The vCPU waits for vm_resume(), before which another thread calls vm_pause(). NULL: it goes on.
     */
    void (*debug_hit)(struct vm *vm, struct vcpu *vcpu);

    struct timer steal_timer; /* private to steal.c */

    /* private to vm.c and vcpu.c */
    struct lock life_lock; /* serialises start, stop, pause and resume */
    struct lock run_lock;
    pthread_cond_t run_cond; /* something below changed */
    unsigned in_guest;       /* vCPUs inside run() */
    unsigned exclusive;      /* the holder and those who wait to be it */
    bool exclusive_held;
    _Atomic int end_reason; /* enum vm_end, first one wins */
    int end_code;
    unsigned thread_count;
    bool threads_running;
    bool paused;
};

/* @engine and @cpuid live as long as the VM. vCPUs are made in reset state, memory by the caller. */
int vm_init(struct vm *vm, struct memory *memory, struct event_loop *loop, const struct engine_ops *engine,
            const struct cpuid_table *cpuid, unsigned vcpu_count, struct error *err);
void vm_release(struct vm *vm);

/*
 * start, stop, pause and resume wait for vCPUs, so they are not called from a vCPU thread nor with
 * the machine lock held: a callback of the event loop drops that lock around the call.
 */

/*
 * Creates the engine's resources and the vCPU threads and starts virtual time; when the VM was paused
 * before, both wait for vm_resume().
 */
int vm_start(struct vm *vm, struct error *err);

/* Joins the vCPU threads and releases the engine's resources; vm_start() may follow, with another engine. */
void vm_stop(struct vm *vm);

/* Stops virtual time and waits until no vCPU executes; resume undoes it. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/*
 * Goes on with another engine, between two instructions of each vCPU: the guest notices nothing but the
 * time that it takes, for virtual time goes on. Running, paused or not started; rules as for vm_pause().
 * -ENOTSUP when @engine lacks a CPU feature that the guest was shown. When @engine refuses, the VM goes on
 * with the one it had (and ends with VM_END_ERROR if that cannot be set up again either).
 */
int vm_switch_engine(struct vm *vm, const struct engine_ops *engine, struct error *err);

/*
 * Executes up to @count instructions or deliveries of one vCPU of a paused VM by vm->rescue, whatever its
 * engine, which then goes on from there. *why says how it ended: VCPU_EXIT_REQUEST when all were done. Rules
 * as for vm_pause().
 */
int vm_step_vcpu(struct vm *vm, unsigned index, unsigned count, enum vcpu_exit *why, struct error *err);

/*
 * Breakpoints in a vCPU of a paused VM; all zero takes them away. -ENOTSUP when its engine has none, or not
 * these: then vm_step_vcpu() is what there is. They stay when the engine changes, and come back with one that
 * has them. At a breakpoint of kind EXEC the vCPU would stop again: vm_step_vcpu() gets past it.
 */
int vm_debug_vcpu(struct vm *vm, unsigned index, const struct vcpu_debug *debug, struct error *err);

/*
 * Back to power-on state for every vCPU and its interrupt controller, and an ended VM may run again.
 * Paused or not started. Takes the machine lock.
 */
void vm_reset_vcpus(struct vm *vm);

/*
 * Ends the VM: vCPUs leave guest code and wait, vm->ended() is called. First caller wins. Any thread,
 * with or without the machine lock.
 */
void vm_end(struct vm *vm, enum vm_end why, int code);

/* The same with VM_END_ERROR and the reason. */
void vm_end_error(struct vm *vm, const struct error *error);

/*
 * No vCPU but the caller's (NULL: none) is inside guest code between begin and end. A vCPU thread
 * calls it from within run(). Not with the machine lock held. Not recursive.
 */
void vm_exclusive_begin(struct vm *vm, struct vcpu *self);
void vm_exclusive_end(struct vm *vm, struct vcpu *self);

/*
 * When it returns no vCPU uses an old address translation any more, except that the calling vCPU's own
 * are dropped at its next block boundary. Rules as for vm_exclusive_begin().
 */
void vm_flush_tlbs(struct vm *vm);

/* For vcpu.c. Before and after run(); waits while an exclusive section is wanted. */
void vm_enter_guest(struct vm *vm, struct vcpu *vcpu);
void vm_leave_guest(struct vm *vm, struct vcpu *vcpu);
/* Waits until the VM is resumed or stopped. */
void vm_park(struct vm *vm, struct vcpu *vcpu);

#endif
