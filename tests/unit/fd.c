// SPDX-License-Identifier: BSD-2-Clause
// Descriptors: owned, stolen, handed over by number and by name.
#include "vmm/base/fd.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

static struct err err;

static void listen_names(const char *names, const char *pid)
{
	names ? setenv("LISTEN_FDNAMES", names, 1) : unsetenv("LISTEN_FDNAMES");
	pid ? setenv("LISTEN_PID", pid, 1) : unsetenv("LISTEN_PID");
}

// Opens and says which file it is: its inode, or -errno.
static long inode_of(const char *path, int flags)
{
	char link[64], target[256] = "";
	err.text[0] = '\0';
	FD_AUTO fd = fd_open_path(path, flags, &err);
	if (fd < 0)
		return fd;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, target, sizeof(target) - 1) < 0)
		return -1;
	if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC))
		return -2;
	return strstr(target, "one") ? 1 : strstr(target, "two") ? 2 : 3;
}

TEST(owned_and_stolen)
{
	uint64_t before = fds_open();
	int kept;
	{
		FD_AUTO a = fd_eventfd();
		FD_AUTO b = fd_eventfd();
		FD_AUTO none = -1;
		CHECK(a >= 0 && b >= 0);
		kept = fd_steal(&b);
		CHECK_EQ(b, (unsigned long long)-1);
		(void)none;
	}
	CHECK(fcntl(kept, F_GETFD) >= 0);
	errno = EXDEV;
	fd_close(&kept);
	CHECK_EQ(errno, EXDEV);
	fd_close(&kept);
	int list[] = { fd_eventfd(), -1, fd_eventfd() };
	fd_close_all(list, 3);
	CHECK_EQ(list[0] + list[1] + list[2], (unsigned long long)-3);
	CHECK_EQ(fds_open(), before);
}

TEST(eventfds)
{
	FD_AUTO fd = fd_eventfd();
	CHECK(!fd_event_pending(fd));
	CHECK(!fd_event_take(fd));
	fd_event_signal(fd);
	fd_event_signal(fd);
	CHECK(fd_event_pending(fd));
	CHECK(fd_event_pending(fd));
	CHECK(fd_event_take(fd));
	CHECK(!fd_event_take(fd));
	const uint64_t full = UINT64_MAX - 1;
	CHECK_EQ(write(fd, &full, sizeof(full)), sizeof(full));
	fd_event_signal(fd); // does not wait
	CHECK(fd_event_take(fd));
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

// An eventfd that a peer got is one open file with ours, and so are its flags.
TEST(eventfd_that_a_peer_made_blocking)
{
	FD_AUTO fd = fd_eventfd();
	FD_AUTO peers = dup(fd);
	CHECK_EQ(fcntl(peers, F_SETFL, 0), 0);
	alarm(10);
	CHECK(!fd_event_take(fd));
	fd_event_signal(fd);
	CHECK(fd_event_take(fd));
	CHECK(!fd_event_take(fd));
	alarm(0);
}

// A host on which io_setup() fails with this.
static bool refused_with(int error, const char *sentence)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = ARRAY_LEN(rules), .filter = rules };
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		struct err e = { "" };
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
			_exit(2);
		int rc = fd_peer_signals_open(&e);
		_exit(rc == -error && strstr(e.text, sentence) ? 0 : 1);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return status == 0;
}

// Before any other test has made it for this process.
TEST(a_host_without_asynchronous_io)
{
	CHECK(refused_with(EAGAIN, "raise fs.aio-max-nr"));
	CHECK(refused_with(ENOSYS, "asynchronous I/O, for signals to peers"));
}

static bool has_context(void)
{
	static char maps[65536];
	FD_AUTO fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	for (ssize_t n; len < sizeof(maps) - 1 && (n = read(fd, maps + len, sizeof(maps) - 1 - len)) > 0;)
		len += (size_t)n;
	maps[len] = 0;
	return strstr(maps, "[aio]");
}

