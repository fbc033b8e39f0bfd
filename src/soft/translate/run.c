/*
 * The engine: the interpreter's run loop with another way to run blocks. Whatever is no 64-bit code, or not
 * hot yet, the interpreter executes (T8).
 */
#include <errno.h>

#include "base/log.h"
#include "soft/translate/translate-internal.h"

static struct translate_cpu *of(struct soft_cpu *c)
{
    return container_of(c, struct translate_cpu, soft);
}

/* Forgets all code. No block refers to it any more: they were dropped, too. */
static void reset(struct translate_cpu *t)
{
    t->emit.at = t->after_thunks;
    t->arena_used = 0;
    t->exit_count = 0;
    t->full = false;
    t->epoch = t->soft.interpret->epoch;
    for (unsigned n = 0; n < ARRAY_SIZE(t->jump_cache); n++)
        t->jump_cache[n].key = ~0ull;
}

static bool translatable(const struct translate_cpu *t, const struct block *b)
{
    return (b->mode & SOFT_MODE_CODE64) && b->gpa2 == BLOCK_NO_PAGE && b != t->soft.interpret->scratch;
}

static void set_generation(struct translation *code, u32 gen)
{
    u32 negated = -gen;
    memcpy(code->gen_in_entry, &negated, 4);
    memcpy(code->gen_in_check, &gen, 4);
    code->gen = gen;
}

static void link_to(struct translate_cpu *t, u32 number, struct translation *code)
{
    struct translate_exit *x = &t->exits[number];
    emit_set_target(x->patch, (u8 *)code->entry - t->emit.to_exec);
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

static u32 run_translated(struct translate_cpu *t, struct block *b)
{
    struct soft_cpu *c = &t->soft;
    u64 key = b->gpa ^ c->mode_key;
    if (b->code->gen != b->gen)
        set_generation(b->code, b->gen);
    t->jump_cache[(key ^ key >> 12) & (ARRAY_SIZE(t->jump_cache) - 1)] =
        (struct jump_cache_entry){key, b->code->entry};
    c->page_rip = c->s->rip & PAGE_MASK;
    c->vcpu->counters.blocks_run++;
    u32 left_by;
    if (t->lockstep && lockstep_run(t, b, &left_by))
        return left_by;
    return t->thunk.enter(c, b->code->entry);
}

static void run_interpreted(struct soft_cpu *c, struct block *b)
{
    c->block_rip = c->s->rip;
    struct insn *exit = b->insn[0].fn(c, b->insn, c->s, 0);
    c->cur = NULL;
    c->vcpu->counters.blocks_run++;
    c->vcpu->counters.insns += exit->count;
}

static void run_blocks(struct soft_cpu *c)
{
    struct translate_cpu *t = of(c);
    struct vcpu *vcpu = c->vcpu;
    u32 left_by = 0;
    c->mode_key = (u64)c->mode << 52;
    do {
        u32 epoch = t->epoch;
        flags_publish(c, c->s); /* the fetch may raise */
        struct block *b = next_block(t);
        if (b->code) {
            if (epoch == t->epoch)
                link_exit(t, left_by, b);
            left_by = run_translated(t, b);
        } else {
            run_interpreted(c, b);
            left_by = 0;
        }
    } while (likely(!c->stop_block && !(vcpu_requests(vcpu) & c->wanted)));
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
    free(t);
    vcpu->engine_data = NULL;
}

static int engine_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    struct translate_cpu *t = aligned_alloc(64, ALIGN_UP(sizeof *t, 64));
    if (!t)
        return error_set(err, ENOMEM, "no memory for vCPU %u", vcpu->index);
    memset(t, 0, sizeof *t);
    int rc = translate_read_options(&t->options, err);
    if (rc == 0)
        rc = soft_cpu_init(&t->soft, vcpu, err);
    if (rc != 0) {
        free(t);
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

const struct engine_ops translate_engine = {
    .name = "translate",
    .vm_init = interpret_engine_vm_init,
    .vm_release = interpret_engine_vm_release,
    .vcpu_init = engine_vcpu_init,
    .vcpu_release = engine_vcpu_release,
    .run = engine_run,
    .kick = interpret_engine_kick,
    .sync = interpret_engine_sync,
    .state_changed = interpret_engine_state_changed,
    .flush_tlb = interpret_engine_flush_tlb,
};
