// SPDX-License-Identifier: BSD-2-Clause
// Short texts that people write, to numbers: sizes and counts.  Nothing wraps, nothing is skipped, nothing is
// guessed.
#ifndef MINIVMM_BASE_PARSE_H
#define MINIVMM_BASE_PARSE_H

#include <stdint.h>

// Decimal digits and nothing else, at most `max`.  0, -EINVAL (no such number) or -ERANGE (above `max`).
int parse_uint(const char *text, uint64_t max, uint64_t *out);

// Bytes: decimal digits, then nothing or one of K M G T (powers of 1024).  0, -EINVAL or -ERANGE (2^64 and
// above).
int parse_size(const char *text, uint64_t *out);

// The address of one Ethernet interface, "52:54:00:12:34:56".  0, or -EINVAL: no address, a group's, or all zeros.
int parse_mac(const char *text, uint8_t mac[6]);

// Processors by number, "2-3,5", as bits; numbers above PARSE_CPUS_MAX are none.  0 or -EINVAL.
#define PARSE_CPUS_MAX 1023
int parse_cpus(const char *text, uint64_t set[(PARSE_CPUS_MAX + 1) / 64]);

#endif
