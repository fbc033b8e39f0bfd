/*
 * The software TLB.
 *
 * 1. An address space (a PCID, between two flushes of it) has an even number. What it is valid for is in the
 *    low bits of an entry's tag: that number, or TAG_GLOBAL where the page is global. Flushing a PCID forgets
 *    its number, and old entries can never match again. When the numbers run out, the table is wiped and
 *    they start over.
 * 2. The context numbers of accesses: the space's number at CPL 3; its number plus one for the supervisor
 *    while EFLAGS.AC lifts SMAP; else CTX_SYS for the supervisor, in whichever space, so that a kernel's
 *    global pages outlive every switch. Pages that are not global and have a tag with CTX_SYS are in a list
 *    and lose it when the space changes.
 * 3. A large page enters as the 4 KiB pieces that are used. Two bitmaps remember in which 4 MiB and
 *    1 GiB regions that happened; INVLPG in such a region looks through the whole table.
 * 4. An entry has a write tag only while its page is untracked (memory.h) and dirty in the page
 *    table. The attributes in `gpa` tell what the page table says regardless of that.
 * 5. Where accesses need checks (#AC, data breakpoints) c->ctx is a number that no tag has, so that
 *    all of them come here.
 * 6. The ranges of CPL 3 hold what the context of MMU_USER may access, the others what that of MMU_SYS may
 *    (so they are right with SMAP's AC set, too). They go when the context's number changes, and whenever an
 *    entry of the table is dropped for another reason than room.
 * 7. Behind the table stand two others, which only this file knows: one of small pages, one of large pages in
 *    pieces of 2 MiB. Whatever drops entries of the table drops theirs.
 * 8. A number of map_key stands for a space at CPL 3 or not, or for the global pages of the supervisor: those
 *    are the same in all spaces, so that a kernel's code is found again whatever process it serves. A
 *    supervisor that executes other pages is treated by spaces for a while. All numbers are given up when the
 *    table is wiped, and when INVLPG names a page that was executed.
 */
#include <errno.h>

#include "base/log.h"
#include "soft/mmu-inline.h"
#include "soft/system-internal.h"
#include "soft/window.h"

#define TAG_GLOBAL 0 /* rule 1 */
#define CTX_SYS 1    /* rule 2 */
#define SPACE_FIRST 2
#define CTX_NEVER 0xffe /* rule 5; 0xfff is that of SOFT_TLB_NONE */
#define PCIDS 4096

/* Low bits of soft_tlb_entry.gpa */
enum {
    ATTR_GLOBAL = 1 << 0,
    ATTR_USER = 1 << 1,
    ATTR_WRITABLE = 1 << 2,
    ATTR_NX = 1 << 3,
    ATTR_DIRTY = 1 << 4,
    ATTR_2M = 1 << 5, /* a piece of a 2 or 4 MiB page */
    ATTR_1G = 1 << 6,
    ATTR_RAM = 1 << 7,
};

#define REGION_BITS 1024

/* Rule 7. As in soft_tlb_entry; of large pages, tag and gpa are those of the 2 MiB piece. */
struct behind {
    u64 tag, gpa;
};
#define SMALL_BITS 12
#define LARGE_BITS 7
#define LARGE_SHIFT SOFT_TLB_WIDE_SHIFT

struct mmu_private {
    struct soft_cpu *cpu;
    struct paging_env env;
    u16 space[PCIDS]; /* 0: none yet */
    u16 next_space;
    u16 space_now;
    u16 map[PCIDS]; /* rule 8: numbers of map_key by space (of the supervisor: plus one), 0: none yet */
    u16 map_global; /* the one of supervisor code in global pages */
    u16 next_map;
    u16 not_global;   /* executed pages to go until supervisor code is taken for global again */
    u64 range_ctx[2]; /* rule 6: whose accesses the ranges serve */
    bool check_align, check_data;
    bool private_all;  /* rule 2: the list was too short */
    u16 private_count; /* entries of the table, by index: */
    u16 private_list[SOFT_TLB_SIZE];
    struct behind small[1 << SMALL_BITS], large[1 << LARGE_BITS];
    u64 region_4m[REGION_BITS / 64], region_1g[REGION_BITS / 64]; /* rule 3, by a hash of the region */
};

static void clear_ranges(struct soft_cpu *c, bool user, bool write)
{
    for (unsigned n = 0; n < SOFT_RANGES / 64; n++) {
        u64 used = c->range_used[user][write][n];
        for (; used; used &= used - 1) {
            struct soft_range *r = &c->range[user][write][n * 64 + (unsigned)__builtin_ctzll(used)];
            r->limit = r->limit_wide = 0;
        }
        c->range_used[user][write][n] = 0;
    }
}

static void clear_write_ranges(struct soft_cpu *c)
{
    clear_ranges(c, false, true);
    clear_ranges(c, true, true);
}

static void clear_all_ranges(struct soft_cpu *c)
{
    clear_ranges(c, false, false);
    clear_ranges(c, true, false);
    clear_write_ranges(c);
}

