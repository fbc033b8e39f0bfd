/*
 * What the vCPUs of a VM share: life cycle, exclusive sections.
 *
 * Everything about who is in guest code is under run_lock with one condition variable. A vCPU enters
 * only while no exclusive section is held or waited for; whoever begins a section asks those inside
 * to leave and waits for them. A vCPU that begins one counts as outside from then to the end of it,
 * so that several can wait for each other's sections.
 *
 * Lock order: life_lock, machine_lock, then run_lock or a vCPU's sleep_lock (never both).
 */
#include "cpu/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "cpu/msr.h"

static int alloc_vcpus(struct vm *vm, unsigned count, struct error *err)
{
    for (unsigned i = 0; i < count; i++) {
        struct vcpu *vcpu = aligned_alloc(_Alignof(struct vcpu), sizeof *vcpu);
        if (!vcpu)
            return error_set_errno(err, ENOMEM, "cannot create vCPU %u", i);
        int r = vcpu_init(vcpu, vm, i, err);
        if (r < 0) {
            free(vcpu);
            return r;
        }
        vm->vcpus[vm->vcpu_count++] = vcpu;
    }
    return 0;
}

int vm_init(struct vm *vm, struct memory *memory, struct event_loop *loop, const struct engine_ops *engine,
            const struct cpuid_table *cpuid, unsigned vcpu_count, struct error *err)
{
    *vm = (struct vm){.memory = memory, .loop = loop, .engine = engine, .cpuid = cpuid};
    if (!vcpu_count || vcpu_count > VM_MAX_VCPUS)
        return error_set(err, EINVAL, "a VM has 1 to %d vCPUs, not %u", VM_MAX_VCPUS, vcpu_count);
    vclock_init(&vm->clock);
    steal_init(vm);
    lock_init(&vm->life_lock, LOCK_RANK_VM);
    lock_init(&vm->machine_lock, LOCK_RANK_MACHINE);
    lock_init(&vm->run_lock, LOCK_RANK_VCPU);
    pthread_cond_init(&vm->run_cond, NULL);
    int r = alloc_vcpus(vm, vcpu_count, err);
    if (r < 0)
        vm_release(vm);
    return r;
}

void vm_release(struct vm *vm)
{
    vm_stop(vm);
    steal_release(vm);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        vcpu_release(vm->vcpus[i]);
        free(vm->vcpus[i]);
    }
    vm->vcpu_count = 0;
    pthread_cond_destroy(&vm->run_cond);
    lock_release(&vm->run_lock);
    lock_release(&vm->machine_lock);
    lock_release(&vm->life_lock);
}

/* --- threads --- */

static void request_all(struct vm *vm, u32 bits)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_request(vm->vcpus[i], bits);
}

static void clear_all(struct vm *vm, u32 bits)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_request_clear(vm->vcpus[i], bits);
}

static void set_virtual_time(struct vm *vm, bool running)
{
    lock_acquire(&vm->machine_lock);
    if (running)
        vclock_start(&vm->clock);
    else
        vclock_stop(&vm->clock);
    lock_drop(&vm->machine_lock);
    if (vm->loop)
        event_loop_clock_changed(vm->loop);
}

/* Signals of the process are the main thread's business; faults of the own making cannot be blocked. */
static int create_thread(struct vcpu *vcpu)
{
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGTRAP);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r)
        return -r;
    char name[16];
    snprintf(name, sizeof name, "vcpu%u", vcpu->index);
    pthread_setname_np(vcpu->thread, name);
    return 0;
}

/* Undoes engine_up(). Who kicks a vCPU under the machine lock does so before it is gone. */
static void engine_down(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *vcpu = vm->vcpus[i];
        if (!atomic_load(&vcpu->started))
            continue;
        vm->engine->sync(vcpu);
        lock_acquire(&vm->machine_lock);
        atomic_store(&vcpu->started, false);
        lock_drop(&vm->machine_lock);
        vm->engine->vcpu_release(vcpu);
    }
    vm->engine->vm_release(vm);
    memory_unmark_all_code(vm->memory);
}

/* The engine's resources for the VM and each vCPU; all or nothing. No vCPU runs. */
static int engine_up(struct vm *vm, struct error *err)
{
    int r = vm->engine->vm_init(vm, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        r = vm->engine->vcpu_init(vm->vcpus[i], err);
        if (r < 0) {
            engine_down(vm);
            return r;
        }
        atomic_store(&vm->vcpus[i]->started, true);
    }
    return 0;
}

