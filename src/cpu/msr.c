/*
 * Model-specific registers.
 *
 * A register is served by the first that knows it: the interrupt controllers, KVM's paravirtual
 * interface, a table of registers that just hold a value, the MTRRs, the ones with rules of their
 * own, and a table of registers that software pokes without depending on them. The rest is #GP.
 */
#include "cpu/msr.h"

#include <inttypes.h>

#include "base/log.h"

/* Not in regs.h, since only this file knows them. */
#define MSR_P5_MC_ADDR 0x0
#define MSR_P5_MC_TYPE 0x1
#define MSR_PLATFORM_ID 0x17
#define MSR_EBL_CR_POWERON 0x2a
#define MSR_UCODE_WRITE 0x79
#define MSR_PLATFORM_INFO 0xce
#define MSR_LASTBRANCH_FROM 0x1db
#define MSR_LASTINT_TO 0x1de
#define MSR_MTRR_FIX16K_0 0x258
#define MSR_MTRR_FIX4K_0 0x268
#define MSR_AMD_PERFEVTSEL0 0xc0010000
#define MSR_AMD_PERFCTR3 0xc0010007
#define MSR_AMD_SYSCFG 0xc0010010
#define MSR_AMD_HWCR 0xc0010015
#define MSR_AMD_NB_CFG 0xc001001f
#define MSR_AMD_PATCH_LOADER 0xc0010020
#define MSR_AMD_INT_PENDING 0xc0010055
#define MSR_AMD_MMIO_CONF_BASE 0xc0010058
#define MSR_AMD_TSEG_ADDR 0xc0010112
#define MSR_AMD_TSEG_MASK 0xc0010113
#define MSR_AMD_DC_CFG 0xc0011022
#define MSR_AMD_DE_CFG 0xc0011029
#define MSR_AMD_BU_CFG2 0xc001102a

#define MTRR_VARIABLE 8
#define MTRR_CAP (MTRR_VARIABLE | BIT(8) /* fixed */ | BIT(10) /* write combining */)

static bool has(const struct vcpu *vcpu, enum cpuid_feature f)
{
    return cpuid_has(vcpu->vm->cpuid, f);
}

/* --- registers that hold a value --- */

enum rule {
    RULE_ANY,
    RULE_CANONICAL,
    RULE_32BIT, /* the upper half must be 0 */
};

struct plain {
    u32 index;
    u32 offset; /* in x86_state */
    enum rule rule;
    int feature; /* of cpuid, or -1 */
};

#define PLAIN(index, member, rule, feature)                      \
    {                                                            \
        index, offsetof(struct x86_state, member), rule, feature \
    }

static const struct plain plain[] = {
    PLAIN(MSR_STAR, star, RULE_ANY, CPUID_SYSCALL),
    PLAIN(MSR_LSTAR, lstar, RULE_CANONICAL, CPUID_LM),
    PLAIN(MSR_CSTAR, cstar, RULE_CANONICAL, CPUID_LM),
    PLAIN(MSR_SFMASK, sfmask, RULE_32BIT, CPUID_LM),
    PLAIN(MSR_FS_BASE, seg[X86_FS].base, RULE_CANONICAL, CPUID_LM),
    PLAIN(MSR_GS_BASE, seg[X86_GS].base, RULE_CANONICAL, CPUID_LM),
    PLAIN(MSR_KERNEL_GS_BASE, kernel_gs_base, RULE_CANONICAL, CPUID_LM),
    PLAIN(MSR_SYSENTER_CS, sysenter_cs, RULE_ANY, CPUID_SEP),
    PLAIN(MSR_SYSENTER_ESP, sysenter_esp, RULE_CANONICAL, CPUID_SEP),
    PLAIN(MSR_SYSENTER_EIP, sysenter_eip, RULE_CANONICAL, CPUID_SEP),
    PLAIN(MSR_TSC_AUX, tsc_aux, RULE_32BIT, CPUID_RDTSCP),
    PLAIN(MSR_SPEC_CTRL, spec_ctrl, RULE_32BIT, CPUID_SPEC_CTRL),
    PLAIN(MSR_MISC_ENABLE, misc_enable, RULE_ANY, -1),
    PLAIN(MSR_MCG_STATUS, mcg_status, RULE_ANY, -1),
};

