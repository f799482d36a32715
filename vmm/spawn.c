// SPDX-License-Identifier: BSD-2-Clause
//
// The launcher: spawn_start() and what the child runs up to exec; there nothing is allocated and no lock is taken.  The monitor
// calls it while it builds the machine.  What becomes of the child afterwards is child.c.
#include "vmm/spawn.h"

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/sandbox.h"
#include "vmm/jail.h"
#include "vmm/jail_keeper.h"
#include "vmm/jail_learn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_WAIT_MS 2000 // after SIGKILL; a process that the kernel holds on to is left behind
#define ISOLATION_FLAGS                                                                            \
	(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | \
	 CLONE_NEWCGROUP)

// ---- the child, up to exec -------------------------------------------------------------------------------------

enum step { STEP_PARENT, STEP_KEEPER, STEP_IDS, STEP_FDS, STEP_SIGNALS, STEP_LIMIT, STEP_JAIL, STEP_EXEC };

static const char *const step_names[] = {
	[STEP_PARENT] = "tie it to its parent", [STEP_KEEPER] = "tie it to its keeper",
	[STEP_IDS] = "map its user id",		[STEP_FDS] = "arrange its descriptors",
	[STEP_SIGNALS] = "reset its signals",	[STEP_LIMIT] = "set its limits",
	[STEP_JAIL] = "put it into its jail",	[STEP_EXEC] = "execute it",
};

struct report {
	int step;
	int error;
	struct jail_failure jail;
};

struct plan {
	const struct spawn_request *rq;
	const char *path;
	int null_fd, log_fd, report_fd; // the child's ends
	uid_t uid;
	gid_t gid;
	bool isolate;
	const struct jail *jail;
	int learn_fd; // -1: none
};

_Noreturn static void child_report(int report_fd, const struct report *r)
{
	ssize_t n = write(report_fd, r, sizeof(*r)); // the parent may be gone, and then nobody wants to know
	_exit(n == sizeof(*r) ? 127 : 126);
}

_Noreturn static void child_fail(int report_fd, enum step step, int error)
{
	const struct report r = { .step = (int)step, .error = error };
	child_report(report_fd, &r);
}

static void child_enter_jail(const struct plan *p)
{
	struct report r = { .step = STEP_JAIL };
	int rc = jail_enter(p->jail, &r.jail);
	if (rc == 0 && p->learn_fd < 0)
		rc = jail_filter(p->jail, &r.jail);
	else if (rc == 0 && (rc = jail_learn_enter(p->learn_fd)) < 0)
		r.jail = (struct jail_failure){ .step = JAIL_SECCOMP, .error = -rc };
	if (rc == 0)
		return;
	r.error = -rc;
	child_report(p->report_fd, &r);
}

// Puts `fd` at `number`, which must not be in use by a descriptor that is still needed.
static int fd_place(int fd, int number)
{
	return dup2(fd, number) < 0 ? -errno : 0;
}

// 0, 1: /dev/null, 2: log, 3...: the caller's, then the report pipe (close-on-exec), and nothing else.
static int child_fds(struct plan *p)
{
	const struct spawn_request *rq = p->rq;
	const int above = SPAWN_FD_FIRST + (int)rq->fd_count +
			  2; // out of the way of every number that is assigned below
	int high[SPAWN_FDS_MAX], rc;

	int report_high = fcntl(p->report_fd, F_DUPFD_CLOEXEC, above);
	if (report_high < 0)
		return -errno;
	p->report_fd = report_high;
	int null_high = fcntl(p->null_fd, F_DUPFD_CLOEXEC, above);
	int log_high = null_high < 0 ? -1 : fcntl(p->log_fd, F_DUPFD_CLOEXEC, above);
	if (log_high < 0)
		return -errno;
	int learn_high = p->learn_fd < 0 ? -1 : fcntl(p->learn_fd, F_DUPFD_CLOEXEC, above);
	if (p->learn_fd >= 0 && learn_high < 0)
		return -errno;
	for (unsigned i = 0; i < rq->fd_count; i++) {
		high[i] = fcntl(rq->fds[i], F_DUPFD_CLOEXEC, above);
		if (high[i] < 0)
			return -errno;
	}
	if ((rc = fd_place(null_high, 0)) < 0 || (rc = fd_place(null_high, 1)) < 0 ||
	    (rc = fd_place(log_high, 2)) < 0)
		return rc;
	int next = SPAWN_FD_FIRST;
	for (unsigned i = 0; i < rq->fd_count; i++)
		if ((rc = fd_place(high[i], next++)) < 0)
			return rc;
	if (dup3(report_high, next, O_CLOEXEC) < 0)
		return -errno;
	p->report_fd = next;
	if (learn_high >= 0) {
		if (dup3(learn_high, ++next, O_CLOEXEC) < 0)
			return -errno;
		p->learn_fd = next;
	}
	return syscall(SYS_close_range, (unsigned)next + 1, UINT_MAX, 0U) < 0 ? -errno : 0;
}

