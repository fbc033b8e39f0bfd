/* One block from the interpreter's decoded form to machine code: flags, exits, slow paths, groups of
 * handlers. */
#include "base/log.h"
#include "soft/features.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- handlers of the interpreter (T4) --- */

static H(group_end)
{
    s->rip = insn_rip(c, i);
    DONE;
}

struct translate_group *make_group(struct translator *x, unsigned first, unsigned count)
{
    struct translate_cpu *t = x->t;
    struct translate_group *g = (struct translate_group *)(t->arena + t->arena_used);
    t->arena_used += ALIGN_UP(sizeof *g + (count + 1) * sizeof(struct insn), 64);
    const struct insn *i = &x->b->insn[first];
    memcpy(g->insn, i, count * sizeof *i);
    for (unsigned n = 0; n < count; n++)
        if (i[n].flags & INSN_BRANCH)
            g->insn[n].link = NULL;
    g->block_off = (u64)x->block_off;
    g->stop = &g->insn[count];
    *g->stop = (struct insn){.fn = group_end, .off = (u16)(i[count - 1].off + i[count - 1].len)};
    return g;
}

void call_group(struct translator *x, struct translate_group *g)
{
    emit_mov_imm64(x->e, HOST_A, (u64)(uintptr_t)g);
    emit_call_to(x->e, x->t->thunk.handlers);
}

struct slow_path *slow_path(struct translator *x)
{
    if (!x->slow) {
        x->slow = &x->slow_paths[x->slow_count++];
        *x->slow = (struct slow_path){.index = x->index, .x87 = x->x87_last};
    }
    return x->slow;
}

void slow_jump(struct translator *x, u8 cc)
{
    struct slow_path *p = slow_path(x);
    p->jump[p->jumps++] = emit_jump(x->e, cc);
}

static void emit_slow_paths(struct translator *x)
{
    for (unsigned n = 0; n < x->slow_count; n++) {
        struct slow_path *p = &x->slow_paths[n];
        for (unsigned k = 0; k < p->misses; k++)
            emit_range_miss(x, p, &p->miss[k]);
        for (unsigned k = 0; k < p->jumps; k++)
            emit_set_target(p->jump[k], x->e->at);
        if (!x->live[p->index])
            flags_redo(x, &x->recipe[p->index]);
        vector_pointers(x, &p->x87);
        call_group(x, make_group(x, p->index, 1));
        vector_emit_return(x, p);
        if (p->reload)
            emit_load_flags(x->e);
        emit_jump_to(x->e, CC_ALWAYS, p->back);
    }
}

/* --- the block --- */

static bool decode(struct translator *x, unsigned n)
{
    const struct insn *i = &x->b->insn[n];
    const ZydisDecoder *decoder = &x->t->soft.interpret->decoder[0];
    x->index = n;
    if (i->fn == insn_ud || i->fn == insn_gp || x->t->options.no_native)
        return false;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, x->b->bytes + i->off, i->len, &x->z, x->op)))
        return false;
    insn_fix_operands(&x->z, x->op);
    return translate_insn_known(x, i);
}

static void decode_all(struct translator *x)
{
    for (unsigned n = 0; n < x->b->count; n++) {
        x->native[n] = decode(x, n);
        flags_note(x, n);
    }
    flags_find_live(x);
}

/* In lock-step a run enters just so many blocks. No flags are touched. */
static u8 *emit_budget(struct translator *x)
{
    struct emit *e = x->e;
    struct address budget = at(HOST_CPU, (i32)offsetof(struct translate_cpu, budget));
    if (!x->t->options.lockstep)
        return NULL;
    emit_op_rm(e, false, 0x8b, HOST_C, budget);
    emit_bytes(e, "\x8d\x49\xff", 3); /* lea ecx, [rcx - 1] */
    emit_op_rm(e, false, 0x89, HOST_C, budget);
    emit_bytes(e, "\xe3\x02\xeb\x05", 4); /* jrcxz over the jump over the jump */
    return emit_jump(e, CC_ALWAYS);
}

static void leave_spent(struct translator *x, u8 *jump)
{
    struct emit *e = x->e;
    emit_set_target(jump, e->at);
    emit_mov_imm32(e, HOST_C, (u32)x->block_off);
    emit_mov_imm32(e, HOST_D, 0);
    emit_jump_to(e, CC_ALWAYS, x->t->thunk.leave);
}

