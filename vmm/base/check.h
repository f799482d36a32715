// SPDX-License-Identifier: BSD-2-Clause
// The only place where ranges are compared and sizes are narrowed.
#ifndef MINIVMM_BASE_CHECK_H
#define MINIVMM_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// True if [off, off + len) lies within [0, total).  No sum that could wrap is formed.
static inline bool range_in(uint64_t off, uint64_t len, uint64_t total)
{
	return len <= total && off <= total - len;
}

// True if [a, a + a_len) and [b, b + b_len) share a byte.  Neither range may wrap.
static inline bool range_overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a_len && b_len && (a < b ? b - a < a_len : a - b < b_len);
}

static inline bool is_power_of_two(uint64_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

// `align` is a power of two; the caller knows that v + align does not wrap.
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

// A mask of the low `size` bytes, 1 <= size <= 8.
static inline uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~UINT64_C(0) : (UINT64_C(1) << (8 * size)) - 1;
}

#define ARRAY_LEN(a)		      (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#define MIN(a, b)		      ((a) < (b) ? (a) : (b))
#define MAX(a, b)		      ((a) > (b) ? (a) : (b))

#endif
