// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/jail_profile.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/parse.h"
#include "vmm/base/suggest.h"
#include "vmm/base/toml.h"
#include "vmm/syscall_name.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIKE_DEPTH_MAX 4

static const struct {
	const char *name, *text;
} shipped[] = {
#include <profiles.inc> // made from vmm/profiles/*.toml
};

const char *const profile_names[] = {
#include <profile_names.inc>
	NULL,
};

struct reader {
	struct profile *p;
	struct arena *a;
	const char *name; // of the profile that is being read
	unsigned depth;
	struct err *e;
};

#define COMPLAIN(r, v, ...) complain(r, (v)->line, (v)->column, __VA_ARGS__)

__attribute__((format(printf, 4, 5))) static int complain(struct reader *r, unsigned line, unsigned column,
							  const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(r->e, EINVAL, "profile %s:%u:%u: %s", r->name, line, column, text);
}

bool profile_is_file(const char *name)
{
	const size_t len = strlen(name);
	return strchr(name, '/') || (len > 5 && strcmp(name + len - 5, ".toml") == 0);
}

// ---- values ----------------------------------------------------------------------------------------------------

static int text_of(struct reader *r, const struct toml_value *t, const char *key, bool needed,
		   const char **out)
{
	const struct toml_value *v = toml_get(t, key);
	*out = NULL;
	if (!v)
		return needed ? COMPLAIN(r, t, "key \"%s\" is missing", key) : 0;
	if (v->type != TOML_STRING || v->string.len == 0 || memchr(v->string.bytes, '\0', v->string.len))
		return COMPLAIN(r, v, "%s is no text", key);
	*out = v->string.bytes;
	return 0;
}

static int bool_of(struct reader *r, const struct toml_value *t, const char *key, bool *out)
{
	const struct toml_value *v = toml_get(t, key);
	if (!v)
		return 0;
	if (v->type != TOML_BOOLEAN)
		return COMPLAIN(r, v, "%s is neither true nor false", key);
	*out = v->boolean;
	return 0;
}

// A number, or "64M".
static int size_of(struct reader *r, const struct toml_value *t, const char *key, uint64_t *out)
{
	const struct toml_value *v = toml_get(t, key);
	if (!v)
		return 0;
	if (v->type == TOML_INTEGER && v->integer >= 0)
		*out = (uint64_t)v->integer;
	else if (v->type != TOML_STRING || parse_size(v->string.bytes, out) < 0)
		return COMPLAIN(r, v, "%s is no number such as 64 or \"64M\"", key);
	return 0;
}

static int known_keys(struct reader *r, const struct toml_value *t, const char *const *keys)
{
	for (const struct toml_value *v = t->children.first; v; v = v->next) {
		struct suggest hint = { .word = v->key.bytes };
		bool known = false;
		for (const char *const *k = keys; *k; k++) {
			known |= strcmp(*k, v->key.bytes) == 0;
			suggest_offer(&hint, *k);
		}
		if (!known)
			return complain(r, v->key_line, v->key_column, "key \"%.40s\" is not known%s%s%s",
					v->key.bytes, hint.best ? " (did you mean \"" : "",
					hint.best ? hint.best : "", hint.best ? "\"?)" : "");
	}
	return 0;
}

#define KEYS(...) ((const char *const[]){ __VA_ARGS__, NULL })

// ---- its tables ------------------------------------------------------------------------------------------------

