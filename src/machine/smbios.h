/*
 * SMBIOS tables (DMTF DSP0134, version 3.0): who made this machine, for systems that show or record
 * it. One image with the 64-bit entry point first, followed by the structures.
 */
#ifndef TRAPEZE_MACHINE_SMBIOS_H
#define TRAPEZE_MACHINE_SMBIOS_H

#include "base/error.h"

struct smbios_config {
    const char *name; /* of the machine: its serial number */
    const u8 *uuid;   /* UUID_SIZE bytes */
    unsigned cpus;
    u64 low_memory, high_memory; /* bytes below and above 4 GiB */
};

#define SMBIOS_MAX 4096
#define SMBIOS_ENTRY_SIZE 24 /* the entry point, at the start of the image */
#define SMBIOS_TABLES_AT 32  /* the structures */

struct smbios {
    u8 image[SMBIOS_MAX];
    u32 len;
};

/* For guest-physical address @base, a multiple of 16 in 0xf0000..0xfffff, where systems search. */
int smbios_build(struct smbios *s, const struct smbios_config *config, u64 base, struct error *err);

#endif
