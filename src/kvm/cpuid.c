/* What a guest's CPUID shows under KVM: the board's table, less what this KVM lacks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/kvm-internal.h"

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, u32 leaf, u32 subleaf)
{
    for (unsigned i = 0; i < c->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &c->entries[i];
        bool indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (e->function == leaf && (!indexed || e->index == subleaf))
            return e;
    }
    return NULL;
}

void kvm_xsave_layout(struct kvm_xsave_layout *l, const struct kvm_cpuid2 *supported, unsigned size)
{
    const u64 known = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512 | X86_XCR0_PKRU;
    const struct kvm_cpuid_entry2 *e = find(supported, 0xd, 0);

    *l = (struct kvm_xsave_layout){.size = size, .components = X86_XCR0_X87 | X86_XCR0_SSE};
    if (e)
        l->components |= (e->eax | (u64)e->edx << 32) & known;
    for (unsigned i = 2; i < ARRAY_SIZE(l->offset); i++) {
        e = l->components >> i & 1 ? find(supported, 0xd, i) : NULL;
        if (e && e->ebx && (u64)e->ebx + e->eax <= size)
            l->offset[i] = e->ebx;
        else
            l->components &= ~BIT(i);
    }
}

/* --- features --- */

enum word { EAX, EBX, ECX, EDX };

static const struct feature {
    const char *name, *level;
    u32 leaf, subleaf;
    const char *reg;
    unsigned bit;
} features[CPUID_FEATURE_COUNT] = {
#define X(name, leaf, subleaf, reg, bit, level, source) {#name, #level, leaf, subleaf, #reg, bit},
    CPUID_FEATURES(X)
#undef X
};

/* What our own interrupt controllers, MSRs and topology offer, whatever the kernel says about its own. */
static const enum cpuid_feature ours[] = {
    CPUID_X2APIC,     CPUID_APIC, CPUID_TSC_DEADLINE, CPUID_TSC_ADJUST, CPUID_ARAT, CPUID_MTRR,
    CPUID_HYPERVISOR, CPUID_HTT,  CPUID_CMP_LEGACY,   CPUID_TOPOEXT,    CPUID_MCE,  CPUID_MCA,
};

/*
 * On a real CPU the guest needs every measure against speculation that the host has, and must not be
 * told that it is not affected where it is: these words come from the kernel as they are (the software
 * engines' table says otherwise, see x86/cpuid.h). MD_CLEAR, SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD;
 * IBPB, IBRS, STIBP, its preferences, SSBD, PSFD, BTC_NO; AUTO_IBRS, SBPB, SRSO; TSA.
 */
static const struct {
    u32 leaf;
    u8 reg; /* enum word */
    u32 mask;
} speculation[] = {
    {7, EDX, BIT(10) | BIT(26) | BIT(27) | BIT(29) | BIT(31)},
    {0x80000008, EBX,
     BIT(12) | BIT(14) | BIT(15) | BIT(17) | BIT(24) | BIT(25) | BIT(26) | BIT(28) | BIT(29)},
    {0x80000021, EAX, BIT(5) | BIT(8) | BIT(27) | BIT(28) | BIT(29) | BIT(30)},
    {0x80000021, ECX, BIT(1) | BIT(2)},
};

static u32 *leaf_word(struct cpuid_leaf *l, enum word w)
{
    u32 *words[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};
    return words[w];
}

static u32 entry_word(const struct kvm_cpuid_entry2 *e, enum word w)
{
    const u32 words[] = {e->eax, e->ebx, e->ecx, e->edx};
    return words[w];
}

static enum word word_named(const char *reg)
{
    return reg[1] == 'a' ? EAX : reg[1] == 'b' ? EBX : reg[1] == 'c' ? ECX : EDX;
}

static bool is_ours(unsigned feature)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
        if (ours[i] == feature)
            return true;
    return false;
}

static struct cpuid_leaf *leaf_of(struct cpuid_table *t, u32 leaf, u32 subleaf)
{
    return (struct cpuid_leaf *)cpuid_find(t, leaf, subleaf);
}

bool kvm_has_features(u32 leaf)
{
    for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++)
        if (features[i].leaf == leaf)
            return true;
    return false;
}

