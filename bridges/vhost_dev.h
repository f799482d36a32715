// SPDX-License-Identifier: BSD-2-Clause
// What every character device of the kernel's vhost family understands: owner, features, memory, virtqueues (linux/vhost.h).
//
// Used by vhost_kernel.c (queues by user address) and vhost_vdpa.c (queues by guest address).  Each function is an ioctl or a few, says
// 0 or -errno, opens nothing after vhost_dev_open() and keeps no state.  Any thread of the process that owns the device.
#ifndef MINIVMM_BRIDGES_VHOST_DEV_H
#define MINIVMM_BRIDGES_VHOST_DEV_H

#include "bridges/backend.h"
#include "vmm/base/err.h"
#include "vmm/memmap.h"

#include <stdint.h>

// ioctl(2), with -errno for a failure.
int vhost_call(int fd, unsigned long request, void *arg);

// Opens a device node, or takes over "fd:...".  The caller's descriptor, or -errno and a sentence that names no device of the
// configuration yet.  `module`: what brings the node about, for the mend.
int vhost_dev_open(const char *path, const char *module, struct err *e);

// Makes this process the owner; kernel vhost makes its worker thread then.  -errno with a sentence as above.
int vhost_dev_own(int fd, const char *path, struct err *e);

// Tells where guest RAM lies in this process, neighbours as one region.
int vhost_memory_set(int fd, const struct mem_table *t);

// Sets up queue `index` of this descriptor; it does not run yet.  With a table, ring addresses become this process's, without one they
// stay the guest's.  `err_fd`: an eventfd for a ring that breaks the rules, or -1.
int vhost_queue_set(int fd, unsigned index, const struct vring_cfg *cfg, const struct mem_table *t,
		    int err_fd);

// Takes a stopped queue's eventfds away.  *base: where it would have gone on.
int vhost_queue_clear(int fd, unsigned index, uint32_t *base);

#endif
