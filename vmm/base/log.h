// SPDX-License-Identifier: BSD-2-Clause
// Lines on standard error.
//
// One line a call, "PROGRAM: TEXT", written with one write(2) so that lines of several processes do not mix.
// Never blocks: a line that a full pipe would not take at once is dropped and counted, and the count is told
// when the pipe takes lines again.  Callable from any thread; does not allocate.  What a guest or a peer
// can provoke is logged through log_limited() only.
#ifndef MINIVMM_BASE_LOG_H
#define MINIVMM_BASE_LOG_H

#include <stdatomic.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// The program's name (kept by reference) and the highest level that is shown.  Default: "minivmm", LOG_WARN.
void log_init(const char *program, enum log_level highest);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *fmt, ...);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

// At most `LOG_BURST` lines, then one a second with the number of those left out.
#define LOG_BURST 5
struct log_limit {
	_Atomic int64_t window_ns; // when the next line may be shown once the burst is used up
	_Atomic unsigned shown;
	_Atomic unsigned left_out;
};

__attribute__((format(printf, 3, 4))) void log_line_limited(struct log_limit *limit, enum log_level level,
							    const char *fmt, ...);

// One limit for each place in the source that logs.
#define log_limited(level, ...)                                \
	do {                                                   \
		static struct log_limit limit_;                \
		log_line_limited(&limit_, level, __VA_ARGS__); \
	} while (0)

#endif
