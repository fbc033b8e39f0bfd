/* The stack, branches, and the ways out of a block. */
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- ways out --- */

static u32 new_exit(struct translator *x, struct translate_exit exit)
{
    struct translate_cpu *t = x->t;
    if (t->options.no_chaining)
        return 0;
    u32 number = code_region(t->vm)->exits_used++;
    t->vm->exits[number] = exit;
    return number;
}

/* To the run loop, which may patch the jump when the target in this page has code (T6). */
static void leave_linked(struct translator *x, const struct way_out *w)
{
    const struct translate_cpu *t = x->t;
    bool saved = w->entry == ENTRY_SAVED || w->entry == ENTRY_SAVED_CHECKED;
    u32 number = new_exit(x, (struct translate_exit){.patch = (u32)(w->jump - t->vm->code),
                                                     .unlinked = (u32)(x->e->at - t->vm->code),
                                                     .from = translation_number(t->vm, x->code),
                                                     .off = (u16)w->off,
                                                     .entry = (u8)w->entry});
    emit_set_target(w->jump, x->e->at);
    emit_mov_imm32(x->e, HOST_C, (u32)w->off);
    emit_mov_imm32(x->e, HOST_D, number);
    emit_jump_to(x->e, CC_ALWAYS, saved ? t->thunk.leave_saved : t->thunk.leave);
}

void leave_saved(struct translator *x, i32 off)
{
    emit_mov_imm32(x->e, HOST_C, (u32)off);
    emit_op_rr(x->e, false, 0x31, HOST_D, HOST_D);
    emit_jump_to(x->e, CC_ALWAYS, x->t->thunk.leave_saved);
}

struct address slot_field(u32 slot, size_t field)
{
    return at(HOST_CPU,
              (i32)(offsetof(struct translate_cpu, slots) + slot * sizeof(struct translate_slot) + field));
}

static i32 page_of(i32 off)
{
    return off & (i32)PAGE_MASK;
}

/* To another page (T6). Flags are in arith_flags; A and C are lost. */
static void leave_page(struct translator *x, i32 off)
{
    struct emit *e = x->e;
    struct translate_cpu *t = x->t;
    if (t->options.no_chaining) {
        leave_saved(x, off);
        return;
    }
    u32 slot = code_region(t->vm)->slots_used++;
    emit_load(e, HOST_A, CPU(page_rip));
    emit_op_rm(e, true, 0x03, HOST_A, CPU(map_key));
    emit_op_rm(e, true, 0x3b, HOST_A, slot_field(slot, offsetof(struct translate_slot, key)));
    u8 *other = emit_jump(e, CC_NE);
    struct encoding add = {.w = x->wide, .opcode = 0x81, .imm_len = 4};
    memcpy(add.imm, &(i32){page_of(off)}, 4);
    emit_rm(e, &add, CPU(page_rip));
    emit_op_rm(e, false, 0xff, 4, slot_field(slot, offsetof(struct translate_slot, code))); /* jmp */
    emit_set_target(other, e->at);
    emit_mov_imm32(e, HOST_A, (u32)slot_field(slot, 0).disp);
    emit_mov_imm32(e, HOST_C, (u32)off);
    emit_jump_to(e, CC_ALWAYS, t->thunk.slot[x->wide]);
}

static bool in_page(i32 off)
{
    return off >= 0 && off < (i32)PAGE_SIZE;
}

void leave(struct translator *x, const struct way_out *w)
{
    if (w->back) {
        emit_set_target(w->jump, x->e->at);
        emit_load(x->e, HOST_SP, CPU(shadow_top));
        emit_jump_to(x->e, CC_ALWAYS, w->back);
    } else if (in_page(w->off)) {
        leave_linked(x, w);
    } else {
        emit_set_target(w->jump, x->e->at);
        x->flags_in_host = w->entry == ENTRY_HOST || w->entry == ENTRY_HOST_CHECKED;
        x->flags_saved = !x->flags_in_host;
        flags_save(x);
        leave_page(x, w->off);
    }
}

#define CALL_ALWAYS 0xfe

/* What leads back, or to itself, looks at the requests (T5): @from is where the branch ends. */
static enum entry entry_for(const struct translator *x, i32 from, i32 off)
{
    bool back = off < from || x->went_back, saved = x->flags_saved && (!x->flags_in_host || back);
    return (saved ? ENTRY_SAVED : ENTRY_HOST) + (back ? ENTRY_CHECKED : 0);
}

