// SPDX-License-Identifier: BSD-2-Clause
//
// Tables of allowed system calls (sandbox.h) made into seccomp filters: classic BPF over struct seccomp_data (seccomp(2)).  What is not
// in a table kills the whole process; so does a call of another architecture (32-bit and x32 on x86_64).  Made where it is
// needed, some microseconds a table, since tables know what no build does: process ids, profiles, other people's devices.  That the
// filters are libseccomp's, answer by answer, is tests/unit/seccomp.c's to show.
#include "vmm/base/sandbox.h"

#include "vmm/base/check.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <string.h>
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

// ---- tables into filters ---------------------------------------------------------------------------------------

// Both store the lower half of 64 bits first.  For any other, nothing here compiles.
#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#endif

#define ROWS_MAX   SANDBOX_FILTER_MAX // each becomes an instruction at least
#define LEAF_CALLS 8   // compared one by one; the kernel tries a filter with every number when it is loaded
#define RUN_MAX	   255 // what a jump of eight bits gets over

// Rows by index: those of the common table first.
struct maker {
	const struct sandbox_spec *spec;
	struct sandbox_program *out;
	unsigned count; // instructions, also those that no longer had room
	unsigned whole_count, part_count;
	uint16_t whole[ROWS_MAX]; // without a condition, by number, one for each call
	uint16_t part[ROWS_MAX];  // with one, those of a call side by side
};

static const struct sandbox_rule *row(const struct maker *m, unsigned i)
{
	return i < ARRAY_LEN(common_rules) ? &common_rules[i] : &m->spec->rules[i - ARRAY_LEN(common_rules)];
}

static unsigned put(struct maker *m, int code, uint32_t k, unsigned jt, unsigned jf)
{
	if (m->count < SANDBOX_FILTER_MAX)
		m->out->insn[m->count] =
			(struct sock_filter)BPF_JUMP((uint16_t)code, k, (uint8_t)jt, (uint8_t)jf);
	return m->count++;
}

// From the instruction `from`, a BPF_JA, to the next one that is put.
static void land(struct maker *m, unsigned from)
{
	if (from < SANDBOX_FILTER_MAX)
		m->out->insn[from].k = m->count - from - 1;
}

// One of several values that lead to the same action, which follows the last: `after` this one come so many.
static void put_case(struct maker *m, uint32_t value, unsigned after)
{
	put(m, BPF_JMP | BPF_JEQ | BPF_K, value, after, after == 0);
}

static void put_return(struct maker *m, const struct sandbox_rule *r)
{
	put(m, BPF_RET | BPF_K, r->refuse ? SECCOMP_RET_ERRNO | r->refuse : SECCOMP_RET_ALLOW, 0, 0);
}

