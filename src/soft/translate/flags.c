/* Arithmetic flags: which instructions read and write them, and where they are (T2). */
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define ARITH                                                                                       \
    (ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | \
     ZYDIS_CPUFLAG_OF)

/* --- instructions --- */

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

/* Instructions that leave flags undefined, which means: overwritten or left alone, as the host's CPU does it.
 */
enum undefined {
    UNDEFINED_SHIFT,
    UNDEFINED_DOUBLE_SHIFT,
    UNDEFINED_DIV,
    UNDEFINED_SCAN,
    UNDEFINED_BMI,
    UNDEFINED_OTHER
};

static enum undefined undefined_kind(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR: return UNDEFINED_SHIFT;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return UNDEFINED_DOUBLE_SHIFT;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV: return UNDEFINED_DIV;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR: return UNDEFINED_SCAN;
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSMSK: return UNDEFINED_BMI;
    default: return UNDEFINED_OTHER;
    }
}

/* The arithmetic flags after @insns on EAX, which were all 0 or all 1 before. */
#define FLAGS_AFTER(before, insns)                                        \
    ({                                                                    \
        u64 after_, before_ = (before) ? ARITH : 0;                       \
        __asm__ volatile("lea -128(%%rsp), %%rsp; push %1; popfq; " insns \
                         "; pushfq; pop %0; lea 128(%%rsp), %%rsp"        \
                         : "=&r"(after_)                                  \
                         : "r"(before_)                                   \
                         : "rax", "rcx", "rdx", "cc");                    \
        (u32) after_ &ARITH;                                              \
    })
#define OVERWRITES(insns) (FLAGS_AFTER(false, insns) == FLAGS_AFTER(true, insns))

u32 flags_probe(void)
{
    u32 kills = 0;
    if (OVERWRITES("mov $7, %%eax; shl $1, %%eax") && OVERWRITES("mov $7, %%eax; shr $3, %%rax") &&
        OVERWRITES("mov $7, %%eax; sar $1, %%eax") && OVERWRITES("mov $7, %%eax; shl $5, %%ax"))
        kills |= BIT(UNDEFINED_SHIFT);
    if (OVERWRITES("mov $7, %%eax; shld $3, %%eax, %%eax") &&
        OVERWRITES("mov $7, %%eax; shrd $1, %%rax, %%rax"))
        kills |= BIT(UNDEFINED_DOUBLE_SHIFT);
    if (OVERWRITES("xor %%edx, %%edx; mov $7, %%eax; lea -4(%%rax), %%ecx; div %%ecx") &&
        OVERWRITES("cltd; mov $7, %%eax; mov $0, %%edx; mov $3, %%ecx; idiv %%rcx"))
        kills |= BIT(UNDEFINED_DIV);
    if (OVERWRITES("mov $8, %%eax; bsf %%eax, %%ecx") && OVERWRITES("mov $0, %%eax; bsr %%rax, %%rcx"))
        kills |= BIT(UNDEFINED_SCAN);
    if (__builtin_cpu_supports("bmi") && OVERWRITES("mov $7, %%eax; andn %%eax, %%eax, %%ecx") &&
        OVERWRITES("mov $7, %%eax; blsr %%rax, %%rcx"))
        kills |= BIT(UNDEFINED_BMI);
    return kills;
}

bool translate_kills_flags(const struct translator *x)
{
    const ZydisDecodedInstruction *z = &x->z;
    u32 undefined = z->cpu_flags ? z->cpu_flags->undefined & ARITH : 0;
    if (flags_written(z) != ARITH || may_leave_flags(z))
        return false;
    /* AF after logic is undefined in name only: all CPUs clear it. */
    return !undefined || z->meta.category == ZYDIS_CATEGORY_LOGICAL ||
           (x->t->flags_killed & BIT(undefined_kind(z->mnemonic)));
}

/* --- what is live, and what can be had again (T3) --- */

static const struct {
    ZydisMnemonic mnemonic;
    u8 op;
} alu_ops[] = {{ZYDIS_MNEMONIC_ADD, 0}, {ZYDIS_MNEMONIC_OR, 1},  {ZYDIS_MNEMONIC_AND, 4},
               {ZYDIS_MNEMONIC_SUB, 5}, {ZYDIS_MNEMONIC_XOR, 6}, {ZYDIS_MNEMONIC_CMP, 7},
               {ZYDIS_MNEMONIC_TEST, 8}};
