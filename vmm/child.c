// SPDX-License-Identifier: BSD-2-Clause
//
// A child that spawn.c has started: its log lines, its death, its end.  Runs in the sealed monitor: opens nothing, allocates
// nothing.
#include "vmm/spawn.h"

#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_WAIT_MS 2000	 // after SIGKILL; a process that the kernel holds on to is left behind
#define DRAIN_MAX    (64 * 1024) // bytes of log read after a child's death

// ---- its log lines ---------------------------------------------------------------------------------------------

static void line_end(struct child *c)
{
	if (c->line_len == 0)
		return;
	if (c->hold_last && c->last[0])
		log_line_limited(&c->limit, LOG_WARN, "%s: %s", c->id, c->last);
	memcpy(c->last, c->line, c->line_len);
	c->last[c->line_len] = '\0';
	if (!c->hold_last)
		log_line_limited(&c->limit, LOG_WARN, "%s: %s", c->id, c->last);
	c->line_len = 0;
	c->line_cut = false;
}

// What a terminal might obey never reaches one.
static void line_byte(struct child *c, unsigned char byte)
{
	bool plain = byte >= 0x20 && byte < 0x7f;
	if (byte == '\n') {
		line_end(c);
		c->line_cut = false;
		return;
	}
	if (byte == '\r' || c->line_cut)
		return;
	if (c->line_len + sizeof("\\x00...") > sizeof(c->line)) {
		memcpy(c->line + c->line_len, "...", 3);
		c->line_len += 3;
		c->line_cut = true;
		return;
	}
	if (byte == '\t')
		byte = ' ', plain = true;
	if (plain)
		c->line[c->line_len++] = (char)byte;
	else
		c->line_len += (unsigned)snprintf(c->line + c->line_len, 5, "\\x%02x", byte);
}

// Reads once.  False when there is nothing more for now (-EAGAIN), or ever: then the pipe is closed and log_fd is -1.
static bool log_read_some(struct child *c)
{
	unsigned char buf[1024];
	ssize_t n = read(c->log_fd, buf, sizeof(buf));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	for (ssize_t i = 0; i < n; i++)
		line_byte(c, buf[i]);
	if (n > 0)
		return true;
	line_end(c);
	if (c->loop)
		loop_remove(c->loop, &c->log_source);
	fd_close(&c->log_fd);
	return false;
}

static void log_drain(struct child *c)
{
	for (unsigned read = 0; c->log_fd >= 0 && read < DRAIN_MAX; read += 1024)
		if (!log_read_some(c))
			break;
}

const char *spawn_last_words(struct child *c, int wait_ms)
{
	deadline_ns deadline = deadline_in_ms(wait_ms);
	c->hold_last = true;
	for (;;) {
		log_drain(c);
		int left = deadline_left_ms(deadline);
		struct pollfd p = { .fd = c->log_fd, .events = POLLIN };
		if (c->log_fd < 0 || left == 0 || poll(&p, 1, left) == 0)
			break;
	}
	line_end(c);
	c->hold_last = false;
	return c->last;
}

// ---- its end ---------------------------------------------------------------------------------------------------

static void describe_end(const siginfo_t *si, char *how, size_t room)
{
	if (si->si_code == CLD_EXITED)
		snprintf(how, room, "exit status %d", si->si_status);
	else if (si->si_status == SIGSYS)
		snprintf(
			how, room,
			"killed by seccomp: a system call that its sandbox forbids (the kernel log may name it)");
	else
		snprintf(how, room, "killed by signal %d (%s)", si->si_status,
			 err_signal_text(si->si_status));
}

bool spawn_ended(const struct child *c, int wait_ms, char *how, size_t room)
{
	siginfo_t si = { 0 };
	struct pollfd p = { .fd = c->pidfd, .events = POLLIN };
	if (c->pidfd < 0 || poll(&p, 1, wait_ms) != 1 ||
	    waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0)
		return false;
	describe_end(&si, how, room);
	return true;
}

static void child_unwatch(struct child *c)
{
	if (!c->loop)
		return;
	loop_remove(c->loop, &c->log_source);
	loop_remove(c->loop, &c->exit_source);
	c->loop = NULL;
}

static void on_log(struct loop_source *s, uint32_t events)
{
	struct child *c = CONTAINER_OF(s, struct child, log_source);
	(void)events;
	log_read_some(c);
}

static void on_death(struct loop_source *s, uint32_t events)
{
	struct child *c = CONTAINER_OF(s, struct child, exit_source);
	siginfo_t si = { 0 };
	char how[128];
	(void)events;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		return;
	describe_end(&si, how, sizeof(how));
	c->ended_well = si.si_code == CLD_EXITED && si.si_status == 0;
	log_drain(c);
	line_end(c);
	child_unwatch(c);
	fd_close(&c->pidfd);
	fd_close(&c->log_fd);
	c->exited(c, how); // may free c
}

int spawn_watch(struct child *c, struct loop *l, void (*exited)(struct child *c, const char *how),
		void *owner)
{
	c->loop = l;
	c->exited = exited;
	c->owner = owner;
	c->log_source = (struct loop_source){ .fd = c->log_fd, .ready = on_log };
	c->exit_source = (struct loop_source){ .fd = c->pidfd, .ready = on_death };
	int rc = c->log_fd < 0 ? 0 : loop_add(l, &c->log_source, EPOLLIN);
	if (rc == 0)
		rc = loop_add(l, &c->exit_source, EPOLLIN);
	if (rc < 0)
		child_unwatch(c);
	return rc;
}

static void signal_child(const struct child *c, int signal)
{
	syscall(SYS_pidfd_send_signal, c->pidfd, signal, NULL, 0U);
}

static bool await_death(const struct child *c, int ms)
{
	siginfo_t si = { 0 };
	deadline_ns deadline = deadline_in_ms(ms);
	for (;;) {
		struct pollfd p = { .fd = c->pidfd, .events = POLLIN };
		int left = deadline_left_ms(deadline);
		int n = poll(&p, 1, left);
		if (n == 1)
			return c->sibling || waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG) == 0;
		if (n == 0)
			return false;
	}
}

void spawn_stop(struct child *c, int grace_ms)
{
	child_unwatch(c);
	if (c->pidfd >= 0) {
		signal_child(c, SIGTERM);
		if (!await_death(c, grace_ms)) {
			signal_child(c, SIGKILL);
			if (!await_death(c, KILL_WAIT_MS))
				log_warn("%s: process %d does not die", c->id, (int)c->pid);
		}
		log_drain(c);
		line_end(c);
	}
	if (!c->sibling)
		fd_close(&c->pidfd);
	fd_close(&c->log_fd);
	c->pid = 0;
}
