// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/explain.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/seal.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COLUMN 14
#define WIDTH  110

static void field(FILE *out, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void field(FILE *out, const char *name, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(out, "  %-*s", COLUMN - 2, name);
	vfprintf(out, fmt, ap);
	fputc('\n', out);
	va_end(ap);
}

static void size(FILE *out, const char *name, uint64_t n, const char *what)
{
	if (n == PROFILE_NO_LIMIT)
		return;
	if (n >= UINT64_C(1) << 20 && n % (UINT64_C(1) << 20) == 0)
		field(out, name, "%s %" PRIu64 "M", what, n >> 20);
	else
		field(out, name, "%s %" PRIu64, what, n);
}

// ---- system calls ----------------------------------------------------------------------------------------------

struct list { // words with spaces between, each once, wrapped
	FILE *out;
	unsigned column;
	const char *label;
	char seen[4096]; // " word word "
};

static void list_word(struct list *l, const char *word)
{
	char key[72];
	const unsigned len = (unsigned)strlen(word) + 1;
	snprintf(key, sizeof(key), " %s ", word);
	if (strstr(l->seen, key))
		return;
	const size_t used = strlen(l->seen);
	snprintf(l->seen + used, sizeof(l->seen) - used, "%s%s ", used ? "" : " ", word);
	if (l->column == 0 || l->column + len > WIDTH) {
		fprintf(l->out, "%s  %-*s", l->column ? "\n" : "", COLUMN - 2, l->column ? "" : l->label);
		l->column = COLUMN;
	}
	fprintf(l->out, "%s%s", l->column > COLUMN ? " " : "", word);
	l->column += len;
}

static void list_end(struct list *l)
{
	if (l->column)
		fputc('\n', l->out);
}

// One row of a table as sandbox_print() writes it, without prefix: call, condition, rare, reason.
static void row(struct list *l, char *line, bool reasons)
{
	char *call = line, *condition = strchr(call, '\t');
	char *rare = condition ? strchr(condition + 1, '\t') : NULL;
	char *reason = rare ? strchr(rare + 1, '\t') : NULL;
	if (!reason)
		return;
	*condition++ = *rare = *reason++ = '\0';
	const bool any = strcmp(condition, "-") == 0;
	char word[64];
	snprintf(word, sizeof(word), "%s%s", call,
		 any				     ? ""
		 : strcmp(condition, "refused") == 0 ? "(refused)"
						     : "(...)");
	if (!reasons)
		list_word(l, word);
	else
		fprintf(l->out, "  %-*s%-20s %-34s %s\n", COLUMN - 2, l->label, call, any ? "" : condition,
			reason);
}

// Rows of a whole text; only those that begin with `prefix`, which is cut off.
static void rows(FILE *out, const char *label, char *text, const char *prefix, bool reasons)
{
	struct list l = { .out = out, .label = label };
	for (char *line = text, *next; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		// A row of another prefix has one field more.
		const size_t len = strlen(prefix);
		unsigned tabs = 0;
		for (const char *p = line; *p; p++)
			tabs += *p == '\t';
		if (strncmp(line, prefix, len) == 0 && tabs == (len ? 4u : 3u)) {
			char *copy = strdup(line + len);
			if (copy)
				row(&l, copy, reasons);
			free(copy);
		}
		if (next)
			next[-1] = '\n';
	}
	list_end(&l);
}

static char *text_of_rules(const struct profile *p)
{
	const struct sandbox_spec spec = { .program = p->name,
					   .rules = p->rules,
					   .rule_count = p->rule_count };
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	sandbox_print(&spec, "", f);
	fclose(f);
	return text;
}

static char *text_of_seal(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	seal_print(f);
	fclose(f);
	return text;
}

// What a program of ours prints of itself.  NULL if it does not.
static char *text_of_program(const char *program)
{
	char option[] = "--print-syscalls", *name = strdup(program);
	char *argv[] = { name, option, NULL }, *none[] = { NULL };
	posix_spawn_file_actions_t actions;
	int ends[2];
	pid_t pid;
	char *text = NULL;
	if (!name || pipe(ends) < 0) {
		free(name);
		return NULL;
	}
	FD_AUTO from = ends[0];
	FD_AUTO to = ends[1];
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to, STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, from);
	const int rc = posix_spawn(&pid, program, &actions, NULL, argv, none);
	posix_spawn_file_actions_destroy(&actions);
	free(name);
	fd_close(&to);
	if (rc != 0)
		return NULL;
	const size_t room = 65536;
	size_t len = 0;
	ssize_t n = (text = calloc(1, room + 1)) ? 1 : 0;
	while (n > 0 && len < room && (n = read(from, text + len, room - len)) > 0)
		len += (size_t)n;
	waitpid(pid, NULL, 0);
	return text;
}