static const struct plain *find_plain(const struct vcpu *vcpu, u32 index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
        if (plain[i].index == index)
            return plain[i].feature < 0 || has(vcpu, (enum cpuid_feature)plain[i].feature) ? &plain[i] : NULL;
    }
    return NULL;
}

static u64 *plain_value(struct vcpu *vcpu, const struct plain *p)
{
    return (u64 *)((char *)&vcpu->state + p->offset);
}

static int write_plain(struct vcpu *vcpu, const struct plain *p, u64 value)
{
    if (p->rule == RULE_CANONICAL && !x86_canonical(value))
        return -1;
    if (p->rule == RULE_32BIT && value >> 32)
        return -1;
    *plain_value(vcpu, p) = value;
    return 0;
}

/* --- registers that read as a constant and swallow writes --- */

struct inert {
    u32 first, last;
    u64 value;
};

static const struct inert inert[] = {
    {MSR_P5_MC_ADDR, MSR_P5_MC_TYPE, 0},         {MSR_PLATFORM_ID, MSR_PLATFORM_ID, 0},
    {MSR_EBL_CR_POWERON, MSR_EBL_CR_POWERON, 0}, {MSR_UCODE_WRITE, MSR_UCODE_WRITE, 0},
    {MSR_PLATFORM_INFO, MSR_PLATFORM_INFO, 0},   {MSR_LASTBRANCH_FROM, MSR_LASTINT_TO, 0},
};

/* The performance counters read as 0, which tells systems that there are none. */
static const struct inert inert_amd[] = {
    {MSR_AMD_PERFEVTSEL0, MSR_AMD_PERFCTR3, 0},
    {MSR_AMD_SYSCFG, MSR_AMD_SYSCFG, 0},
    {MSR_AMD_HWCR, MSR_AMD_HWCR, BIT(24) /* the TSC counts at the P0 frequency */},
    {MSR_AMD_NB_CFG, MSR_AMD_NB_CFG, 0},
    {MSR_AMD_PATCH_LOADER, MSR_AMD_PATCH_LOADER, 0},
    {MSR_AMD_INT_PENDING, MSR_AMD_INT_PENDING, 0},
    {MSR_AMD_MMIO_CONF_BASE, MSR_AMD_MMIO_CONF_BASE, 0},
    {MSR_AMD_TSEG_ADDR, MSR_AMD_TSEG_MASK, 0},
    {MSR_AMD_DC_CFG, MSR_AMD_DC_CFG, 0},
    {MSR_AMD_DE_CFG, MSR_AMD_DE_CFG, BIT(1) /* LFENCE serialises */},
    {MSR_AMD_BU_CFG2, MSR_AMD_BU_CFG2, 0},
};

static const struct inert *find_inert(const struct vcpu *vcpu, u32 index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(inert); i++) {
        if (index - inert[i].first <= inert[i].last - inert[i].first)
            return &inert[i];
    }
    for (unsigned i = 0; vcpu->vm->cpuid->amd && i < ARRAY_SIZE(inert_amd); i++) {
        if (index - inert_amd[i].first <= inert_amd[i].last - inert_amd[i].first)
            return &inert_amd[i];
    }
    return NULL;
}

/* --- interrupt controllers --- */

static bool is_irqchip_msr(const struct vcpu *vcpu, u32 index)
{
    if (index == MSR_APIC_BASE || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST))
        return true;
    return index == MSR_TSC_DEADLINE && has(vcpu, CPUID_TSC_DEADLINE);
}

static int irqchip_read(struct vcpu *vcpu, u32 index, u64 *value)
{
    struct vm *vm = vcpu->vm;
    if (!vm->irqchip)
        return -1;
    lock_acquire(&vm->machine_lock);
    int rc = vm->irqchip->ops->msr_read(vm->irqchip, vcpu, index, value);
    lock_drop(&vm->machine_lock);
    return rc;
}

