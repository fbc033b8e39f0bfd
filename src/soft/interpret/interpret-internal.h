/*
 * The inside of the interpreter.
 *
 * Decoding (decode.c) turns guest bytes into an array of `struct insn`: a block (block.c). Each insn
 * names a handler, specialised by operation, operand size and operand form, so that executing has
 * nothing left to decide. Rules:
 *
 * 1. A handler does its instruction and calls the next one's handler in tail position (NEXT), so a
 *    block runs without returning to the loop in run.c and the hot values stay in registers. The
 *    last handler of a run returns its insn, with state.rip set. (Compiled without tail calls, this
 *    nests at most BLOCK_MAX_INSNS deep.)
 * 2. An instruction with a memory operand has two handlers. `fn` computes the linear address by
 *    addressing form and mode, segment checks included (address.c), and goes on to `op`, which does
 *    the operation and knows nothing of modes.
 * 3. Within a block state.rip is stale: the instruction is at c->block_rip + insn.off. A handler that
 *    may fault stores c->cur first (the addressing handlers do); run.c then finds rip for the fault.
 *    A handler that calls functions which need rip or rflags whole publishes the state (SYSTEM).
 * 4. Within a block the arithmetic flags are in c->arith_flags, in the form in which the host gives
 *    them: LAHF in the high byte, SETO in the low one. Operations are done by the host's own
 *    instruction between FLAGS_IN and FLAGS_OUT, so even undefined flags are those of the CPU.
 *    state.rflags holds all other flags and is made whole when the state is published.
 * 5. Whatever may raise comes before the first change of state: reads, write permission, the write,
 *    then registers and flags.
 * 6. After a write that may have hit cached code, and after whatever may change modes, a handler
 *    looks at c->stop_block (AFTER_WRITE, SYSTEM): the rest of the block may be stale.
 */
#ifndef TRAPEZE_SOFT_INTERPRET_INTERNAL_H
#define TRAPEZE_SOFT_INTERPRET_INTERNAL_H

#include <Zydis/Zydis.h>

#include "soft/interpret/interpret.h"
#include "soft/mmu-inline.h"
#include "soft/native.h"

struct insn;
struct block;

typedef struct insn *handler(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 la);

#define NO_REG 0xff

/* One decoded instruction. Registers are byte offsets into state.gpr (AH is 1, RCX is 8). */
struct insn {
    handler *fn; /* where execution of the instruction starts */
    handler *op; /* what follows address computation */
    union {
        i64 imm;
        struct block *link; /* branches: the block that followed last time (run.c) */
        const struct native_stub *stub;
    };
    i64 disp;     /* of the memory operand; branches: target relative to the block's start */
    u16 off;      /* from the start of the block */
    u8 len;       /* in bytes */
    u8 count;     /* instructions of the block up to and including this one */
    u8 r, r2;     /* destination and source register */
    u8 base;      /* NO_REG: none */
    u8 index;     /* NO_REG: none */
    u8 scale;     /* shift count */
    u8 seg;       /* enum x86_seg of the memory operand */
    u8 size;      /* bytes accessed at the memory operand, or the operand size where there is none */
    u8 flags;     /* enum insn_flags */
    u8 addr_size; /* 2, 4, 8 */
};

enum insn_flags {
    INSN_WRITE = 1 << 0,     /* the memory operand is written */
    INSN_NEAR_SAME = 1 << 1, /* direct branch within the page: its link needs no look at the TLB */
    INSN_REP = 1 << 2,       /* REP or REPE */
    INSN_REPNE = 1 << 3,
    INSN_BRANCH = 1 << 4, /* `link` may be set */
    INSN_RIP = 1 << 5,    /* memory operand relative to rip (disp: to the start of the block) */
};

/* insn.r of the LOOP family */
enum { LOOP_ALWAYS, LOOP_E, LOOP_NE };

#define BLOCK_MAX_INSNS 32
#define BLOCK_NO_PAGE (~0ull)

