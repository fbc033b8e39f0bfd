/*
 * Moving the guest's vector and x87 state between the host's registers and x86_state (T11). The two parts,
 * x87 with MMX and the rest, move on their own. What of the rest moves depends on what the guest has switched
 * on; what it has not cannot change.
 */
#include "soft/fpu-internal.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define STATE(field) \
    at(HOST_D, (i32)offsetof(struct x86_state, field)) /* in all of this file D is x86_state */

#define MASKS_SSE 0x1f80 /* of exceptions, in MXCSR ... */
#define MASKS_X87 0x3f   /* ... and FCW */
#define HOST_MXCSR 0x1f80

/* What soft_cpu.vector_level says is in host registers. */
enum level { LEVEL_NONE, LEVEL_SSE, LEVEL_AVX, LEVEL_AVX512 };

static bool host_has(enum level l)
{
    switch (l) {
    case LEVEL_AVX512: return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    case LEVEL_AVX: return __builtin_cpu_supports("avx");
    default: return true;
    }
}

/* --- registers --- */

/* ModRM and a displacement of 32 bits, which EVEX does not scale. */
static void state_operand(struct emit *e, unsigned reg, size_t offset)
{
    emit8(e, (u8)(0x80 | (reg & 7) << 3 | HOST_D));
    emit32(e, (u32)offset);
}

static void move_vec(struct emit *e, enum level level, unsigned reg, bool store)
{
    u8 not_r = (u8)((reg & 8) ? 0 : 0x80), not_r2 = (u8)((reg & 16) ? 0 : 0x10);
    if (level == LEVEL_AVX512) {
        emit_bytes(e, (u8[]){0x62, (u8)(not_r | 0x60 | not_r2 | 1), 0x7c, 0x48}, 4);
    } else if (level == LEVEL_AVX) {
        emit_bytes(e, (u8[]){0xc4, (u8)(not_r | 0x60 | 1), 0x7c}, 3);
    } else {
        if (reg >= 8)
            emit8(e, 0x44);
        emit8(e, 0x0f);
    }
    emit8(e, store ? 0x11 : 0x10); /* MOVUPS */
    state_operand(e, reg, offsetof(struct x86_state, fpu.vec) + 64 * (size_t)reg);
}

static void move_all(struct emit *e, enum level level, bool store)
{
    for (unsigned n = 0; n < (level == LEVEL_AVX512 ? 32 : 16); n++)
        move_vec(e, level, n, store);
    for (unsigned n = 0; n < 8 && level == LEVEL_AVX512; n++) {
        emit_bytes(e, (u8[]){0xc4, 0xe1, 0xf8, store ? 0x91 : 0x90}, 4); /* KMOVQ */
        state_operand(e, n, offsetof(struct x86_state, fpu.k) + 8 * (size_t)n);
    }
}

/* --- small pieces --- */

static void op_mi(struct emit *e, u8 ext, struct address a, u32 imm) /* 32-bit 81 /ext */
{
    struct encoding n = {.opcode = 0x81, .reg = ext, .imm_len = 4};
    memcpy(n.imm, &imm, 4);
    emit_rm(e, &n, a);
}

static void test_mi(struct emit *e, struct address a, u32 imm)
{
    struct encoding n = {.opcode = 0xf7, .imm_len = 4};
    memcpy(n.imm, &imm, 4);
    emit_rm(e, &n, a);
}

static void byte_mi(struct emit *e, u8 opcode, u8 ext, struct address a, u8 imm)
{
    emit_rm(e, &(struct encoding){.opcode = opcode, .reg = ext, .imm_len = 1, .imm = {imm}}, a);
}

static void op_0fae(struct emit *e, bool w, u8 ext, struct address a)
{
    emit_rm(e, &(struct encoding){.w = w, .map = 1, .opcode = 0xae, .reg = ext}, a);
}

static void host_mxcsr(struct emit *e)
{
    emit8(e, 0x68); /* push imm32 */
    emit32(e, HOST_MXCSR);
    op_0fae(e, false, 2, at(HOST_SP, 0)); /* ldmxcsr */
    emit8(e, 0x58);                       /* pop rax */
}

static void vzeroupper(struct emit *e)
{
    if (host_has(LEVEL_AVX))
        emit_bytes(e, "\xc5\xf8\x77", 3);
}

static void ret(struct emit *e)
{
    emit8(e, 0xc3);
}

static struct address away(enum vector_class class)
{
    return at(HOST_CPU, (i32)(offsetof(struct soft_cpu, vector_away) + class));
}

