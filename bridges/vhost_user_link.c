// SPDX-License-Identifier: BSD-2-Clause
// Death has one path: whoever finds it (an exchange on any thread, the channel, the loop) marks the link or
// shuts the socket; the loop then sees the hang-up, and only it tells the owner.
#include "bridges/vhost_user_link.h"

#include "bridges/vhost_user_wire.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define WATCHED ((uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP | (uint32_t)EPOLLPRI | (uint32_t)EPOLLONESHOT)

// ---- death --------------------------------------------------------------------------------------

__attribute__((format(printf, 2, 0))) static void link_die_v(struct vu_link *l, const char *fmt, va_list ap)
{
	if (l->dead)
		return;
	l->dead = true;
	const char *verdict = atomic_load(&l->verdict);
	if (verdict)
		snprintf(l->why, sizeof(l->why), "%s", verdict);
	else
		vsnprintf(l->why, sizeof(l->why), fmt, ap);
	shutdown(l->sock, SHUT_RDWR);
}

__attribute__((format(printf, 2, 3))) static void link_die(struct vu_link *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	link_die_v(l, fmt, ap);
	va_end(ap);
}

void vu_link_condemn(struct vu_link *l, const char *why)
{
	const char *none = NULL;
	atomic_compare_exchange_strong(&l->verdict, &none, why);
	shutdown(l->sock, SHUT_RDWR);
}

// Between exchanges nothing is due on the socket: whatever is there ends the connection.
static void link_expect_silence(struct vu_link *l)
{
	char byte;
	ssize_t n = recv(l->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n > 0)
		link_die(l, "sent a message that nobody asked for");
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		link_die(l, "closed its connection");
}

static void link_ready(struct loop_source *s, uint32_t events)
{
	struct vu_link *l = CONTAINER_OF(s, struct vu_link, source);
	// An exchange is under way: what arrived is its answer, and it arms the source again after it has let
	// go of the lock, so that nothing is missed.
	if (pthread_mutex_trylock(&l->lock) != 0)
		return;
	if (l->paused) {
		pthread_mutex_unlock(&l->lock);
		return;
	}
	if (!l->dead)
		link_expect_silence(l);
	if (!l->dead && (events & EPOLLPRI))
		link_die(l, "sent out-of-band data");
	bool tell = l->dead && !l->told;
	l->told |= tell;
	if (!l->dead)
		loop_modify(l->loop, s, WATCHED);
	pthread_mutex_unlock(&l->lock);
	if (!tell)
		return;
	loop_remove(l->loop, s);
	l->died(l);
}

void vu_link_init(struct vu_link *l, const char *id, int sock, struct loop *loop,
		  void (*died)(struct vu_link *l))
{
	*l = (struct vu_link){ .id = id, .sock = sock, .loop = loop, .died = died };
	l->source = (struct loop_source){ .fd = sock, .ready = link_ready };
	pthread_mutex_init(&l->lock, NULL);
}

int vu_link_watch(struct vu_link *l)
{
	int rc = loop_add(l->loop, &l->source, WATCHED);
	l->watched = rc == 0;
	return rc;
}

bool vu_link_dead(struct vu_link *l)
{
	pthread_mutex_lock(&l->lock);
	bool dead = l->dead;
	pthread_mutex_unlock(&l->lock);
	return dead;
}

void vu_link_close(struct vu_link *l)
{
	if (l->sock < 0)
		return;
	loop_remove(l->loop, &l->source);
	fd_close(&l->sock);
	pthread_mutex_destroy(&l->lock);
}

// ---- exchanges ----------------------------------------------------------------------------------

// The row of a request that we send ourselves.
static const struct vhost_user_row *row_of(uint32_t request)
{
	const struct vhost_user_row *row = vhost_user_request_row(request);
	assert(row);
	return row;
}

static void exchange_die(struct vu_exchange *x, uint32_t request, int rc)
{
	const char *name = row_of(request)->name;
	x->rc = -EPIPE;
	switch (-rc) {
	case ETIMEDOUT:
		link_die(x->link, "does not answer (%s, deadline missed)", name);
		break;
	case ECONNRESET:
	case EPIPE:
		link_die(x->link, "closed its connection (during %s)", name);
		break;
	case EMSGSIZE:
		link_die(x->link, "sent descriptors where none are due (%s)", name);
		break;
	default:
		link_die(x->link, "%s: %s", name, err_text(-rc));
	}
}

void vu_broken(struct vu_exchange *x, const char *fmt, ...)
{
	if (x->rc == -EPIPE)
		return;
	va_list ap;
	va_start(ap, fmt);
	link_die_v(x->link, fmt, ap);
	va_end(ap);
	x->rc = -EPIPE;
}

void vu_begin(struct vu_exchange *x, struct vu_link *l, deadline_ns deadline)
{
	pthread_mutex_lock(&l->lock);
	assert(!l->paused);
	x->link = l;
	x->deadline = deadline;
	x->rc = 0;
	x->refused = NULL;
	x->unsure = false;
	x->owed_next = x->owed_count = 0;
	if (l->watched && !l->dead)
		loop_modify(l->loop, &l->source, EPOLLONESHOT); // or each answer would wake the loop as well
	if (!l->dead)
		link_expect_silence(l);
	if (l->dead)
		x->rc = -EPIPE;
}

