#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "x86/cpuid.h"
#include "x86/regs.h"

#define TSC_KHZ 2500000u

static struct cpuid_table build(const char *model, unsigned vcpus)
{
    struct cpuid_table t;
    struct error err = {0};
    int rc = cpuid_build(&t, model, vcpus, TSC_KHZ, &err);

    if (rc)
        fail_msg("%s: %s", model, err.text);
    return t;
}

static void lookup(const struct cpuid_table *t, u32 leaf, u32 subleaf, unsigned apic_id, u32 out[4])
{
    struct cpuid_context in = {.eax = leaf,
                               .ecx = subleaf,
                               .apic_id = apic_id,
                               .osxsave = true,
                               .apic_enabled = true,
                               .xcr0 = t->xcr0_mask};

    cpuid_lookup(t, &in, out);
}

static bool host_has_v3(void)
{
    struct cpuid_table t;

    return !cpuid_build(&t, "x86-64-v3", 1, TSC_KHZ, NULL);
}

static void rejects_unknown_model(void **state)
{
    struct cpuid_table t;
    struct error err = {0};

    assert_true(cpuid_build(&t, "pentium", 1, TSC_KHZ, &err) < 0);
    assert_non_null(strstr(err.text, "pentium"));
}

static void every_leaf_appears_once(void **state)
{
    struct cpuid_table t = build("host", 4);

    for (unsigned i = 0; i < t.count; i++)
        for (unsigned j = i + 1; j < t.count; j++)
            if (t.leaf[i].leaf == t.leaf[j].leaf &&
                (!t.leaf[i].indexed || !t.leaf[j].indexed || t.leaf[i].subleaf == t.leaf[j].subleaf))
                fail_msg("leaf %x.%x stands twice", t.leaf[i].leaf, t.leaf[i].subleaf);
}

static void no_leaf_lies_past_its_range(void **state)
{
    struct cpuid_table t = build("host", 2);
    u32 basic[4], hyper[4], ext[4];

    lookup(&t, 0, 0, 0, basic);
    lookup(&t, 0x40000000, 0, 0, hyper);
    lookup(&t, 0x80000000, 0, 0, ext);
    for (unsigned i = 0; i < t.count; i++) {
        u32 leaf = t.leaf[i].leaf;
        u32 max = leaf >= 0x80000000 ? ext[0] : leaf >= 0x40000000 ? hyper[0] : basic[0];

        assert_in_range(leaf, leaf & 0xf0000000, max);
    }
}

static void v2_has_the_level_and_not_more(void **state)
{
    static const enum cpuid_feature has[] = {
        CPUID_CX16, CPUID_LAHF_LM, CPUID_POPCNT, CPUID_SSE3, CPUID_SSE41, CPUID_SSE42, CPUID_SSSE3,
        CPUID_FPU,  CPUID_MMX,     CPUID_SSE2,   CPUID_FXSR, CPUID_CMOV,  CPUID_CX8,   CPUID_SYSCALL};
    static const enum cpuid_feature lacks[] = {CPUID_AVX,   CPUID_AVX2, CPUID_BMI1,   CPUID_FMA,
                                               CPUID_XSAVE, CPUID_AES,  CPUID_RDRAND, CPUID_AVX512F};
    struct cpuid_table t = build("x86-64-v2", 1);

    for (unsigned i = 0; i < ARRAY_SIZE(has); i++)
        assert_true(cpuid_has(&t, has[i]));
    for (unsigned i = 0; i < ARRAY_SIZE(lacks); i++)
        assert_false(cpuid_has(&t, lacks[i]));
    assert_int_equal(t.xcr0_mask, 0);
}

