/*
 * Translated code and windows (T20): which accesses go through them, where code goes on after a fault,
 * and which instructions do better without.
 */
#include <ucontext.h>

#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- which accesses --- */

unsigned window_range(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    if (m->mem.segment == ZYDIS_REGISTER_FS)
        return RANGE_FS;
    if (m->mem.segment == ZYDIS_REGISTER_GS)
        return RANGE_GS;
    return trace_is_bad(x->t, x->b->gpa + i->off) ? RANGE_NONE : RANGE_WINDOW;
}

/* --- accesses that are near another one (T21) --- */

/* As far apart, the two are in one slice, or one is in the page at an end of it, which no window has. */
#define NEAR ((i32)PAGE_SIZE - 64)

bool window_has(const struct translator *x, unsigned base, i32 disp)
{
    const struct window_known *k = &x->known[base];
    return k->known && llabs((i64)disp - k->disp) < NEAR;
}

bool window_keeps_pointer(const struct translator *x, const struct insn *i)
{
    return translate_leaves_c(x, i) && (x->b->mode & SOFT_MODE_WINDOW);
}

bool window_is_known(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    struct address a;
    return (x->b->mode & SOFT_MODE_WINDOW) && direct_address(x, m, &a) &&
           window_range(x, i, m) == RANGE_WINDOW && window_has(x, gpr_of(m->mem.base), a.disp);
}

static void note_check(struct translator *x, unsigned base, i32 disp)
{
    x->known[base] = (struct window_known){true, disp, (unsigned)(slow_path(x) - x->slow_paths)};
}

/* By how much the decoded instruction moves register @reg, if that is all that it does to it. */
static bool steps_by(const struct translator *x, unsigned n, unsigned reg, i64 *by)
{
    const ZydisDecodedInstruction *z = &x->decoded[n].z;
    const ZydisDecodedOperand *op = x->decoded[n].op;
    bool to = op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && op[0].size == 64 && gpr_of(op[0].reg.value) == reg;
    bool imm = op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_INC: *by = 1; return to;
    case ZYDIS_MNEMONIC_DEC: *by = -1; return to;
    case ZYDIS_MNEMONIC_ADD: *by = op[1].imm.value.s; return to && imm;
    case ZYDIS_MNEMONIC_SUB: *by = -op[1].imm.value.s; return to && imm;
    case ZYDIS_MNEMONIC_PUSH: *by = -8; return z->operand_width == 64;
    case ZYDIS_MNEMONIC_POP: *by = 8; return z->operand_width == 64 && !to && reg == X86_RSP;
    default: return false;
    }
}

static void note_write(struct translator *x, unsigned n, const ZydisDecodedOperand *op)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
        ZydisRegisterGetClass(op->reg.value) > ZYDIS_REGCLASS_GPR64)
        return;
    unsigned reg = gpr_of(op->reg.value);
    struct window_known *k = &x->known[reg];
    struct window_pointer *p = &x->pointer;
    i64 by = 0;
    bool steps = steps_by(x, n, reg, &by) && by == (i32)by;
    i64 disp = k->disp - by, delta = p->delta + by;
    k->known = k->known && steps && disp == (i32)disp;
    k->disp = (i32)disp;
    if (p->base != reg)
        return;
    p->valid = p->valid && steps && delta == (i32)delta;
    p->delta = (i32)delta;
}

void window_note_writes(struct translator *x, unsigned first, unsigned count)
{
    for (unsigned n = first; n < first + count; n++)
        for (unsigned k = 0; k < x->decoded[n].z.operand_count; k++)
            note_write(x, n, &x->decoded[n].op[k]);
}

/* --- code --- */

/*
 * The slow path where the window lacks the slice of host register @base: of each that it has, there is
 * something to read. A is lost, and flags where PEXT is slow.
 */