/* Decoded code: part of one page, or one instruction that crosses from a page into another. */
struct block {
    struct block *next;                    /* in the hash chain */
    u64 gpa;                               /* of the first byte */
    u64 gpa2;                              /* page of the part behind a page end, or BLOCK_NO_PAGE */
    const _Atomic u32 *gen_now, *gen_now2; /* code generations of the page(s) ... */
    u32 gen, gen2;                         /* ... and what they were */
    u32 mode;                              /* soft_mode_bits | BLOCK_SINGLE */
    u16 len;                               /* in bytes */
    u16 count;                             /* instructions, without the closing pseudo instruction */
    const u8 *bytes;                       /* copy of the code */
    struct insn insn[];
};

#define BLOCK_SINGLE (1u << 31) /* key of blocks of just one instruction */

#define BLOCK_HASH_BITS 16
#define BLOCK_HEAT_BITS 17
#define WRITTEN_PAGES 64

/* Counts writes to a page of code since it was last executed; see soft_code_written(). */
struct written_page {
    u64 page;
    u32 writes;
    u32 limit;
};

struct interpret_private {
    /* Runs blocks in the current mode until a wanted request or stop_block; raises. The translator has its
     * own. */
    void (*run_blocks)(struct soft_cpu *c);
    ZydisDecoder decoder[3]; /* 64-, 32-, 16-bit code */
    struct native_cache *native;
    struct block **hash;
    u8 *arena;
    size_t arena_size, arena_used;
    u32 epoch;             /* changes when all blocks are dropped */
    struct block *scratch; /* uncached block: code outside RAM, or whose copy is of no use */
    u32 pauses;            /* PAUSE instructions executed */
    unsigned max_insns;    /* of a block */
    bool repeating;        /* a REP string instruction was left between two iterations */
    bool uncached;         /* every block is: others write to RAM without notice */
    bool exclusive;        /* inside an exclusive section: to be ended after a fault */
    struct written_page written[WRITTEN_PAGES];
    u8 heat[1 << BLOCK_HEAT_BITS]; /* for translate/: see block_heat() */
};

/* --- block.c --- */

int block_cache_init(struct interpret_private *p, struct error *err);
void block_cache_release(struct interpret_private *p);

/* The block at the current rip, decoded when needed. @single is 0 or BLOCK_SINGLE. Raises #PF, #GP. */
struct block *block_get(struct soft_cpu *c, u32 single);

/* Is a block (without a second page) still what its page holds? */
static ALWAYS_INLINE bool block_valid(const struct block *b)
{
    return atomic_load_explicit(b->gen_now, memory_order_acquire) == b->gen;
}

/*
 * How often what is at @gpa was run, counted by who wants to know; 0 after its bytes have changed. It
 * outlives the block. Addresses may share one.
 */
u8 *block_heat(struct soft_cpu *c, u64 gpa, u32 mode);

/* Drops every block; p->epoch changes. */
void block_cache_flush(struct soft_cpu *c);

/* Linear and guest-physical address of the code at rip. Raises #PF, #GP. */
struct block_place {
    u64 la, gpa;
};
struct block_place block_place(struct soft_cpu *c);

/*
 * Is @b, a block or as much of one as tells what it was made from, (still, or again) what the guest has at
 * @la, in RAM? Raises #PF for a second page.
 */
bool block_usable(struct soft_cpu *c, struct block *b, u64 la);

/* --- run.c: what the engines on top of the interpreter share --- */

/* After an instruction that ended a run of blocks: is there more to do than to go on at rip? Brings c->wanted
 * up to date. */
bool interpret_must_stop(struct soft_cpu *c);

/* After a longjmp to c->fault: makes the state that of the instruction which raised. */
void interpret_settle_fault(struct soft_cpu *c);
/* One instruction, with all that can go with it: single step, breakpoints, the shadow of STI. May raise. */
void interpret_single(struct soft_cpu *c);

