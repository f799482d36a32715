// SPDX-License-Identifier: BSD-2-Clause
// Looking at queues instead of waiting for kicks: for how long, and on which processors.
//
// A driver that is not asked to kick does not leave its guest for that.  A device that works looks again at once, and asks
// for kicks when it found nothing for `idle_ns`; a device that always wants kicks has a poller that is all zeros.
#ifndef MINIVMM_SDK_POLLER_H
#define MINIVMM_SDK_POLLER_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>

#define POLLER_IDLE_NS (NS_PER_MS / 20)

struct poller {
	bool on;
	int64_t idle_ns;
	deadline_ns until; // looking again goes on until then
};

// Of a device that looks unless it is told not to.
#define POLLER_ON ((struct poller){ .on = true, .idle_ns = POLLER_IDLE_NS })

// Options of a device that polls, for its table and its option().
#define POLLER_OPTIONS(what)                                                                      \
	{ "poll", NULL, what },                                                                   \
		{ "poll-idle", "US", "microseconds without work before it sleeps (default 50)" }, \
	{                                                                                         \
		"cpus", "LIST", "processors to run on, as in 2-3,5"                               \
	}

// True if the option is one of the three; *rc is then 0 or -errno with the sentence.  --cpus takes effect at once.
bool poller_option(struct poller *p, const char *name, const char *value, int *rc, struct err *e);

static inline void poller_worked(struct poller *p)
{
	if (p->on)
		p->until = deadline_now() + p->idle_ns;
}

static inline bool poller_awake(const struct poller *p)
{
	return p->on && deadline_now() < p->until;
}

#endif
