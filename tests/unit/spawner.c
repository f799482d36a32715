// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/spawner.h"

#include "tests/unit/child.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>

static char folder[] = "/tmp/spawner-XXXXXX", path[64];
static struct spawner spawner;
static struct spawner_job jobs[2];
static int line[2];

CHILD(sleep)
{
	sleep_ms(60000);
}

// A launch is the word that the child gets.
static int start(const void *launch, int alive_fd, int *sock, struct child *c, struct err *e)
{
	const char *argv[] = { "child", launch, NULL };
	struct spawn_request rq = { .id = "disk0",
				    .program = strcmp(launch, "nowhere") == 0 ? "/nowhere" : SELF,
				    .argv = argv,
				    .isolate = true,
				    .sibling = true,
				    .alive_fd = alive_fd };
	int rc = spawn_start(c, &rq, e);
	if (rc == 0)
		*sock = fd_eventfd(); // any descriptor will do
	return rc;
}

static bool prepare(const char *launch)
{
	struct err e = { "" };
	if (!*path && !mkdtemp(folder))
		return false;
	snprintf(path, sizeof(path), "%s/s", folder);
	jobs[0] = (struct spawner_job){ .id = "fs0", .path = path, .pidfd = -1 };
	jobs[1] = (struct spawner_job){ .id = "disk0", .start = start, .launch = launch, .pidfd = -1 };
	if (spawner_start(&spawner, jobs, 2, line, &e) == 0)
		return true;
	printf("%s\n", e.text);
	return false;
}

static bool answered(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, ms) == 1;
}

static void finish(void)
{
	spawner_stop(&spawner);
	fd_close_all(line, 2);
	unlink(path);
}

