// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/look.h"

#include <sched.h>

void look_init(struct look *k, int64_t us)
{
	cpu_set_t set;
	// More processors than a set has room for are more than one.
	const bool one = sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
	*k = (struct look){ .ns = one ? 0 : us * NS_PER_MS / 1000 };
}
