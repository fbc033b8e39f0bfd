/*
 * Branches. A near branch to a fixed place has its target in disp, relative to the start of the block; the
 * run loop links its insn to the block there. The _64 handlers are for 64-bit mode, the _32 ones for flat
 * 32-bit code and stack, the _legacy ones for all else: there the target is cut to the operand size and must
 * lie within CS's limit.
 */
#include "soft/interpret/handlers.h"

static ALWAYS_INLINE u64 target_64(const struct soft_cpu *c, const struct insn *i)
{
    return c->block_rip + (u64)i->disp;
}

/* Sets rip in legacy modes. @size of the operand: 2 or 4. Raises #GP. */
static ALWAYS_INLINE void jump_legacy(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 target)
{
    target = i->size == 2 ? (u16)target : (u32)target;
    if (c->mode & SOFT_MODE_FLAT) {
        s->rip = target;
    } else {
        c->cur = i;
        soft_jump(c, target);
    }
}

static ALWAYS_INLINE void jump_64(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 target)
{
    if (likely(x86_canonical(target))) {
        s->rip = target;
    } else {
        state_publish(c, i, s);
        soft_gp0(c);
    }
}

/* Flat 32-bit code reaches all addresses. */
static ALWAYS_INLINE void jump_32(struct soft_cpu *c, struct insn *i, struct x86_state *s, u32 target)
{
    s->rip = target;
}

/* The end of a block that does not end in a branch; not an instruction. */
H(block_end)
{
    s->rip = insn_rip(c, i);
    DONE;
}

/* --- direct --- */

H(jmp_64)
{
    s->rip = target_64(c, i);
    DONE;
}

H(jmp_legacy)
{
    jump_legacy(c, i, s, c->block_rip + (u64)i->disp);
    DONE;
}

