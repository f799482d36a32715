// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/poller.h"

#include "devices/sdk/dev.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_US_MAX 1000000

// "2-3,5".  0 or -EINVAL.
static int cpus_parse(const char *text, cpu_set_t *set)
{
	CPU_ZERO(set);
	for (const char *p = text;; p++) {
		unsigned long range[2];
		for (unsigned i = 0; i < 2; i++) {
			char *end;
			if (*p < '0' || *p > '9')
				return -EINVAL;
			range[i] = strtoul(p, &end, 10);
			p = end;
			if (i == 0 && *p != '-')
				range[++i] = range[0];
			else if (i == 0)
				p++;
		}
		if (range[0] > range[1] || range[1] >= CPU_SETSIZE)
			return -EINVAL;
		for (unsigned long i = range[0]; i <= range[1]; i++)
			CPU_SET(i, set);
		if (*p == '\0')
			return 0;
		if (*p != ',')
			return -EINVAL;
	}
}

static int cpus_set(const char *text, struct err *e)
{
	cpu_set_t set;
	if (cpus_parse(text, &set) < 0)
		return err_set(e, EINVAL, "--cpus: \"%s\" is no list of processors, such as 2-3,5", text);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		return err_sys(e, errno, "--cpus %s (which of them does this host have?)", text);
	return 0;
}

bool poller_option(struct poller *p, const char *name, const char *value, int *rc, struct err *e)
{
	uint64_t us;
	*rc = 0;
	if (strcmp(name, "poll") == 0) {
		p->on = true;
		p->idle_ns = p->idle_ns ? p->idle_ns : POLLER_IDLE_US * NS_PER_MS / 1000;
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
