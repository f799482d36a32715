// SPDX-License-Identifier: BSD-2-Clause
// The commands of a network device whose packets the host's kernel moves between other queues and a tap (kernel vhost).
//
// Owned by net-control.c.  Has the queues of the tap, but never reads or writes a packet: what a command sets is set in the tap, and
// nothing is remembered here, so that a process which takes over from one that was killed need not be told anything.  Which pairs are
// attached when a driver begins, and what it negotiated, whoever has the other queues has settled before.
#ifndef MINIVMM_NET_PAIRS_H
#define MINIVMM_NET_PAIRS_H

#include "devices/net/control.h"
#include "devices/net/header.h"
#include "devices/sdk/dev.h"
#include "vmm/base/tap.h"

#include <stdint.h>

#define NET_PAIRS_MAX ((VDEV_QUEUES_MAX - 1) / 2)

struct net_pairs {
	struct virtio_net_config config;
	struct net_control commands;
	unsigned control; // index of the queue
	uint16_t count;	  // of pairs; tap[i] is pair i's
	struct tap tap[NET_PAIRS_MAX];
	struct iovec iov[NET_CONTROL_SEGS];
};

// Features and configuration space, for p->count taps, 2 or more.  They are net_pairs_destroy()'s to close.
void net_pairs_init(struct net_pairs *p, struct vdev *d);
void net_pairs_destroy(struct net_pairs *p);

// See vdev_ops.
void net_pairs_start(struct net_pairs *p, uint64_t features);
void net_pairs_kick(struct net_pairs *p, struct vdev *d, struct vq *q);

#endif
