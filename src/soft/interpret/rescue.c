/*
 * The interpreter in the service of an engine that met an instruction it cannot do. RAM and state change
 * behind its back between two steps, so nothing is cached: blocks are decoded anew each time, and no page
 * is marked as code.
 */
#include <errno.h>
#include <stdlib.h>

#include "soft/interpret/interpret-internal.h"

static void *attach(struct vcpu *vcpu, struct error *err)
{
    if (native_install_signals(err) != 0)
        return NULL;
    struct soft_cpu *c = aligned_alloc(64, ALIGN_UP(sizeof *c, 64));
    if (!c) {
        error_set(err, ENOMEM, "no memory for the interpreter of vCPU %u", vcpu->index);
        return NULL;
    }
    memset(c, 0, sizeof *c);
    if (soft_cpu_init(c, vcpu, err) != 0) {
        free(c);
        return NULL;
    }
    if (interpret_attach(c, err) != 0) {
        soft_cpu_release(c);
        free(c);
        return NULL;
    }
    c->interpret->uncached = true;
    return c;
}

static void detach(void *rescue)
{
    struct soft_cpu *c = rescue;
    interpret_detach(c);
    soft_cpu_release(c);
    free(c);
}

/* For --stats. */
static void count_instruction(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    struct x86_state before = *s;
    if (s->exception_pending)
        return;
    c->insn_rip = s->rip;
    if (setjmp(c->fault) == 0)
        tally_count(&c->vcpu->rescued, decode_mnemonic(c), 1);
    else
        *s = before; /* it cannot be fetched; run() will find that out */
    soft_mode_changed(c);
}

/*
 * A KVM that has no page tables of the second level shadows the guest's, and write-protects them to see them
 * change. It would not see us. (Entries that become present it finds by itself, and accessed bits it need not
 * know.)
 */
static bool should_be_seen(struct soft_cpu *c)
{
    struct x86_state *s = c->s, before = *s;
    volatile bool seen = true;
    if (s->exception_pending)
        return false;
    c->insn_rip = s->rip;
    if (setjmp(c->fault) == 0)
        seen = decode_touches_memory(c);
    else
        *s = before; /* KVM finds out as well */
    soft_mode_changed(c);
    return seen;
}

static bool is_for_the_engine(struct soft_cpu *c)
{
    return (vcpu_requests(c->vcpu) & VCPU_REQ_LEAVE) || x86_cpl(c->s) == 3 || should_be_seen(c);
}

/* The first @first are executed whatever they are. */
static enum vcpu_exit step_watched(struct soft_cpu *c, unsigned first, unsigned count, bool *missed)
{
    enum vcpu_exit why = VCPU_EXIT_REQUEST;
    for (unsigned done = 0; why == VCPU_EXIT_REQUEST && done < MAX(count, first); done++) {
        if (done < first)
            *missed |= should_be_seen(c);
        else if (is_for_the_engine(c))
            break;
        why = interpret_step(c, 1);
    }
    return why;
}

static enum vcpu_exit step(void *rescue, unsigned count, bool *missed)
{
    struct soft_cpu *c = rescue;
    soft_tlb_flush_all(c, true);
    soft_mode_changed(c);
    unsigned first = soft_take_back(c) ? 2 : 1; /* not to stand there again, if it was right after all */
    count_instruction(c);
    return missed ? step_watched(c, first, count, missed) : interpret_step(c, MAX(count, first));
}

const struct rescue_ops interpret_rescue = {.attach = attach, .detach = detach, .step = step};
