/*
 * The inside of the translator. The overview and the rules (T1, T2, ...) that comments here cite stand in
 * docs/translator.md.
 */
#ifndef TRAPEZE_SOFT_TRANSLATE_INTERNAL_H
#define TRAPEZE_SOFT_TRANSLATE_INTERNAL_H

#include "soft/interpret/handlers.h"
#include "soft/native.h"
#include "soft/translate/emit.h"
#include "soft/window.h"

/* --- registers (T1) --- */

/* Host registers that translated code uses for itself. */
enum {
    HOST_A = 0 /* RAX */,
    HOST_C = 1 /* RCX */,
    HOST_D = 2 /* RDX */,
    HOST_SP = 4,
    HOST_CPU = 5 /* RBP */
};

/* The host register of each guest register, or FAR + its index in soft_cpu.far_gpr. */
#define FAR 16
extern const u8 translate_host_reg[16];

/* --- options --- */

/* Torture switches besides (options.c): TRAPEZE_TRANSLATE=word,word=number,... */
struct translate_options {
    u32 threshold;       /* runs of a block before it is translated */
    u32 code_size;       /* bytes of machine code at most, but see TRANSLATE_CODE_MIN */
    u32 no_chaining;     /* every block returns to the run loop */
    u32 no_returns;      /* returns are not predicted */
    u32 live_flags;      /* take all flags as live everywhere: exact even in faults */
    u32 no_native;       /* every instruction through the interpreter's handler */
    u32 slow_memory;     /* every inline access to memory misses */
    u32 block_insns;     /* not 0: instructions of a block at most */
    u32 flush;           /* not 0: a region goes after so many translations */
    u32 fail;            /* not 0: one translation in so many fails */
    u32 no_traces;       /* none are made */
    u32 no_windows;      /* nobody gets any */
    u32 windows;         /* all user code has them from the start */
    u32 no_pext;         /* as on processors where it is slow */
    u32 traces;          /* one is made wherever the run loop comes */
    u32 lockstep;        /* not 0: compare with the interpreter, one run in so many (lockstep.c) */
    u32 lockstep_blocks; /* how many blocks a compared run may enter */
};

int translate_read_options(struct translate_options *o, struct error *err);

/* --- translations --- */

/*
 * The ways into a block (T5): with the flags in the host's register or in arith_flags, with a look at
 * soft_cpu.kick or without.
 */
enum entry { ENTRY_HOST, ENTRY_SAVED, ENTRY_HOST_CHECKED, ENTRY_SAVED_CHECKED, ENTRIES };
#define ENTRY_CHECKED ENTRY_HOST_CHECKED /* the difference */
#define ENTRY_PATCH 5u                   /* bytes of a jump */

#define TRANSLATE_MAX_INSNS 64 /* of a trace; a block has fewer */

/* Code that may fault in a window, and its way round (T20). Offsets in the code of the translation. */
struct window_site {
    u16 begin, end, slow;
    u16 miss; /* the way round where the window lacks the slice */
    u16 off;  /* of the guest's instruction in its page */
};

/* The machine code of a block or a trace. */
struct translation {
    struct translation **link, *next; /* in the list of its page's; link is NULL: stale, not in the list */
    struct translation *same_hash;
    u64 key;             /* guest-physical address and mode, as the code cache has them */
    struct block *block; /* without its instructions: what the code was made from */
    u8 *entry[ENTRIES];  /* writable view */
    u8 *stale[2];        /* what the entries lead to when it is stale, by flags in the host or saved */
    u8 original[ENTRIES][ENTRY_PATCH];
    u8 *start; /* executable view */
    u32 size;  /* bytes of code */
    u32 links; /* the first exit that is patched to here; 0 is none */
    u32 runs;  /* entries from the run loop, counted in lock-step */
    u32 slot;  /* of a block that ends in the next page: its key is that of the last good mapping (T8) */
    u32 sites; /* T20: how many ... */
    const struct window_site *site; /* ... and where they are, behind the code */
    bool worn;                      /* T20: is made anew instead of being used again */
    u32 units;                      /* of all this in memory */
    u16 pieces;                     /* of a trace: blocks (T17); 0: it is none */
    u8 samples;                     /* how often a kick was noticed here */
    bool record;                    /* the next run shows what a trace consists of */
};