#define MAP_LAST 0xfffe
#define EXECUTED_BEFORE_GLOBAL 4096

static void forget_maps(struct soft_cpu *c)
{
    memset(c->mmu->map, 0, sizeof c->mmu->map);
    memset(c->executed, 0, sizeof c->executed);
    c->mmu->map_global = 0;
}

static void wipe(struct soft_cpu *c)
{
    forget_maps(c);
    if (unlikely(c->lockstep))
        lockstep_fills(c, NULL);
    memset(c->tlb, 0xff, sizeof c->tlb);
    clear_all_ranges(c);
    if (c->windows)
        windows_drop_all(c);
    memset(c->mmu->small, 0xff, sizeof c->mmu->small);
    memset(c->mmu->large, 0xff, sizeof c->mmu->large);
    c->mmu->private_count = 0;
    c->mmu->private_all = false;
    memset(c->mmu->region_4m, 0, sizeof c->mmu->region_4m);
    memset(c->mmu->region_1g, 0, sizeof c->mmu->region_1g);
}

int mmu_init(struct soft_cpu *c, struct error *err)
{
    struct mmu_private *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ENOMEM, "no memory for a software TLB");
    c->mmu = m;
    m->cpu = c;
    m->next_space = SPACE_FIRST;
    paging_env_init(&m->env, c->vcpu->vm->memory, c->vcpu->vm->cpuid);
    wipe(c);
    return 0;
}

static void walk_writes(const struct paging_env *env, u64 gpa)
{
    struct soft_cpu *c = container_of(env, struct mmu_private, env)->cpu;
    if (c->lockstep)
        lockstep_writes(c, SOFT_TLB_NONE, gpa & PAGE_MASK);
}

void soft_hide_writes(struct soft_cpu *c)
{
    c->hide_writes = true;
    c->mmu->env.writes = walk_writes;
    wipe(c);
}

void mmu_release(struct soft_cpu *c)
{
    free(c->mmu);
    c->mmu = NULL;
}

const struct paging_env *mmu_paging_env(const struct soft_cpu *c)
{
    return &c->mmu->env;
}

/* --- contexts --- */

static unsigned current_pcid(const struct soft_cpu *c)
{
    return c->s->cr4 & X86_CR4_PCIDE ? c->s->cr3 & 0xfff : 0;
}

/* The number of the current address space. */
static u16 current_space(struct soft_cpu *c)
{
    struct mmu_private *m = c->mmu;
    u16 *n = &m->space[current_pcid(c)];
    if (likely(*n))
        return *n;
    if (m->next_space >= CTX_NEVER) {
        wipe(c);
        memset(m->space, 0, sizeof m->space);
        m->next_space = SPACE_FIRST;
    }
    *n = m->next_space;
    m->next_space += 2;
    return *n;
}

static u64 context(const struct soft_cpu *c, enum mmu_class cls)
{
    return cls == MMU_SYS ? CTX_SYS : c->mmu->space_now + (cls == MMU_SYS_AC);
}

/* Rule 2. */
static void drop_private(struct soft_cpu *c)
{
    struct mmu_private *m = c->mmu;
    bool all = m->private_all || c->lockstep; /* which puts back entries that are not in the list any more */
    unsigned count = all ? SOFT_TLB_SIZE : m->private_count;
    if (count) {
        clear_ranges(c, false, false);
        clear_ranges(c, false, true);
    }
    for (unsigned i = 0; i < count; i++) {
        struct soft_tlb_entry *e = &c->tlb[all ? i : m->private_list[i]];
        if (e->gpa & ATTR_GLOBAL)
            continue;
        e->read[0] = e->write[0] = SOFT_TLB_NONE;
        if ((e->exec & ~PAGE_MASK) == CTX_SYS)
            e->exec = SOFT_TLB_NONE;
    }
    m->private_count = 0;
    m->private_all = false;
}

static void note_private(struct soft_cpu *c, const struct soft_tlb_entry *e)
{
    struct mmu_private *m = c->mmu;
    if (m->private_count < ARRAY_SIZE(m->private_list))
        m->private_list[m->private_count++] = (u16)(e - c->tlb);
    else
        m->private_all = true;
}

/* Rule 6. */
static void update_ranges(struct soft_cpu *c)
{
    bool user = c->cpl == 3;
    u64 ctx = user || c->ctx == CTX_NEVER ? c->ctx : c->ctx_sys;
    if (likely(c->mmu->range_ctx[user] == ctx))
        return;
    clear_ranges(c, user, false);
    clear_ranges(c, user, true);
    c->mmu->range_ctx[user] = ctx;
}

/* Of explicit accesses now. STAC and CLAC in translated code change AC and c->ctx only. */
static enum mmu_class current_class(const struct soft_cpu *c)
{
    if (c->user)
        return MMU_USER;
    return (c->s->rflags & X86_AC) && (c->s->cr4 & X86_CR4_SMAP) ? MMU_SYS_AC : MMU_SYS;
}

