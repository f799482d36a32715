// SPDX-License-Identifier: BSD-2-Clause
// TOML 1.0 (toml.io/en/v1.0.0): text in, a tree of values out.
//
// Complete and strict: what the specification forbids is refused, at the first place that breaks a rule.
// Beyond the specification: at most 1 MiB of text, at most 32 levels of tables and arrays, no byte order
// mark, integers of 64 bits, and a float that would overflow to infinity is refused.  The tree and all its
// text live in the caller's arena; nothing else is allocated.  Time is O(n log n) whatever the text.
#ifndef MINIVMM_BASE_TOML_H
#define MINIVMM_BASE_TOML_H

#include "vmm/base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOML_TEXT_MAX  (1u << 20) // bytes
#define TOML_DEPTH_MAX 32	  // tables and arrays inside each other, the root not counted

enum toml_type {
	TOML_STRING,
	TOML_INTEGER,
	TOML_FLOAT,
	TOML_BOOLEAN,
	TOML_OFFSET_DATETIME,
	TOML_LOCAL_DATETIME,
	TOML_LOCAL_DATE,
	TOML_LOCAL_TIME,
	TOML_ARRAY,
	TOML_TABLE,
};

struct toml_text {
	const char *bytes; // UTF-8, with a NUL behind; may contain NULs ("\u0000")
	size_t len;
};

struct toml_datetime { // what the type has no part of is 0
	uint16_t year;
	uint8_t month, day, hour, minute, second; // second may be 60 (RFC 3339 §5.6)
	uint32_t nanosecond;			  // further digits are cut off
	int16_t offset_minutes;
};

struct toml_value {
	enum toml_type type;
	uint8_t depth;	       // 0: the root
	uint8_t origin;	       // how a table or array was defined: toml.c's own
	uint8_t level;	       // in the index: toml_index.c's own
	unsigned line, column; // of the value ([x] or [[x]]: of the header), from 1; columns count characters
	struct toml_text key;  // in a table
	unsigned key_line, key_column;
	struct toml_value *next;	 // in a table or array, in order of the text
	struct toml_value *left, *right; // in a table's index: toml.c's own
	union {
		struct toml_text string;
		int64_t integer;
		// As strtod(3) reads it, so that those who want none, all of ours, do not link what makes numbers of it.
		const char *real;
		bool boolean;
		struct toml_datetime datetime;
		struct {
			struct toml_value *first, *last; // NULL: empty
			struct toml_value *index;	 // toml.c's own
		} children;				 // tables and arrays
	};
};

struct toml_error {
	unsigned line, column; // from 1
	char text[200];	       // what is wrong; printable ASCII
};

// Reads a document.  0 with *root a table, or -EINVAL (-ENOMEM) with *e set.  Keeps no reference to `text`.
int toml_parse(struct arena *a, const char *text, size_t len, struct toml_value **root, struct toml_error *e);

// Reads one value and nothing else, as it would stand after "key =".
int toml_parse_value(struct arena *a, const char *text, size_t len, struct toml_value **value,
		     struct toml_error *e);

// The value of a key, or NULL, also if `table` is NULL or no table.
struct toml_value *toml_get(const struct toml_value *table, const char *key);

// Puts `value` (in no table yet, from the same arena) under `key`, in the place of what was there; the places
// in the text stay what they are in `value`.  0 or -ENOMEM.
int toml_put(struct arena *a, struct toml_value *table, const char *key, struct toml_value *value);

// An empty table, or NULL when memory is short.
struct toml_value *toml_new_table(struct arena *a);

// "a string", "an integer", ...: for messages.
const char *toml_type_name(enum toml_type type);

#endif
