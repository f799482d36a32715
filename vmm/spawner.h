// SPDX-License-Identifier: BSD-2-Clause
// The process that starts and connects back-ends again, because a sealed monitor can do neither.
//
// Forked just before the seal, it holds every launch and socket path of the configuration by copy-on-write, and of the
// descriptors only what those need.  A job has a line of its own to it, on which two requests of one byte exist: "start the
// program" and "connect to the socket".  Whoever takes the monitor over can ask for nothing that the configuration does not say, and a
// program that still runs is not started a second time.  What is started becomes the monitor's own child.
//
// It has no seccomp table, since its children would inherit it; it has the monitor's user and rights, and reads nothing but those bytes.
#ifndef MINIVMM_VMM_SPAWNER_H
#define MINIVMM_VMM_SPAWNER_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/spawn.h"

#include <stdbool.h>

#define SPAWNER_JOBS_MAX 32
#define SPAWNER_KEEP_MAX 20 // descriptors that one job needs
#define SPAWNER_RETRY_MS \
	500 // between two tries of a socket path that nobody listens on; its folder is watched, too

struct spawner_job {
	const char *id;	  // of its device; all strings outlive the spawner
	const char *path; // of the socket to connect to, or NULL where a program is started:
	// *sock: our end; c: the program, a sibling (spawn_request.sibling) that hangs on alive_fd.
	int (*start)(const void *launch, int alive_fd, int *sock, struct child *c, struct err *e);
	const void *launch;
	int keep[SPAWNER_KEEP_MAX]; // descriptors that `start` hands over; the rest is closed in the spawner
	unsigned keep_count;
	int pidfd; // the program as it runs already, or -1; stays the caller's
};

struct spawner {
	int pidfd; // -1: none
	struct loop *loop;
	struct loop_source source;
};

// Forks it.  line[i] becomes the caller's end for job i.  For a process with one thread, before anything forbids fork.  -errno with the sentence.
int spawner_start(struct spawner *s, const struct spawner_job *jobs, unsigned count, int *line,
		  struct err *e);
// Its end is logged by the loop from here on.  0 or -errno.
int spawner_watch(struct spawner *s, struct loop *l);
// Kills and reaps it.  Good on a struct with pidfd -1.
void spawner_stop(struct spawner *s);

// ---- the monitor's side of a line; any thread, one at a time

enum spawner_request { SPAWNER_START = 's', SPAWNER_CONNECT = 'c' };

struct spawner_answer {
	int sock;	    // connected, the caller's
	struct child child; // SPAWNER_START: not watched yet; only id, pid, pidfd and log_fd are set
	struct err why;
};

// Asks.  0, or -EPIPE: the spawner is gone.
int spawner_ask(int line, enum spawner_request what);
// Reads the answer when `line` is readable.  0; -EPIPE: the spawner is gone; else -errno, and a->why says why the job failed.
int spawner_take(int line, const char *id, struct spawner_answer *a);

#endif
