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
#include <limits.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRIES_MAX 100
#define PLACE	  "/proc" // where the root is put together: it exists everywhere, and is not needed any more

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

// In the new root, and whatever links say never out of it: of what is shown a part may be written by who is no friend.
static int open_in(int root, const char *path, int flags)
{
	const struct open_how how = { .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
				      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	int fd, tries = 0;
	do { // EAGAIN: somebody on the host mounted or renamed something while a ".." of a link was looked at
		fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	} while (fd < 0 && errno == EAGAIN && ++tries < TRIES_MAX);
	return fd < 0 ? -errno : fd;
}

static int make_in(int folder_fd, const char *name, bool folder)
{
	if (folder)
		return mkdirat(folder_fd, name, 0755) < 0 ? -errno : 0;
	FD_AUTO fd = openat(folder_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0444);
	return fd < 0 ? -errno : 0;
}

// What lies at `path` in the new root, made where there is nothing, and so are the folders on its way.  `path` is written to, and left as it was.
static int open_point(int root, char *path, bool folder)
{
	int fd = open_in(root, path, O_PATH);
	if (fd != -ENOENT)
		return fd;
	char *slash = strrchr(path, '/');
	if (slash)
		*slash = '\0';
	FD_AUTO parent = slash ? open_point(root, path, true) : open_in(root, ".", O_PATH);
	if (slash)
		*slash = '/';
	if (parent < 0)
		return parent;
	int rc = make_in(parent, slash ? slash + 1 : path, folder);
	return rc < 0 ? rc : open_in(root, path, O_PATH);
}

// The attributes are set before it is anywhere, and are only ever added to those that the host's mount has: an ordinary user may not
// take those away, and need not know them.
static int show_bind(const struct jail_show *s, int from, int point)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID };
	if (!s->writable)
		attr.attr_set |= MOUNT_ATTR_RDONLY;
	if (!s->device)
		attr.attr_set |= MOUNT_ATTR_NODEV;
	if (!s->executable)
		attr.attr_set |= MOUNT_ATTR_NOEXEC;
	attr.propagation = 0;
	FD_AUTO tree = (int)syscall(SYS_open_tree, from, "",
				    AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0 ||
	    syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0 ||
	    syscall(SYS_move_mount, tree, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) <
		    0)
		return -errno;
	return 0;
}

// mount(2) takes a path, and there is none to a descriptor without /proc but the working directory's.
static int mount_at(int point, int root, const char *type, const char *data)
{
	if (fchdir(point) < 0)
		return -errno;
	int rc = mount_call("none", ".", type, MS_NOSUID | MS_NODEV | MS_NOEXEC | (data ? 0 : MS_RDONLY),
			    data);
	return fchdir(root) < 0 ? -errno : rc;
}

static int show_one(const struct jail *j, const struct jail_show *s, int root)
{
	const struct open_how straight = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
	char to[PATH_MAX], size[64];
	FD_AUTO from = -1;
	if (s->kind == SHOW_BIND && (from = (int)syscall(SYS_openat2, AT_FDCWD, jail_text(j, s->from),
							 &straight, sizeof(straight))) < 0)
		return -errno;
	snprintf(to, sizeof(to), "%s", jail_text(j, s->to) + 1);
	FD_AUTO point = open_point(root, to, s->folder);
	if (point < 0)
		return point;
	switch ((enum show_kind)s->kind) {
	case SHOW_PROC:
		return mount_at(point, root, "proc", NULL);
	case SHOW_TMPFS:
		snprintf(size, sizeof(size), "mode=1777,size=%llu,nr_inodes=1024",
			 (unsigned long long)s->size);
		return mount_at(point, root, "tmpfs", size);
	case SHOW_BIND:
		break;
	}
	return show_bind(s, from, point);
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
	FD_AUTO root = rc < 0 || chdir(PLACE) < 0 ? -1 : open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return failed(f, JAIL_ROOT, 0, rc < 0 ? -rc : errno);
	for (unsigned i = 0; i < j->show_count; i++)
		if ((rc = show_one(j, &j->show[i], root)) < 0)
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
