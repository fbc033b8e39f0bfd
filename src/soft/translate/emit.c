#include "soft/translate/emit.h"

/* Up to 8 of as many as there are at @bytes. */
static void emit_some(struct emit *e, const void *bytes, unsigned n)
{
    if (e->at + 8 > e->end)
        return;
    memcpy(e->at, bytes, 8);
    e->at += n;
}

static void vex_prefix(struct emit *e, const struct encoding *n, unsigned index, unsigned base)
{
    unsigned pp = n->p66 ? 1 : n->rep == 0xf3 ? 2 : n->rep == 0xf2 ? 3 : 0;
    emit8(e, 0xc4);
    emit8(e, (u8)((n->reg < 8) << 7 | (index < 8) << 6 | (base < 8) << 5 | n->map));
    emit8(e, (u8)(n->w << 7 | (~n->vvvv & 15) << 3 | pp));
}

static void prefixes(struct emit *e, const struct encoding *n, unsigned index, unsigned base)
{
    static const u8 escape[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    if (n->vex) {
        vex_prefix(e, n, index, base);
    } else {
        if (n->lock)
            emit8(e, 0xf0);
        if (n->p66)
            emit8(e, 0x66);
        if (n->rep)
            emit8(e, n->rep);
        unsigned rex = 0x40u | n->w << 3 | (n->reg >= 8) << 2 | (index >= 8) << 1 | (base >= 8);
        if (rex != 0x40 || n->rex)
            emit8(e, (u8)rex);
        for (unsigned k = 0; k < (n->map > 1 ? 2u : n->map); k++)
            emit8(e, escape[n->map][k]);
    }
    emit8(e, n->opcode);
}

void emit_rr(struct emit *e, const struct encoding *n, unsigned rm)
{
    prefixes(e, n, 0, rm);
    emit8(e, (u8)(0xc0 | (n->reg & 7) << 3 | (rm & 7)));
    emit_some(e, n->imm, n->imm_len);
}

void emit_rm(struct emit *e, const struct encoding *n, struct address a)
{
    bool sib = a.index != NO_INDEX || (a.base & 7) == 4;
    unsigned mod = a.disp == 0 && (a.base & 7) != 5 ? 0 : a.disp == (i8)a.disp ? 1 : 2;
    if (a.gs)
        emit8(e, 0x65);
    prefixes(e, n, a.index == NO_INDEX ? 0 : a.index, a.base);
    emit8(e, (u8)(mod << 6 | (n->reg & 7) << 3 | (sib ? 4 : a.base & 7)));
    if (sib)
        emit8(e, (u8)(a.scale << 6 | (a.index == NO_INDEX ? 4 : a.index & 7) << 3 | (a.base & 7)));
    if (mod == 1)
        emit8(e, (u8)a.disp);
    else if (mod == 2)
        emit32(e, (u32)a.disp);
    emit_some(e, n->imm, n->imm_len);
}

void emit_op_rr(struct emit *e, bool w, u8 opcode, unsigned reg, unsigned rm)
{
    emit_rr(e, &(struct encoding){.w = w, .opcode = opcode, .reg = (u8)reg}, rm);
}

void emit_op_rm(struct emit *e, bool w, u8 opcode, unsigned reg, struct address a)
{
    emit_rm(e, &(struct encoding){.w = w, .opcode = opcode, .reg = (u8)reg}, a);
}

void emit_op_ri(struct emit *e, bool w, u8 ext, unsigned rm, i32 imm)
{
    struct encoding n = {.w = w, .opcode = 0x81, .reg = ext, .imm_len = 4};
    memcpy(n.imm, &imm, 4);
    emit_rr(e, &n, rm);
}

void emit_mov_imm64(struct emit *e, unsigned to, u64 v)
{
    emit8(e, (u8)(0x48 | (to >= 8)));
    emit8(e, (u8)(0xb8 | (to & 7)));
    emit64(e, v);
}

void emit_mov_imm32(struct emit *e, unsigned to, u32 v)
{
    if (to >= 8)
        emit8(e, 0x41);
    emit8(e, (u8)(0xb8 | (to & 7)));
    emit32(e, v);
}

u8 *emit_jump(struct emit *e, u8 cc)
{
    if (cc == CC_ALWAYS) {
        emit8(e, 0xe9);
    } else {
        emit8(e, 0x0f);
        emit8(e, 0x80 | cc);
    }
    emit32(e, 0);
    return e->at - 4;
}

void emit_set_target(u8 *disp, const u8 *to)
{
    i32 d = (i32)(to - (disp + 4));
    memcpy(disp, &d, 4);
}

void emit_jump_to(struct emit *e, u8 cc, const u8 *to)
{
    emit_set_target(emit_jump(e, cc), to);
}

void emit_call_to(struct emit *e, const u8 *to)
{
    emit8(e, 0xe8);
    emit32(e, 0);
    emit_set_target(e->at - 4, to);
}

void emit_patch_target(u8 *disp, const u8 *to)
{
    i32 rel = (i32)(to - (disp + 4));
    __asm__ volatile("movl %1, (%0)" ::"r"(disp), "r"(rel) : "memory");
}

void emit_patchable(struct emit *e, unsigned opcode)
{
    static const u8 nop[4][3] = {{0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
    unsigned at = (unsigned)((uintptr_t)e->at + opcode) & 7, pad = at > 4 ? 8 - at : 0;
    emit_bytes(e, nop[pad], pad);
}
