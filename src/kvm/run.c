/*
 * Running a vCPU: into the kernel and out again.
 *
 * Kicks. A request is a bit in vcpu->requests, then run->immediate_exit, then, if the thread is in or on
 * its way into KVM_RUN, a signal. The thread says that it is on its way (in_run) and clears
 * immediate_exit before it looks at the bits. So a bit that it did not see was set afterwards, and with
 * it immediate_exit, which the kernel looks at on entry; or the signal finds it inside.
 *
 * Interrupts. The chip has a vector when VCPU_REQ_INTERRUPT is set, but the guest takes it only with IF
 * set and no shadow. KVM says after each exit whether that is so; until then it is asked to come back
 * when it is (request_interrupt_window). An acknowledged vector that the kernel could not deliver before
 * the state is fetched becomes state.interrupt_pending.
 *
 * Rescue. What KVM cannot execute, another engine does (vm->rescue). A KVM that fails once fails again
 * soon, so the next rescue executes more, up to RESCUE_MAX; one that comes late starts from one.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/io.h"
#include "cpu/msr.h"
#include "kvm/kvm-internal.h"

#define KICK_SIGNAL (SIGRTMIN + 3)
#define RESCUE_MAX 4096
#define RESCUE_SOON 4 /* exits */
#define GO_ON KVM_GO_ON

/* --- kicks --- */

static void kicked(int sig) {}

int kvm_install_kick(struct error *err)
{
    struct sigaction a = {.sa_handler = kicked, .sa_flags = SA_RESTART};
    if (sigaction(KICK_SIGNAL, &a, NULL) < 0)
        return error_set_errno(err, errno, "cannot install a signal for vCPUs");
    return 0;
}

