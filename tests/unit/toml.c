// SPDX-License-Identifier: BSD-2-Clause
// The documents of tests/unit/toml: valid/NAME.toml must read as valid/NAME.want says, invalid/NAME.toml must
// be refused with the line "NAME LINE:COLUMN: MESSAGE" of invalid/want.  Here is also what is clumsy as a
// file: limits, time, memory.
#include "tests/unit/test.h"

#include "vmm/base/toml.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#define FOLDER "tests/unit/toml"

// ---- the canonical form ----

static void dump_text(FILE *f, const struct toml_text *t)
{
	fputc('"', f);
	for (size_t i = 0; i < t->len; i++) {
		unsigned char c = (unsigned char)t->bytes[i];
		if (c < 0x20 || c == 0x7f)
			fprintf(f, "\\u%04X", c);
		else if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

static void dump_datetime(FILE *f, enum toml_type type, const struct toml_datetime *d)
{
	if (type != TOML_LOCAL_TIME)
		fprintf(f, "%04u-%02u-%02u", d->year, d->month, d->day);
	if (type == TOML_LOCAL_DATE)
		return;
	fprintf(f, "%s%02u:%02u:%02u.%09" PRIu32, type == TOML_LOCAL_TIME ? "" : "T", d->hour, d->minute,
		d->second, d->nanosecond);
	int minutes = abs(d->offset_minutes);
	if (type == TOML_OFFSET_DATETIME)
		fprintf(f, "%c%02d:%02d", d->offset_minutes < 0 ? '-' : '+', minutes / 60, minutes % 60);
}

static void dump_scalar(FILE *f, const struct toml_value *v)
{
	switch (v->type) {
	case TOML_STRING:
		dump_text(f, &v->string);
		break;
	case TOML_INTEGER:
		fprintf(f, "integer %" PRId64, v->integer);
		break;
	case TOML_FLOAT:
		if (isnan(strtod(v->real, NULL)))
			fprintf(f, "float nan");
		else
			fprintf(f, "float %.17g", strtod(v->real, NULL));
		break;
	case TOML_BOOLEAN:
		fprintf(f, "%s", v->boolean ? "true" : "false");
		break;
	case TOML_OFFSET_DATETIME:
	case TOML_LOCAL_DATETIME:
	case TOML_LOCAL_DATE:
	case TOML_LOCAL_TIME:
		dump_datetime(f, v->type, &v->datetime);
		break;
	case TOML_ARRAY:
		fprintf(f, "array");
		break;
	case TOML_TABLE:
		fprintf(f, "table");
		break;
	}
	fputc('\n', f);
}

// A line a value: its path, then its type and value; two blanks deeper for each container.
static void dump(FILE *f, const struct toml_value *v, int depth)
{
	for (const struct toml_value *c = v->children.first; c; c = c->next) {
		fprintf(f, "%*s", 2 * depth, "");
		if (v->type == TOML_TABLE) {
			dump_text(f, &c->key);
			fprintf(f, " = ");
		} else {
			fprintf(f, "- ");
		}
		dump_scalar(f, c);
		if (c->type == TOML_ARRAY || c->type == TOML_TABLE)
			dump(f, c, depth + 1);
	}
}

// ---- documents ----

struct buffer {
	char *bytes;
	size_t len;
};

static struct buffer read_file(const char *path)
{
	struct buffer b = { 0 };
	FILE *in = fopen(path, "rb"), *out = in ? open_memstream(&b.bytes, &b.len) : NULL;
	for (int c; out && (c = fgetc(in)) != EOF;)
		fputc(c, out);
	if (out)
		fclose(out);
	if (in)
		fclose(in);
	return b;
}

// What the reader says of a document: its canonical form, or the error.
static char *verdict(const char *text, size_t len)
{
	struct arena a = { 0 };
	struct toml_value *root = NULL;
	struct toml_error e;
	char *out = NULL;
	size_t out_len;
	FILE *f = open_memstream(&out, &out_len);
	if (toml_parse(&a, text, len, &root, &e))
		fprintf(f, "%u:%u: %s", e.line, e.column, e.text);
	else
		dump(f, root, 0);
	fclose(f);
	arena_free(&a);
	return out;
}

static char *verdict_of(const char *s)
{
	return verdict(s, strlen(s));
}

// Calls for each NAME.toml of a folder; returns their number.
static unsigned each_document(const char *folder, void (*check)(const char *name, const char *got))
{
	unsigned count = 0;
	struct dirent **list = NULL;
	int n = scandir(folder, &list, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		size_t len = strlen(list[i]->d_name);
		if (len > 5 && strcmp(list[i]->d_name + len - 5, ".toml") == 0) {
			char path[512];
			snprintf(path, sizeof(path), "%s/%s", folder, list[i]->d_name);
			struct buffer b = read_file(path);
			char *got = verdict(b.bytes, b.len);
			free(b.bytes);
			list[i]->d_name[len - 5] = '\0';
			check(list[i]->d_name, got);
			free(got);
			count++;
		}
		free(list[i]);
	}
	free(list);
	return count;
}

static void check_valid(const char *name, const char *got)
{
	char path[512];
	snprintf(path, sizeof(path), FOLDER "/valid/%s.want", name);
	struct buffer want = read_file(path);
	if (!want.bytes || strcmp(want.bytes, got) != 0) {
		printf("%s/valid/%s.toml reads as\n%s", FOLDER, name, got);
		test_failed = true;
	}
	free(want.bytes);
}

TEST(valid_documents)
{
	CHECK(each_document(FOLDER "/valid", check_valid) >= 70);
}

static char *invalid_want;

static void check_invalid(const char *name, const char *got)
{
	char *line = NULL;
	if (asprintf(&line, "\n%s %s\n", name, got) < 0 || !strstr(invalid_want, line)) {
		printf("not in invalid/want: %s", line + 1);
		test_failed = true;
	}
	free(line);
}

TEST(invalid_documents)
{
	struct buffer want = read_file(FOLDER "/invalid/want");
	CHECK(want.bytes);
	invalid_want = want.bytes;
	unsigned lines = 0;
	for (const char *p = want.bytes; *p; p++)
		lines += *p == '\n' && p[1] != '\0'; // the first line is a heading
	unsigned count = each_document(FOLDER "/invalid", check_invalid);
	free(want.bytes);
	CHECK_EQ(count, lines);
	CHECK(count >= 80);
}

// ---- places ----

TEST(values_know_their_places)
{
	static const char text[] = "# \xc3\xa4\n"
				   "\"\xc3\xa4\xf0\x9f\x98\x80\" = [ 1,\r\n"
				   "   'two' ]\r\n"
				   "[ a . b ]\n"
				   "\tc.d = { e = 5 }\n"
				   "[[ list ]]\n"
				   "[[ list ]]\n";
	struct arena a = { 0 };
	struct toml_value *root, *v;
	struct toml_error e;
	int r = toml_parse(&a, text, strlen(text), &root, &e);
	unsigned at[14] = { 0 };
	if (r == 0) {
		v = toml_get(root, "\xc3\xa4\xf0\x9f\x98\x80");
		at[0] = v->key_line * 100 + v->key_column;
		at[1] = v->line * 100 + v->column;
		at[2] = v->children.first->line * 100 + v->children.first->column;
		at[3] = v->children.last->line * 100 + v->children.last->column;
		v = toml_get(toml_get(root, "a"), "b");
		at[4] = v->line * 100 + v->column;
		at[5] = v->key_line * 100 + v->key_column;
		v = toml_get(toml_get(v, "c"), "d");
		at[6] = v->key_line * 100 + v->key_column;
		at[7] = v->line * 100 + v->column;
		at[8] = toml_get(v, "e")->key_line * 100 + toml_get(v, "e")->key_column;
		v = toml_get(root, "list");
		at[9] = v->children.first->line * 100 + v->children.first->column;
		at[10] = v->children.last->line * 100 + v->children.last->column;
	}
	arena_free(&a);
	static const unsigned want[] = { 201, 208, 210, 304, 401, 407, 504, 508, 510, 601, 701 };
	CHECK_EQ(r, 0);
	for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		CHECK_EQ(at[i], want[i]);
}

// ---- limits ----

static char *nested(const char *start, const char *open, unsigned count)
{
	char *s = NULL;
	size_t len;
	FILE *f = open_memstream(&s, &len);
	fputs(start, f);
	while (count--)
		fputs(open, f);
	fclose(f);
	return s;
}

TEST(depth_is_bounded)
{
	static const struct {
		const char *start, *open, *want;
	} cases[] = {
		{ "a = ", "[", "1:37: more than 32 tables and arrays inside each other" },
		{ "a = ", "{a=", "1:101: more than 32 tables and arrays inside each other" },
		{ "a", ".a", "1:65: more than 32 tables and arrays inside each other" },
		{ "[a", ".a", "1:66: more than 32 tables and arrays inside each other" },
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text = nested(cases[i].start, cases[i].open, 100000), *got = verdict_of(text);
		bool same = strncmp(got, cases[i].want, strlen(cases[i].want)) == 0;
		if (!same)
			printf("case %u: %s\n", i, got);
		free(text);
		free(got);
		CHECK(same);
	}
	char *text = nested("a = ", "[", 32), *closed = NULL;
	CHECK(asprintf(&closed, "%s1%s", text, "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]") > 0);
	char *got = verdict_of(closed);
	bool good = strstr(got, "- integer 1\n") != NULL;
	free(text);
	free(closed);
	free(got);
	CHECK(good);
}

TEST(text_is_bounded)
{
	char *text = malloc(TOML_TEXT_MAX + 1);
	CHECK(text);
	memset(text, '#', TOML_TEXT_MAX + 1); // one line, a comment
	char *full = verdict(text, TOML_TEXT_MAX), *more = verdict(text, TOML_TEXT_MAX + 1);
	bool good = strcmp(full, "") == 0 && strcmp(more, "1:1: the text is larger than 1048576 bytes") == 0;
	free(text);
	free(full);
	free(more);
	CHECK(good);
}

// Texts of 1 MiB that would take hours if anything were quadratic.
TEST(large_texts_are_quick)
{
	static const char *const forms[] = { "k%06x=1\n",  "[t%06x]\n", "[[t%06x]]\n",	"[t.%06x]\n",
					     "t.%06x=1\n", "#%06x\n\n", "[[t]]#%06x\n", "[[t.u%06x]]\n" };
	static const char *const endless[] = { "a=[", "1,",  "a=\"\"\"", "\\\\", "a=\"\"\"", "\"\"a",
					       "a=1", "_0",  "a=0.",	 "0",	 "a='''",    "\n",
					       "a=[", "#\n", "a=[",	 "[]," };
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		char *text = malloc(TOML_TEXT_MAX + 64);
		CHECK(text);
		size_t len = 0;
		for (unsigned n = 0; len < TOML_TEXT_MAX - 32; n++) {
			char line[32];
			snprintf(line, sizeof(line), "%s", forms[i]);
			char *number = strstr(line, "%06x"), tail[16];
			snprintf(tail, sizeof(tail), "%s", number + 4);
			snprintf(number, sizeof(line) - (size_t)(number - line), "%06x%s", n, tail);
			len += strlen(strcpy(text + len, line));
		}
		struct arena a = { 0 };
		struct toml_value *root;
		struct toml_error e;
		int r = toml_parse(&a, text, len, &root, &e);
		arena_free(&a);
		free(text);
		CHECK_EQ(r, 0);
	}
	for (unsigned i = 0; i < sizeof(endless) / sizeof(endless[0]); i += 2) {
		char *text = nested(endless[i], endless[i + 1],
				    (unsigned)((TOML_TEXT_MAX - 64) / strlen(endless[i + 1])));
		free(verdict_of(text));
		free(text);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	CHECK(end.tv_sec - start.tv_sec < 20); // below one second without sanitizers
}

// Ascending, descending and shuffled keys are all found again, and none that is not there.
TEST(the_index_finds_every_key)
{
	enum { KEYS = 3000 };
	for (unsigned order = 0; order < 3; order++) {
		char *text = NULL, key[16];
		size_t len;
		FILE *f = open_memstream(&text, &len);
		for (unsigned i = 0; i < KEYS; i++)
			fprintf(f, "k%u = %u\n",
				order == 0   ? i
				: order == 1 ? KEYS - 1 - i
					     : i * 1007 % KEYS,
				i);
		fclose(f);
		struct arena a = { 0 };
		struct toml_value *root = NULL;
		struct toml_error e;
		unsigned found = 0, wrong = 0;
		int r = toml_parse(&a, text, len, &root, &e);
		for (unsigned i = 0; r == 0 && i < KEYS; i++) {
			snprintf(key, sizeof(key), "k%u", i);
			found += toml_get(root, key) != NULL;
			snprintf(key, sizeof(key), "k%u", i + KEYS);
			wrong += toml_get(root, key) != NULL;
		}
		arena_free(&a);
		free(text);
		CHECK_EQ(r, 0);
		CHECK_EQ(found, KEYS);
		CHECK_EQ(wrong, 0);
	}
}

// ---- one value; putting values in ----

TEST(single_values)
{
	static const struct {
		const char *text;
		int type; // -1: refused
	} cases[] = {
		{ "1", TOML_INTEGER },
		{ " 0x10 ", TOML_INTEGER },
		{ "1G", -1 },
		{ "true", TOML_BOOLEAN },
		{ "\"a\"", TOML_STRING },
		{ "[1, 2]", TOML_ARRAY },
		{ "{a = 1}", TOML_TABLE },
		{ "", -1 },
		{ "1 2", -1 },
		{ "a", -1 },
		{ "\"a", -1 },
		{ "1 # c", -1 },
		{ "1.5", TOML_FLOAT },
		{ "07:32:00", TOML_LOCAL_TIME },
		{ "1\n", -1 },
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct arena a = { 0 };
		struct toml_value *v = NULL;
		struct toml_error e;
		int r = toml_parse_value(&a, cases[i].text, strlen(cases[i].text), &v, &e);
		int type = r ? -1 : (int)v->type;
		arena_free(&a);
		if (type != cases[i].type)
			printf("%s\n", cases[i].text);
		CHECK(type == cases[i].type);
		CHECK(r == 0 || r == -EINVAL);
	}
}

TEST(values_are_put_in)
{
	static const char text[] = "a = 1\nb = 2\n";
	struct arena a = { 0 };
	struct toml_value *root, *v[3];
	struct toml_error e;
	int r = toml_parse(&a, text, strlen(text), &root, &e);
	for (unsigned i = 0; i < 3 && !r; i++)
		r = toml_parse_value(&a, "\"new\"", 5, &v[i], &e);
	static const char *const keys[] = { "a", "c", "c" };
	for (unsigned i = 0; i < 3 && !r; i++)
		r = toml_put(&a, root, keys[i], v[i]);
	char *got = NULL;
	size_t len;
	FILE *f = open_memstream(&got, &len);
	if (r == 0)
		dump(f, root, 0);
	fclose(f);
	bool good = strcmp(got, "\"a\" = \"new\"\n\"b\" = integer 2\n\"c\" = \"new\"\n") == 0;
	bool none =
		r == 0 && !toml_get(root, "d") && !toml_get(NULL, "a") && !toml_get(toml_get(root, "a"), "a");
	free(got);
	arena_free(&a);
	CHECK_EQ(r, 0);
	CHECK(good);
	CHECK(none);
}
