// SPDX-License-Identifier: BSD-2-Clause
// What signals mean to a running machine.
//
// SIGTERM presses the power button, a second one within 5 s stops at once; SIGINT and SIGHUP stop at once, in order; SIGUSR1 has every CPU
// log its registers.  They are read from a signalfd on the loop, so nothing is interrupted anywhere.
#ifndef MINIVMM_VMM_SIGNALS_H
#define MINIVMM_VMM_SIGNALS_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"

struct vm;

struct signals {
	struct loop_source source;
	struct vm *vm;
	deadline_ns second_until; // a SIGTERM before this is the second one
};

// Blocks them all, and SIGPIPE for good; before the first thread and the first child.
void signals_block(void);

// Reads them on the machine's loop.  The descriptor stays open until the process ends.
int signals_watch(struct signals *s, struct vm *vm, struct err *e);

#endif
