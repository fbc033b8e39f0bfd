/* From a memory operand to its linear address, one handler for each form that is common. */
#include "soft/interpret/handlers.h"

/* Rule 2: on to the operation. Rule 3: from here on the instruction may fault. */
#define OPERATE(address)                \
    do {                                \
        c->cur = i;                     \
        return i->op(c, i, s, address); \
    } while (0)

static ALWAYS_INLINE u64 offset_64(const struct insn *i, const struct x86_state *s)
{
    return reg_get64(s, i->base) + (u64)i->disp;
}

H(ea_base_64)
{
    OPERATE(offset_64(i, s));
}

H(ea_index_64)
{
    OPERATE(offset_64(i, s) + (reg_get64(s, i->index) << i->scale));
}

H(ea_scaled_64)
{
    OPERATE((reg_get64(s, i->index) << i->scale) + (u64)i->disp);
}

/* The decoder made disp relative to the start of the block. */
H(ea_rip_64)
{
    OPERATE(c->block_rip + (u64)i->disp);
}

H(ea_abs_64)
{
    OPERATE((u64)i->disp);
}

H(ea_base_32)
{
    OPERATE((u32)offset_64(i, s));
}

H(ea_index_32)
{
    OPERATE((u32)(offset_64(i, s) + (reg_get64(s, i->index) << i->scale)));
}

/* Cuts @off to the address size. */
static ALWAYS_INLINE u64 cut(const struct insn *i, u64 off)
{
    return i->addr_size == 8 ? off : i->addr_size == 4 ? (u32)off : (u16)off;
}

u64 operand_offset(struct soft_cpu *c, const struct insn *i, const struct x86_state *s, u64 sp)
{
    u64 a = (u64)i->disp;
    if (i->flags & INSN_RIP)
        a += c->block_rip;
    if (i->base != NO_REG)
        a += i->base == R_SP ? sp : reg_get64(s, i->base);
    if (i->index != NO_REG)
        a += reg_get64(s, i->index) << i->scale;
    return cut(i, a);
}

u64 segment_linear(struct soft_cpu *c, struct x86_state *s, enum x86_seg seg, u64 off, unsigned size,
                   enum soft_access access)
{
    if ((c->mode & (SOFT_MODE_CODE64 | SOFT_MODE_FLAT)) == SOFT_MODE_FLAT && seg < X86_FS && seg != X86_CS)
        return (u32)off;
    if (!(c->mode & SOFT_MODE_CODE64) || seg == X86_SS)
        return soft_segment_check(c, seg, off, size, access);
    return seg >= X86_FS ? s->seg[seg].base + off : off;
}

static u64 offset(struct soft_cpu *c, const struct insn *i, const struct x86_state *s)
{
    return operand_offset(c, i, s, s->gpr[X86_RSP]);
}

static u64 linear(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 off)
{
    c->cur = i;
    return segment_linear(c, s, i->seg, off, i->size, i->flags & INSN_WRITE ? SOFT_WRITE : SOFT_READ);
}

/* FS and GS with 64-bit addresses. */
H(ea_segment_64)
{
    OPERATE(s->seg[i->seg].base + offset(c, i, s));
}

H(ea_offset)
{
    OPERATE(offset(c, i, s));
}

H(ea_any)
{
    OPERATE(linear(c, i, s, offset(c, i, s)));
}

/* The operation looks at the segment itself. */
H(ea_unchecked)
{
    OPERATE((u32)(s->seg[i->seg].base + offset(c, i, s)));
}

/* BT and friends: the bit number in r2 selects an operand-sized unit relative to the address. */
H(ea_bit_string)
{
    i64 bit = (i64)reg_get(s, i->r2, i->size);
    bit = i->size == 8 ? bit : i->size == 4 ? (i32)bit : (i16)bit;
    i64 unit = bit >> (i->size == 8 ? 6 : i->size == 4 ? 5 : 4);
    OPERATE(linear(c, i, s, cut(i, offset(c, i, s) + (u64)(unit * i->size))));
}
