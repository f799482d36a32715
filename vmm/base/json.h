// SPDX-License-Identifier: BSD-2-Clause
// A reader for the little JSON (RFC 8259) that peers send: strict, bounded, without memory of its own.
//
// Goes through a text once and shows each value as it comes, with the names that lead to it.  For who looks for a
// few values and has no use for a tree.
#ifndef MINIVMM_BASE_JSON_H
#define MINIVMM_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_DEPTH_MAX 8
#define JSON_PATH_MAX  128 // bytes of a path, its NUL included

enum json_kind { JSON_NULL, JSON_BOOLEAN, JSON_NUMBER, JSON_STRING, JSON_OBJECT, JSON_ARRAY };

struct json_value {
	const char *
		path; // "a.b": the names, joined; "" the whole text; an array's elements are all "[]"; of a name
		      // that is not made of A-Z a-z 0-9 _ - alone, or does not fit any more, "?" stands there
	enum json_kind kind;
	bool truth;   // JSON_BOOLEAN
	bool natural; // JSON_NUMBER: an integer from 0 to 2^64 - 1, written as such:
	uint64_t number;
};

// Calls `see` for each value, an object or an array before what is in it, until it returns something else than
// NULL.  NULL, or what is wrong with the text in a few words (or what `see` returned); some values have been shown
// by then.  The text is UTF-8 and has no NUL.
const char *json_read(const char *text, size_t len, const char *(*see)(void *arg, const struct json_value *v),
		      void *arg);

#endif
