/*
 * Windows (window.h).
 *
 * 1. A window belongs to an address space: to the page tables at @root, and to the number that mmu.c has for
 *    their PCID until that is flushed (mmu.c, rule 1).
 * 2. It is 4 TiB: room for four slices of 1 TiB of guest addresses, each where the low bits of its number
 *    say. That is enough for the program, its heap, its libraries and its stack. In front of each window lie
 * its marks: a page for every slice that there may be, which can be read if the slice has room. So whoever
 * could read it is the only one with such low bits.
 * 3. A page is in a window only with rights that the page tables gave it when they were last asked: to be
 *    written, only with D set and while it is untracked (memory.h). What changes that comes here: INVLPG,
 *    windows_protect(), wiping the TLB.
 * 4. A flush of the PCID does not empty its window: that is out of use, since the number changed. When user
 *    code with the same page tables runs again, each page is looked up anew, and goes if it is another one or
 *    has fewer rights. That is far cheaper than to take a fault for each.
 * 5. GS, the host's, is right whenever code of SOFT_MODE_WINDOW may run. It points to the marks; the window
 * begins as far behind them as the address of the soft_cpu says, which translated code has in a register.
 * Where there is no current window, the marks are those of none, and no slice has one.
 * 6. Windows and marks lie apart, and nothing else lies between. The pages at the ends of a slice are never
 * in a window: an access beyond an end, whose other half is where another slice is, faults and is done the
 * slow way.
 * 7. A process has windows while they pay. Each page that is mapped costs credit, each tick gives some back.
 */
#include <errno.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/log.h"
#include "soft/system-internal.h"
#include "soft/window.h"

#define SLICE_SHIFT 40
#define SLICE_SIZE (1ull << SLICE_SHIFT)
#define USER_SLICES 4u /* of the window of a process */
#define SYS_SLICES 32u /* of the supervisor's */
#define NO_SLICE ~0u
#define MARKS_SIZE (1ull << (64 - WINDOW_TOUCH_SHIFT))
#define APART (16ull << 30) /* rule 6 */
#define PROCESS_WINDOWS 10u
#define SYS_WINDOW PROCESS_WINDOWS
#define WINDOWS (PROCESS_WINDOWS + 1)
#define AWAY_MIN (MARKS_SIZE + APART) /* from the marks to their window */
#define AWAY_MAX (AWAY_MIN + (64ull << 30))
#define WINDOW_STRIDE (AWAY_MAX + USER_SLICES * SLICE_SIZE + APART)
#define NO_MARKS (SYS_WINDOW * WINDOW_STRIDE + AWAY_MAX + SYS_SLICES * SLICE_SIZE + APART)
#define HOST_SIZE (NO_MARKS + MARKS_SIZE)
#define USER_END (1ull << 47)
#define LARGE_SIZE (2ull << 20)

#define MAPPINGS 24576u /* each may cost two of the host's mappings, of which a process has 65530 */
#define HASH_BITS 14
#define NEAR_SIZE (4ull << 20)
#define NEAR_BITS 1024
#define PROCESSES 256u

enum {
    SYS_START_TICKS = 250 /* after the boot, most likely */,
    START_TICKS = 3,
    CREDIT_START = 3000,
    CREDIT_TICK = 150,
    CREDIT_MAX = 6000,
    CHECKS_A_CREDIT = 64
};
enum { WAIT_FIRST = 16, WAIT_MAX = 4096 };

struct window {
    u64 root;
    u16 space;  /* 0: free */
    u32 slices; /* a power of 2 */
    u32 slice[SYS_SLICES];
    bool huge;                      /* some pages are of pages of 1 GiB */
    bool doubtful;                  /* of the supervisor: something global was flushed (rule 4) */
    u32 first;                      /* of its mappings; 0 is none */
    u64 near_large[NEAR_BITS / 64]; /* by a hash of the 4 MiB: some there are of pages of 2 or 4 MiB */
};

