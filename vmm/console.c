// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/console.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/socket_file.h"
#include "vmm/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CTRL_A	    0x01
#define FLUSH_MS    2	// a prompt without a newline appears after this
#define RETRY_MS    20	// and a reader that was full is asked again after this
#define WRITE_CHUNK 256 // what a terminal that polls as writable takes without waiting
#define FLUSH_AT    1024

// ---- output -----------------------------------------------------------------------------------------------------

static uint32_t ring_used(const struct console *c)
{
	return c->head - c->tail;
}

// Writes while the reader takes it.  Standard output may be shared with others, so it is not made non-blocking.
static void ring_flush(struct console *c)
{
	bool gone = c->out_fd < 0;
	while (ring_used(c) && !gone) {
		struct pollfd p = { .fd = c->out_fd, .events = POLLOUT };
		if (poll(&p, 1, 0) != 1)
			return;
		uint32_t at = c->tail % CONSOLE_RING;
		size_t len = MIN(MIN(ring_used(c), CONSOLE_RING - at), (uint32_t)WRITE_CHUNK);
		ssize_t n = p.revents & POLLOUT ? write(c->out_fd, c->ring + at, len) : -1;
		gone = (p.revents & (POLLERR | POLLHUP | POLLNVAL)) ||
		       (n < 0 && errno != EAGAIN && errno != EINTR);
		if (n <= 0)
			break;
		c->tail += (uint32_t)n;
	}
	if (!gone)
		return;
	// Nobody reads, or the disk is full: kept bytes would only be tried again and again.
	if (c->out_fd >= 0)
		c->dropped += ring_used(c);
	c->tail = c->head;
}

static void timer_arm(struct console *c, long ms)
{
	struct itimerspec t = { .it_value = { .tv_nsec = ms * 1000000 } };
	if (c->timer_armed || c->timer_source.fd < 0)
		return;
	timerfd_settime(c->timer_source.fd, 0, &t, NULL);
	c->timer_armed = true;
}

void console_write(struct console *c, const uint8_t *bytes, size_t len)
{
	if (c->kind == CONSOLE_NONE)
		return;
	pthread_mutex_lock(&c->lock);
	bool newline = false;
	for (size_t i = 0; i < len; i++) {
		if (ring_used(c) == CONSOLE_RING) {
			c->dropped += len - i;
			break;
		}
		c->ring[c->head++ % CONSOLE_RING] = bytes[i];
		newline |= bytes[i] == '\n';
	}
	if ((newline || ring_used(c) >= FLUSH_AT) && !c->blocked) {
		ring_flush(c);
		c->blocked = ring_used(c) > 0;
	}
	if (ring_used(c) || c->dropped)
		timer_arm(c, newline || c->dropped ? RETRY_MS : FLUSH_MS);
	pthread_mutex_unlock(&c->lock);
}

static void timer_ready(struct loop_source *s, uint32_t events)
{
	struct console *c = CONTAINER_OF(s, struct console, timer_source);
	(void)events;
	fd_event_take(s->fd);
	pthread_mutex_lock(&c->lock);
	c->timer_armed = false;
	ring_flush(c);
	c->blocked = ring_used(c) > 0;
	if (c->blocked)
		timer_arm(c, RETRY_MS);
	if (c->listen_fd >= 0 && c->in_fd < 0)
		loop_modify(c->loop, &c->listen_source, EPOLLIN);
	uint64_t dropped = ring_used(c) ? 0 : c->dropped;
	if (dropped)
		c->dropped = 0;
	pthread_mutex_unlock(&c->lock);
	if (dropped)
		log_limited(LOG_WARN, "serial: the reader was too slow or is gone: %llu bytes dropped",
			    (unsigned long long)dropped);
}

// ---- input ------------------------------------------------------------------------------------------------------

// One event at a time: a source that is not armed again is silent, hang-up included, so that a guest that takes no input yet
// finds all of it later.
#define IN_EVENTS (EPOLLIN | EPOLLONESHOT)

