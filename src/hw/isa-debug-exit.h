/*
 * A port that ends the VM, for people who write kernels: a write of V of any size ends the monitor
 * with status (V << 1) | 1, of which a host keeps 8 bits. Reads give 0.
 */
#ifndef TRAPEZE_HW_ISA_DEBUG_EXIT_H
#define TRAPEZE_HW_ISA_DEBUG_EXIT_H

#include "hw/device.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

#define ISA_DEBUG_EXIT_PORT 0xf4
#define ISA_DEBUG_EXIT_SIZE 4

struct isa_debug_exit {
    struct device dev;
    struct io_region region;
    struct lifecycle *lifecycle;
    struct memory *memory;
};

int isa_debug_exit_init(struct isa_debug_exit *d, struct memory *m, u16 iobase, struct lifecycle *lifecycle,
                        struct error *err);
void isa_debug_exit_release(struct isa_debug_exit *d);

#endif
