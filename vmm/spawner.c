// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/spawner.h"

#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 1000 // an answer is one small message to somebody who waits for it

// What travels back; descriptors beside it: the socket, then of a program its pidfd and its log.
struct answer {
	int error; // positive, or 0
	int pid;
	char text[sizeof(((struct err *)NULL)->text)];
};

// ---- in the spawner ---------------------------------------------------------------------------------------------

struct post {
	const struct spawner_job *job;
	int line;  // -1: its device is gone
	int pidfd; // the program that was started last, or -1
	// While it waits for a socket:
	bool waits;
	int watch; // of the socket's folder, or -1
	int step_ms;
	deadline_ns next;
};

struct posts {
	unsigned count;
	int inotify; // -1: none
	struct post post[SPAWNER_JOBS_MAX];
};

static bool answer_send(struct post *p, const struct answer *a, const int *fds, unsigned fd_count)
{
	struct answer copy = *a;
	struct iovec iov = { .iov_base = &copy, .iov_len = sizeof(copy) };
	return msg_send(p->line, &iov, 1, fds, fd_count, deadline_in_ms(ANSWER_MS)) == 0;
}

static bool answer_error(struct post *p, int error, const char *text, int dead_pidfd)
{
	struct answer a = { .error = error };
	snprintf(a.text, sizeof(a.text), "%s", text);
	return answer_send(p, &a, &dead_pidfd, dead_pidfd >= 0);
}

static bool still_runs(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return pidfd >= 0 && poll(&p, 1, 0) == 0;
}

