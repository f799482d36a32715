// SPDX-License-Identifier: BSD-2-Clause
// For tests that start processes: a test program that is its own child, a log that can be read back, counts of what must not leak.
//
// CHILD(name) { ... } is what the program does when it is executed with "child:name" as its first argument; it ends there.
#ifndef MINIVMM_TESTS_UNIT_CHILD_H
#define MINIVMM_TESTS_UNIT_CHILD_H

#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SELF "/proc/self/exe"

#define CHILD(name_)                                                                     \
	static void child_##name_(int argc, char **argv);                                \
	__attribute__((constructor)) static void child_if_##name_(int argc, char **argv) \
	{                                                                                \
		if (argc < 2 || strcmp(argv[1], "child:" #name_) != 0)                   \
			return;                                                          \
		child_##name_(argc, argv);                                               \
		_exit(0);                                                                \
	}                                                                                \
	static void child_##name_(__attribute__((unused)) int argc, __attribute__((unused)) char **argv)

// What this program has open: one bit a descriptor, for the first 64.
static inline uint64_t fds_open(void)
{
	uint64_t open = 0;
	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			open |= UINT64_C(1) << fd;
	return open;
}

// True if no child, dead or alive, is left.
static inline bool no_children(void)
{
	return waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD;
}

static inline int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void sleep_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

// Standard error goes to memory until captured().
static int capture_saved = -1, capture_mem = -1;
static char capture_text[65536];

static inline void capture(void)
{
	capture_saved = dup(2);
	capture_mem = memfd_create("stderr", 0);
	dup2(capture_mem, 2);
}

static inline const char *captured(void)
{
	dup2(capture_saved, 2);
	close(capture_saved);
	ssize_t n = pread(capture_mem, capture_text, sizeof(capture_text) - 1, 0);
	capture_text[n < 0 ? 0 : n] = '\0';
	close(capture_mem);
	return capture_text;
}

// Runs a function in a forked process, away from this one's limits and ids.  Its result is the process's status (0 to 125), or
// 1000 + signal.
static inline int in_fork(int (*run)(void))
{
	int status;
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		_exit(run());
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

#endif
