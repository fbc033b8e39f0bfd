#include "soft/features.h"

/* Up to three features that must all be there. NO_FEATURE fills the list. */
enum { NO_FEATURE = -1 };

struct isa_set_features {
    bool known;
    i8 need[3];
};

/* clang-format off */
#define NEED1(a) {true, {CPUID_##a, NO_FEATURE, NO_FEATURE}}
#define NEED2(a, b) {true, {CPUID_##a, CPUID_##b, NO_FEATURE}}
#define NEED3(a, b, c) {true, {CPUID_##a, CPUID_##b, CPUID_##c}}
#define NEED0 {true, {NO_FEATURE, NO_FEATURE, NO_FEATURE}}
#define SET(s) [ZYDIS_ISA_SET_##s]
/* AVX-512 families come in three lengths; the shorter ones need AVX512VL as well. */
#define AVX512_LENGTHS(s, f) \
    SET(s##_128) = NEED2(f, AVX512VL), SET(s##_256) = NEED2(f, AVX512VL), SET(s##_512) = NEED2(f, AVX512F)

static const struct isa_set_features sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    SET(I86) = NEED0, SET(I186) = NEED0, SET(I286PROTECTED) = NEED0, SET(I286REAL) = NEED0,
    SET(I386) = NEED0, SET(I486) = NEED0, SET(I486REAL) = NEED0, SET(PENTIUMREAL) = NEED0,
    SET(PPRO) = NEED0, SET(FAT_NOP) = NEED0, SET(PREFETCH_NOP) = NEED0, SET(PAUSE) = NEED0,
    SET(RDPMC) = NEED0, SET(LONGMODE) = NEED1(LM), SET(AMD) = NEED0, SET(X87) = NEED1(FPU),
    SET(CMOV) = NEED1(CMOV), SET(FCMOV) = NEED2(FPU, CMOV), SET(PENTIUMMMX) = NEED1(MMX),
    SET(LAHF) = NEED0, SET(CMPXCHG16B) = NEED1(CX16),
    SET(FXSAVE) = NEED1(FXSR), SET(FXSAVE64) = NEED1(FXSR),
    SET(SSE) = NEED1(SSE), SET(SSEMXCSR) = NEED1(SSE), SET(SSE_PREFETCH) = NEED1(SSE),
    SET(SSE2) = NEED1(SSE2), SET(SSE2MMX) = NEED1(SSE2), SET(SSE3) = NEED1(SSE3),
    SET(SSE3X87) = NEED1(SSE3), SET(SSSE3) = NEED1(SSSE3), SET(SSSE3MMX) = NEED1(SSSE3),
    SET(SSE4) = NEED1(SSE41), SET(SSE42) = NEED1(SSE42), SET(SSE4A) = NEED1(SSE4A),
    SET(AES) = NEED1(AES), SET(PCLMULQDQ) = NEED1(PCLMUL), SET(SHA) = NEED1(SHA), SET(GFNI) = NEED1(GFNI),
    SET(AVX) = NEED1(AVX), SET(AVX2) = NEED1(AVX2), SET(AVX2GATHER) = NEED1(AVX2), SET(FMA) = NEED1(FMA),
    SET(F16C) = NEED1(F16C), SET(AVXAES) = NEED2(AVX, AES), SET(AVX_GFNI) = NEED2(AVX, GFNI),
    SET(VAES) = NEED2(AVX, VAES), SET(VPCLMULQDQ) = NEED2(AVX, VPCLMUL), SET(AVX_VNNI) = NEED1(AVX_VNNI),
    SET(BMI1) = NEED1(BMI1), SET(BMI2) = NEED1(BMI2), SET(LZCNT) = NEED1(LZCNT), SET(POPCNT) = NEED1(POPCNT),
    SET(MOVBE) = NEED1(MOVBE), SET(ADOX_ADCX) = NEED1(ADX), SET(RDRAND) = NEED1(RDRAND),
    SET(RDSEED) = NEED1(RDSEED), SET(RDPID) = NEED1(RDPID), SET(RDTSCP) = NEED1(RDTSCP),
    SET(RDWRFSGS) = NEED1(FSGSBASE), SET(SMAP) = NEED1(SMAP), SET(INVPCID) = NEED1(INVPCID),
    SET(CLFSH) = NEED1(CLFSH), SET(CLFLUSHOPT) = NEED1(CLFLUSHOPT), SET(CLWB) = NEED1(CLWB),
    SET(PREFETCHWT1) = NEED0, SET(CLDEMOTE) = NEED0, SET(PKU) = NEED1(PKU), SET(CLZERO) = NEED1(CLZERO),
    SET(MONITOR) = NEED0, /* does nothing, which kernels that use it unasked can live with */
    SET(XSAVE) = NEED1(XSAVE), SET(XSAVEOPT) = NEED1(XSAVEOPT), SET(XSAVEC) = NEED1(XSAVEC),
    SET(XSAVES) = NEED1(XSAVES),
    SET(CET) = NEED0, /* without CET, ENDBR and RDSSP are NOPs and the others do not get here */
    SET(VTX) = NEED0, /* VMCALL is a hypercall; the rest is #UD by its mnemonic below */
    SET(SVM) = NEED0, /* likewise VMMCALL */

    AVX512_LENGTHS(AVX512F, AVX512F), SET(AVX512F_128N) = NEED1(AVX512F),
    SET(AVX512F_KOP) = NEED1(AVX512F), SET(AVX512F_SCALAR) = NEED1(AVX512F),
    AVX512_LENGTHS(AVX512BW, AVX512BW), SET(AVX512BW_128N) = NEED1(AVX512BW),
    SET(AVX512BW_KOP) = NEED1(AVX512BW),
    AVX512_LENGTHS(AVX512DQ, AVX512DQ), SET(AVX512DQ_128N) = NEED1(AVX512DQ),
    SET(AVX512DQ_KOP) = NEED1(AVX512DQ), SET(AVX512DQ_SCALAR) = NEED1(AVX512DQ),
    AVX512_LENGTHS(AVX512CD, AVX512CD), AVX512_LENGTHS(AVX512_BF16, AVX512_BF16),
    AVX512_LENGTHS(AVX512_BITALG, AVX512_BITALG), AVX512_LENGTHS(AVX512_FP16, AVX512_FP16),
    SET(AVX512_FP16_128N) = NEED1(AVX512_FP16), SET(AVX512_FP16_SCALAR) = NEED1(AVX512_FP16),
    AVX512_LENGTHS(AVX512_IFMA, AVX512_IFMA), AVX512_LENGTHS(AVX512_VBMI, AVX512_VBMI),
    AVX512_LENGTHS(AVX512_VBMI2, AVX512_VBMI2), AVX512_LENGTHS(AVX512_VNNI, AVX512_VNNI),
    AVX512_LENGTHS(AVX512_VP2INTERSECT, AVX512_VP2INTERSECT),
    AVX512_LENGTHS(AVX512_VPOPCNTDQ, AVX512_VPOPCNTDQ),
    SET(AVX512_GFNI_128) = NEED3(AVX512F, AVX512VL, GFNI), SET(AVX512_GFNI_256) = NEED3(AVX512F, AVX512VL, GFNI),
    SET(AVX512_GFNI_512) = NEED2(AVX512F, GFNI),
    SET(AVX512_VAES_128) = NEED3(AVX512F, AVX512VL, VAES), SET(AVX512_VAES_256) = NEED3(AVX512F, AVX512VL, VAES),
    SET(AVX512_VAES_512) = NEED2(AVX512F, VAES),
    SET(AVX512_VPCLMULQDQ_128) = NEED3(AVX512F, AVX512VL, VPCLMUL),
    SET(AVX512_VPCLMULQDQ_256) = NEED3(AVX512F, AVX512VL, VPCLMUL),
    SET(AVX512_VPCLMULQDQ_512) = NEED2(AVX512F, VPCLMUL),
};
/* clang-format on */

