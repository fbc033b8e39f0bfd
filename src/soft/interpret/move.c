/* Data movement and the instructions on single flags. */
#include "soft/interpret/handlers.h"

#define SIZES(P, S)                           \
    {                                         \
        P##8##S, P##16##S, P##32##S, P##64##S \
    }

/* --- MOV, XCHG, LEA --- */

#define DEFINE_MOV_N(N)                                                    \
    static H(mov##N##_rr)                                                  \
    {                                                                      \
        reg_set##N(s, i->r, reg_get##N(s, i->r2));                         \
        NEXT;                                                              \
    }                                                                      \
    static H(mov##N##_ri)                                                  \
    {                                                                      \
        reg_set##N(s, i->r, (u##N)i->imm);                                 \
        NEXT;                                                              \
    }                                                                      \
    static H(mov##N##_rm)                                                  \
    {                                                                      \
        reg_set##N(s, i->r, soft_read##N(c, la));                          \
        NEXT;                                                              \
    }                                                                      \
    static H(mov##N##_mr)                                                  \
    {                                                                      \
        soft_write##N(c, la, reg_get##N(s, i->r2));                        \
        AFTER_WRITE;                                                       \
        NEXT;                                                              \
    }                                                                      \
    static H(mov##N##_mi)                                                  \
    {                                                                      \
        soft_write##N(c, la, (u##N)i->imm);                                \
        AFTER_WRITE;                                                       \
        NEXT;                                                              \
    }                                                                      \
    static H(xchg##N##_rr)                                                 \
    {                                                                      \
        u##N a = reg_get##N(s, i->r), b = reg_get##N(s, i->r2);            \
        reg_set##N(s, i->r, b);                                            \
        reg_set##N(s, i->r2, a);                                           \
        NEXT;                                                              \
    }                                                                      \
    /* With memory XCHG is locked, prefix or not. */                       \
    static H(xchg##N##_mr)                                                 \
    {                                                                      \
        u##N *p = soft_atomic_ptr(c, la, N / 8), v = reg_get##N(s, i->r2); \
        if (likely(p)) {                                                   \
            asm volatile("xchg %0, %1" : "+q"(v), "+m"(*p) : : "memory");  \
        } else {                                                           \
            u##N old = (u##N)locked_begin(c, la, N / 8);                   \
            soft_write_slow(c, la, v, N / 8);                              \
            locked_end(c);                                                 \
            v = old;                                                       \
        }                                                                  \
        reg_set##N(s, i->r2, v);                                           \
        AFTER_WRITE;                                                       \
        NEXT;                                                              \
    }
DEFINE_MOV_N(8)
DEFINE_MOV_N(16)
DEFINE_MOV_N(32)
DEFINE_MOV_N(64)

const struct forms forms_mov = {.rr = SIZES(mov, _rr),
                                .ri = SIZES(mov, _ri),
                                .rm = SIZES(mov, _rm),
                                .mr = SIZES(mov, _mr),
                                .mi = SIZES(mov, _mi)};
const struct forms forms_xchg = {.rr = SIZES(xchg, _rr), .mr = SIZES(xchg, _mr), .lock_mr = SIZES(xchg, _mr)};

static H(lea16_rm)
{
    reg_set16(s, i->r, (u16)la);
    NEXT;
}
static H(lea32_rm)
{
    reg_set32(s, i->r, (u32)la);
    NEXT;
}
static H(lea64_rm)
{
    reg_set64(s, i->r, la);
    NEXT;
}
const struct forms forms_lea = {.rm = {NULL, lea16_rm, lea32_rm, lea64_rm}};

/* --- widening --- */

#define DEFINE_WIDEN(NAME, FROM, TO, VALUE)   \
    static H(NAME##_##TO##_rr)                \
    {                                         \
        u##FROM v = reg_get##FROM(s, i->r2);  \
        reg_set##TO(s, i->r, (u##TO)(VALUE)); \
        NEXT;                                 \
    }                                         \
    static H(NAME##_##TO##_rm)                \
    {                                         \
        u##FROM v = soft_read##FROM(c, la);   \
        reg_set##TO(s, i->r, (u##TO)(VALUE)); \
        NEXT;                                 \
    }
#define DEFINE_WIDENING(NAME, FROM, VALUE)                                                     \
    DEFINE_WIDEN(NAME, FROM, 16, VALUE)                                                        \
    DEFINE_WIDEN(NAME, FROM, 32, VALUE)                                                        \
    DEFINE_WIDEN(NAME, FROM, 64, VALUE)                                                        \
    const struct forms forms_##NAME = {.rr = {NULL, NAME##_16_rr, NAME##_32_rr, NAME##_64_rr}, \
                                       .rm = {NULL, NAME##_16_rm, NAME##_32_rm, NAME##_64_rm}};
DEFINE_WIDENING(movzx8, 8, v)
DEFINE_WIDENING(movzx16, 16, v)
DEFINE_WIDENING(movsx8, 8, (i8)v)
DEFINE_WIDENING(movsx16, 16, (i16)v)
DEFINE_WIDENING(movsxd, 32, (i32)v)

H(insn_cbw)
{
    reg_set16(s, R_AX, (u16)(i8)reg_get8(s, R_AX));
    NEXT;
}
H(insn_cwde)
{
    reg_set32(s, R_AX, (u32)(i16)reg_get16(s, R_AX));
    NEXT;
}
H(insn_cdqe)
{
    reg_set64(s, R_AX, (u64)(i32)reg_get32(s, R_AX));
    NEXT;
}
H(insn_cwd)
{
    reg_set16(s, R_DX, (u16)((i16)reg_get16(s, R_AX) >> 15));
    NEXT;
}
H(insn_cdq)
{
    reg_set32(s, R_DX, (u32)((i32)reg_get32(s, R_AX) >> 31));
    NEXT;
}
H(insn_cqo)
{
    reg_set64(s, R_DX, (u64)((i64)reg_get64(s, R_AX) >> 63));
    NEXT;
}

/* --- conditional moves and sets, specialised by condition --- */

/* A 32-bit CMOV clears the upper half whether the condition holds or not, and always reads memory. */
#define DEFINE_CMOV(CC, N)                                           \
    static H(cmov##CC##_##N##_rr)                                    \
    {                                                                \
        u##N a = reg_get##N(s, i->r), b = reg_get##N(s, i->r2);      \
        reg_set##N(s, i->r, flags_test(c->arith_flags, CC) ? b : a); \
        NEXT;                                                        \
    }                                                                \
    static H(cmov##CC##_##N##_rm)                                    \
    {                                                                \
        u##N a = reg_get##N(s, i->r), b = soft_read##N(c, la);       \
        reg_set##N(s, i->r, flags_test(c->arith_flags, CC) ? b : a); \
        NEXT;                                                        \
    }
#define DEFINE_CONDITIONAL(CC)                              \
    DEFINE_CMOV(CC, 16)                                     \
    DEFINE_CMOV(CC, 32)                                     \
    DEFINE_CMOV(CC, 64)                                     \
    static H(setcc##CC##_r)                                 \
    {                                                       \
        reg_set8(s, i->r, flags_test(c->arith_flags, CC));  \
        NEXT;                                               \
    }                                                       \
    static H(setcc##CC##_m)                                 \
    {                                                       \
        soft_write8(c, la, flags_test(c->arith_flags, CC)); \
        AFTER_WRITE;                                        \
        NEXT;                                               \
    }
#define ALL_CONDITIONS(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CONDITIONS(DEFINE_CONDITIONAL)

#define CMOV_FORMS(CC)                                                   \
    {.rr = {NULL, cmov##CC##_16_rr, cmov##CC##_32_rr, cmov##CC##_64_rr}, \
     .rm = {NULL, cmov##CC##_16_rm, cmov##CC##_32_rm, cmov##CC##_64_rm}},
#define SETCC_FORMS(CC) {.r = {setcc##CC##_r}, .m = {setcc##CC##_m}},
const struct forms forms_cmov[16] = {ALL_CONDITIONS(CMOV_FORMS)};
const struct forms forms_setcc[16] = {ALL_CONDITIONS(SETCC_FORMS)};

/* --- flags --- */

#define DEFINE_FLAG(name, statement) \
    H(name)                          \
    {                                \
        statement;                   \
        NEXT;                        \
    }
DEFINE_FLAG(insn_nop, )
DEFINE_FLAG(insn_clc, c->arith_flags &= (u16)~AF_CF)
DEFINE_FLAG(insn_stc, c->arith_flags |= AF_CF)
DEFINE_FLAG(insn_cmc, c->arith_flags ^= AF_CF)
DEFINE_FLAG(insn_cld, s->rflags &= ~X86_DF)
DEFINE_FLAG(insn_std, s->rflags |= X86_DF)
DEFINE_FLAG(insn_lahf, reg_set8(s, R_AH, (u8)(flags_to_rflags(c->arith_flags) | X86_FLAG1)))
DEFINE_FLAG(insn_sahf,
            c->arith_flags = (u16)((c->arith_flags & AF_OF) | (reg_get8(s, R_AH) & (X86_ARITH & 0xff)) << 8))
DEFINE_FLAG(insn_salc, reg_set8(s, R_AX, c->arith_flags &AF_CF ? 0xff : 0))

H(insn_xlat)
{
    u64 off = reg_get(s, R_BX, i->addr_size) + reg_get8(s, R_AX);
    off = i->addr_size == 8 ? off : i->addr_size == 4 ? (u32)off : (u16)off;
    c->cur = i;
    reg_set8(s, R_AX, soft_read8(c, segment_linear(c, s, i->seg, off, 1, SOFT_READ)));
    NEXT;
}