static bool post_start(struct post *p)
{
	struct err e = { "" };
	struct child c = { .pidfd = -1, .log_fd = -1 };
	int sock = -1;
	if (still_runs(p->pidfd))
		return answer_error(p, EBUSY, "it still runs", -1);
	fd_close(&p->pidfd);
	int rc = p->job->start(p->job->launch, p->line, &sock, &c, &e);
	if (rc < 0) {
		bool sent = answer_error(p, -rc, e.text, c.pidfd);
		fd_close(&c.pidfd);
		return sent;
	}
	const struct answer a = { .pid = (int)c.pid };
	const int fds[] = { sock, c.pidfd, c.log_fd };
	bool sent = answer_send(p, &a, fds, ARRAY_LEN(fds));
	p->pidfd = fd_steal(&c.pidfd);
	fd_close(&sock);
	fd_close(&c.log_fd);
	return sent;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

// Where the folder cannot be watched the retries alone find the socket.
static int folder_watch(int inotify, const char *path)
{
	char folder[PATH_MAX];
	int len = (int)(base_name(path) - path);
	snprintf(folder, sizeof(folder), "%.*s", len ? len : 1, len ? path : ".");
	return inotify < 0 ? -1 : inotify_add_watch(inotify, folder, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
}

static void wait_end(struct posts *all, struct post *p)
{
	p->waits = false;
	// Two sockets of one folder have one watch.
	for (unsigned i = 0; p->watch >= 0 && i < all->count; i++)
		if (&all->post[i] != p && all->post[i].watch == p->watch)
			p->watch = -1;
	if (p->watch >= 0)
		inotify_rm_watch(all->inotify, p->watch);
	p->watch = -1;
}

static int try_connect(const char *path, int *sock)
{
	struct err e;
	const deadline_ns at_once = 0;
	*sock = msg_connect(path, at_once, &e);
	return *sock < 0 ? *sock : 0;
}

// False: the line is broken.
static bool post_connect(struct posts *all, struct post *p)
{
	FD_AUTO sock = -1;
	int rc = try_connect(p->job->path, &sock);
	if (rc == 0) {
		const struct answer a = { .error = 0 };
		wait_end(all, p);
		return answer_send(p, &a, &sock, 1);
	}
	if (rc == -ENAMETOOLONG || rc == -EMFILE || rc == -ENFILE) {
		wait_end(all, p);
		return answer_error(p, -rc, err_text(-rc), -1);
	}
	// Between bind(2) and listen(2) of the one who comes back there is a moment; a file that is left behind stays.
	p->next = deadline_in_ms(rc == -ENOENT ? SPAWNER_RETRY_MS : p->step_ms);
	p->step_ms = MIN(2 * p->step_ms, SPAWNER_RETRY_MS);
	return true;
}

static bool post_wait(struct posts *all, struct post *p)
{
	if (!p->waits) {
		p->waits = true;
		p->watch = folder_watch(all->inotify, p->job->path);
		p->step_ms = 1;
	}
	return post_connect(all, p);
}

static void post_end(struct posts *all, struct post *p)
{
	wait_end(all, p);
	fd_close(&p->line);
	fd_close(&p->pidfd);
}

static bool post_serve(struct posts *all, struct post *p)
{
	uint8_t what = 0;
	ssize_t n = recv(p->line, &what, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n != 1)
		return false;
	if (what == SPAWNER_START && p->job->start)
		return post_start(p);
	if (what == SPAWNER_CONNECT && p->job->path)
		return post_wait(all, p);
	return answer_error(p, EINVAL, "no such request", -1);
}

// A file that is made somewhere else in the folder costs a glance at its name.
static void folders_look(struct posts *all)
{
	union {
		struct inotify_event event;
		char bytes[4096];
	} buf;
	ssize_t n = read(all->inotify, buf.bytes, sizeof(buf.bytes));
	for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
		struct inotify_event ev;
		memcpy(&ev, buf.bytes + at, sizeof(ev));
		const char *name = ev.len ? buf.bytes + at + sizeof(ev) : "";
		for (unsigned i = 0; i < all->count; i++) {
			struct post *p = &all->post[i];
			if (!p->waits || (p->watch != ev.wd && !(ev.mask & IN_Q_OVERFLOW)))
				continue;
			if ((ev.mask & IN_Q_OVERFLOW) || strcmp(base_name(p->job->path), name) == 0) {
				p->step_ms = 1;
				p->next = 0;
			}
		}
		at += (ssize_t)(sizeof(ev) + ev.len);
	}
}

static int posts_timeout(const struct posts *all)
{
	int ms = -1;
	for (unsigned i = 0; i < all->count; i++) {
		int left = all->post[i].waits ? deadline_left_ms(all->post[i].next) : -1;
		if (left >= 0 && (ms < 0 || left < ms))
			ms = left;
	}
	return ms;
}

static void posts_turn(struct posts *all)
{
	struct pollfd p[SPAWNER_JOBS_MAX + 1];
	bool any = false;
	for (unsigned i = 0; i < all->count; i++) {
		p[i] = (struct pollfd){ .fd = all->post[i].line, .events = POLLIN };
		any |= p[i].fd >= 0;
	}
	if (!any)
		_exit(0); // the monitor is gone
	p[all->count] = (struct pollfd){ .fd = all->inotify, .events = POLLIN };
	if (poll(p, all->count + 1, posts_timeout(all)) < 0 && errno != EINTR)
		_exit(1);
	if (p[all->count].revents & POLLIN)
		folders_look(all);
	for (unsigned i = 0; i < all->count; i++) {
		struct post *post = &all->post[i];
		bool good = !p[i].revents || post_serve(all, post);
		if (good && post->waits && deadline_left_ms(post->next) == 0)
			good = post_connect(all, post);
		if (!good)
			post_end(all, post);
	}
}

static int by_number(const void *a, const void *b)
{
	const int x = *(const int *)a, y = *(const int *)b;
	return (x > y) - (x < y);
}

// Closes all but standard error and what the jobs need.
static int fds_close_others(const struct posts *all)
{
	int keep[SPAWNER_JOBS_MAX * (SPAWNER_KEEP_MAX + 2) + 1];
	size_t n = 0;
	for (unsigned i = 0; i < all->count; i++) {
		const struct post *p = &all->post[i];
		memcpy(keep + n, p->job->keep, sizeof(p->job->keep[0]) * p->job->keep_count);
		n += p->job->keep_count;
		keep[n++] = p->line;
		if (p->pidfd >= 0)
			keep[n++] = p->pidfd;
	}
	if (all->inotify >= 0)
		keep[n++] = all->inotify;
	qsort(keep, n, sizeof(keep[0]), by_number);
	unsigned from = STDERR_FILENO + 1;
	for (size_t i = 0; i < n; i++) {
		if ((unsigned)keep[i] > from && syscall(SYS_close_range, from, (unsigned)keep[i] - 1, 0U) < 0)
			return -errno;
		from = MAX(from, (unsigned)keep[i] + 1);
	}
	return syscall(SYS_close_range, from, UINT_MAX, 0U) < 0 ? -errno : 0;
}

_Noreturn static void spawner_run(struct posts *all)
{
	setsid(); // what is sent to the monitor's process group or terminal is not for us
	prctl(PR_SET_NAME, "spawner");
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		_exit(1);
	all->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fds_close_others(all) < 0)
		_exit(1);
	for (;;)
		posts_turn(all);
}

// ---- in the monitor ---------------------------------------------------------------------------------------------

