#ifndef TRAPEZE_MACHINE_ACPI_INTERNAL_H
#define TRAPEZE_MACHINE_ACPI_INTERNAL_H

#include "machine/acpi.h"
#include "machine/aml.h"

/* The body of the DSDT. */
void acpi_dsdt(struct aml *a, const struct acpi_config *config);

#endif
