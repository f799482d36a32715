// SPDX-License-Identifier: BSD-2-Clause
// `minivmm probe`: asks a back-end what it offers and says what minivmm would use of it, and what not and why.
//
// Only asks: no memory, no queue and no feature is set, so that the back-end serves its next front-end as if
// nothing had been (one that ends with its front-end ends with the probe, too).  Called by commands.c.
#ifndef MINIVMM_BRIDGES_PROBE_H
#define MINIVMM_BRIDGES_PROBE_H

#include "vmm/base/err.h"

#include <stdint.h>
#include <stdio.h>

struct probe_params {
	const char *socket;   // a path, or "fd:..." of a connected socket, which stays the caller's
	uint16_t virtio_type; // virtio 1.2 §5; 0: nobody said
	uint64_t carried;     // virtio features that the monitor's transport hands on
	int64_t control_ms;   // deadline of each exchange; 0: DEADLINE_CONTROL_MS
};

// Writes the report.  1: minivmm would take the back-end, 0: it would not, and the report says why.  -errno
// with a sentence and nothing written: it cannot be reached, does not answer, or breaks the protocol.
int probe_run(const struct probe_params *p, FILE *out, struct err *e);
// The same of a vfio-user server, for which only `socket` and `control_ms` mean something.
int probe_vfio_user_run(const struct probe_params *p, FILE *out, struct err *e);

#endif
