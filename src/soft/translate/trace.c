/*
 * Traces: where time goes, what path the guest takes there, and which of its accesses do well with ranges
 * (T17, T19). The code of a trace is made in block.c.
 */
#include <x86intrin.h>

#include "soft/translate/translate-internal.h"

enum {
    SAMPLES = 2,       /* as often was a block seen before a path is recorded from it */
    TRACES_MAX = 8,    /* of a block, one after the other */
    MISSES = 2048,     /* of ranges between two looks at who causes them */
    MISS_CYCLES = 400, /* apart on average they do not matter */
    MISSES_MANY = 64,  /* of one range, between two looks, while they matter */
    FIRST_RANGE = RANGE_FIXED + 4
};

/* --- recording (T17) --- */

static u8 *formed_at(struct translate_cpu *t, u64 gpa)
{
    return &t->tracer.formed[gpa * 0x9e3779b97f4a7c15ull >> (64 - HEAD_BITS)];
}

/* The code at rip, if it is found without any trouble. */
static struct translation *code_here(struct translate_cpu *t)
{
    struct soft_cpu *c = &t->soft;
    u64 la = c->mode & SOFT_MODE_CODE64 ? c->s->rip : (u32)c->s->rip;
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (!translate_mode(c->mode) || e->exec != ((la & PAGE_MASK) | c->ctx))
        return NULL;
    return translation_find(t->vm, (e->gpa & PAGE_MASK) | (la & ~PAGE_MASK), c->mode);
}

static bool may_trace(const struct translate_cpu *t)
{
    return !t->options.no_traces && t->soft.vcpu->vm->vcpu_count == 1;
}

static void note_sample(struct translate_cpu *t, struct translation *code)
{
    if (!code || code->pieces || *formed_at(t, code->block->gpa) >= TRACES_MAX || ++code->samples < SAMPLES)
        return;
    code->samples = 0;
    code->record = true;
    if (code->link)
        translation_make_stale(t, code);
}

void trace_sample(struct translate_cpu *t)
{
    if (!may_trace(t) || t->tracer.recording)
        return;
    lock_acquire(&t->vm->lock);
    note_sample(t, code_here(t));
    lock_drop(&t->vm->lock);
}

bool trace_records(struct translate_cpu *t, struct translation *code)
{
    struct tracer *r = &t->tracer;
    if (r->recording)
        return true;
    if (!code || code->pieces || !may_trace(t))
        return false;
    if (!code->record && !(t->options.traces && !*formed_at(t, code->block->gpa)))
        return false;
    code->record = false;
    r->recording = true;
    r->count = 0;
    r->epoch = t->soft.interpret->epoch;
    return true;
}

bool trace_append(struct translate_cpu *t, struct block *b)
{
    struct tracer *r = &t->tracer;
    if (r->epoch != t->soft.interpret->epoch) { /* the blocks are gone */
        r->epoch = t->soft.interpret->epoch;
        r->count = 0;
    }
    if (b->gpa2 != BLOCK_NO_PAGE || !translate_mode(b->mode))
        return false;
    bool round = r->count && b == r->path[0];
    r->path[r->count++] = b;
    return !round && r->count < TRACE_PATH_MAX;
}

void trace_lead_on(struct translate_cpu *t, struct translation *old, struct translation *code)
{
    if (old->link)
        translation_make_stale(t, old);
    for (enum entry n = 0; n < ENTRIES; n++) {
        old->entry[n][0] = 0xe9;
        emit_set_target(old->entry[n] + 1, code->entry[n]);
    }
}

static bool make_room(struct translate_cpu *t)
{
    if (!code_room_for_trace(t->vm) && !code_next_empty(t->vm)) {
        t->soft.vcpu->counters.code_evictions++;
        code_next_region(t->vm);
    }
    return code_room_for_trace(t->vm);
}

/* Makes a trace of the beginning of a path; how many blocks of it need no more. */
static unsigned form(struct translate_cpu *t, struct block *const *path, unsigned count)
{
    struct block *b = path[0];
    u64 page = (u64)(b->gen_now - t->soft.vcpu->vm->memory->page_gen);
    u8 *formed = formed_at(t, b->gpa);
    struct translation *old = translation_find(t->vm, b->gpa, b->mode);
    if (old && old->pieces && old->link)
        return old->pieces;
    if (*formed >= TRACES_MAX || !block_valid(b))
        return 1;
    if (!make_room(t))
        return count;
    ++*formed;
    struct translation *code = translate_trace(t, path, count);
    old = translation_find(t->vm, b->gpa, b->mode);
    translation_enter(t->vm, code);
    code->record = false;
    if (old)
        trace_lead_on(t, old, code);
    atomic_store(&t->vm->watch.interest[page], 1);
    translation_restore(t, code, page);
    if (!block_valid(code->block))
        translation_make_stale(t, code);
    return code->pieces;
}

/* Does @b end with a direct jump, perhaps a conditional one? */
static bool jumps(const struct block *b)
{
    if (!b->count)
        return false;
    const u8 *op = b->bytes + b->insn[b->count - 1].off;
    return (op[0] & 0xf0) == 0x70 || op[0] == 0xeb || op[0] == 0xe9 ||
           (op[0] == 0x0f && (op[1] & 0xf0) == 0x80);
}

