// SPDX-License-Identifier: BSD-2-Clause
// Limits of a device's program and all that it starts: a cgroup (version 2) for each device that has `limits`.
//
// They lie in the monitor's own cgroup, which has to be delegated to it.  Where other rules of cgroups want that nobody is beside them
// (any cgroup but the root), the monitor goes into one of its own first.  main.c makes them before anything is started; the
// launcher has a program begin in its own, at each start.  A keeper, a process that outlives a sealed or killed monitor, removes them; it does what
// jail_keeper.h says, too.
//
// Memory counts for whoever touches it first, guest memory too: mostly the guest, and so the monitor, but what a back-end is
// the first to write into the guest is its.
#ifndef MINIVMM_VMM_CGROUP_H
#define MINIVMM_VMM_CGROUP_H

#include "vmm/base/err.h"
#include "vmm/config.h"

#include <stdbool.h>
#include <stdio.h>

struct cgroups {
	int keeper;		    // -1: no device has limits
	int dir;		    // the monitor's own, or -1
	int fd[CONFIG_DEVICES_MAX]; // by device; -1: none
};

// Makes them, if there is one to be made.  For a process with one thread and no children.  -errno with the sentence; nothing is left behind.
int cgroups_make(struct cgroups *g, const struct vm_config *c, struct err *e);
// A directory for CLONE_INTO_CGROUP, which stays *g's; 0: the device has none.
int cgroups_of(const struct cgroups *g, const struct vm_config *c, const struct device_config *cfg);
// Closes the directories: it is another process that will start programs.
void cgroups_forget(struct cgroups *g);
// Has them removed, with whoever is still in them, and waits for that (DEADLINE_CONTROL_MS at most).  Good on a struct with -1 everywhere,
// which cgroups_init() makes.
void cgroups_remove(struct cgroups *g);
void cgroups_init(struct cgroups *g);

// Whether this process may divide its cgroup, as far as can be told without doing it.
bool cgroups_possible(void);

// The keeper's table, as sandbox_print() writes it.
void cgroups_print(const char *prefix, FILE *out);

static inline bool cgroup_limits_any(const struct cgroup_limits *l)
{
	return l->memory || l->processes || l->cpu;
}

#endif
