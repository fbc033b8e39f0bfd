#include "cpu/paging.h"

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)

/* One table entry that a walk went through. @host is NULL when the table is not in RAM. */
struct step {
    u8 *host;
    u64 gpa;
    u64 value;
    bool accessed; /* the entry has an accessed bit */
};

struct walk {
    const struct paging_env *env;
    const struct x86_state *s;
    unsigned access;
    unsigned size; /* of an entry in bytes */
    unsigned depth;
    struct step steps[4];
    bool writable, user, nx;
};

void paging_env_init(struct paging_env *env, struct memory *memory, const struct cpuid_table *cpuid)
{
    env->memory = memory;
    env->maxphyaddr = cpuid->maxphyaddr;
    env->page_1g = cpuid_has(cpuid, CPUID_PDPE1GB);
    env->pse36 = cpuid_has(cpuid, CPUID_PSE36);
    env->writes = NULL;
}

/* Address bits that the processor does not have, up to bit 51. */
static u64 reserved_address(const struct paging_env *env)
{
    return MASK(52) & ~MASK(env->maxphyaddr);
}

/* Reads the entry at @gpa and notes the step. Where there is no RAM, all bits read as one. */
static u64 load_entry(struct walk *w, u64 gpa, bool accessed)
{
    struct step *st = &w->steps[w->depth++];
    st->host = memory_ram(w->env->memory, gpa);
    st->gpa = gpa;
    st->accessed = accessed;
    if (!st->host)
        st->value = w->size == 8 ? ~0ull : 0xffffffffu;
    else if (w->size == 8)
        st->value = __atomic_load_n((u64 *)st->host, __ATOMIC_ACQUIRE);
    else
        st->value = __atomic_load_n((u32 *)st->host, __ATOMIC_ACQUIRE);
    return st->value;
}

static void combine(struct walk *w, u64 entry)
{
    w->writable &= (entry & PTE_W) != 0;
    w->user &= (entry & PTE_U) != 0;
    w->nx |= w->size == 8 && (entry & PTE_NX);
}

static int fail(const struct walk *w, struct paging_page *out, u32 error)
{
    const struct x86_state *s = w->s;
    if (w->access & PAGING_W)
        error |= X86_PFEC_W;
    if (w->access & PAGING_USER)
        error |= X86_PFEC_U;
    /* The I/D bit exists only with NX or SMEP (SDM vol. 3, 4.7). */
    bool nx = (s->cr4 & X86_CR4_PAE) && (s->efer & X86_EFER_NXE);
    if ((w->access & PAGING_X) && (nx || (s->cr4 & X86_CR4_SMEP)))
        error |= X86_PFEC_I;
    out->error = error;
    return -1;
}

static int fail_reserved(const struct walk *w, struct paging_page *out)
{
    return fail(w, out, X86_PFEC_P | X86_PFEC_RSVD);
}

/* The entry @leaf maps a page of 1 << @shift bytes at @base: fills @out. */
static void set_page(struct walk *w, struct paging_page *out, u64 leaf, u64 base, u64 la, unsigned shift)
{
    out->gpa = (base & ~MASK(shift)) | (la & MASK(shift));
    out->shift = (u8)shift;
    out->user = w->user;
    out->writable = w->writable;
    out->nx = w->nx;
    out->dirty = (leaf & PTE_D) != 0;
    out->global = (leaf & PTE_G) && (w->s->cr4 & X86_CR4_PGE);
    out->allow = (u8)paging_allowed(w->s, w->access, w->user, w->writable, w->nx);
}

static int walk_legacy(struct walk *w, u64 la, struct paging_page *out)
{
    w->size = 4;
    u64 pde = load_entry(w, (w->s->cr3 & 0xfffff000u) | (la >> 22 & 0x3ff) << 2, true);
    if (!(pde & PTE_P))
        return fail(w, out, 0);
    combine(w, pde);
    if ((pde & PTE_PS) && (w->s->cr4 & X86_CR4_PSE)) {
        /* PSE-36 has address bits 39:32 in bits 20:13; the others there are reserved. */
        unsigned high = w->env->pse36 ? MIN(w->env->maxphyaddr, 40u) - 32 : 0;
        if (pde & (MASK(22) & ~MASK(13 + high)))
            return fail_reserved(w, out);
        set_page(w, out, pde, (pde & 0xffc00000u) | bits(pde, 20, 13) << 32, la, 22);
        return 0;
    }
    u64 pte = load_entry(w, (pde & 0xfffff000u) | (la >> 12 & 0x3ff) << 2, true);
    if (!(pte & PTE_P))
        return fail(w, out, 0);
    combine(w, pte);
    set_page(w, out, pte, pte & 0xfffff000u, la, 12);
    return 0;
}

/* The levels that PAE and 4-level paging share, from the table at @table of @level down to 0. */
static int walk_tables(struct walk *w, u64 table, unsigned level, u64 la, u64 reserved,
                       struct paging_page *out)
{
    for (;; level--) {
        unsigned shift = 12 + 9 * level;
        u64 e = load_entry(w, table | (la >> shift & 0x1ff) << 3, true);
        if (!(e & PTE_P))
            return fail(w, out, 0);
        if (e & reserved)
            return fail_reserved(w, out);
        bool leaf = level == 0 || (e & PTE_PS);
        if (level != 0 && leaf) {
            if (level == 3 || (level == 2 && !w->env->page_1g))
                return fail_reserved(w, out);
            if (e & MASK(shift) & ~MASK(13)) /* bit 12 is the PAT bit */
                return fail_reserved(w, out);
        }
        combine(w, e);
        u64 address = e & MASK(52) & PAGE_MASK;
        if (leaf) {
            set_page(w, out, e, address, la, shift);
            return 0;
        }
        table = address;
    }
}

