/*
 * Lock-step: translated code is shown to be right while a guest runs on it (TRAPEZE_TRANSLATE=lockstep).
 *
 * Translated code is run, what it changed is undone, and the interpreter runs the same guest instructions
 * from the same state, one at a time, until it stands where the translated code ended. The two must agree in
 * all of x86_state, in the exception if there was one, and in each byte of each page that was written. The VM
 * goes on with what the interpreter made.
 *
 * Rules
 * 1. A page is copied before it is first written. Every look for writing on the slow path of the MMU tells of
 *    its page (lockstep_writes()), and with soft_cpu.hide_writes there is no other path. Every other time
 *    translated code then runs again with the write tags of just the pages that are copied, so that its
 *    native writes are compared as well as its slow paths.
 * 2. TLB entries are put back as they were: the new ones may come from page tables that are undone.
 *    Pages in which a walk sets bits A and D are copied like others.
 * 3. What must not happen twice ends the run before it happens (soft_once()). When all runs agree on
 *    that, too, the interpreter executes the instruction, once and for all.
 * 4. Nobody else writes to RAM meanwhile: other vCPUs are kept out of guest code, and devices by the machine
 *    lock. Requests are not seen. What is left (a disk's thread reading into RAM, a page that ceases to be
 *    tracked) happens once: only a difference that comes again each time is one.
 * 5. The interpreter stops where the state is that of the translated run, so that it need not know what
 *    the translator made of the code. How far a run goes is bounded by translate_cpu.budget (block.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "soft/translate/translate-internal.h"

#define PAGES_MAX 64u
#define FILLS_MAX 256u
#define STEPS_MAX 4096u
#define ATTEMPTS 3u
#define TRAIL 32u

struct lockstep_page {
    u64 la, gpa;
    u8 *host;
    bool tracked;                           /* when it was first written */
    u8 before[PAGE_SIZE], after[PAGE_SIZE]; /* after: what translated code made of it */
};

/* A TLB entry as it was before a run filled it anew. */
struct fill {
    struct soft_tlb_entry *entry, old;
};

struct lockstep {
    jmp_buf fault; /* soft_cpu.fault from before */
    _Atomic u32 no_requests;
    struct x86_state start, seen; /* seen: after the translated run */
    bool once, seen_once;         /* the run ended by rule 3 */
    bool stop_at_rip;             /* the interpreter stops where the addresses are equal */
    unsigned page_count, fill_count;
    struct fill fill[FILLS_MAX];
    u64 trail[TRAIL]; /* where the interpreter was */
    unsigned steps;
    struct lockstep_page page[PAGES_MAX];
};

int lockstep_init(struct translate_cpu *t, struct error *err)
{
    if (!t->options.lockstep)
        return 0;
    t->lockstep = aligned_alloc(64, ALIGN_UP(sizeof *t->lockstep, 64));
    if (!t->lockstep)
        return error_set(err, ENOMEM, "no memory to compare the engines");
    memset(t->lockstep, 0, sizeof *t->lockstep);
    soft_hide_writes(&t->soft);
    return 0;
}

void lockstep_release(struct translate_cpu *t)
{
    free(t->lockstep);
}

/* --- what the MMU and system instructions tell --- */

NORETURN void lockstep_once(struct soft_cpu *c)
{
    c->lockstep->once = true;
    c->s->rip = c->insn_rip;
    c->s->exception_vector = 0;
    c->ext = 0;
    c->s->pending_db = 0;
    c->no_step = false;
    longjmp(c->fault, 1);
}

static u64 ram_offset(const struct soft_cpu *c, const struct lockstep_page *p)
{
    return (u64)(p->host - c->vcpu->vm->memory->ram);
}

static bool known_page(const struct lockstep *l, u64 gpa)
{
    for (unsigned n = l->page_count; n-- > 0;)
        if (l->page[n].gpa == gpa)
            return true;
    return false;
}

