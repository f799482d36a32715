// SPDX-License-Identifier: BSD-2-Clause
// A back-end that is the host's kernel: /dev/vhost-net with a tap, /dev/vhost-vsock with a CID, /dev/vhost-scsi with a target.
//
// The kernel serves the rings with threads of its own, inside this process's memory; the configuration space and what needs no ring are
// made here.  Such a back-end never goes away, and its faults are the host's: that is the price of its speed.
#ifndef MINIVMM_BRIDGES_VHOST_KERNEL_H
#define MINIVMM_BRIDGES_VHOST_KERNEL_H

#include "bridges/backend.h"
#include "vmm/base/err.h"

struct device_config;
struct loop;

// Opens what cfg names and makes this process its owner: all that is opened or allocated is so before this returns.  `ram`: told to the
// kernel at once, so that a refusal has a sentence, or NULL.  *out: ops->close().  -errno with a sentence that names the device.
int vhost_kernel_open(struct backend **out, const struct device_config *cfg, struct loop *loop,
		      const struct mem_table *ram, struct err *e);

// What it talks to, for `explain`: "/dev/vhost-net".  NULL for a type that kernel vhost does not have.
const char *vhost_kernel_node(const struct device_config *cfg);

#endif
