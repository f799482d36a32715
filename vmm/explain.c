// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/explain.h"

#include "vmm/base/check.h"
#include "vmm/base/landlock.h"
#include "vmm/base/virtio_pci_regs.h"
#include "vmm/explain_impl.h"
#include "vmm/seal.h"

#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void explain_field(FILE *out, const char *name, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(out, "  %-*s", EXPLAIN_COLUMN - 2, name);
	vfprintf(out, fmt, ap);
	fputc('\n', out);
	va_end(ap);
}

// A limit; nothing for PROFILE_NO_LIMIT.
static void put_size(FILE *out, const char *name, uint64_t n, const char *what)
{
	if (n == PROFILE_NO_LIMIT)
		return;
	if (n >= UINT64_C(1) << 20 && n % (UINT64_C(1) << 20) == 0)
		explain_field(out, name, "%s %" PRIu64 "M", what, n >> 20);
	else
		explain_field(out, name, "%s %" PRIu64, what, n);
}

// What a process that grants itself nothing gives up, as far as this kernel does that.
static void put_landlock(FILE *out, const char *files, bool network, bool signals)
{
	const int version = landlock_version();
	if (version == 0)
		explain_field(out, "landlock",
			      "NONE: this kernel has none (built in, it may still be missing from its lsm=)");
	else
		explain_field(out, "landlock", "%s%s%s%s", files, network && version >= 4 ? ", no TCP" : "",
			      network && version >= 6 ? ", no sockets outside" : "",
			      signals && version >= 6 ? ", no signals to the outside" : "");
}

// ---- processes -------------------------------------------------------------------------------------------------

// CLONE_NEW*, or-ed.
static void put_name_spaces(FILE *out, uint64_t flags)
{
	static const struct {
		uint64_t flag;
		const char *name;
	} kinds[] = { { CLONE_NEWUSER, "user" },    { CLONE_NEWNS, "mnt" },  { CLONE_NEWPID, "pid" },
		      { CLONE_NEWNET, "net" },	    { CLONE_NEWIPC, "ipc" }, { CLONE_NEWUTS, "uts" },
		      { CLONE_NEWCGROUP, "cgroup" } };
	struct explain_list own = { .out = out, .label = "name spaces" };
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
		if (flags & kinds[i].flag)
			explain_list_word(&own, kinds[i].name);
	explain_list_end(&own);
}

void explain_user(FILE *out, bool isolated)
{
	if (isolated)
		explain_field(out, "user", "0 inside is %u outside, group 0 is %u; there is no other",
			      geteuid(), getegid());
	else
		explain_field(out, "user", "%u, group %u", geteuid(), getegid());
}

static void print_command(FILE *out, const struct explain_device *d)
{
	explain_field(out, "program", "%s", d->program);
	fprintf(out, "  %-*s", EXPLAIN_COLUMN - 2, "arguments");
	for (unsigned i = 0; d->argv[i]; i++)
		fprintf(out, "%s%s", i ? " " : "", d->argv[i]);
	fputc('\n', out);
}

static void print_fds(FILE *out, const struct explain_device *d)
{
	explain_field(out, "fd 0", "/dev/null");
	explain_field(out, "fd 1", "/dev/null");
	explain_field(out, "fd 2", "a pipe: its lines go to the log, with %s in front", d->cfg->id);
	for (unsigned i = 0; i < d->fd_count; i++) {
		char name[16];
		snprintf(name, sizeof(name), "fd %u", SPAWN_FD_FIRST + i);
		explain_field(out, name, "%s", d->fd[i]);
	}
	if (d->opens)
		explain_field(out, "opens", "%s", d->opens);
}

static const char *why_shown(const struct profile *p, const char *path)
{
	for (unsigned i = 0; i < p->show_count; i++)
		if (strcmp(p->show[i].path, path) == 0)
			return p->show[i].why;
	return NULL;
}

