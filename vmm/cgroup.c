// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/cgroup.h"

#include "vmm/base/aside.h"
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/sandbox.h"
#include "vmm/jail_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_LEN  (CONFIG_ID_MAX + 24) // "minivmm-PID.ID"
#define CPU_PERIOD_US 100000
#define GONE_STEP_MS  10
#define GONE_STEPS_MAX \
	500 // five seconds: a process that the kernel holds on to is left behind with its cgroup
#define MEND                                                                                 \
	"start minivmm in a cgroup that is its user's, as by systemd-run --user --scope -p " \
	"Delegate=yes, or leave limits out"

enum { KEEPER_OWNER, KEEPER_DIR }; // its descriptors' numbers

struct tree {
	unsigned count;
	char name[CONFIG_DEVICES_MAX][NAME_MAX_LEN];
	char own[NAME_MAX_LEN]; // the monitor's, if it had to make room; else ""
	char on[32], off[32];	// "+memory +pids", "-memory -pids"
	char path[PATH_MAX];	// of dir, for messages
};

static int file_write(int dir, const char *folder, const char *file, const char *text)
{
	char path[NAME_MAX_LEN + 32];
	snprintf(path, sizeof(path), "%s%s%s", folder, *folder ? "/" : "", file);
	FD_AUTO fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, strlen(text));
	return n < 0 ? -errno : 0;
}

// What is in it may take a moment to be gone.
static void folder_remove(int dir, const char *name)
{
	for (unsigned i = 0; unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno == EBUSY; i++)
		if (i == GONE_STEPS_MAX || poll(NULL, 0, GONE_STEP_MS) < 0)
			return;
}

static void devices_remove(int dir, const struct tree *t)
{
	for (unsigned i = 0; i < t->count; i++)
		file_write(dir, t->name[i], "cgroup.kill", "1");
	for (unsigned i = 0; i < t->count; i++)
		folder_remove(dir, t->name[i]);
}

// The last one in the monitor's cgroup goes back to where it came from.
static void own_remove(int dir, const struct tree *t)
{
	if (!*t->own)
		return;
	file_write(dir, "", "cgroup.subtree_control", t->off);
	file_write(dir, "", "cgroup.procs", "0");
	folder_remove(dir, t->own);
}

// ---- the keeper -------------------------------------------------------------------------------------------------

static const struct sandbox_rule keeper_rules[] = {
	JAIL_KEEPER_RULES(KEEPER_OWNER),
	SANDBOX_CALL_IF(openat, "a cgroup's files", 0, UINT32_MAX, KEEPER_DIR),
	SANDBOX_CALL(write, "an end to who is left, the way back, and word of it"),
	SANDBOX_CALL(close, "those files"),
	SANDBOX_CALL_IF(unlinkat, "the removal", 0, UINT32_MAX, KEEPER_DIR),
	SANDBOX_RARE(poll, "until the last one has gone"),
};

static const struct sandbox_spec keeper_spec = {
	.program = "cgroup-keeper",
	.rules = keeper_rules,
	.rule_count = ARRAY_LEN(keeper_rules),
};

static void keeper_run(const void *arg)
{
	char byte = 0;
	jail_keeper_hold(KEEPER_OWNER);
	devices_remove(KEEPER_DIR, arg);
	if (write(KEEPER_OWNER, &byte, 1) < 0)
		byte = 0; // the owner is gone already
	own_remove(KEEPER_DIR, arg);
}

void cgroups_print(const char *prefix, FILE *out)
{
	sandbox_print(&keeper_spec, prefix, out);
}

// ---- where ------------------------------------------------------------------------------------------------------

// The line "0::PATH" of /proc/self/cgroup.
static bool own_cgroup(char *path, size_t room)
{
	char line[PATH_MAX];
	bool found = false;
	FILE *f = fopen("/proc/self/cgroup", "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		found = strncmp(line, "0::/", 4) == 0;
		if (found)
			snprintf(path, room, "%s", line + 3);
	}
	if (f)
		fclose(f);
	return found && strncmp(path, "/..", 3) != 0;
}

