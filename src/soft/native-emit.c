/*
 * The machine code of a stub. It is a C function
 *
 *     int stub(struct x86_state *s (rdi), void *mem (rsi))
 *
 * that loads what the instruction names, executes it, stores what it wrote, and returns 0. Rules:
 *
 * 1. The guest's instruction is the only one in it that may fault. At that point RSP is what it is at
 *    the label `abort`, which undoes the host side and returns 1 with no guest register stored.
 * 2. `state` and `base` are host registers that the instruction does not name. RSP stays the host's:
 *    where the instruction names it, another register stands in.
 * 3. Between stubs the host has its own MXCSR control bits, an empty x87 stack and clean upper halves
 *    of the vector registers (else legacy SSE code pays for them on Intel). Sticky MXCSR flags may stay.
 */
#include "soft/native-internal.h"

#define REX_W 8u
#define HOST_MXCSR 0x1f80u

static const u32 callee_saved = BIT(X86_RBX) | BIT(X86_RBP) | 0xf000;

/* --- which registers --- */

static bool is_gpr(ZydisRegisterClass class)
{
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 ||
           class == ZYDIS_REGCLASS_GPR64;
}

static unsigned gpr_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static bool add_register(struct native_regs *r, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *op)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
    unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);
    bool written = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

    if (is_gpr(class)) {
        id = gpr_number(op->reg.value);
        if (id == X86_RSP && op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
            return false;
        r->gpr |= BIT(id);
        r->gpr_written |= (u32)written << id;
        return true;
    }
    switch (class) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
        r->vec |= BIT(id);
        r->vec_written |= (u32)written << id;
        r->vec_size[id] = MAX(r->vec_size[id], (u8)(16u << (class - ZYDIS_REGCLASS_XMM)));
        return true;
    case ZYDIS_REGCLASS_MASK:
        if (insn->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTD || insn->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTQ)
            r->k_written |= 3u << (id & ~1u); /* an aligned pair */
        else
            r->k_written |= (u16)(written << id);
        r->k |= (u16)BIT(id) | r->k_written;
        return true;
    case ZYDIS_REGCLASS_MMX:
        r->mm |= (u16)BIT(id);
        r->mm_written |= (u16)(written << id);
        return true;
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_FLAGS: return true;
    default:
        return op->reg.value == ZYDIS_REGISTER_MXCSR || op->reg.value == ZYDIS_REGISTER_X87STATUS ||
               op->reg.value == ZYDIS_REGISTER_X87CONTROL || op->reg.value == ZYDIS_REGISTER_X87TAG;
    }
}

/* The first of @list (ended by RSP) that is not in @taken. */
static u8 pick(const u8 *list, u32 taken)
{
    while (*list != X86_RSP && (taken >> *list & 1))
        list++;
    return *list;
}

static bool choose_host_registers(struct native_regs *r)
{
    /* No REX bit is needed for a base or a stand-in; RBP would need a displacement as a base. */
    static const u8 bases[] = {X86_RSI, X86_RDI, X86_RDX, X86_RCX, X86_RAX, X86_RBX, X86_RSP};
    static const u8 states[] = {X86_RDI, X86_R8, X86_R9, X86_R10, X86_R11, X86_RSP};
    static const u8 scratch[] = {X86_RAX, X86_RCX, X86_RDX, X86_R8, X86_R9, X86_R10, X86_R11, X86_RSP};
    u32 taken = r->gpr;

    r->base = r->implied_rdi ? X86_RDI : pick(bases, taken);
    taken |= BIT(r->base);
    r->state = pick(states, taken);
    taken |= BIT(r->state);
    r->rsp_as = X86_RSP;
    if (r->gpr & BIT(X86_RSP)) {
        r->rsp_as = pick(bases, taken);
        if (r->rsp_as == X86_RSP)
            return false;
        taken |= BIT(r->rsp_as);
    }
    r->scratch = pick(scratch, taken);
    return r->base != X86_RSP && r->state != X86_RSP && r->scratch != X86_RSP;
}

bool native_registers(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                      struct native_regs *r)
{
    memset(r, 0, sizeof *r);
    r->x87 = native_is_x87(insn); /* FDECSTP, for one, has no operand */
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !add_register(r, insn, op))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            if (gpr_number(op->mem.base) != X86_RDI)
                return false;
            r->implied_rdi = true;
        }
    }
    return choose_host_registers(r);
}

/* --- the instruction, rewritten --- */

static void put(struct native_encoding *e, u8 byte)
{
    if (e->length < sizeof e->bytes)
        e->bytes[e->length++] = byte;
}

