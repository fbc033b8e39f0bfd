/*
 * Native emission, one instruction at a time. Most instructions are written again as they are, with other
 * registers (emit_general); the rest of this file are those with operands that the encoding does not show.
 */
#include "soft/interpret/decode-internal.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define ARITH                                                                                       \
    (ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | \
     ZYDIS_CPUFLAG_OF)

/* --- flags --- */

static u32 flags_written(const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *f = z->cpu_flags;
    return f ? (f->modified | f->set_0 | f->set_1 | f->undefined) & ARITH : 0;
}

/* A count of zero leaves the flags alone. */
static bool may_leave_flags(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return z->raw.imm[0].size == 0 || !(z->raw.imm[0].value.u & 31);
    default: return false;
    }
}

bool translate_reads_flags(const ZydisDecodedInstruction *z)
{
    return z->cpu_flags && (z->cpu_flags->tested & ARITH);
}

bool translate_writes_flags(const ZydisDecodedInstruction *z)
{
    return flags_written(z) != 0;
}

/* Undefined flags may be what they were before; not so AF after logic, which all CPUs clear. */
bool translate_kills_flags(const ZydisDecodedInstruction *z)
{
    u32 undefined = z->cpu_flags ? z->cpu_flags->undefined & ARITH : 0;
    return flags_written(z) == ARITH && !may_leave_flags(z) &&
           (!undefined || z->meta.category == ZYDIS_CATEGORY_LOGICAL);
}

/* --- operands --- */

static const ZydisDecodedOperand *memory_operand(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &x->op[n];
    return NULL;
}

static const ZydisDecodedOperand *operand_in(const struct translator *x, ZydisOperandEncoding where)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && x->op[n].encoding == where)
            return &x->op[n];
    return NULL;
}

static bool high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static bool plain_operands(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &x->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (decode_reg(op->reg.value) == NO_REG || high_byte(op->reg.value)))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && x->z.address_width != 64)
            return false;
    }
    return true;
}

static unsigned gpr_of(ZydisRegister r)
{
    return decode_reg(r) / 8u;
}

static struct address far_gpr(unsigned r)
{
    return at(HOST_CPU, (i32)(offsetof(struct soft_cpu, far_gpr) + 8u * (translate_host_reg[r] - FAR)));
}

static bool is_far(unsigned r)
{
    return translate_host_reg[r] >= FAR;
}

/* The host register with guest register @r, loaded into @tmp when it is far. */
static unsigned get(struct translator *x, unsigned r, unsigned tmp)
{
    if (!is_far(r))
        return translate_host_reg[r];
    emit_load(x->e, tmp, far_gpr(r));
    return tmp;
}

/* Guest register @r becomes host register @from, all 64 bits. */
static void set(struct translator *x, unsigned r, unsigned from)
{
    if (is_far(r))
        emit_store(x->e, far_gpr(r), from);
    else if (translate_host_reg[r] != from)
        emit_mov(x->e, translate_host_reg[r], from);
}

/* --- memory --- */

/* The displacement from rip's page, which must not overflow. */
static i64 rip_disp(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    return (i64)x->block_off + i->off + i->len + m->mem.disp.value;
}

/* Linear address into @to. A and @to are lost, flags are not. */
static void emit_address(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m,
                         unsigned to)
{
    struct emit *e = x->e;
    i32 disp = m->mem.disp.has_displacement ? (i32)m->mem.disp.value : 0;
    struct address a = at(to, disp);
    bool base = m->mem.base != ZYDIS_REGISTER_NONE, index = m->mem.index != ZYDIS_REGISTER_NONE;
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_load(e, to, CPU(page_rip));
        a.disp = (i32)rip_disp(x, i, m);
    } else if (base) {
        a.base = (u8)get(x, gpr_of(m->mem.base), to);
    } else {
        emit_mov_imm32(e, to, 0);
    }
    if (index) {
        a.index = (u8)get(x, gpr_of(m->mem.index), HOST_A);
        a.scale = (u8)__builtin_ctz(m->mem.scale);
    }
    emit_lea(e, to, a);
    if (m->type == ZYDIS_OPERAND_TYPE_MEMORY && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
        (m->mem.segment == ZYDIS_REGISTER_FS || m->mem.segment == ZYDIS_REGISTER_GS)) {
        unsigned seg = m->mem.segment == ZYDIS_REGISTER_FS ? X86_FS : X86_GS;
        emit_load(e, HOST_A, CPU(s));
        emit_load(e, HOST_A,
                  at(HOST_A, (i32)(offsetof(struct x86_state, seg) + seg * sizeof(struct x86_segment) +
                                   offsetof(struct x86_segment, base))));
        emit_lea(e, to, (struct address){(u8)to, HOST_A, 0, 0});
    }
}

