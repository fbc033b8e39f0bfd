/*
 * The thread of a virtual CPU: requests, sleeping and waking, INIT and SIPI.
 *
 * No wake-up is lost: vcpu_request() sets the bits, moves wake_seq and then looks whether the vCPU
 * sleeps; the thread reads wake_seq before it calls run(), and when that says HALT it announces its
 * sleep and then waits only while wake_seq has not moved. It waits for a move and not for a bit, since
 * VCPU_REQ_INTERRUPT may stay set for long while the guest halts with interrupts off.
 */
#include "cpu/vcpu.h"

#include <errno.h>

#include "base/log.h"
#include "cpu/msr.h"
#include "cpu/vm.h"

static _Thread_local struct vcpu *current;

struct vcpu *vcpu_current(void)
{
    return current;
}

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, struct error *err)
{
    *vcpu = (struct vcpu){.vm = vm, .index = index, .schedstat = -1};
    x86_state_reset(&vcpu->state, index == 0);
    lock_init(&vcpu->sleep_lock, LOCK_RANK_VCPU);
    if (pthread_cond_init(&vcpu->sleep_cond, NULL)) {
        lock_release(&vcpu->sleep_lock);
        return error_set_errno(err, ENOMEM, "cannot create vCPU %u", index);
    }
    return 0;
}

void vcpu_release(struct vcpu *vcpu)
{
    BUG_ON(atomic_load(&vcpu->started));
    pthread_cond_destroy(&vcpu->sleep_cond);
    lock_release(&vcpu->sleep_lock);
}

/* --- requests --- */

static void wake(struct vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->wake_seq, 1);
    if (!atomic_load(&vcpu->sleeping))
        return;
    /* The lock keeps this from falling between the sleeper's check and its wait. */
    lock_acquire(&vcpu->sleep_lock);
    pthread_cond_signal(&vcpu->sleep_cond);
    lock_drop(&vcpu->sleep_lock);
}

void vcpu_request(struct vcpu *vcpu, u32 bits)
{
    atomic_fetch_or(&vcpu->requests, bits);
    wake(vcpu);
    if (!atomic_load(&vcpu->started))
        return;
    trace(vcpu, "vcpu %u: request 0x%x", vcpu->index, bits);
    vcpu->vm->engine->kick(vcpu);
}

static void sleep_until_woken(struct vcpu *vcpu, u32 seen_seq)
{
    lock_acquire(&vcpu->sleep_lock);
    atomic_store(&vcpu->sleeping, true);
    while (atomic_load(&vcpu->wake_seq) == seen_seq)
        lock_wait(&vcpu->sleep_lock, &vcpu->sleep_cond);
    atomic_store(&vcpu->sleeping, false);
    lock_drop(&vcpu->sleep_lock);
}

/* --- reset, INIT, SIPI: SDM vol. 3, 9.4 --- */

void vcpu_reset(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    x86_state_reset(&vcpu->state, vcpu->index == 0);
    vcpu_set_tsc(vcpu, 0);
    vcpu_request_clear(vcpu, VCPU_REQ_INTERRUPT | VCPU_REQ_NMI | VCPU_REQ_INIT | VCPU_REQ_SIPI);
    if (vm->irqchip)
        vm->irqchip->ops->vcpu_reset(vm->irqchip, vcpu, false);
    if (atomic_load(&vcpu->started))
        vm->engine->state_changed(vcpu);
}

static void serve_init(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    trace(vcpu, "vcpu %u: INIT", vcpu->index);
    vm->engine->sync(vcpu);
    lock_acquire(&vm->machine_lock);
    vcpu_request_clear(vcpu, VCPU_REQ_INTERRUPT | VCPU_REQ_NMI);
    x86_state_init_reset(&vcpu->state, vcpu->index == 0);
    if (vm->irqchip)
        vm->irqchip->ops->vcpu_reset(vm->irqchip, vcpu, true);
    lock_drop(&vm->machine_lock);
    vm->engine->state_changed(vcpu);
}

