// SPDX-License-Identifier: BSD-2-Clause
// vhost-net: the kernel moves frames between two rings and a tap.
//
// What a driver takes of checksums and segmentation is told to the tap (TUNSETOFFLOAD), the length of the header too; address, link and
// MTU are shown here.  Of several pairs of queues each has a descriptor of the kernel's and a queue of the tap; which of those are
// attached while a driver runs is not said here (vhost_kernel_pairs.c).
#include "bridges/vhost_kernel_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/parse.h"
#include "vmm/base/virtio_id.h"

#include <endian.h>
#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define HEADER_LEN	 12 // virtio 1.2 §5.1.6: with VERSION_1 always
#define NET_F_GUEST_USO4 54 // virtio 1.3 §5.1.3
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO	 56

// Which flag of the tap goes with which feature of a driver that takes such frames.
static const struct {
	unsigned feature, tap;
} offloads[] = {
	{ VIRTIO_NET_F_GUEST_CSUM, TAP_CSUM }, { VIRTIO_NET_F_GUEST_TSO4, TAP_TSO4 },
	{ VIRTIO_NET_F_GUEST_TSO6, TAP_TSO6 }, { VIRTIO_NET_F_GUEST_ECN, TAP_ECN },
	{ NET_F_GUEST_USO4, TAP_USO4 },	       { NET_F_GUEST_USO6, TAP_USO6 },
};

static void link_gone(struct tap_link *l)
{
	struct vhost_kernel *vk = CONTAINER_OF(l, struct vhost_kernel, link);
	log_warn("%s: tap %s was deleted: the guest's link is down for good", vk->backend.id,
		 vk->tap[0].name);
	const uint16_t down = 0;
	memcpy(vk->config + offsetof(struct virtio_net_config, status), &down, sizeof(down));
	if (vk->backend.events)
		vk->backend.events->config_changed(vk->backend.owner);
}

static int choose_mac(uint8_t mac[6], const char *text, struct err *e)
{
	if (text)
		return parse_mac(text, mac) < 0 ? err_set(e, EINVAL, "mac = %s is no address", text) : 0;
	if (getrandom(mac, 6, 0) != 6)
		return err_sys(e, errno, "random address");
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 2); // one interface's, locally given
	return 0;
}

static uint64_t own_features(const struct vhost_kernel *vk, const struct device_config *cfg)
{
	uint64_t own = VIRTIO_BIT(VIRTIO_NET_F_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) |
		       VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO4) | VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO6) |
		       VIRTIO_BIT(VIRTIO_NET_F_HOST_ECN) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO4) |
		       VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ECN) |
		       VIRTIO_BIT(VIRTIO_NET_F_MAC) | VIRTIO_BIT(VIRTIO_NET_F_STATUS);
	if (tap_set_offload(&vk->tap[0], TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_USO4 | TAP_USO6) == 0)
		own |= VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6) |
		       VIRTIO_BIT(NET_F_HOST_USO);
	if (cfg->mtu)
		own |= VIRTIO_BIT(VIRTIO_NET_F_MTU);
	return own;
}

// Of several queues all but the first are of no use until the driver says so (virtio 1.2 §5.1.5), and packets must not wait there.
static void taps_rest(const struct vhost_kernel *vk)
{
	for (unsigned i = 1; i < vk->fd_count; i++)
		tap_set_queue(&vk->tap[i], false); // fails only if the tap was deleted
}

static int open_taps(struct vhost_kernel *vk, const struct device_config *cfg, struct err *e)
{
	char queue[16];
	int rc = 0;
	if (!vk->pairs)
		return tap_open(&vk->tap[0], cfg->tap, false, e);
	for (unsigned i = 0; i < vk->fd_count && rc == 0; i++) {
		snprintf(queue, sizeof(queue), "fd:%d", vk->pairs->tap[i]);
		rc = tap_open(&vk->tap[i], queue, true, e);
	}
	if (rc == 0)
		taps_rest(vk);
	return rc;
}

static int net_open(struct vhost_kernel *vk, const struct device_config *cfg, struct err *e)
{
	struct virtio_net_config shown = { .status = htole16(VIRTIO_NET_S_LINK_UP),
					   .max_virtqueue_pairs = htole16((uint16_t)vk->fd_count),
					   .mtu = htole16(cfg->mtu) };
	_Static_assert(offsetof(struct virtio_net_config, mtu) + 2 <= VHOST_KERNEL_CONFIG_MAX, "it fits");
	int rc = choose_mac(shown.mac, cfg->mac, e);
	if (rc == 0)
		rc = open_taps(vk, cfg, e);
	if (rc < 0)
		return rc;
	vk->offered |= own_features(vk, cfg);
	rc = tap_set_offload(&vk->tap[0], 0);
	if (rc < 0)
		return err_sys(e, -rc, "tap %s: TUNSETOFFLOAD", vk->tap[0].name);
	rc = tap_set_header(&vk->tap[0], HEADER_LEN);
	if (rc < 0)
		return err_sys(e, -rc, "tap %s: TUNSETVNETHDRSZ", vk->tap[0].name);
	vk->backend.config_len = offsetof(struct virtio_net_config, mtu) + (cfg->mtu ? 2 : 0);
	memcpy(vk->config, &shown, vk->backend.config_len);
	return tap_link_watch(&vk->link, vk->tap[0].name, vk->loop, link_gone, e);
}

static int net_negotiate(struct vhost_kernel *vk, uint64_t features)
{
	unsigned flags = 0;
	for (unsigned i = 0; i < ARRAY_LEN(offloads); i++)
		if (features & VIRTIO_BIT(offloads[i].feature))
			flags |= offloads[i].tap;
	int rc = tap_set_offload(&vk->tap[0], flags);
	return rc == -EBADFD ? 0 : rc; // the tap was deleted: a device without a link, like any
}

static int set_backend(const struct vhost_kernel *vk, unsigned q, int fd)
{
	struct vhost_vring_file f = { .index = q % vk->kind->served, .fd = fd };
	return vhost_call(vk->fd[q / vk->kind->served], VHOST_NET_SET_BACKEND, &f);
}

static void net_stop(struct vhost_kernel *vk)
{
	for (unsigned q = 0; q < vk->served; q++)
		set_backend(vk, q, VHOST_FILE_UNBIND);
}

static int net_start(struct vhost_kernel *vk)
{
	int rc = 0;
	taps_rest(vk);
	for (unsigned q = 0; q < vk->served && rc == 0; q++)
		if (vk->set[q])
			rc = set_backend(vk, q, vk->tap[q / vk->kind->served].fd);
	if (rc < 0)
		net_stop(vk);
	return rc;
}

static void net_close(struct vhost_kernel *vk)
{
	tap_link_close(&vk->link, vk->loop);
	for (unsigned i = 0; i < VHOST_KERNEL_FDS_MAX; i++)
		fd_close(&vk->tap[i].fd);
}

const struct vhost_kind vhost_kind_net = {
	.virtio_type = VIRTIO_NET,
	.node = "/dev/vhost-net",
	.module = "vhost_net",
	.queues = 2,
	.served = 2,
	.carried = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		   VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_IN_ORDER) |
		   VIRTIO_BIT(VIRTIO_NET_F_MRG_RXBUF),
	.open = net_open,
	.negotiate = net_negotiate,
	.start = net_start,
	.stop = net_stop,
	.close = net_close,
};
