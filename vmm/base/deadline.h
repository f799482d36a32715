// SPDX-License-Identifier: BSD-2-Clause
// Points in time (CLOCK_MONOTONIC, nanoseconds) by which something must have happened.
#ifndef MINIVMM_BASE_DEADLINE_H
#define MINIVMM_BASE_DEADLINE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

// What an exchange with a peer may take, and what starting or stopping one may take.
#define DEADLINE_CONTROL_MS 2000
#define DEADLINE_START_MS   10000

typedef int64_t deadline_ns;

static inline deadline_ns deadline_now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static inline deadline_ns deadline_in_ms(int64_t ms)
{
	return deadline_now() + ms * NS_PER_MS;
}

// Milliseconds left, rounded up, 0 when it has passed: fit for poll(2).
static inline int deadline_left_ms(deadline_ns deadline)
{
	int64_t left = deadline - deadline_now();
	if (left <= 0)
		return 0;
	left = (left + NS_PER_MS - 1) / NS_PER_MS;
	return left > INT_MAX ? INT_MAX : (int)left;
}

#endif
