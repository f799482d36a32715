// SPDX-License-Identifier: BSD-2-Clause
// Starting the processes that serve devices.
//
// A child gets a pidfd, dies with the monitor, has exactly the descriptors it is given, an empty environment, a session of its own,
// default signal handling, the monitor's working directory, and, unless the user
// wrote otherwise, name spaces of its own (user, mount, pid, net, ipc, uts, cgroup).  Its standard error is a pipe whose lines
// appear in our log with the device's id in front.  "Ready" is no message of its own: a child is ready
// when it answers on its socket; what it wrote before dying is then the reason (spawn_last_words()).
//
// In its name spaces a child is user 0 with every capability over them and none over the host; over files it has the rights of
// the monitor's user and groups, without what a host root may do beyond.  What only root may open is opened by the monitor and handed over.
// It is also process 1 there: a signal that it has no handler for does nothing, but for SIGKILL; so spawn_stop() costs
// `grace_ms` for a program without a SIGTERM handler that does not end by itself when its socket is closed.
#ifndef MINIVMM_VMM_SPAWN_H
#define MINIVMM_VMM_SPAWN_H

#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"

#include <stdbool.h>
#include <sys/types.h>

struct jail;

#define SPAWN_FD_FIRST 3 // number of the first descriptor that is handed over
#define SPAWN_FDS_MAX  17

struct spawn_request {
	const char *id;	     // device id, for log lines; must outlive the child
	const char *program; // path; without a slash it is looked for beside our own executable, then in PATH
	const char *const *argv; // NULL-terminated, argv[0] included
	int fds[SPAWN_FDS_MAX];	 // become 3, 4, ... in the child; stay the caller's
	unsigned fd_count;
	bool isolate; // name spaces; false only where the user wrote sandbox = "none"
	const struct jail
		*jail; // all of its walls, for a program that puts up none of its own; NULL: name spaces only
	const char *learn; // with a jail: no filter, but a profile written there (jail_learn.h)
	int cgroup;	   // a directory: the cgroup that it begins in; 0: the caller's
	int keeper;	   // who ends it after us (jail_keeper.h), for one that may execute others; 0: none
	bool insecure;	   // where the host refuses name spaces: warn and go on without, instead of failing
	// For spawner.c: the child becomes a child of the caller's parent, and dies with that.  alive_fd hangs up when
	// the parent is gone.  Of a child that fails before exec c->pidfd is left, dead, for the parent to reap.
	bool sibling;
	int alive_fd;
};

struct child {
	const char *id;
	pid_t pid;
	int pidfd;	 // -1: no child
	int log_fd;	 // read end of its standard error, -1 after its end
	bool isolated;	 // it did get its name spaces
	bool sibling;	 // spawn_request.sibling: our parent reaps it, and spawn_stop() leaves pidfd
	bool ended_well; // exit status 0; once `exited` was called
	bool hold_last;	 // its last line is kept back from the log: somebody is about to quote it
	bool line_cut;	 // the rest of an overlong line is being skipped
	unsigned line_len;
	char line[256]; // the line being collected; only printable ASCII, the rest as \xNN
	char last[256]; // its last complete line
	struct log_limit limit;
	struct loop *loop;
	struct loop_source log_source, exit_source;
	void (*exited)(struct child *c, const char *how); // "killed by signal 9 (Killed)", "exit status 1"
	void *owner;
};

// Where a program is: a path stays as it is, a name is looked for beside our own executable, then in PATH.
int spawn_find_program(const char *name, char *path, size_t room, struct err *e);

// Starts a program.  Blocks until exec has succeeded or failed (milliseconds; DEADLINE_START_MS at most).  -errno with the child's
// own reason (without the device's id: "start PROGRAM: ..."); nothing is left behind then.  Main thread only: the child dies with the *thread* that started it.
int spawn_start(struct child *c, const struct spawn_request *rq, struct err *e);

// From here on the loop forwards its log lines and calls `exited` once (soon after its death, by pidfd; the child is reaped and
// its last lines are in c->last).  `exited` may call spawn_stop().  -errno if the loop refuses; the child is then as before.
int spawn_watch(struct child *c, struct loop *l, void (*exited)(struct child *c, const char *how),
		void *owner);

// Reads what is left in the log pipe and returns the last line the child wrote, "" if none.  Waits for at most `wait_ms` for its
// end.  That line is not logged, the ones before it are.
const char *spawn_last_words(struct child *c, int wait_ms);

// True if it has ended, or does within `wait_ms`: *how as for `exited`.  It is not reaped.
bool spawn_ended(const struct child *c, int wait_ms, char *how, size_t room);

// Ends the child: SIGTERM, after `grace_ms` SIGKILL, reaped; closes everything.  Good on one that is gone already, and on a
// struct for which spawn_start() failed.  `exited` is not called.
void spawn_stop(struct child *c, int grace_ms);

#endif
