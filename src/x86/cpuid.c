/*
 * Builds the table of leaves. Feature words come from the list in cpuid.h; topology, caches and the
 * XSAVE layout from here. A leaf that is not in the table reads as zeros.
 *
 * The host's words are the start for everything that depends on the silicon (family and model, cache
 * geometry, the layout of XSAVE components). A guest has one package of single-thread cores whose
 * APIC ids are 0..n-1, so every count of "logical processors sharing this" is 1 or n.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>

#include "x86/regs.h"

/* The frequency behind our local APIC timer, which the guest is told in leaves 15h and 40000010h. */
#define APIC_BUS_KHZ 1000000u

enum source { SOURCE_EMULATED, SOURCE_INTEL, SOURCE_NATIVE, SOURCE_AVX, SOURCE_AVX512 };
enum level { LEVEL_BASE = 1, LEVEL_V2, LEVEL_V3, LEVEL_HOST, LEVEL_NONE };

struct feature {
    const char *name;
    u32 leaf;
    u8 subleaf;
    u8 reg; /* byte offset of the register in struct cpuid_leaf */
    u8 bit;
    u8 level;  /* enum level */
    u8 source; /* enum source */
};

static const struct feature features[CPUID_FEATURE_COUNT] = {
#define X(name, leaf, subleaf, reg, bit, level, source) \
    {#name, leaf, subleaf, offsetof(struct cpuid_leaf, reg), bit, LEVEL_##level, SOURCE_##source},
    CPUID_FEATURES(X)
#undef X
};

struct builder {
    struct cpuid_table *t;
    enum level level;
    unsigned vcpus;
    u32 tsc_khz;
    u64 host_xcr0;
    bool full; /* the table overflowed */
};

static struct cpuid_leaf host_leaf(u32 leaf, u32 subleaf)
{
    struct cpuid_leaf l = {.leaf = leaf, .subleaf = subleaf};
    u32 max = 0;

    __cpuid_count(leaf & 0xf0000000, 0, max, l.ebx, l.ecx, l.edx);
    if (leaf > max) {
        l.ebx = l.ecx = l.edx = 0;
        return l;
    }
    __cpuid_count(leaf, subleaf, l.eax, l.ebx, l.ecx, l.edx);
    return l;
}

static u64 host_xcr0(void)
{
    u32 lo, hi;

    if (!(host_leaf(1, 0).ecx & BIT(27)))
        return 0;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}

static u32 *leaf_reg(struct cpuid_leaf *l, unsigned offset)
{
    return (u32 *)((char *)l + offset);
}

static struct cpuid_leaf *find_mutable(struct cpuid_table *t, u32 leaf, u32 subleaf)
{
    for (unsigned i = 0; i < t->count; i++)
        if (t->leaf[i].leaf == leaf && (!t->leaf[i].indexed || t->leaf[i].subleaf == subleaf))
            return &t->leaf[i];
    return NULL;
}

const struct cpuid_leaf *cpuid_find(const struct cpuid_table *t, u32 leaf, u32 subleaf)
{
    return find_mutable((struct cpuid_table *)t, leaf, subleaf);
}

bool cpuid_has(const struct cpuid_table *t, enum cpuid_feature f)
{
    const struct feature *d = &features[f];
    const struct cpuid_leaf *l = cpuid_find(t, d->leaf, d->subleaf);

    return l && (*leaf_reg((struct cpuid_leaf *)l, d->reg) >> d->bit & 1);
}

static bool leaf_equal(const struct cpuid_leaf *a, const struct cpuid_leaf *b)
{
    return a->leaf == b->leaf && a->subleaf == b->subleaf && a->indexed == b->indexed && a->eax == b->eax &&
           a->ebx == b->ebx && a->ecx == b->ecx && a->edx == b->edx;
}

bool cpuid_equal(const struct cpuid_table *a, const struct cpuid_table *b)
{
    if (a->count != b->count || a->xcr0_mask != b->xcr0_mask || a->xss_mask != b->xss_mask ||
        a->host_tsc != b->host_tsc || a->arch_capabilities != b->arch_capabilities)
        return false;
    for (unsigned i = 0; i < a->count; i++)
        if (!leaf_equal(&a->leaf[i], &b->leaf[i]))
            return false;
    return true;
}

static void add(struct builder *b, bool indexed, struct cpuid_leaf l)
{
    if (b->t->count == CPUID_MAX_LEAVES) {
        b->full = true;
        return;
    }
    l.indexed = indexed;
    b->t->leaf[b->t->count++] = l;
}

/* Leaves whose words are feature bits: only those of the list, set by offer_features(). */
static void add_features(struct builder *b, bool indexed, u32 leaf, u32 subleaf)
{
    add(b, indexed, (struct cpuid_leaf){.leaf = leaf, .subleaf = subleaf});
}

static bool host_offers(const struct builder *b, const struct feature *f)
{
    const u64 avx = X86_XCR0_SSE | X86_XCR0_AVX;
    struct cpuid_leaf l = host_leaf(f->leaf, f->subleaf);

    if (f->source == SOURCE_EMULATED || f->source == SOURCE_INTEL)
        return true;
    if (f->source == SOURCE_AVX && (b->host_xcr0 & avx) != avx)
        return false;
    /* Without BW, VL and DQ (Knights Landing) masks are 16 bits wide, which our stubs do not know. */
    if (f->source == SOURCE_AVX512 && ((b->host_xcr0 & (avx | X86_XCR0_AVX512)) != (avx | X86_XCR0_AVX512) ||
                                       (host_leaf(7, 0).ebx & 0xc0020000) != 0xc0020000))
        return false;
    return *leaf_reg(&l, f->reg) >> f->bit & 1;
}

static int offer_features(struct builder *b, const char *model, struct error *err)
{
    for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++) {
        const struct feature *f = &features[i];
        struct cpuid_leaf *l = find_mutable(b->t, f->leaf, f->subleaf);

        if (!l || f->level > b->level || (f->source == SOURCE_INTEL && b->t->amd))
            continue;
        if (host_offers(b, f))
            *leaf_reg(l, f->reg) |= BIT(f->bit);
        else if (f->level <= LEVEL_V3 && b->level != LEVEL_HOST)
            return error_set(err, ENOTSUP, "this host cannot offer CPU model '%s': it lacks %s", model,
                             f->name);
    }
    return 0;
}

