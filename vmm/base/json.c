// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/json.h"

#include "vmm/base/check.h"

#include <string.h>

struct reader {
	const unsigned char *at, *end;
	const char *(*see)(void *arg, const struct json_value *v);
	void *arg;
	struct json_value shown;
	unsigned depth;
	size_t path_len;
	char path[JSON_PATH_MAX];
};

static const char *read_value(struct reader *r);

static void skip_space(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

static int peek(const struct reader *r)
{
	return r->at < r->end ? *r->at : -1;
}

static bool take(struct reader *r, char c)
{
	if (peek(r) != c)
		return false;
	r->at++;
	return true;
}

// ---- strings ----

static int hex_digit(int c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

// The four digits behind \u, or -1.
static int hex4(struct reader *r)
{
	int value = 0;
	for (int i = 0; i < 4; i++) {
		int digit = hex_digit(peek(r));
		if (digit < 0)
			return -1;
		value = value << 4 | digit;
		r->at++;
	}
	return value;
}

static const char *read_escape(struct reader *r)
{
	int c = peek(r);
	if (c < 0)
		return "ends in the middle of a string";
	r->at++;
	if (c != 'u')
		return strchr("\"\\/bfnrt", c) ? NULL : "an unknown escape in a string";
	int high = hex4(r);
	if (high < 0)
		return "an escape without four hexadecimal digits";
	if (high >= 0xdc00 && high <= 0xdfff)
		return "half of a surrogate pair";
	if (high < 0xd800 || high > 0xdbff)
		return NULL;
	int low = take(r, '\\') && take(r, 'u') ? hex4(r) : -1;
	return low >= 0xdc00 && low <= 0xdfff ? NULL : "half of a surrogate pair";
}

// One character of more than a byte (Unicode, table 3-7: no overlong forms, no surrogates).
static const char *read_utf8(struct reader *r)
{
	static const char bad[] = "a string that is not UTF-8";
	const int first = *r->at++;
	int more, low = 0x80, high = 0xbf;
	if (first >= 0xc2 && first <= 0xdf)
		more = 1;
	else if (first >= 0xe0 && first <= 0xef)
		more = 2;
	else if (first >= 0xf0 && first <= 0xf4)
		more = 3;
	else
		return bad;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	for (; more > 0; more--, low = 0x80, high = 0xbf) {
		int c = peek(r);
		if (c < low || c > high)
			return bad;
		r->at++;
	}
	return NULL;
}

// Behind the opening quote, up to and with the closing one.
static const char *read_string(struct reader *r)
{
	for (;;) {
		int c = peek(r);
		const char *wrong = NULL;
		if (c < 0)
			return "ends in the middle of a string";
		if (c < 0x20)
			return "a control character in a string";
		if (c >= 0x80) {
			wrong = read_utf8(r);
		} else {
			r->at++;
			if (c == '"')
				return NULL;
			if (c == '\\')
				wrong = read_escape(r);
		}
		if (wrong)
			return wrong;
	}
}

// ---- the path ----

static bool is_plain(const unsigned char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= 'A' && name[i] <= 'Z') &&
		    !(name[i] >= '0' && name[i] <= '9') && name[i] != '_' && name[i] != '-')
			return false;
	return len > 0;
}

// Adds a name; the caller puts path_len back.  Names of one byte always fit: the deepest path of them is short.
static void path_add(struct reader *r, const char *name, size_t len)
{
	const size_t room_for_deeper = (size_t)2 * JSON_DEPTH_MAX + 2;
	if (r->path_len + len + 2 + room_for_deeper > sizeof(r->path)) {
		name = "?";
		len = 1;
	}
	if (r->path_len)
		r->path[r->path_len++] = '.';
	memcpy(r->path + r->path_len, name, len);
	r->path_len += len;
	r->path[r->path_len] = '\0';
}

static void path_cut(struct reader *r, size_t len)
{
	r->path_len = len;
	r->path[len] = '\0';
}

// ---- values ----

static const char *show(struct reader *r, const struct json_value *v)
{
	r->shown = *v;
	r->shown.path = r->path;
	return r->see(r->arg, &r->shown);
}

