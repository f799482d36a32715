// SPDX-License-Identifier: BSD-2-Clause
// `minivmm explain`: a configuration as the processes and devices that it would be.
//
// Everything comes from what the machine would use: launches that bridges.c prepares, jails that jail.c prepares, the monitor's own
// tables, and the tables that our device programs print.  Nothing is started but those programs with --print-syscalls, nothing is changed.
#ifndef MINIVMM_VMM_EXPLAIN_H
#define MINIVMM_VMM_EXPLAIN_H

#include "vmm/config.h"
#include "vmm/jail.h"
#include "vmm/spawn.h"

#include <stdbool.h>
#include <stdio.h>

// A line of the table of choices; each text a few words.
struct explain_choice {
	const char *sees;     // who sees the guest's memory
	const char *reads;    // whose code reads the guest's rings, and what is around it
	const char *copies;   // of the data of a request, by the processor
	const char *death;    // what that code's end comes to; the guest itself lives unless it says otherwise
	const char *migrates; // whether the device could move with its guest
};

// What bridges.c says of a device; texts live as long as the caller's arena.
struct explain_device {
	const struct device_config *cfg;
	struct explain_choice choice;
	const char *interface;	       // "vhost-user"
	const char *peer;	       // whom it talks to: a path, a program
	const char *again;	       // what happens when that is gone
	const char *gives, *costs;     // NULL: as a back-end in a process of its own does
	bool needs_spawner;	       // which somebody has to do
	const char *program;	       // path, or NULL: nobody is started
	const char *restart;	       // what happens when its process is gone; NULL: `again`
	const char *const *argv;       // as the program gets it
	const char *fd[SPAWN_FDS_MAX]; // from SPAWN_FD_FIRST on
	unsigned fd_count;
	const char *opens;	 // what its program then opens itself, or NULL
	bool own;		 // a program of ours, which seals itself
	bool isolated;		 // name spaces of its own
	struct jail *jail;	 // or NULL
	struct profile *profile; // of the jail
	// Paths of sockets that minivmm makes for it; each has a keeper.
	const char *socket[CONFIG_CONSOLE_PORTS_MAX];
	unsigned socket_count;
	const char *aside, *aside_does; // a process that its program starts beside itself, or NULL
};

// Prints it.  `reasons`: a line for each system call and its reason, instead of a list.
void explain_print(const struct vm_config *c, const struct explain_device *devices, unsigned count,
		   bool reasons, FILE *out);

#endif