static void in_close(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	loop_remove(c->loop, &c->in_source);
	c->muted = false;
	if (c->kind == CONSOLE_UNIX) {
		fd_close(&c->in_fd);
		c->out_fd = -1;
	}
	pthread_mutex_unlock(&c->lock);
	if (c->kind == CONSOLE_UNIX) // the client left: the next one may come
		loop_modify(c->loop, &c->listen_source, EPOLLIN);
}

static void in_mute(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	c->muted = true;
	pthread_mutex_unlock(&c->lock);
	if (c->input(c->owner, NULL, 0) > 0) // the guest read before it could know
		console_unmute(c);
}

// Takes Ctrl-A sequences out; what is left is the guest's.
static size_t escape_filter(struct console *c, const uint8_t *in, size_t len, uint8_t *out)
{
	size_t n = 0;
	for (size_t i = 0; i < len; i++) {
		uint8_t ch = in[i];
		if (!c->raw || (!c->escape && ch != CTRL_A)) {
			out[n++] = ch;
		} else if (!c->escape) {
			c->escape = true;
		} else {
			c->escape = false;
			if (ch == CTRL_A)
				out[n++] = ch;
			else if (ch == 'x')
				c->quit(c->quit_owner);
			else if (ch == 'h')
				log_error(
					"Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this\r");
		}
	}
	return n;
}

static void in_ready(struct loop_source *s, uint32_t events)
{
	struct console *c = CONTAINER_OF(s, struct console, in_source);
	uint8_t raw[64], bytes[64];
	if (!(events & EPOLLIN)) {
		in_close(c);
		return;
	}
	// No more than the guest takes at once is read: the rest waits in the terminal or the socket.
	size_t room = c->input(c->owner, NULL, 0);
	if (room == 0) {
		in_mute(c);
		return;
	}
	ssize_t n = read(c->in_fd, raw, MIN(room, sizeof(raw)));
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		in_close(c);
		return;
	}
	if (n > 0)
		c->input(c->owner, bytes, escape_filter(c, raw, (size_t)n, bytes));
	loop_modify(c->loop, s, IN_EVENTS);
}

void console_unmute(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->muted)
		loop_modify(c->loop, &c->in_source, IN_EVENTS);
	c->muted = false;
	pthread_mutex_unlock(&c->lock);
}

static void listen_ready(struct loop_source *s, uint32_t events)
{
	struct console *c = CONTAINER_OF(s, struct console, listen_source);
	(void)events;
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		// Out of descriptors or memory: a client that waits must not keep the loop busy until there are some.
		loop_modify(c->loop, s, 0);
		pthread_mutex_lock(&c->lock);
		timer_arm(c, RETRY_MS);
		pthread_mutex_unlock(&c->lock);
		return;
	}
	loop_modify(c->loop, s, 0); // one client at a time; others wait in the queue
	pthread_mutex_lock(&c->lock);
	c->in_fd = c->out_fd = fd;
	pthread_mutex_unlock(&c->lock);
	c->in_source = (struct loop_source){ .fd = fd, .ready = in_ready };
	if (loop_add(c->loop, &c->in_source, IN_EVENTS) < 0)
		in_close(c);
}

// ---- opening and closing ----------------------------------------------------------------------------------------

static int open_pty(struct console *c, struct err *e)
{
	char name[64];
	FD_AUTO master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
	    ptsname_r(master, name, sizeof(name)) != 0)
		return err_sys(e, errno, "serial: pty");
	c->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (c->slave_fd < 0)
		return err_sys(e, errno, "serial: open %s", name);
	terminal_make_raw(c->slave_fd, NULL);
	fcntl(master, F_SETFL, O_NONBLOCK);
	// Not an error, but what the user asked for a pty to learn: shown at every level.
	log_error("serial port is %s", name);
	c->in_fd = c->out_fd = fd_steal(&master);
	c->own_fds = true;
	return 0;
}

static int open_unix(struct console *c, const char *path, struct err *e)
{
	if (fd_is_reference(path)) // a listening socket that somebody else made, and removes
		c->listen_fd = fd_open_path(path, O_RDWR, e);
	else
		c->listen_fd = socket_file_listen(path, &c->keeper_fd, e);
	if (c->listen_fd < 0)
		err_prefix(e, "serial");
	return MIN(c->listen_fd, 0);
}

