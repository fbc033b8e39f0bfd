/*
 * The flash with the firmware: read-only below 4 GiB, where processors start, and its last 128 KiB as a copy
 * in the ROM area below 1 MiB. That area is RAM here, as if firmware had shadowed itself; it is written anew
 * at each reset, and the host bridge's PAM registers only remember what they are told.
 */
#ifndef TRAPEZE_HW_FIRMWARE_ROM_H
#define TRAPEZE_HW_FIRMWARE_ROM_H

#include "hw/device.h"
#include "memory/memory.h"

#define FIRMWARE_ROM_MAX (16u << 20)
#define FIRMWARE_ROM_MIN (64u << 10)

struct firmware_rom {
    struct device dev;
    struct io_region region;
    struct memory *memory;
    const u8 *image;
    u32 size;
};

/* @image, @size bytes long (a multiple of 64 KiB between the limits above), stays the caller's and as it is.
 */
int firmware_rom_init(struct firmware_rom *f, struct memory *m, const u8 *image, u32 size, struct error *err);
void firmware_rom_release(struct firmware_rom *f);

#endif