// Handlers would go by exec anyway, what is ignored would not.  All signals are blocked until here.
static int child_signals(void)
{
	const struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	for (int s = 1; s < NSIG; s++)
		if (sigaction(s, &dfl, NULL) < 0 &&
		    errno != EINVAL) // EINVAL: KILL, STOP, the C library's own
			return -errno;
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

// The parent may have died before the kernel knew that we want to die with it.  From another pid name space its id
// reads as 0, so ask the report pipe whether it still has a reader.
static int child_bind_to_parent(const struct plan *p)
{
	if (prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0L, 0L, 0L) < 0)
		return -errno;
	struct pollfd gone[] = { { .fd = p->report_fd }, { .fd = p->rq->sibling ? p->rq->alive_fd : -1 } };
	if (poll(gone, 2, 0) > 0 && ((gone[0].revents & POLLERR) || (gone[1].revents & POLLHUP)))
		_exit(126);
	return 0;
}

_Noreturn static void child_run(struct plan *p)
{
	static char *const no_environment[] = { NULL };
	const struct rlimit no_core = { 0, 0 };
	int rc = child_bind_to_parent(p);
	if (rc < 0)
		child_fail(p->report_fd, STEP_PARENT, -rc);
	if (p->rq->keeper && (rc = jail_keeper_join(p->rq->keeper)) < 0)
		child_fail(p->report_fd, STEP_KEEPER, -rc);
	setsid(); // no terminal whose input queue it could write to, and no Ctrl-C
	if (p->isolate && (rc = sandbox_map_ids(p->uid, p->gid)) < 0)
		child_fail(p->report_fd, STEP_IDS, -rc);
	if ((rc = child_fds(p)) < 0)
		child_fail(p->report_fd, STEP_FDS, -rc);
	if ((rc = child_signals()) < 0)
		child_fail(p->report_fd, STEP_SIGNALS, -rc);
	if (setrlimit(RLIMIT_CORE, &no_core) < 0 ||
	    (p->isolate && prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0))
		child_fail(p->report_fd, STEP_LIMIT, errno);
	if (p->jail)
		child_enter_jail(p);
	// execve(2) does not write to the words; its type is older than const.
	union {
		const char *const *in;
		char *const *out;
	} argv = { .in = p->rq->argv };
	execve(p->jail ? jail_text(p->jail, p->jail->program) : p->path, argv.out, no_environment);
	child_fail(p->report_fd, STEP_EXEC, errno);
}

// ---- the parent, up to exec ------------------------------------------------------------------------------------

static bool try_program(char *path, size_t room, const char *dir, size_t dir_len, const char *name)
{
	int n = snprintf(path, room, "%.*s/%s", (int)dir_len, dir, name);
	return n > 0 && (size_t)n < room && access(path, X_OK) == 0;
}

int spawn_find_program(const char *name, char *path, size_t room, struct err *e)
{
	char own[PATH_MAX];
	if (strchr(name, '/')) {
		if ((size_t)snprintf(path, room, "%s", name) >= room)
			return err_sys(e, ENAMETOOLONG, "%s", name);
		return 0;
	}
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own));
	while (n > 0 && own[n - 1] != '/')
		n--;
	if (n > 1 && try_program(path, room, own, (size_t)n - 1, name))
		return 0;
	const char *dir = getenv("PATH");
	while (dir && *dir) {
		size_t len = (size_t)(strchrnul(dir, ':') - dir);
		if (len > 0 && try_program(path, room, dir, len, name))
			return 0;
		dir += len + (dir[len] == ':');
	}
	return err_set(e, ENOENT, "start %s: no such program beside minivmm or in PATH", name);
}