enum { ALU_ADD = 0, ALU_SUB = 5, ALU_CMP = 7, ALU_TEST = 8 };

static unsigned alu_op(ZydisMnemonic m)
{
    for (unsigned n = 0; n < ARRAY_SIZE(alu_ops); n++)
        if (alu_ops[n].mnemonic == m)
            return alu_ops[n].op;
    return ~0u;
}

/* A register that a recipe can name: none of those that are not in the host's, no high byte. */
static bool near_gpr(const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_is_plain(op->reg.value) &&
           !is_far(gpr_of(op->reg.value));
}

/* The recipe for the flags that the decoded instruction leaves. */
static struct flag_recipe recipe_of(const struct translator *x)
{
    struct flag_recipe none = {REDO_NOTHING}, r = none;
    unsigned op = alu_op(x->z.mnemonic);
    const ZydisDecodedOperand *d = &x->op[0], *s = &x->op[1];
    if (op == ~0u || !near_gpr(d))
        return none;
    r = (struct flag_recipe){.op = (u8)op, .width = (u8)d->size, .dst = (u8)gpr_of(d->reg.value)};
    r.undo = op == ALU_ADD || op == ALU_SUB;
    r.what = op == ALU_CMP || r.undo ? REDO_ALU : REDO_TEST;
    r.src = r.dst;
    if (r.what == REDO_TEST && op != ALU_TEST)
        return r; /* logic: the result says all */
    if (s->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        r.src = NO_GPR;
        r.imm = (i32)s->imm.value.s;
        return r;
    }
    if (!near_gpr(s))
        return none;
    r.src = (u8)gpr_of(s->reg.value);
    return r.undo && r.src == r.dst ? none : r;
}

static bool changes(const ZydisDecodedOperand *op, const struct flag_recipe *r)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
        ZydisRegisterGetClass(op->reg.value) > ZYDIS_REGCLASS_GPR64)
        return false;
    unsigned g = gpr_of(op->reg.value);
    return g == r->dst || g == r->src;
}

/* Of the vector unit: may find it switched off. */
static bool beyond_gprs(const ZydisDecodedOperand *op)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
    return class > ZYDIS_REGCLASS_GPR64 && class != ZYDIS_REGCLASS_FLAGS && class != ZYDIS_REGCLASS_IP;
}

static bool may_fault(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count; n++)
        if (beyond_gprs(&x->op[n]) ||
            (x->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && x->op[n].mem.type != ZYDIS_MEMOP_TYPE_AGEN))
            return true;
    return x->z.mnemonic == ZYDIS_MNEMONIC_DIV || x->z.mnemonic == ZYDIS_MNEMONIC_IDIV;
}

#define NO_READER 100

void flags_note(struct translator *x, unsigned n)
{
    struct flag_recipe *now = &x->now;
    x->recipe[n] = *now;
    x->flag_use[n] = FLAGS_READ;
    x->reader[n] = may_fault(x);
    if (x->follow[n] == FOLLOW_TARGET && x->z.mnemonic == ZYDIS_MNEMONIC_JMP && !x->t->options.live_flags)
        x->flag_use[n] = FLAGS_LEFT;
    u8 cc;
    bool goes_on = x->follow[n] != FOLLOW_NONE || is_condition(x->z.mnemonic, &cc);
    if (goes_on && x->native[n] && (x->b->insn[n].flags & INSN_BRANCH) && !x->t->options.live_flags)
        return; /* the flags and what they come from are as before */
    if (!x->native[n] || x->t->options.live_flags || (x->b->insn[n].flags & INSN_BRANCH)) {
        *now = (struct flag_recipe){REDO_NOTHING};
        return;
    }
    bool kills = translate_kills_flags(x);
    if (!translate_reads_flags(&x->z) && kills)
        x->reader[n] = NO_READER;
    if (!translate_reads_flags(&x->z))
        x->flag_use[n] = may_fault(x) && now->what == REDO_NOTHING ? FLAGS_WANTED
                         : kills                                   ? FLAGS_KILLED
                                                                   : FLAGS_LEFT;
    for (unsigned k = 0; k < x->z.operand_count; k++)
        if (now->what != REDO_NOTHING && changes(&x->op[k], now))
            now->what = REDO_NOTHING;
    if (translate_writes_flags(&x->z))
        *now = kills ? recipe_of(x) : (struct flag_recipe){REDO_NOTHING};
}