static const ZydisDecodedOperand *rsp_operand(const ZydisDecodedInstruction *insn,
                                              const ZydisDecodedOperand *ops, ZydisOperandEncoding where)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[i].encoding == where &&
            is_gpr(ZydisRegisterGetClass(ops[i].reg.value)) && gpr_number(ops[i].reg.value) == X86_RSP)
            return &ops[i];
    return NULL;
}

static bool has_vector_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass class = ZydisRegisterGetClass(ops[i].reg.value);

            if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_X87)
                return true;
        }
    return false;
}

static bool is_memory(const ZydisDecodedInstruction *insn)
{
    return (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) && insn->raw.modrm.mod != 3;
}

/*
 * Mandatory prefixes stay. Segment and address-size prefixes go with the address. The operand-size
 * prefix of general-purpose instructions is set for what the guest's mode made of it.
 */
static void encode_legacy_prefixes(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                                   struct native_encoding *e)
{
    bool have_66 = false;

    for (unsigned i = 0; i < insn->raw.prefix_count; i++)
        if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY) {
            put(e, insn->raw.prefixes[i].value);
            have_66 |= insn->raw.prefixes[i].value == 0x66;
        }
    if (insn->mnemonic == ZYDIS_MNEMONIC_PAUSE && !e->length)
        put(e, 0xf3);
    if (insn->operand_width == 16 && !have_66 && !has_vector_operand(insn, ops))
        put(e, 0x66);
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REX) {
        u8 rex = 0x40 | insn->raw.rex.W << 3 | insn->raw.rex.R << 2;

        if (!is_memory(insn))
            rex |= insn->raw.rex.X << 1 | insn->raw.rex.B;
        put(e, rex);
    }
}

bool native_w_ignored(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    if (insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(ZydisRegisterGetClass(ops[i].reg.value)))
            return true;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPINSRD: /* AMD's raise #UD in VEX encoding: see decode.c */
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPEXTRB:
    case ZYDIS_MNEMONIC_VPEXTRW:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTUSI2SS:
    case ZYDIS_MNEMONIC_VCVTUSI2SD: return true;
    default: return false;
    }
}

static u8 with_vvvv(u8 byte, unsigned reg)
{
    return (byte & 0x87) | (~reg & 15) << 3;
}

static void encode_vex_prefix(const u8 *bytes, const ZydisDecodedInstruction *insn,
                              const ZydisDecodedOperand *ops, const struct native_regs *r,
                              struct native_encoding *e)
{
    bool evex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    const u8 *from = bytes + (evex ? insn->raw.evex.offset : insn->raw.vex.offset);
    unsigned size = evex ? 4 : insn->raw.vex.size;
    u8 p[4];

    memcpy(p, from, size);
    if (rsp_operand(insn, ops, ZYDIS_OPERAND_ENCODING_NDSNDD))
        p[size == 2 ? 1 : 2] = with_vvvv(p[size == 2 ? 1 : 2], r->rsp_as);
    if (size > 2) {
        if (is_memory(insn))
            p[1] |= 0x60; /* X and B are inverted */
        if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
            /* Only registers 0 to 7 exist, and the bits that say otherwise are ignored. */
            p[1] |= evex ? 0xf0 : 0xe0;
            p[2] |= 0x40;
            if (evex)
                p[3] |= 0x08;
        }
        if (native_w_ignored(insn, ops))
            p[2] &= 0x7f;
    }
    for (unsigned i = 0; i < size; i++)
        put(e, p[i]);
}

bool native_has_is4(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return true;
    return false;
}

void native_encode(const u8 *bytes, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                   const struct native_regs *r, struct native_encoding *e)
{
    bool modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    unsigned at = insn->raw.prefix_count, tail;

    e->length = 0;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        encode_legacy_prefixes(insn, ops, e);
    } else {
        encode_vex_prefix(bytes, insn, ops, r, e);
        at = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX
                 ? insn->raw.evex.offset + 4u
                 : (unsigned)insn->raw.vex.offset + insn->raw.vex.size;
    }
    tail = modrm ? insn->raw.modrm.offset : insn->length;
    while (at < tail)
        put(e, bytes[at++]);
    if (rsp_operand(insn, ops, ZYDIS_OPERAND_ENCODING_OPCODE))
        e->bytes[e->length - 1] = (e->bytes[e->length - 1] & ~7) | r->rsp_as;
    if (!modrm)
        return;
    {
        u8 byte = bytes[at++];

        if (rsp_operand(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG))
            byte = (byte & ~0x38) | r->rsp_as << 3;
        if (is_memory(insn))
            byte = (byte & 0x38) | r->base;
        else if (rsp_operand(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM))
            byte = (byte & ~7) | r->rsp_as;
        put(e, byte);
    }
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SIB)
        at++;
    at += insn->raw.disp.size / 8;
    while (at < insn->length)
        put(e, bytes[at++]);
    if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && native_has_is4(insn, ops))
        e->bytes[e->length - 1] &= 0x7f;
}

