// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/msg.h"
#include "vmm/base/err.h"

#include "vmm/base/bin.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECT_RETRY_MS 10
#define LISTEN_BACKLOG	 8
#define SEND_PARTS_MAX	 8

// Room for the descriptors of one recvmsg(2), aligned as cmsg(3) wants it: as many as the kernel lets pass (SCM_MAX_FD), for those
// that find none are closed by the call itself, which that may have wait.
#define CONTROL_FDS 253
union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
};
_Static_assert(MSG_FDS_MAX <= CONTROL_FDS, "room");

// 0 once one of `events` is there (or the peer is gone), -ETIMEDOUT.
static int wait_for(int sock, short events, deadline_ns deadline)
{
	for (;;) {
		struct pollfd p = { .fd = sock, .events = (short)(events | POLLPRI) };
		int left = deadline_left_ms(deadline);
		int n = poll(&p, 1, left);
		if (n < 0 && errno != EINTR)
			return -errno;
		// An out-of-band byte makes poll() say "readable" for ever; no protocol of ours has one.
		if (n > 0 && (p.revents & POLLPRI))
			return -EPROTO;
		if (n > 0 && (p.revents & POLLNVAL))
			return -EBADF;
		if (n > 0)
			return 0;
		if (left == 0)
			return -ETIMEDOUT;
	}
}

// Takes `n` bytes off the front of a vector.
static void iov_advance(struct iovec **iov, unsigned *count, size_t n)
{
	while (*count && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		++*iov;
		--*count;
	}
	if (n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

static void attach_fds(struct msghdr *m, union control *c, const int *fds, unsigned count)
{
	memset(c, 0, sizeof(*c));
	m->msg_control = c->bytes;
	m->msg_controllen = (socklen_t)CMSG_SPACE(sizeof(int) * count); // musl's type
	struct cmsghdr *cm = &c->align;
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(cm), fds, sizeof(int) * count);
}

int msg_send(int sock, const struct iovec *iov, unsigned iov_count, const int *fds, unsigned fd_count,
	     deadline_ns deadline)
{
	struct iovec parts[SEND_PARTS_MAX];
	if (iov_count > SEND_PARTS_MAX || fd_count > MSG_FDS_MAX)
		return -EINVAL;
	memcpy(parts, iov, sizeof(*iov) * iov_count);
	struct iovec *left = parts;
	iov_advance(&left, &iov_count, 0);

	while (iov_count) {
		union control c;
		const unsigned short parts_left =
			(unsigned short)iov_count; // fits glibc's size_t and musl's int
		struct msghdr m = { .msg_iov = left, .msg_iovlen = parts_left };
		if (fds && fd_count)
			attach_fds(&m, &c, fds, fd_count);
		ssize_t n = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			fd_count = 0; // they left with the first byte
			iov_advance(&left, &iov_count, (size_t)n);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == ECONNRESET)
			return -EPIPE;
		if (errno != EAGAIN)
			return -errno;
		int rc = wait_for(sock, POLLOUT, deadline);
		if (rc < 0)
			return rc;
	}
	return 0;
}

// CMSG_NXTHDR(), whose arithmetic in musl's headers trips our warnings.
static struct cmsghdr *next_control(struct msghdr *m, struct cmsghdr *cm)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
	return CMSG_NXTHDR(m, cm);
#pragma GCC diagnostic pop
}

// Adds the descriptors of one received message; those that find no room are closed and -EMSGSIZE is returned.
static int collect_fds(struct msghdr *m, struct msg_fds *fds)
{
	int rc = m->msg_flags & MSG_CTRUNC ? -EMSGSIZE : 0;
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(m); cm; cm = next_control(m, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(cm) + i * sizeof(int), sizeof(fd));
			if (fds && fds->count < MSG_FDS_MAX) {
				fds->fd[fds->count++] = fd;
			} else {
				bin_put(&fd);
				rc = -EMSGSIZE;
			}
		}
	}
	return rc;
}

// One recvmsg(2): bytes received (0: end of stream), or -errno.
static ssize_t recv_some(int sock, void *buf, size_t len, struct msg_fds *fds)
{
	union control c;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.bytes, .msg_controllen = sizeof(c.bytes)
	};
	ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	int rc = collect_fds(&m, fds);
	return rc < 0 ? rc : n;
}

int msg_recv(int sock, void *buf, size_t len, struct msg_fds *fds, deadline_ns deadline)
{
	int rc = 0;
	for (size_t done = 0; done < len;) {
		ssize_t n = recv_some(sock, (char *)buf + done, len - done, fds);
		if (n > 0) {
			done += (size_t)n;
			// A peer that drips bytes keeps recvmsg() from ever being empty-handed.
			if (done < len && deadline_now() >= deadline) {
				rc = -ETIMEDOUT;
				break;
			}
			continue;
		}
		rc = n == 0 ? -ECONNRESET : (int)n;
		if (rc == -EINTR || rc == -EAGAIN)
			rc = rc == -EINTR ? 0 : wait_for(sock, POLLIN, deadline);
		if (rc < 0)
			break;
	}
	if (rc < 0 && fds)
		msg_fds_close(fds);
	return rc;
}