static bool skip_digits(struct reader *r)
{
	const unsigned char *from = r->at;
	while (peek(r) >= '0' && peek(r) <= '9')
		r->at++;
	return r->at > from;
}

static const char *read_number(struct reader *r)
{
	struct json_value v = { .kind = JSON_NUMBER, .natural = !take(r, '-') };
	const unsigned char *from = r->at;
	if (!skip_digits(r) || (*from == '0' && r->at > from + 1))
		return "a number that is not one";
	for (const unsigned char *p = from; p < r->at; p++) {
		uint64_t digit = (uint64_t)(*p - '0');
		v.natural &= v.number <= (UINT64_MAX - digit) / 10;
		v.number = v.number * 10 + digit;
	}
	if (take(r, '.')) {
		v.natural = false;
		if (!skip_digits(r))
			return "a number that is not one";
	}
	if (take(r, 'e') || take(r, 'E')) {
		v.natural = false;
		if (!take(r, '+'))
			take(r, '-');
		if (!skip_digits(r))
			return "a number that is not one";
	}
	return show(r, &v);
}

static const char *read_word(struct reader *r)
{
	static const struct {
		const char *text;
		struct json_value v;
	} words[] = {
		{ "null", { .kind = JSON_NULL } },
		{ "true", { .kind = JSON_BOOLEAN, .truth = true } },
		{ "false", { .kind = JSON_BOOLEAN } },
	};
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		size_t len = strlen(words[i].text);
		if ((size_t)(r->end - r->at) < len || memcmp(r->at, words[i].text, len) != 0)
			continue;
		r->at += len;
		return show(r, &words[i].v);
	}
	return r->at < r->end ? "something that is no value" : "ends where a value is due";
}

static const char *read_member(struct reader *r)
{
	const size_t path_len = r->path_len;
	skip_space(r);
	if (!take(r, '"'))
		return "a name is missing in an object";
	const unsigned char *name = r->at;
	const char *wrong = read_string(r);
	if (wrong)
		return wrong;
	const size_t len = (size_t)(r->at - name) - 1;
	if (is_plain(name, len))
		path_add(r, (const char *)name, len);
	else
		path_add(r, "?", 1);
	skip_space(r);
	wrong = take(r, ':') ? read_value(r) : "a colon is missing behind a name";
	path_cut(r, path_len);
	return wrong;
}

static const char *read_element(struct reader *r)
{
	const size_t path_len = r->path_len;
	path_add(r, "[]", 2);
	const char *wrong = read_value(r);
	path_cut(r, path_len);
	return wrong;
}

// Behind the opening bracket.
static const char *read_container(struct reader *r, bool object)
{
	const char close = object ? '}' : ']';
	const char *wrong = show(r, &(struct json_value){ .kind = object ? JSON_OBJECT : JSON_ARRAY });
	if (wrong)
		return wrong;
	if (++r->depth > JSON_DEPTH_MAX)
		return "nested too deep";
	skip_space(r);
	if (!take(r, close)) {
		do {
			wrong = object ? read_member(r) : read_element(r);
			if (wrong)
				return wrong;
			skip_space(r);
		} while (take(r, ','));
		if (!take(r, close))
			return "a comma or a bracket is missing";
	}
	r->depth--;
	return NULL;
}

static const char *read_value(struct reader *r)
{
	skip_space(r);
	int c = peek(r);
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(r);
	if (take(r, '{'))
		return read_container(r, true);
	if (take(r, '['))
		return read_container(r, false);
	if (!take(r, '"'))
		return read_word(r);
	const char *wrong = read_string(r);
	return wrong ? wrong : show(r, &(struct json_value){ .kind = JSON_STRING });
}

const char *json_read(const char *text, size_t len, const char *(*see)(void *arg, const struct json_value *v),
		      void *arg)
{
	// char may be signed, and bytes are compared.
	union {
		const char *text;
		const unsigned char *bytes;
	} from = { .text = text };
	struct reader r = { .at = from.bytes, .end = from.bytes + len, .see = see, .arg = arg };
	const char *wrong = read_value(&r);
	if (wrong)
		return wrong;
	skip_space(&r);
	return r.at == r.end ? NULL : "something behind its end";
}
