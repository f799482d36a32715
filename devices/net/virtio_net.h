// SPDX-License-Identifier: BSD-2-Clause
// virtio-net (virtio 1.2 §5.1) on a tap: packets go between the tap and guest memory by readv and writev,
// with no copy here.
//
// Owned by net.c, which has the command line and the SDK's callbacks.  virtio_net.c has features,
// configuration space, control queue and who gets packets at all; receive.c and transmit.c move them.
// Commands are parsed by control.c, headers checked by header.c; move.c is for guests that come from elsewhere.
//
// Queue pair i uses queue i of the tap, which is attached while the driver uses the pair.  What a driver gets
// wrong in one packet drops that packet; what breaks the ring's rules stops the queue.
#ifndef MINIVMM_NET_VIRTIO_NET_H
#define MINIVMM_NET_VIRTIO_NET_H

#include "devices/net/control.h"
#include "devices/net/header.h"
#include "devices/sdk/dev.h"
#include "vmm/base/tap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VNET_PAIRS_MAX ((VDEV_QUEUES_MAX - 1) / 2)
#define VNET_SEGS      256 // of one request
#define VNET_BUDGET    64  // packets in one turn
#define VNET_SPILL     (NET_HEADER_MAX + NET_FRAME_MAX + 64)

// Receive buffers are taken before their packet is there, as one long scatter list; chain and iov are used
// from *_first on.  A packet that needs more than the driver has offered ends in `spill` and waits there for
// more.
#define VNET_HELD_IOVECS 1023 // and one for the spill: what readv(2) takes
struct vnet_held {
	unsigned chain_first, chain_count, iov_first, iov_count;
	uint64_t room;	  // bytes in them
	uint32_t packet;  // length of the packet that waits, 0: none
	uint32_t spilled; // how many of its bytes lie in `spill`
	struct vq_chain chain[VQ_SIZE_MAX];
	struct iovec iov[VNET_HELD_IOVECS + 1];
	uint8_t spill[VNET_SPILL];
};

struct vnet_pair {
	struct vnet *n;
	struct tap tap;
	struct loop_source source; // the tap's descriptor, in the loop while `events` is not 0
	uint32_t events;
	bool attached;
	struct vq *rx, *tx;
	struct vnet_held *held;
};

struct vnet_counts {
	uint64_t rx, rx_dropped; // one that fits no buffers, or that the kernel could not put there
	uint64_t tx, tx_dropped; // one with a wrong header, or refused by the kernel
};

// What the driver set by commands, for a guest that moves to another process.
struct vnet_state {
	uint64_t offloads;
	uint16_t pairs_used;
	uint8_t mac[6];
	uint8_t control_seen;
	uint8_t padding[7];
};

struct vnet {
	struct vdev *d;
	struct virtio_net_config config;
	uint8_t mac[6];	     // as configured
	uint16_t mtu;	     // the same, 0: not told to the driver
	uint64_t features;   // negotiated
	unsigned header_len; // bytes
	uint16_t pairs_max;  // pair[] in use
	uint16_t pairs_used; // as the driver said
	bool control_seen;   // the control queue is ours; some front-ends keep it
	unsigned control;    // its index
	struct net_control commands;
	uint64_t offloads; // that the driver wants now
	struct vnet_state *resume; // what the next start goes on from: &resumed, or NULL
	struct vnet_state resumed;
	struct vnet_counts counts;
	struct vnet_held *held; // pairs_max of them; pages are touched as depth needs them
	struct vnet_pair pair[VNET_PAIRS_MAX];
	struct iovec iov[VNET_SEGS + 1]; // of the request at hand
};

struct vnet_options {
	uint8_t mac[6];
	uint16_t mtu; // 0: not told to the driver
};

// Features and configuration space.  pair[0 .. pairs_max) have their taps already; they are vnet_destroy()'s
// to close.  0 or -errno.
int vnet_init(struct vnet *n, struct vdev *d, const struct vnet_options *o, struct err *e);
void vnet_destroy(struct vnet *n);

// The driver's features.  0 or -errno: the tap refuses them.
int vnet_start(struct vnet *n, uint64_t features);

// The part of it that does not concern the tap.
void vnet_settle(struct vnet *n, uint64_t features);

// See vdev_ops.
size_t vnet_state_save(struct vnet *n, void *to);
int vnet_state_load(struct vnet *n, const void *from, size_t len);
int vnet_announce(struct vnet *n, const uint8_t mac[6]);
int vnet_set_mtu(struct vnet *n, uint16_t mtu);
void vnet_kick(struct vnet *n, struct vq *q);
void vnet_drain(struct vnet *n, const struct vq *q);
void vnet_stop(struct vnet *n);

// ---- what the files of the device share
// ------------------------------------------------------------------------------

// True if the driver uses the pair; its queue of the tap is then attached.
bool vnet_pair_ready(struct vnet_pair *p);

// The driver does not use the pair for now: no packets are to wait in its queue of the tap.
void vnet_pair_rest(struct vnet_pair *p);

// Adds or takes away EPOLLIN or EPOLLOUT on the tap.
void vnet_pair_watch(struct vnet_pair *p, uint32_t event, bool on);

// The tap gave an error that is not a packet's: true if the interface is gone, which the driver is told as
// "link down".
bool vnet_tap_gone(struct vnet_pair *p, int error);

void vnet_receive(struct vnet_pair *p);
void vnet_receive_drain(struct vnet_pair *p); // puts the buffers back
void vnet_transmit(struct vnet_pair *p);

#endif