// What a peer can do to a signal: the counter has no room, and its file says that a write is to wait for some.
static int full_and_blocking(void)
{
	const uint64_t full = UINT64_MAX - 1;
	int fd = fd_eventfd();
	if (write(fd, &full, sizeof(full)) != sizeof(full) || fcntl(fd, F_SETFL, 0) < 0)
		abort();
	return fd;
}

// Also before any other test has made it.  A context is dear at a process's end, and most monitors never signal a peer.
TEST(made_with_the_first_signal)
{
	pid_t pid = fork();
	if (pid == 0) {
		FD_AUTO full = full_and_blocking();
		alarm(10);
		fd_peer_signals_at_need();
		if (has_context())
			_exit(1);
		fd_peer_signal(full);
		_exit(has_context() ? 0 : 2);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	CHECK_EQ(status, 0);
}

TEST(a_peer_cannot_make_a_signal_wait)
{
	CHECK_EQ(fd_peer_signals_open(&err), 0);
	CHECK_EQ(fd_peer_signals_open(&err), 0); // there already
	alarm(10);
	FD_AUTO fd = fd_eventfd();
	uint64_t count = 0;
	// Many times as many as there is room for completions.
	for (unsigned i = 0; i < 100000; i++)
		fd_peer_signal(fd);
	CHECK_EQ(read(fd, &count, sizeof(count)), sizeof(count));
	CHECK_EQ(count, 100000);
	FD_AUTO full = full_and_blocking();
	for (unsigned i = 0; i < 1000; i++)
		fd_peer_signal(full);
	CHECK(fd_event_pending(full) && fd_event_take(full) && !fd_event_take(full));
	fd_peer_signal(full);
	CHECK_EQ(read(full, &count, sizeof(count)), sizeof(count));
	CHECK_EQ(count, 1);
	alarm(0);
}

static void *signals(void *fd)
{
	for (unsigned i = 0; i < 50000; i++)
		fd_peer_signal(*(int *)fd);
	return NULL;
}

TEST(signals_of_many_threads_are_all_counted)
{
	CHECK_EQ(fd_peer_signals_open(&err), 0);
	pthread_t thread[4];
	FD_AUTO fd = fd_eventfd();
	uint64_t count = 0;
	for (unsigned i = 0; i < ARRAY_LEN(thread); i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, signals, &fd), 0);
	for (unsigned i = 0; i < ARRAY_LEN(thread); i++)
		pthread_join(thread[i], NULL);
	CHECK_EQ(read(fd, &count, sizeof(count)), sizeof(count));
	CHECK_EQ(count, 50000 * ARRAY_LEN(thread));
}

// B08.  No signal is given, and no flag changed.
TEST(only_an_eventfd_signals)
{
	CHECK_EQ(fd_peer_signals_open(&err), 0);
	FD_AUTO plain = fd_eventfd();
	FD_AUTO semaphore = eventfd(3, EFD_SEMAPHORE);
	FD_AUTO full = full_and_blocking();
	CHECK_EQ(fd_peer_event_check(plain), 0);
	CHECK(!fd_event_pending(plain));
	CHECK_EQ(fd_peer_event_check(semaphore), 0);
	CHECK_EQ(fd_peer_event_check(full), 0);
	CHECK(!(fcntl(full, F_GETFL) & O_NONBLOCK));
	int ends[2], pair[2];
	CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	sigset_t none;
	sigemptyset(&none);
	int wrong[] = {
		ends[0],
		ends[1],
		pair[0],
		pair[1],
		memfd_create("file", 0),
		open("/dev/null", O_RDWR),
		open("/dev/zero", O_RDONLY),
		open("/", O_RDONLY | O_DIRECTORY),
		open("/proc/self/maps", O_RDONLY),
		timerfd_create(CLOCK_MONOTONIC, 0),
		signalfd(-1, &none, 0),
		epoll_create1(0),
		fcntl(plain, F_DUPFD, 3),
	};
	close(wrong[ARRAY_LEN(wrong) - 1]); // and one that is no more
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		CHECK(wrong[i] >= 0);
		CHECK_EQ(fd_peer_event_check(wrong[i]), (unsigned long long)-EBADF);
	}
	wrong[ARRAY_LEN(wrong) - 1] = -1;
	fd_close_all(wrong, ARRAY_LEN(wrong));
}