/* All engine resources are there: a vCPU that runs may send requests to all others at once. */
static int start_vcpus(struct vm *vm, struct error *err)
{
    request_all(vm, VCPU_REQ_PAUSE); /* the threads park */
    for (; vm->thread_count < vm->vcpu_count; vm->thread_count++) {
        int r = create_thread(vm->vcpus[vm->thread_count]);
        if (r < 0)
            return error_set_errno(err, -r, "cannot start vCPU %u", vm->thread_count);
    }
    return 0;
}

static void wake_parked(struct vm *vm)
{
    lock_acquire(&vm->run_lock);
    pthread_cond_broadcast(&vm->run_cond);
    lock_drop(&vm->run_lock);
}

/* Undoes start_vcpus(), also half of it. */
static void stop_vcpus(struct vm *vm)
{
    request_all(vm, VCPU_REQ_STOP);
    wake_parked(vm);
    while (vm->thread_count)
        pthread_join(vm->vcpus[--vm->thread_count]->thread, NULL);
    clear_all(vm, VCPU_REQ_STOP | VCPU_REQ_EXCLUSIVE);
}

static void engine_park(struct vm *vm)
{
    if (vm->engine->park)
        vm->engine->park(vm);
}

/* Lets parked vCPUs go on, unless the VM has ended. */
static void unpark(struct vm *vm)
{
    struct error err = {0};
    if (vm->engine->resume && vm->engine->resume(vm, &err) < 0)
        vm_end_error(vm, &err);
    lock_acquire(&vm->run_lock);
    if (vm->end_reason == VM_END_NONE)
        clear_all(vm, VCPU_REQ_PAUSE);
    pthread_cond_broadcast(&vm->run_cond);
    lock_drop(&vm->run_lock);
}

/*
 * Time goes on, then the vCPUs. Their time pages are written anew, since the state may come from a host
 * whose TSC runs at another rate.
 */
static void resume_vcpus(struct vm *vm)
{
    set_virtual_time(vm, true);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (vm->cpuid->host_tsc) {
            lock_acquire(&vm->machine_lock);
            vcpu_follow_host_tsc(vm->vcpus[i]);
            lock_drop(&vm->machine_lock);
        }
        pvclock_update(vm->vcpus[i]);
        steal_follow(vm->vcpus[i]);
    }
    unpark(vm);
}

int vm_start(struct vm *vm, struct error *err)
{
    lock_acquire(&vm->life_lock);
    BUG_ON(vm->threads_running);
    int r = engine_up(vm, err);
    if (r == 0) {
        r = start_vcpus(vm, err);
        if (r < 0) {
            stop_vcpus(vm);
            engine_down(vm);
        }
    }
    vm->threads_running = r == 0;
    if (r == 0 && !vm->paused)
        resume_vcpus(vm);
    lock_drop(&vm->life_lock);
    return r;
}

void vm_stop(struct vm *vm)
{
    lock_acquire(&vm->life_lock);
    if (vm->threads_running) {
        stop_vcpus(vm);
        engine_park(vm);
        engine_down(vm);
        set_virtual_time(vm, false);
        vm->threads_running = false;
    }
    lock_drop(&vm->life_lock);
}

/* --- pause --- */

static bool all_parked(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (!vm->vcpus[i]->parked)
            return false;
    }
    return true;
}

static void park_vcpus(struct vm *vm)
{
    request_all(vm, VCPU_REQ_PAUSE);
    lock_acquire(&vm->run_lock);
    while (!all_parked(vm))
        lock_wait(&vm->run_lock, &vm->run_cond);
    lock_drop(&vm->run_lock);
}

void vm_pause(struct vm *vm)
{
    BUG_ON(vcpu_current());
    lock_acquire(&vm->life_lock);
    vm->paused = true;
    if (vm->threads_running) {
        park_vcpus(vm);
        engine_park(vm);
        set_virtual_time(vm, false);
    }
    lock_drop(&vm->life_lock);
}

void vm_resume(struct vm *vm)
{
    lock_acquire(&vm->life_lock);
    if (vm->paused && vm->threads_running)
        resume_vcpus(vm);
    vm->paused = false;
    lock_drop(&vm->life_lock);
}

