// SPDX-License-Identifier: BSD-2-Clause
// From a device of the configuration to a back-end, whatever the interface.
//
// In two halves, so that many devices start side by side: bridge_start() starts or connects and does not wait
// for an answer, bridge_finish() shakes hands.  The device_config, its strings, and the bridge_host outlive
// the back-end.  Main thread, before the loop runs (children die with the thread that started them).
#ifndef MINIVMM_BRIDGES_BRIDGES_H
#define MINIVMM_BRIDGES_BRIDGES_H

#include "bridges/backend.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/config.h"

#include <stdbool.h>

struct child;

struct bridge_host {
	struct loop *loop;
	const char *program_dir;    // where our device programs are looked for first; NULL: in PATH only
	deadline_ns start_deadline; // one for all devices, so that N mute back-ends cost what one costs
	uint64_t memory;	    // of the guest, bytes: what a limit of a jail leaves room for
	bool insecure;		    // start programs although the host refuses to isolate them
};

// A device between its two halves.
struct bridge_pending {
	const struct device_config *cfg;
	const struct bridge_host *host;
	const char *peer;    // what to call the other end in messages
	int sock;	     // connected, or -1
	struct child *child; // from malloc(), or NULL
};

// -errno with the sentence set; nothing is left behind then.
int bridge_start(struct bridge_pending *p, const struct device_config *cfg, const struct bridge_host *host,
		 struct err *e);
// Uses up *p, whatever it returns.  On success the caller ends the back-end by ops->close().
int bridge_finish(struct backend **out, struct bridge_pending *p, struct err *e);
// Instead of bridge_finish(): stops what was started.
void bridge_abandon(struct bridge_pending *p);

// Both halves, for one device.
int bridge_open(struct backend **out, const struct device_config *cfg, const struct bridge_host *host,
		struct err *e);

// "vhost-user" for VIA_VHOST_USER and so on; never NULL for a valid value.
const char *bridge_name(enum device_via via);

#endif
