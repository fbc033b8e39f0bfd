/*
 * Control instructions of the SSE and x87 units, on the host's own units. One that could let an exception
 * through, which T12 forbids, goes to its handler.
 */
#include "soft/native-internal.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define STATE_AT(reg, field) at(reg, (i32)offsetof(struct x86_state, field))

#define MASKS_SSE 0x1f80u

/* Operands that are not whole words, for instructions without @w. */
static void op_rm(struct emit *e, bool p66, u8 map, u8 opcode, u8 reg, struct address a)
{
    emit_rm(e, &(struct encoding){.p66 = p66, .map = map, .opcode = opcode, .reg = reg}, a);
}

/* Host pointer to the operand into C. The stub does not know its size. */
static void pointer(struct translator *x, const struct insn *i, unsigned size, bool write)
{
    emit_address(x, i, memory_operand(x), HOST_C);
    emit_tlb(x, memory_range(x, i, memory_operand(x)), size, write);
}

/*
 * A, already read, is what the unit shall be controlled by. Checked and used must be the same value, which
 * another vCPU could change in memory: hence the copy.
 */
static struct address checked_control(struct translator *x, u32 inverted, u32 zeros)
{
    struct emit *e = x->e;
    emit_op_rm(e, false, 0x89, HOST_A, CPU(scratch[0]));
    emit8(e, 0x35); /* xor eax, imm32 */
    emit32(e, inverted);
    emit8(e, 0xa9); /* test eax, imm32 */
    emit32(e, zeros);
    slow_jump(x, CC_NE);
    return CPU(scratch[0]);
}

static void emit_ldmxcsr(struct translator *x, const struct insn *i)
{
    pointer(x, i, 4, false);
    emit_op_rm(x->e, false, 0x8b, HOST_A, at(HOST_C, 0));
    op_rm(x->e, false, 1, 0xae, 2, checked_control(x, MASKS_SSE, ~MXCSR_VALID | MASKS_SSE));
}

static void emit_stmxcsr(struct translator *x, const struct insn *i)
{
    pointer(x, i, 4, true);
    op_rm(x->e, false, 1, 0xae, 3, at(HOST_C, 0));
}

static void emit_fldcw(struct translator *x, const struct insn *i)
{
    pointer(x, i, 2, false);
    op_rm(x->e, false, 1, 0xb7, HOST_A, at(HOST_C, 0)); /* movzx */
    op_rm(x->e, false, 0, 0xd9, 5, checked_control(x, X87_FSW_EXCEPTIONS, X87_FSW_EXCEPTIONS));
}

static void emit_fnstcw(struct translator *x, const struct insn *i)
{
    pointer(x, i, 2, true);
    op_rm(x->e, false, 0, 0xd9, 7, at(HOST_C, 0));
}

static void emit_fnstsw(struct translator *x, const struct insn *i)
{
    if (memory_operand(x)) {
        pointer(x, i, 2, true);
        op_rm(x->e, false, 0, 0xdd, 7, at(HOST_C, 0));
        return;
    }
    emit_bytes(x->e, "\xdf\xe0", 2); /* fnstsw ax */
    if (is_far(X86_RAX))
        op_rm(x->e, true, 0, 0x89, HOST_A, far_gpr(X86_RAX));
    else
        emit_rr(x->e, &(struct encoding){.p66 = true, .opcode = 0x89, .reg = HOST_A},
                translate_host_reg[X86_RAX]);
}

static void emit_fninit(struct translator *x, const struct insn *i)
{
    struct emit *e = x->e;
    (void)i;
    emit_bytes(e, "\xdb\xe3", 2);
    emit_mov_imm32(e, HOST_C, 0);
    emit_load(e, HOST_A, CPU(s));
    emit_store(e, STATE_AT(HOST_A, fpu.fip), HOST_C);
    emit_store(e, STATE_AT(HOST_A, fpu.fdp), HOST_C);
    op_rm(e, true, 0, 0x89, HOST_C, STATE_AT(HOST_A, fpu.fop));
    x->x87_last = (struct x87_last){.slot = x->x87_last.slot};
}

static void emit_fnclex(struct translator *x, const struct insn *i)
{
    (void)i;
    emit_bytes(x->e, "\xdb\xe2", 2);
}

static void emit_emms(struct translator *x, const struct insn *i)
{
    (void)i;
    emit_bytes(x->e, "\x0f\x77", 2);
}

static void emit_vzeroupper(struct translator *x, const struct insn *i)
{
    (void)i;
    emit_bytes(x->e, "\xc5\xf8\x77", 3);
}

static void emit_vzeroall(struct translator *x, const struct insn *i)
{
    (void)i;
    emit_bytes(x->e, "\xc5\xfc\x77", 3);
}

/* FWAIT and FNOP: no exception is pending, or the registers were not here (T12). */
static void emit_nothing(struct translator *x, const struct insn *i)
{
    (void)x;
    (void)i;
}

vector_control_fn vector_control(const struct translator *x)
{
    switch (x->z.mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR: return emit_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: return emit_stmxcsr;
    case ZYDIS_MNEMONIC_FLDCW: return emit_fldcw;
    case ZYDIS_MNEMONIC_FNSTCW: return emit_fnstcw;
    case ZYDIS_MNEMONIC_FNSTSW: return emit_fnstsw;
    case ZYDIS_MNEMONIC_FNINIT: return emit_fninit;
    case ZYDIS_MNEMONIC_FNCLEX: return emit_fnclex;
    case ZYDIS_MNEMONIC_EMMS: return emit_emms;
    case ZYDIS_MNEMONIC_VZEROUPPER: return emit_vzeroupper;
    case ZYDIS_MNEMONIC_VZEROALL: return emit_vzeroall;
    case ZYDIS_MNEMONIC_FWAIT:
    case ZYDIS_MNEMONIC_FNOP: return emit_nothing;
    default: return NULL;
    }
}
