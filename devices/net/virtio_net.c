// SPDX-License-Identifier: BSD-2-Clause
#include "devices/net/virtio_net.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define CONFIG_LEN offsetof(struct virtio_net_config, speed)

_Static_assert(NET_CONTROL_SEGS <= VNET_SEGS, "commands have room");

// ---- pairs of queues
// --------------------------------------------------------------------------------------------

void vnet_pair_watch(struct vnet_pair *p, uint32_t event, bool on)
{
	struct loop *l = &p->n->d->loop;
	uint32_t events = on ? p->events | event : p->events & ~event;
	if (events == p->events)
		return;
	int rc = 0;
	if (!events)
		loop_remove(l, &p->source);
	else
		rc = p->events ? loop_modify(l, &p->source, events) : loop_add(l, &p->source, events);
	if (rc < 0)
		log_limited(LOG_ERROR, "tap %s: epoll: %s", p->tap.name, err_text(-rc));
	else
		p->events = events;
}

bool vnet_tap_gone(struct vnet_pair *p, int error)
{
	if (error != EBADFD && error != EBADF && error != ENODEV)
		return false;
	log_limited(LOG_ERROR, "tap %s is gone", p->tap.name);
	p->n->config.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	p->attached = false;
	vnet_pair_watch(p, EPOLLIN | EPOLLOUT, false);
	vdev_config_changed(p->n->d);
	return true;
}

static bool link_up(const struct vnet *n)
{
	return n->config.status & VIRTIO_NET_S_LINK_UP;
}

// The kernel spreads packets over the attached queues.  A tap with one queue keeps it.
static int pair_attach(struct vnet_pair *p, bool attach)
{
	if (p->attached == attach || !link_up(p->n))
		return 0;
	int rc = p->tap.multi_queue ? tap_set_queue(&p->tap, attach) : 0;
	if (rc == 0)
		p->attached = attach;
	else
		log_limited(LOG_WARN, "tap %s: %s a queue: %s", p->tap.name, attach ? "attach" : "detach",
			    err_text(-rc));
	if (!attach)
		vnet_pair_watch(p, EPOLLIN | EPOLLOUT, false);
	return rc;
}

// A front-end that keeps the control queue for itself enables just the pairs that the driver asked it for.
static uint16_t pairs_allowed(const struct vnet *n)
{
	return n->control_seen ? n->pairs_used : n->pairs_max;
}

void vnet_pair_rest(struct vnet_pair *p)
{
	pair_attach(p, false);
}

bool vnet_pair_ready(struct vnet_pair *p)
{
	if (p - p->n->pair >= pairs_allowed(p->n))
		return false;
	return pair_attach(p, true) == 0 && p->attached;
}