/* Rule 8. */
static void update_map_key(struct soft_cpu *c)
{
    struct mmu_private *m = c->mmu;
    bool global = c->cpl != 3 && (c->s->cr4 & X86_CR4_PGE) && !m->not_global;
    u16 *n = global ? &m->map_global : &m->map[m->space_now + (c->cpl != 3)];
    if (unlikely(!*n)) {
        if (m->next_map == MAP_LAST) {
            forget_maps(c);
            m->next_map = 0;
            c->map_epoch++;
            c->stop_block = true;
        }
        *n = ++m->next_map;
    }
    c->map_key = (u64)*n << 48 | c->mode;
    c->map_cover = global ? ATTR_GLOBAL : 0;
}

void soft_note_executed(struct soft_cpu *c, u64 la)
{
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    struct mmu_private *m = c->mmu;
    bool global = e->exec == ((la & PAGE_MASK) | c->ctx) && (e->gpa & ATTR_GLOBAL);
    if (unlikely(c->map_cover && !global)) {
        m->not_global = EXECUTED_BEFORE_GLOBAL;
        update_map_key(c);
    } else if (unlikely(m->not_global) && global && c->cpl != 3 && --m->not_global == 0) {
        update_map_key(c);
    }
    u64 n = la >> PAGE_SHIFT & (SOFT_EXECUTED_PAGES - 1);
    c->executed[n / 32] |= 1u << n % 32;
}

void mmu_update(struct soft_cpu *c)
{
    struct mmu_private *m = c->mmu;
    const struct x86_state *s = c->s;
    c->user = c->cpl == 3;
    m->check_align = c->cpl == 3 && (s->rflags & X86_AC) && (s->cr0 & X86_CR0_AM);
    m->check_data = soft_breakpoints_armed(c) && (s->dr7 & 0x33330000u);

    u16 space = current_space(c);
    if (space != m->space_now) {
        drop_private(c);
        m->space_now = space;
    }
    bool never = m->check_align || m->check_data;
    c->ctx_sys = CTX_SYS;
    c->ctx_no_ac = never ? CTX_NEVER : CTX_SYS;
    c->ctx_ac = never ? CTX_NEVER : context(c, s->cr4 & X86_CR4_SMAP ? MMU_SYS_AC : MMU_SYS);
    c->ctx = never ? CTX_NEVER : context(c, current_class(c));
    update_ranges(c);
    if (c->mode & SOFT_MODE_WINDOW)
        windows_switch(c, never ? 0 : space);
    update_map_key(c);
}

/* --- flushing --- */

void soft_tlb_flush_all(struct soft_cpu *c, bool globals)
{
    struct mmu_private *m = c->mmu;
    c->vcpu->counters.tlb_flushes++;
    trace(mmu, "cpu%u: flush all%s", c->vcpu->index, globals ? " and globals" : "");
    if (globals) {
        wipe(c);
        mmu_update(c);
        return;
    }
    if (c->s->cr4 & X86_CR4_PCIDE)
        memset(m->space, 0, sizeof m->space);
    else
        m->space[0] = 0;
    mmu_update(c);
}

void soft_tlb_flush_pcid(struct soft_cpu *c, unsigned pcid)
{
    c->vcpu->counters.tlb_flushes++;
    trace(mmu, "cpu%u: flush PCID %u", c->vcpu->index, pcid);
    c->mmu->space[pcid % PCIDS] = 0;
    mmu_update(c);
}

static void drop(struct soft_tlb_entry *e)
{
    e->read[0] = e->read[1] = e->write[0] = e->write[1] = e->exec = e->tag = SOFT_TLB_NONE;
}

static bool region_test(const u64 *map, u64 region)
{
    return map[region / 64 % (REGION_BITS / 64)] & BIT(region % 64);
}

static void region_set(u64 *map, u64 region)
{
    map[region / 64 % (REGION_BITS / 64)] |= BIT(region % 64);
}

/* Drops the pieces of large pages around @la, whichever size the page had when they entered. */
static void drop_large(struct soft_cpu *c, u64 la)
{
    for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
        struct soft_tlb_entry *e = &c->tlb[i];
        if (e->tag == SOFT_TLB_NONE)
            continue;
        u64 distance = e->tag ^ la;
        if (((e->gpa & ATTR_2M) && distance >> 22 == 0) || ((e->gpa & ATTR_1G) && distance >> 30 == 0))
            drop(e);
    }
}

static struct behind *small_behind(struct soft_cpu *c, u64 la)
{
    return &c->mmu->small[(la >> PAGE_SHIFT) & MASK(SMALL_BITS)];
}

static struct behind *large_behind(struct soft_cpu *c, u64 la)
{
    return &c->mmu->large[(la >> LARGE_SHIFT) & MASK(LARGE_BITS)];
}