void lockstep_writes(struct soft_cpu *c, u64 la, u64 gpa)
{
    struct lockstep *l = c->lockstep;
    if (known_page(l, gpa))
        return;
    if (l->page_count == PAGES_MAX)
        lockstep_once(c);
    struct lockstep_page *p = &l->page[l->page_count++];
    p->la = la & PAGE_MASK;
    p->gpa = gpa;
    p->host = memory_ram(c->vcpu->vm->memory, gpa);
    p->tracked = memory_page_tracked(c->vcpu->vm->memory, ram_offset(c, p));
    memcpy(p->before, p->host, PAGE_SIZE);
    memcpy(p->after, p->host, PAGE_SIZE);
}

void lockstep_fills(struct soft_cpu *c, struct soft_tlb_entry *e)
{
    struct lockstep *l = c->lockstep;
    if (!e)
        l->fill_count = FILLS_MAX;
    if (l->fill_count < FILLS_MAX)
        l->fill[l->fill_count] = (struct fill){e, *e};
    l->fill_count++;
}

/* --- undoing --- */

static void keep_pages(struct lockstep *l)
{
    for (unsigned n = 0; n < l->page_count; n++)
        memcpy(l->page[n].after, l->page[n].host, PAGE_SIZE);
}

/* Code made from what a page held meanwhile must be found stale. */
static void undo_page(struct memory *m, struct lockstep_page *p)
{
    u64 off = (u64)(p->host - m->ram);
    if (memcmp(p->host, p->before, PAGE_SIZE) == 0)
        return;
    memcpy(p->host, p->before, PAGE_SIZE);
    if (memory_page_tracked(m, off))
        memory_note_write(m, off, PAGE_SIZE);
}

static void undo_fills(struct soft_cpu *c)
{
    struct lockstep *l = c->lockstep;
    if (l->fill_count > FILLS_MAX)
        soft_tlb_flush_all(c, true);
    else
        for (unsigned n = l->fill_count; n-- > 0;)
            soft_tlb_restore(c, l->fill[n].entry, &l->fill[n].old);
    l->fill_count = 0;
}

static void start_run(struct soft_cpu *c)
{
    c->lockstep->once = false;
    c->stop_block = false;
    c->cur = NULL;
    state_adopt(c, c->s);
}

static void undo(struct soft_cpu *c)
{
    struct lockstep *l = c->lockstep;
    for (unsigned n = 0; n < l->page_count; n++)
        undo_page(c->vcpu->vm->memory, &l->page[n]);
    *c->s = l->start;
    soft_mode_changed(c);
    undo_fills(c);
    start_run(c);
}

/* A page with code was given up for data: a write to it would not be told of, and stale code run on. */
static bool gave_up_page(const struct soft_cpu *c)
{
    const struct lockstep *l = c->lockstep;
    for (unsigned n = 0; n < l->page_count; n++)
        if (l->page[n].tracked && !memory_page_tracked(c->vcpu->vm->memory, ram_offset(c, &l->page[n])))
            return true;
    return false;
}

static void show_pages(struct soft_cpu *c, bool show)
{
    for (unsigned n = 0; n < c->lockstep->page_count; n++)
        if (c->lockstep->page[n].la != (SOFT_TLB_NONE & PAGE_MASK))
            soft_tlb_show_write(c, c->lockstep->page[n].la, show);
}

/* --- comparing --- */

static bool fields_equal(const struct state_desc *desc, const void *a, const void *b)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        const u8 *pa = (const u8 *)a + f->offset, *pb = (const u8 *)b + f->offset;
        for (u32 n = 0; n < f->count; n++, pa += f->size, pb += f->size)
            if (f->kind == FIELD_KIND_STRUCT ? !fields_equal(f->desc, pa, pb) : memcmp(pa, pb, f->size) != 0)
                return false;
    }
    return true;
}

static bool pages_equal(const struct lockstep *l)
{
    for (unsigned n = 0; n < l->page_count; n++)
        if (memcmp(l->page[n].host, l->page[n].after, PAGE_SIZE) != 0)
            return false;
    return true;
}

/* Does the VM stand where the translated run ended? */
static bool same(struct soft_cpu *c)
{
    const struct lockstep *l = c->lockstep;
    struct x86_state *s = c->s;
    s->fpu.mxcsr_mask = l->seen.fpu.mxcsr_mask; /* scratch of the host's FXSAVE; no guest sees it */
    return s->rip == l->seen.rip && memcmp(s->gpr, l->seen.gpr, sizeof s->gpr) == 0 &&
           l->once == l->seen_once && fields_equal(&x86_state_desc, s, &l->seen) && pages_equal(l);
}

