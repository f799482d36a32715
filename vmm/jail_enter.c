// SPDX-License-Identifier: BSD-2-Clause
//
// The child's way into its jail, between clone and exec: no memory is allocated, no lock taken, nothing logged.  Everything it
// needs stands in struct jail; what fails goes back as numbers.
#include "vmm/jail.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PLACE "/proc" // where the root is put together: it exists everywhere, and is not needed any more

static int failed(struct jail_failure *f, enum jail_step step, int show, int error)
{
	*f = (struct jail_failure){ .step = (int)step, .show = show, .error = error };
	return -error;
}

static int mount_call(const char *what, const char *where, const char *type, unsigned long flags,
		      const char *data)
{
	return syscall(SYS_mount, what, where, type, flags, data) < 0 ? -errno : 0;
}

// ---- the root --------------------------------------------------------------------------------------------------

// The folders on the way to `path` (relative to the working directory).  What is there already is good, also
// in a file system that may not be written.
static int make_way(const char *path)
{
	char part[512];
	const size_t len = strlen(path);
	if (len >= sizeof(part))
		return -ENAMETOOLONG;
	for (size_t i = 1; i < len; i++) {
		if (path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST && errno != EROFS)
			return -errno;
	}
	return 0;
}

static int make_point(const char *path, bool folder)
{
	int rc = make_way(path);
	if (rc < 0)
		return rc;
	if (access(path, F_OK) == 0)
		return 0;
	if (folder)
		return mkdir(path, 0755) < 0 ? -errno : 0;
	FD_AUTO fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0444);
	return fd < 0 ? -errno : 0;
}

// The attributes are set before it is anywhere, and are only ever added to those that the host's mount has: an ordinary user may not
// take those away, and need not know them.
static int show_bind(const struct jail_show *s, const char *from, const char *to)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID };
	if (!s->writable)
		attr.attr_set |= MOUNT_ATTR_RDONLY;
	if (!s->device)
		attr.attr_set |= MOUNT_ATTR_NODEV;
	if (!s->executable)
		attr.attr_set |= MOUNT_ATTR_NOEXEC;
	attr.propagation = 0;
	FD_AUTO tree = (int)syscall(SYS_open_tree, AT_FDCWD, from,
				    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0 ||
	    syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0 ||
	    syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

static int show_one(const struct jail *j, const struct jail_show *s)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	const char *to = jail_text(j, s->to) + 1; // the working directory is the new root
	char size[64];
	int rc = make_point(to, s->folder);
	if (rc < 0)
		return rc;
	switch ((enum show_kind)s->kind) {
	case SHOW_PROC:
		return mount_call("proc", to, "proc", flags | MS_RDONLY, NULL);
	case SHOW_TMPFS:
		snprintf(size, sizeof(size), "mode=1777,size=%llu,nr_inodes=1024",
			 (unsigned long long)s->size);
		return mount_call("none", to, "tmpfs", flags, size);
	case SHOW_BIND:
		break;
	}
	return show_bind(s, jail_text(j, s->from), to);
}

static int enter_root(const struct jail *j, struct jail_failure *f)
{
	struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
	const char *step;
	int rc = mount_call(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (rc < 0)
		return failed(f, JAIL_PRIVATE, 0, -rc);
	umask(0);
	rc = mount_call("none", PLACE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
			"mode=0755,size=1m,nr_inodes=4096");
	if (rc < 0 || (rc = chdir(PLACE) < 0 ? -errno : 0) < 0)
		return failed(f, JAIL_ROOT, 0, -rc);
	for (unsigned i = 0; i < j->show_count; i++)
		if ((rc = show_one(j, &j->show[i])) < 0)
			return failed(f, JAIL_SHOW, (int)i, -rc);
	if (syscall(SYS_mount_setattr, AT_FDCWD, ".", 0, &read_only, sizeof(read_only)) < 0)
		return failed(f, JAIL_ROOT, 0, errno);
	umask(022);
	rc = sandbox_enter_root(&step);
	return rc < 0 ? failed(f, JAIL_PIVOT, 0, -rc) : 0;
}

// ---- limits, capabilities, Landlock ----------------------------------------------------------------------------

static int limit(int what, uint64_t value)
{
	const struct rlimit l = { .rlim_cur = value, .rlim_max = value };
	return value != PROFILE_NO_LIMIT && setrlimit(what, &l) < 0 ? -errno : 0;
}

static int limits(const struct jail *j)
{
	int rc = limit(RLIMIT_CORE, 0);
	if (rc == 0)
		rc = limit(RLIMIT_NOFILE, j->nofile);
	if (rc == 0)
		rc = limit(RLIMIT_NPROC, j->processes);
	if (rc == 0)
		rc = limit(RLIMIT_AS, j->address_space);
	if (rc == 0)
		rc = limit(RLIMIT_FSIZE, j->file_size);
	return rc;
}

// User 0 of its own name space would get back by exec all that the bounding set has.
static int capabilities(const struct jail *j)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0L, 0L, 0L) >= 0; cap++)
		if (!(cap < 64 && j->capabilities >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0L, 0L, 0L) < 0)
			return -errno;
	for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
		const uint32_t word = (uint32_t)(j->capabilities >> (32 * i));
		data[i] = (struct __user_cap_data_struct){ word, word, 0 };
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0L, 0L, 0L) < 0 ||
	    syscall(SYS_capset, &header, data) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
		return -errno;
	return 0;
}

static int landlock(const struct jail *j)
{
	struct landlock l;
	if (!j->landlock)
		return 0;
	int rc = landlock_begin(&l, j->host_net ? LANDLOCK_LEAVE_NETWORK : LANDLOCK_LEAVE_NOTHING);
	for (unsigned i = 0; rc == 0 && i < j->show_count; i++) {
		const struct jail_show *s = &j->show[i];
		rc = landlock_allow(&l, jail_text(j, s->to),
				    LANDLOCK_READ | (s->writable || s->device ? LANDLOCK_WRITE : 0) |
					    (s->executable ? LANDLOCK_EXECUTE : 0) |
					    (s->device ? LANDLOCK_DEVICE : 0));
	}
	if (rc == 0)
		return landlock_end(&l);
	fd_close(&l.fd);
	return rc;
}

int jail_enter(const struct jail *j, struct jail_failure *f)
{
	int rc = enter_root(j, f);
	if (rc < 0)
		return rc;
	if ((rc = limits(j)) < 0)
		return failed(f, JAIL_LIMITS, 0, -rc);
	if ((rc = capabilities(j)) < 0)
		return failed(f, JAIL_CAPABILITIES, 0, -rc);
	if ((rc = landlock(j)) < 0)
		return failed(f, JAIL_LANDLOCK, 0, -rc);
	return 0;
}

int jail_filter(const struct jail *j, struct jail_failure *f)
{
	// The kernel does not write to it; struct sock_fprog is older than const.
	struct sandbox_program copy = j->filter;
	struct sock_fprog prog = { .len = copy.count, .filter = copy.insn };
	return syscall(SYS_seccomp, 1U /* SECCOMP_SET_MODE_FILTER */, 0U, &prog) < 0
		       ? failed(f, JAIL_SECCOMP, 0, errno)
		       : 0;
}
