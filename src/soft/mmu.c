/*
 * The software TLB.
 *
 * 1. A tag is valid while its context number is in use: flushing a PCID forgets its numbers and old
 *    entries can never match again. When the numbers run out, the table is wiped and they start over.
 * 2. An entry of a global page is valid under every PCID of its class, so it is given a new tag when
 *    it is met with an old one. Flushing globals wipes the table.
 * 3. A large page enters as the 4 KiB pieces that are used. Two bitmaps remember in which 4 MiB and
 *    1 GiB regions that happened; INVLPG in such a region looks through the whole table.
 * 4. An entry has a write tag only while its page is untracked (memory.h) and dirty in the page
 *    table. The attributes in `gpa` tell what the page table allows regardless of that.
 * 5. Where accesses need checks (#AC, data breakpoints) c->ctx is a number that no tag has, so that
 *    all of them come here.
 * 6. The ranges of CPL 3 hold what the context of MMU_USER may access, the others what that of MMU_SYS may
 *    (so they are right with SMAP's AC set, too). They go when the context's number changes, and whenever an
 *    entry of the table is dropped for another reason than room.
 */
#include <errno.h>

#include "base/log.h"
#include "soft/mmu-inline.h"
#include "soft/system-internal.h"

#define CTX_FIRST 1
#define CTX_NEVER 0xffe /* rule 5; 0xfff is that of SOFT_TLB_NONE */
#define PCIDS 4096

/* Low bits of soft_tlb_entry.gpa */
enum {
    ATTR_GLOBAL = 1 << 0,
    ATTR_CLASS_SHIFT = 1, /* 2 bits */
    ATTR_2M = 1 << 3,     /* a piece of a 2 or 4 MiB page */
    ATTR_1G = 1 << 4,
    ATTR_RAM = 1 << 5,
    ATTR_R = 1 << 6, /* << enum soft_access: allowed, and for writes D is set */
    ATTR_W = 1 << 7,
    ATTR_X = 1 << 8,
};
#define ATTR_CLASS (3u << ATTR_CLASS_SHIFT)

#define REGION_BITS 1024

#define LARGE_SHIFT 21               /* large pieces that ranges take */
#define SMALL_LIMIT (PAGE_SIZE - 15) /* soft_range.limit of one page */

struct mmu_private {
    struct paging_env env;
    u16 ctx[PCIDS][MMU_CLASSES]; /* 0: none yet */
    u16 next_ctx;
    enum mmu_class cls; /* of explicit accesses now */
    u64 range_ctx[2];   /* rule 6: whose accesses the ranges serve */
    bool check_align, check_data;
    u64 region_4m[REGION_BITS / 64], region_1g[REGION_BITS / 64]; /* rule 3, by a hash of the region */
};

static void clear_ranges(struct soft_range *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        r[i].limit = r[i].limit_wide = 0;
}

static void clear_write_ranges(struct soft_cpu *c)
{
    clear_ranges(c->range[0][1], SOFT_RANGES);
    clear_ranges(c->range[1][1], SOFT_RANGES);
}

static void clear_all_ranges(struct soft_cpu *c)
{
    clear_ranges(c->range[0][0], sizeof c->range / sizeof c->range[0][0][0]);
}

static void wipe(struct soft_cpu *c)
{
    if (unlikely(c->lockstep))
        lockstep_fills(c, NULL);
    memset(c->tlb, 0xff, sizeof c->tlb);
    clear_all_ranges(c);
    memset(c->mmu->region_4m, 0, sizeof c->mmu->region_4m);
    memset(c->mmu->region_1g, 0, sizeof c->mmu->region_1g);
}

int mmu_init(struct soft_cpu *c, struct error *err)
{
    struct mmu_private *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ENOMEM, "no memory for a software TLB");
    c->mmu = m;
    m->next_ctx = CTX_FIRST;
    paging_env_init(&m->env, c->vcpu->vm->memory, c->vcpu->vm->cpuid);
    wipe(c);
    return 0;
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

/* The context number of @cls under the current PCID. */
static u64 context(struct soft_cpu *c, enum mmu_class cls)
{
    struct mmu_private *m = c->mmu;
    u16 *n = &m->ctx[current_pcid(c)][cls];
    if (likely(*n))
        return *n;
    if (m->next_ctx == CTX_NEVER) {
        wipe(c);
        memset(m->ctx, 0, sizeof m->ctx);
        m->next_ctx = CTX_FIRST;
        mmu_update(c);
    }
    if (!*n)
        *n = m->next_ctx++;
    return *n;
}

/* Rule 6. */
static void update_ranges(struct soft_cpu *c)
{
    bool user = c->cpl == 3;
    u64 ctx = user || c->ctx == CTX_NEVER ? c->ctx : c->ctx_sys;
    if (likely(c->mmu->range_ctx[user] == ctx))
        return;
    clear_ranges(c->range[user][0], 2 * SOFT_RANGES);
    c->mmu->range_ctx[user] = ctx;
}

