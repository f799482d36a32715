// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LISTEN_FDS_START 3

void fd_close(int *fd)
{
	if (*fd < 0)
		return;
	int saved_errno = errno;
	close(*fd);
	errno = saved_errno;
	*fd = -1;
}

void fd_close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		fd_close(&fds[i]);
}

int fd_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

void fd_event_signal(int eventfd)
{
	const uint64_t one = 1;
	ssize_t n;
	do {
		n = write(eventfd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

bool fd_event_take(int eventfd)
{
	uint64_t count;
	const struct iovec iov = { .iov_base = &count, .iov_len = sizeof(count) };
	// O_NONBLOCK is the open file's: whoever else has the eventfd may take it away.
	long n = syscall(SYS_preadv2, eventfd, &iov, 1, -1L, -1L, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP) // a timer, of kernels before 6.10; nobody else has those
		n = read(eventfd, &count, sizeof(count));
	return n == (long)sizeof(count);
}

bool fd_event_pending(int eventfd)
{
	struct pollfd p = { .fd = eventfd, .events = POLLIN };
	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

// ---- eventfds that peers have, too --------------------------------------------------------------------------------

#define RING_TRIES 16

static _Atomic(aio_context_t) peer_signals; // 0: none
static bool peer_signals_at_need;

// Where the kernel notes what was completed, at the context's address.  Nobody here reads it; it only has to have room.
struct completions {
	uint32_t id, size;
	_Atomic uint32_t head, tail;
};

// 0, or -errno.  None of these operations is still under way afterwards.
static int aio_submit_one(aio_context_t context, struct iocb *operation)
{
	struct completions *done = (struct completions *)(uintptr_t)context;
	for (unsigned tries = 0;; tries++) {
		if (syscall(SYS_io_submit, context, 1, &operation) == 1)
			return 0;
		if (errno != EAGAIN || tries == RING_TRIES)
			return -errno;
		// By several threads at a time, which at worst leaves less room than there is.
		atomic_store(&done->head, atomic_load(&done->tail));
	}
}

int fd_peer_signals_open(struct err *e)
{
	if (peer_signals)
		return 0;
	FD_AUTO probe = fd_eventfd();
	if (probe < 0)
		return err_sys(e, -probe, "eventfd");
	aio_context_t context = 0;
	if (syscall(SYS_io_setup, 1, &context) < 0)
		return err_sys(
			e, errno,
			errno == EAGAIN
				? "asynchronous I/O, for signals to peers: all that the host allows is "
				  "in use (raise fs.aio-max-nr with sysctl)"
				: "asynchronous I/O, for signals to peers");
	peer_signals = context;
	fd_peer_signal(probe);
	return fd_event_take(probe) ? 0
				    : err_set(e, ENOSYS, "asynchronous I/O: this kernel signals no eventfd");
}

void fd_peer_signals_at_need(void)
{
	peer_signals_at_need = true;
}

static aio_context_t peer_signals_context(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	if (peer_signals || !peer_signals_at_need)
		return peer_signals;
	pthread_mutex_lock(&lock);
	aio_context_t context = peer_signals;
	if (!context && syscall(SYS_io_setup, 1, &context) == 0)
		peer_signals = context;
	pthread_mutex_unlock(&lock);
	return context;
}

void fd_peer_signal(int eventfd)
{
	// A read of nothing, which is over before the call returns (an eventfd's reads have 8 bytes) and signals that it is.
	struct iocb nothing = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)eventfd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)eventfd,
	};
	const aio_context_t context = peer_signals_context();
	if (context)
		aio_submit_one(context, &nothing);
	else
		fd_event_signal(eventfd);
}

int fd_peer_event_check(int fd)
{
	// Refused before it begins, so that nothing is signalled: to no address of a process.  But before that, if it is no eventfd.
	struct iocb nowhere = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)fd,
		.aio_buf = UINT64_MAX - UINT16_MAX,
		.aio_nbytes = sizeof(uint64_t),
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct stat st;
	const aio_context_t context = peer_signals;
	if (context)
		return aio_submit_one(context, &nowhere) == -EFAULT ? 0 : -EBADF;
	const int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) < 0 || S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
	    S_ISCHR(st.st_mode) || S_ISDIR(st.st_mode))
		return -EBADF;
	return flags & O_NONBLOCK || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

bool fd_is_reference(const char *path)
{
	return strncmp(path, "fd:", 3) == 0;
}

// The number that "fd:NAME" stands for, or -1.
static int fd_by_listen_name(const char *name)
{
	const char *pid = getenv("LISTEN_PID");
	const char *names = getenv("LISTEN_FDNAMES");
	if (!names || !*name || (pid && strtol(pid, NULL, 10) != (long)getpid()))
		return -1;
	size_t len = strlen(name);
	for (int fd = LISTEN_FDS_START;; fd++) {
		const char *end = strchrnul(names, ':');
		if ((size_t)(end - names) == len && memcmp(names, name, len) == 0)
			return fd;
		if (*end == '\0')
			return -1;
		names = end + 1;
	}
}

static int fd_open_reference(const char *ref, int flags, struct err *e)
{
	const char *name = ref + 3;
	char *end;
	errno = 0;
	long n = strtol(name, &end, 10);
	if (*name < '0' || *name > '9' || *end != '\0' || errno || n > 0x7fffffff) {
		n = fd_by_listen_name(name);
		if (n < 0)
			return err_set(e, ENOENT, "%s: no such name in LISTEN_FDNAMES", ref);
	}
	int mode = fcntl((int)n, F_GETFL);
	if (mode < 0)
		return err_sys(e, errno, "%s", ref);
	int have = mode & O_ACCMODE, want = flags & O_ACCMODE;
	if ((mode & O_PATH) || (have != O_RDWR && have != want))
		return err_set(e, EACCES, "%s: the descriptor is not open for %s", ref,
			       want == O_RDONLY	  ? "reading"
			       : want == O_WRONLY ? "writing"
						  : "reading and writing");
	int fd = fcntl((int)n, F_DUPFD_CLOEXEC, LISTEN_FDS_START);
	return fd < 0 ? err_sys(e, errno, "%s", ref) : fd;
}

int fd_open_path(const char *path, int flags, struct err *e)
{
	if (fd_is_reference(path))
		return fd_open_reference(path, flags, e);
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
	return fd < 0 ? err_sys(e, errno, "open %s", path) : fd;
}
