/*
 * Native emission, one instruction at a time. Most instructions are written again as they are, with other
 * registers (emit_general); the rest of this file are those with operands that the encoding does not show.
 */
#include "soft/interpret/decode-internal.h"
#include "soft/translate/translate-internal.h"

/* --- the general way --- */

/* The encoding with r/m, register and immediate as in the original; false when it has no such form. */
static bool general_encoding(const struct translator *x, const struct insn *i, struct encoding *n)
{
    const ZydisDecodedInstruction *z = &x->z;
    const u8 *bytes = x->b->bytes + i->off;
    *n = (struct encoding){.opcode = z->opcode,
                           .w = z->operand_width == 64,
                           .p66 = z->operand_width == 16,
                           .lock = z->attributes & ZYDIS_ATTRIB_HAS_LOCK,
                           .imm_len = z->raw.imm[0].size / 8};
    memcpy(n->imm, bytes + z->raw.imm[0].offset, n->imm_len);
    if (z->mnemonic == ZYDIS_MNEMONIC_POPCNT || z->mnemonic == ZYDIS_MNEMONIC_TZCNT ||
        z->mnemonic == ZYDIS_MNEMONIC_LZCNT)
        n->rep = 0xf3;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        static const u8 rep[4] = {0, 0, 0xf3, 0xf2};
        n->vex = true;
        n->w = z->raw.vex.W && x->wide; /* else it is ignored */
        n->map = z->raw.vex.m_mmmm;
        n->p66 = z->raw.vex.pp == 1;
        n->rep = rep[z->raw.vex.pp & 3];
        n->reg = z->raw.modrm.reg;
        return z->raw.vex.L == 0;
    }
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT: n->map = 0; break;
    case ZYDIS_OPCODE_MAP_0F: n->map = 1; break;
    case ZYDIS_OPCODE_MAP_0F38: n->map = 2; break; /* MOVBE */
    default: return false;
    }
    n->reg = z->raw.modrm.reg;
    if (n->map == 0 && n->opcode == 0x82) /* outside 64-bit mode */
        n->opcode = 0x80;
    return true;
}

/* Forms without ModRM become the ones with it. */
static bool add_modrm(struct encoding *n, bool *acc)
{
    u8 op = n->opcode;
    *acc = false;
    if (n->map == 1)
        return op >= 0xc8 && op <= 0xcf; /* BSWAP: stays as it is */
    if (op < 0x40 && (op & 6) == 4) {
        n->reg = op >> 3;
        n->opcode = op & 1 ? 0x81 : 0x80;
        *acc = true;
        return true;
    }
    if (op == 0xa8 || op == 0xa9) {
        n->reg = 0;
        n->opcode = op == 0xa8 ? 0xf6 : 0xf7;
        *acc = true;
        return true;
    }
    if (op >= 0xb0 && op <= 0xbf && n->imm_len < 8) {
        n->reg = 0;
        n->opcode = op < 0xb8 ? 0xc6 : 0xc7;
        return true;
    }
    if (op >= 0xb8 && op <= 0xbf)
        return true;
    if (op >= 0x91 && op <= 0x97) {
        n->opcode = 0x87;
        return true;
    }
    if (op >= 0x40 && op <= 0x4f) { /* INC, DEC: outside 64-bit mode */
        n->reg = op >= 0x48;
        n->opcode = 0xff;
        return true;
    }
    if (op >= 0xa0 && op <= 0xa3) { /* MOV between RAX and an address */
        n->opcode = (u8)(op < 0xa2 ? op - 0xa0 + 0x8a : op - 0xa2 + 0x88);
        return true;
    }
    return false;
}

static bool has_modrm(const ZydisDecodedInstruction *z)
{
    return z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
}

static bool written(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static bool has_high_byte(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && high_byte(x->op[n].reg.value))
            return true;
    return false;
}

