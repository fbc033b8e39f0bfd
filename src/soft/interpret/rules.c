/* Which handler executes which instruction: one table by mnemonic, and the ways in which operands are taken.
 */
#include "soft/interpret/decode-internal.h"

/* --- general ways --- */

static unsigned log2_size(const ZydisDecodedOperand *op)
{
    unsigned bytes = op->size / 8;
    return bytes == 8 ? 3 : bytes == 4 ? 2 : bytes == 2 ? 1 : 0;
}

/* Places the handler of the operation: after address computation where there is a memory operand. */
static bool place(struct decode *d, handler *h)
{
    if (d->mem)
        d->i->op = h;
    else
        d->i->fn = h;
    return h != NULL;
}

static bool place_form(struct decode *d, const struct forms *f)
{
    unsigned n = log2_size(&d->op[0]);
    bool lock = d->z.attributes & ZYDIS_ATTRIB_HAS_LOCK;
    if (d->z.operand_count_visible == 1)
        return place(d, !d->mem ? f->r[n] : lock ? f->lock_m[n] : f->m[n]);
    bool immediate = d->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (d->mem && d->mem_index == 0)
        return place(d, immediate ? (lock ? f->lock_mi[n] : f->mi[n]) : (lock ? f->lock_mr[n] : f->mr[n]));
    return place(d, d->mem ? f->rm[n] : immediate ? f->ri[n] : f->rr[n]);
}

/* By operand forms and the size of the destination. */
static bool how_forms(struct decode *d, const struct rule *r)
{
    return place_form(d, r->forms);
}

/* No operands, or such that need no look. */
static bool how_plain(struct decode *d, const struct rule *r)
{
    d->i->fn = r->r;
    return true;
}

/* A handler for a register operand and one for a memory operand (NULL: not allowed). */
static bool how_rm(struct decode *d, const struct rule *r)
{
    if (!d->mem && d->z.operand_count_visible)
        d->i->size = (u8)(d->op[0].size / 8);
    return place(d, d->mem ? r->m : r->r);
}

/* ARPL writes its operand only when it changes it, and looks at the segment's rights then. */
static bool how_arpl(struct decode *d, const struct rule *r)
{
    d->i->flags &= (u8)~INSN_WRITE;
    return how_rm(d, r);
}

static bool how_undefined(struct decode *d, const struct rule *r)
{
    return false;
}

/* --- particular ways --- */

/* The last of F2 and F3 counts, also where Zydis sees no repeat in it (F2 with MOVS). */
static u8 repeat_flags(const struct decode *d)
{
    u8 flags = 0;
    for (unsigned n = 0; n < d->z.raw.prefix_count; n++)
        if (d->z.raw.prefixes[n].value == 0xf3)
            flags = INSN_REP;
        else if (d->z.raw.prefixes[n].value == 0xf2)
            flags = INSN_REPNE;
    return flags;
}

/* BT and its kind: a register as bit number reaches beyond the memory operand. */
static bool how_bit(struct decode *d, const struct rule *r)
{
    if (d->mem && d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
        d->i->fn = ea_bit_string;
    return how_forms(d, r);
}

static bool how_imul(struct decode *d, const struct rule *r)
{
    unsigned n = log2_size(&d->op[0]);
    switch (d->z.operand_count_visible) {
    case 1: return place_form(d, &forms_imul1);
    case 2: return place_form(d, &forms_imul2);
    default: return place(d, d->mem ? forms_imul3.rm[n] : forms_imul3.rr[n]);
    }
}

static bool how_double_shift(struct decode *d, const struct rule *r)
{
    bool immediate = d->op[2].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (d->z.mnemonic == ZYDIS_MNEMONIC_SHLD)
        return place_form(d, immediate ? &forms_shld : &forms_shld_cl);
    return place_form(d, immediate ? &forms_shrd : &forms_shrd_cl);
}

/* XOR r, r makes zero. */
static bool how_xor(struct decode *d, const struct rule *r)
{
    if (!d->mem && d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && d->op[0].reg.value == d->op[1].reg.value &&
        d->op[0].size >= 32)
        return place(d, xor_self_32);
    return how_forms(d, r);
}

/* MOVZX, MOVSX, MOVSXD: by the size of the source, then of the destination. */
static bool how_widen(struct decode *d, const struct rule *r)
{
    bool zero = d->z.mnemonic == ZYDIS_MNEMONIC_MOVZX;
    switch (d->op[1].size) {
    case 8: return place_form(d, zero ? &forms_movzx8 : &forms_movsx8);
    case 16:
        if (d->op[0].size == 16)
            return place_form(d, &forms_mov);
        return place_form(d, zero ? &forms_movzx16 : &forms_movsx16);
    default: return place_form(d, &forms_movsxd);
    }
}

static ZydisRegisterClass operand_class(const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op->reg.value)
                                                   : ZYDIS_REGCLASS_INVALID;
}