static int read_show(struct reader *r, const struct toml_value *t)
{
	struct profile_show s = { .kind = SHOW_BIND };
	const char *kind;
	int rc = known_keys(r, t, KEYS("path", "why", "kind", "writable", "executable", "optional", "size"));
	if (rc < 0 || (rc = text_of(r, t, "path", true, &s.path)) < 0 ||
	    (rc = text_of(r, t, "why", true, &s.why)) < 0 || (rc = text_of(r, t, "kind", false, &kind)) < 0 ||
	    (rc = bool_of(r, t, "writable", &s.writable)) < 0 ||
	    (rc = bool_of(r, t, "executable", &s.executable)) < 0 ||
	    (rc = bool_of(r, t, "optional", &s.optional)) < 0 || (rc = size_of(r, t, "size", &s.size)) < 0)
		return rc;
	if (s.path[0] != '/')
		return COMPLAIN(r, t, "path does not begin with a slash");
	if (kind && strcmp(kind, "proc") != 0 && strcmp(kind, "tmpfs") != 0)
		return COMPLAIN(r, t, "kind is neither \"proc\" nor \"tmpfs\"");
	if (kind)
		s.kind = strcmp(kind, "proc") == 0 ? SHOW_PROC : SHOW_TMPFS;
	if (s.kind == SHOW_TMPFS && s.size == 0)
		return COMPLAIN(r, t, "a tmpfs needs a size");
	if (r->p->show_count == PROFILE_SHOWS_MAX)
		return COMPLAIN(r, t, "more than %d paths", PROFILE_SHOWS_MAX);
	r->p->show[r->p->show_count++] = s;
	return 0;
}

static int read_keep(struct reader *r, const struct toml_value *t)
{
	static const char *const names[] = {
		// By number (linux/capability.h): all that a program that serves files or sockets may have a use for.
		[CAP_CHOWN] = "CHOWN",	       [CAP_DAC_OVERRIDE] = "DAC_OVERRIDE",
		[CAP_FOWNER] = "FOWNER",       [CAP_FSETID] = "FSETID",
		[CAP_SETGID] = "SETGID",       [CAP_SETUID] = "SETUID",
		[CAP_SETPCAP] = "SETPCAP",     [CAP_NET_BIND_SERVICE] = "NET_BIND_SERVICE",
		[CAP_SYS_ADMIN] = "SYS_ADMIN", [CAP_MKNOD] = "MKNOD",
		[CAP_SETFCAP] = "SETFCAP",
	};
	struct profile_keep k = { 0 };
	int rc = known_keys(r, t, KEYS("capability", "why"));
	if (rc < 0 || (rc = text_of(r, t, "capability", true, &k.name)) < 0 ||
	    (rc = text_of(r, t, "why", true, &k.why)) < 0)
		return rc;
	while (k.capability < ARRAY_LEN(names) &&
	       (!names[k.capability] || strcmp(names[k.capability], k.name) != 0))
		k.capability++;
	if (k.capability == ARRAY_LEN(names))
		return COMPLAIN(r, t, "capability \"%.40s\" is none that a jail gives", k.name);
	if (r->p->keep_count == PROFILE_KEEPS_MAX)
		return COMPLAIN(r, t, "more than %d capabilities", PROFILE_KEEPS_MAX);
	r->p->keep[r->p->keep_count++] = k;
	return 0;
}

// "arg1 & 0xffff == 0x5421", "arg1 == 21505"; without a mask 32 bits are compared, as ints have them.
static int read_condition(struct reader *r, const struct toml_value *t, const char *when,
			  struct sandbox_rule *rule)
{
	char *end;
	rule->arg = SANDBOX_ANY;
	if (!when)
		return 0;
	if (strncmp(when, "arg", 3) != 0 || when[3] < '0' || when[3] > '5')
		return COMPLAIN(r, t, "when does not begin with arg0 to arg5");
	rule->arg = (int8_t)(when[3] - '0');
	rule->mask = UINT32_MAX;
	when += 4;
	if (strncmp(when, " & ", 3) == 0) {
		rule->mask = strtoull(when + 3, &end, 0);
		when = end;
	}
	if (strncmp(when, " == ", 4) != 0)
		return COMPLAIN(r, t, "when is not like \"arg1 & 0xff == 0x21\"");
	rule->value = strtoull(when + 4, &end, 0);
	if (*end || end == when + 4)
		return COMPLAIN(r, t, "when does not end in a number");
	return 0;
}

