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
};

/* Feature bits by name, so that handlers can ask what is offered. */
#define CPUID_FEATURES(X)                                                                                    \
    X(SSE3, 1, 0, ecx, 0)                                                                                    \
    X(PCLMUL, 1, 0, ecx, 1) X(MONITOR, 1, 0, ecx, 3) X(SSSE3, 1, 0, ecx, 9) X(FMA, 1, 0, ecx, 12)            \
        X(CX16, 1, 0, ecx, 13) X(PCID, 1, 0, ecx, 17) X(SSE41, 1, 0, ecx, 19) X(SSE42, 1, 0, ecx, 20)        \
            X(X2APIC, 1, 0, ecx, 21) X(MOVBE, 1, 0, ecx, 22) X(POPCNT, 1, 0, ecx, 23) X(                     \
                TSC_DEADLINE, 1, 0, ecx, 24) X(AES, 1, 0, ecx, 25) X(XSAVE, 1, 0, ecx, 26)                   \
                X(AVX, 1, 0, ecx, 28) X(F16C, 1, 0, ecx, 29) X(RDRAND, 1, 0, ecx, 30) X(                     \
                    HYPERVISOR, 1, 0, ecx, 31) X(FPU, 1, 0, edx, 0) X(VME, 1, 0, edx, 1) X(DE, 1, 0, edx, 2) \
                    X(PSE, 1, 0, edx, 3) X(TSC, 1, 0, edx, 4) X(PAE, 1, 0, edx, 6) X(CX8, 1, 0, edx, 8)      \
                        X(APIC, 1, 0, edx, 9) X(SEP, 1, 0, edx, 11)                                          \
                            X(PGE, 1, 0, edx, 13) X(PSE36, 1, 0, edx, 17) X(CLFSH, 1, 0, edx, 19)            \
                                X(FSGSBASE, 7, 0, ebx, 0) X(TSC_ADJUST, 7, 0, ebx, 1) X(BMI1, 7, 0, ebx, 3)  \
                                    X(AVX2, 7, 0, ebx, 5) X(SMEP, 7, 0, ebx, 7) X(BMI2, 7, 0, ebx, 8)        \
                                        X(ERMS, 7, 0, ebx, 9) X(INVPCID, 7, 0, ebx, 10)                      \
                                            X(AVX512F, 7, 0, ebx, 16) X(RDSEED, 7, 0, ebx, 18)               \
                                                X(ADX, 7, 0, ebx, 19) X(SMAP, 7, 0, ebx, 20)                 \
                                                    X(CLFLUSHOPT, 7, 0, ebx, 23) X(CLWB, 7, 0, ebx, 24)      \
                                                        X(SHA, 7, 0, ebx, 29) X(UMIP, 7, 0, ecx, 2)          \
                                                            X(PKU, 7, 0, ecx, 3) X(RDPID, 7, 0, ecx, 22) X(  \
                                                                FSRM, 7, 0, edx,                             \
                                                                4) X(SYSCALL, 0x80000001, 0, edx,            \
                                                                     11) X(NX, 0x80000001, 0, edx, 20)       \
                                                                X(PDPE1GB, 0x80000001, 0, edx,               \
                                                                  26) X(RDTSCP, 0x80000001, 0, edx, 27)      \
                                                                    X(LM, 0x80000001, 0, edx, 29) X(         \
                                                                        LAHF_LM, 0x80000001, 0, ecx,         \
                                                                        0) X(LZCNT, 0x80000001, 0, ecx, 5)   \
                                                                        X(PREFETCHW, 0x80000001, 0, ecx,     \
                                                                          8) X(XSAVEOPT, 0xd, 1, eax,        \
                                                                               0) X(XSAVEC, 0xd, 1, eax, 1)  \
                                                                            X(XGETBV1, 0xd, 1, eax, 2)       \
                                                                                X(XSAVES, 0xd, 1, eax, 3)

enum cpuid_feature {
#define X(name, leaf, subleaf, reg, bit) CPUID_##name,
    CPUID_FEATURES(X)
#undef X
        CPUID_FEATURE_COUNT
};

bool cpuid_has(const struct cpuid_table *t, enum cpuid_feature f);

/* @model: "host", "x86-64-v2", "x86-64-v3". @tsc_khz for leaves 0x15/0x16 and the hypervisor's. */
int cpuid_build(struct cpuid_table *t, const char *model, unsigned vcpus, u32 tsc_khz, struct error *err);

/* What CPUID returns. The dynamic bits (OSXSAVE, APIC id, XSAVE sizes) are filled from the arguments. */
struct cpuid_context {
    u32 eax, ecx;
    unsigned apic_id;
    bool osxsave, ospke, apic_enabled;
    u64 xcr0, xss;
};
void cpuid_lookup(const struct cpuid_table *t, const struct cpuid_context *in, u32 out[4]);

#endif