/* A direct exit to code in the same page, which is patched into a jump when its target has code (T6). */
struct translate_exit {
    u32 patch, unlinked; /* in the code: the 32-bit displacement, and where it leads when there is no code */
    u32 from, to;        /* translations; to is 0 when it is not linked */
    u32 next;            /* of those that lead to the same translation */
    u16 off;             /* in the page: where it leads */
    u8 entry;            /* enum entry of the target */
};

/* A direct exit to another page: where it led, and with what soft_cpu.page_rip + map_key (T6). */
struct translate_slot {
    u64 key; /* 0: nowhere yet */
    void *code;
};

/* An instruction that is executed by the interpreter's handler, ends with a pseudo instruction (T4). */
struct handler_insn {
    u32 id; /* number of the translation, and offset in the page; 0: none */
    u32 epoch;
    struct insn insn[2];
};
#define HANDLER_INSN_BITS 12

/*
 * The memory for code is a ring of regions, each with room for what belongs to its code (T10). The first
 * region with code is the oldest.
 */
struct code_region {
    u8 *code, *code_end; /* writable view */
    size_t arena, arena_used, arena_end;
    u32 exits, exits_used;
    u32 slots, slots_used;
    u32 *by_address; /* the numbers of its translations, in the order of their code (T20) */
    _Atomic u32 by_address_used;
};
#define REGIONS_MAX 16u
#define TRANSLATION_UNIT 32u
#define TRANSLATE_ARENA_MAX ((size_t)TRANSLATION_UNIT << 20) /* for handler_insn.id */
#define ACCESS_SIZES 7                                       /* 1, 2, 4, ... 64 bytes */

/* Code by linear address (T7). Entries are 32 bytes because of how the index is made. */
#define JUMP_CACHE_BITS 13
struct jump_cache_entry {
    u64 rip, map_key;
    void *code;
    u64 pad;
};

/* Code by guest-physical address and mode. */
#define CODE_CACHE_BITS 16
struct code_cache_entry {
    u64 key;
    void *code;
};

/* A prediction on the return stack, which grows down (T14). */
struct return_frame {
    void *code;
    u64 rip, map_key;
};
#define RETURN_STACK_SIZE (1u << 20)
#define RETURN_STACK_SLACK (64u << 10) /* below what translated code checks: for thunks and signals */
#define RETURN_SCAN 8u                 /* frames looked through for one that was skipped to */

#define TRANSLATE_EXITS_MAX (5u << 16)
#define TRANSLATE_SLOTS_MAX (1u << 17)
#define TRANSLATION_HASH_BITS 18

/* The ways between translated code and C, executable by all vCPUs. Writable view, but for enter. */
struct translate_thunks {
    u32 (*enter)(struct soft_cpu *c, void *code); /* returns the exit's number */
    u8 *handlers;                                 /* A: id of a handler_insn, C: how many from there on.
                                                     Returns to translated code or leaves it;
                                                     nothing else may be on the stack */
    u8 *handler;                                  /* the same for just one */
    u8 *leave;                  /* C: rip relative to the page, D: exit number, flags in the host's */
    u8 *leave_saved;            /* the same with flags in arith_flags */
    u8 *lookup;                 /* A: guest address; D: its code or 0; flags, C lost. By the TLB */
    u8 *cache;                  /* the same with a look into the jump cache before */
    u8 *ret;                    /* the same for a return: moves to its frame, or off the first one */
    u8 *slot[2];                /* A: offset of a slot in translate_cpu that did not fit; [64-bit code] */
    u8 *vector_save;            /* vector and x87 registers to x86_state; flags lost */
    u8 *vector_load, *x87_load; /* from there, where allowed; A, D and flags lost */
    u8 *range_miss[2][2][ACCESS_SIZES]; /* [CPL 3][write]; see emit_memory_thunks() */
};

/*
 * What the vCPUs of a VM share (T18): the code and the tables of what there is. Under @lock, unless it is
 * said otherwise.
 */
