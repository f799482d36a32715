// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/poller.h"

#include "devices/sdk/dev.h"
#include "vmm/base/parse.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#define IDLE_US_MAX 1000000

static int cpus_set(const char *text, struct err *e)
{
	union {
		uint64_t bits[(PARSE_CPUS_MAX + 1) / 64];
		cpu_set_t set;
	} cpus;
	if (parse_cpus(text, cpus.bits) < 0)
		return err_set(e, EINVAL, "--cpus: \"%s\" is no list of processors, such as 2-3,5", text);
	if (sched_setaffinity(0, sizeof(cpus.bits), &cpus.set) < 0)
		return err_sys(e, errno, "--cpus %s (which of them does this host have?)", text);
	return 0;
}

bool poller_option(struct poller *p, const char *name, const char *value, int *rc, struct err *e)
{
	uint64_t us;
	*rc = 0;
	if (strcmp(name, "poll") == 0) {
		p->on = true;
		p->idle_ns = p->idle_ns ? p->idle_ns : POLLER_IDLE_NS;
	} else if (strcmp(name, "cpus") == 0) {
		*rc = cpus_set(value, e);
	} else if (strcmp(name, "poll-idle") == 0) {
		*rc = vdev_number(name, value, 1, IDLE_US_MAX, &us, e);
		if (*rc == 0)
			p->idle_ns = (int64_t)us * NS_PER_MS / 1000;
	} else {
		return false;
	}
	return true;
}
