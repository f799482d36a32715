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

const char *vfu_name_of(uint16_t command)
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

void vfu_die_locked(struct vfu_link *l, const char *fmt, ...)
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
void vfu_receive_failed(struct vfu_link *l, int rc)
{
	pthread_mutex_lock(&l->lock);
	const struct vfu_pending *p = most_urgent(l);
	const char *during = p ? vfu_name_of(p->command) : "nothing was asked";
	if (rc == -ETIMEDOUT)
		vfu_die_locked(l,
			       p ? "does not answer (%s, deadline missed)" : "stopped within a message (%s)",
			       during);
	else if ((rc == -ECONNRESET || rc == -EPIPE) && !p)
		vfu_die_locked(l, "closed its connection");
	else if (rc == -ECONNRESET || rc == -EPIPE)
		vfu_die_locked(l, "closed its connection (during %s)", during);
	else if (rc == -EMSGSIZE)
		vfu_die_locked(l, "sent descriptors where none are due (%s)", during);
	else if (rc == -EPROTO)
		vfu_die_locked(l, "sent out-of-band data");
	else
		vfu_die_locked(l, "%s: %s", during, err_text(-rc));
	pthread_mutex_unlock(&l->lock);
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
	while (!l->dead && (somebody_waits(l) || vfu_ahead(l))) {
		const struct vfu_pending *first = somebody_waits(l) ? most_urgent(l) : NULL;
		const deadline_ns deadline = first ? first->deadline : deadline_in_ms(l->control_ms);
		pthread_mutex_unlock(&l->lock);
		vfu_receive(l, deadline, NULL);
		pthread_mutex_lock(&l->lock);
	}
	l->reader = VFU_NOBODY;
	if (l->callers == 0)
		vfu_watch_main(l);
	pthread_cond_broadcast(&l->changed);
}

static void main_ready(struct loop_source *s, uint32_t events)
{
	struct vfu_link *l = CONTAINER_OF(s, struct vfu_link, main_source);
	pthread_mutex_lock(&l->lock);
	l->watched = 0;
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
		vfu_receive(l, deadline_in_ms(l->control_ms), NULL);
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

// With the lock.  On the thread that the sources belong to, when nobody else uses the sockets.
static void renew(struct vfu_link *l)
{
	loop_remove(&l->loop, &l->main_source);
	loop_remove(&l->loop, &l->twin_source);
	fd_close(&l->sock);
	fd_close(&l->twin);
	l->sock = l->main_source.fd = l->fresh;
	l->fresh = -1;
	l->dead = l->handed = false;
	l->why[0] = '\0';
	l->post_count = l->ahead_at = l->ahead_len = 0;
	memset(l->pending, 0, sizeof(l->pending));
	l->watched = VFU_ARMED;
	if (loop_add(&l->loop, &l->main_source, VFU_ARMED) < 0)
		vfu_die_locked(l, "cannot be watched");
	pthread_cond_broadcast(&l->changed);
}

static void woken(struct loop_source *s, uint32_t events)
{
	struct vfu_link *l = CONTAINER_OF(s, struct vfu_link, wake);
	(void)events;
	fd_event_take(s->fd);
	pthread_mutex_lock(&l->lock);
	if (l->fresh >= 0)
		renew(l);
	if (l->twin >= 0 && !l->twin_source.added) {
		l->twin_source.fd = l->twin;
		if (loop_add(&l->loop, &l->twin_source, EPOLLIN) < 0)
			vfu_die_locked(l, "cannot be watched");
	}
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
	vfu_flush_posts(l);
	pthread_mutex_unlock(&l->send_lock);
	pthread_mutex_lock(&l->lock);
	if (l->callers == 0)
		vfu_watch_main(l); // for the replies to those
	pthread_mutex_unlock(&l->lock);
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
			vfu_die_locked(l, "does not answer (%s, deadline missed)", vfu_name_of(p->command));
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
	*l = (struct vfu_link){ .id = id,
				.sock = sock,
				.twin = -1,
				.fresh = -1,
				.control_ms = DEADLINE_CONTROL_MS,
				.budget_ns = VFU_NO_BUDGET,
				.loop.epoll_fd = -1 };
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->send_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->changed, &attr);
	pthread_condattr_destroy(&attr);
	look_init(&l->look, VFU_LOOK_US);
	l->died_fd = fd_eventfd();
	l->wake = (struct loop_source){ .fd = fd_eventfd(), .ready = woken };
	return l->died_fd < 0 ? l->died_fd : l->wake.fd < 0 ? l->wake.fd : 0;
}

void vfu_link_budget(struct vfu_link *l, int64_t ns)
{
	pthread_mutex_lock(&l->lock);
	l->budget_ns = MAX(ns, 0);
	pthread_mutex_unlock(&l->lock);
}

static int watch_all(struct vfu_link *l)
{
	int rc = loop_init(&l->loop);
	if (rc < 0) {
		l->loop.epoll_fd = -1;
		return rc;
	}
	l->main_source = (struct loop_source){ .fd = l->sock, .ready = main_ready };
	l->twin_source = (struct loop_source){ .fd = -1, .ready = twin_ready };
	rc = loop_add(&l->loop, &l->wake, EPOLLIN);
	if (rc == 0)
		rc = loop_add(&l->loop, &l->main_source, VFU_ARMED);
	l->watched = VFU_ARMED;
	fd_event_signal(l->wake.fd); // for the twin socket
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
	vfu_link_budget(l, VFU_NO_BUDGET);
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

int vfu_link_renew(struct vfu_link *l, int sock)
{
	const struct timespec until = vfu_when(deadline_in_ms(l->control_ms));
	int rc = 0;
	pthread_mutex_lock(&l->lock);
	while (!l->leave && rc == 0 && (l->callers || l->senders || l->reader != VFU_NOBODY || l->handed))
		rc = pthread_cond_timedwait(&l->changed, &l->lock, &until);
	if (!l->leave && rc == 0) {
		l->fresh = sock;
		fd_event_signal(l->wake.fd);
		while (!l->leave && rc == 0 && l->fresh >= 0)
			rc = pthread_cond_timedwait(&l->changed, &l->lock, &until);
		sock = l->fresh;
		l->fresh = -1;
	}
	const bool leave = l->leave;
	pthread_mutex_unlock(&l->lock);
	fd_close(&sock);
	return leave ? -EPIPE : rc ? -ETIMEDOUT : 0;
}

void vfu_link_twin(struct vfu_link *l, int twin)
{
	pthread_mutex_lock(&l->lock);
	l->twin = twin;
	pthread_mutex_unlock(&l->lock);
	fd_event_signal(l->wake.fd);
}

void vfu_link_end(struct vfu_link *l)
{
	pthread_mutex_lock(&l->lock);
	l->leave = true;
	vfu_die_locked(l, "was closed");
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

void vfu_link_close(struct vfu_link *l)
{
	if (l->sock < 0)
		return;
	vfu_link_end(l);
	if (l->has_thread) {
		fd_event_signal(l->wake.fd);
		pthread_join(l->thread, NULL);
		l->has_thread = false;
	}
	if (l->loop.epoll_fd >= 0)
		loop_destroy(&l->loop);
	fd_close(&l->sock);
	fd_close(&l->twin);
	fd_close(&l->fresh);
	fd_close(&l->died_fd);
	fd_close(&l->wake.fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->send_lock);
}