static int read_refuse(struct reader *r, const struct toml_value *t, uint16_t *error)
{
	static const struct {
		const char *name;
		uint16_t number;
	} errors[] = { { "ENOSYS", ENOSYS }, { "EPERM", EPERM }, { "EACCES", EACCES }, { "EINVAL", EINVAL } };
	const char *name;
	int rc = text_of(r, t, "refuse", false, &name);
	for (unsigned i = 0; name && i < ARRAY_LEN(errors); i++)
		if (strcmp(name, errors[i].name) == 0)
			*error = errors[i].number;
	return rc == 0 && name && !*error ? COMPLAIN(r, t, "refuse is none of ENOSYS, EPERM, EACCES, EINVAL")
					  : rc;
}

// A row for each call.
static int allow_add(struct reader *r, const struct toml_value *t, const struct toml_value *calls,
		     const char *when, struct sandbox_rule rule)
{
	int rc = read_condition(r, t, when, &rule);
	for (const struct toml_value *v = calls->children.first; v && rc == 0; v = v->next) {
		if (v->type != TOML_STRING)
			return COMPLAIN(r, v, "a call is no text");
		rule.name = v->string.bytes;
		if (!syscall_number(rule.name, &rule.syscall))
			return COMPLAIN(r, v, "\"%.40s\" is no system call that libseccomp knows", rule.name);
		if (r->p->rule_count == PROFILE_RULES_MAX)
			return COMPLAIN(r, v, "more than %d rows of system calls", PROFILE_RULES_MAX);
		r->p->rules[r->p->rule_count++] = rule;
	}
	return rc;
}

static int read_allow(struct reader *r, const struct toml_value *t)
{
	struct sandbox_rule rule = { .arg = SANDBOX_ANY };
	const struct toml_value *calls = toml_get(t, "calls"), *whens = toml_get(t, "when");
	const char *when = NULL;
	int rc = known_keys(r, t, KEYS("calls", "why", "when", "refuse"));
	if (rc < 0 || (rc = text_of(r, t, "why", true, &rule.reason)) < 0 ||
	    (rc = read_refuse(r, t, &rule.refuse)) < 0)
		return rc;
	if (!calls || calls->type != TOML_ARRAY)
		return COMPLAIN(r, t, "calls is missing, a list of system calls");
	if (!whens || whens->type != TOML_ARRAY) {
		rc = text_of(r, t, "when", false, &when);
		return rc < 0 ? rc : allow_add(r, t, calls, when, rule);
	}
	for (const struct toml_value *v = whens->children.first; v && rc == 0; v = v->next)
		rc = v->type == TOML_STRING ? allow_add(r, v, calls, v->string.bytes, rule)
					    : COMPLAIN(r, v, "a condition is no text");
	return rc;
}

static int read_list(struct reader *r, const struct toml_value *root, const char *key,
		     int (*read_one)(struct reader *r, const struct toml_value *t))
{
	const struct toml_value *list = toml_get(root, key);
	int rc = 0;
	if (list && list->type != TOML_ARRAY)
		return COMPLAIN(r, list, "this is written [[%s]], in two brackets", key);
	for (const struct toml_value *t = list ? list->children.first : NULL; t && rc == 0; t = t->next)
		rc = t->type == TOML_TABLE ? read_one(r, t) : COMPLAIN(r, t, "this is no table");
	return rc;
}

static int read_limits(struct reader *r, const struct toml_value *t)
{
	struct profile *p = r->p;
	int rc = 0;
	if (!t)
		return 0;
	if (t->type != TOML_TABLE)
		return COMPLAIN(r, t, "[limits] is a table");
	if ((rc = known_keys(r, t, KEYS("nofile", "processes", "address_space", "file_size"))) < 0 ||
	    (rc = size_of(r, t, "nofile", &p->nofile)) < 0 ||
	    (rc = size_of(r, t, "processes", &p->processes)) < 0 ||
	    (rc = size_of(r, t, "address_space", &p->address_space)) < 0)
		return rc;
	return size_of(r, t, "file_size", &p->file_size);
}

