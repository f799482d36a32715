// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/again.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/spawn.h"
#include "vmm/spawner.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define THREAD_STACK ((size_t)128 * 1024)
#define BACK_OFF_MAX 60 // times the first

int again_thread_make(pthread_t *thread, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	const int error = pthread_create(thread, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return error;
}

const char *again_next_step(const struct again_how *how)
{
	switch (how->source) {
	case AGAIN_SOCKET:
		return "waiting until it can be connected to again";
	case AGAIN_LISTENER:
		return "waiting until it connects again";
	case AGAIN_PROGRAM:
		return "starting it again";
	case AGAIN_NOWHERE:
	default:
		return "it stays dead";
	}
}

deadline_ns again_pause(const struct again_how *how, unsigned *tries)
{
	const int64_t unit = how->back_off_ms ? how->back_off_ms : 1000;
	const unsigned n = (*tries)++;
	return deadline_in_ms(n == 0 ? 0 : n > 6 ? BACK_OFF_MAX * unit : unit << (n - 1));
}

int again_wait(const struct again_how *how, int leave, int fd, deadline_ns until)
{
	for (;;) {
		struct pollfd p[] = { { .fd = leave, .events = POLLIN },
				      { .fd = how->leave, .events = POLLIN },
				      { .fd = fd, .events = POLLIN } };
		int left = until ? deadline_left_ms(until) : -1;
		int n = poll(p, ARRAY_LEN(p), left);
		if (n < 0 && errno != EINTR)
			return -ECANCELED;
		if (n > 0 && (p[0].revents || p[1].revents))
			return -ECANCELED;
		if (n > 0)
			return 1;
		if (n == 0 && left == 0)
			return 0;
	}
}

static int spawner_gone(struct err *e)
{
	return err_set(e, EPIPE, "the process that starts devices again is gone");
}

static int from_spawner(const struct again_how *how, int leave, const char *id, deadline_ns until, int *sock,
			struct child *child, struct err *e)
{
	struct spawner_answer a;
	int rc = spawner_ask(how->line, how->source == AGAIN_SOCKET ? SPAWNER_CONNECT : SPAWNER_START);
	if (rc < 0)
		return spawner_gone(e);
	rc = again_wait(how, leave, how->line, until);
	if (rc <= 0)
		return rc < 0 ? rc : -ETIMEDOUT;
	rc = spawner_take(how->line, id, &a);
	if (rc == -EPIPE)
		return spawner_gone(e);
	if (rc < 0)
		return err_set(e, EAGAIN, "%s", a.why.text);
	if (child)
		*child = a.child;
	*sock = a.sock;
	return 0;
}

// Of the connections in the queue some were given up long ago.
static int from_listener(const struct again_how *how, int leave, deadline_ns until, int *sock, struct err *e)
{
	for (;;) {
		char byte;
		int rc = again_wait(how, leave, how->listener, until);
		if (rc <= 0)
			return rc < 0 ? rc : -ETIMEDOUT;
		FD_AUTO fd = accept4(how->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		// What waits there still waits when there are no descriptors.
		if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return err_sys(e, errno, "accept its connection");
		if (fd < 0 || recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			continue;
		*sock = fd_steal(&fd);
		return 0;
	}
}

int again_connect(const struct again_how *how, int leave, const char *id, deadline_ns until, int *sock,
		  struct child *child, struct err *e)
{
	switch (how->source) {
	case AGAIN_SOCKET:
	case AGAIN_PROGRAM:
		return from_spawner(how, leave, id, until, sock, child, e);
	case AGAIN_LISTENER:
		return from_listener(how, leave, until, sock, e);
	case AGAIN_NOWHERE:
	default:
		return -ECANCELED;
	}
}