static void emit_touch(struct translator *x, unsigned base)
{
    struct emit *e = x->e;
    struct encoding shr = {.w = true, .opcode = 0xc1, .reg = 5, .imm_len = 1, .imm = {WINDOW_TOUCH_SHIFT}};
    struct encoding movzx = {.map = 1, .opcode = 0xb6, .reg = HOST_A};
    slow_path(x)->gs = true;
    if (x->t->bmi2) {
        emit_bits(e, PEXT, HOST_A, base, CPU(touch_mask));
    } else {
        if (base != HOST_A)
            emit_mov(e, HOST_A, base);
        emit_rr(e, &shr, HOST_A);
    }
    emit_rm(e, &movzx, (struct address){HOST_A, NO_INDEX, 0, 0, true});
}

/* Flags that are in the host's only can stay there. Else they may be destroyed. */
static bool keep_flags(struct translator *x, bool sole)
{
    bool keep = sole && flags_only_in_host(x) && x->t->bmi2;
    if (keep)
        slow_path(x)->save = true;
    else
        flags_lost(x);
    return keep;
}

/* What host register @base holds, and @disp. C is lost, and flags unless @keep. */
static struct address emit_place(struct translator *x, unsigned base, i32 disp, bool keep)
{
    struct emit *e = x->e;
    if (keep) {
        emit_bits(e, PEXT, HOST_C, base, CPU(window_mask));
    } else {
        if (base != HOST_C)
            emit_mov(e, HOST_C, base);
        emit_op_rm(e, true, 0x23, HOST_C, CPU(window_mask)); /* and */
    }
    return (struct address){HOST_C, HOST_CPU, 0, disp, true};
}

struct address emit_window(struct translator *x, unsigned base, bool sole)
{
    bool keep = keep_flags(x, sole);
    emit_touch(x, base);
    return emit_place(x, base, 0, keep);
}

/* T20 to T22. */
struct address emit_window_operand(struct translator *x, unsigned base, i32 disp, bool sole)
{
    const struct window_pointer *p = &x->pointer;
    unsigned host = translate_host_reg[base];
    bool known = window_has(x, base, disp), near = llabs((i64)disp) < NEAR;
    bool keep = keep_flags(x, sole);
    i64 from_c = (i64)disp + p->delta;
    slow_path(x)->gs = true;
    if (known)
        x->slow_paths[x->known[base].leader].leads = true;
    if (known && p->valid && p->base == base && from_c == (i32)from_c)
        return (struct address){HOST_C, HOST_CPU, 0, (i32)from_c, true};
    if (!known && near) {
        emit_touch(x, host);
    } else if (!known) {
        emit_lea(x->e, HOST_A, at(host, disp));
        emit_touch(x, HOST_A);
    }
    if (!known)
        note_check(x, base, near ? 0 : disp);
    x->pointer = (struct window_pointer){true, (u8)base, 0};
    return emit_place(x, host, disp, keep);
}

void emit_window_pointer(struct emit *e, const struct window_pointer *p)
{
    emit_mov(e, HOST_C, translate_host_reg[p->base]);
    emit_op_rm(e, true, 0x23, HOST_C, CPU(window_mask)); /* and */
    if (p->delta)
        emit_lea(e, HOST_C, at(HOST_C, (i32)(0u - (u32)p->delta)));
}

/* --- from a host's address to the guest's instruction --- */

_Static_assert(TRANSLATE_BLOCK_CODE <= 0xffff && TRANSLATE_TRACE_CODE <= 0xffff, "offsets have 16 bits");

/* The table of the block's sites goes behind its code. */
void window_note_sites(struct translator *x, struct translation *code)
{
    struct emit *e = x->e;
    struct translate_vm *v = x->t->vm;
    u8 *start = code->start - e->to_exec;
    while ((uintptr_t)e->at & 1)
        emit8(e, 0xcc);
    code->site = (const struct window_site *)e->at;
    for (unsigned n = 0; n < x->slow_count; n++) {
        const struct slow_path *p = &x->slow_paths[n];
        if (!p->gs)
            continue;
        struct window_site site = {.begin = (u16)(p->begin - start),
                                   .end = (u16)(p->end - start),
                                   .slow = (u16)(p->at - start),
                                   .miss = (u16)(p->miss_at - start),
                                   .off = (u16)(x->block_off + x->b->insn[p->index].off)};
        emit_bytes(e, &site, sizeof site);
        code->sites++;
    }
    struct code_region *r = code_region(v);
    u32 used = atomic_load_explicit(&r->by_address_used, memory_order_relaxed);
    r->by_address[used] = translation_number(v, code);
    atomic_store_explicit(&r->by_address_used, used + 1, memory_order_release);
}

