// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/landlock.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The kernel's ABI grows faster than distributions' headers, hence our own names (Documentation/userspace-api/landlock.rst).
struct ruleset {
	uint64_t fs, net, scoped;
};
struct path_beneath {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

#define VERSION_FLAG	    1U
#define RULE_PATH_BENEATH   1
#define SCOPE_ABSTRACT_UNIX (UINT64_C(1) << 0) // connect to abstract sockets of processes outside
#define SCOPE_SIGNAL	    (UINT64_C(1) << 1) // signals to processes outside

#define FS_EXECUTE    (UINT64_C(1) << 0)
#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_READ_FILE  (UINT64_C(1) << 2)
#define FS_READ_DIR   (UINT64_C(1) << 3)
#define FS_CHANGE     UINT64_C(0x3ff0) // remove_dir ... make_sym, refer: rights over folders
#define FS_TRUNCATE   (UINT64_C(1) << 14)
#define FS_IOCTL_DEV  (UINT64_C(1) << 15)
#define FS_OF_FILES   (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)

static const struct {
	uint64_t fs, net, scoped; // what this version handles, all that came before included
	size_t size;		  // of struct ruleset in this version
} abis[] = {
	{ 0x1fff, 0, 0, 8 },				       // 1: execute ... make_sym
	{ 0x3fff, 0, 0, 8 },				       // 2: refer
	{ 0x7fff, 0, 0, 8 },				       // 3: truncate
	{ 0x7fff, 3, 0, 16 },				       // 4: TCP bind, connect
	{ 0xffff, 3, 0, 16 },				       // 5: ioctl on devices
	{ 0xffff, 3, SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL, 24 }, // 6: scopes
};

int landlock_version(void)
{
	const long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, VERSION_FLAG);
	return abi < 1 ? 0 : (int)MIN(abi, (long)ARRAY_LEN(abis));
}

int landlock_begin(struct landlock *l, unsigned leave)
{
	*l = (struct landlock){ .fd = -1 };
	const int abi = landlock_version();
	if (abi == 0)
		return 0;
	const size_t last = (size_t)abi - 1;
	struct ruleset all = { abis[last].fs, abis[last].net, abis[last].scoped };
	if (leave & LANDLOCK_LEAVE_SIGNALS)
		all.scoped &= ~SCOPE_SIGNAL;
	if (leave & LANDLOCK_LEAVE_NETWORK) {
		all.scoped &= ~SCOPE_ABSTRACT_UNIX;
		all.net = 0;
	}
	l->handled = all.fs;
	l->fd = (int)syscall(SYS_landlock_create_ruleset, &all, abis[last].size, 0);
	return l->fd < 0 ? -errno : 0;
}

int landlock_allow(const struct landlock *l, const char *path, unsigned grants)
{
	struct stat st;
	if (l->fd < 0)
		return 0;
	FD_AUTO fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	struct path_beneath rule = { .parent_fd = fd };
	if (grants & LANDLOCK_READ)
		rule.allowed |= FS_READ_FILE | FS_READ_DIR;
	if (grants & LANDLOCK_WRITE)
		rule.allowed |= FS_WRITE_FILE | FS_TRUNCATE | FS_CHANGE;
	if (grants & LANDLOCK_EXECUTE)
		rule.allowed |= FS_EXECUTE;
	if (grants & LANDLOCK_DEVICE)
		rule.allowed |= FS_IOCTL_DEV;
	rule.allowed &= l->handled & (S_ISDIR(st.st_mode) ? ~UINT64_C(0) : FS_OF_FILES);
	return syscall(SYS_landlock_add_rule, l->fd, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int landlock_end(struct landlock *l)
{
	if (l->fd < 0)
		return 0;
	int rc = syscall(SYS_landlock_restrict_self, l->fd, 0) < 0 ? -errno : 0;
	fd_close(&l->fd);
	return rc;
}
