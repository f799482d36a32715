// SPDX-License-Identifier: BSD-2-Clause
// What the walls look like from inside, and what happens where the host does not give one.  Ways out are tests/fault/sandbox_escape.c's.
#include "vmm/base/sandbox.h"

#include "tests/unit/child.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(read, "any"),
	SANDBOX_CALL_IF(getpriority, "arguments that are compared", 0, UINT32_MAX, PRIO_PROCESS),
	SANDBOX_CALL_IF(getpriority, "arguments that are compared", 0, UINT32_MAX, PRIO_USER),
	SANDBOX_RARE_IF(prctl, "64 bits", 0, UINT64_MAX, PR_GET_DUMPABLE),
	SANDBOX_CALL_IF(lseek, "some bits", 1, 0xf0, 0x20),
	SANDBOX_CALL_IF(dup, "a condition that another row lifts", 0, UINT32_MAX, 77),
	SANDBOX_CALL(dup, "always"),
};
static const struct sandbox_spec spec = {
	.program = "test",
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.nofile = 40,
	.even_sanitized = true,
};

// _exit() asks for an alternate stack under AddressSanitizer, which the filter would not let it.
_Noreturn static void leave(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}

// ---- tables ----------------------------------------------------------------------------------------------------

static long (*filtered_call)(void);
static int filtered(void)
{
	struct err e;
	if (sandbox_drop_privileges(&e) < 0 || sandbox_filter(&spec, &e) < 0)
		return 1;
	filtered_call();
	leave(0);
}

static int outcome(long (*call)(void))
{
	filtered_call = call;
	return in_fork(filtered);
}

#define KILLED (1000 + SIGSYS)

static long call_read(void)
{
	return syscall(SYS_read, -1, NULL, 0);
}
static long call_unlisted(void)
{
	return syscall(SYS_getppid);
}
static long call_equal(void)
{
	return syscall(SYS_getpriority, PRIO_PROCESS, 0);
}
static long call_equal_too(void)
{
	return syscall(SYS_getpriority, PRIO_USER, 0);
}
static long call_unequal(void)
{
	return syscall(SYS_getpriority, PRIO_PGRP, 0);
}
static long call_high_bits(void)
{
	return syscall(SYS_getpriority, UINT64_C(0xabcdef0000000000) | PRIO_USER, 0);
}
static long call_wide(void)
{
	return syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0);
}
static long call_wide_high_bits(void)
{
	return syscall(SYS_prctl, UINT64_C(0x100000000) | PR_GET_DUMPABLE, 0, 0, 0);
}
static long call_bits(void)
{
	return syscall(SYS_lseek, -1, 0xf2f, 0);
}
static long call_bits_wrong(void)
{
	return syscall(SYS_lseek, -1, 0xf3f, 0);
}
static long call_lifted(void)
{
	return syscall(SYS_dup, -1);
}
static long call_common(void)
{
	return syscall(SYS_write, 2, "", 0);
}
static long call_common_wrong(void)
{
	return syscall(SYS_write, 1, "", 0);
}

TEST(rules_mean_what_they_say)
{
	CHECK_EQ(outcome(call_read), 0);
	CHECK_EQ(outcome(call_unlisted), KILLED);
	CHECK_EQ(outcome(call_equal), 0);
	CHECK_EQ(outcome(call_equal_too), 0);
	CHECK_EQ(outcome(call_unequal), KILLED);
	CHECK_EQ(outcome(call_high_bits), 0);
	CHECK_EQ(outcome(call_wide), 0);
	CHECK_EQ(outcome(call_wide_high_bits), KILLED);
	CHECK_EQ(outcome(call_bits), 0);
	CHECK_EQ(outcome(call_bits_wrong), KILLED);
	CHECK_EQ(outcome(call_lifted), 0);
	CHECK_EQ(outcome(call_common), 0);
	CHECK_EQ(outcome(call_common_wrong), KILLED);
}

TEST(one_compiled_table_loads_more_than_once)
{
	static struct sandbox_program p;
	struct err e = { "" };
	uint64_t before = fds_open();
	CHECK_EQ(sandbox_compile(&spec, &p, &e), 0);
	CHECK_EQ(fds_open(), before);
	CHECK(p.count > 10);
	struct sandbox_program again;
	CHECK_EQ(sandbox_compile(&spec, &again, &e), 0);
	CHECK_EQ(p.count, again.count);
	CHECK(memcmp(p.insn, again.insn, p.count * sizeof(p.insn[0])) == 0);
}

