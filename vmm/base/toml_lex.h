// SPDX-License-Identifier: BSD-2-Clause
// The small pieces of a TOML text: keys and strings (toml_lex.c), numbers and dates (toml_number.c). toml.c's
// own; nobody else includes this.
#ifndef MINIVMM_BASE_TOML_LEX_H
#define MINIVMM_BASE_TOML_LEX_H

#include "vmm/base/toml.h"

struct toml_lex {
	struct arena *arena;
	const char *text;
	size_t len, pos;
	size_t mark; // a place whose line and column are known
	unsigned mark_line, mark_column;
	struct toml_error *err;
};

// Line and column of a byte.  Cheap as long as places are asked for in ascending order.
void toml_lex_place(struct toml_lex *lx, size_t pos, unsigned *line, unsigned *column);

// Says what is wrong at `pos`; returns -EINVAL.
__attribute__((format(printf, 3, 4))) int toml_lex_fail(struct toml_lex *lx, size_t pos, const char *fmt,
							...);

// Says that something else than the character at the current place is due.
int toml_lex_unexpected(struct toml_lex *lx, const char *due);

int toml_lex_no_memory(struct toml_lex *lx);

// Checks what holds for every place: size, UTF-8, no control characters, no bare carriage return.  The other
// functions rely on it.
int toml_lex_check_text(struct toml_lex *lx);

// The next byte, or -1 at the end.
static inline int toml_lex_peek(const struct toml_lex *lx)
{
	return lx->pos < lx->len ? (unsigned char)lx->text[lx->pos] : -1;
}

void toml_lex_skip_blank(struct toml_lex *lx);		       // spaces and tabs
void toml_lex_skip_space(struct toml_lex *lx);		       // and newlines and comments
int toml_lex_line_end(struct toml_lex *lx, const char *after); // blank, comment, then a newline or the end

// One part of a dotted key.
int toml_lex_key(struct toml_lex *lx, struct toml_text *key);

// A value that is no array and no inline table.
int toml_lex_scalar(struct toml_lex *lx, struct toml_value *v);

// A value that is a word: a boolean, a number, a date or time.
int toml_lex_word(struct toml_lex *lx, struct toml_value *v);

#ifdef __clang_analyzer__ // as in err.h
#define toml_lex_fail(...)     (toml_lex_fail(__VA_ARGS__), -1)
#define toml_lex_no_memory(lx) (toml_lex_no_memory(lx), -1)
#endif

#endif
