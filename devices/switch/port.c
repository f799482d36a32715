// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/scatter.h"
#include "devices/switch/offload.h"
#include "devices/switch/switch.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_LEN offsetof(struct virtio_net_config, speed)
#define PORT_FEATURES                                                                                   \
	(VQ_FEATURES | VQ_FEATURE_IN_ORDER | NET_BIT(VIRTIO_NET_F_MAC) | NET_BIT(VIRTIO_NET_F_STATUS) | \
	 NET_BIT(VIRTIO_NET_F_MRG_RXBUF))

static bool has(const struct port *p, unsigned feature)
{
	return p->features & NET_BIT(feature);
}

// ---- to the driver ----------------------------------------------------------------------------------------------

// Takes buffers for `need` bytes.  Their number, or 0 with none taken.
static unsigned take_buffers(struct port *p, uint64_t need, unsigned *iov_count)
{
	struct vswitch *sw = p->sw;
	struct vq *q = &p->queue[SWITCH_RX];
	unsigned n = 0, most = has(p, VIRTIO_NET_F_MRG_RXBUF) ? SWITCH_MERGE : 1;
	uint64_t room = 0;
	*iov_count = 0;
	while (room < need && n < most && *iov_count + SWITCH_SEGS <= ARRAY_LEN(sw->to_iov)) {
		struct vq_chain *c = &sw->merged[n];
		if (vq_pop(q, c, sw->to_iov + *iov_count, SWITCH_SEGS) <= 0)
			break;
		n++;
		sw->looks++;
		if (c->readable || c->writable_len == 0) {
			vq_fail(q, "receive buffer that is to be read");
			break;
		}
		if (c->writable_len > SWITCH_BUFFER) {
			vq_fail(q, "receive buffer of more than a megabyte");
			break;
		}
		*iov_count += c->writable;
		room += c->writable_len;
	}
	if (room >= need)
		return n;
	while (n > 0)
		vq_unpop(q, &sw->merged[--n]);
	return 0;
}

