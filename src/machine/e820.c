#include "machine/e820.h"

#include "machine/memory-map.h"

static void add(struct e820 *map, u64 start, u64 end, enum e820_type type)
{
    if (start >= end)
        return;
    BUG_ON(map->count == E820_MAX);
    map->entry[map->count++] = (struct e820_entry){.start = start, .size = end - start, .type = type};
}

void e820_build(struct e820 *map, const struct memory *m)
{
    map->count = 0;
    add(map, 0, MAP_EBDA, E820_RAM);
    add(map, MAP_EBDA, MEMORY_VGA_START, E820_RESERVED);
    /* Nothing is said of the VGA hole and option ROMs; firmware's own tables are kept from use. */
    add(map, MAP_FIRMWARE_TABLES, MAP_HIGH_MEMORY, E820_RESERVED);
    add(map, MAP_HIGH_MEMORY, m->low_size, E820_RAM);
    /* Linux uses the ECAM that MCFG names only where it is reserved. */
    add(map, MAP_ECAM, MAP_ECAM + MAP_ECAM_SIZE, E820_RESERVED);
    add(map, MEMORY_HOLE_END, MEMORY_HOLE_END + m->high_size, E820_RAM);
}