/* Not taken, a conditional branch goes on in its block. */
#define DEFINE_JCC(CC)                                         \
    static H(jcc##CC##_64)                                     \
    {                                                          \
        if (flags_test(c->arith_flags, CC)) {                  \
            s->rip = target_64(c, i);                          \
            DONE;                                              \
        }                                                      \
        NEXT;                                                  \
    }                                                          \
    static H(jcc##CC##_legacy)                                 \
    {                                                          \
        if (flags_test(c->arith_flags, CC)) {                  \
            jump_legacy(c, i, s, c->block_rip + (u64)i->disp); \
            DONE;                                              \
        }                                                      \
        NEXT;                                                  \
    }
#define ALL_CONDITIONS(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CONDITIONS(DEFINE_JCC)
#define JCC_64(CC) jcc##CC##_64,
#define JCC_LEGACY(CC) jcc##CC##_legacy,
handler *const jcc_64[16] = {ALL_CONDITIONS(JCC_64)};
handler *const jcc_legacy[16] = {ALL_CONDITIONS(JCC_LEGACY)};

/* LOOP, LOOPE, LOOPNE, JCXZ: the address size chooses the counter. */
static bool loop_taken(struct soft_cpu *c, const struct insn *i, u64 count)
{
    switch (i->r) {
    case LOOP_ALWAYS: return count != 0;
    case LOOP_E: return count != 0 && (c->arith_flags & AF_ZF);
    default: return count != 0 && !(c->arith_flags & AF_ZF);
    }
}

static void branch_taken(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    u64 target = c->block_rip + (u64)i->disp;
    if (c->mode & SOFT_MODE_CODE64)
        jump_64(c, i, s, i->size == 2 ? (u16)target : target);
    else
        jump_legacy(c, i, s, target);
}

H(insn_loop)
{
    u64 count = reg_get(s, R_CX, i->addr_size) - 1;
    count = i->addr_size == 8 ? count : i->addr_size == 4 ? (u32)count : (u16)count;
    if (!loop_taken(c, i, count)) {
        reg_set(s, R_CX, count, i->addr_size);
        NEXT;
    }
    branch_taken(c, i, s);
    reg_set(s, R_CX, count, i->addr_size);
    DONE;
}

H(insn_jcxz)
{
    if (reg_get(s, R_CX, i->addr_size) != 0)
        NEXT;
    branch_taken(c, i, s);
    DONE;
}

/* --- CALL and RET --- */

/* A stack that cannot take the return address comes before a bad target. */
static NOINLINE void probe_push_64(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    c->cur = i;
    u64 la = soft_segment_check(c, X86_SS, s->gpr[X86_RSP] - 8, 8, SOFT_WRITE);
    soft_check_alignment(c, la, 8);
    soft_probe(c, la, 8, SOFT_WRITE);
}

/* disp: target, or for RET the bytes to release. A bad target of an indirect one changes nothing. */
#define DEFINE_CALL_N(N)                                                                                 \
    H(call_##N)                                                                                          \
    {                                                                                                    \
        push_##N(c, i, s, (u##N)(c->block_rip + i->off + i->len));                                       \
        s->rip = (u##N)(c->block_rip + (u64)i->disp);                                                    \
        DONE;                                                                                            \
    }                                                                                                    \
    static ALWAYS_INLINE void call_indirect_##N(struct soft_cpu *c, struct insn *i, struct x86_state *s, \
                                                u##N target)                                             \
    {                                                                                                    \
        if (N == 64 && unlikely(!x86_canonical(target)))                                                 \
            probe_push_64(c, i, s);                                                                      \
        jump_##N(c, i, s, target);                                                                       \
        push_##N(c, i, s, (u##N)(c->block_rip + i->off + i->len));                                       \
    }                                                                                                    \
    H(call_r_##N)                                                                                        \
    {                                                                                                    \
        call_indirect_##N(c, i, s, reg_get##N(s, i->r));                                                 \
        DONE;                                                                                            \
    }                                                                                                    \
    H(call_m_##N)                                                                                        \
    {                                                                                                    \
        call_indirect_##N(c, i, s, soft_read##N(c, la));                                                 \
        DONE;                                                                                            \
    }                                                                                                    \
    H(ret_##N)                                                                                           \
    {                                                                                                    \
        jump_##N(c, i, s, stack_top_##N(c, i, s));                                                       \
        stack_release_##N(s, N / 8 + (u64)i->disp);                                                      \
        DONE;                                                                                            \
    }
DEFINE_CALL_N(64)
DEFINE_CALL_N(32)

H(jmp_r_64)
{
    jump_64(c, i, s, reg_get64(s, i->r));
    DONE;
}

H(jmp_m_64)
{
    jump_64(c, i, s, soft_read64(c, la));
    DONE;
}

/* @target of a near transfer with an operand size of i->size in any mode, and the push before it. */
static void call_any(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 target)
{
    state_publish(c, i, s);
    u64 next = s->rip;
    soft_jump(c, i->size == 2 ? (u16)target : i->size == 4 ? (u32)target : target);
    target = s->rip;
    s->rip = next;
    soft_push(c, next, i->size);
    s->rip = target;
}

H(call_legacy)
{
    call_any(c, i, s, c->block_rip + (u64)i->disp);
    DONE;
}

H(call_r_legacy)
{
    call_any(c, i, s, reg_get(s, i->r, i->size));
    DONE;
}

H(call_m_legacy)
{
    call_any(c, i, s, soft_read(c, la, i->size));
    DONE;
}

H(jmp_r_legacy)
{
    jump_legacy(c, i, s, reg_get(s, i->r, i->size));
    DONE;
}

H(jmp_m_legacy)
{
    jump_legacy(c, i, s, soft_read(c, la, i->size));
    DONE;
}

/* Moves the stack pointer by @n within its width. */
static void stack_release(struct soft_cpu *c, struct x86_state *s, u64 n)
{
    u64 sp = s->gpr[X86_RSP] + n;
    reg_set(s, R_SP, sp, c->stack_size);
}

H(ret_legacy)
{
    state_publish(c, i, s);
    u64 sp = s->gpr[X86_RSP], target = soft_pop(c, i->size), after = s->gpr[X86_RSP];
    s->gpr[X86_RSP] = sp; /* for the case that the target is bad */
    soft_jump(c, target);
    s->gpr[X86_RSP] = after;
    stack_release(c, s, (u64)i->disp);
    DONE;
}

/* --- far --- */

/* imm: selector, disp: offset. */
SYSTEM(jmp_far_imm, soft_jmp_far(c, (u16)i->imm, (u64)i->disp, i->size))
SYSTEM(call_far_imm, soft_call_far(c, (u16)i->imm, (u64)i->disp, i->size))

/* A far pointer in memory: offset of the operand size r2, then the selector. */
static u16 read_far_pointer(struct soft_cpu *c, const struct insn *i, u64 la, u64 *off)
{
    *off = soft_read_slow(c, la, i->r2);
    return (u16)soft_read_slow(c, la + i->r2, 2);
}

H(jmp_far_m)
{
    u64 off;
    u16 sel = read_far_pointer(c, i, la, &off);
    state_publish(c, i, s);
    soft_jmp_far(c, sel, off, i->r2);
    state_adopt(c, s);
    c->stop_block = true;
    DONE;
}

H(call_far_m)
{
    u64 off;
    u16 sel = read_far_pointer(c, i, la, &off);
    state_publish(c, i, s);
    soft_call_far(c, sel, off, i->r2);
    state_adopt(c, s);
    c->stop_block = true;
    DONE;
}

SYSTEM(ret_far, soft_ret_far(c, i->size, (u16)i->disp))
SYSTEM(insn_iret, soft_iret(c, i->size))
