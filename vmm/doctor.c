// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/doctor.h"

#include "vmm/base/err.h"
#include "vmm/doctor_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

void doctor_say(struct doctor *d, enum finding found, const char *what, const char *mend, const char *fmt,
		...)
{
	static const char *const mark[] = { [GOOD] = "ok", [ABSENT] = "-", [LIMITED] = "!", [FATAL] = "NO" };
	va_list ap;
	fprintf(d->out, "%-3s%-14s ", mark[found], what);
	va_start(ap, fmt);
	vfprintf(d->out, fmt, ap);
	va_end(ap);
	fprintf(d->out, *mend ? "\n%18s-> %s\n" : "\n", "", mend);
	if (found == FATAL)
		d->can_run = false;
}

// ---- files ------------------------------------------------------------------------------------------------------

static bool below_root(const struct doctor *d, const char *path, char full[PATH_MAX])
{
	return snprintf(full, PATH_MAX, "%s%s", d->root, path) < PATH_MAX;
}

bool doctor_exists(const struct doctor *d, const char *path)
{
	char full[PATH_MAX];
	return below_root(d, path, full) && access(full, F_OK) == 0;
}

int doctor_access(const struct doctor *d, const char *path)
{
	char full[PATH_MAX];
	if (!below_root(d, path, full))
		return ENOENT;
	return faccessat(AT_FDCWD, full, R_OK | W_OK, AT_EACCESS) == 0 ? 0 : errno;
}

bool doctor_line(const struct doctor *d, const char *path, char *buf, size_t room)
{
	char full[PATH_MAX];
	FILE *f = below_root(d, path, full) ? fopen(full, "re") : NULL;
	bool got = f && fgets(buf, (int)room, f);
	if (got)
		buf[strcspn(buf, "\n")] = '\0';
	if (f)
		fclose(f);
	return got;
}

long long doctor_number(const struct doctor *d, const char *path, long long otherwise)
{
	char text[32], *end;
	if (!doctor_line(d, path, text, sizeof(text)))
		return otherwise;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	return errno || end == text || *end ? otherwise : n;
}

bool doctor_link(const struct doctor *d, const char *path, char buf[NAME_MAX + 1])
{
	char full[PATH_MAX], target[PATH_MAX];
	ssize_t len = below_root(d, path, full) ? readlink(full, target, sizeof(target) - 1) : -1;
	if (len <= 0)
		return false;
	target[len] = '\0';
	const char *slash = strrchr(target, '/');
	snprintf(buf, NAME_MAX + 1, "%s", slash ? slash + 1 : target);
	return true;
}

static int not_dotted(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

unsigned doctor_each(struct doctor *d, const char *path,
		     void (*entry)(struct doctor *d, const char *name, void *arg), void *arg)
{
	char full[PATH_MAX];
	struct dirent **list = NULL;
	int count = below_root(d, path, full) ? scandir(full, &list, not_dotted, versionsort) : 0;
	for (int i = 0; i < count; i++) {
		entry(d, list[i]->d_name, arg);
		free(list[i]);
	}
	free(list);
	return count > 0 ? (unsigned)count : 0;
}

static bool module_listed(const struct doctor *d, const char *list, const char *module)
{
	char full[PATH_MAX], line[4096], name[NAME_MAX];
	struct utsname u;
	uname(&u);
	snprintf(line, sizeof(line), "/lib/modules/%s/%s", u.release, list);
	snprintf(name, sizeof(name), "/%s.ko", module);
	FILE *f = below_root(d, line, full) ? fopen(full, "re") : NULL;
	bool found = false;
	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, ":\n")] = '\0'; // what follows are those that it needs
		const char *at = strstr(line, name);
		found = at && (at[strlen(name)] == '\0' || at[strlen(name)] == '.');
	}
	if (f)
		fclose(f);
	return found;
}

const char *doctor_module(const struct doctor *d, const char *module, char *buf, size_t room)
{
	char dashed[64];
	snprintf(dashed, sizeof(dashed), "%s", module);
	for (char *p = dashed; *p; p++)
		if (*p == '_')
			*p = '-';
	if (module_listed(d, "modules.builtin", module) || module_listed(d, "modules.builtin", dashed))
		snprintf(buf, room,
			 "%s is in the kernel, its node is not in /dev: ask whoever made this /dev", module);
	else if (module_listed(d, "modules.dep", module) || module_listed(d, "modules.dep", dashed))
		snprintf(buf, room, "modprobe %s", module);
	else
		snprintf(buf, room, "this kernel has no module %s: another kernel", module);
	return buf;
}

bool doctor_node(struct doctor *d, const char *what, const char *path, const char *module, const char *use)
{
	char mend[256];
	int error = doctor_access(d, path);
	if (error == 0)
		doctor_say(d, GOOD, what, "", "%s: %s", path, use);
	else if (error == ENOENT)
		doctor_say(d, ABSENT, what, doctor_module(d, module, mend, sizeof(mend)), "no %s: %s", path,
			   use);
	else
		doctor_say(d, ABSENT, what, "its rights by a udev rule, or minivmm in the group that owns it",
			   "%s: %s: %s", path, use, err_text(error));
	return error == 0;
}

bool doctor_run(const char *root, FILE *out)
{
	struct doctor d = { .root = root, .out = out, .can_run = true };
	doctor_kvm(&d);
	doctor_memory(&d);
	doctor_isolation(&d);
	doctor_vhost(&d);
	doctor_vdpa(&d);
	doctor_vfio(&d);
	fprintf(out, "%s\n",
		d.can_run
			? "Machines can run here.  (-: not there, for those who want it; !: there, and will disappoint)"
			: "No machine can run here: see the lines that begin with NO.");
	return d.can_run;
}
