// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config_value.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/parse.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// ---- messages ----

const char *config_value_quote(struct config_reader *r, const char *s)
{
	return config_quote(r, &(struct toml_text){ .bytes = s, .len = strlen(s) });
}

const char *config_did_you_mean(struct config_reader *r, const struct suggest *s)
{
	const char *hint = s->best ? arena_printf(r->arena, " (did you mean \"%s\"?)", s->best) : NULL;
	return hint ? hint : "";
}

bool config_value_is(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		     enum toml_type due)
{
	if (v->type == due)
		return true;
	config_complain_value(r, v, "%s is %s, expected %s", k->name, toml_type_name(v->type),
			      toml_type_name(due));
	return false;
}

const char *config_value_text(struct config_reader *r, const struct config_key *k, const struct toml_value *v)
{
	if (!config_value_is(r, k, v, TOML_STRING))
		return NULL;
	if (memchr(v->string.bytes, '\0', v->string.len)) {
		config_complain_value(r, v, "%s has a NUL character in it", k->name);
		return NULL;
	}
	return v->string.bytes;
}

// ---- values: one function a kind ----

static void put_uint(void *field, unsigned width, uint64_t n)
{
	const uint32_t n32 = (uint32_t)n;
	const uint16_t n16 = (uint16_t)n;
	if (width == sizeof(n))
		memcpy(field, &n, sizeof(n));
	else if (width == sizeof(n32))
		memcpy(field, &n32, sizeof(n32));
	else
		memcpy(field, &n16, sizeof(n16));
}

void config_store_text(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	size_t len = v->string.len;
	if (len < k->min || len > k->max) {
		config_complain_value(r, v, "%s has %zu bytes, not %" PRIu64 " to %" PRIu64, k->name, len,
				      k->min, k->max);
		return;
	}
	*(const char **)field = s;
}

// What appears in log lines and on screens.
void config_store_printable(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	const char *s = config_value_text(r, k, v);
	for (const char *p = s; p && *p; p++) {
		if (*p >= ' ' && *p <= '~')
			continue;
		config_complain_value(r, v, "%s has something in it that is not printable ASCII", k->name);
		return;
	}
	if (s)
		config_store_text(r, k, v, field);
}

void config_store_mac(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field)
{
	uint8_t mac[6];
	const char *s = config_value_text(r, k, v);
	if (s && parse_mac(s, mac) < 0)
		config_complain_value(r, v,
				      "mac = %s is no address of an interface, such as \"52:54:00:12:34:56\"",
				      config_value_quote(r, s));
	else if (s)
		config_store_text(r, k, v, field);
}

void config_store_cpus(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t set[(PARSE_CPUS_MAX + 1) / 64];
	const char *s = config_value_text(r, k, v);
	if (s && parse_cpus(s, set) < 0)
		config_complain_value(r, v, "cpus = %s is no list of processors, such as \"2-3,5\"",
				      config_value_quote(r, s));
	else if (s)
		config_store_text(r, k, v, field);
}

bool config_is_id(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
	return n >= 1 && n <= CONFIG_ID_MAX && s[n] == '\0';
}

void config_store_id(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		     void *field)
{
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	if (config_is_id(s))
		*(const char **)field = s;
	else
		config_complain_value(r, v, "id %s is not 1 to %d of A-Z a-z 0-9 _ . -",
				      config_value_quote(r, s), CONFIG_ID_MAX);
}

// Paths from the command line start where the user stands.
const char *config_resolve(struct config_reader *r, const struct toml_value *v, const char *path)
{
	if (path[0] == '/' || v->line == 0 || fd_is_reference(path))
		return path;
	return config_kept(r, arena_printf(r->arena, "%s%s", r->directory, path));
}

void config_store_path(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = config_value_text(r, k, v);
	if (s && *s == '\0')
		config_complain_value(r, v, "%s is empty, expected a path", k->name);
	else if (s)
		*(const char **)field = config_resolve(r, v, s);
}

void config_store_serial_to(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	bool plain = false, file = strncmp(s, "file:", 5) == 0, unix_socket = strncmp(s, "unix:", 5) == 0;
	for (const char *const *w = k->words; *w; w++)
		plain |= strcmp(s, *w) == 0;
	if (plain)
		*(const char **)field = s;
	else if ((file || unix_socket) && s[5]) {
		const char *path = config_resolve(r, v, s + 5);
		*(const char **)field = config_kept(r, arena_printf(r->arena, "%.5s%s", s, path ? path : ""));
	} else
		config_complain_value(
			r, v, "to = %s is none of \"stdio\", \"pty\", \"file:PATH\", \"unix:PATH\", \"none\"",
			config_value_quote(r, s));
}

static bool is_in_range(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			uint64_t *n)
{
	if (!config_value_is(r, k, v, TOML_INTEGER))
		return false;
	*n = (uint64_t)v->integer;
	if (v->integer >= 0 && *n >= k->min && *n <= k->max)
		return true;
	config_complain_value(r, v, "%s = %" PRId64 " is not in the range from %" PRIu64 " to %" PRIu64,
			      k->name, v->integer, k->min, k->max);
	return false;
}

void config_store_uint(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t n;
	if (is_in_range(r, k, v, &n))
		put_uint(field, k->width, n);
}