// ---- processes -------------------------------------------------------------------------------------------------

static void print_name_spaces(FILE *out, uint64_t flags)
{
	static const struct {
		uint64_t flag;
		const char *name;
	} kinds[] = { { CLONE_NEWUSER, "user" },    { CLONE_NEWNS, "mnt" },  { CLONE_NEWPID, "pid" },
		      { CLONE_NEWNET, "net" },	    { CLONE_NEWIPC, "ipc" }, { CLONE_NEWUTS, "uts" },
		      { CLONE_NEWCGROUP, "cgroup" } };
	struct list own = { .out = out, .label = "name spaces" };
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
		if (flags & kinds[i].flag)
			list_word(&own, kinds[i].name);
	list_end(&own);
}

static void print_user(FILE *out, bool isolated)
{
	if (isolated)
		field(out, "user", "0 inside is %u outside, group 0 is %u; there is no other", geteuid(),
		      getegid());
	else
		field(out, "user", "%u, group %u", geteuid(), getegid());
}

static void print_command(FILE *out, const struct explain_device *d)
{
	field(out, "program", "%s", d->program);
	fprintf(out, "  %-*s", COLUMN - 2, "arguments");
	for (unsigned i = 0; d->argv[i]; i++)
		fprintf(out, "%s%s", i ? " " : "", d->argv[i]);
	fputc('\n', out);
}

static void print_fds(FILE *out, const struct explain_device *d)
{
	field(out, "fd 0", "/dev/null");
	field(out, "fd 1", "/dev/null");
	field(out, "fd 2", "a pipe: its lines go to the log, with %s in front", d->cfg->id);
	for (unsigned i = 0; i < d->fd_count; i++) {
		char name[16];
		snprintf(name, sizeof(name), "fd %u", SPAWN_FD_FIRST + i);
		field(out, name, "%s", d->fd[i]);
	}
}

static const char *why_shown(const struct profile *p, const char *path)
{
	for (unsigned i = 0; i < p->show_count; i++)
		if (strcmp(p->show[i].path, path) == 0)
			return p->show[i].why;
	return NULL;
}

static void print_shows(FILE *out, const struct jail *j, const struct profile *p)
{
	static const char *const kinds[] = {
		[SHOW_BIND] = "", [SHOW_PROC] = ", proc", [SHOW_TMPFS] = ", tmpfs"
	};
	for (unsigned i = 0; i < j->show_count; i++) {
		const struct jail_show *s = &j->show[i];
		const char *path = jail_text(j, s->to), *why = why_shown(p, path);
		field(out, "sees", "%s (%s%s%s%s)%s%s", path, s->writable ? "rw" : "ro",
		      s->executable ? ", executable" : "", s->device ? ", device" : "", kinds[s->kind],
		      why	      ? ": "
		      : s->executable ? ": the program and what it is linked with"
				      : "",
		      why ? why : "");
	}
}

static void print_jail(FILE *out, const struct explain_device *d, bool reasons)
{
	const struct jail *j = d->jail;
	const struct profile *p = d->profile;
	field(out, "jail", "%s: %s", p->name, p->about);
	print_name_spaces(out, j->name_spaces);
	if (j->host_net)
		field(out, "network", "the host's: %s", p->net_why);
	print_shows(out, j, p);
	size(out, "limit", 0, "core");
	size(out, "limit", j->nofile, "nofile");
	size(out, "limit", j->processes, "processes");
	size(out, "limit", j->address_space, "address_space");
	size(out, "limit", j->file_size, "file_size");
	for (unsigned i = 0; i < p->keep_count; i++)
		field(out, "capability", "%s: %s", p->keep[i].name, p->keep[i].why);
	if (!p->keep_count)
		field(out, "capability", "none");
	if (j->landlock)
		field(out, "landlock", "nothing but what it sees%s",
		      j->host_net ? "" : ", no TCP, no sockets or signals outside");
	else
		field(out, "landlock", "none: %s", p->landlock_why);
	if (d->cfg->learn) {
		field(out, "calls", "all of them, written to %s", d->cfg->learn);
		return;
	}
	field(out, "seccomp", "a call that is not listed kills it; (...) only with some arguments");
	char *text = text_of_rules(p);
	if (text)
		rows(out, "calls", text, "", reasons);
	free(text);
}

