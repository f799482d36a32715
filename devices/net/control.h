// SPDX-License-Identifier: BSD-2-Clause
// Commands of the control queue (virtio 1.2 §5.1.6.5), out of a driver's buffers.
//
// Reads a command, checks it, and calls back for what has an effect.  Knows no tap: any network device can use it.
#ifndef MINIVMM_NET_CONTROL_H
#define MINIVMM_NET_CONTROL_H

#include "devices/sdk/dev.h"

#include <stdint.h>
#include <sys/uio.h>

#define NET_CONTROL_SEGS 256 // of one command

struct net_control {
	void *owner;
	uint64_t features; // negotiated
	uint16_t pairs_max;
	// Each: 0, or -errno, which the driver learns as VIRTIO_NET_ERR.
	int (*mac)(void *owner,
		   const uint8_t mac[6]);	   // NULL where VIRTIO_NET_F_CTRL_MAC_ADDR is never offered
	int (*pairs)(void *owner, uint16_t pairs); // 1 <= pairs <= pairs_max
	int (*offloads)(void *owner,
			uint64_t guest_offloads); // bits of VIRTIO_NET_F_GUEST_*, negotiated ones
};

// Does the command in iov[0 .. count), which holds `len` bytes.  VIRTIO_NET_OK or VIRTIO_NET_ERR.
uint8_t net_control_do(const struct net_control *c, const struct iovec *iov, unsigned count, uint64_t len);

// Does what is in the control queue; `iov` has room for NET_CONTROL_SEGS.
void net_control_serve(const struct net_control *c, struct vdev *d, struct vq *q, struct iovec *iov);

#endif
