/*
 * Delivery of interrupts and exceptions (SDM vol. 3, chapter 6).
 *
 * 1. Delivery gathers descriptors and writes the frame to the new stack first; registers change
 *    after the last thing that may raise.
 * 2. While it lasts, c->ext tells whether error codes get the EXT bit.
 * 3. soft_deliver_exception() and soft_poll_events() run outside an instruction: they set
 *    c->insn_rip, so that a fault during delivery leaves rip alone, and catch that fault themselves.
 */
#include "base/log.h"
#include "soft/system-internal.h"
#include "soft/window.h"

/* What is being delivered. */
struct event {
    u8 vector;
    enum soft_int_kind kind;
    bool has_error;
    u32 error;
};

/* The code segment and entry point that a gate leads to. */
struct target {
    struct descriptor code;
    u16 selector;
    u64 rip;
    unsigned cpl; /* of the handler */
    bool inner;   /* more privileged than now: the stack changes */
    bool trap;    /* IF stays */
    bool gate16;
    unsigned ist;
};

static bool is_software(enum soft_int_kind kind)
{
    return kind == SOFT_INT_SOFTWARE || kind == SOFT_INT_INT3 || kind == SOFT_INT_INTO;
}

/* Error code of a fault in the IDT entry itself. */
static u32 idt_error(u8 vector)
{
    return vector * 8u + 2;
}

/*
 * RF in the flags image: set by faults, so that an instruction breakpoint does not hit twice (SDM
 * vol. 3, 18.3.1.1); #DB (whose faults are breakpoints), #DF and #MC push it as it is.
 */
static u64 flags_image(const struct soft_cpu *c, const struct event *ev)
{
    u64 flags = c->s->rflags;
    bool fault = ev->kind == SOFT_INT_EXCEPTION && ev->vector != X86_DB && ev->vector != X86_DF_ &&
                 ev->vector != X86_MC && ev->vector != X86_NMI;
    return fault ? flags | X86_RF : flags;
}

static void clear_flags(struct soft_cpu *c, u64 clear)
{
    c->s->rflags &= ~clear;
}

/* --- real mode, and virtual-8086 mode with redirection --- */

/* Through the vector at @ivt, with 16-bit frames; @flags is the image to push. */
static void enter_8086(struct soft_cpu *c, u64 ivt, u8 vector, u64 flags)
{
    struct x86_state *s = c->s;
    struct stack st;
    u32 entry = (u32)soft_sys_read(c, ivt + vector * 4u, 4);
    stack_current(c, &st);
    stack_push(c, &st, flags, 2);
    stack_push(c, &st, s->seg[X86_CS].selector, 2);
    stack_push(c, &st, s->rip, 2);
    stack_commit(c, &st);
    s->seg[X86_CS] = real_segment(&s->seg[X86_CS], (u16)(entry >> 16), true, x86_v8086(s));
    s->rip = entry & 0xffff;
}

static void deliver_real(struct soft_cpu *c, const struct event *ev)
{
    if (ev->vector * 4u + 3 > c->s->idt.limit)
        soft_raise_err(c, X86_GP, idt_error(ev->vector));
    enter_8086(c, c->s->idt.base, ev->vector, c->s->rflags);
    clear_flags(c, X86_IF | X86_TF | X86_AC | X86_RF);
}

/* The bit of @vector in the interrupt redirection bitmap, the 32 bytes below the I/O bitmap. */
static bool redirected_to_8086(struct soft_cpu *c, u8 vector)
{
    const struct x86_segment *tr = &c->s->tr;
    if (tr->limit < 103)
        soft_gp0(c);
    u32 map = (u32)soft_sys_read(c, tr->base + 102, 2);
    if (map < 32 || map - 32 + vector / 8 > tr->limit)
        soft_gp0(c);
    u8 byte = (u8)soft_sys_read(c, tr->base + map - 32 + vector / 8, 1);
    return !(byte & BIT(vector % 8));
}

