// SPDX-License-Identifier: BSD-2-Clause
// Our own device programs, and the one for what the kernel leaves of a device: what the configuration says becomes a command line and
// opened resources.
//
// Whatever a device needs is opened here, with the monitor's rights, and handed over as a descriptor: the
// program itself opens nothing.
#ifndef MINIVMM_BRIDGES_BUILTIN_H
#define MINIVMM_BRIDGES_BUILTIN_H

#include "vmm/base/err.h"
#include "vmm/config.h"

#include <stdbool.h>

struct launch;

// Opens what the program for cfg->virtio_type needs and writes its command line; it is taken from `dir` if it is
// there, else from PATH.  *out: launch_free().  -errno with a sentence that does not name the device yet.
// builtin_plan() opens nothing, and says what would be.
int builtin_plan(struct launch **out, const struct device_config *cfg, const char *dir, bool insecure,
		 struct err *e);
int builtin_prepare(struct launch **out, const struct device_config *cfg, const char *dir, bool insecure,
		    struct err *e);

#endif