static bool mov_system(struct decode *d, handler *h, ZydisRegister number, ZydisRegister first, bool ends)
{
    d->i->imm = number - first;
    d->i->size = decode_is64(d) ? 8 : 4;
    d->i->r = decode_reg(d->op[ends ? 1 : 0].reg.value);
    d->i->fn = h;
    d->ends = ends;
    return true;
}

static bool how_mov(struct decode *d, const struct rule *r)
{
    ZydisRegister to = d->op[0].reg.value, from = d->op[1].reg.value;
    switch (operand_class(&d->op[0])) {
    case ZYDIS_REGCLASS_SEGMENT:
        if (to == ZYDIS_REGISTER_CS)
            return false;
        d->i->r = (u8)decode_seg(to);
        d->ends = d->i->r == X86_SS;
        return place(d, d->mem ? mov_to_seg_m : mov_to_seg_r);
    case ZYDIS_REGCLASS_CONTROL: return mov_system(d, insn_mov_to_cr, to, ZYDIS_REGISTER_CR0, true);
    case ZYDIS_REGCLASS_DEBUG: return mov_system(d, insn_mov_to_dr, to, ZYDIS_REGISTER_DR0, true);
    default: break;
    }
    switch (operand_class(&d->op[1])) {
    case ZYDIS_REGCLASS_SEGMENT:
        d->i->r2 = (u8)decode_seg(from);
        d->i->size = (u8)(d->op[0].size / 8);
        return place(d, d->mem ? mov_from_seg_m : mov_from_seg_r);
    case ZYDIS_REGCLASS_CONTROL: return mov_system(d, insn_mov_from_cr, from, ZYDIS_REGISTER_CR0, false);
    case ZYDIS_REGCLASS_DEBUG: return mov_system(d, insn_mov_from_dr, from, ZYDIS_REGISTER_DR0, false);
    default: return how_forms(d, r);
    }
}

/* With REX.B it is XCHG R8, rAX, whatever the prefix before. */
static bool how_pause(struct decode *d, const struct rule *r)
{
    unsigned n = d->z.raw.rex.W ? 3 : d->z.operand_width == 16 ? 1 : 2;
    if (!d->z.raw.rex.B)
        return how_plain(d, r);
    d->i->r = X86_R8 * 8;
    d->i->r2 = R_AX;
    d->i->fn = forms_xchg.rr[n];
    return true;
}

/* 0F 0D with a register: reserved, which is a NOP for Intel and undefined for AMD. */
static bool how_nop(struct decode *d, const struct rule *r)
{
    if (d->z.opcode_map == ZYDIS_OPCODE_MAP_0F && d->z.opcode == 0x0d && d->z.raw.modrm.mod == 3 &&
        d->c->vcpu->vm->cpuid->amd)
        return false;
    return how_plain(d, r);
}

/* --- stack --- */

enum stack_kind { STACK_ANY, STACK_32, STACK_64 };

/* May the fast handlers be used? */
static enum stack_kind stack_kind(const struct decode *d)
{
    const u32 flat = SOFT_MODE_FLAT | SOFT_MODE_CODE32 | SOFT_MODE_STACK32;
    if (decode_is64(d))
        return d->z.operand_width == 64 ? STACK_64 : STACK_ANY;
    return d->z.operand_width == 32 && (d->mode & flat) == flat ? STACK_32 : STACK_ANY;
}

