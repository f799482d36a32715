// SPDX-License-Identifier: BSD-2-Clause
// The seam between a device and the interface over which it is served.
//
// A carrier owns guest memory and the virtqueues' set-up; a device sees neither messages nor sockets.  main.c picks one by the
// command line.  A device that serves many front-ends at a time (vdev_ops.serve) has a struct vdev for each.
#ifndef MINIVMM_SDK_CARRIER_H
#define MINIVMM_SDK_CARRIER_H

#include "devices/sdk/dev.h"

struct session; // one front-end's connection

struct carrier {
	const struct sandbox_rule *rules; // system calls that only it makes
	unsigned rule_count;
	// After open() and before the seal: whether this device can be served so; or NULL.  0 or -errno and the sentence.
	int (*prepare)(struct vdev *d, struct err *e);
	// Begins to serve a front-end over a descriptor (a connected socket; VDUSE: the device's node), which it takes and closes on
	// failure.  What it needs is in the device's loop from then on; nothing that a front-end does or leaves undone
	// makes a turn of that wait.  NULL: logged.
	struct session *(*open)(struct vdev *d, int fd);
	// False: the front-end left, broke the protocol, or let a deadline pass.  *wake_ms: when to ask again at the latest, -1: never.
	bool (*alive)(struct session *s, int *wake_ms);
	// After it: nothing in flight, no queue running, no guest memory mapped.  0, or -errno: the carrier itself failed (logged).
	int (*close)(struct session *s);
};

// Serves one front-end over a descriptor (which it closes) until that is gone or *stop.  As close(); -errno too if open() failed.
int carrier_serve(const struct carrier *c, struct vdev *d, int fd, const bool *stop);

extern const struct carrier carrier_vhost_user, carrier_vfio_user;
extern const struct carrier carrier_vduse; // vduse.h

#endif
