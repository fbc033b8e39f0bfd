/* Multiplication, division and decimal adjustment. */
#include "soft/interpret/handlers.h"

#define SIZES(P, S)                           \
    {                                         \
        P##8##S, P##16##S, P##32##S, P##64##S \
    }

/* --- MUL and one-operand IMUL: the accumulator's double --- */

#define DEFINE_MUL_N(OP, INSN, N, X)                                                            \
    static ALWAYS_INLINE void OP##N(struct soft_cpu *c, struct x86_state *s, u##N b)            \
    {                                                                                           \
        u64 a = reg_get##N(s, R_AX), d;                                                         \
        u64 lo;                                                                                 \
        u32 f = c->arith_flags;                                                                 \
        asm("movq %%rax, %[lo]\n\tmovl %[f], %%eax\n\t" FLAGS_IN "movq %[lo], %%rax\n\t" INSN X \
            " %[b]\n\tmovq %%rax, %[lo]" FLAGS_OUT                                              \
            : [lo] "=&r"(lo), "+&a"(a), "=&d"(d)                                                \
            : [b] "r"(b), [f] "r"(f)                                                            \
            : "cc");                                                                            \
        c->arith_flags = (u16)a;                                                                \
        reg_set##N(s, R_AX, (u##N)lo);                                                          \
        reg_set##N(s, R_DX, (u##N)d);                                                           \
    }
/* The 8-bit product goes to AX. */
#define DEFINE_MUL_8(OP, INSN)                                                                \
    static ALWAYS_INLINE void OP##8(struct soft_cpu * c, struct x86_state * s, u8 b)          \
    {                                                                                         \
        u32 a = reg_get8(s, R_AX), lo;                                                        \
        u32 f = c->arith_flags;                                                               \
        asm("movl %%eax, %[lo]\n\tmovl %[f], %%eax\n\t" FLAGS_IN "movl %[lo], %%eax\n\t" INSN \
            "b %[b]\n\tmovl %%eax, %[lo]" FLAGS_OUT                                           \
            : [lo] "=&r"(lo), "+&a"(a)                                                        \
            : [b] "q"(b), [f] "r"(f)                                                          \
            : "cc");                                                                          \
        c->arith_flags = (u16)a;                                                              \
        reg_set16(s, R_AX, (u16)lo);                                                          \
    }