/* INT n in virtual-8086 mode (SDM vol. 3, 21.3). True when it was delivered to the 8086 program itself. */
static bool deliver_v86_int(struct soft_cpu *c, const struct event *ev)
{
    struct x86_state *s = c->s;
    bool iopl3 = (s->rflags & X86_IOPL) == X86_IOPL;
    if (!(s->cr4 & X86_CR4_VME) || !redirected_to_8086(c, ev->vector)) {
        if (!iopl3)
            soft_gp0(c);
        return false;
    }
    u64 flags = s->rflags;
    if (!iopl3) { /* the program sees VIF in place of IF, and IOPL 3 */
        flags = (flags & ~X86_IF) | X86_IOPL;
        if (s->rflags & X86_VIF)
            flags |= X86_IF;
    }
    enter_8086(c, 0, ev->vector, flags);
    clear_flags(c, X86_TF | X86_RF | (iopl3 ? X86_IF : X86_VIF));
    return true;
}

/* --- protected and long mode --- */

static void read_gate(struct soft_cpu *c, const struct event *ev, struct descriptor *gate)
{
    const struct x86_state *s = c->s;
    bool wide = x86_long_mode(s);
    unsigned size = wide ? 16 : 8;
    if (ev->vector * size + size - 1 > s->idt.limit)
        soft_raise_err(c, X86_GP, idt_error(ev->vector));
    gate->la = s->idt.base + ev->vector * size;
    gate->low = soft_sys_read(c, gate->la, 8);
    gate->high = wide ? soft_sys_read(c, gate->la + 8, 8) : 0;

    unsigned type = desc_type(gate);
    bool valid = type == DESC_INT || type == DESC_TRAP;
    if (!wide)
        valid |= type == DESC_INT16 || type == DESC_TRAP16 || type == DESC_TASK_GATE;
    if (!valid || (is_software(ev->kind) && desc_dpl(gate) < c->cpl))
        soft_raise_err(c, X86_GP, idt_error(ev->vector));
    if (!desc_present(gate))
        soft_raise_err(c, X86_NP, idt_error(ev->vector));
}

static void read_target(struct soft_cpu *c, const struct descriptor *gate, struct target *t)
{
    struct descriptor *code = &t->code;
    bool wide = x86_long_mode(c->s);
    unsigned type = desc_type(gate);
    t->selector = gate_selector(gate);
    t->gate16 = type == DESC_INT16 || type == DESC_TRAP16;
    t->trap = type == DESC_TRAP || type == DESC_TRAP16;
    t->rip = gate_offset(gate, !t->gate16);
    t->ist = wide ? (gate->low >> 32) & 7 : 0;

    desc_fetch(c, t->selector, code, X86_GP);
    if (!desc_is_code(code) || desc_dpl(code) > c->cpl)
        desc_fault(c, X86_GP, t->selector);
    if (wide && (!desc_is_code64(code) || (desc_attr(code) & X86_ATTR_DB)))
        desc_fault(c, X86_GP, t->selector);
    if (!desc_present(code))
        desc_fault(c, X86_NP, t->selector);
    t->inner = !desc_is_conforming(code) && desc_dpl(code) < c->cpl;
    t->cpl = t->inner ? desc_dpl(code) : c->cpl;
    if (x86_v8086(c->s) && (!t->inner || t->cpl != 0))
        desc_fault(c, X86_GP, t->selector);
    check_code_target(c, code, t->rip);
}

static void choose_stack(struct soft_cpu *c, const struct target *t, struct stack *st)
{
    if (t->inner)
        stack_inner(c, t->cpl, st);
    else
        stack_current(c, st);
    if (!x86_long_mode(c->s))
        return;
    if (t->ist)
        st->rsp = stack_tss64(c, 3 + t->ist);
    st->width = 8;
    st->rsp &= ~0xfull;
    /* The frame is written with the handler's privilege; AC does not lift SMAP for it. */
    st->cls = mmu_class_of_cpl(t->cpl);
}

