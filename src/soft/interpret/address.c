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

static u64 any_offset(struct soft_cpu *c, const struct insn *i, const struct x86_state *s)
{
    u64 a = (u64)i->disp;
    if (i->flags & INSN_RIP)
        a += c->block_rip;
    if (i->base != NO_REG)
        a += reg_get64(s, i->base);
    if (i->index != NO_REG)
        a += reg_get64(s, i->index) << i->scale;
    return i->addr_size == 8 ? a : i->addr_size == 4 ? (u32)a : (u16)a;
}

/* FS and GS with 64-bit addresses. */
H(ea_segment_64)
{
    OPERATE(s->seg[i->seg].base + any_offset(c, i, s));
}

H(ea_offset)
{
    OPERATE(any_offset(c, i, s));
}

/* The segment's part: adds the base and makes the checks. */
static u64 any_linear(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 off)
{
    c->cur = i;
    if (!(c->mode & SOFT_MODE_CODE64))
        return soft_segment_check(c, i->seg, off, i->size, i->flags & INSN_WRITE ? SOFT_WRITE : SOFT_READ);
    return i->seg >= X86_FS ? s->seg[i->seg].base + off : off;
}

H(ea_any)
{
    OPERATE(any_linear(c, i, s, any_offset(c, i, s)));
}

/* BT and friends: the bit number in r2 selects an operand-sized unit relative to the address. */
H(ea_bit_string)
{
    i64 bit = i->size == 8   ? (i64)reg_get64(s, i->r2)
              : i->size == 4 ? (i32)reg_get32(s, i->r2)
                             : (i16)reg_get16(s, i->r2);
    u64 off = any_offset(c, i, s) + (u64)((bit >> (i->size == 8 ? 6 : i->size == 4 ? 5 : 4)) * i->size);
    off = i->addr_size == 8 ? off : i->addr_size == 4 ? (u32)off : (u16)off;
    OPERATE(any_linear(c, i, s, off));
}
