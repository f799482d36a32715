// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/toml_lex.h"

#include <string.h>

#define SHOWN 40 // characters of a word in a message

struct word {
	const char *s;
	size_t len, i;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_word(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c > 0 && strchr("_+-.:", c) != NULL);
}

static char peek(const struct word *w)
{
	return w->i < w->len ? w->s[w->i] : '\0';
}

static bool take(struct word *w, char c)
{
	if (w->i >= w->len || w->s[w->i] != c)
		return false;
	w->i++;
	return true;
}

static bool equals(const struct word *w, const char *s)
{
	return w->len - w->i == strlen(s) && memcmp(w->s + w->i, s, w->len - w->i) == 0;
}

// ---- dates and times (RFC 3339, seconds never left out) ----

// Exactly `count` digits, within [low, high].
static bool digits(struct word *w, unsigned count, unsigned low, unsigned high, unsigned *out)
{
	unsigned v = 0;
	for (; count > 0; count--, w->i++) {
		if (w->i >= w->len || !is_digit(w->s[w->i]))
			return false;
		v = v * 10 + (unsigned)(w->s[w->i] - '0');
	}
	*out = v;
	return v >= low && v <= high;
}

static bool date(struct word *w, struct toml_datetime *d)
{
	static const uint8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	unsigned y, m, day;
	if (!digits(w, 4, 0, 9999, &y) || !take(w, '-') || !digits(w, 2, 1, 12, &m) || !take(w, '-'))
		return false;
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
	if (!digits(w, 2, 1, days[m - 1] + (m == 2 && leap ? 1u : 0u), &day))
		return false;
	d->year = (uint16_t)y;
	d->month = (uint8_t)m;
	d->day = (uint8_t)day;
	return true;
}

static bool time_of_day(struct word *w, struct toml_datetime *d)
{
	unsigned h, m, s;
	if (!digits(w, 2, 0, 23, &h) || !take(w, ':') || !digits(w, 2, 0, 59, &m) || !take(w, ':') ||
	    !digits(w, 2, 0, 60, &s))
		return false;
	d->hour = (uint8_t)h;
	d->minute = (uint8_t)m;
	d->second = (uint8_t)s;
	if (!take(w, '.'))
		return true;
	if (!is_digit(peek(w)))
		return false;
	for (uint32_t unit = 100000000; is_digit(peek(w)); w->i++, unit /= 10)
		d->nanosecond += (uint32_t)(peek(w) - '0') * unit;
	return true;
}

static bool offset(struct word *w, struct toml_datetime *d)
{
	if (take(w, 'Z') || take(w, 'z'))
		return true;
	bool minus = peek(w) == '-';
	unsigned h, m;
	if ((!take(w, '-') && !take(w, '+')) || !digits(w, 2, 0, 23, &h) || !take(w, ':') ||
	    !digits(w, 2, 0, 59, &m))
		return false;
	int minutes = (int)(h * 60 + m);
	d->offset_minutes = (int16_t)(minus ? -minutes : minutes);
	return true;
}

static bool date_or_time(struct word *w, struct toml_value *v)
{
	struct toml_datetime *d = &v->datetime;
	if (w->len > 2 && w->s[2] == ':') {
		v->type = TOML_LOCAL_TIME;
		return time_of_day(w, d) && w->i == w->len;
	}
	v->type = TOML_LOCAL_DATE;
	if (!date(w, d))
		return false;
	if (w->i == w->len)
		return true;
	if (!take(w, 'T') && !take(w, 't') && !take(w, ' '))
		return false;
	v->type = TOML_LOCAL_DATETIME;
	if (!time_of_day(w, d))
		return false;
	if (w->i == w->len)
		return true;
	v->type = TOML_OFFSET_DATETIME;
	return offset(w, d) && w->i == w->len;
}

static bool looks_like_date_or_time(const struct word *w)
{
	size_t n = 0;
	while (n < w->len && is_digit(w->s[n]))
		n++;
	return n < w->len && ((n == 4 && w->s[4] == '-') || (n == 2 && w->s[2] == ':'));
}

// ---- integers ----

static bool is_digit_of(char c, unsigned base, unsigned *digit)
{
	unsigned d = is_digit(c)	    ? (unsigned)(c - '0')
		     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
		     : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
					    : 99;
	*digit = d;
	return d < base;
}

enum outcome { GOOD, MALFORMED, TOO_LARGE, NO_MEMORY };

// Digits of a base to the end of the word, single underscores between them.
static enum outcome magnitude(struct word *w, unsigned base, uint64_t limit, uint64_t *out)
{
	uint64_t v = 0;
	unsigned d;
	bool digit_before = false, large = false;
	for (; w->i < w->len; w->i++) {
		char c = w->s[w->i];
		if (c == '_' && digit_before) {
			digit_before = false;
			continue;
		}
		if (!is_digit_of(c, base, &d))
			return MALFORMED;
		digit_before = true;
		large = large || v > (limit - d) / base;
		v = large ? 0 : v * base + d;
	}
	*out = v;
	return !digit_before ? MALFORMED : large ? TOO_LARGE : GOOD;
}

