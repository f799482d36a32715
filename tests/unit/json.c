// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/json.h"

#include "tests/unit/test.h"

#include <inttypes.h>

static char seen[4096];

static const char *note(void *arg, const struct json_value *v)
{
	size_t len = strlen(seen);
	(void)arg;
	if (strcmp(v->path, "stop") == 0)
		return "stopped";
	snprintf(seen + len, sizeof(seen) - len, "%s=", v->path);
	len = strlen(seen);
	switch (v->kind) {
	case JSON_NULL:
		snprintf(seen + len, sizeof(seen) - len, "null ");
		break;
	case JSON_BOOLEAN:
		snprintf(seen + len, sizeof(seen) - len, v->truth ? "true " : "false ");
		break;
	case JSON_NUMBER:
		if (v->natural)
			snprintf(seen + len, sizeof(seen) - len, "%" PRIu64 " ", v->number);
		else
			snprintf(seen + len, sizeof(seen) - len, "number ");
		break;
	case JSON_STRING:
		snprintf(seen + len, sizeof(seen) - len, "string ");
		break;
	case JSON_OBJECT:
		snprintf(seen + len, sizeof(seen) - len, "{} ");
		break;
	case JSON_ARRAY:
		snprintf(seen + len, sizeof(seen) - len, "[] ");
		break;
	}
	return NULL;
}

// A copy without a NUL behind it, so that a read too far is seen.
static const char *read_len(const char *text, size_t len)
{
	char *copy = malloc(len ? len : 1);
	seen[0] = '\0';
	if (!copy)
		abort();
	memcpy(copy, text, len);
	const char *wrong = json_read(copy, len, note, NULL);
	free(copy);
	return wrong;
}

static const char *read_text(const char *text)
{
	return read_len(text, strlen(text));
}

TEST(values_come_with_their_paths)
{
	CHECK(!read_text(
		"{\"capabilities\":{\"max_msg_fds\":8,\"twin\":{\"supported\":true,\"fd_index\" : 0}},"
		"\"x\":[1,[null],\"s\"]}"));
	CHECK_STR(seen, "={} capabilities={} capabilities.max_msg_fds=8 capabilities.twin={} "
			"capabilities.twin.supported=true capabilities.twin.fd_index=0 x=[] x.[]=1 x.[]=[] "
			"x.[].[]=null x.[]=string ");
	CHECK(!read_text(" \r\n\t{ } "));
	CHECK_STR(seen, "={} ");
	CHECK(!read_text("[]"));
	CHECK(!read_text("false"));
	CHECK_STR(seen, "=false ");
}

TEST(numbers)
{
	CHECK(!read_text(
		"[0,18446744073709551615,18446744073709551616,-1,-0,1.0,1e3,1E-3,99999999999999999999]"));
	CHECK_STR(seen, "=[] []=0 []=18446744073709551615 []=number []=number []=number []=number []=number "
			"[]=number []=number ");
	static const char *const bad[] = { "01", "-", "1.", ".5", "1e", "1e+", "+1", "0x10", "--1", "1 2" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(read_text(bad[i]));
}

TEST(names_cannot_be_mistaken)
{
	// What looks like a path is not one, and what is written differently is not the same.
	CHECK(!read_text("{\"a.b\":1,\"a\\u0062\":2,\"\":3,\"a b\":4,\"ab\":5}"));
	CHECK_STR(seen, "={} ?=1 ?=2 ?=3 ?=4 ab=5 ");
	char text[512] = "{\"";
	memset(text + 2, 'n', 300);
	strcpy(text + 302, "\":{\"m\":1},\"m\":2}");
	CHECK(!read_text(text));
	CHECK_STR(seen, "={} ?={} ?.m=1 m=2 ");
	// The longest path there is.
	CHECK(!read_text(
		"{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":[7]}}}}}}"));
}

TEST(strings)
{
	CHECK(!read_text(
		"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\ud83d\\ude00 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80\""));
	static const char *const bad[] = {
		"\"",
		"\"a",
		"\"\\",
		"\"\\x\"",
		"\"\\u12\"",
		"\"\\u123g\"",
		"\"\t\"",
		"\"\x01\"",
		"\"\xff\"",
		"\"\xc0\x80\"",
		"\"\xe0\x80\x80\"",
		"\"\xed\xa0\x80\"",
		"\"\xc3\"",
		"\"\xe2\x82\"",
		"\"\\ud800\"",
		"\"\\udc00\"",
		"\"\\ud800\\u0041\"",
		"\"\xf4\x90\x80\x80\"",
		"\"\xf0\x80\x80\x80\"",
		"\"\x80\"",
		"\"\\ud800x\"",
		"\"\xf5\x80\x80\x80\"",
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(read_text(bad[i]));
	CHECK(read_len("\"a\0b\"", 5));
}

TEST(what_is_not_json_is_refused_with_words)
{
	static const struct {
		const char *text, *wrong;
	} bad[] = {
		{ "", "ends where a value is due" },
		{ "  ", "ends where a value is due" },
		{ "nul", "something that is no value" },
		{ "truex", "something behind its end" },
		{ "{}{}", "something behind its end" },
		{ "{", "a name is missing in an object" },
		{ "{\"a\"}", "a colon is missing behind a name" },
		{ "{\"a\":}", "something that is no value" },
		{ "{\"a\":1,}", "a name is missing in an object" },
		{ "{a:1}", "a name is missing in an object" },
		{ "[1,]", "something that is no value" },
		{ "[1", "a comma or a bracket is missing" },
		{ "[1 2]", "a comma or a bracket is missing" },
		{ "{\"a\":1]", "a comma or a bracket is missing" },
		{ "[[[[[[[[[]]]]]]]]]", "nested too deep" },
		{ "'a'", "something that is no value" },
		{ "\xef\xbb\xbf{}", "something that is no value" },
		{ "// c\n{}", "something that is no value" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *wrong = read_text(bad[i].text);
		CHECK(wrong);
		CHECK_STR(wrong, bad[i].wrong);
	}
	CHECK(!read_text("[[[[[[[[]]]]]]]]"));
	CHECK_STR(read_text("{\"stop\":1}"), "stopped");
	CHECK(read_len("{}\0", 3));
}
