/*
 * Guest-physical memory and the I/O maps of one VM.
 *
 * RAM is one memfd, mapped once linearly. Guest-physical RAM has a hole below 4 GiB for devices:
 *     [0, 0xa0000)  [0xc0000, low_top)  [4 GiB, 4 GiB + high)
 * with low_top at most MEMORY_HOLE_START. The layout is fixed at memory_init(), so gpa-to-host
 * translation needs no lock. (0xa0000..0xbffff is for I/O regions; its RAM is unused.)
 *
 * MMIO and port regions come and go (PCI BARs). Those maps belong to the machine lock: adding,
 * removing, enabling and dispatching all happen with it held.
 *
 * Page tracking. For each RAM page there is an atomic byte of flags. A writer that goes around the
 * CPU engines' fast paths (device DMA, loaders) uses memory_write() or a span with
 * memory_span_written(), which do the tracking. An engine may keep a direct write mapping (a TLB
 * entry) of a page only while memory_page_tracked() is false; otherwise each write calls
 * memory_note_write(). See cpu/engine.h for how a page becomes tracked while other vCPUs run.
 *
 * Code watches. Who keeps something made from code and does not want to look at the page's generation each
 * time, is told of writes: a struct code_watch collects the pages.
 */
#ifndef TRAPEZE_MEMORY_MEMORY_H
#define TRAPEZE_MEMORY_MEMORY_H

#include <stdatomic.h>

#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"

#define MEMORY_HOLE_START 0xb0000000ull /* low RAM ends here at the latest */
#define MEMORY_HOLE_END 0x100000000ull
#define MEMORY_MAX_SIZE (64ull << 30)
#define MEMORY_VGA_START 0xa0000ull
#define MEMORY_VGA_END 0xc0000ull

/* --- I/O regions --- */

struct io_region;

struct io_ops {
    /*
     * @offset from the region's base, @size 1, 2, 4 or 8 and within [min_size, max_size], all of it
     * within the region (but not always aligned): the dispatcher splits larger accesses, widens
     * smaller reads and drops smaller writes. Machine lock held.
     */
    u64 (*read)(struct io_region *r, u64 offset, unsigned size);
    void (*write)(struct io_region *r, u64 offset, u64 value, unsigned size);
    u8 min_size, max_size; /* 0 means 1 and 8 */
};

/*
 * @count places, @stride bytes apart from @offset on, to which writes of any value mean only that they were
 * done. The region's write() may be called for one a little later, for several at once, on any thread.
 */
struct io_doorbells {
    u64 offset;
    u32 stride, count;
};

/* Embedded in its device (container_of). */
struct io_region {
    const struct io_ops *ops;
    const char *name;
    u64 base, size;
    struct io_doorbells doorbells; /* set by the device before the region is mapped; most have none */
    struct list link;
    bool mapped;
};

/* Who wants to know where doorbells are, and then serves them. Called with the machine lock held. */
struct doorbell_watch {
    void (*mapped)(struct doorbell_watch *w, struct io_region *r, bool mapped);
};

/*
 * A writer that does not note its writes one by one, like guest code under KVM. Called by the dirty log with
 * its lock held; collect() calls memory_note_write() for what was written since it was last called.
 */
struct dirty_source {
    int (*start)(struct dirty_source *s); /* -errno */
    void (*stop)(struct dirty_source *s);
    void (*collect)(struct dirty_source *s);
};

/* Flags: holds cached code; dirty log waits for a write; as PAGE_CODE, and nobody has a direct write mapping.
 */
enum { PAGE_CODE = 1, PAGE_CLEAN = 2, PAGE_GUARDED = 4 };

/*
 * Collects pages of cached code that were written, among those of interest: by whichever thread, after the
 * generation of the page has moved.
 */
#define CODE_WATCH_PAGES 32u
#define CODE_WATCH_KICKS 16u
struct code_watch {
    struct list link;
    _Atomic u8 *interest;                /* one a RAM page, set and cleared by the owner */
    _Atomic u32 *kick[CODE_WATCH_KICKS]; /* become 1 when something was written; NULL: nobody. Under: */
    u32 count; /* memory.watch_lock; more than CODE_WATCH_PAGES: which, was not kept */
    u64 page[CODE_WATCH_PAGES];
};

