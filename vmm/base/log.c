// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_LEN 1024

static const char *log_program = "minivmm";
static enum log_level log_highest = LOG_WARN;
static _Atomic unsigned log_dropped;

void log_init(const char *program, enum log_level highest)
{
	log_program = program;
	log_highest = highest;
}

// Standard error may be shared with other processes, so it cannot be made non-blocking; a pipe that polls as
// writable takes PIPE_BUF bytes without waiting, and a line is shorter than that.
static bool log_write(const char *line, size_t len)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
	if (poll(&p, 1, 0) != 1 ||
	    p.revents != POLLOUT) // POLLERR: nobody reads any more, a write would raise SIGPIPE
		return false;
	return write(STDERR_FILENO, line, len) == (ssize_t)len;
}

__attribute__((format(printf, 2, 0))) static void log_format(unsigned left_out, const char *fmt, va_list ap)
{
	char line[LINE_MAX_LEN];
	const size_t room = sizeof(line) - 1;
	int saved_errno = errno;

	unsigned dropped = atomic_exchange(&log_dropped, 0);
	int n = snprintf(line, room, "%s: ", log_program);
	size_t len = n < 0 ? 0 : (size_t)n;
	if (dropped && len < room) {
		n = snprintf(line + len, room - len, "(%u lines lost) ", dropped);
		len += n < 0 ? 0 : (size_t)n;
	}
	if (len < room) {
		n = vsnprintf(line + len, room - len, fmt, ap);
		len += n < 0 ? 0 : (size_t)n;
	}
	if (left_out && len < room) {
		n = snprintf(line + len, room - len, " (%u more like this left out)", left_out);
		len += n < 0 ? 0 : (size_t)n;
	}
	if (len > room - 1)
		len = room - 1;
	line[len++] = '\n';
	if (!log_write(line, len))
		atomic_fetch_add(&log_dropped, dropped + 1);
	errno = saved_errno;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	if (level > log_highest)
		return;
	va_list ap;
	va_start(ap, fmt);
	log_format(0, fmt, ap);
	va_end(ap);
}

void log_line_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
	if (level > log_highest)
		return;
	unsigned left_out = 0;
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	int64_t now = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	if (atomic_load(&limit->shown) >= LOG_BURST) {
		int64_t next = atomic_load(&limit->window_ns);
		if (now < next ||
		    !atomic_compare_exchange_strong(&limit->window_ns, &next, now + 1000000000)) {
			atomic_fetch_add(&limit->left_out, 1);
			return;
		}
		left_out = atomic_exchange(&limit->left_out, 0);
	} else {
		atomic_store(&limit->window_ns, now + 1000000000);
		atomic_fetch_add(&limit->shown, 1);
	}
	va_list ap;
	va_start(ap, fmt);
	log_format(left_out, fmt, ap);
	va_end(ap);
}