/* With AH and its kind: through copies of the registers, so no more than one of them may change. */
static bool high_operands(const struct translator *x)
{
    unsigned changed = 0;
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        changed += x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && written(&x->op[n]);
    const ZydisDecodedOperand *m = memory_operand(x);
    return (!m || plain_memory(x, m)) && changed <= 1 && x->z.mnemonic != ZYDIS_MNEMONIC_CMPXCHG;
}

static bool general_known(const struct translator *x, const struct insn *i)
{
    struct encoding n;
    bool acc;
    const ZydisDecodedOperand *m = memory_operand(x);
    if (!(has_high_byte(x) ? high_operands(x) : plain_operands(x)) || !general_encoding(x, i, &n))
        return false;
    if (m && m->mem.base == ZYDIS_REGISTER_RIP && rip_disp(x, i, m) != (i32)rip_disp(x, i, m))
        return false;
    if (m && !has_modrm(&x->z) && x->wide) /* an address of 64 bits */
        return false;
    return has_modrm(&x->z) ? true : add_modrm(&n, &acc);
}

/* Is its old value of no interest? */
static bool overwritten(const ZydisDecodedOperand *op)
{
    return op->size >= 32 && op->actions == ZYDIS_OPERAND_ACTION_WRITE;
}

/* A byte register that only REX reaches. */
static bool needs_rex(const ZydisDecodedOperand *op, unsigned host)
{
    return op->size == 8 && host >= 4;
}

struct placed {
    const ZydisDecodedOperand *op;
    unsigned guest, host;
};

static struct placed place(struct translator *x, const ZydisDecodedOperand *op, unsigned tmp)
{
    struct placed p = {.op = op};
    if (!op)
        return p;
    p.guest = gpr_of(op->reg.value);
    if (is_far(p.guest) && overwritten(op) && x->z.mnemonic != ZYDIS_MNEMONIC_BSF &&
        x->z.mnemonic != ZYDIS_MNEMONIC_BSR)
        p.host = tmp;
    else
        p.host = gpr_get(x, p.guest, tmp);
    return p;
}

static void put_back(struct translator *x, const struct placed *p)
{
    if (p->op && is_far(p->guest) && written(p->op))
        emit_store(x->e, far_gpr(p->guest), p->host);
}

/* High bytes have no encoding beside the registers above RBX: their registers are copied to ones that do. */
static struct placed place_high(struct translator *x, const ZydisDecodedOperand *op, unsigned tmp)
{
    struct placed p = {.op = op};
    if (!op)
        return p;
    p.guest = gpr_of(op->reg.value);
    unsigned host = gpr_get(x, p.guest, tmp);
    if (host != tmp)
        emit_mov(x->e, tmp, host);
    p.host = high_byte(op->reg.value) ? tmp + 4 : tmp;
    return p;
}

static void put_back_high(struct translator *x, const struct placed *p)
{
    if (p->op && written(p->op))
        gpr_set(x, p->guest, p->host & 3);
}

static bool counts_in_cl(const struct translator *x)
{
    for (unsigned n = 1; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && x->op[n].reg.value == ZYDIS_REGISTER_CL &&
            x->op[n].encoding == ZYDIS_OPERAND_ENCODING_NONE)
            return true;
    return false;
}

/* D and A stand for the registers: they need no REX. */
static void emit_high(struct translator *x, struct encoding *n, const ZydisDecodedOperand *reg,
                      const ZydisDecodedOperand *rm, const struct address *memory)
{
    struct placed pr = place_high(x, reg, HOST_D), pm = place_high(x, rm, HOST_A);
    if (counts_in_cl(x))
        emit_op_rr(x->e, false, 0x89, translate_host_reg[X86_RCX], HOST_C);
    if (reg)
        n->reg = (u8)pr.host;
    if (memory)
        emit_rm(x->e, n, *memory);
    else
        emit_rr(x->e, n, pm.host);
    put_back_high(x, &pr);
    put_back_high(x, &pm);
    flags_after(x);
}

