// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/socket_file.h"

#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"
#include "vmm/base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEEPER_OWNER, KEEPER_DIR, KEEPER_FILE, KEEPER_FDS }; // its descriptors' numbers, too

struct place {
	int dir, file;	  // O_PATH; as long as `file` is open, nobody else gets its inode number
	const char *name; // within dir
	struct stat st;
};

// Before the socket is made: what is opened later may fail, and then the file has to go again.
static int place_open(struct place *p, const char *path, struct err *e)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	int len = slash ? (int)(slash - path) + 1 : 1;
	snprintf(dir, sizeof(dir), "%.*s", len, slash ? path : ".");
	p->name = slash ? slash + 1 : path;
	p->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return p->dir < 0 ? err_sys(e, errno, "listen on %s", path) : 0;
}

static int place_look(struct place *p)
{
	if (fstatat(p->dir, p->name, &p->st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return S_ISSOCK(p->st.st_mode) ? 0 : -EBUSY; // somebody was quick to replace it
}

static int place_hold(struct place *p)
{
	struct stat held;
	p->file = openat(p->dir, p->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (p->file < 0 || fstat(p->file, &held) < 0)
		return -errno;
	return held.st_dev == p->st.st_dev && held.st_ino == p->st.st_ino ? 0 : -EBUSY;
}

// Between look and removal somebody may still put another file there; Linux has no call that does both.
static void file_remove(int dir, const struct place *p)
{
	struct stat now;
	if (fstatat(dir, p->name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == p->st.st_dev &&
	    now.st_ino == p->st.st_ino)
		unlinkat(dir, p->name, 0);
}

// ---- the keeper -------------------------------------------------------------------------------------------------

static const struct sandbox_rule keeper_rules[] = {
	SANDBOX_CALL_IF(read, "the owner's end", 0, UINT32_MAX, KEEPER_OWNER),
	SANDBOX_CALL_IF(newfstatat, "is it still our file?", 0, UINT32_MAX, KEEPER_DIR),
	SANDBOX_RARE_IF(statx, "the same by other C libraries", 0, UINT32_MAX, KEEPER_DIR),
	SANDBOX_CALL_IF(unlinkat, "its removal", 0, UINT32_MAX, KEEPER_DIR),
};

static bool keeper_fds(const int fds[KEEPER_FDS])
{
	int high[KEEPER_FDS];
	for (int i = 0; i < KEEPER_FDS; i++)
		if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, KEEPER_FDS)) < 0)
			return false;
	for (int i = 0; i < KEEPER_FDS; i++)
		if (dup2(high[i], i) < 0)
			return false;
	return syscall(SYS_close_range, (unsigned)KEEPER_FDS, UINT_MAX, 0U) == 0;
}

static const struct sandbox_spec keeper_spec = {
	.program = "socket-keeper",
	.rules = keeper_rules,
	.rule_count = ARRAY_LEN(keeper_rules),
};

_Noreturn static void keeper_run(const struct place *p, int owner, struct sandbox_program *filter)
{
	const int fds[KEEPER_FDS] = {
		[KEEPER_OWNER] = owner, [KEEPER_DIR] = p->dir, [KEEPER_FILE] = p->file
	};
	uint8_t byte = 0;
	setsid(); // what is sent to the owner's process group or terminal is not for us
	prctl(PR_SET_NAME, "socket-keeper");
	prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
	if (!keeper_fds(fds) || prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
		byte = (uint8_t)errno; // Linux's are small
	if (write(byte ? owner : KEEPER_OWNER, &byte, 1) != 1 || byte)
		_exit(1);
	if (filter->count)
		sandbox_load(filter, NULL);
	while (read(KEEPER_OWNER, &byte, 1) < 0 && errno == EINTR)
		;
	file_remove(KEEPER_DIR, p);
	_exit(0);
}

// Forked twice: it becomes init's, and a zombie of nobody's.
static int keeper_start(const struct place *p, struct err *e)
{
	int ends[2];
	sigset_t all, before;
	// Compiled by the owner, which compiles its own anyway: in the keeper it would cost 60 kB for ever.  On a host without seccomp
	// the owner's own sandbox is the one to complain.
	struct sandbox_program filter = { 0 };
	if (!sandbox_held_back(&keeper_spec) && sandbox_compile(&keeper_spec, &filter, NULL) < 0)
		filter.count = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(e, errno, "make a socket pair");
	FD_AUTO ours = ends[0];
	FD_AUTO theirs = ends[1];
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid_t pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			keeper_run(p, theirs, &filter);
		_exit(pid < 0);
	}
	int error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return err_sys(e, error, "start a process that removes the socket file");
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	fd_close(&theirs);
	struct pollfd ready = { .fd = ours, .events = POLLIN };
	uint8_t byte = ECHILD;
	if (poll(&ready, 1, DEADLINE_START_MS) != 1 || read(ours, &byte, 1) != 1 || byte)
		return err_sys(e, byte, "start a process that removes the socket file");
	return fd_steal(&ours);
}

// ---- the owner --------------------------------------------------------------------------------------------------

int socket_file_listen(const char *path, int *keeper, struct err *e)
{
	struct place p = { .dir = -1, .file = -1 };
	int fd = -1, rc = place_open(&p, path, e);
	if (rc < 0)
		return rc;
	fd = rc = msg_listen(path, e);
	if (rc < 0)
		goto out;
	rc = place_look(&p);
	if (rc < 0) {
		err_sys(e, -rc, "listen on %s: look at the socket", path);
		goto out;
	}
	rc = place_hold(&p);
	if (rc < 0)
		err_sys(e, -rc, "listen on %s: hold the socket", path);
	else if ((rc = keeper_start(&p, e)) < 0)
		err_prefix(e, "listen on %s", path);
	else
		*keeper = rc;
	if (rc < 0)
		file_remove(p.dir, &p);
out:
	fd_close(&p.dir);
	fd_close(&p.file);
	if (rc < 0)
		fd_close(&fd);
	return rc < 0 ? rc : fd;
}

void socket_file_remove(int *keeper)
{
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	const struct msghdr now = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct pollfd gone = { .fd = *keeper, .events = POLLIN }; // its end is a hang-up
	if (*keeper >= 0 && sendmsg(*keeper, &now, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		poll(&gone, 1, DEADLINE_CONTROL_MS);
	fd_close(keeper);
}

void socket_file_print(const char *prefix, FILE *out)
{
	sandbox_print(&keeper_spec, prefix, out);
}