static bool how_push(struct decode *d, const struct rule *r)
{
    static handler *const immediate[] = {push_i_any, push_i_32, push_i_64};
    static handler *const reg[] = {push_r_any, push_r_32, push_r_64};
    static handler *const mem[] = {push_m_any, push_m_32, push_m_64};
    enum stack_kind kind = stack_kind(d);
    d->i->size = d->z.operand_width / 8;
    if (operand_class(&d->op[0]) == ZYDIS_REGCLASS_SEGMENT) {
        d->i->r = (u8)decode_seg(d->op[0].reg.value);
        return place(d, push_seg);
    }
    if (d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return place(d, immediate[kind]);
    return place(d, d->mem ? mem[kind] : reg[kind]);
}

static bool how_pop(struct decode *d, const struct rule *r)
{
    static handler *const reg[] = {pop_r_any, pop_r_32, pop_r_64};
    d->i->size = d->z.operand_width / 8;
    if (operand_class(&d->op[0]) == ZYDIS_REGCLASS_SEGMENT) {
        d->i->r = (u8)decode_seg(d->op[0].reg.value);
        d->ends = d->i->r == X86_SS;
        return place(d, pop_seg);
    }
    d->i->fn = d->mem ? pop_m_any : reg[stack_kind(d)];
    return true;
}

static bool how_enter(struct decode *d, const struct rule *r)
{
    d->i->imm = (i64)d->op[0].imm.value.u;
    d->i->disp = (i64)d->op[1].imm.value.u;
    return how_plain(d, r);
}

static bool how_leave(struct decode *d, const struct rule *r)
{
    static handler *const leave[] = {insn_leave, leave_32, leave_64};
    d->i->fn = leave[stack_kind(d)];
    return true;
}

/* --- branches --- */

/* A near target: relative to the block's start; the link needs no TLB when both are in one page. */
static void near_target(struct decode *d)
{
    struct insn *i = d->i;
    i->disp = i->off + i->len + d->op[0].imm.value.s;
    i->imm = 0;
    i->flags |= INSN_BRANCH;
    if (stack_kind(d) != STACK_ANY && (u64)(i->disp + d->page_offset) < PAGE_SIZE)
        i->flags |= INSN_NEAR_SAME;
}

static bool how_jcc(struct decode *d, const struct rule *r)
{
    near_target(d);
    d->i->size = d->z.operand_width / 8;
    d->i->fn = stack_kind(d) == STACK_64 ? jcc_64[r->arg] : jcc_legacy[r->arg];
    return true;
}

/* On AMD a repeat prefix before LOOPE or LOOPNE says which of the two it is (as measured). */
static u8 loop_kind(const struct decode *d, u8 kind)
{
    u8 repeat = repeat_flags(d);
    if (kind == LOOP_ALWAYS || !repeat || !d->c->vcpu->vm->cpuid->amd)
        return kind;
    return repeat == INSN_REP ? LOOP_E : LOOP_NE;
}

static bool how_loop(struct decode *d, const struct rule *r)
{
    near_target(d);
    d->i->size = d->z.operand_width / 8;
    d->i->r = loop_kind(d, (u8)r->arg);
    d->i->fn = r->r;
    return true;
}

/* By stack_kind. */
struct transfer {
    handler *rel[3], *r[3], *m[3];
    handler *far_imm, *far_m;
};
static const struct transfer jmps = {.rel = {jmp_legacy, jmp_legacy, jmp_64},
                                     .r = {jmp_r_legacy, jmp_r_legacy, jmp_r_64},
                                     .m = {jmp_m_legacy, jmp_m_legacy, jmp_m_64},
                                     .far_imm = jmp_far_imm,
                                     .far_m = jmp_far_m};
static const struct transfer calls = {.rel = {call_legacy, call_32, call_64},
                                      .r = {call_r_legacy, call_r_32, call_r_64},
                                      .m = {call_m_legacy, call_m_32, call_m_64},
                                      .far_imm = call_far_imm,
                                      .far_m = call_far_m};

static bool transfer_far(struct decode *d, const struct transfer *t)
{
    struct insn *i = d->i;
    if (d->op[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
        i->imm = d->op[0].ptr.segment;
        i->disp = d->op[0].ptr.offset;
        i->size = d->z.operand_width / 8;
        i->fn = t->far_imm;
        return true;
    }
    i->r2 = d->z.operand_width / 8;
    if (d->c->vcpu->vm->cpuid->amd && i->r2 == 8)
        i->r2 = 4; /* AMD has no far pointers with 64-bit offsets (APM vol. 3, "JMP (Far)") */
    return place(d, t->far_m);
}

static bool how_transfer(struct decode *d, const struct rule *r)
{
    const struct transfer *t = r->arg ? &calls : &jmps;
    struct insn *i = d->i;
    enum stack_kind kind = stack_kind(d);
    if (d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return transfer_far(d, t);
    i->size = d->z.operand_width / 8;
    if (d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        near_target(d);
        return place(d, t->rel[kind]);
    }
    i->flags |= INSN_BRANCH;
    return place(d, d->mem ? t->m[kind] : t->r[kind]);
}

static bool how_ret(struct decode *d, const struct rule *r)
{
    static handler *const ret[] = {ret_legacy, ret_32, ret_64};
    struct insn *i = d->i;
    i->disp = d->z.operand_count_visible ? (u16)d->op[0].imm.value.u : 0;
    i->imm = 0;
    i->size = d->z.operand_width / 8;
    if (d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        i->fn = ret_far;
        return true;
    }
    i->flags |= INSN_BRANCH;
    i->fn = ret[stack_kind(d)];
    return true;
}

static bool how_iret(struct decode *d, const struct rule *r)
{
    d->i->size = (u8)r->arg;
    return how_plain(d, r);
}

/* --- strings and ports --- */

/* MOVSD and CMPSD are also the names of SSE2 instructions. */
static bool how_string(struct decode *d, const struct rule *r)
{
    static handler *const *const table[] = {string_movs, string_stos, string_lods, string_cmps,
                                            string_scas, string_ins,  string_outs};
    struct insn *i = d->i;
    if (d->z.meta.category != ZYDIS_CATEGORY_STRINGOP && d->z.meta.category != ZYDIS_CATEGORY_IOSTRINGOP)
        return decode_native(d);
    i->size = (u8)(1u << (r->arg & 3));
    i->seg = (u8)decode_override(d);
    i->flags = repeat_flags(d);
    i->fn = table[r->arg >> 2][r->arg & 3];
    return true;
}
enum { STRING_MOVS, STRING_STOS, STRING_LODS, STRING_CMPS, STRING_SCAS, STRING_INS, STRING_OUTS };

static bool how_in(struct decode *d, const struct rule *r)
{
    d->i->size = (u8)(d->op[0].size / 8);
    d->i->fn = d->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? insn_in_imm : insn_in_dx;
    return true;
}

static bool how_out(struct decode *d, const struct rule *r)
{
    d->i->size = (u8)(d->op[1].size / 8);
    d->i->fn = d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? insn_out_imm : insn_out_dx;
    return true;
}

static bool how_xlat(struct decode *d, const struct rule *r)
{
    d->i->seg = (u8)decode_override(d);
    return how_plain(d, r);
}

/* --- system --- */

static bool how_load_far_pointer(struct decode *d, const struct rule *r)
{
    d->i->r2 = (u8)(d->op[0].size / 8);
    d->i->imm = r->arg;
    return how_rm(d, r);
}

static bool how_bound(struct decode *d, const struct rule *r)
{
    d->i->r2 = (u8)(d->op[0].size / 8);
    return how_rm(d, r);
}

static bool how_descriptor_table(struct decode *d, const struct rule *r)
{
    d->i->r2 = decode_is64(d) ? 8 : d->z.operand_width / 8;
    return how_rm(d, r);
}

/* imm: size of the destination register. */
static bool how_sized(struct decode *d, const struct rule *r)
{
    d->i->imm = d->op[0].size / 8;
    return how_rm(d, r);
}

static bool how_sysret(struct decode *d, const struct rule *r)
{
    d->i->size = d->z.raw.rex.W ? 8 : 4;
    return how_plain(d, r);
}

static bool how_xsave(struct decode *d, const struct rule *r)
{
    d->i->r2 = (u8)r->arg;
    return how_rm(d, r);
}

/* INVLPG looks at no segment's limit, and MONITOR's address is in rAX. */
static bool how_invlpg(struct decode *d, const struct rule *r)
{
    if (!decode_is64(d))
        d->i->size = 0;
    return how_rm(d, r);
}

static bool how_monitor(struct decode *d, const struct rule *r)
{
    struct insn *i = d->i;
    i->base = R_AX;
    i->seg = (u8)decode_override(d);
    i->size = 1;
    i->fn = ea_any;
    i->op = insn_monitor;
    return true;
}

/* --- the table --- */

#define M(x) [ZYDIS_MNEMONIC_##x]
#define FORMS(NAME, set) M(NAME) = {.how = how_forms, .forms = &forms_##set}
#define PLAIN(NAME, h) M(NAME) = {.how = how_plain, .r = h}
#define PLAIN_END(NAME, h) M(NAME) = {.how = how_plain, .r = h, .flags = RULE_END}
#define RM(NAME, h_r, h_m) M(NAME) = {.how = how_rm, .r = h_r, .m = h_m}
#define RM_END(NAME, h_r, h_m) M(NAME) = {.how = how_rm, .r = h_r, .m = h_m, .flags = RULE_END}
#define HOW(NAME, way) M(NAME) = {.how = way}
#define UNDEFINED(NAME) M(NAME) = {.how = how_undefined}
#define CONDITION(cc, X)                                                                              \
    M(J##X) = {.how = how_jcc, .arg = cc}, M(CMOV##X) = {.how = how_forms, .forms = &forms_cmov[cc]}, \
    M(SET##X) = {.how = how_forms, .forms = &forms_setcc[cc]}
#define STRING(NAME, op, log2) M(NAME) = {.how = how_string, .arg = (op) << 2 | (log2)}
#define LOOP_KIND(NAME, h, kind) M(NAME) = {.how = how_loop, .r = h, .arg = kind}
#define XSAVE_KIND(NAME, h) \
    M(NAME) = {.how = how_xsave, .m = h}, M(NAME##64) = {.how = how_xsave, .m = h, .arg = 1}

#define BIT_TEST(NAME, set) M(NAME) = {.how = how_bit, .forms = &forms_##set}
#define SELECTOR(NAME, h) M(NAME) = {.how = how_sized, .r = h##_r, .m = h##_m}

/* Mnemonics without a rule run on the host, if rules_init() lets them. */
const struct rule decode_rules[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    /* arithmetic */
    FORMS(ADD, add),
    FORMS(OR, or),
    FORMS(ADC, adc),
    FORMS(SBB, sbb),
    FORMS(AND, and),
    FORMS(SUB, sub),
    M(XOR) = {.how = how_xor, .forms = &forms_xor},
    FORMS(CMP, cmp),
    FORMS(TEST, test),
    FORMS(INC, inc),
    FORMS(DEC, dec),
    FORMS(NEG, neg),
    FORMS(NOT, not ),
    FORMS(XADD, xadd),
    FORMS(CMPXCHG, cmpxchg),
    RM(CMPXCHG8B, NULL, cmpxchg8b),
    RM(CMPXCHG16B, NULL, cmpxchg16b),
    FORMS(MUL, mul),
    HOW(IMUL, how_imul),
    FORMS(DIV, div),
    FORMS(IDIV, idiv),
    PLAIN(DAA, insn_daa),
    PLAIN(DAS, insn_das),
    PLAIN(AAA, insn_aaa),
    PLAIN(AAS, insn_aas),
    PLAIN(AAM, insn_aam),
    PLAIN(AAD, insn_aad),

    /* shifts and bits */
    FORMS(ROL, rol),
    FORMS(ROR, ror),
    FORMS(RCL, rcl),
    FORMS(RCR, rcr),
    FORMS(SHL, shl),
    FORMS(SHR, shr),
    FORMS(SAR, sar),
    HOW(SHLD, how_double_shift),
    HOW(SHRD, how_double_shift),
    BIT_TEST(BT, bt),
    BIT_TEST(BTS, bts),
    BIT_TEST(BTR, btr),
    BIT_TEST(BTC, btc),
    FORMS(BSF, bsf),
    FORMS(BSR, bsr),
    FORMS(TZCNT, tzcnt),
    FORMS(LZCNT, lzcnt),
    FORMS(POPCNT, popcnt),
    FORMS(MOVBE, movbe),
    FORMS(BSWAP, bswap),

    /* moves */
    M(MOV) = {.how = how_mov, .forms = &forms_mov},
    FORMS(MOVNTI, mov),
    FORMS(XCHG, xchg),
    FORMS(LEA, lea),
    HOW(MOVZX, how_widen),
    HOW(MOVSX, how_widen),
    HOW(MOVSXD, how_widen),
    PLAIN(CBW, insn_cbw),
    PLAIN(CWDE, insn_cwde),
    PLAIN(CDQE, insn_cdqe),
    PLAIN(CWD, insn_cwd),
    PLAIN(CDQ, insn_cdq),
    PLAIN(CQO, insn_cqo),
    M(XLAT) = {.how = how_xlat, .r = insn_xlat},
    M(LDS) = {.how = how_load_far_pointer, .m = load_far_pointer, .arg = X86_DS, .flags = RULE_END},
    M(LES) = {.how = how_load_far_pointer, .m = load_far_pointer, .arg = X86_ES, .flags = RULE_END},
    M(LFS) = {.how = how_load_far_pointer, .m = load_far_pointer, .arg = X86_FS, .flags = RULE_END},
    M(LGS) = {.how = how_load_far_pointer, .m = load_far_pointer, .arg = X86_GS, .flags = RULE_END},
    M(LSS) = {.how = how_load_far_pointer, .m = load_far_pointer, .arg = X86_SS, .flags = RULE_END},

    /* conditions */
    CONDITION(0, O),
    CONDITION(1, NO),
    CONDITION(2, B),
    CONDITION(3, NB),
    CONDITION(4, Z),
    CONDITION(5, NZ),
    CONDITION(6, BE),
    CONDITION(7, NBE),
    CONDITION(8, S),
    CONDITION(9, NS),
    CONDITION(10, P),
    CONDITION(11, NP),
    CONDITION(12, L),
    CONDITION(13, NL),
    CONDITION(14, LE),
    CONDITION(15, NLE),

    /* branches */
    LOOP_KIND(JCXZ, insn_jcxz, 0),
    LOOP_KIND(JECXZ, insn_jcxz, 0),
    LOOP_KIND(JRCXZ, insn_jcxz, 0),
    LOOP_KIND(LOOP, insn_loop, LOOP_ALWAYS),
    LOOP_KIND(LOOPE, insn_loop, LOOP_E),
    LOOP_KIND(LOOPNE, insn_loop, LOOP_NE),
    M(JMP) = {.how = how_transfer, .arg = 0, .flags = RULE_END},
    M(CALL) = {.how = how_transfer, .arg = 1, .flags = RULE_END},
    M(RET) = {.how = how_ret, .flags = RULE_END},
    M(IRET) = {.how = how_iret, .r = insn_iret, .arg = 2, .flags = RULE_END},
    M(IRETD) = {.how = how_iret, .r = insn_iret, .arg = 4, .flags = RULE_END},
    M(IRETQ) = {.how = how_iret, .r = insn_iret, .arg = 8, .flags = RULE_END},

    /* stack */
    HOW(PUSH, how_push),
    HOW(POP, how_pop),
    PLAIN(PUSHA, insn_pusha),
    PLAIN(PUSHAD, insn_pusha),
    PLAIN(POPA, insn_popa),
    PLAIN(POPAD, insn_popa),
    PLAIN(PUSHF, insn_pushf),
    PLAIN(PUSHFD, insn_pushf),
    PLAIN(PUSHFQ, insn_pushf),
    PLAIN_END(POPF, insn_popf),
    PLAIN_END(POPFD, insn_popf),
    PLAIN_END(POPFQ, insn_popf),
    M(ENTER) = {.how = how_enter, .r = insn_enter},
    HOW(LEAVE, how_leave),

    /* strings */
    STRING(MOVSB, STRING_MOVS, 0),
    STRING(MOVSW, STRING_MOVS, 1),
    STRING(MOVSD, STRING_MOVS, 2),
    STRING(MOVSQ, STRING_MOVS, 3),
    STRING(STOSB, STRING_STOS, 0),
    STRING(STOSW, STRING_STOS, 1),
    STRING(STOSD, STRING_STOS, 2),
    STRING(STOSQ, STRING_STOS, 3),
    STRING(LODSB, STRING_LODS, 0),
    STRING(LODSW, STRING_LODS, 1),
    STRING(LODSD, STRING_LODS, 2),
    STRING(LODSQ, STRING_LODS, 3),
    STRING(CMPSB, STRING_CMPS, 0),
    STRING(CMPSW, STRING_CMPS, 1),
    STRING(CMPSD, STRING_CMPS, 2),
    STRING(CMPSQ, STRING_CMPS, 3),
    STRING(SCASB, STRING_SCAS, 0),
    STRING(SCASW, STRING_SCAS, 1),
    STRING(SCASD, STRING_SCAS, 2),
    STRING(SCASQ, STRING_SCAS, 3),
    STRING(INSB, STRING_INS, 0),
    STRING(INSW, STRING_INS, 1),
    STRING(INSD, STRING_INS, 2),
    STRING(OUTSB, STRING_OUTS, 0),
    STRING(OUTSW, STRING_OUTS, 1),
    STRING(OUTSD, STRING_OUTS, 2),

    /* flags */
    PLAIN(CLC, insn_clc),
    PLAIN(STC, insn_stc),
    PLAIN(CMC, insn_cmc),
    PLAIN(CLD, insn_cld),
    PLAIN(STD, insn_std),
    PLAIN(LAHF, insn_lahf),
    PLAIN(SAHF, insn_sahf),
    PLAIN(SALC, insn_salc),
    PLAIN(CLI, insn_cli),
    PLAIN(STI, insn_sti),
    PLAIN(CLAC, insn_clac),
    PLAIN(STAC, insn_stac),

    /* nothing */
    M(NOP) = {.how = how_nop, .r = insn_nop},
    PLAIN(ENDBR32, insn_nop),
    PLAIN(ENDBR64, insn_nop),
    PLAIN(RDSSPD, insn_nop),
    PLAIN(RDSSPQ, insn_nop),
    PLAIN(PREFETCH, insn_nop),
    PLAIN(PREFETCHNTA, insn_nop),
    PLAIN(PREFETCHT0, insn_nop),
    PLAIN(PREFETCHT1, insn_nop),
    PLAIN(PREFETCHT2, insn_nop),
    PLAIN(PREFETCHW, insn_nop),
    PLAIN(PREFETCHWT1, insn_nop),
    M(PAUSE) = {.how = how_pause, .r = insn_pause},
    PLAIN(LFENCE, insn_fence),
    PLAIN(SFENCE, insn_fence),
    PLAIN(MFENCE, insn_fence),
    RM(CLFLUSH, NULL, insn_clflush),
    RM(CLFLUSHOPT, NULL, insn_clflush),
    RM(CLWB, NULL, insn_clflush),

    /* interrupts and system calls */
    PLAIN_END(INT, insn_int),
    PLAIN_END(INT3, insn_int3),
    PLAIN_END(INT1, insn_int1),
    PLAIN(INTO, insn_into),
    M(BOUND) = {.how = how_bound, .m = insn_bound},
    PLAIN_END(SYSCALL, insn_syscall),
    M(SYSRET) = {.how = how_sysret, .r = insn_sysret, .flags = RULE_END},
    PLAIN_END(SYSENTER, insn_sysenter),
    M(SYSEXIT) = {.how = how_sysret, .r = insn_sysexit, .flags = RULE_END},
    PLAIN_END(VMCALL, insn_hypercall),
    PLAIN_END(VMMCALL, insn_hypercall),
    UNDEFINED(UD0),
    UNDEFINED(UD1),
    UNDEFINED(UD2),

    /* ports */
    HOW(IN, how_in),
    HOW(OUT, how_out),

    /* processor control */
    PLAIN_END(HLT, insn_hlt),
    PLAIN(CPUID, insn_cpuid),
    PLAIN(RDTSC, insn_rdtsc),
    PLAIN(RDTSCP, insn_rdtscp),
    RM(RDPID, insn_rdpid, NULL),
    PLAIN_END(RDMSR, insn_rdmsr),
    PLAIN_END(WRMSR, insn_wrmsr),
    PLAIN(RDPMC, insn_rdpmc),
    PLAIN(XGETBV, insn_xgetbv),
    PLAIN_END(XSETBV, insn_xsetbv),
    PLAIN_END(CLTS, insn_clts),
    PLAIN(INVD, insn_invd),
    PLAIN(WBINVD, insn_invd),
    M(MONITOR) = {.how = how_monitor},
    PLAIN(MWAIT, insn_mwait),
    RM_END(LMSW, insn_lmsw_r, insn_lmsw_m),
    RM(SMSW, insn_smsw_r, insn_smsw_m),
    RM(RDRAND, insn_rdrand, NULL),
    RM(RDSEED, insn_rdseed, NULL),
    PLAIN(RDPKRU, insn_rdpkru),
    PLAIN_END(WRPKRU, insn_wrpkru),

    /* descriptor tables and selectors */
    M(LGDT) = {.how = how_descriptor_table, .m = insn_lgdt, .flags = RULE_END},
    M(LIDT) = {.how = how_descriptor_table, .m = insn_lidt, .flags = RULE_END},
    M(SGDT) = {.how = how_descriptor_table, .m = insn_sgdt},
    M(SIDT) = {.how = how_descriptor_table, .m = insn_sidt},
    RM_END(LLDT, insn_lldt_r, insn_lldt_m),
    RM_END(LTR, insn_ltr_r, insn_ltr_m),
    RM(SLDT, insn_sldt_r, insn_sldt_m),
    RM(STR, insn_str_r, insn_str_m),
    SELECTOR(LAR, insn_lar),
    SELECTOR(LSL, insn_lsl),
    RM(VERR, insn_verr_r, insn_verr_m),
    RM(VERW, insn_verw_r, insn_verw_m),
    M(ARPL) = {.how = how_arpl, .r = insn_arpl_r, .m = insn_arpl_m},

    /* translation, bases */
    M(INVLPG) = {.how = how_invlpg, .m = insn_invlpg, .flags = RULE_END},
    M(INVPCID) = {.how = how_sized, .m = insn_invpcid, .flags = RULE_END},
    PLAIN_END(SWAPGS, insn_swapgs),
    RM(RDFSBASE, insn_rdfsbase, NULL),
    RM(RDGSBASE, insn_rdgsbase, NULL),
    RM(WRFSBASE, insn_wrfsbase, NULL),
    RM(WRGSBASE, insn_wrgsbase, NULL),

    /* saved FPU state */
    XSAVE_KIND(FXSAVE, insn_fxsave),
    XSAVE_KIND(FXRSTOR, insn_fxrstor),
    XSAVE_KIND(XSAVE, insn_xsave),
    XSAVE_KIND(XSAVEOPT, insn_xsaveopt),
    XSAVE_KIND(XSAVEC, insn_xsavec),
    XSAVE_KIND(XSAVES, insn_xsaves),
    XSAVE_KIND(XRSTOR, insn_xrstor),
    XSAVE_KIND(XRSTORS, insn_xrstors),
};