/* Of both pieces of a 4 MiB page, and more of a 1 GiB page than it needs. */
static void drop_behind(struct soft_cpu *c, u64 la)
{
    struct mmu_private *m = c->mmu;
    struct behind *b = small_behind(c, la);
    if (((b->tag ^ la) & PAGE_MASK) == 0)
        b->tag = SOFT_TLB_NONE;
    large_behind(c, la)->tag = SOFT_TLB_NONE;
    large_behind(c, la ^ BIT(LARGE_SHIFT))->tag = SOFT_TLB_NONE;
    if (region_test(m->region_1g, la >> 30))
        memset(m->large, 0xff, sizeof m->large);
}

static bool executed_in_4m(const struct soft_cpu *c, u64 la)
{
    const u32 *first = &c->executed[(la >> 22 & (SOFT_EXECUTED_PAGES / 1024 - 1)) * 32];
    u32 any = 0;
    for (unsigned i = 0; i < 32; i++)
        any |= first[i];
    return any;
}

/* Rule 8. */
static bool code_moves(const struct soft_cpu *c, u64 la)
{
    u64 n = la >> PAGE_SHIFT & (SOFT_EXECUTED_PAGES - 1);
    if ((c->executed[n / 32] >> n % 32 & 1) || region_test(c->mmu->region_1g, la >> 30))
        return true;
    return region_test(c->mmu->region_4m, la >> 22) && executed_in_4m(c, la);
}

/* Drops @la under every PCID and the global pages too: more than the manual asks for, and allowed. */
void soft_tlb_invlpg(struct soft_cpu *c, u64 la)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (code_moves(c, la)) {
        forget_maps(c);
        update_map_key(c);
    }
    clear_all_ranges(c);
    if (((e->tag ^ la) & PAGE_MASK) == 0)
        drop(e);
    drop_behind(c, la);
    if (c->windows)
        windows_invlpg(c, la);
    if (region_test(c->mmu->region_4m, la >> 22) || region_test(c->mmu->region_1g, la >> 30))
        drop_large(c, la);
}

void soft_tlb_invlpg_pcid(struct soft_cpu *c, u64 la, unsigned pcid)
{
    soft_tlb_invlpg(c, la);
}

void soft_tlb_protect(struct soft_cpu *c, u64 gpa)
{
    for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
        struct soft_tlb_entry *e = &c->tlb[i];
        if (((e->gpa ^ gpa) & PAGE_MASK) == 0)
            e->write[0] = e->write[1] = SOFT_TLB_NONE;
        e->gpa &= ~(u64)SOFT_TLB_WIDE_WRITE;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(c->mmu->large); i++)
        c->mmu->large[i].gpa &= ~(u64)SOFT_TLB_WIDE_WRITE;
    clear_write_ranges(c);
    if (c->windows)
        windows_protect(c, gpa);
}

/* --- filling --- */

static u64 ram_offset(const struct soft_cpu *c, u64 gpa)
{
    return (u64)memory_ram_offset(c->mmu->env.memory, gpa);
}

/* For ranges: the 2 MiB around @gpa, where they are one mapping and lie in one piece in the host. */
static u64 wide_flags(const struct soft_cpu *c, u64 gpa)
{
    const struct memory *m = c->mmu->env.memory;
    u64 size = 1ull << LARGE_SHIFT, first = gpa & ~(size - 1), last = first + size - PAGE_SIZE;
    if (!(gpa & (ATTR_2M | ATTR_1G)) || !(gpa & ATTR_RAM))
        return 0;
    const u8 *host = memory_ram(m, first);
    if (!host || memory_ram(m, last) != host + (last - first))
        return 0;
    if ((gpa & ATTR_DIRTY) && !c->hide_writes && !memory_large_page_tracked(m, ram_offset(c, first)))
        return SOFT_TLB_WIDE_READ | SOFT_TLB_WIDE_WRITE;
    return SOFT_TLB_WIDE_READ;
}

static unsigned paging_access(enum mmu_class cls, enum soft_access access)
{
    unsigned a = PAGING_R << access;
    if (cls == MMU_USER)
        a |= PAGING_USER;
    if (cls == MMU_SYS_AC)
        a |= PAGING_AC;
    return a;
}

/* What @access may do with a page of the attributes @attr: PAGING_R, W, X. */
static unsigned allowed(const struct soft_cpu *c, u64 attr, unsigned access)
{
    return paging_allowed(c->s, access, attr & ATTR_USER, attr & ATTR_WRITABLE, attr & ATTR_NX);
}

static bool smap(const struct x86_state *s)
{
    return (s->cr4 & X86_CR4_SMAP) && (s->cr0 & X86_CR0_PG);
}

/*
 * Sets the tags of @e, which translates @page, as an access of @cls wants them. The supervisor's tags of a
 * user page under SMAP are for when AC is set; those of its own pages are for @cls, since it needs them for
 * both in turn only.
 */