/* C: from linear address to host pointer for @size bytes, or the slow path. A and D are lost. */
static void emit_tlb(struct translator *x, unsigned size, bool write)
{
    struct emit *e = x->e;
    i32 tlb = offsetof(struct soft_cpu, tlb);
    i32 tag =
        tlb + (i32)(write ? offsetof(struct soft_tlb_entry, write) : offsetof(struct soft_tlb_entry, read));
    if (x->live[x->index])
        flags_save(x);
    else
        x->flags_saved = false;
    flags_destroyed(x);
    if (x->t->options.slow_memory) {
        slow_jump(x, CC_ALWAYS);
        return;
    }
    emit_op_rr(e, false, 0x89, HOST_C, HOST_A);
    emit_bytes(e, "\xc1\xe8\x06", 3); /* shr eax, 6 */
    emit8(e, 0x25);                   /* and eax, imm32 */
    emit32(e, (SOFT_TLB_SIZE - 1) * 64);
    if (size == 1)
        emit_mov(e, HOST_D, HOST_C);
    else
        emit_lea(e, HOST_D, at(HOST_C, (i32)size - 1));
    emit_op_ri(e, true, 4, HOST_D, -4096);
    emit_op_rm(e, true, 0x0b, HOST_D, CPU(ctx));
    emit_op_rm(e, true, 0x3b, HOST_D, (struct address){HOST_CPU, HOST_A, 0, tag});
    slow_jump(x, CC_NE);
    emit_op_rm(e, true, 0x03, HOST_C,
               (struct address){HOST_CPU, HOST_A, 0, tlb + (i32)offsetof(struct soft_tlb_entry, addend)});
}

/* Host pointer to the memory operand into C. */
static void emit_pointer(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    emit_address(x, i, m, HOST_C);
    emit_tlb(x, m->size / 8, m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

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
        n->w = z->raw.vex.W;
        n->map = z->raw.vex.m_mmmm;
        n->p66 = z->raw.vex.pp == 1;
        n->rep = rep[z->raw.vex.pp & 3];
        n->reg = z->raw.modrm.reg;
        return z->raw.vex.L == 0;
    }
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT: n->map = 0; break;
    case ZYDIS_OPCODE_MAP_0F: n->map = 1; break;
    default: return false;
    }
    n->reg = z->raw.modrm.reg;
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
    return false;
}

static bool has_modrm(const ZydisDecodedInstruction *z)
{
    return z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
}

static bool general_known(const struct translator *x, const struct insn *i)
{
    struct encoding n;
    bool acc;
    const ZydisDecodedOperand *m = memory_operand(x);
    if (!plain_operands(x) || !general_encoding(x, i, &n))
        return false;
    if (m && m->mem.base == ZYDIS_REGISTER_RIP && rip_disp(x, i, m) != (i32)rip_disp(x, i, m))
        return false;
    return has_modrm(&x->z) ? true : add_modrm(&n, &acc);
}

static bool written(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
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
        p.host = get(x, p.guest, tmp);
    return p;
}

static void put_back(struct translator *x, const struct placed *p)
{
    if (p->op && is_far(p->guest) && written(p->op))
        emit_store(x->e, far_gpr(p->guest), p->host);
}

/* Flags as the instruction needs them, once the memory operand's check is done. */
static void flags_before(struct translator *x)
{
    const ZydisDecodedInstruction *z = &x->z;
    if (translate_reads_flags(z) || (translate_writes_flags(z) && !translate_kills_flags(z)))
        flags_load(x);
}

static void flags_after(struct translator *x)
{
    if (!translate_writes_flags(&x->z))
        return;
    x->flags_in_host = true;
    x->flags_saved = false;
}

static bool counts_in_cl(const struct translator *x)
{
    for (unsigned n = 1; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && x->op[n].reg.value == ZYDIS_REGISTER_CL &&
            x->op[n].encoding == ZYDIS_OPERAND_ENCODING_NONE)
            return true;
    return false;
}

/* B8 with a 64-bit immediate. */
static void emit_movabs(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), to = is_far(r) ? HOST_D : translate_host_reg[r];
    emit_mov_imm64(x->e, to, x->z.raw.imm[0].value.u);
    set(x, r, to);
}

static void emit_bswap(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), host = get(x, r, HOST_D);
    u8 code[3] = {(u8)(0x40 | (x->z.operand_width == 64) << 3 | (host >= 8)), 0x0f, (u8)(0xc8 | (host & 7))};
    emit_bytes(x->e, code, 3);
    set(x, r, host);
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
    else if (!rm && !m)
        rm = operand_in(x, ZYDIS_OPERAND_ENCODING_OPCODE);
    if (n.opcode == 0x87 && !has_modrm(&x->z))
        reg = rm == &x->op[0] ? &x->op[1] : &x->op[0];
    if (m)
        emit_pointer(x, i, m);
    flags_before(x);
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
        emit_rm(x->e, &n, at(HOST_C, 0));
    else
        emit_rr(x->e, &n, pm.host);
    put_back(x, &pr);
    put_back(x, &pm);
    put_back(x, &pv);
    flags_after(x);
}