/* A trace pays where its ranges are used again soon: in a loop of one page without calls. */
static bool is_loop(const struct tracer *r)
{
    if (r->count < 2 || r->path[r->count - 1] != r->path[0])
        return false;
    for (unsigned n = 0; n < r->count; n++)
        if (((r->path[n]->gpa ^ r->path[0]->gpa) & PAGE_MASK) || !jumps(r->path[n]))
            return false;
    return true;
}

void trace_end(struct translate_cpu *t)
{
    struct tracer *r = &t->tracer;
    bool good = r->recording && r->epoch == t->soft.interpret->epoch;
    r->recording = false;
    if (!good)
        return;
    if (!t->options.traces && !is_loop(r)) {
        if (r->count)
            *formed_at(t, r->path[0]->gpa) = TRACES_MAX;
        return;
    }
    lock_acquire(&t->vm->lock);
    for (unsigned n = 0; n < r->count;)
        n += MIN(form(t, r->path + n, r->count - n), r->count - n);
    lock_drop(&t->vm->lock);
}

/* The trace is never used again. */
static void drop(struct translate_cpu *t, struct translation *code)
{
    t->soft.vcpu->counters.traces_dropped++;
    translation_make_stale(t, code);
    code->record = true;
}

/* --- ranges (T19) --- */

static unsigned bad_bit(u64 gpa)
{
    return (unsigned)(gpa * 0x9e3779b97f4a7c15ull >> (64 - SITE_BITS));
}

bool trace_is_bad(const struct translate_cpu *t, u64 gpa)
{
    unsigned n = bad_bit(gpa);
    return t->tracer.bad[n / 8] >> n % 8 & 1;
}

void trace_set_bad(struct translate_cpu *t, u64 gpa)
{
    unsigned n = bad_bit(gpa);
    t->tracer.bad[n / 8] |= (u8)(1u << n % 8);
}

static unsigned new_range(struct translator *x, u64 gpa, bool write)
{
    struct tracer *r = &x->t->tracer;
    unsigned kind = (x->b->mode & SOFT_MODE_CPL3 ? 2 : 0) + write, range;
    if (trace_is_bad(x->t, gpa))
        return RANGE_NONE;
    range = FIRST_RANGE + r->next_range[kind]++ % (SOFT_RANGES - FIRST_RANGE);
    r->owner[kind * SOFT_RANGES + range].code = x->code;
    r->owner[kind * SOFT_RANGES + range].gpa = gpa;
    return range;
}

unsigned trace_range(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    u64 gpa = x->b->gpa + i->off;
    bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (m->mem.segment == ZYDIS_REGISTER_FS)
        return RANGE_FS;
    if (m->mem.segment == ZYDIS_REGISTER_GS)
        return RANGE_GS;
    if (m->mem.index != ZYDIS_REGISTER_NONE || m->mem.base == ZYDIS_REGISTER_NONE ||
        m->mem.base == ZYDIS_REGISTER_RIP)
        return new_range(x, gpa, write);
    if (gpr_of(m->mem.base) == X86_RSP || (gpr_of(m->mem.base) == X86_RBP && x->frame))
        return RANGE_STACK;
    struct site *site = &x->site[write][gpr_of(m->mem.base)];
    if (!site->known)
        *site = (struct site){(u16)new_range(x, gpa, write), true};
    return site->range;
}

/* Does the instruction only move the register a little? */
static bool steps(const struct translator *x)
{
    ZydisMnemonic m = x->z.mnemonic;
    return m == ZYDIS_MNEMONIC_INC || m == ZYDIS_MNEMONIC_DEC ||
           ((m == ZYDIS_MNEMONIC_ADD || m == ZYDIS_MNEMONIC_SUB) &&
            x->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE);
}

void trace_note_writes(struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count && !steps(x); n++) {
        const ZydisDecodedOperand *op = &x->op[n];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
            ZydisRegisterGetClass(op->reg.value) > ZYDIS_REGCLASS_GPR64)
            continue;
        x->site[0][gpr_of(op->reg.value)].known = x->site[1][gpr_of(op->reg.value)].known = false;
    }
}

static void give_up(struct translate_cpu *t, unsigned n)
{
    struct tracer *r = &t->tracer;
    struct translation *code = r->owner[n].code;
    if (!code)
        return;
    trace_set_bad(t, r->owner[n].gpa);
    r->owner[n].code = NULL;
    t->soft.vcpu->counters.ranges_given_up++;
    if (code->link)
        drop(t, code);
}

void trace_check_misses(struct translate_cpu *t)
{
    struct tracer *r = &t->tracer;
    u64 now = __rdtsc();
    if ((i32)r->misses_left >= 0)
        return;
    lock_acquire(&t->vm->lock);
    bool many = now - r->since < (u64)MISSES * MISS_CYCLES;
    for (unsigned n = 0; n < ARRAY_SIZE(r->misses); n++) {
        if (many && r->misses[n] >= MISSES_MANY)
            give_up(t, n);
        r->misses[n] = 0;
    }
    r->misses_left = MISSES;
    r->since = now;
    lock_drop(&t->vm->lock);
}

void trace_forget_code(struct translate_cpu *t)
{
    memset(t->tracer.owner, 0, sizeof t->tracer.owner);
}
