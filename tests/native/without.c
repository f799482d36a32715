// SPDX-License-Identifier: BSD-2-Clause
// Runs a program as on a kernel without a system call, which then fails with ENOSYS, for it and all that it starts:
//
//	without CALL PROGRAM [ARGUMENT]...
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const int call = argc < 3 ? __NR_SCMP_ERROR : seccomp_syscall_resolve_name(argv[1]);
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	if (call == __NR_SCMP_ERROR || !filter ||
	    seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), call, 0) < 0 || seccomp_load(filter) < 0) {
		fprintf(stderr, "usage: without CALL PROGRAM [ARGUMENT]...\n");
		return 2;
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