TEST(a_table_that_is_too_large_is_refused)
{
	static struct sandbox_program p;
	static struct sandbox_rule many[SANDBOX_FILTER_MAX];
	struct err e = { "" };
	for (unsigned i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (struct sandbox_rule)SANDBOX_IOCTL(i, "one of many");
	const struct sandbox_spec large = { .program = "test", .rules = many, .rule_count = ARRAY_LEN(many) };
	CHECK_EQ(-sandbox_compile(&large, &p, &e), E2BIG);
	CHECK_STR(e.text, "sandbox: compile the seccomp filter of test: Argument list too long");
}

TEST(a_table_is_printed)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	sandbox_print(&spec, "x\t", f);
	fclose(f);
	bool good = strstr(text, "x\texit_group\t-\t-\t") && strstr(text, "\nx\tread\t-\t-\tany\n") &&
		    strstr(text, "\nx\tprctl\targ0 & 0xffffffffffffffff == 0x3\trare\t64 bits\n");
	if (!good)
		printf("%s", text);
	free(text);
	CHECK(good);
}

// ---- inside ----------------------------------------------------------------------------------------------------

#define REQUIRE(cond)                                                                                 \
	do {                                                                                          \
		if (!(cond)) {                                                                        \
			printf("%s:%d: %s: not true: %s (%s)\n", __FILE__, __LINE__, __func__, #cond, \
			       strerror(errno));                                                      \
			return 1;                                                                     \
		}                                                                                     \
	} while (0)

static bool no_capability(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	memset(data, 0xff, sizeof(data));
	return syscall(SYS_capget, &header, data) == 0 &&
	       !(data[0].effective | data[0].permitted | data[0].inheritable | data[1].effective |
		 data[1].permitted | data[1].inheritable);
}

static int privileges_gone(bool bounding_too)
{
	REQUIRE(no_capability());
	REQUIRE(prctl(PR_GET_NO_NEW_PRIVS, 0L, 0L, 0L, 0L) == 1);
	REQUIRE(prctl(PR_GET_DUMPABLE) == 0);
	for (unsigned long cap = 0; bounding_too && prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		REQUIRE(prctl(PR_CAPBSET_READ, cap) == 0);
	return 0;
}

static int confined(void)
{
	struct err e = { "" };
	struct rlimit files, core, space;
	struct sandbox_spec s = spec;
	s.address_space = 1; // what is mapped already stays
	int event = eventfd(0, EFD_NONBLOCK), death = 0;
	REQUIRE(prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL) == 0);
	if (sandbox_confine(&s, true, &e) < 0) {
		printf("%s\n", e.text);
		return 2;
	}
	REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max == 40);
	REQUIRE(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0);
	REQUIRE(getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_max == 1);
	REQUIRE(prctl(PR_GET_PDEATHSIG, &death) == 0 && death == SIGKILL);
	REQUIRE(open("/", O_RDONLY | O_DIRECTORY) < 0);
	REQUIRE(open("/etc/passwd", O_RDONLY) < 0);
	REQUIRE(open("../../etc/passwd", O_RDONLY) < 0);
	fd_event_signal(event); // what was open goes on working
	REQUIRE(fd_event_take(event));
	return privileges_gone(true);
}

TEST(a_confined_process)
{
	CHECK_EQ(in_fork(confined), 0);
}

// ---- hosts that refuse something -------------------------------------------------------------------------------

// From here on this process, as on a host that lacks it, gets `error` for `call`.
static bool host_lacks(int call, int error)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	bool good = ctx && seccomp_rule_add(ctx, SCMP_ACT_ERRNO((unsigned)error), call, 0) == 0 &&
		    seccomp_load(ctx) == 0;
	seccomp_release(ctx);
	return good;
}

static int lacking_call, lacking_error;
static const char *expected_error;
static int confine_where_it_lacks(void)
{
	struct err e = { "" };
	REQUIRE(host_lacks(lacking_call, lacking_error));
	int rc = sandbox_confine(&spec, true, &e);
	if (rc == 0)
		rc = sandbox_filter(&spec, &e);
	if (rc >= 0)
		leave(expected_error ? 3 : 0);
	if (!expected_error || strcmp(e.text, expected_error) != 0) {
		printf("%s\n", e.text);
		return 4;
	}
	return rc == -lacking_error ? 0 : 5;
}