static unsigned log2_up(unsigned n)
{
    unsigned shift = 0;

    while (1u << shift < n)
        shift++;
    return shift;
}

/* Cache leaves 4 and 8000001Dh: level 3 is shared by all, the others belong to one core. */
static void add_caches(struct builder *b, u32 leaf)
{
    for (u32 sub = 0; sub < 8; sub++) {
        struct cpuid_leaf l = host_leaf(leaf, sub);

        if (!(l.eax & 0x1f)) {
            add(b, true, (struct cpuid_leaf){.leaf = leaf, .subleaf = sub});
            return;
        }
        l.eax &= 0x3fff;
        if (bits(l.eax, 7, 5) >= 3)
            l.eax |= (b->vcpus - 1) << 14;
        if (leaf == 4)
            l.eax |= (b->vcpus - 1) << 26;
        add(b, true, l);
    }
}

/* Extended topology (leaves 0Bh and 1Fh); EDX is filled on reading. */
static void add_topology(struct builder *b, u32 leaf)
{
    add(b, true, (struct cpuid_leaf){.leaf = leaf, .subleaf = 0, .ebx = 1, .ecx = 0x100});
    add(b, true,
        (struct cpuid_leaf){
            .leaf = leaf, .subleaf = 1, .eax = log2_up(b->vcpus), .ebx = b->vcpus, .ecx = 0x201});
}

/* Leaf 0Dh; sizes that depend on XCR0 are filled on reading. */
static void add_xsave(struct builder *b)
{
    struct cpuid_table *t = b->t;

    if (b->level < LEVEL_V3)
        return;
    t->xcr0_mask = X86_XCR0_X87 | X86_XCR0_SSE;
    if (cpuid_has(t, CPUID_AVX))
        t->xcr0_mask |= X86_XCR0_AVX;
    if (cpuid_has(t, CPUID_AVX512F))
        t->xcr0_mask |= X86_XCR0_AVX512;
    for (u32 i = 2; i < 32; i++)
        if (t->xcr0_mask >> i & 1) {
            struct cpuid_leaf l = host_leaf(0xd, i);

            l.ecx &= 2; /* 64-byte aligned in compacted form */
            l.edx = 0;
            add(b, true, l);
        }
    add(b, true,
        (struct cpuid_leaf){.leaf = 0xd,
                            .subleaf = 0,
                            .eax = (u32)t->xcr0_mask,
                            .ecx = cpuid_xsave_size(t, t->xcr0_mask, false)});
}

