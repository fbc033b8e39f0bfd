/*
 * Booting through firmware (SeaBIOS): which image, and what it is told by fw_cfg: tables that it puts into
 * memory itself, where its console is, what to boot.
 */
#ifndef TRAPEZE_MACHINE_FIRMWARE_H
#define TRAPEZE_MACHINE_FIRMWARE_H

#include "hw/fw-cfg.h"
#include "machine/acpi.h"
#include "machine/blob.h"
#include "machine/smbios.h"

/* "bios" is SeaBIOS as Debian packages it; anything else is a file. The error says what to install. */
int firmware_read(struct blob *b, const char *name, struct error *err);

struct firmware_config {
    const struct acpi_tables *acpi; /* built for base 0; NULL: none */
    const struct smbios *smbios;
    bool serial_console;
    const char *boot_order; /* OpenFirmware paths, one a line */
};

/* Before the guest runs. */
int firmware_fill(struct fw_cfg *f, const struct firmware_config *config, struct error *err);

#endif