void mmu_update(struct soft_cpu *c)
{
    struct mmu_private *m = c->mmu;
    const struct x86_state *s = c->s;
    m->cls = MMU_SYS;
    if (c->cpl == 3)
        m->cls = MMU_USER;
    else if ((s->rflags & X86_AC) && (s->cr4 & X86_CR4_SMAP))
        m->cls = MMU_SYS_AC;
    m->check_align = c->cpl == 3 && (s->rflags & X86_AC) && (s->cr0 & X86_CR0_AM);
    m->check_data = soft_breakpoints_armed(c) && (s->dr7 & 0x33330000u);

    context(c, MMU_SYS);
    context(c, m->cls);
    /* Only now are both surely of the same generation of numbers. */
    c->ctx_sys = context(c, MMU_SYS);
    c->ctx = m->check_align || m->check_data ? CTX_NEVER : context(c, m->cls);
    update_ranges(c);
}

/* --- flushing --- */

void soft_tlb_flush_all(struct soft_cpu *c, bool globals)
{
    struct mmu_private *m = c->mmu;
    c->vcpu->counters.tlb_flushes++;
    trace(mmu, "cpu%u: flush all%s", c->vcpu->index, globals ? " and globals" : "");
    if (globals) {
        wipe(c);
        return;
    }
    if (c->s->cr4 & X86_CR4_PCIDE)
        memset(m->ctx, 0, sizeof m->ctx);
    else
        memset(m->ctx[0], 0, sizeof m->ctx[0]);
    mmu_update(c);
}

void soft_tlb_flush_pcid(struct soft_cpu *c, unsigned pcid)
{
    c->vcpu->counters.tlb_flushes++;
    trace(mmu, "cpu%u: flush PCID %u", c->vcpu->index, pcid);
    memset(c->mmu->ctx[pcid % PCIDS], 0, sizeof c->mmu->ctx[0]);
    mmu_update(c);
}

static void drop(struct soft_tlb_entry *e)
{
    e->read = e->write = e->exec = e->tag = SOFT_TLB_NONE;
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

/* Drops @la under every PCID and the global pages too: more than the manual asks for, and allowed. */
void soft_tlb_invlpg(struct soft_cpu *c, u64 la)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    clear_all_ranges(c);
    if (((e->tag ^ la) & PAGE_MASK) == 0)
        drop(e);
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
        if (e->write != SOFT_TLB_NONE && ((e->gpa ^ gpa) & PAGE_MASK) == 0)
            e->write = SOFT_TLB_NONE;
        e->write_limit = SMALL_LIMIT;
    }
    clear_write_ranges(c);
}

/* --- filling --- */

static u64 ram_offset(const struct soft_cpu *c, u64 gpa)
{
    return (u64)memory_ram_offset(c->mmu->env.memory, gpa);
}

/* Sets the tags that the attributes of @e allow for the page and context @tag. */
static void set_tags(struct soft_cpu *c, struct soft_tlb_entry *e, u64 tag)
{
    bool ram = e->gpa & ATTR_RAM;
    e->tag = tag;
    e->read = ram && (e->gpa & ATTR_R) ? tag : SOFT_TLB_NONE;
    e->exec = ram && (e->gpa & ATTR_X) ? tag : SOFT_TLB_NONE;
    e->write = SOFT_TLB_NONE;
    if (ram && (e->gpa & ATTR_W) && !c->hide_writes &&
        !memory_page_tracked(c->mmu->env.memory, ram_offset(c, e->gpa & PAGE_MASK)))
        e->write = tag;
}

void soft_tlb_show_write(struct soft_cpu *c, u64 la, bool show)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    bool hide = c->hide_writes;
    if (!show) {
        e->write = SOFT_TLB_NONE;
        clear_write_ranges(c);
    } else if (e->tag == ((la & PAGE_MASK) | c->ctx)) {
        c->hide_writes = false;
        set_tags(c, e, e->tag);
        c->hide_writes = hide;
    }
}

/* For ranges: more than the page where it is a piece of a large one whose RAM is in one piece in the host. */
static void set_limits(const struct soft_cpu *c, struct soft_tlb_entry *e, const struct paging_page *p,
                       const u8 *host)
{
    const struct memory *m = c->mmu->env.memory;
    u64 size = 1ull << LARGE_SHIFT, first = p->gpa & ~(size - 1), last = first + size - PAGE_SIZE;
    u64 inside = (p->gpa & PAGE_MASK) - first;
    e->read_limit = e->write_limit = SMALL_LIMIT;
    if (p->shift < LARGE_SHIFT || memory_ram(m, first) + inside != host ||
        memory_ram(m, last) != host + (last - first - inside))
        return;
    e->read_limit = size - 15;
    if ((p->allow & PAGING_W) && p->dirty && !memory_large_page_tracked(m, ram_offset(c, first)))
        e->write_limit = size - 15;
}

