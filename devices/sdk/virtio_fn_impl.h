// SPDX-License-Identifier: BSD-2-Clause
// A virtio device as a PCI function: what virtio_pci_fn.c, which runs it, and virtio_fn_state.c, which moves it, share; nobody else
// includes this.
#ifndef MINIVMM_SDK_VIRTIO_FN_IMPL_H
#define MINIVMM_SDK_VIRTIO_FN_IMPL_H

#include "devices/sdk/dev.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/virtio_regs.h"

struct fn_queue {
	bool live;    // the driver wants it served; it runs if its ring is in memory and a client is there
	bool resumed; // when it runs next it is one that was used before the device started
	uint32_t base;
};

struct virtio_fn {
	struct pdev *pdev;
	struct vdev *d;
	struct virtio_regs regs;
	unsigned window_cap;
	bool started; // the device was told
	bool away;    // the client left a running device, and no sign came that this one goes on with it
	size_t state_len;
	uint8_t state[VDEV_STATE_MAX]; // the device's, meanwhile
	struct virtio_reg_queue reg_queue[VDEV_QUEUES_MAX];
	struct fn_queue queue[VDEV_QUEUES_MAX];
};

// pdev_ops, of a function that rests.
size_t virtio_fn_save(struct pdev *p, void *to);
int virtio_fn_load(struct pdev *p, const void *from, size_t len);

#endif
