// SPDX-License-Identifier: BSD-2-Clause
// "Did you mean ...?": the word of a list that somebody most likely meant.
#ifndef MINIVMM_BASE_SUGGEST_H
#define MINIVMM_BASE_SUGGEST_H

struct suggest {
	const char *word; // what was written
	const char *best; // what was meant, or NULL
	unsigned distance;
};

// Offers one known word.  After all were offered, s->best is the nearest, if one is near enough to be worth
// telling: a letter missing, added, changed or two swapped, twice at most; or a name that it has elsewhere,
// such as "ram" for "memory".  Start with { .word = ... }.
void suggest_offer(struct suggest *s, const char *known);

#endif