/* A jump (or CALL_ALWAYS) to @off of the page, for an instruction that ends at @from. */
static void add_way(struct translator *x, u8 cc, i32 from, i32 off)
{
    struct emit *e = x->e;
    if (e->at < x->patched_to)
        emit_bytes(e, "\x0f\x1f\x44\x00\x00", 5); /* nop: two patches must not overlap (T5, T6) */
    emit_patchable(e, cc == CC_ALWAYS || cc == CALL_ALWAYS ? 1 : 2);
    if (cc == CALL_ALWAYS) {
        emit8(e, 0xe8);
        emit32(e, 0);
    }
    u8 *jump = cc == CALL_ALWAYS ? e->at - 4 : emit_jump(e, cc);
    x->ways[x->way_count++] = (struct way_out){.jump = jump, .off = off, .entry = entry_for(x, from, off)};
}

void way_on(struct translator *x, i32 off)
{
    x->flags_in_host = false;
    x->flags_saved = true;
    if (in_page(off))
        add_way(x, CC_ALWAYS, off, off);
    else
        leave_page(x, off);
}

/* The end of the block, whose last instruction ends at @from. */
static void go_on(struct translator *x, i32 from, i32 off)
{
    if (in_page(off)) {
        add_way(x, CC_ALWAYS, from, off);
    } else {
        flags_save(x);
        leave_page(x, off);
    }
    x->ended = true;
}

void way_out(struct translator *x, i32 off)
{
    go_on(x, off, off);
}

/* --- stack --- */

#define GUEST_SP translate_host_reg[X86_RSP]

void move_sp(struct translator *x, i32 by)
{
    word_lea(x, GUEST_SP, at(GUEST_SP, by));
}

struct address push_operand(struct translator *x)
{
    return emit_based(x, X86_RSP, -x->word, x->word, true, true);
}

static void emit_push_memory(struct translator *x, const struct insn *i)
{
    word_load(x, HOST_A, emit_operand(x, i, &x->op[0]));
    emit_store(x->e, CPU(scratch[0]), HOST_A);
    struct address to = push_operand(x);
    emit_load(x->e, HOST_A, CPU(scratch[0]));
    word_store(x, to, HOST_A);
    move_sp(x, -x->word);
}

/* A register or an immediate to the host address @to. D is lost. */
static void emit_pushed(struct translator *x, const ZydisDecodedOperand *op, struct address to)
{
    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        i32 v = (i32)op->imm.value.s;
        struct encoding n = {.w = x->wide, .opcode = 0xc7, .imm_len = 4};
        memcpy(n.imm, &v, 4);
        emit_rm(x->e, &n, to);
    } else {
        word_store(x, to, gpr_get(x, gpr_of(op->reg.value), HOST_D));
    }
}

static void emit_popped(struct translator *x, const ZydisDecodedOperand *op, struct address from)
{
    unsigned r = gpr_of(op->reg.value), to = is_far(r) ? HOST_D : translate_host_reg[r];
    word_load(x, to, from);
    gpr_set(x, r, to);
}

void emit_push(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_push_memory(x, i);
        return;
    }
    emit_pushed(x, &x->op[0], push_operand(x));
    move_sp(x, -x->word);
}

void emit_pop(struct translator *x)
{
    emit_popped(x, &x->op[0], emit_based(x, X86_RSP, 0, x->word, false, true));
    move_sp(x, x->word);
}

/* Is instruction @n a push of a register or an immediate, or a pop of a register, and not of RSP? */
static bool in_run(const struct translator *x, unsigned n, ZydisMnemonic m)
{
    const ZydisDecodedInstruction *z = &x->decoded[n].z;
    const ZydisDecodedOperand *op = &x->decoded[n].op[0];
    if (n >= x->b->count || !x->native[n] || z->mnemonic != m || z->operand_width != word_bits(x))
        return false;
    return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
           (op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(op->reg.value) != X86_RSP);
}

unsigned emit_stack_run(struct translator *x, unsigned first)
{
    enum { RUN_MAX = 8 }; /* what emit_tlb() checks at once */
    ZydisMnemonic m = x->native[first] ? x->decoded[first].z.mnemonic : ZYDIS_MNEMONIC_INVALID;
    bool push = m == ZYDIS_MNEMONIC_PUSH;
    unsigned count = 0;
    if (x->b->mode & SOFT_MODE_WINDOW) /* T22 does better */
        return 0;
    while ((push || m == ZYDIS_MNEMONIC_POP) && count < RUN_MAX && in_run(x, first + count, m))
        count++;
    if (count < 2)
        return 0;
    i32 word = x->word, size = word * (i32)count;
    word_lea(x, HOST_C, at(GUEST_SP, push ? -size : 0));
    emit_tlb(x, RANGE_STACK, (unsigned)size, push);
    slow_path(x)->count = (u8)count;
    for (unsigned k = 0; k < count; k++) {
        const ZydisDecodedOperand *op = &x->decoded[first + k].op[0];
        if (push)
            emit_pushed(x, op, at(HOST_C, size - word * (i32)(k + 1)));
        else
            emit_popped(x, op, at(HOST_C, word * (i32)k));
    }
    move_sp(x, push ? -size : size);
    return count;
}

