// SPDX-License-Identifier: BSD-2-Clause
// The vhost-user carrier: one front-end's connection, its memory table and its vrings.
//
// Called by main.c with a connected socket.  Every message is measured against the table of vhost_user_wire.h before its
// payload is read, and each handler checks what the numbers in it say about each other; a front-end that breaks the protocol loses
// its connection, nothing else.  Never touches a device's insides.  Source: vhost-user.rst.
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/bin.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const struct sandbox_rule rules[] = {
	SANDBOX_RARE(preadv2, "a device's state, out of the front-end's pipe"),
	SANDBOX_RARE(pwritev2, "and into it"),
};

// Of a front-end that means well, none; these are closed where nobody waits, which has its limits.
#define WRONG_FDS_MAX 16

// The header is complete: what follows it?  0, or -EPROTO and why.
static int header_check(const struct server *s, const struct vhost_user_row **row, const char **why)
{
	const struct vhost_user_header *h = &s->rq.h;
	*row = vhost_user_request_row(h->request);
	// GET_QUEUE_NUM is good as soon as the feature was offered.
	*why = vhost_user_request_error(h, *row, s->protocol_features | VHOST_USER_PF_BIT(MQ));
	return *why ? -EPROTO : 0;
}

// Takes what is there of a message.  1: it is complete, 0: the rest is to come, -errno.
static int request_receive(struct server *s, const struct vhost_user_row **row, const char **why)
{
	struct request *rq = &s->rq;
	if (s->got == 0)
		s->due = deadline_in_ms(DEADLINE_CONTROL_MS);
	for (;;) {
		size_t head = sizeof(rq->h), len = head;
		if (s->got >= head) {
			int rc = header_check(s, row, why);
			if (rc < 0)
				return rc;
			len += rq->h.size;
		}
		if (s->got >= head && s->got == len)
			break;
		char *to = s->got < head ? (char *)&rq->h + s->got : (char *)&rq->p + (s->got - head);
		int n = msg_recv_now(s->sock.fd, to, len - s->got, &rq->fds);
		if (n < 0)
			return n == -EAGAIN ? 0 : n;
		s->got += (size_t)n;
	}
	*why = vhost_user_request_fds_error(*row, rq->fds.count);
	if (*why)
		return -EPROTO;
	if (rq->h.request >= VU_HANDLERS || !vu_handlers[rq->h.request]) {
		*why = "belongs to something that was not offered";
		return -EPROTO;
	}
	return 1;
}

// Some hundred of them find room in the socket: a front-end for which one does not has stopped reading.
static int reply_send(struct server *s, struct request *rq)
{
	struct vhost_user_header h = {
		.request = rq->h.request,
		.flags = VHOST_USER_VERSION | VHOST_USER_REPLY,
		.size = rq->reply_len,
	};
	struct iovec iov[] = { { &h, sizeof(h) }, { &rq->p, rq->reply_len } };
	return msg_send(s->sock.fd, iov, rq->reply_len ? 2 : 1, &rq->reply_fd, rq->reply_fd >= 0,
			deadline_now());
}

// Acts on and answers the message that was received.
static int request_do(struct server *s, const struct vhost_user_row *row)
{
	struct request *rq = &s->rq;
	log_debug("%s", row->name);
	rq->reply_len = 0;
	rq->reply_fd = -1;
	int result = vu_handlers[rq->h.request](s, rq);
	s->wrong_fds += msg_fds_close(&rq->fds);
	bool acked = (s->protocol_features & VHOST_USER_PF_BIT(REPLY_ACK)) &&
		     (rq->h.flags & VHOST_USER_NEED_REPLY);
	if (result < 0) {
		log_limited(LOG_WARN, "%s refused: %s", row->name, err_text(-result));
		if (row->reply == VHOST_USER_REPLY_DEFINED || !acked) {
			fd_close(&rq->reply_fd);
			return result;
		}
	}
	if (row->reply == VHOST_USER_REPLY_ACK_ONLY) {
		if (!acked)
			return 0;
		rq->p.u64 = result < 0;
		rq->reply_len = sizeof(rq->p.u64);
	}
	int rc = reply_send(s, rq);
	fd_close(&rq->reply_fd);
	return rc;
}

static void message_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct server *s = CONTAINER_OF(src, struct server, sock);
	const char *why = NULL;
	const struct vhost_user_row *row = NULL;
	int rc = request_receive(s, &row, &why);
	if (rc > 0) {
		s->got = 0;
		rc = request_do(s, row);
	}
	if (rc == 0 && s->wrong_fds > WRONG_FDS_MAX) {
		why = "hands over descriptors that are nothing to it";
		rc = -EPROTO;
	}
	if (rc == 0)
		return;
	if (rc == -ECONNRESET || rc == -EPIPE)
		log_info("the front-end left");
	else if (rc == -ETIMEDOUT)
		log_limited(LOG_WARN, "front-end dropped: it does not read its replies");
	else
		log_limited(LOG_WARN, "front-end dropped: %s", why ? why : err_text(-rc));
	s->closing = true;
}

static struct session *server_open(struct vdev *d, int sock)
{
	struct server *s = calloc(1, sizeof(*s) + d->queue_count * sizeof(s->ring[0]));
	if (!s) {
		log_limited(LOG_ERROR, "out of memory for a front-end");
		bin_put(&sock);
		return NULL;
	}
	s->d = d;
	s->sock = (struct loop_source){ .fd = sock, .ready = message_ready };
	for (unsigned i = 0; i < d->queue_count; i++) {
		s->ring[i] = (struct ring){ .server = s,
					    .vq = &d->queues[i],
					    .kick = { .fd = -1, .ready = vu_ring_kicked } };
		d->queues[i].carrier = &s->ring[i];
		d->queues[i].on_fail = vu_ring_failed;
	}
	vu_dirty_init(s);
	vu_state_init(s);
	vu_channel_init(s);
	int rc = loop_add(&d->loop, &s->sock, EPOLLIN | EPOLLRDHUP);
	if (rc < 0) {
		log_limited(LOG_ERROR, "epoll: %s", err_text(-rc));
		bin_put(&sock);
		free(s);
		return NULL;
	}
	return (struct session *)s;
}

static bool server_alive(struct session *session, int *wake_ms)
{
	struct server *s = (struct server *)session;
	*wake_ms = -1;
	if (s->got > 0 && !s->closing) {
		*wake_ms = deadline_left_ms(s->due);
		if (*wake_ms == 0) {
			log_limited(LOG_WARN, "front-end dropped: it began a message and did not end it");
			s->closing = true;
		}
	}
	return !s->closing;
}

static int server_close(struct session *session)
{
	struct server *s = (struct server *)session;
	struct vdev *d = s->d;
	loop_remove(&d->loop, &s->sock);
	d->config_changed = NULL;
	d->state_changed = NULL; // what the device drops now is its own end, not the driver's word
	vu_channel_close(s);
	vu_stop_all(s);
	vu_dirty_close(s);
	vu_state_close(s);
	if (d->ops->set_mtu)
		d->ops->set_mtu(d, 0);
	guest_mem_clear(&d->mem);
	vu_log_drop(s);
	for (unsigned i = 0; i < d->queue_count; i++) {
		fd_close(&d->queues[i].call_fd);
		fd_close(&d->queues[i].err_fd);
	}
	msg_fds_close(&s->rq.fds);
	bin_put(&s->sock.fd); // with what it says and nobody has read
	free(s);
	return 0;
}

const struct carrier carrier_vhost_user = {
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.prepare = vu_state_prepare,
	.open = server_open,
	.alive = server_alive,
	.close = server_close,
};
