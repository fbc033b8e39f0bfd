/*
 * What the software engines (interpret/, translate/) share: the software MMU, segmentation,
 * exception and interrupt delivery, system instructions. Internal to soft/.
 *
 * Rules
 * 1. A guest fault leaves the current instruction by longjmp to soft_cpu.fault (soft_raise() and
 *    friends do not return). Therefore no lock is held and nothing is allocated across a call that
 *    may raise, and whatever an instruction changes in x86_state is changed after its last call
 *    that may raise.
 * 2. When an instruction executes, state.rip holds the address of the *next* instruction and
 *    soft_cpu.insn_rip its own. A fault (as opposed to a trap) restores rip = insn_rip. RSP and
 *    other registers changed early are the handler's own business (rule 1).
 * 3. Functions taking a linear address ("la") expect segmentation done. Linear addresses are masked
 *    to 32 bits outside 64-bit mode by whoever computes them.
 * 4. Whatever changes CPL, CR0, CR3, CR4, EFER, CS, SS, RFLAGS.AC/VM or PKRU calls
 *    soft_mode_changed() afterwards; DS and ES: soft_data_segment_changed().
 * 5. Reads and writes are done once, in the order of the manual, and whole: an access that spans
 *    two pages checks both before it touches either.
 */
#ifndef TRAPEZE_SOFT_SOFT_H
#define TRAPEZE_SOFT_SOFT_H

#include <setjmp.h>

#include "cpu/io.h"
#include "cpu/msr.h"
#include "cpu/vm.h"

/* --- software TLB (mmu.c) --- */

#define SOFT_TLB_BITS 12
#define SOFT_TLB_SIZE (1u << SOFT_TLB_BITS)

/*
 * One 4 KiB page. A tag is the page's linear address with a context number in its low 12 bits;
 * SOFT_TLB_NONE where the access is not allowed or must be slow (MMIO, tracked page). A context
 * number stands for what may be accessed now: see mmu.c. Reads and writes by user code and by the
 * supervisor have tags of their own, so that both can use a page in turn. Host address = la + addend.
 */
struct soft_tlb_entry {
    u64 read[2], write[2]; /* [1]: at CPL 3 */
    u64 exec;
    intptr_t addend;
    u64 gpa; /* of the page, with the attribute bits of mmu.c in the low 12 */
    u64 tag; /* page and address space whatever the rights are; SOFT_TLB_NONE in an empty entry */
};
#define SOFT_TLB_NONE (~0ull)
#define SOFT_EXECUTED_PAGES 65536u /* by the low bits of the page's number */
/* Bits of gpa: a range may be as large as the piece of a large page that the entry is part of. */
#define SOFT_TLB_WIDE_READ (1u << 8)
#define SOFT_TLB_WIDE_WRITE (1u << 9)
#define SOFT_TLB_WIDE_SHIFT 21

/*
 * A level before the TLB for translated code, which picks the entry when it is made (the stack has one, each
 * segment, ...): linear addresses base + 0 ... base + limit - 1, up to 16 bytes of which each, may be
 * accessed at the host's address la + addend. limit_wide is the same for up to 64 bytes. Both are 0 in an
 * empty entry. Only mmu.c empties entries; see there for what may stand in one.
 */
struct soft_range {
    u64 base, limit, limit_wide;
    intptr_t addend;
};
#define SOFT_RANGES 256

enum soft_access { SOFT_READ, SOFT_WRITE, SOFT_EXEC };

/* What an instruction needs of the vector and x87 state; each but the last has the one before in it. */
enum vector_class { VECTOR_SSE, VECTOR_AVX, VECTOR_AVX512, VECTOR_X87, VECTOR_CLASSES };

/* A component of XSAVE areas: where it is in the standard form, its bytes, and whether it is aligned in the
 * compacted one. */
struct soft_xsave_component {
    u16 at, size;
    bool aligned;
};
#define SOFT_XSAVE_COMPONENTS 20