/* --- the code around it --- */

static void byte(struct native_code *c, unsigned v)
{
    *c->at++ = (u8)v;
}

static void word32(struct native_code *c, u32 v)
{
    put_le32(c->at, v);
    c->at += 4;
}

/* ModRM and displacement of [state + offset] with @reg in the register field. */
static void state_operand(struct native_code *c, const struct native_regs *r, unsigned reg, size_t offset)
{
    byte(c, 0x80 | (reg & 7) << 3 | (r->state & 7));
    word32(c, (u32)offset);
}

/* [REX] @opcode (up to three bytes, most significant first) with [state + offset]. */
static void state_insn(struct native_code *c, const struct native_regs *r, unsigned rex, u32 opcode,
                       unsigned reg, size_t offset)
{
    rex |= (reg >> 3 & 1) << 2 | r->state >> 3;
    if (rex)
        byte(c, 0x40 | rex);
    if (opcode > 0xff)
        byte(c, opcode >> 8);
    byte(c, opcode & 0xff);
    state_operand(c, r, reg, offset);
}

#define GPR_AT(i) (offsetof(struct x86_state, gpr) + 8 * (size_t)(i))
#define VEC_AT(i) (offsetof(struct x86_state, fpu.vec) + 64 * (size_t)(i))
#define K_AT(i) (offsetof(struct x86_state, fpu.k) + 8 * (size_t)(i))
#define ST_AT(i) (offsetof(struct x86_state, fpu.st) + 16 * (size_t)(i))
#define MXCSR_AT offsetof(struct x86_state, fpu.mxcsr)
#define FXSAVE_AT offsetof(struct x86_state, fpu.fxsave)
#define RFLAGS_AT offsetof(struct x86_state, rflags)

static unsigned host_gpr(const struct native_regs *r, unsigned i)
{
    return i == X86_RSP ? r->rsp_as : i;
}

static u32 pushed(const struct native_regs *r)
{
    u32 used = (r->gpr & ~BIT(X86_RSP)) | BIT(r->base) | BIT(r->state);

    if (r->gpr & BIT(X86_RSP))
        used |= BIT(r->rsp_as);
    return used & callee_saved;
}

static void push_or_pop(struct native_code *c, u32 regs, bool pop)
{
    for (unsigned n = 0; n < 16; n++) {
        unsigned i = pop ? 15 - n : n;

        if (!(regs >> i & 1))
            continue;
        if (i >= 8)
            byte(c, 0x41);
        byte(c, (pop ? 0x58 : 0x50) + (i & 7));
    }
}

/* mov @to, @from, 64 bits */
static void move(struct native_code *c, unsigned to, unsigned from)
{
    if (to == from)
        return;
    byte(c, 0x48 | from >> 3 << 2 | to >> 3);
    byte(c, 0x89);
    byte(c, 0xc0 | (from & 7) << 3 | (to & 7));
}

/*
 * Moves @size bytes between a vector register and its place in the state. Legacy encoding beside
 * legacy instructions, so that upper halves are neither read nor zeroed.
 */
static void move_vec(struct native_code *c, const struct native_regs *r, unsigned reg, unsigned size,
                     bool legacy, bool store)
{
    unsigned opcode = store ? 0x11 : 0x10; /* MOVUPS */
    unsigned inv_r = ~reg >> 3 & 1, inv_b = ~(unsigned)r->state >> 3 & 1;

    if (legacy) {
        state_insn(c, r, 0, 0x0f00 | opcode, reg, VEC_AT(reg));
        return;
    }
    if (size == 64 || reg >= 16) {
        byte(c, 0x62);
        byte(c, inv_r << 7 | 0x40 | inv_b << 5 | (~reg >> 4 & 1) << 4 | 1);
        byte(c, 0x7c);
        byte(c, (size == 64 ? 0x40 : size == 32 ? 0x20 : 0) | 0x08);
    } else {
        byte(c, 0xc4);
        byte(c, inv_r << 7 | 0x40 | inv_b << 5 | 1);
        byte(c, 0x78 | (size == 32 ? 4 : 0));
    }
    byte(c, opcode);
    state_operand(c, r, reg, VEC_AT(reg));
}