static int irqchip_write(struct vcpu *vcpu, u32 index, u64 value)
{
    struct vm *vm = vcpu->vm;
    if (!vm->irqchip)
        return -1;
    lock_acquire(&vm->machine_lock);
    int rc = vm->irqchip->ops->msr_write(vm->irqchip, vcpu, index, value);
    lock_drop(&vm->machine_lock);
    return rc;
}

/* --- MTRRs and PAT (SDM vol. 3, 12.11 and 12.12): stored and checked, without effect --- */

/* The fixed-range register @index as an index of mtrr_fixed, or -1. */
static int fixed_mtrr(u32 index)
{
    if (index == MSR_MTRR_FIX64K)
        return 0;
    if (index - MSR_MTRR_FIX16K_0 < 2)
        return 1 + (int)(index - MSR_MTRR_FIX16K_0);
    if (index - MSR_MTRR_FIX4K_0 < 8)
        return 3 + (int)(index - MSR_MTRR_FIX4K_0);
    return -1;
}

static u64 *mtrr(struct vcpu *vcpu, u32 index)
{
    struct x86_state *s = &vcpu->state;
    if (index == MSR_MTRR_DEF_TYPE)
        return &s->mtrr_def_type;
    if (index - MSR_MTRR_PHYSBASE0 < 2 * MTRR_VARIABLE)
        return &s->mtrr_var[index - MSR_MTRR_PHYSBASE0];
    int i = fixed_mtrr(index);
    return i < 0 ? NULL : &s->mtrr_fixed[i];
}

static bool memory_type_valid(unsigned type, bool pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool memory_types_valid(u64 value, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        if (!memory_type_valid((u8)(value >> (8 * i)), pat))
            return false;
    }
    return true;
}

static bool mtrr_value_valid(const struct vcpu *vcpu, u32 index, u64 value)
{
    u64 address = MASK(vcpu->vm->cpuid->maxphyaddr) & PAGE_MASK;
    if (index == MSR_MTRR_DEF_TYPE)
        return !(value & ~0xcffull) && memory_type_valid((u8)value, false);
    if (fixed_mtrr(index) >= 0)
        return memory_types_valid(value, false);
    if (index & 1)
        return !(value & ~(address | BIT(11)));
    return !(value & ~(address | 0xff)) && memory_type_valid((u8)value, false);
}

/* --- EFER, TSC, XSS --- */

static int write_efer(struct vcpu *vcpu, u64 value)
{
    struct x86_state *s = &vcpu->state;
    u64 allowed = X86_EFER_LMA;
    if (has(vcpu, CPUID_SYSCALL))
        allowed |= X86_EFER_SCE;
    if (has(vcpu, CPUID_LM))
        allowed |= X86_EFER_LME;
    if (has(vcpu, CPUID_NX))
        allowed |= X86_EFER_NXE;
    if (has(vcpu, CPUID_AUTO_IBRS))
        allowed |= X86_EFER_AUTOIBRS;
    if (value & ~allowed)
        return -1;
    if (x86_paging(s) && ((value ^ s->efer) & X86_EFER_LME))
        return -1;
    s->efer = (value & ~X86_EFER_LMA) | (s->efer & X86_EFER_LMA);
    return 0;
}

/* Moves the counter by @delta; what TSC_ADJUST shows moves with it (SDM vol. 3, 18.17.3). */
static void shift_tsc(struct vcpu *vcpu, u64 delta)
{
    struct vm *vm = vcpu->vm;

    vcpu->state.tsc_adjust += delta;
    vcpu->state.tsc_offset = (i64)((u64)vcpu->state.tsc_offset + delta);
    pvclock_update(vcpu);
    if (!vm->irqchip || !vm->irqchip->ops->tsc_changed)
        return;
    lock_acquire(&vm->machine_lock);
    vm->irqchip->ops->tsc_changed(vm->irqchip, vcpu);
    lock_drop(&vm->machine_lock);
}

