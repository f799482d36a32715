// SPDX-License-Identifier: BSD-2-Clause
// For fuzz targets: an input that is taken piece by piece; behind its end come zeros.
#ifndef MINIVMM_TESTS_FUZZ_INPUT_H
#define MINIVMM_TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static const uint8_t *input;
static size_t left;

// How much of it was there.
static inline size_t take(void *to, size_t len)
{
	size_t n = len < left ? len : left;
	memset(to, 0, len);
	memcpy(to, input, n);
	input += n;
	left -= n;
	return n;
}

#endif