static void move_k(struct native_code *c, const struct native_regs *r, unsigned reg, bool store)
{
    byte(c, 0xc4); /* KMOVQ */
    byte(c, 0xc1 | (~(unsigned)r->state >> 3 & 1) << 5);
    byte(c, 0xf8);
    byte(c, store ? 0x91 : 0x90);
    state_operand(c, r, reg, K_AT(reg));
}

/* Arithmetic flags from the state; the others stay the thread's (AC may be set on purpose). */
static void load_flags(struct native_code *c, const struct native_regs *r)
{
    unsigned t = r->scratch;

    state_insn(c, r, 0, 0x8b, t, RFLAGS_AT); /* mov t, [rflags] */
    if (t >= 8)
        byte(c, 0x41);
    byte(c, 0x81); /* and t, ARITH */
    byte(c, 0xe0 | (t & 7));
    word32(c, X86_ARITH);
    byte(c, 0x9c); /* pushfq */
    byte(c, 0x81); /* and dword [rsp], ~ARITH */
    byte(c, 0x24);
    byte(c, 0x24);
    word32(c, (u32)~X86_ARITH);
    if (t >= 8)
        byte(c, 0x44);
    byte(c, 0x09); /* or [rsp], t */
    byte(c, 0x04 | (t & 7) << 3);
    byte(c, 0x24);
    byte(c, 0x9d); /* popfq */
}

/* After the registers are stored, so RAX is free (it never is `state`). */
static void store_flags(struct native_code *c, const struct native_regs *r)
{
    byte(c, 0x9c); /* pushfq */
    byte(c, 0x58); /* pop rax */
    byte(c, 0x25); /* and eax, ARITH */
    word32(c, X86_ARITH);
    state_insn(c, r, 0, 0x81, 4, RFLAGS_AT); /* and dword [rflags], ~ARITH */
    word32(c, (u32)~X86_ARITH);
    state_insn(c, r, 0, 0x09, X86_RAX, RFLAGS_AT); /* or [rflags], eax */
}

static void load_host_mxcsr(struct native_code *c)
{
    byte(c, 0x68); /* push HOST_MXCSR */
    word32(c, HOST_MXCSR);
    byte(c, 0x0f); /* ldmxcsr [rsp] */
    byte(c, 0xae);
    byte(c, 0x14);
    byte(c, 0x24);
    byte(c, 0x58); /* pop rax */
}

/* Stores MXCSR; loads the host's only where the guest's control bits differ (rule 3). */
static void store_mxcsr(struct native_code *c, const struct native_regs *r)
{
    u8 *skip;

    state_insn(c, r, 0, 0x0fae, 3, MXCSR_AT);
    state_insn(c, r, 0, 0x8b, X86_RAX, MXCSR_AT); /* mov eax, [mxcsr] */
    byte(c, 0x25);                                /* and eax, control bits */
    word32(c, 0xffc0);
    byte(c, 0x3d); /* cmp eax, HOST_MXCSR */
    word32(c, HOST_MXCSR);
    byte(c, 0x74); /* je skip */
    skip = c->at++;
    load_host_mxcsr(c);
    *skip = (u8)(c->at - skip - 1);
}

/* Does it round or raise floating-point exceptions, or look at DAZ? */
static bool uses_mxcsr(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E11:
    case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
    default: break;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPI2PD:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
    case ZYDIS_MNEMONIC_RCPPS:
    case ZYDIS_MNEMONIC_RCPSS:
    case ZYDIS_MNEMONIC_RSQRTPS:
    case ZYDIS_MNEMONIC_RSQRTSS:
    case ZYDIS_MNEMONIC_VRCPPS:
    case ZYDIS_MNEMONIC_VRCPSS:
    case ZYDIS_MNEMONIC_VRSQRTPS:
    case ZYDIS_MNEMONIC_VRSQRTSS:
    case ZYDIS_MNEMONIC_VRCP14PS:
    case ZYDIS_MNEMONIC_VRCP14PD:
    case ZYDIS_MNEMONIC_VRCP14SS:
    case ZYDIS_MNEMONIC_VRCP14SD:
    case ZYDIS_MNEMONIC_VRSQRT14PS:
    case ZYDIS_MNEMONIC_VRSQRT14PD:
    case ZYDIS_MNEMONIC_VRSQRT14SS:
    case ZYDIS_MNEMONIC_VRSQRT14SD:
    case ZYDIS_MNEMONIC_VFPCLASSPS:
    case ZYDIS_MNEMONIC_VFPCLASSPD:
    case ZYDIS_MNEMONIC_VFPCLASSSS:
    case ZYDIS_MNEMONIC_VFPCLASSSD: return true;
    default:
        return insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX512EVEX && insn->meta.category == ZYDIS_CATEGORY_FP16;
    }
}