// A frame of `len` bytes as it is, with header `h`.
static void put(struct port *p, const struct virtio_net_hdr_v1 *h, const struct iovec *iov, unsigned count,
		uint32_t len)
{
	struct vswitch *sw = p->sw;
	struct virtio_net_hdr_v1 header = *h;
	unsigned to_count;
	uint64_t left = (uint64_t)p->header_len + len;
	unsigned n = take_buffers(p, left, &to_count);
	if (n == 0) {
		p->counts.no_buffer++;
		return;
	}
	header.num_buffers = (uint16_t)n;
	scatter_write(sw->to_iov, to_count, 0, &header, p->header_len);
	uint64_t at = p->header_len;
	for (unsigned i = 0, k = 0; i < count; i++) {
		const uint8_t *from = iov[i].iov_base;
		for (size_t rest = iov[i].iov_len; rest > 0;) {
			while (at >= sw->to_iov[k].iov_len)
				at -= sw->to_iov[k++].iov_len;
			size_t part = MIN(rest, sw->to_iov[k].iov_len - (size_t)at);
			memcpy((uint8_t *)sw->to_iov[k].iov_base + at, from, part);
			from += part;
			at += part;
			rest -= part;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t part = MIN(left, sw->merged[i].writable_len);
		vq_push(&p->queue[SWITCH_RX], sw->merged[i].head, (uint32_t)part);
		left -= part;
	}
	p->counts.received++;
}

static bool takes_segments(const struct port *p, uint8_t gso_type)
{
	if (gso_type & VIRTIO_NET_HDR_GSO_ECN && !has(p, VIRTIO_NET_F_GUEST_ECN))
		return false;
	return has(p, (gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4
			      ? VIRTIO_NET_F_GUEST_TSO4
			      : VIRTIO_NET_F_GUEST_TSO6);
}

static void put_segment(void *to, const struct iovec iov[2], uint32_t len)
{
	static const struct virtio_net_hdr_v1 plain;
	put(to, &plain, iov, 2, len);
}

// What the driver did not say that it can take, made into what any can.
static void put_worked_on(struct port *p, struct frame *f)
{
	static const struct virtio_net_hdr_v1 plain;
	struct vswitch *sw = p->sw;
	bool large = f->h.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	if (!f->linear) {
		scatter_read(f->iov, f->count, 0, sw->linear, f->len);
		if (!large)
			offload_checksum(sw->linear, f->len, &f->h);
		f->linear = true;
	}
	p->counts.worked_on++;
	const struct iovec all = { .iov_base = sw->linear, .iov_len = f->len };
	if (!large)
		put(p, &plain, &all, 1, f->len);
	else if (!offload_segment(sw->linear, f->len, &f->h, put_segment, p))
		p->counts.no_buffer++;
}

void port_deliver(struct port *p, struct frame *f)
{
	struct vq *q = &p->queue[SWITCH_RX];
	if (!q->running || !q->enabled || q->failed)
		return; // nobody is there: not a loss
	if (f->h.gso_type != VIRTIO_NET_HDR_GSO_NONE ? !takes_segments(p, f->h.gso_type)
						     : f->h.flags && !has(p, VIRTIO_NET_F_GUEST_CSUM))
		put_worked_on(p, f);
	else
		put(p, &f->h, f->iov, f->count, f->len);
}

// ---- from the driver --------------------------------------------------------------------------------------------

static uint32_t send_one(struct port *p, const struct vq_chain *c)
{
	struct frame f = { .from = p->number };
	struct iovec *iov = p->sw->from_iov;
	unsigned count = c->readable;
	uint64_t len = c->readable_len - p->header_len;
	if (c->readable_len < p->header_len + NET_FRAME_MIN || len > NET_FRAME_MAX) {
		p->counts.wrong++;
		return SWITCH_COPY;
	}
	scatter_read(iov, count, 0, &f.h, p->header_len);
	scatter_drop(&iov, &count, p->header_len);
	if (!net_header_settle(&f.h, p->features, len)) {
		p->counts.wrong++;
		return SWITCH_COPY;
	}
	f.iov = iov;
	f.count = count;
	f.len = (uint32_t)len;
	return forward(p->sw, &f);
}

bool port_transmit(struct port *p)
{
	struct vq *q = &p->queue[SWITCH_TX];
	struct vq_chain c;
	uint32_t work = 0;
	unsigned frames = 0;
	if (!vq_has_more(q))
		return false;
	vq_notify_disable(q);
	for (; frames < SWITCH_BUDGET && work < SWITCH_WORK; frames++) {
		if (vq_pop(q, &c, p->sw->from_iov, SWITCH_SEGS) <= 0)
			break;
		if (c.writable)
			vq_fail(q, "frame to be sent with a writable buffer");
		else
			work += send_one(p, &c);
		vq_push(q, c.head, 0);
	}
	return frames > 0;
}

// ---- the device -------------------------------------------------------------------------------------------------

static int port_start(struct vdev *d, uint64_t features)
{
	struct port *p = CONTAINER_OF(d, struct port, d);
	p->features = features;
	p->header_len = net_header_len(features);
	return 0;
}

static void port_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	// Transmit queues are looked at in rounds, and buffers are not waited for.
	if (q->index == SWITCH_RX)
		vq_notify_disable(q);
}

// Nothing is in flight between two rounds.
static void port_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	(void)q;
}

static void port_stop(struct vdev *d)
{
	CONTAINER_OF(d, struct port, d)->features = 0;
}

static int port_config_write(struct vdev *d, uint32_t off, const void *from, uint32_t len)
{
	(void)d;
	(void)off;
	(void)from;
	(void)len;
	return -EINVAL;
}

// A guest was moved here, and says so before its driver does.
static int port_announce(struct vdev *d, const uint8_t mac[6])
{
	struct port *p = CONTAINER_OF(d, struct port, d);
	uint32_t second = (uint32_t)(deadline_now() / NS_PER_S);
	return mac_table_learn(&p->sw->table, mac_number(mac), p->number, second) ? 0 : -EBUSY;
}

static const struct vdev_ops port_ops = {
	.program = "minivmm-switch",
	.start = port_start,
	.kick = port_kick,
	.drain = port_drain,
	.stop = port_stop,
	.config_write = port_config_write,
	.announce = port_announce,
};