/* Both bits change under run_lock or are looked at again after a broadcast, so none is missed. */
void vm_park(struct vm *vm, struct vcpu *vcpu)
{
    lock_acquire(&vm->run_lock);
    vcpu->parked = true;
    pthread_cond_broadcast(&vm->run_cond);
    while ((vcpu_requests(vcpu) & (VCPU_REQ_PAUSE | VCPU_REQ_STOP)) == VCPU_REQ_PAUSE)
        lock_wait(&vm->run_lock, &vm->run_cond);
    vcpu->parked = false;
    lock_drop(&vm->run_lock);
}

/* --- another engine --- */

/* The guest was told of its CPU when it started: an engine that has less is none for it. */
static int check_features(const struct vm *vm, const struct engine_ops *engine, struct error *err)
{
    if (!engine->limit_cpuid)
        return 0;
    struct cpuid_table table = *vm->cpuid;
    int r = engine->limit_cpuid(&table, true, err);
    if (r < 0)
        return r;
    if (!cpuid_equal(&table, vm->cpuid))
        return error_set(err, ENOTSUP, "engine %s lacks features of the CPU that the guest has",
                         engine->name);
    return 0;
}

/* Under life_lock, with all vCPUs parked. */
static int replace_engine(struct vm *vm, const struct engine_ops *engine, struct error *err)
{
    const struct engine_ops *old = vm->engine;
    struct error again = {0};
    engine_down(vm);
    vm->engine = engine;
    int r = engine_up(vm, err);
    if (r == 0)
        return 0;
    vm->engine = old;
    if (engine_up(vm, &again) < 0)
        vm_end_error(vm, &again);
    return r;
}

int vm_switch_engine(struct vm *vm, const struct engine_ops *engine, struct error *err)
{
    BUG_ON(vcpu_current());
    int r = check_features(vm, engine, err);
    if (r < 0)
        return r;
    lock_acquire(&vm->life_lock);
    if (!vm->threads_running) {
        vm->engine = engine;
    } else {
        if (!vm->paused)
            park_vcpus(vm);
        engine_park(vm);
        r = replace_engine(vm, engine, err);
        if (!vm->paused)
            unpark(vm);
    }
    lock_drop(&vm->life_lock);
    return r;
}

/* Under life_lock, paused. In the eyes of exclusive sections the vCPU is in guest code meanwhile. */
static int step_vcpu(struct vm *vm, struct vcpu *vcpu, unsigned count, enum vcpu_exit *why, struct error *err)
{
    bool started = atomic_load(&vcpu->started);
    if (started)
        vm->engine->sync(vcpu);
    vcpu_serve_signals(vcpu);
    void *rescue = vm->rescue->attach(vcpu, err);
    if (!rescue)
        return -ENOMEM;
    vm_enter_guest(vm, vcpu);
    *why = vm->rescue->step(rescue, count, NULL);
    vm_leave_guest(vm, vcpu);
    vm->rescue->detach(rescue);
    if (started) {
        vm->engine->state_changed(vcpu);
        vm->engine->flush_tlb(vcpu);
    }
    return 0;
}

int vm_step_vcpu(struct vm *vm, unsigned index, unsigned count, enum vcpu_exit *why, struct error *err)
{
    BUG_ON(vcpu_current());
    BUG_ON(index >= vm->vcpu_count);
    lock_acquire(&vm->life_lock);
    int r = vm->paused && vm->rescue
                ? step_vcpu(vm, vm->vcpus[index], count, why, err)
                : error_set(err, EINVAL, "cannot step vCPU %u: the VM is not paused", index);
    lock_drop(&vm->life_lock);
    return r;
}

/* Under life_lock, paused. A refusal changes nothing. */
static int debug_vcpu(struct vcpu *vcpu, const struct vcpu_debug *debug, struct error *err)
{
    const struct engine_ops *engine = vcpu->vm->engine;
    struct vcpu_debug before = vcpu->debug;
    if (!engine->debug_changed)
        return error_set(err, ENOTSUP, "engine %s has no breakpoints", engine->name);
    vcpu->debug = *debug;
    int r = atomic_load(&vcpu->started) ? engine->debug_changed(vcpu, err) : 0;
    if (r < 0)
        vcpu->debug = before;
    return r;
}

