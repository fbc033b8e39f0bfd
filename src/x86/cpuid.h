/*
 * The CPU that a guest sees: a table of CPUID leaves made from what the host has, what the engines
 * implement and the model the user asked for.
 */
#ifndef TRAPEZE_X86_CPUID_H
#define TRAPEZE_X86_CPUID_H

#include "base/compiler.h"
#include "base/error.h"

struct cpuid_leaf {
    u32 leaf, subleaf;
    bool indexed; /* subleaf matters */
    u32 eax, ebx, ecx, edx;
};

#define CPUID_MAX_LEAVES 96

struct cpuid_table {
    struct cpuid_leaf leaf[CPUID_MAX_LEAVES];
    unsigned count;
    bool amd;      /* vendor is AuthenticAMD or HygonGenuine: SYSENTER in long mode, SYSRET rules, ... */
    u64 xcr0_mask; /* XCR0 bits a guest may set */
    u64 xss_mask;
    unsigned maxphyaddr;
    u64 arch_capabilities; /* the MSR, where CPUID says that there is one */
    bool host_tsc; /* the guest's TSC is the host's: an engine that cannot shift it may run the guest */
};

/*
 * Feature bits by name: leaf, sub-leaf, register and bit; the least model that offers it (BASE: every
 * one, V2 and V3: the levels of the psABI, HOST: only "host", NONE: never from this list, named so
 * that it can be asked for); and what it rests on: our own code (EMULATED, and INTEL for that vendor
 * alone), or the host's having it (NATIVE), with the register state that its system enables (AVX,
 * AVX512). A bit that is not listed is not offered, apart from those of cpuid.c's topology.
 *
 * Speculation. No branch of a guest runs as that branch under a software engine, so the measures
 * that a system takes in its own code against what its processes taught the branch predictors, or
 * left in buffers, cost much there and protect nothing. The bits that say "not affected" spare them:
 * automatic IBRS, BTC_NO, SRSO_NO, TSA_*_NO on AMD, ARCH_CAPABILITIES on Intel.
 */
