/*
 * The engine: the interpreter's run loop with another way to run blocks. Whatever is not hot yet, or of a
 * mode that is not translated, the interpreter executes (T8).
 */
#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"
#include "soft/translate/translate-internal.h"

static struct translate_cpu *of(struct soft_cpu *c)
{
    return container_of(c, struct translate_cpu, soft);
}

static u64 ram_pages(const struct translate_cpu *t)
{
    return t->soft.vcpu->vm->memory->ram_size >> PAGE_SHIFT;
}

static bool translatable(const struct translate_cpu *t, const struct block *b)
{
    return translate_mode(b->mode) && b != t->soft.interpret->scratch;
}

/*
 * Changes what other vCPUs may be executing: until it is over none is in guest code, nor comes back to
 * translated code that is gone (T18). Takes the lock.
 */
static void stop_others(struct translate_cpu *t)
{
    struct vcpu *vcpu = t->soft.vcpu;
    if (vcpu->vm->vcpu_count > 1)
        vm_exclusive_begin(vcpu->vm, vcpu);
    lock_acquire(&t->vm->lock);
}

static void go_others(struct translate_cpu *t)
{
    struct vcpu *vcpu = t->soft.vcpu;
    lock_drop(&t->vm->lock);
    if (vcpu->vm->vcpu_count > 1)
        vm_exclusive_end(vcpu->vm, vcpu);
}

/* --- writes to code (T5) --- */

static void page_written(struct translate_cpu *t, u64 page)
{
    struct translate_vm *v = t->vm;
    struct translation *next;
    for (struct translation *code = v->by_page[page]; code; code = next) {
        next = code->next;
        if (!block_valid(code->block))
            translation_make_stale(t, code);
    }
    if (!v->by_page[page])
        atomic_store(&v->watch.interest[page], 0);
}

/* What is taken is dealt with before any vCPU goes on: who finds nothing has not missed anything. */
static void serve_writes(struct translate_cpu *t)
{
    struct translate_vm *v = t->vm;
    struct memory *m = v->vm->memory;
    u64 pages[CODE_WATCH_PAGES];
    if (!memory_watch_pending(m, &v->watch))
        return;
    stop_others(t);
    int count = memory_watch_take(m, &v->watch, pages);
    for (int n = 0; n < count; n++)
        page_written(t, pages[n]);
    for (u64 page = 0; count < 0 && page < ram_pages(t); page++)
        if (atomic_load_explicit(&v->watch.interest[page], memory_order_relaxed))
            page_written(t, page);
    go_others(t);
}

/*
 * @code is made from what its page holds: may it run? A write that comes meanwhile is told of, or seen here.
 * With the lock.
 */
static bool restore(struct translate_cpu *t, struct translation *code)
{
    u64 page = (u64)(code->block->gen_now - t->vm->vm->memory->page_gen);
    if (code->link)
        return true;
    atomic_store(&t->vm->watch.interest[page], 1);
    translation_restore(t, code, page);
    if (block_valid(code->block))
        return true;
    translation_make_stale(t, code);
    return false;
}

/* Nothing needs to be looked at for @code to run. */
static bool is_current(const struct translation *code)
{
    return code->link && code->block->gpa2 == BLOCK_NO_PAGE && block_valid(code->block);
}

/* @code is still there, and made from what @seen says. Takes the lock when it can be run at once. */
static bool take_seen(struct translate_vm *v, struct translation *code, const struct block *seen,
                      u32 evictions)
{
    lock_acquire(&v->lock);
    if (evictions == v->evictions && translation_find(v, seen->gpa, seen->mode) == code) {
        code->block->gen = seen->gen;
        code->block->gen2 = seen->gen2;
        if (code->link)
            return true;
    }
    lock_drop(&v->lock);
    return false;
}

/*
 * As is_current() says no: compares @seen, a copy of the block of @code, with what the guest has. That is
 * done without the lock, since it may raise, and may stop the others; if the code was evicted meanwhile, it
 * is not current. Takes the lock for true.
 */
