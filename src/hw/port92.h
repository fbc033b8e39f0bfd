/*
 * System control port A, 0x92: bit 0 set from 0 to 1 is a fast reset, bit 1 is A20 (remembered only:
 * the address line is always on).
 */
#ifndef TRAPEZE_HW_PORT92_H
#define TRAPEZE_HW_PORT92_H

#include "hw/device.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

struct port92 {
    struct device dev;
    struct io_region region;
    struct lifecycle *lifecycle;
    struct memory *memory;
    u8 value;
};

int port92_init(struct port92 *p, struct memory *m, struct lifecycle *lifecycle, struct error *err);
void port92_release(struct port92 *p);

#endif
