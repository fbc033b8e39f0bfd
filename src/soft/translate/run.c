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

/* What was found by linear address or for a mapping. */
static void forget_addresses(struct translate_cpu *t)
{
    memset(t->jump_cache, 0, sizeof t->jump_cache);
    for (u32 n = 0; n < t->slot_count; n++)
        t->slots[n].key = 0;
    t->soft.shadow_sp = t->soft.shadow_top;
    t->map_epoch = t->soft.map_epoch;
}

static u64 ram_pages(const struct translate_cpu *t)
{
    return t->soft.vcpu->vm->memory->ram_size >> PAGE_SHIFT;
}

/* Forgets all code. No block refers to it any more: they were dropped, too. */
static void reset(struct translate_cpu *t)
{
    forget_addresses(t);
    t->emit.at = t->after_thunks;
    t->arena_used = 0;
    t->exit_count = t->slot_count = 0;
    t->full = false;
    t->epoch = t->soft.interpret->epoch;
    t->soft.vcpu->counters.code_flushes++;
    for (unsigned n = 0; n < ARRAY_SIZE(t->code_cache); n++)
        t->code_cache[n].key = ~0ull;
    for (u64 page = 0; page < ram_pages(t); page++)
        if (atomic_load_explicit(&t->watch.interest[page], memory_order_relaxed)) {
            atomic_store(&t->watch.interest[page], 0);
            t->by_page[page] = NULL;
        }
}

static bool translatable(const struct translate_cpu *t, const struct block *b)
{
    return translate_mode(b->mode) && b != t->soft.interpret->scratch;
}

/* --- writes to code (T5) --- */

static void page_written(struct translate_cpu *t, u64 page)
{
    struct translation *next;
    for (struct translation *code = t->by_page[page]; code; code = next) {
        next = code->next;
        if (!block_valid(code->block))
            translation_make_stale(t, code);
    }
    if (!t->by_page[page])
        atomic_store(&t->watch.interest[page], 0);
}

static void serve_writes(struct translate_cpu *t)
{
    u64 pages[CODE_WATCH_PAGES];
    int count = memory_watch_take(t->soft.vcpu->vm->memory, &t->watch, pages);
    for (int n = 0; n < count; n++)
        page_written(t, pages[n]);
    if (count >= 0)
        return;
    for (u64 page = 0; page < ram_pages(t); page++)
        if (atomic_load_explicit(&t->watch.interest[page], memory_order_relaxed))
            page_written(t, page);
}

/* @b is what its page holds now: may its code run? A write that comes meanwhile is told of, or seen here. */
static bool make_current(struct translate_cpu *t, struct block *b)
{
    u64 page = (u64)(b->gen_now - t->soft.vcpu->vm->memory->page_gen);
    if (b->code->link)
        return true;
    atomic_store(&t->watch.interest[page], 1);
    translation_restore(t, b->code, page);
    if (block_valid(b))
        return true;
    translation_make_stale(t, b->code);
    return false;
}

/* --- running --- */

static void link_to(struct translate_cpu *t, u32 number, struct translation *code)
{
    t->soft.vcpu->counters.links++;
    struct translate_exit *x = &t->exits[number];
    emit_set_target(x->patch, code->entry[x->entry]);
    x->next = code->links;
    code->links = number;
}

/* T6: what leads to @from, whose bytes are gone, leads to @to. */
static void move_links(struct translate_cpu *t, struct translation *from, struct translation *to)
{
    u32 next;
    for (u32 n = from->links; n; n = next) {
        next = t->exits[n].next;
        link_to(t, n, to);
    }
    from->links = 0;
}

/* Torture: some translations fail, and every so often all code goes. */
static bool refused(struct translate_cpu *t)
{
    const struct translate_options *o = &t->options;
    t->tries++;
    if (o->flush && t->tries % o->flush == 0)
        t->full = true;
    return o->fail && t->tries % o->fail == 0;
}

/* The block at rip; all blocks and code are dropped before when there is no room for more code. */
static struct block *next_block(struct translate_cpu *t)
{
    struct soft_cpu *c = &t->soft;
    if (t->full)
        block_cache_flush(c);
    struct block *b = block_get(c, 0);
    if (t->epoch != c->interpret->epoch)
        reset(t);
    if (!b->code && translatable(t, b) && ++b->heat >= t->options.threshold && !refused(t)) {
        translate_block(t, b);
        if (b->code && b->old_code) {
            move_links(t, b->old_code, b->code);
            b->old_code = NULL;
        }
    }
    return b;
}

/* T6: from the exit by which the last run left straight to @b. */
static void link_exit(struct translate_cpu *t, u32 number, const struct block *b)
{
    const struct translate_exit *x = &t->exits[number];
    if (number && x->gpa == b->gpa && x->mode == b->mode)
        link_to(t, number, b->code);
}