static void set_immediate_exit(struct kvm_cpu *k, bool on)
{
    __atomic_store_n(&k->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* By thread id, which stays harmless when the thread has gone. */
void kvm_cpu_kick(struct kvm_cpu *k)
{
    if (k->vcpu == vcpu_current())
        return; /* it looks before it enters the guest */
    set_immediate_exit(k, true);
    if (atomic_load(&k->in_run))
        (void)syscall(SYS_tgkill, getpid(), atomic_load(&k->tid), KICK_SIGNAL);
}

static void adopt_thread(struct kvm_cpu *k)
{
    sigset_t set;
    int tid = (int)syscall(SYS_gettid);
    if (atomic_load(&k->tid) == tid)
        return;
    atomic_store(&k->tid, tid);
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* --- exits --- */

static int broken(struct kvm_cpu *k, const char *what, u64 detail)
{
    error_set(&k->vcpu->error, EIO, "KVM gave up on vCPU %u: %s (0x%" PRIx64 ")", k->vcpu->index, what,
              detail);
    return VCPU_EXIT_ERROR;
}

static void serve_port(struct kvm_cpu *k)
{
    const struct kvm_run *run = k->run;
    u8 *data = (u8 *)k->run + run->io.data_offset;
    for (u32 i = 0; i < run->io.count; i++, data += run->io.size) {
        u32 value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, run->io.size);
            cpu_pio_write(k->vcpu, run->io.port, value, run->io.size);
        } else {
            value = cpu_pio_read(k->vcpu, run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        }
    }
    k->unfinished = true;
}

static void serve_mmio(struct kvm_cpu *k)
{
    struct kvm_run *run = k->run;
    unsigned len = MIN(run->mmio.len, 8u);
    u64 value = 0;
    if (run->mmio.is_write) {
        memcpy(&value, run->mmio.data, len);
        cpu_mmio_write(k->vcpu, run->mmio.phys_addr, value, len);
    } else {
        value = cpu_mmio_read(k->vcpu, run->mmio.phys_addr, len);
        memcpy(run->mmio.data, &value, len);
    }
    k->cr8_stale = true; /* perhaps it was the TPR */
    k->unfinished = true;
}

/* An MSR that the kernel keeps comes here only when it refused the value: #GP. */
static int serve_msr(struct kvm_cpu *k, bool write)
{
    struct kvm_run *run = k->run;
    struct vcpu *vcpu = k->vcpu;
    u32 index = run->msr.index;
    u64 value = run->msr.data;
    int r = -1;

    k->unfinished = true;
    if (!kvm_keeps_msr(k->kvm, index))
        r = write ? cpu_wrmsr(vcpu, index, value) : cpu_rdmsr(vcpu, index, &value);
    else
        trace(kvm, "vcpu %u: KVM refuses MSR 0x%x", vcpu->index, index);
    run->msr.error = r != 0;
    run->msr.data = value;
    if (!write || r != 0)
        return GO_ON;
    k->cr8_stale = true;
    if (index == MSR_APIC_BASE)
        r = kvm_push_apic_base(k, value);
    else
        r = kvm_push_tsc(k);
    return r ? VCPU_EXIT_ERROR : GO_ON;
}

static void serve_eoi(struct kvm_cpu *k)
{
    struct vm *vm = k->vcpu->vm;
    lock_acquire(&vm->machine_lock);
    vm->irqchip->ops->eoi(vm->irqchip, k->run->eoi.vector);
    lock_drop(&vm->machine_lock);
}

static void trace_rescue(const struct kvm_cpu *k)
{
    const struct kvm_run *run = k->run;
    const struct x86_state *s = &k->vcpu->state;
    char text[3 * 15 + 1] = "";
    if (!trace_on(kvm))
        return;
    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
        run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15u); i++)
            snprintf(text + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
    trace(kvm, "vcpu %u: rescue of %u at 0x%" PRIx64 ", exit %u/%u:%s", k->vcpu->index, k->burst, s->rip,
          run->exit_reason, run->internal.suberror, text);
}

/* The bytes of the instruction in front of which KVM stopped. They are shown by Linux 5.15 and later. */
static bool stopped_at_int3(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
           run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
           (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) &&
           run->emulation_failure.insn_size && run->emulation_failure.insn_bytes[0] == 0xcc;
}

static u64 linear_rip(const struct x86_state *s)
{
    return x86_code64(s) ? s->rip : (u32)(s->rip + s->seg[X86_CS].base);
}

/* How many instructions another engine is to execute. The interpreter does not reach APICs in the kernel. */
static unsigned next_burst(const struct kvm_cpu *k)
{
    bool soon = k->vcpu->counters.kvm_exits - k->exits_at_rescue <= RESCUE_SOON;
    return soon && !k->kvm->apics && !k->debugged ? MIN(k->burst * 2, (unsigned)RESCUE_MAX) : 1;
}

static int forget_tables(struct kvm_cpu *k)
{
    k->vcpu->counters.kvm_forgets++;
    return kvm_forget_tables(k->kvm, &k->vcpu->error);
}

/* KVM stopped in front of an instruction that it cannot do. */
static int rescue(struct kvm_cpu *k, const char *what, u64 detail)
{
    struct vcpu *vcpu = k->vcpu;
    const struct rescue_ops *ops = vcpu->vm->rescue;
    if (!ops)
        return broken(k, what, detail);
    if (kvm_fetch_state(k) != 0)
        return VCPU_EXIT_ERROR;
    if (vcpu->debug.software && stopped_at_int3(k->run)) {
        kvm_debug_hit(k, X86_BP, linear_rip(&vcpu->state), 0);
        return VCPU_EXIT_DEBUG;
    }
    if (!k->kvm->exits_on_failure && vcpu->state.exception_vector == X86_UD)
        vcpu->state.exception_pending = 0; /* KVM's own comment on the failure */
    if (!k->rescue && !(k->rescue = ops->attach(vcpu, &vcpu->error)))
        return VCPU_EXIT_ERROR;
    k->burst = next_burst(k);
    k->exits_at_rescue = vcpu->counters.kvm_exits;
    vcpu->counters.kvm_rescues++;
    trace_rescue(k);
    bool missed = false;
    enum vcpu_exit why = ops->step(k->rescue, k->burst, &missed);
    if (missed && forget_tables(k) != 0)
        return VCPU_EXIT_ERROR;
    k->tsc_known = false;      /* it may have written the TSC */
    if (why == VCPU_EXIT_HALT) /* seen by the loop */
        vcpu->state.mp_state = VCPU_MP_HALTED;
    if (vcpu->debug.step && why == VCPU_EXIT_REQUEST) {
        kvm_debug_hit(k, X86_DB, linear_rip(&vcpu->state), X86_DR6_BS);
        return VCPU_EXIT_DEBUG;
    }
    return why == VCPU_EXIT_REQUEST || why == VCPU_EXIT_HALT ? GO_ON : (int)why;
}

static int serve_debug(struct kvm_cpu *k)
{
    const struct kvm_debug_exit_arch *d = &k->run->debug.arch;
    kvm_debug_hit(k, (u8)d->exception, d->pc, d->dr6);
    return VCPU_EXIT_DEBUG;
}

/* Another engine leads to a state that can be entered, or the guest goes on there. */
static int entry_failed(struct kvm_cpu *k)
{
    u64 reason = k->run->fail_entry.hardware_entry_failure_reason;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
    if (ioctl(k->fd, KVM_GET_REGS, &regs) == 0 && ioctl(k->fd, KVM_GET_SREGS, &sregs) == 0 &&
        ioctl(k->fd, KVM_GET_VCPU_EVENTS, &events) == 0) {
        const char *why = kvm_entry_fault(&regs, &sregs, &events);
        log_guest("vCPU %u: KVM could not enter at 0x%" PRIx64 " (0x%" PRIx64 "): %s", k->vcpu->index,
                  (u64)regs.rip, reason, why ? why : "for no known reason");
    }
    return rescue(k, "it could not enter the guest", reason);
}

static int serve_exit(struct kvm_cpu *k)
{
    const struct kvm_run *run = k->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO: serve_port(k); return GO_ON;
    case KVM_EXIT_MMIO: serve_mmio(k); return GO_ON;
    case KVM_EXIT_X86_RDMSR: return serve_msr(k, false);
    case KVM_EXIT_X86_WRMSR: return serve_msr(k, true);
    case KVM_EXIT_HLT: k->vcpu->state.mp_state = VCPU_MP_HALTED; return GO_ON;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR: return GO_ON;
    case KVM_EXIT_IOAPIC_EOI: serve_eoi(k); return GO_ON;
    case KVM_EXIT_DIRTY_RING_FULL: kvm_dirty_harvest(k->kvm); return GO_ON;
    case KVM_EXIT_DEBUG: return serve_debug(k);
    case KVM_EXIT_SHUTDOWN: return VCPU_EXIT_TRIPLE_FAULT;
    case KVM_EXIT_INTERNAL_ERROR: return rescue(k, "internal error", run->internal.suberror);
    case KVM_EXIT_FAIL_ENTRY: return entry_failed(k);
    case KVM_EXIT_UNKNOWN: return broken(k, "unknown hardware exit", run->hw.hardware_exit_reason);
    default: return broken(k, "unexpected exit", run->exit_reason);
    }
}

