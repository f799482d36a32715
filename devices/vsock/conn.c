// SPDX-License-Identifier: BSD-2-Clause
//
// What becomes of one connection: by packets of the guest, by events of its host end, by time.
#include "devices/vsock/virtio_vsock.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define RCV  VIRTIO_VSOCK_SHUTDOWN_RCV
#define SEND VIRTIO_VSOCK_SHUTDOWN_SEND
#define BOTH (RCV | SEND)

// ---- to be told -------------------------------------------------------------------------------------------------

static bool may_read(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN && c->readable && !(c->guest_shut & RCV) && !(c->host_shut & SEND);
}

void vsock_conn_ready(struct vsock_conn *c)
{
	bool data = may_read(c);
	if (data && flow_credit(&c->flow) == 0) {
		data = false;
		if (!c->asked)
			c->tell |= TELL_ASK_CREDIT;
		c->asked = true;
	}
	if ((!c->tell && !data) || c->link[LINK_WORK].list)
		return;
	vsock_list_add(c, &c->v->ready, LINK_WORK);
	vdev_again(c->v->d, &c->v->d->queues[0]);
}

void vsock_conn_tell(struct vsock_conn *c, unsigned what)
{
	c->tell |= (uint8_t)what;
	vsock_conn_ready(c);
}

static void held_drop(struct vsock_conn *c)
{
	if (c->held)
		munmap(c->held, VSOCK_BUF);
	c->held = NULL;
	c->flow.fwd_cnt = c->flow.rx_cnt;
}

static void host_close(struct vsock_conn *c)
{
	loop_remove(&c->v->d->loop, &c->host);
	fd_close(&c->host.fd);
	held_drop(c);
	c->readable = c->blocked = false;
}

void vsock_conn_reset(struct vsock_conn *c)
{
	if (!c->keyed || (c->state == VSOCK_REQUESTED && c->tell & TELL_REQUEST)) {
		vsock_conn_free(c);
		return;
	}
	host_close(c);
	vsock_conn_rest(c);
	vsock_list_remove(c, LINK_WORK); // it may have been in `ask`
	c->state = VSOCK_DEAD;
	c->tell = 0;
	vsock_conn_tell(c, TELL_RST);
}

// The host gives up directions; with both of them the connection comes to its end.
static void host_shuts(struct vsock_conn *c, unsigned flags)
{
	if ((c->host_shut | flags) == c->host_shut)
		return;
	c->host_shut |= (uint8_t)flags;
	if (c->host_shut == BOTH) {
		host_close(c);
		c->state = VSOCK_CLOSING;
		vsock_conn_hurry(c);
	}
	vsock_conn_tell(c, TELL_SHUTDOWN);
}

void vsock_conn_told(struct vsock_conn *c, unsigned what)
{
	c->tell &= (uint8_t)~what;
	if (what == TELL_RST)
		vsock_conn_free(c);
}

void vsock_conn_late(struct vsock_conn *c)
{
	// A driver that has been asked and says nothing is no ordinary peer.
	log_limited(c->state == VSOCK_REQUESTED ? LOG_WARN : LOG_DEBUG,
		    "host port %u, guest port %u: state %u takes too long", c->host_port, c->guest_port,
		    c->state);
	vsock_conn_reset(c);
}

// ---- from the guest to the host ---------------------------------------------------------------------------------

static void watch_out(struct vsock_conn *c, bool on)
{
	uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET | (on ? (uint32_t)EPOLLOUT : 0);
	if (c->blocked == on)
		return;
	c->blocked = on;
	int rc = loop_modify(&c->v->d->loop, &c->host, events);
	if (rc < 0)
		log_limited(LOG_ERROR, "epoll: %s", err_text(-rc));
}

// The host's end reads no more: what the guest sends from now on is dropped.
static void deaf(struct vsock_conn *c)
{
	if (c->state == VSOCK_DRAINING) {
		vsock_conn_free(c);
		return;
	}
	held_drop(c);
	watch_out(c, false);
	host_shuts(c, RCV);
}

