// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/toml_index.h"
#include "vmm/base/toml_lex.h"

#include <errno.h>
#include <string.h>

// How a table or an array came to be decides what may still be added to it (TOML 1.0, "Table").
enum origin {
	BY_VALUE,	 // [1, 2] or {a = 1}: closed
	BY_HEADER,	 // [x], an element of [[x]], or the root: keys come right behind the header only
	BY_HEADER_BELOW, // x of [x.y]: its own header, or dotted keys, may still define it
	BY_DOTTED_KEY,	 // x of x.y = 1: further dotted keys of the same section may extend it
	BY_ARRAY_HEADER, // the array of [[x]]
};

const char *toml_type_name(enum toml_type type)
{
	static const char *const names[] = {
		[TOML_STRING] = "a string",
		[TOML_INTEGER] = "an integer",
		[TOML_FLOAT] = "a float",
		[TOML_BOOLEAN] = "a boolean",
		[TOML_OFFSET_DATETIME] = "a date-time with offset",
		[TOML_LOCAL_DATETIME] = "a local date-time",
		[TOML_LOCAL_DATE] = "a local date",
		[TOML_LOCAL_TIME] = "a local time",
		[TOML_ARRAY] = "an array",
		[TOML_TABLE] = "a table",
	};
	return names[type];
}

// ---- reading ----

static void child_append(struct toml_value *parent, struct toml_value *v)
{
	if (parent->children.last)
		parent->children.last->next = v;
	else
		parent->children.first = v;
	parent->children.last = v;
	if (parent->type == TOML_TABLE)
		parent->children.index = toml_index_insert(parent->children.index, v);
}

struct key_at { // one part of a key, and its place
	struct toml_text text;
	size_t pos;
};

static int read_key_part(struct toml_lex *lx, struct key_at *k)
{
	k->pos = lx->pos;
	return toml_lex_key(lx, &k->text);
}

// If a dot follows, goes to the next part of the key.
static bool skip_dot(struct toml_lex *lx)
{
	toml_lex_skip_blank(lx);
	if (toml_lex_peek(lx) != '.')
		return false;
	lx->pos++;
	toml_lex_skip_blank(lx);
	return true;
}

static int new_value(struct toml_lex *lx, const struct toml_value *parent, size_t pos, bool container,
		     struct toml_value **out)
{
	if (container && parent->depth >= TOML_DEPTH_MAX)
		return toml_lex_fail(lx, pos, "more than %d tables and arrays inside each other",
				     TOML_DEPTH_MAX);
	struct toml_value *v = arena_alloc(lx->arena, sizeof(*v));
	if (!v)
		return toml_lex_no_memory(lx);
	v->depth = (uint8_t)(parent->depth + 1);
	toml_lex_place(lx, pos, &v->line, &v->column);
	*out = v;
	return 0;
}

// A table or array that a key of a header or a dotted key brings into being.
static int new_child(struct toml_lex *lx, struct toml_value *parent, const struct key_at *k,
		     enum toml_type type, enum origin origin, struct toml_value **out)
{
	int r = new_value(lx, parent, k->pos, true, out);
	if (r)
		return r;
	struct toml_value *v = *out;
	v->type = type;
	v->origin = (uint8_t)origin;
	v->key = k->text;
	v->key_line = v->line;
	v->key_column = v->column;
	child_append(parent, v);
	return 0;
}

// `did`: "already ...".
static int fail_at_key(struct toml_lex *lx, const struct key_at *k, const struct toml_value *old,
		       const char *did)
{
	char shown[40];
	size_t n = 0;
	for (size_t i = 0; i < k->text.len && n < sizeof(shown) - 1; i++, n++)
		shown[n] = k->text.bytes[i] >= ' ' && k->text.bytes[i] < 0x7f ? k->text.bytes[i] : '?';
	shown[n] = '\0';
	return toml_lex_fail(lx, k->pos, "\"%s\" is %s in line %u", shown, did, old->key_line);
}

// The table that a part of a header other than its last names.
static int enter_by_header(struct toml_lex *lx, struct toml_value **table, const struct key_at *k)
{
	struct toml_value *old = toml_index_find((*table)->children.index, &k->text);
	if (!old)
		return new_child(lx, *table, k, TOML_TABLE, BY_HEADER_BELOW, table);
	if (old->type == TOML_ARRAY && old->origin == BY_ARRAY_HEADER)
		old = old->children.last;
	else if (old->type != TOML_TABLE)
		return fail_at_key(lx, k, old, "already set to something that is no table");
	else if (old->origin == BY_VALUE)
		return fail_at_key(lx, k, old, "already a complete table");
	*table = old;
	return 0;
}

