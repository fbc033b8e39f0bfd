/*
 * The engine: runs blocks, one after the other, until somebody wants something else.
 *
 * Two loops. The inner one (run_blocks) goes from block to block with as little as possible in between; it
 * is left when a request is pending or a handler set stop_block. The outer one (run) looks at everything
 * that may be due between two instructions: requests, exceptions, interrupts, shadows, single steps,
 * breakpoints. A fault arrives there by longjmp.
 *
 * Links. The insn that ended a block remembers the block that came next (insn.link). The link is followed
 * when that block is still valid and is at the physical address to which rip leads now; for direct
 * branches within a page the latter is known.
 */
#include <errno.h>

#include "base/log.h"
#include "soft/interpret/interpret-internal.h"

/* --- between blocks --- */

/* May the block after @exit be @b without a look into the hash? @base: of CS, @mask: width of addresses. */
static ALWAYS_INLINE bool link_holds(struct soft_cpu *c, const struct insn *exit, const struct block *b,
                                     u64 base, u64 mask)
{
    if (!b || !block_valid(b))
        return false;
    if (exit->flags & INSN_NEAR_SAME)
        return true;
    u64 la = (base + c->s->rip) & mask;
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    return e->exec == ((la & PAGE_MASK) | c->ctx) && ((e->gpa & PAGE_MASK) | (la & ~PAGE_MASK)) == b->gpa;
}

/* Runs blocks in the current mode until a wanted request or stop_block. Raises. */
static void run_blocks(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    struct vcpu *vcpu = c->vcpu;
    bool code64 = c->mode & SOFT_MODE_CODE64;
    u64 base = code64 ? 0 : s->seg[X86_CS].base, mask = code64 ? ~0ull : 0xffffffffull;
    struct block *b = block_get(c, 0);
    for (;;) {
        c->block_rip = s->rip;
        struct insn *exit = b->insn[0].fn(c, b->insn, s, 0);
        c->cur = NULL;
        vcpu->counters.blocks_run++;
        vcpu->counters.insns += exit->count;
        if (unlikely(c->stop_block || (vcpu_requests(vcpu) & c->wanted)))
            return;
        struct block *next = exit->flags & INSN_BRANCH ? exit->link : NULL;
        if (likely(link_holds(c, exit, next, base, mask))) {
            b = next;
            continue;
        }
        u32 epoch = c->interpret->epoch;
        flags_publish(c, s); /* the fetch may raise */
        b = block_get(c, 0);
        if ((exit->flags & INSN_BRANCH) && epoch == c->interpret->epoch && b->gpa2 == BLOCK_NO_PAGE)
            exit->link = b;
    }
}

void interpret_single(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    u8 shadow = s->int_shadow;
    bool step = s->rflags & X86_TF;
    c->insn_rip = s->rip;
    if (trace_on(exec))
        decode_trace(c);
    if (soft_breakpoints_armed(c)) {
        soft_check_code_breakpoint(c,
                                   c->mode & SOFT_MODE_CODE64 ? s->rip : (u32)(s->seg[X86_CS].base + s->rip));
        state_adopt(c, s);
    }
    struct block *b = block_get(c, BLOCK_SINGLE);
    c->block_rip = s->rip;
    b->insn[0].fn(c, b->insn, s, 0);
    c->cur = NULL;
    flags_publish(c, s);
    c->vcpu->counters.insns++;
    soft_shadow_done(c, shadow);
    if (step)
        soft_step_done(c);
}

/* --- the outer loop --- */

/* After a longjmp: rule 3 of interpret-internal.h. */
void interpret_settle_fault(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    if (c->cur) {
        s->rip = insn_rip(c, c->cur);
        flags_publish(c, s);
        if (s->exception_vector == X86_GP && c->not_canonical && c->cur->seg == X86_SS &&
            (c->mode & SOFT_MODE_CODE64))
            s->exception_vector = X86_SS_;
        c->vcpu->counters.insns += c->cur->count;
        c->cur = NULL;
    }
    s->int_shadow = 0;
    if (c->interpret->exclusive)
        locked_end(c);
}

/* What can be done at once between two instructions; true when something was delivered. */
static bool serve_events(struct soft_cpu *c)
{
    u32 requests = vcpu_requests(c->vcpu);
    if (likely(!requests && !c->s->pending_db && !c->s->nmi_pending))
        return false;
    return soft_poll_events(c);
}

/* With interrupts disabled a pending one is no reason to leave the inner loop. */
static u32 wanted_requests(const struct soft_cpu *c)
{
    u32 wanted = VCPU_REQ_LEAVE | VCPU_REQ_NMI | VCPU_REQ_FLUSH_TLB;
    return c->s->rflags & X86_IF ? wanted | VCPU_REQ_INTERRUPT : wanted;
}

static bool one_by_one(const struct soft_cpu *c)
{
    return c->s->int_shadow || (c->s->rflags & X86_TF) || soft_breakpoints_armed(c) || trace_on(exec);
}

bool interpret_must_stop(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    c->wanted = wanted_requests(c);
    return (vcpu_requests(c->vcpu) & c->wanted) || s->exception_pending || s->pending_db || s->nmi_pending ||
           s->mp_state != VCPU_MP_RUNNABLE || one_by_one(c);
}