/* B8 with a 64-bit immediate. */
static void emit_movabs(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), to = is_far(r) ? HOST_D : translate_host_reg[r];
    emit_mov_imm64(x->e, to, x->z.raw.imm[0].value.u);
    gpr_set(x, r, to);
}

static void emit_bswap(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), host = gpr_get(x, r, HOST_D);
    u8 code[3] = {(u8)(0x40 | (x->z.operand_width == 64) << 3 | (host >= 8)), 0x0f, (u8)(0xc8 | (host & 7))};
    emit_bytes(x->e, code, 3);
    gpr_set(x, r, host);
}

static void emit_general(struct translator *x, const struct insn *i)
{
    struct encoding n;
    bool acc = false;
    const ZydisDecodedOperand *m = memory_operand(x), *reg, *rm, *vvvv;
    general_encoding(x, i, &n);
    if (!has_modrm(&x->z)) {
        if (n.map == 1) {
            emit_bswap(x);
            return;
        }
        if (n.imm_len == 8) {
            emit_movabs(x);
            return;
        }
        add_modrm(&n, &acc);
    }
    reg = operand_in(x, ZYDIS_OPERAND_ENCODING_MODRM_REG);
    rm = operand_in(x, ZYDIS_OPERAND_ENCODING_MODRM_RM);
    vvvv = operand_in(x, ZYDIS_OPERAND_ENCODING_NDSNDD);
    if (acc)
        rm = &x->op[0];
    else if (m && !has_modrm(&x->z))
        reg = m == &x->op[0] ? &x->op[1] : &x->op[0];
    else if (!rm && !m)
        rm = operand_in(x, ZYDIS_OPERAND_ENCODING_OPCODE);
    if (n.opcode == 0x87 && !has_modrm(&x->z))
        reg = rm == &x->op[0] ? &x->op[1] : &x->op[0];
    struct address memory = at(HOST_C, 0);
    if (m && keeps_flags(x, i))
        memory = emit_pointer_keeping_flags(x, i, m);
    else if (m && has_high_byte(x)) /* which has no place for REX */
        memory = emit_operand_at_c(x, i, m);
    else if (m)
        memory = emit_operand(x, i, m);
    flags_before(x);
    if (has_high_byte(x)) {
        emit_high(x, &n, reg, rm, m ? &memory : NULL);
        return;
    }
    struct placed pr = place(x, reg, HOST_D), pm = place(x, rm, HOST_A),
                  pv = place(x, vvvv, m ? HOST_A : HOST_C);
    if (counts_in_cl(x))
        emit_op_rr(x->e, false, 0x89, translate_host_reg[X86_RCX], HOST_C);
    if (reg) {
        n.reg = (u8)pr.host;
        n.rex |= needs_rex(reg, pr.host);
    }
    if (rm)
        n.rex |= needs_rex(rm, pm.host);
    n.vvvv = (u8)pv.host;
    if (!vvvv)
        n.vvvv = 0;
    if (m)
        emit_rm(x->e, &n, memory);
    else
        emit_rr(x->e, &n, pm.host);
    put_back(x, &pr);
    put_back(x, &pm);
    put_back(x, &pv);
    flags_after(x);
}

/* --- LEA --- */

/* May the address be made in the register that it is for, without a detour by C? */
static bool lea_in_place(const struct translator *x)
{
    const ZydisDecodedOperand *m = &x->op[1];
    unsigned r = gpr_of(x->op[0].reg.value);
    bool near_base = m->mem.base == ZYDIS_REGISTER_RIP ||
                     (m->mem.base != ZYDIS_REGISTER_NONE && !is_far(gpr_of(m->mem.base)));
    bool other_index = m->mem.index == ZYDIS_REGISTER_NONE || gpr_of(m->mem.index) != r;
    return x->wide && x->z.operand_width == 64 && !is_far(r) && (near_base || other_index);
}

