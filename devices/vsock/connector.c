// SPDX-License-Identifier: BSD-2-Clause
//
// A process of its own: where it starts is the folder of the sockets, it has no other way to name a file than "./NAME_PORT", and all
// that it is told is a port.  So the device itself may make no socket and connect to nothing, and whoever takes it over
// reaches what the guest could reach anyway.
#include "devices/vsock/virtio_vsock.h"

#include "vmm/base/aside.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OWNER };

#define PORT_DIGITS 10

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL_IF(read, "the port that the device asks for", 0, UINT32_MAX, OWNER),
	SANDBOX_CALL_IF(socket, "a socket", 0, UINT32_MAX, AF_UNIX),
	SANDBOX_CALL(connect, "it is connected"),
	SANDBOX_CALL_IF(sendmsg, "and given to the device", 0, UINT32_MAX, OWNER),
	SANDBOX_CALL(close, "ours is closed"),
};

const struct sandbox_spec connector_spec = {
	.program = "vsock-connector",
	.rules = rules,
	.rule_count = sizeof(rules) / sizeof(rules[0]),
};

static int answer(uint32_t id, int error, int fd)
{
	struct connector_answer a = { .id = id, .error = error };
	struct iovec iov = { &a, sizeof(a) };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(fd))] = { 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	ssize_t n;
	do
		n = sendmsg(OWNER, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(a) ? 0 : -1;
}

static void connector_run(const void *arg)
{
	const char *name = arg;
	struct connector_ask ask;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int alive = 0;
	while (alive == 0 && read(OWNER, &ask, sizeof(ask)) == (ssize_t)sizeof(ask)) {
		snprintf(to.sun_path, sizeof(to.sun_path), "./%s_%u", name, ask.port);
		int error = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
			error = errno;
		alive = answer(ask.id, error, error ? -1 : fd);
		if (fd >= 0)
			close(fd);
	}
}

int connector_start(const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char dir[PATH_MAX];
	if (strlen(name) + strlen("./_") + PORT_DIGITS >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return err_set(e, ENAMETOOLONG, "%s: with _PORT its name is too long for a socket", path);
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	FD_AUTO before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (before < 0 || chdir(dir) < 0)
		return err_sys(e, errno, "enter %s", dir);
	const struct aside connector = {
		.spec = &connector_spec, .type = SOCK_SEQPACKET, .run = connector_run, .arg = name
	};
	int fd = aside_start(&connector, e);
	if (fchdir(before) < 0 && fd >= 0) {
		err_sys(e, errno, "%s: go back to where we were", path);
		fd_close(&fd);
	}
	return fd;
}
