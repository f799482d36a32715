// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/config_key.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/parse.h"
#include "vmm/base/suggest.h"
#include "vmm/base/virtio_id.h"
#include "vmm/jail_profile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_MAX    (UINT64_C(64) << 40)
#define CPUS_MAX      4096 // more than KVM allows anywhere
#define QUEUES_MAX    1024
#define QUEUE_MAX     32768 // virtio 1.2 §2.7
#define NAME_MAX_LEN  64
#define TAG_LEN	      36 // virtio 1.2 §5.11.4
#define SERIAL_LEN    20 // VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6
#define CPUS_LEN      200
#define MTU_MIN	      68 // virtio 1.2 §5.1.4.1
#define RATE_MAX      MEMORY_MAX
#define SHARED_MAX    (UINT64_C(1) << 40)
#define CID_MIN	      3 // virtio 1.2 §5.10.4
#define CID_MAX	      0xfffffffe
#define PATHS_MAX     64
#define PROCESSES_MAX 4194304		  // what Linux allows
#define PROGRAM_MIN   (UINT64_C(1) << 20) // bytes: less is a mistake

// ---- messages ----

static const char *quote(struct config_reader *r, const char *s)
{
	return config_quote(r, &(struct toml_text){ .bytes = s, .len = strlen(s) });
}

static const char *did_you_mean(struct config_reader *r, const struct suggest *s)
{
	const char *hint = s->best ? arena_printf(r->arena, " (did you mean \"%s\"?)", s->best) : NULL;
	return hint ? hint : "";
}

static bool is_type(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		    enum toml_type due)
{
	if (v->type == due)
		return true;
	config_complain_value(r, v, "%s is %s, %s is due", k->name, toml_type_name(v->type),
			      toml_type_name(due));
	return false;
}