/* --- the runs --- */

static u32 run_translated(struct translate_cpu *t, void *code)
{
    struct soft_cpu *c = &t->soft;
    volatile u32 left_by = 0;
    t->budget = t->options.lockstep_blocks + 1;
    c->page_rip = c->s->rip & PAGE_MASK;
    if (setjmp(c->fault))
        interpret_settle_fault(c);
    else
        left_by = t->thunk.enter(c, code);
    translate_cut_rip(c);
    c->cur = NULL;
    flags_publish(c, c->s);
    return left_by;
}

static void step(struct soft_cpu *c)
{
    c->stop_block = false;
    interpret_single(c);
}

static bool arrived(struct soft_cpu *c)
{
    const struct lockstep *l = c->lockstep;
    if (l->stop_at_rip && l->steps && c->s->rip == l->seen.rip)
        return true;
    return same(c);
}

/* False when the interpreter does not come to where the translated code came. */
static bool interpret_until_same(struct soft_cpu *c)
{
    struct lockstep *l = c->lockstep;
    l->steps = 0;
    if (setjmp(c->fault)) {
        interpret_settle_fault(c);
        return same(c);
    }
    while (!arrived(c)) {
        if (l->steps == STEPS_MAX || c->s->mp_state == VCPU_MP_HALTED)
            return false;
        l->trail[l->steps++ % TRAIL] = c->s->rip;
        step(c);
    }
    return true;
}

/*
 * Runs @code and then the interpreter; true when they agree. Where the pages that it writes are known from a
 * run before, @native lets it write to them directly.
 */
static bool run_both(struct translate_cpu *t, void *code, bool native, u32 *left_by)
{
    struct soft_cpu *c = &t->soft;
    struct lockstep *l = c->lockstep;
    *left_by = run_translated(t, code);
    if (native && !gave_up_page(c)) {
        undo(c);
        show_pages(c, true);
        *left_by = run_translated(t, code);
        show_pages(c, false);
    }
    l->seen = *c->s;
    l->seen_once = l->once;
    keep_pages(l);
    undo(c);
    return interpret_until_same(c);
}

/* --- the report --- */

static u64 value_of(const struct field *f, const u8 *p)
{
    u64 v = 0;
    memcpy(&v, p, MIN(f->size, 8u));
    return v;
}

static void report_fields(const char *prefix, const struct state_desc *desc, const u8 *start, const u8 *a,
                          const u8 *b)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        for (u32 n = 0; n < f->count; n++) {
            u32 off = f->offset + n * f->size, step = f->kind == FIELD_KIND_BYTES ? 8 : f->size;
            bool nested = f->kind == FIELD_KIND_STRUCT;
            char name[64], index[16] = "";
            if (f->count > 1)
                snprintf(index, sizeof index, "[%u]", n);
            snprintf(name, sizeof name, "%s%s%s%s", prefix, f->name, index, nested ? "." : "");
            if (nested) {
                report_fields(name, f->desc, start + off, a + off, b + off);
                continue;
            }
            for (u32 k = 0; k < f->size; k += step)
                if (memcmp(a + off + k, b + off + k, step) != 0)
                    log_error("  %s+%u: was 0x%" PRIx64 ", translated 0x%" PRIx64 ", interpreted 0x%" PRIx64,
                              name, k, value_of(f, start + off + k), value_of(f, a + off + k),
                              value_of(f, b + off + k));
        }
    }
}

static void report_page(const struct lockstep_page *p)
{
    unsigned shown = 0;
    for (unsigned n = 0; n < PAGE_SIZE && shown < 16; n++)
        if (p->host[n] != p->after[n]) {
            log_error("  byte at gpa 0x%" PRIx64 ": was %02x, translated %02x, interpreted %02x", p->gpa + n,
                      p->before[n], p->after[n], p->host[n]);
            shown++;
        }
}

static void report_state(const struct x86_state *s)
{
    log_error("  before: rip %lx flags %lx cs %x cr0 %lx cr3 %lx cr4 %lx", s->rip, s->rflags,
              s->seg[X86_CS].selector, s->cr0, s->cr3, s->cr4);
    for (unsigned n = 0; n < 16; n += 4)
        log_error("    r%-2u %016lx %016lx %016lx %016lx", n, s->gpr[n], s->gpr[n + 1], s->gpr[n + 2],
                  s->gpr[n + 3]);
}