int interpret_engine_vm_init(struct vm *vm, struct error *err);
void interpret_engine_vm_release(struct vm *vm);
enum vcpu_exit interpret_engine_run(struct vcpu *vcpu);
void interpret_engine_kick(struct vcpu *vcpu);
void interpret_engine_sync(struct vcpu *vcpu);
void interpret_engine_state_changed(struct vcpu *vcpu);
void interpret_engine_flush_tlb(struct vcpu *vcpu);

/* --- decode.c --- */

void decode_init(struct interpret_private *p, const struct cpuid_table *cpuid);

/*
 * Decodes up to @max instructions from the @avail code bytes at @bytes into @b: insn[] (@max + 1 of them),
 * len and count; @b->gpa is set. The last is followed by block_end. @whole: more bytes cannot be had, so
 * a truncated instruction is undecodable; otherwise decoding stops before it. False: nothing decoded.
 */
bool decode_block(struct soft_cpu *c, struct block *b, const u8 *bytes, unsigned avail, unsigned max,
                  u32 mode, bool whole);

/* Writes one line for the instruction at the current rip with the registers (trace exec). */
void decode_trace(struct soft_cpu *c);

/* The name of the instruction at rip. Raises when it cannot be fetched. */
const char *decode_mnemonic(struct soft_cpu *c);
/*
 * Does the one at RIP write memory that may be a page table (not by RSP, FS or GS, nor to save registers), or
 * change what addresses mean? Raises when it cannot be fetched.
 */
bool decode_touches_memory(struct soft_cpu *c);

/* --- what handlers are made of --- */

#define H(name) struct insn *name(struct soft_cpu *c, struct insn *i, struct x86_state *s, u64 la)
#define NEXT return (i + 1)->fn(c, i + 1, s, la)

/* Ends the run of the block; state.rip is already set. */
#define DONE return i

typedef u64 __attribute__((may_alias)) reg64;
typedef u32 __attribute__((may_alias)) reg32;
typedef u16 __attribute__((may_alias)) reg16;

static ALWAYS_INLINE u64 reg_get64(const struct x86_state *s, unsigned r)
{
    return *(const reg64 *)((const char *)s->gpr + r);
}
static ALWAYS_INLINE u32 reg_get32(const struct x86_state *s, unsigned r)
{
    return *(const reg32 *)((const char *)s->gpr + r);
}
static ALWAYS_INLINE u16 reg_get16(const struct x86_state *s, unsigned r)
{
    return *(const reg16 *)((const char *)s->gpr + r);
}
static ALWAYS_INLINE u8 reg_get8(const struct x86_state *s, unsigned r)
{
    return *((const u8 *)s->gpr + r);
}
static ALWAYS_INLINE void reg_set64(struct x86_state *s, unsigned r, u64 v)
{
    *(reg64 *)((char *)s->gpr + r) = v;
}
/* A 32-bit result clears the upper half. */
static ALWAYS_INLINE void reg_set32(struct x86_state *s, unsigned r, u32 v)
{
    *(reg64 *)((char *)s->gpr + r) = v;
}
static ALWAYS_INLINE void reg_set16(struct x86_state *s, unsigned r, u16 v)
{
    *(reg16 *)((char *)s->gpr + r) = v;
}
static ALWAYS_INLINE void reg_set8(struct x86_state *s, unsigned r, u8 v)
{
    *((u8 *)s->gpr + r) = v;
}

/* By size in bytes, for handlers that are not specialised. */
static inline u64 reg_get(const struct x86_state *s, unsigned r, unsigned size)
{
    return size == 8   ? reg_get64(s, r)
           : size == 4 ? reg_get32(s, r)
           : size == 2 ? reg_get16(s, r)
                       : reg_get8(s, r);
}
static inline void reg_set(struct x86_state *s, unsigned r, u64 v, unsigned size)
{
    switch (size) {
    case 1: reg_set8(s, r, (u8)v); break;
    case 2: reg_set16(s, r, (u16)v); break;
    case 4: reg_set32(s, r, (u32)v); break;
    default: reg_set64(s, r, v);
    }
}

