// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/toml_lex.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool is_continuation(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

void toml_lex_place(struct toml_lex *lx, size_t pos, unsigned *line, unsigned *column)
{
	if (pos < lx->mark || lx->mark_line == 0) {
		lx->mark = 0;
		lx->mark_line = lx->mark_column = 1;
	}
	for (; lx->mark < pos && lx->mark < lx->len; lx->mark++) {
		char c = lx->text[lx->mark];
		if (c == '\n') {
			lx->mark_line++;
			lx->mark_column = 1;
		} else if (!is_continuation(c)) {
			lx->mark_column++;
		}
	}
	*line = lx->mark_line;
	*column = lx->mark_column;
}

int(toml_lex_fail)(struct toml_lex *lx, size_t pos, const char *fmt, ...)
{
	toml_lex_place(lx, pos, &lx->err->line, &lx->err->column);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(lx->err->text, sizeof(lx->err->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

int(toml_lex_no_memory)(struct toml_lex *lx)
{
	toml_lex_fail(lx, lx->pos, "out of memory");
	return -ENOMEM;
}

// ---- characters ----

// The length of the well-formed sequence at `s` and its code point; 0 if it is none (Unicode 15, table 3-7).
static size_t utf8_decode(const unsigned char *s, size_t len, uint32_t *point)
{
	if (s[0] < 0x80) {
		*point = s[0];
		return 1;
	}
	size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4 || n > len)
		return 0;
	uint32_t p = s[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		p = p << 6 | (s[i] & 0x3fu);
	}
	static const uint32_t lowest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	if (p < lowest[n] || p > 0x10ffff || (p >= 0xd800 && p <= 0xdfff))
		return 0;
	*point = p;
	return n;
}

static size_t utf8_encode(char *out, uint32_t p)
{
	if (p < 0x80) {
		out[0] = (char)p;
		return 1;
	}
	size_t n = p < 0x800 ? 2 : p < 0x10000 ? 3 : 4;
	for (size_t i = n - 1; i > 0; i--, p >>= 6)
		out[i] = (char)(0x80 | (p & 0x3f));
	out[0] = (char)(p | (n == 2 ? 0xc0u : n == 3 ? 0xe0u : 0xf0u));
	return n;
}

int toml_lex_check_text(struct toml_lex *lx)
{
	if (lx->len > TOML_TEXT_MAX)
		return toml_lex_fail(lx, 0, "the text is larger than %u bytes", TOML_TEXT_MAX);
	if (lx->len >= 3 && memcmp(lx->text, "\xef\xbb\xbf", 3) == 0)
		return toml_lex_fail(lx, 0,
				     "the text starts with a byte order mark, which TOML does not allow");
	const unsigned char *s = (const unsigned char *)lx->text;
	for (size_t i = 0; i < lx->len;) {
		uint32_t p;
		size_t n = utf8_decode(s + i, lx->len - i, &p);
		if (n == 0)
			return toml_lex_fail(lx, i, "not UTF-8: byte 0x%02x", s[i]);
		if (p == '\r' && (i + 1 == lx->len || s[i + 1] != '\n'))
			return toml_lex_fail(lx, i, "a carriage return without a newline");
		if ((p < 0x20 && p != '\t' && p != '\n' && p != '\r') || p == 0x7f)
			return toml_lex_fail(lx, i, "control character U+%04X", (unsigned)p);
		i += n;
	}
	return 0;
}

int toml_lex_unexpected(struct toml_lex *lx, const char *due)
{
	int c = toml_lex_peek(lx);
	uint32_t p = 0;
	if (c < 0)
		return toml_lex_fail(lx, lx->pos, "expected %s, not the end of the text", due);
	if (c == '\n' || c == '\r')
		return toml_lex_fail(lx, lx->pos, "expected %s, not the end of the line", due);
	if (c == '\t')
		return toml_lex_fail(lx, lx->pos, "expected %s, not a tab", due);
	if (c < 0x80)
		return toml_lex_fail(lx, lx->pos, "expected %s, not '%c'", due, c);
	utf8_decode((const unsigned char *)lx->text + lx->pos, lx->len - lx->pos, &p);
	return toml_lex_fail(lx, lx->pos, "expected %s, not U+%04X", due, (unsigned)p);
}

// ---- what lies between ----

void toml_lex_skip_blank(struct toml_lex *lx)
{
	while (lx->pos < lx->len && (lx->text[lx->pos] == ' ' || lx->text[lx->pos] == '\t'))
		lx->pos++;
}

static bool skip_newline(struct toml_lex *lx)
{
	int c = toml_lex_peek(lx);
	if (c != '\n' && c != '\r')
		return false;
	lx->pos += c == '\r' ? 2 : 1;
	return true;
}

static void skip_comment(struct toml_lex *lx)
{
	if (toml_lex_peek(lx) != '#')
		return;
	while (lx->pos < lx->len && lx->text[lx->pos] != '\n' && lx->text[lx->pos] != '\r')
		lx->pos++;
}

void toml_lex_skip_space(struct toml_lex *lx)
{
	do {
		toml_lex_skip_blank(lx);
		skip_comment(lx);
	} while (skip_newline(lx));
}

int toml_lex_line_end(struct toml_lex *lx, const char *after)
{
	toml_lex_skip_blank(lx);
	skip_comment(lx);
	if (lx->pos == lx->len || skip_newline(lx))
		return 0;
	char due[64];
	snprintf(due, sizeof(due), "the end of the line after %s", after);
	return toml_lex_unexpected(lx, due);
}

// ---- strings ----

static bool at_text(const struct toml_lex *lx, const char *s)
{
	size_t n = strlen(s);
	return lx->len - lx->pos >= n && memcmp(lx->text + lx->pos, s, n) == 0;
}

struct string_form {
	char quote; // '"' takes escapes, '\'' does not
	bool many_lines;
	size_t open; // where it began
};

// The place of the closing quotes.
static int string_end(struct toml_lex *lx, const struct string_form *f, size_t *end)
{
	for (size_t i = lx->pos; i < lx->len; i++) {
		char c = lx->text[i];
		if (!f->many_lines && (c == '\n' || c == '\r'))
			return toml_lex_fail(lx, f->open, "the string is not closed on its line");
		if (c == '\\' && f->quote == '"') {
			i++; // not a newline of a one-line string: decoding refuses that escape
			continue;
		}
		if (c != f->quote)
			continue;
		if (f->many_lines) {
			size_t run = 1;
			while (run < 5 && i + run < lx->len && lx->text[i + run] == f->quote)
				run++;
			if (run < 3) {
				i += run - 1;
				continue;
			}
			i += run - 3; // one or two quotes may stand right before the closing three
		}
		*end = i;
		return 0;
	}
	return toml_lex_fail(lx, f->open, "the string is not closed");
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

static int unicode_escape(struct toml_lex *lx, size_t end, unsigned digits, char *out, size_t *len)
{
	size_t at = lx->pos - 2; // of the backslash
	uint32_t p = 0;
	for (unsigned i = 0; i < digits; i++) {
		int d = lx->pos < end ? hex_digit(lx->text[lx->pos]) : -1;
		if (d < 0)
			return toml_lex_fail(lx, at, "\\%c needs %u hexadecimal digits",
					     digits == 4 ? 'u' : 'U', digits);
		p = p << 4 | (uint32_t)d;
		lx->pos++;
	}
	if (p > 0x10ffff || (p >= 0xd800 && p <= 0xdfff))
		return toml_lex_fail(lx, at, "U+%04X is not a character", (unsigned)p);
	*len += utf8_encode(out + *len, p);
	return 0;
}

// A backslash at the end of a line: that newline and all blanks and newlines behind it are left out.
static bool skip_line_continuation(struct toml_lex *lx)
{
	size_t back = lx->pos;
	toml_lex_skip_blank(lx);
	if (!skip_newline(lx)) {
		lx->pos = back;
		return false;
	}
	do
		toml_lex_skip_blank(lx);
	while (skip_newline(lx));
	return true;
}

// The current place is behind the backslash.
static int escape(struct toml_lex *lx, const struct string_form *f, size_t end, char *out, size_t *len)
{
	static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
	if (f->many_lines && skip_line_continuation(lx))
		return 0;
	char c = lx->text[lx->pos++];
	if (c == 'u' || c == 'U')
		return unicode_escape(lx, end, c == 'u' ? 4 : 8, out, len);
	const char *found = c ? strchr(from, c) : NULL;
	if (found) {
		out[(*len)++] = to[found - from];
		return 0;
	}
	if (c > 0x20 && c < 0x7f)
		return toml_lex_fail(lx, lx->pos - 2, "\\%c is not an escape; a backslash is written \\\\",
				     c);
	return toml_lex_fail(lx, lx->pos - 2, "a lone backslash; a backslash is written \\\\");
}

static int string(struct toml_lex *lx, bool allow_many_lines, struct toml_text *out)
{
	struct string_form f = { .quote = lx->text[lx->pos], .open = lx->pos };
	f.many_lines = at_text(lx, f.quote == '"' ? "\"\"\"" : "'''");
	if (f.many_lines && !allow_many_lines)
		return toml_lex_fail(lx, lx->pos, "a key cannot be a multi-line string");
	lx->pos += f.many_lines ? 3 : 1;
	if (f.many_lines)
		skip_newline(lx);
	size_t end = lx->pos;
	int r = string_end(lx, &f, &end);
	if (r)
		return r;
	char *bytes = arena_alloc(lx->arena, end - lx->pos + 1); // nothing grows by being decoded
	if (!bytes)
		return toml_lex_no_memory(lx);
	size_t len = 0;
	while (lx->pos < end && !r) {
		char c = lx->text[lx->pos++];
		if (c == '\\' && f.quote == '"')
			r = escape(lx, &f, end, bytes, &len);
		else if (c != '\r') // CRLF becomes LF
			bytes[len++] = c;
	}
	if (r)
		return r;
	bytes[len] = '\0';
	*out = (struct toml_text){ .bytes = bytes, .len = len };
	lx->pos = end + (f.many_lines ? 3 : 1);
	return 0;
}

// ---- keys and scalars ----

static bool is_bare(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
	       c == '-';
}

int toml_lex_key(struct toml_lex *lx, struct toml_text *key)
{
	int c = toml_lex_peek(lx);
	if (c == '"' || c == '\'')
		return string(lx, false, key);
	size_t start = lx->pos;
	while (is_bare(toml_lex_peek(lx)))
		lx->pos++;
	if (lx->pos == start)
		return toml_lex_unexpected(lx, "a key");
	key->len = lx->pos - start;
	key->bytes = arena_copy(lx->arena, lx->text + start, key->len);
	return key->bytes ? 0 : toml_lex_no_memory(lx);
}

int toml_lex_scalar(struct toml_lex *lx, struct toml_value *v)
{
	int c = toml_lex_peek(lx);
	if (c != '"' && c != '\'')
		return toml_lex_word(lx, v);
	v->type = TOML_STRING;
	return string(lx, true, &v->string);
}
