// SPDX-License-Identifier: BSD-2-Clause
// Any bytes as a TOML document and as a single value: no crash, and what is accepted is a sound tree.
#include "vmm/base/toml.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good)
{
	if (!good)
		abort();
}

static void check_error(const struct toml_error *e)
{
	must(e->line >= 1 && e->column >= 1 && e->text[0] != '\0');
	for (const char *p = e->text; *p; p++)
		must(*p >= ' ' && *p <= '~');
}

static void check_tree(const struct toml_value *v, unsigned depth)
{
	must(v->line >= 1 && v->column >= 1);
	if (v->type == TOML_STRING)
		must(v->string.bytes[v->string.len] == '\0');
	if (v->type != TOML_ARRAY && v->type != TOML_TABLE)
		return;
	must(depth <= TOML_DEPTH_MAX);
	const struct toml_value *last = NULL;
	for (const struct toml_value *c = v->children.first; c; c = c->next) {
		last = c;
		check_tree(c, depth + 1);
		if (v->type == TOML_TABLE && strlen(c->key.bytes) == c->key.len)
			must(toml_get(v, c->key.bytes) == c);
	}
	must(last == v->children.last);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a = { 0 };
	struct toml_value *v = NULL;
	struct toml_error e;
	if (toml_parse(&a, (const char *)data, size, &v, &e))
		check_error(&e);
	else
		check_tree(v, 0);
	if (toml_parse_value(&a, (const char *)data, size, &v, &e))
		check_error(&e);
	else
		check_tree(v, 1);
	arena_free(&a);
	return 0;
}
