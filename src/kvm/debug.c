/*
 * Debugging a guest that knows nothing of it (KVM_SET_GUEST_DEBUG). While breakpoints are set, the guest's
 * own debug registers are shown to it but do nothing, which is the kernel's doing.
 *
 * A KVM that emulates does not know INT3 and stops in front of it: that is the breakpoint (run.c).
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "kvm/kvm-internal.h"

#define DR7_GLOBAL(n) (BIT(1) << 2 * (n))
#define DR7_CONTROL(n) (16 + 4 * (n))

/* R/W and LEN of DR7 (SDM vol. 3, 18.2.4). */
static u64 dr7_bits(unsigned n, enum vcpu_break kind, unsigned len)
{
    static const u8 rw[] = {[VCPU_BREAK_EXEC] = 0, [VCPU_BREAK_WRITE] = 1, [VCPU_BREAK_ACCESS] = 3};
    static const u8 lens[] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
    return DR7_GLOBAL(n) | (u64)(rw[kind] | lens[len] << 2) << DR7_CONTROL(n);
}

static bool possible(const struct vcpu_debug *d)
{
    for (unsigned i = 0; i < d->breaks; i++) {
        unsigned len = d->at[i].len;
        bool exec = d->at[i].kind == VCPU_BREAK_EXEC;
        if ((len != 1 && len != 2 && len != 4 && len != 8) || d->at[i].addr % len || (exec && len != 1))
            return false;
    }
    return true;
}

int kvm_debug_from(struct kvm_guest_debug *g, const struct vcpu_debug *d)
{
    *g = (struct kvm_guest_debug){.control = 0};
    if (!possible(d))
        return -EINVAL;
    if (d->step)
        g->control |= KVM_GUESTDBG_SINGLESTEP;
    if (d->software)
        g->control |= KVM_GUESTDBG_USE_SW_BP;
    for (unsigned i = 0; i < d->breaks; i++) {
        g->control |= KVM_GUESTDBG_USE_HW_BP;
        g->arch.debugreg[i] = d->at[i].addr;
        g->arch.debugreg[7] |= dr7_bits(i, d->at[i].kind, d->at[i].len);
    }
    if (g->control)
        g->control |= KVM_GUESTDBG_ENABLE;
    return 0;
}

int kvm_set_debug(struct kvm_cpu *k, struct error *err)
{
    struct kvm_guest_debug g;
    int r = kvm_debug_from(&g, &k->vcpu->debug);
    if (r)
        return error_set(err, -r, "these are no possible breakpoints");
    bool changed = g.control || k->debugged;
    if (changed && ioctl(k->fd, KVM_SET_GUEST_DEBUG, &g) < 0)
        return error_set_errno(err, ENOTSUP, "KVM here has no breakpoints");
    k->debugged = g.control != 0;
    return 0;
}

void kvm_debug_hit(struct kvm_cpu *k, u8 vector, u64 rip, u64 dr6)
{
    k->vcpu->debug_hit = (struct vcpu_debug_hit){.vector = vector, .rip = rip, .dr6 = dr6};
}