struct soft_cpu {
    /* The first 128 bytes have the shortest addresses in translated code. */
    struct x86_state *s;
    u64 ctx; /* context number of accesses at the current CPL */
    /*
     * For code that was found by linear address: a number in the upper 16 bits that stands for where the
     * executed pages are mapped now, and `mode` in the low ones. While it is the same, none of them has moved
     * (mmu.c, rule 8). 0 is none.
     */
    u64 map_key;
    /* Private to translate/, here for the sake of short addresses; see translate-internal.h. */
    u64 page_rip;     /* linear address of the page of the current block */
    _Atomic u32 kick; /* translated code is wanted back in the run loop */
    u32 map_cover;    /* bits of soft_tlb_entry.gpa that a page needs for map_key to stand for it */
    u64 far_gpr[5];   /* guest registers that have no host register */
    u64 window_mask;  /* windows: size of the current one - 1 */
    u64 touch_mask;   /* windows: what PEXT makes of an address with it, touched, tells of its slice */
    u64 scratch[2];
    void *shadow_limit; /* of the return stack, see below */
    u16 arith_flags;    /* arithmetic flags while a block executes */
    u32 wanted;         /* requests that end the run of blocks */
    u64 ctx_sys;        /* of implicit supervisor accesses (descriptor tables, TSS) at any CPL */
    struct vcpu *vcpu;
    u64 ctx_no_ac, ctx_ac; /* of the supervisor by EFLAGS.AC: what STAC and CLAC make of ctx */
    u64 insn_rip;          /* rule 2 */
    u8 cpl;
    u8 code_size;    /* 2, 4 or 8: default code width (from CS.L, CS.D and EFER.LMA) */
    u8 stack_size;   /* 2, 4 or 8: width of the stack pointer */
    bool stop_block; /* leave the current block after this instruction (mode change, code written) */
    u32 mode;        /* enum soft_mode_bits: what decoding and block lookup depend on */
    bool user;       /* accesses are those of CPL 3: index of soft_tlb_entry.read and write */
    u8 ext;          /* 1 while delivering an event from outside the program: EXT of error codes */
    bool no_step;    /* the current instruction is not followed by a single-step trap (INT n) */
    /* Private to interpret/, here for the sake of short addresses; see interpret-internal.h. */
    bool not_canonical; /* why #GP was raised last */
    struct insn *cur;   /* instruction that may fault with the state not published; else NULL */
    u64 block_rip;      /* rip at the start of the block */
    /* Private to translate/, likewise; see translate-internal.h. */
    void *shadow_sp, *shadow_top; /* return stack: where it is, is empty; shadow_limit: must not be below */
    void *host_sp;                /* of C, while translated code runs */
    u64 mode_key;                 /* of the cache by physical address */
    u32 tsc_inline; /* while run() lasts, the guest's TSC is the host's + clock_offset + state.tsc_offset */
    i64 clock_offset;
    const _Atomic u32 *requests; /* those that end the run of blocks: vcpu->requests, or none in lock-step */
    struct lockstep *lockstep;   /* not NULL while code is run to be compared (lock-step, below) */
    bool hide_writes;            /* no entry of the TLB gets a write tag by itself */
    u8 vector_away[VECTOR_CLASSES]; /* 0: the guest's registers are in the host's; translate/vector-state.c */
    u8 vector_level;                /* how many of them */
    u64 x87_fdp[2];                 /* operands of the last x87 instructions */
    void *window_gs;                /* windows: the GS that code of SOFT_MODE_WINDOW has */
    struct soft_range range[2][2][SOFT_RANGES] ALIGNED(64); /* [CPL 3][write] */
    u64 range_used[2][2][SOFT_RANGES / 64];                 /* bits: those that may be other than empty */
    struct soft_tlb_entry tlb[SOFT_TLB_SIZE] ALIGNED(64);
    u32 executed[SOFT_EXECUTED_PAGES /
                 32]; /* pages for which map_key must change when they are invalidated */
    u32 map_epoch;    /* changes when numbers of map_key are used again */
    jmp_buf fault;    /* rule 1 */
    struct soft_xsave_component xsave[SOFT_XSAVE_COMPONENTS]; /* fpu.c */
    bool xsavec;                                              /* the guest has it */
    struct mmu_private *mmu; /* mmu.c: contexts by PCID, the second level, large-page ranges */
    struct interpret_private *interpret;
    struct windows *windows; /* window.c, or NULL */
};

