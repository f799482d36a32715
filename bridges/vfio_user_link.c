// SPDX-License-Identifier: BSD-2-Clause
// Death has one path: whoever finds it marks the link, shuts the sockets, wakes those who wait and signals died_fd.
#include "bridges/vfio_user_link.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define THREAD_STACK ((size_t)128 * 1024)
#define ARMED	     ((uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP | (uint32_t)EPOLLPRI | (uint32_t)EPOLLONESHOT)
#define DISARMED     ((uint32_t)EPOLLONESHOT)
#define ERRNO_MAX    4095

static const char *name_of(uint16_t command)
{
	const struct vfio_user_row *row = vfio_user_row(command);
	return row ? row->name : "?";
}

// ---- death --------------------------------------------------------------------------------------

__attribute__((format(printf, 2, 0))) static void die_locked_v(struct vfu_link *l, const char *fmt,
							       va_list ap)
{
	if (l->dead)
		return;
	l->dead = true;
	vsnprintf(l->why, sizeof(l->why), fmt, ap);
	shutdown(l->sock, SHUT_RDWR);
	if (l->twin >= 0)
		shutdown(l->twin, SHUT_RDWR);
	pthread_cond_broadcast(&l->changed);
	fd_event_signal(l->died_fd);
}

__attribute__((format(printf, 2, 3))) static void die_locked(struct vfu_link *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	die_locked_v(l, fmt, ap);
	va_end(ap);
}

void vfu_broken(struct vfu_link *l, const char *fmt, ...)
{
	va_list ap;
	pthread_mutex_lock(&l->lock);
	va_start(ap, fmt);
	die_locked_v(l, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&l->lock);
}

bool vfu_link_dead(struct vfu_link *l)
{
	pthread_mutex_lock(&l->lock);
	bool dead = l->dead;
	pthread_mutex_unlock(&l->lock);
	return dead;
}

// The command that has to be answered first.
static const struct vfu_pending *most_urgent(const struct vfu_link *l)
{
	const struct vfu_pending *first = NULL;
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++) {
		const struct vfu_pending *p = &l->pending[i];
		if (p->used && !p->done && (!first || p->deadline < first->deadline))
			first = p;
	}
	return first;
}

// What msg_recv() says.
static void receive_failed(struct vfu_link *l, int rc)
{
	pthread_mutex_lock(&l->lock);
	const struct vfu_pending *p = most_urgent(l);
	const char *during = p ? name_of(p->command) : "nothing was asked";
	if (rc == -ETIMEDOUT)
		die_locked(l, p ? "does not answer (%s, deadline missed)" : "stopped within a message (%s)",
			   during);
	else if ((rc == -ECONNRESET || rc == -EPIPE) && !p)
		die_locked(l, "closed its connection");
	else if (rc == -ECONNRESET || rc == -EPIPE)
		die_locked(l, "closed its connection (during %s)", during);
	else if (rc == -EMSGSIZE)
		die_locked(l, "sent descriptors where none are due (%s)", during);
	else if (rc == -EPROTO)
		die_locked(l, "sent out-of-band data");
	else
		die_locked(l, "%s: %s", during, err_text(-rc));
	pthread_mutex_unlock(&l->lock);
}

// ---- sending ------------------------------------------------------------------------------------

// sendmsg(2) only reads what iov_base points to.
static struct iovec piece(const void *p, size_t len)
{
	union {
		const void *in;
		void *out;
	} body = { .in = p };
	return (struct iovec){ .iov_base = body.out, .iov_len = len };
}

// With the send lock.
static int send_command(struct vfu_link *l, const struct vfu_call *c, uint16_t id, deadline_ns deadline)
{
	const struct vfio_user_header h = { .id = id,
					    .command = c->command,
					    .size = (uint32_t)(sizeof(h) + c->head_len + c->data_len),
					    .flags = VFIO_USER_COMMAND };
	const struct iovec iov[] = { piece(&h, sizeof(h)), piece(c->head, c->head_len),
				     piece(c->data, c->data_len) };
	int rc = msg_send(l->sock, iov, ARRAY_LEN(iov), c->fds, c->fd_count, deadline);
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not read its commands (%s, deadline missed)", name_of(c->command));
	else if (rc == -EPIPE)
		vfu_broken(l, "closed its connection (during %s)", name_of(c->command));
	else if (rc < 0)
		vfu_broken(l, "%s: %s", name_of(c->command), err_text(-rc));
	return rc < 0 ? -EPIPE : 0;
}

