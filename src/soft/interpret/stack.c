/*
 * The stack. The _64 handlers are for 8-byte operands in 64-bit mode, the _32 ones for 4-byte operands on a
 * flat 32-bit stack; the _any ones serve all modes and sizes through soft_push() and soft_pop().
 */
#include "soft/interpret/handlers.h"

/* POP RSP leaves the value popped. */
#define DEFINE_STACK_N(N)                       \
    H(push_r_##N)                               \
    {                                           \
        push_##N(c, i, s, reg_get##N(s, i->r)); \
        AFTER_WRITE;                            \
        NEXT;                                   \
    }                                           \
    H(push_i_##N)                               \
    {                                           \
        push_##N(c, i, s, (u##N)i->imm);        \
        AFTER_WRITE;                            \
        NEXT;                                   \
    }                                           \
    H(push_m_##N)                               \
    {                                           \
        push_##N(c, i, s, soft_read##N(c, la)); \
        AFTER_WRITE;                            \
        NEXT;                                   \
    }                                           \
    H(pop_r_##N)                                \
    {                                           \
        u##N v = stack_top_##N(c, i, s);        \
        stack_release_##N(s, N / 8);            \
        reg_set##N(s, i->r, v);                 \
        NEXT;                                   \
    }
DEFINE_STACK_N(64)
DEFINE_STACK_N(32)

/* The destination's address is computed with RSP already moved (SDM vol. 2, "POP"), so not by `fn`. */
H(pop_m_any)
{
    state_publish(c, i, s);
    u64 before = s->gpr[X86_RSP], v = soft_pop(c, i->size), after = s->gpr[X86_RSP];
    s->gpr[X86_RSP] = before;
    u64 to = segment_linear(c, s, i->seg, operand_offset(c, i, s, after), i->size, SOFT_WRITE);
    soft_write(c, to, v, i->size);
    s->gpr[X86_RSP] = after;
    AFTER_WRITE;
    NEXT;
}

/* --- any mode --- */

static ALWAYS_INLINE struct insn *push_any(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 la,
                                           u64 v)
{
    state_publish(c, i, s);
    soft_push(c, v, i->size);
    AFTER_WRITE;
    NEXT;
}

H(push_r_any)
{
    return push_any(c, i, s, la, reg_get(s, i->r, i->size));
}

H(push_i_any)
{
    return push_any(c, i, s, la, (u64)i->imm);
}

H(push_m_any)
{
    return push_any(c, i, s, la, soft_read(c, la, i->size));
}

H(pop_r_any)
{
    state_publish(c, i, s);
    reg_set(s, i->r, soft_pop(c, i->size), i->size);
    NEXT;
}

H(push_seg)
{
    return push_any(c, i, s, la, s->seg[i->r].selector);
}

H(pop_seg)
{
    state_publish(c, i, s);
    u64 sp = s->gpr[X86_RSP];
    u16 selector = (u16)soft_pop(c, i->size);
    u64 after = s->gpr[X86_RSP];
    s->gpr[X86_RSP] = sp; /* for the case that the selector is bad */
    unsigned width = c->stack_size;
    soft_load_segment(c, i->r, selector);
    reg_set(s, R_SP, after, width);
    state_adopt(c, s);
    if (i->r == X86_SS)
        s->int_shadow = 2;
    if (unlikely(c->stop_block))
        DONE;
    NEXT;
}

static u64 stack_la(struct soft_cpu *c, u64 offset, unsigned size, enum soft_access access)
{
    return segment_linear(c, c->s, X86_SS, offset & MASK(c->stack_size * 8), size, access);
}

/* All eight are read or written only after the whole frame was found accessible: SP moves at the end. */
H(insn_pusha)
{
    state_publish(c, i, s);
    u64 sp = s->gpr[X86_RSP];
    unsigned size = i->size;
    for (unsigned n = 0; n < 8; n++)
        soft_probe(c, stack_la(c, sp - (n + 1) * size, size, SOFT_WRITE), size, SOFT_WRITE);
    for (unsigned n = 0; n < 8; n++)
        soft_write(c, stack_la(c, sp - (n + 1) * size, size, SOFT_WRITE), reg_get(s, n * 8, size), size);
    reg_set(s, R_SP, sp - 8 * size, c->stack_size);
    AFTER_WRITE;
    NEXT;
}

H(insn_popa)
{
    state_publish(c, i, s);
    u64 sp = s->gpr[X86_RSP];
    unsigned size = i->size;
    for (unsigned n = 0; n < 8; n++) { /* a fault leaves those before it loaded */
        u64 v = soft_read(c, stack_la(c, sp + n * size, size, SOFT_READ), size);
        if (7 - n != X86_RSP)
            reg_set(s, (7 - n) * 8, v, size);
    }
    reg_set(s, R_SP, sp + 8 * size, c->stack_size);
    NEXT;
}

/* --- ENTER and LEAVE --- */

/* imm: bytes of locals, disp: nesting level. SDM vol. 2, "ENTER". */
H(insn_enter)
{
    state_publish(c, i, s);
    unsigned size = i->size, level = (unsigned)i->disp & 31;
    u64 sp = s->gpr[X86_RSP], bp = s->gpr[X86_RBP];
    sp -= size;
    soft_write(c, stack_la(c, sp, size, SOFT_WRITE), bp, size);
    u64 frame = sp;
    for (unsigned n = 1; n < level; n++) {
        bp -= size;
        u64 v = soft_read(c, stack_la(c, bp, size, SOFT_READ), size);
        sp -= size;
        soft_write(c, stack_la(c, sp, size, SOFT_WRITE), v, size);
    }
    if (level) {
        sp -= size;
        soft_write(c, stack_la(c, sp, size, SOFT_WRITE), frame, size);
    }
    sp -= (u16)i->imm;
    /* The new top must be writable; for AMD's processors (as measured) also aligned. */
    u64 top = stack_la(c, sp, size, SOFT_WRITE);
    if (c->vcpu->vm->cpuid->amd)
        soft_check_alignment(c, top, size);
    soft_probe(c, top, 1, SOFT_WRITE);
    reg_set(s, R_BP, frame, size);
    reg_set(s, R_SP, sp, c->stack_size);
    AFTER_WRITE;
    NEXT;
}

#define DEFINE_LEAVE_N(N, READ)           \
    H(leave_##N)                          \
    {                                     \
        u##N bp = reg_get##N(s, R_BP);    \
        c->cur = i;                       \
        reg_set##N(s, R_BP, READ(c, bp)); \
        reg_set##N(s, R_SP, bp + N / 8);  \
        NEXT;                             \
    }
DEFINE_LEAVE_N(64, soft_stack_read64)
DEFINE_LEAVE_N(32, soft_read32)

H(insn_leave)
{
    state_publish(c, i, s);
    u64 bp = s->gpr[X86_RBP];
    u64 v = soft_read(c, stack_la(c, bp, i->size, SOFT_READ), i->size);
    reg_set(s, R_SP, bp + i->size, c->stack_size);
    reg_set(s, R_BP, v, i->size);
    NEXT;
}

/* --- PUSHF, POPF --- */

H(insn_pushf)
{
    state_publish(c, i, s);
    soft_push(c, soft_pushf_image(c, i->size), i->size);
    AFTER_WRITE;
    NEXT;
}

/* The stack pointer moves only after the new flags are accepted (#GP in virtual-8086 mode). */
H(insn_popf)
{
    state_publish(c, i, s);
    u64 sp = s->gpr[X86_RSP], v = soft_pop(c, i->size), after = s->gpr[X86_RSP];
    s->gpr[X86_RSP] = sp;
    soft_popf(c, v, i->size);
    s->gpr[X86_RSP] = after;
    state_adopt(c, s);
    c->stop_block = true;
    DONE;
}
