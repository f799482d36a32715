// SPDX-License-Identifier: BSD-2-Clause
#include "devices/vsock/virtio_vsock.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"
#include "vmm/base/socket_file.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS 1000 // where the host has no descriptors
#define ACCEPTS		16   // in one turn

// ---- time -------------------------------------------------------------------------------------------------------

static void sooner(deadline_ns *at, deadline_ns other)
{
	if (other && (!*at || other < *at))
		*at = other;
}

void vsock_host_arm(struct vsock *v)
{
	const struct vsock_conn *c = vsock_list_first(v, &v->timed);
	deadline_ns at = c ? c->deadline : 0;
	sooner(&at, v->accept_again);
	if (v->ask.first)
		sooner(&at, v->ask_again);
	const struct itimerspec when = { .it_value = { .tv_sec = at / NS_PER_S, .tv_nsec = at % NS_PER_S } };
	if (timerfd_settime(v->timer.fd, TFD_TIMER_ABSTIME, &when, NULL) < 0)
		log_limited(LOG_ERROR, "timer: %s", err_text(errno));
}

static void accept_start(struct vsock *v)
{
	v->accept_again = 0;
	if (v->accepts || v->listener.fd < 0)
		return;
	int rc = loop_add(&v->d->loop, &v->listener, EPOLLIN);
	v->accepts = rc == 0;
	if (rc < 0)
		log_limited(LOG_ERROR, "epoll: %s", err_text(-rc));
}

static void accept_stop(struct vsock *v)
{
	loop_remove(&v->d->loop, &v->listener);
	v->accepts = false;
}

void vsock_host_accept_again(struct vsock *v)
{
	if (!v->accepts && !v->accept_again)
		accept_start(v);
}

static void timer_ready(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vsock *v = CONTAINER_OF(s, struct vsock, timer);
	const deadline_ns now = deadline_now();
	uint64_t times;
	if (read(s->fd, &times, sizeof(times)) < 0 && errno != EAGAIN)
		log_limited(LOG_WARN, "timer: %s", err_text(errno));
	struct vsock_conn *c;
	while ((c = vsock_list_first(v, &v->timed)) && c->deadline <= now)
		vsock_conn_late(c);
	if (v->accept_again && v->accept_again <= now)
		accept_start(v);
	if (v->ask_again && v->ask_again <= now) {
		v->ask_again = 0;
		vsock_host_ask(v);
	}
	vsock_host_arm(v);
}

// ---- host programs that connect ---------------------------------------------------------------------------------

static void client_comes(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vsock *v = CONTAINER_OF(s, struct vsock, listener);
	for (unsigned i = 0; i < ACCEPTS; i++) {
		if (v->count == VSOCK_CONNS_MAX) {
			log_limited(LOG_WARN, "%u connections are the most; host programs wait",
				    VSOCK_CONNS_MAX);
			accept_stop(v);
			return;
		}
		int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
			return;
		if (fd < 0) {
			log_limited(LOG_WARN, "accept: %s", err_text(errno));
			accept_stop(v);
			v->accept_again = deadline_in_ms(ACCEPT_PAUSE_MS);
			vsock_host_arm(v);
			return;
		}
		struct vsock_conn *c = vsock_conn_new(v, VSOCK_HELLO);
		if (vsock_conn_watch(c, fd) < 0) {
			fd_close(&fd);
			vsock_conn_free(c);
		}
	}
}

// The length of "CONNECT PORT\n" at the start of `text`; 0: not all of it is there; -1: it is something else.
static int hello_parse(const char *text, size_t len, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	const size_t known = MIN(len, sizeof(word) - 1);
	uint64_t n = 0;
	if (memcmp(text, word, known) != 0)
		return -1;
	for (size_t i = sizeof(word) - 1; i < len; i++) {
		if (text[i] == '\n' && i > sizeof(word) - 1) {
			*port = (uint32_t)n;
			return (int)i + 1;
		}
		if (text[i] < '0' || text[i] > '9')
			return -1;
		n = n * 10 + (uint64_t)(text[i] - '0');
		if (n > UINT32_MAX)
			return -1;
	}
	return len < VSOCK_HELLO_MAX ? 0 : -1;
}

static uint32_t port_for(struct vsock *v, uint32_t guest_port)
{
	do {
		if (++v->next_port >= 2 * VSOCK_PORT_FIRST)
			v->next_port = VSOCK_PORT_FIRST;
	} while (vsock_conn_find(v, v->next_port, guest_port)); // of 2^30 at most VSOCK_CONNS_MAX are taken
	return v->next_port;
}

