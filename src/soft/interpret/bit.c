/* Bit tests, scans and counts, byte swaps. */
#include "soft/interpret/handlers.h"

#define SIZES(P, S)                        \
    {                                      \
        NULL, P##16##S, P##32##S, P##64##S \
    }

/*
 * BT and its kind. The bit number is taken modulo the operand size here; what it says beyond that for
 * a register number with a memory operand is in the address already (ea_bit_string).
 */
#define DEFINE_BIT_N(OP, INSN, N, X)                                                                     \
    static ALWAYS_INLINE u##N OP##N(u##N a, u##N bit, u16 *flags)                                        \
    {                                                                                                    \
        u32 f = *flags;                                                                                  \
        asm(FLAGS_IN INSN X " %2, %0" FLAGS_OUT : "+&r"(a), "+&a"(f) : "r"(bit) : "cc");                 \
        *flags = (u16)f;                                                                                 \
        return a;                                                                                        \
    }                                                                                                    \
    static H(OP##N##_rr)                                                                                 \
    {                                                                                                    \
        u##N v = OP##N(reg_get##N(s, i->r), reg_get##N(s, i->r2), &c->arith_flags);                      \
        if (OP##_WRITES)                                                                                 \
            reg_set##N(s, i->r, v);                                                                      \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_ri)                                                                                 \
    {                                                                                                    \
        u##N v = OP##N(reg_get##N(s, i->r), (u##N)i->imm, &c->arith_flags);                              \
        if (OP##_WRITES)                                                                                 \
            reg_set##N(s, i->r, v);                                                                      \
        NEXT;                                                                                            \
    }                                                                                                    \
    static ALWAYS_INLINE struct insn *OP##N##_m(struct soft_cpu *c, struct insn *i, struct x86_state *s, \
                                                u64 la, u##N bit)                                        \
    {                                                                                                    \
        if (!OP##_WRITES) {                                                                              \
            OP##N(soft_read##N(c, la), bit, &c->arith_flags);                                            \
            NEXT;                                                                                        \
        }                                                                                                \
        void *p = fast_write_ptr(c, la, N / 8);                                                          \
        if (likely(p)) {                                                                                 \
            soft_host_write##N(p, OP##N(soft_host_read##N(p), bit, &c->arith_flags));                    \
            NEXT;                                                                                        \
        }                                                                                                \
        u16 f = c->arith_flags;                                                                          \
        soft_write_slow(c, la, OP##N((u##N)rmw_slow_read(c, la, N / 8), bit, &f), N / 8);                \
        c->arith_flags = f;                                                                              \
        AFTER_WRITE;                                                                                     \
        NEXT;                                                                                            \
    }                                                                                                    \
    static H(OP##N##_mr)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, reg_get##N(s, i->r2));                                             \
    }                                                                                                    \
    static H(OP##N##_mi)                                                                                 \
    {                                                                                                    \
        return OP##N##_m(c, i, s, la, (u##N)i->imm);                                                     \
    }

#define DEFINE_BIT_LOCK_N(OP, INSN, N, X)                                                             \
    static struct insn *OP##N##_lock(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 la, \
                                     u##N bit)                                                        \
    {                                                                                                 \
        u##N *p = soft_atomic_ptr(c, la, N / 8);                                                      \
        if (likely(p)) {                                                                              \
            u32 f = c->arith_flags;                                                                   \
            asm volatile(FLAGS_IN "lock " INSN X " %2, %0" FLAGS_OUT                                  \
                         : "+m"(*p), "+&a"(f)                                                         \
                         : "r"((u##N)(bit & (N - 1)))                                                 \
                         : "cc", "memory");                                                           \
            c->arith_flags = (u16)f;                                                                  \
        } else {                                                                                      \
            u16 f = c->arith_flags;                                                                   \
            soft_write_slow(c, la, OP##N((u##N)locked_begin(c, la, N / 8), bit, &f), N / 8);          \
            locked_end(c);                                                                            \
            c->arith_flags = f;                                                                       \
        }                                                                                             \
        AFTER_WRITE;                                                                                  \
        NEXT;                                                                                         \
    }                                                                                                 \
    static H(OP##N##_lock_mr)                                                                         \
    {                                                                                                 \
        return OP##N##_lock(c, i, s, la, reg_get##N(s, i->r2));                                       \
    }                                                                                                 \
    static H(OP##N##_lock_mi)                                                                         \
    {                                                                                                 \
        return OP##N##_lock(c, i, s, la, (u##N)i->imm);                                               \
    }

#define BIT_OP(OP, INSN)            \
    DEFINE_BIT_N(OP, INSN, 16, "w") \
    DEFINE_BIT_N(OP, INSN, 32, "l") \
    DEFINE_BIT_N(OP, INSN, 64, "q")
#define BIT_OP_LOCKED(OP, INSN)                                      \
    BIT_OP(OP, INSN)                                                 \
    DEFINE_BIT_LOCK_N(OP, INSN, 16, "w")                             \
    DEFINE_BIT_LOCK_N(OP, INSN, 32, "l")                             \
    DEFINE_BIT_LOCK_N(OP, INSN, 64, "q")                             \
    const struct forms forms_##OP = {.rr = SIZES(OP, _rr),           \
                                     .ri = SIZES(OP, _ri),           \
                                     .mr = SIZES(OP, _mr),           \
                                     .mi = SIZES(OP, _mi),           \
                                     .lock_mr = SIZES(OP, _lock_mr), \
                                     .lock_mi = SIZES(OP, _lock_mi)};

#define bt_WRITES 0
#define bts_WRITES 1
#define btr_WRITES 1
#define btc_WRITES 1

BIT_OP(bt, "bt")
const struct forms forms_bt = {
    .rr = SIZES(bt, _rr), .ri = SIZES(bt, _ri), .mr = SIZES(bt, _mr), .mi = SIZES(bt, _mi)};
BIT_OP_LOCKED(bts, "bts")
BIT_OP_LOCKED(btr, "btr")
BIT_OP_LOCKED(btc, "btc")

/*
 * Scans and counts. The destination goes in as well, whole: BSF and BSR of zero leave it, and what
 * becomes of the upper half then is the host's business.
 */
#define DEFINE_SCAN_N(OP, INSN, N, X)                                                                  \
    static ALWAYS_INLINE void OP##N(struct x86_state *s, unsigned r, u##N v, u16 *flags)               \
    {                                                                                                  \
        u64 d = reg_get64(s, r);                                                                       \
        u32 f = *flags;                                                                                \
        asm(FLAGS_IN INSN X " %2, %" SCAN_MOD_##N "0" FLAGS_OUT : "+&r"(d), "+&a"(f) : "r"(v) : "cc"); \
        *flags = (u16)f;                                                                               \
        reg_set64(s, r, d);                                                                            \
    }                                                                                                  \
    static H(OP##N##_rr)                                                                               \
    {                                                                                                  \
        OP##N(s, i->r, reg_get##N(s, i->r2), &c->arith_flags);                                         \
        NEXT;                                                                                          \
    }                                                                                                  \
    static H(OP##N##_rm)                                                                               \
    {                                                                                                  \
        OP##N(s, i->r, soft_read##N(c, la), &c->arith_flags);                                          \
        NEXT;                                                                                          \
    }
#define SCAN_MOD_16 "w"
#define SCAN_MOD_32 "k"
#define SCAN_MOD_64 "q"
#define SCAN(OP, INSN)               \
    DEFINE_SCAN_N(OP, INSN, 16, "w") \
    DEFINE_SCAN_N(OP, INSN, 32, "l") \
    DEFINE_SCAN_N(OP, INSN, 64, "q") \
    const struct forms forms_##OP = {.rr = SIZES(OP, _rr), .rm = SIZES(OP, _rm)};

SCAN(bsf, "bsf")
SCAN(bsr, "bsr")
SCAN(tzcnt, "tzcnt")
SCAN(lzcnt, "lzcnt")
SCAN(popcnt, "popcnt")

#define DEFINE_MOVBE_N(N)                                               \
    static H(movbe##N##_rm)                                             \
    {                                                                   \
        reg_set##N(s, i->r, __builtin_bswap##N(soft_read##N(c, la)));   \
        NEXT;                                                           \
    }                                                                   \
    static H(movbe##N##_mr)                                             \
    {                                                                   \
        soft_write##N(c, la, __builtin_bswap##N(reg_get##N(s, i->r2))); \
        AFTER_WRITE;                                                    \
        NEXT;                                                           \
    }
DEFINE_MOVBE_N(16)
DEFINE_MOVBE_N(32)
DEFINE_MOVBE_N(64)
const struct forms forms_movbe = {.rm = SIZES(movbe, _rm), .mr = SIZES(movbe, _mr)};

/* Of a 16-bit register: undefined by the manuals, zero on every CPU. */
static H(bswap16_r)
{
    reg_set16(s, i->r, 0);
    NEXT;
}
static H(bswap32_r)
{
    reg_set32(s, i->r, __builtin_bswap32(reg_get32(s, i->r)));
    NEXT;
}
static H(bswap64_r)
{
    reg_set64(s, i->r, __builtin_bswap64(reg_get64(s, i->r)));
    NEXT;
}
const struct forms forms_bswap = {.r = SIZES(bswap, _r)};
