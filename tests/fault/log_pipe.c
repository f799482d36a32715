// SPDX-License-Identifier: BSD-2-Clause
// Standard error is a pipe that nobody reads, or that nobody can read any more: whoever logs goes on, and the loss is told later.
#include "tests/unit/child.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <signal.h>

// Gives this process a pipe for standard error.  Returns its read end.
static int pipe_as_stderr(void)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	return ends[0];
}

static int full(void)
{
	static char text[1 << 17];
	int from = pipe_as_stderr();
	int64_t start = now_ms();
	for (unsigned i = 0; i < 5000; i++)
		log_warn("line %u", i);
	if (now_ms() - start > 5000)
		return 1;
	ssize_t n = read(from, text, sizeof(text) - 1);
	if (n <= 0 || strncmp(text, "minivmm: line 0\n", 16) != 0 || text[n - 1] != '\n')
		return 2; // only whole lines
	unsigned got = 0, lost;
	for (ssize_t i = 0; i < n; i++)
		got += text[i] == '\n';
	log_warn("again");
	log_warn("and again");
	n = read(from, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = '\0';
	lost = (unsigned)strtoul(text + strlen("minivmm: ("), NULL, 10);
	return strstr(text, " lines lost) again\nminivmm: and again\n") && got + lost == 5000 ? 0 : 3;
}

TEST(a_full_pipe_loses_lines_and_counts_them)
{
	CHECK_EQ(in_fork(full), 0);
}

static int closed(void)
{
	close(pipe_as_stderr());
	signal(SIGPIPE, SIG_DFL);
	log_warn("nobody hears this");
	close(STDERR_FILENO);
	log_warn("nor this");
	if (open("/dev/null", O_WRONLY) != STDERR_FILENO)
		return 2;
	int from = pipe_as_stderr();
	char text[128] = "";
	log_warn("this");
	return read(from, text, sizeof(text) - 1) > 0 && strcmp(text, "minivmm: (2 lines lost) this\n") == 0
		       ? 0
		       : 1;
}

TEST(a_pipe_without_a_reader_is_no_end)
{
	CHECK_EQ(in_fork(closed), 0);
}

CHILD(talker)
{
	for (unsigned i = 0; i < 20000; i++)
		log_warn("line %u", i);
	_exit(7);
}

// The monitor is busy elsewhere and does not read.
TEST(a_device_does_not_wait_for_its_log)
{
	struct child c;
	struct err e = { "" };
	int status = -1;
	const char *argv[] = { "child", "child:talker", NULL };
	struct spawn_request rq = { .id = "disk0", .program = SELF, .argv = argv, .isolate = true };
	CHECK_EQ(spawn_start(&c, &rq, &e), 0);
	for (int64_t start = now_ms(); waitpid(c.pid, &status, WNOHANG) == 0 && now_ms() - start < 10000;)
		sleep_ms(10);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	capture();
	const char *last = spawn_last_words(&c, 1000);
	captured();
	CHECK(strncmp(last, "minivmm: line ", 14) == 0);
	spawn_stop(&c, 0);
}

// The monitor has closed its end.
TEST(a_device_survives_its_log)
{
	struct child c;
	struct err e = { "" };
	int status = -1;
	const char *argv[] = { "child", "child:talker", NULL };
	struct spawn_request rq = { .id = "disk0", .program = SELF, .argv = argv, .isolate = true };
	CHECK_EQ(spawn_start(&c, &rq, &e), 0);
	close(c.log_fd);
	c.log_fd = -1;
	for (int64_t start = now_ms(); waitpid(c.pid, &status, WNOHANG) == 0 && now_ms() - start < 10000;)
		sleep_ms(10);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	spawn_stop(&c, 0);
}