void config_store_queue_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			     void *field)
{
	uint64_t n;
	if (!is_in_range(r, k, v, &n))
		return;
	if (is_power_of_two(n))
		put_uint(field, k->width, n);
	else
		config_complain_value(r, v, "%s = %" PRIu64 " is not a power of two", k->name, n);
}

void config_store_block_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			     void *field)
{
	if (!config_value_is(r, k, v, TOML_INTEGER))
		return;
	if (v->integer == 512 || v->integer == 4096)
		put_uint(field, k->width, (uint64_t)v->integer);
	else
		config_complain_value(r, v, "%s = %" PRId64 " is neither 512 nor 4096", k->name, v->integer);
}

// "512M", or an integer: bytes.
void config_store_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t n = 0;
	const char *shown;
	bool large = false;
	if (v->type == TOML_INTEGER) {
		shown = arena_printf(r->arena, "%" PRId64, v->integer);
		n = v->integer < 0 ? 0 : (uint64_t)v->integer;
	} else {
		const char *s = config_value_text(r, k, v);
		if (!s)
			return;
		shown = config_value_quote(r, s);
		int e = parse_size(s, &n);
		large = e == -ERANGE;
		if (e == -EINVAL) {
			config_complain_value(
				r, v,
				"%s = %s is not a size: digits, then nothing or one of K M G T, as in \"512M\"",
				k->name, shown);
			return;
		}
	}
	if (large || n < k->min || n > k->max)
		config_complain_value(r, v, "%s = %s is not in the range from %s to 64T", k->name,
				      shown ? shown : "?", k->min == 1 ? "1 byte" : "1M");
	else
		put_uint(field, k->width, n);
}

void config_store_bool(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	if (config_value_is(r, k, v, TOML_BOOLEAN))
		*(bool *)field = v->boolean;
}

void config_store_choice(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field)
{
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	struct suggest hint = { .word = s };
	for (unsigned i = 0; k->words[i]; i++) {
		if (strcmp(s, k->words[i]) == 0) {
			put_uint(field, k->width, i);
			return;
		}
		suggest_offer(&hint, k->words[i]);
	}
	config_complain_value(r, v, "%s = %s is not known%s", k->name, config_value_quote(r, s),
			      config_did_you_mean(r, &hint));
}

void config_store_via(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field)
{
	if (v->type == TOML_STRING && v->string.len == 0)
		config_complain_value(r, v, "via is empty; leave it out for a device of minivmm's own");
	else
		config_store_choice(r, k, v, field);
}

// A name or a number; the name is kept beside it, for messages.
void config_store_virtio(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field)
{
	struct device_config *d = CONTAINER_OF(field, struct device_config, virtio_type);
	if (v->type == TOML_INTEGER) {
		uint64_t n;
		if (!is_in_range(r, k, v, &n))
			return;
		d->virtio_type = (uint16_t)n;
		d->virtio_name = virtio_id_name(d->virtio_type);
		if (!d->virtio_name)
			d->virtio_name = config_kept(r, arena_printf(r->arena, "%" PRIu64, n));
		return;
	}
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	d->virtio_type = virtio_id_by_name(s);
	d->virtio_name = s;
	if (d->virtio_type)
		return;
	struct suggest hint = { .word = s };
	for (uint16_t i = 1; i <= VIRTIO_TYPE_MAX; i++)
		if (virtio_id_name(i))
			suggest_offer(&hint, virtio_id_name(i));
	config_complain_value(r, v, "virtio = %s is no device type that is known by name%s",
			      config_value_quote(r, s), config_did_you_mean(r, &hint));
}

// "forever", "never", or a time: "500ms", "30s", "5m", "2h".
void config_store_reconnect(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	static const struct {
		const char *unit;
		int64_t ms;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
	const char *s = config_value_text(r, k, v);
	int64_t ms = 0;
	if (!s)
		return;
	const size_t digits = strspn(s, "0123456789");
	if (strcmp(s, "never") == 0)
		ms = CONFIG_NEVER;
	for (size_t i = 0; digits > 0 && digits <= 6 && i < ARRAY_LEN(units); i++)
		if (strcmp(s + digits, units[i].unit) == 0)
			ms = strtol(s, NULL, 10) * units[i].ms;
	if (ms == 0 && strcmp(s, "forever") != 0)
		config_complain_value(r, v,
				      "%s = %s is neither \"forever\", \"never\" nor a time such as \"30s\"",
				      k->name, config_value_quote(r, s));
	else
		memcpy(field, &ms, sizeof(ms));
}

// A text in which each 'x' of the pattern is a hexadecimal digit and every other character itself.
static bool matches(const char *s, const char *pattern)
{
	for (; *pattern; s++, pattern++)
		if (*pattern == 'x' ? !strchr("0123456789abcdef", *s) || !*s : *s != *pattern)
			return false;
	return !*s;
}

void config_store_pci_address(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			      void *field)
{
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	if ((matches(s, "xxxx:xx:xx.x") || matches(s, "xx:xx.x")) && s[strlen(s) - 1] <= '7')
		*(const char **)field = s;
	else
		config_complain_value(
			r, v, "%s = %s is no address of a PCI function, such as \"0000:01:00.0\" (lspci -D)",
			k->name, config_value_quote(r, s));
}

void config_store_uuid(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = config_value_text(r, k, v);
	if (s && matches(s, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
		*(const char **)field = s;
	else if (s)
		config_complain_value(r, v, "%s = %s is no UUID in small letters", k->name,
				      config_value_quote(r, s));
}
