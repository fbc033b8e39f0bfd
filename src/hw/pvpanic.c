/* pvpanic: the guest tells that it panicked. */
#include "hw/pvpanic.h"

#include "base/log.h"

static u64 pvpanic_read(struct io_region *r, u64 offset, unsigned size)
{
    return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pvpanic *p = container_of(r, struct pvpanic, region);

    trace(power, "pvpanic %#x", (unsigned)value);
    if (value & PVPANIC_PANICKED) {
        lifecycle_request(p->lifecycle, LIFECYCLE_PANICKED, PVPANIC_PANICKED);
    } else if (value & PVPANIC_CRASH_LOADED) {
        p->crash_loaded = true;
        lifecycle_request(p->lifecycle, LIFECYCLE_PANICKED, PVPANIC_CRASH_LOADED);
    }
}

static const struct io_ops pvpanic_ops = {
    .read = pvpanic_read, .write = pvpanic_write, .min_size = 1, .max_size = 1};

static void pvpanic_reset(struct device *dev)
{
    struct pvpanic *p = dev->object;

    p->crash_loaded = false;
}

static const struct field pvpanic_fields[] = {
    FIELD(struct pvpanic, crash_loaded),
    FIELD_END,
};
static const struct state_desc pvpanic_state = {.name = "pvpanic", .version = 1, .fields = pvpanic_fields};

int pvpanic_init(struct pvpanic *p, struct memory *m, struct lifecycle *lifecycle, struct error *err)
{
    *p = (struct pvpanic){
        .dev = {.name = "pvpanic", .state = &pvpanic_state, .object = p, .reset = pvpanic_reset},
        .lifecycle = lifecycle,
        .memory = m,
    };
    io_region_init(&p->region, "pvpanic", &pvpanic_ops, 1);
    return memory_map_pio(m, &p->region, PVPANIC_PORT, err);
}

void pvpanic_release(struct pvpanic *p)
{
    memory_unmap(p->memory, &p->region);
}