/* Returns, when @cc, from the thunk. */
static void ret_if(struct emit *e, u8 cc)
{
    emit8(e, (u8)(0x70 | (cc ^ 1)));
    emit8(e, 1);
    ret(e);
}

/* --- out of the host's registers; A is lost --- */

/* Leaves the host's MXCSR, and upper halves that cost nothing. */
static u8 *emit_save_vector(struct emit *e)
{
    u8 *start = e->at, *to_end[2];
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb6, .reg = HOST_A}, CPU(vector_level)); /* movzx */
    emit_bytes(e, "\xff\xc8", 2);                                                               /* dec eax */
    u8 *sse = emit_jump(e, CC_E);
    emit_bytes(e, "\xff\xc8", 2);
    u8 *avx = emit_jump(e, CC_E);
    if (host_has(LEVEL_AVX512))
        move_all(e, LEVEL_AVX512, true);
    to_end[0] = emit_jump(e, CC_ALWAYS);
    emit_set_target(avx, e->at);
    if (host_has(LEVEL_AVX))
        move_all(e, LEVEL_AVX, true);
    to_end[1] = emit_jump(e, CC_ALWAYS);
    emit_set_target(sse, e->at);
    move_all(e, LEVEL_SSE, true);
    emit_set_target(to_end[0], e->at);
    emit_set_target(to_end[1], e->at);
    vzeroupper(e);
    op_0fae(e, false, 3, STATE(fpu.mxcsr)); /* stmxcsr */
    emit_op_rm(e, false, 0x8b, HOST_A, STATE(fpu.mxcsr));
    emit_op_ri(e, false, 4, HOST_A, 0xffc0); /* all but the sticky flags */
    emit_op_ri(e, false, 7, HOST_A, HOST_MXCSR);
    u8 *same = emit_jump(e, CC_E);
    host_mxcsr(e);
    emit_set_target(same, e->at);
    op_mi(e, 1, CPU(vector_away), 0x00010101); /* or */
    byte_mi(e, 0xc6, 0, CPU(vector_level), LEVEL_NONE);
    ret(e);
    return start;
}

/*
 * FXSAVE writes into the image what is kept elsewhere: MXCSR, and the addresses of the last instruction,
 * which are not the guest's.
 */
static u8 *emit_save_x87(struct emit *e)
{
    struct address kept[] = {STATE(fpu.mxcsr), STATE(fpu.fdp), STATE(fpu.fip)};
    u8 *start = e->at;
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb7, .reg = HOST_A}, STATE(fpu.fop)); /* movzx */
    for (unsigned n = 0; n < ARRAY_SIZE(kept); n++)
        emit_op_rm(e, false, 0xff, 6, kept[n]); /* push */
    op_0fae(e, true, 0, STATE(fpu.fxsave));
    for (unsigned n = ARRAY_SIZE(kept); n-- > 0;)
        emit_op_rm(e, false, 0x8f, 0, kept[n]); /* pop */
    emit_rm(e, &(struct encoding){.p66 = true, .opcode = 0x89, .reg = HOST_A}, STATE(fpu.fop));
    emit_bytes(e, "\xdb\xe3", 2); /* fninit */
    byte_mi(e, 0xc6, 0, away(VECTOR_X87), 1);
    ret(e);
    return start;
}

/* All of it; only flags are lost. */
static u8 *emit_save(struct emit *e, const u8 *save_vector, const u8 *save_x87)
{
    u8 *start = e->at;
    emit_bytes(e, "\x50\x52", 2); /* push rax; push rdx */
    emit_load(e, HOST_D, CPU(s));
    byte_mi(e, 0x80, 7, away(VECTOR_X87), 0);
    u8 *no_x87 = emit_jump(e, CC_NE);
    emit_call_to(e, save_x87);
    emit_set_target(no_x87, e->at);
    byte_mi(e, 0x80, 7, CPU(vector_level), LEVEL_NONE);
    u8 *no_vector = emit_jump(e, CC_E);
    emit_call_to(e, save_vector);
    emit_set_target(no_vector, e->at);
    emit_bytes(e, "\x5a\x58", 2);
    ret(e);
    return start;
}

/* --- into them, if the guest's state allows: else they stay away. A, D and flags are lost --- */

static void load_level(struct emit *e, enum level level, u32 here)
{
    if (host_has(level)) {
        if (level == LEVEL_SSE)
            vzeroupper(e);
        move_all(e, level, false);
        op_0fae(e, false, 2, STATE(fpu.mxcsr)); /* ldmxcsr */
        op_mi(e, 4, CPU(vector_away), ~here);   /* and */
        byte_mi(e, 0xc6, 0, CPU(vector_level), (u8)level);
    }
    ret(e);
}