/* clang-format off */
#define CPUID_FEATURES(X)                                          \
    X(SSE3, 1, 0, ecx, 0, V2, NATIVE)                              \
    X(PCLMUL, 1, 0, ecx, 1, HOST, NATIVE)                          \
    X(MONITOR, 1, 0, ecx, 3, NONE, EMULATED)                       \
    X(SSSE3, 1, 0, ecx, 9, V2, NATIVE)                             \
    X(FMA, 1, 0, ecx, 12, V3, AVX)                                 \
    X(CX16, 1, 0, ecx, 13, V2, EMULATED)                           \
    X(PCID, 1, 0, ecx, 17, BASE, EMULATED)                         \
    X(SSE41, 1, 0, ecx, 19, V2, NATIVE)                            \
    X(SSE42, 1, 0, ecx, 20, V2, NATIVE)                            \
    X(X2APIC, 1, 0, ecx, 21, BASE, EMULATED)                       \
    X(MOVBE, 1, 0, ecx, 22, V3, NATIVE)                            \
    X(POPCNT, 1, 0, ecx, 23, V2, NATIVE)                           \
    X(TSC_DEADLINE, 1, 0, ecx, 24, BASE, EMULATED)                 \
    X(AES, 1, 0, ecx, 25, HOST, NATIVE)                            \
    X(XSAVE, 1, 0, ecx, 26, V3, EMULATED)                          \
    X(AVX, 1, 0, ecx, 28, V3, AVX)                                 \
    X(F16C, 1, 0, ecx, 29, V3, AVX)                                \
    X(RDRAND, 1, 0, ecx, 30, HOST, NATIVE)                         \
    X(HYPERVISOR, 1, 0, ecx, 31, BASE, EMULATED)                   \
    X(FPU, 1, 0, edx, 0, BASE, EMULATED)                           \
    X(VME, 1, 0, edx, 1, BASE, EMULATED)                           \
    X(DE, 1, 0, edx, 2, BASE, EMULATED)                            \
    X(PSE, 1, 0, edx, 3, BASE, EMULATED)                           \
    X(TSC, 1, 0, edx, 4, BASE, EMULATED)                           \
    X(MSR, 1, 0, edx, 5, BASE, EMULATED)                           \
    X(PAE, 1, 0, edx, 6, BASE, EMULATED)                           \
    X(MCE, 1, 0, edx, 7, BASE, EMULATED)                           \
    X(CX8, 1, 0, edx, 8, BASE, EMULATED)                           \
    X(APIC, 1, 0, edx, 9, BASE, EMULATED)                          \
    X(SEP, 1, 0, edx, 11, BASE, EMULATED)                          \
    X(MTRR, 1, 0, edx, 12, BASE, EMULATED)                         \
    X(PGE, 1, 0, edx, 13, BASE, EMULATED)                          \
    X(MCA, 1, 0, edx, 14, BASE, EMULATED)                          \
    X(CMOV, 1, 0, edx, 15, BASE, EMULATED)                         \
    X(PAT, 1, 0, edx, 16, BASE, EMULATED)                          \
    X(PSE36, 1, 0, edx, 17, BASE, EMULATED)                        \
    X(CLFSH, 1, 0, edx, 19, BASE, EMULATED)                        \
    X(MMX, 1, 0, edx, 23, BASE, EMULATED)                          \
    X(FXSR, 1, 0, edx, 24, BASE, EMULATED)                         \
    X(SSE, 1, 0, edx, 25, BASE, EMULATED)                          \
    X(SSE2, 1, 0, edx, 26, BASE, EMULATED)                         \
    X(HTT, 1, 0, edx, 28, NONE, EMULATED)                          \
    X(ARAT, 6, 0, eax, 2, BASE, EMULATED)                          \
    X(FSGSBASE, 7, 0, ebx, 0, BASE, EMULATED)                      \
    X(TSC_ADJUST, 7, 0, ebx, 1, BASE, EMULATED)                    \
    X(BMI1, 7, 0, ebx, 3, V3, NATIVE)                              \
    X(AVX2, 7, 0, ebx, 5, V3, AVX)                                 \
    X(FDP_EXCPTN_ONLY, 7, 0, ebx, 6, NONE, EMULATED)               \
    X(SMEP, 7, 0, ebx, 7, BASE, EMULATED)                          \
    X(BMI2, 7, 0, ebx, 8, V3, NATIVE)                              \
    X(ERMS, 7, 0, ebx, 9, BASE, EMULATED)                          \
    X(INVPCID, 7, 0, ebx, 10, BASE, EMULATED)                      \
    X(FCS_FDS_DEPRECATED, 7, 0, ebx, 13, BASE, EMULATED)           \
    X(AVX512F, 7, 0, ebx, 16, HOST, AVX512)                        \
    X(AVX512DQ, 7, 0, ebx, 17, HOST, AVX512)                       \
    X(RDSEED, 7, 0, ebx, 18, HOST, NATIVE)                         \
    X(ADX, 7, 0, ebx, 19, HOST, NATIVE)                            \
    X(SMAP, 7, 0, ebx, 20, BASE, EMULATED)                         \
    X(AVX512_IFMA, 7, 0, ebx, 21, HOST, AVX512)                    \
    X(CLFLUSHOPT, 7, 0, ebx, 23, HOST, NATIVE)                     \
    X(CLWB, 7, 0, ebx, 24, HOST, NATIVE)                           \
    X(AVX512CD, 7, 0, ebx, 28, HOST, AVX512)                       \
    X(SHA, 7, 0, ebx, 29, HOST, NATIVE)                            \
    X(AVX512BW, 7, 0, ebx, 30, HOST, AVX512)                       \
    X(AVX512VL, 7, 0, ebx, 31, HOST, AVX512)                       \
    X(AVX512_VBMI, 7, 0, ecx, 1, HOST, AVX512)                     \
    X(UMIP, 7, 0, ecx, 2, BASE, EMULATED)                          \
    X(PKU, 7, 0, ecx, 3, NONE, EMULATED)                           \
    X(AVX512_VBMI2, 7, 0, ecx, 6, HOST, AVX512)                    \
    X(GFNI, 7, 0, ecx, 8, HOST, NATIVE)                            \
    X(VAES, 7, 0, ecx, 9, HOST, AVX)                               \
    X(VPCLMUL, 7, 0, ecx, 10, HOST, AVX)                           \
    X(AVX512_VNNI, 7, 0, ecx, 11, HOST, AVX512)                    \
    X(AVX512_BITALG, 7, 0, ecx, 12, HOST, AVX512)                  \
    X(AVX512_VPOPCNTDQ, 7, 0, ecx, 14, HOST, AVX512)               \
    X(RDPID, 7, 0, ecx, 22, BASE, EMULATED)                        \
    X(FSRM, 7, 0, edx, 4, BASE, EMULATED)                          \
    X(AVX512_VP2INTERSECT, 7, 0, edx, 8, HOST, AVX512)             \
    X(AVX512_FP16, 7, 0, edx, 23, HOST, AVX512)                    \
    X(SPEC_CTRL, 7, 0, edx, 26, BASE, INTEL)                       \
    X(ARCH_CAPABILITIES, 7, 0, edx, 29, BASE, INTEL)               \
    X(AVX_VNNI, 7, 1, eax, 4, HOST, AVX)                           \
    X(AVX512_BF16, 7, 1, eax, 5, HOST, AVX512)                     \
    X(XSAVEOPT, 0xd, 1, eax, 0, V3, EMULATED)                      \
    X(XSAVEC, 0xd, 1, eax, 1, V3, EMULATED)                        \
    X(XGETBV1, 0xd, 1, eax, 2, V3, EMULATED)                       \
    X(XSAVES, 0xd, 1, eax, 3, V3, EMULATED)                        \
    X(LAHF_LM, 0x80000001, 0, ecx, 0, V2, EMULATED)                \
    X(CMP_LEGACY, 0x80000001, 0, ecx, 1, NONE, EMULATED)           \
    X(LZCNT, 0x80000001, 0, ecx, 5, V3, NATIVE)                    \
    X(SSE4A, 0x80000001, 0, ecx, 6, HOST, NATIVE)                  \
    X(MISALIGNSSE, 0x80000001, 0, ecx, 7, NONE, EMULATED)          \
    X(PREFETCHW, 0x80000001, 0, ecx, 8, BASE, EMULATED)            \
    X(TOPOEXT, 0x80000001, 0, ecx, 22, NONE, EMULATED)             \
    X(SYSCALL, 0x80000001, 0, edx, 11, BASE, EMULATED)             \
    X(NX, 0x80000001, 0, edx, 20, BASE, EMULATED)                  \
    X(MMXEXT, 0x80000001, 0, edx, 22, HOST, NATIVE)                \
    X(PDPE1GB, 0x80000001, 0, edx, 26, BASE, EMULATED)             \
    X(RDTSCP, 0x80000001, 0, edx, 27, BASE, EMULATED)              \
    X(LM, 0x80000001, 0, edx, 29, BASE, EMULATED)                  \
    X(INVARIANT_TSC, 0x80000007, 0, edx, 8, BASE, EMULATED)        \
    X(CLZERO, 0x80000008, 0, ebx, 0, NONE, EMULATED)               \
    X(BTC_NO, 0x80000008, 0, ebx, 29, BASE, EMULATED)              \
    X(LFENCE_SERIALIZING, 0x80000021, 0, eax, 2, BASE, EMULATED)   \
    X(NULL_SEL_CLEARS_BASE, 0x80000021, 0, eax, 6, NONE, EMULATED) \
    X(AUTO_IBRS, 0x80000021, 0, eax, 8, BASE, EMULATED)            \
    X(SRSO_NO, 0x80000021, 0, eax, 29, BASE, EMULATED)             \
    X(TSA_SQ_NO, 0x80000021, 0, ecx, 1, BASE, EMULATED)            \
    X(TSA_L1_NO, 0x80000021, 0, ecx, 2, BASE, EMULATED)