// proc(5): "36 35 98:0 ROOT POINT options [optional]... - TYPE ..."
static bool mount_line(char *line, char **root, char **point)
{
	char *rest = strstr(line, " - cgroup2 "), *save = NULL;
	if (!rest)
		return false;
	*rest = '\0';
	for (unsigned i = 0; i < 3; i++)
		if (!strtok_r(i ? NULL : line, " ", &save))
			return false;
	*root = strtok_r(NULL, " ", &save);
	*point = strtok_r(NULL, " ", &save);
	return *root && *point;
}

// Where the own cgroup is to be seen.
static int own_folder(char *path, size_t room, struct err *e)
{
	char own[PATH_MAX], line[PATH_MAX + 512], *root, *point;
	bool found = false;
	if (!own_cgroup(own, sizeof(own)))
		return err_set(e, ENOENT,
			       "limits: find minivmm's own cgroup: the host has no cgroups of version 2");
	FILE *f = fopen("/proc/self/mountinfo", "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		if (!mount_line(line, &root, &point))
			continue;
		const size_t skip = strcmp(root, "/") == 0 ? 0 : strlen(root);
		found = strncmp(own, root, skip) == 0 && (own[skip] == '/' || own[skip] == '\0');
		if (found && (size_t)snprintf(path, room, "%s%s", point, own + skip) >= room)
			found = false;
	}
	if (f)
		fclose(f);
	return found ? 0
		     : err_set(e, ENOENT,
			       "limits: find minivmm's own cgroup, %s: no cgroup2 is mounted there", own);
}

bool cgroups_possible(void)
{
	char path[PATH_MAX];
	return own_folder(path, sizeof(path), NULL) == 0 && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
}

// ---- making -----------------------------------------------------------------------------------------------------

static void plan(struct tree *t, const struct vm_config *c)
{
	bool memory = false, pids = false, cpu = false;
	for (unsigned i = 0; i < c->device_count; i++) {
		const struct device_config *d = &c->devices[i];
		memory |= d->limits.memory > 0;
		pids |= d->limits.processes > 0;
		cpu |= d->limits.cpu > 0;
		if (cgroup_limits_any(&d->limits))
			snprintf(t->name[t->count++], NAME_MAX_LEN, "minivmm-%d.%s", (int)getpid(), d->id);
	}
	const char *const names[] = { memory ? "memory" : NULL, pids ? "pids" : NULL, cpu ? "cpu" : NULL };
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		const size_t n = strlen(t->on);
		if (!names[i])
			continue;
		snprintf(t->on + n, sizeof(t->on) - n, "%s+%s", n ? " " : "", names[i]);
		snprintf(t->off + n, sizeof(t->off) - n, "%s-%s", n ? " " : "", names[i]);
	}
}

// One of that name may be left by a process that had our number.
static int folder_make(int dir, const char *name)
{
	unlinkat(dir, name, AT_REMOVEDIR);
	return mkdirat(dir, name, 0755) < 0 ? -errno : 0;
}

// A cgroup that gives controllers on has no processes itself, but for the root.
static int controllers_enable(int dir, struct tree *t, struct err *e)
{
	int rc = file_write(dir, "", "cgroup.subtree_control", t->on);
	if (rc == -EBUSY) {
		char own[NAME_MAX_LEN];
		snprintf(own, sizeof(own), "minivmm-%d", (int)getpid());
		if ((rc = folder_make(dir, own)) == 0) {
			memcpy(t->own, own, sizeof(own));
			rc = file_write(dir, own, "cgroup.procs", "0");
		}
		if (rc == 0)
			rc = file_write(dir, "", "cgroup.subtree_control", t->on);
		if (rc == -EBUSY)
			return err_set(e, EBUSY,
				       "limits: enable %s in %s: other processes are in it (" MEND ")", t->on,
				       t->path);
	}
	if (rc == -ENOENT || rc == -EINVAL)
		return err_set(e, -rc,
			       "limits: enable %s in %s: it is not given these controllers (" MEND ")", t->on,
			       t->path);
	return rc < 0 ? err_set(e, -rc, "limits: enable %s in %s: %s (" MEND ")", t->on, t->path,
				err_text(-rc))
		      : 0;
}

