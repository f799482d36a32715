// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config_override.h"

#include <errno.h>
#include <string.h>

static void mark_origin(struct toml_value *v, unsigned override)
{
	v->line = v->key_line = 0;
	v->column = v->key_column = override;
	if (v->type == TOML_ARRAY || v->type == TOML_TABLE)
		for (struct toml_value *c = v->children.first; c; c = c->next)
			mark_origin(c, override);
}

static struct toml_value *override_value(struct config_reader *r, const char *text)
{
	struct toml_value *v;
	struct toml_error te;
	int e = toml_parse_value(r->arena, text, strlen(text), &v, &te);
	if (e != -EINVAL)
		return e ? config_kept(r, NULL) : v;
	v = config_kept(r, arena_alloc(r->arena, sizeof(*v)));
	if (!v)
		return NULL;
	v->type = TOML_STRING;
	v->string.len = strlen(text);
	v->string.bytes = config_kept(r, arena_copy(r->arena, text, v->string.len));
	return v->string.bytes ? v : NULL;
}

static struct toml_value *find_device(const struct toml_value *root, const char *id, size_t len)
{
	const struct toml_value *list = toml_get(root, "device");
	if (!list || list->type != TOML_ARRAY)
		return NULL;
	for (struct toml_value *d = list->children.first; d; d = d->next) {
		const struct toml_value *v = toml_get(d, "id");
		if (v && v->type == TOML_STRING && v->string.len == len &&
		    memcmp(v->string.bytes, id, len) == 0)
			return d;
	}
	return NULL;
}

// The table that "vm" or "device.ID" names, made if need be; NULL with a complaint.
static struct toml_value *override_table(struct config_reader *r, struct toml_value *root, unsigned i,
					 const char *name, size_t len)
{
	static const char device[] = "device.";
	if (len > strlen(device) && strncmp(name, device, strlen(device)) == 0) {
		struct toml_value *d = find_device(root, name + strlen(device), len - strlen(device));
		if (!d)
			config_complain(r, 0, i, "there is no device with that id");
		return d;
	}
	char *table = config_kept(r, arena_copy(r->arena, name, len));
	if (!table)
		return NULL;
	if (strcmp(table, "device") == 0 || strchr(table, '.')) {
		config_complain(r, 0, i, "the form is TABLE.KEY=VALUE or device.ID.KEY=VALUE");
		return NULL;
	}
	struct toml_value *t = toml_get(root, table);
	if (t)
		return t->type == TOML_TABLE ? t : NULL; // read_tables() complains
	t = config_kept(r, toml_new_table(r->arena));
	if (!t)
		return NULL;
	mark_origin(t, i);
	return toml_put(r->arena, root, table, t) ? config_kept(r, NULL) : t;
}

void config_override(struct config_reader *r, struct toml_value *root, unsigned i)
{
	const char *text = r->overrides[i], *equals = strchr(text, '=');
	const char *dot = equals ? memrchr(text, '.', (size_t)(equals - text)) : NULL;
	if (!dot || dot == text || dot + 1 == equals) {
		config_complain(r, 0, i, "the form is TABLE.KEY=VALUE or device.ID.KEY=VALUE");
		return;
	}
	struct toml_value *table = override_table(r, root, i, text, (size_t)(dot - text));
	struct toml_value *v = table ? override_value(r, equals + 1) : NULL;
	char *key = v ? config_kept(r, arena_copy(r->arena, dot + 1, (size_t)(equals - dot - 1))) : NULL;
	if (!key)
		return;
	mark_origin(v, i);
	if (toml_put(r->arena, table, key, v))
		config_kept(r, NULL);
}