static bool make_current(struct translate_cpu *t, struct translation *code, struct block *seen, u64 la,
                         u32 evictions)
{
    struct translate_vm *v = t->vm;
    if (!block_usable(&t->soft, seen, la))
        return false;
    if (take_seen(v, code, seen, evictions))
        return true;
    stop_others(t);
    if (evictions == v->evictions)
        restore(t, code);
    go_others(t);
    return take_seen(v, code, seen, evictions);
}

/* --- running --- */

/* Torture: some translations fail, and every so often a region goes. */
static bool refused(struct translate_cpu *t)
{
    const struct translate_options *o = &t->options;
    t->tries++;
    return o->fail && t->tries % o->fail == 0;
}

static bool hot(struct translate_cpu *t, const struct block *b)
{
    u8 *heat = block_heat(&t->soft, b->gpa, b->mode);
    if (*heat < t->options.threshold)
        ++*heat;
    return translatable(t, b) && *heat >= t->options.threshold && !refused(t);
}

/* The code at @at that may run, with the lock; or NULL without it. Raises. */
static struct translation *current_code(struct translate_cpu *t, struct block_place at)
{
    struct translate_vm *v = t->vm;
    lock_acquire(&v->lock);
    struct translation *code = translation_find(v, at.gpa, t->soft.mode);
    if (code && code->worn)
        code = NULL;
    if (code && is_current(code))
        return code;
    bool seen_trace = code && code->pieces; /* T17: is not compared, and made anew */
    struct block seen = code ? *code->block : (struct block){0};
    u32 evictions = v->evictions;
    lock_drop(&v->lock);
    return code && !seen_trace && make_current(t, code, &seen, at.la, evictions) ? code : NULL;
}

static void make_room(struct translate_cpu *t)
{
    u32 flush = t->options.flush;
    lock_acquire(&t->vm->lock);
    bool room = code_room(t->vm) && !(flush && t->tries % flush == 0);
    if (!room)
        room = code_next_empty(t->vm);
    lock_drop(&t->vm->lock);
    if (room)
        return;
    stop_others(t);
    t->soft.vcpu->counters.code_evictions++;
    code_next_region(t->vm);
    go_others(t);
}

/* Code for @b, with the lock; or NULL without it. */
static struct translation *new_code(struct translate_cpu *t, const struct block *b)
{
    struct translate_vm *v = t->vm;
    make_room(t);
    lock_acquire(&v->lock);
    if (code_room(v)) { /* others are as fast */
        struct translation *code = translate_block(t, b);
        if (restore(t, code)) {
            struct translation *old = translation_find(v, b->gpa, b->mode);
            translation_enter(v, code);
            if (old && old->worn)
                trace_lead_on(t, old, code);
            return code;
        }
    }
    lock_drop(&v->lock);
    return NULL;
}

/* Code for rip, with the lock; or NULL without it, and the block that is there. Raises. */
static struct translation *next_code(struct translate_cpu *t, struct block **cold)
{
    struct translation *code = current_code(t, block_place(&t->soft));
    if (code)
        return code;
    *cold = block_get(&t->soft, 0);
    return hot(t, *cold) ? new_code(t, *cold) : NULL;
}

/* T6: from the exit by which the last run left straight to @code. */
static void link_left(struct translate_cpu *t, u32 number, struct translation *code)
{
    struct translate_vm *v = t->vm;
    const struct translate_exit *x = &v->exits[number];
    if (!number || x->to)
        return;
    const struct block *from = translation_at(v, x->from)->block, *to = code->block;
    if ((from->gpa & PAGE_MASK) + x->off != to->gpa || from->mode != to->mode)
        return;
    exit_link(v, number, code);
    t->soft.vcpu->counters.links++;
}

/* T8: the block was found good for the mapping of both pages. */
static void note_second_page(struct translate_cpu *t, const struct translation *code)
{
    struct soft_cpu *c = &t->soft;
    u64 page = c->s->rip & PAGE_MASK;
    soft_note_executed(c, page + PAGE_SIZE);
    t->slots[code->slot].key = page + c->map_key;
}