struct plan {
    bool legacy; /* no VEX or EVEX */
    bool mxcsr, vector, load_flags, store_flags;
};

static void emit_loads(struct native_code *c, const struct native_regs *r, const struct plan *p)
{
    push_or_pop(c, pushed(r), false);
    move(c, r->state, X86_RDI);
    move(c, r->base, X86_RSI);
    if (r->x87)
        state_insn(c, r, REX_W, 0x0fae, 1, FXSAVE_AT); /* fxrstor64 */
    for (unsigned i = 0; i < 32; i++)
        if (r->vec >> i & 1)
            move_vec(c, r, i, r->vec_size[i], p->legacy, false);
    for (unsigned i = 0; i < 8; i++) {
        if (r->k >> i & 1)
            move_k(c, r, i, false);
        if (r->mm >> i & 1)
            state_insn(c, r, 0, 0x0f6f, i, ST_AT(i)); /* movq */
    }
    if (p->mxcsr)
        state_insn(c, r, 0, 0x0fae, 2, MXCSR_AT); /* ldmxcsr */
    if (p->load_flags)
        load_flags(c, r);
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr >> i & 1)
            state_insn(c, r, REX_W, 0x8b, host_gpr(r, i), GPR_AT(i));
}

static void emit_stores(struct native_code *c, const struct native_regs *r, const struct plan *p)
{
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr_written >> i & 1)
            state_insn(c, r, REX_W, 0x89, host_gpr(r, i), GPR_AT(i));
    if (p->store_flags)
        store_flags(c, r);
    for (unsigned i = 0; i < 32; i++)
        if (r->vec_written >> i & 1)
            move_vec(c, r, i, c->avx512 ? 64 : 32, p->legacy, true);
    for (unsigned i = 0; i < 8; i++) {
        if (r->k_written >> i & 1)
            move_k(c, r, i, true);
        if (r->mm_written >> i & 1) {
            state_insn(c, r, 0, 0x0f7f, i, ST_AT(i)); /* movq */
            byte(c, 0x66);                            /* mov word [exponent], 0xffff: SDM vol. 1, 9.2.2 */
            state_insn(c, r, 0, 0xc7, 0, ST_AT(i) + 8);
            byte(c, 0xff);
            byte(c, 0xff);
        }
    }
    if (r->x87)
        state_insn(c, r, REX_W, 0x0fae, 0, FXSAVE_AT); /* fxsave64 */
}

/* Rule 3, and the return. */
static void emit_end(struct native_code *c, const struct native_regs *r, const struct plan *p, int result)
{
    if (p->mxcsr)
        store_mxcsr(c, r);
    if (r->x87) {
        byte(c, 0xdb); /* fninit */
        byte(c, 0xe3);
        load_host_mxcsr(c);
    }
    if (r->mm) {
        byte(c, 0x0f); /* emms */
        byte(c, 0x77);
    }
    if (p->vector && !p->legacy) {
        byte(c, 0xc5); /* vzeroupper */
        byte(c, 0xf8);
        byte(c, 0x77);
    }
    push_or_pop(c, pushed(r), true);
    byte(c, 0xb8); /* mov eax, result */
    word32(c, (u32)result);
    byte(c, 0xc3);
}

static void plan_flags(struct plan *p, const struct native_stub *stub, const ZydisDecodedInstruction *insn)
{
    const ZydisAccessedFlags *f = insn->cpu_flags;
    u32 written;

    if (!f)
        return;
    written = (f->modified | f->set_0 | f->set_1 | f->undefined) & X86_ARITH;
    p->store_flags = written;
    /*
     * All flags are stored, so those that may stay must be there: a shift by zero leaves all of them,
     * and the tables of what is written have gaps (VTESTPS).
     */
    p->load_flags =
        (f->tested & X86_ARITH) || (written && (written != X86_ARITH || stub->unit == NATIVE_UNIT_GPR));
}