static void port_events(struct loop_source *s, uint32_t events)
{
	(void)events;
	loop_once(&CONTAINER_OF(s, struct port, events)->d.loop, 0);
}

static bool address_is_taken(const struct vswitch *sw, const uint8_t mac[6])
{
	for (unsigned i = 0; i < sw->ports_used; i++)
		if (sw->port[i] && memcmp(sw->port[i]->config.mac, mac, 6) == 0)
			return true;
	return false;
}

// The next that is free: after 65,536 ports their numbers begin again.
static void address_choose(struct vswitch *sw, uint8_t mac[6])
{
	memcpy(mac, sw->mac, sizeof(sw->mac));
	do {
		const unsigned n = sw->made++;
		mac[4] = (uint8_t)(n >> 8);
		mac[5] = (uint8_t)n;
	} while (address_is_taken(sw, mac));
}

static void port_describe(struct port *p)
{
	struct vswitch *sw = p->sw;
	p->config = (struct virtio_net_config){
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = 1,
		.mtu = sw->mtu,
	};
	address_choose(sw, p->config.mac);
	p->d.ops = &port_ops;
	p->d.config = &p->config;
	p->d.config_len = CONFIG_LEN;
	p->d.queues = p->queue;
	p->d.queue_count = SWITCH_QUEUES;
	p->d.queue_size_max = sw->queue_size;
	p->d.features = PORT_FEATURES | net_offload_features(TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN) |
			(sw->mtu ? NET_BIT(VIRTIO_NET_F_MTU) : 0);
	p->d.mem.memory_only = true;
	p->d.mem.most = SWITCH_MEMORY;
	for (unsigned i = 0; i < SWITCH_QUEUES; i++) {
		p->queue[i].index = (uint16_t)i;
		p->queue[i].call_fd = p->queue[i].err_fd = -1;
	}
}

struct port *port_open(struct vswitch *sw, int sock)
{
	unsigned n = 0;
	while (n < sw->ports_max && sw->port[n])
		n++;
	struct port *p = n < sw->ports_max ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		log_limited(LOG_WARN, n < sw->ports_max ? "out of memory for a port"
							: "all ports are taken (see --ports)");
		bin_put(&sock);
		return NULL;
	}
	p->sw = sw;
	p->number = n;
	p->since = deadline_now();
	port_describe(p);
	int rc = loop_init(&p->d.loop);
	p->events = (struct loop_source){ .fd = p->d.loop.epoll_fd, .ready = port_events };
	if (rc == 0)
		rc = loop_add(&sw->d->loop, &p->events, EPOLLIN);
	if (rc < 0) {
		log_limited(LOG_ERROR, "port %u: epoll: %s", n, err_text(-rc));
		bin_put(&sock);
	} else {
		p->session = sw->carrier->open(&p->d, sock);
	}
	if (!p->session) {
		loop_remove(&sw->d->loop, &p->events);
		loop_destroy(&p->d.loop);
		free(p);
		return NULL;
	}
	sw->port[n] = p;
	sw->ports_used = MAX(sw->ports_used, n + 1);
	mac_table_pin(&sw->table, mac_number(p->config.mac), n);
	log_info("port %u: a front-end connected", n);
	return p;
}

void port_close(struct port *p)
{
	struct vswitch *sw = p->sw;
	const struct switch_counts *c = &p->counts;
	sw->carrier->close(p->session);
	mac_table_forget(&sw->table, p->number);
	loop_remove(&sw->d->loop, &p->events);
	loop_destroy(&p->d.loop);
	sw->port[p->number] = NULL;
	while (sw->ports_used > 0 && !sw->port[sw->ports_used - 1])
		sw->ports_used--;
	log_info("port %u: gone; sent %" PRIu64 " (%" PRIu64 " to all, %" PRIu64 " withheld, %" PRIu64
		 " wrong, %" PRIu64 " in another's name), received %" PRIu64 ", lost %" PRIu64
		 ", worked on %" PRIu64,
		 p->number, c->sent, c->flooded, c->withheld, c->wrong, c->not_learned, c->received,
		 c->no_buffer, c->worked_on);
	free(p);
}