static void tap_ready(struct loop_source *s, uint32_t events)
{
	struct vnet_pair *p = CONTAINER_OF(s, struct vnet_pair, source);
	if (p->events & EPOLLOUT && events & (EPOLLOUT | EPOLLERR))
		vnet_transmit(p);
	if (p->events & EPOLLIN && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		vnet_receive(p);
}

// ---- control queue
// ----------------------------------------------------------------------------------------------

static int set_mac(void *owner, const uint8_t mac[6])
{
	struct vnet *n = owner;
	memcpy(n->config.mac, mac, sizeof(n->config.mac));
	return 0;
}

// Pairs that are used no more lose their tap queue at once; the others get theirs when the driver has buffers
// there.
static int set_pairs(void *owner, uint16_t pairs)
{
	struct vnet *n = owner;
	n->control_seen = true;
	n->pairs_used = pairs;
	for (unsigned i = 0; i < n->pairs_max; i++) {
		struct vnet_pair *p = &n->pair[i];
		int rc = pair_attach(p, i < pairs);
		if (rc < 0)
			return rc;
		if (i < pairs && p->rx->running)
			vdev_again(n->d, p->rx);
	}
	return 0;
}

static int set_offloads(void *owner, uint64_t guest_offloads)
{
	struct vnet *n = owner;
	int rc = tap_set_offload(&n->pair[0].tap, net_offload_tap(guest_offloads));
	if (rc == 0)
		n->offloads = guest_offloads;
	return rc;
}

static void control(struct vnet *n, struct vq *q)
{
	// A driver that used this queue with another process of ours, which left no record: how many pairs it has only its buffers tell.
	if (!n->control_seen && !q->resumed)
		set_pairs(n, n->pairs_used);
	net_control_serve(&n->commands, n->d, q, n->iov);
}

// ---- the device
// -------------------------------------------------------------------------------------------------

void vnet_kick(struct vnet *n, struct vq *q)
{
	if (q->index == n->control)
		control(n, q);
	else if (q->index / 2u >= n->pairs_max)
		return; // a control queue that is not where this driver has it
	else if (q->index & 1)
		vnet_transmit(&n->pair[q->index / 2]);
	else
		vnet_receive(&n->pair[q->index / 2]);
}

void vnet_drain(struct vnet *n, const struct vq *q)
{
	for (unsigned i = 0; i < n->pairs_max; i++)
		if (!q || q == n->pair[i].rx)
			vnet_receive_drain(&n->pair[i]);
}

void vnet_settle(struct vnet *n, uint64_t features)
{
	n->features = features;
	n->header_len = net_header_len(features);
	n->pairs_used = 1;
	n->control_seen = false;
	n->offloads = features;
	if (n->resume) {
		n->pairs_used = n->resume->pairs_used;
		n->control_seen = n->resume->control_seen;
		n->offloads = n->resume->offloads & features;
		memcpy(n->config.mac, n->resume->mac, sizeof(n->config.mac));
		n->resume = NULL;
	}
	n->control = !(features & NET_BIT(VIRTIO_NET_F_CTRL_VQ)) ? UINT_MAX
		     : features & NET_BIT(VIRTIO_NET_F_MQ)	 ? 2u * n->pairs_max
								 : 2;
	n->commands.features = features;
	for (size_t i = 0; i < n->pairs_max; i++) {
		n->pair[i].rx = &n->d->queues[2 * i];
		n->pair[i].tx = &n->d->queues[2 * i + 1];
	}
}

int vnet_start(struct vnet *n, uint64_t features)
{
	vnet_settle(n, features);
	const struct tap *t = &n->pair[0].tap;
	int rc = pair_attach(&n->pair[0], true); // a detached queue takes no orders
	if (rc == 0)
		rc = tap_set_header(t, (int)n->header_len);
	if (rc == 0)
		rc = tap_set_offload(t, net_offload_tap(n->offloads));
	if (rc < 0)
		log_limited(LOG_WARN, "tap %s: what the driver negotiated: %s", t->name, err_text(-rc));
	return rc;
}

void vnet_stop(struct vnet *n)
{
	for (unsigned i = 0; i < n->pairs_max; i++) {
		pair_attach(&n->pair[i], false);
		vnet_pair_watch(&n->pair[i], EPOLLIN | EPOLLOUT, false);
	}
	memcpy(n->config.mac, n->mac, sizeof(n->config.mac));
	const struct vnet_counts *c = &n->counts;
	log_info("received %" PRIu64 ", dropped %" PRIu64 "; sent %" PRIu64 ", dropped %" PRIu64, c->rx,
		 c->rx_dropped, c->tx, c->tx_dropped);
}

// The most that this kernel does with the tap.
static unsigned tap_offloads(const struct tap *t)
{
	static const unsigned sets[] = {
		TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN | TAP_UFO | TAP_USO4 | TAP_USO6,
		TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN | TAP_UFO,
		TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN,
		TAP_CSUM,
	};
	for (unsigned i = 0; i < ARRAY_LEN(sets); i++)
		if (tap_set_offload(t, sets[i]) == 0)
			return tap_set_offload(t, 0) == 0 ? sets[i] : 0;
	return 0;
}

int vnet_init(struct vnet *n, struct vdev *d, const struct vnet_options *o, struct err *e)
{
	void *p = mmap(NULL, n->pairs_max * sizeof(*n->held), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "memory for receive buffers");
	n->d = d;
	n->held = p;
	for (unsigned i = 0; i < n->pairs_max; i++) {
		struct vnet_pair *pair = &n->pair[i];
		pair->n = n;
		pair->held = &n->held[i];
		pair->attached = true; // as it comes
		pair->source = (struct loop_source){ .fd = pair->tap.fd, .ready = tap_ready };
	}
	memcpy(n->mac, o->mac, sizeof(n->mac));
	n->mtu = o->mtu;
	n->commands = (struct net_control){ .owner = n,
					    .pairs_max = n->pairs_max,
					    .mac = set_mac,
					    .pairs = set_pairs,
					    .offloads = set_offloads };
	n->config = (struct virtio_net_config){
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = n->pairs_max,
		.mtu = o->mtu,
	};
	memcpy(n->config.mac, o->mac, sizeof(o->mac));
	const unsigned offloads = tap_offloads(&n->pair[0].tap);
	for (unsigned i = 0; i < n->pairs_max; i++)
		if (pair_attach(&n->pair[i], false) < 0)
			return err_set(e, EIO, "tap %s: its queues cannot be detached", n->pair[i].tap.name);
	d->config = &n->config;
	d->config_len = CONFIG_LEN;
	d->queue_count = (uint16_t)(2 * n->pairs_max + 1);
	d->features = VQ_FEATURES | VQ_FEATURE_IN_ORDER | NET_BIT(VIRTIO_NET_F_MAC) |
		      NET_BIT(VIRTIO_NET_F_STATUS) | NET_BIT(VIRTIO_NET_F_MRG_RXBUF) |
		      NET_BIT(VIRTIO_NET_F_CTRL_VQ) | NET_BIT(VIRTIO_NET_F_CTRL_RX) |
		      NET_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | NET_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
		      NET_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | net_offload_features(offloads) |
		      (n->pairs_max > 1 ? NET_BIT(VIRTIO_NET_F_MQ) : 0) |
		      (o->mtu ? NET_BIT(VIRTIO_NET_F_MTU) : 0);
	return 0;
}

void vnet_destroy(struct vnet *n)
{
	for (unsigned i = 0; i < n->pairs_max; i++) {
		loop_remove(&n->d->loop, &n->pair[i].source);
		fd_close(&n->pair[i].tap.fd);
	}
	if (n->held)
		munmap(n->held, n->pairs_max * sizeof(*n->held));
	n->held = NULL;
}
