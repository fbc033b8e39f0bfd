/*
 * Guest RAM: one memfd, its linear mapping, checked access and page tracking.
 *
 * Tracking rules
 * 1. A write is noted after it was done. Then whoever sees the old flags or the old generation may
 *    see the old bytes, but whoever made them clean or read them anew is told of the new ones.
 * 2. A writer stores bytes, then loads the flags; who tracks a page stores the flag, then loads bytes.
 *    Both have a full barrier between, so at least one of them sees the other.
 */
#include "memory/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/mapping.h"

#define MIB (1ull << 20)

/* RAM is sparse, so more than what is free is fine; more than there is can only end in SIGBUS. */
static int check_host_memory(u64 size, struct error *err)
{
    struct sysinfo si;
    if (sysinfo(&si) < 0)
        return 0;
    u64 total = ((u64)si.totalram + si.totalswap) * si.mem_unit;
    if (size <= total)
        return 0;
    return error_set(err, ENOMEM, "not enough memory on this host for %llu MiB of RAM: it has %llu MiB",
                     (unsigned long long)(size / MIB), (unsigned long long)(total / MIB));
}

static int map_ram(struct memory *m, struct error *err)
{
    unsigned long long mib = m->ram_size / MIB;
    m->fd = memfd_create("trapeze-ram", MFD_CLOEXEC);
    if (m->fd < 0)
        return error_set_errno(err, errno, "cannot create a memfd for guest RAM");
    if (ftruncate(m->fd, (off_t)m->ram_size) < 0)
        return error_set_errno(err, errno, "cannot get %llu MiB of guest RAM", mib);
    void *p = mapping_huge(m->ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd);
    if (p == MAP_FAILED)
        return error_set_errno(err, errno, "cannot map %llu MiB of guest RAM", mib);
    m->ram = p;
    madvise(p, m->ram_size, MADV_DONTDUMP);
    return 0;
}

static int alloc_tracking(struct memory *m, struct error *err)
{
    u64 pages = m->ram_size >> PAGE_SHIFT;
    m->page_flags = calloc(pages, sizeof *m->page_flags);
    m->page_gen = calloc(pages, sizeof *m->page_gen);
    m->code_lines = calloc(pages, sizeof *m->code_lines);
    if (!m->page_flags || !m->page_gen || !m->code_lines)
        return error_set_errno(err, ENOMEM, "cannot track %llu pages of guest RAM",
                               (unsigned long long)pages);
    return 0;
}

int memory_init(struct memory *m, u64 size, struct error *err)
{
    *m = (struct memory){.fd = -1, .ram_size = size};
    lock_init(&m->dirty_lock, LOCK_RANK_BACKEND);
    list_init(&m->mmio);
    list_init(&m->pio);
    list_init(&m->watches);
    lock_init(&m->watch_lock, LOCK_RANK_LEAF);
    m->low_size = MIN(size, MEMORY_HOLE_START);
    m->high_size = size - m->low_size;
    if (!size || size % MIB || size > MEMORY_MAX_SIZE)
        return error_set(err, EINVAL, "guest RAM must be a multiple of 1M, from 1M to %lluG",
                         (unsigned long long)(MEMORY_MAX_SIZE >> 30));
    int r = check_host_memory(size, err);
    if (r == 0)
        r = map_ram(m, err);
    if (r == 0)
        r = alloc_tracking(m, err);
    if (r < 0)
        memory_release(m);
    return r;
}

void memory_release(struct memory *m)
{
    if (m->ram)
        munmap(m->ram, m->ram_size);
    if (m->fd >= 0)
        close(m->fd);
    free((void *)m->page_flags);
    free((void *)m->page_gen);
    free((void *)m->code_lines);
    lock_release(&m->dirty_lock);
    lock_release(&m->watch_lock);
    *m = (struct memory){.fd = -1};
    list_init(&m->mmio);
    list_init(&m->pio);
}

/* --- checked access --- */

void *memory_span(const struct memory *m, u64 gpa, u64 len)
{
    u64 end;
    if (!len || __builtin_add_overflow(gpa, len, &end))
        return NULL;
    bool below_vga = end <= MIN(MEMORY_VGA_START, m->low_size);
    bool low = gpa >= MEMORY_VGA_END && end <= m->low_size;
    bool high = gpa >= MEMORY_HOLE_END && end - MEMORY_HOLE_END <= m->high_size;
    return below_vga || low || high ? memory_ram(m, gpa) : NULL;
}

int memory_read(const struct memory *m, u64 gpa, void *buf, u64 len)
{
    if (!len)
        return 0;
    const void *p = memory_span(m, gpa, len);
    if (!p)
        return -EFAULT;
    memcpy(buf, p, len);
    return 0;
}

