/*
 * The ACPI tables of the PC board (ACPI 6.4): RSDP, XSDT, FADT, FACS, DSDT, MADT, MCFG, HPET. Built as
 * one image to be written to RAM at its base, the RSDP first.
 */
#ifndef TRAPEZE_MACHINE_ACPI_H
#define TRAPEZE_MACHINE_ACPI_H

#include "base/error.h"

struct acpi_config {
    unsigned cpus;
    /* PCI windows, [base, end). */
    u32 mmio_base, mmio_end;
    u64 high_base, high_end; /* empty: none */
    u32 io_base, io_end;
    u64 ecam_base;
};

#define ACPI_MAX_TABLES 10

struct acpi_table {
    char name[5]; /* signature; "RSDP" too */
    u32 offset, len;
};

struct acpi_tables {
    u8 *image;
    u64 base; /* where it is to be in guest-physical memory; also the RSDP's address */
    u32 len;
    struct acpi_table table[ACPI_MAX_TABLES];
    unsigned count;
};

/* @base: 64-byte aligned; below 1 MiB for systems that search for the RSDP, or 0 for firmware to move. */
int acpi_build(struct acpi_tables *t, const struct acpi_config *config, u64 base, struct error *err);
void acpi_release(struct acpi_tables *t);

/* Writes each table to a file of its own, DIR/NAME.dat, as iasl -d wants them. */
int acpi_dump(const struct acpi_tables *t, const char *dir, struct error *err);

#endif
