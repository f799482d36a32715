// SPDX-License-Identifier: BSD-2-Clause
// What the files of `minivmm explain` share; nobody else includes it.
#ifndef MINIVMM_VMM_EXPLAIN_IMPL_H
#define MINIVMM_VMM_EXPLAIN_IMPL_H

#include "vmm/explain.h"

#include <stdint.h>

// One line: a name in the left column, what is to be said of it in the right one.
void explain_field(FILE *out, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void explain_user(FILE *out, bool isolated);

// ---- explain_calls.c

#define EXPLAIN_COLUMN 14 // of the right column

struct explain_list { // words with spaces between, each once, wrapped
	FILE *out;
	unsigned column;
	const char *label;
	char seen[4096]; // " word word "
};
void explain_list_word(struct explain_list *l, const char *word);
void explain_list_end(struct explain_list *l);

// Tables of system calls as sandbox_print() writes them, the caller's to free; NULL if there is none to be had.
char *explain_text_of_rules(const struct profile *p);
char *explain_text_of_printer(void (*print)(const char *prefix, FILE *out));
char *explain_text_of_program(const char *program); // what a program of ours prints of itself
// Prints those rows of a text that begin with `prefix`; `reasons`: each with its reason.
void explain_calls(FILE *out, const char *label, char *text, const char *prefix, bool reasons);
// The value of the row "limit TAB name TAB number" that a program of ours prints of itself; PROFILE_NO_LIMIT if it does not.
uint64_t explain_limit_in(const char *text, const char *name);

// ---- explain_beside.c: the small processes that belong to no device alone, or to one besides its program

void explain_beside(FILE *out, const struct vm_config *c, const struct explain_device *devices,
		    unsigned count, bool reasons);

#endif
