/* Reset control register, port 0xcf9. */
#include "hw/reset-port.h"

#include "base/log.h"

enum { RST_CPU = 0x04, KEPT = 0x0e };

static u64 reset_read(struct io_region *r, u64 offset, unsigned size)
{
    return container_of(r, struct reset_port, region)->value;
}

static void reset_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct reset_port *p = container_of(r, struct reset_port, region);
    bool rises = !(p->value & RST_CPU) && (value & RST_CPU);

    p->value = value & KEPT;
    if (!rises)
        return;
    trace(power, "reset by port 0xcf9");
    lifecycle_request(p->lifecycle, LIFECYCLE_RESET, 0);
}

static const struct io_ops reset_ops = {
    .read = reset_read, .write = reset_write, .min_size = 1, .max_size = 1};

static void reset_port_reset(struct device *dev)
{
    struct reset_port *p = dev->object;

    p->value = 0;
}

static const struct field reset_fields[] = {
    FIELD(struct reset_port, value),
    FIELD_END,
};
static const struct state_desc reset_state = {.name = "reset-port", .version = 1, .fields = reset_fields};

void reset_port_init(struct reset_port *p, struct lifecycle *lifecycle)
{
    *p = (struct reset_port){
        .dev = {.name = "reset-port", .state = &reset_state, .object = p, .reset = reset_port_reset},
        .lifecycle = lifecycle,
    };
    io_region_init(&p->region, "reset-port", &reset_ops, 1);
}

void reset_port_release(struct reset_port *p)
{
    (void)p; /* whoever mapped the region unmaps it */
}
