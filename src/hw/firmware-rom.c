#include "hw/firmware-rom.h"

#include <string.h>

#define LOW_END 0x100000u
#define LOW_SIZE 0x20000u

static u64 rom_read(struct io_region *r, u64 offset, unsigned size)
{
    const struct firmware_rom *f = container_of(r, struct firmware_rom, region);
    u64 value = 0;

    memcpy(&value, f->image + offset, size);
    return value;
}

static void rom_write(struct io_region *r, u64 offset, u64 value, unsigned size) {}

static const struct io_ops rom_ops = {.read = rom_read, .write = rom_write};

static void rom_reset(struct device *dev)
{
    struct firmware_rom *f = container_of(dev, struct firmware_rom, dev);
    u32 len = MIN(f->size, LOW_SIZE);

    memory_write(f->memory, LOW_END - len, f->image + f->size - len, len);
}

static const struct field rom_fields[] = {FIELD_END};
static const struct state_desc rom_state = {.name = "firmware-rom", .version = 1, .fields = rom_fields};

int firmware_rom_init(struct firmware_rom *f, struct memory *m, const u8 *image, u32 size, struct error *err)
{
    *f = (struct firmware_rom){
        .dev = {.name = "firmware-rom", .state = &rom_state, .object = f, .reset = rom_reset},
        .memory = m,
        .image = image,
        .size = size,
    };
    list_init(&f->dev.link);
    io_region_init(&f->region, "firmware-rom", &rom_ops, size);
    return memory_map_mmio(m, &f->region, MEMORY_HOLE_END - size, err);
}

void firmware_rom_release(struct firmware_rom *f)
{
    memory_unmap(f->memory, &f->region);
}