int msg_recv_now(int sock, void *buf, size_t len, struct msg_fds *fds)
{
	ssize_t n;
	do {
		n = recv_some(sock, buf, len, fds);
	} while (n == -EINTR);
	if (n > 0)
		return (int)n;
	if (n != -EAGAIN && fds)
		msg_fds_close(fds);
	return n == 0 ? -ECONNRESET : (int)n;
}

int msg_wait(int sock, deadline_ns deadline)
{
	return wait_for(sock, POLLIN, deadline);
}

unsigned msg_fds_close(struct msg_fds *fds)
{
	unsigned wrong = 0;
	for (unsigned i = 0; i < fds->count; i++)
		wrong += bin_put(&fds->fd[i]);
	fds->count = 0;
	return wrong;
}

int msg_fds_take_one(struct msg_fds *fds)
{
	if (fds->count != 1) {
		msg_fds_close(fds);
		return -1;
	}
	fds->count = 0;
	return fd_steal(&fds->fd[0]);
}

static int unix_address(struct sockaddr_un *sa, const char *path, struct err *e)
{
	*sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (*path == '\0')
		return err_set(e, EINVAL, "the path of a socket is empty");
	if (strlen(path) >= sizeof(sa->sun_path))
		return err_set(e, ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
			       sizeof(sa->sun_path) - 1);
	memcpy(sa->sun_path, path, strlen(path));
	return 0;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

static int connected_from_reference(const char *ref, struct err *e)
{
	FD_AUTO fd = fd_open_path(ref, O_RDWR, e);
	if (fd < 0)
		return fd;
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_STREAM)
		return err_set(e, ENOTSOCK, "%s: not a Unix stream socket", ref);
	struct sockaddr_un peer;
	socklen_t len = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return err_set(e, ENOTCONN, "%s: the socket is not connected", ref);
	return fd_steal(&fd);
}

static int connect_refused(const char *path, int error, struct err *e)
{
	struct stat st;
	const char *mend = "";
	if (error == ENOENT)
		mend = " (has the program that listens there been started?)";
	else if (error == ECONNREFUSED && stat(path, &st) == 0)
		mend = S_ISSOCK(st.st_mode) ? " (nobody listens there any more)" : " (it is not a socket)";
	return err_set(e, error, "connect to %s: %s%s", path, err_text(error), mend);
}

int msg_connect(const char *path, deadline_ns deadline, struct err *e)
{
	if (fd_is_reference(path))
		return connected_from_reference(path, e);
	struct sockaddr_un sa;
	int rc = unix_address(&sa, path, e);
	if (rc < 0)
		return rc;
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, errno, "make a socket");
	while (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return connect_refused(path, errno, e);
		// A full queue of a listener cannot be waited for by poll().
		int left = deadline_left_ms(deadline);
		if (left == 0)
			return err_set(e, ETIMEDOUT, "connect to %s: nobody accepts the connection", path);
		poll(NULL, 0, left < CONNECT_RETRY_MS ? left : CONNECT_RETRY_MS);
	}
	return fd_steal(&fd);
}

// True if `path` is a socket file with nobody behind it.
static bool socket_is_stale(const char *path, const struct sockaddr_un *sa)
{
	struct stat st;
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	FD_AUTO probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return probe >= 0 && connect(probe, (const struct sockaddr *)sa, sizeof(*sa)) < 0 &&
	       errno == ECONNREFUSED;
}

int msg_listen(const char *path, struct err *e)
{
	struct sockaddr_un sa;
	int rc = unix_address(&sa, path, e);
	if (rc < 0)
		return rc;
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, errno, "make a socket");
	// The mode that the socket has when it is bound becomes the file's: there is no moment of a wider
	// one.
	if (fchmod(fd, 0600) < 0)
		return err_sys(e, errno, "listen on %s", path);
	if (bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EADDRINUSE)
			return err_sys(e, errno, "listen on %s", path);
		if (!socket_is_stale(path, &sa))
			return err_set(e, EADDRINUSE, "listen on %s: something is there already", path);
		if (unlink(path) < 0 || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
			return err_sys(e, errno, "listen on %s", path);
	}
	if (listen(fd, LISTEN_BACKLOG) < 0) {
		rc = err_sys(e, errno, "listen on %s", path);
		unlink(path);
		return rc;
	}
	return fd_steal(&fd);
}