static int write_xss(struct vcpu *vcpu, u64 value)
{
    if (!has(vcpu, CPUID_XSAVES) || (value & ~vcpu->vm->cpuid->xss_mask))
        return -1;
    vcpu->state.xss = value;
    return 0;
}

/* --- KVM's paravirtual interface --- */

enum {
    KVM_FEATURE_CLOCKSOURCE = 0,
    KVM_FEATURE_CLOCKSOURCE2 = 3,
    KVM_FEATURE_STEAL_TIME = 5,
    KVM_FEATURE_PV_EOI = 6,
};

static bool kvm_feature(const struct vcpu *vcpu, unsigned bit)
{
    const struct cpuid_context in = {.eax = 0x40000001};
    u32 out[4];
    cpuid_lookup(vcpu->vm->cpuid, &in, out);
    return out[0] & BIT(bit);
}

/* Where @index keeps its value, or NULL when it is not KVM's or not offered. */
static u64 *kvm_msr(struct vcpu *vcpu, u32 index)
{
    struct x86_state *s = &vcpu->state;
    switch (index) {
    case MSR_KVM_WALL_CLOCK: return kvm_feature(vcpu, KVM_FEATURE_CLOCKSOURCE) ? &s->kvm_wall_clock : NULL;
    case MSR_KVM_SYSTEM_TIME: return kvm_feature(vcpu, KVM_FEATURE_CLOCKSOURCE) ? &s->kvm_system_time : NULL;
    case MSR_KVM_WALL_CLOCK_NEW:
        return kvm_feature(vcpu, KVM_FEATURE_CLOCKSOURCE2) ? &s->kvm_wall_clock : NULL;
    case MSR_KVM_SYSTEM_TIME_NEW:
        return kvm_feature(vcpu, KVM_FEATURE_CLOCKSOURCE2) ? &s->kvm_system_time : NULL;
    case MSR_KVM_STEAL_TIME: return kvm_feature(vcpu, KVM_FEATURE_STEAL_TIME) ? &s->kvm_steal_time : NULL;
    case MSR_KVM_PV_EOI_EN: return kvm_feature(vcpu, KVM_FEATURE_PV_EOI) ? &s->kvm_pv_eoi : NULL;
    default: return NULL;
    }
}

static void set_pv_eoi(struct vcpu *vcpu, u64 value)
{
    struct vm *vm = vcpu->vm;
    if (!vm->irqchip)
        return;
    lock_acquire(&vm->machine_lock);
    vm->irqchip->ops->set_pv_eoi(vm->irqchip, vcpu, value & 1 ? value : 0);
    lock_drop(&vm->machine_lock);
}

static int write_kvm(struct vcpu *vcpu, u32 index, u64 *where, u64 value)
{
    /* Steal time: 64-byte aligned with an enable bit. PV EOI: 4-byte aligned. */
    if ((index == MSR_KVM_STEAL_TIME && (value & 0x3e)) || (index == MSR_KVM_PV_EOI_EN && (value & 2)))
        return -1;
    *where = value;
    switch (index) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW: pvclock_write_wall(vcpu, value); break;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW: pvclock_update(vcpu); break;
    case MSR_KVM_PV_EOI_EN: set_pv_eoi(vcpu, value); break;
    case MSR_KVM_STEAL_TIME: steal_follow(vcpu); break;
    default: break;
    }
    return 0;
}

/* --- the rest, and the doors --- */

/* What microcode loaders compare with: a revision that is neither 0 nor new. */
static u64 microcode_revision(const struct vcpu *vcpu)
{
    return vcpu->vm->cpuid->amd ? 0x01000065 : 0x100000000ull;
}