static void emit_lea_insn(struct translator *x, const struct insn *i)
{
    unsigned r = gpr_of(x->op[0].reg.value);
    if (lea_in_place(x)) {
        emit_address(x, i, &x->op[1], translate_host_reg[r]);
        return;
    }
    emit_address(x, i, &x->op[1], HOST_C);
    if (x->op[0].size == 64) {
        gpr_set(x, r, HOST_C);
    } else {
        emit_op_rr(x->e, false, 0x89, HOST_C, is_far(r) ? HOST_C : translate_host_reg[r]);
        if (is_far(r))
            gpr_set(x, r, HOST_C);
    }
}

/* --- multiplication and division: RAX and RDX by definition --- */

static void rax_rdx_in(struct translator *x)
{
    emit_mov(x->e, HOST_A, translate_host_reg[X86_RAX]);
    emit_mov(x->e, HOST_D, translate_host_reg[X86_RDX]);
}

static void rax_rdx_out(struct translator *x)
{
    emit_mov(x->e, translate_host_reg[X86_RAX], HOST_A);
    emit_mov(x->e, translate_host_reg[X86_RDX], HOST_D);
}

/* The operand's value into C. */
static void operand_to_c(struct translator *x, const struct insn *i, bool w)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_op_rm(x->e, w, 0x8b, HOST_C, emit_operand(x, i, &x->op[0]));
    } else {
        unsigned host = gpr_get(x, gpr_of(x->op[0].reg.value), HOST_C);
        if (host != HOST_C)
            emit_mov(x->e, HOST_C, host);
    }
}

static void emit_mul(struct translator *x, const struct insn *i)
{
    bool w = x->z.operand_width == 64;
    operand_to_c(x, i, w);
    flags_before(x);
    rax_rdx_in(x);
    emit_op_rr(x->e, w, 0xf7, x->z.raw.modrm.reg, HOST_C);
    rax_rdx_out(x);
    flags_after(x);
}

/* The slow path has the divisors that fault, and for IDIV dividends of more than the operand size. */
static void emit_div(struct translator *x, const struct insn *i)
{
    struct emit *e = x->e;
    bool w = x->z.operand_width == 64;
    operand_to_c(x, i, w);
    flags_lost(x);
    if (x->z.mnemonic == ZYDIS_MNEMONIC_DIV) {
        emit_op_rr(e, w, 0x3b, translate_host_reg[X86_RDX], HOST_C);
        slow_jump(x, CC_AE);
    } else {
        emit_mov(e, HOST_D, translate_host_reg[X86_RAX]);
        emit_rr(e, &(struct encoding){.w = w, .opcode = 0xc1, .reg = 7, .imm_len = 1, .imm = {w ? 63 : 31}},
                HOST_D);
        emit_op_rr(e, w, 0x3b, HOST_D, translate_host_reg[X86_RDX]);
        slow_jump(x, CC_NE);
        emit_op_rm(e, w, 0x8d, HOST_D, at(HOST_C, 1));
        emit_op_ri(e, w, 7, HOST_D, 1);
        slow_jump(x, 6 /* be */);
    }
    flags_before(x);
    rax_rdx_in(x);
    emit_op_rr(e, w, 0xf7, x->z.raw.modrm.reg, HOST_C);
    rax_rdx_out(x);
    flags_after(x);
}

static void emit_cmpxchg(struct translator *x, const struct insn *i)
{
    struct encoding n;
    general_encoding(x, i, &n);
    emit_pointer(x, i, &x->op[0]);
    flags_before(x);
    struct placed p = place(x, &x->op[1], HOST_D);
    n.reg = (u8)p.host;
    n.rex |= needs_rex(&x->op[1], p.host);
    emit_mov(x->e, HOST_A, translate_host_reg[X86_RAX]);
    emit_rm(x->e, &n, at(HOST_C, 0));
    emit_mov(x->e, translate_host_reg[X86_RAX], HOST_A);
    flags_after(x);
}