static int walk_pae(struct walk *w, u64 la, struct paging_page *out)
{
    w->size = 8;
    u64 reserved = reserved_address(w->env);
    u64 pdpte = load_entry(w, (w->s->cr3 & 0xffffffe0u) | (la >> 30 & 3) << 3, false);
    if (!(pdpte & PTE_P))
        return fail(w, out, 0);
    if (pdpte & (reserved | 0x1e6 | ~MASK(52)))
        return fail_reserved(w, out);
    /* Unlike 4-level paging, bits 62:52 are reserved (SDM vol. 3, 4.4.2). */
    reserved |= MASK(63) & ~MASK(52);
    if (!(w->s->efer & X86_EFER_NXE))
        reserved |= PTE_NX;
    return walk_tables(w, pdpte & MASK(52) & PAGE_MASK, 1, la, reserved, out);
}

static int walk_long(struct walk *w, u64 la, struct paging_page *out)
{
    w->size = 8;
    u64 reserved = reserved_address(w->env);
    if (!(w->s->efer & X86_EFER_NXE))
        reserved |= PTE_NX;
    return walk_tables(w, w->s->cr3 & MASK(52) & PAGE_MASK, 3, la, reserved, out);
}

static void no_paging(u64 la, struct paging_page *out)
{
    *out = (struct paging_page){
        .gpa = la & 0xffffffffu,
        .shift = 12,
        .allow = PAGING_R | PAGING_W | PAGING_X,
        .user = true,
        .writable = true,
        .dirty = true,
    };
}

static int walk_once(struct walk *w, u64 la, struct paging_page *out)
{
    w->depth = 0;
    w->writable = w->user = true;
    w->nx = false;
    if (w->s->efer & X86_EFER_LMA)
        return walk_long(w, la, out);
    la &= 0xffffffffu;
    if (w->s->cr4 & X86_CR4_PAE)
        return walk_pae(w, la, out);
    return walk_legacy(w, la, out);
}

/*
 * Sets @set in the entry of @st unless it is there; false when the entry has changed since it was
 * read: the walk then starts over.
 */
static bool set_bits(const struct walk *w, const struct step *st, u64 set)
{
    if ((st->value & set) == set || !st->host)
        return true;
    if (unlikely(w->env->writes))
        w->env->writes(w->env, st->gpa);
    bool done;
    if (w->size == 8) {
        u64 old = st->value;
        done = __atomic_compare_exchange_n((u64 *)st->host, &old, old | set, false, __ATOMIC_ACQ_REL,
                                           __ATOMIC_RELAXED);
    } else {
        u32 old = (u32)st->value;
        done = __atomic_compare_exchange_n((u32 *)st->host, &old, (u32)(old | set), false, __ATOMIC_ACQ_REL,
                                           __ATOMIC_RELAXED);
    }
    u64 offset = (u64)memory_ram_offset(w->env->memory, st->gpa);
    if (done && unlikely(memory_page_tracked(w->env->memory, offset)))
        memory_note_write(w->env->memory, offset, 8);
    return done;
}

/* Accessed bits from the top down, the dirty bit at the leaf. */
static bool mark_used(const struct walk *w)
{
    for (unsigned i = 0; i < w->depth; i++) {
        bool dirty = i + 1 == w->depth && (w->access & PAGING_W);
        if (w->steps[i].accessed && !set_bits(w, &w->steps[i], PTE_A | (dirty ? PTE_D : 0)))
            return false;
    }
    return true;
}

int paging_walk(const struct paging_env *env, const struct x86_state *s, u64 la, unsigned access,
                struct paging_page *out)
{
    if (!(s->cr0 & X86_CR0_PG)) {
        no_paging(la, out);
        return 0;
    }
    struct walk w = {.env = env, .s = s, .access = access};
    /* It starts over only when another vCPU has changed an entry meanwhile. */
    do {
        if (walk_once(&w, la, out) != 0)
            return -1;
        if (!(out->allow & access))
            return fail(&w, out, X86_PFEC_P);
    } while (!mark_used(&w));
    if (access & PAGING_W)
        out->dirty = true;
    out->error = 0;
    return 0;
}

int paging_peek(const struct paging_env *env, const struct x86_state *s, u64 la, struct paging_page *out)
{
    if (!(s->cr0 & X86_CR0_PG)) {
        no_paging(la, out);
        return 0;
    }
    if ((s->efer & X86_EFER_LMA) && !x86_canonical(la)) {
        out->error = 0;
        return -1;
    }
    struct walk w = {.env = env, .s = s, .access = PAGING_R};
    return walk_once(&w, la, out);
}

bool paging_pdptes_valid(const struct paging_env *env, u64 cr3)
{
    for (unsigned i = 0; i < 4; i++) {
        u64 pdpte = ~0ull;
        u8 *host = memory_ram(env->memory, (cr3 & 0xffffffe0u) + 8 * i);
        if (host)
            pdpte = __atomic_load_n((u64 *)host, __ATOMIC_ACQUIRE);
        if ((pdpte & PTE_P) && (pdpte & (reserved_address(env) | 0x1e6 | ~MASK(52))))
            return false;
    }
    return true;
}