/* The translation that the executable address @pc is in, or NULL. */
static struct translation *translation_of(struct translate_vm *v, const u8 *pc)
{
    const u8 *at = pc - v->emit.to_exec;
    for (u32 k = 0; k < v->region_count; k++) {
        struct code_region *r = &v->regions[k];
        if (at < r->code || at >= r->code_end)
            continue;
        u32 low = 0, high = atomic_load_explicit(&r->by_address_used, memory_order_acquire);
        while (low < high) { /* the first that begins behind @pc */
            u32 middle = (low + high) / 2;
            if (translation_at(v, r->by_address[middle])->start <= pc)
                low = middle + 1;
            else
                high = middle;
        }
        return low ? translation_at(v, r->by_address[low - 1]) : NULL;
    }
    return NULL;
}

static const struct window_site *site_of(const struct translation *code, const u8 *pc)
{
    u32 off = (u32)(pc - code->start);
    for (u32 n = 0; n < code->sites; n++)
        if (off >= code->site[n].begin && off < code->site[n].end)
            return &code->site[n];
    return NULL;
}

/* --- instructions that do better without --- */

enum { SLOW_MAX = 8 };

static void note_slow(struct translate_cpu *t, struct translation *code, const struct window_site *site)
{
    u64 gpa = (code->block->gpa & PAGE_MASK) + site->off;
    unsigned n = (unsigned)(gpa * 0x9e3779b97f4a7c15ull >> 52);
    if (t->slow[n].gpa != gpa) {
        t->slow[n].gpa = gpa;
        t->slow[n].count = 0;
    }
    if (++t->slow[n].count < SLOW_MAX || t->worn)
        return;
    trace_set_bad(t, gpa);
    t->worn = code;
    t->worn_evictions = t->vm->evictions;
    atomic_store(&t->soft.kick, 1);
}

_Static_assert(ARRAY_SIZE(((struct translate_cpu *)0)->slow) == 4096, "the hash above has 12 bits");

/* Of a VM with one vCPU, as all that has windows. */
void window_serve_worn(struct translate_cpu *t)
{
    struct translation *code = t->worn;
    if (!code)
        return;
    t->worn = NULL;
    lock_acquire(&t->vm->lock);
    if (t->worn_evictions == t->vm->evictions) {
        code->worn = true;
        if (code->link)
            translation_make_stale(t, code);
    }
    lock_drop(&t->vm->lock);
}

/* --- the fault --- */

bool translate_fault(struct fault_catcher *f, u64 address, long long *regs)
{
    enum { ERROR_WRITE = 2 };
    struct translate_cpu *t = container_of(f, struct translate_cpu, catcher);
    const u8 *pc = (const u8 *)(uintptr_t)regs[REG_RIP];
    if (!t->soft.windows || regs[REG_TRAPNO] != X86_PF_)
        return false;
    struct translation *code = translation_of(t->vm, pc);
    const struct window_site *site = code ? site_of(code, pc) : NULL;
    if (!site)
        return false;
    switch (windows_fault(&t->soft, address, regs[REG_ERR] & ERROR_WRITE)) {
    case WINDOW_NOT_OURS: return false;
    case WINDOW_MAPPED: return true;
    case WINDOW_REFUSED: break;
    case WINDOW_SLOW: note_slow(t, code, site); break;
    case WINDOW_NO_SLICE:
        note_slow(t, code, site);
        regs[REG_RIP] = (long long)(uintptr_t)(code->start + site->miss);
        return true;
    }
    regs[REG_RIP] = (long long)(uintptr_t)(code->start + site->slow);
    return true;
}
