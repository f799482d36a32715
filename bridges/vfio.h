// SPDX-License-Identifier: BSD-2-Clause
// The kernel's VFIO as a carrier of passthrough functions (Documentation/driver-api/vfio.rst).
//
// A device is reached by the group that its IOMMU puts it in (vfio_group.c), or by a node of its own (vfio_cdev.c).  All groups of a
// machine share one container, a type 1 IOMMU, if the kernel lets them, and all nodes one address space of IOMMUFD, so that guest
// memory is pinned and mapped once.
#ifndef MINIVMM_BRIDGES_VFIO_H
#define MINIVMM_BRIDGES_VFIO_H

#include "bridges/vfio_ops.h"
#include "vmm/base/err.h"

struct device_config;
struct kvm;
struct vfio_containers;

// What all devices of a machine with `memory` bytes share; from malloc(), ended by vfio_containers_free() after the last of them.
struct vfio_containers *vfio_containers_make(struct kvm *kvm, uint64_t memory);
void vfio_containers_free(struct vfio_containers *all);

// Opens the device that the configuration names (host, mdev, sysfsdev, cdev).  -errno with the sentence, the device's id in front.
int vfio_open(struct vfio_link **out, const struct device_config *cfg, struct vfio_containers *all,
	      struct err *e);

// The folder of the device in sysfs, or NULL if the configuration names none.
const char *vfio_sysfs_path(const struct device_config *cfg, char *room, unsigned len);

#endif
