/*
 * Making cases. A form is one encoding: encoding space, opcode map, mandatory prefix, W, L, opcode,
 * ModRM.reg where it selects the instruction, register or memory operand, and for EVEX broadcast,
 * masking and zeroing. All forms are found by trying every combination on the decoder, so nothing
 * that it knows is left out by oversight; what is left out on purpose stands in isa_exclusion().
 *
 * An instance fills the form with random registers, addressing and immediates, decodes the result,
 * and then arranges the register file so that memory operands fall into the window, mostly inside,
 * sometimes over its ends, on the read-only page or nowhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "soft/features.h"

enum encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };

struct form {
    u8 encoding, map, pp, w, l, opcode;
    u8 reg, rm; /* fallback ModRM fields with which the form decodes */
    bool has_modrm, mem;
    u8 broadcast, mask, zeroing; /* EVEX */
    bool lock;
    ZydisMnemonic mnemonic;
};

struct isa_generator {
    const struct cpuid_table *cpuid;
    bool mode32, absent;
    ZydisDecoder decoder;
    u64 rng;
    struct form *forms;
    u32 count, capacity;
    u32 first[ZYDIS_MNEMONIC_MAX_VALUE + 2]; /* forms of mnemonic M: first[M] .. first[M + 1] */
    ZydisMnemonic present[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    u32 present_count;
    u64 cases[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/* --- random numbers --- */

static u64 next(struct isa_generator *g)
{
    u64 z = g->rng += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static u64 below(struct isa_generator *g, u64 n)
{
    return next(g) % n;
}
static bool chance(struct isa_generator *g, unsigned percent)
{
    return below(g, 100) < percent;
}

/* --- what is not compared --- */

const char *isa_exclusion(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1: return "enters the host's kernel";
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS: return "depends on the host kernel's descriptor tables";
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW: return "shows the host kernel's system registers, or UMIP";
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED: return "gives another value each time or on each machine";
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: return "the base registers belong to the host's thread library";
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64: return "images hold code addresses and XCR0; has unit tests";
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL: return "calls the host's hypervisor";
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ: return "random TF ends the case early; has unit tests";
    default: return NULL;
    }
}

static bool is_branch(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR: return true;
    default: return false;
    }
}

static bool is_far(const ZydisDecodedInstruction *insn)
{
    return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

/* --- encoding --- */

struct bytes {
    u8 b[32];
    u32 n;
};

static void emit(struct bytes *o, u8 byte)
{
    o->b[o->n++] = byte;
}

/* The register and addressing fields of an instance, before they are spread over the prefixes. */
struct fields {
    u8 reg, rm, index, vvvv, aaa; /* reg, vvvv: 5 bits; rm, index: 4 bits (5 for EVEX registers) */
    u8 mod, scale;
    bool sib, addr32;
    u8 extra[2], extras; /* prefixes that may mean nothing */
};

static void emit_prefixes(struct bytes *o, const struct form *f, const struct fields *v, bool mode32)
{
    static const u8 mandatory[] = {0, 0x66, 0xf3, 0xf2};
    u8 r = (v->reg >> 3) & 1, x = (v->index >> 3) & 1, b = (v->rm >> 3) & 1;
    for (unsigned i = 0; i < v->extras; i++)
        emit(o, v->extra[i]);
    if (v->addr32)
        emit(o, 0x67);
    if (f->encoding == ENC_LEGACY) {
        if (f->lock)
            emit(o, 0xf0);
        if (f->pp)
            emit(o, mandatory[f->pp]);
        u8 rex = (u8)(0x40 | f->w << 3 | r << 2 | x << 1 | b);
        if (!mode32 && rex != 0x40)
            emit(o, rex);
        if (f->map)
            emit(o, 0x0f);
        if (f->map == 2)
            emit(o, 0x38);
        if (f->map == 3)
            emit(o, 0x3a);
    } else if (f->encoding == ENC_VEX) {
        emit(o, 0xc4);
        emit(o, (u8)((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | f->map));
        emit(o, (u8)(f->w << 7 | ((~v->vvvv & 15) << 3) | f->l << 2 | f->pp));
    } else {
        u8 r2 = (v->reg >> 4) & 1, v2 = (v->vvvv >> 4) & 1;
        if (v->mod == 3)
            x = (v->rm >> 4) & 1;
        emit(o, 0x62);
        emit(o, (u8)((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (r2 ^ 1) << 4 | f->map));
        emit(o, (u8)(f->w << 7 | ((~v->vvvv & 15) << 3) | 4 | f->pp));
        emit(o, (u8)(f->zeroing << 7 | f->l << 5 | f->broadcast << 4 | (v2 ^ 1) << 3 | v->aaa));
    }
}

/* Bytes with random displacement and immediate behind them, long enough for any. */
static void encode(struct isa_generator *g, const struct form *f, const struct fields *v, struct bytes *o)
{
    o->n = 0;
    emit_prefixes(o, f, v, g->mode32);
    emit(o, f->opcode);
    if (f->has_modrm) {
        emit(o, (u8)(v->mod << 6 | (v->reg & 7) << 3 | (v->rm & 7)));
        if (v->sib && v->mod != 3)
            emit(o, (u8)(v->scale << 6 | (v->index & 7) << 3 | (v->rm & 7)));
    }
    for (u64 i = 0, r = 0; i < 12; i++) {
        r = i % 8 ? r >> 8 : next(g);
        emit(o, (u8)r);
    }
}

/* --- enumeration --- */

static bool decode(const struct isa_generator *g, const struct bytes *o, ZydisDecodedInstruction *insn,
                   ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT])
{
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, o->b, MIN(o->n, 15u), insn, ops)))
        return false;
    insn_fix_operands(insn, ops);
    return true;
}

/* Where the model lacks TZCNT and LZCNT but the host has them: BSF and BSR with a prefix that they ignore. */
static bool is_other_on_host(const ZydisDecodedInstruction *insn)
{
    if (insn->mnemonic != ZYDIS_MNEMONIC_BSF && insn->mnemonic != ZYDIS_MNEMONIC_BSR)
        return false;
    for (unsigned i = 0; i < insn->raw.prefix_count; i++)
        if (insn->raw.prefixes[i].value == 0xf3)
            return true;
    return false;
}

static bool wanted(const struct isa_generator *g, const ZydisDecodedInstruction *insn)
{
    if (is_other_on_host(insn))
        return false;
    if (insn_offered(g->cpuid, insn) == g->absent)
        return false;
    return g->absent || !isa_exclusion(insn->mnemonic);
}

static u64 signature(const struct form *f, const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops)
{
    u64 h = insn->mnemonic;
    const u8 parts[] = {f->encoding, f->map,       f->pp,   f->w,       f->l,    f->opcode,
                        f->mem,      f->broadcast, f->mask, f->zeroing, f->lock, insn->operand_width,
                        insn->length};
    for (unsigned i = 0; i < sizeof parts; i++)
        h = (h ^ parts[i]) * 0x100000001b3ull;
    for (unsigned i = 0; i < insn->operand_count; i++)
        h = (h ^ (u64)ops[i].type ^ (u64)ops[i].size << 8) * 0x100000001b3ull;
    return h ^ h >> 29;
}

struct seen {
    u64 *slot;
    u32 mask;
};

static bool seen_before(struct seen *s, u64 h)
{
    for (u32 i = (u32)h & s->mask;; i = (i + 1) & s->mask) {
        if (s->slot[i] == h)
            return true;
        if (!s->slot[i]) {
            s->slot[i] = h;
            return false;
        }
    }
}

static void try_form(struct isa_generator *g, struct seen *seen, struct form *f)
{
    struct fields v = {.reg = f->reg, .rm = f->rm, .mod = f->mem ? 0 : 3, .aaa = f->mask, .vvvv = 0};
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    struct bytes o;
    bool ok = false;
    if (f->mem)
        v.rm = 4, v.sib = true, v.index = 1; /* the general form: [rsp + rcx], also right for VSIB */
    /* Register number limits (masks, no vvvv operand) make some field values undefined: try a few. */
    for (unsigned tries = 0; tries < 3 && !ok; tries++) {
        v.vvvv = tries == 1 ? 5 : 0;
        if (tries == 2)
            v.reg |= 3;
        encode(g, f, &v, &o);
        ok = decode(g, &o, &insn, ops);
    }
    if (!ok || !wanted(g, &insn))
        return;
    f->has_modrm = (insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    f->mnemonic = insn.mnemonic;
    if (!f->has_modrm)
        f->mem = false, f->reg = f->rm = 0;
    if (seen_before(seen, signature(f, &insn, ops)))
        return;
    if (g->count == g->capacity) {
        g->capacity = g->capacity ? g->capacity * 2 : 4096;
        g->forms = realloc(g->forms, g->capacity * sizeof *g->forms);
        if (!g->forms)
            exit(2);
    }
    g->forms[g->count++] = *f;
}

/* All ModRM variants of one opcode: register or memory, each reg, and each rm for register forms. */
static void try_modrm(struct isa_generator *g, struct seen *seen, struct form f)
{
    f.has_modrm = true;
    for (f.reg = 0; f.reg < 8; f.reg++) {
        f.mem = true;
        f.rm = 4;
        try_form(g, seen,
                 &(struct form){f.encoding, f.map, f.pp, f.w, f.l, f.opcode, f.reg, f.rm, true, true,
                                f.broadcast, f.mask, f.zeroing, f.lock, 0});
        for (u8 rm = 0; rm < 8; rm++)
            try_form(g, seen,
                     &(struct form){f.encoding, f.map, f.pp, f.w, f.l, f.opcode, f.reg, rm, true, false,
                                    f.broadcast, f.mask, f.zeroing, f.lock, 0});
    }
}

static bool is_prefix(u8 opcode, bool mode32)
{
    static const u8 always[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};
    for (unsigned i = 0; i < sizeof always; i++)
        if (opcode == always[i])
            return true;
    return !mode32 && (opcode & 0xf0) == 0x40;
}

static void enumerate_legacy(struct isa_generator *g, struct seen *seen)
{
    struct form f = {.encoding = ENC_LEGACY};
    for (unsigned n = 0; n < 4 * 4 * 2 * 2 * 256; n++) {
        f.opcode = (u8)n;
        f.map = n >> 8 & 3;
        f.pp = n >> 10 & 3;
        f.w = n >> 12 & 1;
        f.lock = n >> 13 & 1;
        if ((f.map == 0 && (is_prefix(f.opcode, g->mode32) || f.opcode == 0x0f)) || (g->mode32 && f.w))
            continue;
        if (f.map == 1 && (f.opcode == 0x38 || f.opcode == 0x3a))
            continue;
        if (f.map == 0 && (f.opcode == 0xc4 || f.opcode == 0xc5 || f.opcode == 0x62 || f.opcode == 0x8f))
            if (!(f.opcode == 0x8f))
                continue; /* VEX and EVEX are enumerated on their own; LDS, LES, BOUND are excluded */
        try_modrm(g, seen, f);
    }
}

static void enumerate_vex(struct isa_generator *g, struct seen *seen)
{
    struct form f = {.encoding = ENC_VEX};
    for (unsigned n = 0; n < 3 * 16 * 256; n++) {
        f.opcode = (u8)n;
        f.map = (u8)(1 + (n >> 12));
        f.pp = n >> 8 & 3;
        f.w = n >> 10 & 1;
        f.l = n >> 11 & 1;
        try_modrm(g, seen, f);
    }
}

static void enumerate_evex(struct isa_generator *g, struct seen *seen)
{
    static const u8 maps[] = {1, 2, 3, 5, 6};
    struct form f = {.encoding = ENC_EVEX};
    for (unsigned m = 0; m < ARRAY_SIZE(maps); m++)
        for (unsigned n = 0; n < 256 * 4 * 2 * 3 * 2 * 3; n++) {
            f.map = maps[m];
            f.opcode = (u8)n;
            f.pp = n >> 8 & 3;
            f.w = n >> 10 & 1;
            f.broadcast = n >> 11 & 1;
            f.l = (u8)((n >> 12) % 3);
            f.mask = (n >> 12) / 3 > 0 ? 2 : 0;
            f.zeroing = (n >> 12) / 3 > 1;
            try_modrm(g, seen, f);
        }
}

static int by_mnemonic(const void *a, const void *b)
{
    return (int)((const struct form *)a)->mnemonic - (int)((const struct form *)b)->mnemonic;
}

static void index_forms(struct isa_generator *g)
{
    if (g->count)
        qsort(g->forms, g->count, sizeof *g->forms, by_mnemonic);
    u32 at = 0;
    for (u32 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        g->first[m] = at;
        while (at < g->count && g->forms[at].mnemonic == m)
            at++;
        if (at > g->first[m])
            g->present[g->present_count++] = (ZydisMnemonic)m;
    }
    g->first[ZYDIS_MNEMONIC_MAX_VALUE + 1] = at;
}

struct isa_generator *isa_generator_new(const struct cpuid_table *cpuid, bool mode32, bool absent, u64 seed)
{
    struct isa_generator *g = calloc(1, sizeof *g);
    struct seen seen = {.slot = calloc(1 << 20, sizeof(u64)), .mask = (1 << 20) - 1};
    if (!g || !seen.slot)
        exit(2);
    *g = (struct isa_generator){.cpuid = cpuid, .mode32 = mode32, .absent = absent, .rng = seed};
    if (mode32)
        insn_decoder_init(&g->decoder, cpuid, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        insn_decoder_init(&g->decoder, cpuid, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    enumerate_legacy(g, &seen);
    enumerate_vex(g, &seen);
    enumerate_evex(g, &seen);
    free(seen.slot);
    index_forms(g);
    return g;
}

void isa_generator_free(struct isa_generator *g)
{
    free(g->forms);
    free(g);
}

u32 isa_form_count(const struct isa_generator *g)
{
    return g->count;
}

ZydisMnemonic isa_form_mnemonic(const struct isa_generator *g, u32 n)
{
    return g->forms[n].mnemonic;
}

/* --- state --- */

static u64 interesting(struct isa_generator *g)
{
    static const u64 edges[] = {0,
                                1,
                                2,
                                0x7f,
                                0x80,
                                0xff,
                                0x7fff,
                                0x8000,
                                0xffff,
                                0x7fffffff,
                                0x80000000,
                                0xffffffff,
                                0x7fffffffffffffff,
                                0x8000000000000000,
                                ~0ull,
                                63,
                                64,
                                31,
                                32};
    switch (below(g, 4)) {
    case 0: return edges[below(g, ARRAY_SIZE(edges))];
    case 1: return below(g, 256);
    case 2: return (u64)(i64)(i32)next(g);
    default: return next(g);
    }
}

/* Vector elements that make floating-point instructions meet zeros, denormals, infinities and NaNs. */
static u64 vector_element(struct isa_generator *g)
{
    static const u64 special[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        0x0000000000000001,
        0x3f8000003f800000,
        0x7f800000ff800000,
        0x7fc000007f800001,
        0x0000000180000000,
        0x41dfffffffc00000,
        0x43e0000000000000,
        0x4f0000004f000000,
        0x3c003c003c003c00,
    };
    switch (below(g, 4)) {
    case 0: return special[below(g, ARRAY_SIZE(special))];
    case 1: return 0x3f00000040000000ull ^ (next(g) & 0x80ffffff80ffffffull);
    case 2: return 0x3fe0000000000000ull ^ (next(g) & 0x803fffffffffffffull);
    default: return next(g);
    }
}

static void random_x87(struct isa_generator *g, struct isa_state *s)
{
    static const u16 exponents[] = {0x3fff, 0x0000, 0x7fff, 0x3ffe, 0x4010, 0x403e, 0x0001, 0xffff};
    s->fcw = (u16)(0x37f & ~(chance(g, 20) ? next(g) & 0x3f : 0));
    if (chance(g, 40))
        s->fcw = (u16)((s->fcw & 0x7f) | (next(g) & 0x0f00) | 0x40);
    s->ftw = (u8)(chance(g, 70) ? 0xff : next(g));
    s->fsw = (u16)(below(g, 8) << 11 | (next(g) & 0x4700));
    for (int i = 0; i < 8; i++) {
        u64 mantissa = chance(g, 20) ? 0x8000000000000000ull : next(g) | (chance(g, 90) ? BIT(63) : 0);
        u16 exponent = chance(g, 50) ? exponents[below(g, 8)] : (u16)(0x3ff0 + below(g, 32));
        put_le64(s->st[i], chance(g, 5) ? 0 : mantissa);
        put_le16(s->st[i] + 8, (u16)(exponent ^ (next(g) & 0x8000)));
    }
}

static void random_state(struct isa_generator *g, struct isa_state *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 16; i++) {
        s->gpr[i] = interesting(g);
        if (g->mode32)
            s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
    }
    s->gpr[X86_RSP] = ISA_DATA + 0x800 + 8 * below(g, 256);
    s->rip = ISA_CODE + 64 + below(g, 1024);
    s->rflags = X86_FLAG1 | X86_IF | (next(g) & X86_ARITH) | (chance(g, 25) ? X86_DF : 0);
    if (chance(g, 3))
        s->rflags |= X86_AC;
    s->mxcsr = 0x1f80;
    if (chance(g, 30))
        s->mxcsr = (u32)(next(g) & 0xe040) | 0x1f80; /* rounding, FTZ, DAZ */
    if (chance(g, 15))
        s->mxcsr &= ~((u32)next(g) & 0x1f80); /* unmasked exceptions */
    random_x87(g, s);
    unsigned registers = g->mode32 ? 8 : 32;
    for (unsigned i = 0; i < registers; i++)
        for (int j = 0; j < 8; j++)
            put_le64(s->vec[i] + 8 * j, vector_element(g));
    for (int i = 0; i < 8; i++)
        s->k[i] = chance(g, 30) ? ~0ull : next(g);
    if (!(g->cpuid->xcr0_mask & X86_XCR0_OPMASK))
        memset(s->k, 0, sizeof s->k);
    for (int i = 0; i < 32; i++) {
        if (!(g->cpuid->xcr0_mask & X86_XCR0_ZMM_HI256))
            memset(s->vec[i] + 32, 0, 32);
        if (!(g->cpuid->xcr0_mask & X86_XCR0_AVX))
            memset(s->vec[i] + 16, 0, 48);
        if (i >= 16 && !(g->cpuid->xcr0_mask & X86_XCR0_HI16_ZMM))
            memset(s->vec[i], 0, 64);
    }
}

void isa_generate_data(struct isa_generator *g, struct isa_batch *b)
{
    for (u32 i = 0; i < ISA_DATA_SIZE; i += 8)
        put_le64(b->data + i, vector_element(g));
}

void isa_case_data(const struct isa_batch *b, const struct isa_case *c, u8 data[ISA_DATA_SIZE])
{
    memcpy(data, b->data, ISA_DATA_SIZE);
    for (u32 i = 0; i < c->patches; i++)
        put_le64(data + c->patch[i].offset, c->patch[i].value);
}

/* --- placing one instruction --- */

/* An instruction on its way into a case. */
struct placing {
    struct isa_generator *g;
    struct isa_case *c;
    bool stream; /* registers are set by code, since earlier instructions change them */
    struct bytes o;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    bool ok;
};

static void append(struct isa_case *c, const u8 *bytes, u32 n)
{
    BUG_ON(c->len + n > ISA_MAX_CODE);
    memcpy(c->code + c->len, bytes, n);
    c->len += n;
}

static void set_gpr(struct placing *p, unsigned reg, u64 value)
{
    if (!p->stream) {
        p->c->in.gpr[reg] = p->g->mode32 ? (u32)value : value;
        return;
    }
    u8 code[10];
    if (p->g->mode32) {
        code[0] = (u8)(0xb8 + reg);
        put_le32(code + 1, (u32)value);
        append(p->c, code, 5);
    } else {
        code[0] = (u8)(0x48 | reg >> 3);
        code[1] = (u8)(0xb8 + (reg & 7));
        put_le64(code + 2, value);
        append(p->c, code, 10);
    }
}

static unsigned gpr_number(ZydisRegister r)
{
    i8 id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
    return id < 0 ? 0 : (unsigned)id & 15;
}

/* Where an operand of @size bytes goes. */
static u64 target_address(struct isa_generator *g, unsigned size)
{
    u64 room = ISA_DATA_SIZE - MIN(size, ISA_DATA_SIZE / 2);
    unsigned dice = (unsigned)below(g, 100);
    if (dice < 45)
        return ALIGN_DOWN(ISA_DATA + below(g, room + 1), 64);
    if (dice < 75)
        return ISA_DATA + below(g, room + 1);
    if (dice < 82)
        return ISA_DATA + ISA_DATA_SIZE - size; /* the last bytes that are there */
    if (dice < 86)
        return ISA_DATA + ISA_DATA_SIZE - below(g, size + 1); /* over the end */
    if (dice < 89)
        return ISA_DATA - below(g, size + 1); /* over the start */
    if (dice < 93)
        return ISA_DATA + PAGE_SIZE - below(g, size + 1); /* over the page boundary inside */
    if (dice < 96)
        return ISA_RO + below(g, 64) * 8;
    if (dice < 98 || g->mode32)
        return ISA_CODE + below(g, 64) * 8;
    return next(g);
}

static void place_vsib(struct placing *p, const ZydisDecodedOperand *op, u64 target)
{
    i8 vec = ZydisRegisterGetId(op->mem.index);
    if (p->stream || vec < 0) {
        p->ok = false;
        return;
    }
    if (p->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && !p->g->cpuid->amd) {
        p->c->gathered = (u8)ZydisRegisterGetId(p->ops[0].reg.value);
        p->c->gathered_size = (u8)(p->ops[0].size / 8);
        if (p->insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || p->insn.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS)
            p->c->gathered_size = 8; /* only half as many elements as with other indices, but at least two */
    }
    u8 *reg = p->c->in.vec[vec & 31];
    bool wide = chance(p->g, 50); /* right for one of the two index sizes, wild for the other */
    for (unsigned i = 0; i < 64; i += wide ? 8 : 4) {
        i64 offset = (i64)below(p->g, 0x180) - 0x40;
        if (wide)
            put_le64(reg + i, (u64)offset);
        else
            put_le32(reg + i, (u32)offset);
    }
    if (op->mem.base != ZYDIS_REGISTER_NONE)
        set_gpr(p, gpr_number(op->mem.base), target - (u64)op->mem.disp.value);
}

/* Rewrites the displacement's bytes; false when it does not fit. */
static bool patch_disp(struct placing *p, i64 value)
{
    u8 offset = p->insn.raw.disp.offset;
    if (p->insn.raw.disp.size == 32 && value == (i32)value)
        put_le32(p->o.b + offset, (u32)value);
    else if (p->insn.raw.disp.size == 64)
        put_le64(p->o.b + offset, (u64)value);
    else
        return false;
    return true;
}

/* Arranges that the explicit memory operand @op refers to @target. */
static void place_memory(struct placing *p, const ZydisDecodedOperand *op, u64 target)
{
    u64 index_value = 0;
    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        place_vsib(p, op, target);
        return;
    }
    bool base = op->mem.base != ZYDIS_REGISTER_NONE && op->mem.base != ZYDIS_REGISTER_RIP &&
                op->mem.base != ZYDIS_REGISTER_EIP;
    bool index = op->mem.index != ZYDIS_REGISTER_NONE;
    if (base && index && op->mem.base == op->mem.index) {
        /* Wherever it points; but beyond 4 GiB #GP or going on at 0 are both right (SDM vol. 3, 5.3). */
        p->ok &= !p->g->mode32;
        return;
    }
    if (index) {
        index_value = below(p->g, 16);
        set_gpr(p, gpr_number(op->mem.index), index_value);
        index_value *= op->mem.scale;
    }
    if (base) {
        u64 value = target - index_value - (op->mem.disp.has_displacement ? (u64)op->mem.disp.value : 0);
        set_gpr(p, gpr_number(op->mem.base), p->g->mode32 ? (u32)value : value);
    } else if (op->mem.base == ZYDIS_REGISTER_NONE) {
        p->ok &= patch_disp(p, (i64)(target - index_value));
    }
    /* RIP-relative displacements are patched last, when the place of the instruction is known. */
}

static bool moves_all(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_POPA || m == ZYDIS_MNEMONIC_POPAD || m == ZYDIS_MNEMONIC_PUSHA ||
           m == ZYDIS_MNEMONIC_PUSHAD;
}

static void place_string(struct placing *p, const ZydisDecodedOperand *op, u64 target)
{
    unsigned reg = gpr_number(op->mem.base);
    if (reg == X86_RSP) {
        /* How much of PUSHA and POPA is done before they fault is the processor's choice. */
        bool all = moves_all(p->insn.mnemonic);
        if (!p->stream && !all && chance(p->g, 20))
            set_gpr(p, reg, target);
        return;
    }
    set_gpr(p, reg, target);
    if (op->mem.index == ZYDIS_REGISTER_AL)
        return;
    if (p->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        set_gpr(p, X86_RCX, below(p->g, 64));
}

static void patch_window(struct placing *p, u64 address, u64 value)
{
    u64 offset = address - ISA_DATA;
    if (offset <= ISA_DATA_SIZE - 8 && p->c->patches < ARRAY_SIZE(p->c->patch))
        p->c->patch[p->c->patches++] = (struct isa_patch){(u32)offset, value};
}

/* Not near the case itself, which could make a loop without end. */
static u64 code_target(struct isa_generator *g)
{
    return ISA_CODE + PAGE_SIZE / 2 + below(g, PAGE_SIZE / 2);
}

/* Targets of near branches mostly lie in the code page, where everything else is INT3. */
static void place_branch(struct placing *p, u64 target)
{
    u64 to = chance(p->g, 90) ? code_target(p->g) : p->g->mode32 ? (u32)next(p->g) : next(p->g);
    const ZydisDecodedOperand *op = &p->ops[0];
    if (p->insn.meta.category == ZYDIS_CATEGORY_RET) {
        patch_window(p, p->c->in.gpr[X86_RSP], to);
    } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        set_gpr(p, gpr_number(op->reg.value), to);
    } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        patch_window(p, target, to);
    } else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op->imm.is_relative) {
        i64 rel = (i64)(to - (p->c->in.rip + p->c->len + p->insn.length));
        if (p->insn.raw.imm[0].size == 32 && rel == (i32)rel)
            put_le32(p->o.b + p->insn.raw.imm[0].offset, (u32)rel);
        else if (p->insn.raw.imm[0].size == 8)
            p->o.b[p->insn.raw.imm[0].offset] = (u8)(0x40 | (p->o.b[p->insn.raw.imm[0].offset] &
                                                             0x3f)); /* not into itself, which could loop */
        else if (p->insn.raw.imm[0].size == 16)
            p->ok = false; /* would leave the low 64 KiB to the vendors' disagreement */
    }
}