static enum outcome integer(struct word *w, struct toml_value *v)
{
	v->type = TOML_INTEGER;
	bool minus = peek(w) == '-', sign = take(w, '-') || take(w, '+');
	uint64_t limit = minus ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX, u = 0;
	unsigned base = 10;
	if (!sign && w->len >= 2 && w->s[0] == '0') {
		base = w->s[1] == 'x' ? 16 : w->s[1] == 'o' ? 8 : w->s[1] == 'b' ? 2 : 0;
		if (base == 0)
			return MALFORMED; // a leading zero
		w->i = 2;
	} else if (sign && peek(w) == '0' && w->len - w->i > 1) {
		return MALFORMED;
	}
	enum outcome o = magnitude(w, base, limit, &u);
	if (o == GOOD)
		v->integer = minus ? (int64_t)(UINT64_C(0) - u) : (int64_t)u;
	return o;
}

// ---- floats ----

// A run of digits with single underscores between them, copied without those.
static bool digit_run(struct word *w, char *out, size_t *n)
{
	bool digit_before = false;
	for (; w->i < w->len; w->i++) {
		char c = w->s[w->i];
		if (c == '_' && digit_before) {
			digit_before = false;
			continue;
		}
		if (!is_digit(c))
			break;
		digit_before = true;
		out[(*n)++] = c;
	}
	return digit_before;
}

static enum outcome real(struct toml_lex *lx, struct word *w, struct toml_value *v)
{
	v->type = TOML_FLOAT;
	char *clean = arena_alloc(lx->arena, w->len + 1);
	if (!clean)
		return NO_MEMORY;
	size_t n = 0;
	if (peek(w) == '-')
		clean[n++] = '-';
	if (peek(w) == '-' || peek(w) == '+')
		w->i++;
	size_t first = n;
	if (!digit_run(w, clean, &n) || (clean[first] == '0' && n - first > 1))
		return MALFORMED;
	if (take(w, '.')) {
		clean[n++] = '.';
		if (!digit_run(w, clean, &n))
			return MALFORMED;
	}
	if (take(w, 'e') || take(w, 'E')) {
		clean[n++] = 'e';
		if (peek(w) == '-' || peek(w) == '+')
			clean[n++] = w->s[w->i++];
		if (!digit_run(w, clean, &n))
			return MALFORMED;
	}
	if (w->i != w->len)
		return MALFORMED;
	clean[n] = '\0';
	v->real = clean;
	return GOOD;
}

static bool named_real(struct word *w, struct toml_value *v)
{
	const char *real = NULL;
	bool minus = peek(w) == '-';
	if (minus || peek(w) == '+')
		w->i++;
	if (equals(w, "inf"))
		real = minus ? "-inf" : "inf";
	else if (equals(w, "nan"))
		real = "nan";
	w->i = 0;
	if (!real)
		return false;
	v->type = TOML_FLOAT;
	v->real = real;
	return true;
}

static enum outcome number(struct toml_lex *lx, struct word *w, struct toml_value *v)
{
	bool hex = w->len > 1 && w->s[0] == '0' && w->s[1] == 'x';
	if (!hex && (memchr(w->s, '.', w->len) || memchr(w->s, 'e', w->len) || memchr(w->s, 'E', w->len)))
		return real(lx, w, v);
	return integer(w, v);
}

// The word at the current place, and with it the time that stands one space behind a date.
static struct word word_at(struct toml_lex *lx)
{
	size_t end = lx->pos;
	while (end < lx->len && is_word((unsigned char)lx->text[end]))
		end++;
	struct word w = { .s = lx->text + lx->pos, .len = end - lx->pos };
	if (w.len == 10 && looks_like_date_or_time(&w) && lx->len - end > 1 && lx->text[end] == ' ' &&
	    is_digit(lx->text[end + 1])) {
		end++;
		while (end < lx->len && is_word((unsigned char)lx->text[end]))
			end++;
		w.len = end - lx->pos;
	}
	return w;
}

// As in 512M or 30s.
static bool has_unit(const struct word *w)
{
	size_t n = 0;
	while (n < w->len && is_digit(w->s[n]))
		n++;
	return n > 0 && n < w->len && memchr("KMGTkmgs", w->s[n], 8);
}

int toml_lex_word(struct toml_lex *lx, struct toml_value *v)
{
	struct word w = word_at(lx);
	if (w.len == 0)
		return toml_lex_unexpected(lx, "a value");
	int shown = (int)(w.len > SHOWN ? SHOWN : w.len);
	bool yes = equals(&w, "true");
	if (yes || equals(&w, "false")) {
		v->type = TOML_BOOLEAN;
		v->boolean = yes;
	} else if (looks_like_date_or_time(&w)) {
		if (!date_or_time(&w, v))
			return toml_lex_fail(lx, lx->pos, "%.*s is not a date or time", shown, w.s);
	} else if (!named_real(&w, v)) {
		if (!is_digit(w.s[0]) && w.s[0] != '+' && w.s[0] != '-')
			return toml_lex_fail(lx, lx->pos, "%.*s is not a value; a string needs quotes", shown,
					     w.s);
		enum outcome o = number(lx, &w, v);
		if (o == NO_MEMORY)
			return toml_lex_no_memory(lx);
		if (o == TOO_LARGE)
			return toml_lex_fail(lx, lx->pos, "%.*s does not fit in 64 bits", shown, w.s);
		if (o == MALFORMED)
			return toml_lex_fail(lx, lx->pos, "%.*s is not a number%s", shown, w.s,
					     has_unit(&w) ? "; a string needs quotes" : "");
	}
	lx->pos += w.len;
	return 0;
}