// What differs from "nothing": each with a reason.
static int read_exceptions(struct reader *r, const struct toml_value *root)
{
	struct profile *p = r->p;
	static const struct toml_value none = { .type = TOML_TABLE, .line = 1, .column = 1 };
	const struct toml_value *why = toml_get(root, "why");
	const char *net;
	bool landlock = true;
	int rc = text_of(r, root, "net", false, &net);
	if (rc < 0 || (rc = bool_of(r, root, "landlock", &landlock)) < 0)
		return rc;
	if (net && strcmp(net, "host") != 0)
		return COMPLAIN(r, root, "net is not \"host\"; leave it out for none");
	if (net) {
		p->host_net = true;
		if ((rc = text_of(r, why ? why : &none, "net", true, &p->net_why)) < 0)
			return rc;
	}
	if (!landlock) {
		p->no_landlock = true;
		rc = text_of(r, why ? why : &none, "landlock", true, &p->landlock_why);
	}
	return rc;
}

static int read_named(struct reader *r, const char *name);

static int read_profile(struct reader *r, const struct toml_value *root)
{
	const char *like;
	int rc = known_keys(
		r, root, KEYS("about", "like", "net", "landlock", "why", "limits", "show", "keep", "allow"));
	if (rc < 0 || (rc = text_of(r, root, "like", false, &like)) < 0)
		return rc;
	if (like) {
		if (++r->depth > LIKE_DEPTH_MAX)
			return COMPLAIN(r, root, "like = \"%.40s\" goes round in a circle", like);
		const char *own = r->name;
		if ((rc = read_named(r, like)) < 0)
			return rc;
		r->name = own;
		r->p->rule_count = 0;
	}
	if ((rc = text_of(r, root, "about", true, &r->p->about)) < 0 || (rc = read_exceptions(r, root)) < 0 ||
	    (rc = read_limits(r, toml_get(root, "limits"))) < 0 ||
	    (rc = read_list(r, root, "show", read_show)) < 0 ||
	    (rc = read_list(r, root, "keep", read_keep)) < 0)
		return rc;
	return read_list(r, root, "allow", read_allow);
}

static int read_text(struct reader *r, const char *text, size_t len)
{
	struct toml_value *root;
	struct toml_error te;
	int rc = toml_parse(r->a, text, len, &root, &te);
	if (rc == -ENOMEM)
		return err_sys(r->e, ENOMEM, "profile %s", r->name);
	return rc < 0 ? complain(r, te.line, te.column, "%s", te.text) : read_profile(r, root);
}

static int read_file(struct reader *r, const char *path)
{
	FD_AUTO fd = fd_open_path(path, O_RDONLY | O_NONBLOCK, r->e);
	if (fd < 0) {
		err_prefix(r->e, "profile");
		return fd;
	}
	char *text = arena_alloc(r->a, TOML_TEXT_MAX + 1);
	size_t len = 0;
	ssize_t n = text ? 1 : 0;
	while (n > 0 && len <= TOML_TEXT_MAX && (n = read(fd, text + len, TOML_TEXT_MAX + 1 - len)) > 0)
		len += (size_t)n;
	if (!text || n < 0)
		return err_sys(r->e, text ? errno : ENOMEM, "profile: read %s", path);
	return read_text(r, text, len);
}

static int read_named(struct reader *r, const char *name)
{
	struct suggest hint = { .word = name };
	r->name = name;
	if (profile_is_file(name))
		return read_file(r, name);
	for (unsigned i = 0; i < ARRAY_LEN(shipped); i++) {
		if (strcmp(shipped[i].name, name) == 0)
			return read_text(r, shipped[i].text, strlen(shipped[i].text));
		suggest_offer(&hint, shipped[i].name);
	}
	return err_set(r->e, ENOENT, "no profile is named \"%.64s\"%s%s%s", name,
		       hint.best ? " (did you mean \"" : "", hint.best ? hint.best : "",
		       hint.best ? "\"?)" : "");
}

int profile_read(struct profile *p, struct arena *a, const char *name, struct err *e)
{
	struct reader r = { .p = p, .a = a, .e = e };
	*p = (struct profile){
		.name = name,
		.nofile = 1024,
		.processes = PROFILE_NO_LIMIT,
		.address_space = PROFILE_NO_LIMIT,
		.file_size = PROFILE_NO_LIMIT,
	};
	return read_named(&r, name);
}
