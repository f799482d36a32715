// SPDX-License-Identifier: BSD-2-Clause
//
// Name spaces, empty root, limits, capabilities and Landlock; the order in which a program puts them up.  The seccomp part is
// seccomp.c.  Called once, early, by one thread; never undoes anything and never runs another program.
#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"

#include "vmm/base/fd.h"
#include "vmm/base/landlock.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef MINIVMM_SANITIZED
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

bool sandbox_held_back(const struct sandbox_spec *s)
{
	return sanitized && !s->even_sanitized;
}

// ---- user name spaces ------------------------------------------------------------------------------------------

// Reads a decimal number from a file of one line; `otherwise` if there is none.
static long sysctl_read(const char *path, long otherwise)
{
	char text[32];
	FD_AUTO fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return otherwise;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

const char *sandbox_mend(int error)
{
	if (error == EINVAL || error == ENOSYS)
		return "this kernel is built without user name spaces";
	if (error == ENOSPC || sysctl_read("/proc/sys/user/max_user_namespaces", 1) == 0)
		return "raise sysctl user.max_user_namespaces";
	if (geteuid() != 0 && sysctl_read("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0)
		return "set sysctl kernel.unprivileged_userns_clone=1";
	if (geteuid() != 0 && sysctl_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 1)
		return "set sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give the program a profile";
	if (error == EPERM || error == EACCES)
		return "a chroot, container or security module around this process forbids them";
	return "the host refuses user name spaces";
}

static int proc_write(const char *path, const char *text)
{
	FD_AUTO fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t len = strlen(text);
	ssize_t n = write(fd, text, len);
	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

int sandbox_map_ids(uid_t uid, gid_t gid)
{
	char map[32];
	int rc = proc_write("/proc/self/setgroups", "deny"); // else an ordinary user may not write gid_map
	if (rc < 0 && rc != -ENOENT)
		return rc;
	snprintf(map, sizeof(map), "0 %u 1\n", uid);
	rc = proc_write("/proc/self/uid_map", map);
	if (rc < 0)
		return rc;
	snprintf(map, sizeof(map), "0 %u 1\n", gid);
	return proc_write("/proc/self/gid_map", map);
}

// What spawn.c makes, and hardly anything else does: first process of a pid name space whose users are one.  Taking another
// such place for it does no harm: what follows needs rights over the mount name space, and whoever has
// them in a user name space of one id has them over a private one only.
static bool launched_isolated(void)
{
	char map[64], *p = map;
	FD_AUTO fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, map, sizeof(map) - 1);
	if (n <= 0 || getpid() != 1)
		return false;
	map[n] = '\0';
	unsigned long inner = strtoul(p, &p, 10);
	strtoul(p, &p, 10); // who we are outside does not matter
	unsigned long count = strtoul(p, &p, 10);
	return inner == 0 && count == 1 && p == map + n - 1 && *p == '\n';
}

static int own_namespaces(struct err *e)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	if (launched_isolated())
		return 0;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
		    CLONE_NEWCGROUP) < 0) {
		int error = errno;
		return err_set(e, error, "sandbox: make name spaces: %s (%s)", err_text(error),
			       sandbox_mend(error));
	}
	int rc = sandbox_map_ids(uid, gid);
	if (rc < 0)
		return err_set(e, -rc, "sandbox: map user id: %s (%s)", err_text(-rc), sandbox_mend(-rc));
	return 0;
}

// ---- root ------------------------------------------------------------------------------------------------------

int sandbox_enter_root(const char **step)
{
	*step = "pivot_root";
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		// Both now lie on one another; this takes off the upper, which is the old one.
		*step = "detach the old root";
		if (umount2(".", MNT_DETACH) < 0)
			return -errno;
	} else if (errno == EINVAL) {
		// A host that runs from its initramfs: that root cannot be pivoted, only buried.
		*step = "cover the old root";
		if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
			return -errno;
	} else {
		return -errno;
	}
	*step = "enter the new root";
	return chdir("/") < 0 ? -errno : 0;
}

