/*
 * The MP tables ("MultiProcessor Specification" 1.4): processors and interrupt routing for systems
 * that do not read ACPI's. One image with the floating pointer first.
 */
#ifndef TRAPEZE_MACHINE_MPTABLE_H
#define TRAPEZE_MACHINE_MPTABLE_H

#include "base/error.h"

#define MPTABLE_MAX 2048

struct mptable {
    u8 image[MPTABLE_MAX];
    u32 len;
};

/*
 * For guest-physical address @base, a multiple of 16 in 0xf0000..0xfffff, where systems search.
 * @version, @features: CPUID leaf 1 EAX and EDX.
 */
void mptable_build(struct mptable *t, u64 base, unsigned cpus, u32 version, u32 features, u8 ioapic_version);

#endif
