// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/header.h"

#include "vmm/base/check.h"
#include "vmm/base/tap.h"

static const struct {
	unsigned tap;
	uint8_t guest, host; // feature bits for packets to and from the driver
} offloads[] = {
	{ TAP_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM },
	{ TAP_TSO4, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4 },
	{ TAP_TSO6, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6 },
	{ TAP_ECN, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN },
	{ TAP_UFO, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO },
	{ TAP_USO4, NET_F_GUEST_USO4, NET_F_HOST_USO },
	{ TAP_USO6, NET_F_GUEST_USO6, NET_F_HOST_USO },
};

uint64_t net_offload_features(unsigned offload)
{
	uint64_t features = 0;
	for (unsigned i = 0; i < ARRAY_LEN(offloads); i++)
		if (offload & offloads[i].tap)
			features |= NET_BIT(offloads[i].guest) | NET_BIT(offloads[i].host);
	return features;
}

unsigned net_offload_tap(uint64_t features)
{
	unsigned tap = 0;
	for (unsigned i = 0; i < ARRAY_LEN(offloads); i++)
		if (features & NET_BIT(offloads[i].guest))
			tap |= offloads[i].tap;
	// virtio 1.2 §5.1.3.1, and of the last two the kernel takes both or none.
	if (!(tap & TAP_CSUM))
		return 0;
	if (!(tap & (TAP_TSO4 | TAP_TSO6)))
		tap &= ~TAP_ECN;
	if ((tap & (TAP_USO4 | TAP_USO6)) != (TAP_USO4 | TAP_USO6))
		tap &= ~(TAP_USO4 | TAP_USO6);
	return tap;
}

// The feature without which a driver may not send this type; 64: there is no such type.
static unsigned gso_feature(uint8_t type)
{
	switch (type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return VIRTIO_NET_F_HOST_TSO4;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return VIRTIO_NET_F_HOST_TSO6;
	case VIRTIO_NET_HDR_GSO_UDP:
		return VIRTIO_NET_F_HOST_UFO;
	case NET_GSO_UDP_L4:
		return NET_F_HOST_USO;
	default:
		return 64;
	}
}

static bool gso_settle(struct virtio_net_hdr_v1 *h, uint64_t features, uint64_t len)
{
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		h->gso_size = h->hdr_len = 0;
		return true;
	}
	uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	unsigned needed = gso_feature(type);
	if (needed > 63 || !(features & NET_BIT(needed)))
		return false;
	if (type != h->gso_type && ((type != VIRTIO_NET_HDR_GSO_TCPV4 && type != VIRTIO_NET_HDR_GSO_TCPV6) ||
				    !(features & NET_BIT(VIRTIO_NET_F_HOST_ECN))))
		return false;
	h->hdr_len = (uint16_t)MIN((uint64_t)h->hdr_len, len); // a hint, and the kernel refuses a wrong one
	// Segments need checksums of their own (virtio 1.2 §5.1.6.2.1).
	return h->gso_size != 0 && (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
}

bool net_header_settle(struct virtio_net_hdr_v1 *h, uint64_t features, uint64_t len)
{
	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
		return false;
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; // others are unknown, or not for this direction
	h->num_buffers = 0;
	if (h->flags) {
		if (!(features & NET_BIT(VIRTIO_NET_F_CSUM)) ||
		    (uint64_t)h->csum_start + h->csum_offset + 2 > len)
			return false;
	} else {
		h->csum_start = h->csum_offset = 0;
	}
	return gso_settle(h, features, len);
}
