/*
 * The walk of a guest's page tables: none, 32-bit with 4 MiB pages and PSE-36, PAE and 4-level
 * paging with 2 MiB and 1 GiB pages (SDM vol. 3, chapter 4). Pure over guest memory and the control
 * registers; every engine and every debugger uses this one.
 *
 * With PAE the four PDPTEs are read from memory at each walk, as AMD's processors do, and not kept
 * in registers; loading CR3 checks them (paging_pdptes_valid()).
 */
#ifndef TRAPEZE_CPU_PAGING_H
#define TRAPEZE_CPU_PAGING_H

#include "cpu/state.h"
#include "memory/memory.h"
#include "x86/cpuid.h"

/* What does not change while a VM runs. */
struct paging_env {
    struct memory *memory;
    unsigned maxphyaddr;
    bool page_1g, pse36;
    /* NULL, or told of each table entry at @gpa that is about to get its A or D bit. */
    void (*writes)(const struct paging_env *env, u64 gpa);
};

void paging_env_init(struct paging_env *env, struct memory *memory, const struct cpuid_table *cpuid);

/* An access: one of R, W, X with the mode it is made in. */
enum {
    PAGING_R = 1 << 0,
    PAGING_W = 1 << 1,
    PAGING_X = 1 << 2,
    PAGING_USER = 1 << 3, /* at CPL 3; else as the supervisor */
    PAGING_AC = 1 << 4,   /* explicit supervisor access with EFLAGS.AC set: SMAP does not apply */
};

struct paging_page {
    u64 gpa;       /* of the linear address itself */
    u8 shift;      /* of the page: 12, 21, 22 or 30 */
    u8 allow;      /* PAGING_R, W, X: what accesses of the same mode may do */
    bool user;     /* a user-mode address */
    bool writable; /* every entry has R/W set */
    bool nx;
    bool dirty; /* D is set: a write need not walk again. Always true without paging. */
    bool global;
    u32 error; /* page-fault error code, when the walk failed */
};

/*
 * What an access made as @access says (PAGING_USER, PAGING_AC) may do with a page of these rights: PAGING_R,
 * W, X. SDM vol. 3, 4.6.1.
 */
static inline unsigned paging_allowed(const struct x86_state *s, unsigned access, bool user, bool writable,
                                      bool nx)
{
    if (!(s->cr0 & X86_CR0_PG))
        return PAGING_R | PAGING_W | PAGING_X;
    if (access & PAGING_USER) {
        if (!user)
            return 0;
        return PAGING_R | (writable ? PAGING_W : 0) | (nx ? 0 : PAGING_X);
    }
    unsigned allow = PAGING_R | PAGING_X;
    if (writable || !(s->cr0 & X86_CR0_WP))
        allow |= PAGING_W;
    if (nx || (user && (s->cr4 & X86_CR4_SMEP)))
        allow &= ~PAGING_X;
    if (user && (s->cr4 & X86_CR4_SMAP) && !(access & PAGING_AC))
        allow &= PAGING_X;
    return allow;
}

/*
 * Translates @la for @access and sets accessed and dirty bits, atomically with respect to other
 * vCPUs. 0, or -1 with @out->error; then nothing was changed.
 */
int paging_walk(const struct paging_env *env, const struct x86_state *s, u64 la, unsigned access,
                struct paging_page *out);

/* For debuggers: no permission is checked and nothing changes. 0, or -1 when @la is not mapped. */
int paging_peek(const struct paging_env *env, const struct x86_state *s, u64 la, struct paging_page *out);

/* What loading CR3 with @cr3 under PAE paging checks: reserved bits of the present PDPTEs. */
bool paging_pdptes_valid(const struct paging_env *env, u64 cr3);

#endif
