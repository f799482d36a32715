// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/jail.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/config.h"
#include "vmm/jail_elf.h"
#include "vmm/spawn.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_SPACES \
	(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

// ---- what is in sight ------------------------------------------------------------------------------------------

static int text_add(struct jail *j, const char *text, uint16_t *offset, struct err *e)
{
	const size_t len = strlen(text) + 1;
	if (len > sizeof(j->text) - j->text_len)
		return err_set(e, E2BIG, "the paths of its jail have more than %zu bytes", sizeof(j->text));
	*offset = j->text_len;
	memcpy(j->text + j->text_len, text, len);
	j->text_len = (uint16_t)(j->text_len + len);
	return 0;
}

// A path without "." and "..", double slashes or one at its end; what lies behind symbolic links is realpath(3)'s to find.
static int path_tidy(const char *path, char *out, size_t room, struct err *e)
{
	size_t n = 0;
	for (const char *p = path; *p;) {
		const size_t skip = strspn(p, "/"), len = strcspn(p += skip, "/");
		if (len == 2 && memcmp(p, "..", 2) == 0)
			return err_set(e, EINVAL, "show %s: a path in a jail has no \"..\"", path);
		if (len && !(len == 1 && *p == '.')) {
			if (n + len + 2 > room)
				return err_sys(e, ENAMETOOLONG, "show %s", path);
			out[n++] = '/';
			memcpy(out + n, p, len);
			n += len;
		}
		p += len;
	}
	out[n] = '\0';
	if (n == 0)
		return err_set(e, EINVAL, "show %s: that would be the whole host; name what is needed in it",
			       path);
	return 0;
}

// The row of the same place, so that a later wish widens an earlier one.
static struct jail_show *show_at(struct jail *j, const char *to)
{
	for (unsigned i = 0; i < j->show_count; i++)
		if (strcmp(jail_text(j, j->show[i].to), to) == 0)
			return &j->show[i];
	return NULL;
}

static int show_add(struct jail *j, const struct profile_show *wish, struct err *e)
{
	char path[PATH_MAX], from[PATH_MAX];
	struct stat st = { 0 };
	int rc = path_tidy(wish->path, path, sizeof(path), e);
	if (rc < 0)
		return rc;
	if (wish->kind == SHOW_BIND && (!realpath(path, from) || stat(from, &st) < 0))
		return wish->optional ? 0 : err_sys(e, errno, "show %s in its jail", path);
	struct jail_show *s = show_at(j, path);
	if (!s) {
		if (j->show_count == JAIL_SHOWS_MAX)
			return err_set(e, E2BIG, "its jail shows more than %d paths", JAIL_SHOWS_MAX);
		s = &j->show[j->show_count];
		*s = (struct jail_show){ .kind = (uint8_t)wish->kind };
		if ((rc = text_add(j, path, &s->to, e)) < 0)
			return rc;
		s->from = s->to;
		if (wish->kind == SHOW_BIND && strcmp(path, from) != 0 &&
		    (rc = text_add(j, from, &s->from, e)) < 0)
			return rc;
		j->show_count++;
	}
	s->folder = wish->kind != SHOW_BIND || S_ISDIR(st.st_mode);
	s->device = S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode);
	s->writable |= wish->writable || wish->kind == SHOW_TMPFS;
	s->executable |= wish->executable;
	s->size = wish->size;
	return 0;
}

// "/srv/share:rw": writable; a colon elsewhere is the path's own.
static int show_path(struct jail *j, const char *word, struct err *e)
{
	const size_t len = strlen(word);
	char path[PATH_MAX], real[PATH_MAX];
	struct profile_show s = { .path = path, .kind = SHOW_BIND };
	s.writable = len > 3 && strcmp(word + len - 3, ":rw") == 0;
	if ((size_t)snprintf(path, sizeof(path), "%.*s", (int)(len - (s.writable ? 3 : 0)), word) >=
	    sizeof(path))
		return err_sys(e, ENAMETOOLONG, "show %s in its jail", word);
	// Relative ones mean the same place on both sides.
	if (path[0] != '/' || strstr(path, "..")) {
		if (!realpath(path, real))
			return err_sys(e, errno, "show %s in its jail", path);
		s.path = real;
	}
	return show_add(j, &s, e);
}

static int by_path(const void *a, const void *b, void *jail)
{
	const struct jail_show *x = a, *y = b;
	return strcmp(jail_text(jail, x->to), jail_text(jail, y->to));
}

// Folders before what is in them, and nothing twice: a read-only path inside a read-only folder is there already.
static void shows_sort(struct jail *j)
{
	unsigned kept = 0;
	qsort_r(j->show, j->show_count, sizeof(j->show[0]), by_path, j);
	for (unsigned i = 0; i < j->show_count; i++) {
		const struct jail_show *s = &j->show[i];
		const char *path = jail_text(j, s->to);
		bool covered = false;
		for (unsigned k = 0; k < kept && s->kind == SHOW_BIND; k++) {
			const struct jail_show *over = &j->show[k];
			const char *folder = jail_text(j, over->to);
			const size_t len = strlen(folder);
			if (strncmp(path, folder, len) != 0 || path[len] != '/')
				continue;
			// Of nested folders the innermost, which comes last, decides.
			covered = over->kind == SHOW_BIND && over->writable == s->writable &&
				  over->executable >= s->executable && !s->device;
		}
		if (!covered)
			j->show[kept++] = *s;
	}
	j->show_count = kept;
}

