/* Shifts and rotates. The count comes in CL whatever the guest's form: the host masks it as the guest's CPU.
 */
#include "soft/interpret/handlers.h"

/* A count of zero leaves the flags, so they always go in. */
#define DEFINE_SHIFT_N(OP, INSN, N, X)                                                                   \
    static ALWAYS_INLINE u##N OP##N(u##N a, u8 count, u16 *flags)                                        \
    {                                                                                                    \
        u32 f = *flags;                                                                                  \
        asm(FLAGS_IN INSN X " %%cl, %0" FLAGS_OUT : "+&q"(a), "+&a"(f) : "c"(count) : "cc");             \
        *flags = (u16)f;                                                                                 \
        return a;                                                                                        \
    }                                                                                                    \
    static H(OP##N##_rr)                                                                                 \
    {                                                                                                    \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), reg_get8(s, i->r2), &c->arith_flags));            \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_ri)                                                                                 \
    {                                                                                                    \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), (u8)i->imm, &c->arith_flags));                    \
        NEXT;                                                                                            \
    }                                                                                                    \
    static ALWAYS_INLINE struct insn *OP##N##_m(struct soft_cpu *c, struct insn *i, struct x86_state *s, \
                                                u64 la, u8 count)                                        \
    {                                                                                                    \
        void *p = fast_write_ptr(c, la, N / 8);                                                          \
        if (likely(p)) {                                                                                 \
            soft_host_write##N(p, OP##N(soft_host_read##N(p), count, &c->arith_flags));                  \
            NEXT;                                                                                        \
        }                                                                                                \
        u16 f = c->arith_flags;                                                                          \
        soft_write_slow(c, la, OP##N((u##N)rmw_slow_read(c, la, N / 8), count, &f), N / 8);              \
        c->arith_flags = f;                                                                              \
        AFTER_WRITE;                                                                                     \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_mr)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, reg_get8(s, i->r2));                                               \
    }                                                                                                    \
    static H(OP##N##_mi)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, (u8)i->imm);                                                       \
    }

#define SIZES(P, S)                           \
    {                                         \
        P##8##S, P##16##S, P##32##S, P##64##S \
    }
#define SHIFT(OP, INSN)               \
    DEFINE_SHIFT_N(OP, INSN, 8, "b")  \
    DEFINE_SHIFT_N(OP, INSN, 16, "w") \
    DEFINE_SHIFT_N(OP, INSN, 32, "l") \
    DEFINE_SHIFT_N(OP, INSN, 64, "q") \
    const struct forms forms_##OP = { \
        .rr = SIZES(OP, _rr), .ri = SIZES(OP, _ri), .mr = SIZES(OP, _mr), .mi = SIZES(OP, _mi)};

SHIFT(rol, "rol")
SHIFT(ror, "ror")
SHIFT(rcl, "rcl")
SHIFT(rcr, "rcr")
SHIFT(shl, "shl")
SHIFT(shr, "shr")
SHIFT(sar, "sar")

/* --- SHLD, SHRD: destination, register, and CL or an immediate --- */

#define DEFINE_DOUBLE_N(OP, INSN, N, X, SUFFIX, COUNT)                                                 \
    static H(OP##SUFFIX##N##_rr)                                                                       \
    {                                                                                                  \
        reg_set##N(s, i->r, OP##N(reg_get##N(s, i->r), reg_get##N(s, i->r2), COUNT, &c->arith_flags)); \
        NEXT;                                                                                          \
    }                                                                                                  \
    static H(OP##SUFFIX##N##_mr)                                                                       \
    {                                                                                                  \
        u16 f = c->arith_flags;                                                                        \
        u##N a = (u##N)rmw_slow_read(c, la, N / 8);                                                    \
        soft_write##N(c, la, OP##N(a, reg_get##N(s, i->r2), COUNT, &f));                               \
        c->arith_flags = f;                                                                            \
        AFTER_WRITE;                                                                                   \
        NEXT;                                                                                          \
    }
#define DEFINE_DOUBLE(OP, INSN, N, X)                                                                    \
    static ALWAYS_INLINE u##N OP##N(u##N a, u##N b, u8 count, u16 *flags)                                \
    {                                                                                                    \
        u32 f = *flags;                                                                                  \
        asm(FLAGS_IN INSN X " %%cl, %2, %0" FLAGS_OUT : "+&r"(a), "+&a"(f) : "r"(b), "c"(count) : "cc"); \
        *flags = (u16)f;                                                                                 \
        return a;                                                                                        \
    }                                                                                                    \
    DEFINE_DOUBLE_N(OP, INSN, N, X, , (u8)i->imm)                                                        \
    DEFINE_DOUBLE_N(OP, INSN, N, X, _cl, reg_get8(s, R_CX))

#define DOUBLE_SIZES(P, S)                 \
    {                                      \
        NULL, P##16##S, P##32##S, P##64##S \
    }
#define DOUBLE(OP, INSN)                                                                        \
    DEFINE_DOUBLE(OP, INSN, 16, "w")                                                            \
    DEFINE_DOUBLE(OP, INSN, 32, "l")                                                            \
    DEFINE_DOUBLE(OP, INSN, 64, "q")                                                            \
    const struct forms forms_##OP = {.rr = DOUBLE_SIZES(OP, _rr), .mr = DOUBLE_SIZES(OP, _mr)}; \
    const struct forms forms_##OP##_cl = {.rr = DOUBLE_SIZES(OP##_cl, _rr), .mr = DOUBLE_SIZES(OP##_cl, _mr)};

DOUBLE(shld, "shld")
DOUBLE(shrd, "shrd")