static int lines_make(struct posts *all, int *line, struct err *e)
{
	for (unsigned i = 0; i < all->count; i++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
			return err_sys(e, errno, "make a socket pair");
		line[i] = pair[0];
		all->post[i].line = pair[1];
	}
	return 0;
}

// PR_SET_PDEATHSIG came too late if the monitor had died already.
static void die_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0L, 0L, 0L) < 0 || getppid() != parent)
		_exit(1);
}

int spawner_start(struct spawner *s, const struct spawner_job *jobs, unsigned count, int *line, struct err *e)
{
	struct posts all = { .count = count, .inotify = -1 };
	sigset_t every, before;
	*s = (struct spawner){ .pidfd = -1 };
	if (count > SPAWNER_JOBS_MAX)
		return err_set(e, E2BIG, "more than %d devices to start again", SPAWNER_JOBS_MAX);
	for (unsigned i = 0; i < count; i++) {
		all.post[i] =
			(struct post){ .job = &jobs[i], .line = -1, .pidfd = jobs[i].pidfd, .watch = -1 };
		line[i] = -1;
	}
	int rc = lines_make(&all, line, e);
	if (rc == 0) {
		const pid_t monitor = getpid();
		sigfillset(&every); // for good: only SIGKILL ends it
		sigprocmask(SIG_SETMASK, &every, &before);
		pid_t pid = fork();
		if (pid == 0) {
			die_with(monitor);
			spawner_run(&all);
		}
		int error = errno;
		sigprocmask(SIG_SETMASK, &before, NULL);
		if (pid > 0)
			s->pidfd = (int)syscall(SYS_pidfd_open, pid, 0U);
		if (pid < 0 || s->pidfd < 0)
			rc = err_sys(e, pid < 0 ? error : errno,
				     "make the process that starts devices again");
	}
	for (unsigned i = 0; i < count; i++) {
		fd_close(&all.post[i].line);
		if (rc < 0)
			fd_close(&line[i]);
	}
	return rc;
}

static void reap(int *pidfd)
{
	siginfo_t si = { 0 };
	if (*pidfd >= 0 && waitid(P_PIDFD, (id_t)*pidfd, &si, WEXITED | WNOHANG) < 0)
		log_debug("reap: %s", err_text(errno));
	fd_close(pidfd);
}

static void spawner_ended(struct loop_source *source, uint32_t events)
{
	struct spawner *s = CONTAINER_OF(source, struct spawner, source);
	(void)events;
	loop_remove(s->loop, source);
	reap(&s->pidfd);
	log_warn("the process that starts devices again has ended: a device that dies stays dead");
}

int spawner_watch(struct spawner *s, struct loop *l)
{
	s->loop = l;
	s->source = (struct loop_source){ .fd = s->pidfd, .ready = spawner_ended };
	return s->pidfd < 0 ? 0 : loop_add(l, &s->source, EPOLLIN);
}

void spawner_stop(struct spawner *s)
{
	if (s->pidfd < 0)
		return;
	if (s->loop)
		loop_remove(s->loop, &s->source);
	syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0U);
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	poll(&p, 1, DEADLINE_CONTROL_MS);
	reap(&s->pidfd);
}

int spawner_ask(int line, enum spawner_request what)
{
	uint8_t byte = (uint8_t)what;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	return msg_send(line, &iov, 1, NULL, 0, deadline_in_ms(ANSWER_MS)) < 0 ? -EPIPE : 0;
}

int spawner_take(int line, const char *id, struct spawner_answer *out)
{
	struct answer a;
	struct msg_fds fds = { .count = 0 };
	*out = (struct spawner_answer){ .sock = -1, .child = { .id = id, .pidfd = -1, .log_fd = -1 } };
	if (msg_recv(line, &a, sizeof(a), &fds, deadline_in_ms(ANSWER_MS)) < 0)
		return -EPIPE;
	if (a.error) {
		// One that failed before it executed is ours to reap.
		int dead = msg_fds_take_one(&fds);
		reap(&dead);
		return err_set(&out->why, MIN(MAX(a.error, 1), 4095), "%.*s", (int)sizeof(a.text) - 1,
			       a.text);
	}
	if (fds.count != 1 && fds.count != 3) {
		msg_fds_close(&fds);
		return -EPIPE;
	}
	out->sock = fds.fd[0];
	if (fds.count == 3) {
		out->child.pid = a.pid;
		out->child.pidfd = fds.fd[1];
		out->child.log_fd = fds.fd[2];
	}
	return 0;
}
