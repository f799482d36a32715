// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/suggest.h"
#include "vmm/base/virtio_id.h"
#include "vmm/config_override.h"
#include "vmm/config_value.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEMORY (UINT64_C(256) << 20)
#define NAME_MAX_LEN   64

static const char *const tables[] = { "vm", "boot", "serial", "device" };

// ---- the text ----

// All of it, up to one byte more than TOML allows.
static int read_text(const char *path, char **text, size_t *len, struct err *e)
{
	FD_AUTO fd = strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
					    : fd_open_path(path, O_RDONLY, e);
	if (fd < 0)
		return strcmp(path, "-") == 0 ? err_sys(e, errno, "standard input") : fd;
	const size_t max = TOML_TEXT_MAX + 1;
	size_t size = 0;
	char *buf = NULL;
	*len = 0;
	for (;;) {
		if (*len == size) {
			if (size == max)
				break;
			size = size ? MIN(size * 4, max) : 4096;
			char *larger = realloc(buf, size);
			if (!larger) {
				free(buf);
				return err_sys(e, ENOMEM, "read %s", path);
			}
			buf = larger;
		}
		ssize_t n = read(fd, buf + *len, size - *len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int error = errno;
			free(buf);
			return err_sys(e, error, "read %s", path);
		}
		if (n == 0)
			break;
		*len += (size_t)n;
	}
	*text = buf;
	return 0;
}

static struct toml_value *read_document(struct config_reader *r, const char *path)
{
	struct err e = { 0 };
	char *text = NULL;
	size_t len = 0;
	struct toml_value *root = NULL;
	if (read_text(path, &text, &len, &e)) {
		r->error_count++;
		fprintf(r->errors, "minivmm: %s\n", e.text);
		return NULL;
	}
	struct toml_error te;
	if (toml_parse(r->arena, text, len, &root, &te)) {
		config_complain(r, te.line, te.column, "%s", te.text);
		root = NULL;
	}
	free(text);
	return root;
}

// ---- tables ----

static void complain_unknown_key(struct config_reader *r, const char *table, const struct toml_value *v)
{
	struct suggest hint = { .word = v->key.bytes };
	for (unsigned i = 0; i < config_key_count; i++)
		if (strcmp(config_keys[i].table, table) == 0)
			suggest_offer(&hint, config_keys[i].name);
	const char *quoted = config_quote(r, &v->key);
	if (hint.best)
		config_complain_key(r, v, "key %s is not known (did you mean \"%s\"?)", quoted, hint.best);
	else
		config_complain_key(r, v, "key %s is not known", quoted);
}

// [vm], [boot], [serial]; `t` is NULL for one that is left out.
static void read_table(struct config_reader *r, const char *name, const struct toml_value *t,
		       struct vm_config *c)
{
	snprintf(r->object, sizeof(r->object), "[%s]", name);
	for (const struct toml_value *v = t ? t->children.first : NULL; v; v = v->next) {
		const struct config_key *k = config_key_find(name, &v->key);
		if (k)
			k->store(r, k, v, (char *)c + k->offset);
		else
			complain_unknown_key(r, name, v);
	}
	const struct toml_value *at = t && t->line ? t : NULL; // not one that --set made
	for (const struct config_key *k = config_keys; k < config_keys + config_key_count; k++)
		if (strcmp(k->table, name) == 0 && k->needed_by && !toml_get(t, k->name))
			config_complain(r, at ? at->line : 1, at ? at->column : 1, "key \"%s\" is missing",
					k->name);
}

static void check_memory(struct config_reader *r, const struct toml_value *vm, const struct vm_config *c)
{
	const struct toml_value *v = toml_get(vm, "memory");
	if (!v)
		v = toml_get(vm, "backing");
	uint64_t page = memmap_page_size(c->backing);
	if (v && c->memory % page)
		config_complain_value(
			r, v, "memory is not a multiple of the backing's pages of %" PRIu64 "K%s", page >> 10,
			c->memory < 1u << 20 ? " (it is in bytes; \"512M\" are MiB)" : "");
}