static void limit_xsave(struct cpuid_table *t, const struct kvm_cpuid2 *supported)
{
    const struct kvm_cpuid_entry2 *e = find(supported, 0xd, 0);
    struct cpuid_leaf *l = leaf_of(t, 0xd, 0);

    t->xcr0_mask &= e && cpuid_has(t, CPUID_XSAVE) ? e->eax : 0;
    if (!cpuid_has(t, CPUID_AVX))
        t->xcr0_mask &= ~(X86_XCR0_AVX | X86_XCR0_AVX512);
    if (!cpuid_has(t, CPUID_XSAVES))
        t->xss_mask = 0;
    if (!l)
        return;
    l->eax = (u32)t->xcr0_mask;
    l->ecx = t->xcr0_mask ? cpuid_xsave_size(t, t->xcr0_mask, false) : 0;
}

static int limit(struct cpuid_table *t, const struct kvm_cpuid2 *supported, bool strict, struct error *err)
{
    for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++) {
        const struct feature *f = &features[i];
        enum word w = word_named(f->reg);
        const struct kvm_cpuid_entry2 *e = find(supported, f->leaf, f->subleaf);

        if (!cpuid_has(t, (enum cpuid_feature)i) || is_ours(i) || (e && entry_word(e, w) >> f->bit & 1))
            continue;
        /* The levels V2 and V3 are what a named model promises. */
        if (strict && f->level[0] == 'V')
            return error_set(
                err, ENOTSUP,
                "KVM on this host cannot offer that CPU model: it lacks %s (try --engine interpret)",
                f->name);
        *leaf_word(leaf_of(t, f->leaf, f->subleaf), w) &= ~(u32)BIT(f->bit);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(speculation); i++) {
        struct cpuid_leaf *l = leaf_of(t, speculation[i].leaf, 0);
        const struct kvm_cpuid_entry2 *e = find(supported, speculation[i].leaf, 0);
        u32 bits = e ? entry_word(e, speculation[i].reg) & speculation[i].mask : 0;
        if (l)
            *leaf_word(l, speculation[i].reg) =
                (*leaf_word(l, speculation[i].reg) & ~speculation[i].mask) | bits;
    }
    limit_xsave(t, supported);
    return 0;
}

/*
 * How the host's CPU leaks is the kernel's to say. The guest reads it from the table all the same: there are
 * KVMs that name a value and then refuse the guest's RDMSR.
 */
static u64 arch_capabilities(const struct kvm_host *h)
{
    u64 value = 0;
    return kvm_one_msr(h->fd, KVM_GET_MSRS, MSR_ARCH_CAPABILITIES, &value) == 0 ? value : 0;
}

int kvm_limit_cpuid(struct cpuid_table *t, bool strict, struct error *err)
{
    struct kvm_host host;
    int r = kvm_host_open(&host, err);
    if (r)
        return r;
    struct kvm_cpuid2 *supported = kvm_host_cpuid(&host, err);
    if (supported) {
        kvm_see_cpuid(&host, supported);
        t->host_tsc |= !kvm_shifts_tsc(&host);
        t->arch_capabilities = arch_capabilities(&host);
    }
    r = supported ? limit(t, supported, strict, err) : -ENOTSUP;
    free(supported);
    kvm_host_close(&host);
    return r;
}

/* --- the table --- */

/* OSXSAVE, the APIC bit and the sizes of leaf 0Dh follow the guest's registers: the kernel does that. */
int kvm_set_cpuid(const struct kvm_cpu *k, struct error *err)
{
    const struct cpuid_table *t = k->vcpu->vm->cpuid;
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + CPUID_MAX_LEAVES * sizeof c->entries[0]);
    if (!c)
        return error_set_errno(err, ENOMEM, "cannot create vCPU %u", k->vcpu->index);
    for (unsigned i = 0; i < t->count; i++) {
        const struct cpuid_leaf *l = &t->leaf[i];
        struct cpuid_context in = {
            .eax = l->leaf, .ecx = l->subleaf, .apic_id = k->vcpu->index, .apic_enabled = true, .xcr0 = 1};
        u32 out[4];
        cpuid_lookup(t, &in, out);
        c->entries[c->nent++] = (struct kvm_cpuid_entry2){
            .function = l->leaf,
            .index = l->indexed ? l->subleaf : 0,
            .flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = out[0],
            .ebx = out[1],
            .ecx = out[2],
            .edx = out[3],
        };
    }
    int r = ioctl(k->fd, KVM_SET_CPUID2, c) < 0
                ? error_set_errno(err, errno, "KVM does not take the CPUID table of vCPU %u", k->vcpu->index)
                : 0;
    free(c);
    return r;
}
