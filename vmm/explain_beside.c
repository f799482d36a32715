// SPDX-License-Identifier: BSD-2-Clause
//
// The small processes of `minivmm explain`, each there for one thing that a sealed process cannot do itself.
#include "vmm/explain_impl.h"

#include "vmm/base/fd.h"
#include "vmm/base/socket_file.h"
#include "vmm/cgroup.h"
#include "vmm/jail_keeper.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static void print_calls(FILE *out, char *text, const char *prefix, bool reasons)
{
	explain_field(out, "seccomp", "a call that is not listed kills it; (...) only with some arguments");
	if (text)
		explain_calls(out, "calls", text, prefix, reasons);
}

static void print_spawner(FILE *out, const struct vm_config *c, const struct explain_device *devices,
			  unsigned count)
{
	bool needed = false;
	for (unsigned i = 0; i < count; i++)
		needed |= devices[i].needs_spawner;
	if (!needed)
		return;
	fprintf(out, "\nprocess spawner\n");
	explain_user(out, false);
	explain_field(out, "memory", "none of the guest's");
	explain_field(out, "does",
		      "starts or connects again, on one byte from the monitor and nothing else:");
	for (unsigned i = 0; i < count; i++)
		if (devices[i].needs_spawner)
			explain_field(out, "", "%s: %s", devices[i].cfg->id,
				      devices[i].program ? devices[i].program : devices[i].peer);
	explain_field(out, "holds", "/dev/null, standard error, sockets to minivmm%s, a watch on folders",
		      jail_keeper_needed(c) ? " and to the keeper of what it starts" : "");
	for (unsigned i = 0; i < count; i++) {
		if (!devices[i].needs_spawner)
			continue;
		for (unsigned j = 1; j < devices[i].fd_count; j++)
			explain_field(out, "holds", "%s", devices[i].fd[j]);
		if (cgroup_limits_any(&devices[i].cfg->limits))
			explain_field(out, "holds", "the cgroup of %s, to start it in", devices[i].cfg->id);
	}
	explain_field(out, "seccomp", "none: its children would inherit it");
}

// `whose`: who holds the other end of its descriptor 0.
static void print_socket_keeper(FILE *out, const char *path, const char *whose, bool reasons)
{
	char *text = explain_text_of_printer(socket_file_print);
	fprintf(out, "\nprocess socket-keeper\n");
	explain_user(out, false);
	explain_field(out, "memory", "none of the guest's");
	explain_field(out, "does", "removes %s at the end of %s, however that comes", path, whose);
	explain_field(out, "fd 0", "a socket, to whose other end it listens");
	explain_field(out, "fd 1", "the folder of %s, for that removal only", path);
	explain_field(out, "fd 2", "%s", path);
	explain_field(out, "capability", "what minivmm was started with: the folder may be somebody else's");
	print_calls(out, text, "", reasons);
	free(text);
}

static void print_socket_keepers(FILE *out, const struct vm_config *c, const struct explain_device *devices,
				 unsigned count, bool reasons)
{
	static const char on_unix[] = "unix:";
	const size_t skip = strlen(on_unix);
	if (strncmp(c->serial_to, on_unix, skip) == 0 && !fd_is_reference(c->serial_to + skip))
		print_socket_keeper(out, c->serial_to + skip, "minivmm", reasons);
	if (c->control && !fd_is_reference(c->control))
		print_socket_keeper(out, c->control, "minivmm", reasons);
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < devices[i].socket_count; j++)
			print_socket_keeper(out, devices[i].socket[j],
					    devices[i].program ? "the device and minivmm" : "minivmm",
					    reasons);
}

// One process, whichever of the two it has to do.
static void print_keeper(FILE *out, const struct vm_config *c, bool reasons)
{
	bool cgroups = false;
	for (unsigned i = 0; i < c->device_count; i++)
		cgroups |= cgroup_limits_any(&c->devices[i].limits);
	if (!cgroups && !jail_keeper_needed(c))
		return;
	char *text = explain_text_of_printer(cgroups ? cgroups_print : jail_keeper_print);
	fprintf(out, "\nprocess %s-keeper\n", cgroups ? "cgroup" : "jail");
	explain_user(out, false);
	explain_field(out, "memory", "none of the guest's");
	for (unsigned i = 0; i < c->device_count; i++)
		if (c->devices[i].exec)
			explain_field(out, "does", "kills %s, if it is still there, after minivmm",
				      c->devices[i].id);
	if (cgroups)
		explain_field(out, "does",
			      "removes the devices' cgroups, and whoever is still in them, after minivmm");
	explain_field(out, "fd 0", "a socket, to whose other end it listens");
	if (cgroups)
		explain_field(out, "fd 1", "the folder of minivmm's cgroup");
	for (unsigned i = 0; i < c->device_count; i++)
		if (c->devices[i].exec)
			explain_field(out, "holds", "a pidfd of %s", c->devices[i].id);
	explain_field(out, "capability", "%s",
		      cgroups ? "what minivmm was started with: a cgroup's folder is read-only to its owner"
			      : "none");
	print_calls(out, text, "", reasons);
	free(text);
}

static void print_learner(FILE *out, const struct explain_device *d)
{
	if (!d->cfg->learn)
		return;
	fprintf(out, "\nprocess learner\n");
	explain_user(out, false);
	explain_field(out, "memory", "none of the guest's");
	explain_field(out, "does", "lets every call of %s through, and writes %s at its end", d->cfg->id,
		      d->cfg->learn);
	explain_field(out, "seccomp", "none: it is here for one run by hand");
}

static void print_aside(FILE *out, const struct explain_device *d, bool reasons)
{
	if (!d->aside)
		return;
	char *text = explain_text_of_program(d->program);
	fprintf(out, "\nprocess %s\n", d->aside);
	explain_field(out, "beside", "%s, in the same name spaces", d->cfg->id);
	explain_field(out, "memory", "none of the guest's");
	explain_field(out, "does", "%s", d->aside_does);
	explain_field(out, "fd 0", "a socket, connected to %s", d->cfg->id);
	explain_field(out, "sees", "nothing: the same empty root; the folder is where it stands");
	explain_field(out, "capability", "none");
	print_calls(out, text, "aside\t", reasons);
	free(text);
}

void explain_beside(FILE *out, const struct vm_config *c, const struct explain_device *devices,
		    unsigned count, bool reasons)
{
	print_spawner(out, c, devices, count);
	print_socket_keepers(out, c, devices, count, reasons);
	print_keeper(out, c, reasons);
	for (unsigned i = 0; i < count; i++) {
		print_aside(out, &devices[i], reasons);
		print_learner(out, &devices[i]);
	}
}
