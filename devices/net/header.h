// SPDX-License-Identifier: BSD-2-Clause
// The header before each packet (virtio 1.2 §5.1.6), and the features that rule it.  Looks at numbers only;
// touches no packet.
#ifndef MINIVMM_NET_HEADER_H
#define MINIVMM_NET_HEADER_H

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

// Features and a segmentation type of virtio 1.3 that older headers lack.
#define NET_F_GUEST_USO4 54
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO	 56
#define NET_GSO_UDP_L4	 5

#define NET_BIT(n) (UINT64_C(1) << (n))

#define NET_HEADER_MAX sizeof(struct virtio_net_hdr_v1)
#define NET_FRAME_MIN  14		// an Ethernet header
#define NET_FRAME_MAX  (65535 + 14 + 4) // the largest IP packet, with a VLAN tag

// Bytes of the header: num_buffers is not part of the oldest one.
static inline unsigned net_header_len(uint64_t features)
{
	return features & (NET_BIT(VIRTIO_F_VERSION_1) | NET_BIT(VIRTIO_NET_F_MRG_RXBUF)) ? 12 : 10;
}

// Features that a tap gives whose reader may ask for `offload` (TAP_*).
uint64_t net_offload_features(unsigned offload);

// What a tap's reader can take (TAP_*) if the driver took `features`; without what depends on something that
// it did not take.
unsigned net_offload_tap(uint64_t features);

// Makes the header of a frame of `len` bytes to be sent fit for the kernel: cleared is what the device is to
// ignore or what is only a hint.  False: the driver asks for what it did not negotiate or what lies outside
// the frame; the packet is to be dropped.
bool net_header_settle(struct virtio_net_hdr_v1 *h, uint64_t features, uint64_t len);

#endif