/* --- LEA --- */

static void emit_lea_insn(struct translator *x, const struct insn *i)
{
    unsigned r = gpr_of(x->op[0].reg.value);
    emit_address(x, i, &x->op[1], HOST_C);
    if (x->op[0].size == 64) {
        set(x, r, HOST_C);
    } else {
        emit_op_rr(x->e, false, 0x89, HOST_C, is_far(r) ? HOST_C : translate_host_reg[r]);
        if (is_far(r))
            set(x, r, HOST_C);
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
        emit_pointer(x, i, &x->op[0]);
        emit_op_rm(x->e, w, 0x8b, HOST_C, at(HOST_C, 0));
    } else {
        unsigned host = get(x, gpr_of(x->op[0].reg.value), HOST_C);
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
    if (x->live[x->index])
        flags_save(x);
    else
        x->flags_saved = false;
    flags_destroyed(x);
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
            set(x, X86_RDX, HOST_D);
        else
            set(x, X86_RAX, HOST_A);
    }
}

/* --- stack --- */

#define GUEST_SP translate_host_reg[X86_RSP]

static void move_sp(struct translator *x, i32 by)
{
    emit_lea(x->e, GUEST_SP, at(GUEST_SP, by));
}

/* C: pointer to where a push goes. */
static void push_pointer(struct translator *x)
{
    emit_lea(x->e, HOST_C, at(GUEST_SP, -8));
    emit_tlb(x, 8, true);
}

static void emit_push(struct translator *x)
{
    push_pointer(x);
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        i32 v = (i32)x->op[0].imm.value.s;
        struct encoding n = {.w = true, .opcode = 0xc7, .imm_len = 4};
        memcpy(n.imm, &v, 4);
        emit_rm(x->e, &n, at(HOST_C, 0));
    } else {
        emit_store(x->e, at(HOST_C, 0), get(x, gpr_of(x->op[0].reg.value), HOST_D));
    }
    move_sp(x, -8);
}

static void emit_pop(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), to = is_far(r) ? HOST_D : translate_host_reg[r];
    emit_mov(x->e, HOST_C, GUEST_SP);
    emit_tlb(x, 8, false);
    emit_load(x->e, to, at(HOST_C, 0));
    set(x, r, to);
    move_sp(x, 8);
}

static void emit_leave_insn(struct translator *x)
{
    unsigned bp = translate_host_reg[X86_RBP];
    emit_mov(x->e, HOST_C, bp);
    emit_tlb(x, 8, false);
    emit_lea(x->e, GUEST_SP, at(bp, 8));
    emit_load(x->e, bp, at(HOST_C, 0));
}

/* --- branches --- */

static i32 next_off(const struct translator *x, const struct insn *i)
{
    return x->block_off + i->off + i->len;
}

static bool near_known(const struct translator *x)
{
    if (x->z.operand_width != 64 || x->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    return x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE || plain_operands(x);
}

/* The target of an indirect branch into A. */
static void branch_target(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_pointer(x, i, &x->op[0]);
        emit_load(x->e, HOST_A, at(HOST_C, 0));
    } else {
        unsigned host = get(x, gpr_of(x->op[0].reg.value), HOST_A);
        if (host != HOST_A)
            emit_mov(x->e, HOST_A, host);
    }
}

/* A: guest address, D: its code or the slow path. */
static void look_up(struct translator *x)
{
    emit_call_to(x->e, x->t->thunk.lookup);
    emit_op_rr(x->e, true, 0x85, HOST_D, HOST_D);
    slow_jump(x, CC_E);
}

/* To A, whose code is D. */
static void go(struct translator *x)
{
    emit_op_ri(x->e, true, 4, HOST_A, -4096);
    emit_store(x->e, CPU(page_rip), HOST_A);
    x->flags_in_host = false;
    flags_load(x);
    emit_bytes(x->e, "\xff\xe2", 2); /* jmp rdx */
    x->ended = true;
}

static void emit_jmp(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        way_out(x, (i32)(next_off(x, i) + x->op[0].imm.value.s));
        return;
    }
    flags_save(x);
    branch_target(x, i);
    look_up(x);
    go(x);
}

/* C: where the return address goes. */
static void push_return(struct translator *x, const struct insn *i)
{
    emit_load(x->e, HOST_A, CPU(page_rip));
    emit_lea(x->e, HOST_A, at(HOST_A, next_off(x, i)));
    emit_store(x->e, at(HOST_C, 0), HOST_A);
    move_sp(x, -8);
}

