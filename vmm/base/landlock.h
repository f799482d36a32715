// SPDX-License-Identifier: BSD-2-Clause
// Landlock: rights that a process gives up for itself and for all that it starts (landlock(7)).
//
// Allocates nothing and keeps nothing, so that it also serves between clone and exec.  Callers: sandbox.c, jail_enter.c.
#ifndef MINIVMM_BASE_LANDLOCK_H
#define MINIVMM_BASE_LANDLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum landlock_leave { // what is not taken away
	LANDLOCK_LEAVE_NOTHING,
	LANDLOCK_LEAVE_SIGNALS = 1, // signals to processes outside
	LANDLOCK_LEAVE_NETWORK = 2, // TCP ports, abstract sockets
};

enum landlock_grant { // for what lies at or below a path
	LANDLOCK_READ = 1,
	LANDLOCK_WRITE = 2, // make, remove, rename, write, truncate
	LANDLOCK_EXECUTE = 4,
	LANDLOCK_DEVICE = 8, // ioctl on device nodes
};

struct landlock {
	int fd;		  // of the rule set, close-on-exec; -1 where the kernel has no Landlock
	uint64_t handled; // file rights that it knows
};

// What this kernel has: 0 none, 1 files, 4 TCP ports too, 6 abstract sockets and signals too.
int landlock_version(void);
// A rule set that takes away everything this kernel knows but `leave` (or-ed).  0, also where there is no Landlock; -errno.
int landlock_begin(struct landlock *l, unsigned leave);
// Gives `grants` (or-ed) back for the file, or the folder and all below it, that the path names.  0 or -errno.
int landlock_allow(const struct landlock *l, const char *path, unsigned grants);
// Enforces it for the calling thread and closes it.  no_new_privs is set.  0 or -errno.
int landlock_end(struct landlock *l);

#endif