static void serve_sipi(struct vcpu *vcpu)
{
    struct x86_state *s = &vcpu->state;
    if (s->mp_state != VCPU_MP_WAIT_SIPI)
        return;
    u8 vector = atomic_load(&vcpu->sipi_vector);
    trace(vcpu, "vcpu %u: SIPI, starts at 0x%x", vcpu->index, vector << 12);
    vcpu->vm->engine->sync(vcpu);
    s->seg[X86_CS].selector = (u16)(vector << 8);
    s->seg[X86_CS].base = (u64)vector << 12;
    s->rip = 0;
    s->mp_state = VCPU_MP_RUNNABLE;
    vcpu->vm->engine->state_changed(vcpu);
}

/* Bits are cleared before they are served, so that one that comes meanwhile is served again. */
void vcpu_serve_signals(struct vcpu *vcpu)
{
    u32 r = vcpu_requests(vcpu) & (VCPU_REQ_INIT | VCPU_REQ_SIPI);
    if (!r)
        return;
    vcpu_request_clear(vcpu, r);
    if (r & VCPU_REQ_INIT)
        serve_init(vcpu);
    if (r & VCPU_REQ_SIPI)
        serve_sipi(vcpu);
}

/* --- the thread --- */

/* The request comes first: the switch may be done before engine_failed() returns. */
static void engine_failed(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    vcpu_request(vcpu, VCPU_REQ_PAUSE);
    if (!vm->engine_failed || !vm->engine_failed(vm, &vcpu->error))
        vm_end_error(vm, &vcpu->error);
}

/* The request comes first: whoever is told may resume the VM at once. */
static void debug_hit(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    if (!vm->debug_hit)
        return;
    vcpu_request(vcpu, VCPU_REQ_PAUSE);
    vm->debug_hit(vm, vcpu);
}

static void serve_exit(struct vcpu *vcpu, enum vcpu_exit why, u32 seen_seq)
{
    switch (why) {
    case VCPU_EXIT_REQUEST: vcpu->counters.kicks++; break;
    case VCPU_EXIT_HALT:
        vcpu->counters.halts++;
        sleep_until_woken(vcpu, seen_seq);
        break;
    case VCPU_EXIT_TRIPLE_FAULT:
        trace(vcpu, "vcpu %u: triple fault", vcpu->index);
        vm_end(vcpu->vm, VM_END_TRIPLE_FAULT, 0);
        break;
    case VCPU_EXIT_DEBUG: debug_hit(vcpu); break;
    case VCPU_EXIT_ERROR: engine_failed(vcpu); break;
    }
}

/* With a local APIC in the kernel, that is where HLT, INIT and SIPI are. */
static bool waits_in_kernel(const struct vm *vm)
{
    return vm->irqchip && vm->irqchip->kernel;
}

void *vcpu_main(void *arg)
{
    struct vcpu *vcpu = arg;
    struct vm *vm = vcpu->vm;
    current = vcpu;
    steal_thread_begins(vcpu);
    for (;;) {
        u32 seq = atomic_load(&vcpu->wake_seq);
        u32 requests = vcpu_requests(vcpu);
        if (requests & VCPU_REQ_STOP)
            break;
        if (requests & VCPU_REQ_PAUSE) {
            vm_park(vm, vcpu);
            continue;
        }
        vcpu_serve_signals(vcpu);
        if (vcpu->state.mp_state == VCPU_MP_WAIT_SIPI && !waits_in_kernel(vm)) {
            sleep_until_woken(vcpu, seq);
            continue;
        }
        vm_enter_guest(vm, vcpu);
        enum vcpu_exit why = vm->engine->run(vcpu);
        vm_leave_guest(vm, vcpu);
        serve_exit(vcpu, why, seq);
    }
    steal_thread_ends(vcpu);
    current = NULL;
    return NULL;
}

/* --- the time-stamp counter --- */

u64 vcpu_tsc(const struct vcpu *vcpu)
{
    return vclock_tsc(&vcpu->vm->clock) + (u64)vcpu->state.tsc_offset;
}

void vcpu_set_tsc(struct vcpu *vcpu, u64 value)
{
    vcpu->state.tsc_offset = (i64)(value - vclock_tsc(&vcpu->vm->clock));
}

void vcpu_follow_host_tsc(struct vcpu *vcpu)
{
    struct irqchip *chip = vcpu->vm->irqchip;
    i64 offset;
    (void)vclock_tsc_offset(&vcpu->vm->clock, &offset);
    vcpu->state.tsc_offset = -offset;
    if (chip && chip->ops->tsc_changed)
        chip->ops->tsc_changed(chip, vcpu);
}
