// SPDX-License-Identifier: BSD-2-Clause
// vhost-vsock: the guest gets a CID of the host's, and its AF_VSOCK sockets reach the host's.
//
// The third queue (events, virtio 1.2 §5.10.2) tells a guest that it was moved to another host: there is nothing to say on it.
#include "bridges/vhost_kernel_impl.h"
#include "vmm/base/virtio_id.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define VSOCK_SEQPACKET 1 // virtio 1.2 §5.10.3

static int vsock_open(struct vhost_kernel *vk, const struct device_config *cfg, struct err *e)
{
	uint64_t cid = cfg->cid; // 64 bits, of which all but 32 are reserved
	const uint64_t shown = htole64(cid);
	int rc = vhost_call(vk->fd[0], VHOST_VSOCK_SET_GUEST_CID, &cid);
	if (rc == -EADDRINUSE)
		return err_set(e, EADDRINUSE, "cid = %" PRIu64 ": another machine of this host has it", cid);
	if (rc < 0)
		return err_sys(e, -rc, "cid = %" PRIu64 ": VHOST_VSOCK_SET_GUEST_CID", cid);
	memcpy(vk->config, &shown, sizeof(shown));
	vk->backend.config_len = sizeof(shown);
	return 0;
}

static int vsock_negotiate(struct vhost_kernel *vk, uint64_t features)
{
	(void)vk;
	(void)features;
	return 0;
}

static int vsock_start(struct vhost_kernel *vk)
{
	int on = 1;
	return vhost_call(vk->fd[0], VHOST_VSOCK_SET_RUNNING, &on);
}

static void vsock_stop(struct vhost_kernel *vk)
{
	int on = 0;
	vhost_call(vk->fd[0], VHOST_VSOCK_SET_RUNNING, &on);
}

static void vsock_close(struct vhost_kernel *vk)
{
	(void)vk;
}

const struct vhost_kind vhost_kind_vsock = {
	.virtio_type = VIRTIO_VSOCK,
	.node = "/dev/vhost-vsock",
	.module = "vhost_vsock",
	.queues = 3,
	.served = 2,
	.carried = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		   VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_IN_ORDER) |
		   VIRTIO_BIT(VSOCK_SEQPACKET),
	.open = vsock_open,
	.negotiate = vsock_negotiate,
	.start = vsock_start,
	.stop = vsock_stop,
	.close = vsock_close,
};
