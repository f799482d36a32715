// SPDX-License-Identifier: BSD-2-Clause
// `minivmm doctor`: what this host can do for virtual machines and their devices, a line each, with the mend of what is amiss.
//
// Looks only: nothing is loaded, bound or changed.  Device nodes but KVM's are not opened, for opening some (vDPA) resets what is behind.
#ifndef MINIVMM_VMM_DOCTOR_H
#define MINIVMM_VMM_DOCTOR_H

#include <stdbool.h>
#include <stdio.h>

// Writes the report about the host whose file tree begins at `root` ("" for this one; a test gives its own).  True if a machine can run.
bool doctor_run(const char *root, FILE *out);

#endif
