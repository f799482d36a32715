// SPDX-License-Identifier: BSD-2-Clause
// One run of reading a configuration: where its memory comes from and where its errors go.  For config.c and
// its parts (config_key.c, config_override.c); nobody else includes this.
#ifndef MINIVMM_VMM_CONFIG_READER_H
#define MINIVMM_VMM_CONFIG_READER_H

#include "vmm/base/arena.h"
#include "vmm/base/toml.h"

#include <stdbool.h>
#include <stdio.h>

struct config_reader {
	struct arena *arena;
	const char *file;      // for messages
	const char *directory; // that relative paths in the file start from, with a slash behind; "" for none
	const char *const *overrides; // texts of --set
	FILE *errors;
	unsigned error_count;
	bool no_memory;
	char object[64]; // whose keys are being read: "[vm]", "[device] \"disk0\""
};

// Prints one line: the place, r->object, the sentence.  Line 0 stands for --set, the column then for which.
__attribute__((format(printf, 4, 5))) void config_complain(struct config_reader *r, unsigned line,
							   unsigned column, const char *fmt, ...);
#define config_complain_value(r, v, ...) config_complain(r, (v)->line, (v)->column, __VA_ARGS__)
#define config_complain_key(r, v, ...)	 config_complain(r, (v)->key_line, (v)->key_column, __VA_ARGS__)

// Passes on what came out of the arena, and remembers if it is NULL.
void *config_kept(struct config_reader *r, void *p);

// A text in quotes, fit for a message: no control characters, not endless.
const char *config_quote(struct config_reader *r, const struct toml_text *t);

#endif