// The place of the new root does not matter, it only has to exist: /proc was needed a moment ago.
static int empty_root(struct err *e)
{
	const char *place = "/proc", *step;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(e, errno, "sandbox: make mounts private");
	if (mount("none", place, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0100") < 0)
		return err_sys(e, errno, "sandbox: mount an empty root");
	if (chdir(place) < 0)
		return err_sys(e, errno, "sandbox: enter the empty root");
	int rc = sandbox_enter_root(&step);
	return rc < 0 ? err_sys(e, -rc, "sandbox: %s", step) : 0;
}

// ---- limits and privileges -------------------------------------------------------------------------------------

static int limit_set(int what, const char *name, rlim_t value, struct err *e)
{
	const struct rlimit limit = { .rlim_cur = value, .rlim_max = value };
	return setrlimit(what, &limit) < 0 ? err_sys(e, errno, "sandbox: set %s", name) : 0;
}

static int limits_set(const struct sandbox_spec *s, struct err *e)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < s->nofile)
		return err_set(e, EMFILE,
			       "%llu open files are allowed, up to %llu are needed (raise ulimit -n)",
			       (unsigned long long)files.rlim_max, (unsigned long long)s->nofile);
	int rc = limit_set(RLIMIT_NOFILE, "RLIMIT_NOFILE", s->nofile, e);
	if (rc == 0)
		rc = limit_set(RLIMIT_CORE, "RLIMIT_CORE", 0, e);
	if (rc == 0 && s->address_space && !sandbox_held_back(s))
		rc = limit_set(RLIMIT_AS, "RLIMIT_AS", s->address_space, e);
	return rc;
}

int sandbox_drop_privileges(struct err *e)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
	memset(none, 0, sizeof(none));

	// Without CAP_SETPCAP the bounding set stays (EPERM); there is nothing it could bound after no_new_privs.
	for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0L, 0L, 0L) == 0; cap++)
		;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0L, 0L, 0L) < 0)
		return err_sys(e, errno, "sandbox: clear ambient capabilities");
	if (syscall(SYS_capset, &header, none) < 0)
		return err_sys(e, errno, "sandbox: drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
		return err_sys(e, errno, "sandbox: set no_new_privs");
	if (prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) < 0)
		return err_sys(e, errno, "sandbox: clear the dumpable flag");
	return 0;
}

// ---- Landlock --------------------------------------------------------------------------------------------------

// Handles every right and grants none: whatever is opened later is refused.  What is open already stays usable.
int sandbox_landlock(enum sandbox_scope scope, struct err *e)
{
	struct landlock l;
	int rc = landlock_begin(&l, scope == SANDBOX_MAY_SIGNAL ? LANDLOCK_LEAVE_SIGNALS
								: LANDLOCK_LEAVE_NOTHING);
	if (rc < 0)
		return err_sys(e, -rc, "sandbox: make a Landlock rule set");
	rc = landlock_end(&l);
	return rc < 0 ? err_sys(e, -rc, "sandbox: enforce Landlock") : 0;
}

// ---- the whole -------------------------------------------------------------------------------------------------

static int private_root(bool required, struct err *e)
{
	struct err why;
	int rc = own_namespaces(&why);
	if (rc == 0)
		rc = empty_root(&why);
	if (rc == 0 || required) {
		if (rc < 0)
			err_set(e, -rc, "%s", why.text);
		return rc;
	}
	log_warn("running without a private root: %s", why.text);
	return 0;
}

int sandbox_confine(const struct sandbox_spec *s, bool required, struct err *e)
{
	bool held_back = sandbox_held_back(s);
	if (held_back)
		log_debug("sanitizer build: no empty root, Landlock or seccomp");
	int rc = held_back ? 0 : private_root(required, e);
	if (rc == 0)
		rc = limits_set(s, e);
	if (rc == 0)
		rc = sandbox_drop_privileges(e);
	if (rc == 0 && !held_back)
		rc = sandbox_landlock(SANDBOX_SCOPE_ALL, e);
	return rc;
}
