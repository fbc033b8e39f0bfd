/*
 * pvpanic at port 0x505: a guest that panics writes bit 0 (it will do no more) or bit 1 (it loaded
 * a crash kernel and goes on). A read tells which of the two are understood. The ACPI device is
 * QEMU0001 with this port in its _CRS.
 */
#ifndef TRAPEZE_HW_PVPANIC_H
#define TRAPEZE_HW_PVPANIC_H

#include "hw/device.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

#define PVPANIC_PORT 0x505
#define PVPANIC_PANICKED 0x01
#define PVPANIC_CRASH_LOADED 0x02

struct pvpanic {
    struct device dev;
    struct io_region region;
    struct lifecycle *lifecycle;
    struct memory *memory;
    bool crash_loaded; /* the guest panicked into its crash kernel */
};

/* LIFECYCLE_PANICKED is requested with code PVPANIC_PANICKED or PVPANIC_CRASH_LOADED. */
int pvpanic_init(struct pvpanic *p, struct memory *m, struct lifecycle *lifecycle, struct error *err);
void pvpanic_release(struct pvpanic *p);

#endif
