/* One virtual CPU: its thread, its requests, its architectural state. Overview in cpu/engine.h. */
#ifndef TRAPEZE_CPU_VCPU_H
#define TRAPEZE_CPU_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/tally.h"
#include "cpu/engine.h"
#include "cpu/state.h"

struct vm;

enum {
    VCPU_REQ_INTERRUPT = 1 << 0, /* ask irqchip ack(); stays set until the chip clears it */
    VCPU_REQ_NMI = 1 << 1,
    VCPU_REQ_INIT = 1 << 2,
    VCPU_REQ_SIPI = 1 << 3,
    VCPU_REQ_FLUSH_TLB = 1 << 4, /* served inside run() by software engines */
    VCPU_REQ_EXCLUSIVE = 1 << 5, /* another thread wants this vCPU out of guest code */
    VCPU_REQ_PAUSE = 1 << 6,
    VCPU_REQ_STOP = 1 << 7,
};

/*
 * Requests that make run() return to vcpu.c. NMI is taken inside run() by software engines, like
 * INTERRUPT and FLUSH_TLB; NMI becomes state.nmi_pending.
 */
#define VCPU_REQ_LEAVE (VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_EXCLUSIVE | VCPU_REQ_PAUSE | VCPU_REQ_STOP)

struct vcpu {
    struct x86_state state ALIGNED(64);
    _Atomic u32 requests;
    struct vm *vm;
    unsigned index; /* also its APIC id */
    _Atomic u8 sipi_vector;
    void *engine_data;
    struct counters counters; /* written by its thread */
    struct tally rescued;     /* instructions for which another engine was asked; written by its thread */
    struct error error;       /* after VCPU_EXIT_ERROR */
    struct vcpu_debug debug;  /* changes by vm_debug_vcpu() */
    struct vcpu_debug_hit debug_hit; /* after VCPU_EXIT_DEBUG */

    /* private to steal.c */
    _Atomic int schedstat; /* what the host says of its thread; -1: nothing */
    _Atomic u64 steal_msr; /* the MSR, for other threads */
    u64 steal_seen;        /* under the machine lock: what was told, ns */

    /* private to vcpu.c and vm.c */
    pthread_t thread;
    _Atomic bool started; /* the engine has set it up and it has a thread */
    bool in_guest;        /* under vm->run_lock: inside run() */
    bool parked;          /* under vm->run_lock: waits for resume or stop */
    _Atomic u32 wake_seq; /* moves with every request */
    _Atomic bool sleeping;
    struct lock sleep_lock;
    pthread_cond_t sleep_cond;
};

/* Prepares @vcpu in reset state; engine resources come with vm_start(). */
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, struct error *err);
void vcpu_release(struct vcpu *vcpu);

/* For vm.c: the thread's function, and power-on state of the vCPU and its irqchip (machine lock held). */
void *vcpu_main(void *vcpu);
void vcpu_reset(struct vcpu *vcpu);

/* Takes pending INIT and SIPI requests. On its thread, or while it is parked. */
void vcpu_serve_signals(struct vcpu *vcpu);

/* The vCPU whose thread is calling, or NULL. */
struct vcpu *vcpu_current(void);

/* Sets request bits; kicks and wakes the vCPU. Any thread. */
void vcpu_request(struct vcpu *vcpu, u32 bits);

/* Clears request bits. Any thread (whoever set their cause). */
static inline void vcpu_request_clear(struct vcpu *vcpu, u32 bits)
{
    atomic_fetch_and_explicit(&vcpu->requests, ~bits, memory_order_acq_rel);
}

static inline u32 vcpu_requests(const struct vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu->requests, memory_order_acquire);
}

/* The guest's TSC now, and setting it (WRMSR TSC). */
u64 vcpu_tsc(const struct vcpu *vcpu);
void vcpu_set_tsc(struct vcpu *vcpu, u64 value);

/* Makes it the host's TSC. The clock runs; machine lock held. */
void vcpu_follow_host_tsc(struct vcpu *vcpu);

#endif