static pid_t fork_with_pidfd(uint64_t flags, int cgroup, int *pidfd)
{
	struct clone_args args = {
		.flags = CLONE_PIDFD | (cgroup ? CLONE_INTO_CGROUP : 0) | flags,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD, // of a sibling: as its new parent's others
		.cgroup = (unsigned)cgroup,
	};
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

// Waits for exec: 0, or 1 with *r filled in, or -errno.
static int await_exec(int report_fd, struct report *r)
{
	deadline_ns deadline = deadline_in_ms(DEADLINE_START_MS);
	for (;;) {
		struct pollfd p = { .fd = report_fd, .events = POLLIN };
		int n = poll(&p, 1, deadline_left_ms(deadline));
		if (n == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		ssize_t got = read(report_fd, r, sizeof(*r)); // smaller than PIPE_BUF: all or nothing
		return got == 0 ? 0 : got == (ssize_t)sizeof(*r) ? 1 : -EIO;
	}
}

// Kills a child, and reaps one of our own.
static void child_end(pid_t pid, int pidfd, bool sibling)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	kill(pid, SIGKILL); // cannot be somebody else's: it is not reaped yet
	if (poll(&p, 1, KILL_WAIT_MS) == 1 && !sibling)
		waitpid(pid, NULL, 0);
}

// One attempt.  *refused tells that the host does not give name spaces.
static int spawn_once(struct child *c, struct plan *p, bool *refused, struct err *e)
{
	const struct spawn_request *rq = p->rq;
	int ends[2], pidfd = -1, error;
	sigset_t all, before;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(e, errno, "start %s: make a pipe", rq->argv[0]);
	FD_AUTO report_read = ends[0];
	FD_AUTO report_write = ends[1];
	p->report_fd = report_write;
	p->uid = geteuid();
	p->gid = getegid();

	sigfillset(&all); // our handlers must not run in the child
	sigprocmask(SIG_SETMASK, &all, &before);
	const uint64_t name_spaces = p->jail ? p->jail->name_spaces : p->isolate ? ISOLATION_FLAGS : 0;
	pid_t pid = fork_with_pidfd(name_spaces | (rq->sibling ? CLONE_PARENT : 0), rq->cgroup, &pidfd);
	if (pid == 0) {
		close(report_read);
		child_run(p);
	}
	error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (pid < 0) {
		*refused = p->isolate &&
			   (error == EPERM || error == ENOSPC || error == EUSERS || error == EINVAL);
		if (*refused)
			return err_set(e, error, "start %s: make its name spaces: %s (%s)", rq->argv[0],
				       err_text(error), sandbox_mend(error));
		return err_sys(e, error, "start %s: make a process", rq->argv[0]);
	}
	fd_close(&report_write);

	struct report r = { 0 };
	int rc = await_exec(report_read, &r);
	if (rc == 0) {
		c->pid = pid;
		c->pidfd = pidfd;
		c->isolated = p->isolate;
		c->sibling = rq->sibling;
		return 0;
	}
	child_end(pid, pidfd, rq->sibling);
	if (rq->sibling)
		c->pidfd = fd_steal(&pidfd);
	fd_close(&pidfd);
	if (rc < 0)
		return err_sys(e, -rc, "start %s: wait for it to execute", rq->argv[0]);
	if (r.step == STEP_JAIL) {
		char why[sizeof(e->text)];
		*refused = jail_failure_tell(p->jail, &r.jail, why, sizeof(why));
		return err_set(e, r.error, "start %s: %s: %s", rq->argv[0], step_names[r.step], why);
	}
	*refused = r.step == STEP_IDS;
	if (*refused)
		return err_set(e, r.error, "start %s: %s: %s (%s)", rq->argv[0], step_names[r.step],
			       err_text(r.error), sandbox_mend(r.error));
	return err_sys(e, r.error, "start %s: %s", p->path, step_names[r.step]);
}

static int spawn_prepared(struct child *c, struct plan *p, struct err *e)
{
	struct err why;
	bool refused = false;
	int rc = spawn_once(c, p, &refused, &why);
	if (rc < 0 && refused && p->rq->insecure && !p->rq->sibling) {
		log_warn("%s: WITHOUT isolation: %s", p->rq->id, why.text);
		p->isolate = false;
		p->jail = NULL;
		rc = spawn_once(c, p, &refused, &why);
	}
	if (rc < 0)
		err_set(e, -rc, "%s", why.text);
	return rc;
}

int spawn_start(struct child *c, const struct spawn_request *rq, struct err *e)
{
	char path[PATH_MAX];
	int ends[2];

	assert(getpid() == (pid_t)syscall(SYS_gettid)); // PR_SET_PDEATHSIG means the thread
	assert(rq->fd_count <= SPAWN_FDS_MAX);
	*c = (struct child){ .id = rq->id, .pidfd = -1, .log_fd = -1 };
	int rc = spawn_find_program(rq->program, path, sizeof(path), e);
	if (rc < 0)
		return rc;
	FD_AUTO null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return err_sys(e, errno, "open /dev/null");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(e, errno, "make a log pipe");
	FD_AUTO log_read = ends[0];
	FD_AUTO log_write = ends[1];
	if (fcntl(log_read, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(e, errno, "make a log pipe");

	FD_AUTO learn = -1;
	if (rq->jail && rq->learn && (rc = jail_learn_start(rq->learn, rq->argv[0], &learn, e)) < 0)
		return rc;
	struct plan p = {
		.learn_fd = learn,
		.rq = rq,
		.path = path,
		.null_fd = null_fd,
		.log_fd = log_write,
		.isolate = rq->isolate || rq->jail,
		.jail = rq->jail,
	};
	rc = spawn_prepared(c, &p, e);
	if (rc == 0)
		c->log_fd = fd_steal(&log_read);
	return rc;
}