/* T5: is the page's code unchanged, and does nobody want the vCPU? */
static u8 *emit_entry(struct translator *x, struct translation *code)
{
    struct emit *e = x->e;
    code->gen = x->b->gen;
    code->entry = e->at + e->to_exec;
    emit8(e, 0xa1); /* mov eax, [moffs64] */
    emit64(e, (u64)(uintptr_t)x->b->gen_now);
    emit_load(e, HOST_D, CPU(requests));
    emit_op_rm(e, false, 0x8b, HOST_D, at(HOST_D, 0));
    emit_bytes(e, "\x8d\x88", 2); /* lea ecx, [rax + disp32] */
    code->gen_in_entry = e->at;
    emit32(e, -code->gen);
    emit_bytes(e, "\x8d\x0c\x11", 3); /* lea ecx, [rcx + rdx] */
    emit_bytes(e, "\xe3\x05", 2);     /* jrcxz over the jump */
    return emit_jump(e, CC_ALWAYS);
}

static void emit_check(struct translator *x, struct translation *code, u8 *jump, const u8 *body)
{
    struct emit *e = x->e;
    emit_set_target(jump, e->at);
    x->flags_in_host = true;
    x->flags_saved = false;
    flags_save(x);
    emit8(e, 0xa1);
    emit64(e, (u64)(uintptr_t)x->b->gen_now);
    emit8(e, 0x3d); /* cmp eax, imm32 */
    code->gen_in_check = e->at;
    emit32(e, code->gen);
    u8 *stale = emit_jump(e, CC_NE);
    emit_load(e, HOST_D, CPU(requests));
    emit_op_rm(e, false, 0x8b, HOST_D, at(HOST_D, 0));
    emit_op_rm(e, false, 0x85, HOST_D, CPU(wanted));
    u8 *wanted = emit_jump(e, CC_NE);
    emit_load_flags(e);
    emit_jump_to(e, CC_ALWAYS, body);
    emit_set_target(stale, e->at);
    emit_set_target(wanted, e->at);
    leave_saved(x, x->block_off);
}

static void emit_handler_run(struct translator *x, unsigned first, unsigned count)
{
    vector_flush(x);
    flags_save(x);
    call_group(x, make_group(x, first, count));
    x->vector_known = 0;
    x->flags_in_host = false;
    x->flags_saved = true;
}

static void emit_native(struct translator *x, unsigned n)
{
    decode(x, n);
    x->slow = NULL;
    if (x->b->insn[n].flags & INSN_BRANCH)
        vector_flush(x);
    translate_insn(x, &x->b->insn[n]);
    if (x->slow) {
        x->slow->back = x->e->at;
        x->slow->reload = x->flags_in_host;
        x->slow->vector_known = x->vector_known;
    }
}

static void emit_body(struct translator *x)
{
    unsigned count = x->b->count;
    x->flags_in_host = true;
    x->flags_saved = false;
    for (unsigned n = 0; n < count && !x->ended;) {
        if (x->native[n]) {
            emit_native(x, n++);
            continue;
        }
        unsigned run = 1;
        while (n + run < count && !x->native[n + run])
            run++;
        emit_handler_run(x, n, run);
        n += run;
    }
    if (!x->ended) {
        vector_flush(x);
        way_out(x, x->block_off + x->b->len);
    }
}

void translate_block(struct translate_cpu *t, struct block *b)
{
    struct emit *e = &t->emit;
    if (e->at + TRANSLATE_BLOCK_CODE > e->end || t->arena_used + TRANSLATE_BLOCK_ARENA > t->arena_size ||
        t->exit_count + TRANSLATE_BLOCK_EXITS > TRANSLATE_EXITS_MAX) {
        t->full = true;
        return;
    }
    struct translator x = {.t = t, .e = e, .b = b, .block_off = (i32)(b->gpa & ~PAGE_MASK)};
    decode_all(&x);
    struct translation *code = (struct translation *)(t->arena + t->arena_used);
    t->arena_used += ALIGN_UP(sizeof *code, 64);
    *code = (struct translation){0};
    u8 *start = e->at, *spent = emit_budget(&x);
    u8 *jump = emit_entry(&x, code), *body = e->at;
    emit_body(&x);
    emit_slow_paths(&x);
    vector_emit_checks(&x);
    for (unsigned n = 0; n < x.way_count; n++)
        leave(&x, x.ways[n].jump, x.ways[n].off);
    emit_check(&x, code, jump, body);
    if (spent)
        leave_spent(&x, spent);
    code->entry = start + e->to_exec;
    code->size = (u32)(e->at - start);
    b->code = code;
    if (trace_on(translate))
        translate_dump(t, b, t->soft.s->rip, &x, dump_trace);
}
