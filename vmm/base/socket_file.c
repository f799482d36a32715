// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/socket_file.h"

#include "vmm/base/aside.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"
#include "vmm/base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

static const struct sandbox_spec keeper_spec = {
	.program = "socket-keeper",
	.rules = keeper_rules,
	.rule_count = ARRAY_LEN(keeper_rules),
};

static void keeper_run(const void *arg)
{
	char byte;
	while (read(KEEPER_OWNER, &byte, 1) < 0 && errno == EINTR)
		;
	file_remove(KEEPER_DIR, arg);
}

static int keeper_start(const struct place *p, struct err *e)
{
	const struct aside keeper = {
		.spec = &keeper_spec,
		.type = SOCK_STREAM,
		.privileged = true, // the folder may be somebody else's
		.fds = { p->dir, p->file },
		.fd_count = KEEPER_FDS - 1,
		.run = keeper_run,
		.arg = p,
	};
	return aside_start(&keeper, e);
}

// ---- the owner --------------------------------------------------------------------------------------------------

static int take_listener(const char *reference, struct err *e)
{
	int listening = 0;
	socklen_t len = sizeof(listening);
	FD_AUTO fd = fd_open_path(reference, O_RDWR, e);
	if (fd < 0)
		return fd;
	int flags = fcntl(fd, F_GETFL);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return err_set(e, EINVAL, "%s: not a listening socket", reference);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(e, errno, "%s", reference);
	return fd_steal(&fd);
}

int socket_file_listen(const char *path, int *keeper, struct err *e)
{
	if (fd_is_reference(path)) {
		*keeper = -1;
		return take_listener(path, e);
	}
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