static ssize_t receive(int fd, void *buf, size_t len, int flags)
{
	struct iovec iov = { buf, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	return recvmsg(fd, &m, flags | MSG_DONTWAIT);
}

void vsock_host_hello(struct vsock_conn *c, bool more)
{
	char text[VSOCK_HELLO_MAX];
	uint32_t port = 0;
	// What follows the line is the guest's, and stays where it is.
	ssize_t n = receive(c->host.fd, text, sizeof(text), MSG_PEEK);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	int len = n > 0 ? hello_parse(text, (size_t)n, &port) : -1;
	if (len == 0 && more)
		return;
	if (len <= 0 || !c->v->running || receive(c->host.fd, text, (size_t)len, 0) != len) {
		log_limited(LOG_INFO, "a host program is let go: %s",
			    len <= 0 ? "it did not say CONNECT PORT" : "the guest has no driver");
		vsock_conn_free(c);
		return;
	}
	vsock_conn_key(c, port_for(c->v, port), port);
	c->state = VSOCK_REQUESTED;
	vsock_conn_hurry(c);
	vsock_conn_tell(c, TELL_REQUEST);
}

// ---- the connector ----------------------------------------------------------------------------------------------

static void connector_lost(struct vsock *v, const char *why)
{
	struct vsock_conn *c;
	log_limited(LOG_ERROR, "the process that connects to host programs is lost: %s", why);
	loop_remove(&v->d->loop, &v->connector);
	fd_close(&v->connector.fd);
	for (unsigned i = 1; i <= v->used_once; i++)
		if ((c = &v->conn[i])->state == VSOCK_CONNECTING)
			vsock_conn_reset(c);
}

void vsock_host_ask(struct vsock *v)
{
	struct vsock_conn *c;
	while (!v->ask_again && v->asked < VSOCK_ASKED_MAX && (c = vsock_list_first(v, &v->ask))) {
		struct connector_ask ask = { .id = (uint32_t)(c - v->conn) | (uint32_t)c->generation << 16,
					     .port = c->host_port };
		struct iovec iov = { &ask, sizeof(ask) };
		const struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
		vsock_list_remove(c, LINK_WORK);
		if (sendmsg(v->connector.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(ask))
			v->asked++;
		else
			vsock_conn_reset(c);
	}
}

static void connector_answers(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vsock *v = CONTAINER_OF(s, struct vsock, connector);
	struct connector_answer a;
	struct msg_fds fds = { .count = 0 };
	int n = msg_recv_now(s->fd, &a, sizeof(a), &fds);
	if (n == -EAGAIN)
		return;
	if (n != (int)sizeof(a)) {
		connector_lost(v, n < 0 ? err_text(-n) : "it said half of something");
		msg_fds_close(&fds);
		return;
	}
	FD_AUTO fd = msg_fds_take_one(&fds);
	struct vsock_conn *c = &v->conn[(a.id & UINT16_MAX) % (VSOCK_CONNS_MAX + 1)];
	v->asked--;
	if (c->generation == a.id >> 16 && c->state == VSOCK_CONNECTING) {
		if (a.error == 0 && fd >= 0) {
			vsock_conn_connected(c, fd_steal(&fd));
		} else if (a.error == EAGAIN) { // its queue is full
			vsock_list_add(c, &v->ask, LINK_WORK);
			v->ask_again = deadline_in_ms(VSOCK_RETRY_MS);
			vsock_host_arm(v);
		} else {
			log_limited(LOG_INFO, "no host program at port %u: %s", c->host_port,
				    err_text(a.error));
			vsock_conn_reset(c);
		}
	}
	vsock_host_ask(v);
}

// ---- opening ----------------------------------------------------------------------------------------------------

// Where a socket that was handed over listens, or NULL.
static const char *place_of(int fd, struct sockaddr_un *at)
{
	socklen_t len = sizeof(*at);
	memset(at, 0, sizeof(*at));
	if (getsockname(fd, (struct sockaddr *)at, &len) < 0 || at->sun_family != AF_UNIX)
		return NULL;
	at->sun_path[sizeof(at->sun_path) - 1] = '\0';
	return at->sun_path[0] ? at->sun_path : NULL;
}

int vsock_host_open(struct vsock *v, const char *path, struct err *e)
{
	struct sockaddr_un at;
	int rc = v->listener.fd = socket_file_listen(path, &v->keeper, e);
	if (rc < 0)
		return rc;
	const char *place = fd_is_reference(path) ? place_of(v->listener.fd, &at) : path;
	if (!place)
		return err_set(e, EINVAL, "--socket %s: it has no path, so there is none for PATH_PORT",
			       path);
	v->connector.fd = connector_start(place, e);
	if (v->connector.fd < 0)
		return v->connector.fd;
	v->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	rc = v->timer.fd < 0 ? -errno : loop_add(&v->d->loop, &v->timer, EPOLLIN);
	if (rc == 0)
		rc = loop_add(&v->d->loop, &v->connector, EPOLLIN);
	if (rc < 0)
		return err_sys(e, -rc, "timer");
	accept_start(v);
	return 0;
}

void vsock_host_close(struct vsock *v)
{
	struct loop *l = &v->d->loop;
	accept_stop(v);
	loop_remove(l, &v->connector);
	loop_remove(l, &v->timer);
	fd_close(&v->connector.fd);
	fd_close(&v->listener.fd);
	fd_close(&v->timer.fd);
	socket_file_remove(&v->keeper);
}

void vsock_host_ready(struct vsock *v)
{
	v->listener.ready = client_comes;
	v->connector.ready = connector_answers;
	v->timer.ready = timer_ready;
	v->listener.fd = v->connector.fd = v->timer.fd = v->keeper = -1;
}