// The table that a part of a dotted key other than its last names.
static int enter_by_dotted_key(struct toml_lex *lx, struct toml_value **table, const struct key_at *k)
{
	struct toml_value *old = toml_index_find((*table)->children.index, &k->text);
	if (!old)
		return new_child(lx, *table, k, TOML_TABLE, BY_DOTTED_KEY, table);
	if (old->type != TOML_TABLE)
		return fail_at_key(lx, k, old, "already set to something that is no table");
	if (old->origin != BY_DOTTED_KEY && old->origin != BY_HEADER_BELOW)
		return fail_at_key(lx, k, old, "already a complete table");
	old->origin = BY_DOTTED_KEY;
	*table = old;
	return 0;
}

// The table of [x].
static int open_table(struct toml_lex *lx, struct toml_value **table, const struct key_at *k)
{
	struct toml_value *old = toml_index_find((*table)->children.index, &k->text);
	if (!old)
		return new_child(lx, *table, k, TOML_TABLE, BY_HEADER, table);
	if (old->type == TOML_ARRAY && old->origin == BY_ARRAY_HEADER)
		return fail_at_key(lx, k, old, "already an array of tables, written [[...]],");
	if (old->type != TOML_TABLE || old->origin != BY_HEADER_BELOW)
		return fail_at_key(lx, k, old, "already defined");
	old->origin = BY_HEADER;
	toml_lex_place(lx, k->pos, &old->key_line, &old->key_column);
	*table = old;
	return 0;
}

// A new element of [[x]].
static int open_array_element(struct toml_lex *lx, struct toml_value **table, const struct key_at *k)
{
	struct toml_value *array = toml_index_find((*table)->children.index, &k->text);
	int r = 0;
	if (!array)
		r = new_child(lx, *table, k, TOML_ARRAY, BY_ARRAY_HEADER, &array);
	else if (array->type != TOML_ARRAY || array->origin != BY_ARRAY_HEADER)
		return fail_at_key(lx, k, array, "already defined, and not by [[...]],");
	if (!r)
		r = new_value(lx, array, k->pos, true, table);
	if (r)
		return r;
	(*table)->type = TOML_TABLE;
	(*table)->origin = BY_HEADER;
	child_append(array, *table);
	return 0;
}

static int read_header(struct toml_lex *lx, struct toml_value *root, struct toml_value **table)
{
	unsigned line, column;
	toml_lex_place(lx, lx->pos++, &line, &column);
	bool element = toml_lex_peek(lx) == '[';
	if (element)
		lx->pos++;
	toml_lex_skip_blank(lx);
	struct key_at k;
	*table = root;
	int r = read_key_part(lx, &k);
	while (!r && skip_dot(lx)) {
		r = enter_by_header(lx, table, &k);
		if (!r)
			r = read_key_part(lx, &k);
	}
	if (r)
		return r;
	for (int i = 0; i < (element ? 2 : 1); i++, lx->pos++)
		if (toml_lex_peek(lx) != ']')
			return toml_lex_unexpected(lx, element ? "]]" : "]");
	r = element ? open_array_element(lx, table, &k) : open_table(lx, table, &k);
	if (r)
		return r;
	(*table)->line = line;
	(*table)->column = column;
	return toml_lex_line_end(lx, "a header");
}

// value, array, inline table and key-value pair call each other; new_value() bounds how deep.
static int read_value(struct toml_lex *lx, const struct toml_value *parent, struct toml_value **out);

static int read_pair(struct toml_lex *lx, struct toml_value *table)
{
	struct key_at k;
	int r = read_key_part(lx, &k);
	while (!r && skip_dot(lx)) {
		r = enter_by_dotted_key(lx, &table, &k);
		if (!r)
			r = read_key_part(lx, &k);
	}
	if (r)
		return r;
	const struct toml_value *old = toml_index_find(table->children.index, &k.text);
	if (old)
		return fail_at_key(lx, &k, old, "already set");
	if (toml_lex_peek(lx) != '=')
		return toml_lex_unexpected(lx, "= after the key");
	lx->pos++;
	toml_lex_skip_blank(lx);
	unsigned line, column;
	toml_lex_place(lx, k.pos, &line, &column);
	struct toml_value *v;
	r = read_value(lx, table, &v);
	if (r)
		return r;
	v->key = k.text;
	v->key_line = line;
	v->key_column = column;
	child_append(table, v);
	return 0;
}