static int limits_write(int dir, const char *name, const struct cgroup_limits *l, const char **file)
{
	char text[64];
	int rc = 0;
	if (l->memory) {
		snprintf(text, sizeof(text), "%" PRIu64, l->memory);
		if ((rc = file_write(dir, name, *file = "memory.max", text)) < 0 ||
		    // All of it or nothing: half a program is none.
		    (rc = file_write(dir, name, *file = "memory.oom.group", "1")) < 0)
			return rc;
		rc = file_write(dir, name, *file = "memory.swap.max", "0");
		if (rc < 0 && rc != -ENOENT) // no swap on this host
			return rc;
	}
	if (l->processes) {
		snprintf(text, sizeof(text), "%" PRIu32, l->processes);
		if ((rc = file_write(dir, name, *file = "pids.max", text)) < 0)
			return rc;
	}
	if (l->cpu) {
		snprintf(text, sizeof(text), "%" PRIu64 " %d", (uint64_t)l->cpu * (CPU_PERIOD_US / 100),
			 CPU_PERIOD_US);
		return file_write(dir, name, *file = "cpu.max", text);
	}
	return 0;
}

static int devices_make(struct cgroups *g, const struct tree *t, const struct vm_config *c, struct err *e)
{
	for (unsigned i = 0, n = 0; i < c->device_count; i++) {
		const struct device_config *d = &c->devices[i];
		if (!cgroup_limits_any(&d->limits))
			continue;
		const char *name = t->name[n++], *what = "";
		int rc = folder_make(g->dir, name);
		if (rc == 0)
			rc = limits_write(g->dir, name, &d->limits, &what);
		if (rc == 0 && (g->fd[i] = openat(g->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
			rc = -errno;
		if (rc < 0)
			return err_set(e, -rc, "%s: limits: make %s/%s%s%s: %s (" MEND ")", d->id, t->path,
				       name, *what ? "/" : "", what, err_text(-rc));
	}
	return 0;
}

static int tree_make(struct cgroups *g, struct tree *t, const struct vm_config *c, struct err *e)
{
	const struct aside keeper = {
		.spec = &keeper_spec,
		.type = SOCK_SEQPACKET,
		.privileged = true, // the root's folder is read-only, to its owner, too
		.fds = { g->dir },
		.fd_count = 1,
		.run = keeper_run,
		.arg = t,
	};
	int rc = controllers_enable(g->dir, t, e);
	if (rc == 0)
		rc = devices_make(g, t, c, e);
	if (rc < 0)
		return rc;
	g->keeper = rc = aside_start(&keeper, e);
	return rc < 0 ? rc : 0;
}

void cgroups_init(struct cgroups *g)
{
	*g = (struct cgroups){ .keeper = -1, .dir = -1 };
	for (unsigned i = 0; i < CONFIG_DEVICES_MAX; i++)
		g->fd[i] = -1;
}

int cgroups_make(struct cgroups *g, const struct vm_config *c, struct err *e)
{
	cgroups_init(g);
	struct tree *t = calloc(1, sizeof(*t));
	if (!t)
		return err_sys(e, ENOMEM, "limits");
	int rc = 0;
	plan(t, c);
	if (t->count == 0)
		goto out;
	if ((rc = own_folder(t->path, sizeof(t->path), e)) < 0)
		goto out;
	g->dir = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = g->dir < 0 ? err_sys(e, errno, "limits: open %s", t->path) : tree_make(g, t, c, e);
	if (rc < 0 && g->dir >= 0) {
		devices_remove(g->dir, t);
		own_remove(g->dir, t);
	}
	if (rc < 0)
		cgroups_forget(g);
out:
	free(t);
	return rc;
}

int cgroups_of(const struct cgroups *g, const struct vm_config *c, const struct device_config *cfg)
{
	const int fd = g->fd[cfg - c->devices];
	return fd < 0 ? 0 : fd;
}

void cgroups_forget(struct cgroups *g)
{
	fd_close(&g->dir);
	for (unsigned i = 0; i < CONFIG_DEVICES_MAX; i++)
		fd_close(&g->fd[i]);
}

void cgroups_remove(struct cgroups *g)
{
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	const struct msghdr now = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct pollfd done = { .fd = g->keeper, .events = POLLIN };
	if (g->keeper >= 0 && sendmsg(g->keeper, &now, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		poll(&done, 1, DEADLINE_CONTROL_MS);
	fd_close(&g->keeper);
	cgroups_forget(g);
}