static void add_basic(struct builder *b)
{
    struct cpuid_leaf l = host_leaf(0, 0);
    u32 host_max = l.eax;

    l.eax = b->t->amd ? 0xd : MIN(MAX(host_max, 0xdu), 0x1fu);
    add(b, false, l);

    l = host_leaf(1, 0);
    l.ebx = (l.ebx & 0xff00) | b->vcpus << 16;
    l.ecx = 0;
    l.edx = b->vcpus > 1 ? BIT(28) : 0; /* HTT: EBX counts logical processors */
    add(b, false, l);

    if (!b->t->amd) {
        add(b, false, host_leaf(2, 0));
        add_caches(b, 4);
    }
    add_features(b, false, 6, 0);
    add_features(b, true, 7, 0);
    if (host_leaf(7, 0).eax >= 1)
        add_features(b, true, 7, 1);
    add_topology(b, 0xb);
    if (!b->t->amd && host_max >= 0x16) {
        /* TSC = crystal * EBX / EAX, and Linux takes the crystal for the local APIC timer's clock. */
        add(b, false,
            (struct cpuid_leaf){
                .leaf = 0x15, .eax = APIC_BUS_KHZ, .ebx = b->tsc_khz, .ecx = APIC_BUS_KHZ * 1000});
        add(b, false,
            (struct cpuid_leaf){
                .leaf = 0x16, .eax = b->tsc_khz / 1000, .ebx = b->tsc_khz / 1000, .ecx = 100});
    }
    if (!b->t->amd && host_max >= 0x1f)
        add_topology(b, 0x1f);
}

/* The interfaces of KVM that we speak, by its signature (Linux Documentation/virt/kvm/x86/cpuid.rst). */
static void add_hypervisor(struct builder *b)
{
    const u32 clocksource = BIT(0), nop_io_delay = BIT(1), clocksource2 = BIT(3), steal_time = BIT(5),
              pv_eoi = BIT(6);
    const u32 clocksource_stable = BIT(24);

    add(b, false,
        (struct cpuid_leaf){
            .leaf = 0x40000000, .eax = 0x40000010, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d});
    add(b, false,
        (struct cpuid_leaf){.leaf = 0x40000001,
                            .eax = clocksource | nop_io_delay | clocksource2 | steal_time | pv_eoi |
                                   clocksource_stable});
    add(b, false, (struct cpuid_leaf){.leaf = 0x40000010, .eax = b->tsc_khz, .ebx = APIC_BUS_KHZ});
}

static void add_extended(struct builder *b)
{
    bool amd = b->t->amd;
    struct cpuid_leaf l = host_leaf(0x80000000, 0);
    u32 max = MIN(l.eax, amd ? 0x8000001e : 0x80000008);

    l.eax = amd ? 0x80000021 : max;
    add(b, false, l);
    l = host_leaf(0x80000001, 0);
    /* AMD repeats leaf 1's EDX here (APM vol. 3, E.4.1). */
    l.edx = amd ? find_mutable(b->t, 1, 0)->edx & 0x0183f3ff : 0;
    l.ecx = amd && b->vcpus > 1 ? BIT(1) : 0; /* CmpLegacy */
    if (amd && max >= 0x8000001e)
        l.ecx |= BIT(22); /* TopologyExtensions */
    add(b, false, l);
    for (u32 leaf = 0x80000002; leaf <= 0x80000006 && leaf <= max; leaf++)
        add(b, false, host_leaf(leaf, 0));
    add_features(b, false, 0x80000007, 0);
    b->t->maxphyaddr = MIN(host_leaf(0x80000008, 0).eax & 0xff, 48u);
    l = (struct cpuid_leaf){.leaf = 0x80000008, .eax = 48 << 8 | b->t->maxphyaddr};
    if (amd)
        l.ecx = log2_up(b->vcpus) << 12 | (b->vcpus - 1);
    add(b, false, l);
    if (!amd)
        return;
    if (max >= 0x80000019)
        add(b, false, host_leaf(0x80000019, 0)); /* 1 GiB TLB */
    if (max >= 0x8000001e) {
        add_caches(b, 0x8000001d);
        add(b, false, (struct cpuid_leaf){.leaf = 0x8000001e});
    }
    add_features(b, false, 0x80000021, 0);
}

/* Fixed words that are neither features nor topology, after the feature bits are known. */
static void finish(struct builder *b)
{
    struct cpuid_leaf *seven = find_mutable(b->t, 7, 0);

    if (find_mutable(b->t, 7, 1))
        seven->eax = 1;
    if (b->t->amd)
        find_mutable(b->t, 0x80000001, 0)->edx |= find_mutable(b->t, 1, 0)->edx & 0x0183f3ff;
}

static int parse_model(const char *model, enum level *level, struct error *err)
{
    static const struct {
        const char *name;
        enum level level;
    } models[] = {{"host", LEVEL_HOST}, {"x86-64-v2", LEVEL_V2}, {"x86-64-v3", LEVEL_V3}};

    for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
        if (!strcmp(model, models[i].name)) {
            *level = models[i].level;
            return 0;
        }
    return error_set(err, EINVAL, "unknown CPU model '%s' (host, x86-64-v2, x86-64-v3)", model);
}

static bool vendor_is_amd(void)
{
    u32 ebx = host_leaf(0, 0).ebx;

    return ebx == 0x68747541 /* Auth(enticAMD) */ || ebx == 0x6f677948 /* Hygo(nGenuine) */;
}

