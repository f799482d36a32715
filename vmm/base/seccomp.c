// SPDX-License-Identifier: BSD-2-Clause
//
// Tables of allowed system calls (sandbox.h) made into seccomp filters by libseccomp.  What is not in a table kills the whole
// process; so does a call of another architecture (32-bit and x32 on x86_64).
#include "vmm/base/sandbox.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/seccomp.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

// What every program needs, whatever it does: the C library's part, and that of log.c.
static const struct sandbox_rule common_rules[] = {
	SANDBOX_CALL(exit_group, "the end"),
	SANDBOX_CALL_IF(write, "log lines", 0, UINT32_MAX, STDERR_FILENO),
	SANDBOX_CALL(poll, "does the log pipe take a line now?"),
	SANDBOX_RARE(ppoll, "poll(2) where the architecture has no call of that name"),
	SANDBOX_RARE(rt_sigreturn, "back from a signal handler"),
	SANDBOX_RARE(restart_syscall, "the kernel resumes a timed wait after SIGSTOP and SIGCONT"),
	SANDBOX_RARE(clock_gettime, "hosts whose clock the vDSO cannot read"),
};

static int rule_add(scmp_filter_ctx ctx, const struct sandbox_rule *r)
{
	struct scmp_arg_cmp cmp = {
		.arg = r->arg < 0 ? 0 : (unsigned)r->arg,
		.op = SCMP_CMP_MASKED_EQ,
		.datum_a = r->mask,
		.datum_b = r->value,
	};
	int rc = seccomp_rule_add_array(ctx, r->refuse ? SCMP_ACT_ERRNO(r->refuse) : SCMP_ACT_ALLOW,
					r->syscall, r->arg < 0 ? 0 : 1, r->arg < 0 ? NULL : &cmp);
	return rc == -EEXIST ? 0 : rc; // two rows that say the same
}

static int rules_add(scmp_filter_ctx ctx, const char *program, const struct sandbox_rule *rules, size_t count,
		     struct err *e)
{
	for (size_t i = 0; i < count; i++) {
		int rc = rule_add(ctx, &rules[i]);
		if (rc < 0)
			return err_sys(e, -rc, "sandbox: table of %s: allow %s", program, rules[i].name);
	}
	return 0;
}

// libseccomp 2.5 writes the finished filter to a descriptor only.  The kernel takes at most 4096 instructions of 8 bytes,
// which a new pipe holds (64 KiB) without anybody reading.
static int program_export(scmp_filter_ctx ctx, struct sandbox_program *out)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	FD_AUTO from = ends[0];
	FD_AUTO to = ends[1];
	int rc = seccomp_export_bpf(ctx, to);
	if (rc < 0)
		return rc;
	fd_close(&to);
	char more;
	ssize_t n = read(from, out->insn, sizeof(out->insn));
	if (n <= 0 || (size_t)n % sizeof(out->insn[0]) != 0 || read(from, &more, 1) != 0)
		return -E2BIG;
	out->count = (unsigned short)((size_t)n / sizeof(out->insn[0]));
	return 0;
}

int sandbox_compile(const struct sandbox_spec *s, struct sandbox_program *out, struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return err_set(e, ENOSYS, "sandbox: no seccomp on this host");
	int rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (rc < 0) {
		err_sys(e, -rc, "sandbox: seccomp: refuse other architectures");
		goto out;
	}
	rc = rules_add(ctx, s->program, common_rules, ARRAY_LEN(common_rules), e);
	if (rc == 0)
		rc = rules_add(ctx, s->program, s->rules, s->rule_count, e);
	if (rc < 0)
		goto out;
	rc = program_export(ctx, out);
	if (rc < 0)
		err_sys(e, -rc, "sandbox: compile the seccomp filter of %s", s->program);
out:
	seccomp_release(ctx);
#ifdef __GLIBC__
	malloc_trim(0); // tens of kB that are not needed again
#endif
	return rc;
}

int sandbox_load(struct sandbox_program *p, struct err *e)
{
	const struct sock_fprog prog = { .len = p->count, .filter = p->insn };
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		return err_sys(e, errno, "sandbox: load the seccomp filter");
	return 0;
}

int sandbox_filter(const struct sandbox_spec *s, struct err *e)
{
	if (sandbox_held_back(s))
		return 0;
	struct sandbox_program p = { 0 };
	int rc = sandbox_compile(s, &p, e);
	return rc < 0 ? rc : sandbox_load(&p, e);
}

static void rules_print(const struct sandbox_rule *rules, size_t count, const char *prefix, FILE *out)
{
	for (size_t i = 0; i < count; i++) {
		const struct sandbox_rule *r = &rules[i];
		char condition[64];
		snprintf(condition, sizeof(condition), "%s", r->refuse ? "refused" : "-");
		if (r->arg >= 0)
			snprintf(condition, sizeof(condition), "arg%d & %#" PRIx64 " == %#" PRIx64, r->arg,
				 r->mask, r->value);
		fprintf(out, "%s%s\t%s\t%s\t%s\n", prefix, r->name, condition, r->rare ? "rare" : "-",
			r->reason);
	}
}

void sandbox_print(const struct sandbox_spec *s, const char *prefix, FILE *out)
{
	rules_print(common_rules, ARRAY_LEN(common_rules), prefix, out);
	rules_print(s->rules, s->rule_count, prefix, out);
}