/* Byte offsets of registers, as in struct insn. */
#define R_AX (X86_RAX * 8)
#define R_AH 1
#define R_CX (X86_RCX * 8)
#define R_DX (X86_RDX * 8)
#define R_BX (X86_RBX * 8)
#define R_SP (X86_RSP * 8)
#define R_BP (X86_RBP * 8)
#define R_SI (X86_RSI * 8)
#define R_DI (X86_RDI * 8)

/* Rule 4. In asm with the flags in operand "a": load them (two instructions), or fetch them. */
#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define CARRY_IN "btl $8, %%eax\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

#define AF_OF 0x0001u
#define AF_CF 0x0100u
#define AF_PF 0x0400u
#define AF_AF 0x1000u
#define AF_ZF 0x4000u
#define AF_SF 0x8000u

static ALWAYS_INLINE u64 flags_to_rflags(u16 f)
{
    return ((f >> 8) & (X86_ARITH & 0xff)) | (u64)(f & 1) << 11;
}
static ALWAYS_INLINE u16 flags_from_rflags(u64 r)
{
    return (u16)((r & (X86_ARITH & 0xff)) << 8 | (r >> 11 & 1));
}

static ALWAYS_INLINE u64 insn_rip(const struct soft_cpu *c, const struct insn *i)
{
    u64 rip = c->block_rip + i->off;
    return c->mode & SOFT_MODE_CODE64 ? rip : (u32)rip;
}
static ALWAYS_INLINE u64 insn_next_rip(const struct soft_cpu *c, const struct insn *i)
{
    u64 rip = c->block_rip + i->off + i->len;
    return c->mode & SOFT_MODE_CODE64 ? rip : (u32)rip;
}

static ALWAYS_INLINE void flags_publish(struct soft_cpu *c, struct x86_state *s)
{
    s->rflags = (s->rflags & ~X86_ARITH) | flags_to_rflags(c->arith_flags);
}

/* Rule 3: makes *s whole for functions outside interpret/, and takes it back. */
static ALWAYS_INLINE void state_publish(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    c->insn_rip = insn_rip(c, i);
    s->rip = insn_next_rip(c, i);
    flags_publish(c, s);
    c->cur = NULL;
}
static ALWAYS_INLINE void state_adopt(struct soft_cpu *c, struct x86_state *s)
{
    c->arith_flags = flags_from_rflags(s->rflags);
}

/* Rule 6. */
#define AFTER_WRITE                       \
    do {                                  \
        if (unlikely(c->stop_block)) {    \
            s->rip = insn_next_rip(c, i); \
            DONE;                         \
        }                                 \
    } while (0)

/* A handler around @body that sees and changes the published state; always ends the run. */
#define SYSTEM(name, body)      \
    H(name)                     \
    {                           \
        state_publish(c, i, s); \
        body;                   \
        state_adopt(c, s);      \
        c->stop_block = true;   \
        DONE;                   \
    }

/* The same for one that usually changes nothing that the rest of the block depends on. */
#define SYSTEM_MILD(name, body)      \
    H(name)                          \
    {                                \
        state_publish(c, i, s);      \
        body;                        \
        state_adopt(c, s);           \
        if (unlikely(c->stop_block)) \
            DONE;                    \
        NEXT;                        \
    }

/*
 * Around what such a handler does with its memory operand, so that a fault is known to be of that operand
 * (its segment matters); nothing is changed before the last fault.
 */
#define OPERAND(access) \
    do {                \
        c->cur = i;     \
        access;         \
        c->cur = NULL;  \
    } while (0)

static inline u16 operand_read16(struct soft_cpu *c, struct insn *i, u64 la)
{
    u16 v;
    OPERAND(v = soft_read16(c, la));
    return v;
}

