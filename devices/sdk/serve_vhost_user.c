// SPDX-License-Identifier: BSD-2-Clause
// The vhost-user carrier: one front-end's connection, its memory table and its vrings.
//
// Called by main.c with a connected socket.  Every message is measured against the table of vhost_user_wire.h before its
// payload is read, and each handler checks what the numbers in it say about each other; a front-end that breaks the protocol loses
// its connection, nothing else.  Never touches a device's insides.  Source: vhost-user.rst.
#include "devices/sdk/vhost_user_impl.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int request_receive(struct server *s, struct request *rq, const struct vhost_user_row **row,
			   const char **why)
{
	deadline_ns deadline = deadline_in_ms(DEADLINE_CONTROL_MS);
	rq->fds.count = 0;
	rq->reply_len = 0;
	rq->reply_fd = -1;
	int rc = msg_recv(s->sock.fd, &rq->h, sizeof(rq->h), &rq->fds, deadline);
	if (rc < 0)
		return rc;
	*row = vhost_user_request_row(rq->h.request);
	// GET_QUEUE_NUM is good as soon as the feature was offered.
	*why = vhost_user_request_error(&rq->h, *row, s->protocol_features | VHOST_USER_PF_BIT(MQ));
	if (*why)
		return -EPROTO;
	rc = rq->h.size ? msg_recv(s->sock.fd, &rq->p, rq->h.size, &rq->fds, deadline) : 0;
	if (rc < 0)
		return rc;
	*why = vhost_user_request_fds_error(*row, rq->fds.count);
	if (*why)
		return -EPROTO;
	if (rq->h.request >= VU_HANDLERS || !vu_handlers[rq->h.request]) {
		*why = "belongs to something that was not offered";
		return -EPROTO;
	}
	return 0;
}

static int reply_send(struct server *s, struct request *rq)
{
	struct vhost_user_header h = {
		.request = rq->h.request,
		.flags = VHOST_USER_VERSION | VHOST_USER_REPLY,
		.size = rq->reply_len,
	};
	struct iovec iov[] = { { &h, sizeof(h) }, { &rq->p, rq->reply_len } };
	return msg_send(s->sock.fd, iov, rq->reply_len ? 2 : 1, &rq->reply_fd, rq->reply_fd >= 0,
			deadline_in_ms(DEADLINE_CONTROL_MS));
}

// Receives, acts on and answers one message.
static int serve_one(struct server *s, const char **why)
{
	struct request rq;
	const struct vhost_user_row *row = NULL;
	rq.fds.count = 0;
	int rc = request_receive(s, &rq, &row, why);
	if (rc < 0) {
		msg_fds_close(&rq.fds);
		return rc;
	}
	log_debug("%s", row->name);
	int result = vu_handlers[rq.h.request](s, &rq);
	msg_fds_close(&rq.fds);
	bool acked =
		(s->protocol_features & VHOST_USER_PF_BIT(REPLY_ACK)) && (rq.h.flags & VHOST_USER_NEED_REPLY);
	if (result < 0) {
		log_limited(LOG_WARN, "%s refused: %s", row->name, strerror(-result));
		if (row->reply == VHOST_USER_REPLY_DEFINED || !acked) {
			fd_close(&rq.reply_fd);
			return result;
		}
	}
	if (row->reply == VHOST_USER_REPLY_ACK_ONLY) {
		if (!acked)
			return 0;
		rq.p.u64 = result < 0;
		rq.reply_len = sizeof(rq.p.u64);
	}
	rc = reply_send(s, &rq);
	fd_close(&rq.reply_fd);
	return rc;
}

static void message_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct server *s = CONTAINER_OF(src, struct server, sock);
	const char *why = NULL;
	int rc = serve_one(s, &why);
	if (rc == 0)
		return;
	if (rc == -ECONNRESET || rc == -EPIPE)
		log_info("the front-end left");
	else
		log_limited(LOG_WARN, "front-end dropped: %s", why ? why : strerror(-rc));
	s->closing = true;
}

static void serve(struct vdev *d, int sock, const bool *stop)
{
	struct server *s = calloc(1, sizeof(*s) + d->queue_count * sizeof(s->ring[0]));
	if (!s) {
		log_error("out of memory for a front-end");
		close(sock);
		return;
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
	int rc = loop_add(&d->loop, &s->sock, EPOLLIN | EPOLLRDHUP);
	while (rc >= 0 && !s->closing && !*stop)
		rc = vdev_turn(d, -1);
	if (rc < 0)
		log_error("event loop: %s", strerror(-rc));
	loop_remove(&d->loop, &s->sock);
	vu_stop_all(s);
	guest_mem_clear(&d->mem);
	vu_log_drop(s);
	for (unsigned i = 0; i < d->queue_count; i++) {
		fd_close(&d->queues[i].call_fd);
		fd_close(&d->queues[i].err_fd);
	}
	close(sock);
	free(s);
}

const struct carrier carrier_vhost_user = { .option = "vhost-user", .serve = serve };