static int shows_make(struct jail *j, const struct profile *p, const char *program, const char *const *paths,
		      struct err *e)
{
	struct arena a = { 0 };
	struct elf_needs *needs = arena_alloc(&a, sizeof(*needs));
	int rc = needs ? elf_needs_add(needs, &a, program, e) : err_sys(e, ENOMEM, "make a jail");
	for (unsigned i = 0; rc == 0 && i < needs->count; i++) {
		const struct profile_show s = { .path = needs->path[i],
						.kind = SHOW_BIND,
						.executable = true };
		rc = show_add(j, &s, e);
	}
	for (unsigned i = 0; rc == 0 && i < p->show_count; i++)
		rc = show_add(j, &p->show[i], e);
	for (unsigned i = 0; rc == 0 && paths && paths[i]; i++)
		rc = show_path(j, paths[i], e);
	arena_free(&a);
	if (rc == 0)
		shows_sort(j);
	return rc;
}

// ---- the whole -------------------------------------------------------------------------------------------------

// A limit is never raised: that would need rights over the host.
static uint64_t limit_within(int what, uint64_t wanted)
{
	struct rlimit now;
	if (wanted == PROFILE_NO_LIMIT || getrlimit(what, &now) < 0 || now.rlim_max == RLIM_INFINITY)
		return wanted;
	return MIN(wanted, (uint64_t)now.rlim_max);
}

int jail_prepare(struct jail *j, const struct profile *p, const char *program, const char *const *paths,
		 uint64_t memory, struct err *e)
{
	char path[PATH_MAX];
	*j = (struct jail){
		.name_spaces = NAME_SPACES | (p->host_net ? 0 : CLONE_NEWNET),
		.landlock = !p->no_landlock,
		.host_net = p->host_net,
		.nofile = limit_within(RLIMIT_NOFILE, p->nofile),
		.processes = limit_within(RLIMIT_NPROC, p->processes),
		.file_size = limit_within(RLIMIT_FSIZE, p->file_size),
		.address_space = p->address_space == PROFILE_NO_LIMIT
					 ? p->address_space
					 : limit_within(RLIMIT_AS, p->address_space + memory),
	};
	for (unsigned i = 0; i < p->keep_count; i++)
		j->capabilities |= UINT64_C(1) << p->keep[i].capability;
	if (!realpath(program, path))
		return err_sys(e, errno, "start %s", program);
	int rc = text_add(j, path, &j->program, e);
	if (rc == 0)
		rc = shows_make(j, p, path, paths, e);
	if (rc < 0)
		return rc;
	const struct sandbox_spec spec = { .program = p->name,
					   .rules = p->rules,
					   .rule_count = p->rule_count };
	return sandbox_compile(&spec, &j->filter, e);
}

int jail_of_device(struct jail *j, struct profile *p, struct arena *a, const struct device_config *cfg,
		   uint64_t memory, struct err *e)
{
	char program[PATH_MAX];
	int rc = spawn_find_program(cfg->exec[0], program, sizeof(program), e);
	if (rc == 0)
		rc = profile_read(p, a, cfg->sandbox, e);
	if (rc == 0)
		rc = jail_prepare(j, p, program, (const char *const *)cfg->paths, memory, e);
	// Where it will listen, if its command says so (bridges/launch.h).
	for (char **w = cfg->exec; rc == 0 && *w; w++)
		if (strstr(*w, "{socket}")) {
			const struct profile_show s = { .path = "/run/vhost-user",
							.kind = SHOW_TMPFS,
							.size = 65536 };
			rc = show_add(j, &s, e);
			break;
		}
	if (rc == 0)
		shows_sort(j);
	return rc;
}

// ---- failures --------------------------------------------------------------------------------------------------

static const char *mend_of(const struct jail_failure *f)
{
	if (f->error == ENOSYS)
		return "a kernel since 5.12 is needed";
	if (f->step == JAIL_SHOW && f->error == ENOENT)
		return "the path is gone since minivmm started";
	if (f->step == JAIL_SHOW && f->error == ELOOP)
		return "a symbolic link has come into its way since minivmm started";
	if (f->step == JAIL_LANDLOCK && f->error == EPERM)
		return "a security module forbids it";
	if (f->error == EPERM || f->error == EACCES)
		return "a container, chroot or security module around this process forbids it, or the path's owner does";
	if (f->error == EMFILE)
		return "raise ulimit -n";
	return "write sandbox = \"none\" to do without the jail";
}

bool jail_failure_tell(const struct jail *j, const struct jail_failure *f, char *text, size_t room)
{
	static const char *const what[] = {
		[JAIL_OK] = "nothing",
		[JAIL_PRIVATE] = "make its mounts its own",
		[JAIL_ROOT] = "mount its root",
		[JAIL_SHOW] = "show",
		[JAIL_PIVOT] = "enter its root",
		[JAIL_LIMITS] = "set its limits",
		[JAIL_CAPABILITIES] = "drop its capabilities",
		[JAIL_LANDLOCK] = "enforce Landlock",
		[JAIL_SECCOMP] = "load its seccomp filter",
	};
	const bool named = f->step == JAIL_SHOW && f->show >= 0 && f->show < (int)j->show_count;
	assert(f->step >= 0 && f->step < (int)ARRAY_LEN(what));
	snprintf(text, room, "%s%s%s: %s (%s)", what[f->step], named ? " " : "",
		 named ? jail_text(j, j->show[f->show].to) : "", err_text(f->error), mend_of(f));
	return f->step != JAIL_SHOW || f->error == EPERM || f->error == ENOSYS;
}
