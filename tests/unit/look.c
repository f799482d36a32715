// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/look.h"
#include "tests/unit/test.h"

#include <sched.h>

static unsigned looks(struct look *k, unsigned times, bool found)
{
	unsigned n = 0;
	for (unsigned i = 0; i < times; i++) {
		if (!look_until(k))
			continue;
		n++;
		if (found)
			look_found(k);
		else
			look_in_vain(k);
	}
	return n;
}

TEST(who_looks_in_vain_does_so_ever_more_seldom)
{
	struct look k = { .ns = 50000 };
	const deadline_ns until = look_until(&k), now = deadline_now();
	CHECK(until > 0 && until <= now + 50000);
	CHECK_EQ(looks(&k, 1000, true), 1000);
	CHECK_EQ(looks(&k, LOOK_IN_VAIN + LOOK_PAUSE, false), LOOK_IN_VAIN);
	CHECK_EQ(looks(&k, 1 + 2 * LOOK_PAUSE, false), 1);
	CHECK_EQ(looks(&k, 1 + 4 * LOOK_PAUSE, false), 1);
	CHECK(looks(&k, 100000, false) <= 100000 / LOOK_PAUSE_MAX + 10);
	CHECK_EQ(k.pause, LOOK_PAUSE_MAX);
	// Found once, all is as in the beginning.
	CHECK_EQ(looks(&k, k.left_out + 1, true), 1);
	CHECK_EQ(looks(&k, 1000, true), 1000);
	CHECK_EQ(looks(&k, LOOK_IN_VAIN - 1, false), LOOK_IN_VAIN - 1);
	CHECK_EQ(looks(&k, 1000, true), 1000);
}

TEST(on_one_processor_nobody_looks)
{
	cpu_set_t all, one;
	struct look k;
	CHECK_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	for (unsigned i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &one);
	CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
	look_init(&k, 50);
	CHECK_EQ(looks(&k, 1000, true), 0);
	CHECK_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
	look_init(&k, 50);
	CHECK_EQ(k.ns, CPU_COUNT(&all) > 1 ? 50000 : 0);
}