// ---- devices ----

static void complain_misfit(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    enum device_via via)
{
	if (via != VIA_BUILTIN) {
		config_complain_key(r, v, "key \"%s\" does not go with via = \"%s\"", k->name,
				    config_via_names[via]);
		return;
	}
	unsigned fits = 0;
	while (fits < VIA_COUNT && !(k->vias & 1u << fits))
		fits++;
	const bool more = k->vias >> fits >> 1;
	config_complain_key(r, v, "key \"%s\" goes with via = \"%s\" %s", k->name, config_via_names[fits],
			    more ? "and its like" : "only");
}

static bool goes_with_type(const struct config_key *k, const struct device_config *d)
{
	return !k->virtio || k->virtio == d->virtio_type || (k->any_type & 1u << d->via);
}

// Stores all keys of a device.  Where `via` is wrong it is not known what fits, and nothing is said about
// that.
static void read_device_keys(struct config_reader *r, const struct toml_value *t, struct device_config *d)
{
	const struct toml_value *via = toml_get(t, "via");
	const unsigned before = r->error_count;
	if (via) {
		const struct config_key *k = config_key_find("device", &via->key);
		k->store(r, k, via, &d->via);
	}
	const bool via_known = r->error_count == before;
	const unsigned bit = 1u << d->via;
	for (const struct toml_value *v = t->children.first; v; v = v->next) {
		const struct config_key *k = config_key_find("device", &v->key);
		if (!k)
			complain_unknown_key(r, "device", v);
		else if (via_known && !(k->vias & bit))
			complain_misfit(r, k, v, d->via);
		else if (v != via)
			k->store(r, k, v, (char *)d + k->offset);
	}
	for (const struct toml_value *v = t->children.first; v && via_known && d->virtio_type; v = v->next) {
		const struct config_key *k = config_key_find("device", &v->key);
		if (k && (k->vias & bit) && !goes_with_type(k, d))
			config_complain_key(r, v, "key \"%s\" goes with virtio = \"%s\" only", k->name,
					    virtio_id_name(k->virtio));
	}
	for (const struct config_key *k = config_keys; via_known && k < config_keys + config_key_count; k++)
		if (k->vias && (k->needed_by & bit) && goes_with_type(k, d) && !toml_get(t, k->name))
			config_complain(r, t->line, t->column, "key \"%s\" is missing", k->name);
}

static void read_device(struct config_reader *r, const struct toml_value *t, struct vm_config *c)
{
	struct device_config *d = &c->devices[c->device_count];
	d->place = (struct config_place){ .line = t->line, .column = t->column };
	d->slot = -1;
	d->io_fds = true;
	const struct toml_value *id = toml_get(t, "id");
	if (id && id->type == TOML_STRING && config_is_id(id->string.bytes))
		snprintf(r->object, sizeof(r->object), "[device] \"%.*s\"", CONFIG_ID_MAX, id->string.bytes);
	else
		snprintf(r->object, sizeof(r->object), "[device] number %u", c->device_count + 1);
	if (t->type != TOML_TABLE) {
		config_complain_value(r, t, "this is %s, expected a table", toml_type_name(t->type));
		return;
	}
	read_device_keys(r, t, d);
	config_check_device(r, t, c, d);
}

static void read_devices(struct config_reader *r, const struct toml_value *list, struct vm_config *c)
{
	if (!list)
		return;
	snprintf(r->object, sizeof(r->object), "[device]");
	if (list->type != TOML_ARRAY) {
		config_complain_value(r, list, "a device is written [[device]], in two brackets");
		return;
	}
	c->devices = config_kept(r, arena_alloc(r->arena, CONFIG_DEVICES_MAX * sizeof(*c->devices)));
	for (const struct toml_value *t = list->children.first; t && c->devices; t = t->next) {
		if (c->device_count == CONFIG_DEVICES_MAX) {
			snprintf(r->object, sizeof(r->object), "[device]");
			config_complain_value(r, t, "more than %d devices", CONFIG_DEVICES_MAX);
			return;
		}
		read_device(r, t, c);
		c->device_count++;
	}
}