struct translate_vm {
    struct lock lock;
    struct vm *vm;
    struct translate_options options; /* constant */
    struct translate_thunks thunk;    /* constant */
    struct code_watch watch;
    struct translation **by_page; /* those that are not stale, by RAM page */
    struct translation **hash;    /* by guest-physical address and mode */
    u8 *code, *arena;             /* constant; writable view; translations */
    size_t code_size, arena_size; /* constant */
    struct code_region regions[REGIONS_MAX];
    u32 region_count, region; /* region: where new code goes */
    u32 evictions;            /* changes only while the other vCPUs are stopped */
    struct emit emit;         /* to_exec is constant */
    u8 *after_thunks;
    size_t huge;                  /* how much of the code's memory consists of huge pages, if there are any */
    struct translate_exit *exits; /* 0 is none */
    u32 *by_address;              /* what the regions have of it; constant */
};

/* trace.c (T17, T19) */
#define TRACE_PATH_MAX 64
#define SITE_BITS 16
#define HEAD_BITS 12
struct tracer {
    struct block *path[TRACE_PATH_MAX]; /* good for one epoch of the interpreter */
    unsigned count;
    u32 epoch;
    bool recording;
    u8 formed[1 << HEAD_BITS];   /* by hash of where they begin */
    u32 misses_left;             /* of all ranges, until somebody looks who has so many */
    u32 misses[4 * SOFT_RANGES]; /* of each range since then, as in soft_cpu.range */
    u64 since;                   /* host's TSC then */
    u16 next_range[4];
    struct {
        struct translation *code;
        u64 gpa;
    } owner[4 * SOFT_RANGES];     /* the trace that a range was given to last, and where */
    u8 bad[1 << (SITE_BITS - 3)]; /* bits by hash of gpa: instructions that do better with the TLB */
    /* The blocks of a trace as one, whose offsets are in their page. */
    u8 joined[sizeof(struct block) + (TRANSLATE_MAX_INSNS + 1) * sizeof(struct insn)] ALIGNED(64);
    u8 bytes[PAGE_SIZE];
};

struct translate_cpu {
    struct soft_cpu soft; /* first: HOST_CPU points here */
    struct jump_cache_entry jump_cache[1 << JUMP_CACHE_BITS];
    struct code_cache_entry code_cache[1 << CODE_CACHE_BITS];
    struct translate_slot slots[TRANSLATE_SLOTS_MAX];
    struct translate_vm *vm;
    struct translate_options options;
    struct translate_thunks thunk;
    struct handler_insn handler_insn[1 << HANDLER_INSN_BITS];
    u32 handler_epoch;  /* changes when they are good no more */
    u32 handler_blocks; /* the interpreter's epoch for which they are good */
    u8 *return_stack;
    u32 flags_killed;          /* see flags_probe() */
    bool bmi2;                 /* there is PEXT, and it is fast */
    u64 page_mask, index_mask; /* operands of code */
    u32 tries;                 /* of translating */
    struct lockstep *lockstep; /* lockstep.c, or NULL */
    struct tracer tracer;
    struct fault_catcher catcher;
    struct {
        u64 gpa;
        u32 count;
    } slow[4096];             /* T20: instructions whose accesses windows could not serve, by a hash */
    struct translation *worn; /* one of them is in this one */
    u32 worn_evictions;
    u32 budget;    /* in lock-step: blocks left to enter before translated code is left */
    u32 map_epoch; /* of soft_cpu.map_epoch, for which the slots and the jump cache are good */
};

/* Room that a block needs at most. */
#define TRANSLATE_BLOCK_CODE 25600u
#define TRANSLATE_BLOCK_ARENA 1024u
#define TRANSLATE_BLOCK_EXITS (2u * BLOCK_MAX_INSNS + 4u)
#define TRANSLATE_TRACE_CODE (800u * TRANSLATE_MAX_INSNS)
#define TRANSLATE_TRACE_ARENA (TRANSLATE_BLOCK_ARENA + PAGE_SIZE)
#define TRANSLATE_TRACE_EXITS (2u * TRANSLATE_MAX_INSNS + 4u)
#define TRANSLATE_COLD_ARENA (24u << 20) /* decoded blocks, of use only until they are translated */
#define TRANSLATE_CODE_MIN (128u << 10)  /* room for what is always there, and two regions for a block */

int translate_code_init(struct translate_cpu *t, struct error *err);
void translate_code_release(struct translate_cpu *t);
void translate_emit_thunks(struct translate_cpu *t);

/* Translates @b, for which there is room. It is stale to begin with. */
struct translation *translate_block(struct translate_cpu *t, const struct block *b);
int translate_vm_init(struct vm *vm, struct error *err); /* engine_ops.vm_init and so on */
void translate_vm_release(struct vm *vm);

