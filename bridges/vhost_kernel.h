// SPDX-License-Identifier: BSD-2-Clause
// A back-end that is the host's kernel: /dev/vhost-net with a tap, /dev/vhost-vsock with a CID, /dev/vhost-scsi with a target.
//
// The kernel serves the rings with threads of its own, inside this process's memory; the configuration space and what needs no ring are
// made here.  Such a back-end never goes away, and its faults are the host's: that is the price of its speed.
#ifndef MINIVMM_BRIDGES_VHOST_KERNEL_H
#define MINIVMM_BRIDGES_VHOST_KERNEL_H

#include "bridges/backend.h"
#include "vmm/base/err.h"

#include <stdbool.h>

struct device_config;
struct loop;

// A network device with several pairs of queues: the kernel serves these, and a process of ours the one for commands behind them, which
// this process is not to read.
struct vhost_kernel_pairs {
	unsigned count;		 // 2 or more
	const int *tap;		 // a queue of the tap for each; stay the caller's
	struct backend *control; // that process; the back-end's from the call on, also when it fails
};

// Opens what cfg names and makes this process its owner: all that is opened or allocated is so before this returns.  `ram`: told to the
// kernel at once, so that a refusal has a sentence, or NULL.  `pairs`: NULL for one pair, and for what is no network device.
// *out: ops->close().  -errno with a sentence that names the device.
int vhost_kernel_open(struct backend **out, const struct device_config *cfg, struct loop *loop,
		      const struct mem_table *ram, const struct vhost_kernel_pairs *pairs, struct err *e);

// Whether cfg is such a device.
bool vhost_kernel_has_pairs(const struct device_config *cfg);

// What it talks to, for `explain`: "/dev/vhost-net".  NULL for a type that kernel vhost does not have.
const char *vhost_kernel_node(const struct device_config *cfg);

#endif
