// SPDX-License-Identifier: BSD-2-Clause
// sandbox = { learn = "FILE" }: a program runs in the jail "default", but for its filter; every system call is reported, let through, and
// written down as a profile for the next time.
//
// The reports go to a process of its own (seccomp_unotify(2)), so that the monitor may be sealed meanwhile.  It ends with the program, whoever
// ends that, and then writes FILE.  Each call costs two switches of process: learning is slow.  What a run does not do, a profile
// from it does not allow: let the program do all that it shall be able to do.
#ifndef MINIVMM_VMM_JAIL_LEARN_H
#define MINIVMM_VMM_JAIL_LEARN_H

#include "vmm/base/err.h"

// Starts that process.  *sock: where the program's child sends its reports' descriptor; the caller's.  -errno with the sentence, for
// example when FILE cannot be made.
int jail_learn_start(const char *file, const char *program, int *sock, struct err *e);

// In the child, as the last thing before exec, instead of jail_filter().  Allocates nothing.  0 or -errno.
int jail_learn_enter(int sock);

#endif