struct memory {
    int fd;        /* the memfd: page N of RAM at offset N * 4096 in RAM order, see memory_ram_offset */
    u8 *ram;       /* linear mapping of the memfd, ram_size bytes */
    u64 ram_size;  /* total bytes of RAM */
    u64 low_size;  /* bytes below 4 GiB: gpa [0, low_size) */
    u64 high_size; /* bytes from 4 GiB on */
    _Atomic u8 *page_flags;  /* one a RAM page */
    _Atomic u64 *code_lines; /* of each RAM page, its 64-byte lines with cached code; 0: any may have it */
    _Atomic u32 *page_gen;   /* code generation of each RAM page: changes when a PAGE_CODE page is written */
    atomic_bool dirty_log;   /* dirty logging is on */
    struct lock dirty_lock;
    struct dirty_source *dirty_source;      /* under dirty_lock; not owned */
    struct list mmio, pio;                  /* of io_region, sorted by base */
    struct io_region *mmio_last, *pio_last; /* last one hit */
    struct doorbell_watch *doorbell_watch;  /* or NULL; not owned */
    struct lock watch_lock;                 /* guards: */
    struct list watches;                    /* of code_watch */
};

/* @size: a multiple of 1 MiB from 1 MiB to MEMORY_MAX_SIZE. RAM is zero and sparse. */
int memory_init(struct memory *m, u64 size, struct error *err);
void memory_release(struct memory *m);

/* Offset of RAM @gpa in the memfd, or -1 when it is not RAM. Lock-free. */
static inline i64 memory_ram_offset(const struct memory *m, u64 gpa)
{
    if (gpa < m->low_size)
        return unlikely(gpa - MEMORY_VGA_START < MEMORY_VGA_END - MEMORY_VGA_START) ? -1 : (i64)gpa;
    if (gpa - MEMORY_HOLE_END < m->high_size)
        return (i64)(gpa - MEMORY_HOLE_END + m->low_size);
    return -1;
}

/* Host address of RAM @gpa, valid to the end of its page; NULL when not RAM. Lock-free. */
static inline u8 *memory_ram(const struct memory *m, u64 gpa)
{
    i64 off = memory_ram_offset(m, gpa);
    return off < 0 ? NULL : m->ram + off;
}

/* The gpa of a RAM offset. */
static inline u64 memory_offset_gpa(const struct memory *m, u64 off)
{
    return off < m->low_size ? off : off - m->low_size + MEMORY_HOLE_END;
}

/* --- checked access for devices and loaders; RAM only; any thread --- */

/*
 * The host range of RAM [gpa, gpa + len), or NULL when any byte of it is not RAM or the range
 * wraps. Contiguous guest RAM is contiguous on the host. len 0 gives NULL.
 */
void *memory_span(const struct memory *m, u64 gpa, u64 len);

/* Copies; 0 (also for len 0) or -EFAULT with nothing copied. memory_write does the page tracking. */
int memory_read(const struct memory *m, u64 gpa, void *buf, u64 len);
int memory_write(struct memory *m, u64 gpa, const void *buf, u64 len);

/* To be called after writing through a span: dirty log and code invalidation. */
void memory_span_written(struct memory *m, u64 gpa, u64 len);

/* --- page tracking (engines) --- */

static inline bool memory_page_tracked(const struct memory *m, u64 ram_offset)
{
    return atomic_load_explicit(&m->page_flags[ram_offset >> PAGE_SHIFT], memory_order_acquire) != 0;
}

/* Is any of the 512 pages of the 2 MiB at @ram_offset tracked? */
bool memory_large_page_tracked(const struct memory *m, u64 ram_offset);

/* @len bytes within a tracked page were just written: marks it dirty, moves its generation if they are code.
 */
void memory_note_write(struct memory *m, u64 ram_offset, u64 len);

/*
 * The page holds cached code from now on. True while some vCPU may have a direct write mapping from before:
 * the caller has all of them dropped, whoever else is about to do so, and calls memory_guard_code().
 */
