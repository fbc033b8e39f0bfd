/* ADD ... CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG: all forms and sizes, and their locked forms. */
#include "soft/interpret/handlers.h"

/*
 * For operation OP at size N (suffix X, index of the size in struct forms is up to the tables below):
 * OP##N(a, b, &flags) is the value; IN is FLAGS_IN or CARRY_IN where the operation reads flags.
 */
#define DEFINE_BINARY(OP, INSN, N, X, IN)                                                                   \
    static ALWAYS_INLINE u##N OP##N(u##N a, u##N b, u16 *flags)                                             \
    {                                                                                                       \
        u32 f = *flags;                                                                                     \
        asm(IN INSN X " %2, %0" FLAGS_OUT : "+&q"(a), "+&a"(f) : "q"(b) : "cc");                            \
        *flags = (u16)f;                                                                                    \
        return a;                                                                                           \
    }                                                                                                       \
    static ALWAYS_INLINE u16 OP##N##_locked(u##N *p, u##N b, u16 flags)                                     \
    {                                                                                                       \
        u32 f = flags;                                                                                      \
        asm volatile(IN "lock " INSN X " %2, %0" FLAGS_OUT : "+m"(*p), "+&a"(f) : "q"(b) : "cc", "memory"); \
        return (u16)f;                                                                                      \
    }

/* Without flags as input there is no need to load them. */
#define DEFINE_BINARY_FRESH(OP, INSN, N, X)                                                              \
    static ALWAYS_INLINE u##N OP##N(u##N a, u##N b, u16 *flags)                                          \
    {                                                                                                    \
        u32 f;                                                                                           \
        asm(INSN X " %2, %0" FLAGS_OUT : "+&q"(a), "=&a"(f) : "q"(b) : "cc");                            \
        *flags = (u16)f;                                                                                 \
        return a;                                                                                        \
    }                                                                                                    \
    static ALWAYS_INLINE u16 OP##N##_locked(u##N *p, u##N b, u16 flags)                                  \
    {                                                                                                    \
        u32 f = flags;                                                                                   \
        asm volatile("lock " INSN X " %2, %0" FLAGS_OUT : "+m"(*p), "+&a"(f) : "q"(b) : "cc", "memory"); \
        return (u16)f;                                                                                   \
    }

