/*
 * The I/O maps and their dispatch. An access is cut at the edges of regions and to the sizes that
 * each region takes. The region is looked up anew for each part, since a device may unmap any
 * region, its own included, while it serves one (a PCI function reprogramming its BARs).
 */
#include <errno.h>

#include "memory/memory.h"

void io_region_init(struct io_region *r, const char *name, const struct io_ops *ops, u64 size)
{
    *r = (struct io_region){.ops = ops, .name = name, .size = size};
    list_init(&r->link);
}

static bool ranges_meet(u64 a, u64 a_size, u64 b, u64 b_size)
{
    return a_size && b_size && a < b + b_size && b < a + a_size;
}

static int map_region(struct list *map, struct io_region *r, u64 base, struct error *err)
{
    BUG_ON(r->mapped);
    struct list *at = map;
    struct io_region *other;
    list_for_each (other, map, link) {
        if (ranges_meet(base, r->size, other->base, other->size))
            return error_set(err, EBUSY, "cannot map %s at 0x%llx: %s is there", r->name,
                             (unsigned long long)base, other->name);
        if (at == map && other->base > base)
            at = &other->link;
    }
    r->base = base;
    r->mapped = true;
    list_insert_before(at, &r->link);
    return 0;
}

/* RAM under the VGA window is never seen, so that window may hold regions. */
static bool meets_ram(const struct memory *m, u64 base, u64 size)
{
    u64 above_vga = m->low_size > MEMORY_VGA_END ? m->low_size - MEMORY_VGA_END : 0;
    return ranges_meet(base, size, 0, MIN(m->low_size, MEMORY_VGA_START)) ||
           ranges_meet(base, size, MEMORY_VGA_END, above_vga) ||
           ranges_meet(base, size, MEMORY_HOLE_END, m->high_size);
}

static void tell_doorbells(struct memory *m, struct io_region *r, bool mapped)
{
    if (m->doorbell_watch && r->doorbells.count)
        m->doorbell_watch->mapped(m->doorbell_watch, r, mapped);
}

void memory_set_doorbell_watch(struct memory *m, struct doorbell_watch *w)
{
    struct io_region *r;
    list_for_each (r, &m->mmio, link)
        tell_doorbells(m, r, false);
    m->doorbell_watch = w;
    list_for_each (r, &m->mmio, link)
        tell_doorbells(m, r, true);
}

int memory_map_mmio(struct memory *m, struct io_region *r, u64 base, struct error *err)
{
    u64 end;
    if (!r->size || __builtin_add_overflow(base, r->size, &end) || meets_ram(m, base, r->size))
        return error_set(err, EINVAL, "cannot map %s at 0x%llx", r->name, (unsigned long long)base);
    int rc = map_region(&m->mmio, r, base, err);
    if (rc == 0)
        tell_doorbells(m, r, true);
    return rc;
}

int memory_map_pio(struct memory *m, struct io_region *r, u16 base, struct error *err)
{
    if (!r->size || base + r->size > 0x10000)
        return error_set(err, EINVAL, "cannot map %s at port 0x%x", r->name, base);
    return map_region(&m->pio, r, base, err);
}

void memory_unmap(struct memory *m, struct io_region *r)
{
    if (!r->mapped)
        return;
    tell_doorbells(m, r, false);
    list_remove(&r->link);
    r->mapped = false;
    if (m->mmio_last == r)
        m->mmio_last = NULL;
    if (m->pio_last == r)
        m->pio_last = NULL;
}

static struct io_region *find_region(struct list *map, struct io_region **last, u64 addr)
{
    struct io_region *r = *last;
    if (r && addr - r->base < r->size)
        return r;
    list_for_each (r, map, link) {
        if (addr < r->base)
            break;
        if (addr - r->base < r->size)
            return *last = r;
    }
    return NULL;
}

struct io_region *memory_find_mmio(struct memory *m, u64 gpa)
{
    return find_region(&m->mmio, &m->mmio_last, gpa);
}

struct io_region *memory_find_pio(struct memory *m, u16 port)
{
    return find_region(&m->pio, &m->pio_last, port);
}

/* --- dispatch --- */

/* One step of an access: @size bytes of it go to the region in one call of @width bytes. */
struct io_step {
    struct io_region *region; /* NULL: nobody is there */
    u64 offset;               /* of the call in the region */
    unsigned size;            /* bytes of the access that this step covers */
    unsigned width;           /* of the call: @size, or more when the region takes no less */
    unsigned skip;            /* where the access's bytes lie in a wider call */
};

static unsigned power_of_two_below(unsigned n)
{
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

static struct io_step next_step(struct io_region *r, u64 addr, unsigned size)
{
    if (!r)
        return (struct io_step){.size = 1};
    unsigned min = r->ops->min_size ? r->ops->min_size : 1;
    unsigned max = r->ops->max_size ? r->ops->max_size : 8;
    struct io_step s = {.region = r, .offset = addr - r->base};
    s.size = s.width = power_of_two_below((unsigned)MIN(MIN((u64)size, (u64)max), r->size - s.offset));
    if (s.width >= min)
        return s;
    s.skip = (unsigned)(s.offset & (min - 1));
    s.offset -= s.skip;
    s.size = MIN(s.size, min - s.skip);
    s.width = min;
    if (s.offset + min > r->size)
        s.region = NULL;
    return s;
}

static u64 dispatch_read(struct list *map, struct io_region **last, u64 addr, unsigned size)
{
    u64 value = 0;
    for (unsigned done = 0; done < size;) {
        struct io_step s = next_step(find_region(map, last, addr + done), addr + done, size - done);
        u64 part = ~0ull;
        if (s.region)
            part = s.region->ops->read(s.region, s.offset, s.width) >> 8 * s.skip;
        value |= (part & MASK(8 * s.size)) << 8 * done;
        done += s.size;
    }
    return value;
}

static void dispatch_write(struct list *map, struct io_region **last, u64 addr, u64 value, unsigned size)
{
    for (unsigned done = 0; done < size;) {
        struct io_step s = next_step(find_region(map, last, addr + done), addr + done, size - done);
        if (s.region && s.width == s.size)
            s.region->ops->write(s.region, s.offset, value >> 8 * done & MASK(8 * s.size), s.width);
        done += s.size;
    }
}

u64 memory_mmio_read(struct memory *m, u64 gpa, unsigned size)
{
    return dispatch_read(&m->mmio, &m->mmio_last, gpa, size);
}

void memory_mmio_write(struct memory *m, u64 gpa, u64 value, unsigned size)
{
    dispatch_write(&m->mmio, &m->mmio_last, gpa, value, size);
}

u64 memory_pio_read(struct memory *m, u16 port, unsigned size)
{
    return dispatch_read(&m->pio, &m->pio_last, port, size);
}

void memory_pio_write(struct memory *m, u16 port, u64 value, unsigned size)
{
    dispatch_write(&m->pio, &m->pio_last, port, value, size);
}