static void report_trail(const struct lockstep *l)
{
    unsigned first = l->steps > TRAIL ? l->steps - TRAIL : 0;
    log_error("  the interpreter went (%u steps, the last ones):", l->steps);
    for (unsigned n = first; n < l->steps; n++)
        log_error("    %lx", l->trail[n % TRAIL]);
}

/* What the interpreter has is shown from where it first came to the same address. */
static void report(struct translate_cpu *t, const struct translation *code, bool native)
{
    struct soft_cpu *c = &t->soft;
    struct lockstep *l = c->lockstep;
    undo(c);
    l->stop_at_rip = true;
    interpret_until_same(c);
    l->stop_at_rip = false;
    log_error("lock-step: translated code (%s) and the interpreter differ",
              native ? "writing by itself" : "with all writes on the slow path");
    report_state(&l->start);
    log_error("  translated: rip %lx%s, interpreted: rip %lx%s", l->seen.rip, l->seen_once ? " (once)" : "",
              c->s->rip, l->once ? " (once)" : "");
    report_fields("", &x86_state_desc, (const u8 *)&l->start, (const u8 *)&l->seen, (const u8 *)c->s);
    for (unsigned n = 0; n < l->page_count; n++)
        report_page(&l->page[n]);
    report_trail(l);
    translate_dump(t, code, l->start.rip, NULL, dump_error);
}

/* --- entry --- */

static void begin(struct translate_cpu *t)
{
    struct soft_cpu *c = &t->soft;
    struct vm *vm = c->vcpu->vm;
    struct lockstep *l = t->lockstep;
    if (vm->vcpu_count > 1)
        vm_exclusive_begin(vm, c->vcpu);
    lock_acquire(&vm->machine_lock);
    memcpy(l->fault, c->fault, sizeof l->fault);
    l->start = *c->s;
    l->page_count = l->fill_count = 0;
    c->requests = &l->no_requests;
    c->lockstep = l;
    start_run(c);
}

static void end(struct translate_cpu *t)
{
    struct soft_cpu *c = &t->soft;
    struct vm *vm = c->vcpu->vm;
    memcpy(c->fault, t->lockstep->fault, sizeof c->fault);
    c->requests = &c->vcpu->requests;
    c->lockstep = NULL;
    lock_drop(&vm->machine_lock);
    if (vm->vcpu_count > 1)
        vm_exclusive_end(vm, c->vcpu);
}

static void give_up(struct soft_cpu *c)
{
    struct error err = {0};
    error_set(&err, EIO, "lock-step: the translator is wrong at 0x%lx", c->s->rip);
    vm_end_error(c->vcpu->vm, &err);
    c->stop_block = true;
}

/* Is this run one of those that are compared? The first ones of each block are, and then a sample. */
static bool chosen(const struct translate_cpu *t, struct translation *code)
{
    return code->runs++ < 16 || code->runs % t->options.lockstep == 0;
}

bool lockstep_run(struct translate_cpu *t, struct translation *code, u32 *left_by)
{
    struct soft_cpu *c = &t->soft;
    bool agreed = false, native;
    t->budget = ~0u;
    if (!chosen(t, code))
        return false;
    u32 evictions = t->vm->evictions;
    native = code->runs & 1;
    begin(t);
    if (evictions != t->vm->evictions) { /* another vCPU was before, and the code is gone */
        end(t);
        *left_by = 0;
        return true;
    }
    for (unsigned n = 0; n < ATTEMPTS && !agreed; n++) {
        if (n)
            undo(c);
        c->vcpu->counters.lockstep_runs++;
        agreed = run_both(t, translation_entry(t, code, ENTRY_SAVED), native, left_by);
    }
    if (!agreed) {
        report(t, code, native);
        undo(c);
        end(t);
        give_up(c);
        return true;
    }
    end(t);
    if (c->s->exception_pending)
        c->stop_block = true;
    if (t->lockstep->seen_once) {
        c->vcpu->counters.lockstep_once++;
        *left_by = 0;
        step(c);
    }
    return true;
}
