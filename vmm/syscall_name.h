// SPDX-License-Identifier: BSD-2-Clause
// Names of system calls and their numbers here, as libseccomp's header has them; its library is not needed for them.
#ifndef MINIVMM_VMM_SYSCALL_NAME_H
#define MINIVMM_VMM_SYSCALL_NAME_H

#include <stdbool.h>

// False: a call of no architecture.  A negative number: of others.
bool syscall_number(const char *name, int *number);

// NULL if there is none.
const char *syscall_name(int number);

#endif