/* --- cache.c --- */

/* How many translations there is room for, at most. */
static inline size_t translations_in(size_t arena_size)
{
    return arena_size / (sizeof(struct translation) + sizeof(struct block));
}

/* All regions are empty. */
void code_regions_init(struct translate_vm *v);
struct code_region *code_region(struct translate_vm *v); /* where new code goes */
void code_next_region(struct translate_vm *v); /* drops the oldest one's code; the other vCPUs are stopped */
bool code_next_empty(struct translate_vm *v);  /* the same, if it has none; false: nothing done */
bool code_room(struct translate_vm *v);        /* for any block */
bool code_room_for_trace(struct translate_vm *v);

u32 translation_number(const struct translate_vm *v, const struct translation *code);
struct translation *translation_at(const struct translate_vm *v, u32 number);

/* A new one for @b in the current region, with a copy of what it is made from. */
struct translation *translation_new(struct translate_vm *v, const struct block *b);
struct translation *translation_find(struct translate_vm *v, u64 gpa, u32 mode);
/* Can be found from now on; takes the place of the one that was found before, and its links (T6). */
void translation_enter(struct translate_vm *v, struct translation *code);

void exit_link(struct translate_vm *v, u32 number, struct translation *code);

/* Forgets what was found by linear address or for a mapping (T7). Without the lock. */
void forget_addresses(struct translate_cpu *t);
struct jump_cache_entry *jump_cache_entry(struct translate_cpu *t, u64 la);
struct code_cache_entry *code_cache_entry(struct translate_cpu *t, u64 key);

/* The instruction with this id, made of the bytes that its translation was made from (T4). Without the lock.
 */
struct handler_insn *handler_insn(struct translate_cpu *t, u32 id);

/*
 * Makes one piece of code of the first of these blocks and those that follow it on the recorded path, as far
 * as they can be one. There is room. It is stale to begin with.
 */
struct translation *translate_trace(struct translate_cpu *t, struct block *const *path, unsigned count);

/* --- trace.c (T17, T19) --- */

struct translator;