static int refused(int call, int error, const char *sentence)
{
	lacking_call = call;
	lacking_error = error;
	expected_error = sentence;
	return in_fork(confine_where_it_lacks);
}

TEST(refusals_of_the_host_are_told)
{
	CHECK_EQ(refused(SCMP_SYS(unshare), EPERM,
			 "sandbox: make name spaces: Operation not permitted "
			 "(a chroot, container or security module around this process forbids them)"),
		 0);
	CHECK_EQ(refused(SCMP_SYS(unshare), ENOSPC,
			 "sandbox: make name spaces: No space left on device "
			 "(raise sysctl user.max_user_namespaces)"),
		 0);
	CHECK_EQ(refused(SCMP_SYS(unshare), EINVAL,
			 "sandbox: make name spaces: Invalid argument "
			 "(this kernel is built without user name spaces)"),
		 0);
	CHECK_EQ(refused(SCMP_SYS(mount), EACCES, "sandbox: make mounts private: Permission denied"), 0);
	CHECK_EQ(refused(SCMP_SYS(pivot_root), EPERM, "sandbox: pivot_root: Operation not permitted"), 0);
	CHECK_EQ(refused(SCMP_SYS(umount2), EPERM, "sandbox: detach the old root: Operation not permitted"),
		 0);
	CHECK_EQ(refused(SCMP_SYS(capset), EPERM, "sandbox: drop capabilities: Operation not permitted"), 0);
	CHECK_EQ(refused(SCMP_SYS(landlock_restrict_self), E2BIG,
			 "sandbox: enforce Landlock: Argument list too long"),
		 0);
	CHECK_EQ(refused(SCMP_SYS(seccomp), ENOSYS,
			 "sandbox: no seccomp on this host: Function not implemented"),
		 0);
}

TEST(a_filter_that_the_kernel_does_not_take)
{
	struct sandbox_program empty = { 0 };
	struct err e = { "" };
	CHECK_EQ(-sandbox_load(&empty, &e), EINVAL);
	CHECK_STR(e.text, "sandbox: load the seccomp filter: Invalid argument");
}

TEST(landlock_may_be_absent)
{
	CHECK_EQ(refused(SCMP_SYS(landlock_create_ruleset), ENOSYS, NULL), 0);
	CHECK_EQ(refused(SCMP_SYS(landlock_create_ruleset), EOPNOTSUPP, NULL), 0);
}

// As where the root file system is the initramfs.
static int confined_without_pivot_root(void)
{
	REQUIRE(host_lacks(SCMP_SYS(pivot_root), EINVAL));
	return confined();
}

TEST(a_root_that_cannot_be_pivoted_is_buried)
{
	CHECK_EQ(in_fork(confined_without_pivot_root), 0);
}

static int insecure_where_unshare_is_refused(void)
{
	struct err e = { "" };
	REQUIRE(host_lacks(SCMP_SYS(unshare), EPERM));
	capture();
	int rc = sandbox_confine(&spec, false, &e);
	const char *log = captured();
	REQUIRE(rc == 0);
	REQUIRE(strstr(log, "running without a private root: sandbox: make name spaces: ") != NULL);
	REQUIRE(strchr(log, '\n') == strrchr(log, '\n'));
	return privileges_gone(geteuid() == 0);
}

TEST(insecure_goes_on_with_what_there_is)
{
	CHECK_EQ(in_fork(insecure_where_unshare_is_refused), 0);
}

// ---- sanitizer builds ------------------------------------------------------------------------------------------

static int held_back(void)
{
	struct err e = { "" };
	struct sandbox_spec s = spec;
	s.even_sanitized = false;
	REQUIRE(sandbox_confine(&s, true, &e) == 0 && sandbox_filter(&s, &e) == 0);
	syscall(SYS_getppid);
	return 0;
}

TEST(sanitizer_builds_hold_back_and_others_do_not)
{
#ifdef MINIVMM_SANITIZED
	CHECK_EQ(in_fork(held_back), 0);
#else
	CHECK_EQ(in_fork(held_back), KILLED);
#endif
}
