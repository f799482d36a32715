// SPDX-License-Identifier: BSD-2-Clause
// For guests that come from another host: their state, the network's notice of them, and an MTU that is the front-end's to say.
#include "devices/net/virtio_net.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>

#define MTU_MIN 68 // virtio 1.2 §5.1.4.1

size_t vnet_state_save(struct vnet *n, void *to)
{
	struct vnet_state s = {
		.offloads = n->offloads,
		.pairs_used = n->pairs_used,
		.control_seen = n->control_seen,
	};
	memcpy(s.mac, n->config.mac, sizeof(s.mac));
	memcpy(to, &s, sizeof(s));
	return sizeof(s);
}

int vnet_state_load(struct vnet *n, const void *from, size_t len)
{
	n->resume = NULL;
	if (len == 0)
		return 0;
	struct vnet_state *s = &n->resumed;
	if (len != sizeof(*s))
		return -EINVAL;
	memcpy(s, from, sizeof(*s));
	if (s->pairs_used < 1 || s->pairs_used > n->pairs_max || s->control_seen > 1 || s->mac[0] & 1)
		return -EINVAL;
	n->resume = s;
	return 0;
}

// A request to be told the address that belongs to the sender's own (RFC 903): nobody need answer, bridges learn from it.
struct rarp {
	struct ethhdr eth;
	uint8_t htype[2], ptype[2], hlen, plen, op[2];
	uint8_t sender[ETH_ALEN], sender_ip[4], target[ETH_ALEN], target_ip[4];
	uint8_t padding[18]; // to Ethernet's shortest frame
};

_Static_assert(sizeof(struct rarp) == 60, "a frame of Ethernet's least length");

int vnet_announce(struct vnet *n, const uint8_t mac[6])
{
	struct virtio_net_hdr_v1 h = { .num_buffers = 0 };
	struct rarp r = { .htype = { 0, 1 }, .ptype = { 8, 0 }, .hlen = ETH_ALEN, .plen = 4, .op = { 0, 3 } };
	const uint8_t rarp_type[2] = { 0x80, 0x35 };
	memset(r.eth.h_dest, 0xff, ETH_ALEN);
	memcpy(r.eth.h_source, mac, ETH_ALEN);
	memcpy(&r.eth.h_proto, rarp_type, sizeof(rarp_type));
	memcpy(r.sender, mac, ETH_ALEN);
	memcpy(r.target, mac, ETH_ALEN);
	if (mac[0] & 1)
		return -EADDRNOTAVAIL;
	if (!n->pair[0].attached)
		return -ENOTCONN;
	struct iovec iov[] = { { &h, n->header_len }, { &r, sizeof(r) } };
	return writev(n->pair[0].tap.fd, iov, 2) < 0 ? -errno : 0;
}

int vnet_set_mtu(struct vnet *n, uint16_t mtu)
{
	if (!n->mtu)
		return -EOPNOTSUPP; // the driver is told none (VIRTIO_NET_F_MTU)
	if (mtu && (mtu < MTU_MIN || mtu > n->mtu))
		return -ERANGE;
	n->config.mtu = mtu ? mtu : n->mtu;
	return 0;
}