static void print_shows(FILE *out, const struct jail *j, const struct profile *p)
{
	static const char *const kinds[] = {
		[SHOW_BIND] = "", [SHOW_PROC] = ", proc", [SHOW_TMPFS] = ", tmpfs"
	};
	for (unsigned i = 0; i < j->show_count; i++) {
		const struct jail_show *s = &j->show[i];
		const char *path = jail_text(j, s->to), *why = why_shown(p, path);
		explain_field(out, "sees", "%s (%s%s%s%s)%s%s", path, s->writable ? "rw" : "ro",
			      s->executable ? ", executable" : "", s->device ? ", device" : "",
			      kinds[s->kind],
			      why	      ? ": "
			      : s->executable ? ": the program and what it is linked with"
					      : "",
			      why ? why : "");
	}
}

static void print_jail(FILE *out, const struct explain_device *d, bool reasons)
{
	const struct jail *j = d->jail;
	const struct profile *p = d->profile;
	explain_field(out, "jail", "%s: %s", p->name, p->about);
	put_name_spaces(out, j->name_spaces);
	if (j->host_net)
		explain_field(out, "network", "the host's: %s", p->net_why);
	print_shows(out, j, p);
	put_size(out, "limit", 0, "core");
	put_size(out, "limit", j->nofile, "nofile");
	put_size(out, "limit", j->processes, "processes");
	put_size(out, "limit", j->address_space, "address_space");
	put_size(out, "limit", j->file_size, "file_size");
	for (unsigned i = 0; i < p->keep_count; i++)
		explain_field(out, "capability", "%s: %s", p->keep[i].name, p->keep[i].why);
	if (!p->keep_count)
		explain_field(out, "capability", "none");
	if (j->landlock)
		put_landlock(out, "nothing but what it sees", !j->host_net, !j->host_net);
	else
		explain_field(out, "landlock", "none: %s", p->landlock_why);
	if (d->cfg->learn) {
		explain_field(out, "calls", "all of them, written to %s", d->cfg->learn);
		return;
	}
	explain_field(out, "seccomp", "a call that is not listed kills it; (...) only with some arguments");
	char *text = explain_text_of_rules(p);
	if (text)
		explain_calls(out, "calls", text, "", reasons);
	free(text);
}

static void print_own(FILE *out, const struct explain_device *d, bool reasons)
{
	char *text = explain_text_of_program(d->program);
	const uint64_t nofile = explain_limit_in(text, "nofile");
	put_name_spaces(out, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
				     CLONE_NEWUTS | CLONE_NEWCGROUP);
	explain_field(out, "sees", "nothing: an empty read-only root, once it has started");
	put_size(out, "limit", 0, "core");
	// What it prints is for a socket of number 0.
	if (nofile != PROFILE_NO_LIMIT)
		put_size(out, "limit", nofile + SPAWN_FD_FIRST, "nofile");
	explain_field(out, "capability", "none");
	put_landlock(out, "nothing", true, true);
	explain_field(out, "seccomp", "a call that is not listed kills it; (...) only with some arguments");
	if (text)
		explain_calls(out, "calls", text, "", reasons);
	else
		explain_field(out, "calls", "not known: it does not print them");
	free(text);
}

static void print_cgroup(FILE *out, const struct cgroup_limits *l)
{
	put_size(out, "cgroup", l->memory ? l->memory : PROFILE_NO_LIMIT, "memory");
	put_size(out, "cgroup", l->processes ? l->processes : PROFILE_NO_LIMIT, "processes");
	if (l->cpu)
		explain_field(out, "cgroup", "cpu %u%%", l->cpu);
}

static void print_process(FILE *out, const struct vm_config *c, const struct explain_device *d, bool reasons)
{
	fprintf(out, "\nprocess %s\n", d->cfg->id);
	print_command(out, d);
	explain_user(out, d->isolated);
	explain_field(out, "memory", "all %" PRIu64 "M of the guest", c->memory >> 20);
	print_fds(out, d);
	if (d->jail)
		print_jail(out, d, reasons);
	else if (d->own)
		print_own(out, d, reasons);
	else
		explain_field(out, "jail", "NONE (sandbox = \"none\"): whatever your user may do");
	print_cgroup(out, &d->cfg->limits);
	explain_field(out, "restart", "%s", d->restart ? d->restart : d->again);
}

static void print_seal(const char *prefix, FILE *out)
{
	(void)prefix; // it has its own
	seal_print(out);
}