static void emit_call(struct translator *x, const struct insn *i)
{
    flags_save(x);
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        push_pointer(x);
        push_return(x, i);
        flags_load(x);
        way_out(x, (i32)(next_off(x, i) + x->op[0].imm.value.s));
        return;
    }
    branch_target(x, i);
    emit_store(x->e, CPU(scratch[0]), HOST_A);
    push_pointer(x);
    emit_store(x->e, CPU(scratch[1]), HOST_C);
    emit_load(x->e, HOST_A, CPU(scratch[0]));
    look_up(x);
    emit_load(x->e, HOST_C, CPU(scratch[1]));
    push_return(x, i);
    emit_load(x->e, HOST_A, CPU(scratch[0]));
    go(x);
}

static void emit_ret(struct translator *x)
{
    flags_save(x);
    emit_mov(x->e, HOST_C, GUEST_SP);
    emit_tlb(x, 8, false);
    emit_load(x->e, HOST_A, at(HOST_C, 0));
    look_up(x);
    move_sp(x, 8 + (x->z.operand_count_visible ? (u16)x->op[0].imm.value.u : 0));
    go(x);
}

static bool is_condition(ZydisMnemonic m, u8 *cc)
{
    for (u8 n = 0; n < 16; n++) {
        static const ZydisMnemonic j[16] = {
            ZYDIS_MNEMONIC_JO, ZYDIS_MNEMONIC_JNO, ZYDIS_MNEMONIC_JB,  ZYDIS_MNEMONIC_JNB,
            ZYDIS_MNEMONIC_JZ, ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JBE, ZYDIS_MNEMONIC_JNBE,
            ZYDIS_MNEMONIC_JS, ZYDIS_MNEMONIC_JNS, ZYDIS_MNEMONIC_JP,  ZYDIS_MNEMONIC_JNP,
            ZYDIS_MNEMONIC_JL, ZYDIS_MNEMONIC_JNL, ZYDIS_MNEMONIC_JLE, ZYDIS_MNEMONIC_JNLE};
        *cc = n;
        if (j[n] == m)
            return true;
    }
    return false;
}

/* --- which instruction goes which way --- */

enum kind { UNKNOWN, GENERAL, NOTHING, LEA, MUL, DIV, CMPXCHG, SIGN, PUSH, POP, LEAVE, JMP, CALL, RET, JCC };

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
        M(XCHG) : M(XADD) : return m ? GENERAL : UNKNOWN;
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
            : M(PREFETCHT0) : M(PREFETCHT1) : M(PREFETCHT2) : M(PREFETCHNTA) : M(PREFETCHW) : return NOTHING;
        M(PUSH) : return z->operand_width == 64 && !m ? PUSH : UNKNOWN;
        M(POP)
            : return z->operand_width == 64 &&
                !m && x->op[0].reg.value != ZYDIS_REGISTER_RSP
            ? POP
            : UNKNOWN;
        M(LEAVE) : return z->operand_width == 64 ? LEAVE : UNKNOWN;
        M(JMP) : return near_known(x) ? JMP : UNKNOWN;
        M(CALL) : return near_known(x) ? CALL : UNKNOWN;
        M(RET)
            : return z->operand_width == 64 &&
                z->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR
            ? RET
            : UNKNOWN;
    default: break;
    }
    u8 cc;
    return is_condition(z->mnemonic, &cc) && z->operand_width == 64 ? JCC : UNKNOWN;
}

bool translate_insn_known(const struct translator *x, const struct insn *i)
{
    const ZydisDecodedOperand *m = memory_operand(x);
    enum kind k = kind_of(x);
    if (x->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (x->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
        return false; /* CPUs differ, and the interpreter knows how */
    if (m && m->mem.base == ZYDIS_REGISTER_RIP && rip_disp(x, i, m) != (i32)rip_disp(x, i, m))
        return false;
    switch (k) {
    case UNKNOWN: return false;
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

bool translate_insn(struct translator *x, const struct insn *i)
{
    u8 cc;
    switch (kind_of(x)) {
    case UNKNOWN: return false;
    case GENERAL: emit_general(x, i); break;
    case NOTHING: break;
    case LEA: emit_lea_insn(x, i); break;
    case MUL: emit_mul(x, i); break;
    case DIV: emit_div(x, i); break;
    case CMPXCHG: emit_cmpxchg(x, i); break;
    case SIGN: emit_sign(x); break;
    case PUSH: emit_push(x); break;
    case POP: emit_pop(x); break;
    case LEAVE: emit_leave_insn(x); break;
    case JMP: emit_jmp(x, i); break;
    case CALL: emit_call(x, i); break;
    case RET: emit_ret(x); break;
    case JCC:
        is_condition(x->z.mnemonic, &cc);
        way_out_jump(x, cc, (i32)(next_off(x, i) + x->op[0].imm.value.s));
        break;
    }
    return true;
}
