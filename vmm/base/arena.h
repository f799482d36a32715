// SPDX-License-Identifier: BSD-2-Clause
// Memory that is given back all at once.
//
// For what is built from one text and dies with it (a parsed configuration).  Not for anything that a guest
// or a peer can make grow: nothing is freed before arena_free().
#ifndef MINIVMM_BASE_ARENA_H
#define MINIVMM_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena { // all zeros: empty
	struct arena_block *blocks;
	char *next; // free bytes of the newest block
	size_t left;
};

// Zeroed bytes, aligned for any type, or NULL when memory is short.  `size` may be 0.
void *arena_alloc(struct arena *a, size_t size);

// A copy of `len` bytes with a NUL behind, or NULL.
char *arena_copy(struct arena *a, const char *text, size_t len);

// printf into the arena, or NULL.
__attribute__((format(printf, 2, 3))) char *arena_printf(struct arena *a, const char *fmt, ...);

// Frees everything; the arena is empty and good again.
void arena_free(struct arena *a);

#endif