/* clang-format on */

enum cpuid_feature {
#define X(name, leaf, subleaf, reg, bit, level, source) CPUID_##name,
    CPUID_FEATURES(X)
#undef X
        CPUID_FEATURE_COUNT
};

bool cpuid_has(const struct cpuid_table *t, enum cpuid_feature f);

/* Whether a guest sees the same CPU through both. */
bool cpuid_equal(const struct cpuid_table *a, const struct cpuid_table *b);

/* @model: "host", "x86-64-v2", "x86-64-v3". @tsc_khz for leaves 0x15/0x16 and the hypervisor's. */
int cpuid_build(struct cpuid_table *t, const char *model, unsigned vcpus, u32 tsc_khz, struct error *err);

/* The entry for exactly this leaf (and sub-leaf, where it has some), or NULL. */
const struct cpuid_leaf *cpuid_find(const struct cpuid_table *t, u32 leaf, u32 subleaf);

/*
 * Where component @i (2..62) starts in an XSAVE area that holds @components: at its fixed place, or
 * packed after the ones before it. The size of such an area; 576 when @components has only x87 and SSE.
 */
unsigned cpuid_xsave_offset(const struct cpuid_table *t, u64 components, unsigned i, bool compacted);
unsigned cpuid_xsave_size(const struct cpuid_table *t, u64 components, bool compacted);

/* What CPUID returns. The dynamic bits (OSXSAVE, APIC id, XSAVE sizes) are filled from the arguments. */
struct cpuid_context {
    u32 eax, ecx;
    unsigned apic_id;
    bool osxsave, ospke, apic_enabled;
    u64 xcr0, xss;
};
void cpuid_lookup(const struct cpuid_table *t, const struct cpuid_context *in, u32 out[4]);

#endif