/* T7: the block will be found by the address that it has now. */
static void note_address(struct translate_cpu *t, const struct translation *code)
{
    struct soft_cpu *c = &t->soft;
    u64 rip = c->s->rip, key = code->block->gpa ^ c->mode_key;
    void *entry = translation_entry(t, code, ENTRY_SAVED_CHECKED);
    soft_note_executed(c, rip);
    if (code->block->gpa2 != BLOCK_NO_PAGE)
        note_second_page(t, code);
    *code_cache_entry(t, key) = (struct code_cache_entry){key, entry};
    *jump_cache_entry(t, rip) = (struct jump_cache_entry){rip, c->map_key, entry, 0};
}

void *translate_find(struct translate_cpu *t, u64 la)
{
    struct soft_cpu *c = &t->soft;
    struct jump_cache_entry *j = jump_cache_entry(t, la);
    if (j->rip == la && j->map_key == c->map_key && t->map_epoch == c->map_epoch)
        return j->code;
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (e->exec != ((la & PAGE_MASK) | c->ctx) || t->map_epoch != c->map_epoch)
        return NULL;
    u64 key = ((e->gpa & PAGE_MASK) | (la & ~PAGE_MASK)) ^ c->mode_key;
    const struct code_cache_entry *found = code_cache_entry(t, key);
    if (found->key != key)
        return NULL;
    soft_note_executed(c, la);
    if (t->map_epoch != c->map_epoch)
        return NULL;
    *j = (struct jump_cache_entry){la, c->map_key, found->code, 0};
    return found->code;
}

static void count_exit(struct soft_cpu *c, u32 left_by)
{
    struct counters *n = &c->vcpu->counters;
    if (c->stop_block)
        n->exits_stopped++;
    else if (left_by)
        n->exits_unlinked++;
    else if (vcpu_requests(c->vcpu) & c->wanted)
        n->exits_request++;
    else
        n->exits_lookup++;
}

static u32 run_translated(struct translate_cpu *t, struct translation *code)
{
    struct soft_cpu *c = &t->soft;
    note_address(t, code);
    if (unlikely(t->map_epoch != c->map_epoch))
        forget_addresses(t);
    c->page_rip = c->s->rip & PAGE_MASK;
    c->vcpu->counters.blocks_run++;
    u32 left_by;
    if (t->lockstep && lockstep_run(t, code, &left_by))
        return left_by;
    left_by = t->thunk.enter(c, translation_entry(t, code, ENTRY_SAVED));
    translate_cut_rip(c);
    count_exit(c, left_by);
    if (!left_by && !c->stop_block && atomic_load_explicit(&c->kick, memory_order_relaxed))
        trace_sample(t);
    return left_by;
}

static void run_interpreted(struct soft_cpu *c, struct block *b)
{
    c->block_rip = c->s->rip;
    struct insn *exit = b->insn[0].fn(c, b->insn, c->s, 0);
    c->cur = NULL;
    c->vcpu->counters.blocks_run++;
    c->vcpu->counters.insns += exit->count;
}

/*
 * May a block run? A kick is taken back before the requests are looked at, so that none is lost; one that is
 * pending from the start costs just one block.
 */
static bool go_on(struct translate_cpu *t, bool first)
{
    struct soft_cpu *c = &t->soft;
    if (atomic_load_explicit(&c->kick, memory_order_relaxed) && atomic_exchange(&c->kick, 0)) {
        serve_writes(t);
        trace_check_misses(t);
        window_serve_worn(t);
    }
    if (!first && c->stop_block)
        return false;
    if (likely(!(vcpu_requests(c->vcpu) & c->wanted)))
        return true;
    atomic_store(&c->kick, 1);
    return first;
}

/* T17. What is at rip goes onto the recorded path, or that ends. As next_code(), of which @code is the
 * result. */
static struct translation *record(struct translate_cpu *t, struct translation *code, struct block **b)
{
    if (code) {
        lock_drop(&t->vm->lock);
        *b = block_get(&t->soft, 0);
    }
    if (trace_append(t, *b))
        return NULL;
    trace_end(t);
    return next_code(t, b);
}