static struct vfu_pending *pending_of(struct vfu_link *l, uint16_t id)
{
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++)
		if (l->pending[i].used && !l->pending[i].done && l->pending[i].id == id)
			return &l->pending[i];
	return NULL;
}

// With the lock.  NULL: all are taken.
static struct vfu_pending *pending_take(struct vfu_link *l, uint16_t command)
{
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++) {
		struct vfu_pending *p = &l->pending[i];
		if (p->used)
			continue;
		while (pending_of(l, l->next_id))
			l->next_id++;
		*p = (struct vfu_pending){ .used = true, .id = l->next_id++, .command = command };
		return p;
	}
	return NULL;
}

// What was posted before goes before.  With the send lock.
static void flush_posts(struct vfu_link *l)
{
	for (;;) {
		struct vfu_post post;
		pthread_mutex_lock(&l->lock);
		struct vfu_pending *p =
			l->post_count && !l->dead ? pending_take(l, l->post[0].command) : NULL;
		if (!p) {
			pthread_mutex_unlock(&l->lock);
			return;
		}
		p->posted = true;
		p->deadline = deadline_in_ms(l->control_ms);
		const uint16_t id = p->id;
		const deadline_ns deadline = p->deadline;
		post = l->post[0];
		memmove(l->post, l->post + 1, sizeof(post) * --l->post_count);
		pthread_mutex_unlock(&l->lock);
		const struct vfu_call c = { .command = post.command,
					    .head = post.payload,
					    .head_len = post.len };
		send_command(l, &c, id, deadline);
	}
}

int vfu_post(struct vfu_link *l, uint16_t command, const void *payload, size_t len)
{
	struct vfu_post post = { .command = command, .len = (uint16_t)len };
	assert(len <= sizeof(post.payload));
	memcpy(post.payload, payload, len);
	pthread_mutex_lock(&l->lock);
	const bool there = l->post_count && memcmp(&l->post[l->post_count - 1], &post, sizeof(post)) == 0;
	if (!there && l->post_count == VFU_POSTS_MAX)
		die_locked(l, "does not read its commands (%s)", name_of(command));
	else if (!there && !l->dead)
		l->post[l->post_count++] = post;
	const bool dead = l->dead, alone = !l->has_thread;
	pthread_mutex_unlock(&l->lock);
	if (!dead && alone) {
		pthread_mutex_lock(&l->send_lock);
		flush_posts(l);
		pthread_mutex_unlock(&l->send_lock);
	} else {
		fd_event_signal(l->wake.fd);
	}
	return dead ? -EPIPE : 0;
}

// ---- receiving ----------------------------------------------------------------------------------

static int error_of(const struct vfio_user_header *h)
{
	if (!(h->flags & VFIO_USER_ERROR))
		return 0;
	// -EPIPE is how a dead one looks.
	return h->error == 0 || h->error > ERRNO_MAX || h->error == EPIPE ? -EIO : -(int)h->error;
}

// What is wrong with a reply's header and descriptors, or NULL.
static const char *reply_wrong(const struct vfu_pending *p, const struct vfio_user_header *h,
			       unsigned fd_count)
{
	const char *wrong = vfio_user_reply_error(h, p->command, VFU_DATA_MAX);
	if (!wrong && h->size - sizeof(*h) > p->cap)
		wrong = "longer than asked for";
	if (!wrong)
		wrong = vfio_user_fds_error(vfio_user_row(p->command), true, fd_count);
	if (!wrong && fd_count && !p->fds)
		wrong = "a descriptor where none is due";
	return wrong;
}

static void reply_store(struct vfu_link *l, struct vfu_pending *p, const struct vfio_user_header *h,
			struct msg_fds *fds)
{
	p->error = error_of(h);
	if (p->posted) {
		if (p->error)
			log_limited(LOG_WARN, "%s: the server refuses %s: %s", l->id, name_of(p->command),
				    err_text(-p->error));
		p->used = false;
		return;
	}
	p->len = h->size - sizeof(*h);
	if (p->len)
		memcpy(p->buf, l->reply, p->len);
	if (p->fds) {
		*p->fds = *fds;
		fds->count = 0;
	}
	p->done = true;
}