static void set_tags(struct soft_cpu *c, struct soft_tlb_entry *e, u64 page, enum mmu_class cls)
{
    u64 attr = e->gpa, space = c->mmu->space_now;
    unsigned user = allowed(c, attr, PAGING_USER), sys = allowed(c, attr, PAGING_AC);
    u64 by_user = page | space, by_cls = page | context(c, cls), by_sys = page | CTX_SYS;
    if (attr & ATTR_USER ? smap(c->s) : cls == MMU_SYS_AC)
        by_sys = page | (space + 1);
    bool ram = attr & ATTR_RAM;
    bool write = ram && (attr & ATTR_DIRTY) && !c->hide_writes &&
                 !memory_page_tracked(c->mmu->env.memory, ram_offset(c, attr & PAGE_MASK));
    e->read[0] = ram && (sys & PAGING_R) ? by_sys : SOFT_TLB_NONE;
    e->read[1] = ram && (user & PAGING_R) ? by_user : SOFT_TLB_NONE;
    e->write[0] = write && (sys & PAGING_W) ? by_sys : SOFT_TLB_NONE;
    e->write[1] = write && (user & PAGING_W) ? by_user : SOFT_TLB_NONE;
    e->exec = SOFT_TLB_NONE;
    if (ram && (cls == MMU_USER ? user : sys) & PAGING_X)
        e->exec = by_cls;
    else if (ram && (user & PAGING_X))
        e->exec = by_user;
    if (!(attr & ATTR_GLOBAL) && (by_sys == (page | CTX_SYS) || e->exec == (page | CTX_SYS)))
        note_private(c, e);
}

/* Is @tag that of @at (a page, or a piece of a large one) in the current space? */
static bool tag_holds(const struct soft_cpu *c, u64 tag, u64 at)
{
    return tag == (at | c->mmu->space_now) || tag == (at | TAG_GLOBAL);
}

void soft_tlb_restore(struct soft_cpu *c, struct soft_tlb_entry *e, const struct soft_tlb_entry *old)
{
    *e = *old;
    e->write[0] = e->write[1] = SOFT_TLB_NONE;
    clear_all_ranges(c);
}

void soft_tlb_show_write(struct soft_cpu *c, u64 la, bool show)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    bool hide = c->hide_writes;
    if (!show) {
        e->write[0] = e->write[1] = SOFT_TLB_NONE;
        clear_write_ranges(c);
    } else if (tag_holds(c, e->tag, la & PAGE_MASK)) {
        c->hide_writes = false;
        set_tags(c, e, la & PAGE_MASK, current_class(c));
        c->hide_writes = hide;
    }
}

static u64 attributes(struct soft_cpu *c, u64 la, const struct paging_page *p)
{
    u64 attr = memory_ram(c->mmu->env.memory, p->gpa) ? ATTR_RAM : 0;
    if (p->global)
        attr |= ATTR_GLOBAL;
    if (p->user)
        attr |= ATTR_USER;
    if (p->writable)
        attr |= ATTR_WRITABLE;
    if (p->nx)
        attr |= ATTR_NX;
    if (p->dirty)
        attr |= ATTR_DIRTY;
    if (p->shift == 30) {
        attr |= ATTR_1G;
        region_set(c->mmu->region_1g, la >> 30);
    } else if (p->shift > 12) {
        attr |= ATTR_2M;
        region_set(c->mmu->region_4m, la >> 22);
    }
    return attr;
}

/* @gpa: of the page, with attributes. */
static void set_entry(struct soft_cpu *c, struct soft_tlb_entry *e, u64 la, enum mmu_class cls, u64 gpa)
{
    u64 page = la & PAGE_MASK;
    u8 *host = memory_ram(c->mmu->env.memory, gpa & PAGE_MASK);
    if (unlikely(c->lockstep))
        lockstep_fills(c, e);
    e->addend = (intptr_t)((uintptr_t)host - page);
    e->gpa = gpa;
    e->tag = page | (gpa & ATTR_GLOBAL ? TAG_GLOBAL : c->mmu->space_now);
    set_tags(c, e, page, cls);
}

/* May what the page table said before answer for this access? What it forbids the page table is asked again.
 */
static bool suffices(const struct soft_cpu *c, u64 attr, enum mmu_class cls, enum soft_access access)
{
    return (allowed(c, attr, paging_access(cls, 0)) & (PAGING_R << access)) &&
           (access != SOFT_WRITE || (attr & ATTR_DIRTY));
}

/* The page of @la with attributes from the tables behind, or ~0. */
static u64 look_behind(struct soft_cpu *c, u64 la)
{
    const struct behind *b = small_behind(c, la);
    if (tag_holds(c, b->tag, la & PAGE_MASK))
        return b->gpa;
    b = large_behind(c, la);
    if (!tag_holds(c, b->tag, la & ~MASK(LARGE_SHIFT)))
        return ~0ull;
    u64 gpa = b->gpa | (la & MASK(LARGE_SHIFT) & PAGE_MASK);
    gpa &= ~(u64)ATTR_RAM; /* which a large page is in parts only */
    return memory_ram(c->mmu->env.memory, gpa & PAGE_MASK) ? gpa | ATTR_RAM : gpa;
}

