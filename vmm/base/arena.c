// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK_FIRST 4000u
#define ARENA_BLOCK_MAX	  (256u << 10)
#define ARENA_ALIGN	  _Alignof(max_align_t)

struct arena_block {
	struct arena_block *older;
	size_t size;
	_Alignas(max_align_t) char bytes[];
};

static int arena_grow(struct arena *a, size_t need)
{
	size_t size = ARENA_BLOCK_FIRST;
	if (a->blocks)
		size = a->blocks->size < ARENA_BLOCK_MAX / 2 ? a->blocks->size * 2 : ARENA_BLOCK_MAX;
#ifdef MINIVMM_SANITIZED
	size = 0; // each allocation by itself, so that an overrun of one is seen
#endif
	if (size < need)
		size = need;
	struct arena_block *b = calloc(1, sizeof(*b) + size);
	if (!b)
		return -1;
	b->older = a->blocks;
	b->size = size;
	a->blocks = b;
	a->next = b->bytes;
	a->left = size;
	return 0;
}

void *arena_alloc(struct arena *a, size_t size)
{
	if (size > SIZE_MAX / 2)
		return NULL;
#ifndef MINIVMM_SANITIZED // where each has a block of its own, the size stays exact
	size = (size + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
#endif
	if ((size > a->left || !a->next) && arena_grow(a, size))
		return NULL;
	void *p = a->next;
	a->next += size;
	a->left -= size;
	return p;
}

char *arena_copy(struct arena *a, const char *text, size_t len)
{
	char *p = arena_alloc(a, len + 1);
	if (p && len)
		memcpy(p, text, len);
	return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return NULL;
	char *p = arena_alloc(a, (size_t)n + 1);
	if (!p)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}

void arena_free(struct arena *a)
{
	struct arena_block *older;
	for (struct arena_block *b = a->blocks; b; b = older) {
		older = b->older;
		free(b);
	}
	*a = (struct arena){ 0 };
}
