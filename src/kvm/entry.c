/*
 * Why a processor would refuse to enter a guest: the checks of VT-x on guest state (SDM vol. 3, 27.3.1), as
 * far as they are about what we hand over and not about what the kernel makes of it. A KVM that emulates does
 * not mind, and one on the hardware only says a number (KVM_EXIT_FAIL_ENTRY); this says the rule.
 *
 * For processors with unrestricted guests, which run real mode as it is.
 */
#include "kvm/kvm-internal.h"

#define FLAGS_RESERVED 0xffffffffffc08028ull

enum { TYPE_ACCESSED = 1, TYPE_RW = 2, TYPE_CODE = 8 };
enum { TYPE_LDT = 2, TYPE_TSS16_BUSY = 3, TYPE_TSS_BUSY = 11 };

static bool canonical(u64 a)
{
    return (u64)((i64)(a << 16) >> 16) == a || (u64)((i64)(a << 7) >> 7) == a;
}

/* KVM treats them alike. */
static bool absent(const struct kvm_segment *s)
{
    return s->unusable || !s->present;
}

static bool limit_fits(const struct kvm_segment *s)
{
    return s->g ? (s->limit & 0xfff) == 0xfff : s->limit >> 20 == 0;
}

static bool long_mode(const struct kvm_sregs *s)
{
    return s->efer & X86_EFER_LMA;
}

/* 27.3.1.1 */
static const char *check_control(const struct kvm_sregs *s)
{
    bool pg = s->cr0 & X86_CR0_PG;
    if (pg && !(s->cr0 & X86_CR0_PE))
        return "CR0.PG without PE";
    if (long_mode(s) != (pg && (s->efer & X86_EFER_LME)))
        return "EFER.LMA is not LME and PG";
    if (long_mode(s) && !(s->cr4 & X86_CR4_PAE))
        return "long mode without PAE";
    if ((s->cr4 & X86_CR4_PCIDE) && !long_mode(s))
        return "CR4.PCIDE outside of long mode";
    return NULL;
}

/* 27.3.1.2 */
static const char *check_code(const struct kvm_sregs *s)
{
    const struct kvm_segment *cs = &s->cs;
    bool real = !(s->cr0 & X86_CR0_PE);
    if (!cs->s || !cs->present || cs->unusable)
        return "CS is no present segment";
    if (cs->type == (TYPE_RW | TYPE_ACCESSED))
        return real && cs->dpl == 0 ? NULL : "CS is a data segment";
    if (!(cs->type & TYPE_CODE) || !(cs->type & TYPE_ACCESSED))
        return "CS is no accessed code segment";
    if (cs->type & 4 ? cs->dpl > s->ss.dpl : cs->dpl != s->ss.dpl)
        return "CS and SS are of different privilege";
    if (long_mode(s) && cs->l && cs->db)
        return "CS has both L and D";
    return limit_fits(cs) ? NULL : "CS has a limit that does not fit G";
}

static const char *check_stack(const struct kvm_sregs *s)
{
    const struct kvm_segment *ss = &s->ss;
    if (!(s->cr0 & X86_CR0_PE) && ss->dpl != 0)
        return "SS has a DPL in real mode";
    if (absent(ss))
        return NULL;
    if (!ss->s || (ss->type & ~4) != (TYPE_RW | TYPE_ACCESSED))
        return "SS is no accessed stack segment";
    return limit_fits(ss) ? NULL : "SS has a limit that does not fit G";
}

static const char *check_data(const struct kvm_segment *d)
{
    if (absent(d))
        return NULL;
    if (!d->s || !(d->type & TYPE_ACCESSED))
        return "a data segment is not accessed";
    if ((d->type & TYPE_CODE) && !(d->type & TYPE_RW))
        return "a data segment cannot be read";
    return limit_fits(d) ? NULL : "a data segment has a limit that does not fit G";
}

static const char *check_v86(const struct kvm_segment *d)
{
    bool fits = d->base == (u64)d->selector << 4 && d->limit == 0xffff && d->type == 3 && d->s &&
                d->dpl == 3 && d->present && !d->unusable && !d->db && !d->g && !d->l;
    return fits ? NULL : "a segment is not one of virtual-8086 mode";
}

static const char *check_system(const struct kvm_sregs *s)
{
    const struct kvm_segment *tr = &s->tr, *ldt = &s->ldt;
    if (tr->unusable || tr->s || !tr->present || (tr->selector & 4))
        return "TR is no present TSS";
    if (tr->type != TYPE_TSS_BUSY && (long_mode(s) || tr->type != TYPE_TSS16_BUSY))
        return "TR is no busy TSS";
    if (!limit_fits(tr) || !canonical(tr->base))
        return "TR has an impossible limit or base";
    if (absent(ldt))
        return NULL;
    if (ldt->s || ldt->type != TYPE_LDT || (ldt->selector & 4))
        return "LDTR is no LDT";
    return limit_fits(ldt) && canonical(ldt->base) ? NULL : "LDTR has an impossible limit or base";
}

static const char *check_bases(const struct kvm_sregs *s)
{
    const struct kvm_segment *low[] = {&s->cs, &s->ss, &s->ds, &s->es};
    for (unsigned i = 0; i < ARRAY_SIZE(low); i++)
        if (!absent(low[i]) && low[i]->base >> 32)
            return "a segment begins above 4 GiB";
    if (!canonical(s->fs.base) || !canonical(s->gs.base))
        return "FS or GS has no canonical base";
    return canonical(s->gdt.base) && canonical(s->idt.base) ? NULL : "GDTR or IDTR has no canonical base";
}

static const char *check_segments(const struct kvm_sregs *s, bool v86)
{
    const struct kvm_segment *data[] = {&s->ds, &s->es, &s->fs, &s->gs, &s->cs, &s->ss};
    const char *why = check_system(s);
    for (unsigned i = 0; !why && i < (v86 ? 6 : 4); i++)
        why = v86 ? check_v86(data[i]) : check_data(data[i]);
    if (!why && !v86)
        why = check_code(s);
    if (!why && !v86)
        why = check_stack(s);
    return why ? why : check_bases(s);
}

/* 27.3.1.4 and 27.3.1.5 */
static const char *check_flags(const struct kvm_regs *r, const struct kvm_sregs *s,
                               const struct kvm_vcpu_events *e)
{
    u8 shadow = e->interrupt.shadow;
    if ((r->rflags & FLAGS_RESERVED) || !(r->rflags & X86_FLAG1))
        return "reserved bits of RFLAGS";
    if ((r->rflags & X86_VM) && (long_mode(s) || !(s->cr0 & X86_CR0_PE)))
        return "virtual-8086 mode where there is none";
    if ((!long_mode(s) || !s->cs.l) && r->rip >> 32)
        return "RIP is above 4 GiB";
    if ((shadow & KVM_X86_SHADOW_INT_STI) && !(r->rflags & X86_IF))
        return "the shadow of STI with IF clear";
    if (shadow == (KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS))
        return "the shadows of STI and of MOV SS at once";
    if (e->interrupt.injected && !e->interrupt.soft && (shadow || !(r->rflags & X86_IF)))
        return "an interrupt while the guest takes none";
    return NULL;
}

const char *kvm_entry_fault(const struct kvm_regs *r, const struct kvm_sregs *s,
                            const struct kvm_vcpu_events *e)
{
    const char *why = check_control(s);
    if (!why)
        why = check_flags(r, s, e);
    return why ? why : check_segments(s, r->rflags & X86_VM);
}