int vm_debug_vcpu(struct vm *vm, unsigned index, const struct vcpu_debug *debug, struct error *err)
{
    BUG_ON(vcpu_current());
    BUG_ON(index >= vm->vcpu_count || debug->breaks > VCPU_BREAKS);
    lock_acquire(&vm->life_lock);
    int r = vm->paused ? debug_vcpu(vm->vcpus[index], debug, err)
                       : error_set(err, EINVAL, "cannot debug vCPU %u: the VM is not paused", index);
    lock_drop(&vm->life_lock);
    return r;
}

void vm_reset_vcpus(struct vm *vm)
{
    lock_acquire(&vm->machine_lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_reset(vm->vcpus[i]);
    lock_drop(&vm->machine_lock);
    lock_acquire(&vm->run_lock);
    atomic_store(&vm->end_reason, VM_END_NONE);
    vm->end_code = 0;
    lock_drop(&vm->run_lock);
}

/* --- the end --- */

static void end_vm(struct vm *vm, enum vm_end why, int code, const struct error *error)
{
    lock_acquire(&vm->run_lock);
    bool first = vm->end_reason == VM_END_NONE;
    if (first) {
        vm->end_code = code;
        if (error)
            vm->error = *error;
        atomic_store(&vm->end_reason, why);
    }
    lock_drop(&vm->run_lock);
    if (!first)
        return;
    request_all(vm, VCPU_REQ_PAUSE);
    trace(power, "the VM ends: reason %d, code %d", why, code);
    if (vm->ended)
        vm->ended(vm, why, code);
}

void vm_end(struct vm *vm, enum vm_end why, int code)
{
    end_vm(vm, why, code, NULL);
}

void vm_end_error(struct vm *vm, const struct error *error)
{
    end_vm(vm, VM_END_ERROR, 0, error);
}

/* --- guest code and exclusive sections --- */

/* Under run_lock. */
static void enter(struct vm *vm, struct vcpu *vcpu)
{
    while (vm->exclusive)
        lock_wait(&vm->run_lock, &vm->run_cond);
    vcpu_request_clear(vcpu, VCPU_REQ_EXCLUSIVE);
    vcpu->in_guest = true;
    vm->in_guest++;
}

/* Under run_lock. */
static void leave(struct vm *vm, struct vcpu *vcpu)
{
    vcpu->in_guest = false;
    vm->in_guest--;
    if (vm->exclusive)
        pthread_cond_broadcast(&vm->run_cond);
}

void vm_enter_guest(struct vm *vm, struct vcpu *vcpu)
{
    lock_acquire(&vm->run_lock);
    enter(vm, vcpu);
    lock_drop(&vm->run_lock);
}

void vm_leave_guest(struct vm *vm, struct vcpu *vcpu)
{
    lock_acquire(&vm->run_lock);
    leave(vm, vcpu);
    lock_drop(&vm->run_lock);
}

/* Those inside do not sleep in vcpu.c, so the request takes no lock of a sleeper under run_lock. */
static void ask_all_to_leave(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (vm->vcpus[i]->in_guest)
            vcpu_request(vm->vcpus[i], VCPU_REQ_EXCLUSIVE);
    }
}

void vm_exclusive_begin(struct vm *vm, struct vcpu *self)
{
    BUG_ON(!lock_not_held(&vm->machine_lock));
    lock_acquire(&vm->run_lock);
    vm->exclusive++;
    if (self) {
        self->counters.exclusive++;
        leave(vm, self);
    }
    while (vm->exclusive_held)
        lock_wait(&vm->run_lock, &vm->run_cond);
    vm->exclusive_held = true;
    ask_all_to_leave(vm);
    while (vm->in_guest)
        lock_wait(&vm->run_lock, &vm->run_cond);
    lock_drop(&vm->run_lock);
}

void vm_exclusive_end(struct vm *vm, struct vcpu *self)
{
    lock_acquire(&vm->run_lock);
    vm->exclusive_held = false;
    vm->exclusive--;
    pthread_cond_broadcast(&vm->run_cond);
    if (self)
        enter(vm, self);
    lock_drop(&vm->run_lock);
}

void vm_flush_tlbs(struct vm *vm)
{
    struct vcpu *self = vcpu_current();
    if (self && self->vm != vm)
        self = NULL;
    request_all(vm, VCPU_REQ_FLUSH_TLB);
    vm_exclusive_begin(vm, self);
    vm_exclusive_end(vm, self);
}