/* Everything that changes how the same bytes decode or which checks their code needs. */
enum soft_mode_bits {
    SOFT_MODE_CODE32 = 1 << 0, /* default operand size 32 */
    SOFT_MODE_CODE64 = 1 << 1,
    SOFT_MODE_STACK32 = 1 << 2, /* in 64-bit mode the stack is 64 bits wide regardless */
    SOFT_MODE_FLAT = 1 << 3,    /* CS, DS, ES, SS: base 0, limit 4 GiB, usable, writable data: no checks */
    SOFT_MODE_PE = 1 << 4,
    SOFT_MODE_VM86 = 1 << 5,
    SOFT_MODE_CPL3 = 1 << 6,
    SOFT_MODE_CPL0 = 1 << 7,
    SOFT_MODE_WINDOW = 1 << 8, /* 64-bit code that looks at windows first: the same instructions */
};

int soft_cpu_init(struct soft_cpu *c, struct vcpu *vcpu, struct error *err);
void soft_cpu_release(struct soft_cpu *c);

/* Re-derives cpl, code_size, stack_size, mode and the contexts from *s, and sets stop_block. */
void soft_mode_changed(struct soft_cpu *c);
/* The same for DS, ES, FS and GS, of which only the bit for flat segments depends. */
void soft_data_segment_changed(struct soft_cpu *c);

static inline u32 soft_requests(const struct soft_cpu *c)
{
    return atomic_load_explicit(c->requests, memory_order_acquire);
}

/* --- faults --- */

NORETURN void soft_raise(struct soft_cpu *c, enum x86_vector v);
NORETURN void soft_raise_err(struct soft_cpu *c, enum x86_vector v, u32 error);
/* #GP(0); the run loop makes it #SS(0) when the address was that of an operand on the stack. */
NORETURN void soft_raise_not_canonical(struct soft_cpu *c);
/* Sets CR2 and raises #PF. */
NORETURN void soft_raise_pf(struct soft_cpu *c, u64 la, u32 error);
/* A #DB fault (code breakpoint, general detect) with these bits for DR6. */
NORETURN void soft_raise_db(struct soft_cpu *c, u64 dr6_bits);
#define soft_gp0(c) soft_raise_err(c, X86_GP, 0)
#define soft_ud(c) soft_raise(c, X86_UD)

/* --- memory access by linear address at the current CPL (mmu.c; fast paths in mmu-inline.h) --- */

/* Slow paths; size 1, 2, 4, 8. Any alignment, page crossing, MMIO, tracked pages. #AC when enabled. */
u64 soft_read_slow(struct soft_cpu *c, u64 la, unsigned size);
void soft_write_slow(struct soft_cpu *c, u64 la, u64 value, unsigned size);

/* Of 8 bytes on the stack of 64-bit mode: #SS instead of #GP where the address is not canonical. */
u64 soft_stack_read_slow(struct soft_cpu *c, u64 la);
void soft_stack_write_slow(struct soft_cpu *c, u64 la, u64 value);

/* The same as the supervisor, for implicit accesses to GDT, LDT, IDT, TSS. */
u64 soft_sys_read(struct soft_cpu *c, u64 la, unsigned size);
void soft_sys_write(struct soft_cpu *c, u64 la, u64 value, unsigned size);

/* @len up to 4096; both pages are checked before the first byte moves. */
void soft_read_bytes(struct soft_cpu *c, u64 la, void *buf, unsigned len);
void soft_write_bytes(struct soft_cpu *c, u64 la, const void *buf, unsigned len);

/* #AC for a misaligned operand where that is enabled; comes before any #PF. The accessors above do it
 * themselves. */
void soft_check_alignment(struct soft_cpu *c, u64 la, unsigned size);

/* Raises what an access of @len bytes would raise, but #AC; touches nothing. */
void soft_probe(struct soft_cpu *c, u64 la, unsigned len, enum soft_access access);

/*
 * A host pointer through which the @size bytes (up to 16) at @la may be read and written atomically,
 * with the page's write already noted; NULL when they cross a page, are not RAM or lie in a page of
 * cached code (then the caller takes an exclusive section and uses soft_read/soft_write, which will
 * not raise any more). Raises as a write would.
 */