/* r <- r OP b and m <- m OP b, b from a register or an immediate; the write precedes the flags. */
#define DEFINE_FORMS_N(OP, N)                                                                            \
    static H(OP##N##_rr)                                                                                 \
    {                                                                                                    \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), reg_get##N(s, i->r2), &c->arith_flags));          \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_ri)                                                                                 \
    {                                                                                                    \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), (u##N)i->imm, &c->arith_flags));                  \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_rm)                                                                                 \
    {                                                                                                    \
        u##N b = soft_read##N(c, la);                                                                    \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), b, &c->arith_flags));                             \
        NEXT;                                                                                            \
    }                                                                                                    \
    static NOINLINE struct insn *OP##N##_slow(struct soft_cpu *c, struct insn *i, struct x86_state *s,   \
                                              u64 la, u##N b)                                            \
    {                                                                                                    \
        u16 f = c->arith_flags;                                                                          \
        u##N v = OP##N((u##N)rmw_slow_read(c, la, N / 8), b, &f);                                        \
        soft_write_slow(c, la, v, N / 8);                                                                \
        c->arith_flags = f;                                                                              \
        AFTER_WRITE;                                                                                     \
        NEXT;                                                                                            \
    }                                                                                                    \
    static ALWAYS_INLINE struct insn *OP##N##_m(struct soft_cpu *c, struct insn *i, struct x86_state *s, \
                                                u64 la, u##N b)                                          \
    {                                                                                                    \
        void *p = fast_write_ptr(c, la, N / 8);                                                          \
        if (unlikely(!p))                                                                                \
            return OP##N##_slow(c, i, s, la, b);                                                         \
        soft_host_write##N(p, OP##N(soft_host_read##N(p), b, &c->arith_flags));                          \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_mr)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, reg_get##N(s, i->r2));                                             \
    }                                                                                                    \
    static H(OP##N##_mi)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, (u##N)i->imm);                                                     \
    }                                                                                                    \
    static struct insn *OP##N##_lock(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 la,    \
                                     u##N b)                                                             \
    {                                                                                                    \
        u##N *p = soft_atomic_ptr(c, la, N / 8);                                                         \
        if (likely(p)) {                                                                                 \
            c->arith_flags = OP##N##_locked(p, b, c->arith_flags);                                       \
        } else {                                                                                         \
            u16 f = c->arith_flags;                                                                      \
            u##N v = OP##N((u##N)locked_begin(c, la, N / 8), b, &f);                                     \
            soft_write_slow(c, la, v, N / 8);                                                            \
            locked_end(c);                                                                               \
            c->arith_flags = f;                                                                          \
        }                                                                                                \
        AFTER_WRITE;                                                                                     \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_lock_mr)                                                                            \
    {                                                                                                    \
        return OP##N##_lock(c, i, s, la, reg_get##N(s, i->r2));                                          \
    }                                                                                                    \
    static H(OP##N##_lock_mi)                                                                            \
    {                                                                                                    \
        return OP##N##_lock(c, i, s, la, (u##N)i->imm);                                                  \
    }

#define SIZES(P, S)                           \
    {                                         \
        P##8##S, P##16##S, P##32##S, P##64##S \
    }
#define DEFINE_FORMS(OP)                                             \
    DEFINE_FORMS_N(OP, 8)                                            \
    DEFINE_FORMS_N(OP, 16)                                           \
    DEFINE_FORMS_N(OP, 32)                                           \
    DEFINE_FORMS_N(OP, 64)                                           \
    const struct forms forms_##OP = {.rr = SIZES(OP, _rr),           \
                                     .rm = SIZES(OP, _rm),           \
                                     .mr = SIZES(OP, _mr),           \
                                     .ri = SIZES(OP, _ri),           \
                                     .mi = SIZES(OP, _mi),           \
                                     .lock_mr = SIZES(OP, _lock_mr), \
                                     .lock_mi = SIZES(OP, _lock_mi)};

#define BINARY(OP, INSN)                   \
    DEFINE_BINARY_FRESH(OP, INSN, 8, "b")  \
    DEFINE_BINARY_FRESH(OP, INSN, 16, "w") \
    DEFINE_BINARY_FRESH(OP, INSN, 32, "l") \
    DEFINE_BINARY_FRESH(OP, INSN, 64, "q") \
    DEFINE_FORMS(OP)
#define BINARY_CARRY(OP, INSN)                 \
    DEFINE_BINARY(OP, INSN, 8, "b", CARRY_IN)  \
    DEFINE_BINARY(OP, INSN, 16, "w", CARRY_IN) \
    DEFINE_BINARY(OP, INSN, 32, "l", CARRY_IN) \
    DEFINE_BINARY(OP, INSN, 64, "q", CARRY_IN) \
    DEFINE_FORMS(OP)

BINARY(add, "add")
BINARY(or, "or")
BINARY(and, "and")
BINARY(sub, "sub")
BINARY(xor, "xor")
BINARY_CARRY(adc, "adc")
BINARY_CARRY(sbb, "sbb")

/* --- CMP and TEST: nothing is written --- */

#define DEFINE_COMPARE_N(OP, INSN, N, X)                                    \
    static ALWAYS_INLINE u16 OP##N(u##N a, u##N b)                          \
    {                                                                       \
        u32 f;                                                              \
        asm(INSN X " %2, %1" FLAGS_OUT : "=&a"(f) : "q"(a), "q"(b) : "cc"); \
        return (u16)f;                                                      \
    }                                                                       \
    static H(OP##N##_rr)                                                    \
    {                                                                       \
        c->arith_flags = OP##N(reg_get##N(s, i->r), reg_get##N(s, i->r2));  \
        NEXT;                                                               \
    }                                                                       \
    static H(OP##N##_ri)                                                    \
    {                                                                       \
        c->arith_flags = OP##N(reg_get##N(s, i->r), (u##N)i->imm);          \
        NEXT;                                                               \
    }                                                                       \
    static H(OP##N##_rm)                                                    \
    {                                                                       \
        u##N b = soft_read##N(c, la);                                       \
        c->arith_flags = OP##N(reg_get##N(s, i->r), b);                     \
        NEXT;                                                               \
    }                                                                       \
    static H(OP##N##_mr)                                                    \
    {                                                                       \
        u##N a = soft_read##N(c, la);                                       \
        c->arith_flags = OP##N(a, reg_get##N(s, i->r2));                    \
        NEXT;                                                               \
    }                                                                       \
    static H(OP##N##_mi)                                                    \
    {                                                                       \
        c->arith_flags = OP##N(soft_read##N(c, la), (u##N)i->imm);          \
        NEXT;                                                               \
    }
#define COMPARE(OP, INSN)                                  \
    DEFINE_COMPARE_N(OP, INSN, 8, "b")                     \
    DEFINE_COMPARE_N(OP, INSN, 16, "w")                    \
    DEFINE_COMPARE_N(OP, INSN, 32, "l")                    \
    DEFINE_COMPARE_N(OP, INSN, 64, "q")                    \
    const struct forms forms_##OP = {.rr = SIZES(OP, _rr), \
                                     .rm = SIZES(OP, _rm), \
                                     .mr = SIZES(OP, _mr), \
                                     .ri = SIZES(OP, _ri), \
                                     .mi = SIZES(OP, _mi)};

COMPARE(cmp, "cmp")
COMPARE(test, "test")

/* XOR r, r, the usual way to say zero. */
H(xor_self_32)
{
    reg_set32(s, i->r, 0);
    c->arith_flags = AF_ZF | AF_PF;
    NEXT;
}

/* --- one operand --- */

#define DEFINE_UNARY_N(OP, INSN, N, X, IN)                                                           \
    static ALWAYS_INLINE u##N OP##N(u##N a, u16 *flags)                                              \
    {                                                                                                \
        u32 f = *flags;                                                                              \
        asm(IN INSN X " %0" FLAGS_OUT : "+&q"(a), "+&a"(f) : : "cc");                                \
        *flags = (u16)f;                                                                             \
        return a;                                                                                    \
    }                                                                                                \
    static H(OP##N##_r)                                                                              \
    {                                                                                                \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), &c->arith_flags));                            \
        NEXT;                                                                                        \
    }                                                                                                \
    static H(OP##N##_m)                                                                              \
    {                                                                                                \
        void *p = fast_write_ptr(c, la, N / 8);                                                      \
        if (likely(p)) {                                                                             \
            soft_host_write##N(p, OP##N(soft_host_read##N(p), &c->arith_flags));                     \
            NEXT;                                                                                    \
        }                                                                                            \
        u16 f = c->arith_flags;                                                                      \
        soft_write_slow(c, la, OP##N((u##N)rmw_slow_read(c, la, N / 8), &f), N / 8);                 \
        c->arith_flags = f;                                                                          \
        AFTER_WRITE;                                                                                 \
        NEXT;                                                                                        \
    }                                                                                                \
    static H(OP##N##_lock_m)                                                                         \
    {                                                                                                \
        u##N *p = soft_atomic_ptr(c, la, N / 8);                                                     \
        if (likely(p)) {                                                                             \
            u32 f = c->arith_flags;                                                                  \
            asm volatile(IN "lock " INSN X " %0" FLAGS_OUT : "+m"(*p), "+&a"(f) : : "cc", "memory"); \
            c->arith_flags = (u16)f;                                                                 \
        } else {                                                                                     \
            u16 f = c->arith_flags;                                                                  \
            soft_write_slow(c, la, OP##N((u##N)locked_begin(c, la, N / 8), &f), N / 8);              \
            locked_end(c);                                                                           \
            c->arith_flags = f;                                                                      \
        }                                                                                            \
        AFTER_WRITE;                                                                                 \
        NEXT;                                                                                        \
    }
#define UNARY(OP, INSN)                         \
    DEFINE_UNARY_N(OP, INSN, 8, "b", FLAGS_IN)  \
    DEFINE_UNARY_N(OP, INSN, 16, "w", FLAGS_IN) \
    DEFINE_UNARY_N(OP, INSN, 32, "l", FLAGS_IN) \
    DEFINE_UNARY_N(OP, INSN, 64, "q", FLAGS_IN) \
    const struct forms forms_##OP = {.r = SIZES(OP, _r), .m = SIZES(OP, _m), .lock_m = SIZES(OP, _lock_m)};

UNARY(inc, "inc")
UNARY(dec, "dec")
UNARY(neg, "neg")
UNARY(not, "not") /* changes no flags: they go in and come out */

/* --- XADD --- */

#define DEFINE_XADD_N(N, X)                                                \
    static H(xadd##N##_rr)                                                 \
    {                                                                      \
        u##N a = reg_get##N(s, i->r), b = reg_get##N(s, i->r2);            \
        u##N sum = add##N(a, b, &c->arith_flags);                          \
        reg_set##N(s, i->r2, a);                                           \
        reg_set##N(s, i->r, sum);                                          \
        NEXT;                                                              \
    }                                                                      \
    static H(xadd##N##_mr)                                                 \
    {                                                                      \
        u16 f;                                                             \
        u##N a = (u##N)rmw_slow_read(c, la, N / 8);                        \
        soft_write##N(c, la, add##N(a, reg_get##N(s, i->r2), &f));         \
        c->arith_flags = f;                                                \
        reg_set##N(s, i->r2, a);                                           \
        AFTER_WRITE;                                                       \
        NEXT;                                                              \
    }                                                                      \
    static H(xadd##N##_lock_mr)                                            \
    {                                                                      \
        u##N *p = soft_atomic_ptr(c, la, N / 8), b = reg_get##N(s, i->r2); \
        if (likely(p)) {                                                   \
            u32 f;                                                         \
            asm volatile("lock xadd" X " %1, %0" FLAGS_OUT                 \
                         : "+m"(*p), "+&q"(b), "=&a"(f)                    \
                         :                                                 \
                         : "cc", "memory");                                \
            c->arith_flags = (u16)f;                                       \
        } else {                                                           \
            u##N a = (u##N)locked_begin(c, la, N / 8);                     \
            u16 f;                                                         \
            soft_write_slow(c, la, add##N(a, b, &f), N / 8);               \
            locked_end(c);                                                 \
            c->arith_flags = f;                                            \
            b = a;                                                         \
        }                                                                  \
        reg_set##N(s, i->r2, b);                                           \
        AFTER_WRITE;                                                       \
        NEXT;                                                              \
    }
DEFINE_XADD_N(8, "b")
DEFINE_XADD_N(16, "w")
DEFINE_XADD_N(32, "l")
DEFINE_XADD_N(64, "q")
const struct forms forms_xadd = {
    .rr = SIZES(xadd, _rr), .mr = SIZES(xadd, _mr), .lock_mr = SIZES(xadd, _lock_mr)};

/* --- CMPXCHG: flags of CMP accumulator, destination --- */

/*
 * Between registers the host decides which upper halves a 32-bit comparison clears, so it gets the whole
 * registers. The accumulator is stored first: it may be the destination.
 */
#define DEFINE_CMPXCHG_RR(N, X, MOD)                                          \
    static H(cmpxchg##N##_rr)                                                 \
    {                                                                         \
        u64 d = reg_get64(s, i->r), a = reg_get64(s, R_AX), acc;              \
        asm("cmpxchg" X " %[new], %" MOD "[d]\n\tmov %%rax, %[acc]" FLAGS_OUT \
            : [d] "+&r"(d), "+&a"(a), [acc] "=&r"(acc)                        \
            : [new] "r"(reg_get##N(s, i->r2))                                 \
            : "cc");                                                          \
        reg_set64(s, R_AX, acc);                                              \
        reg_set64(s, i->r, d);                                                \
        c->arith_flags = (u16)a;                                              \
        NEXT;                                                                 \
    }
static H(cmpxchg8_rr)
{
    u8 old = reg_get8(s, i->r), new = reg_get8(s, i->r2);
    c->arith_flags = cmp8(reg_get8(s, R_AX), old);
    if (c->arith_flags & AF_ZF)
        reg_set8(s, i->r, new);
    else
        reg_set8(s, R_AX, old);
    NEXT;
}
DEFINE_CMPXCHG_RR(16, "w", "w")
DEFINE_CMPXCHG_RR(32, "l", "k")
DEFINE_CMPXCHG_RR(64, "q", "q")

/* In memory the accumulator is only written, and so its upper half cleared, when the comparison fails. */
#define DEFINE_CMPXCHG_N(N, X)                                                                          \
    static H(cmpxchg##N##_mr)                                                                           \
    {                                                                                                   \
        u##N old = (u##N)rmw_slow_read(c, la, N / 8);                                                   \
        u16 f = cmp##N(reg_get##N(s, R_AX), old);                                                       \
        soft_write##N(c, la, f &AF_ZF ? reg_get##N(s, i->r2) : old);                                    \
        c->arith_flags = f;                                                                             \
        if (!(f & AF_ZF))                                                                               \
            reg_set##N(s, R_AX, old);                                                                   \
        AFTER_WRITE;                                                                                    \
        NEXT;                                                                                           \
    }                                                                                                   \
    static H(cmpxchg##N##_lock_mr)                                                                      \
    {                                                                                                   \
        u##N *p = soft_atomic_ptr(c, la, N / 8), new = reg_get##N(s, i->r2), acc = reg_get##N(s, R_AX), \
             old = acc;                                                                                 \
        if (likely(p)) {                                                                                \
            asm volatile("lock cmpxchg" X " %2, %0" : "+m"(*p), "+a"(old) : "q"(new) : "cc", "memory"); \
        } else {                                                                                        \
            old = (u##N)locked_begin(c, la, N / 8);                                                     \
            soft_write_slow(c, la, old == acc ? new : old, N / 8);                                      \
            locked_end(c);                                                                              \
        }                                                                                               \
        c->arith_flags = cmp##N(acc, old);                                                              \
        if (old != acc)                                                                                 \
            reg_set##N(s, R_AX, old);                                                                   \
        AFTER_WRITE;                                                                                    \
        NEXT;                                                                                           \
    }
DEFINE_CMPXCHG_N(8, "b")
DEFINE_CMPXCHG_N(16, "w")
DEFINE_CMPXCHG_N(32, "l")
DEFINE_CMPXCHG_N(64, "q")
const struct forms forms_cmpxchg = {
    .rr = SIZES(cmpxchg, _rr), .mr = SIZES(cmpxchg, _mr), .lock_mr = SIZES(cmpxchg, _lock_mr)};
