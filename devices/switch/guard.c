// SPDX-License-Identifier: BSD-2-Clause
#include "devices/switch/switch.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

// One switch a process.
static struct vswitch *guarded;

// On the one thread, inside a copy or a look at a ring: nothing changes the tables meanwhile.
static bool replace(struct port *p, uintptr_t at, void *map, size_t len)
{
	if (!map || at < (uintptr_t)map || at - (uintptr_t)map >= len)
		return false;
	p->mem_lost = p->sw->mem_lost = true;
	// To the end of its page.
	return mmap(map, (len + 4095) & ~(size_t)4095, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

static bool replace_any(struct port *p, uintptr_t at)
{
	const struct guest_mem *m = &p->d.mem;
	for (unsigned i = 0; i < m->count; i++)
		if (replace(p, at, m->region[i].map, m->region[i].map_len))
			return true;
	for (unsigned i = 0; i < GUEST_EXTRAS; i++)
		if (replace(p, at, m->extra[i].map, m->extra[i].len))
			return true;
	return false;
}

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	for (unsigned i = 0; i < guarded->ports_used; i++)
		if (guarded->port[i] && replace_any(guarded->port[i], (uintptr_t)info->si_addr))
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
