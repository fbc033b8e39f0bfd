/*
 * Debug console of firmware: a byte written to its port goes to a chardev, or line by line to the
 * log (at level info) when there is none. A read of port 0xe9 gives 0xe9, which says that it is there.
 */
#ifndef TRAPEZE_HW_DEBUGCON_H
#define TRAPEZE_HW_DEBUGCON_H

#include "backend/char/chardev.h"
#include "hw/device.h"
#include "memory/memory.h"

#define DEBUGCON_PORT 0xe9     /* Bochs */
#define DEBUGCON_SEABIOS 0x402 /* SeaBIOS, OVMF */

struct debugcon {
    struct device dev;
    struct io_region region;
    struct memory *memory;
    struct chardev *chardev;
    u16 port;
    char line[160];
    u8 len;
};

/* @chardev is borrowed; NULL: the log. Bytes that it does not take at once are lost. */
int debugcon_init(struct debugcon *d, struct memory *m, u16 port, struct chardev *chardev, struct error *err);
void debugcon_release(struct debugcon *d);

#endif