static bool is_bit_test(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
           m == ZYDIS_MNEMONIC_BTC;
}

/* Has @reg gone into the address of the explicit operand? */
static bool in_address(const struct placing *p, unsigned reg)
{
    const ZydisDecodedOperand *op = &p->ops[0];
    return op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
           ((op->mem.base != ZYDIS_REGISTER_NONE && gpr_number(op->mem.base) == reg) ||
            (op->mem.index != ZYDIS_REGISTER_NONE && gpr_number(op->mem.index) == reg));
}

/* Values that make an instruction do more than fault. */
static void place_values(struct placing *p)
{
    if ((p->insn.mnemonic == ZYDIS_MNEMONIC_DIV || p->insn.mnemonic == ZYDIS_MNEMONIC_IDIV) &&
        !in_address(p, X86_RDX) && chance(p->g, 70))
        set_gpr(p, X86_RDX, below(p->g, 8));
    if (is_bit_test(p->insn.mnemonic) && p->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
        p->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && chance(p->g, 90) &&
        gpr_number(p->ops[1].reg.value) != gpr_number(p->ops[0].mem.base))
        set_gpr(p, gpr_number(p->ops[1].reg.value), below(p->g, 2048));
    if ((p->insn.mnemonic == ZYDIS_MNEMONIC_LEAVE || p->insn.mnemonic == ZYDIS_MNEMONIC_ENTER) &&
        (p->g->mode32 || chance(p->g, 90)))
        set_gpr(p, X86_RBP, ISA_DATA + 0x1000 + 8 * below(p->g, 64));
}