static void put_behind(struct soft_cpu *c, u64 la, u64 gpa)
{
    bool large = gpa & (ATTR_2M | ATTR_1G);
    u64 mask = large ? MASK(LARGE_SHIFT) & PAGE_MASK : 0;
    struct behind *b = large ? large_behind(c, la) : small_behind(c, la);
    b->tag = (la & PAGE_MASK & ~mask) | (gpa & ATTR_GLOBAL ? TAG_GLOBAL : c->mmu->space_now);
    b->gpa = gpa & ~mask;
}

static bool entry_holds(const struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, enum mmu_class cls,
                        enum soft_access access)
{
    u64 tag = (la & PAGE_MASK) | context(c, cls);
    bool user = cls == MMU_USER;
    return (access == SOFT_READ ? e->read[user] : access == SOFT_WRITE ? e->write[user] : e->exec) == tag;
}

/* The entry that translates @la for @access, or NULL with *@error the page fault's code. */
static struct soft_tlb_entry *try_translate(struct soft_cpu *c, enum mmu_class cls, u64 la,
                                            enum soft_access access, u32 *error)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (entry_holds(c, e, la, cls, access))
        return e;
    /* What AC does not matter for keeps its tag: it will be wanted again when AC is clear. */
    if (cls == MMU_SYS_AC && entry_holds(c, e, la, MMU_SYS, access))
        return e;
    if (tag_holds(c, e->tag, la & PAGE_MASK) && suffices(c, e->gpa, cls, access)) {
        set_tags(c, e, la & PAGE_MASK, cls);
        return e;
    }
    u64 gpa = likely(!c->lockstep) ? look_behind(c, la) : ~0ull;
    if (gpa == ~0ull || !suffices(c, gpa, cls, access)) {
        struct paging_page p;
        c->vcpu->counters.tlb_misses++;
        if (paging_walk(&c->mmu->env, c->s, la, paging_access(cls, access), &p) != 0) {
            *error = p.error;
            return NULL;
        }
        gpa = (p.gpa & PAGE_MASK) | attributes(c, la, &p);
        gpa |= wide_flags(c, gpa);
        if (likely(!c->lockstep))
            put_behind(c, la, gpa);
    } else {
        c->vcpu->counters.tlb_refills++;
    }
    set_entry(c, e, la, cls, gpa);
    return e;
}

/* Copies the entry: translating the second page of an access may replace it. Raises #GP or #PF. */
static struct soft_tlb_entry translate(struct soft_cpu *c, enum mmu_class cls, u64 la,
                                       enum soft_access access)
{
    if (unlikely(!x86_canonical(la)) && x86_long_mode(c->s))
        soft_raise_not_canonical(c);
    u32 error;
    const struct soft_tlb_entry *e = try_translate(c, cls, la, access, &error);
    if (unlikely(!e))
        soft_raise_pf(c, la, error);
    if (unlikely(c->lockstep) && access != SOFT_EXEC) {
        if (!(e->gpa & ATTR_RAM))
            lockstep_once(c);
        if (access == SOFT_WRITE)
            lockstep_writes(c, la, e->gpa & PAGE_MASK);
    }
    return *e;
}

/* --- one access within a page --- */

static u8 *host_of(const struct soft_tlb_entry *e, u64 la)
{
    return (u8 *)((uintptr_t)la + (uintptr_t)e->addend);
}

static u64 gpa_of(const struct soft_tlb_entry *e, u64 la)
{
    return (e->gpa & PAGE_MASK) | (la & ~PAGE_MASK);
}

/* Is @e, which was translated for a write, of an untracked page? */
static bool direct_writes(const struct soft_tlb_entry *e)
{
    return (e->write[0] & e->write[1]) != SOFT_TLB_NONE;
}

static u64 read_part(struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, unsigned size)
{
    u64 v = 0;
    if (unlikely(!(e->gpa & ATTR_RAM)))
        return cpu_mmio_read(c->vcpu, gpa_of(e, la), size) & MASK(size * 8);
    const u8 *host = host_of(e, la);
    switch (size) {
    case 1: return soft_host_read8(host);
    case 2: return soft_host_read16(host);
    case 4: return soft_host_read32(host);
    case 8: return soft_host_read64(host);
    default: memcpy(&v, host, size); return v;
    }
}

/* @len bytes within a page were written: tells the tracker, and stops the block when they were code. */
static void note_write(struct soft_cpu *c, u64 gpa, unsigned len)
{
    struct memory *m = c->mmu->env.memory;
    u64 offset = ram_offset(c, gpa);
    if (!memory_page_tracked(m, offset))
        return;
    u32 gen = memory_code_gen(m, offset);
    memory_note_write(m, offset, len);
    bool hit = memory_code_gen(m, offset) != gen;
    if (hit)
        c->stop_block = true;
    if (c->interpret && (hit || memory_page_is_code(m, offset)))
        soft_code_written(c, offset, hit);
}