#define DEFINE_ONE_OPERAND(OP, N)         \
    static H(OP##N##_r)                   \
    {                                     \
        OP##N(c, s, reg_get##N(s, i->r)); \
        NEXT;                             \
    }                                     \
    static H(OP##N##_m)                   \
    {                                     \
        OP##N(c, s, soft_read##N(c, la)); \
        NEXT;                             \
    }
#define ONE_OPERAND(OP)        \
    DEFINE_ONE_OPERAND(OP, 8)  \
    DEFINE_ONE_OPERAND(OP, 16) \
    DEFINE_ONE_OPERAND(OP, 32) \
    DEFINE_ONE_OPERAND(OP, 64) \
    const struct forms forms_##OP = {.r = SIZES(OP, _r), .m = SIZES(OP, _m)};
#define MUL(OP, INSN)               \
    DEFINE_MUL_8(OP, INSN)          \
    DEFINE_MUL_N(OP, INSN, 16, "w") \
    DEFINE_MUL_N(OP, INSN, 32, "l") \
    DEFINE_MUL_N(OP, INSN, 64, "q") \
    ONE_OPERAND(OP)

MUL(mul, "mul")
MUL(imul1, "imul")

/* --- IMUL with two and three operands --- */

#define DEFINE_IMUL_N(N, X)                                                                       \
    static ALWAYS_INLINE u##N imul##N(u##N a, u##N b, u16 *flags)                                 \
    {                                                                                             \
        u32 f = *flags;                                                                           \
        asm(FLAGS_IN "imul" X " %2, %0" FLAGS_OUT : "+&r"(a), "+&a"(f) : "r"(b) : "cc");          \
        *flags = (u16)f;                                                                          \
        return a;                                                                                 \
    }                                                                                             \
    static H(imul2_##N##_rr)                                                                      \
    {                                                                                             \
        reg_set##N(s, i->r, imul##N(reg_get##N(s, i->r), reg_get##N(s, i->r2), &c->arith_flags)); \
        NEXT;                                                                                     \
    }                                                                                             \
    static H(imul2_##N##_rm)                                                                      \
    {                                                                                             \
        u##N b = soft_read##N(c, la);                                                             \
        reg_set##N(s, i->r, imul##N(reg_get##N(s, i->r), b, &c->arith_flags));                    \
        NEXT;                                                                                     \
    }                                                                                             \
    static H(imul3_##N##_rr)                                                                      \
    {                                                                                             \
        reg_set##N(s, i->r, imul##N(reg_get##N(s, i->r2), (u##N)i->imm, &c->arith_flags));        \
        NEXT;                                                                                     \
    }                                                                                             \
    static H(imul3_##N##_rm)                                                                      \
    {                                                                                             \
        reg_set##N(s, i->r, imul##N(soft_read##N(c, la), (u##N)i->imm, &c->arith_flags));         \
        NEXT;                                                                                     \
    }
DEFINE_IMUL_N(16, "w")
DEFINE_IMUL_N(32, "l")
DEFINE_IMUL_N(64, "q")
#define IMUL_SIZES(P, S)                      \
    {                                         \
        NULL, P##_16##S, P##_32##S, P##_64##S \
    }
const struct forms forms_imul2 = {.rr = IMUL_SIZES(imul2, _rr), .rm = IMUL_SIZES(imul2, _rm)};
const struct forms forms_imul3 = {.rr = IMUL_SIZES(imul3, _rr), .rm = IMUL_SIZES(imul3, _rm)};

/* --- DIV and IDIV: #DE is found before the host's division, which then cannot fault --- */

static bool div_overflows(u64 hi, u64 b)
{
    return hi >= b;
}

/* Magnitudes: |quotient| must be below 2^(n-1), or equal to it when negative. @n in bits. */
static bool idiv_overflows(i128 a, i64 b, unsigned n)
{
    if (b == 0)
        return true;
    if (b > 0 && a == (i64)a && (n == 64 || (a >> (n - 1)) == (a >> 63)))
        return false; /* the usual case: the dividend was sign-extended */
    bool negative = (a < 0) != (b < 0);
    u128 ua = a < 0 ? -(u128)a : (u128)a;
    u128 ub = b < 0 ? -(u128)b : (u128)b;
    u128 limit = ((u128)1 << (n - 1)) - !negative;
    return ua / ub > limit;
}

/* The flags are undefined: the host's division decides what they become. */
#define DEFINE_DIV_N(OP, INSN, N, X, OVERFLOWS)                                                      \
    static ALWAYS_INLINE void OP##N(struct soft_cpu *c, struct insn *i, struct x86_state *s, u##N b) \
    {                                                                                                \
        u64 a = reg_get##N(s, R_AX), d = reg_get##N(s, R_DX), lo;                                    \
        u32 f = c->arith_flags;                                                                      \
        c->cur = i;                                                                                  \
        if (OVERFLOWS)                                                                               \
            soft_raise(c, X86_DE);                                                                   \
        asm("movq %%rax, %[lo]\n\tmovl %[f], %%eax\n\t" FLAGS_IN "movq %[lo], %%rax\n\t" INSN X      \
            " %[b]\n\tmovq %%rax, %[lo]" FLAGS_OUT                                                   \
            : [lo] "=&r"(lo), "+&a"(a), "+&d"(d)                                                     \
            : [b] "r"(b), [f] "r"(f)                                                                 \
            : "cc");                                                                                 \
        c->arith_flags = (u16)a;                                                                     \
        reg_set##N(s, R_AX, (u##N)lo);                                                               \
        reg_set##N(s, R_DX, (u##N)d);                                                                \
    }
#define DEFINE_DIV_8(OP, INSN, OVERFLOWS)                                                             \
    static ALWAYS_INLINE void OP##8(struct soft_cpu * c, struct insn * i, struct x86_state * s, u8 b) \
    {                                                                                                 \
        u32 a = reg_get16(s, R_AX), lo;                                                               \
        u32 f = c->arith_flags;                                                                       \
        c->cur = i;                                                                                   \
        if (OVERFLOWS)                                                                                \
            soft_raise(c, X86_DE);                                                                    \
        asm("movl %%eax, %[lo]\n\tmovl %[f], %%eax\n\t" FLAGS_IN "movl %[lo], %%eax\n\t" INSN         \
            "b %[b]\n\tmovl %%eax, %[lo]" FLAGS_OUT                                                   \
            : [lo] "=&r"(lo), "+&a"(a)                                                                \
            : [b] "q"(b), [f] "r"(f)                                                                  \
            : "cc");                                                                                  \
        c->arith_flags = (u16)a;                                                                      \
        reg_set16(s, R_AX, (u16)lo);                                                                  \
    }
#define DEFINE_DIV_FORMS(OP, N)              \
    static H(OP##N##_r)                      \
    {                                        \
        OP##N(c, i, s, reg_get##N(s, i->r)); \
        NEXT;                                \
    }                                        \
    static H(OP##N##_m)                      \
    {                                        \
        OP##N(c, i, s, soft_read##N(c, la)); \
        NEXT;                                \
    }
#define DIV_FORMS(OP)        \
    DEFINE_DIV_FORMS(OP, 8)  \
    DEFINE_DIV_FORMS(OP, 16) \
    DEFINE_DIV_FORMS(OP, 32) \
    DEFINE_DIV_FORMS(OP, 64) \
    const struct forms forms_##OP = {.r = SIZES(OP, _r), .m = SIZES(OP, _m)};

DEFINE_DIV_8(div, "div", div_overflows(a >> 8, b))
DEFINE_DIV_N(div, "div", 16, "w", div_overflows(d, b))
DEFINE_DIV_N(div, "div", 32, "l", div_overflows(d, b))
DEFINE_DIV_N(div, "div", 64, "q", div_overflows(d, b))
DIV_FORMS(div)

DEFINE_DIV_8(idiv, "idiv", idiv_overflows((i16)a, (i8)b, 8))
DEFINE_DIV_N(idiv, "idiv", 16, "w", idiv_overflows((i32)(d << 16 | a), (i16)b, 16))
DEFINE_DIV_N(idiv, "idiv", 32, "l", idiv_overflows((i64)(d << 32 | a), (i32)b, 32))
DEFINE_DIV_N(idiv, "idiv", 64, "q", idiv_overflows((i128)((u128)d << 64 | a), (i64)b, 64))
DIV_FORMS(idiv)

/*
 * --- decimal adjustment: not in 64-bit mode, so the host cannot do it for us; SDM vol. 2 ---
 *
 * Flags that the manual leaves undefined are those of the addition or subtraction inside, as measured.
 */

#define DEFINE_ADJUST(OP, N, INSN)                                          \
    static u##N OP##N(u##N a, u##N b, u16 *flags)                           \
    {                                                                       \
        u32 f;                                                              \
        asm(INSN " %2, %1" FLAGS_OUT : "=&a"(f), "+&q"(a) : "q"(b) : "cc"); \
        *flags = (u16)f;                                                    \
        return a;                                                           \
    }
DEFINE_ADJUST(add, 8, "addb")
DEFINE_ADJUST(sub, 8, "subb")
DEFINE_ADJUST(add, 16, "addw")
DEFINE_ADJUST(sub, 16, "subw")

static void set_carries(struct soft_cpu *c, u16 flags, bool carry, bool adjust)
{
    flags &= (u16) ~(AF_CF | AF_AF);
    c->arith_flags = (u16)(flags | (carry ? AF_CF : 0) | (adjust ? AF_AF : 0));
}

/* What DAA adds and DAS subtracts; both end with CF when the upper digit needed it. */
static u8 decimal_adjustment(struct soft_cpu *c, u8 al, bool *adjust, bool *carry)
{
    *adjust = (al & 0xf) > 9 || (c->arith_flags & AF_AF);
    *carry = al > 0x99 || (c->arith_flags & AF_CF);
    return (u8)((*adjust ? 6 : 0) + (*carry ? 0x60 : 0));
}

H(insn_daa)
{
    bool adjust, carry;
    u16 f;
    u8 al = reg_get8(s, R_AX), by = decimal_adjustment(c, al, &adjust, &carry);
    reg_set8(s, R_AX, add8(al, by, &f));
    set_carries(c, f, carry, adjust);
    NEXT;
}

H(insn_das)
{
    bool adjust, carry;
    u16 f;
    u8 al = reg_get8(s, R_AX), by = decimal_adjustment(c, al, &adjust, &carry);
    reg_set8(s, R_AX, sub8(al, by, &f));
    set_carries(c, f, carry || (adjust && al < 6), adjust);
    NEXT;
}

static bool needs_ascii_adjustment(const struct soft_cpu *c, u16 ax)
{
    return (ax & 0xf) > 9 || (c->arith_flags & AF_AF);
}

H(insn_aaa)
{
    u16 f, ax = reg_get16(s, R_AX);
    bool adjust = needs_ascii_adjustment(c, ax);
    reg_set16(s, R_AX, add16(ax, adjust ? 0x106 : 0, &f) & 0xff0f);
    set_carries(c, f, adjust, adjust);
    NEXT;
}

H(insn_aas)
{
    u16 f, ax = reg_get16(s, R_AX);
    bool adjust = needs_ascii_adjustment(c, ax);
    reg_set16(s, R_AX, sub16(ax, adjust ? 0x106 : 0, &f) & 0xff0f);
    set_carries(c, f, adjust, adjust);
    NEXT;
}

H(insn_aam)
{
    u8 al = reg_get8(s, R_AX), base = (u8)i->imm;
    u16 f;
    c->cur = i;
    if (!base)
        soft_raise(c, X86_DE);
    reg_set16(s, R_AX, (u16)((al / base) << 8 | add8(al % base, 0, &f)));
    c->arith_flags = f;
    NEXT;
}

H(insn_aad)
{
    u16 f;
    u8 tens = (u8)(reg_get8(s, R_AH) * (u8)i->imm);
    reg_set16(s, R_AX, add8(reg_get8(s, R_AX), tens, &f));
    c->arith_flags = f;
    NEXT;
}
