/* Debug console of firmware. */
#include "hw/debugcon.h"

#include "base/log.h"

static u64 debugcon_read(struct io_region *r, u64 offset, unsigned size)
{
    return DEBUGCON_PORT;
}

static void flush_line(struct debugcon *d)
{
    log_info("guest: %.*s", d->len, d->line);
    d->len = 0;
}

/* Only printable characters go to the log: it may be somebody's terminal. */
static void log_byte(struct debugcon *d, char c)
{
    if (c == '\n') {
        flush_line(d);
        return;
    }
    if (c < ' ' || c > '~')
        return;
    d->line[d->len++] = c;
    if (d->len == sizeof d->line)
        flush_line(d);
}

static void debugcon_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct debugcon *d = container_of(r, struct debugcon, region);
    u8 byte = value;

    if (d->chardev)
        chardev_write(d->chardev, &byte, 1);
    else
        log_byte(d, byte);
}

static const struct io_ops debugcon_ops = {
    .read = debugcon_read, .write = debugcon_write, .min_size = 1, .max_size = 1};

int debugcon_init(struct debugcon *d, struct memory *m, u16 port, struct chardev *chardev, struct error *err)
{
    *d = (struct debugcon){
        .dev = {.name = "debugcon", .object = d},
        .memory = m,
        .chardev = chardev,
        .port = port,
    };
    io_region_init(&d->region, "debugcon", &debugcon_ops, 1);
    return memory_map_pio(m, &d->region, port, err);
}

void debugcon_release(struct debugcon *d)
{
    memory_unmap(d->memory, &d->region);
}
