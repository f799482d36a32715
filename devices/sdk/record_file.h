// SPDX-License-Identifier: BSD-2-Clause
// A file that a program maps and writes as it goes, for the one that is started when it was killed.
//
// What was stored there is there whenever the process ends, in the order of the stores: record_barrier() keeps the compiler from changing
// that.  It is not for the end of the host.  Opened before the sandbox.
#ifndef MINIVMM_SDK_RECORD_FILE_H
#define MINIVMM_SDK_RECORD_FILE_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct record_file {
	void *map;
	size_t len;
	int fd;	    // holds the lock
	bool fresh; // the file was not there, or empty
};

// Opens or makes the file, which has to be this user's own, locks it, makes it `len` bytes long and maps it.  Whoever held it may be
// dying: waits DEADLINE_CONTROL_MS.  0 or -errno with the sentence.
int record_file_open(struct record_file *r, const char *path, size_t len, struct err *e);
// Does nothing to one that is not open (zeros, fd -1).
void record_file_close(struct record_file *r);

static inline void record_barrier(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#endif
