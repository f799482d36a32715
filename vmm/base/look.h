// SPDX-License-Identifier: BSD-2-Clause
// Looking for an answer for a moment, without sleeping, before waiting for it.
//
// Waking a processor that sleeps may take many times what an exchange takes.  Looking pays while the other side is at work on another
// processor; where it is not, this one would keep it from it.  So whoever looked in vain some times in a row does so ever more seldom,
// and on one processor nobody does.  Not locked: one looker at a time.
#ifndef MINIVMM_BASE_LOOK_H
#define MINIVMM_BASE_LOOK_H

#include "vmm/base/deadline.h"

#include <stdbool.h>
#include <stdint.h>

#define LOOK_IN_VAIN   4  // in a row are borne
#define LOOK_PAUSE     16 // times that are left out after those, twice as many after each further one
#define LOOK_PAUSE_MAX 1024

struct look {
	int64_t ns; // how long; 0: never
	unsigned in_vain;
	unsigned pause, left_out; // of how many, and how many of these are to come
};

// For `us` microseconds each, or never if this process has but one processor; asks the kernel for that.
void look_init(struct look *k, int64_t us);

// Until when to look this time; 0: not at all.
static inline deadline_ns look_until(struct look *k)
{
	if (!k->ns)
		return 0;
	if (k->left_out) {
		k->left_out--;
		return 0;
	}
	return deadline_now() + k->ns;
}

static inline void look_found(struct look *k)
{
	k->in_vain = k->pause = 0;
}

static inline void look_in_vain(struct look *k)
{
	if (++k->in_vain < LOOK_IN_VAIN)
		return;
	k->pause = !k->pause ? LOOK_PAUSE : k->pause >= LOOK_PAUSE_MAX / 2 ? LOOK_PAUSE_MAX : 2 * k->pause;
	k->left_out = k->pause;
}

#endif