/* --- into the kernel --- */

/* The guest's CR8 goes to the chip, which may then have something to deliver. */
static void take_cr8(struct kvm_cpu *k)
{
    struct vm *vm = k->vcpu->vm;
    if (likely(k->run->cr8 == k->cr8) || !vm->irqchip || k->kvm->apics)
        return;
    k->cr8 = k->run->cr8;
    lock_acquire(&vm->machine_lock);
    vm->irqchip->ops->set_cr8(vm->irqchip, k->vcpu, (u8)k->cr8);
    lock_drop(&vm->machine_lock);
}

static void give_cr8(struct kvm_cpu *k)
{
    struct vm *vm = k->vcpu->vm;
    if (!k->cr8_stale || !vm->irqchip || k->kvm->apics)
        return;
    k->cr8_stale = false;
    lock_acquire(&vm->machine_lock);
    k->cr8 = vm->irqchip->ops->get_cr8(vm->irqchip, k->vcpu);
    lock_drop(&vm->machine_lock);
    k->run->cr8 = k->cr8;
}

/* KVM_RUN once; 0 with an exit to serve, -EINTR, or -EIO with vcpu->error. */
static int enter(struct kvm_cpu *k)
{
    int r = ioctl(k->fd, KVM_RUN, 0), code = errno;
    k->vcpu->counters.kvm_exits++;
    k->window = r == 0 || code == EINTR;
    k->unfinished = false;
    take_cr8(k);
    if (r == 0)
        return 0;
    if (code == EINTR || code == EAGAIN)
        return -EINTR;
    return error_set_errno(&k->vcpu->error, code, "KVM does not run vCPU %u", k->vcpu->index);
}

/*
 * Its second half may be an exit of its own: an access that spans two pages, the rest of a repeated one, of
 * which the kernel does at most 1024 steps in a row. When that is one that the vCPU's thread must hear of, it
 * does so the next time that it runs.
 */
int kvm_finish(struct kvm_cpu *k)
{
    while (k->unfinished) {
        set_immediate_exit(k, true);
        int r = enter(k);
        set_immediate_exit(k, false);
        if (r == -EINTR)
            break;
        if (r < 0)
            return r;
        r = serve_exit(k);
        if (r == VCPU_EXIT_ERROR)
            return -EIO;
        if (r != GO_ON)
            k->owed = r;
    }
    return 0;
}

int kvm_sync(struct kvm_cpu *k)
{
    if (k->ours)
        return 0;
    int r = kvm_finish(k);
    return r || k->ours ? r : kvm_fetch_state(k);
}

/* --- events --- */

