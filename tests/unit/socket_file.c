// SPDX-License-Identifier: BSD-2-Clause
// A socket's file goes with its owner, whatever way that ends, and nobody else's file ever does.
//
// The keeper is forked twice, to be init's; here the test is the subreaper in init's place, which shows how it ends.
#include "vmm/base/socket_file.h"
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static char dir[] = "/tmp/minivmm-socket-file.XXXXXX";
static char path[64], other[64];
static struct err err;

static bool folder(void)
{
	static bool made;
	made = made || mkdtemp(dir);
	snprintf(path, sizeof(path), "%s/socket", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L);
	return made;
}

static bool there(const char *name)
{
	struct stat st;
	return lstat(name, &st) == 0;
}

// The next child's end, as wait status, within 2 s; -1 without one.
static int child_end(pid_t *pid)
{
	for (int i = 0; i < 2000; i++) {
		int status;
		*pid = waitpid(-1, &status, WNOHANG);
		if (*pid > 0)
			return status;
		sleep_ms(1);
	}
	return -1;
}

// The keeper, told by the name of its process among our children.
static pid_t keeper_pid(void)
{
	char name[64], comm[32];
	DIR *proc = opendir("/proc");
	pid_t found = 0;
	for (struct dirent *d; proc && (d = readdir(proc)) != NULL;) {
		int pid = atoi(d->d_name), parent = 0;
		snprintf(name, sizeof(name), "/proc/%d/stat", pid);
		FILE *f = pid > 0 ? fopen(name, "r") : NULL;
		if (f && fscanf(f, "%*d (%31[^)]) %*c %d", comm, &parent) == 2 && parent == getpid() &&
		    strcmp(comm, "socket-keeper") == 0)
			found = pid;
		if (f)
			fclose(f);
	}
	if (proc)
		closedir(proc);
	return found;
}

// A process that listens and waits to be killed; its end of `ready` says that it does.
static pid_t owner_start(void)
{
	int ready[2];
	char byte;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0) {
		int keeper = -1;
		int fd = socket_file_listen(path, &keeper, &err);
		if (fd < 0 || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	bool good = read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	return good ? pid : -1;
}

TEST(orderly)
{
	CHECK(folder());
	uint64_t before = fds_open();
	int keeper = -1;
	FD_AUTO fd = socket_file_listen(path, &keeper, &err);
	CHECK(fd >= 0);
	CHECK(keeper >= 0);
	CHECK(fcntl(keeper, F_GETFD) & FD_CLOEXEC);
	CHECK(there(path));
	CHECK(keeper_pid() > 0);
	socket_file_remove(&keeper);
	CHECK(!there(path)); // at once
	CHECK_EQ(keeper, -1);
	socket_file_remove(&keeper);
	fd_close(&fd);
	CHECK_EQ(fds_open(), before);
	pid_t pid;
	CHECK_EQ(child_end(&pid), 0);
	CHECK(no_children());
}

TEST(killed)
{
	CHECK(folder());
	pid_t owner = owner_start(), pid;
	CHECK(owner > 0);
	CHECK(there(path));
	kill(owner, SIGKILL);
	bool zero = false;
	for (int i = 0; i < 2; i++) {
		int status = child_end(&pid);
		zero |= pid != owner && status == 0;
	}
	CHECK(zero);
	CHECK(!there(path));
	CHECK(no_children());
}

TEST(signals_to_the_group_do_not_reach_it)
{
	CHECK(folder());
	int keeper = -1;
	FD_AUTO fd = socket_file_listen(path, &keeper, &err);
	CHECK(fd >= 0);
	pid_t pid = keeper_pid();
	CHECK(pid > 0);
	CHECK_EQ(getpgid(pid), pid); // not the group that a terminal or a shell signals
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1 };
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		kill(pid, signals[i]);
	sleep_ms(20);
	CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
	socket_file_remove(&keeper);
	CHECK(!there(path));
	CHECK_EQ(child_end(&pid), 0);
}