static void receive_reply(struct vfu_link *l, const struct vfio_user_header *h, struct msg_fds *fds,
			  deadline_ns deadline)
{
	struct vfu_pending copy = { .used = false };
	pthread_mutex_lock(&l->lock);
	const struct vfu_pending *asked = pending_of(l, h->id);
	if (asked)
		copy = *asked;
	pthread_mutex_unlock(&l->lock);
	if (!asked) {
		vfu_broken(l, "sent a reply that nobody asked for");
		return;
	}
	const char *wrong = reply_wrong(&copy, h, fds->count);
	int rc = wrong ? 0 : msg_recv(l->sock, l->reply, h->size - sizeof(*h), fds, deadline);
	if (rc < 0) {
		receive_failed(l, rc);
		return;
	}
	if (!wrong)
		wrong = reply_wrong(&copy, h, fds->count);
	if (wrong) {
		vfu_broken(l, "broke the protocol (reply to %s: %s)", name_of(copy.command), wrong);
		return;
	}
	pthread_mutex_lock(&l->lock);
	struct vfu_pending *p = pending_of(l, h->id);
	if (p)
		reply_store(l, p, h, fds);
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

// One message of the main socket.  For who has the reader's role.
static void receive(struct vfu_link *l, deadline_ns deadline, bool waiter)
{
	struct vfio_user_header h;
	struct msg_fds fds = { .count = 0 };
	int rc = msg_recv(l->sock, &h, sizeof(h), &fds, deadline);
	if (rc < 0) {
		receive_failed(l, rc);
		return;
	}
	if ((h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_REPLY) {
		receive_reply(l, &h, &fds, deadline);
	} else if (l->twin >= 0) {
		vfu_broken(l, "sent a command on the socket of its replies");
	} else if (fds.count) {
		vfu_broken(l, "sent descriptors with a command");
	} else if (waiter && l->has_thread) {
		pthread_mutex_lock(&l->lock);
		l->command = h;
		l->handed = true;
		l->reader = VFU_THREAD;
		pthread_mutex_unlock(&l->lock);
		fd_event_signal(l->wake.fd);
	} else {
		l->serve(l, l->sock, &h);
	}
	msg_fds_close(&fds);
}

// ---- calls --------------------------------------------------------------------------------------

static struct timespec when(deadline_ns deadline)
{
	return (struct timespec){ .tv_sec = (time_t)(deadline / NS_PER_S),
				  .tv_nsec = (long)(deadline % NS_PER_S) };
}

// With the lock.
static void await(struct vfu_link *l, struct vfu_pending *p)
{
	const struct timespec until = when(p->deadline);
	while (!p->done && !l->dead) {
		if (l->reader == VFU_NOBODY) {
			l->reader = VFU_WAITER;
			pthread_mutex_unlock(&l->lock);
			receive(l, p->deadline, true);
			pthread_mutex_lock(&l->lock);
			if (l->reader == VFU_WAITER)
				l->reader = VFU_NOBODY;
			pthread_cond_broadcast(&l->changed);
		} else if (pthread_cond_timedwait(&l->changed, &l->lock, &until) == ETIMEDOUT && !p->done) {
			die_locked(l, "does not answer (%s, deadline missed)", name_of(p->command));
		}
	}
}

// While somebody waits, what arrives is for them, and does not wake the thread.
static void watch(struct vfu_link *l, uint32_t events)
{
	if (l->has_thread && !l->dead)
		loop_modify(&l->loop, &l->main_source, events);
}

// With the lock: NULL if the link is dead.
static struct vfu_pending *call_begin(struct vfu_link *l, const struct vfu_call *c, deadline_ns deadline)
{
	const struct timespec until = when(deadline);
	struct vfu_pending *p;
	while (!l->dead && !(p = pending_take(l, c->command)))
		if (pthread_cond_timedwait(&l->changed, &l->lock, &until) == ETIMEDOUT)
			die_locked(l, "does not answer (%s, deadline missed)", name_of(c->command));
	if (l->dead)
		return NULL;
	p->deadline = deadline;
	p->buf = c->reply;
	p->cap = c->reply_cap;
	p->fds = c->reply_fds;
	if (l->callers++ == 0)
		watch(l, DISARMED);
	return p;
}

int vfu_call(struct vfu_link *l, const struct vfu_call *c)
{
	const deadline_ns deadline = c->deadline ? c->deadline : deadline_in_ms(l->control_ms);
	if (c->reply_fds)
		c->reply_fds->count = 0;
	pthread_mutex_lock(&l->lock);
	struct vfu_pending *p = call_begin(l, c, deadline);
	pthread_mutex_unlock(&l->lock);
	if (!p)
		return -EPIPE;
	pthread_mutex_lock(&l->send_lock);
	flush_posts(l);
	int rc = send_command(l, c, p->id, deadline);
	pthread_mutex_unlock(&l->send_lock);

	pthread_mutex_lock(&l->lock);
	if (rc == 0)
		await(l, p);
	rc = !p->done ? -EPIPE : p->error ? p->error : (int)p->len;
	p->used = false;
	pthread_cond_broadcast(&l->changed); // for who waits for a free place
	if (--l->callers == 0 && l->reader != VFU_THREAD)
		watch(l, ARMED);
	pthread_mutex_unlock(&l->lock);
	if (rc < 0 && c->reply_fds)
		msg_fds_close(c->reply_fds);
	return rc;
}

// ---- for `serve` --------------------------------------------------------------------------------

bool vfu_serve_recv(struct vfu_link *l, int sock, void *buf, size_t len)
{
	int rc = msg_recv(sock, buf, len, NULL, deadline_in_ms(l->control_ms));
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not finish a command (deadline missed)");
	else if (rc < 0)
		receive_failed(l, rc);
	return rc == 0;
}

bool vfu_serve_reply(struct vfu_link *l, int sock, const struct vfio_user_header *to, int error,
		     const void *head, size_t head_len, const void *data, size_t data_len)
{
	if (to->flags & VFIO_USER_NO_REPLY)
		return true;
	const struct vfio_user_header h = {
		.id = to->id,
		.command = to->command,
		.size = (uint32_t)(sizeof(h) + (error ? 0 : head_len + data_len)),
		.flags = VFIO_USER_REPLY | (error ? VFIO_USER_ERROR : 0),
		.error = (uint32_t)error,
	};
	const struct iovec iov[] = { piece(&h, sizeof(h)), piece(head, head_len), piece(data, data_len) };
	pthread_mutex_lock(&l->send_lock);
	int rc = msg_send(sock, iov, error ? 1 : ARRAY_LEN(iov), NULL, 0, deadline_in_ms(l->control_ms));
	pthread_mutex_unlock(&l->send_lock);
	if (rc == -ETIMEDOUT)
		vfu_broken(l, "does not read the replies to its commands (deadline missed)");
	else if (rc < 0)
		vfu_broken(l, "closed its connection");
	return rc == 0;
}

// ---- the thread ---------------------------------------------------------------------------------

// With the lock.
static bool somebody_waits(const struct vfu_link *l)
{
	for (unsigned i = 0; i < VFU_PENDING_MAX; i++)
		if (l->pending[i].used && !l->pending[i].done && !l->pending[i].posted)
			return true;
	return false;
}

// With the lock, which is let go of meanwhile, and the reader's role, which is given up.
static void read_for_others(struct vfu_link *l)
{
	while (!l->dead && somebody_waits(l)) {
		const struct vfu_pending *first = most_urgent(l);
		const deadline_ns deadline = first ? first->deadline : 0;
		pthread_mutex_unlock(&l->lock);
		receive(l, deadline, false);
		pthread_mutex_lock(&l->lock);
	}
	l->reader = VFU_NOBODY;
	if (l->callers == 0)
		watch(l, ARMED);
	pthread_cond_broadcast(&l->changed);
}

static void main_ready(struct loop_source *s, uint32_t events)
{
	struct vfu_link *l = CONTAINER_OF(s, struct vfu_link, main_source);
	pthread_mutex_lock(&l->lock);
	// Those who wait have read what there was, and the last of them arms the source again.
	if (l->callers || l->dead || l->reader != VFU_NOBODY) {
		pthread_mutex_unlock(&l->lock);
		return;
	}
	l->reader = VFU_THREAD;
	pthread_mutex_unlock(&l->lock);
	if (events & EPOLLPRI)
		vfu_broken(l, "sent out-of-band data");
	else
		receive(l, deadline_in_ms(l->control_ms), false);
	pthread_mutex_lock(&l->lock);
	read_for_others(l);
	pthread_mutex_unlock(&l->lock);
}

static void twin_ready(struct loop_source *s, uint32_t events)
{
	struct vfu_link *l = CONTAINER_OF(s, struct vfu_link, twin_source);
	struct vfio_user_header h;
	(void)events;
	if (vfu_link_dead(l)) {
		loop_remove(&l->loop, s);
		return;
	}
	if (!vfu_serve_recv(l, l->twin, &h, sizeof(h)))
		return;
	if ((h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_COMMAND)
		l->serve(l, l->twin, &h);
	else
		vfu_broken(l, "sent a reply on the socket of its commands");
}

static void woken(struct loop_source *s, uint32_t events)
{
	struct vfu_link *l = CONTAINER_OF(s, struct vfu_link, wake);
	(void)events;
	fd_event_take(s->fd);
	pthread_mutex_lock(&l->lock);
	const bool handed = l->handed;
	const struct vfio_user_header h = l->command;
	l->handed = false;
	if (l->leave)
		loop_stop(&l->loop);
	pthread_mutex_unlock(&l->lock);
	if (handed) {
		l->serve(l, l->sock, &h);
		pthread_mutex_lock(&l->lock);
		read_for_others(l);
		pthread_mutex_unlock(&l->lock);
	}
	pthread_mutex_lock(&l->send_lock);
	flush_posts(l);
	pthread_mutex_unlock(&l->send_lock);
}

// Until when a reply to what was posted is waited for; -1: nothing was.
static int patience_ms(struct vfu_link *l)
{
	int ms = -1;
	pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; i < VFU_PENDING_MAX && !l->dead; i++) {
		const struct vfu_pending *p = &l->pending[i];
		if (!p->used || !p->posted)
			continue;
		const int left = deadline_left_ms(p->deadline);
		if (left == 0)
			die_locked(l, "does not answer (%s, deadline missed)", name_of(p->command));
		ms = ms < 0 ? left : MIN(ms, left);
	}
	pthread_mutex_unlock(&l->lock);
	return ms;
}

static void *link_thread(void *arg)
{
	struct vfu_link *l = arg;
	struct err e = { "" };
	if (l->seal && l->seal(&e) < 0) {
		log_error("%s: %s", l->id, e.text);
		vfu_broken(l, "cannot be served by a thread without its sandbox");
		return NULL;
	}
	while (!l->loop.stopped)
		if (loop_once(&l->loop, patience_ms(l)) < 0)
			break;
	return NULL;
}

int vfu_link_init(struct vfu_link *l, const char *id, int sock)
{
	pthread_condattr_t attr;
	*l = (struct vfu_link){
		.id = id, .sock = sock, .twin = -1, .control_ms = DEADLINE_CONTROL_MS, .loop.epoll_fd = -1
	};
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->send_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->changed, &attr);
	pthread_condattr_destroy(&attr);
	l->died_fd = fd_eventfd();
	l->wake = (struct loop_source){ .fd = fd_eventfd(), .ready = woken };
	return l->died_fd < 0 ? l->died_fd : l->wake.fd < 0 ? l->wake.fd : 0;
}

static int watch_all(struct vfu_link *l)
{
	int rc = loop_init(&l->loop);
	if (rc < 0) {
		l->loop.epoll_fd = -1;
		return rc;
	}
	l->main_source = (struct loop_source){ .fd = l->sock, .ready = main_ready };
	l->twin_source = (struct loop_source){ .fd = l->twin, .ready = twin_ready };
	rc = loop_add(&l->loop, &l->wake, EPOLLIN);
	if (rc == 0)
		rc = loop_add(&l->loop, &l->main_source, ARMED);
	if (rc == 0 && l->twin >= 0)
		rc = loop_add(&l->loop, &l->twin_source, EPOLLIN);
	return rc;
}

int vfu_link_start(struct vfu_link *l, int (*seal)(struct err *e), struct err *e)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int rc = watch_all(l);
	if (rc < 0)
		return err_sys(e, -rc, "%s: watch the connection", l->id);
	l->seal = seal;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	l->has_thread = true; // read by the thread, too
	int error = pthread_create(&l->thread, &attr, link_thread, l);
	if (error)
		l->has_thread = false;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return error ? err_sys(e, error, "%s: make a thread", l->id) : 0;
}

void vfu_link_close(struct vfu_link *l)
{
	if (l->sock < 0)
		return;
	pthread_mutex_lock(&l->lock);
	l->leave = true;
	die_locked(l, "was closed");
	pthread_mutex_unlock(&l->lock);
	if (l->has_thread) {
		fd_event_signal(l->wake.fd);
		pthread_join(l->thread, NULL);
		l->has_thread = false;
	}
	if (l->loop.epoll_fd >= 0)
		loop_destroy(&l->loop);
	fd_close(&l->sock);
	fd_close(&l->twin);
	fd_close(&l->died_fd);
	fd_close(&l->wake.fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->send_lock);
}
