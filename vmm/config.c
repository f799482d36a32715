// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/suggest.h"
#include "vmm/base/virtio_id.h"
#include "vmm/config_key.h"
#include "vmm/config_override.h"

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
		config_complain_value(r, v, "memory is not a multiple of the backing's pages of %" PRIu64 "K",
				      page >> 10);
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

static void check_builtin(struct config_reader *r, const struct toml_value *t, const struct device_config *d)
{
	const uint16_t most = d->virtio_type == VIRTIO_NET   ? CONFIG_NET_PAIRS_MAX
			      : d->virtio_type == VIRTIO_BLK ? CONFIG_BLK_QUEUES_MAX
							     : 1;
	static const uint16_t ours[] = { VIRTIO_BLK, VIRTIO_NET, VIRTIO_RNG, VIRTIO_CONSOLE, VIRTIO_VSOCK };
	bool is_ours = d->virtio_type == 0; // which has been complained about
	for (unsigned i = 0; i < ARRAY_LEN(ours); i++)
		is_ours |= d->virtio_type == ours[i];
	if (!is_ours)
		config_complain_value(
			r, toml_get(t, "virtio"),
			"minivmm has no program of its own for \"%s\" yet; use via = \"vhost-user\"",
			d->virtio_name);
	else if (d->virtio_type && d->queues > most)
		config_complain_value(r, toml_get(t, "queues"),
				      "queues = %u: a \"%s\" of ours has at most %u", d->queues,
				      d->virtio_name, most);
	if (d->tap && d->queues > 1 && strncmp(d->tap, "fd:", 3) == 0)
		config_complain_value(r, toml_get(t, "tap"),
				      "a descriptor is one queue; for more, name the tap");
}

// By its name; one that only has the name gets no more of the host than any other.
static bool program_is_ours(const struct device_config *d)
{
	const char *program = d->exec ? d->exec[0] : "", *slash = strrchr(program, '/');
	return strncmp(slash ? slash + 1 : program, "minivmm-", 8) == 0;
}

// Whoever is at the other end of a socket: vhost-user, vfio-user.
static void check_peer(struct config_reader *r, const struct toml_value *t, struct device_config *d)
{
	const struct toml_value *socket = toml_get(t, "socket"), *exec = toml_get(t, "exec");
	const struct toml_value *sandbox = toml_get(t, "sandbox"), *paths = toml_get(t, "paths");
	const struct toml_value *reconnect = toml_get(t, "reconnect"), *restart = toml_get(t, "restart");
	const struct toml_value *listen = toml_get(t, "listen"), *limits = toml_get(t, "limits");
	if (!socket && !exec && !listen)
		config_complain(r, t->line, t->column, "key \"socket\"%s or \"exec\" is missing",
				d->via == VIA_VHOST_USER ? ", \"listen\"" : "");
	if (socket && exec)
		config_complain_key(r, exec, "\"socket\" and \"exec\" exclude each other");
	if (listen && (socket || exec))
		config_complain_key(r, listen, "\"listen\" and \"%s\" exclude each other",
				    socket ? "socket" : "exec");
	if (reconnect && exec)
		config_complain_key(r, reconnect, "\"reconnect\" does not go with \"exec\"; write restart =");
	if (restart && !exec)
		config_complain_key(r, restart, "\"restart\" goes with \"exec\" only; write reconnect =");
	if (sandbox && !exec)
		config_complain_key(r, sandbox, "key \"sandbox\" goes with \"exec\" only");
	if (paths && !exec)
		config_complain_key(r, paths, "key \"paths\" goes with \"exec\" only");
	else if (paths && d->sandbox && strcmp(d->sandbox, "none") == 0)
		config_complain_key(r, paths, "without a sandbox every path is in sight");
	if (limits && !exec)
		config_complain_key(r, limits, "key \"limits\" goes with \"exec\" only");
	if (exec && !sandbox)
		d->sandbox = program_is_ours(d) ? "minivmm" : "default";
	if (d->learn && toml_get(t, "restart") && d->restart != RESTART_NEVER)
		config_complain_key(r, toml_get(t, "restart"),
				    "one that is learned from runs once: restart = \"never\"");
	if (d->learn)
		d->restart = RESTART_NEVER;
}

static void check_vhost(struct config_reader *r, const struct toml_value *t, const struct device_config *d)
{
	if (d->virtio_type && d->virtio_type != VIRTIO_NET && d->virtio_type != VIRTIO_SCSI &&
	    d->virtio_type != VIRTIO_VSOCK)
		config_complain_value(r, toml_get(t, "virtio"),
				      "kernel vhost has no \"%s\"; net, scsi and vsock are possible",
				      d->virtio_name);
	else if (d->virtio_type == VIRTIO_NET && d->queues > 1)
		config_complain_value(r, toml_get(t, "queues"),
				      "queues = %u: kernel vhost serves no control queue, so one pair; "
				      "more have minivmm-net (leave out \"via\") and vDPA devices",
				      d->queues);
	else if (d->virtio_type && d->virtio_type != VIRTIO_NET && d->queues)
		config_complain_key(r, toml_get(t, "queues"),
				    "over vhost the queues of a \"%s\" are not to be chosen", d->virtio_name);
}

// "0000:" is the domain that is meant where there is none.
static const char *without_domain(const char *host)
{
	return strncmp(host, "0000:", 5) == 0 && strlen(host) > 7 ? host + 5 : host;
}

static void check_vfio(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
		       const struct device_config *d)
{
	static const char *const names[] = { "host", "mdev", "sysfsdev", "cdev" };
	const char *first = NULL;
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		const struct toml_value *v = toml_get(t, names[i]);
		if (v && first)
			config_complain_key(r, v, "\"%s\" and \"%s\" exclude each other", first, names[i]);
		first = first ? first : v ? names[i] : NULL;
	}
	if (!first)
		config_complain(r, t->line, t->column,
				"key \"host\", \"mdev\", \"sysfsdev\" or \"cdev\" is missing");
	for (const struct device_config *o = c->devices; d->host && o < d; o++)
		if (o->host && strcmp(without_domain(o->host), without_domain(d->host)) == 0)
			config_complain_value(r, toml_get(t, "host"), "host is the device in line %u already",
					      o->place.line);
}

static void check_among_others(struct config_reader *r, const struct toml_value *t, const struct vm_config *c,
			       const struct device_config *d)
{
	const struct device_config *same_id = NULL, *same_slot = NULL;
	for (const struct device_config *o = c->devices; o < d; o++) {
		if (!same_id && d->id && o->id && strcmp(d->id, o->id) == 0)
			same_id = o;
		if (!same_slot && d->slot >= 0 && d->slot == o->slot)
			same_slot = o;
	}
	if (same_id)
		config_complain_value(r, toml_get(t, "id"), "the id is taken by the device in line %u",
				      same_id->place.line);
	if (same_slot)
		config_complain_value(r, toml_get(t, "slot"), "slot %d is taken by the device in line %u",
				      d->slot, same_slot->place.line);
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
		config_complain_value(r, t, "this is %s, a table is due", toml_type_name(t->type));
		return;
	}
	read_device_keys(r, t, d);
	if (d->via == VIA_VHOST_USER || d->via == VIA_VFIO_USER)
		check_peer(r, t, d);
	else if (d->via == VIA_VHOST)
		check_vhost(r, t, d);
	else if (d->via == VIA_VFIO)
		check_vfio(r, t, c, d);
	else if (!toml_get(t, "via"))
		check_builtin(r, t, d);
	check_among_others(r, t, c, d);
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
			config_complain_key(r, t, "this is %s, a table is due", toml_type_name(t->type));
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
