// SPDX-License-Identifier: BSD-2-Clause
// A back-end behind /dev/vhost-vdpa-N: a vDPA device of any type, in hardware, in the kernel, or a process by VDUSE.
//
// The device says its type, queues and configuration space, and keeps the device status itself; rings and buffers are addressed as
// the guest does, through mappings that are made when it is opened and stay.
#ifndef MINIVMM_BRIDGES_VHOST_VDPA_H
#define MINIVMM_BRIDGES_VHOST_VDPA_H

#include "bridges/backend.h"
#include "vmm/base/err.h"

struct device_config;
struct loop;

// Opens cfg->path, becomes its owner, asks what it is and maps `ram` for it (NULL: when the driver first starts it).  *out:
// ops->close().  -errno with a sentence that names the device of the configuration, the node, and the mend.
int vhost_vdpa_open(struct backend **out, const struct device_config *cfg, struct loop *loop,
		    const struct mem_table *ram, struct err *e);

// After the seal: the thread that lets go of the device when it is removed from the host.  Without it the removal waits for ops->close().
// `seal`: of the thread, or NULL.
int vhost_vdpa_keep(struct backend *b, int (*seal)(struct err *e), struct err *e);

#endif
