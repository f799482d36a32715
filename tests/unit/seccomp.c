// SPDX-License-Identifier: BSD-2-Clause
// Our filters beside those that libseccomp makes of the same tables, both run here: for every number of a system call, and for
// arguments that fit, nearly fit, and have rubbish in the bits that a row does not look at, they must say the same.
#include "vmm/base/sandbox.h"

#include "tests/unit/test.h"
#include "vmm/base/arena.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/explain_impl.h"
#include "vmm/jail_profile.h"
#include "vmm/seal.h"
#include "vmm/syscall_name.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS	    1024
#define LIB_MAX	    4096 // instructions, the kernel's limit
#define NUMBERS_MAX 640	 // above every number of a call
#define X32	    0x40000000U

struct program {
	unsigned count;
	struct sock_filter insn[LIB_MAX];
};

// ---- the kernel's part -----------------------------------------------------------------------------------------

static uint32_t load(const struct seccomp_data *d, uint32_t offset)
{
	uint32_t v;
	if (offset % 4 || offset > sizeof(*d) - sizeof(v))
		abort();
	memcpy(&v, (const char *)d + offset, sizeof(v));
	return v;
}

// What seccomp answers; anything that the kernel would not load, or leaves the program, aborts.
static uint32_t run(const struct sock_filter *insn, unsigned count, const struct seccomp_data *d)
{
	uint32_t a = 0;
	for (unsigned pc = 0; pc < count; pc++) {
		const struct sock_filter *i = &insn[pc];
		bool taken;
		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			a = load(d, i->k);
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= i->k;
			continue;
		case BPF_RET | BPF_K:
			return i->k;
		case BPF_JMP | BPF_JA:
			if (i->k >= count - pc)
				abort();
			pc += i->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			taken = a == i->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			taken = a >= i->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			taken = a > i->k;
			break;
		default:
			abort();
		}
		pc += taken ? i->jt : i->jf;
	}
	abort();
}

// ---- libseccomp's part -----------------------------------------------------------------------------------------

static int lib_rule(scmp_filter_ctx ctx, const struct sandbox_rule *r)
{
	const struct scmp_arg_cmp cmp = { .arg = r->arg < 0 ? 0 : (unsigned)r->arg,
					  .op = SCMP_CMP_MASKED_EQ,
					  .datum_a = r->mask,
					  .datum_b = r->value };
	const int rc = seccomp_rule_add_array(ctx, r->refuse ? SCMP_ACT_ERRNO(r->refuse) : SCMP_ACT_ALLOW,
					      r->syscall, r->arg < 0 ? 0 : 1, r->arg < 0 ? NULL : &cmp);
	return rc == -EEXIST ? 0 : rc;
}

static bool lib_compile(const struct sandbox_rule *rules, size_t count, struct program *out)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	FD_AUTO to = memfd_create("filter", MFD_CLOEXEC);
	bool good =
		ctx && to >= 0 && seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) == 0;
	for (size_t i = 0; good && i < count; i++)
		good = lib_rule(ctx, &rules[i]) == 0;
	good = good && seccomp_export_bpf(ctx, to) == 0;
	const ssize_t n = good ? pread(to, out->insn, sizeof(out->insn), 0) : -1;
	seccomp_release(ctx);
	out->count = n > 0 ? (unsigned)n / sizeof(out->insn[0]) : 0;
	return out->count > 0;
}

// ---- tables as they are printed --------------------------------------------------------------------------------

struct table {
	char text[1 << 16];
	unsigned count;
	struct sandbox_rule rule[ROWS];
};

// Rows of sandbox_print() behind `prefix`, common ones among them.  A refusal's number is not printed: any will do.
static bool table_read(struct table *t, const char *prefix)
{
	const size_t len = strlen(prefix);
	char *next = t->text;
	t->count = 0;
	for (char *line; (line = strsep(&next, "\n"));) {
		if (strncmp(line, prefix, len) != 0 || strncmp(line + len, "limit\t", 6) == 0)
			continue;
		char *rest = line + len, *call = strsep(&rest, "\t"), *condition = strsep(&rest, "\t");
		strsep(&rest, "\t");
		if (!rest || strchr(rest, '\t'))
			continue; // of another prefix
		unsigned arg;
		unsigned long long mask, value;
		struct sandbox_rule r = { .syscall = seccomp_syscall_resolve_name(call),
					  .name = call,
					  .reason = rest,
					  .arg = SANDBOX_ANY };
		if (r.syscall == __NR_SCMP_ERROR || t->count == ROWS)
			return false;
		if (strcmp(condition, "refused") == 0) {
			r.refuse = ENOSYS;
		} else if (sscanf(condition, "arg%u & %llx == %llx", &arg, &mask, &value) == 3) {
			r.arg = (int8_t)arg;
			r.mask = mask;
			r.value = value;
		} else if (strcmp(condition, "-") != 0) {
			return false;
		}
		t->rule[t->count++] = r;
	}
	return t->count > 0;
}

