/*
 * Steal time: what a vCPU's thread waited for a processor of the host, told to the guest in a page of its
 * own (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME). The host's scheduler counts that for
 * each thread (/proc/PID/task/TID/schedstat, the second number, ns); a timer in virtual time reads it.
 *
 * The page's own value is what is added to, so that it goes on after a restore. A host that does not count
 * leaves it at 0.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cpu/msr.h"
#include "cpu/vm.h"

#define PERIOD_NS (100 * NS_PER_MS)
#define ENABLED BIT(0)
#define ADDRESS (~0x3full)

/* As Linux's asm/kvm_para.h has it, as far as we write it. */
struct steal_page {
    u64 steal;
    u32 version; /* odd while the rest is being written */
};

void steal_thread_begins(struct vcpu *vcpu)
{
    atomic_store(&vcpu->schedstat, open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
}

void steal_thread_ends(struct vcpu *vcpu)
{
    int fd = atomic_exchange(&vcpu->schedstat, -1);
    if (fd >= 0)
        close(fd);
}

/* What the thread waited so far; 0 when that is not known. */
static u64 waited(const struct vcpu *vcpu)
{
    char text[96];
    unsigned long long ran, wait = 0;
    int fd = atomic_load(&vcpu->schedstat);
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = 0;
    return sscanf(text, "%llu %llu", &ran, &wait) == 2 ? wait : 0;
}

/* Readers take a copy whose version is even and the same before and after. */
static void publish(struct memory *m, u64 gpa, u64 more)
{
    struct steal_page page;
    if (memory_read(m, gpa, &page, sizeof page) != 0)
        return;
    u64 version_at = gpa + offsetof(struct steal_page, version);
    u32 odd = page.version | 1, even = odd + 1;
    page.steal += more;
    memory_write(m, version_at, &odd, sizeof odd);
    atomic_thread_fence(memory_order_seq_cst);
    memory_write(m, gpa, &page.steal, sizeof page.steal);
    atomic_thread_fence(memory_order_seq_cst);
    memory_write(m, version_at, &even, sizeof even);
}

void steal_update(struct vcpu *vcpu)
{
    u64 msr = atomic_load(&vcpu->steal_msr), now = waited(vcpu);
    if (!(msr & ENABLED))
        return;
    if (now > vcpu->steal_seen)
        publish(vcpu->vm->memory, msr & ADDRESS, now - vcpu->steal_seen);
    vcpu->steal_seen = now;
}

static void fire(struct timer *t)
{
    struct vm *vm = container_of(t, struct vm, steal_timer);
    bool wanted = false;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        steal_update(vm->vcpus[i]);
        wanted |= atomic_load(&vm->vcpus[i]->steal_msr) & ENABLED;
    }
    if (wanted)
        timer_arm(t, vclock_ns(&vm->clock) + PERIOD_NS);
}

void steal_init(struct vm *vm)
{
    if (vm->loop)
        timer_init(&vm->steal_timer, vm->loop, &vm->clock, fire);
}

void steal_release(struct vm *vm)
{
    if (vm->loop)
        timer_cancel(&vm->steal_timer);
}

/* Counts from now on. */
void steal_follow(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    u64 msr = vcpu->state.kvm_steal_time;
    lock_acquire(&vm->machine_lock);
    if (!(atomic_exchange(&vcpu->steal_msr, msr) & ENABLED))
        vcpu->steal_seen = waited(vcpu);
    if ((msr & ENABLED) && vm->loop && !timer_armed(&vm->steal_timer))
        timer_arm(&vm->steal_timer, vclock_ns(&vm->clock) + PERIOD_NS);
    lock_drop(&vm->machine_lock);
}