int memory_write(struct memory *m, u64 gpa, const void *buf, u64 len)
{
    if (!len)
        return 0;
    void *p = memory_span(m, gpa, len);
    if (!p)
        return -EFAULT;
    memcpy(p, buf, len);
    memory_span_written(m, gpa, len);
    return 0;
}

/* --- page tracking --- */

static void tell_watches(struct memory *m, u64 page)
{
    struct code_watch *w;
    lock_acquire(&m->watch_lock);
    list_for_each (w, &m->watches, link) {
        if (!atomic_load(&w->interest[page]))
            continue;
        if (w->count < CODE_WATCH_PAGES)
            w->page[w->count] = page;
        if (w->count <= CODE_WATCH_PAGES)
            w->count++;
        for (unsigned n = 0; n < CODE_WATCH_KICKS; n++)
            if (w->kick[n])
                atomic_store(w->kick[n], 1);
    }
    lock_drop(&m->watch_lock);
}

/* The lines of @len bytes, which do not leave the page. */
static u64 lines_of(u64 ram_offset, u64 len)
{
    u64 first = ram_offset & ~PAGE_MASK, last = first + len - 1;
    return ~0ull << (first >> 6) & ~0ull >> (63 - (last >> 6 & 63));
}

static bool hits_code(const struct memory *m, u64 page, u64 lines)
{
    u64 code = atomic_load_explicit(&m->code_lines[page], memory_order_relaxed);
    return !code || (code & lines);
}

static void note_page(struct memory *m, u64 page, u64 lines)
{
    u8 flags = atomic_load_explicit(&m->page_flags[page], memory_order_relaxed);
    if ((flags & PAGE_CODE) && hits_code(m, page, lines)) {
        atomic_fetch_add(&m->page_gen[page], 1);
        tell_watches(m, page);
    }
    if (flags & PAGE_CLEAN)
        atomic_fetch_and_explicit(&m->page_flags[page], (u8)~PAGE_CLEAN, memory_order_acq_rel);
}

bool memory_large_page_tracked(const struct memory *m, u64 ram_offset)
{
    /* Eight flags at a time: this is on the way of TLB misses. */
    const volatile u64 *flags =
        (const volatile u64 *)&m->page_flags[(ram_offset & ~0x1fffffull) >> PAGE_SHIFT];
    u64 any = 0;
    for (unsigned n = 0; n < 512 / sizeof *flags; n++)
        any |= flags[n];
    atomic_thread_fence(memory_order_acquire);
    return any;
}

void memory_note_write(struct memory *m, u64 ram_offset, u64 len)
{
    atomic_thread_fence(memory_order_seq_cst); /* rule 2 */
    note_page(m, ram_offset >> PAGE_SHIFT, lines_of(ram_offset, len));
}

void memory_span_written(struct memory *m, u64 gpa, u64 len)
{
    if (!memory_span(m, gpa, len))
        return;
    u64 at = (u64)memory_ram_offset(m, gpa);
    atomic_thread_fence(memory_order_seq_cst); /* rule 2 */
    for (u64 n; len; at += n, len -= n) {
        n = MIN(len, PAGE_SIZE - (at & ~PAGE_MASK));
        note_page(m, at >> PAGE_SHIFT, lines_of(at, n));
    }
}

bool memory_mark_code(struct memory *m, u64 ram_offset)
{
    return !(atomic_fetch_or(&m->page_flags[ram_offset >> PAGE_SHIFT], PAGE_CODE) & PAGE_GUARDED);
}

void memory_guard_code(struct memory *m, u64 ram_offset)
{
    _Atomic u8 *flags = &m->page_flags[ram_offset >> PAGE_SHIFT];
    u8 old = atomic_load(flags);
    while ((old & PAGE_CODE) && !atomic_compare_exchange_weak(flags, &old, old | PAGE_GUARDED))
        ;
}

void memory_mark_lines(struct memory *m, u64 ram_offset, u64 len)
{
    atomic_fetch_or(&m->code_lines[ram_offset >> PAGE_SHIFT], lines_of(ram_offset, len));
}

/* The generation moves as well, and last, so that a block that was overlooked cannot come back to life. */
void memory_unmark_code(struct memory *m, u64 ram_offset)
{
    u64 page = ram_offset >> PAGE_SHIFT;
    atomic_fetch_and(&m->page_flags[page], (u8) ~(PAGE_CODE | PAGE_GUARDED));
    atomic_store(&m->code_lines[page], 0);
    atomic_fetch_add(&m->page_gen[page], 1);
    tell_watches(m, page);
}

/* --- code watches --- */