void emit_leave_insn(struct translator *x)
{
    unsigned bp = translate_host_reg[X86_RBP];
    word_load(x, HOST_A, emit_based(x, X86_RBP, 0, x->word, false, true));
    word_lea(x, GUEST_SP, at(bp, x->word));
    word_mov(x, bp, HOST_A);
}

/* --- branches --- */

static i32 next_off(const struct translator *x, const struct insn *i)
{
    return x->block_off + i->off + i->len;
}

bool near_known(const struct translator *x)
{
    if (x->z.operand_width != word_bits(x) || x->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    if (x->wide && x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
        llabs(x->op[0].imm.value.s) > INT32_MAX - (i64)PAGE_SIZE)
        return false;
    return x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE || plain_operands(x);
}

/* The target of an indirect branch into A. */
static void branch_target(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        word_load(x, HOST_A, emit_operand(x, i, &x->op[0]));
    } else {
        unsigned host = gpr_get(x, gpr_of(x->op[0].reg.value), HOST_A);
        if (host != HOST_A)
            word_mov(x, HOST_A, host);
    }
}

/* A: guest address. D: index of its entry in the jump cache, for cache_field(). */
static void emit_cache_index(struct emit *e)
{
    emit_op_rr(e, false, 0x89, HOST_A, HOST_D);
    emit_bytes(e, "\xc1\xea\x0c", 3); /* shr edx, 12 */
    emit_op_rr(e, false, 0x31, HOST_A, HOST_D);
    emit_op_ri(e, false, 4, HOST_D, ((1 << JUMP_CACHE_BITS) - 1) << 2);
}

static struct address cache_field(size_t field)
{
    return (struct address){HOST_CPU, HOST_D, 3, (i32)(offsetof(struct translate_cpu, jump_cache) + field)};
}

/* The entry of D in the jump cache is that of A, or a jump is taken, which the caller sets. C is lost. */
static void emit_cache_compare(struct emit *e, u8 *miss[2])
{
    emit_op_rm(e, true, 0x3b, HOST_A, cache_field(offsetof(struct jump_cache_entry, rip)));
    miss[0] = emit_jump(e, CC_NE);
    emit_load(e, HOST_C, CPU(map_key));
    emit_op_rm(e, true, 0x3b, HOST_C, cache_field(offsetof(struct jump_cache_entry, map_key)));
    miss[1] = emit_jump(e, CC_NE);
}

/* A: guest address, D: its code or 0. C is lost. */
void emit_cache_lookup(struct emit *e, const u8 *lookup)
{
    u8 *miss[2];
    emit_cache_index(e);
    emit_cache_compare(e, miss);
    emit_load(e, HOST_D, cache_field(offsetof(struct jump_cache_entry, code)));
    emit8(e, 0xc3);
    emit_set_target(miss[0], e->at);
    emit_set_target(miss[1], e->at);
    emit_jump_to(e, CC_ALWAYS, lookup);
}

/* The branch to A cannot fail any more: page_rip is set, flags are in arith_flags. C is lost. */
static void arrive(struct translator *x)
{
    emit_mov(x->e, HOST_C, HOST_A);
    emit_op_ri(x->e, true, 4, HOST_C, -4096);
    emit_store(x->e, CPU(page_rip), HOST_C);
}

/* The code of A into D, or the slow path. C is lost. */
static void look_up(struct translator *x)
{
    struct emit *e = x->e;
    u8 *miss[2];
    emit_cache_index(e);
    emit_cache_compare(e, miss);
    emit_load(e, HOST_D, cache_field(offsetof(struct jump_cache_entry, code)));
    /* A jump over the call, which is rare: the code after it is common to both. */
    emit_bytes(e, "\xeb\x00", 2);
    u8 *over = e->at - 1;
    emit_set_target(miss[0], e->at);
    emit_set_target(miss[1], e->at);
    emit_call_to(e, x->t->thunk.lookup);
    emit_op_rr(e, true, 0x85, HOST_D, HOST_D);
    slow_jump(x, CC_E);
    *over = (u8)(e->at - (over + 1));
}

/* --- the return stack --- */

static bool predicts_returns(const struct translator *x)
{
    return !x->t->options.no_returns && !x->t->options.no_chaining;
}

/* A frame for guest return address A; the host's address comes with the call. */
static void push_frame(struct translator *x)
{
    struct emit *e = x->e;
    u8 *again = e->at;
    emit_op_rm(e, false, 0xff, 6, CPU(map_key)); /* push */
    emit8(e, 0x50);                              /* push rax */
    emit_op_rm(e, true, 0x3b, HOST_SP, CPU(shadow_limit));
    x->ways[x->way_count++] = (struct way_out){.jump = emit_jump(e, 2 /* b */), .back = again};
}