// ---- the whole ----

static void complain_unknown_table(struct config_reader *r, const struct toml_value *v)
{
	struct suggest hint = { .word = v->key.bytes };
	for (unsigned i = 0; i < ARRAY_LEN(tables); i++)
		suggest_offer(&hint, tables[i]);
	r->object[0] = '\0';
	const char *what = v->type == TOML_TABLE || v->type == TOML_ARRAY ? "table" : "key";
	const char *quoted = config_quote(r, &v->key);
	if (hint.best)
		config_complain_key(r, v, "%s %s is not known (did you mean \"%s\"?)", what, quoted,
				    hint.best);
	else
		config_complain_key(r, v, "%s %s is not known", what, quoted);
}

static void read_tables(struct config_reader *r, const struct toml_value *root, struct vm_config *c)
{
	for (const struct toml_value *v = root->children.first; v; v = v->next) {
		bool known = false;
		for (unsigned i = 0; i < ARRAY_LEN(tables); i++)
			known |= toml_get(root, tables[i]) == v;
		if (!known)
			complain_unknown_table(r, v);
	}
	for (unsigned i = 0; i < 3; i++) {
		const struct toml_value *t = toml_get(root, tables[i]);
		const unsigned before = r->error_count;
		snprintf(r->object, sizeof(r->object), "[%s]", tables[i]);
		if (t && t->type != TOML_TABLE)
			config_complain_key(r, t, "this is %s, expected a table", toml_type_name(t->type));
		else
			read_table(r, tables[i], t, c);
		if (i == 0 && t && r->error_count == before)
			check_memory(r, t, c);
	}
	read_devices(r, toml_get(root, "device"), c);
}

// The file's name without folder and ".toml", if that is fit for a name.
static const char *default_name(struct config_reader *r, const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t len = strlen(base);
	if (len > 5 && strcmp(base + len - 5, ".toml") == 0)
		len -= 5;
	bool fit = len >= 1 && len <= NAME_MAX_LEN && !fd_is_reference(path) && strcmp(path, "-") != 0;
	for (size_t i = 0; fit && i < len; i++)
		fit = base[i] >= ' ' && base[i] <= '~';
	return fit ? config_kept(r, arena_copy(r->arena, base, len)) : "vm";
}

static const char *directory_of(struct config_reader *r, const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash && !fd_is_reference(path)
		       ? config_kept(r, arena_copy(r->arena, path, (size_t)(slash + 1 - path)))
		       : "";
}

int config_read(struct vm_config *c, const char *path, const char *const *overrides, unsigned override_count,
		FILE *errors)
{
	struct arena *arena = calloc(1, sizeof(*arena));
	*c = (struct vm_config){ .storage = arena };
	if (!arena) {
		fprintf(errors, "minivmm: %s: out of memory\n", path);
		return -EINVAL;
	}
	struct config_reader r = { .arena = arena, .overrides = overrides, .errors = errors };
	r.file = strcmp(path, "-") == 0 ? "stdin" : config_kept(&r, arena_copy(arena, path, strlen(path)));
	r.directory = directory_of(&r, path);
	c->file = r.file;
	c->name = default_name(&r, path);
	c->cpus = 1;
	c->memory = DEFAULT_MEMORY;
	c->cmdline = "";
	c->serial_to = "stdio";

	struct toml_value *root = r.no_memory ? NULL : read_document(&r, path);
	for (unsigned i = 0; root && i < override_count; i++)
		config_override(&r, root, i);
	if (root)
		read_tables(&r, root, c);
	if (r.no_memory)
		fprintf(errors, "minivmm: %s: out of memory\n", path);
	if (!r.error_count && !r.no_memory)
		return 0;
	config_free(c);
	return -EINVAL;
}

void config_free(struct vm_config *c)
{
	if (c->storage)
		arena_free(c->storage);
	free(c->storage);
	*c = (struct vm_config){ 0 };
}