bool native_emit(struct native_code *c, struct native_stub *stub, const struct native_encoding *e,
                 const struct native_regs *r, const ZydisDecodedInstruction *insn)
{
    struct plan p = {.legacy = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY,
                     .mxcsr = uses_mxcsr(insn),
                     .vector = r->vec};

    if (c->end - c->at < (ptrdiff_t)NATIVE_CODE_MAX)
        return false;
    plan_flags(&p, stub, insn);
    stub->flags = p.load_flags || p.store_flags;
    c->at = (u8 *)ALIGN_UP((uintptr_t)c->at, 16);
    stub->code = (int (*)(struct x86_state *, void *))(c->at + c->to_exec);
    emit_loads(c, r, &p);
    stub->insn = c->at + c->to_exec;
    memcpy(c->at, e->bytes, e->length);
    c->at += e->length;
    emit_stores(c, r, &p);
    emit_end(c, r, &p, 0);
    stub->abort = c->at + c->to_exec;
    emit_end(c, r, &p, 1);
    return true;
}

/* --- the short way of x87 instructions --- */

#define FCW_AT offsetof(struct x86_state, fpu.fcw)
#define RESULT_AT(i) (FXSAVE_AT + NATIVE_X87_RESULTS + 16 * (size_t)(i))

/* cmp word [fcw], the host's; je: over what is emitted until land() */
static u8 *skip_if_host_fcw(struct native_code *c, const struct native_regs *r)
{
    byte(c, 0x66);
    state_insn(c, r, 0, 0x81, 7, FCW_AT);
    byte(c, X87_FCW_INIT & 0xff);
    byte(c, X87_FCW_INIT >> 8);
    byte(c, 0x74);
    return c->at++;
}

static void land(struct native_code *c, u8 *jump)
{
    *jump = (u8)(c->at - jump - 1);
}

static void load_host_fcw(struct native_code *c)
{
    byte(c, 0x68); /* push the host's control word */
    word32(c, X87_FCW_INIT);
    byte(c, 0xd9); /* fldcw [rsp] */
    byte(c, 0x2c);
    byte(c, 0x24);
    byte(c, 0x58); /* pop rax */
}

/* Flags that C code may have left must not become the guest's. */
static void clear_host_exceptions(struct native_code *c)
{
    byte(c, 0xdf); /* fnstsw ax */
    byte(c, 0xe0);
    byte(c, 0xa8); /* test al, exceptions */
    byte(c, 0x7f);
    byte(c, 0x74); /* jz +2 */
    byte(c, 2);
    byte(c, 0xdb); /* fnclex */
    byte(c, 0xe2);
}

bool native_emit_x87(struct native_code *c, struct native_stub *stub, const struct native_encoding *e,
                     const struct native_regs *r, const ZydisDecodedInstruction *insn)
{
    const struct native_x87 *x = &stub->x87_shape;
    struct plan p = {.legacy = true};
    u8 *jump;

    if (c->end - c->at < (ptrdiff_t)NATIVE_CODE_MAX)
        return false;
    plan_flags(&p, stub, insn);
    c->at = (u8 *)ALIGN_UP((uintptr_t)c->at, 16);
    stub->x87_code = (u32(*)(struct x86_state *, void *))(c->at + c->to_exec);
    clear_host_exceptions(c);
    jump = skip_if_host_fcw(c, r);
    state_insn(c, r, 0, 0xd9, 5, FCW_AT); /* fldcw */
    land(c, jump);
    for (unsigned i = x->depth; i-- > 0;)
        state_insn(c, r, 0, 0xdb, 5, ST_AT(i)); /* fld tbyte */
    if (p.load_flags)
        load_flags(c, r);
    memcpy(c->at, e->bytes, e->length);
    c->at += e->length;
    if (p.store_flags)
        store_flags(c, r);
    byte(c, 0xdf); /* fnstsw ax */
    byte(c, 0xe0);
    for (unsigned i = 0; i < (unsigned)x->depth + x->push - x->pop; i++) {
        if (x->written >> i & 1) {
            state_insn(c, r, 0, 0xdb, 7, RESULT_AT(i)); /* fstp tbyte */
        } else {
            byte(c, 0xdd); /* fstp st(0) */
            byte(c, 0xd8);
        }
    }
    byte(c, 0x0f); /* movzx edx, ax */
    byte(c, 0xb7);
    byte(c, 0xd0);
    jump = skip_if_host_fcw(c, r);
    load_host_fcw(c);
    land(c, jump);
    byte(c, 0x89); /* mov eax, edx */
    byte(c, 0xd0);
    byte(c, 0xc3);
    return true;
}
