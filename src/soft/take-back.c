/*
 * A second opinion on exceptions. There are KVMs that emulate, and give the guest #UD or #GP for an
 * instruction that they only do not know. In 64-bit mode nothing is lost by such a delivery: the frame has
 * what IRET needs. So when a vCPU comes here at the first instruction of the handler of one of these
 * vectors, the delivery is taken back and the instruction executed again; when it deserves its exception
 * it gets it a second time.
 *
 * And some leave SYSCALL half done: RCX, R11 and RIP are as they should be, CPL is not, and so the first
 * thing to happen is a page fault, since a user may not fetch from there. SYSCALL is executed again.
 *
 * What cannot be told from a delivery is a jump to the handler with a frame made by hand. It is executed as
 * if the handler returned at once.
 */
#include "base/log.h"
#include "soft/soft.h"
#include "soft/system-internal.h"

#define SYSCALL_LENGTH 2
#define SYSCALL_FLAGS (X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_AC | X86_ID)

static const struct {
    u8 vector;
    bool has_error;
} doubtful[] = {{X86_UD, false}, {X86_GP, true}, {X86_PF_, true}};

/* Raises. */
static bool at_handler(struct soft_cpu *c, u8 vector)
{
    const struct x86_state *s = c->s;
    struct descriptor gate = {.la = s->idt.base + vector * 16u};
    if (vector * 16u + 15 > s->idt.limit)
        return false;
    gate.low = soft_sys_read(c, gate.la, 8);
    gate.high = soft_sys_read(c, gate.la + 8, 8);
    return desc_type(&gate) == DESC_INT && desc_present(&gate) && gate_offset(&gate, true) == s->rip &&
           !(s->rflags & X86_IF);
}

/* The page fault that follows half a SYSCALL. Raises. */
static bool syscall_faulted(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    u64 frame = s->gpr[X86_RSP];
    return (s->efer & X86_EFER_SCE) && s->cr2 == s->lstar && soft_sys_read(c, frame + 8, 8) == s->lstar &&
           (soft_sys_read(c, frame + 16, 8) & SELECTOR_RPL) == 3;
}

/* IRET as the handler would do it. Raises. */
static bool undo(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    for (unsigned i = 0; i < ARRAY_SIZE(doubtful); i++) {
        bool page_fault = doubtful[i].vector == X86_PF_;
        if (!at_handler(c, doubtful[i].vector) || (page_fault && !syscall_faulted(c)))
            continue;
        u8 nmi_blocked = s->nmi_blocked;
        s->gpr[X86_RSP] += doubtful[i].has_error ? 8 : 0;
        soft_iret(c, 8);
        s->nmi_blocked = nmi_blocked;
        if (page_fault) {
            s->rip = s->gpr[X86_RCX] - SYSCALL_LENGTH;
            s->rflags = (s->gpr[X86_R11] & SYSCALL_FLAGS) | X86_FLAG1;
        }
        s->rflags &= ~X86_RF;
        trace(exc, "cpu%u: vector %u is taken back, rip 0x%llx", c->vcpu->index, doubtful[i].vector,
              (unsigned long long)s->rip);
        return true;
    }
    return false;
}

bool soft_take_back(struct soft_cpu *c)
{
    struct x86_state *s = c->s, before = *s;
    volatile bool done = false; /* read after a longjmp */
    jmp_buf outer;
    if (!x86_code64(s) || c->cpl != 0 || s->exception_pending)
        return false;
    memcpy(&outer, &c->fault, sizeof outer);
    c->insn_rip = s->rip;
    if (setjmp(c->fault) == 0)
        done = undo(c);
    else
        *s = before;
    memcpy(&c->fault, &outer, sizeof outer);
    soft_mode_changed(c);
    return done;
}