void *soft_atomic_ptr(struct soft_cpu *c, u64 la, unsigned size);

/*
 * Host pointer to @la for reading or writing up to the end of its page (*len is set to what is
 * left). For string instructions. A write pointer has its page's write noted. NULL where each
 * access must go through soft_read/soft_write: MMIO, writes to pages of cached code, data
 * breakpoints or alignment checks armed.
 */
void *soft_page_ptr(struct soft_cpu *c, u64 la, enum soft_access access, unsigned *len);

/* Translates for instruction fetch at the current CPL; raises #PF. gpa of @la. */
u64 soft_fetch_gpa(struct soft_cpu *c, u64 la);

/* Up to @len (at most 15 each page part) code bytes at @la; returns how many could be fetched before a page
 * that faults (0: raises). */
unsigned soft_fetch(struct soft_cpu *c, u64 la, u8 *buf, unsigned len);

/*
 * Drops write tags of the page that holds RAM at @gpa, for a page that has just become tracked. By the
 * vCPU's own thread, or by anyone inside an exclusive section.
 */
void soft_tlb_protect(struct soft_cpu *c, u64 gpa);

/*
 * The RAM page at @ram_offset, which held code, was written (interpret/block.c). May take its mark off
 * when it looks like data.
 */
void soft_code_written(struct soft_cpu *c, u64 ram_offset, bool hit);

/*
 * Lock-step (translate/lockstep.c): the same guest instructions are run several times over, and what
 * they wrote is undone in between. Meanwhile c->lockstep is set, and the functions of soft/ tell it of each
 * page that is looked up on the slow path and of each entry that the TLB gains. What must not happen twice
 * (devices, time, other vCPUs, flushes) calls soft_once() before it changes anything, in a place that
 * may raise; then the run ends there.
 */
void lockstep_writes(struct soft_cpu *c, u64 la, u64 gpa); /* a page of RAM; @la SOFT_TLB_NONE: a walk does */
void lockstep_fills(struct soft_cpu *c, struct soft_tlb_entry *e); /* @e is about to change; NULL: all are */
NORETURN void lockstep_once(struct soft_cpu *c);
static inline void soft_once(struct soft_cpu *c)
{
    if (unlikely(c->lockstep))
        lockstep_once(c);
}

/* From now on no entry gets a write tag by itself; gives or takes that of the one for @la. */
void soft_hide_writes(struct soft_cpu *c);
void soft_tlb_show_write(struct soft_cpu *c, u64 la, bool show);

/* Puts an entry back that lockstep_fills() told of. */
void soft_tlb_restore(struct soft_cpu *c, struct soft_tlb_entry *e, const struct soft_tlb_entry *old);

/*
 * Code at @la, whose translation is in the TLB, is about to be executed and to be found again by map_key,
 * which may change before that.
 */
void soft_note_executed(struct soft_cpu *c, u64 la);

/* TLB maintenance, SDM vol. 3, 4.10.4. */
void soft_tlb_flush_all(struct soft_cpu *c, bool globals);
void soft_tlb_flush_pcid(struct soft_cpu *c, unsigned pcid);
void soft_tlb_invlpg(struct soft_cpu *c, u64 la);
void soft_tlb_invlpg_pcid(struct soft_cpu *c, u64 la, unsigned pcid);

/* --- control registers and system instructions (system.c) --- */

