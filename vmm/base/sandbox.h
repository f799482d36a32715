// SPDX-License-Identifier: BSD-2-Clause
// The walls that a process puts around itself before the first hostile byte.
//
// Order: private empty root -> rlimits -> no capabilities, no_new_privs, not dumpable -> Landlock -> seccomp.  Called by device
// programs (through the SDK) and by the monitor (through seal.c).  Nothing here can be undone.
//
// A program declares what it may do as a table, with the macros below:
//
//	static const struct sandbox_rule blk_rules[] = {
//		SANDBOX_CALL(pread64, "guest reads, where io_uring is forbidden"),
//		SANDBOX_IOCTL(BLKDISCARD, "discard on a block device"),
//		SANDBOX_CALL_IF(mmap, "guest memory from the front-end", 2, PROT_EXEC, 0),
//	};
//
// Several rows for one system call are alternatives, tried in their order; one without a condition settles it, wherever it stands (of
// several such the first).  What the C library itself needs, and what log.c needs, is in a small table of seccomp.c
// and need not be repeated.
#ifndef MINIVMM_BASE_SANDBOX_H
#define MINIVMM_BASE_SANDBOX_H

#include "vmm/base/err.h"

#include <linux/filter.h>
#include <seccomp.h> // SCMP_SYS: numbers for calls that this architecture or these headers do not have
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

// One allowed system call: whatever its arguments, or where (argument & mask) == value.
struct sandbox_rule {
	int syscall; // SCMP_SYS(name)
	const char *name;
	const char *reason; // why the program needs it
	int8_t arg;	    // index of the argument that is compared, or SANDBOX_ANY
	bool rare;	    // not part of every run: the test that looks for unused rows leaves it out
	uint16_t
		refuse; // 0: allowed; else the errno value that it fails with, for calls that programs only try
	uint64_t mask, value;
};

#define SANDBOX_ANY (-1)

// Always allowed.
#define SANDBOX_CALL(call, why) SANDBOX_ROW_(__SNR_##call, #call, why, SANDBOX_ANY, false, 0, 0)
// Allowed where (argument `index` & mask) == value.  Integer arguments narrower than a register: mask UINT32_MAX, the rest is garbage.
#define SANDBOX_CALL_IF(call, why, index, mask, value) \
	SANDBOX_ROW_(__SNR_##call, #call, why, index, false, mask, value)
// An ioctl, by its request number.
#define SANDBOX_IOCTL(request, why) SANDBOX_ROW_(__SNR_ioctl, "ioctl", why, 1, false, UINT32_MAX, request)
// The same for rows that a typical run does not use; `why` says when one does.
#define SANDBOX_RARE(call, why) SANDBOX_ROW_(__SNR_##call, #call, why, SANDBOX_ANY, true, 0, 0)
#define SANDBOX_RARE_IF(call, why, index, mask, value) \
	SANDBOX_ROW_(__SNR_##call, #call, why, index, true, mask, value)
#define SANDBOX_RARE_IOCTL(request, why) SANDBOX_ROW_(__SNR_ioctl, "ioctl", why, 1, true, UINT32_MAX, request)

// __SNR_ is what SCMP_SYS() makes; pasted above, because some C libraries define pread64 and its like as macros.
#define SANDBOX_ROW_(number, call, why, index, seldom, msk, val)                                        \
	{                                                                                               \
		.syscall = (number), .name = (call), .reason = (why), .arg = (index), .rare = (seldom), \
		.mask = (msk), .value = (val)                                                           \
	}

struct sandbox_spec {
	const char *program; // for messages
	const struct sandbox_rule *rules;
	size_t rule_count;
	uint64_t nofile;	// RLIMIT_NOFILE; above every descriptor that is open
	uint64_t address_space; // RLIMIT_AS in bytes, 0: none
	bool even_sanitized;	// tests: hold back nothing in a sanitizer build (see below)
};

// A build with sanitizers (MINIVMM_SANITIZED) leaves out, with a debug line, what their runtimes cannot live with: empty root,
// Landlock, RLIMIT_AS, seccomp.

// Everything but seccomp.  For a process with one thread, when all paths are open.  A process that did not get name spaces from
// the launcher makes its own; where the host refuses that, or the empty root, this fails with the mend in the
// sentence, or goes on with a warning if `required` is false.
int sandbox_confine(const struct sandbox_spec *s, bool required, struct err *e);

// The seccomp allow-list for the calling thread and those that it makes later: a call that is not listed kills the process.
int sandbox_filter(const struct sandbox_spec *s, struct err *e);

// sandbox_filter() in two steps, for a table that several threads load: compile once (ENOSYS and its like where the host has no
// seccomp), load on each thread (one system call, with no_new_privs set).
#define SANDBOX_FILTER_MAX 1024
struct sandbox_program {
	unsigned short count;
	struct sock_filter insn[SANDBOX_FILTER_MAX];
};
int sandbox_compile(const struct sandbox_spec *s, struct sandbox_program *out, struct err *e);
int sandbox_load(struct sandbox_program *p, struct err *e);

// The steps of sandbox_confine() that the monitor takes too (seal.c); each for the calling thread and those that it makes later.
int sandbox_drop_privileges(struct err *e); // capabilities, no_new_privs, dumpable
enum sandbox_scope { SANDBOX_SCOPE_ALL, SANDBOX_MAY_SIGNAL };
int sandbox_landlock(enum sandbox_scope scope, struct err *e); // 0 too where the kernel has no Landlock

// True where the note on sanitizer builds above applies.
bool sandbox_held_back(const struct sandbox_spec *s);

// For a process that has just been put in a new user name space: makes `uid` and `gid` (its ids outside) user and group 0, and
// no other.  0 or -errno; allocates nothing.
int sandbox_map_ids(uid_t uid, gid_t gid);

// Makes the working directory, where something is mounted, the root, and takes the old root out of sight.  For a process whose
// mounts are its own and private.  0 or -errno with what failed in *step; allocates nothing.
int sandbox_enter_root(const char **step);

// What to do about a host that refused a user name space with `error`: half a sentence.
const char *sandbox_mend(int error);

// The whole table, a row a line, as text fields with a tab between: call, condition ("-", "refused" or "arg1 & 0xffffffff == 0x1277"), "rare"
// or "-", reason; each row after `prefix`.  Behind `--print-syscalls` of device programs.
void sandbox_print(const struct sandbox_spec *s, const char *prefix, FILE *out);

#endif
