// SPDX-License-Identifier: BSD-2-Clause
// Listening sockets whose files go with their process, whatever way it ends.
//
// A sandboxed process can remove no file, a killed one nothing at all.  So a keeper, a process forked before the sandbox, waits for the
// owner's end (of a socket pair) and then removes the file, if it is still the very one.  It has no other descriptors than
// the pair's, the directory's and the file's, one seccomp table of four calls, and no signal but SIGKILL reaches it; it is nobody's child
// to wait for.
#ifndef MINIVMM_BASE_SOCKET_FILE_H
#define MINIVMM_BASE_SOCKET_FILE_H

#include "vmm/base/err.h"

#include <stdio.h>

// msg_listen() with a keeper; of "fd:..." a duplicate, whose file is left alone.  Returns the listening descriptor; *keeper is the caller's, too, to be held until the end (close-on-exec).
// For a process with one thread.  -errno with the sentence, and nothing is left behind.
int socket_file_listen(const char *path, int *keeper, struct err *e);

// Has the file removed, and waits for that (DEADLINE_CONTROL_MS at most).  -1 is none; *keeper is -1 afterwards.
void socket_file_remove(int *keeper);

// The keeper's table, as sandbox_print() writes it.
void socket_file_print(const char *prefix, FILE *out);

#endif