/* MOV to CRn with every check and consequence (#GP, flushes, mode changes). */
void soft_write_cr(struct soft_cpu *c, unsigned n, u64 value);
u64 soft_read_cr(struct soft_cpu *c, unsigned n);
void soft_write_dr(struct soft_cpu *c, unsigned n, u64 value);
u64 soft_read_dr(struct soft_cpu *c, unsigned n);
void soft_rdmsr(struct soft_cpu *c); /* ECX -> EDX:EAX, with #GP and the CPL check */
void soft_wrmsr(struct soft_cpu *c);
void soft_cpuid(struct soft_cpu *c);
void soft_rdtsc(struct soft_cpu *c, bool with_aux);
void soft_invpcid(struct soft_cpu *c, u64 type, u64 desc_la);
void soft_lgdt(struct soft_cpu *c, u64 la, unsigned opsize, bool idt); /* reads limit and base at la */
void soft_sgdt(struct soft_cpu *c, u64 la, unsigned opsize, bool idt);
void soft_lmsw(struct soft_cpu *c, u16 value);
void soft_clts(struct soft_cpu *c);
void soft_hlt(struct soft_cpu *c);
void soft_syscall(struct soft_cpu *c);
void soft_sysret(struct soft_cpu *c, unsigned opsize);
void soft_sysenter(struct soft_cpu *c);
void soft_sysexit(struct soft_cpu *c, unsigned opsize);
void soft_swapgs(struct soft_cpu *c);
void soft_xsetbv(struct soft_cpu *c);
void soft_hypercall(struct soft_cpu *c); /* VMCALL, VMMCALL: KVM's convention */

/*
 * #GP unless CPL is 0 (or, for check_io, as IOPL and the TSS bitmap say). check_io is called for every
 * IN and OUT: it also knows the I/O breakpoints.
 */
void soft_require_cpl0(struct soft_cpu *c);
void soft_check_umip(struct soft_cpu *c); /* SLDT, SMSW, STR (SGDT and SIDT do it themselves) */
void soft_check_io(struct soft_cpu *c, u16 port, unsigned size);
/* CLI, STI, PUSHF, POPF and INT n in virtual-8086 mode and with VME/PVI. */
void soft_set_ac(struct soft_cpu *c, bool on); /* STAC, CLAC: need not leave the block */
void soft_cli(struct soft_cpu *c);
void soft_sti(struct soft_cpu *c);
u64 soft_pushf_image(struct soft_cpu *c, unsigned opsize);
void soft_popf(struct soft_cpu *c, u64 value, unsigned opsize);

/* --- segmentation (segment.c) --- */

/*
 * Loads DS, ES, FS, GS or SS (MOV, POP, LxS): SDM vol. 2 "MOV" and vol. 3, 5. Not CS. The shadow of
 * MOV SS and POP SS (int_shadow = 2) is the caller's.
 */
void soft_load_segment(struct soft_cpu *c, enum x86_seg seg, u16 selector);
void soft_lldt(struct soft_cpu *c, u16 selector);
void soft_ltr(struct soft_cpu *c, u16 selector);

/* LAR, LSL, VERR, VERW: true (ZF) when the selector is visible; *value for LAR/LSL. */
bool soft_lar(struct soft_cpu *c, u16 selector, u32 *value);
bool soft_lsl(struct soft_cpu *c, u16 selector, u32 *value);
bool soft_verr(struct soft_cpu *c, u16 selector, bool write);

/*
 * base + offset with limit, type and canonical checks for @size bytes; raises #GP(0), or #SS(0) for
 * SS. For modes and segments where the flat fast path does not apply.
 */
u64 soft_segment_check(struct soft_cpu *c, enum x86_seg seg, u64 offset, unsigned size,
                       enum soft_access access);

/* Far transfers, complete with call gates, task gates and privilege changes. */
void soft_jmp_far(struct soft_cpu *c, u16 selector, u64 offset, unsigned opsize);
void soft_call_far(struct soft_cpu *c, u16 selector, u64 offset, unsigned opsize);
void soft_ret_far(struct soft_cpu *c, unsigned opsize, u16 pop);
void soft_iret(struct soft_cpu *c, unsigned opsize);

/* Near branch target check: canonical in 64-bit mode, within CS's limit else; then sets rip. */
void soft_jump(struct soft_cpu *c, u64 target);

/* --- the stack (segment.c): widths from stack_size, checks of SS included --- */

/* Push/pop @size bytes at the current CPL. pop moves RSP only after the read succeeded. */
void soft_push(struct soft_cpu *c, u64 value, unsigned size);
u64 soft_pop(struct soft_cpu *c, unsigned size);

/* --- interrupts and exceptions (interrupt.c) --- */