bool insn_offered(const struct cpuid_table *t, const ZydisDecodedInstruction *insn)
{
    const struct isa_set_features *f = &sets[insn->meta.isa_set];

    if (!f->known)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(f->need); i++)
        if (f->need[i] != NO_FEATURE && !cpuid_has(t, (enum cpuid_feature)f->need[i]))
            return false;
    /* What the tables of ISA sets blur. */
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VPCLMULQDQ: return cpuid_has(t, CPUID_PCLMUL);
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV: return cpuid_has(t, CPUID_XSAVE);
    default: break;
    }
    if (insn->meta.isa_set == ZYDIS_ISA_SET_VTX)
        return insn->mnemonic == ZYDIS_MNEMONIC_VMCALL;
    if (insn->meta.isa_set == ZYDIS_ISA_SET_SVM)
        return insn->mnemonic == ZYDIS_MNEMONIC_VMMCALL;
    return true;
}

void insn_decoder_init(ZydisDecoder *d, const struct cpuid_table *t, ZydisMachineMode mode,
                       ZydisStackWidth stack)
{
    ZydisDecoderInit(d, mode, stack);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, false);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, false);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, t->amd);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, cpuid_has(t, CPUID_LZCNT));
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, cpuid_has(t, CPUID_BMI1));
}

void insn_fix_operands(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops)
{
    if (!(insn->attributes & ZYDIS_ATTRIB_HAS_SIB) || insn->raw.modrm.mod != 0 || insn->raw.sib.base != 5)
        return;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        ZydisDecodedOperand *op = &ops[i];

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
            continue;
        op->mem.base = ZYDIS_REGISTER_NONE;
        op->mem.disp.has_displacement = true;
        op->mem.disp.value = insn->raw.disp.value;
    }
}
