// SPDX-License-Identifier: BSD-2-Clause
// Our own device programs: what the configuration says becomes a command line and opened resources.
//
// Whatever a device needs is opened here, with the monitor's rights, and handed over as a descriptor: the
// program itself opens nothing.
#ifndef MINIVMM_BRIDGES_BUILTIN_H
#define MINIVMM_BRIDGES_BUILTIN_H

#include "vmm/base/err.h"
#include "vmm/config.h"

#include <stdbool.h>

struct child;

// Starts the program for cfg->virtio_type, from `dir` if it is there, else from PATH.  *peer is a constant.
// -errno with a sentence that does not name the device yet.
int builtin_start(const struct device_config *cfg, const char *dir, bool insecure, const char **peer,
		  int *sock, struct child **child, struct err *e);

#endif