/*
 * Host pointer for an unlocked read-modify-write of @size bytes when the TLB allows it at once,
 * else NULL.
 */
static ALWAYS_INLINE void *fast_write_ptr(struct soft_cpu *c, u64 la, unsigned size)
{
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (likely(e->write[c->user] == (((la + size - 1) & PAGE_MASK) | c->ctx)))
        return (void *)(uintptr_t)(la + (u64)e->addend);
    return NULL;
}

/*
 * The stack where nothing but the TLB is to be asked: 8-byte operands in 64-bit mode, 4-byte ones on the flat
 * 32-bit stack (STACK_64 and STACK_32 of rules.c).
 */
#define DEFINE_FAST_STACK(N, READ, WRITE)                                                                  \
    static ALWAYS_INLINE void push_##N(struct soft_cpu *c, struct insn *i, struct x86_state *s, u##N v)    \
    {                                                                                                      \
        u##N sp = reg_get##N(s, R_SP) - N / 8;                                                             \
        c->cur = i;                                                                                        \
        WRITE(c, sp, v);                                                                                   \
        reg_set##N(s, R_SP, sp);                                                                           \
    }                                                                                                      \
    static ALWAYS_INLINE u##N stack_top_##N(struct soft_cpu *c, struct insn *i, const struct x86_state *s) \
    {                                                                                                      \
        c->cur = i;                                                                                        \
        return READ(c, reg_get##N(s, R_SP));                                                               \
    }                                                                                                      \
    static ALWAYS_INLINE void stack_release_##N(struct x86_state *s, u64 n)                                \
    {                                                                                                      \
        reg_set##N(s, R_SP, (u##N)(reg_get##N(s, R_SP) + n));                                              \
    }
DEFINE_FAST_STACK(64, soft_stack_read64, soft_stack_write64)
DEFINE_FAST_STACK(32, soft_read32, soft_write32)
#undef DEFINE_FAST_STACK

/* --- address.c --- */

/* Offset of the memory operand in its segment, with @sp for RSP as base. */
u64 operand_offset(struct soft_cpu *c, const struct insn *i, const struct x86_state *s, u64 sp);

/* Linear address of @off in @seg, in any mode; raises what the segment objects to. */
u64 segment_linear(struct soft_cpu *c, struct x86_state *s, enum x86_seg seg, u64 off, unsigned size,
                   enum soft_access access);

/* --- lock.c --- */

/* Write permission first, then the value to modify. */
u64 rmw_slow_read(struct soft_cpu *c, u64 la, unsigned size);

/* Locked operations on what soft_atomic_ptr() cannot give: between these nobody else runs. */
u64 locked_begin(struct soft_cpu *c, u64 la, unsigned size);
void locked_end(struct soft_cpu *c);

/* Condition code @cc (the low four bits of Jcc) on arithmetic flags. */
static ALWAYS_INLINE bool flags_test(u16 f, unsigned cc)
{
    bool r;
    switch (cc >> 1) {
    case 0: r = f & AF_OF; break;
    case 1: r = f & AF_CF; break;
    case 2: r = f & AF_ZF; break;
    case 3: r = f & (AF_CF | AF_ZF); break;
    case 4: r = f & AF_SF; break;
    case 5: r = f & AF_PF; break;
    case 6: r = ((f >> 15) ^ f) & 1; break;
    default: r = (((f >> 15) ^ f) & 1) || (f & AF_ZF); break;
    }
    return r ^ (cc & 1);
}

/*
 * Handlers of one operation by form; the index is log2 of the operand size in bytes. In a form's
 * name the destination comes first: r register, m memory, i immediate.
 */
struct forms {
    handler *rr[4], *rm[4], *mr[4], *ri[4], *mi[4], *r[4], *m[4];
    handler *lock_mr[4], *lock_mi[4], *lock_m[4];
};

#endif