TEST(references_by_number)
{
	listen_names(NULL, NULL);
	int one = memfd_create("one", 0), ro, path_only;
	char ref[32], link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", one);
	ro = open(link, O_RDONLY);
	path_only = open("/", O_PATH);
	snprintf(ref, sizeof(ref), "fd:%d", one);
	CHECK(fd_is_reference(ref) && !fd_is_reference("fd") && !fd_is_reference("/fd:3") &&
	      !fd_is_reference(""));
	CHECK_EQ(inode_of(ref, O_RDWR), 1);
	CHECK_EQ(inode_of(ref, O_RDONLY), 1);
	CHECK_EQ(inode_of(ref, O_WRONLY | O_CREAT | O_TRUNC), 1);
	CHECK(fcntl(one, F_GETFD) >= 0); // ours stays
	snprintf(ref, sizeof(ref), "fd:%d", ro);
	CHECK_EQ(inode_of(ref, O_RDONLY), 1);
	CHECK_EQ(inode_of(ref, O_RDWR), (unsigned long long)-EACCES);
	CHECK(strstr(err.text, "not open for reading and writing") != NULL);
	CHECK_EQ(inode_of(ref, O_WRONLY), (unsigned long long)-EACCES);
	CHECK(strstr(err.text, "not open for writing") != NULL);
	snprintf(ref, sizeof(ref), "fd:%d", path_only);
	CHECK_EQ(inode_of(ref, O_RDONLY), (unsigned long long)-EACCES);
	CHECK_EQ(inode_of("fd:987654", O_RDONLY), (unsigned long long)-EBADF);
	CHECK_STR(err.text, "fd:987654: Bad file descriptor");
	static const char *const no_name[] = { "fd:",	"fd:-1",	  "fd:+1",  "fd: 1",
					       "fd:1x", "fd:99999999999", "fd:0x1", "fd:4294967299" };
	for (size_t i = 0; i < sizeof(no_name) / sizeof(no_name[0]); i++) {
		CHECK_EQ(inode_of(no_name[i], O_RDONLY), (unsigned long long)-ENOENT);
		CHECK(strstr(err.text, "no such name in LISTEN_FDNAMES") != NULL);
	}
	close(one);
	close(ro);
	close(path_only);
}

static int names_run(void)
{
	char pid[16];
	for (int fd = 3; fd < 64; fd++)
		close(fd);
	if (memfd_create("one", 0) != 3 || memfd_create("two", 0) != 4)
		return 1;
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	listen_names("kernel:disk", pid);
	if (inode_of("fd:kernel", O_RDWR) != 1 || inode_of("fd:disk", O_RDWR) != 2)
		return 2;
	if (inode_of("fd:dis", O_RDWR) != -ENOENT || inode_of("fd:diskx", O_RDWR) != -ENOENT ||
	    inode_of("fd:kernel:disk", O_RDWR) != -ENOENT)
		return 3;
	listen_names("kernel:disk", "1"); // meant for another process
	if (inode_of("fd:kernel", O_RDWR) != -ENOENT)
		return 4;
	listen_names("kernel:disk", NULL);
	if (inode_of("fd:disk", O_RDWR) != 2)
		return 5;
	listen_names(":disk", pid);
	if (inode_of("fd:", O_RDWR) != -ENOENT || inode_of("fd:disk", O_RDWR) != 2)
		return 6;
	listen_names("a:b:c", pid);
	return inode_of("fd:c", O_RDWR) == -EBADF ? 0 : 7; // more names than descriptors
}

TEST(references_by_name)
{
	CHECK_EQ(in_fork(names_run), 0);
}

TEST(paths)
{
	CHECK_EQ(inode_of("/nonexistent/x", O_RDONLY), (unsigned long long)-ENOENT);
	CHECK_STR(err.text, "open /nonexistent/x: No such file or directory");
	CHECK_EQ(inode_of("/dev/null", O_RDWR), 3);
	CHECK_EQ(inode_of("/", O_RDWR), (unsigned long long)-EISDIR);
}
