// SPDX-License-Identifier: BSD-2-Clause
// Values of the configuration that are arrays or tables.
#include "vmm/config_value.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/jail_profile.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PATHS_MAX     64
#define PROCESSES_MAX 4194304		  // what Linux allows
#define PROGRAM_MIN   (UINT64_C(1) << 20) // bytes: less is a mistake

// The first word is a program: a bare name is left for PATH.
void config_store_exec(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
		       void *field)
{
	if (!config_value_is(r, k, v, TOML_ARRAY))
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
		const char *s = config_value_text(r, k, w);
		if (!s)
			return;
		has_fd |= strstr(s, "{fd}") || strstr(s, "{listen}") || strstr(s, "{socket}");
		if (n == 0 && strchr(s, '/'))
			s = config_resolve(r, w, s);
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
void config_store_sandbox(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			  void *field)
{
	struct device_config *d = CONTAINER_OF(field, struct device_config, sandbox);
	struct suggest hint = { .word = "" };
	if (v->type == TOML_TABLE) {
		const struct toml_value *learn = v->children.first;
		if (!learn || learn->next || strcmp(learn->key.bytes, "learn") != 0)
			config_complain_value(r, v, "sandbox is neither a text nor { learn = \"FILE\" }");
		else
			config_store_path(r, k, learn, &d->learn);
		d->sandbox = "default";
		return;
	}
	const char *s = config_value_text(r, k, v);
	if (!s)
		return;
	hint.word = s;
	if (profile_is_file(s)) {
		d->sandbox = config_resolve(r, v, s);
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
				      config_value_quote(r, s), config_did_you_mean(r, &hint));
}

// Paths in sight of a program: "PATH" or "PATH:rw".
void config_store_paths(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field)
{
	if (!config_value_is(r, k, v, TOML_ARRAY))
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
		const char *s = config_value_text(r, k, w);
		if (!s)
			return;
		if (*s == '\0' || *s == ':' || fd_is_reference(s)) {
			config_complain_value(r, w, "%s is no path that a jail can show",
					      config_value_quote(r, s));
			return;
		}
		s = config_resolve(r, w, s);
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
	return *out > 0 && *out <= CONFIG_CPUS_MAX * 100;
}

// { memory = "256M", processes = 16, cpu = "50%" }, each of them as one likes.
void config_store_limits(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			 void *field)
{
	struct cgroup_limits *l = field;
	struct config_key one = *k;
	if (!config_value_is(r, k, v, TOML_TABLE))
		return;
	if (!v->children.first)
		config_complain_value(r, v, "limits is empty, expected memory, processes or cpu");
	for (const struct toml_value *w = v->children.first; w; w = w->next) {
		one.name = w->key.bytes;
		if (strcmp(one.name, "memory") == 0) {
			one.min = PROGRAM_MIN, one.max = CONFIG_MEMORY_MAX, one.width = sizeof(l->memory);
			config_store_size(r, &one, w, &l->memory);
		} else if (strcmp(one.name, "processes") == 0) {
			one.min = 1, one.max = PROCESSES_MAX, one.width = sizeof(l->processes);
			config_store_uint(r, &one, w, &l->processes);
		} else if (strcmp(one.name, "cpu") != 0) {
			config_complain_value(r, w, "limits has memory, processes and cpu, and no %s",
					      config_value_quote(r, one.name));
		} else if (config_value_text(r, &one, w) && !percent_of(w->string.bytes, &l->cpu)) {
			config_complain_value(
				r, w, "cpu is no share of one processor such as \"50%%\" or \"200%%\"");
		}
	}
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
				      config_value_quote(r, s), CONFIG_PORT_NAME_MAX);
		return NULL;
	}
	if (strcmp(target, "pty") == 0 || (fd_is_reference(target) && target[3]))
		return config_kept(r, arena_copy(r->arena, s, strlen(s)));
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		const size_t len = strlen(kinds[i]);
		if (strncmp(target, kinds[i], len) != 0 || !target[len])
			continue;
		const char *path = config_resolve(r, v, target + len);
		return config_kept(
			r, arena_printf(r->arena, "%.*s%s%s", (int)n + 1, s, kinds[i], path ? path : ""));
	}
	if (strcmp(target, "stdio") == 0)
		config_complain_value(r, v, "port %s: standard input and output are the serial port's",
				      config_value_quote(r, s));
	else
		config_complain_value(
			r, v, "port %s: what is behind \"=\" is none of pty, socket:PATH, file:PATH, fd:N",
			config_value_quote(r, s));
	return NULL;
}

void config_store_ports(struct config_reader *r, const struct config_key *k, const struct toml_value *v,
			void *field)
{
	if (!config_value_is(r, k, v, TOML_ARRAY))
		return;
	size_t n = 0;
	char **ports = config_kept(r, arena_alloc(r->arena, (k->max + 1) * sizeof(*ports)));
	for (const struct toml_value *w = v->children.first; w && ports; w = w->next) {
		const char *s = config_value_text(r, k, w);
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
						      config_value_quote(r, s));
		ports[n++] = config_kept(r, arena_copy(r->arena, s, strlen(s)));
	}
	if (n == 0)
		config_complain_value(r, v, "ports is empty; the first one is the console");
	*(char ***)field = ports;
}
