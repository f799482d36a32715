// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/virtio_net.h"
#include "devices/sdk/scatter.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

static bool mergeable(const struct vnet *n)
{
	return n->features & NET_BIT(VIRTIO_NET_F_MRG_RXBUF);
}

// Room that one packet may need; without mergeable buffers it gets one, whatever its size.
static uint64_t room_wanted(const struct vnet *n)
{
	if (!mergeable(n))
		return 1;
	bool large = n->features & (NET_BIT(VIRTIO_NET_F_GUEST_TSO4) | NET_BIT(VIRTIO_NET_F_GUEST_TSO6) |
				    NET_BIT(VIRTIO_NET_F_GUEST_UFO) | NET_BIT(NET_F_GUEST_USO4));
	return n->header_len + (large ? NET_FRAME_MAX : 1500 + 18);
}

static struct iovec *first_iov(struct vnet_held *h)
{
	return &h->iov[h->iov_first];
}

// Makes place behind the buffers for one more of VNET_SEGS pieces.
static bool make_place(struct vnet_held *h)
{
	if (h->chain_first + h->chain_count == VQ_SIZE_MAX) {
		memmove(h->chain, h->chain + h->chain_first, h->chain_count * sizeof(h->chain[0]));
		h->chain_first = 0;
	}
	if (h->iov_first + h->iov_count + VNET_SEGS > VNET_HELD_IOVECS) {
		memmove(h->iov, first_iov(h), h->iov_count * sizeof(h->iov[0]));
		h->iov_first = 0;
	}
	return h->chain_count < VQ_SIZE_MAX && h->iov_count + VNET_SEGS <= VNET_HELD_IOVECS;
}

// Takes buffers until there is room for `wanted` bytes.  False: the driver has no more for now.
static bool hold(struct vnet_pair *p, uint64_t wanted)
{
	struct vnet_held *h = p->held;
	while (h->room < wanted) {
		struct vq_chain c;
		if (!make_place(h) || vq_pop(p->rx, &c, first_iov(h) + h->iov_count, VNET_SEGS) <= 0)
			return false;
		if (c.readable || c.writable_len == 0) {
			vq_fail(p->rx, "receive buffer that is to be read");
			vq_unpop(p->rx, &c);
			return false;
		}
		h->chain[h->chain_first + h->chain_count++] = c;
		h->iov_count += c.writable;
		h->room += c.writable_len;
	}
	return true;
}

// Gives the packet that lies in the first `len` bytes to the driver; how much of each buffer it fills
// follows.
static void deliver(struct vnet_pair *p, uint64_t len)
{
	struct vnet *n = p->n;
	struct vnet_held *h = p->held;
	uint16_t buffers = 0;
	for (uint64_t left = len; left > 0; buffers++)
		left -= MIN(left, h->chain[h->chain_first + buffers].writable_len);
	// The kernel writes the header, but for this field; and tells of checksums also who did not ask
	// (virtio 1.2 §5.1.6.4.1).
	if (n->header_len == NET_HEADER_MAX)
		scatter_write(first_iov(h), h->iov_count, offsetof(struct virtio_net_hdr_v1, num_buffers),
			      &buffers, sizeof(buffers));
	if (!(n->features & NET_BIT(VIRTIO_NET_F_GUEST_CSUM)))
		scatter_write(first_iov(h), h->iov_count, offsetof(struct virtio_net_hdr_v1, flags), "", 1);
	for (; buffers > 0; buffers--) {
		const struct vq_chain *c = &h->chain[h->chain_first++];
		uint64_t part = MIN(len, c->writable_len);
		h->chain_count--;
		h->iov_first += c->writable;
		h->iov_count -= c->writable;
		h->room -= c->writable_len;
		len -= part;
		vq_push(p->rx, c->head, (uint32_t)part);
	}
	n->counts.rx++;
}

static void drop(struct vnet_pair *p)
{
	p->held->packet = p->held->spilled = 0;
	p->n->counts.rx_dropped++;
}

enum progress { GOES_ON, NO_PACKET, NO_BUFFER };

// One packet from the tap into the buffers, or as much of it as they hold.
static enum progress receive_one(struct vnet_pair *p)
{
	struct vnet *n = p->n;
	struct vnet_held *h = p->held;
	if (!hold(p, room_wanted(n)) && h->chain_count == 0)
		return NO_BUFFER;
	struct iovec *iov = first_iov(h);
	iov[h->iov_count] = (struct iovec){ .iov_base = h->spill, .iov_len = sizeof(h->spill) };
	ssize_t got = readv(p->tap.fd, iov, (int)h->iov_count + 1);
	if (got <= 0) {
		if (got < 0 && errno != EAGAIN)
			n->counts.rx_dropped++;
		vnet_tap_gone(p, got < 0 ? errno : EBADFD);
		return NO_PACKET;
	}
	uint64_t len = (uint64_t)got;
	if (len <= h->room) {
		deliver(p, len);
		return GOES_ON;
	}
	h->packet = (uint32_t)len;
	h->spilled = (uint32_t)(len - h->room);
	// One that fits nothing: without mergeable buffers it has had its only one.
	if (!mergeable(n) || h->spilled == sizeof(h->spill))
		drop(p);
	return GOES_ON;
}

// The rest of a packet that was larger than what the driver had offered.
static enum progress receive_rest(struct vnet_pair *p)
{
	struct vnet_held *h = p->held;
	if (hold(p, h->packet)) {
		scatter_write(first_iov(h), h->iov_count, h->packet - h->spilled, h->spill, h->spilled);
		deliver(p, h->packet);
		h->packet = h->spilled = 0;
		return GOES_ON;
	}
	// The driver has given all that it has, or all that we can hold.
	if (p->rx->in_flight < p->rx->size && make_place(h))
		return NO_BUFFER;
	drop(p);
	return GOES_ON;
}

void vnet_receive(struct vnet_pair *p)
{
	if (!p->rx->running || !p->rx->enabled || p->rx->failed || !vnet_pair_ready(p)) {
		vnet_pair_rest(p);
		return;
	}
	enum progress so_far = GOES_ON;
	vq_notify_disable(p->rx);
	for (unsigned budget = VNET_BUDGET; budget > 0 && so_far == GOES_ON; budget--)
		so_far = p->held->packet ? receive_rest(p) : receive_one(p);
	vq_publish(p->rx);
	// The tap says when there is more to come, the driver when there is more room: of the two, wait for
	// the one that is missing.
	if (so_far == NO_BUFFER && vq_notify_enable(p->rx))
		vdev_again(p->n->d, p->rx);
	vnet_pair_watch(p, EPOLLIN, so_far != NO_BUFFER && p->attached);
}

void vnet_receive_drain(struct vnet_pair *p)
{
	struct vnet_held *h = p->held;
	if (h->packet)
		drop(p);
	while (h->chain_count > 0)
		vq_unpop(p->rx, &h->chain[h->chain_first + --h->chain_count]);
	h->chain_first = h->iov_first = h->iov_count = 0;
	h->room = 0;
}
