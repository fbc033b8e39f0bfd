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

/* May @code, which was found for rip, run? A write that comes meanwhile is told of, or seen here. */
static bool make_current(struct translate_cpu *t, struct translation *code, u64 la)
{
    struct block *b = code->block;
    u64 page = (u64)(b->gen_now - t->soft.vcpu->vm->memory->page_gen);
    if (!block_usable(&t->soft, b, la))
        return false;
    if (code->link)
        return true;
    atomic_store(&t->watch.interest[page], 1);
    translation_restore(t, code, page);
    if (block_valid(b))
        return true;
    translation_make_stale(t, code);
    return false;
}

/* --- running --- */

/* Torture: some translations fail, and every so often a region goes. */
static bool refused(struct translate_cpu *t)
{
    const struct translate_options *o = &t->options;
    t->tries++;
    if (o->flush && t->tries % o->flush == 0)
        code_next_region(t);
    return o->fail && t->tries % o->fail == 0;
}

static bool hot(struct translate_cpu *t, const struct block *b)
{
    u8 *heat = block_heat(&t->soft, b->gpa, b->mode);
    if (*heat < t->options.threshold)
        ++*heat;
    return translatable(t, b) && *heat >= t->options.threshold && !refused(t);
}

/* Code for rip, or NULL and the block that is there. */
static struct translation *next_code(struct translate_cpu *t, struct block **b)
{
    struct soft_cpu *c = &t->soft;
    struct block_place at = block_place(c);
    struct translation *code = translation_find(t, at.gpa, c->mode);
    if (code && make_current(t, code, at.la))
        return code;
    *b = block_get(c, 0);
    if (!hot(t, *b))
        return NULL;
    if (!code_room(t))
        code_next_region(t);
    code = translate_block(t, *b);
    translation_enter(t, code);
    return make_current(t, code, at.la) ? code : NULL;
}

/* T6: from the exit by which the last run left straight to @code. */
static void link_left(struct translate_cpu *t, u32 number, struct translation *code)
{
    const struct translate_exit *x = &t->exits[number];
    if (!number)
        return;
    const struct block *from = translation_at(t, x->from)->block, *to = code->block;
    if ((from->gpa & PAGE_MASK) + x->off == to->gpa && from->mode == to->mode)
        exit_link(t, number, code);
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
        u32 evictions = t->evictions;
        struct block *cold;
        flags_publish(c, c->s); /* the fetch may raise */
        struct translation *code = next_code(t, &cold);
        if (code) {
            if (evictions == t->evictions)
                link_left(t, left_by, code);
            left_by = run_translated(t, code);
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
    t->soft.interpret->arena_size = TRANSLATE_COLD_ARENA;
    if (t->options.block_insns)
        t->soft.interpret->max_insns = MIN(t->options.block_insns, (u32)BLOCK_MAX_INSNS);
    vector_init(&t->soft);
    t->flags_killed = flags_probe();
    t->bmi2 = __builtin_cpu_supports("bmi2");
    t->page_mask = PAGE_MASK;
    t->index_mask = (u64)(SOFT_TLB_SIZE - 1) << PAGE_SHIFT;
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