// The text of a value that is a string; else NULL, and a complaint about its type or a NUL inside.
static const char *string_of(struct config_reader *r, const struct config_key *k, const struct toml_value *v)
{
	if (!is_type(r, k, v, TOML_STRING))
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

static void store_text(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = string_of(r, k, v);
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
static void store_printable(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	const char *s = string_of(r, k, v);
	for (const char *p = s; p && *p; p++) {
		if (*p >= ' ' && *p <= '~')
			continue;
		config_complain_value(r, v, "%s has something in it that is not printable ASCII", k->name);
		return;
	}
	if (s)
		store_text(r, k, v, field);
}

static void store_mac(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field)
{
	uint8_t mac[6];
	const char *s = string_of(r, k, v);
	if (s && parse_mac(s, mac) < 0)
		config_complain_value(r, v,
				      "mac = %s is no address of an interface, such as \"52:54:00:12:34:56\"",
				      quote(r, s));
	else if (s)
		store_text(r, k, v, field);
}

static void store_cpus(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t set[(PARSE_CPUS_MAX + 1) / 64];
	const char *s = string_of(r, k, v);
	if (s && parse_cpus(s, set) < 0)
		config_complain_value(r, v, "cpus = %s is no list of processors, such as \"2-3,5\"",
				      quote(r, s));
	else if (s)
		store_text(r, k, v, field);
}

bool config_is_id(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
	return n >= 1 && n <= CONFIG_ID_MAX && s[n] == '\0';
}

static void store_id(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		     void *field)
{
	const char *s = string_of(r, k, v);
	if (!s)
		return;
	if (config_is_id(s))
		*(const char **)field = s;
	else
		config_complain_value(r, v, "id %s is not 1 to %d of A-Z a-z 0-9 _ . -", quote(r, s),
				      CONFIG_ID_MAX);
}

// Paths from the command line start where the user stands.
static const char *resolve(struct config_reader *r, const struct toml_value *v, const char *path)
{
	if (path[0] == '/' || v->line == 0 || fd_is_reference(path))
		return path;
	return config_kept(r, arena_printf(r->arena, "%s%s", r->directory, path));
}

static void store_path(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = string_of(r, k, v);
	if (s && *s == '\0')
		config_complain_value(r, v, "%s is empty, a path is due", k->name);
	else if (s)
		*(const char **)field = resolve(r, v, s);
}

static void store_serial_to(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	const char *s = string_of(r, k, v);
	if (!s)
		return;
	bool plain = false, file = strncmp(s, "file:", 5) == 0, unix_socket = strncmp(s, "unix:", 5) == 0;
	for (const char *const *w = k->words; *w; w++)
		plain |= strcmp(s, *w) == 0;
	if (plain)
		*(const char **)field = s;
	else if ((file || unix_socket) && s[5]) {
		const char *path = resolve(r, v, s + 5);
		*(const char **)field = config_kept(r, arena_printf(r->arena, "%.5s%s", s, path ? path : ""));
	} else
		config_complain_value(
			r, v, "to = %s is none of \"stdio\", \"pty\", \"file:PATH\", \"unix:PATH\", \"none\"",
			quote(r, s));
}

static bool is_in_range(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			uint64_t *n)
{
	if (!is_type(r, k, v, TOML_INTEGER))
		return false;
	*n = (uint64_t)v->integer;
	if (v->integer >= 0 && *n >= k->min && *n <= k->max)
		return true;
	config_complain_value(r, v, "%s = %" PRId64 " is not in the range from %" PRIu64 " to %" PRIu64,
			      k->name, v->integer, k->min, k->max);
	return false;
}

static void store_uint(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t n;
	if (is_in_range(r, k, v, &n))
		put_uint(field, k->width, n);
}

static void store_queue_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
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

static void store_block_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			     void *field)
{
	if (!is_type(r, k, v, TOML_INTEGER))
		return;
	if (v->integer == 512 || v->integer == 4096)
		put_uint(field, k->width, (uint64_t)v->integer);
	else
		config_complain_value(r, v, "%s = %" PRId64 " is neither 512 nor 4096", k->name, v->integer);
}

// "512M", or an integer: bytes.
static void store_size(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	uint64_t n = 0;
	const char *shown;
	bool large = false;
	if (v->type == TOML_INTEGER) {
		shown = arena_printf(r->arena, "%" PRId64, v->integer);
		n = v->integer < 0 ? 0 : (uint64_t)v->integer;
	} else {
		const char *s = string_of(r, k, v);
		if (!s)
			return;
		shown = quote(r, s);
		int e = parse_size(s, &n);
		large = e == -ERANGE;
		if (e == -EINVAL) {
			config_complain_value(r, v,
					      "%s = %s is not a size: digits, then nothing or one of K M G T",
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

static void store_bool(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	if (is_type(r, k, v, TOML_BOOLEAN))
		*(bool *)field = v->boolean;
}

static void store_choice(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field)
{
	const char *s = string_of(r, k, v);
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
	config_complain_value(r, v, "%s = %s is not known%s", k->name, quote(r, s), did_you_mean(r, &hint));
}

static void store_via(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		      void *field)
{
	if (v->type == TOML_STRING && v->string.len == 0)
		config_complain_value(r, v, "via is empty; leave it out for a device of minivmm's own");
	else
		store_choice(r, k, v, field);
}

// A name or a number; the name is kept beside it, for messages.
static void store_virtio(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
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
	const char *s = string_of(r, k, v);
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
	config_complain_value(r, v, "virtio = %s is no device type that is known by name%s", quote(r, s),
			      did_you_mean(r, &hint));
}

// The first word is a program: a bare name is left for PATH.
static void store_exec(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	if (!is_type(r, k, v, TOML_ARRAY))
		return;
	size_t count = 0;
	for (const struct toml_value *w = v->children.first; w; w = w->next)
		count++;
	char **words = config_kept(r, arena_alloc(r->arena, (count + 1) * sizeof(*words)));
	if (!words)
		return;
	bool has_fd = false;
	size_t n = 0;
	for (const struct toml_value *w = v->children.first; w; w = w->next) {
		const char *s = string_of(r, k, w);
		if (!s)
			return;
		has_fd |= strstr(s, "{fd}") || strstr(s, "{listen}") || strstr(s, "{socket}");
		if (n == 0 && strchr(s, '/'))
			s = resolve(r, w, s);
		words[n++] = s ? config_kept(r, arena_copy(r->arena, s, strlen(s))) : NULL;
	}
	if (n == 0 || v->children.first->string.len == 0)
		config_complain_value(r, v, "exec names no program");
	else if (!has_fd)
		config_complain_value(
			r, v,
			"exec has no \"{fd}\", \"{listen}\" or \"{socket}\": the program would not know "
			"its connection");
	else
		*(char ***)field = words;
}

// A profile's name or file, "none", or { learn = "FILE" }.
static void store_sandbox(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			  void *field)
{
	struct device_config *d = CONTAINER_OF(field, struct device_config, sandbox);
	struct suggest hint = { .word = "" };
	if (v->type == TOML_TABLE) {
		const struct toml_value *learn = v->children.first;
		if (!learn || learn->next || strcmp(learn->key.bytes, "learn") != 0)
			config_complain_value(r, v, "sandbox is neither a text nor { learn = \"FILE\" }");
		else
			store_path(r, k, learn, &d->learn);
		d->sandbox = "default";
		return;
	}
	const char *s = string_of(r, k, v);
	if (!s)
		return;
	hint.word = s;
	if (profile_is_file(s)) {
		d->sandbox = resolve(r, v, s);
		return;
	}
	suggest_offer(&hint, "none");
	bool known = strcmp(s, "none") == 0;
	for (const char *const *name = profile_names; *name; name++) {
		known |= strcmp(s, *name) == 0;
		suggest_offer(&hint, *name);
	}
	if (known)
		d->sandbox = s;
	else
		config_complain_value(r, v,
				      "sandbox = %s is no profile, no file (PATH.toml) and not \"none\"%s",
				      quote(r, s), did_you_mean(r, &hint));
}

// Paths in sight of a program: "PATH" or "PATH:rw".
static void store_paths(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field)
{
	if (!is_type(r, k, v, TOML_ARRAY))
		return;
	size_t count = 0, n = 0;
	for (const struct toml_value *w = v->children.first; w; w = w->next)
		count++;
	if (count > PATHS_MAX) {
		config_complain_value(r, v, "paths has %zu entries, at most %d fit", count, PATHS_MAX);
		return;
	}
	char **paths = config_kept(r, arena_alloc(r->arena, (count + 1) * sizeof(*paths)));
	for (const struct toml_value *w = v->children.first; w && paths; w = w->next) {
		const char *s = string_of(r, k, w);
		if (!s)
			return;
		if (*s == '\0' || *s == ':' || fd_is_reference(s)) {
			config_complain_value(r, w, "%s is no path that a jail can show", quote(r, s));
			return;
		}
		s = resolve(r, w, s);
		paths[n++] = s ? config_kept(r, arena_copy(r->arena, s, strlen(s))) : NULL;
	}
	*(char ***)field = paths;
}

// "50%" of one processor, "200%" of two.
static bool percent_of(const char *s, uint32_t *out)
{
	const size_t digits = strspn(s, "0123456789");
	if (digits == 0 || digits > 6 || strcmp(s + digits, "%") != 0)
		return false;
	*out = (uint32_t)strtoul(s, NULL, 10);
	return *out > 0 && *out <= CPUS_MAX * 100;
}

// { memory = "256M", processes = 16, cpu = "50%" }, each of them as one likes.
static void store_limits(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field)
{
	struct cgroup_limits *l = field;
	struct config_key one = *k;
	if (!is_type(r, k, v, TOML_TABLE))
		return;
	if (!v->children.first)
		config_complain_value(r, v, "limits is empty: memory, processes or cpu is due");
	for (const struct toml_value *w = v->children.first; w; w = w->next) {
		one.name = w->key.bytes;
		if (strcmp(one.name, "memory") == 0) {
			one.min = PROGRAM_MIN, one.max = MEMORY_MAX, one.width = sizeof(l->memory);
			store_size(r, &one, w, &l->memory);
		} else if (strcmp(one.name, "processes") == 0) {
			one.min = 1, one.max = PROCESSES_MAX, one.width = sizeof(l->processes);
			store_uint(r, &one, w, &l->processes);
		} else if (strcmp(one.name, "cpu") != 0) {
			config_complain_value(r, w, "limits has memory, processes and cpu, and no %s",
					      quote(r, one.name));
		} else if (string_of(r, &one, w) && !percent_of(w->string.bytes, &l->cpu)) {
			config_complain_value(
				r, w, "cpu is no share of one processor such as \"50%%\" or \"200%%\"");
		}
	}
}

// "forever", "never", or a time: "500ms", "30s", "5m", "2h".
static void store_reconnect(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			    void *field)
{
	static const struct {
		const char *unit;
		int64_t ms;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
	const char *s = string_of(r, k, v);
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
				      k->name, quote(r, s));
	else
		memcpy(field, &ms, sizeof(ms));
}

// "NAME=TARGET" with the path in it resolved, or NULL and a complaint.
static const char *port_of(struct config_reader *r, const struct toml_value *v, const char *s)
{
	static const char *const kinds[] = { "socket:", "file:" };
	const size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
	const char *target = s + n + 1;
	if (n == 0 || n > CONFIG_PORT_NAME_MAX || s[n] != '=') {
		config_complain_value(r, v,
				      "port %s is not \"NAME=TARGET\", NAME of 1 to %d of A-Z a-z 0-9 _ . -",
				      quote(r, s), CONFIG_PORT_NAME_MAX);
		return NULL;
	}
	if (strcmp(target, "pty") == 0 || (fd_is_reference(target) && target[3]))
		return config_kept(r, arena_copy(r->arena, s, strlen(s)));
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		const size_t len = strlen(kinds[i]);
		if (strncmp(target, kinds[i], len) != 0 || !target[len])
			continue;
		const char *path = resolve(r, v, target + len);
		return config_kept(
			r, arena_printf(r->arena, "%.*s%s%s", (int)n + 1, s, kinds[i], path ? path : ""));
	}
	if (strcmp(target, "stdio") == 0)
		config_complain_value(r, v, "port %s: standard input and output are the serial port's",
				      quote(r, s));
	else
		config_complain_value(
			r, v, "port %s: what is behind \"=\" is none of pty, socket:PATH, file:PATH, fd:N",
			quote(r, s));
	return NULL;
}

static void store_ports(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field)
{
	if (!is_type(r, k, v, TOML_ARRAY))
		return;
	size_t n = 0;
	char **ports = config_kept(r, arena_alloc(r->arena, (k->max + 1) * sizeof(*ports)));
	for (const struct toml_value *w = v->children.first; w && ports; w = w->next) {
		const char *s = string_of(r, k, w);
		if (n == k->max) {
			config_complain_value(r, w, "more than %" PRIu64 " ports", k->max);
			return;
		}
		s = s ? port_of(r, w, s) : NULL;
		if (!s)
			return;
		for (size_t i = 0; i < n; i++)
			if (strncmp(ports[i], s, strcspn(s, "=") + 1) == 0)
				config_complain_value(r, w, "port %s: there are two of this name",
						      quote(r, s));
		ports[n++] = config_kept(r, arena_copy(r->arena, s, strlen(s)));
	}
	if (n == 0)
		config_complain_value(r, v, "ports is empty; the first one is the console");
	*(char ***)field = ports;
}

// A text in which each 'x' of the pattern is a hexadecimal digit and every other character itself.
static bool matches(const char *s, const char *pattern)
{
	for (; *pattern; s++, pattern++)
		if (*pattern == 'x' ? !strchr("0123456789abcdef", *s) || !*s : *s != *pattern)
			return false;
	return !*s;
}

static void store_pci_address(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			      void *field)
{
	const char *s = string_of(r, k, v);
	if (!s)
		return;
	if ((matches(s, "xxxx:xx:xx.x") || matches(s, "xx:xx.x")) && s[strlen(s) - 1] <= '7')
		*(const char **)field = s;
	else
		config_complain_value(
			r, v, "%s = %s is no address of a PCI function, such as \"0000:01:00.0\" (lspci -D)",
			k->name, quote(r, s));
}

static void store_uuid(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	const char *s = string_of(r, k, v);
	if (s && matches(s, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
		*(const char **)field = s;
	else if (s)
		config_complain_value(r, v, "%s = %s is no UUID in small letters", k->name, quote(r, s));
}

// ---- the table ----

#define BUILTIN	   (1u << VIA_BUILTIN)
#define VHOST_USER (1u << VIA_VHOST_USER)
#define VHOST	   (1u << VIA_VHOST)
#define VDPA	   (1u << VIA_VHOST_VDPA)
#define VFIO	   (1u << VIA_VFIO)
#define VFIO_USER  (1u << VIA_VFIO_USER)
#define VIRTIO	   (BUILTIN | VHOST_USER | VHOST | VDPA) // what virtio_pci.c has in front of it
#define ANY	   (VIRTIO | VFIO | VFIO_USER)

const char *const config_via_names[] = {
	[VIA_BUILTIN] = "",
	[VIA_VHOST_USER] = "vhost-user",
	[VIA_VHOST] = "vhost",
	[VIA_VHOST_VDPA] = "vhost-vdpa",
	[VIA_VFIO] = "vfio",
	[VIA_VFIO_USER] = "vfio-user",
	NULL,
};
_Static_assert(ARRAY_LEN(config_via_names) == VIA_COUNT + 1, "one name for each via");

static const char *const backings[] = { [MEM_BACKING_MEMFD] = "memfd",
					[MEM_BACKING_HUGETLB_2M] = "hugetlb-2M",
					[MEM_BACKING_HUGETLB_1G] = "hugetlb-1G",
					NULL };
static const char *const reboots[] = { [REBOOT_RESTART] = "restart", [REBOOT_EXIT] = "exit", NULL };
static const char *const restarts[] = {
	[RESTART_ALWAYS] = "always", [RESTART_ON_FAILURE] = "on-failure", [RESTART_NEVER] = "never", NULL
};
static const char *const dma_ways[] = { [DMA_SHARED] = "shared", [DMA_MESSAGES] = "messages", NULL };
static const char *const serials[] = { "stdio", "pty", "none", NULL };

#define FIELD(type, member) \
	.offset = offsetof(struct type, member), .width = sizeof(((struct type *)0)->member)
#define VM(member)     FIELD(vm_config, member)
#define DEVICE(member) .table = "device", FIELD(device_config, member)

const struct config_key config_keys[] = {
	{ "vm", "name", store_printable, VM(name), .min = 1, .max = NAME_MAX_LEN },
	{ "vm", "cpus", store_uint, VM(cpus), .min = 1, .max = CPUS_MAX },
	{ "vm", "memory", store_size, VM(memory), .min = 1, .max = MEMORY_MAX },
	{ "vm", "backing", store_choice, VM(backing), .words = backings },
	{ "vm", "control", store_path, VM(control) },
	{ "vm", "on_reboot", store_choice, VM(on_reboot), .words = reboots },
	{ "vm", "insecure", store_bool, VM(insecure) },

	{ "boot", "kernel", store_path, VM(kernel), .needed_by = 1 },
	{ "boot", "initrd", store_path, VM(initrd) },
	{ "boot", "cmdline", store_text, VM(cmdline), .max = 65535 },

	{ "serial", "to", store_serial_to, VM(serial_to), .words = serials },

	{ .name = "id", .store = store_id, DEVICE(id), .vias = ANY, .needed_by = ANY },
	{ .name = "via", .store = store_via, DEVICE(via), .vias = ANY, .words = config_via_names },
	{ .name = "virtio",
	  .store = store_virtio,
	  DEVICE(virtio_type),
	  .vias = VIRTIO,
	  .needed_by = BUILTIN | VHOST_USER | VHOST,
	  .min = 1,
	  .max = VIRTIO_TYPE_MAX },
	{ .name = "queues",
	  .store = store_uint,
	  DEVICE(queues),
	  .vias = VIRTIO,
	  .min = 1,
	  .max = QUEUES_MAX },
	{ .name = "queue_size",
	  .store = store_queue_size,
	  DEVICE(queue_size),
	  .vias = VIRTIO,
	  .min = 2,
	  .max = QUEUE_MAX },
	{ .name = "slot",
	  .store = store_uint,
	  DEVICE(slot),
	  .vias = ANY,
	  .min = 1,
	  .max = CONFIG_DEVICES_MAX },

	{ .name = "socket", .store = store_path, DEVICE(socket), .vias = VHOST_USER | VFIO_USER },
	{ .name = "listen", .store = store_path, DEVICE(listen), .vias = VHOST_USER },
	{ .name = "reconnect", .store = store_reconnect, DEVICE(reconnect_ms), .vias = VHOST_USER },
	{ .name = "restart",
	  .store = store_choice,
	  DEVICE(restart),
	  .vias = BUILTIN | VHOST_USER,
	  .words = restarts },
	{ .name = "exec", .store = store_exec, DEVICE(exec), .vias = VHOST_USER | VFIO_USER },
	{ .name = "sandbox", .store = store_sandbox, DEVICE(sandbox), .vias = VHOST_USER | VFIO_USER },
	{ .name = "paths", .store = store_paths, DEVICE(paths), .vias = VHOST_USER | VFIO_USER },
	{ .name = "limits", .store = store_limits, DEVICE(limits), .vias = VHOST_USER | VFIO_USER },
	{ .name = "host_notifier", .store = store_bool, DEVICE(host_notifier), .vias = VHOST_USER },
	{ .name = "shared_memory",
	  .store = store_size,
	  DEVICE(shared_memory),
	  .vias = VHOST_USER,
	  .min = 4096,
	  .max = SHARED_MAX },
	{ .name = "dma", .store = store_choice, DEVICE(dma), .vias = VFIO_USER, .words = dma_ways },
	{ .name = "io_fds", .store = store_bool, DEVICE(io_fds), .vias = VFIO_USER },

	{ .name = "image",
	  .store = store_path,
	  DEVICE(image),
	  .vias = BUILTIN,
	  .needed_by = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "readonly", .store = store_bool, DEVICE(readonly), .vias = BUILTIN, .virtio = VIRTIO_BLK },
	{ .name = "direct", .store = store_bool, DEVICE(direct), .vias = BUILTIN, .virtio = VIRTIO_BLK },
	{ .name = "block_size",
	  .store = store_block_size,
	  DEVICE(block_size),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK },
	{ .name = "serial",
	  .store = store_printable,
	  DEVICE(serial),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK,
	  .max = SERIAL_LEN },

	{ .name = "poll", .store = store_bool, DEVICE(poll), .vias = BUILTIN, .virtio = VIRTIO_BLK },
	{ .name = "cpus",
	  .store = store_cpus,
	  DEVICE(cpus),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_BLK,
	  .min = 1,
	  .max = CPUS_LEN },

	{ .name = "tap",
	  .store = store_printable,
	  DEVICE(tap),
	  .vias = BUILTIN | VHOST,
	  .needed_by = BUILTIN | VHOST,
	  .virtio = VIRTIO_NET,
	  .min = 1,
	  .max = 64 },
	{ .name = "mac",
	  .store = store_mac,
	  DEVICE(mac),
	  .vias = BUILTIN | VHOST,
	  .virtio = VIRTIO_NET,
	  .max = 17 },
	{ .name = "mtu",
	  .store = store_uint,
	  DEVICE(mtu),
	  .vias = BUILTIN | VHOST_USER | VHOST,
	  .virtio = VIRTIO_NET,
	  .min = MTU_MIN,
	  .max = UINT16_MAX },

	{ .name = "tag",
	  .store = store_printable,
	  DEVICE(tag),
	  .vias = VHOST_USER,
	  .virtio = VIRTIO_FS,
	  .min = 1,
	  .max = TAG_LEN },

	{ .name = "rate",
	  .store = store_size,
	  DEVICE(rate),
	  .vias = BUILTIN,
	  .virtio = VIRTIO_RNG,
	  .min = 1,
	  .max = RATE_MAX },

	{ .name = "ports",
	  .store = store_ports,
	  DEVICE(ports),
	  .vias = BUILTIN,
	  .needed_by = BUILTIN,
	  .virtio = VIRTIO_CONSOLE,
	  .max = CONFIG_CONSOLE_PORTS_MAX },

	{ .name = "host", .store = store_pci_address, DEVICE(host), .vias = VFIO },
	{ .name = "mdev", .store = store_uuid, DEVICE(mdev), .vias = VFIO },
	{ .name = "sysfsdev", .store = store_path, DEVICE(sysfsdev), .vias = VFIO },
	{ .name = "cdev", .store = store_path, DEVICE(cdev), .vias = VFIO },

	{ .name = "wwpn",
	  .store = store_printable,
	  DEVICE(wwpn),
	  .vias = VHOST,
	  .needed_by = VHOST,
	  .virtio = VIRTIO_SCSI,
	  .min = 1,
	  .max = 223 },
	{ .name = "cid",
	  .store = store_uint,
	  DEVICE(cid),
	  .vias = BUILTIN | VHOST,
	  .needed_by = BUILTIN | VHOST,
	  .virtio = VIRTIO_VSOCK,
	  .min = CID_MIN,
	  .max = CID_MAX },
	{ .name = "path",
	  .store = store_path,
	  DEVICE(path),
	  .vias = BUILTIN | VHOST | VDPA,
	  .needed_by = BUILTIN | VDPA,
	  .virtio = VIRTIO_VSOCK,
	  .any_type = VHOST | VDPA },
};
const unsigned config_key_count = ARRAY_LEN(config_keys);

const struct config_key *config_key_find(const char *table, const struct toml_text *name)
{
	for (const struct config_key *k = config_keys; k < config_keys + config_key_count; k++)
		if (strcmp(k->table, table) == 0 && strlen(k->name) == name->len &&
		    memcmp(k->name, name->bytes, name->len) == 0)
			return k;
	return NULL;
}