struct mapping {
    u64 la, gpa; /* of the page, 4 KiB or 2 MiB */
    u16 window;
    bool large, write;
    u32 next, prev;        /* in the window */
    u32 next_la, next_gpa; /* in the hash tables */
};

/* Rule 5. */
struct process {
    u64 root;
    bool on;
    u16 ticks;
    u16 wait, next_wait;
    i32 credit;
};

struct windows {
    u8 *host; /* WINDOWS of WINDOW_STRIDE, all PROT_NONE to begin with */
    u64 away; /* from the marks to their window (rule 5) */
    bool always;
    struct window *now; /* the current one, or NULL */
    u32 next_window, free_mapping, fresh_mapping;
    struct window window[WINDOWS];
    struct process process[PROCESSES], sys;
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

/* Of the window, or of none. */
static u8 *marks_of(const struct windows *w, const struct window *s)
{
    return w->host + (s ? (u64)(s - w->window) * WINDOW_STRIDE : NO_MARKS);
}

static bool is_sys(const struct windows *w, const struct window *s)
{
    return s == &w->window[SYS_WINDOW];
}

static u64 window_size(const struct window *s)
{
    return s->slices * SLICE_SIZE;
}

static u32 *slice_at(struct window *s, u64 slice)
{
    return &s->slice[slice % s->slices];
}

static u8 *host_start(const struct windows *w, const struct window *s)
{
    return marks_of(w, s) + w->away;
}

static u8 *host_of(const struct windows *w, const struct window *s, u64 la)
{
    return host_start(w, s) + (la & (window_size(s) - 1));
}

static u64 size_of(bool large)
{
    return large ? LARGE_SIZE : PAGE_SIZE;
}

static u32 find(struct windows *w, const struct window *s, u64 la, bool large)
{
    u64 page = la & ~(size_of(large) - 1);
    u32 n = *hash_slot(w->by_la, page, large);
    while (n && (w->mapping[n].la != page || w->mapping[n].large != large ||
                 &w->window[w->mapping[n].window] != s))
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
        w->window[m->window].first = m->next;
    if (m->next)
        w->mapping[m->next].prev = m->prev;
    m->next = w->free_mapping;
    w->free_mapping = n;
}

static void drop(struct windows *w, u32 n)
{
    const struct mapping *m = &w->mapping[n];
    BUG_ON(!no_access(host_of(w, &w->window[m->window], m->la), size_of(m->large)));
    forget(w, n);
}

static void empty(struct windows *w, struct window *s)
{
    if (!s->first)
        return;
    BUG_ON(!no_access(host_start(w, s), window_size(s)));
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
    for (unsigned k = 0; k < WINDOWS; k++)
        empty(w, &w->window[k]);
}

static void note(struct windows *w, struct window *s, u32 n, const struct mapping *what)
{
    struct mapping *m = &w->mapping[n];
    u32 *la = hash_slot(w->by_la, what->la, what->large), *gpa = hash_slot(w->by_gpa, what->gpa, what->large);
    *m = *what;
    m->window = (u16)(s - w->window);
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

#define SYS_ROOT 1 /* stands for the supervisor; no page tables are there */

static struct process *process(struct windows *w, u64 root)
{
    if (root == SYS_ROOT)
        return &w->sys;
    struct process *p = &w->process[(root >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 56];
    if (p->root != root)
        *p = (struct process){.root = root, .next_wait = WAIT_FIRST};
    return p;
}

_Static_assert(PROCESSES == 256, "the hash above has 8 bits");

bool windows_on(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    if (c->cpl != 3)
        return (c->s->cr4 & X86_CR4_PGE) && (w->always || process(w, SYS_ROOT)->on);
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
    struct process *p = process(c->windows, c->cpl == 3 ? root_of(c) : SYS_ROOT);
    if (p->on) {
        p->credit = MIN(p->credit + CREDIT_TICK, (i32)CREDIT_MAX);
        if (p->credit < 0)
            give_up(p);
    } else if (p->wait) {
        p->wait--;
    } else if (++p->ticks >= (p->root == SYS_ROOT ? SYS_START_TICKS : START_TICKS)) {
        p->on = true;
        p->credit = CREDIT_START;
    }
}

/* --- the current window --- */

void windows_enter(struct soft_cpu *c)
{
    if (c->windows)
        __asm__ volatile("wrgsbase %0" : : "r"(c->window_gs));
}

static void choose(struct soft_cpu *c, struct window *s)
{
    c->windows->now = s;
    c->window_mask = s ? window_size(s) - 1 : 0;
    c->window_gs = marks_of(c->windows, s);
    windows_enter(c);
}

static u8 *mark(const struct windows *w, const struct window *s, u64 slice)
{
    return marks_of(w, s) + (slice << PAGE_SHIFT);
}

/* Whether there is room for it. */
static bool add_slice(struct windows *w, struct window *s, u64 slice)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (!s || (slice >= USER_END >> SLICE_SHIFT) != is_sys(w, s) || *slice_at(s, slice) != NO_SLICE)
        return false;
    u8 *page = mmap(mark(w, s, slice), PAGE_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED)
        return false;
    *page =
        1; /* else it is the zero page, as all: a cache that guesses by linear addresses would miss them */
    *slice_at(s, slice) = (u32)slice;
    return true;
}

static void remove_slices(struct windows *w, struct window *s)
{
    for (unsigned k = 0; k < s->slices; k++)
        if (s->slice[k] != NO_SLICE)
            BUG_ON(!no_access(mark(w, s, s->slice[k]), PAGE_SIZE));
}

/* Is the page there for the supervisor in each address space? */
static bool serves_all(const struct paging_page *p)
{
    return p->global && !p->user;
}

/* Rule 4: is what @m says still what the page tables say? */
static bool holds(struct soft_cpu *c, const struct window *s, const struct mapping *m)
{
    struct paging_page p;
    bool sys = is_sys(c->windows, s);
    if (paging_walk(mmu_paging_env(c), c->s, m->la, PAGING_R | (sys ? 0 : PAGING_USER), &p) != 0 ||
        (sys && !serves_all(&p)))
        return false;
    if ((p.gpa & ~(size_of(m->large) - 1)) != m->gpa || (m->large && p.shift < 21))
        return false;
    return !m->write || (p.writable && p.dirty);
}

static void look_again(struct soft_cpu *c, struct window *s)
{
    struct windows *w = c->windows;
    struct process *p = process(w, s->root);
    unsigned kept = 0, gone = 0;
    u32 next;
    for (u32 n = s->first; n; n = next) {
        next = w->mapping[n].next;
        if (holds(c, s, &w->mapping[n])) {
            kept++;
        } else {
            gone++;
            drop(w, n);
        }
    }
    p->credit -= (i32)(kept / CHECKS_A_CREDIT + gone / 2);
    if (gone > 16 && gone > kept && !is_sys(w, s)) /* most likely another program */
        *p = (struct process){.root = s->root, .next_wait = WAIT_FIRST};
}

static struct window *window_of(struct windows *w, u64 root)
{
    for (unsigned k = 0; k < PROCESS_WINDOWS; k++)
        if (w->window[k].space && w->window[k].root == root)
            return &w->window[k];
    return NULL;
}

static void reset(struct window *s, u64 root, u32 slices)
{
    *s = (struct window){.root = root, .slices = slices};
    memset(s->slice, 0xff, sizeof s->slice);
}

_Static_assert(NO_SLICE == 0xffffffff, "see memset() above");

/* In the place of the one that came first. */
static struct window *new_window(struct windows *w, u64 root)
{
    struct window *s = &w->window[w->next_window++ % PROCESS_WINDOWS];
    if (s == w->now)
        s = &w->window[w->next_window++ % PROCESS_WINDOWS];
    empty(w, s);
    remove_slices(w, s);
    reset(s, root, USER_SLICES);
    return s;
}

static void switch_to_sys(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    struct window *s = &w->window[SYS_WINDOW];
    if (unlikely(s->doubtful)) {
        s->doubtful = false;
        look_again(c, s);
    }
    if (w->now != s)
        choose(c, s);
}

void windows_switch(struct soft_cpu *c, u16 space)
{
    struct windows *w = c->windows;
    if (space && c->cpl != 3) {
        switch_to_sys(c);
        return;
    }
    u64 root = root_of(c);
    if (likely(w->now && w->now->space == space && w->now->root == root))
        return;
    if (!space) {
        choose(c, NULL);
        return;
    }
    struct window *s = window_of(w, root);
    if (!s)
        s = new_window(w, root);
    if (s->space != space)
        look_again(c, s);
    s->space = space;
    choose(c, s);
}

/* --- filling --- */

static u64 *near_word(struct window *s, u64 la)
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
           (!p->writable || !memory_large_page_tracked(m, (u64)memory_ram_offset(m, first)));
}

static bool map(struct windows *w, struct window *s, const struct memory *m, const struct mapping *what)
{
    int prot = PROT_READ | (what->write ? PROT_WRITE : 0);
    int flags = MAP_SHARED | MAP_FIXED | (what->large ? 0 : MAP_POPULATE);
    off_t offset = (off_t)memory_ram_offset(m, what->gpa);
    return mmap(host_of(w, s, what->la), size_of(what->large), prot, flags, m->fd, offset) != MAP_FAILED;
}

/* There may be one with other rights, or of another size. */
static void put(struct soft_cpu *c, struct window *s, const struct mapping *what)
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
static void make_way(struct windows *w, struct window *s, u64 la)
{
    for (u64 page = la & ~(LARGE_SIZE - 1), end = page + LARGE_SIZE; page < end; page += PAGE_SIZE) {
        u32 n = find(w, s, page, false);
        if (n)
            forget(w, n);
    }
}

/* Rule 6. */
static bool at_end(u64 la, u64 size)
{
    u64 off = la & (SLICE_SIZE - 1);
    return off < size || off >= SLICE_SIZE - size;
}

static enum window_fault fill(struct soft_cpu *c, struct window *s, u64 la, bool write)
{
    const struct memory *m = c->vcpu->vm->memory;
    struct paging_page p;
    bool sys = is_sys(c->windows, s);
    unsigned access = (sys ? 0 : PAGING_USER) | (write ? PAGING_W : PAGING_R);
    if (paging_walk(mmu_paging_env(c), c->s, la, access, &p) != 0)
        return WINDOW_REFUSED;
    i64 off = memory_ram_offset(m, p.gpa);
    if (off < 0 || (sys && !serves_all(&p)))
        return WINDOW_SLOW;
    struct mapping what = {.write = p.writable && p.dirty && !memory_page_tracked(m, (u64)off & PAGE_MASK)};
    if (write && !what.write)
        return WINDOW_SLOW;
    what.large = fits_large(m, &p) && !at_end(la, LARGE_SIZE);
    what.la = la & ~(size_of(what.large) - 1);
    what.gpa = p.gpa & ~(size_of(what.large) - 1);
    if (what.large)
        make_way(c->windows, s, la);
    s->huge |= p.shift == 30;
    if (p.shift > PAGE_SHIFT)
        *near_word(s, la) |= near_bit(la);
    put(c, s, &what);
    c->vcpu->counters.window_fills++;
    return WINDOW_MAPPED;
}

static enum window_fault serve(struct soft_cpu *c, u64 host, bool write)
{
    struct windows *w = c->windows;
    struct window *s = w->now;
    u64 off = host - (u64)(uintptr_t)marks_of(w, s);
    if (off < MARKS_SIZE)
        return add_slice(w, s, off >> PAGE_SHIFT) ? WINDOW_MAPPED : WINDOW_NO_SLICE;
    off = s ? host - (u64)(uintptr_t)host_start(w, s) : ~0ull;
    if (!s || off >= window_size(s) || at_end(off, PAGE_SIZE) || s->slice[off >> SLICE_SHIFT] == NO_SLICE)
        return WINDOW_SLOW;
    u64 slice = s->slice[off >> SLICE_SHIFT];
    return fill(c, s, slice << SLICE_SHIFT | (off & (SLICE_SIZE - 1)), write);
}

enum window_fault windows_fault(struct soft_cpu *c, u64 host, bool write)
{
    struct windows *w = c->windows;
    if (host - (u64)(uintptr_t)w->host >= HOST_SIZE)
        return WINDOW_NOT_OURS;
    c->vcpu->counters.window_faults++;
    enum window_fault result = serve(c, host, write);
    if (result != WINDOW_REFUSED && w->now)
        process(w, w->now->root)->credit--;
    return result;
}

/* --- taking out --- */

static void drop_page(struct windows *w, struct window *s, u64 la)
{
    u32 n = find(w, s, la, false);
    if (n)
        drop(w, n);
    n = find(w, s, la, true);
    if (n)
        drop(w, n);
}

static void drop_around(struct windows *w, struct window *s, u64 la, unsigned shift)
{
    u32 next;
    for (u32 n = s->first; n; n = next) {
        next = w->mapping[n].next;
        if ((w->mapping[n].la ^ la) >> shift == 0)
            drop(w, n);
    }
}

/* What there is of a large page around @la goes, too. */
static void invalidate(struct windows *w, struct window *s, u64 la)
{
    u64 first = la & ~(NEAR_SIZE - 1);
    if (s->huge) {
        drop_around(w, s, la, 30);
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
    u64 slice = la >> SLICE_SHIFT;
    for (unsigned k = 0; k < WINDOWS; k++)
        if (w->window[k].first && *slice_at(&w->window[k], slice) == slice)
            invalidate(w, &w->window[k], la);
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
    struct windows *w = c->windows;
    choose(c, NULL);
    for (unsigned k = 0; k < PROCESS_WINDOWS; k++) {
        empty(w, &w->window[k]);
        w->window[k].space = 0;
    }
    w->window[SYS_WINDOW].doubtful = true;
}

/* --- life --- */

static bool has_fsgsbase(void)
{
    enum { HWCAP2_MAY_USE_FSGSBASE = 1 << 1 };
    return getauxval(AT_HWCAP2) & HWCAP2_MAY_USE_FSGSBASE;
}

void *windows_cpu_alloc(size_t size)
{
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    for (u64 at = AWAY_MIN; at <= AWAY_MAX; at += APART) {
        void *p = mmap((void *)(uintptr_t)at, size, prot, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == (void *)(uintptr_t)at)
            return p;
        if (p != MAP_FAILED)
            munmap(p, size);
    }
    return mmap(NULL, size, prot, flags, -1, 0);
}

int windows_init(struct soft_cpu *c, bool always, struct error *err)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    u64 away = (u64)(uintptr_t)c;
    if (c->vcpu->vm->vcpu_count > 1 || !has_fsgsbase() || away < AWAY_MIN || away > AWAY_MAX ||
        away % LARGE_SIZE)
        return 0;
    void *host = mmap(NULL, HOST_SIZE, PROT_NONE, flags, -1, 0);
    if (host == MAP_FAILED)
        return 0;
    struct windows *w = calloc(1, sizeof *w);
    if (!w) {
        munmap(host, HOST_SIZE);
        return error_set(err, ENOMEM, "no memory for windows");
    }
    w->host = host;
    w->away = away;
    w->always = always;
    w->fresh_mapping = 1;
    for (unsigned k = 0; k < PROCESS_WINDOWS; k++)
        reset(&w->window[k], 0, USER_SLICES);
    reset(&w->window[SYS_WINDOW], SYS_ROOT, SYS_SLICES);
    w->sys = (struct process){.root = SYS_ROOT, .next_wait = WAIT_FIRST};
    c->windows = w;
    choose(c, NULL);
    return 0;
}

void windows_release(struct soft_cpu *c)
{
    struct windows *w = c->windows;
    if (!w)
        return;
    c->windows = NULL;
    munmap(w->host, HOST_SIZE);
    free(w);
}
