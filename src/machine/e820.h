/* The memory map that a kernel is told: address ranges with their type, as BIOS INT 15h AX=E820h. */
#ifndef TRAPEZE_MACHINE_E820_H
#define TRAPEZE_MACHINE_E820_H

#include "memory/memory.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

struct e820_entry {
    u64 start, size;
    u32 type; /* enum e820_type */
};

#define E820_MAX 16

struct e820 {
    struct e820_entry entry[E820_MAX];
    unsigned count;
};

/* The map of a board with the RAM of @m, in rising order of address. */
void e820_build(struct e820 *map, const struct memory *m);

#endif
