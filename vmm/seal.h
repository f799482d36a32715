// SPDX-License-Identifier: BSD-2-Clause
// The monitor's own sandbox, put up before the first vCPU runs.
//
// In this order: everything is opened, device processes are started -> seal_process() on the main thread, which is still the only
// one -> vCPU threads are made; each calls seal_vcpu_thread() first and then waits -> seal_loop_thread() on the main thread -> the guest
// runs.  Capabilities, no_new_privs and Landlock are inherited by threads made later, seccomp filters too; hence the filters are loaded
// by each thread for itself, the loop's last.  After that the monitor opens no path, makes no socket, process or thread,
// maps nothing executable, and makes only the ioctls in the tables of seal.c.
//
// A sealed monitor is not dumpable: other processes of the same user can neither attach to it nor read its /proc/PID/mem, and it leaves
// no core.  A debugger that starts it keeps it; one that comes later has to be root's.
#ifndef MINIVMM_VMM_SEAL_H
#define MINIVMM_VMM_SEAL_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdio.h>

// Everything but the filters, which it compiles, those of `waits` and `carries` only if the machine will have such
// threads: each is a page that stays.  -errno with the sentence; a caller that goes on nevertheless (vm.insecure) runs
// with what could be had and no seccomp.
int seal_process(bool waits, bool carries, struct err *e);

// The calling thread's filter.  -errno with the sentence; 0 and no filter in a sanitizer build and after a failed seal_process().
// -EINVAL: seal_process() was not told of such a thread.
int seal_loop_thread(struct err *e);
int seal_vcpu_thread(struct err *e);
int seal_wait_thread(struct err *e);	// one that waits for a back-end that went away
int seal_carrier_thread(struct err *e); // one that serves what a vfio-user server asks for
int seal_return_thread(struct err *e);	// one that waits for such a server, and has its function again

// All tables, as sandbox_print() writes them, with "loop", "vcpu", "wait", "carrier" or "return" and a tab before each row.
void seal_print(FILE *out);

// For tests: seal in a sanitizer build too.
extern bool seal_even_sanitized;

#endif
