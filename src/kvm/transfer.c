/* State between vcpu->state and the kernel, and which MSRs live where. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "cpu/msr.h"
#include "kvm/kvm-internal.h"

/* --- MSRs --- */

/*
 * What the guest uses often or what only the CPU can do. Everything else is denied, ends in
 * cpu_rdmsr() and cpu_wrmsr(), and so reads the same under every engine.
 */
static const struct {
    u32 index;
    u16 offset;
} moving[] = {
    {MSR_SYSENTER_CS, offsetof(struct x86_state, sysenter_cs)},
    {MSR_SYSENTER_ESP, offsetof(struct x86_state, sysenter_esp)},
    {MSR_SYSENTER_EIP, offsetof(struct x86_state, sysenter_eip)},
    {MSR_STAR, offsetof(struct x86_state, star)},
    {MSR_LSTAR, offsetof(struct x86_state, lstar)},
    {MSR_CSTAR, offsetof(struct x86_state, cstar)},
    {MSR_SFMASK, offsetof(struct x86_state, sfmask)},
    {MSR_KERNEL_GS_BASE, offsetof(struct x86_state, kernel_gs_base)},
    {MSR_PAT, offsetof(struct x86_state, pat)},
    {MSR_TSC_AUX, offsetof(struct x86_state, tsc_aux)},
    {MSR_SPEC_CTRL, offsetof(struct x86_state, spec_ctrl)},
    {MSR_XSS, offsetof(struct x86_state, xss)},
    {MSR_DEBUGCTL, offsetof(struct x86_state, debugctl)},
};

/* Those of local APICs in the kernel, which chips.c moves. It does not filter those of x2APIC mode. */
static const u32 apic[] = {MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_KVM_PV_EOI_EN};

/* Part of kvm_sregs, or nobody's state: the kernel serves them, but they need not be moved. */
static const u32 passed[] = {MSR_EFER, MSR_FS_BASE, MSR_GS_BASE, MSR_PRED_CMD};