static void v3_has_the_level_and_not_more(void **state)
{
    static const enum cpuid_feature has[] = {CPUID_AVX, CPUID_AVX2,  CPUID_BMI1,  CPUID_BMI2,  CPUID_F16C,
                                             CPUID_FMA, CPUID_LZCNT, CPUID_MOVBE, CPUID_XSAVE, CPUID_SSE42};
    static const enum cpuid_feature lacks[] = {CPUID_AVX512F, CPUID_SHA, CPUID_GFNI, CPUID_VAES,
                                               CPUID_RDSEED};
    struct cpuid_table t;

    if (!host_has_v3())
        return;
    t = build("x86-64-v3", 1);
    for (unsigned i = 0; i < ARRAY_SIZE(has); i++)
        assert_true(cpuid_has(&t, has[i]));
    for (unsigned i = 0; i < ARRAY_SIZE(lacks); i++)
        assert_false(cpuid_has(&t, lacks[i]));
    assert_int_equal(t.xcr0_mask, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}

static void what_we_do_not_implement_is_never_offered(void **state)
{
    struct cpuid_table t = build("host", 2);
    u32 r[4];

    lookup(&t, 1, 0, 0, r);
    assert_int_equal(r[2] & (BIT(3) | BIT(5) | BIT(6) | BIT(15)), 0); /* MONITOR VMX SMX PDCM */
    lookup(&t, 7, 0, 0, r);
    assert_int_equal(r[1] & (BIT(2) | BIT(4) | BIT(11) | BIT(14) | BIT(25)), 0); /* SGX HLE RTM MPX PT */
    assert_int_equal(r[2] & (BIT(3) | BIT(7) | BIT(16)), 0);                     /* PKU CET LA57 */
    assert_int_equal(r[3] & (BIT(20) | BIT(22) | BIT(24) | BIT(25)), 0);         /* IBT AMX */
    lookup(&t, 0xa, 0, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    lookup(&t, 0x80000001, 0, 0, r);
    assert_int_equal(r[2] & (BIT(2) | BIT(11) | BIT(16)), 0); /* SVM XOP FMA4 */
    assert_int_equal(r[3] & (BIT(30) | BIT(31)), 0);          /* 3DNow */
    if (t.amd) {
        lookup(&t, 0x8000000a, 0, 0, r);
        assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    }
}

static void topology_counts_every_vcpu_as_a_core(void **state)
{
    struct cpuid_table t = build("host", 6);
    u32 r[4];

    lookup(&t, 1, 0, 5, r);
    assert_int_equal(r[1] >> 24, 5);
    assert_int_equal(r[1] >> 16 & 0xff, 6);
    assert_true(r[3] & BIT(28));
    lookup(&t, 0xb, 0, 5, r);
    assert_int_equal(r[0], 0);
    assert_int_equal(r[1], 1);
    assert_int_equal(r[2], 0x100);
    assert_int_equal(r[3], 5);
    lookup(&t, 0xb, 1, 5, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 6);
    assert_int_equal(r[2], 0x201);
    lookup(&t, 0xb, 2, 5, r);
    assert_int_equal(r[1], 0);
    assert_int_equal(r[2], 2);
    assert_int_equal(r[3], 5);
    if (t.amd) {
        lookup(&t, 0x80000008, 0, 5, r);
        assert_int_equal(r[2] & 0xff, 5);
        assert_int_equal(r[2] >> 12 & 0xf, 3);
    }
}

static void caches_are_shared_by_one_or_all(void **state)
{
    struct cpuid_table t = build("host", 3);
    u32 leaf = t.amd ? 0x8000001d : 4, r[4];
    unsigned levels = 0;

    if (!cpuid_find(&t, leaf, 0))
        return;
    for (u32 sub = 0; sub < 8; sub++) {
        lookup(&t, leaf, sub, 0, r);
        if (!(r[0] & 0x1f))
            break;
        levels++;
        assert_int_equal(bits(r[0], 25, 14), bits(r[0], 7, 5) == 3 ? 2 : 0);
    }
    assert_in_range(levels, 1, 7);
}

static void xsave_sizes_follow_xcr0(void **state)
{
    struct cpuid_table t = build("host", 1);
    struct cpuid_context in = {.eax = 0xd, .xcr0 = X86_XCR0_X87 | X86_XCR0_SSE};
    u32 r[4];

    if (!cpuid_has(&t, CPUID_AVX))
        return;
    cpuid_lookup(&t, &in, r);
    assert_int_equal(r[0], (u32)t.xcr0_mask);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], cpuid_xsave_size(&t, t.xcr0_mask, false));
    in.xcr0 |= X86_XCR0_AVX;
    cpuid_lookup(&t, &in, r);
    assert_int_equal(r[1], 832);
    in.ecx = 1;
    cpuid_lookup(&t, &in, r);
    assert_int_equal(r[1], 832);
    for (unsigned i = 2; i < 63; i++) {
        in.ecx = i;
        cpuid_lookup(&t, &in, r);
        assert_int_equal(r[0] != 0, t.xcr0_mask >> i & 1);
    }
}

