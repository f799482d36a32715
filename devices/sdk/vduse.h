// SPDX-License-Identifier: BSD-2-Clause
// The VDUSE carrier: a device in the host's kernel (/dev/vduse/NAME) whose virtqueues this program serves (Linux,
// Documentation/userspace-api/vduse.rst).
//
// A vDPA device of the same name makes it usable: through virtio_vdpa the host is the driver, through vhost_vdpa a VMM's guest.
// It outlives this program: one that is killed and started again finds the device, and in its record what was in flight.
// Called by main.c; everything here but the carrier's three functions happens before the sandbox.
#ifndef MINIVMM_SDK_VDUSE_H
#define MINIVMM_SDK_VDUSE_H

#include "devices/sdk/dev.h"

#include <stdio.h>

struct vduse_options {
	const char *name;
	const char *record; // path of the record; NULL: /run/minivmm-vduse-NAME
	bool vdpa_add;	    // make the vDPA device, too, and remove it at the end
};

// After the device's open(): makes the kernel's device, or takes over the one of that name that nobody serves any more; prepares
// d->session for carrier_vduse.open(), and starts the keeper.  Returns the node's descriptor, the caller's to hand on.  -errno with the
// sentence, and nothing is left behind.
int vduse_open(struct vdev *d, const struct vduse_options *o, struct err *e);

// The keeper's table, as sandbox_print() writes it.
void vduse_print(const char *prefix, FILE *out);

#endif
