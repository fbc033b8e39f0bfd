/*
 * The parts of native execution: native.c (cache, checks, plain execution), native-emit.c (machine
 * code of a stub), native-memory.c (masked accesses, gathers and scatters), native-control.c (control
 * instructions of the x87 and SSE units, in C), native-signal.c (faults inside a stub).
 */
#ifndef TRAPEZE_SOFT_NATIVE_INTERNAL_H
#define TRAPEZE_SOFT_NATIVE_INTERNAL_H

#include "soft/fpu-internal.h"
#include "soft/mmu-inline.h"
#include "soft/native.h"

#define NATIVE_ENCODING_MAX 15u
#define NATIVE_CODE_MAX 768u   /* bytes of machine code of a stub at most */
#define NATIVE_OPERAND_MAX 64u /* bytes of a memory operand of a stub */

/* What must hold for the instruction to execute at all: SDM vol. 2, 2.4 to 2.8 and vol. 1, 8 to 15. */
enum native_unit {
    NATIVE_UNIT_GPR,      /* nothing */
    NATIVE_UNIT_VEX_GPR,  /* VEX on general registers: protected mode */
    NATIVE_UNIT_X87,      /* CR0.EM and TS clear, else #NM */
    NATIVE_UNIT_X87_WAIT, /* FWAIT: #NM when MP and TS are set */
    NATIVE_UNIT_MMX,
    NATIVE_UNIT_SSE,
    NATIVE_UNIT_AVX,
    NATIVE_UNIT_AVX512,
    NATIVE_UNIT_COUNT
};

/* Which elements of a memory operand are accessed. */
enum native_mask {
    NATIVE_MASK_NONE,
    NATIVE_MASK_OPMASK,   /* bit i of an opmask register: element i (modulo their number) */
    NATIVE_MASK_PACKED,   /* as many elements from the first as there are bits (compress, expand) */
    NATIVE_MASK_SIGN,     /* the sign of element i of a vector register */
    NATIVE_MASK_SIGN_MMX, /* the same of an MMX register */
};

/* Gathers and scatters: how to compute addresses, and where the data goes. */
struct native_vsib {
    ZydisRegister base;
    u8 seg; /* enum x86_seg */
    u8 scale, index_reg, index_size, data_reg, data_size, mask_reg, count;
    u8 address_size; /* bytes */
    bool scatter, evex;
    u16 vector_size; /* bytes that an AVX2 gather leaves in its destination */
    i64 disp;
};

/* What a simple x87 instruction does to the register stack. */
struct native_x87 {
    u8 depth;     /* it uses ST0 to ST(depth - 1) at most */
    u8 push, pop; /* how often */
    u8 written;   /* registers, by their number afterwards */
    u16 codes;    /* the condition codes in FSW that it sets */
};

/* Offset in x86_fpu.fxsave where the short stub of an x87 instruction leaves register results. */
#define NATIVE_X87_RESULTS 160u

struct native_stub {
    void (*run)(struct soft_cpu *c, const struct native_stub *stub, u64 la);

    /* Executes the instruction: 0, or 1 when it faulted. In the executable view. */
    int (*code)(struct x86_state *s, void *mem);
    const u8 *insn;  /* the guest's instruction in it: the only one that may fault */
    const u8 *abort; /* where to go on then */
    struct native_cache *cache;

    u8 unit;       /* enum native_unit */
    bool mmx;      /* touches MMX registers: the x87 unit goes to MMX state */
    bool x87;      /* a waiting, non-control x87 instruction */
    bool flags;    /* reads or writes arithmetic flags */
    u8 mem_size;   /* of the memory operand; 0: none */
    u8 mem_access; /* bit SOFT_READ, bit SOFT_WRITE */
    u8 align_mask; /* bits of the address that must be 0, else #GP */
    u8 mask;       /* enum native_mask */
    u8 mask_reg, mask_bits;
    u8 element_size, element_count; /* of memory; mask_bits is a multiple where they are broadcast */
    bool whole;                     /* must all be accessible, whatever the mask */
    u16 fop;
    struct native_x87 x87_shape;
    u32 (*x87_code)(struct x86_state *s, void *mem); /* the short way; returns FSW. May be NULL */
    ZydisMnemonic mnemonic;
    u8 operand_width; /* bits: 16 or more */
    struct native_vsib vsib;

    /* Identity: the encoding as executed, and what the bytes do not say. */
    u8 key_length, key_mode, key_extra, key_rsp;
    u8 key[NATIVE_ENCODING_MAX + 1];
    u32 hash, next;
};

/* Where stubs get their machine code. */
struct native_code {
    u8 *at, *end; /* writable view */
    intptr_t to_exec;
    bool avx512, avx;
};

/* The encoding of an instruction with the memory operand at [base] and RSP replaced. */
struct native_encoding {
    u8 bytes[NATIVE_ENCODING_MAX + 1];
    unsigned length;
};

