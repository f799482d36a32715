// SPDX-License-Identifier: BSD-2-Clause
#include "devices/vsock/virtio_vsock.h"

#include "devices/sdk/scatter.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/random.h>

#define BIT(n) (UINT64_C(1) << (n))

enum { RX, TX, EVENT, QUEUES }; // to the driver, from it, events

_Static_assert(sizeof(struct virtio_vsock_hdr) == 44, "virtio 1.2 §5.10.6");

// ---- pieces of memory -------------------------------------------------------------------------------------------

// The vector without its first `skip` bytes and not beyond `len`, in out[]; how many pieces that makes.
static unsigned window(const struct iovec *iov, unsigned count, size_t skip, size_t len, struct iovec *out)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count && len > 0; i++) {
		size_t off = MIN(skip, iov[i].iov_len), take = MIN(iov[i].iov_len - off, len);
		skip -= off;
		len -= take;
		if (take)
			out[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + off, take };
	}
	return n;
}

// ---- to the driver ----------------------------------------------------------------------------------------------

// A buffer for a packet.  False: there is none.
static bool rx_buffer(struct vsock *v, struct vq *q, struct vq_chain *chain)
{
	if (vq_pop(q, chain, v->iov, VSOCK_SEGS) <= 0)
		return false;
	if (!chain->readable && chain->writable_len >= sizeof(struct virtio_vsock_hdr))
		return true;
	vq_fail(q, "buffer for a packet has %llu bytes to read and %llu to write",
		(unsigned long long)chain->readable_len, (unsigned long long)chain->writable_len);
	vq_push(q, chain->head, 0);
	return false;
}

static void rx_push(struct vsock *v, struct vq *q, const struct vq_chain *chain,
		    const struct virtio_vsock_hdr *h)
{
	scatter_write(v->iov, chain->writable, 0, h, sizeof(*h));
	vq_push(q, chain->head, (uint32_t)sizeof(*h) + h->len);
}

static struct virtio_vsock_hdr header(struct vsock_conn *c, uint16_t op, uint32_t len, uint32_t flags)
{
	c->flow.told_cnt = c->flow.fwd_cnt;
	c->tell &= (uint8_t)~TELL_CREDIT; // each packet tells
	return (struct virtio_vsock_hdr){
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = c->v->config.guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = VSOCK_BUF,
		.fwd_cnt = c->flow.fwd_cnt,
	};
}

static uint16_t op_of(unsigned what)
{
	return what == TELL_RST	       ? VIRTIO_VSOCK_OP_RST
	       : what == TELL_REQUEST  ? VIRTIO_VSOCK_OP_REQUEST
	       : what == TELL_RESPONSE ? VIRTIO_VSOCK_OP_RESPONSE
	       : what == TELL_SHUTDOWN ? VIRTIO_VSOCK_OP_SHUTDOWN
	       : what == TELL_CREDIT   ? VIRTIO_VSOCK_OP_CREDIT_UPDATE
				       : VIRTIO_VSOCK_OP_CREDIT_REQUEST;
}

// One packet of a connection, which may be none.  False: there is no buffer.
static bool rx_conn(struct vsock *v, struct vq *q, struct vsock_conn *c)
{
	struct vq_chain chain;
	struct virtio_vsock_hdr h;
	if (!rx_buffer(v, q, &chain))
		return false;
	unsigned n = window(v->iov, chain.writable, sizeof(h), SIZE_MAX, v->part);
	if (c->tell || n == 0) { // a buffer that has no room for data is good for this only
		unsigned what = c->tell ? c->tell & -(unsigned)c->tell : TELL_CREDIT;
		h = header(c, op_of(what), 0, what == TELL_SHUTDOWN ? c->host_shut : 0);
		rx_push(v, q, &chain, &h);
		vsock_conn_told(c, what);
		return true;
	}
	uint32_t len = vsock_conn_read(c, v->part, n);
	if (len == 0) {
		vq_unpop(q, &chain);
		return true;
	}
	h = header(c, VIRTIO_VSOCK_OP_RW, len, 0);
	rx_push(v, q, &chain, &h);
	return true;
}