/* The kernel's list: KVM_GET_MSR_INDEX_LIST says with E2BIG how many there are. */
static struct kvm_msr_list *msr_list(const struct kvm_host *h)
{
    struct kvm_msr_list count = {.nmsrs = 0};
    if (ioctl(h->fd, KVM_GET_MSR_INDEX_LIST, &count) < 0 && errno != E2BIG)
        return NULL;
    struct kvm_msr_list *list = calloc(1, sizeof *list + count.nmsrs * sizeof list->indices[0]);
    if (!list)
        return NULL;
    list->nmsrs = count.nmsrs;
    if (ioctl(h->fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        free(list);
        return NULL;
    }
    return list;
}

static bool listed(const struct kvm_msr_list *list, u32 index)
{
    for (unsigned i = 0; i < list->nmsrs; i++)
        if (list->indices[i] == index)
            return true;
    return false;
}

int kvm_choose_msrs(struct kvm_host *h, struct error *err)
{
    struct kvm_msr_list *list = msr_list(h);
    if (!list)
        return error_set_errno(err, errno, "KVM does not list its MSRs");
    for (unsigned i = 0; i < ARRAY_SIZE(moving); i++) {
        if (!listed(list, moving[i].index))
            continue;
        h->msr[h->msr_count].index = moving[i].index;
        h->msr[h->msr_count++].offset = moving[i].offset;
    }
    free(list);
    return 0;
}

bool kvm_keeps_msr(const struct kvm_vm *kvm, u32 index)
{
    const struct kvm_host *h = &kvm->host;
    for (unsigned i = 0; kvm->apics && i < ARRAY_SIZE(apic); i++)
        if (apic[i] == index)
            return true;
    for (unsigned i = 0; i < h->msr_count; i++)
        if (h->msr[i].index == index)
            return true;
    for (unsigned i = 0; i < ARRAY_SIZE(passed); i++)
        if (passed[i] == index)
            return true;
    return false;
}

int kvm_filter_msrs(const struct kvm_vm *kvm, struct error *err)
{
    enum { RANGES = 3, COUNT = 0x1000 };
    static const u32 base[RANGES] = {0, 0xc0000000, MSR_KVM_WALL_CLOCK_NEW};
    u8 bitmap[RANGES][COUNT / 8] = {{0}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};

    for (unsigned r = 0; r < RANGES; r++) {
        for (u32 i = 0; i < COUNT; i++)
            if (kvm_keeps_msr(kvm, base[r] + i))
                bitmap[r][i / 8] |= (u8)(1u << i % 8);
        filter.ranges[r] = (struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                                                         .nmsrs = COUNT,
                                                         .base = base[r],
                                                         .bitmap = bitmap[r]};
    }
    if (ioctl(kvm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
        return error_set_errno(err, errno, "KVM does not filter MSRs");
    return 0;
}

/* struct kvm_msrs with room for its entries. */
union msr_buffer {
    struct kvm_msrs msrs;
    u8 room[sizeof(struct kvm_msrs) + KVM_MSR_MAX * sizeof(struct kvm_msr_entry)];
};

int kvm_one_msr(int fd, unsigned long request, u32 index, u64 *value)
{
    union msr_buffer b = {.msrs = {.nmsrs = 1}};
    b.msrs.entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    if (ioctl(fd, request, &b) != 1)
        return -1;
    *value = b.msrs.entries[0].data;
    return 0;
}

static u64 *msr_field(struct kvm_cpu *k, unsigned i)
{
    return (u64 *)((char *)&k->vcpu->state + k->kvm->host.msr[i].offset);
}

/*
 * An MSR of a feature that the guest does not have is refused; it keeps its value in vcpu->state. The
 * ioctl stops at the first refusal and says how many it did.
 */
static void move_msrs(struct kvm_cpu *k, unsigned long request)
{
    const struct kvm_host *h = &k->kvm->host;
    for (unsigned done = 0; done < h->msr_count;) {
        union msr_buffer b = {.msrs = {.nmsrs = h->msr_count - done}};
        for (unsigned i = done; i < h->msr_count; i++)
            b.msrs.entries[i - done] =
                (struct kvm_msr_entry){.index = h->msr[i].index, .data = *msr_field(k, i)};
        int moved = ioctl(k->fd, request, &b);
        for (int i = 0; i < moved && request == KVM_GET_MSRS; i++)
            *msr_field(k, done + (unsigned)i) = b.msrs.entries[i].data;
        done += (unsigned)MAX(moved, 0) + 1;
    }
}

/* --- the TSC --- */

/* The guest's TSC is the host's plus this: exact where virtual time counts the host's TSC. */
int kvm_push_tsc(struct kvm_cpu *k)
{
    struct vcpu *vcpu = k->vcpu;
    i64 offset;
    if (vcpu->vm->cpuid->host_tsc)
        return 0;
    bool fixed = vclock_tsc_offset(&vcpu->vm->clock, &offset);
    offset += vcpu->state.tsc_offset;
    if (k->tsc_known && offset == k->tsc_offset)
        return 0;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)(uintptr_t)&offset};
    if (ioctl(k->fd, KVM_SET_DEVICE_ATTR, &attr) < 0) {
        u64 tsc = vcpu_tsc(vcpu);
        if (kvm_one_msr(k->fd, KVM_SET_MSRS, MSR_TSC, &tsc) != 0)
            return error_set_errno(&vcpu->error, errno, "KVM does not take the TSC of vCPU %u", vcpu->index);
    }
    k->tsc_offset = offset;
    k->tsc_known = fixed;
    return 0;
}

/* --- the whole --- */

static int failed(struct kvm_cpu *k, const char *what)
{
    return error_set_errno(&k->vcpu->error, errno, "KVM refuses %s of vCPU %u", what, k->vcpu->index);
}

static int push_sregs(struct kvm_cpu *k, struct kvm_sregs *out)
{
    struct vcpu *vcpu = k->vcpu;
    struct irqchip *chip = vcpu->vm->irqchip;
    struct kvm_sregs sregs = {.apic_base = 0xfee00800 | (vcpu->index ? 0 : BIT(8))};
    if (k->kvm->apics) {
        sregs.cr8 = k->cr8;
        sregs.apic_base = k->apic_base;
    } else if (chip) {
        u64 base;
        lock_acquire(&vcpu->vm->machine_lock);
        sregs.cr8 = chip->ops->get_cr8(chip, vcpu);
        if (chip->ops->msr_read(chip, vcpu, MSR_APIC_BASE, &base) == 0)
            sregs.apic_base = base;
        lock_drop(&vcpu->vm->machine_lock);
    }
    kvm_sregs_from_state(&sregs, &vcpu->state);
    k->cr8 = k->run->cr8 = sregs.cr8;
    k->cr8_stale = false;
    k->apic_base = sregs.apic_base;
    *out = sregs;
    return ioctl(k->fd, KVM_SET_SREGS, &sregs) < 0 ? failed(k, "the control registers") : 0;
}

static int push_xcr0(struct kvm_cpu *k)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = k->vcpu->state.xcr0}}};
    if (k->kvm->host.xsave.components <= (X86_XCR0_X87 | X86_XCR0_SSE))
        return 0; /* there may be no XSAVE at all */
    if (ioctl(k->fd, KVM_SET_XCRS, &xcrs) < 0 && k->vcpu->state.xcr0 != X86_XCR0_X87)
        return failed(k, "XCR0");
    return 0;
}