bool memory_mark_code(struct memory *m, u64 ram_offset);

/* The mappings are gone, and no vCPU has run since: if the page still holds code, marking it needs no more.
 */
void memory_guard_code(struct memory *m, u64 ram_offset);

/*
 * Of a page marked as code, these @len bytes are, and whatever else was said to be: other writes need not
 * move the generation from now on. One that came before does not, either: compare the bytes after this.
 */
void memory_mark_lines(struct memory *m, u64 ram_offset, u64 len);

static inline bool memory_page_is_code(const struct memory *m, u64 ram_offset)
{
    return atomic_load_explicit(&m->page_flags[ram_offset >> PAGE_SHIFT], memory_order_acquire) & PAGE_CODE;
}

/* Nothing cached from this page is left: writes need not be noted for its sake. */
void memory_unmark_code(struct memory *m, u64 ram_offset);

/* The same for all pages: the caches of all engines are gone. */
void memory_unmark_all_code(struct memory *m);

/* -ENOMEM leaves nothing behind; memory_watch_remove() may be called nevertheless. */
int memory_watch_add(struct memory *m, struct code_watch *w, struct error *err);
void memory_watch_remove(struct memory *m, struct code_watch *w);

/* Who is number @n (below CODE_WATCH_KICKS) of those that are kicked from now on; NULL: nobody. */
void memory_watch_kick(struct memory *m, struct code_watch *w, unsigned n, _Atomic u32 *kick);

/* Is there something to take? */
bool memory_watch_pending(struct memory *m, struct code_watch *w);

/* Moves what was collected into @pages (numbers of RAM pages); how many, or -1: any may have been written. */
int memory_watch_take(struct memory *m, struct code_watch *w, u64 pages[CODE_WATCH_PAGES]);

static inline u32 memory_code_gen(const struct memory *m, u64 ram_offset)
{
    return atomic_load_explicit(&m->page_gen[ram_offset >> PAGE_SHIFT], memory_order_acquire);
}

/*
 * Dirty log, per 4 KiB page. Start marks all pages clean; fetch copies the bitmap (bit N = RAM page
 * N, (pages + 63) / 64 words) and makes dirty pages clean again. The caller makes the engines drop
 * their write mappings after each (vm_flush_tlbs()), and copies pages only then: a write that went
 * through an old mapping is not reported a second time.
 */
int memory_dirty_log_start(struct memory *m); /* -errno when the source cannot; the log is off then */
void memory_dirty_log_stop(struct memory *m);
u64 memory_dirty_log_fetch(struct memory *m, u64 *bitmap);

/*
 * The writer that is to be asked from now on; NULL: none. The one before is asked a last time. -errno when
 * the log is on and @s cannot start: there is none then.
 */
int memory_set_dirty_source(struct memory *m, struct dirty_source *s);

/* --- I/O maps (machine lock) --- */

void io_region_init(struct io_region *r, const char *name, const struct io_ops *ops, u64 size);

/* Maps at @base; -EBUSY when it overlaps another region, -EINVAL when it overlaps RAM or wraps. */
int memory_map_mmio(struct memory *m, struct io_region *r, u64 base, struct error *err);
int memory_map_pio(struct memory *m, struct io_region *r, u16 base, struct error *err);
void memory_unmap(struct memory *m, struct io_region *r);

/* Tells @w of all MMIO regions with doorbells, now and later; NULL: the old one is told that they are gone.
 */
void memory_set_doorbell_watch(struct memory *m, struct doorbell_watch *w);

/* The region holding @addr, or NULL. */
struct io_region *memory_find_mmio(struct memory *m, u64 gpa);
struct io_region *memory_find_pio(struct memory *m, u16 port);

/* Dispatch, @size 1..8. Nothing there: reads give all ones, writes vanish. */
u64 memory_mmio_read(struct memory *m, u64 gpa, unsigned size);
void memory_mmio_write(struct memory *m, u64 gpa, u64 value, unsigned size);
u64 memory_pio_read(struct memory *m, u16 port, unsigned size);
void memory_pio_write(struct memory *m, u16 port, u64 value, unsigned size);

#endif