// Bytes that it took, 0 where it takes none now, or -1: never again.
static ssize_t host_write(struct vsock_conn *c, struct iovec *iov, unsigned count)
{
	const struct msghdr m = { .msg_iov = iov, .msg_iovlen = count };
	ssize_t n = sendmsg(c->host.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

// All that the guest sent has gone out; what was to follow it does.
static void drained(struct vsock_conn *c)
{
	held_drop(c);
	if (c->state == VSOCK_DRAINING) {
		vsock_conn_free(c);
		return;
	}
	watch_out(c, false);
	if (c->guest_shut & SEND)
		shutdown(c->host.fd, SHUT_WR);
}

static void flush(struct vsock_conn *c)
{
	uint32_t len = flow_held(&c->flow), at = c->flow.fwd_cnt & (VSOCK_BUF - 1);
	if (!c->held)
		return;
	uint32_t first = MIN(len, VSOCK_BUF - at);
	struct iovec iov[2] = { { c->held + at, first }, { c->held, len - first } };
	ssize_t n = host_write(c, iov, 2);
	if (n < 0) {
		deaf(c);
		return;
	}
	c->flow.fwd_cnt += (uint32_t)n;
	if (n > 0 && c->state == VSOCK_DRAINING)
		vsock_conn_hurry(c);
	if (c->state != VSOCK_DRAINING && flow_stale(&c->flow)) // its ports may be another's by then
		vsock_conn_tell(c, TELL_CREDIT);
	if ((uint32_t)n == len)
		drained(c);
}

// Keeps what is left of the vector after its first `skip` bytes.
static bool hold(struct vsock_conn *c, const struct iovec *iov, unsigned count, size_t skip, uint32_t at)
{
	if (!c->held) {
		void *p = mmap(NULL, VSOCK_BUF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return false;
		c->held = p;
	}
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *from = iov[i].iov_base;
		size_t done = MIN(skip, iov[i].iov_len);
		skip -= done;
		while (done < iov[i].iov_len) {
			uint32_t to = at & (VSOCK_BUF - 1);
			size_t n = MIN(iov[i].iov_len - done, (size_t)(VSOCK_BUF - to));
			memcpy(c->held + to, from + done, n);
			done += n;
			at += (uint32_t)n;
		}
	}
	return true;
}

static void take_data(struct vsock_conn *c, uint32_t len, struct iovec *iov, unsigned count)
{
	struct flow *f = &c->flow;
	if (c->guest_shut & SEND || !flow_receive(f, len)) {
		log_limited(LOG_WARN, "guest port %u sends %u bytes that it may not", c->guest_port, len);
		vsock_conn_reset(c);
		return;
	}
	if (c->host_shut & RCV) {
		f->fwd_cnt = f->rx_cnt;
	} else if (len > 0) {
		ssize_t n = c->held ? 0 : host_write(c, iov, count);
		if (n < 0) {
			deaf(c);
			return;
		}
		f->fwd_cnt += (uint32_t)n;
		if (flow_held(f) > 0 && !hold(c, iov, count, (size_t)n, f->rx_cnt - len + (uint32_t)n)) {
			log_limited(LOG_ERROR, "no memory for what guest port %u sends", c->guest_port);
			vsock_conn_reset(c);
			return;
		}
		watch_out(c, c->held != NULL);
	}
	if (flow_stale(f))
		vsock_conn_tell(c, TELL_CREDIT);
}

// ---- packets of the guest ---------------------------------------------------------------------------------------

static void take_response(struct vsock_conn *c)
{
	char line[16];
	int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
	struct iovec iov = { line, (size_t)len };
	if (c->state != VSOCK_REQUESTED || c->tell & TELL_REQUEST || host_write(c, &iov, 1) != len) {
		vsock_conn_reset(c);
		return;
	}
	c->state = VSOCK_OPEN;
	c->readable = true;
	vsock_conn_rest(c);
}

static void take_shutdown(struct vsock_conn *c, uint32_t flags)
{
	c->guest_shut |= (uint8_t)(flags & BOTH);
	if (c->guest_shut == BOTH && c->held) {
		// The guest may have these ports again, while the host's end has still to read.
		vsock_refuse(c->v, VSOCK_HOST_CID, c->host_port, c->guest_port, VIRTIO_VSOCK_TYPE_STREAM);
		vsock_conn_unkey(c);
		vsock_list_remove(c, LINK_WORK);
		c->tell = 0;
		c->state = VSOCK_DRAINING;
		vsock_conn_hurry(c);
	} else if (c->guest_shut == BOTH) {
		vsock_conn_reset(c);
	} else if (c->host.fd >= 0) {
		if (flags & SEND && !c->held)
			shutdown(c->host.fd, SHUT_WR);
		if (flags & RCV)
			shutdown(c->host.fd, SHUT_RD);
	}
}

static bool established(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN || c->state == VSOCK_CLOSING;
}

void vsock_conn_packet(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct iovec *iov,
		       unsigned count)
{
	const unsigned before = c->generation;
	flow_heard(&c->flow, h->buf_alloc, h->fwd_cnt);
	if (flow_credit(&c->flow) > 0)
		c->asked = false;
	if (h->op == VIRTIO_VSOCK_OP_RST)
		vsock_conn_free(c);
	else if (c->state == VSOCK_DEAD)
		return; // it will hear
	else if (h->op == VIRTIO_VSOCK_OP_RESPONSE)
		take_response(c);
	else if (!established(c) || h->op < VIRTIO_VSOCK_OP_SHUTDOWN ||
		 h->op > VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		vsock_conn_reset(c);
	else if (h->op == VIRTIO_VSOCK_OP_RW)
		take_data(c, h->len, iov, count);
	else if (h->op == VIRTIO_VSOCK_OP_SHUTDOWN)
		take_shutdown(c, h->flags);
	else if (h->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		c->tell |= TELL_CREDIT;
	if (c->state != VSOCK_FREE && c->state != VSOCK_DRAINING && c->generation == before)
		vsock_conn_ready(c);
}

// ---- from the host to the guest ---------------------------------------------------------------------------------

uint32_t vsock_conn_read(struct vsock_conn *c, struct iovec *iov, unsigned count)
{
	struct msghdr m = { .msg_iov = iov };
	size_t most = MIN(flow_credit(&c->flow), VSOCK_PACKET_MAX);
	if (!may_read(c) || most == 0)
		return 0;
	unsigned n_iov = 0;
	for (; n_iov < count && most > 0; n_iov++) {
		iov[n_iov].iov_len = MIN(iov[n_iov].iov_len, most);
		most -= iov[n_iov].iov_len;
	}
	m.msg_iovlen = n_iov;
	ssize_t n = recvmsg(c->host.fd, &m, MSG_DONTWAIT);
	if (n > 0) {
		c->flow.tx_cnt += (uint32_t)n;
		return (uint32_t)n;
	}
	if (n < 0 && errno == EINTR)
		return 0;
	c->readable = false;
	if (n == 0)
		host_shuts(c, c->gone ? BOTH : SEND);
	else if (errno != EAGAIN)
		vsock_conn_reset(c);
	return 0;
}

// ---- events of the host's end -----------------------------------------------------------------------------------

int vsock_conn_watch(struct vsock_conn *c, int fd)
{
	c->host.fd = fd;
	int rc = loop_add(&c->v->d->loop, &c->host, EPOLLIN | EPOLLRDHUP | EPOLLET);
	if (rc < 0)
		c->host.fd = -1;
	return rc;
}

void vsock_conn_connected(struct vsock_conn *c, int fd)
{
	if (vsock_conn_watch(c, fd) < 0) {
		fd_close(&fd);
		vsock_conn_reset(c);
		return;
	}
	c->state = VSOCK_OPEN;
	c->readable = true;
	vsock_conn_rest(c);
	vsock_conn_tell(c, TELL_RESPONSE);
}

void vsock_conn_event(struct loop_source *s, uint32_t events)
{
	struct vsock_conn *c = CONTAINER_OF(s, struct vsock_conn, host);
	const bool gone = events & (EPOLLHUP | EPOLLERR);
	if (c->state == VSOCK_HELLO) {
		vsock_host_hello(c, !gone && !(events & EPOLLRDHUP));
	} else if (c->state == VSOCK_REQUESTED && gone) {
		vsock_conn_reset(c);
	} else if (c->state == VSOCK_DRAINING) {
		flush(c); // where nobody is left, writing tells
	} else if (c->state == VSOCK_OPEN) {
		c->gone |= gone;
		c->readable |= (events & ~(uint32_t)EPOLLOUT) != 0;
		// Without reading, its end would not be seen.
		if (c->gone && (c->guest_shut & RCV || c->host_shut & SEND))
			host_shuts(c, BOTH);
		else if (events & EPOLLOUT)
			flush(c);
		if (c->state == VSOCK_OPEN)
			vsock_conn_ready(c);
	}
}
