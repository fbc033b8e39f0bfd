/* Between decode.c (bytes, operands, addresses, blocks) and rules.c (which handler for which instruction). */
#ifndef TRAPEZE_SOFT_INTERPRET_DECODE_INTERNAL_H
#define TRAPEZE_SOFT_INTERPRET_DECODE_INTERNAL_H

#include "soft/interpret/handlers.h"

/* One instruction being decoded. */
struct decode {
    struct soft_cpu *c;
    u32 mode; /* soft_mode_bits */
    const u8 *bytes;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const ZydisDecodedOperand *mem; /* the memory operand, or NULL */
    unsigned mem_index;             /* which operand it is */
    struct insn *i;
    unsigned page_offset; /* of the block's start */
    bool ends;            /* nothing after it in this block is reached */
};

struct rule;

/* Fills d->i->fn (or op, when there is a memory operand) and whatever the handler wants. False: #UD. */
typedef bool decode_fn(struct decode *d, const struct rule *r);

enum { RULE_END = 1 /* nothing after it in its block is reached */ };

struct rule {
    decode_fn *how;
    const struct forms *forms;
    handler *r, *m; /* for a register (or no) operand and for a memory operand */
    u32 arg;
    u32 flags;
};

extern const struct rule decode_rules[ZYDIS_MNEMONIC_MAX_VALUE + 1];

/* Byte offset of general register @r in state.gpr, or NO_REG. */
u8 decode_reg(ZydisRegister r);

/* The way of instructions without a rule: a host stub. */
bool decode_native(struct decode *d);

/* ES ... GS; X86_DS for none. */
enum x86_seg decode_seg(ZydisRegister r);

/* The segment of an operand without ModRM (string source, XLAT): DS unless overridden. */
enum x86_seg decode_override(const struct decode *d);

static inline bool decode_is64(const struct decode *d)
{
    return d->mode & SOFT_MODE_CODE64;
}

#endif
