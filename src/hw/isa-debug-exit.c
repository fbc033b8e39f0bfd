/* A port that ends the VM with a status. */
#include "hw/isa-debug-exit.h"

#include "base/log.h"

static u64 debug_exit_read(struct io_region *r, u64 offset, unsigned size)
{
    return 0;
}

static void debug_exit_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct isa_debug_exit *d = container_of(r, struct isa_debug_exit, region);

    trace(power, "debug exit %#x", (unsigned)value);
    /* A host keeps 8 bits of a status; the shift drops the top bit of a 32-bit value. */
    lifecycle_request(d->lifecycle, LIFECYCLE_DEBUG_EXIT, (int)(((u32)value << 1 | 1) & 0xff));
}

static const struct io_ops debug_exit_ops = {
    .read = debug_exit_read, .write = debug_exit_write, .min_size = 1, .max_size = 4};

int isa_debug_exit_init(struct isa_debug_exit *d, struct memory *m, u16 iobase, struct lifecycle *lifecycle,
                        struct error *err)
{
    *d = (struct isa_debug_exit){
        .dev = {.name = "isa-debug-exit", .object = d},
        .lifecycle = lifecycle,
        .memory = m,
    };
    io_region_init(&d->region, "isa-debug-exit", &debug_exit_ops, ISA_DEBUG_EXIT_SIZE);
    return memory_map_pio(m, &d->region, iobase, err);
}

void isa_debug_exit_release(struct isa_debug_exit *d)
{
    memory_unmap(d->memory, &d->region);
}