static unsigned fds_of(int pidfd)
{
	char text[64], key[32];
	int pid = 0;
	unsigned n = 0;
	snprintf(text, sizeof(text), "/proc/self/fdinfo/%d", pidfd);
	FILE *f = fopen(text, "r");
	while (f && fgets(text, sizeof(text), f))
		if (sscanf(text, "%31s %d", key, &pid) == 2 && strcmp(key, "Pid:") == 0)
			break;
	if (f)
		fclose(f);
	snprintf(text, sizeof(text), "/proc/%d/fd", pid);
	DIR *d = opendir(text);
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

TEST(a_socket_that_comes_is_connected_at_once)
{
	struct spawner_answer a;
	struct err e;
	uint64_t before = fds_open();
	CHECK(prepare("child:sleep"));
	for (int round = 0; round < 3; round++) {
		CHECK_EQ(spawner_ask(line[0], SPAWNER_CONNECT), 0);
		CHECK(!answered(line[0], 50));
		int64_t begin = now_ms();
		int listener =
			msg_listen(path, &e); // from the second round on in the place of a file that is left
		CHECK(listener >= 0);
		CHECK(answered(line[0], 5000));
		CHECK(now_ms() - begin < SPAWNER_RETRY_MS / 2);
		CHECK_EQ(spawner_take(line[0], "fs0", &a), 0);
		CHECK(a.sock >= 0 && a.child.pidfd < 0);
		close(a.sock);
		close(listener);
	}
	finish();
	CHECK_EQ(fds_open(), before);
	CHECK(no_children());
}

TEST(a_path_that_is_dead_costs_nothing)
{
	CHECK(prepare("child:sleep"));
	CHECK_EQ(spawner_ask(line[0], SPAWNER_CONNECT), 0);
	sleep_ms(1200);
	char text[64];
	clockid_t clock;
	struct timespec used = { 0 };
	int pid = 0;
	snprintf(text, sizeof(text), "/proc/self/fdinfo/%d", spawner.pidfd);
	FILE *f = fopen(text, "r");
	while (f && fgets(text, sizeof(text), f))
		sscanf(text, "Pid: %d", &pid);
	if (f)
		fclose(f);
	CHECK(pid > 0 && clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0);
	CHECK(used.tv_sec == 0 && used.tv_nsec < 50 * 1000000);
	finish();
}

TEST(a_program_is_started_once_at_a_time_and_is_ours)
{
	struct spawner_answer a;
	siginfo_t si = { 0 };
	CHECK(prepare("child:sleep"));
	for (int round = 0; round < 2; round++) {
		CHECK_EQ(spawner_ask(line[1], SPAWNER_START), 0);
		CHECK(answered(line[1], 5000));
		int rc = spawner_take(line[1], "disk0", &a);
		if (rc < 0)
			printf("%s\n", a.why.text);
		CHECK_EQ(rc, 0);
		CHECK(a.sock >= 0 && a.child.pidfd >= 0 && a.child.log_fd >= 0);
		close(a.sock);
		// Not a second time while it runs.
		struct spawner_answer b;
		CHECK_EQ(spawner_ask(line[1], SPAWNER_START), 0);
		CHECK(answered(line[1], 5000));
		CHECK_EQ(-spawner_take(line[1], "disk0", &b), EBUSY);
		CHECK_STR(b.why.text, "it still runs");
		// Our child, which we reap.
		CHECK_EQ(kill(a.child.pid, SIGKILL), 0);
		CHECK_EQ(waitid(P_PID, (id_t)a.child.pid, &si, WEXITED), 0);
		CHECK_EQ(si.si_pid, a.child.pid);
		close(a.child.pidfd);
		close(a.child.log_fd);
	}
	finish();
	CHECK(no_children());
}

TEST(a_program_that_cannot_be_started_is_told_and_reaped)
{
	struct spawner_answer a;
	CHECK(prepare("nowhere"));
	CHECK_EQ(spawner_ask(line[1], SPAWNER_START), 0);
	CHECK(answered(line[1], 5000));
	CHECK_EQ(-spawner_take(line[1], "disk0", &a), ENOENT);
	CHECK(strstr(a.why.text, "start /nowhere: "));
	finish();
	CHECK(no_children());
}

TEST(what_is_no_request_of_a_job_is_refused)
{
	struct spawner_answer a;
	CHECK(prepare("child:sleep"));
	const uint8_t wrong[] = { SPAWNER_START, 0, 'x', 0xff };
	for (size_t i = 0; i < sizeof(wrong); i++) {
		CHECK_EQ(spawner_ask(line[0], (enum spawner_request)wrong[i]), 0);
		CHECK(answered(line[0], 5000));
		CHECK_EQ(-spawner_take(line[0], "fs0", &a), EINVAL);
	}
	CHECK_EQ(spawner_ask(line[1], SPAWNER_CONNECT), 0);
	CHECK(answered(line[1], 5000));
	CHECK_EQ(-spawner_take(line[1], "disk0", &a), EINVAL);
	finish();
}

// 0, 1, 2, the lines, the watch on folders, and what a job keeps; whatever else this process has open.
TEST(it_holds_what_it_needs_only_and_ends_with_its_lines)
{
	int kept = fd_eventfd(), other = fcntl(kept, F_DUPFD_CLOEXEC, 50);
	struct err e;
	CHECK(prepare("child:sleep"));
	finish();
	jobs[1].keep[0] = kept;
	jobs[1].keep_count = 1;
	CHECK_EQ(spawner_start(&spawner, jobs, 2, line, &e), 0);
	for (int i = 0; i < 200 && fds_of(spawner.pidfd) != 7; i++)
		sleep_ms(5);
	CHECK_EQ(fds_of(spawner.pidfd), 7);
	close(kept);
	close(other);
	fd_close_all(line, 2);
	CHECK(answered(spawner.pidfd, 5000));
	CHECK_EQ(spawner_ask(line[0], SPAWNER_START), -EPIPE);
	finish();
	rmdir(folder);
	CHECK(no_children());
}

static int monitor_that_dies(void)
{
	int to = line[0]; // the write end of a pipe
	if (!prepare("child:sleep"))
		return 1;
	struct spawner_answer a;
	spawner_ask(line[1], SPAWNER_START);
	if (!answered(line[1], 5000) || spawner_take(line[1], "disk0", &a) < 0)
		return 2;
	const pid_t pid = a.child.pid;
	if (write(to, &pid, sizeof(pid)) != sizeof(pid))
		return 3;
	kill(getpid(), SIGKILL);
	return 4;
}

// P04: with the monitor go the spawner and what it started.
TEST(all_die_with_the_monitor)
{
	int ends[2];
	pid_t pid = 0;
	CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
	line[0] = ends[1];
	CHECK_EQ(in_fork(monitor_that_dies), 1000 + SIGKILL);
	CHECK_EQ(read(ends[0], &pid, sizeof(pid)), (ssize_t)sizeof(pid));
	int64_t begin = now_ms();
	char text[64], state = 'R';
	while (kill(pid, 0) == 0 && state != 'Z' && now_ms() - begin < 3000) {
		snprintf(text, sizeof(text), "/proc/%d/stat", (int)pid);
		FILE *f = fopen(text, "r");
		if (!f || fscanf(f, "%*d %*s %c", &state) != 1)
			state = 'Z';
		if (f)
			fclose(f);
		sleep_ms(5);
	}
	CHECK(now_ms() - begin < 3000);
	close(ends[1]);
	// The spawner had it, too: it is gone when the pipe ends.
	CHECK(answered(ends[0], 3000));
	close(ends[0]);
}
