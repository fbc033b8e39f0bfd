/* One block from the interpreter's decoded form to machine code: flags, exits, slow paths, groups of
 * handlers. */
#include "base/log.h"
#include "soft/features.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- handlers of the interpreter (T4) --- */

void call_handlers(struct translator *x, unsigned first, unsigned count)
{
    const struct translate_cpu *t = x->t;
    u32 off = (u32)x->block_off + x->b->insn[first].off;
    emit_mov_imm32(x->e, HOST_A, translation_number(t->vm, x->code) << PAGE_SHIFT | off);
    if (count > 1)
        emit_mov_imm32(x->e, HOST_C, count);
    emit_call_to(x->e, count > 1 ? t->thunk.handlers : t->thunk.handler);
}

struct slow_path *slow_path(struct translator *x)
{
    if (!x->slow) {
        x->slow = &x->slow_paths[x->slow_count++];
        *x->slow = (struct slow_path){.index = x->index, .count = 1, .x87 = x->x87_last};
    }
    return x->slow;
}

void slow_jump(struct translator *x, u8 cc)
{
    struct slow_path *p = slow_path(x);
    p->jump[p->jumps++] = emit_jump(x->e, cc);
}

/* The instruction by its handler. */
static void emit_slow(struct translator *x, const struct slow_path *p)
{
    if (p->save)
        emit_save_flags(x->e);
    if (!x->live[p->index])
        flags_redo(x, &x->recipe[p->index]);
    vector_pointers(x, &p->x87);
    call_handlers(x, p->index, p->count);
}

/* T21. Those that rely on a check have none: where it failed, code goes on that begins behind it. */
static void emit_leader_miss(struct translator *x, const struct slow_path *p)
{
    const struct insn *i = &x->b->insn[p->index];
    emit_slow(x, p);
    way_on(x, x->block_off + i->off + i->len);
}

static void emit_slow_paths(struct translator *x)
{
    for (unsigned n = 0; n < x->slow_count; n++) {
        struct slow_path *p = &x->slow_paths[n];
        for (unsigned k = 0; k < p->misses; k++)
            emit_range_miss(x, p, &p->miss[k]);
        p->at = p->miss_at = x->e->at;
        for (unsigned k = 0; k < p->jumps; k++)
            emit_set_target(p->jump[k], x->e->at);
        emit_slow(x, p);
        vector_emit_return(x, p);
        if (p->pointer.valid)
            emit_window_pointer(x->e, &p->pointer);
        if (p->reload)
            emit_load_flags(x->e);
        emit_jump_to(x->e, CC_ALWAYS, p->back);
        if (p->leads) {
            p->miss_at = x->e->at;
            emit_leader_miss(x, p);
        }
    }
}

/* --- the block --- */

static bool decode(struct translator *x, unsigned n)
{
    const struct insn *i = &x->b->insn[n];
    const ZydisDecoder *decoder = &x->t->soft.interpret->decoder[x->wide ? 0 : 1];
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
        if (x->native[n]) {
            x->decoded[n].z = x->z;
            memcpy(x->decoded[n].op, x->op, x->z.operand_count * sizeof *x->op);
        }
        flags_note(x, n);
    }
    flags_find_live(x);
    if (x->b->gpa2 != BLOCK_NO_PAGE)
        x->live[0] = true; /* for emit_crossing_check() */
}

/* --- entries (T5) --- */

/* The jumps back to the run loop, by flags in the host or saved. */
struct stale_jumps {
    u8 *jump[2], *budget[2];
};

/* Are flags that come into the block saved to arith_flags before anything else is done with them? */
static bool saves_first(struct translator *x)
{
    if (x->b->gpa2 != BLOCK_NO_PAGE)
        return true;
    for (unsigned n = 0; x->live[0] && n < x->b->count; n++) {
        const struct insn *i = &x->b->insn[n];
        if (!x->native[n])
            return true;
        decode(x, n);
        if (i->flags & INSN_BRANCH)
            return x->z.mnemonic == ZYDIS_MNEMONIC_CALL || x->z.mnemonic == ZYDIS_MNEMONIC_RET;
        const ZydisDecodedOperand *m = memory_operand(x);
        if ((m && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN) || x->z.mnemonic == ZYDIS_MNEMONIC_PUSH ||
            x->z.mnemonic == ZYDIS_MNEMONIC_POP || x->z.mnemonic == ZYDIS_MNEMONIC_LEAVE)
            return true;
        if (is_vector(i) || translate_reads_flags(&x->z) || translate_writes_flags(&x->z))
            return false;
    }
    return false;
}