static void push_frame(struct soft_cpu *c, const struct event *ev, const struct target *t, struct stack *st)
{
    static const u8 v86_order[] = {X86_GS, X86_FS, X86_DS, X86_ES};
    const struct x86_state *s = c->s;
    bool wide = x86_long_mode(s);
    unsigned size = wide ? 8 : t->gate16 ? 2 : 4;
    if (x86_v8086(s)) {
        for (unsigned i = 0; i < ARRAY_SIZE(v86_order); i++)
            stack_push(c, st, s->seg[v86_order[i]].selector, size);
    }
    if (t->inner || wide) {
        stack_push(c, st, s->seg[X86_SS].selector, size);
        stack_push(c, st, s->gpr[X86_RSP], size);
    }
    stack_push(c, st, flags_image(c, ev), size);
    stack_push(c, st, s->seg[X86_CS].selector, size);
    stack_push(c, st, s->rip, size);
    if (ev->has_error)
        stack_push(c, st, ev->error, size);
}

static void deliver_protected(struct soft_cpu *c, const struct event *ev)
{
    struct x86_state *s = c->s;
    struct descriptor gate;
    struct target t;
    struct stack st;
    read_gate(c, ev, &gate);
    if (desc_type(&gate) == DESC_TASK_GATE) {
        soft_task_switch(c, gate_selector(&gate), SOFT_TASK_GATE, ev->has_error, ev->error);
        return;
    }
    read_target(c, &gate, &t);
    choose_stack(c, &t, &st);
    push_frame(c, ev, &t, &st);
    desc_mark_accessed(c, &t.code);

    if (x86_v8086(s)) {
        static const u8 data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
        for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
            s->seg[data[i]] = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    }
    stack_commit(c, &st);
    s->seg[X86_CS] = desc_segment(&t.code, (u16)((t.selector & ~SELECTOR_RPL) | t.cpl));
    s->rip = t.rip;
    clear_flags(c, X86_TF | X86_NT | X86_RF | X86_VM | (t.trap ? 0 : X86_IF));
}

void soft_interrupt(struct soft_cpu *c, u8 vector, enum soft_int_kind kind, bool has_error, u32 error)
{
    struct x86_state *s = c->s;
    struct event ev = {.vector = vector, .kind = kind, .has_error = has_error, .error = error};
    trace(exc, "cpu%u: deliver vector %u kind %d error 0x%x at 0x%llx cpl %u", c->vcpu->index, vector,
          (int)kind, has_error ? error : 0, (unsigned long long)s->rip, c->cpl);
    c->ext = !is_software(kind);
    bool stepping = s->rflags & X86_TF;
    if (!x86_protected(s))
        deliver_real(c, &ev);
    else if (!(x86_v8086(s) && kind == SOFT_INT_SOFTWARE && deliver_v86_int(c, &ev)))
        deliver_protected(c, &ev);
    c->ext = 0;
    /* The single-step trap of INT n is lost: TF was cleared on the way (SDM vol. 3, 18.3.1.4). */
    c->no_step = stepping && is_software(kind);
    s->int_shadow = 0;
    soft_mode_changed(c);
}

/* --- exceptions --- */

enum severity { BENIGN, CONTRIBUTORY, PAGE_FAULT };

/* SDM vol. 3, table 6-4 */
static enum severity severity(u8 vector)
{
    switch (vector) {
    case X86_PF_: return PAGE_FAULT;
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SS_:
    case X86_GP: return CONTRIBUTORY;
    default: return BENIGN;
    }
}

/* A fault came while @first was delivered: do both make a double fault (table 6-5)? */
static bool is_double_fault(u8 first, u8 second)
{
    enum severity a = severity(first), b = severity(second);
    return (a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN);
}

/* Delivers what s->exception_* holds; false when that raised, with the new fault recorded there. */
static bool try_deliver(struct soft_cpu *c, enum soft_int_kind kind, u8 vector, bool has_error, u32 error)
{
    jmp_buf outer;
    memcpy(&outer, &c->fault, sizeof outer);
    c->insn_rip = c->s->rip; /* rule 3 */
    c->s->exception_pending = 0;
    bool delivered = false;
    if (setjmp(c->fault) == 0) {
        soft_interrupt(c, vector, kind, has_error, error);
        delivered = true;
    }
    memcpy(&c->fault, &outer, sizeof outer);
    c->ext = 0;
    c->no_step = false;
    return delivered || !c->s->exception_pending;
}