static void compacted_layout_packs_what_is_there(void **state)
{
    struct cpuid_table t = {
        .count = 2,
        .leaf = {{.leaf = 0xd, .subleaf = 5, .indexed = true, .eax = 8, .ebx = 1088},
                 {.leaf = 0xd, .subleaf = 6, .indexed = true, .eax = 512, .ebx = 1152, .ecx = 2}}};

    assert_int_equal(cpuid_xsave_offset(&t, BIT(5) | BIT(6), 5, true), 576);
    assert_int_equal(cpuid_xsave_offset(&t, BIT(5) | BIT(6), 6, true), 640);
    assert_int_equal(cpuid_xsave_offset(&t, BIT(6), 6, true), 576);
    assert_int_equal(cpuid_xsave_offset(&t, BIT(6), 6, false), 1152);
    assert_int_equal(cpuid_xsave_size(&t, BIT(5) | BIT(6), true), 1152);
    assert_int_equal(cpuid_xsave_size(&t, BIT(5) | BIT(6), false), 1664);
    assert_int_equal(cpuid_xsave_size(&t, 3, true), 576);
}

static void dynamic_bits_follow_the_control_registers(void **state)
{
    struct cpuid_table t = build("host", 1);
    struct cpuid_context in = {.eax = 1};
    u32 r[4];

    cpuid_lookup(&t, &in, r);
    assert_false(r[2] & BIT(27));
    assert_false(r[3] & BIT(9));
    in.osxsave = in.apic_enabled = true;
    cpuid_lookup(&t, &in, r);
    assert_true(r[2] & BIT(27));
    assert_true(r[3] & BIT(9));
}

static void hypervisor_leaves_give_kvm_clock_and_frequencies(void **state)
{
    struct cpuid_table t = build("host", 1);
    u32 r[4];

    lookup(&t, 1, 0, 0, r);
    assert_true(r[2] & BIT(31));
    lookup(&t, 0x40000000, 0, 0, r);
    assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
    lookup(&t, 0x40000001, 0, 0, r);
    assert_int_equal(r[0], BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(24));
    lookup(&t, 0x40000010, 0, 0, r);
    assert_int_equal(r[0], TSC_KHZ);
    assert_int_equal(r[1], 1000000);
}

static void no_measure_against_speculation_is_asked_for(void **state)
{
    struct cpuid_table t = build("x86-64-v2", 1);

    assert_int_equal(cpuid_has(&t, CPUID_AUTO_IBRS), t.amd);
    assert_int_equal(cpuid_has(&t, CPUID_SRSO_NO), t.amd);
    assert_int_equal(cpuid_has(&t, CPUID_BTC_NO), t.amd);
    assert_int_equal(cpuid_has(&t, CPUID_ARCH_CAPABILITIES), !t.amd);
    assert_int_equal(cpuid_has(&t, CPUID_SPEC_CTRL), !t.amd);
}

static void tsc_leaf_gives_the_frequency(void **state)
{
    struct cpuid_table t = build("host", 1);
    u32 r[4];

    if (!cpuid_find(&t, 0x15, 0))
        return;
    lookup(&t, 0x15, 0, 0, r);
    assert_int_equal((u64)r[2] * r[1] / r[0], TSC_KHZ * 1000ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rejects_unknown_model),
        cmocka_unit_test(every_leaf_appears_once),
        cmocka_unit_test(no_leaf_lies_past_its_range),
        cmocka_unit_test(v2_has_the_level_and_not_more),
        cmocka_unit_test(v3_has_the_level_and_not_more),
        cmocka_unit_test(what_we_do_not_implement_is_never_offered),
        cmocka_unit_test(topology_counts_every_vcpu_as_a_core),
        cmocka_unit_test(caches_are_shared_by_one_or_all),
        cmocka_unit_test(xsave_sizes_follow_xcr0),
        cmocka_unit_test(compacted_layout_packs_what_is_there),
        cmocka_unit_test(dynamic_bits_follow_the_control_registers),
        cmocka_unit_test(hypervisor_leaves_give_kvm_clock_and_frequencies),
        cmocka_unit_test(no_measure_against_speculation_is_asked_for),
        cmocka_unit_test(tsc_leaf_gives_the_frequency),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