/* In lock-step a run enters just so many blocks. Returns the jump that is taken after them; no flags are
 * touched. */
static u8 *emit_budget(struct translator *x)
{
    struct emit *e = x->e;
    struct address budget = at(HOST_CPU, (i32)offsetof(struct translate_cpu, budget));
    emit_op_rm(e, false, 0x8b, HOST_C, budget);
    emit_bytes(e, "\x8d\x49\xff", 3); /* lea ecx, [rcx - 1] */
    emit_op_rm(e, false, 0x89, HOST_C, budget);
    emit_bytes(e, "\xe3\x02\xeb\x05", 4); /* jrcxz over the jump over the jump */
    return emit_jump(e, CC_ALWAYS);
}

static u8 *entry_budget(struct translator *x)
{
    return x->t->options.lockstep ? emit_budget(x) : NULL;
}

/* Returns the byte of a jump to ENTRY_HOST. */
static u8 *emit_host_check(struct translator *x, struct translation *code, struct stale_jumps *to_stale)
{
    struct emit *e = x->e;
    code->entry[ENTRY_HOST_CHECKED] = e->at;
    emit_op_rm(e, false, 0x8b, HOST_C, CPU(kick));
    emit_bytes(e, "\xe3\x00", 2); /* jrcxz */
    u8 *go = e->at - 1;
    to_stale->jump[0] = emit_jump(e, CC_ALWAYS);
    return go;
}

static void emit_host_entry(struct translator *x, struct translation *code, struct stale_jumps *to_stale,
                            u8 *go)
{
    code->entry[ENTRY_HOST] = x->e->at;
    *go = (u8)(x->e->at - (go + 1));
    to_stale->budget[0] = entry_budget(x);
    if (x->starts_saved)
        emit_save_flags(x->e);
}

static void emit_saved_entry(struct translator *x, struct translation *code, struct stale_jumps *to_stale)
{
    struct emit *e = x->e;
    code->entry[ENTRY_SAVED_CHECKED] = e->at;
    emit_rm(e, &(struct encoding){.opcode = 0x83, .reg = 7, .imm_len = 1}, CPU(kick));
    to_stale->jump[1] = emit_jump(e, CC_NE);
    code->entry[ENTRY_SAVED] = e->at;
    to_stale->budget[1] = entry_budget(x);
}

/*
 * Where the flags are at an entry is known even if they are dead: what leaves there leaves with them. The
 * body begins with them in arith_flags alone where it would save them first (x->starts_saved). The entry that
 * is likely to be hot goes straight into it.
 */
static void emit_entries(struct translator *x, struct translation *code, struct stale_jumps *to_stale)
{
    struct emit *e = x->e;
    u8 *go = NULL, *over = NULL;
    if (x->starts_saved && !x->loop) {
        go = emit_host_check(x, code, to_stale);
        emit_host_entry(x, code, to_stale, go);
        over = emit_jump(e, CC_ALWAYS);
        emit_saved_entry(x, code, to_stale);
        emit_set_target(over, e->at);
        x->patched_to = code->entry[ENTRY_SAVED] + ENTRY_PATCH;
        return;
    }
    if (!x->starts_saved)
        go = emit_host_check(x, code, to_stale);
    emit_saved_entry(x, code, to_stale);
    if (x->live[0] && !x->starts_saved)
        emit_load_flags(e);
    if (x->starts_saved || x->t->options.lockstep)
        over = emit_jump(e, CC_ALWAYS);
    else if (!x->live[0])
        emit_bytes(e, "\x0f\x1f\x44\x00\x00", ENTRY_PATCH); /* nop: room for a patch */
    if (x->starts_saved)
        go = emit_host_check(x, code, to_stale);
    emit_host_entry(x, code, to_stale, go);
    if (over)
        emit_set_target(over, e->at);
    x->patched_to = code->entry[ENTRY_HOST] + ENTRY_PATCH;
}