/* CBW, CWDE, CDQE, CWD, CDQ, CQO */
static void emit_sign(struct translator *x)
{
    static const struct {
        ZydisMnemonic m;
        u8 opcode;
        bool p66, w, dx;
    } kinds[] = {
        {ZYDIS_MNEMONIC_CBW, 0x98, true, false, false},  {ZYDIS_MNEMONIC_CWDE, 0x98, false, false, false},
        {ZYDIS_MNEMONIC_CDQE, 0x98, false, true, false}, {ZYDIS_MNEMONIC_CWD, 0x99, true, false, true},
        {ZYDIS_MNEMONIC_CDQ, 0x99, false, false, true},  {ZYDIS_MNEMONIC_CQO, 0x99, false, true, true}};
    struct emit *e = x->e;
    rax_rdx_in(x);
    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        if (kinds[k].m != x->z.mnemonic)
            continue;
        if (kinds[k].p66)
            emit8(e, 0x66);
        if (kinds[k].w)
            emit8(e, 0x48);
        emit8(e, kinds[k].opcode);
        if (kinds[k].dx)
            gpr_set(x, X86_RDX, HOST_D);
        else
            gpr_set(x, X86_RAX, HOST_A);
    }
}

/* --- which instruction goes which way --- */

enum kind {
    UNKNOWN,
    GENERAL,
    NOTHING,
    LEA,
    MUL,
    DIV,
    CMPXCHG,
    SIGN,
    PUSH,
    POP,
    LEAVE,
    JMP,
    CALL,
    RET,
    JCC,
    SYSTEM_INSN
};

