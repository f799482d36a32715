// SPDX-License-Identifier: BSD-2-Clause
// minivmm ctl: one request to a running machine (vmm/control.h), and its answer.
#ifndef MINIVMM_VMM_CTL_H
#define MINIVMM_VMM_CTL_H

#include "vmm/base/err.h"

#include <stdio.h>

// `words` are NULL-terminated, a command and what belongs to it.  Prints what the machine says to `out`.  0: it did that.  -errno with the
// sentence: it did not, or nobody answers at `path` (vm.control of its configuration, or "fd:...").
int ctl_run(const char *path, const char *const *words, FILE *out, struct err *e);

#endif
