/* What the system half of the software engines shares: mmu.c segment.c interrupt.c task.c system.c debug.c.
 */
#ifndef TRAPEZE_SOFT_SYSTEM_INTERNAL_H
#define TRAPEZE_SOFT_SYSTEM_INTERNAL_H

#include "cpu/paging.h"
#include "soft/soft.h"

/* --- memory as another privilege (mmu.c) --- */

/* What permissions depend on; each PCID has a context number for each. */
enum mmu_class {
    MMU_USER,   /* CPL 3 */
    MMU_SYS,    /* supervisor; with SMAP, user pages are out of bounds */
    MMU_SYS_AC, /* explicit supervisor accesses with SMAP lifted by EFLAGS.AC */
    MMU_CLASSES
};

int mmu_init(struct soft_cpu *c, struct error *err);
void mmu_release(struct soft_cpu *c);

/* Adopts CPL, CR0, CR3, CR4, EFLAGS.AC and DR7: chooses c->ctx and c->ctx_sys. */
void mmu_update(struct soft_cpu *c);

/* For the stacks of other privilege levels, which are read and written before CPL changes. */
u64 mmu_read_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned size);
void mmu_write_as(struct soft_cpu *c, enum mmu_class cls, u64 la, u64 value, unsigned size);
void mmu_probe_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned len, enum soft_access access);

static inline enum mmu_class mmu_class_of_cpl(unsigned cpl)
{
    return cpl == 3 ? MMU_USER : MMU_SYS;
}

const struct paging_env *mmu_paging_env(const struct soft_cpu *c);

/* --- descriptors (descriptor.c) --- */

#define SELECTOR_TI 4u
#define SELECTOR_RPL 3u

/* S and type of system descriptors (X86_ATTR_S clear) */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS = 9, /* 32-bit; 64-bit in long mode, as for the following */
    DESC_TSS_BUSY = 11,
    DESC_CALL = 12,
    DESC_INT = 14,
    DESC_TRAP = 15,
};

/* As it stands in memory. @high is the second half of the 16-byte ones of long mode. */
struct descriptor {
    u64 low, high;
    u64 la;
};

/* In the layout of x86_segment.attr. */
static inline u32 desc_attr(const struct descriptor *d)
{
    return (u32)(d->low >> 40) & 0xf0ff;
}
/* Type and S. */
static inline unsigned desc_type(const struct descriptor *d)
{
    return (unsigned)(d->low >> 40) & 0x1f;
}
static inline unsigned desc_dpl(const struct descriptor *d)
{
    return (unsigned)(d->low >> 45) & 3;
}
static inline bool desc_present(const struct descriptor *d)
{
    return d->low & BIT(47);
}
static inline bool desc_is_code(const struct descriptor *d)
{
    return (desc_type(d) & (X86_ATTR_S | X86_ATTR_CODE)) == (X86_ATTR_S | X86_ATTR_CODE);
}
static inline bool desc_is_conforming(const struct descriptor *d)
{
    return desc_is_code(d) && (desc_type(d) & X86_ATTR_DC);
}
static inline bool desc_is_writable_data(const struct descriptor *d)
{
    return (desc_type(d) & (X86_ATTR_S | X86_ATTR_CODE | X86_ATTR_RW)) == (X86_ATTR_S | X86_ATTR_RW);
}
static inline bool desc_is_code64(const struct descriptor *d)
{
    return desc_attr(d) & X86_ATTR_L;
}
/* Gates */
static inline u16 gate_selector(const struct descriptor *d)
{
    return (u16)(d->low >> 16);
}
static inline u64 gate_offset(const struct descriptor *d, bool wide32)
{
    u64 low = d->low & 0xffff;
    return wide32 ? low | (d->low >> 48) << 16 | (d->high & 0xffffffffu) << 32 : low;
}

static inline bool selector_null(u16 selector)
{
    return (selector & ~SELECTOR_RPL) == 0;
}