static bool rx_refusal(struct vsock *v, struct vq *q)
{
	struct vq_chain chain;
	const struct refusal *r = &v->refusal[v->refusal_first % VSOCK_REFUSALS];
	const struct virtio_vsock_hdr h = {
		.src_cid = r->cid,
		.dst_cid = v->config.guest_cid,
		.src_port = r->host_port,
		.dst_port = r->guest_port,
		.type = r->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};
	if (!rx_buffer(v, q, &chain))
		return false;
	rx_push(v, q, &chain, &h);
	v->refusal_first++;
	return true;
}

static void receive(struct vsock *v, struct vq *q)
{
	struct vsock_conn *c;
	bool room = true;
	vq_notify_disable(q);
	for (unsigned budget = VSOCK_TURN; budget > 0 && room; budget--) {
		if (v->refusal_first != v->refusal_next) {
			room = rx_refusal(v, q);
		} else if ((c = vsock_list_first(v, &v->ready))) {
			// To the end of the list, if there is more afterwards: each has its turn.
			room = rx_conn(v, q, c);
			if (room && c->link[LINK_WORK].list == &v->ready) {
				vsock_list_remove(c, LINK_WORK);
				vsock_conn_ready(c);
			}
		} else {
			break;
		}
	}
	vq_publish(q);
	if (v->tx_waits && v->refusal_next - v->refusal_first < VSOCK_REFUSALS) {
		v->tx_waits = false;
		vdev_again(v->d, &v->d->queues[TX]);
	}
	if (room ? v->ready.first || v->refusal_first != v->refusal_next : vq_notify_enable(q))
		vdev_again(v->d, q);
}

// ---- from the driver --------------------------------------------------------------------------------------------

void vsock_refuse(struct vsock *v, uint64_t cid, uint32_t host_port, uint32_t guest_port, uint16_t type)
{
	v->refusal[v->refusal_next++ % VSOCK_REFUSALS] = (struct refusal){
		.cid = cid, .host_port = host_port, .guest_port = guest_port, .type = type
	};
	vdev_again(v->d, &v->d->queues[RX]);
}

static void refuse(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	if (h->op != VIRTIO_VSOCK_OP_RST)
		vsock_refuse(v, h->dst_cid, h->dst_port, h->src_port, h->type);
}

static void request(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	struct vsock_conn *c = v->connector.fd < 0 ? NULL : vsock_conn_new(v, VSOCK_CONNECTING);
	if (!c) {
		if (v->connector.fd >= 0)
			log_limited(LOG_WARN, "guest port %u is refused: %u connections are the most",
				    h->src_port, VSOCK_CONNS_MAX);
		refuse(v, h);
		return;
	}
	vsock_conn_key(c, h->dst_port, h->src_port);
	flow_heard(&c->flow, h->buf_alloc, h->fwd_cnt);
	vsock_list_add(c, &v->ask, LINK_WORK);
	vsock_host_ask(v);
}

static void packet(struct vsock *v, const struct virtio_vsock_hdr *h, uint64_t payload_len, unsigned count)
{
	if (h->src_cid != v->config.guest_cid) {
		log_limited(LOG_DEBUG, "a packet that says it is from CID %llu",
			    (unsigned long long)h->src_cid);
		return; // virtio 1.2 §5.10.6.2: nobody who could be answered
	}
	const bool ours = h->dst_cid == VSOCK_HOST_CID && h->type == VIRTIO_VSOCK_TYPE_STREAM;
	struct vsock_conn *c = ours ? vsock_conn_find(v, h->dst_port, h->src_port) : NULL;
	const bool data = h->op == VIRTIO_VSOCK_OP_RW;
	if (c && (data ? h->len > payload_len : h->len != 0))
		vsock_conn_reset(c);
	else if (c)
		vsock_conn_packet(c, h, v->part,
				  window(v->iov, count, sizeof(*h), data ? h->len : 0, v->part));
	else if (ours && h->op == VIRTIO_VSOCK_OP_REQUEST)
		request(v, h);
	else
		refuse(v, h);
}

