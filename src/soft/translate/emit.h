/* Machine code into memory: legacy and VEX encodings of instructions on registers and one memory operand. */
#ifndef TRAPEZE_SOFT_TRANSLATE_EMIT_H
#define TRAPEZE_SOFT_TRANSLATE_EMIT_H

#include <string.h>

#include "base/compiler.h"

struct emit {
    u8 *at; /* writable view */
    u8 *end;
    intptr_t to_exec; /* from the writable to the executable view */
};

/* All of an instruction but what ModRM's r/m says. */
struct encoding {
    bool p66, lock, w, rex; /* rex: needed even if empty, for SPL and its kind */
    u8 rep;                 /* F2, F3 or 0 */
    u8 map;                 /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    u8 opcode, reg;         /* reg: register or opcode extension */
    bool vex;               /* then p66/rep say pp, and: */
    u8 vvvv;
    u8 imm_len;
    u8 imm[8];
};

/* An address: base + index << scale + disp. NO_INDEX: none. */
struct address {
    u8 base, index, scale;
    i32 disp;
    bool gs; /* relative to GS */
};
#define NO_INDEX 0xff

/* The reserve for a block makes that there is no room impossible; the block would be cut, not overrun. */
static ALWAYS_INLINE void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
    if (unlikely(e->at + n > e->end))
        return;
    memcpy(e->at, bytes, n);
    e->at += n;
}
void emit_rr(struct emit *e, const struct encoding *n, unsigned rm);
void emit_rm(struct emit *e, const struct encoding *n, struct address a);

static inline void emit8(struct emit *e, u8 v)
{
    emit_bytes(e, &v, 1);
}
static inline void emit32(struct emit *e, u32 v)
{
    emit_bytes(e, &v, 4);
}
static inline void emit64(struct emit *e, u64 v)
{
    emit_bytes(e, &v, 8);
}

/* Of 64-bit (@w) or 32-bit operand size, with a one-byte opcode. */
void emit_op_rr(struct emit *e, bool w, u8 opcode, unsigned reg, unsigned rm);
void emit_op_rm(struct emit *e, bool w, u8 opcode, unsigned reg, struct address a);
void emit_op_ri(struct emit *e, bool w, u8 ext, unsigned rm, i32 imm); /* 81 /ext */

static inline struct address at(unsigned base, i32 disp)
{
    return (struct address){(u8)base, NO_INDEX, 0, disp, false};
}
static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
    emit_op_rr(e, true, 0x89, from, to);
}
static inline void emit_load(struct emit *e, unsigned to, struct address a)
{
    emit_op_rm(e, true, 0x8b, to, a);
}
static inline void emit_store(struct emit *e, struct address a, unsigned from)
{
    emit_op_rm(e, true, 0x89, from, a);
}
static inline void emit_lea(struct emit *e, unsigned to, struct address a)
{
    emit_op_rm(e, true, 0x8d, to, a);
}
void emit_mov_imm64(struct emit *e, unsigned to, u64 v);
void emit_mov_imm32(struct emit *e, unsigned to, u32 v);

#define CC_E 4
#define CC_NE 5
#define CC_AE 3
#define CC_A 7
#define CC_ALWAYS 0xff
/* A jump with a 32-bit displacement, to be set later; returns where that stands (writable view). */
u8 *emit_jump(struct emit *e, u8 cc);
void emit_jump_to(struct emit *e, u8 cc, const u8 *to);
void emit_call_to(struct emit *e, const u8 *to);
void emit_set_target(u8 *disp, const u8 *to);

/*
 * The same for code that other threads execute: emit_patchable() makes the displacement of the branch that
 * comes next, which has an opcode of @opcode bytes, lie within 8 aligned ones.
 */
void emit_patch_target(u8 *disp, const u8 *to);
void emit_patchable(struct emit *e, unsigned opcode);

#endif