static bool table_of(struct table *t, const struct sandbox_spec *spec)
{
	FILE *f = fmemopen(t->text, sizeof(t->text), "w");
	sandbox_print(spec, "", f);
	return fclose(f) == 0 && table_read(t, "");
}

// ---- the comparison --------------------------------------------------------------------------------------------

struct pair {
	struct sandbox_program ours;
	struct program lib;
	unsigned long compared, allowed;
};

static bool same(struct pair *p, const struct seccomp_data *d)
{
	const uint32_t a = run(p->ours.insn, p->ours.count, d), b = run(p->lib.insn, p->lib.count, d);
	p->compared++;
	p->allowed += a == SECCOMP_RET_ALLOW;
	if (a == b)
		return true;
	printf("call %#x of %#x, arguments %#llx %#llx %#llx: %#x, libseccomp's %#x\n", (unsigned)d->nr,
	       d->arch, d->args[0], d->args[1], d->args[2], a, b);
	return false;
}

static bool same_numbers(struct pair *p, struct seccomp_data d)
{
	for (unsigned n = 0; n < NUMBERS_MAX; n++) {
		const unsigned numbers[] = { n, X32 | n, X32 - 1 - n, UINT32_MAX - n, 1U << 31 | n };
		for (unsigned i = 0; i < ARRAY_LEN(numbers); i++) {
			d.nr = (int)numbers[i];
			if (!same(p, &d))
				return false;
		}
	}
	return true;
}

// Around one row: its value, every bit of it wrong, rubbish where the mask does not look; all else zeros or ones.
static bool same_row(struct pair *p, struct seccomp_data d, const struct sandbox_rule *r)
{
	d.nr = r->syscall;
	for (unsigned ones = 0; ones < 2; ones++) {
		const uint64_t fits = r->value | (ones ? ~r->mask : 0);
		memset(d.args, ones ? 0xff : 0, sizeof(d.args));
		if (r->arg < 0)
			return same(p, &d);
		d.args[r->arg] = fits;
		if (!same(p, &d))
			return false;
		for (unsigned bit = 0; bit < 64; bit++) {
			d.args[r->arg] = fits ^ UINT64_C(1) << bit;
			if (!same(p, &d))
				return false;
		}
	}
	return true;
}

static bool same_answers(struct pair *p, const struct sandbox_rule *rules, unsigned count)
{
	static const uint32_t architectures[] = { AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64,
						  AUDIT_ARCH_ARM, 0 };
	for (unsigned i = 0; i < ARRAY_LEN(architectures); i++) {
		struct seccomp_data d = { .arch = architectures[i], .instruction_pointer = UINT64_MAX };
		if (!same_numbers(p, d))
			return false;
		for (unsigned j = 0; j < count; j++)
			if (!same_row(p, d, &rules[j]))
				return false;
	}
	return true;
}

// True if what sandbox_compile() makes of common rules and `rules` is what libseccomp makes of them.  `all` has the common ones, too.
static bool table_same(const struct sandbox_rule *rules, unsigned count, const struct table *all)
{
	static struct pair p;
	const struct sandbox_spec spec = { .program = "test", .rules = rules, .rule_count = count };
	struct err e = { "" };
	p.compared = p.allowed = 0;
	if (sandbox_compile(&spec, &p.ours, &e) < 0 || !lib_compile(all->rule, all->count, &p.lib)) {
		printf("%s: %u instructions, libseccomp's %u\n", e.text, p.ours.count, p.lib.count);
		return false;
	}
	return same_answers(&p, all->rule, all->count) && p.allowed > 0 && p.allowed < p.compared;
}

// ---- tests -----------------------------------------------------------------------------------------------------

static struct table table, common;

TEST(the_monitor_s_tables)
{
	static const char *const threads[] = { "loop\t", "vcpu\t", "wait\t", "carrier\t" };
	for (unsigned i = 0; i < ARRAY_LEN(threads); i++) {
		FILE *f = fmemopen(table.text, sizeof(table.text), "w");
		seal_print(f);
		fclose(f);
		CHECK(table_read(&table, threads[i]) && table.count > 20);
		CHECK(table_same(table.rule, table.count, &table));
	}
}

TEST(the_devices_tables)
{
	static const char *const programs[] = { "blk",	       "console", "net",    "nvme",
						"pci-example", "rng",	  "switch", "vsock" };
	static const char *const prefixes[] = { "", "keeper\t" };
	for (unsigned i = 0; i < ARRAY_LEN(programs) * ARRAY_LEN(prefixes); i++) {
		char path[256];
		const char *top = getenv("O");
		snprintf(path, sizeof(path), "%s/minivmm-%s", top ? top : "build/asan",
			 programs[i / ARRAY_LEN(prefixes)]);
		char *text = explain_text_of_program(path);
		CHECK(text != NULL);
		snprintf(table.text, sizeof(table.text), "%s", text);
		free(text);
		CHECK(table_read(&table, prefixes[i % ARRAY_LEN(prefixes)]));
		CHECK(table_same(table.rule, table.count, &table));
	}
}

