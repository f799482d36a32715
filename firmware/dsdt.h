// SPDX-License-Identifier: BSD-2-Clause
// The DSDT's definition block: the devices that a guest cannot find by itself.  Called by acpi.c.
#ifndef MINIVMM_FIRMWARE_DSDT_H
#define MINIVMM_FIRMWARE_DSDT_H

#include "firmware/acpi.h"
#include "firmware/aml.h"

void dsdt_write(struct aml *a, const struct acpi_machine *m);

#endif