#define M(x) case ZYDIS_MNEMONIC_##x
#define CONDITIONS(what) \
    M(what##O)           \
        : M(what##NO)    \
        : M(what##B)     \
        : M(what##NB)    \
        : M(what##Z)     \
        : M(what##NZ)    \
        : M(what##BE)    \
        : M(what##NBE)   \
        : M(what##S)     \
        : M(what##NS) : M(what##P) : M(what##NP) : M(what##L) : M(what##NL) : M(what##LE) : M(what##NLE)

static enum kind kind_of(const struct translator *x)
{
    const ZydisDecodedInstruction *z = &x->z;
    const ZydisDecodedOperand *m = memory_operand(x);
    switch (z->mnemonic) {
        M(MOV)
            : M(MOVBE)
            : M(MOVZX)
            : M(MOVSX)
            : M(MOVSXD)
            : M(ADD)
            : M(OR)
            : M(ADC)
            : M(SBB)
            : M(AND)
            : M(SUB)
            : M(XOR)
            : M(CMP)
            : M(TEST)
            : M(INC)
            : M(DEC)
            : M(NEG)
            : M(NOT)
            : M(BSF)
            : M(BSR) : M(TZCNT) : M(LZCNT) : M(POPCNT) : CONDITIONS(SET) : CONDITIONS(CMOV) : return GENERAL;
        M(ANDN)
            : M(BEXTR)
            : M(BLSI)
            : M(BLSR)
            : M(BLSMSK)
            : M(BZHI) : M(SHLX) : M(SHRX) : M(SARX) : M(RORX) : M(PEXT) : M(PDEP) : return GENERAL;
        M(BSWAP) : return z->operand_width >= 32 ? GENERAL : UNKNOWN;
        M(XCHG) : M(XADD) : return GENERAL;
        M(SHL)
            : M(SHR)
            : M(SAR)
            : M(ROL)
            : M(ROR) : M(RCL) : M(RCR) : M(SHLD) : M(SHRD) : return m && counts_in_cl(x)
            ? UNKNOWN
            : GENERAL;
        M(BT)
            : M(BTS)
            : M(BTR) : M(BTC) : return m && x->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER
            ? UNKNOWN
            : GENERAL;
        M(IMUL) : M(MUL) : if (z->operand_count_visible > 1) return GENERAL;
        return z->operand_width >= 32 ? MUL : UNKNOWN;
        M(DIV) : M(IDIV) : return z->operand_width >= 32 ? DIV : UNKNOWN;
        M(CMPXCHG) : return m ? CMPXCHG : UNKNOWN;
        M(CBW) : M(CWDE) : M(CDQE) : M(CWD) : M(CDQ) : M(CQO) : return SIGN;
        M(LEA) : return z->operand_width >= 32 ? LEA : UNKNOWN;
        M(NOP)
            : M(ENDBR64)
            : M(ENDBR32)
            : M(PREFETCHT0) : M(PREFETCHT1) : M(PREFETCHT2) : M(PREFETCHNTA) : M(PREFETCHW) : return NOTHING;
        M(PUSH) : return z->operand_width == word_bits(x) ? PUSH : UNKNOWN;
        M(POP)
            : return z->operand_width == word_bits(x) &&
                !m && plain_operands(x) && gpr_of(x->op[0].reg.value) != X86_RSP
            ? POP
            : UNKNOWN;
        M(LEAVE) : return z->operand_width == word_bits(x) ? LEAVE : UNKNOWN;
        M(JMP) : return near_known(x) ? JMP : UNKNOWN;
        M(CALL) : return near_known(x) ? CALL : UNKNOWN;
        M(RET)
            : return z->operand_width == word_bits(x) &&
                z->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR
            ? RET
            : UNKNOWN;
    default: break;
    }
    if (system_known(x))
        return SYSTEM_INSN;
    u8 cc;
    return is_condition(z->mnemonic, &cc) && z->operand_width == word_bits(x) ? JCC : UNKNOWN;
}

bool translate_insn_known(const struct translator *x, const struct insn *i)
{
    const ZydisDecodedOperand *m = memory_operand(x);
    if (is_vector(i))
        return vector_known(x, i);
    enum kind k = kind_of(x);
    if (x->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (x->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
        return false; /* CPUs differ, and the interpreter knows how */
    if (m && m->mem.base == ZYDIS_REGISTER_RIP && rip_disp(x, i, m) != (i32)rip_disp(x, i, m))
        return false;
    switch (k) {
    case UNKNOWN: return vector_known(x, i);
    case GENERAL:
    case CMPXCHG: return general_known(x, i);
    case LEA:
    case MUL:
    case DIV:
    case PUSH:
    case POP: return plain_operands(x);
    default: return true;
    }
}

bool translate_leaves_c(const struct translator *x, const struct insn *i)
{
    switch (is_vector(i) ? UNKNOWN : kind_of(x)) {
    case UNKNOWN: return vector_leaves_c(x, i);
    case GENERAL:
        return !has_high_byte(x) && !counts_in_cl(x) && !operand_in(x, ZYDIS_OPERAND_ENCODING_NDSNDD) &&
               x->z.raw.imm[0].size < 64;
    case PUSH: return x->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
    case LEA: return lea_in_place(x);
    case POP:
    case JCC:
    case NOTHING: return true;
    default: return false;
    }
}

bool translate_insn(struct translator *x, const struct insn *i)
{
    switch (is_vector(i) ? UNKNOWN : kind_of(x)) {
    case UNKNOWN: vector_emit(x, i); break;
    case GENERAL: emit_general(x, i); break;
    case NOTHING: break;
    case LEA: emit_lea_insn(x, i); break;
    case MUL: emit_mul(x, i); break;
    case DIV: emit_div(x, i); break;
    case CMPXCHG: emit_cmpxchg(x, i); break;
    case SIGN: emit_sign(x); break;
    case PUSH: emit_push(x, i); break;
    case POP: emit_pop(x); break;
    case LEAVE: emit_leave_insn(x); break;
    case JMP: emit_jmp(x, i); break;
    case CALL: emit_call(x, i); break;
    case RET: emit_ret(x); break;
    case JCC: emit_jcc(x, i); break;
    case SYSTEM_INSN: system_emit(x); break;
    }
    return true;
}
