// SPDX-License-Identifier: BSD-2-Clause
// The vfio-user carrier: one client's connection to a PCI function, which is a virtio device's or a device of its own.
//
// Called by main.c with a connected socket.  Every message is measured against the table of vfio_user_wire.h before its
// payload is read; what the numbers in it say about each other is each handler's to check.  What cannot be a message ends the
// connection, what asks for something impossible is answered so.  The function outlives its client (vfio-user.rst, "Client
// Disconnection").  Source: docs/interop/vfio-user.rst of QEMU.
#include "devices/sdk/vfio_user_impl.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

// A driver's accesses come in bursts, and waking this process costs more than most of them: what follows within a burst's gap is looked for.
#define LOOK_US	  50
#define BURST_GAP NS_PER_MS
#define LOOK_MISSED \
	(5 *        \
	 NS_PER_MS) // who looked and found nothing until then has not seen the end of a burst, but kept others from going on

static struct look look; // as each client's begins

static const struct sandbox_rule rules[] = {
	SANDBOX_RARE(eventfd2, "doorbells, new ones for each vfio-user client"),
	SANDBOX_RARE_IF(socketpair, "the socket for commands of its own", 0, UINT32_MAX, AF_UNIX),
};

// A command that no specification of today has is answered as one that is not offered.
static const struct vfio_user_row *row_of(const struct vfs *s)
{
	static const struct vfio_user_row unknown = { .name = "unknown command",
						      .max = VFIO_USER_DATA_XFER_SIZE_MIN,
						      .fds_max = VFIO_USER_FDS_MAX };
	const struct vfio_user_row *row = vfio_user_row(s->rq.h.command);
	return row ? row : &unknown;
}

// A message has come.
static void look_ends(struct vfs *s)
{
	if (s->look_until)
		look_found(&s->look);
	else if (s->looked && deadline_now() - s->did < LOOK_MISSED)
		look_in_vain(&s->look);
	s->look_until = 0;
	s->looked = false;
}

// It is done with.
static void look_begins(struct vfs *s)
{
	const deadline_ns now = deadline_now();
	s->look_until = now - s->did < BURST_GAP ? look_until(&s->look) : 0;
	s->did = now;
}

// Takes what is there of a message.  1: it is complete, 0: the rest is to come, -errno and perhaps why.
static int request_receive(struct vfs *s, const char **why)
{
	struct vfs_request *rq = &s->rq;
	const size_t head = sizeof(rq->h);
	if (s->got == 0) {
		s->due = deadline_in_ms(DEADLINE_CONTROL_MS);
		look_ends(s);
	}
	for (;;) {
		size_t len = head;
		if (s->got >= head) {
			*why = vfio_user_command_error(&rq->h, row_of(s), false, VFS_XFER_MAX);
			if (*why)
				return -EPROTO;
			len = rq->h.size;
		}
		if (s->got >= head && s->got == len)
			break;
		void *to = s->got < head ? (uint8_t *)&rq->h + s->got : rq->payload + (s->got - head);
		int n = msg_recv_now(s->sock.fd, to, len - s->got, &rq->fds);
		if (n < 0)
			return n == -EAGAIN ? 0 : n;
		s->got += (size_t)n;
	}
	*why = vfio_user_fds_error(row_of(s), false, rq->fds.count);
	if (!*why && !s->versioned && rq->h.command != VFIO_USER_VERSION)
		*why = "a command before VERSION";
	rq->len = s->got - head;
	return *why ? -EPROTO : 1;
}

// Some hundred of them find room in the socket: a client for which one does not has stopped reading.
static int reply_send(struct vfs *s, int result)
{
	struct vfs_request *rq = &s->rq;
	struct vfio_user_header h = {
		.id = rq->h.id,
		.command = rq->h.command,
		.size = sizeof(h),
		.flags = VFIO_USER_REPLY,
	};
	if (result < 0) {
		h.flags |= VFIO_USER_ERROR;
		h.error = (uint32_t)-result;
		rq->reply_len = rq->reply_fd_count = 0;
	}
	h.size += (uint32_t)rq->reply_len;
	struct iovec iov[] = { { &h, sizeof(h) }, { rq->reply, rq->reply_len } };
	return msg_send(s->sock.fd, iov, rq->reply_len ? 2 : 1, rq->reply_fd, rq->reply_fd_count,
			deadline_now());
}