static int acknowledge(struct kvm_cpu *k)
{
    struct vm *vm = k->vcpu->vm;
    lock_acquire(&vm->machine_lock);
    const struct irqchip_ops *ops = vm->irqchip->ops;
    int vector = k->kvm->apics ? ops->ack_extint(vm->irqchip) : ops->ack(vm->irqchip, k->vcpu);
    lock_drop(&vm->machine_lock);
    return vector;
}

static void inject_nmi(struct kvm_cpu *k)
{
    vcpu_request_clear(k->vcpu, VCPU_REQ_NMI);
    k->vcpu->state.mp_state = VCPU_MP_RUNNABLE;
    if (ioctl(k->fd, KVM_NMI) < 0)
        log_guest("vCPU %u: KVM takes no NMI", k->vcpu->index);
}

/* Only the kernel knows IF while the state is its own. With all chips there it asks nobody. */
static int inject_interrupt(struct kvm_cpu *k)
{
    const struct kvm_run *run = k->run;
    if (k->kvm->all_chips || !(vcpu_requests(k->vcpu) & VCPU_REQ_INTERRUPT)) {
        k->run->request_interrupt_window = 0;
        return 0;
    }
    if (!k->window || !run->ready_for_interrupt_injection || !run->if_flag) {
        k->run->request_interrupt_window = 1;
        return 0;
    }
    int vector = acknowledge(k);
    k->run->request_interrupt_window = 0;
    if (vector < 0)
        return 0;
    struct kvm_interrupt irq = {.irq = (u32)vector};
    if (ioctl(k->fd, KVM_INTERRUPT, &irq) < 0)
        return error_set_errno(&k->vcpu->error, errno, "KVM does not take interrupt 0x%x", (unsigned)vector);
    k->vcpu->counters.interrupts++;
    k->vcpu->state.mp_state = VCPU_MP_RUNNABLE;
    k->window = false; /* one at a time */
    if (vcpu_requests(k->vcpu) & VCPU_REQ_INTERRUPT)
        k->run->request_interrupt_window = 1;
    return 0;
}

/* A halted vCPU with its state here: as the kernel would, had it the state. */
static bool wakes_without_kernel(struct kvm_cpu *k)
{
    struct x86_state *s = &k->vcpu->state;
    u32 requests = vcpu_requests(k->vcpu);
    if (s->nmi_pending || s->interrupt_pending || (requests & VCPU_REQ_NMI)) {
        s->mp_state = VCPU_MP_RUNNABLE;
        return true;
    }
    if (!(requests & VCPU_REQ_INTERRUPT) || !(s->rflags & X86_IF))
        return false;
    int vector = acknowledge(k);
    if (vector < 0)
        return false;
    s->interrupt_pending = 1;
    s->interrupt_vector = (u8)vector;
    s->mp_state = VCPU_MP_RUNNABLE;
    k->vcpu->counters.interrupts++;
    return true;
}

/* Until the guest needs vcpu.c. */
static int one_round(struct kvm_cpu *k)
{
    struct vcpu *vcpu = k->vcpu;
    u32 requests = vcpu_requests(vcpu);
    int owed = k->owed;

    k->owed = GO_ON;
    if (owed != GO_ON)
        return owed;
    if (requests & VCPU_REQ_LEAVE)
        return kvm_finish(k) ? VCPU_EXIT_ERROR : VCPU_EXIT_REQUEST;
    if (requests & VCPU_REQ_FLUSH_TLB)
        vcpu_request_clear(vcpu, VCPU_REQ_FLUSH_TLB);
    bool halts_here = !k->kvm->apics;
    if (k->ours) {
        if (halts_here && vcpu->state.mp_state == VCPU_MP_HALTED && !wakes_without_kernel(k))
            return VCPU_EXIT_HALT;
        if (kvm_push_state(k) != 0)
            return VCPU_EXIT_ERROR;
    }
    if (kvm_push_tsc(k) != 0)
        return VCPU_EXIT_ERROR;
    give_cr8(k);
    if (requests & VCPU_REQ_NMI)
        inject_nmi(k);
    if (inject_interrupt(k) != 0)
        return VCPU_EXIT_ERROR;
    if (halts_here && vcpu->state.mp_state == VCPU_MP_HALTED)
        return VCPU_EXIT_HALT;
    int r = enter(k);
    if (r == 0)
        return serve_exit(k);
    return r == -EINTR ? GO_ON : VCPU_EXIT_ERROR;
}

enum vcpu_exit kvm_cpu_run(struct kvm_cpu *k)
{
    int why;
    adopt_thread(k);
    do {
        atomic_store(&k->in_run, true);
        set_immediate_exit(k, false);
        why = one_round(k);
        atomic_store(&k->in_run, false);
    } while (why == GO_ON);
    return (enum vcpu_exit)why;
}
