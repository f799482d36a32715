// SPDX-License-Identifier: BSD-2-Clause
// The seam between a device and the interface over which it is served.
//
// A carrier owns guest memory and the virtqueues' set-up; a device sees neither messages nor sockets.  main.c picks one by the
// command line.  Today there is vhost-user.
#ifndef MINIVMM_SDK_CARRIER_H
#define MINIVMM_SDK_CARRIER_H

#include "devices/sdk/dev.h"

struct carrier {
	const char *option; // its command line option, with a path or "fd:N"
	// Serves one front-end over a connected socket (which it closes) until that leaves or breaks the protocol.  After it:
	// nothing in flight, no queue running, no guest memory mapped.
	void (*serve)(struct vdev *d, int sock, const bool *stop);
};

extern const struct carrier carrier_vhost_user;

#endif