static void write_part(struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, u64 v, unsigned size)
{
    if (unlikely(!(e->gpa & ATTR_RAM))) {
        cpu_mmio_write(c->vcpu, gpa_of(e, la), v & MASK(size * 8), size);
        return;
    }
    u8 *host = host_of(e, la);
    switch (size) {
    case 1: soft_host_write8(host, (u8)v); break;
    case 2: soft_host_write16(host, (u16)v); break;
    case 4: soft_host_write32(host, (u32)v); break;
    case 8: soft_host_write64(host, v); break;
    default: memcpy(host, &v, size);
    }
    /* After the write: whoever decodes the page meanwhile must find the generation moved. */
    if (!direct_writes(e))
        note_write(c, gpa_of(e, la), size);
}

/* --- accesses of up to 8 bytes --- */

static unsigned left_in_page(u64 la)
{
    return (unsigned)(PAGE_SIZE - (la & ~PAGE_MASK));
}

/* The first byte of the page after @la's; addresses wrap at 4 GiB outside 64-bit mode. */
static u64 next_page(const struct soft_cpu *c, enum mmu_class cls, u64 la)
{
    u64 next = (la & PAGE_MASK) + PAGE_SIZE;
    bool wide = x86_long_mode(c->s) && (c->code_size == 8 || cls == MMU_SYS);
    return wide ? next : next & 0xffffffffu;
}

u64 mmu_read_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned size)
{
    struct soft_tlb_entry e = translate(c, cls, la, SOFT_READ);
    unsigned n = left_in_page(la);
    if (likely(size <= n))
        return read_part(c, &e, la, size);
    u64 next = next_page(c, cls, la);
    struct soft_tlb_entry e2 = translate(c, cls, next, SOFT_READ);
    u64 low = read_part(c, &e, la, n);
    return low | read_part(c, &e2, next, size - n) << (8 * n);
}

void mmu_write_as(struct soft_cpu *c, enum mmu_class cls, u64 la, u64 value, unsigned size)
{
    struct soft_tlb_entry e = translate(c, cls, la, SOFT_WRITE);
    unsigned n = left_in_page(la);
    if (likely(size <= n)) {
        write_part(c, &e, la, value, size);
        return;
    }
    u64 next = next_page(c, cls, la);
    struct soft_tlb_entry e2 = translate(c, cls, next, SOFT_WRITE);
    write_part(c, &e, la, value, n);
    write_part(c, &e2, next, value >> (8 * n), size - n);
}

void mmu_probe_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned len, enum soft_access access)
{
    translate(c, cls, la, access);
    if (len > left_in_page(la))
        translate(c, cls, next_page(c, cls, la), access);
}

void soft_check_alignment(struct soft_cpu *c, u64 la, unsigned size)
{
    if (unlikely(c->mmu->check_align) && (la & (size - 1)) && x86_canonical(la))
        soft_raise_err(c, X86_AC_, 0);
}

u64 soft_read_slow(struct soft_cpu *c, u64 la, unsigned size)
{
    soft_check_alignment(c, la, size);
    u64 v = mmu_read_as(c, current_class(c), la, size);
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, size, false);
    return v;
}

void soft_write_slow(struct soft_cpu *c, u64 la, u64 value, unsigned size)
{
    soft_check_alignment(c, la, size);
    mmu_write_as(c, current_class(c), la, value, size);
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, size, true);
}

static void check_stack(struct soft_cpu *c, u64 la)
{
    if (!x86_canonical(la) || !x86_canonical(la + 7))
        soft_raise_err(c, X86_SS_, 0);
}

u64 soft_stack_read_slow(struct soft_cpu *c, u64 la)
{
    check_stack(c, la);
    return soft_read_slow(c, la, 8);
}

void soft_stack_write_slow(struct soft_cpu *c, u64 la, u64 value)
{
    check_stack(c, la);
    soft_write_slow(c, la, value, 8);
}

u64 soft_sys_read(struct soft_cpu *c, u64 la, unsigned size)
{
    return mmu_read_as(c, MMU_SYS, la, size);
}

void soft_sys_write(struct soft_cpu *c, u64 la, u64 value, unsigned size)
{
    mmu_write_as(c, MMU_SYS, la, value, size);
}

/* --- longer accesses --- */

static void copy_in(struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, u8 *buf, unsigned len)
{
    if (e->gpa & ATTR_RAM) {
        memcpy(buf, host_of(e, la), len);
        return;
    }
    for (unsigned n; len; la += n, buf += n, len -= n) {
        n = MIN(len, 8u);
        u64 v = read_part(c, e, la, n);
        memcpy(buf, &v, n);
    }
}

static void copy_out(struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, const u8 *buf, unsigned len)
{
    if (e->gpa & ATTR_RAM) {
        memcpy(host_of(e, la), buf, len);
        if (!direct_writes(e))
            note_write(c, gpa_of(e, la), len);
        return;
    }
    for (unsigned n; len; la += n, buf += n, len -= n) {
        u64 v = 0;
        n = MIN(len, 8u);
        memcpy(&v, buf, n);
        write_part(c, e, la, v, n);
    }
}

/* An access of up to a page's length: the part in its first page, and the part in the next one. */
struct two_pages {
    struct soft_tlb_entry e[2];
    u64 la[2];
    unsigned len[2];
};

