// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/switch.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

// One switch a process.
static struct vswitch *guarded;

// On the one thread, inside a copy or a look at a ring: nothing changes the tables meanwhile.
static bool replace(struct port *p, uintptr_t at)
{
	for (unsigned i = 0; i < p->d.mem.count; i++) {
		const struct guest_region *r = &p->d.mem.region[i];
		if (at < (uintptr_t)r->map || at - (uintptr_t)r->map >= r->map_len)
			continue;
		p->mem_lost = p->sw->mem_lost = true;
		return mmap(r->map, r->map_len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
	}
	return false;
}

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	for (unsigned i = 0; i < guarded->ports_used; i++)
		if (guarded->port[i] && replace(guarded->port[i], (uintptr_t)info->si_addr))
			return;
	_exit(1); // our own memory
}

void guard_install(struct vswitch *sw)
{
	struct sigaction a = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	guarded = sw;
	sigemptyset(&a.sa_mask);
	sigaction(SIGBUS, &a, NULL);
}
