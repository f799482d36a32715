// SPDX-License-Identifier: BSD-2-Clause
#include "devices/console/virtio_console.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>

void vcon_port_again(struct vcon_port *p)
{
	if (!p->rx)
		return;
	vdev_again(p->c->d, p->rx);
	vdev_again(p->c->d, p->tx);
}

// ---- from the guest ---------------------------------------------------------------------------------------------

// The part of a list that begins at `off` and has `len` bytes, which the list does have.
static struct iovec *window(struct iovec *iov, uint64_t off, uint64_t len, unsigned *count)
{
	while (off >= iov->iov_len)
		off -= iov++->iov_len;
	iov->iov_base = (uint8_t *)iov->iov_base + off;
	iov->iov_len -= (size_t)off;
	unsigned n = 0;
	for (; len > 0; n++) {
		iov[n].iov_len = (size_t)MIN((uint64_t)iov[n].iov_len, len);
		len -= iov[n].iov_len;
	}
	*count = n;
	return iov;
}

enum sent { ALL, PART, BLOCKED };

static enum sent refused(struct vcon_port *p, int error, uint64_t len)
{
	if (error == EAGAIN || error == EINTR)
		return p->out_plain ? PART : BLOCKED;
	log_limited(LOG_WARN, "port %s: %s", p->name, err_text(error));
	p->dropped += len;
	if (!p->out_plain) // a full disk may have room again, a reader that left does not come back
		vcon_host_hangup(p);
	return ALL;
}

// Writes of a request what the host's end takes, at most *most bytes.
static enum sent send_some(struct vcon_port *p, const struct vq_chain *c, uint64_t *most)
{
	// The driver may have put another request there since its beginning was written.
	uint64_t left = c->readable_len - MIN(p->tx_done, c->readable_len), len = MIN(left, *most);
	unsigned count;
	if (left == 0)
		return ALL;
	if (!p->connected || p->out.fd < 0) {
		p->dropped += left;
		return ALL;
	}
	struct iovec *iov = window(p->c->iov, p->tx_done, len, &count);
	ssize_t n = writev(p->out.fd, iov, (int)count);
	if (n < 0)
		return refused(p, errno, left);
	*most -= (uint64_t)n;
	p->tx_done += (uint64_t)n;
	p->sent += (uint64_t)n;
	return (uint64_t)n == left ? ALL : (uint64_t)n < len && !p->out_plain ? BLOCKED : PART;
}

static void watch_out(struct vcon_port *p, bool on)
{
	struct loop *l = &p->c->d->loop;
	int rc = 0;
	if (on && !p->out.added)
		rc = loop_add(l, &p->out, EPOLLOUT);
	else if (!on)
		loop_remove(l, &p->out);
	if (rc < 0) {
		log_limited(LOG_ERROR, "port %s: epoll: %s", p->name, err_text(-rc));
		vcon_host_hangup(p);
	}
}

void vcon_port_transmit(struct vcon_port *p)
{
	struct vq *q = p->tx;
	struct vq_chain c;
	uint64_t most = VCON_TURN_BYTES;
	const uint64_t before = p->sent;
	enum sent so_far = ALL;
	bool more = true;
	vq_notify_disable(q);
	for (unsigned budget = VCON_TURN_REQUESTS; budget > 0 && so_far == ALL && most > 0; budget--) {
		more = vq_pop(q, &c, p->c->iov, VCON_SEGS) > 0;
		if (!more)
			break;
		if (c.writable)
			vq_fail(q, "output with a writable buffer");
		else
			so_far = send_some(p, &c, &most);
		if (so_far != ALL) {
			vq_unpop(q, &c);
			break;
		}
		p->tx_done = 0;
		vq_push(q, c.head, 0);
	}
	vq_publish(q);
	if (p->sent != before)
		vcon_host_look(
			p); // a pty does not tell of a new size: it is looked for whenever the terminal is in use
	watch_out(p, so_far == BLOCKED);
	if (so_far != BLOCKED && (more || vq_notify_enable(q)))
		vdev_again(p->c->d, q);
}

void vcon_port_out_ready(struct loop_source *s, uint32_t events)
{
	(void)events; // that it is gone, writing will tell
	struct vcon_port *p = CONTAINER_OF(s, struct vcon_port, out);
	if (p->tx)
		vcon_port_transmit(p);
	else
		watch_out(p, false);
}

// ---- to the guest -----------------------------------------------------------------------------------------------

enum got { SOME, NO_BUFFER, NO_DATA };

static enum got receive_one(struct vcon_port *p)
{
	struct vq_chain c;
	if (vq_pop(p->rx, &c, p->c->iov, VCON_SEGS) <= 0)
		return NO_BUFFER;
	if (c.readable) {
		vq_fail(p->rx, "input buffer that is to be read");
		vq_push(p->rx, c.head, 0);
		return NO_BUFFER;
	}
	ssize_t n = readv(p->in.fd, p->c->iov, (int)c.writable);
	if (n > 0) {
		p->received += (uint64_t)n;
		vq_push(p->rx, c.head, (uint32_t)n);
		return SOME;
	}
	int error = errno;
	vq_unpop(p->rx, &c);
	if (n == 0 || (error != EAGAIN && error != EINTR))
		vcon_host_input_ends(p);
	return NO_DATA;
}

void vcon_port_receive(struct vcon_port *p)
{
	enum got so_far = SOME;
	uint64_t before = p->received;
	if (!p->open || p->in.fd < 0) { // what is sent before the guest opens the port waits
		vcon_host_watch(p, false);
		return;
	}
	vq_notify_disable(p->rx);
	for (unsigned budget = VCON_TURN_REQUESTS; budget > 0 && so_far == SOME; budget--)
		so_far = receive_one(p);
	vq_publish(p->rx);
	if (p->received != before)
		vcon_host_look(p);
	if (so_far == NO_BUFFER ? vq_notify_enable(p->rx) : so_far == SOME && !p->in_live)
		vdev_again(p->c->d, p->rx);
	vcon_host_watch(p, so_far != NO_BUFFER);
}

void vcon_port_in_ready(struct loop_source *s, uint32_t events)
{
	struct vcon_port *p = CONTAINER_OF(s, struct vcon_port, in);
	if (events & EPOLLIN && p->rx)
		vcon_port_receive(p);
	else if (events & (EPOLLHUP | EPOLLERR))
		vcon_host_input_hangup(p);
	else
		vcon_host_watch(p, false);
}