static void print_monitor(FILE *out, const struct vm_config *c, bool reasons)
{
	fprintf(out, "\nprocess minivmm\n");
	explain_user(out, false);
	explain_field(out, "memory", "all %" PRIu64 "M of the guest", c->memory >> 20);
	bool carries = false;
	for (unsigned i = 0; i < c->device_count; i++)
		carries |= c->devices[i].via == VIA_VFIO_USER;
	explain_field(out, "threads", "the loop, %u of vCPUs, one for each back-end that may come back%s",
		      c->cpus, carries ? ", one for what each vfio-user server asks for" : "");
	explain_field(out, "capability", "none");
	put_landlock(out, "no file", true, false);
	explain_field(out, "seccomp", "%s",
		      c->insecure ? "as below, or none where the host refuses (vm.insecure)"
				  : "a call that is not listed kills it; (...) only with some arguments");
	char *text = explain_text_of_printer(print_seal);
	if (text) {
		explain_calls(out, "calls, loop", text, "loop\t", reasons);
		explain_calls(out, "calls, vcpu", text, "vcpu\t", reasons);
		explain_calls(out, "calls, wait", text, "wait\t", reasons);
		if (carries) {
			explain_calls(out, "calls, carrier", text, "carrier\t", reasons);
			explain_calls(out, "calls, return", text, "return\t", reasons);
		}
	}
	free(text);
}

// ---- devices ---------------------------------------------------------------------------------------------------

// What of the back-end's own the guest reaches without an exit.
static void print_pages(FILE *out, const struct device_config *cfg)
{
	if (cfg->host_notifier)
		explain_field(out, "doorbells",
			      "BAR %d: the back-end's own pages, mapped by minivmm for the guest", VP_BAR);
	if (!cfg->shared_memory)
		return;
	char how[128];
	snprintf(
		how, sizeof(how),
		"BAR %d: memfds of the back-end's that cannot shrink, mapped by minivmm for the guest: at most",
		VP_SHARED_BAR);
	put_size(out, "shared", cfg->shared_memory, how);
}

static void print_device(FILE *out, const struct explain_device *d)
{
	const bool mine = d->program != NULL;
	fprintf(out, "\ndevice %s\n", d->cfg->id);
	if (d->cfg->virtio_name)
		explain_field(out, "is", "virtio %s, a PCI function", d->cfg->virtio_name);
	else
		explain_field(out, "is", "a PCI function, what it says that it is");
	explain_field(out, "interface", "%s, with %s", d->interface, d->peer);
	explain_field(out, "gives", "%s",
		      d->gives ? d->gives
			       : "data and doorbells pass the monitor by; its death is not the machine's");
	if (d->costs)
		explain_field(out, "costs", "%s", d->costs);
	else
		explain_field(
			out, "costs",
			"%s sees all of the guest's memory; an exchange may cost a vCPU 2 s when it is mute",
			mine ? "its process" : "somebody else's process, which minivmm does not jail,");
	print_pages(out, d->cfg);
	explain_field(out, "when gone", "%s", d->again);
}

static void print_choices(FILE *out, const struct explain_device *devices, unsigned count)
{
	static const char line[] = "%-12.*s  %-10s  %-13s  %-23s  %-17s  %-15s  %s\n";
	if (!count)
		return;
	fprintf(out, "\n");
	fprintf(out, line, 12, "device", "interface", "memory seen", "rings read by", "copies",
		"when that dies", "migrates");
	for (unsigned i = 0; i < count; i++) {
		const struct explain_choice *c = &devices[i].choice;
		fprintf(out, line, 12, devices[i].cfg->id, devices[i].interface, c->sees, c->reads, c->copies,
			c->death, c->migrates);
	}
}

void explain_print(const struct vm_config *c, const struct explain_device *devices, unsigned count,
		   bool reasons, FILE *out)
{
	fprintf(out, "machine %s\n", c->name);
	explain_field(out, "cpus", "%u", c->cpus);
	explain_field(out, "memory", "%" PRIu64 "M, one memfd, sealed against resizing", c->memory >> 20);
	print_choices(out, devices, count);
	for (unsigned i = 0; i < count; i++)
		print_device(out, &devices[i]);
	print_monitor(out, c, reasons);
	explain_beside(out, c, devices, count, reasons);
	for (unsigned i = 0; i < count; i++)
		if (devices[i].program)
			print_process(out, c, &devices[i], reasons);
}