/* Where the host's return address leads. A: guest return address, which is @off in its page. */
static void returned(struct translator *x, i32 off)
{
    struct emit *e = x->e;
    emit_lea(e, HOST_SP, at(HOST_SP, 16));
    word_lea(x, HOST_A, at(HOST_A, -off));
    emit_store(e, CPU(page_rip), HOST_A);
    x->flags_in_host = false;
    x->flags_saved = true;
    go_on(x, off, off);
}

void emit_jmp(struct translator *x, const struct insn *i)
{
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        i32 off = (i32)(next_off(x, i) + x->op[0].imm.value.s);
        if (x->follow[x->index] == FOLLOW_NONE)
            go_on(x, next_off(x, i), off);
        else
            x->went_back |= off < next_off(x, i);
        return;
    }
    flags_save(x);
    branch_target(x, i);
    look_up(x);
    arrive(x);
    emit_bytes(x->e, "\xff\xe2", 2); /* jmp rdx */
    x->ended = true;
}

/* The return address, which is then in A, goes to @to. */
static void push_return(struct translator *x, const struct insn *i, struct address to)
{
    emit_load(x->e, HOST_A, CPU(page_rip));
    word_lea(x, HOST_A, at(HOST_A, next_off(x, i)));
    word_store(x, to, HOST_A);
    move_sp(x, -x->word);
}

static void call_direct(struct translator *x, const struct insn *i)
{
    i32 next = next_off(x, i), off = (i32)(next + x->op[0].imm.value.s);
    push_return(x, i, push_operand(x));
    x->flags_in_host = false;
    if (!predicts_returns(x)) {
        go_on(x, next, off);
        return;
    }
    push_frame(x);
    add_way(x, CALL_ALWAYS, next, off);
    returned(x, next);
}

static void call_indirect(struct translator *x, const struct insn *i)
{
    struct emit *e = x->e;
    branch_target(x, i);
    emit_store(e, CPU(scratch[0]), HOST_A);
    struct address to = push_operand(x);
    emit_store(e, CPU(scratch[1]), HOST_C);
    emit_load(e, HOST_A, CPU(scratch[0]));
    look_up(x);
    emit_load(e, HOST_C, CPU(scratch[1]));
    push_return(x, i, to);
    if (predicts_returns(x)) {
        push_frame(x);
        emit_load(e, HOST_A, CPU(scratch[0]));
        arrive(x);
        emit_bytes(e, "\xff\xd2", 2); /* call rdx */
        returned(x, next_off(x, i));
    } else {
        emit_load(e, HOST_A, CPU(scratch[0]));
        arrive(x);
        emit_bytes(e, "\xff\xe2", 2); /* jmp rdx */
        x->ended = true;
    }
}

void emit_call(struct translator *x, const struct insn *i)
{
    flags_save(x);
    if (x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        call_direct(x, i);
    else
        call_indirect(x, i);
}

static i32 ret_frees(const struct translator *x)
{
    return x->word + (x->z.operand_count_visible ? (u16)x->op[0].imm.value.u : 0);
}

void emit_ret(struct translator *x)
{
    struct emit *e = x->e;
    u8 *other[2];
    flags_save(x);
    word_load(x, HOST_A, emit_based(x, X86_RSP, 0, x->word, false, true));
    if (predicts_returns(x)) {
        emit_op_rm(e, true, 0x3b, HOST_A, at(HOST_SP, offsetof(struct return_frame, rip)));
        other[0] = emit_jump(e, CC_NE);
        emit_load(e, HOST_C, CPU(map_key));
        emit_op_rm(e, true, 0x3b, HOST_C, at(HOST_SP, offsetof(struct return_frame, map_key)));
        other[1] = emit_jump(e, CC_NE);
        move_sp(x, ret_frees(x));
        emit8(e, 0xc3);
        emit_set_target(other[0], e->at);
        emit_set_target(other[1], e->at);
        emit_call_to(e, x->t->thunk.ret);
        emit_op_rr(e, true, 0x85, HOST_D, HOST_D);
        slow_jump(x, CC_E);
    } else {
        look_up(x);
    }
    move_sp(x, ret_frees(x));
    arrive(x);
    emit_bytes(e, "\xff\xe2", 2); /* jmp rdx */
    x->ended = true;
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
    i32 next = next_off(x, i), off = (i32)(next + x->op[0].imm.value.s);
    is_condition(x->z.mnemonic, &cc);
    flags_load(x);
    if (x->follow[x->index] != FOLLOW_TARGET) {
        add_way(x, cc, next, off);
        return;
    }
    add_way(x, cc ^ 1, next, next);
    x->went_back |= off < next;
}