/* Run loop: translated code was left at a place where a kick made it look. */
void trace_sample(struct translate_cpu *t);
/* Is what is run next, which has @code or none, part of a path? */
bool trace_records(struct translate_cpu *t, struct translation *code);
/* The next block on the path; false when that ends with it. */
bool trace_append(struct translate_cpu *t, struct block *b);
/* The path ends here, whatever the reason. */
void trace_end(struct translate_cpu *t);
/* Where misses cost too much, those who cause them do without ranges. */
void trace_check_misses(struct translate_cpu *t);
/* The range for an access of a trace, or RANGE_NONE. */
unsigned trace_range(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
void trace_note_writes(struct translator *x);    /* by the instruction that was emitted */
void trace_forget_code(struct translate_cpu *t); /* some of it is about to go */
/* What still leads to @old leads to @code, which takes its place. It is there as long (T10). */
void trace_lead_on(struct translate_cpu *t, struct translation *old, struct translation *code);
bool trace_is_bad(const struct translate_cpu *t, u64 gpa); /* does the instruction do better with the TLB? */
void trace_set_bad(struct translate_cpu *t, u64 gpa);

/* --- windows.c (T20) --- */

bool translate_fault(struct fault_catcher *f, u64 address, long long *regs);
unsigned window_range(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
/* T21: may the access do without a look for its slice? */
bool window_has(const struct translator *x, unsigned base, i32 disp);
bool window_is_known(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
bool window_keeps_pointer(const struct translator *x,
                          const struct insn *i); /* does the instruction leave C alone (T22)? */
void window_note_writes(struct translator *x, unsigned first,
                        unsigned count); /* by instructions just emitted */
void window_note_sites(struct translator *x, struct translation *code);
void window_serve_worn(struct translate_cpu *t);

/* T5: makes the entries lead to the block, or out to the run loop. */
void translation_restore(struct translate_cpu *t, struct translation *code, u64 page);
void translation_make_stale(struct translate_cpu *t, struct translation *code);

/* Code for @la in the current mode (soft_cpu.mode_key) and mapping, for flags in arith_flags; or NULL. */
void *translate_find(struct translate_cpu *t, u64 la);

/* T16: after translated code was left, whose last address may be beyond 4 GiB. */
static inline void translate_cut_rip(struct soft_cpu *c)
{
    if (!(c->mode & SOFT_MODE_CODE64))
        c->s->rip = (u32)c->s->rip;
}

static inline void *translation_entry(const struct translate_cpu *t, const struct translation *code,
                                      enum entry entry)
{
    return code->entry[entry] + t->vm->emit.to_exec;
}

/* --- one block being translated --- */

#define SLOW_JUMPS 8u

/* Out of line: a look into the TLB after an access that missed its range. */
struct range_miss {
    u8 *jump, *back; /* displacement of the jump to it, and where to go when the TLB has the page */
    u8 *thunk;
    u32 range; /* its offset in struct soft_cpu */
    bool is_direct;
    struct address direct;
};

/* The instructions between which the address of the last x87 instruction is not yet in x86_state. */
struct x87_last {
    i32 off; /* relative to the page */
    u16 fop;
    bool fop_known, fdp_known;
    u8 slot; /* of soft_cpu.x87_fdp */
};

/* Where a block needs vector or x87 registers for the first time. */
struct vector_check {
    u8 *jump, *back;
    unsigned index; /* of the instruction */
    enum vector_class class;
    bool save, reload; /* flags that live in the host's registers there */
    struct x87_last x87;
};

/* T22. C plus @delta is the offset from GS of what @base, a guest register, points to. */
struct window_pointer {
    bool valid;
    u8 base;
    i32 delta;
};

/* A way round for an instruction that missed the TLB: its handler does all of it (T4). */
struct slow_path {
    struct range_miss miss[2];
    u8 misses;
    u8 *jump[SLOW_JUMPS];          /* displacements of the jumps to it */
    u8 *back;                      /* where it goes on */
    u8 *begin, *end;               /* of the instruction's code */
    bool gs;                       /* which may fault in a window (T20) */
    struct window_pointer pointer; /* as it must be where it goes on */
    bool leads;                    /* others do without a check since this one's succeeded (T21) */
    u8 *at, *miss_at;              /* of the way round; of that where the window lacks the slice */
    unsigned index;                /* of the instruction ... */
    u8 count;                      /* ... or the first of so many that are done together */
    u8 jumps;
    bool save;   /* flags are in the host's only where the jumps come from ... */
    bool reload; /* ... and where it goes on */
    u8 vector_known;
    struct x87_last x87;
};

/* A way out of the block that is not inline, or a detour. */
struct way_out {
    u8 *jump;
    i32 off;          /* of the target, relative to the page */
    enum entry entry; /* of the target */
    u8 *back;         /* not NULL: no way out, but the return stack is full */
};

/*
 * How to get the flags again that an instruction left, from the registers as they are now (T3). The operands
 * are guest registers, or an immediate where src is NO_GPR.
 */
#define NO_GPR 16
struct flag_recipe {
    enum { REDO_NOTHING, REDO_ALU, REDO_TEST } what; /* NOTHING: impossible */
    u8 op;                                           /* of the ALU: the opcode's number */
    u8 width, dst, src;
    bool undo; /* first, since it changed dst */
    i32 imm;
};

/* Where a trace goes on after a branch (T17). */
enum follow { FOLLOW_NONE, FOLLOW_NEXT, FOLLOW_TARGET };

/* The range of an access in a trace. */
struct site {
    u16 range;
    bool known;
};

/* T21. The window has the slice of what a register holds plus @disp, as slow path @leader's access found out.
 */
struct window_known {
    bool known;
    i32 disp;
    unsigned leader;
};

struct translator {
    struct translate_cpu *t;
    struct emit *e;
    const struct block *b;
    struct translation *code;
    bool wide;                      /* 64-bit code */
    bool frame;                     /* RBP points into the stack, as far as one can see */
    u8 word;                        /* bytes of an address and of what the stack takes: 8 or 4 */
    i32 block_off;                  /* of what insn.off is relative to, in its page */
    i32 head_off;                   /* of the first instruction */
    i32 end_off;                    /* of what follows the last */
    bool loop;                      /* ends with a branch to its start */
    bool hot;                       /* a trace */
    bool went_back;                 /* has followed a branch that leads backwards */
    unsigned whole;                 /* how many instructions handlers may do as one from the start */
    u8 follow[TRANSLATE_MAX_INSNS]; /* enum follow */
    struct site site[2][16];        /* [write][base register]: the one that its value was last used with */
    u8 *patched_to;                 /* how far what covers the entries of stale code reaches into the block */
    bool starts_saved;              /* flags are in arith_flags at the start, otherwise in the host's */
    unsigned index;                 /* of the instruction */
    bool flags_in_host;             /* T2 */
    bool flags_saved;
    bool ended;                                     /* control does not go past the last instruction */
    bool live[TRANSLATE_MAX_INSNS + 1];             /* flags before each instruction */
    u8 reader[TRANSLATE_MAX_INSNS + 1];             /* accesses to memory from here to what reads the flags */
    bool native[TRANSLATE_MAX_INSNS];               /* not by the interpreter's handler */
    struct flag_recipe recipe[TRANSLATE_MAX_INSNS]; /* for the flags before each instruction */
    struct flag_recipe now;                         /* for those after the last one noted */
    enum {
        FLAGS_LEFT,
        FLAGS_KILLED,
        FLAGS_WANTED /* by a fault only */,
        FLAGS_READ
    } flag_use[TRANSLATE_MAX_INSNS];
    struct window_known known[16];
    struct window_pointer pointer;
    struct slow_path *slow; /* of the current instruction, made when needed */
    struct slow_path slow_paths[TRANSLATE_MAX_INSNS];
    unsigned slow_count;
    struct way_out ways[2 * TRANSLATE_MAX_INSNS + 8];
    unsigned way_count;
    u8 vector_known; /* bit enum vector_class: known to be in host registers (T11) */
    struct x87_last x87_last;
    struct vector_check checks[TRANSLATE_MAX_INSNS];
    unsigned check_count;
    ZydisDecodedInstruction z; /* of the current instruction */
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct {
        ZydisDecodedInstruction z;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    } decoded[TRANSLATE_MAX_INSNS]; /* of the native ones */
};

/* Is code of this mode translated (T8, T16)? */
static inline bool translate_mode(u32 mode)
{
    const u32 flat = SOFT_MODE_PE | SOFT_MODE_FLAT | SOFT_MODE_CODE32 | SOFT_MODE_STACK32;
    return (mode & SOFT_MODE_CODE64) || (mode & (flat | SOFT_MODE_VM86)) == flat;
}

/* T16. Of the width of an address: 32 bits become 64 by zeros. */
static inline unsigned word_bits(const struct translator *x)
{
    return x->word * 8u;
}
static inline void word_mov(struct translator *x, unsigned to, unsigned from)
{
    emit_op_rr(x->e, x->wide, 0x89, from, to);
}
static inline void word_load(struct translator *x, unsigned to, struct address a)
{
    emit_op_rm(x->e, x->wide, 0x8b, to, a);
}
static inline void word_store(struct translator *x, struct address a, unsigned from)
{
    emit_op_rm(x->e, x->wide, 0x89, from, a);
}
static inline void word_lea(struct translator *x, unsigned to, struct address a)
{
    emit_op_rm(x->e, x->wide, 0x8d, to, a);
}

/* Emits z; false, with nothing emitted, when it is one for the interpreter's handler. */
bool translate_insn(struct translator *x, const struct insn *i);
/* Does its code leave C alone, but for a memory operand? */
bool translate_leaves_c(const struct translator *x, const struct insn *i);
/* Would translate_insn() do it? */
bool translate_insn_known(const struct translator *x, const struct insn *i);

/* --- dump.c --- */

typedef void dump_line(const char *line);
dump_line dump_error, dump_trace;

/* The guest code that @code was made from, which is at @rip; what is known of it (@x may be NULL); the code.
 */
void translate_dump(struct translate_cpu *t, const struct translation *code, u64 rip,
                    const struct translator *x, dump_line *out);

/* --- system.c --- */

bool system_known(const struct translator *x);
void system_emit(struct translator *x);

/* T15, after a handler that ended a run, all state in x86_state: A is where translated code goes on, or the
 * jump whose displacement is returned is taken. */
u8 *system_emit_resume(struct emit *e);

/* --- lockstep.c --- */

int lockstep_init(struct translate_cpu *t, struct error *err);
void lockstep_release(struct translate_cpu *t);

/* Runs @code in lock-step. False when this run is not one to compare, and nothing was done. Raises. */
bool lockstep_run(struct translate_cpu *t, struct translation *code, u32 *left_by);

/* --- flags.c (T2, T3) --- */

bool translate_reads_flags(const ZydisDecodedInstruction *z);
bool translate_writes_flags(const ZydisDecodedInstruction *z);
bool translate_kills_flags(const struct translator *x);
u32 flags_probe(void); /* for translate_cpu.flags_killed: what the host's CPU does with undefined flags */

void flags_save(struct translator *x); /* before code that destroys them, where they are live */
void flags_destroyed(struct translator *x);
bool flags_only_in_host(const struct translator *x); /* and live before the instruction */
void flags_lost(struct translator *x); /* before code that destroys them and may take the slow path */
/* Finds out x->live and x->recipe (T3): for each instruction in order, once decoded, then for all. */
void flags_note(struct translator *x, unsigned n);
void flags_find_live(struct translator *x);
void flags_redo(struct translator *x,
                const struct flag_recipe *r); /* into arith_flags; all temporaries lost */
void flags_load(struct translator *x);        /* before code that needs them in the host's; A is lost */
void emit_load_flags(struct emit *e);         /* from arith_flags; A is lost */
void emit_save_flags(struct emit *e);         /* to there; A is lost */

/* Flags as an instruction needs them, once the check of its memory operand is done; and after it. */
void flags_before(struct translator *x);
void flags_after(struct translator *x);

/* --- block.c --- */

/* Calls the handlers of some of the block's instructions (T4). */
void call_handlers(struct translator *x, unsigned first, unsigned count);

struct slow_path *slow_path(struct translator *x); /* of the current instruction */
void slow_jump(struct translator *x, u8 cc);       /* conditional jump to it */

/* --- memory.c: operands --- */

const ZydisDecodedOperand *memory_operand(const struct translator *x);
const ZydisDecodedOperand *operand_in(const struct translator *x, ZydisOperandEncoding where);
bool plain_memory(const struct translator *x, const ZydisDecodedOperand *m);
bool plain_operands(const struct translator *x); /* none that the general way cannot do */

bool gpr_is_plain(ZydisRegister r); /* a general register or its low part */
bool high_byte(ZydisRegister r);
unsigned gpr_of(ZydisRegister r); /* number of the guest register that @r is or is part of */
bool is_far(unsigned r);
struct address far_gpr(unsigned r);
/* The host register with guest register @r, loaded into @tmp when it is far. */
unsigned gpr_get(struct translator *x, unsigned r, unsigned tmp);
/* Guest register @r becomes host register @from, all 64 bits. */
void gpr_set(struct translator *x, unsigned r, unsigned from);

/* The displacement from rip's page, which must not overflow. */
i64 rip_disp(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
/* Linear address into @to. A and @to are lost, and D and flags for FS and GS in 32-bit code. */
void emit_address(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m, unsigned to);
/* Which range to look into first (soft.h): any is right, a good choice hits. */
enum {
    RANGE_STACK,
    RANGE_FS,
    RANGE_GS,
    RANGE_FIXED, /* 4 of them for addresses without registers, by page */
    RANGE_NONE = SOFT_RANGES,
    RANGE_WINDOW /* T20 */
};
unsigned memory_range(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
/* C: from linear address to host pointer for @size bytes, or the slow path. A, D and flags are lost. Twice an
 * instruction at most. */
void emit_tlb(struct translator *x, unsigned range, unsigned size, bool write);
/* The same for code that can fault only there, and changes nothing before: the operand, which may be by GS
 * (T20). */
struct address emit_pointer_at_c(struct translator *x, unsigned range, unsigned size, bool write);
/* The TLB entry whose offset in soft_cpu.tlb is in A; offset of the tag of such an access in it. */
struct address tlb_field(size_t field);
size_t tlb_tag(bool user, bool write);
void emit_range_miss(struct translator *x, struct slow_path *p, const struct range_miss *m);
void emit_memory_thunks(struct translate_cpu *t);
/* Does it pay to look for the memory operand without touching the flags? */
bool keeps_flags(struct translator *x, const struct insn *i);
/* As emit_pointer(), in an instruction that takes the slow path from nowhere else. */
struct address emit_pointer_keeping_flags(struct translator *x, const struct insn *i,
                                          const ZydisDecodedOperand *m);
/*
 * The memory at guest register @base and @disp as an operand of the host, in which C may be. A and D are
 * lost; and flags unless @sole: the instruction takes the slow path from nowhere else.
 */
struct address emit_based(struct translator *x, unsigned base, i32 disp, unsigned size, bool write,
                          bool sole);
/* Makes the memory operand one of the host, in which C may be. A, D and flags are lost. */
struct address emit_operand(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
/* The same, but of the registers only C and HOST_CPU are in it. */
struct address emit_operand_at_c(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);
/* Host pointer to the memory operand into C. */
void emit_pointer(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m);

/* The operand by base and displacement alone, as the host can have it, too: true and @a. */
bool direct_address(const struct translator *x, const ZydisDecodedOperand *m, struct address *a);
/* @to becomes what PEXT or PDEP make of @from and a mask. No flags are touched. */
void emit_bits(struct emit *e, u8 rep, unsigned to, unsigned from, struct address mask);
#define PEXT 0xf3
#define PDEP 0xf2

/* --- windows.c: code --- */

/*
 * The operand at the linear address in host register @base, C or D; or at guest register @base and @disp. A
 * and C are lost, and flags unless @sole (see emit_based()).
 */
struct address emit_window(struct translator *x, unsigned base, bool sole);
struct address emit_window_operand(struct translator *x, unsigned base, i32 disp, bool sole);
void emit_window_pointer(struct emit *e,
                         const struct window_pointer *p); /* C becomes as @p says; flags are lost */

/* --- branch.c --- */

void way_on(struct translator *x, i32 off);  /* a jump to @off of the page, flags saved */
void way_out(struct translator *x, i32 off); /* the block ends here and goes on at @off of the page */
void leave(struct translator *x, const struct way_out *w); /* the code of a way out */
struct address slot_field(u32 slot, size_t field);
void leave_saved(struct translator *x, i32 off); /* to the run loop at @off, flags saved */

struct address push_operand(struct translator *x); /* where a push goes; as emit_based(), @sole */
void move_sp(struct translator *x, i32 by);

bool near_known(const struct translator *x); /* is it a near branch that is done natively? */
bool is_condition(ZydisMnemonic m, u8 *cc);
void emit_push(struct translator *x, const struct insn *i);
void emit_pop(struct translator *x);
/* Pushes or pops that follow each other, with one check for all: their number, or 0 where there is but one.
 */
unsigned emit_stack_run(struct translator *x, unsigned first);
void emit_leave_insn(struct translator *x);
void emit_jmp(struct translator *x, const struct insn *i);
void emit_call(struct translator *x, const struct insn *i);
void emit_ret(struct translator *x);
void emit_jcc(struct translator *x, const struct insn *i);

/* A subroutine that looks into the jump cache for A and goes on to the one at @lookup when that has nothing.
 */
void emit_cache_lookup(struct emit *e, const u8 *lookup);

/* --- vector.c, vector-state.c (T11, T12) --- */

void vector_init(struct soft_cpu *c);
void vector_emit_thunks(struct translate_cpu *t);
void emit_vector_save(struct translate_cpu *t); /* if they are in host registers; flags are lost */
void emit_vector_present(struct emit *e, enum vector_class class); /* ZF: they are */

/* vector-control.c: how a control instruction is done; NULL when it is none, or a handler's. */
typedef void (*vector_control_fn)(struct translator *x, const struct insn *i);
vector_control_fn vector_control(const struct translator *x);

bool is_vector(const struct insn *i);
bool vector_known(const struct translator *x, const struct insn *i);
bool vector_leaves_c(const struct translator *x, const struct insn *i); /* as translate_leaves_c() */
void vector_emit(struct translator *x, const struct insn *i);
void vector_emit_load(struct translator *x, enum vector_class class); /* ZF: it worked; A and D are lost */
/* Before the block ends or handlers go on: what is known of the last x87 instruction; A and C are lost. */
void vector_flush(struct translator *x);
void vector_pointers(struct translator *x, const struct x87_last *last);
void vector_emit_checks(struct translator *x); /* what is not inline */
void vector_emit_return(struct translator *x, const struct slow_path *p);

#endif