/* Back to the run loop, which finds out why. */
static void emit_stale(struct translator *x, struct translation *code, const struct stale_jumps *to_stale)
{
    for (unsigned saved = 0; saved < 2; saved++) {
        emit_set_target(to_stale->jump[saved], x->e->at);
        if (to_stale->budget[saved])
            emit_set_target(to_stale->budget[saved], x->e->at);
        code->stale[saved] = x->e->at;
        emit_mov_imm32(x->e, HOST_C, (u32)x->head_off);
        emit_mov_imm32(x->e, HOST_D, 0);
        emit_jump_to(x->e, CC_ALWAYS, saved ? x->t->thunk.leave_saved : x->t->thunk.leave);
    }
}

static u8 *stale_target(const struct translation *code, enum entry n)
{
    return code->stale[n == ENTRY_SAVED || n == ENTRY_SAVED_CHECKED];
}

void translation_make_stale(struct translate_cpu *t, struct translation *code)
{
    t->soft.vcpu->counters.translations_stale++;
    *code->link = code->next;
    if (code->next)
        code->next->link = code->link;
    code->link = NULL;
    for (enum entry n = 0; n < ENTRIES; n++) {
        code->entry[n][0] = 0xe9;
        emit_set_target(code->entry[n] + 1, stale_target(code, n));
    }
}

void translation_restore(struct translate_cpu *t, struct translation *code, u64 page)
{
    struct translation **head = &t->vm->by_page[page];
    code->link = head;
    code->next = *head;
    if (*head)
        (*head)->link = &code->next;
    *head = code;
    for (enum entry n = 0; n < ENTRIES; n++)
        memcpy(code->entry[n], code->original[n], ENTRY_PATCH);
}

static void emit_handler_run(struct translator *x, unsigned first, unsigned count)
{
    vector_flush(x);
    flags_save(x);
    call_handlers(x, first, count);
    memset(x->known, 0, sizeof x->known);
    x->pointer.valid = false;
    x->vector_known = 0;
    x->flags_in_host = false;
    x->flags_saved = true;
}

/* Returns how many instructions it emitted. */
static unsigned emit_native(struct translator *x, unsigned n)
{
    x->index = n;
    x->z = x->decoded[n].z;
    memcpy(x->op, x->decoded[n].op, x->z.operand_count * sizeof *x->op);
    x->slow = NULL;
    if (x->b->insn[n].flags & INSN_BRANCH)
        vector_flush(x);
    u8 *begin = x->e->at;
    bool keeps = window_keeps_pointer(x, &x->b->insn[n]);
    x->pointer.valid &= keeps;
    unsigned count = emit_stack_run(x, n);
    if (!count) {
        translate_insn(x, &x->b->insn[n]);
        count = 1;
    }
    if (x->hot)
        trace_note_writes(x);
    window_note_writes(x, n, count);
    x->pointer.valid &= keeps;
    if (x->slow) {
        x->slow->back = x->e->at;
        x->slow->begin = begin;
        x->slow->end = x->e->at;
        x->slow->reload = x->flags_in_host;
        x->slow->vector_known = x->vector_known;
        x->slow->pointer = x->pointer;
    }
    return count;
}

/*
 * T8: the only instruction of the block goes on in the next page. Are the bytes there the same, and is it the
 * page that it was when the run loop last looked?
 */