bool soft_deliver_exception(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    while (s->exception_pending) {
        u8 vector = s->exception_vector;
        if (vector != X86_PF_)
            c->vcpu->counters.exceptions++;
        if (vector == X86_DB)
            s->dr7 &= ~X86_DR7_GD;
        if (try_deliver(c, SOFT_INT_EXCEPTION, vector, s->exception_has_error, s->exception_error))
            break;
        trace(exc, "cpu%u: fault %u while vector %u was delivered", c->vcpu->index, s->exception_vector,
              vector);
        if (vector == X86_DF_) {
            s->exception_pending = 0;
            return false;
        }
        if (is_double_fault(vector, s->exception_vector)) {
            s->exception_vector = X86_DF_;
            s->exception_has_error = 1;
            s->exception_error = 0;
        }
    }
    return true;
}

/* --- events at instruction boundaries --- */

static void deliver_event(struct soft_cpu *c, u8 vector)
{
    c->s->mp_state = VCPU_MP_RUNNABLE;
    /* A fault during delivery is recorded in s->exception_*: the run loop takes it next. */
    try_deliver(c, SOFT_INT_EXTERNAL, vector, false, 0);
}

static bool take_debug_trap(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    if (likely(!s->pending_db))
        return false;
    s->dr6 = (s->dr6 & ~0xfull) | s->pending_db;
    s->pending_db = 0;
    s->dr7 &= ~X86_DR7_GD;
    s->mp_state = VCPU_MP_RUNNABLE;
    c->vcpu->counters.exceptions++;
    try_deliver(c, SOFT_INT_EXCEPTION, X86_DB, false, 0);
    return true;
}

static bool take_nmi(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    if (!s->nmi_pending || s->nmi_blocked)
        return false;
    s->nmi_pending = 0;
    s->nmi_blocked = 1;
    c->vcpu->counters.interrupts++;
    deliver_event(c, X86_NMI);
    return true;
}

static void deliver_external(struct soft_cpu *c, u8 vector)
{
    c->vcpu->counters.interrupts++;
    if (c->windows)
        windows_tick(c);
    deliver_event(c, vector);
}

static bool take_interrupt(struct soft_cpu *c)
{
    struct vcpu *vcpu = c->vcpu;
    struct vm *vm = vcpu->vm;
    if (!(vcpu_requests(vcpu) & VCPU_REQ_INTERRUPT) || !(c->s->rflags & X86_IF))
        return false;
    lock_acquire(&vm->machine_lock);
    int vector = vm->irqchip->ops->ack(vm->irqchip, vcpu);
    lock_drop(&vm->machine_lock);
    if (vector < 0)
        return false;
    trace(irq, "cpu%u: take vector 0x%x at 0x%llx", vcpu->index, (unsigned)vector,
          (unsigned long long)c->s->rip);
    deliver_external(c, (u8)vector);
    return true;
}

void soft_deliver_interrupt(struct soft_cpu *c)
{
    c->s->interrupt_pending = 0;
    deliver_external(c, c->s->interrupt_vector);
}

bool soft_poll_events(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    u32 requests = vcpu_requests(c->vcpu);
    if (requests & VCPU_REQ_FLUSH_TLB) {
        vcpu_request_clear(c->vcpu, VCPU_REQ_FLUSH_TLB);
        soft_tlb_flush_all(c, true);
    }
    if (requests & VCPU_REQ_NMI) {
        vcpu_request_clear(c->vcpu, VCPU_REQ_NMI);
        s->nmi_pending = 1;
    }
    if (s->int_shadow == 2) /* MOV SS holds off debug traps as well */
        return false;
    if (take_debug_trap(c))
        return true;
    if (s->int_shadow)
        return false;
    return take_nmi(c) || take_interrupt(c);
}
