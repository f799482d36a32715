// SPDX-License-Identifier: BSD-2-Clause
// What ends other people's programs (`exec`) when the monitor was killed, whatever they did meanwhile.
//
// The kernel's way, PR_SET_PDEATHSIG, hangs on a thread: a program that executes itself from a second one is rid of it.  So each child, before it
// executes anything, hands a pidfd of itself to a process that is there already, the keeper, and that kills what it holds at the monitor's end. With the
// first process of a jail go all in it.  No program can be started that the keeper does not hold, for the first message of its
// life is the child's own, and it counts even when its sender and the monitor are gone by the time that it is read.
//
// The keeper of cgroups (cgroup.h) does it besides where there is one, else a process of its own.
#ifndef MINIVMM_VMM_JAIL_KEEPER_H
#define MINIVMM_VMM_JAIL_KEEPER_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/base/sandbox.h"
#include "vmm/config.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

struct jail_keeper {
	int fd;	     // a SOCK_SEQPACKET socket, whose end is the programs'; -1: none
	bool shared; // the keeper of cgroups, which they end
	struct loop *loop;
	struct loop_source source;
};

// Starts it, if a device has an `exec`; `shared`: the socket of one that does it besides, or -1.  For a process with one thread.  -errno with the
// sentence.
int jail_keeper_make(struct jail_keeper *k, const struct vm_config *c, int shared, struct err *e);
// Its end is logged by the loop from here on.  0 or -errno.
int jail_keeper_watch(struct jail_keeper *k, struct loop *l);
// Has it end, and with it whatever it still holds.  Good on one that was not made (fd -1).
void jail_keeper_end(struct jail_keeper *k);

// In a child, before it executes anything: from here on it ends with the monitor.  Allocates nothing, never waits.  0; -ESRCH: the keeper is gone.
int jail_keeper_join(int fd);

// The keeper's side: holds whoever joins until the other end of `owner` is closed or sends a message without a pidfd, then kills
// them.  Its calls are JAIL_KEEPER_RULES(owner).
void jail_keeper_hold(int owner);

#define JAIL_KEEPER_RULES(owner)                                                                             \
	SANDBOX_CALL_IF(recvmsg, "a pidfd of each program; the owner's end", 0, UINT32_MAX, owner),          \
		SANDBOX_CALL(poll, "until that comes; has the program ended by itself?"),                    \
		SANDBOX_CALL_IF(pidfd_send_signal, "an end to those that have not", 1, UINT32_MAX, SIGKILL), \
		SANDBOX_RARE(close, "of those that have")

// Its table, as sandbox_print() writes it.
void jail_keeper_print(const char *prefix, FILE *out);

// Whether the configuration has programs for it.
bool jail_keeper_needed(const struct vm_config *c);

#endif