static void transmit(struct vsock *v, struct vq *q)
{
	struct vq_chain chain;
	struct virtio_vsock_hdr h;
	bool more = true;
	vq_notify_disable(q);
	for (unsigned budget = VSOCK_TURN; budget > 0 && more; budget--) {
		v->tx_waits = v->refusal_next - v->refusal_first == VSOCK_REFUSALS;
		if (v->tx_waits)
			break;
		more = vq_pop(q, &chain, v->iov, VSOCK_SEGS) > 0;
		if (!more)
			break;
		if (chain.writable || chain.readable_len < sizeof(h)) {
			vq_fail(q, "packet of %llu bytes to read and %llu to write",
				(unsigned long long)chain.readable_len,
				(unsigned long long)chain.writable_len);
		} else {
			scatter_read(v->iov, chain.readable, 0, &h, sizeof(h));
			packet(v, &h, chain.readable_len - sizeof(h), chain.readable);
		}
		vq_push(q, chain.head, 0);
	}
	vq_publish(q);
	if (!v->tx_waits && (more || vq_notify_enable(q)))
		vdev_again(v->d, q);
}

// ---- events -----------------------------------------------------------------------------------------------------

static void tell_events(struct vsock *v, struct vq *q)
{
	const struct virtio_vsock_event event = { .id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET };
	struct vq_chain chain;
	if (!v->tell_reset)
		return;
	vq_notify_disable(q);
	if (vq_pop(q, &chain, v->iov, VSOCK_SEGS) > 0) {
		if (chain.readable || chain.writable_len < sizeof(event))
			vq_fail(q, "buffer for events has %llu bytes to read and %llu to write",
				(unsigned long long)chain.readable_len,
				(unsigned long long)chain.writable_len);
		else
			scatter_write(v->iov, chain.writable, 0, &event, sizeof(event));
		vq_push(q, chain.head, sizeof(event));
		v->tell_reset = false;
		log_info("the driver drops the connections that it had");
	}
	vq_publish(q);
	if (v->tell_reset && vq_notify_enable(q))
		vdev_again(v->d, q);
}

// A driver whose queues have been used was set up with another process of ours; it has connections that we know nothing of
// (virtio 1.2 §5.10.6.7).
static void look_first(struct vsock *v, const struct vq *q)
{
	if (v->seen & 1u << q->index || q->index == EVENT)
		return;
	v->seen |= (uint8_t)(1u << q->index);
	if (!q->resumed)
		return;
	v->tell_reset = true;
	vdev_again(v->d, &v->d->queues[EVENT]);
}

// ---- the device -------------------------------------------------------------------------------------------------

void vsock_kick(struct vsock *v, struct vq *q)
{
	look_first(v, q);
	(q->index == RX ? receive : q->index == TX ? transmit : tell_events)(v, q);
}

void vsock_start(struct vsock *v)
{
	v->running = true;
}

void vsock_stop(struct vsock *v)
{
	for (unsigned i = 1; i <= v->used_once; i++)
		if (v->conn[i].keyed)
			vsock_conn_free(&v->conn[i]);
	v->refusal_first = v->refusal_next = 0;
	v->running = v->tell_reset = v->tx_waits = false;
	v->seen = 0;
}

int vsock_init(struct vsock *v, struct vdev *d, const struct vsock_options *o, struct err *e)
{
	v->d = d;
	v->config.guest_cid = o->cid;
	v->next_port = VSOCK_PORT_FIRST;
	vsock_host_ready(v);
	if (o->cid == 0)
		return err_set(e, EINVAL, "--cid is missing");
	if (!o->path)
		return err_set(e, EINVAL, "--socket is missing");
	if (getrandom(&v->secret, sizeof(v->secret), 0) != sizeof(v->secret))
		return err_sys(e, errno, "getrandom");
	v->secret |= 1;
	d->config = &v->config;
	d->config_len = sizeof(v->config);
	d->queue_count = QUEUES;
	d->queue_size_max = VQ_SIZE_MAX;
	d->features = VQ_FEATURES | VQ_FEATURE_IN_ORDER | BIT(VSOCK_F_STREAM);
	return vsock_host_open(v, o->path, e);
}

void vsock_destroy(struct vsock *v)
{
	for (unsigned i = 1; i <= v->used_once; i++)
		if (v->conn[i].state != VSOCK_FREE)
			vsock_conn_free(&v->conn[i]);
	vsock_host_close(v);
}
