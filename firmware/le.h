// SPDX-License-Identifier: BSD-2-Clause
// Little-endian fields at any alignment: what boot headers and ACPI tables are made of.
#ifndef MINIVMM_FIRMWARE_LE_H
#define MINIVMM_FIRMWARE_LE_H

#include <stdint.h>

static inline uint64_t le_get(const void *p, unsigned size)
{
	const uint8_t *b = p;
	uint64_t v = 0;
	for (unsigned i = size; i-- > 0;)
		v = v << 8 | b[i];
	return v;
}

static inline void le_put(void *p, unsigned size, uint64_t v)
{
	uint8_t *b = p;
	for (unsigned i = 0; i < size; i++, v >>= 8)
		b[i] = (uint8_t)v;
}

static inline uint16_t le16(const void *p)
{
	return (uint16_t)le_get(p, 2);
}

static inline uint32_t le32(const void *p)
{
	return (uint32_t)le_get(p, 4);
}

static inline uint64_t le64(const void *p)
{
	return le_get(p, 8);
}

static inline void le16_put(void *p, uint16_t v)
{
	le_put(p, 2, v);
}

static inline void le32_put(void *p, uint32_t v)
{
	le_put(p, 4, v);
}

static inline void le64_put(void *p, uint64_t v)
{
	le_put(p, 8, v);
}

#endif
