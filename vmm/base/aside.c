// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/aside.h"

#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool arrange_fds(const struct aside *a, int owner)
{
	int high[1 + ASIDE_FDS_MAX];
	const int count = (int)a->fd_count + 1;
	for (int i = 0; i < count; i++)
		if ((high[i] = fcntl(i ? a->fds[i - 1] : owner, F_DUPFD_CLOEXEC, count)) < 0)
			return false;
	for (int i = 0; i < count; i++)
		if (dup2(high[i], i) < 0)
			return false;
	return syscall(SYS_close_range, (unsigned)count, UINT_MAX, 0U) == 0;
}

static bool settle(const struct aside *a, int owner)
{
	setsid(); // what is sent to the owner's process group or terminal is not for us
	prctl(PR_SET_NAME, a->spec->program);
	prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
	return arrange_fds(a, owner) && (a->privileged ? prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) == 0
						       : sandbox_drop_privileges(NULL) == 0);
}

_Noreturn static void live(const struct aside *a, int owner, struct sandbox_program *filter)
{
	const int error = settle(a, owner) ? 0 : errno;
	if (write(error ? owner : 0, &error, sizeof(error)) != sizeof(error) || error)
		_exit(1); // which the owner notices
	if (filter->count)
		sandbox_load(filter, NULL);
	a->run(a->arg);
	_exit(0);
}

int aside_start(const struct aside *a, struct err *e)
{
	int ends[2];
	sigset_t all, before;
	// Compiled by the owner, which compiles its own anyway: in the new process it would cost 60 kB for ever.  On a host without
	// seccomp the owner's own sandbox is the one to complain.
	struct sandbox_program filter = { 0 };
	if (!sandbox_held_back(a->spec) && sandbox_compile(a->spec, &filter, NULL) < 0)
		filter.count = 0;
	if (socketpair(AF_UNIX, a->type | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "make a socket pair");
	FD_AUTO ours = ends[0];
	FD_AUTO theirs = ends[1];
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid_t pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			live(a, theirs, &filter);
		_exit(pid < 0);
	}
	int error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return err_sys(e, error, "start a process: %s", a->spec->program);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	fd_close(&theirs);
	struct pollfd ready = { .fd = ours, .events = POLLIN };
	error = 0;
	if (poll(&ready, 1, DEADLINE_START_MS) != 1 || read(ours, &error, sizeof(error)) != sizeof(error))
		error = ECHILD;
	if (error)
		return err_sys(e, error, "start a process: %s", a->spec->program);
	return fd_steal(&ours);
}
