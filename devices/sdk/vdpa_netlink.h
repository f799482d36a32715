// SPDX-License-Identifier: BSD-2-Clause
// `vdpa dev add` and `vdpa dev del`, said to the kernel by generic netlink (Linux, include/uapi/linux/vdpa.h).
//
// Needs CAP_NET_ADMIN.  Either call returns when the kernel is done: adding waits for the driver that takes the device, which
// asks the device's server, so that must not be the caller.
#ifndef MINIVMM_SDK_VDPA_NETLINK_H
#define MINIVMM_SDK_VDPA_NETLINK_H

#include "vmm/base/err.h"

#include <stdint.h>

// A socket to the kernel, the caller's, and in *family whom to address.  -errno with the sentence.
int vdpa_netlink_open(uint16_t *family, struct err *e);

// Makes the vDPA device `name` of the VDUSE device of that name; removes it.  0 or -errno: -EEXIST, -ENODEV, ...
int vdpa_netlink_add(int fd, uint16_t family, const char *name);
int vdpa_netlink_del(int fd, uint16_t family, const char *name);

#endif