/* Nothing that we hand over may be what a processor refuses, although this one may emulate. */
static void trace_entry_fault(const struct kvm_cpu *k, const struct kvm_regs *regs,
                              const struct kvm_sregs *sregs, const struct kvm_vcpu_events *events)
{
    const char *why = trace_on(kvm) ? kvm_entry_fault(regs, sregs, events) : NULL;
    if (why)
        trace(kvm, "vcpu %u: VT-x would not enter at 0x%" PRIx64 ": %s", k->vcpu->index, (u64)regs->rip, why);
}

/*
 * XCR0 before XSAVE and CR4 with the rest: the kernel checks CR4.OSXSAVE and XCR0 against CPUID, not
 * against each other. The events come last, since setting registers touches them.
 */
int kvm_push_state(struct kvm_cpu *k)
{
    const struct x86_state *s = &k->vcpu->state;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_debugregs debug = {0};
    struct kvm_vcpu_events events;

    int r = push_xcr0(k);
    if (r)
        return r;
    kvm_xsave_from_state(k->xsave, &k->kvm->host.xsave, s);
    if (ioctl(k->fd, KVM_SET_XSAVE, k->xsave) < 0)
        return failed(k, "the vector registers");
    r = push_sregs(k, &sregs);
    if (r)
        return r;
    move_msrs(k, KVM_SET_MSRS);
    kvm_regs_from_state(&regs, s);
    if (ioctl(k->fd, KVM_SET_REGS, &regs) < 0)
        return failed(k, "the registers");
    kvm_debugregs_from_state(&debug, s);
    if (ioctl(k->fd, KVM_SET_DEBUGREGS, &debug) < 0)
        return failed(k, "the debug registers");
    kvm_events_from_state(&events, s);
    trace_entry_fault(k, &regs, &sregs, &events);
    if (ioctl(k->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
        return failed(k, "the pending events");
    if (kvm_push_mp_state(k) != 0)
        return -EIO;
    k->ours = false;
    k->unfinished = false;
    k->window = false;
    return 0;
}

static int fetch_xsave(struct kvm_cpu *k)
{
    unsigned long request = k->kvm->host.xsave.size > 4096 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    struct kvm_xcrs xcrs = {0};
    if (ioctl(k->fd, request, k->xsave) < 0)
        return failed(k, "to show the vector registers");
    kvm_xsave_to_state(k->xsave, &k->kvm->host.xsave, &k->vcpu->state);
    if (k->kvm->host.xsave.components > (X86_XCR0_X87 | X86_XCR0_SSE) &&
        ioctl(k->fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs >= 1)
        k->vcpu->state.xcr0 = xcrs.xcrs[0].value;
    return 0;
}

int kvm_fetch_state(struct kvm_cpu *k)
{
    struct x86_state *s = &k->vcpu->state;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_debugregs debug;
    struct kvm_vcpu_events events;

    if (ioctl(k->fd, KVM_GET_REGS, &regs) < 0 || ioctl(k->fd, KVM_GET_SREGS, &sregs) < 0 ||
        ioctl(k->fd, KVM_GET_DEBUGREGS, &debug) < 0 || ioctl(k->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        return failed(k, "to show the registers");
    int r = fetch_xsave(k);
    if (!r)
        r = kvm_fetch_mp_state(k);
    if (r)
        return r;
    k->cr8 = sregs.cr8;
    k->apic_base = sregs.apic_base;
    kvm_regs_to_state(&regs, s);
    kvm_sregs_to_state(&sregs, s);
    kvm_debugregs_to_state(&debug, s);
    kvm_events_to_state(&events, s);
    move_msrs(k, KVM_GET_MSRS);
    k->ours = true;
    trace(kvm, "vcpu %u: state fetched, rip 0x%" PRIx64 " rflags 0x%" PRIx64, k->vcpu->index, s->rip,
          s->rflags);
    return 0;
}

/* The kernel's CPUID shows the APIC as this says. */
int kvm_push_apic_base(struct kvm_cpu *k, u64 base)
{
    struct kvm_sregs sregs;
    if (base == k->apic_base)
        return 0;
    if (ioctl(k->fd, KVM_GET_SREGS, &sregs) < 0)
        return failed(k, "to show the APIC's address");
    sregs.apic_base = base;
    if (ioctl(k->fd, KVM_SET_SREGS, &sregs) < 0)
        return failed(k, "the APIC's address");
    k->apic_base = base;
    return 0;
}