// What lies there when the owner ends is somebody else's.
static bool left_alone(bool (*replace)(void))
{
	int keeper = -1;
	pid_t pid;
	FD_AUTO fd = socket_file_listen(path, &keeper, &err);
	bool good = fd >= 0 && replace();
	socket_file_remove(&keeper);
	good &= there(path);
	unlink(path);
	unlink(other);
	return child_end(&pid) == 0 && good;
}

static bool replace_by_file(void)
{
	// A file system may hand the same inode number out again: it does not while the keeper holds the old file.
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	fd_close(&fd);
	return there(path);
}

static bool replace_by_link_to_it(void)
{
	return rename(path, other) == 0 && symlink(other, path) == 0;
}

static bool replace_by_socket(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	memcpy(sa.sun_path, path, strlen(path) + 1);
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return unlink(path) == 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
}

static bool replace_by_folder(void)
{
	return unlink(path) == 0 && mkdir(path, 0700) == 0;
}

TEST(somebody_elses_file_is_left_alone)
{
	CHECK(folder());
	for (int i = 0; i < 20; i++)
		CHECK(left_alone(replace_by_file));
	CHECK(left_alone(replace_by_socket));
	CHECK(left_alone(replace_by_link_to_it));
	CHECK(left_alone(replace_by_folder));
	CHECK_EQ(rmdir(path), 0);
}

TEST(gone_already)
{
	CHECK(folder());
	int keeper = -1;
	pid_t pid;
	FD_AUTO fd = socket_file_listen(path, &keeper, &err);
	CHECK(fd >= 0);
	unlink(path);
	socket_file_remove(&keeper);
	CHECK_EQ(child_end(&pid), 0);
	fd_close(&fd);
	// Its keeper killed: the owner waits for nobody, and what nobody listens on is replaced.
	fd = socket_file_listen(path, &keeper, &err);
	CHECK(fd >= 0);
	kill(keeper_pid(), SIGKILL);
	CHECK_EQ(child_end(&pid), SIGKILL);
	int64_t begin = now_ms();
	socket_file_remove(&keeper);
	CHECK(now_ms() - begin < 500);
	CHECK(there(path));
	fd_close(&fd);
	fd = socket_file_listen(path, &keeper, &err);
	CHECK(fd >= 0);
	socket_file_remove(&keeper);
	CHECK_EQ(child_end(&pid), 0);
}

TEST(it_holds_nothing_else)
{
	CHECK(folder());
	int keeper = -1;
	FD_AUTO more = open("/dev/null", O_RDONLY); // without O_CLOEXEC
	FD_AUTO fd = socket_file_listen(path, &keeper, &err);
	CHECK(more >= 0 && fd >= 0);
	pid_t pid = keeper_pid();
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/fd", (int)pid);
	DIR *fds = opendir(name); // root may look
	unsigned count = 0;
	for (struct dirent *d; fds && (d = readdir(fds)) != NULL;)
		count += d->d_name[0] != '.';
	if (fds)
		closedir(fds);
	socket_file_remove(&keeper);
	CHECK_EQ(child_end(&pid), 0);
	if (!fds)
		SKIP("no access to a process that is not dumpable");
	CHECK_EQ(count, 3);
}

TEST(refusals)
{
	CHECK(folder());
	uint64_t before = fds_open();
	int keeper = -1;
	CHECK(socket_file_listen("/nonexistent/x", &keeper, &err) < 0);
	CHECK_STR(err.text, "listen on /nonexistent/x: No such file or directory");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	fd_close(&fd);
	CHECK(socket_file_listen(path, &keeper, &err) < 0);
	CHECK(strstr(err.text, "something is there already") != NULL);
	CHECK(there(path));
	unlink(path);
	CHECK_EQ(keeper, -1);
	CHECK_EQ(fds_open(), before);
	CHECK(no_children());
	rmdir(dir);
}
