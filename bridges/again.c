// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/again.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"
#include "vmm/spawner.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define THREAD_STACK ((size_t)128 * 1024)
#define BACK_OFF_MAX 60 // times the first

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

static deadline_ns pause_end(struct again *a)
{
	const int64_t unit = a->how.back_off_ms ? a->how.back_off_ms : 1000;
	const unsigned n = a->tries++;
	return deadline_in_ms(n == 0 ? 0 : n > 6 ? BACK_OFF_MAX * unit : unit << (n - 1));
}

// Until `fd` (or -1) is readable or the time is over (0: never).  1, 0 for the time, -ECANCELED.
static int wait_for(const struct again *a, int fd, deadline_ns until)
{
	for (;;) {
		struct pollfd p[] = { { .fd = a->leave, .events = POLLIN },
				      { .fd = a->how.leave, .events = POLLIN },
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

static int from_spawner(const struct again *a, deadline_ns until, int *sock, struct child *child,
			struct err *e)
{
	const struct again_how *how = &a->how;
	struct spawner_answer said;
	int rc = spawner_ask(how->line, how->source == AGAIN_SOCKET ? SPAWNER_CONNECT : SPAWNER_START);
	if (rc < 0)
		return spawner_gone(e);
	rc = wait_for(a, how->line, until);
	if (rc <= 0)
		return rc < 0 ? rc : -ETIMEDOUT;
	rc = spawner_take(how->line, a->id, &said);
	if (rc == -EPIPE)
		return spawner_gone(e);
	if (rc < 0)
		return err_set(e, EAGAIN, "%s", said.why.text);
	if (child)
		*child = said.child;
	*sock = said.sock;
	return 0;
}

// Of the connections in the queue some were given up long ago.
static int from_listener(const struct again *a, deadline_ns until, int *sock, struct err *e)
{
	const int listener = a->how.listener;
	for (;;) {
		char byte;
		int rc = wait_for(a, listener, until);
		if (rc <= 0)
			return rc < 0 ? rc : -ETIMEDOUT;
		FD_AUTO fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		// What waits there still waits when there are no descriptors.
		if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return err_sys(e, errno, "accept its connection");
		if (fd < 0 || recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			continue;
		*sock = fd_steal(&fd);
		return 0;
	}
}

static int attempt(const struct again *a, deadline_ns until, int *sock, struct child *child, struct err *e)
{
	switch (a->how.source) {
	case AGAIN_SOCKET:
	case AGAIN_PROGRAM:
		return from_spawner(a, until, sock, child, e);
	case AGAIN_LISTENER:
		return from_listener(a, until, sock, e);
	case AGAIN_NOWHERE:
	default:
		return -ECANCELED;
	}
}

int again_connect(struct again *a, struct child *child, int *sock, struct err *e)
{
	const deadline_ns until = a->how.limit_ms ? a->since + a->how.limit_ms * NS_PER_MS : 0;
	const deadline_ns pause = pause_end(a);
	int rc = wait_for(a, -1, until && until < pause ? until : pause);
	if (rc == 0 && until && deadline_left_ms(until) == 0)
		rc = -ETIMEDOUT;
	if (rc == 0)
		rc = attempt(a, until, sock, child, e);
	return rc == -ETIMEDOUT ? err_set(e, ETIMEDOUT, "did not come back within %lld s",
					  (long long)(a->how.limit_ms / 1000))
				: rc;
}

bool again_stays_dead(const struct again *a, const struct child *child)
{
	return !a->has_thread ||
	       (a->how.source == AGAIN_PROGRAM && a->how.only_failures && child->ended_well && !a->killed);
}

// ---- the thread -------------------------------------------------------------------------------------------------

static void *again_thread(void *arg)
{
	struct again *a = arg;
	struct err e = { "" };
	if (a->how.seal && a->how.seal(&e) < 0) {
		log_error("%s: %s", a->id, e.text);
		return NULL;
	}
	while (wait_for(a, a->lost, 0) == 1) {
		fd_event_take(a->lost);
		if (!a->serve(a->arg))
			break;
	}
	return NULL;
}

int again_begin(struct again *a, const struct again_how *how, const char *id, bool (*serve)(void *arg),
		void *arg, struct err *e)
{
	pthread_attr_t attr;
	sigset_t all, old;
	a->how = *how;
	a->id = id;
	a->serve = serve;
	a->arg = arg;
	a->back = deadline_now();
	a->leave = fd_eventfd();
	a->lost = fd_eventfd();
	if (a->leave < 0 || a->lost < 0)
		return err_sys(e, EMFILE, "%s: make an eventfd", id);
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	const int error = pthread_create(&a->thread, &attr, again_thread, a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	a->has_thread = error == 0;
	return error ? err_sys(e, error, "%s: thread", id) : 0;
}

void again_end(struct again *a)
{
	if (a->has_thread) {
		fd_event_signal(a->leave);
		pthread_join(a->thread, NULL);
		a->has_thread = false;
	}
	fd_close(&a->leave);
	fd_close(&a->lost);
	fd_close(&a->how.line);
}