static void count_load(struct emit *e)
{
    emit_load(e, HOST_A, CPU(vcpu));
    emit_op_rm(e, true, 0xff, 0, at(HOST_A, (i32)offsetof(struct vcpu, counters.vector_loads))); /* inc */
}

/* T12: an instruction on these registers faults natively neither by control registers nor by exceptions. */
static u8 *emit_load_vector(struct emit *e)
{
    const u32 avx = X86_XCR0_SSE | X86_XCR0_AVX, avx512 = avx | X86_XCR0_AVX512;
    u8 *start = e->at;
    count_load(e);
    emit_load(e, HOST_D, CPU(s));
    test_mi(e, STATE(cr0), X86_CR0_TS | X86_CR0_EM);
    ret_if(e, CC_NE);
    test_mi(e, STATE(cr4), X86_CR4_OSFXSR);
    ret_if(e, CC_E);
    emit_op_rm(e, false, 0x8b, HOST_A, STATE(fpu.mxcsr));
    emit_bytes(e, "\xf7\xd0\xa9", 3); /* not eax; test eax, */
    emit32(e, MASKS_SSE);
    ret_if(e, CC_NE);
    test_mi(e, STATE(cr4), X86_CR4_OSXSAVE);
    u8 *no_xsave = emit_jump(e, CC_E);
    emit_op_rm(e, false, 0x8b, HOST_A, STATE(xcr0));
    emit_op_ri(e, false, 4, HOST_A, (i32)avx512);
    emit_op_ri(e, false, 7, HOST_A, (i32)avx512);
    u8 *no_avx512 = emit_jump(e, CC_NE);
    load_level(e, LEVEL_AVX512, 0x00ffffff);
    emit_set_target(no_avx512, e->at);
    emit_op_ri(e, false, 4, HOST_A, (i32)avx);
    emit_op_ri(e, false, 7, HOST_A, (i32)avx);
    u8 *no_avx = emit_jump(e, CC_NE);
    load_level(e, LEVEL_AVX, 0x0000ffff);
    emit_set_target(no_avx, e->at);
    emit_set_target(no_xsave, e->at);
    load_level(e, LEVEL_SSE, 0x000000ff);
    return start;
}

/* FXRSTOR loads XMM registers, too, with nothing: those that were in use come back afterwards. */
static u8 *emit_load_x87(struct emit *e, const u8 *save_vector, const u8 *load_vector)
{
    u8 *start = e->at;
    count_load(e);
    emit_load(e, HOST_D, CPU(s));
    test_mi(e, STATE(cr0), X86_CR0_TS | X86_CR0_EM);
    ret_if(e, CC_NE);
    emit_op_rm(e, false, 0x8b, HOST_A, STATE(fpu.fcw)); /* and fsw */
    emit_bytes(e, "\x83\xf0\x3f\xa9", 4);               /* xor eax, masks; test eax, */
    emit32(e, X87_FSW_ES << 16 | MASKS_X87);
    ret_if(e, CC_NE);
    byte_mi(e, 0x80, 7, CPU(vector_level), LEVEL_NONE);
    u8 *in_use = emit_jump(e, CC_NE);
    op_0fae(e, true, 1, STATE(fpu.fxsave));
    byte_mi(e, 0xc6, 0, away(VECTOR_X87), 0);
    host_mxcsr(e);
    ret(e);
    emit_set_target(in_use, e->at);
    emit_call_to(e, save_vector);
    op_0fae(e, true, 1, STATE(fpu.fxsave));
    byte_mi(e, 0xc6, 0, away(VECTOR_X87), 0);
    emit_jump_to(e, CC_ALWAYS, load_vector);
    return start;
}

void vector_emit_thunks(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    u8 *save_vector = emit_save_vector(e), *save_x87 = emit_save_x87(e);
    t->thunk.vector_save = emit_save(e, save_vector, save_x87);
    t->thunk.vector_load = emit_load_vector(e);
    t->thunk.x87_load = emit_load_x87(e, save_vector, t->thunk.vector_load);
}

void vector_init(struct soft_cpu *c)
{
    memset(c->vector_away, 1, sizeof c->vector_away);
    c->vector_level = LEVEL_NONE;
}

/* --- the doors --- */

void emit_vector_save(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    op_mi(e, 7, CPU(vector_away), 0x01010101);
    u8 *gone = emit_jump(e, CC_E);
    emit_call_to(e, t->thunk.vector_save);
    emit_set_target(gone, e->at);
}

void emit_vector_present(struct emit *e, enum vector_class class)
{
    byte_mi(e, 0x80, 7, away(class), 0);
}