static void put_kill(struct maker *m)
{
	put(m, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
}

static void put_load(struct maker *m, size_t offset, uint32_t mask)
{
	put(m, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
	if (mask != UINT32_MAX)
		put(m, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
}

static bool alike(const struct sandbox_rule *a, const struct sandbox_rule *b)
{
	return a->syscall == b->syscall && a->arg == b->arg && a->mask == b->mask && a->refuse == b->refuse &&
	       a->mask <= UINT32_MAX;
}

// Rows that differ in the value only.  Where none fits: on to what follows.
static void put_run(struct maker *m, unsigned first, unsigned end)
{
	const struct sandbox_rule *r = row(m, m->part[first]);
	const size_t low = offsetof(struct seccomp_data, args) + sizeof(uint64_t) * (size_t)r->arg;
	const uint32_t high_mask = (uint32_t)(r->mask >> 32);
	put_load(m, low, (uint32_t)r->mask);
	if (high_mask) {
		put(m, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)r->value, 0, high_mask == UINT32_MAX ? 3 : 4);
		put_load(m, low + sizeof(uint32_t), high_mask);
		put_case(m, (uint32_t)(r->value >> 32), 0);
	} else {
		for (unsigned i = first; i < end; i++)
			put_case(m, (uint32_t)row(m, m->part[i])->value, end - i - 1);
	}
	put_return(m, r);
}

// All rows of the call that the one at `i` is of.  The index of the next call's.
static unsigned put_part(struct maker *m, unsigned i)
{
	const int call = row(m, m->part[i])->syscall;
	put(m, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 1, 0);
	const unsigned over = put(m, BPF_JMP | BPF_JA, 0, 0, 0);
	while (i < m->part_count && row(m, m->part[i])->syscall == call) {
		const unsigned first = i++;
		while (i < m->part_count && i - first < RUN_MAX &&
		       alike(row(m, m->part[first]), row(m, m->part[i])))
			i++;
		put_run(m, first, i);
	}
	put_kill(m);
	land(m, over);
	return i;
}

// Calls that are always allowed: halves, down to a few.
static void put_tree(struct maker *m, const uint16_t *whole, unsigned count)
{
	if (count > LEAF_CALLS) {
		const unsigned half = count / 2;
		put(m, BPF_JMP | BPF_JGE | BPF_K, (uint32_t)row(m, whole[half])->syscall, 0, 1);
		const unsigned upper = put(m, BPF_JMP | BPF_JA, 0, 0, 0);
		put_tree(m, whole, half);
		land(m, upper);
		put_tree(m, whole + half, count - half);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		put_case(m, (uint32_t)row(m, whole[i])->syscall, count - i - 1);
	if (count)
		put_return(m, row(m, whole[0]));
	put_kill(m);
}

static unsigned whole_place(const struct maker *m, int call)
{
	unsigned low = 0, high = m->whole_count;
	while (low < high) {
		const unsigned middle = (low + high) / 2;
		if (row(m, m->whole[middle])->syscall < call)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_whole(const struct maker *m, int call)
{
	const unsigned i = whole_place(m, call);
	return i < m->whole_count && row(m, m->whole[i])->syscall == call;
}

static void insert(uint16_t *list, unsigned *count, unsigned at, unsigned index)
{
	memmove(&list[at + 1], &list[at], (*count - at) * sizeof(list[0]));
	list[at] = (uint16_t)index;
	++*count;
}

// Calls that this architecture does not have are negative.
static void rows_sort(struct maker *m, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct sandbox_rule *r = row(m, i);
		if (r->syscall >= 0 && r->arg < 0 && !is_whole(m, r->syscall))
			insert(m->whole, &m->whole_count, whole_place(m, r->syscall), i);
	}
	for (unsigned i = 0; i < count; i++) {
		const struct sandbox_rule *r = row(m, i);
		if (r->syscall < 0 || r->arg < 0 || is_whole(m, r->syscall) || r->value & ~r->mask)
			continue; // nothing fits a value that the mask takes bits from
		unsigned at = m->part_count;
		while (at && row(m, m->part[at - 1])->syscall != r->syscall)
			at--;
		insert(m->part, &m->part_count, at ? at : m->part_count, i);
	}
}

// What has conditions goes first, in the order of the table: ioctl, of which a vCPU thread makes most.  Numbers are compared for
// equality with those of the table or, in the tree, end there too: none of x32 (bit 30) is among them.
static void filter_make(struct maker *m)
{
	put_load(m, offsetof(struct seccomp_data, arch), UINT32_MAX);
	put_case(m, OWN_ARCH, 1);
	put_kill(m);
	put_load(m, offsetof(struct seccomp_data, nr), UINT32_MAX);
	for (unsigned i = 0; i < m->part_count;)
		i = put_part(m, i);
	unsigned allowed = 0;
	for (unsigned i = 0; i < m->whole_count; i++) {
		const struct sandbox_rule *r = row(m, m->whole[i]);
		if (!r->refuse) {
			m->whole[allowed++] = m->whole[i];
			continue;
		}
		put_case(m, (uint32_t)r->syscall, 0);
		put_return(m, r);
	}
	put_tree(m, m->whole, allowed);
}

int sandbox_compile(const struct sandbox_spec *s, struct sandbox_program *out, struct err *e)
{
	const uint32_t action = SECCOMP_RET_KILL_PROCESS;
	const size_t rows = ARRAY_LEN(common_rules) + s->rule_count;
	struct maker m;
	out->count = 0;
	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0)
		return err_sys(e, errno, "sandbox: no seccomp on this host");
	m.spec = s;
	m.out = out;
	m.count = m.whole_count = m.part_count = 0;
	if (rows <= ROWS_MAX) {
		rows_sort(&m, (unsigned)rows);
		filter_make(&m);
	}
	if (rows > ROWS_MAX || m.count > SANDBOX_FILTER_MAX)
		return err_sys(e, E2BIG, "sandbox: compile the seccomp filter of %s", s->program);
	out->count = (unsigned short)m.count;
	return 0;
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
			snprintf(condition, sizeof(condition), "arg%d & %#" PRIx64 " == %#" PRIx64 "%s",
				 r->arg, r->mask, r->value, r->refuse ? " refused" : "");
		fprintf(out, "%s%s\t%s\t%s\t%s\n", prefix, r->name, condition, r->rare ? "rare" : "-",
			r->reason);
	}
}

void sandbox_print(const struct sandbox_spec *s, const char *prefix, FILE *out)
{
	rules_print(common_rules, ARRAY_LEN(common_rules), prefix, out);
	rules_print(s->rules, s->rule_count, prefix, out);
}