/* Registers of each kind that an instruction names, by number; found by native_registers(). */
struct native_regs {
    u32 gpr, gpr_written;
    u32 vec, vec_written;
    u8 vec_size[32]; /* 16, 32 or 64 */
    u16 k, k_written;
    u16 mm, mm_written;
    bool x87;
    bool implied_rdi; /* the memory operand is at [rDI] by definition */
    u8 state, base, scratch;
    u8 rsp_as; /* register that stands for RSP, or X86_RSP when it is not named */
};

static inline bool native_is_x87(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 || insn->meta.category == ZYDIS_CATEGORY_X87_ALU;
}

/* --- native-emit.c --- */

/* False when the instruction names something that a stub cannot hold. */
bool native_registers(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                      struct native_regs *r);
void native_encode(const u8 *bytes, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                   const struct native_regs *r, struct native_encoding *e);
/* Writes the stub's code; false when there is no room. */
bool native_emit(struct native_code *code, struct native_stub *stub, const struct native_encoding *e,
                 const struct native_regs *r, const ZydisDecodedInstruction *insn);

/* Outside 64-bit mode W is ignored where it would make a general register 64 bits wide. */
bool native_w_ignored(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);
/* Does the immediate name a register? Outside 64-bit mode its highest bit is ignored. */
bool native_has_is4(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);

/* The short way of an x87 instruction, see native-x87.c. False when there is no room. */
bool native_emit_x87(struct native_code *code, struct native_stub *stub, const struct native_encoding *e,
                     const struct native_regs *r, const ZydisDecodedInstruction *insn);

/* --- native-x87.c --- */

/* Is it an instruction with a short way? @x is zero before. @amd: C1 stays where Intel clears it. */
bool native_describe_x87(struct native_x87 *x, unsigned opcode, unsigned modrm, bool amd);
void native_execute_x87(struct soft_cpu *c, const struct native_stub *stub, void *mem);

/* --- native.c --- */

/* Raises #UD or #NM where the unit cannot be used now, #MF where an x87 exception is pending. */
void native_check_unit(struct soft_cpu *c, const struct native_stub *stub);
/* Runs the code on @mem and raises what it raised. */
void native_execute(struct soft_cpu *c, const struct native_stub *stub, void *mem);
/* The same, without a look for a shorter way. */
void native_execute_whole(struct soft_cpu *c, const struct native_stub *stub, void *mem);
/*
 * What comes before an access that may raise #PF: #GP for an operand that is not aligned as it must
 * be, and on AMD #AC.
 */
void native_check_alignment(struct soft_cpu *c, const struct native_stub *stub, u64 la);
/* 64-byte buffer for an operand at @la, at the same place in a cache line, zeroed. */
u8 *native_bounce(struct native_cache *n, u64 la);

/* Are misaligned accesses of the current code #AC? The TLB's tags do not match then. */
static inline bool native_alignment_armed(const struct soft_cpu *c)
{
    return c->cpl == 3 && (c->s->cr0 & X86_CR0_AM) && (c->s->rflags & X86_AC);
}

static inline bool native_reads(const struct native_stub *stub)
{
    return stub->mem_access & BIT(SOFT_READ);
}
static inline bool native_writes(const struct native_stub *stub)
{
    return stub->mem_access & BIT(SOFT_WRITE);
}

/* --- native-memory.c --- */

/* The guest's memory itself when it is RAM, within one page and allowed; else NULL. Raises nothing. */
static ALWAYS_INLINE void *native_direct(struct soft_cpu *c, u64 la, unsigned size, unsigned access)
{
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    u64 tag = ((la + size - 1) & PAGE_MASK) | c->ctx;

    if ((access & BIT(SOFT_READ) && e->read[c->user] != tag) ||
        (access & BIT(SOFT_WRITE) && e->write[c->user] != tag))
        return NULL;
    return (void *)(uintptr_t)(la + (u64)e->addend);
}

void native_run_masked(struct soft_cpu *c, const struct native_stub *stub, u64 la);
void native_run_vsib(struct soft_cpu *c, const struct native_stub *stub, u64 la);
/* Fills in how @stub's memory operand @op is masked; MASK_NONE when it is not. */
void native_describe_mask(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops, const ZydisDecodedOperand *mem, bool amd);
/* False when the operands are not distinct, which is #UD. */
bool native_describe_vsib(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops);

/* --- native-control.c --- */

typedef void (*native_run_fn)(struct soft_cpu *c, const struct native_stub *stub, u64 la);

/* The C function for a control instruction, NULL when @insn is not one. */
native_run_fn native_control(const ZydisDecodedInstruction *insn);

/* --- native-signal.c --- */

/* What a stub's instruction raised on this thread: the host's trap number. */
unsigned native_last_trap(void);
/* The stub that this thread is executing; else NULL. One move to set: this is part of a program. */
extern _Thread_local const struct native_stub *volatile native_running NATIVE_TLS;

#endif
