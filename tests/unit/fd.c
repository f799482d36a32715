// SPDX-License-Identifier: BSD-2-Clause
// Descriptors: owned, stolen, handed over by number and by name.
#include "vmm/base/fd.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"

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