static void run_blocks(struct soft_cpu *c)
{
    struct translate_cpu *t = of(c);
    u32 left_by = 0, evictions = 0;
    c->mode_key = (u64)c->mode << 52;
    trace_end(t);
    for (bool first = true; go_on(t, first); first = false) {
        struct block *cold;
        flags_publish(c, c->s); /* the fetch may raise */
        struct translation *code = next_code(t, &cold);
        if (unlikely(trace_records(t, code)))
            code = record(t, code, &cold);
        if (code) {
            if (evictions == t->vm->evictions)
                link_left(t, left_by, code);
            lock_drop(&t->vm->lock);
            left_by = run_translated(t, code);
            evictions = t->vm->evictions;
        } else {
            run_interpreted(c, cold);
            c->vcpu->counters.blocks_interpreted++;
            left_by = 0;
        }
    }
}

/* --- the engine --- */

static void engine_vcpu_release(struct vcpu *vcpu)
{
    struct translate_cpu *t = vcpu->engine_data;
    if (!t)
        return;
    translate_code_release(t);
    windows_release(&t->soft);
    lockstep_release(t);
    interpret_detach(&t->soft);
    soft_cpu_release(&t->soft);
    munmap(t, sizeof *t);
    vcpu->engine_data = NULL;
}

/* AMD's processors of before family 19h have it in name only. */
static bool has_fast_pext(void)
{
    bool slow = __builtin_cpu_is("amd") && (__builtin_cpu_is("amdfam17h") || __builtin_cpu_is("amdfam15h"));
    return __builtin_cpu_supports("bmi2") && !slow;
}

static int engine_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    struct translate_cpu *t = windows_cpu_alloc(sizeof *t);
    if (t == MAP_FAILED)
        return error_set(err, ENOMEM, "no memory for vCPU %u", vcpu->index);
    t->vm = vcpu->vm->engine_data;
    t->options = t->vm->options;
    int rc = soft_cpu_init(&t->soft, vcpu, err);
    if (rc != 0) {
        munmap(t, sizeof *t);
        return rc;
    }
    vcpu->engine_data = t;
    rc = interpret_attach(&t->soft, err);
    if (rc == 0)
        rc = lockstep_init(t, err);
    if (rc == 0)
        rc = translate_code_init(t, err);
    if (rc != 0) {
        engine_vcpu_release(vcpu);
        return rc;
    }
    t->soft.interpret->run_blocks = run_blocks;
    t->soft.interpret->arena_size = TRANSLATE_COLD_ARENA;
    if (t->options.block_insns)
        t->soft.interpret->max_insns = MIN(t->options.block_insns, (u32)BLOCK_MAX_INSNS);
    if (!t->options.no_windows && !t->lockstep) {
        rc = windows_init(&t->soft, t->options.windows, err);
        if (rc != 0) {
            engine_vcpu_release(vcpu);
            return rc;
        }
    }
    t->catcher.caught = translate_fault;
    t->soft.touch_mask = ~MASK(WINDOW_TOUCH_SHIFT);
    vector_init(&t->soft);
    t->flags_killed = flags_probe();
    t->bmi2 = has_fast_pext() && !t->options.no_pext;
    t->page_mask = PAGE_MASK;
    t->index_mask = (u64)(SOFT_TLB_SIZE - 1) << PAGE_SHIFT;
    return 0;
}

/* The clock neither stops nor jumps while vCPUs run. */
static enum vcpu_exit engine_run(struct vcpu *vcpu)
{
    struct translate_cpu *t = vcpu->engine_data;
    t->soft.tsc_inline = vclock_tsc_offset(&vcpu->vm->clock, &t->soft.clock_offset);
    fault_catcher = &t->catcher;
    windows_enter(&t->soft);
    enum vcpu_exit exit = interpret_engine_run(vcpu);
    fault_catcher = NULL;
    return exit;
}

static void engine_kick(struct vcpu *vcpu)
{
    struct translate_cpu *t = vcpu->engine_data;
    atomic_store(&t->soft.kick, 1);
}

const struct engine_ops translate_engine = {
    .name = "translate",
    .vm_init = translate_vm_init,
    .vm_release = translate_vm_release,
    .vcpu_init = engine_vcpu_init,
    .vcpu_release = engine_vcpu_release,
    .run = engine_run,
    .kick = engine_kick,
    .sync = interpret_engine_sync,
    .state_changed = interpret_engine_state_changed,
    .flush_tlb = interpret_engine_flush_tlb,
};
