// SPDX-License-Identifier: BSD-2-Clause
// A small process beside ours, for the one thing that a sandboxed process cannot do itself.
//
// Forked before the sandbox, twice, so that it is nobody's child to wait for.  It has its end of a socket pair as descriptor 0, those
// that it was given from 1 on, and no others; no signal but SIGKILL reaches it, and its own table of system calls holds it.
// It ends when our end of the pair is closed: its function has to see to that.
#ifndef MINIVMM_BASE_ASIDE_H
#define MINIVMM_BASE_ASIDE_H

#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"

#include <stdbool.h>

#define ASIDE_FDS_MAX 4

struct aside {
	const struct sandbox_spec *spec; // its name and its table
	int type;			 // of the pair: SOCK_STREAM or SOCK_SEQPACKET
	bool privileged;		 // keeps capabilities, if there are any
	int fds[ASIDE_FDS_MAX];		 // become 1, 2, ...; stay the caller's
	unsigned fd_count;
	void (*run)(const void *arg); // its whole life
	const void *arg;
};

// Returns our end of the pair, close-on-exec, the caller's.  For a process with one thread.  -errno with the sentence.
int aside_start(const struct aside *a, struct err *e);

#endif