/* Stepping ends when it is done; only within a long repeat it heeds a request. */
static bool must_leave(const struct soft_cpu *c, const unsigned *steps)
{
    bool asked = vcpu_requests(c->vcpu) & VCPU_REQ_LEAVE;
    return steps ? !*steps || (c->interpret->repeating && asked) : asked;
}

/*
 * Runs until a request to leave, a halt or the end. @steps: NULL, or how many instructions or deliveries are
 * left to do.
 */
static enum vcpu_exit run(struct soft_cpu *c, unsigned *steps)
{
    struct x86_state *s = c->s;
    if (setjmp(c->fault)) {
        interpret_settle_fault(c);
        if (steps && *steps)
            --*steps;
    }
    if (unlikely(s->interrupt_pending)) /* only what another engine left behind */
        soft_deliver_interrupt(c);
    for (;;) {
        c->stop_block = false;
        if (unlikely(s->exception_pending) && !soft_deliver_exception(c))
            return VCPU_EXIT_TRIPLE_FAULT;
        if (must_leave(c, steps))
            return VCPU_EXIT_REQUEST;
        if (serve_events(c)) {
            if (steps)
                --*steps;
            continue;
        }
        if (s->mp_state == VCPU_MP_HALTED)
            return VCPU_EXIT_HALT;
        c->wanted = wanted_requests(c);
        state_adopt(c, s);
        if (unlikely(steps || one_by_one(c))) {
            c->interpret->repeating = false;
            interpret_single(c);
            if (steps && !c->interpret->repeating)
                --*steps;
        } else {
            c->interpret->run_blocks(c);
            flags_publish(c, s);
        }
    }
}

enum vcpu_exit interpret_step(struct soft_cpu *c, unsigned count)
{
    c->interpret->repeating = false;
    return run(c, &count);
}

/* --- set-up --- */

int interpret_attach(struct soft_cpu *c, struct error *err)
{
    struct interpret_private *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ENOMEM, "no memory for the interpreter");
    c->interpret = p;
    p->run_blocks = run_blocks;
    p->max_insns = BLOCK_MAX_INSNS;
    c->cur = NULL;
    const struct cpuid_table *cpuid = c->vcpu->vm->cpuid;
    decode_init(p, cpuid);
    int rc = block_cache_init(p, err);
    if (rc == 0) {
        p->native = native_cache_new(cpuid, err);
        rc = p->native ? 0 : -ENOMEM;
    }
    if (rc != 0)
        interpret_detach(c);
    return rc;
}

void interpret_detach(struct soft_cpu *c)
{
    struct interpret_private *p = c->interpret;
    if (!p)
        return;
    if (p->native)
        native_cache_free(p->native);
    block_cache_release(p);
    free(p);
    c->interpret = NULL;
}

/* --- the engine --- */

int interpret_engine_vm_init(struct vm *vm, struct error *err)
{
    return native_install_signals(err);
}

void interpret_engine_vm_release(struct vm *vm) {}

static int engine_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    struct soft_cpu *c = aligned_alloc(64, ALIGN_UP(sizeof *c, 64));
    if (!c)
        return error_set(err, ENOMEM, "no memory for vCPU %u", vcpu->index);
    memset(c, 0, sizeof *c);
    int rc = soft_cpu_init(c, vcpu, err);
    if (rc != 0) {
        free(c);
        return rc;
    }
    rc = interpret_attach(c, err);
    if (rc != 0) {
        soft_cpu_release(c);
        free(c);
        return rc;
    }
    vcpu->engine_data = c;
    return 0;
}

static void engine_vcpu_release(struct vcpu *vcpu)
{
    struct soft_cpu *c = vcpu->engine_data;
    if (!c)
        return;
    interpret_detach(c);
    soft_cpu_release(c);
    free(c);
    vcpu->engine_data = NULL;
}

enum vcpu_exit interpret_engine_run(struct vcpu *vcpu)
{
    return run(vcpu->engine_data, NULL);
}

/* Requests are polled at each block, and the state is whole whenever run() is not executing. */
void interpret_engine_kick(struct vcpu *vcpu) {}

void interpret_engine_sync(struct vcpu *vcpu) {}

void interpret_engine_state_changed(struct vcpu *vcpu)
{
    struct soft_cpu *c = vcpu->engine_data;
    soft_tlb_flush_all(c, true);
    soft_mode_changed(c);
}

void interpret_engine_flush_tlb(struct vcpu *vcpu)
{
    soft_tlb_flush_all(vcpu->engine_data, true);
}

const struct engine_ops interpret_engine = {
    .name = "interpret",
    .vm_init = interpret_engine_vm_init,
    .vm_release = interpret_engine_vm_release,
    .vcpu_init = engine_vcpu_init,
    .vcpu_release = engine_vcpu_release,
    .run = interpret_engine_run,
    .kick = interpret_engine_kick,
    .sync = interpret_engine_sync,
    .state_changed = interpret_engine_state_changed,
    .flush_tlb = interpret_engine_flush_tlb,
};