static void print_own(FILE *out, const struct explain_device *d, bool reasons)
{
	print_name_spaces(out, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
				       CLONE_NEWUTS | CLONE_NEWCGROUP);
	field(out, "sees", "nothing: an empty read-only root, once it has started");
	size(out, "limit", 0, "core");
	field(out, "capability", "none");
	field(out, "landlock", "nothing, no TCP, no sockets or signals outside");
	field(out, "seccomp", "a call that is not listed kills it; (...) only with some arguments");
	char *text = text_of_program(d->program);
	if (text)
		rows(out, "calls", text, "", reasons);
	else
		field(out, "calls", "not known: it does not print them");
	free(text);
}

static void print_cgroup(FILE *out, const struct cgroup_limits *l)
{
	size(out, "cgroup", l->memory ? l->memory : PROFILE_NO_LIMIT, "memory");
	size(out, "cgroup", l->processes ? l->processes : PROFILE_NO_LIMIT, "processes");
	if (l->cpu)
		field(out, "cgroup", "cpu %u%%", l->cpu);
}

static void print_process(FILE *out, const struct vm_config *c, const struct explain_device *d, bool reasons)
{
	fprintf(out, "\nprocess %s\n", d->cfg->id);
	print_command(out, d);
	print_user(out, d->isolated);
	field(out, "memory", "all %" PRIu64 "M of the guest", c->memory >> 20);
	print_fds(out, d);
	if (d->jail)
		print_jail(out, d, reasons);
	else if (d->own)
		print_own(out, d, reasons);
	else
		field(out, "jail", "NONE (sandbox = \"none\"): whatever your user may do");
	print_cgroup(out, &d->cfg->limits);
	field(out, "restart", "%s", d->again);
}

static void print_monitor(FILE *out, const struct vm_config *c, bool reasons)
{
	fprintf(out, "\nprocess minivmm\n");
	print_user(out, false);
	field(out, "memory", "all %" PRIu64 "M of the guest", c->memory >> 20);
	field(out, "threads", "the loop, %u of vCPUs, one for each back-end that may come back", c->cpus);
	field(out, "capability", "none");
	field(out, "landlock", "no file, no TCP, no abstract sockets outside");
	field(out, "seccomp", "%s",
	      c->insecure ? "as below, or none where the host refuses (vm.insecure)"
			  : "a call that is not listed kills it; (...) only with some arguments");
	char *text = text_of_seal();
	if (text) {
		rows(out, "calls, loop", text, "loop\t", reasons);
		rows(out, "calls, vcpu", text, "vcpu\t", reasons);
		rows(out, "calls, wait", text, "wait\t", reasons);
	}
	free(text);
}

static void print_spawner(FILE *out, const struct explain_device *devices, unsigned count)
{
	bool needed = false;
	for (unsigned i = 0; i < count; i++)
		needed |= devices[i].needs_spawner;
	if (!needed)
		return;
	fprintf(out, "\nprocess spawner\n");
	print_user(out, false);
	field(out, "memory", "none of the guest's");
	field(out, "does", "starts or connects again, on one byte from the monitor and nothing else:");
	for (unsigned i = 0; i < count; i++)
		if (devices[i].needs_spawner)
			field(out, "", "%s: %s", devices[i].cfg->id, devices[i].peer);
	field(out, "seccomp", "none: its children would inherit it");
}

// ---- devices ---------------------------------------------------------------------------------------------------

static void print_device(FILE *out, const struct explain_device *d)
{
	const bool mine = d->program != NULL;
	fprintf(out, "\ndevice %s\n", d->cfg->id);
	field(out, "is", "virtio %s, a PCI function",
	      d->cfg->virtio_name ? d->cfg->virtio_name : "(as it says)");
	field(out, "interface", "%s, with %s", d->interface, d->peer);
	field(out, "gives", "%s",
	      d->gives ? d->gives : "data and doorbells pass the monitor by; its death is not the machine's");
	if (d->costs)
		field(out, "costs", "%s", d->costs);
	else
		field(out, "costs",
		      "%s sees all of the guest's memory; an exchange may cost a vCPU 2 s when it is mute",
		      mine ? "its process" : "somebody else's process, which minivmm does not jail,");
	field(out, "when gone", "%s", d->again);
}

void explain_print(const struct vm_config *c, const struct explain_device *devices, unsigned count,
		   bool reasons, FILE *out)
{
	fprintf(out, "machine %s\n", c->name);
	field(out, "cpus", "%u", c->cpus);
	field(out, "memory", "%" PRIu64 "M, one memfd, sealed against resizing", c->memory >> 20);
	for (unsigned i = 0; i < count; i++)
		print_device(out, &devices[i]);
	print_monitor(out, c, reasons);
	print_spawner(out, devices, count);
	for (unsigned i = 0; i < count; i++)
		if (devices[i].program)
			print_process(out, c, &devices[i], reasons);
}
