/*
 * Windows (window.h).
 *
 * 1. A section is room for one window. It belongs to an address space: to the page tables at @root, and to
 * the number that mmu.c has for their PCID until that is flushed (mmu.c, rule 1).
 * 2. A page is in a section only with rights that the page tables gave it when they were last asked: to be
 *    written, only with D set and while it is untracked (memory.h). What changes that comes here: INVLPG,
 *    windows_protect(), wiping the TLB.
 * 3. A flush of the PCID does not empty its sections: they are out of use, since the number changed. When
 * user code with the same page tables runs again, each page is looked up anew, and goes if it is another one
 * or has fewer rights. That is far cheaper than to take a fault for each.
 * 4. soft_cpu.window, which translated code looks at, is right whenever code of SOFT_MODE_WINDOW may run.
 *    Sections lie apart, and nothing else lies between: an access that begins in a window and ends behind it,
 *    or has a small displacement, reaches nothing.
 * 5. A process has windows while they pay. Each page that is mapped costs credit, each tick gives some back.
 */
#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"
#include "soft/system-internal.h"
#include "soft/window.h"

#define SECTION_SHIFT 40
#define SECTION_SIZE (1ull << SECTION_SHIFT)
#define SECTION_STRIDE (SECTION_SIZE + (64ull << 30)) /* rule 4 */
#define SECTIONS 40u
#define USER_END (1ull << 47)
#define LARGE_SIZE (2ull << 20)

#define MAPPINGS 24576u /* each may cost two of the host's mappings, of which a process has 65530 */
#define HASH_BITS 14
#define NEAR_SIZE (4ull << 20)
#define NEAR_BITS 1024
#define PROCESSES 256u

enum { START_TICKS = 3, CREDIT_START = 3000, CREDIT_TICK = 150, CREDIT_MAX = 6000, CHECKS_A_CREDIT = 64 };
enum { WAIT_FIRST = 16, WAIT_MAX = 4096 };

struct section {
    u64 base; /* of the guest's addresses */
    u64 root;
    u16 space;                      /* 0: free */
    u32 first;                      /* of its mappings; 0 is none */
    bool huge;                      /* some are of pages of 1 GiB */
    u64 near_large[NEAR_BITS / 64]; /* by a hash of the 4 MiB: some there are of pages of 2 or 4 MiB */
};

struct mapping {
    u64 la, gpa; /* of the page, 4 KiB or 2 MiB */
    u16 section;
    bool large, write;
    u32 next, prev;        /* in the section */
    u32 next_la, next_gpa; /* in the hash tables */
};

/* Rule 5. */
struct process {
    u64 root;
    bool on;
    u8 ticks;
    u16 wait, next_wait;
    i32 credit;
};

struct windows {
    u8 *host; /* SECTIONS of SECTION_STRIDE, all PROT_NONE to begin with */
    bool always;
    u64 root;  /* whose windows soft_cpu.window has, */
    u16 space; /* 0: nobody's */
    u32 next_section, free_mapping, fresh_mapping;
    struct section section[SECTIONS];
    struct process process[PROCESSES];
    struct mapping mapping[MAPPINGS];
    u32 by_la[1 << HASH_BITS], by_gpa[1 << HASH_BITS];
};

static u64 root_of(const struct soft_cpu *c)
{
    return c->s->cr3 & PAGE_MASK & ~BIT(63);
}

/* --- mappings --- */

static u32 *hash_slot(u32 *table, u64 page, unsigned salt)
{
    return &table[((page >> PAGE_SHIFT) * 2 + salt) * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS)];
}

static u8 *host_of(const struct windows *w, const struct section *s, u64 la)
{
    return w->host + (u64)(s - w->section) * SECTION_STRIDE + (la - s->base);
}

static u64 size_of(bool large)
{
    return large ? LARGE_SIZE : PAGE_SIZE;
}

static u32 find(struct windows *w, const struct section *s, u64 la, bool large)
{
    u64 page = la & ~(size_of(large) - 1);
    u32 n = *hash_slot(w->by_la, page, large);
    while (n && (w->mapping[n].la != page || w->mapping[n].large != large ||
                 &w->section[w->mapping[n].section] != s))
        n = w->mapping[n].next_la;
    return n;
}

static bool no_access(void *at, u64 size)
{
    return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
}

static void take_out(u32 *slot, struct windows *w, u32 n, size_t link)
{
    while (*slot != n)
        slot = (u32 *)((char *)&w->mapping[*slot] + link);
    *slot = *(u32 *)((char *)&w->mapping[n] + link);
}