static int read_array(struct toml_lex *lx, struct toml_value *array)
{
	array->type = TOML_ARRAY;
	array->origin = BY_VALUE;
	for (lx->pos++;;) {
		toml_lex_skip_space(lx);
		if (toml_lex_peek(lx) == ']')
			break;
		struct toml_value *v;
		int r = read_value(lx, array, &v);
		if (r)
			return r;
		child_append(array, v);
		toml_lex_skip_space(lx);
		if (toml_lex_peek(lx) == ']')
			break;
		if (toml_lex_peek(lx) != ',')
			return toml_lex_unexpected(lx, "a comma or ]");
		lx->pos++;
	}
	lx->pos++;
	return 0;
}

static int read_inline_table(struct toml_lex *lx, struct toml_value *table)
{
	table->type = TOML_TABLE;
	table->origin = BY_VALUE;
	lx->pos++;
	toml_lex_skip_blank(lx);
	bool more = toml_lex_peek(lx) != '}';
	while (more) {
		int r = read_pair(lx, table);
		if (r)
			return r;
		toml_lex_skip_blank(lx);
		more = toml_lex_peek(lx) == ',';
		if (!more && toml_lex_peek(lx) != '}')
			return toml_lex_unexpected(lx, "a comma or }");
		if (more) {
			lx->pos++;
			toml_lex_skip_blank(lx);
		}
	}
	lx->pos++;
	return 0;
}

static int read_value(struct toml_lex *lx, const struct toml_value *parent, struct toml_value **out)
{
	int c = toml_lex_peek(lx);
	int r = new_value(lx, parent, lx->pos, c == '[' || c == '{', out);
	if (r)
		return r;
	return c == '['	  ? read_array(lx, *out)
	       : c == '{' ? read_inline_table(lx, *out)
			  : toml_lex_scalar(lx, *out);
}

// ---- the interface ----

static int start(struct toml_lex *lx, struct arena *a, const char *text, size_t len, struct toml_error *e)
{
	*lx = (struct toml_lex){ .arena = a, .text = text, .len = len, .err = e };
	*e = (struct toml_error){ 0 };
	return toml_lex_check_text(lx);
}

struct toml_value *toml_new_table(struct arena *a)
{
	struct toml_value *v = arena_alloc(a, sizeof(*v));
	if (v) {
		v->type = TOML_TABLE;
		v->origin = BY_HEADER;
	}
	return v;
}

int toml_parse(struct arena *a, const char *text, size_t len, struct toml_value **root, struct toml_error *e)
{
	struct toml_lex lx;
	int r = start(&lx, a, text, len, e);
	if (r)
		return r;
	struct toml_value *top = toml_new_table(a);
	if (!top)
		return toml_lex_no_memory(&lx);
	top->line = top->column = 1;
	struct toml_value *table = top;
	for (;;) {
		toml_lex_skip_space(&lx);
		int c = toml_lex_peek(&lx);
		if (c < 0)
			break;
		if (c == '[') {
			r = read_header(&lx, top, &table);
		} else {
			r = read_pair(&lx, table);
			if (!r)
				r = toml_lex_line_end(&lx, "a value");
		}
		if (r)
			return r;
	}
	*root = top;
	return 0;
}

int toml_parse_value(struct arena *a, const char *text, size_t len, struct toml_value **value,
		     struct toml_error *e)
{
	struct toml_lex lx;
	int r = start(&lx, a, text, len, e);
	if (r)
		return r;
	static const struct toml_value nowhere;
	toml_lex_skip_blank(&lx);
	r = read_value(&lx, &nowhere, value);
	if (r)
		return r;
	toml_lex_skip_blank(&lx);
	return lx.pos == lx.len ? 0 : toml_lex_unexpected(&lx, "the end after a value");
}

struct toml_value *toml_get(const struct toml_value *table, const char *key)
{
	const struct toml_text text = { .bytes = key, .len = strlen(key) };
	return table && table->type == TOML_TABLE ? toml_index_find(table->children.index, &text) : NULL;
}

// Keeps the links of the list and the index; everything else becomes that of `value`.
static void replace(struct toml_value *old, const struct toml_value *value)
{
	struct toml_value kept = *old;
	*old = *value;
	old->key = kept.key;
	old->level = kept.level;
	old->next = kept.next;
	old->left = kept.left;
	old->right = kept.right;
}

int toml_put(struct arena *a, struct toml_value *table, const char *key, struct toml_value *value)
{
	const struct toml_text text = { .bytes = key, .len = strlen(key) };
	struct toml_value *old = toml_index_find(table->children.index, &text);
	if (old) {
		replace(old, value);
		return 0;
	}
	value->key.len = text.len;
	value->key.bytes = arena_copy(a, key, text.len);
	if (!value->key.bytes)
		return -ENOMEM;
	value->next = NULL;
	child_append(table, value);
	return 0;
}