static void set_entry(struct soft_cpu *c, struct soft_tlb_entry *e, u64 la, enum mmu_class cls,
                      const struct paging_page *p)
{
    u64 gpa = p->gpa & PAGE_MASK;
    u64 attr = (u64)cls << ATTR_CLASS_SHIFT;
    u8 *host = memory_ram(c->mmu->env.memory, gpa);
    if (unlikely(c->lockstep))
        lockstep_fills(c, e);
    if (host) {
        attr |= ATTR_RAM;
        e->addend = (intptr_t)((uintptr_t)host - (la & PAGE_MASK));
        set_limits(c, e, p, host);
    }
    if (p->global)
        attr |= ATTR_GLOBAL;
    if (p->shift == 30) {
        attr |= ATTR_1G;
        region_set(c->mmu->region_1g, la >> 30);
    } else if (p->shift > 12) {
        attr |= ATTR_2M;
        region_set(c->mmu->region_4m, la >> 22);
    }
    if (p->allow & PAGING_R)
        attr |= ATTR_R;
    if ((p->allow & PAGING_W) && p->dirty)
        attr |= ATTR_W;
    if (p->allow & PAGING_X)
        attr |= ATTR_X;
    e->gpa = gpa | attr;
    set_tags(c, e, (la & PAGE_MASK) | context(c, cls));
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

/* The entry that translates @la for @access, or NULL with *@error the page fault's code. */
static struct soft_tlb_entry *try_translate(struct soft_cpu *c, enum mmu_class cls, u64 la,
                                            enum soft_access access, u32 *error)
{
    struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    u64 tag = (la & PAGE_MASK) | context(c, cls);
    if (e->tag != tag && ((e->tag ^ tag) & PAGE_MASK) == 0 && (e->gpa & ATTR_GLOBAL) &&
        (e->gpa & ATTR_CLASS) >> ATTR_CLASS_SHIFT == cls && e->tag != SOFT_TLB_NONE)
        set_tags(c, e, tag); /* rule 2 */
    if (e->tag == tag && (e->gpa & (ATTR_R << access))) {
        if (access == SOFT_WRITE && e->write == SOFT_TLB_NONE)
            set_tags(c, e, tag); /* the page may be tracked no more */
        return e;
    }

    struct paging_page p;
    c->vcpu->counters.tlb_misses++;
    if (paging_walk(&c->mmu->env, c->s, la, paging_access(cls, access), &p) != 0) {
        *error = p.error;
        return NULL;
    }
    set_entry(c, e, la, cls, &p);
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
    if (unlikely(c->lockstep))
        lockstep_access(c, la, e->gpa & PAGE_MASK, e->gpa & ATTR_RAM, access);
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

/* The page of @la was written: tells the tracker, and stops the block when it held code. */
static void note_write(struct soft_cpu *c, u64 gpa)
{
    struct memory *m = c->mmu->env.memory;
    u64 offset = ram_offset(c, gpa);
    if (!memory_page_tracked(m, offset))
        return;
    u32 gen = memory_code_gen(m, offset);
    memory_note_write(m, offset);
    if (memory_code_gen(m, offset) != gen) {
        c->stop_block = true;
        if (c->interpret)
            soft_code_written(c, offset);
    }
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
    if (e->write == SOFT_TLB_NONE)
        note_write(c, e->gpa & PAGE_MASK);
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
    u64 v = mmu_read_as(c, c->mmu->cls, la, size);
    if (unlikely(c->mmu->check_data))
        soft_note_data_access(c, la, size, false);
    return v;
}

void soft_write_slow(struct soft_cpu *c, u64 la, u64 value, unsigned size)
{
    soft_check_alignment(c, la, size);
    mmu_write_as(c, c->mmu->cls, la, value, size);
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
        if (e->write == SOFT_TLB_NONE)
            note_write(c, e->gpa & PAGE_MASK);
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
    enum mmu_class cls = c->mmu->cls;
    BUG_ON(len > PAGE_SIZE);
    t->len[0] = MIN(len, left_in_page(la));
    t->len[1] = len - t->len[0];
    t->la[0] = la;
    t->la[1] = next_page(c, cls, la);
    t->e[0] = translate(c, cls, la, access);
    if (t->len[1])
        t->e[1] = translate(c, cls, t->la[1], access);
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
        mmu_probe_as(c, c->mmu->cls, la, len, access);
}

/*
 * For a pointer to write through: notes the write of a tracked page. False when the page stays
 * tracked because it holds code, so that each write must be noted.
 */
static bool untrack_for_write(struct soft_cpu *c, const struct soft_tlb_entry *e)
{
    if (e->write != SOFT_TLB_NONE)
        return true;
    u64 offset = ram_offset(c, e->gpa & PAGE_MASK);
    if (memory_page_tracked(c->mmu->env.memory, offset))
        note_write(c, e->gpa & PAGE_MASK);
    return !memory_page_tracked(c->mmu->env.memory, offset);
}

void *soft_atomic_ptr(struct soft_cpu *c, u64 la, unsigned size)
{
    enum mmu_class cls = c->mmu->cls;
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
    struct soft_tlb_entry e = translate(c, c->mmu->cls, la, access);
    if (!(e.gpa & ATTR_RAM) || c->mmu->check_align || c->mmu->check_data)
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
    struct soft_tlb_entry e = translate(c, c->mmu->cls, la, SOFT_EXEC);
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
    enum mmu_class cls = c->mmu->cls;
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
