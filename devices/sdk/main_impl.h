// SPDX-License-Identifier: BSD-2-Clause
// What the files of a device program's life share; nobody else includes this.
//
// main.c is that life, options.c its command line, rules.c what its sandbox allows.
#ifndef MINIVMM_SDK_MAIN_IMPL_H
#define MINIVMM_SDK_MAIN_IMPL_H

#include "devices/sdk/carrier.h"
#include "devices/sdk/dev.h"
#include "devices/sdk/vduse.h"
#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"

#include <stdbool.h>

// What the command line says besides the device's own options.
struct settings {
	const struct carrier *carrier;
	const char *path;      // to listen at, or NULL
	const char *front_end; // to connect to, or NULL
	int fd;		       // to serve on, or -1
	struct vduse_options vduse;
	bool insecure;
	int level; // enum log_level
};

// ---- options.c --------------------------------------------------------------------------------------------------

// Options that end the program at once: true if one was given.  They win over any error elsewhere on the line.
bool sdk_options_answer(const struct vdev_ops *ops, int argc, char **argv);

// The device's own go to its option(), the rest to *s, which holds the defaults.  0 or -errno.
int sdk_options_parse(struct vdev *d, struct settings *s, int argc, char **argv, struct err *e);

// ---- rules.c ----------------------------------------------------------------------------------------------------

// Fills *spec, whose rules live as long as the program.  `carrier` NULL: of all that use sockets.  0, or -E2BIG.
int sdk_rules_collect(const struct vdev_ops *ops, const struct carrier *carrier, struct sandbox_spec *spec);

// Prints them, and those of the processes beside it, to standard output.
void sdk_rules_print(const struct vdev_ops *ops, const struct carrier *carrier);

#endif
