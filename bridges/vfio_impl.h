// SPDX-License-Identifier: BSD-2-Clause
// What the files of kernel VFIO share: vfio.c (a device), vfio_group.c (groups, containers and what is mapped in
// them), vfio_cdev.c (devices by their own nodes, with IOMMUFD).
#ifndef MINIVMM_BRIDGES_VFIO_IMPL_H
#define MINIVMM_BRIDGES_VFIO_IMPL_H

#include "bridges/vfio.h"
#include "vmm/memmap.h"

#include <linux/limits.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define VFIO_CONTAINERS_MAX 31 // as many as devices
#define VFIO_MAPS_MAX	    MEM_REGIONS_MAX
#define VFIO_REGIONS	    VFIO_PCI_NUM_REGIONS
#define VFIO_IRQS	    VFIO_PCI_NUM_IRQS
#define PCI_IRQS_MAX	    2048 // vectors of MSI-X

struct vfio_container {
	int fd;		// -1: the slot is free
	bool iommufd;	// /dev/iommu and an address space of it
	uint32_t ioas;	// which
	unsigned users; // groups, or devices
	unsigned map_count;
	struct {
		uint64_t gpa, size;
		unsigned users; // devices that asked for it
	} map[VFIO_MAPS_MAX];
};

struct vfio_group {
	unsigned number;
	unsigned users; // devices; 0: the slot is free
	int fd;
	struct vfio_container *container;
};

// Devices are given back on any thread, each under its own function's lock.
struct vfio_containers {
	pthread_mutex_t lock; // of containers and groups, once they are made
	struct kvm *kvm;
	uint64_t memory; // of the guest, bytes
	struct vfio_container container[VFIO_CONTAINERS_MAX];
	struct vfio_group group[VFIO_CONTAINERS_MAX];
	struct vfio_device *closed; // that are still to be freed
};

struct vfio_device {
	struct vfio_link link;
	struct vfio_containers *all;
	struct vfio_group *group; // NULL: it was opened by its own node
	struct vfio_container *container;
	int fd;
	struct vfio_region region[VFIO_REGIONS];
	struct vfio_irq irq[VFIO_IRQS];
	struct vfio_device *next_closed;
};

// ---- vfio_group.c

// The group of the device at a sysfs path, open, viable, in a container, and known to KVM.  -errno with the sentence, no id in front.
int vfio_group_take(struct vfio_group **out, struct vfio_containers *all, const char *sysfs, struct err *e);
void vfio_group_leave(struct vfio_containers *all, struct vfio_group *g);

// Each mapping is made once, for the first device that asks, and ends with the last.
int vfio_container_map(struct vfio_containers *all, struct vfio_container *c, const struct mem_region *r,
		       struct err *e);
void vfio_container_leave(struct vfio_container *c);
int vfio_container_unmap(struct vfio_container *c, uint64_t gpa, uint64_t size);

// ---- vfio_cdev.c

// Fills in fd and container of a device by its node.  -errno with the sentence, no id in front.
int vfio_cdev_take(struct vfio_device *d, const char *path, struct err *e);
void vfio_cdev_leave(struct vfio_device *d);
int vfio_ioas_map(const struct vfio_container *c, const struct mem_region *r);
int vfio_ioas_unmap(const struct vfio_container *c, uint64_t gpa, uint64_t size);

#endif