/* T8: the block was found good for the mapping of both pages. */
static void note_second_page(struct translate_cpu *t, const struct translation *code)
{
    struct soft_cpu *c = &t->soft;
    u64 page = c->s->rip & PAGE_MASK;
    soft_note_executed(c, page + PAGE_SIZE);
    t->slots[code->slot].key = page + c->map_key;
}

/* Where code is looked for: the emitted lookups do the same (emit_cache_index(), emit_lookup()). */
static struct jump_cache_entry *jump_cache_entry(struct translate_cpu *t, u64 la)
{
    return &t->jump_cache[(la ^ (u32)la >> 12) >> 2 & (ARRAY_SIZE(t->jump_cache) - 1)];
}

static struct code_cache_entry *code_cache_entry(struct translate_cpu *t, u64 key)
{
    return &t->code_cache[(key ^ key >> 12) & (ARRAY_SIZE(t->code_cache) - 1)];
}

/* T7: the block will be found by the address that it has now. */
static void note_address(struct translate_cpu *t, const struct block *b)
{
    struct soft_cpu *c = &t->soft;
    u64 rip = c->s->rip, key = b->gpa ^ c->mode_key;
    void *code = translation_entry(t, b->code, ENTRY_SAVED_CHECKED);
    soft_note_executed(c, rip);
    if (b->gpa2 != BLOCK_NO_PAGE)
        note_second_page(t, b->code);
    *code_cache_entry(t, key) = (struct code_cache_entry){key, code};
    *jump_cache_entry(t, rip) = (struct jump_cache_entry){rip, c->map_key, code, 0};
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

static u32 run_translated(struct translate_cpu *t, struct block *b)
{
    struct soft_cpu *c = &t->soft;
    note_address(t, b);
    if (unlikely(t->map_epoch != c->map_epoch))
        forget_addresses(t);
    c->page_rip = c->s->rip & PAGE_MASK;
    c->vcpu->counters.blocks_run++;
    u32 left_by;
    if (t->lockstep && lockstep_run(t, b, &left_by))
        return left_by;
    left_by = t->thunk.enter(c, translation_entry(t, b->code, ENTRY_SAVED));
    translate_cut_rip(c);
    count_exit(c, left_by);
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
    if (atomic_load_explicit(&c->kick, memory_order_relaxed) && atomic_exchange(&c->kick, 0))
        serve_writes(t);
    if (!first && c->stop_block)
        return false;
    if (likely(!(vcpu_requests(c->vcpu) & c->wanted)))
        return true;
    atomic_store(&c->kick, 1);
    return first;
}

static void run_blocks(struct soft_cpu *c)
{
    struct translate_cpu *t = of(c);
    u32 left_by = 0;
    c->mode_key = (u64)c->mode << 52;
    for (bool first = true; go_on(t, first); first = false) {
        u32 epoch = t->epoch;
        flags_publish(c, c->s); /* the fetch may raise */
        struct block *b = next_block(t);
        if (b->code && make_current(t, b)) {
            if (epoch == t->epoch)
                link_exit(t, left_by, b);
            left_by = run_translated(t, b);
        } else {
            run_interpreted(c, b);
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
    lockstep_release(t);
    interpret_detach(&t->soft);
    soft_cpu_release(&t->soft);
    munmap(t, sizeof *t);
    vcpu->engine_data = NULL;
}

static int engine_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    struct translate_cpu *t =
        mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t == MAP_FAILED)
        return error_set(err, ENOMEM, "no memory for vCPU %u", vcpu->index);
    int rc = translate_read_options(&t->options, err);
    if (rc == 0)
        rc = soft_cpu_init(&t->soft, vcpu, err);
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
    if (t->options.block_insns)
        t->soft.interpret->max_insns = MIN(t->options.block_insns, (u32)BLOCK_MAX_INSNS);
    vector_init(&t->soft);
    t->flags_killed = flags_probe();
    t->bmi2 = __builtin_cpu_supports("bmi2");
    t->page_mask = PAGE_MASK;
    t->index_mask = (u64)(SOFT_TLB_SIZE - 1) << PAGE_SHIFT;
    reset(t);
    return 0;
}

/* The clock neither stops nor jumps while vCPUs run. */
static enum vcpu_exit engine_run(struct vcpu *vcpu)
{
    struct translate_cpu *t = vcpu->engine_data;
    t->soft.tsc_inline = vclock_tsc_offset(&vcpu->vm->clock, &t->soft.clock_offset);
    return interpret_engine_run(vcpu);
}

static void engine_kick(struct vcpu *vcpu)
{
    struct translate_cpu *t = vcpu->engine_data;
    atomic_store(&t->soft.kick, 1);
}

const struct engine_ops translate_engine = {
    .name = "translate",
    .vm_init = interpret_engine_vm_init,
    .vm_release = interpret_engine_vm_release,
    .vcpu_init = engine_vcpu_init,
    .vcpu_release = engine_vcpu_release,
    .run = engine_run,
    .kick = engine_kick,
    .sync = interpret_engine_sync,
    .state_changed = interpret_engine_state_changed,
    .flush_tlb = interpret_engine_flush_tlb,
};