int memory_watch_add(struct memory *m, struct code_watch *w, struct error *err)
{
    list_init(&w->link);
    w->count = 0;
    memset(w->kick, 0, sizeof w->kick);
    w->interest = calloc(m->ram_size >> PAGE_SHIFT, sizeof *w->interest);
    if (!w->interest)
        return error_set(err, ENOMEM, "no memory to watch the pages of guest RAM");
    lock_acquire(&m->watch_lock);
    list_push_back(&m->watches, &w->link);
    lock_drop(&m->watch_lock);
    return 0;
}

void memory_watch_remove(struct memory *m, struct code_watch *w)
{
    if (!w->interest)
        return;
    lock_acquire(&m->watch_lock);
    list_remove(&w->link);
    lock_drop(&m->watch_lock);
    free((void *)w->interest);
    w->interest = NULL;
}

void memory_watch_kick(struct memory *m, struct code_watch *w, unsigned n, _Atomic u32 *kick)
{
    BUG_ON(n >= CODE_WATCH_KICKS);
    lock_acquire(&m->watch_lock);
    w->kick[n] = kick;
    lock_drop(&m->watch_lock);
}

bool memory_watch_pending(struct memory *m, struct code_watch *w)
{
    lock_acquire(&m->watch_lock);
    bool pending = w->count;
    lock_drop(&m->watch_lock);
    return pending;
}

int memory_watch_take(struct memory *m, struct code_watch *w, u64 pages[CODE_WATCH_PAGES])
{
    lock_acquire(&m->watch_lock);
    int count = w->count <= CODE_WATCH_PAGES ? (int)w->count : -1;
    memcpy(pages, w->page, sizeof w->page);
    w->count = 0;
    lock_drop(&m->watch_lock);
    return count;
}

void memory_unmark_all_code(struct memory *m)
{
    u64 pages = m->ram_size >> PAGE_SHIFT; /* a multiple of 256 */
    for (u64 first = 0; first < pages; first += sizeof(u64)) {
        if (!*(const volatile u64 *)&m->page_flags[first])
            continue;
        for (u64 page = first; page < first + sizeof(u64); page++)
            if (atomic_load_explicit(&m->page_flags[page], memory_order_relaxed) & PAGE_CODE)
                memory_unmark_code(m, page << PAGE_SHIFT);
    }
}

/* --- the dirty log --- */

static void set_clean(struct memory *m, bool clean)
{
    for (u64 page = 0; page < m->ram_size >> PAGE_SHIFT; page++) {
        if (clean)
            atomic_fetch_or(&m->page_flags[page], PAGE_CLEAN);
        else
            atomic_fetch_and(&m->page_flags[page], (u8)~PAGE_CLEAN);
    }
}

/* The source starts first: what it writes from then on is collected, the rest was written before. */
int memory_dirty_log_start(struct memory *m)
{
    lock_acquire(&m->dirty_lock);
    int r = m->dirty_source ? m->dirty_source->start(m->dirty_source) : 0;
    if (r == 0) {
        atomic_store(&m->dirty_log, true);
        set_clean(m, true);
    }
    lock_drop(&m->dirty_lock);
    return r;
}

void memory_dirty_log_stop(struct memory *m)
{
    lock_acquire(&m->dirty_lock);
    if (m->dirty_source && atomic_load(&m->dirty_log))
        m->dirty_source->stop(m->dirty_source);
    atomic_store(&m->dirty_log, false);
    set_clean(m, false);
    lock_drop(&m->dirty_lock);
}

int memory_set_dirty_source(struct memory *m, struct dirty_source *s)
{
    int r = 0;
    lock_acquire(&m->dirty_lock);
    if (atomic_load(&m->dirty_log)) {
        if (m->dirty_source) {
            m->dirty_source->collect(m->dirty_source);
            m->dirty_source->stop(m->dirty_source);
        }
        r = s ? s->start(s) : 0;
    }
    m->dirty_source = r == 0 ? s : NULL;
    lock_drop(&m->dirty_lock);
    return r;
}

u64 memory_dirty_log_fetch(struct memory *m, u64 *bitmap)
{
    u64 pages = m->ram_size >> PAGE_SHIFT, dirty = 0;
    memset(bitmap, 0, (pages + 63) / 64 * sizeof *bitmap);
    lock_acquire(&m->dirty_lock);
    if (m->dirty_source && atomic_load(&m->dirty_log))
        m->dirty_source->collect(m->dirty_source);
    lock_drop(&m->dirty_lock);
    for (u64 page = 0; page < pages; page++) {
        if (atomic_load_explicit(&m->page_flags[page], memory_order_relaxed) & PAGE_CLEAN)
            continue;
        if (!(atomic_fetch_or(&m->page_flags[page], PAGE_CLEAN) & PAGE_CLEAN)) {
            bitmap[page / 64] |= BIT(page % 64);
            dirty++;
        }
    }
    return dirty;
}