/*
 * Not affected: RDCL, L1D flush on entry, SSB, MDS, page size change, TAA, stale MMIO data (three),
 * BHI, PBRSB, GDS, RFDS, ITS; and IBRS once enabled holds for all modes. Why: cpuid.h.
 */
#define ARCH_CAPABILITIES                                                                                   \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) | \
     BIT(24) | BIT(26) | BIT(27) | BIT(62))

int cpuid_build(struct cpuid_table *t, const char *model, unsigned vcpus, u32 tsc_khz, struct error *err)
{
    struct builder b = {.t = t, .vcpus = vcpus, .tsc_khz = tsc_khz, .host_xcr0 = host_xcr0()};
    int rc = parse_model(model, &b.level, err);

    if (rc)
        return rc;
    BUG_ON(!vcpus || vcpus > 255);
    memset(t, 0, sizeof *t);
    t->amd = vendor_is_amd();
    t->arch_capabilities = ARCH_CAPABILITIES;
    add_basic(&b);
    if (b.level >= LEVEL_V3)
        add_features(&b, true, 0xd, 1);
    add_hypervisor(&b);
    add_extended(&b);
    rc = offer_features(&b, model, err);
    if (rc)
        return rc;
    add_xsave(&b);
    finish(&b);
    BUG_ON(b.full);
    return 0;
}

unsigned cpuid_xsave_offset(const struct cpuid_table *t, u64 components, unsigned i, bool compacted)
{
    const struct cpuid_leaf *l = cpuid_find(t, 0xd, i);
    unsigned at = 576;

    if (!l)
        return at;
    if (!compacted)
        return l->ebx;
    for (unsigned j = 2; j <= i; j++) {
        l = cpuid_find(t, 0xd, j);
        if (!(components >> j & 1) || !l)
            continue;
        if (l->ecx & 2)
            at = ALIGN_UP(at, 64u);
        if (j < i)
            at += l->eax;
    }
    return at;
}

unsigned cpuid_xsave_size(const struct cpuid_table *t, u64 components, bool compacted)
{
    unsigned size = 576; /* the legacy area and the header */

    for (unsigned i = 2; i < 63; i++) {
        const struct cpuid_leaf *l = cpuid_find(t, 0xd, i);

        if ((components >> i & 1) && l)
            size = MAX(size, cpuid_xsave_offset(t, components, i, compacted) + l->eax);
    }
    return size;
}

/* Words that depend on the CPU that asks and on its control registers. */
static void fill_dynamic(const struct cpuid_table *t, const struct cpuid_context *in, struct cpuid_leaf *l)
{
    switch (l->leaf) {
    case 1:
        l->ebx |= (in->apic_id & 0xff) << 24;
        if (in->osxsave)
            l->ecx |= BIT(27);
        if (!in->apic_enabled)
            l->edx &= ~BIT(9);
        break;
    case 7:
        if (l->subleaf == 0 && in->ospke)
            l->ecx |= BIT(4);
        break;
    case 0xb:
    case 0x1f: l->edx = in->apic_id; break;
    case 0xd:
        if (l->subleaf == 0)
            l->ebx = cpuid_xsave_size(t, in->xcr0, false);
        else if (l->subleaf == 1)
            l->ebx = cpuid_xsave_size(t, in->xcr0 | in->xss, true);
        break;
    case 0x80000001:
        if (t->amd && !in->apic_enabled)
            l->edx &= ~BIT(9);
        break;
    case 0x8000001e:
        l->eax = in->apic_id;
        l->ebx = in->apic_id & 0xff;
        break;
    }
}

/* Past the last leaf Intel answers with the data of the last basic one, AMD with zeros. */
static u32 effective_leaf(const struct cpuid_table *t, u32 leaf)
{
    u32 basic_max = cpuid_find(t, 0, 0)->eax, extended_max = cpuid_find(t, 0x80000000, 0)->eax;
    bool hypervisor = leaf >= 0x40000000 && leaf <= 0x400000ff;

    if (t->amd || hypervisor || leaf <= basic_max || (leaf >= 0x80000000 && leaf <= extended_max))
        return leaf;
    return basic_max;
}

void cpuid_lookup(const struct cpuid_table *t, const struct cpuid_context *in, u32 out[4])
{
    u32 leaf = effective_leaf(t, in->eax);
    const struct cpuid_leaf *found = cpuid_find(t, leaf, in->ecx);
    struct cpuid_leaf l = {.leaf = leaf, .subleaf = in->ecx};

    if (found)
        l = *found;
    else if (leaf == 0xb || leaf == 0x1f)
        l.ecx = in->ecx & 0xff; /* an invalid level repeats its number */
    fill_dynamic(t, in, &l);
    out[0] = l.eax;
    out[1] = l.ebx;
    out[2] = l.ecx;
    out[3] = l.edx;
}