static void emit_crossing_check(struct translator *x, u32 slot)
{
    struct emit *e = x->e;
    flags_save(x);
    emit_mov_imm64(e, HOST_A, (u64)(uintptr_t)x->code->block);
    emit_op_rm(e, false, 0x8b, HOST_C, at(HOST_A, offsetof(struct block, gen2)));
    emit_load(e, HOST_D, at(HOST_A, offsetof(struct block, gen_now2)));
    emit_op_rm(e, false, 0x3b, HOST_C, at(HOST_D, 0));
    u8 *changed = emit_jump(e, CC_NE);
    emit_load(e, HOST_A, CPU(page_rip));
    emit_op_rm(e, true, 0x03, HOST_A, CPU(map_key));
    emit_op_rm(e, true, 0x3b, HOST_A, slot_field(slot, offsetof(struct translate_slot, key)));
    u8 *same = emit_jump(e, CC_E);
    emit_set_target(changed, e->at);
    leave_saved(x, x->block_off);
    emit_set_target(same, e->at);
    flags_destroyed(x);
}

static void emit_body(struct translator *x, struct translation *code)
{
    unsigned count = x->b->count;
    x->flags_in_host = !x->starts_saved;
    x->flags_saved = x->starts_saved;
    if (x->b->gpa2 != BLOCK_NO_PAGE) {
        code->slot = code_region(x->t->vm)->slots_used++;
        emit_crossing_check(x, code->slot);
    }
    for (unsigned n = 0; n < count && !x->ended;) {
        if (x->native[n]) {
            n += emit_native(x, n);
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
        way_out(x, x->end_off);
    }
}

/* Does RBP point to a stack frame where the block is to run for the first time? If it never does, that costs.
 */
static bool points_to_frame(const struct x86_state *s)
{
    enum { FRAME_MAX = 4096 };
    return s->gpr[X86_RBP] - s->gpr[X86_RSP] < FRAME_MAX;
}

static void start(struct translator *x, struct translate_cpu *t, const struct block *b)
{
    memset(x, 0, offsetof(struct translator, decoded));
    x->t = t;
    x->e = &t->vm->emit;
    x->b = b;
    x->wide = b->mode & SOFT_MODE_CODE64;
    x->word = x->wide ? 8 : 4;
    x->frame = points_to_frame(t->soft.s);
    x->block_off = (i32)(b->gpa & ~PAGE_MASK);
}

static struct translation *finish(struct translator *x, struct translation *code)
{
    struct translate_cpu *t = x->t;
    struct emit *e = x->e;
    u8 *begin = e->at;
    struct stale_jumps to_stale = {0};
    x->code = code;
    code->start = begin + e->to_exec;
    decode_all(x);
    x->starts_saved = saves_first(x);
    emit_entries(x, code, &to_stale);
    emit_body(x, code);
    emit_slow_paths(x);
    vector_emit_checks(x);
    for (unsigned n = 0; n < x->way_count; n++)
        leave(x, &x->ways[n]);
    emit_stale(x, code, &to_stale);
    window_note_sites(x, code);
    for (enum entry n = 0; n < ENTRIES; n++)
        memcpy(code->original[n], code->entry[n], ENTRY_PATCH);
    code->size = (u32)(e->at - begin);
    if (trace_on(translate))
        translate_dump(t, code, t->soft.s->rip, x, dump_trace);
    return code;
}

/* Does instruction @n branch to @gpa, if it branches? */
static bool leads_to(struct translator *x, unsigned n, u64 gpa)
{
    const struct insn *i = &x->b->insn[n];
    u8 cc;
    return (i->flags & INSN_BRANCH) && decode(x, n) && x->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           (is_condition(x->z.mnemonic, &cc) || x->z.mnemonic == ZYDIS_MNEMONIC_JMP) &&
           gpa == x->b->gpa + i->off + i->len + (u64)x->op[0].imm.value.s;
}

struct translation *translate_block(struct translate_cpu *t, const struct block *b)
{
    struct translator x;
    const struct insn *last = &b->insn[b->count - 1];
    start(&x, t, b);
    x.head_off = x.block_off;
    x.end_off = x.block_off + b->len;
    x.whole = b->count;
    x.loop = last->disp == 0 && leads_to(&x, b->count - 1u, b->gpa);
    t->soft.vcpu->counters.blocks_translated++;
    return finish(&x, translation_new(t->vm, b));
}

/* --- traces (T17) --- */

static i32 off_of(const struct block *b)
{
    return (i32)(b->gpa & ~PAGE_MASK);
}

/* Adds @b behind the instructions that are there. */
static void join(struct translator *x, struct block *joined, const struct block *b)
{
    i32 off = off_of(b);
    memcpy(x->t->tracer.bytes + off, b->bytes, b->len);
    memcpy(&joined->insn[joined->count], b->insn, b->count * sizeof b->insn[0]);
    for (unsigned n = 0; n < b->count; n++)
        joined->insn[joined->count + n].off = (u16)(b->insn[n].off + off);
    joined->count = (u16)(joined->count + b->count);
    x->end_off = off + b->len;
}

/*
 * How the code comes from the last of the joined blocks, whose first instruction is @first, to @gpa, as far
 * as a trace can follow it. What is behind a branch to there is cut off.
 */
static enum follow followed(struct translator *x, struct block *joined, unsigned first, u64 gpa)
{
    unsigned last = joined->count - 1u;
    bool branch = joined->insn[last].flags & INSN_BRANCH;
    u8 cc;
    if (x->end_off < (i32)PAGE_SIZE && gpa == joined->gpa + (u64)x->end_off &&
        (!branch || (decode(x, last) && is_condition(x->z.mnemonic, &cc))))
        return FOLLOW_NEXT;
    for (unsigned n = first; n <= last; n++)
        if (leads_to(x, n, gpa)) {
            joined->count = (u16)(n + 1);
            x->end_off = joined->insn[n].off + joined->insn[n].len;
            return FOLLOW_TARGET;
        }
    return FOLLOW_NONE;
}

static bool in_trace(struct block *const *path, unsigned count, const struct block *b)
{
    for (unsigned n = 0; n < count; n++)
        if (path[n] == b)
            return true;
    return false;
}

/* Can @b be the next after the first @used on the path? */
static bool extends(const struct translator *x, struct block *const *path, unsigned used)
{
    const struct block *b = path[used];
    return ((b->gpa ^ path[0]->gpa) & PAGE_MASK) == 0 && b->mode == path[0]->mode &&
           x->b->count + b->count <= TRANSLATE_MAX_INSNS && block_valid(b) && !in_trace(path, used, b);
}

/* What is kept of the blocks: where the first one begins, and the bytes of all. */
static struct translation *new_for(struct translate_cpu *t, struct block *const *path, unsigned count)
{
    i32 low = off_of(path[0]), high = low + path[0]->len, head = low;
    for (unsigned n = 1; n < count; n++) {
        low = MIN(low, off_of(path[n]));
        high = MAX(high, off_of(path[n]) + path[n]->len);
    }
    struct block all = *path[0];
    all.bytes = t->tracer.bytes + low;
    all.len = (u16)(high - low);
    struct translation *code = translation_new(t->vm, &all);
    code->block->bytes += head - low;
    code->block->len = (u16)(high - head);
    code->pieces = (u16)count;
    return code;
}

struct translation *translate_trace(struct translate_cpu *t, struct block *const *path, unsigned count)
{
    struct translator x;
    struct block *joined = (struct block *)t->tracer.joined;
    unsigned used = 1;
    *joined = (struct block){.gpa = path[0]->gpa & PAGE_MASK,
                             .gpa2 = BLOCK_NO_PAGE,
                             .mode = path[0]->mode,
                             .bytes = t->tracer.bytes};
    start(&x, t, joined);
    x.hot = true;
    x.head_off = off_of(path[0]);
    join(&x, joined, path[0]);
    for (unsigned first = 0; used < count && extends(&x, path, used); used++) {
        enum follow how = followed(&x, joined, first, path[used]->gpa);
        if (how == FOLLOW_NONE)
            break;
        first = joined->count;
        x.follow[first - 1] = (u8)how;
        join(&x, joined, path[used]);
    }
    x.whole = MIN(path[0]->count, joined->count);
    x.loop = used < count && path[used] == path[0];
    t->soft.vcpu->counters.traces++;
    return finish(&x, new_for(t, path, used));
}