static int read_special(struct vcpu *vcpu, u32 index, u64 *value)
{
    const struct x86_state *s = &vcpu->state;
    const struct inert *in;
    switch (index) {
    case MSR_TSC: *value = vcpu_tsc(vcpu); return 0;
    case MSR_TSC_ADJUST: *value = s->tsc_adjust; return has(vcpu, CPUID_TSC_ADJUST) ? 0 : -1;
    case MSR_EFER: *value = s->efer; return 0;
    case MSR_PAT: *value = s->pat; return 0;
    case MSR_MTRR_CAP: *value = MTRR_CAP; return 0;
    case MSR_MCG_CAP: *value = 0; return 0; /* no banks */
    case MSR_ARCH_CAPABILITIES:
        *value = vcpu->vm->cpuid->arch_capabilities;
        return has(vcpu, CPUID_ARCH_CAPABILITIES) ? 0 : -1;
    case MSR_BIOS_SIGN_ID: *value = microcode_revision(vcpu); return 0;
    case MSR_DEBUGCTL: *value = s->debugctl; return 0;
    case MSR_XSS: *value = s->xss; return has(vcpu, CPUID_XSAVES) ? 0 : -1;
    default:
        in = find_inert(vcpu, index);
        if (!in)
            return -1;
        *value = in->value;
        return 0;
    }
}

static int write_special(struct vcpu *vcpu, u32 index, u64 value)
{
    struct x86_state *s = &vcpu->state;
    switch (index) {
    case MSR_TSC: shift_tsc(vcpu, value - vcpu_tsc(vcpu)); return 0;
    case MSR_TSC_ADJUST:
        if (!has(vcpu, CPUID_TSC_ADJUST))
            return -1;
        shift_tsc(vcpu, value - s->tsc_adjust);
        return 0;
    case MSR_EFER: return write_efer(vcpu, value);
    case MSR_PAT:
        if (!memory_types_valid(value, true))
            return -1;
        s->pat = value;
        return 0;
    case MSR_PRED_CMD: return has(vcpu, CPUID_SPEC_CTRL) ? 0 : -1; /* no predictor is the guest's */
    case MSR_BIOS_SIGN_ID: return 0; /* software clears it before it reads the revision */
    case MSR_DEBUGCTL:
        if (value & ~3ull) /* LBR and BTF */
            return -1;
        s->debugctl = value;
        return 0;
    case MSR_XSS: return write_xss(vcpu, value);
    default: return find_inert(vcpu, index) ? 0 : -1;
    }
}

static int read_any(struct vcpu *vcpu, u32 index, u64 *value)
{
    if (is_irqchip_msr(vcpu, index))
        return irqchip_read(vcpu, index, value);
    const struct plain *p = find_plain(vcpu, index);
    const u64 *stored = p ? plain_value(vcpu, p) : mtrr(vcpu, index);
    if (!stored)
        stored = kvm_msr(vcpu, index);
    if (!stored)
        return read_special(vcpu, index, value);
    *value = *stored;
    return 0;
}

static int write_any(struct vcpu *vcpu, u32 index, u64 value)
{
    u64 *where;
    if (is_irqchip_msr(vcpu, index))
        return irqchip_write(vcpu, index, value);
    const struct plain *p = find_plain(vcpu, index);
    if (p)
        return write_plain(vcpu, p, value);
    if ((where = mtrr(vcpu, index))) {
        if (!mtrr_value_valid(vcpu, index, value))
            return -1;
        *where = value;
        return 0;
    }
    if ((where = kvm_msr(vcpu, index)))
        return write_kvm(vcpu, index, where, value);
    return write_special(vcpu, index, value);
}

int cpu_rdmsr(struct vcpu *vcpu, u32 index, u64 *value)
{
    vcpu->counters.msr_reads++;
    int rc = read_any(vcpu, index, value);
    if (rc != 0)
        trace(msr, "vcpu %u: rdmsr 0x%x: #GP", vcpu->index, index);
    else
        trace(msr, "vcpu %u: rdmsr 0x%x = 0x%" PRIx64, vcpu->index, index, *value);
    return rc;
}

int cpu_wrmsr(struct vcpu *vcpu, u32 index, u64 value)
{
    vcpu->counters.msr_writes++;
    int rc = write_any(vcpu, index, value);
    trace(msr, "vcpu %u: wrmsr 0x%x = 0x%" PRIx64 "%s", vcpu->index, index, value, rc ? ": #GP" : "");
    return rc;
}