// Their refusals have their own numbers here.
TEST(the_profiles_tables)
{
	static struct profile p;
	for (const char *const *name = profile_names; *name; name++) {
		struct arena a = { 0 };
		struct err e = { "" };
		const struct sandbox_spec none = { .program = "none" };
		const bool good = profile_read(&p, &a, *name, &e) == 0 && table_of(&table, &none) &&
				  table.count + p.rule_count <= ROWS;
		if (good)
			memcpy(&table.rule[table.count], p.rules, p.rule_count * sizeof(p.rules[0]));
		table.count += good ? p.rule_count : 0;
		const bool equal = good && table_same(p.rules, p.rule_count, &table);
		arena_free(&a);
		if (!equal)
			printf("%s: %s\n", *name, e.text);
		CHECK(equal);
	}
}

static uint64_t seed = 1;
static unsigned chance(unsigned below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)((seed >> 11) % below);
}

// A refusal is one for good here: libseccomp goes by an order of its own where rows with different actions fit the same arguments.
static struct sandbox_rule any_row(unsigned calls)
{
	static const uint64_t masks[] = { UINT32_MAX,	     UINT64_MAX, 0xff, UINT64_C(0xff00ff0000),
					  UINT64_C(1) << 63, 1 };
	struct sandbox_rule r = { .syscall = (int)chance(calls) * 3, .name = "any", .arg = SANDBOX_ANY };
	if (r.syscall % 4 == 0)
		r.syscall = -r.syscall - 10000; // a call that this architecture does not have
	if (r.syscall % 7 == 0 && r.syscall > 7) {
		r.refuse = (uint16_t)(1 + r.syscall % 90);
	} else if (chance(2)) {
		r.arg = (int8_t)chance(6);
		r.mask = masks[chance(ARRAY_LEN(masks))];
		r.value = (seed ^ seed << 7) & r.mask;
	}
	return r;
}

TEST(tables_by_chance)
{
	const struct sandbox_spec none = { .program = "none" };
	CHECK(table_of(&common, &none));
	for (unsigned round = 0; round < 60; round++) {
		static struct table all;
		const unsigned count = 1 + chance(120), calls = 1 + chance(170);
		memcpy(all.rule, common.rule, common.count * sizeof(common.rule[0]));
		for (unsigned i = 0; i < count; i++)
			all.rule[common.count + i] = any_row(calls);
		all.count = common.count + count;
		if (!table_same(&all.rule[common.count], count, &all)) {
			printf("round %u\n", round);
			CHECK(false);
		}
	}
}

// What comes after a row of all arguments, and many values, which are more than one jump gets over.
TEST(many_values_of_one_argument)
{
	static struct sandbox_rule many[600];
	static struct table all;
	const struct sandbox_spec none = { .program = "none" };
	for (unsigned i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (struct sandbox_rule)SANDBOX_IOCTL(i * 7, "one of many");
	CHECK(table_of(&all, &none));
	memcpy(&all.rule[all.count], many, sizeof(many));
	all.count += ARRAY_LEN(many);
	CHECK(table_same(many, ARRAY_LEN(many), &all));
}

TEST(a_value_that_the_mask_takes_bits_from_fits_nothing)
{
	static const struct sandbox_rule rules[] = {
		SANDBOX_CALL_IF(dup, "never", 0, 0xf, 0x1f),
		SANDBOX_CALL_IF(dup, "nor this", 0, UINT32_MAX, UINT64_C(0x100000001)),
	};
	const struct sandbox_spec spec = { .program = "test",
					   .rules = rules,
					   .rule_count = ARRAY_LEN(rules) };
	static struct sandbox_program p;
	struct err e = { "" };
	CHECK_EQ(sandbox_compile(&spec, &p, &e), 0);
	struct seccomp_data d = { .arch = AUDIT_ARCH_X86_64, .nr = SCMP_SYS(dup) };
	for (d.args[0] = 0; d.args[0] < 64; d.args[0]++)
		CHECK_EQ(run(p.insn, p.count, &d), SECCOMP_RET_KILL_PROCESS);
	d.args[0] = rules[1].value;
	CHECK_EQ(run(p.insn, p.count, &d), SECCOMP_RET_KILL_PROCESS);
}

// ---- names -----------------------------------------------------------------------------------------------------

TEST(names_are_libseccomp_s)
{
	unsigned known = 0;
	int number;
	for (int nr = 0; nr < NUMBERS_MAX; nr++) {
		char *theirs = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, nr);
		const char *ours = syscall_name(nr);
		const bool same_name = theirs ? ours && strcmp(ours, theirs) == 0 : !ours;
		const bool back = !theirs || (syscall_number(theirs, &number) && number == nr);
		if (!same_name || !back)
			printf("%d: %s, libseccomp's %s\n", nr, ours ? ours : "-", theirs ? theirs : "-");
		known += theirs != NULL;
		free(theirs);
		CHECK(same_name && back);
	}
	CHECK(known > 300);
	CHECK(syscall_number("socketcall", &number) && number == seccomp_syscall_resolve_name("socketcall"));
	CHECK(!syscall_number("opn", &number) && !syscall_number("", &number));
}