enum soft_int_kind {
    SOFT_INT_EXTERNAL,
    SOFT_INT_EXCEPTION,
    SOFT_INT_SOFTWARE /* INT n */,
    SOFT_INT_INT3,
    SOFT_INT_INTO,
    SOFT_INT_INT1
};

/*
 * Delivers through the IDT or the real-mode vector table: gates, stack switch, IST, task gates,
 * error codes, VM86. Raises when delivery itself faults.
 */
void soft_interrupt(struct soft_cpu *c, u8 vector, enum soft_int_kind kind, bool has_error, u32 error);

/*
 * Takes the exception recorded in s->exception_*: delivers it, turns a fault during delivery into
 * the right one or a double fault (SDM vol. 3, table 6-5). False: triple fault.
 */
bool soft_deliver_exception(struct soft_cpu *c);

/* Delivers the external interrupt recorded in s->interrupt_*. As for soft_poll_events(). */
void soft_deliver_interrupt(struct soft_cpu *c);

/*
 * At an instruction boundary: serves VCPU_REQ_FLUSH_TLB, then pending debug traps, NMI and external
 * interrupts, with the shadow rules. True when something was delivered (or an exception during
 * delivery was recorded in s->exception_pending); clears HALTED when it was.
 *
 * To be called when vcpu->requests, s->pending_db or s->nmi_pending is not zero, and once after
 * anything that may open a window (STI, POPF, IRET, MOV CR8: they set stop_block). While
 * s->int_shadow is set nothing is delivered: the run loop executes exactly one instruction and
 * then calls soft_shadow_done().
 */
bool soft_poll_events(struct soft_cpu *c);

/* After the instruction that followed STI or MOV SS; @shadow is s->int_shadow from before it. */
static inline void soft_shadow_done(struct soft_cpu *c, u8 shadow)
{
    if (shadow && c->s->int_shadow == shadow)
        c->s->int_shadow = 0;
}

/* After an instruction that began with TF set: its trap becomes pending, soft_poll_events() takes it. */
static inline void soft_step_done(struct soft_cpu *c)
{
    if (!c->no_step)
        c->s->pending_db |= X86_DR6_BS;
    c->no_step = false;
}

/*
 * For a vCPU that another engine ran, one that raises #UD and #GP without need (take-back.c): true when the
 * state stood at the handler's first instruction and now stands in front of the accused one again.
 */
bool soft_take_back(struct soft_cpu *c);

/* Hardware task switch (task.c), SDM vol. 3, 7.3. */
enum soft_task_reason { SOFT_TASK_JMP, SOFT_TASK_CALL, SOFT_TASK_IRET, SOFT_TASK_GATE };
void soft_task_switch(struct soft_cpu *c, u16 tss_selector, enum soft_task_reason reason, bool has_error,
                      u32 error);

/* Code and data breakpoints (debug.c): cheap test first. */
static inline bool soft_breakpoints_armed(const struct soft_cpu *c)
{
    return unlikely(c->s->dr7 & 0xff);
}
/*
 * Before each instruction while armed, with its linear address: raises #DB (a fault), or takes RF's
 * protection away for the instruction after it. RF is kept in rflags only while breakpoints are armed.
 */
void soft_check_code_breakpoint(struct soft_cpu *c, u64 la);

/* #DB trap after the instruction. The memory functions above call these themselves. */
void soft_note_data_access(struct soft_cpu *c, u64 la, unsigned size, bool write);
void soft_note_io_access(struct soft_cpu *c, u16 port, unsigned size);

/* --- x87, SSE, AVX (fpu.c, native.c) --- */

struct native_stub; /* compiled form of one guest instruction, see native.h */

void soft_xsave_init(struct soft_cpu *c); /* once, with the VM's CPUID */
void soft_fxsave(struct soft_cpu *c, u64 la, bool rex_w);
void soft_fxrstor(struct soft_cpu *c, u64 la, bool rex_w);
enum soft_xsave_kind { SOFT_XSAVE, SOFT_XSAVEOPT, SOFT_XSAVEC, SOFT_XSAVES };
void soft_xsave(struct soft_cpu *c, u64 la, bool rex_w, enum soft_xsave_kind kind);
void soft_xrstor(struct soft_cpu *c, u64 la, bool rex_w, bool supervisor);

#endif
