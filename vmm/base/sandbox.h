// SPDX-License-Identifier: BSD-2-Clause
// The walls that a process puts around itself before the first hostile byte.
//
// Order: private empty root -> rlimits -> no capabilities, no_new_privs, not dumpable -> Landlock -> seccomp.  Called by device
// programs (through the SDK) and by the monitor (through seal.c).  Nothing here can be undone.
#ifndef MINIVMM_BASE_SANDBOX_H
#define MINIVMM_BASE_SANDBOX_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// One allowed system call.  A row without an argument check allows the call whatever its arguments.
struct sandbox_rule {
	int syscall;           // SCMP_SYS(name) or __NR_name
	const char *reason;    // why the program needs it
	int8_t arg;            // index of the argument that is compared, or -1
	bool masked;           // compare (arg & mask) == value instead of arg == value
	uint64_t mask, value;
};

struct sandbox_spec {
	const char *program;              // for messages
	const struct sandbox_rule *rules; // the table; each row's reason is shown by `minivmm explain` and checked by a test
	size_t rule_count;
	uint64_t nofile;                  // RLIMIT_NOFILE
	uint64_t address_space;           // RLIMIT_AS in bytes, 0: none
};

// Everything but seccomp: a private root with nothing in it (needs a mount name space of our own: skipped with -ENOTSUP
// handled inside when the process was not given one and `required` is false), limits, no capabilities, no_new_privs, Landlock deny-all where the
// kernel has it.
int sandbox_confine(const struct sandbox_spec *s, bool required, struct err *e);

// The seccomp allow-list for the calling thread and those that it makes: a call that is not listed kills the process.
int sandbox_filter(const struct sandbox_spec *s, struct err *e);

#endif