/* Translates both pages, so that what raises does so before a byte moves. */
static void translate_two(struct soft_cpu *c, struct two_pages *t, u64 la, unsigned len,
                          enum soft_access access)
{
    enum mmu_class cls = current_class(c);
    BUG_ON(len > PAGE_SIZE);
    t->len[0] = MIN(len, left_in_page(la));
    t->len[1] = len - t->len[0];
    t->la[0] = la;
    t->la[1] = next_page(c, cls, la);
    t->e[0] = translate(c, cls, la, access);
    t->e[1] = t->len[1] ? translate(c, cls, t->la[1], access) : t->e[0];
}

void soft_read_bytes(struct soft_cpu *c, u64 la, void *buf, unsigned len)
{
    struct two_pages t;
    if (!len)
        return;
    translate_two(c, &t, la, len, SOFT_READ);
    copy_in(c, &t.e[0], la, buf, t.len[0]);
    if (t.len[1])
        copy_in(c, &t.e[1], t.la[1], (u8 *)buf + t.len[0], t.len[1]);
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, len, false);
}

void soft_write_bytes(struct soft_cpu *c, u64 la, const void *buf, unsigned len)
{
    struct two_pages t;
    if (!len)
        return;
    translate_two(c, &t, la, len, SOFT_WRITE);
    copy_out(c, &t.e[0], la, buf, t.len[0]);
    if (t.len[1])
        copy_out(c, &t.e[1], t.la[1], (const u8 *)buf + t.len[0], t.len[1]);
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, len, true);
}

void soft_probe(struct soft_cpu *c, u64 la, unsigned len, enum soft_access access)
{
    if (len)
        mmu_probe_as(c, current_class(c), la, len, access);
}

/*
 * For a pointer to write through: notes the write of a tracked page. False when the page stays
 * tracked because it holds code, so that each write must be noted.
 */
static bool untrack_for_write(struct soft_cpu *c, const struct soft_tlb_entry *e)
{
    if (direct_writes(e))
        return true;
    u64 offset = ram_offset(c, e->gpa & PAGE_MASK);
    if (memory_page_is_code(c->mmu->env.memory, offset))
        return false;
    if (memory_page_tracked(c->mmu->env.memory, offset))
        note_write(c, e->gpa & PAGE_MASK, PAGE_SIZE);
    return !memory_page_tracked(c->mmu->env.memory, offset);
}

void *soft_atomic_ptr(struct soft_cpu *c, u64 la, unsigned size)
{
    enum mmu_class cls = current_class(c);
    soft_check_alignment(c, la, size);
    struct soft_tlb_entry e = translate(c, cls, la, SOFT_WRITE);
    if (unlikely(size > left_in_page(la))) {
        translate(c, cls, next_page(c, cls, la), SOFT_WRITE);
        return NULL;
    }
    if (unlikely(!(e.gpa & ATTR_RAM)) || unlikely(!untrack_for_write(c, &e)))
        return NULL;
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, size, true);
    return host_of(&e, la);
}

void *soft_page_ptr(struct soft_cpu *c, u64 la, enum soft_access access, unsigned *len)
{
    if (c->mmu->check_align || c->mmu->check_data) /* before translating: #AC comes before #PF */
        return NULL;
    struct soft_tlb_entry e = translate(c, current_class(c), la, access);
    if (!(e.gpa & ATTR_RAM))
        return NULL;
    if (access == SOFT_WRITE && !untrack_for_write(c, &e))
        return NULL;
    *len = left_in_page(la);
    return host_of(&e, la);
}

/* --- instruction fetch --- */

u64 soft_fetch_gpa(struct soft_cpu *c, u64 la)
{
    const struct soft_tlb_entry *hit = soft_tlb_entry(c, la);
    if (likely(hit->exec == ((la & PAGE_MASK) | c->ctx)))
        return gpa_of(hit, la);
    struct soft_tlb_entry e = translate(c, current_class(c), la, SOFT_EXEC);
    return gpa_of(&e, la);
}

static void fetch_part(struct soft_cpu *c, const struct soft_tlb_entry *e, u64 la, u8 *buf, unsigned len)
{
    if (e->gpa & ATTR_RAM) {
        memcpy(buf, host_of(e, la), len);
        return;
    }
    for (unsigned i = 0; i < len; i++)
        buf[i] = (u8)read_part(c, e, la + i, 1);
}

unsigned soft_fetch(struct soft_cpu *c, u64 la, u8 *buf, unsigned len)
{
    enum mmu_class cls = current_class(c);
    struct soft_tlb_entry e = translate(c, cls, la, SOFT_EXEC);
    unsigned n = MIN(len, left_in_page(la));
    fetch_part(c, &e, la, buf, n);
    if (n == len)
        return n;
    u64 next = next_page(c, cls, la);
    u32 error;
    if (x86_long_mode(c->s) && !x86_canonical(next))
        return n;
    const struct soft_tlb_entry *e2 = try_translate(c, cls, next, SOFT_EXEC, &error);
    if (!e2)
        return n;
    fetch_part(c, e2, next, buf + n, len - n);
    return len;
}
