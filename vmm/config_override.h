// SPDX-License-Identifier: BSD-2-Clause
// --set TABLE.KEY=VALUE and --set device.ID.KEY=VALUE: one key of the document replaced or added before it is
// read.
#ifndef MINIVMM_VMM_CONFIG_OVERRIDE_H
#define MINIVMM_VMM_CONFIG_OVERRIDE_H

#include "vmm/config_reader.h"

// Applies r->overrides[i].  What it puts in has line 0 and column i for its place.
void config_override(struct config_reader *r, struct toml_value *root, unsigned i);

#endif
