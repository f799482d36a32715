// SPDX-License-Identifier: BSD-2-Clause
// Other people's programs: what `exec` says becomes a launch, with its jail.
#ifndef MINIVMM_BRIDGES_FOREIGN_H
#define MINIVMM_BRIDGES_FOREIGN_H

#include "vmm/base/arena.h"
#include "vmm/base/err.h"
#include "vmm/config.h"
#include "vmm/jail.h"

#include <stdbool.h>
#include <stdint.h>

struct launch;

// *out: launch_free().  `memory`: bytes of guest RAM.  *profile, whose texts live in the arena, is what the jail was made from; untouched where
// there is none.  Looks at files and changes nothing.  -errno with a sentence that does not name the device yet.
int foreign_prepare(struct launch **out, struct profile *profile, struct arena *a,
		    const struct device_config *cfg, uint64_t memory, bool insecure, struct err *e);

#endif