static void exchange_send(struct vu_exchange *x, uint32_t request, uint32_t flags, const void *payload,
			  size_t len, const int *fds, unsigned fd_count)
{
	// After a refusal the rest is not sent, but what is owed is still read.
	if (x->rc < 0)
		return;
	struct vhost_user_header h = { .request = request,
				       .flags = VHOST_USER_VERSION | flags,
				       .size = (uint32_t)len };
	// sendmsg(2) only reads what iov_base points to.
	union {
		const void *in;
		void *out;
	} body = { .in = payload };
	struct iovec iov[2] = { { .iov_base = &h, .iov_len = sizeof(h) },
				{ .iov_base = body.out, .iov_len = len } };
	int rc = msg_send(x->link->sock, iov, 2, fds, fd_count, x->deadline);
	if (rc == -ETIMEDOUT)
		vu_broken(x, "does not read its requests (%s, deadline missed)", row_of(request)->name);
	else if (rc < 0)
		exchange_die(x, request, rc);
}

static void exchange_owe(struct vu_exchange *x, uint32_t request)
{
	assert(x->owed_count < VU_OWED_MAX && request <= UINT8_MAX);
	if (x->rc == 0)
		x->owed[x->owed_count++] = (uint8_t)request;
}

void vu_tell(struct vu_exchange *x, uint32_t request, const void *payload, size_t len, int fd)
{
	exchange_send(x, request, 0, payload, len, &fd, fd >= 0);
}

void vu_order(struct vu_exchange *x, uint32_t request, const void *payload, size_t len, const int *fds,
	      unsigned fd_count)
{
	bool acked = vu_link_has(x->link, VHOST_USER_PF_BIT(REPLY_ACK));
	exchange_send(x, request, acked ? VHOST_USER_NEED_REPLY : 0, payload, len, fds, fd_count);
	if (acked)
		exchange_owe(x, request);
	x->unsure |= !acked;
}

void vu_ask(struct vu_exchange *x, uint32_t request, const void *payload, size_t len)
{
	exchange_send(x, request, 0, payload, len, NULL, 0);
	exchange_owe(x, request);
}

// The next message of the peer, which must be the reply to `request`: its length; x->rc is set on failure.
static size_t exchange_receive(struct vu_exchange *x, uint32_t request, void *buf, size_t cap,
			       struct msg_fds *fds)
{
	const struct vhost_user_row *row = row_of(request);
	struct vhost_user_header h;
	int rc = msg_recv(x->link->sock, &h, sizeof(h), fds, x->deadline);
	if (rc < 0) {
		exchange_die(x, request, rc);
		return 0;
	}
	const char *error = vhost_user_reply_error(&h, request, row);
	if (!error && h.size > cap)
		error = "longer than asked for";
	if (error) {
		vu_broken(x, "broke the protocol (answer to %s: %s)", row->name, error);
		return 0;
	}
	rc = msg_recv(x->link->sock, buf, h.size, fds, x->deadline);
	if (rc < 0) {
		exchange_die(x, request, rc);
		return 0;
	}
	return h.size;
}

static void exchange_receive_ack(struct vu_exchange *x, uint32_t request)
{
	uint64_t code = 0;
	exchange_receive(x, request, &code, sizeof(code), NULL);
	if (x->rc == -EPIPE || code == 0)
		return;
	x->rc = -EIO;
	if (!x->refused)
		x->refused = row_of(request)->name;
}

static size_t exchange_answer(struct vu_exchange *x, uint32_t request, void *buf, size_t cap,
			      struct msg_fds *fds)
{
	while (x->rc != -EPIPE && x->owed_next < x->owed_count) {
		uint32_t next = x->owed[x->owed_next++];
		if (next == request)
			return exchange_receive(x, request, buf, cap, fds);
		exchange_receive_ack(x, next);
	}
	return 0;
}

size_t vu_answer(struct vu_exchange *x, uint32_t request, void *buf, size_t cap)
{
	return exchange_answer(x, request, buf, cap, NULL);
}

size_t vu_answer_fd(struct vu_exchange *x, uint32_t request, void *buf, size_t cap, int *fd)
{
	struct msg_fds fds = { .count = 0 };
	size_t n = exchange_answer(x, request, buf, cap, &fds);
	const unsigned count = fds.count;
	*fd = msg_fds_take_one(&fds);
	if (x->rc == -EPIPE)
		fd_close(fd);
	else if (count > 1)
		vu_broken(x, "sent descriptors where none are due (%s)", row_of(request)->name);
	return x->rc == -EPIPE ? 0 : n;
}

uint64_t vu_answer_u64(struct vu_exchange *x, uint32_t request)
{
	uint64_t value = 0;
	return vu_answer(x, request, &value, sizeof(value)) == sizeof(value) ? value : 0;
}

// Without acknowledgements: a question that is answered only after everything before it was served.
static void exchange_barrier(struct vu_exchange *x)
{
	vu_ask(x, VHOST_USER_GET_FEATURES, NULL, 0);
	uint64_t features = vu_answer_u64(x, VHOST_USER_GET_FEATURES);
	if (x->rc == 0 && features != x->link->features)
		vu_broken(x, "changed the features that it offers");
}

void vu_pause(struct vu_exchange *x)
{
	x->link->paused = true;
	pthread_mutex_unlock(&x->link->lock);
}

void vu_resume(struct vu_exchange *x)
{
	pthread_mutex_lock(&x->link->lock);
	x->link->paused = false;
}

int vu_end(struct vu_exchange *x)
{
	struct vu_link *l = x->link;
	while (x->rc != -EPIPE && x->owed_next < x->owed_count)
		exchange_receive_ack(x, x->owed[x->owed_next++]);
	if (x->rc == 0 && x->unsure)
		exchange_barrier(x);
	pthread_mutex_unlock(&l->lock);
	if (l->watched)
		loop_modify(l->loop, &l->source, WATCHED);
	if (x->refused)
		log_limited(LOG_WARN, "%s: the back-end refuses %s", l->id, x->refused);
	return x->rc;
}
