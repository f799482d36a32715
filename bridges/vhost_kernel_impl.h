// SPDX-License-Identifier: BSD-2-Clause
// What the files of the kernel vhost bridge share: vhost_kernel.c (the operations) and one file for each kind of device.
#ifndef MINIVMM_BRIDGES_VHOST_KERNEL_IMPL_H
#define MINIVMM_BRIDGES_VHOST_KERNEL_IMPL_H

#include "bridges/tap_link.h"
#include "bridges/vhost_dev.h"
#include "bridges/vhost_kernel.h"
#include "vmm/base/loop.h"
#include "vmm/base/tap.h"
#include "vmm/config.h"

#include <stdbool.h>

#define VHOST_KERNEL_FDS_MAX	CONFIG_NET_PAIRS_MAX
#define VHOST_KERNEL_QUEUES_MAX (2 * CONFIG_NET_PAIRS_MAX)
#define VHOST_KERNEL_CONFIG_MAX 40

#define VIRTIO_BIT(n) (UINT64_C(1) << (n))
#define VK_TRANSPORT  (VIRTIO_BIT(50) - VIRTIO_BIT(24)) // virtio 1.2 §6

struct vhost_kernel;

struct vhost_kind {
	uint16_t virtio_type;
	const char *node, *module;
	uint16_t queues; // of the device; a descriptor serves the first `served`, nobody needs the others
	uint16_t served;
	uint64_t carried; // features that are the kernel's to offer; all others are this kind's own
	// Adds its own features to vk->offered, fills vk->config.  -errno with a sentence that names no device yet.
	int (*open)(struct vhost_kernel *vk, const struct device_config *cfg, struct err *e);
	int (*negotiate)(struct vhost_kernel *vk, uint64_t features);
	// The queues in vk->set are set up: begins.  0 or -errno, and then none of them runs.
	int (*start)(struct vhost_kernel *vk);
	void (*stop)(struct vhost_kernel *vk);
	void (*close)(struct vhost_kernel *vk);
};

struct vhost_kernel {
	struct backend backend;
	const struct vhost_kind *kind;
	int fd[VHOST_KERNEL_FDS_MAX]; // queue q is queue q % kind->served of the (q / kind->served)th
	unsigned fd_count;
	// Several pairs of queues: behind the first `served` queues comes the one for commands, if the driver has it.
	const struct vhost_kernel_pairs *pairs; // while it is opened, or NULL
	struct backend *control;		// or NULL
	uint64_t control_features;
	unsigned served;
	bool commanded;
	struct loop *loop;
	struct loop_source err_source; // eventfd: a ring broke the rules
	uint64_t offered;
	struct mem_table memory;
	bool running;
	bool set[VHOST_KERNEL_QUEUES_MAX];
	uint8_t config[VHOST_KERNEL_CONFIG_MAX];
	struct tap tap[VHOST_KERNEL_FDS_MAX]; // net: for each descriptor
	struct tap_link link;
	const char *wwpn; // scsi
};

// ---- vhost_kernel_pairs.c; of a device without vk->control nothing

// Adds the process's part to what the kernel offers, in vk->offered, or takes away what it has not.  -errno with a sentence that
// names no device.
int vk_pairs_offer(struct vhost_kernel *vk, struct err *e);
// Whose which queue is with these features, and tells the process.
int vk_pairs_settle(struct vhost_kernel *vk, uint64_t features);
// That process, if the driver has the queue for commands; else NULL.
struct backend *vk_control(struct vhost_kernel *vk);

extern const struct vhost_kind vhost_kind_net, vhost_kind_vsock, vhost_kind_scsi;

#endif
