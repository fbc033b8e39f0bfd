/* System control port A. */
#include "hw/port92.h"

#include "base/log.h"

enum { FAST_RESET = 0x01, A20 = 0x02 };

static u64 port92_read(struct io_region *r, u64 offset, unsigned size)
{
    return container_of(r, struct port92, region)->value;
}

static void port92_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct port92 *p = container_of(r, struct port92, region);
    bool rises = !(p->value & FAST_RESET) && (value & FAST_RESET);

    p->value = value;
    if (!rises)
        return;
    trace(power, "reset by port 0x92");
    lifecycle_request(p->lifecycle, LIFECYCLE_RESET, 0);
}

static const struct io_ops port92_ops = {
    .read = port92_read, .write = port92_write, .min_size = 1, .max_size = 1};

static void port92_reset(struct device *dev)
{
    struct port92 *p = dev->object;

    p->value = A20;
}

static const struct field port92_fields[] = {
    FIELD(struct port92, value),
    FIELD_END,
};
static const struct state_desc port92_state = {.name = "port92", .version = 1, .fields = port92_fields};

int port92_init(struct port92 *p, struct memory *m, struct lifecycle *lifecycle, struct error *err)
{
    *p = (struct port92){
        .dev = {.name = "port92", .state = &port92_state, .object = p, .reset = port92_reset},
        .lifecycle = lifecycle,
        .memory = m,
    };
    io_region_init(&p->region, "port92", &port92_ops, 1);
    port92_reset(&p->dev);
    return memory_map_pio(m, &p->region, 0x92, err);
}

void port92_release(struct port92 *p)
{
    memory_unmap(p->memory, &p->region);
}