void console_init(struct console *c)
{
	*c = (struct console){ .in_fd = -1, .out_fd = -1, .slave_fd = -1, .listen_fd = -1, .keeper_fd = -1 };
	c->in_source.fd = c->timer_source.fd = c->listen_source.fd = -1;
	pthread_mutex_init(&c->lock, NULL);
}

int console_open(struct console *c, const char *to, struct err *e)
{
	console_init(c);
	int rc = 0;
	if (strcmp(to, "none") == 0)
		return 0;
	c->ring = malloc(CONSOLE_RING);
	if (!c->ring)
		return err_set(e, ENOMEM, "serial: out of memory");
	if (strcmp(to, "stdio") == 0) {
		c->kind = CONSOLE_STDIO;
		c->in_fd = STDIN_FILENO;
		c->out_fd = STDOUT_FILENO;
	} else if (strcmp(to, "pty") == 0) {
		c->kind = CONSOLE_PTY;
		rc = open_pty(c, e);
	} else if (strncmp(to, "file:", 5) == 0) {
		c->kind = CONSOLE_FILE;
		// Non-blocking: a FIFO without a reader is refused and not waited for.
		c->out_fd = fd_open_path(to + 5, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, e);
		c->own_fds = true;
		rc = MIN(c->out_fd, 0);
		if (rc < 0)
			err_prefix(e, "serial");
	} else if (strncmp(to, "unix:", 5) == 0) {
		c->kind = CONSOLE_UNIX;
		rc = open_unix(c, to + 5, e);
	} else {
		rc = err_set(e, EINVAL, "serial: \"%s\" is none of stdio, pty, file:PATH, unix:PATH, none",
			     to);
	}
	if (rc == 0) {
		int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (fd < 0)
			rc = err_sys(e, errno, "serial: timerfd");
		else
			c->timer_source = (struct loop_source){ .fd = fd, .ready = timer_ready };
	}
	if (rc < 0)
		console_close(c);
	return rc;
}

int console_start(struct console *c, struct loop *l, struct err *e)
{
	c->loop = l;
	if (c->kind == CONSOLE_NONE)
		return 0;
	int rc = loop_add(l, &c->timer_source, EPOLLIN);
	if (rc == 0 && c->listen_fd >= 0) {
		c->listen_source = (struct loop_source){ .fd = c->listen_fd, .ready = listen_ready };
		rc = loop_add(l, &c->listen_source, EPOLLIN);
	}
	if (rc == 0 && c->in_fd >= 0) {
		c->in_source = (struct loop_source){ .fd = c->in_fd, .ready = in_ready };
		rc = loop_add(l, &c->in_source, IN_EVENTS);
		if (rc ==
		    -EPERM) // a regular file: epoll has no use for it, and a guest no wish to be typed at by one
			rc = 0;
	}
	if (rc < 0)
		return err_sys(e, -rc, "serial");
	c->raw = c->kind == CONSOLE_STDIO && terminal_take(STDIN_FILENO);
	return 0;
}

void console_close(struct console *c)
{
	if (c->kind != CONSOLE_NONE && c->ring) {
		pthread_mutex_lock(&c->lock);
		ring_flush(c);
		pthread_mutex_unlock(&c->lock);
	}
	if (c->raw)
		terminal_restore();
	if (c->loop) {
		loop_remove(c->loop, &c->in_source);
		loop_remove(c->loop, &c->listen_source);
		loop_remove(c->loop, &c->timer_source);
	}
	fd_close(&c->timer_source.fd);
	if (c->own_fds || c->kind == CONSOLE_UNIX)
		fd_close(c->in_fd >= 0 ? &c->in_fd : &c->out_fd);
	fd_close(&c->slave_fd);
	fd_close(&c->listen_fd);
	socket_file_remove(&c->keeper_fd);
	free(c->ring);
	pthread_mutex_destroy(&c->lock);
	console_init(c);
}