void flags_find_live(struct translator *x)
{
    x->live[x->b->count] = true;
    x->reader[x->b->count] = NO_READER;
    for (unsigned n = x->b->count; n-- > 0;) {
        x->live[n] = x->flag_use[n] >= FLAGS_WANTED || (x->flag_use[n] == FLAGS_LEFT && x->live[n + 1]);
        if (x->flag_use[n] != FLAGS_READ)
            x->reader[n] = (u8)MIN(x->reader[n] + x->reader[n + 1], NO_READER);
    }
}

/* dst op src, or with the immediate */
static void emit_recipe_op(struct translator *x, const struct flag_recipe *r, unsigned op)
{
    unsigned dst = translate_host_reg[r->dst];
    struct encoding n = {.w = r->width == 64, .p66 = r->width == 16, .opcode = r->width != 8};
    n.rex = r->width == 8;
    if (r->src != NO_GPR) {
        n.opcode |= op == ALU_TEST ? 0x84 : (u8)(op << 3);
        n.reg = translate_host_reg[r->src];
    } else {
        n.opcode |= op == ALU_TEST ? 0xf6 : 0x80;
        n.reg = op == ALU_TEST ? 0 : (u8)op;
        n.imm_len = r->width == 8 ? 1 : r->width == 16 ? 2 : 4;
        memcpy(n.imm, &r->imm, n.imm_len);
    }
    emit_rr(x->e, &n, dst);
}

void flags_redo(struct translator *x, const struct flag_recipe *r)
{
    if (r->what == REDO_NOTHING)
        return;
    if (r->undo)
        emit_recipe_op(x, r, r->op == ALU_ADD ? ALU_SUB : ALU_ADD);
    emit_recipe_op(x, r, r->what == REDO_TEST ? ALU_TEST : r->op);
    emit_save_flags(x->e);
}

/* --- where they are (T2) --- */

void emit_save_flags(struct emit *e)
{
    emit_bytes(e, "\x9f\x0f\x90\xc0", 4); /* lahf; seto al */
    emit_rm(e, &(struct encoding){.p66 = true, .opcode = 0x89, .reg = HOST_A}, CPU(arith_flags));
}

void flags_save(struct translator *x)
{
    if (!x->flags_in_host || x->flags_saved)
        return;
    emit_save_flags(x->e);
    x->flags_saved = true;
}

void flags_destroyed(struct translator *x)
{
    x->flags_in_host = false;
}

bool flags_only_in_host(const struct translator *x)
{
    return x->flags_in_host && !x->flags_saved && x->live[x->index];
}

void flags_lost(struct translator *x)
{
    if (x->live[x->index])
        flags_save(x);
    else
        x->flags_saved = false;
    flags_destroyed(x);
}

void emit_load_flags(struct emit *e)
{
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb7, .reg = HOST_A}, CPU(arith_flags));
    emit_bytes(e, "\x04\x7f\x9e", 3); /* add al, 0x7f; sahf */
}

void flags_load(struct translator *x)
{
    if (x->flags_in_host || !x->flags_saved)
        return;
    emit_load_flags(x->e);
    x->flags_in_host = true;
}

/* Flags as the instruction needs them, once the memory operand's check is done. */
void flags_before(struct translator *x)
{
    const ZydisDecodedInstruction *z = &x->z;
    if (translate_reads_flags(z) ||
        (translate_writes_flags(z) && !translate_kills_flags(x) && x->live[x->index + 1]))
        flags_load(x);
}

void flags_after(struct translator *x)
{
    if (!translate_writes_flags(&x->z))
        return;
    x->flags_in_host = true;
    x->flags_saved = false;
}