// Acts on and answers the message that was received.
static int request_do(struct vfs *s)
{
	struct vfs_request *rq = &s->rq;
	const char *name = row_of(s)->name;
	vfs_handler *handler = rq->h.command < VFS_HANDLERS ? vfs_handlers[rq->h.command] : NULL;
	const bool quiet = rq->h.flags & VFIO_USER_NO_REPLY;
	rq->reply_len = rq->reply_fd_count = 0;
	int result = handler ? handler(s, rq) : -EOPNOTSUPP;
	msg_fds_close(&rq->fds);
	if (result < 0)
		log_limited(result == -ENOTTY ? LOG_INFO : LOG_WARN, "%s refused: %s", name,
			    err_text(-result));
	int rc = quiet ? 0 : reply_send(s, result);
	fd_close(&s->twin_theirs);
	// With whom we share no version there is nothing more to say.
	return rq->h.command == VFIO_USER_VERSION && result < 0 ? -EPROTO : rc;
}

static void message_ready(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct vfs *s = CONTAINER_OF(src, struct vfs, sock);
	const char *why = NULL;
	int rc = request_receive(s, &why);
	if (rc > 0) {
		s->got = 0;
		rc = request_do(s);
		look_begins(s);
	}
	if (rc == 0)
		return;
	if (rc == -ECONNRESET || rc == -EPIPE)
		log_info("the client left");
	else if (rc == -ETIMEDOUT)
		log_limited(LOG_WARN, "client dropped: it does not read its replies");
	else
		log_limited(LOG_WARN, "client dropped: %s", why ? why : err_text(-rc));
	s->closing = true;
}

// A device that serves many clients at a time has a function for each.
static bool function_is_session_s(const struct vdev *d)
{
	return d->ops->serve != NULL;
}

static int server_prepare(struct vdev *d, struct err *e)
{
	look_init(&look, LOOK_US);
	return d->pci || function_is_session_s(d) ? 0 : virtio_fn_create(&d->pci, d, e);
}

static struct session *server_open(struct vdev *d, int sock)
{
	struct err e = { { 0 } };
	struct vfs *s = calloc(1, sizeof(*s));
	if (!s) {
		log_limited(LOG_ERROR, "out of memory for a client");
		close(sock);
		return NULL;
	}
	int rc = d->pci ? 0 : virtio_fn_create(&d->pci, d, &e);
	if (rc < 0) {
		log_limited(LOG_ERROR, "%s", e.text);
		goto fail;
	}
	s->d = d;
	s->p = d->pci;
	s->look = look;
	s->twin = s->twin_theirs = -1;
	vfs_migration_init(s);
	s->p->far = vfs_dma;
	s->p->client = s;
	s->sock = (struct loop_source){ .fd = sock, .ready = message_ready };
	rc = pdev_attach(s->p);
	if (rc < 0) {
		log_limited(LOG_ERROR, "a client's doorbells: %s", err_text(-rc));
		goto fail_function;
	}
	rc = loop_add(&d->loop, &s->sock, (uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP);
	if (rc < 0) {
		log_limited(LOG_ERROR, "epoll: %s", err_text(-rc));
		goto fail_attached;
	}
	return (struct session *)s;

fail_attached:
	pdev_detach(s->p);
fail_function:
	d->pci->client = NULL;
	if (function_is_session_s(d)) {
		virtio_fn_destroy(d->pci);
		d->pci = NULL;
	}
fail:
	close(sock);
	free(s);
	return NULL;
}

static bool server_alive(struct session *session, int *wake_ms)
{
	struct vfs *s = (struct vfs *)session;
	*wake_ms = -1;
	if (s->got > 0 && !s->closing) {
		*wake_ms = deadline_left_ms(s->due);
		if (*wake_ms == 0) {
			log_limited(LOG_WARN, "client dropped: it began a message and did not end it");
			s->closing = true;
		}
	} else if (s->look_until && deadline_now() < s->look_until) {
		*wake_ms = 0;
	} else if (s->look_until) {
		s->look_until = 0;
		s->looked = true;
	}
	return !s->closing;
}

static int server_close(struct session *session)
{
	struct vfs *s = (struct vfs *)session;
	struct vdev *d = s->d;
	loop_remove(&d->loop, &s->sock);
	if (s->p->ops->drain)
		s->p->ops->drain(s->p);
	s->p->client = NULL;
	vfs_twin_close(s);
	pdev_detach(s->p);
	vfs_migration_close(s);
	guest_mem_clear(&d->mem);
	if (function_is_session_s(d)) {
		virtio_fn_destroy(d->pci);
		d->pci = NULL;
	}
	msg_fds_close(&s->rq.fds);
	close(s->sock.fd);
	free(s);
	return 0;
}

const struct carrier carrier_vfio_user = {
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.prepare = server_prepare,
	.open = server_open,
	.alive = server_alive,
	.close = server_close,
};