/* Of the tables; the host's mapping stays. */
static void forget(struct windows *w, u32 n)
{
    struct mapping *m = &w->mapping[n];
    take_out(hash_slot(w->by_la, m->la, m->large), w, n, offsetof(struct mapping, next_la));
    take_out(hash_slot(w->by_gpa, m->gpa, m->large), w, n, offsetof(struct mapping, next_gpa));
    if (m->prev)
        w->mapping[m->prev].next = m->next;
    else
        w->section[m->section].first = m->next;
    if (m->next)
        w->mapping[m->next].prev = m->prev;
    m->next = w->free_mapping;
    w->free_mapping = n;
}

static void drop(struct windows *w, u32 n)
{
    const struct mapping *m = &w->mapping[n];
    BUG_ON(!no_access(host_of(w, &w->section[m->section], m->la), size_of(m->large)));
    forget(w, n);
}

static void empty(struct windows *w, struct section *s)
{
    if (!s->first)
        return;
    BUG_ON(!no_access(host_of(w, s, s->base), SECTION_SIZE));
    while (s->first)
        forget(w, s->first);
}

static u32 new_mapping(struct windows *w)
{
    u32 n = w->free_mapping;
    if (n)
        w->free_mapping = w->mapping[n].next;
    else if (w->fresh_mapping < MAPPINGS)
        n = w->fresh_mapping++;
    return n;
}

static void empty_all(struct windows *w)
{
    for (unsigned k = 0; k < SECTIONS; k++)
        empty(w, &w->section[k]);
}

static void note(struct windows *w, struct section *s, u32 n, const struct mapping *what)
{
    struct mapping *m = &w->mapping[n];
    u32 *la = hash_slot(w->by_la, what->la, what->large), *gpa = hash_slot(w->by_gpa, what->gpa, what->large);
    *m = *what;
    m->section = (u16)(s - w->section);
    m->prev = 0;
    m->next = s->first;
    if (s->first)
        w->mapping[s->first].prev = n;
    s->first = n;
    m->next_la = *la;
    m->next_gpa = *gpa;
    *la = *gpa = n;
}

/* --- which process has windows (rule 5) --- */

