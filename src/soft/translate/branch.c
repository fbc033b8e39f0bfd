/* The stack, branches, and the ways out of a block. */
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- ways out --- */

/* To the run loop, which may patch @patch when the target in this page has code (T6). */
static void leave_linked(struct translator *x, u8 *patch, i32 off)
{
    struct translate_cpu *t = x->t;
    u32 number = 0;
    if (!t->options.no_chaining) {
        number = ++t->exit_count;
        t->exits[number] = (struct translate_exit){
            .patch = patch, .gpa = (x->b->gpa & PAGE_MASK) + (u64)off, .mode = x->b->mode};
    }
    emit_set_target(patch, x->e->at);
    emit_mov_imm32(x->e, HOST_C, (u32)off);
    emit_mov_imm32(x->e, HOST_D, number);
    emit_jump_to(x->e, CC_ALWAYS, x->t->thunk.leave);
}

void leave_saved(struct translator *x, i32 off)
{
    emit_mov_imm32(x->e, HOST_C, (u32)off);
    emit_op_rr(x->e, false, 0x31, HOST_D, HOST_D);
    emit_jump_to(x->e, CC_ALWAYS, x->t->thunk.leave_saved);
}

/* To another page: through the jump cache. */
static void leave_page(struct translator *x, i32 off)
{
    struct emit *e = x->e;
    flags_save(x);
    emit_load(e, HOST_A, CPU(page_rip));
    emit_lea(e, HOST_A, at(HOST_A, off));
    emit_call_to(e, x->t->thunk.lookup);
    emit_op_rr(e, true, 0x85, HOST_D, HOST_D);
    u8 *miss = emit_jump(e, CC_E);
    emit_op_ri(e, true, 4, HOST_A, -4096);
    emit_store(e, CPU(page_rip), HOST_A);
    emit_load_flags(e);
    emit_bytes(e, "\xff\xe2", 2); /* jmp rdx */
    emit_set_target(miss, e->at);
    leave_saved(x, off);
}

void leave(struct translator *x, u8 *jump, i32 off)
{
    if (off >= 0 && off < (i32)PAGE_SIZE) {
        leave_linked(x, jump, off);
    } else {
        emit_set_target(jump, x->e->at);
        x->flags_in_host = true;
        x->flags_saved = false;
        leave_page(x, off);
    }
}

void way_out_jump(struct translator *x, u8 cc, i32 off)
{
    flags_load(x);
    x->ways[x->way_count++] = (struct way_out){emit_jump(x->e, cc), off};
}

void way_out(struct translator *x, i32 off)
{
    if (off >= 0 && off < (i32)PAGE_SIZE)
        way_out_jump(x, CC_ALWAYS, off);
    else
        leave_page(x, off);
    x->ended = true;
}

/* --- stack --- */

#define GUEST_SP translate_host_reg[X86_RSP]

void move_sp(struct translator *x, i32 by)
{
    emit_lea(x->e, GUEST_SP, at(GUEST_SP, by));
}

void push_pointer(struct translator *x)
{
    emit_lea(x->e, HOST_C, at(GUEST_SP, -8));
    emit_tlb(x, RANGE_STACK, 8, true);
}

static void emit_push_memory(struct translator *x, const struct insn *i)
{
    emit_pointer(x, i, &x->op[0]);
    emit_load(x->e, HOST_C, at(HOST_C, 0));
    emit_store(x->e, CPU(scratch[0]), HOST_C);
    push_pointer(x);
    emit_load(x->e, HOST_A, CPU(scratch[0]));
    emit_store(x->e, at(HOST_C, 0), HOST_A);
    move_sp(x, -8);
}

void emit_push(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_push_memory(x, i);
        return;
    }
    push_pointer(x);
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        i32 v = (i32)x->op[0].imm.value.s;
        struct encoding n = {.w = true, .opcode = 0xc7, .imm_len = 4};
        memcpy(n.imm, &v, 4);
        emit_rm(x->e, &n, at(HOST_C, 0));
    } else {
        emit_store(x->e, at(HOST_C, 0), gpr_get(x, gpr_of(x->op[0].reg.value), HOST_D));
    }
    move_sp(x, -8);
}

void emit_pop(struct translator *x)
{
    unsigned r = gpr_of(x->op[0].reg.value), to = is_far(r) ? HOST_D : translate_host_reg[r];
    emit_mov(x->e, HOST_C, GUEST_SP);
    emit_tlb(x, RANGE_STACK, 8, false);
    emit_load(x->e, to, at(HOST_C, 0));
    gpr_set(x, r, to);
    move_sp(x, 8);
}

void emit_leave_insn(struct translator *x)
{
    unsigned bp = translate_host_reg[X86_RBP];
    emit_mov(x->e, HOST_C, bp);
    emit_tlb(x, RANGE_STACK, 8, false);
    emit_lea(x->e, GUEST_SP, at(bp, 8));
    emit_load(x->e, bp, at(HOST_C, 0));
}

/* --- branches --- */

static i32 next_off(const struct translator *x, const struct insn *i)
{
    return x->block_off + i->off + i->len;
}

bool near_known(const struct translator *x)
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
        unsigned host = gpr_get(x, gpr_of(x->op[0].reg.value), HOST_A);
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

void emit_jmp(struct translator *x, const struct insn *i)
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

void emit_call(struct translator *x, const struct insn *i)
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

void emit_ret(struct translator *x)
{
    flags_save(x);
    emit_mov(x->e, HOST_C, GUEST_SP);
    emit_tlb(x, RANGE_STACK, 8, false);
    emit_load(x->e, HOST_A, at(HOST_C, 0));
    look_up(x);
    move_sp(x, 8 + (x->z.operand_count_visible ? (u16)x->op[0].imm.value.u : 0));
    go(x);
}

bool is_condition(ZydisMnemonic m, u8 *cc)
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

void emit_jcc(struct translator *x, const struct insn *i)
{
    u8 cc;
    is_condition(x->z.mnemonic, &cc);
    way_out_jump(x, cc, (i32)(next_off(x, i) + x->op[0].imm.value.s));
}
