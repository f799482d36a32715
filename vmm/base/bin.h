// SPDX-License-Identifier: BSD-2-Clause
// Where descriptors go that came from a peer and may not be closed by whoever has others to serve.
//
// close(2) by the last owner waits, for as long as the peer likes: a socket that lingers for its data, a file of a FUSE file system for
// its server, a Unix socket for either among the messages that nobody has read.  In a process that serves several peers, threads do
// nothing but that; what waits there is interrupted where the kernel allows it.  In others the one peer harms itself.
#ifndef MINIVMM_BASE_BIN_H
#define MINIVMM_BASE_BIN_H

#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"

#include <stdbool.h>

// Starts the threads, each of which has nothing but its own table of system calls.  Before the process's own filter.  0, or -errno with
// the sentence.
int bin_open(struct err *e);

// Closes a descriptor (unless it is -1) and sets it to -1: at once an eventfd or memory, or where there is no bin; else it leaves that
// to the bin, and does not wait.  Keeps errno.  True: to the bin.
bool bin_put(int *fd);

// How many are there, to be closed.
unsigned bin_count(void);

extern const struct sandbox_spec bin_spec;

#endif