/* Raises @v with the selector as error code (EXT is added by soft_raise_err()). */
NORETURN void desc_fault(struct soft_cpu *c, enum x86_vector v, u16 selector);

/* Reads the 8 bytes of @selector's descriptor; false when it is outside its table. */
bool desc_try_fetch(struct soft_cpu *c, u16 selector, struct descriptor *d);

/* The same; raises @v(selector) when it is outside, or #GP(0) when it is null. */
void desc_fetch(struct soft_cpu *c, u16 selector, struct descriptor *d, enum x86_vector v);

/* The second half of a system descriptor in long mode. */
void desc_fetch_high(struct soft_cpu *c, u16 selector, struct descriptor *d, enum x86_vector v);

/* Sets the accessed bit in memory and in @d. */
void desc_mark_accessed(struct soft_cpu *c, struct descriptor *d);

/* Sets or clears the busy bit of a TSS descriptor in memory. */
void desc_set_busy(struct soft_cpu *c, const struct descriptor *d, bool busy);

/* The register contents for @d. */
struct x86_segment desc_segment(const struct descriptor *d, u16 selector);

/* A null SS of long mode at @cpl. */
struct x86_segment null_ss(unsigned cpl);

/* What CS or a data segment of real (@v86: virtual-8086) mode holds after loading @selector. */
struct x86_segment real_segment(const struct x86_segment *old, u16 selector, bool code, bool v86);

/* #GP(0) unless @rip may be executed in the code segment @d. */
void check_code_target(struct soft_cpu *c, const struct descriptor *d, u64 rip);

/* --- a stack that is not current yet (stack.c) --- */

/*
 * A cursor over a stack. Nothing of the CPU changes until stack_commit(), so that a fault in the
 * middle of a frame leaves everything as it was.
 */
struct stack {
    struct x86_segment ss;
    u64 rsp;
    unsigned width; /* of the stack pointer: 2, 4 or 8 */
    enum mmu_class cls;
    u16 error; /* of #SS: 0 for the current stack, the selector of a new one */
};

/* The current stack. */
void stack_current(const struct soft_cpu *c, struct stack *st);

/* The stack for privilege level @cpl from the TSS, with the checks of SS (legacy) or a null SS (long mode).
 */
void stack_inner(struct soft_cpu *c, unsigned cpl, struct stack *st);

/* RSP from the long mode TSS: @index 0..2 for RSPn, 3 + n for ISTn. */
u64 stack_tss64(struct soft_cpu *c, unsigned index);

void stack_push(struct soft_cpu *c, struct stack *st, u64 value, unsigned size);
u64 stack_pop(struct soft_cpu *c, struct stack *st, unsigned size);

/* @n bytes further up, without reading. */
void stack_skip(struct stack *st, u64 n);

/* Sets SS and RSP (by @st->width). soft_mode_changed() is up to the caller. */
void stack_commit(struct soft_cpu *c, const struct stack *st);

/*
 * Linear address of @size bytes at @offset of @seg: checks of limit and canonical form raise
 * @v(@error). @wide: the address is 64 bits wide and @offset has its base added already, if any.
 */
u64 segment_address(struct soft_cpu *c, const struct x86_segment *seg, u64 offset, unsigned size, bool wide,
                    enum x86_vector v, u16 error);

/* --- interrupt.c, task.c, debug.c --- */

/* The flags that IRET and POPF of @opsize may change at the current CPL and IOPL. */
u64 popf_mask(const struct soft_cpu *c, unsigned opsize);

/* Sets RFLAGS from an image: fixed bits, RF only where it matters. soft_mode_changed() is up to the caller.
 */
void set_flags(struct soft_cpu *c, u64 image, u64 mask);

/* DS, ES, FS, GS that the new, outer privilege level may not use become null. */
void drop_inner_segments(struct soft_cpu *c, unsigned cpl);

#endif
