// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/control.h"

#include "devices/net/header.h"
#include "devices/sdk/scatter.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

#define MAC_LEN	       6
#define MAC_TABLE_MOST 65536u // entries; what is longer is no list of addresses

#define GUEST_OFFLOADS                                                         \
	(NET_BIT(VIRTIO_NET_F_GUEST_CSUM) | NET_BIT(VIRTIO_NET_F_GUEST_TSO4) | \
	 NET_BIT(VIRTIO_NET_F_GUEST_TSO6) | NET_BIT(VIRTIO_NET_F_GUEST_ECN) |  \
	 NET_BIT(VIRTIO_NET_F_GUEST_UFO) | NET_BIT(NET_F_GUEST_USO4) | NET_BIT(NET_F_GUEST_USO6))

// The command's own data: what lies behind class and command.
struct data {
	const struct iovec *iov;
	unsigned count;
	uint64_t len; // of all, with class and command
};

#define DATA_AT sizeof(struct virtio_net_ctrl_hdr)

static uint64_t data_len(const struct data *d)
{
	return d->len - DATA_AT;
}

static void data_copy(const struct data *d, void *to, size_t off, size_t len)
{
	scatter_read(d->iov, d->count, DATA_AT + off, to, len);
}

// Everything is passed on as it is: a filter is a promise of less, which a device need not keep (virtio 1.2
// §5.1.6.5.1).
static int rx_mode(const struct net_control *c, uint8_t command, const struct data *d)
{
	bool extra = command > VIRTIO_NET_CTRL_RX_ALLMULTI;
	if (command > VIRTIO_NET_CTRL_RX_NOBCAST || data_len(d) != 1 || // on or off
	    !(c->features & NET_BIT(extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX)))
		return -EINVAL;
	return 0;
}

// Two lists, each a count and so many addresses.
static int mac_table(const struct data *d)
{
	uint64_t at = 0, len = data_len(d);
	for (unsigned list = 0; list < 2; list++) {
		uint32_t entries;
		if (!range_in(at, sizeof(entries), len))
			return -EINVAL;
		data_copy(d, &entries, (size_t)at, sizeof(entries));
		at += sizeof(entries);
		if (entries > MAC_TABLE_MOST || !range_in(at, (uint64_t)entries * MAC_LEN, len))
			return -EINVAL;
		at += (uint64_t)entries * MAC_LEN;
	}
	return at == len ? 0 : -EINVAL;
}

static int mac_address(const struct net_control *c, const struct data *d)
{
	static const uint8_t zero[MAC_LEN];
	uint8_t mac[MAC_LEN];
	if (!(c->features & NET_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR)) || data_len(d) != sizeof(mac))
		return -EINVAL;
	data_copy(d, mac, 0, sizeof(mac));
	if ((mac[0] & 1) || memcmp(mac, zero, sizeof(mac)) == 0) // a group's address, or nobody's
		return -EADDRNOTAVAIL;
	return c->mac(c->owner, mac);
}

static int queue_pairs(const struct net_control *c, uint8_t command, const struct data *d)
{
	uint16_t pairs;
	if (command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !(c->features & NET_BIT(VIRTIO_NET_F_MQ)) ||
	    data_len(d) != sizeof(pairs))
		return -EINVAL;
	data_copy(d, &pairs, 0, sizeof(pairs));
	return pairs < 1 || pairs > c->pairs_max ? -ERANGE : c->pairs(c->owner, pairs);
}

static int guest_offloads(const struct net_control *c, uint8_t command, const struct data *d)
{
	uint64_t wanted;
	if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    !(c->features & NET_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)) || data_len(d) != sizeof(wanted))
		return -EINVAL;
	data_copy(d, &wanted, 0, sizeof(wanted));
	return wanted & ~(c->features & GUEST_OFFLOADS) ? -EINVAL : c->offloads(c->owner, wanted);
}

uint8_t net_control_do(const struct net_control *c, const struct iovec *iov, unsigned count, uint64_t len)
{
	struct virtio_net_ctrl_hdr h;
	const struct data d = { .iov = iov, .count = count, .len = len };
	int rc = -EINVAL;
	if (len < sizeof(h))
		return VIRTIO_NET_ERR;
	scatter_read(iov, count, 0, &h, sizeof(h));
	if (h.class == VIRTIO_NET_CTRL_RX)
		rc = rx_mode(c, h.cmd, &d);
	else if (h.class == VIRTIO_NET_CTRL_MAC && h.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET)
		rc = mac_address(c, &d);
	else if (h.class == VIRTIO_NET_CTRL_MAC && h.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		rc = c->features & NET_BIT(VIRTIO_NET_F_CTRL_RX) ? mac_table(&d) : -EINVAL;
	else if (h.class == VIRTIO_NET_CTRL_MQ)
		rc = queue_pairs(c, h.cmd, &d);
	else if (h.class == VIRTIO_NET_CTRL_GUEST_OFFLOADS)
		rc = guest_offloads(c, h.cmd, &d);
	return (uint8_t)(rc < 0 ? VIRTIO_NET_ERR : VIRTIO_NET_OK);
}

void net_control_serve(const struct net_control *c, struct vdev *d, struct vq *q, struct iovec *iov)
{
	struct vq_chain chain;
	bool more = true;
	vq_notify_disable(q);
	for (unsigned budget = q->size; budget > 0 && more; budget--) {
		more = vq_pop(q, &chain, iov, NET_CONTROL_SEGS) > 0;
		if (!more)
			break;
		if (chain.writable_len == 0) {
			vq_fail(q, "command without room for an answer");
		} else {
			uint8_t ack = net_control_do(c, iov, chain.readable, chain.readable_len);
			scatter_write(iov + chain.readable, chain.writable, 0, &ack, sizeof(ack));
			vdev_state_changed(d);
		}
		vq_push(q, chain.head, 1);
	}
	vq_publish(q);
	if (more || vq_notify_enable(q))
		vdev_again(d, q);
}