/* A selector for a segment register: which others the host's kernel knows is its own affair. */
static void place_selector(struct placing *p, u64 target)
{
    static const u8 selectors[] = {0, 1, 2, 3, 0x10, 0x18, 0x20, 0x23, 0x28, 0x2b, 0x33};
    u64 selector = selectors[below(p->g, ARRAY_SIZE(selectors))];
    const ZydisDecodedOperand *from = &p->ops[1];
    if (p->ops[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
        ZydisRegisterGetClass(p->ops[0].reg.value) != ZYDIS_REGCLASS_SEGMENT ||
        !(p->ops[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        return;
    if (p->insn.mnemonic == ZYDIS_MNEMONIC_MOV && from->type == ZYDIS_OPERAND_TYPE_REGISTER)
        set_gpr(p, gpr_number(from->reg.value), selector);
    else if (p->stream) /* the window is not what it was */
        p->ok = false;
    else
        patch_window(p, p->insn.mnemonic == ZYDIS_MNEMONIC_MOV ? target : p->c->in.gpr[X86_RSP], selector);
}

static void place_operands(struct placing *p)
{
    u64 target = 0;
    for (unsigned i = 0; i < p->insn.operand_count && p->ok; i++) {
        const ZydisDecodedOperand *op = &p->ops[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        target = target_address(p->g, MAX(1u, op->size / 8u));
        if (op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS)
            p->ok = false;
        else if (op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
            place_memory(p, op, target);
        else if (op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            place_string(p, op, target);
    }
    place_values(p);
    place_selector(p, target);
    if (p->ok && is_branch(&p->insn))
        place_branch(p, target);
    if (p->ok && !p->g->mode32)
        for (unsigned i = 0; i < p->insn.operand_count; i++)
            if (p->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && p->ops[i].mem.base == ZYDIS_REGISTER_RIP) {
                u64 end = p->c->in.rip + p->c->len + p->insn.length;
                p->ok &= patch_disp(p, (i64)(target_address(p->g, 8) % BIT(31) - end));
            }
}

/* --- instances --- */

/* Segments that change nothing, operand sizes and repeats where there is no such thing, a REX too early. */
static void random_prefixes(struct isa_generator *g, const struct form *f, struct fields *v)
{
    static const u8 any[] = {0x26, 0x2e, 0x36, 0x3e, 0x66, 0xf2, 0xf3, 0x40, 0x41, 0x44, 0x48, 0x4f};
    unsigned count = f->encoding != ENC_LEGACY ? 4 : g->mode32 ? 7 : ARRAY_SIZE(any);
    v->extras = (u8)(chance(g, 90) ? 0 : 1 + below(g, ARRAY_SIZE(v->extra)));
    if (f->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
        v->extras = 0; /* AMD's go to MMX state even when the segment forbids the store */
    for (unsigned i = 0; i < v->extras; i++)
        v->extra[i] = any[below(g, count)];
}

static void random_fields(struct isa_generator *g, const struct form *f, struct fields *v)
{
    unsigned width = g->mode32 ? 8 : 16;
    unsigned vectors = g->mode32 ? 8 : f->encoding == ENC_EVEX ? 32 : 16;
    v->reg = (u8)below(g, f->encoding == ENC_EVEX ? vectors : width);
    v->rm = (u8)below(g, f->mem ? width : vectors);
    v->index = (u8)below(g, width);
    v->vvvv = (u8)below(g, vectors);
    v->aaa = f->mask ? (u8)(1 + below(g, 7)) : 0;
    v->mod = f->mem ? (u8)below(g, 3) : 3;
    v->scale = (u8)below(g, 4);
    v->sib = f->mem && ((v->rm & 7) == 4 || chance(g, 30));
    if (v->sib)
        v->rm = (u8)((v->rm & 8) | 4);
    v->addr32 = f->mem && !g->mode32 && chance(g, 4);
    random_prefixes(g, f, v);
}

/* The SIB byte's base is drawn anew (encode() repeats rm there). */
static bool instance(struct isa_generator *g, const struct form *f, struct placing *p)
{
    struct fields v;
    for (unsigned tries = 0; tries < 24; tries++) {
        random_fields(g, f, &v);
        if (tries >= 4)
            v.reg = (u8)((v.reg & ~7) | f->reg);
        if (tries >= 8 && !f->mem)
            v.rm = (u8)((v.rm & 8) | f->rm);
        if (tries >= 12)
            v.vvvv = v.extras = 0;
        if (tries >= 16)
            v.reg = f->reg | (tries & 1 ? 3 : 0), v.rm = f->mem ? 4 : f->rm, v.sib = f->mem, v.index = 1,
            v.mod = f->mem ? 0 : 3;
        encode(g, f, &v, &p->o);
        if (v.sib && f->has_modrm && v.mod != 3 && tries < 16)
            for (u32 i = 2; i < p->o.n; i++) /* base: the byte behind ModRM */
                if (p->o.b[i - 1] == (u8)(v.mod << 6 | (v.reg & 7) << 3 | 4) && p->o.b[i - 2] == f->opcode) {
                    p->o.b[i] = (u8)((p->o.b[i] & 0xf8) | below(g, 8));
                    break;
                }
        if (decode(g, &p->o, &p->insn, p->ops) && p->insn.mnemonic == f->mnemonic && wanted(g, &p->insn))
            return true;
    }
    return false;
}

/* FS and GS belong to the thread library of the host's process. */
static bool writes_fs_gs(const struct placing *p)
{
    for (unsigned i = 0; i < p->insn.operand_count; i++)
        if (p->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (p->ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            (p->ops[i].reg.value == ZYDIS_REGISTER_FS || p->ops[i].reg.value == ZYDIS_REGISTER_GS))
            return true;
    return false;
}

/*
 * What may not stand in a stream: branches, which end it, and what moves the stack or a segment anywhere or
 * faults half done on the stack (PUSHA, POPA), where processors differ in how far they get.
 */
static bool alone(const struct placing *p)
{
    const ZydisDecodedOperand *op = &p->ops[0];
    switch (p->insn.mnemonic) {
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE: return true;
    default: break;
    }
    if (is_branch(&p->insn) || moves_all(p->insn.mnemonic))
        return true;
    for (unsigned i = 0; i < p->insn.operand_count_visible; i++, op++)
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT ||
             ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value) ==
                 ZYDIS_REGISTER_RSP))
            return true;
    return false;
}

/*
 * EVEX.X means nothing with a general register, but Zen 5 then reads RSP without what PUSH and POP have done
 * to it just before: an erratum, which is not ours to have.
 */
static bool is_stale_rsp(const struct placing *p)
{
    if (p->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || (p->o.b[p->insn.raw.evex.offset + 1] & 0x40))
        return false;
    for (unsigned i = 0; i < p->insn.operand_count; i++)
        if (p->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, p->ops[i].reg.value) ==
                ZYDIS_REGISTER_RSP)
            return true;
    return false;
}

static bool place(struct placing *p, const struct form *f)
{
    struct isa_case before = *p->c;
    p->ok = instance(p->g, f, p);
    if (p->ok && (is_far(&p->insn) || writes_fs_gs(p) || is_stale_rsp(p) || (p->stream && alone(p))))
        p->ok = false;
    if (p->ok)
        place_operands(p);
    if (!p->ok) {
        *p->c = before;
        return false;
    }
    append(p->c, p->o.b, p->insn.length);
    if (p->insn.cpu_flags)
        p->c->flags_undefined |= p->insn.cpu_flags->undefined;
    p->g->cases[f->mnemonic]++;
    return true;
}

static void start(struct isa_generator *g, struct isa_case *c)
{
    c->len = 0;
    c->patches = 0;
    c->flags_undefined = 0;
    c->gathered_size = 0;
    c->mode32 = g->mode32;
    random_state(g, &c->in);
}

/*
 * AMD's processors ignore W of VPERMQ and VPERMPD, and heed a rounding of conversions from general registers
 * that goes with W where W is ignored.
 */
static bool w_matters_to_few(const struct isa_generator *g, const struct form *f, const u8 *b)
{
    if (f->encoding == ENC_VEX)
        return (b[1] & 31) == 3 && b[3] <= 1;
    return g->mode32 && (b[4] == 0x2a || b[4] == 0x7b);
}

/*
 * A VEX or EVEX instruction with a few bits of its prefix changed, so that the decoder refuses it: then the
 * host must do so, too. Whatever the bits are it stays in that space, where there is no way into the host's
 * kernel; behind it are INT3. In 32-bit code two bits tell the prefix from an older instruction.
 */
static bool mangle(struct placing *p, const struct form *f)
{
    struct isa_generator *g = p->g;
    struct fields v;
    unsigned first = g->mode32 ? 10 : 8, end = f->encoding == ENC_EVEX ? 32 : 24, opcode = end / 8;
    random_fields(g, f, &v);
    v.addr32 = false;
    v.extras = 0;
    encode(g, f, &v, &p->o);
    for (u64 left = 1 + below(g, 3); left; left--) {
        u64 bit = first + below(g, end - first);
        p->o.b[bit / 8] ^= (u8)(0x80 >> bit % 8);
    }
    for (u32 i = opcode + 2; i < p->o.n; i++)
        p->o.b[i] = 0xcc;
    if (decode(g, &p->o, &p->insn, p->ops) || w_matters_to_few(g, f, p->o.b))
        return false;
    append(p->c, p->o.b, opcode + 2);
    return true;
}

bool isa_generate(struct isa_generator *g, u32 n, struct isa_case *c)
{
    struct placing p = {.g = g, .c = c};
    if (g->forms[n].encoding != ENC_LEGACY && chance(g, 10)) {
        start(g, c);
        c->mnemonic = g->forms[n].mnemonic;
        if (mangle(&p, &g->forms[n]))
            return true;
    }
    for (unsigned tries = 0; tries < 8; tries++) {
        start(g, c);
        c->mnemonic = g->forms[n].mnemonic;
        if (place(&p, &g->forms[n]))
            return true;
    }
    return false;
}

void isa_generate_stream(struct isa_generator *g, unsigned length, struct isa_case *c)
{
    struct placing p = {.g = g, .c = c, .stream = true};
    start(g, c);
    c->mnemonic = ZYDIS_MNEMONIC_INVALID;
    c->in.mxcsr |= 0x1f80;
    c->in.fcw |= 0x3f;
    c->in.rflags &= ~X86_AC;
    for (unsigned i = 0; i < length && c->len < ISA_MAX_CODE - 64; i++) {
        ZydisMnemonic m = g->present[below(g, g->present_count)];
        u32 n = g->first[m] + (u32)below(g, g->first[m + 1] - g->first[m]);
        (void)place(&p, &g->forms[n]);
    }
}

void isa_coverage(const struct isa_generator *g, void (*visit)(ZydisMnemonic m, u64 cases, void *arg),
                  void *arg)
{
    for (u32 i = 0; i < g->present_count; i++)
        visit(g->present[i], g->cases[g->present[i]], arg);
}
