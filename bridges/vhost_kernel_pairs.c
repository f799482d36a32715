// SPDX-License-Identifier: BSD-2-Clause
// Several pairs of queues over kernel vhost: a descriptor of the kernel's for each, and a process for the queue of commands.
//
// How many pairs a driver uses it says in that queue (virtio 1.2 §5.1.6.5.5), which kernel vhost leaves to others and no monitor is to
// read: minivmm-net-control does, a vhost-user back-end with that one queue, which attaches and detaches queues of the tap.  What both
// sides have to know the driver's features tell.
#include "bridges/vhost_kernel_impl.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#define COMMANDS                                                                                             \
	(VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_MQ) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX) | \
	 VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
#define COMMANDS_NEEDED (VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_MQ))

bool vhost_kernel_has_pairs(const struct device_config *cfg)
{
	return cfg->via == VIA_VHOST && cfg->virtio_type == VIRTIO_NET && cfg->queues > 1;
}

static void control_died(void *owner, const char *why)
{
	struct vhost_kernel *vk = owner;
	if (vk->backend.events && vk->backend.events->died)
		vk->backend.events->died(vk->backend.owner, why);
}

static void control_failed(void *owner)
{
	struct vhost_kernel *vk = owner;
	if (vk->backend.events && vk->backend.events->queue_failed)
		vk->backend.events->queue_failed(vk->backend.owner);
}

int vk_pairs_offer(struct vhost_kernel *vk, struct err *e)
{
	static const struct backend_events events = { .died = control_died, .queue_failed = control_failed };
	struct backend *c = vk->control;
	uint64_t theirs = 0;
	if (!c)
		return 0;
	c->events = &events;
	c->owner = vk;
	int rc = c->ops->features(c, &theirs);
	if (rc < 0)
		return err_sys(e, -rc, "minivmm-net-control");
	vk->backend.queue_count = (uint16_t)(vk->kind->served * vk->fd_count + 1);
	if ((theirs & COMMANDS_NEEDED) != COMMANDS_NEEDED || c->queue_count != vk->backend.queue_count)
		return err_set(e, ENOTSUP, "minivmm-net-control: it is not of this version of minivmm");
	// Rings are one kind for all queues.
	vk->offered &= theirs | ~VK_TRANSPORT;
	vk->offered |= theirs & COMMANDS;
	vk->control_features = theirs;
	return 0;
}

int vk_pairs_settle(struct vhost_kernel *vk, uint64_t features)
{
	if (!vk->control)
		return 0;
	// Without VIRTIO_NET_F_MQ the commands follow the first pair (virtio 1.2 §5.1.2).
	vk->served =
		vk->kind->served * (features & VIRTIO_BIT(VIRTIO_NET_F_MQ) ? (unsigned)vk->fd_count : 1u);
	vk->commanded = features & VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	struct backend *c = vk_control(vk);
	return c ? c->ops->negotiate(c, features & vk->control_features) : 0;
}

struct backend *vk_control(struct vhost_kernel *vk)
{
	if (!vk->commanded)
		return NULL;
	vk->control->deadline = vk->backend.deadline;
	return vk->control;
}