static struct process *process(struct windows *w, u64 root)
{
    struct process *p = &w->process[(root >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 56];
    if (p->root != root)
        *p = (struct process){.root = root, .next_wait = WAIT_FIRST};
    return p;
}

_Static_assert(PROCESSES == 256, "the hash above has 8 bits");

bool windows_on(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    return w->always || process(w, root_of(c))->on;
}

static void give_up(struct process *p)
{
    p->on = false;
    p->ticks = 0;
    p->wait = p->next_wait;
    p->next_wait = (u16)MIN(p->next_wait * 2, (int)WAIT_MAX);
}

void windows_tick(struct soft_cpu *c)
{
    struct process *p = process(c->windows, root_of(c));
    if (p->on) {
        p->credit = MIN(p->credit + CREDIT_TICK, (i32)CREDIT_MAX);
        if (p->credit < 0)
            give_up(p);
    } else if (p->wait) {
        p->wait--;
    } else if (++p->ticks >= START_TICKS) {
        p->on = true;
        p->credit = CREDIT_START;
    }
}

/* --- windows --- */

static unsigned kind_of(u64 la)
{
    u64 slice = la >> SECTION_SHIFT;
    return slice == 127 ? WINDOW_STACK : slice >= 112 ? WINDOW_LIBRARIES : WINDOW_PROGRAM;
}

unsigned windows_kind(const struct soft_cpu *c, u64 la)
{
    unsigned kind = kind_of(la);
    return la < USER_END ? kind : c->window_last;
}

static void set_ranges(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    memset(c->window, 0, sizeof c->window);
    for (unsigned k = 0; w->space && k < SECTIONS; k++) {
        const struct section *s = &w->section[k];
        if (s->space != w->space || s->root != w->root)
            continue;
        c->window[kind_of(s->base)] = (struct soft_range){
            .base = s->base,
            .limit = SECTION_SIZE,
            .limit_wide = SECTION_SIZE,
            .addend = (intptr_t)((uintptr_t)host_of(w, s, s->base) - s->base),
        };
    }
    if (!c->window[WINDOW_LIBRARIES].limit)
        c->window[WINDOW_LIBRARIES] = c->window[WINDOW_STACK];
}

/* Rule 3: is what @m says still what the page tables say? */
static bool holds(struct soft_cpu *c, const struct mapping *m)
{
    struct paging_page p;
    if (paging_walk(mmu_paging_env(c), c->s, m->la, PAGING_R | PAGING_USER, &p) != 0)
        return false;
    if ((p.gpa & ~(size_of(m->large) - 1)) != m->gpa || (m->large && p.shift < 21))
        return false;
    return !m->write || (p.writable && p.dirty);
}

static void look_again(struct soft_cpu *c, struct section *s, unsigned *kept, unsigned *gone)
{
    struct windows *w = c->windows;
    u32 next;
    for (u32 n = s->first; n; n = next) {
        next = w->mapping[n].next;
        if (holds(c, &w->mapping[n])) {
            ++*kept;
        } else {
            ++*gone;
            drop(w, n);
        }
    }
}

void windows_switch(struct soft_cpu *c, u16 space)
{
    struct windows *w = c->windows;
    u64 root = root_of(c);
    if (likely(w->space == space && w->root == root))
        return;
    w->space = space;
    w->root = root;
    unsigned kept = 0, gone = 0;
    for (unsigned k = 0; space && k < SECTIONS; k++) {
        struct section *s = &w->section[k];
        if (!s->space || s->root != root || s->space == space)
            continue;
        look_again(c, s, &kept, &gone);
        s->space = space;
    }
    set_ranges(c);
    struct process *p = process(w, root);
    p->credit -= (i32)(kept / CHECKS_A_CREDIT + gone / 2);
    if (gone > 16 && gone > kept) /* most likely another program */
        *p = (struct process){.root = root, .next_wait = WAIT_FIRST};
}

static bool has_section(const struct windows *w, u64 base)
{
    for (unsigned k = 0; k < SECTIONS; k++)
        if (w->section[k].base == base && w->section[k].root == w->root && w->section[k].space == w->space)
            return true;
    return false;
}

/* The next that is not the current process's. */
static struct section *oldest(struct windows *w)
{
    for (unsigned k = 0; k < SECTIONS; k++) {
        struct section *s = &w->section[w->next_section++ % SECTIONS];
        if (!s->space || s->root != w->root)
            return s;
    }
    return NULL;
}

void windows_want(struct soft_cpu *c, u64 la)
{
    struct windows *w = c->windows;
    struct paging_page p;
    u64 base = la & ~(SECTION_SIZE - 1);
    if (la >= USER_END || !w->space || la - c->window[kind_of(la)].base < SECTION_SIZE ||
        has_section(w, base))
        return;
    if (paging_peek(mmu_paging_env(c), c->s, la, &p) != 0 || !p.user)
        return;
    struct section *s = oldest(w);
    if (!s)
        return;
    empty(w, s);
    *s = (struct section){.base = base, .root = w->root, .space = w->space};
    set_ranges(c);
}

/* --- filling --- */

static u64 *near_word(struct section *s, u64 la)
{
    return &s->near_large[la / NEAR_SIZE / 64 % (NEAR_BITS / 64)];
}

static u64 near_bit(u64 la)
{
    return BIT(la / NEAR_SIZE % 64);
}

/* May all of the 2 MiB around the page be one mapping of the host? */
static bool fits_large(const struct memory *m, const struct paging_page *p)
{
    u64 first = p->gpa & ~(LARGE_SIZE - 1);
    const u8 *host = memory_ram(m, first);
    return p->shift >= 21 && host &&
           memory_ram(m, first + LARGE_SIZE - PAGE_SIZE) == host + LARGE_SIZE - PAGE_SIZE &&
           !memory_large_page_tracked(m, (u64)memory_ram_offset(m, first));
}

static bool map(struct windows *w, struct section *s, const struct memory *m, const struct mapping *what)
{
    int prot = PROT_READ | (what->write ? PROT_WRITE : 0);
    int flags = MAP_SHARED | MAP_FIXED | (what->large ? 0 : MAP_POPULATE);
    off_t offset = (off_t)memory_ram_offset(m, what->gpa);
    return mmap(host_of(w, s, what->la), size_of(what->large), prot, flags, m->fd, offset) != MAP_FAILED;
}

/* There may be one with other rights, or of another size. */
static void put(struct soft_cpu *c, struct section *s, const struct mapping *what)
{
    struct windows *w = c->windows;
    const struct memory *m = c->vcpu->vm->memory;
    u32 old = find(w, s, what->la, what->large);
    if (old)
        forget(w, old);
    old = find(w, s, what->la, true);
    if (old)
        drop(w, old);
    u32 n = new_mapping(w);
    if (!n || !map(w, s, m, what)) { /* too many: start again */
        if (n) {
            w->mapping[n].next = w->free_mapping;
            w->free_mapping = n;
        }
        empty_all(w);
        n = new_mapping(w);
        BUG_ON(!n || !map(w, s, m, what));
    }
    note(w, s, n, what);
}

/* Small pages of 2 MiB that will be one go. */
static void make_way(struct windows *w, struct section *s, u64 la)
{
    for (u64 page = la & ~(LARGE_SIZE - 1), end = page + LARGE_SIZE; page < end; page += PAGE_SIZE) {
        u32 n = find(w, s, page, false);
        if (n)
            forget(w, n);
    }
}

static enum window_fault fill(struct soft_cpu *c, struct section *s, u64 la, bool write)
{
    const struct memory *m = c->vcpu->vm->memory;
    struct paging_page p;
    unsigned access = PAGING_USER | (write ? PAGING_W : PAGING_R);
    if (paging_walk(mmu_paging_env(c), c->s, la, access, &p) != 0)
        return WINDOW_REFUSED;
    i64 off = memory_ram_offset(m, p.gpa);
    if (off < 0)
        return WINDOW_REFUSED;
    struct mapping what = {.write = p.writable && p.dirty && !memory_page_tracked(m, (u64)off & PAGE_MASK)};
    if (write && !what.write)
        return WINDOW_REFUSED;
    what.large = fits_large(m, &p);
    what.la = la & ~(size_of(what.large) - 1);
    what.gpa = p.gpa & ~(size_of(what.large) - 1);
    if (what.large)
        make_way(c->windows, s, la);
    s->huge |= p.shift == 30;
    if (p.shift > PAGE_SHIFT)
        *near_word(s, la) |= near_bit(la);
    put(c, s, &what);
    process(c->windows, c->windows->root)->credit--;
    c->vcpu->counters.window_fills++;
    return WINDOW_MAPPED;
}

enum window_fault windows_fault(struct soft_cpu *c, u64 host, bool write)
{
    struct windows *w = c->windows;
    u64 at = host - (u64)(uintptr_t)w->host;
    if (at >= SECTIONS * SECTION_STRIDE)
        return WINDOW_NOT_OURS;
    struct section *s = &w->section[at / SECTION_STRIDE];
    u64 off = at % SECTION_STRIDE;
    c->vcpu->counters.window_faults++;
    if (off >= SECTION_SIZE || !s->space || s->space != w->space || s->root != w->root)
        return WINDOW_REFUSED;
    return fill(c, s, s->base + off, write);
}

/* --- taking out --- */

static void drop_page(struct windows *w, struct section *s, u64 la)
{
    u32 n = find(w, s, la, false);
    if (n)
        drop(w, n);
    n = find(w, s, la, true);
    if (n)
        drop(w, n);
}

/* What there is of a large page around @la goes, too. */
static void invalidate(struct windows *w, struct section *s, u64 la)
{
    u64 first = la & ~(NEAR_SIZE - 1);
    if (s->huge) {
        empty(w, s);
    } else if (*near_word(s, la) & near_bit(la)) {
        for (u64 page = first; page < first + NEAR_SIZE; page += PAGE_SIZE)
            drop_page(w, s, page);
    } else {
        drop_page(w, s, la);
    }
}

void windows_invlpg(struct soft_cpu *c, u64 la)
{
    struct windows *w = c->windows;
    for (unsigned k = 0; la < USER_END && k < SECTIONS; k++)
        if (w->section[k].first && w->section[k].base == (la & ~(SECTION_SIZE - 1)))
            invalidate(w, &w->section[k], la);
}

void windows_protect(struct soft_cpu *c, u64 gpa)
{
    struct windows *w = c->windows;
    for (unsigned large = 0; large < 2; large++) {
        u64 page = gpa & ~(size_of(large) - 1);
        u32 next;
        for (u32 n = *hash_slot(w->by_gpa, page, large); n; n = next) {
            const struct mapping *m = &w->mapping[n];
            next = m->next_gpa;
            if (m->gpa == page && m->large == large && m->write)
                drop(w, n);
        }
    }
}

void windows_drop_all(struct soft_cpu *c)
{
    empty_all(c->windows);
    for (unsigned k = 0; k < SECTIONS; k++)
        c->windows->section[k].space = 0;
    c->windows->space = 0;
    memset(c->window, 0, sizeof c->window);
}

/* --- life --- */

int windows_init(struct soft_cpu *c, bool always, struct error *err)
{
    if (c->vcpu->vm->vcpu_count > 1)
        return 0;
    void *host =
        mmap(NULL, SECTIONS * SECTION_STRIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED)
        return 0;
    struct windows *w = calloc(1, sizeof *w);
    if (!w) {
        munmap(host, SECTIONS * SECTION_STRIDE);
        return error_set(err, ENOMEM, "no memory for windows");
    }
    w->host = host;
    w->always = always;
    w->fresh_mapping = 1;
    c->windows = w;
    return 0;
}

void windows_release(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    if (!w)
        return;
    c->windows = NULL;
    munmap(w->host, SECTIONS * SECTION_STRIDE);
    free(w);
}
