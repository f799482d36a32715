// SPDX-License-Identifier: BSD-2-Clause
// What a read costs, in ticks of the TSC: of the configuration space (an exit to the monitor and nothing else), of a register of
// minivmm-pci-example (the server is asked), of its shared page (no exit).  For tests/bench/parts/vfio-user.  Without reads= it does nothing.
#include "lib/pci.h"

#define ID_OF_EXAMPLE 0x10f01af4u
#define SHARED_PAGE   0x1000
#define READS_MAX     20000

static uint32_t took[READS_MAX];

static uint64_t ticks(void)
{
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

static void sort(unsigned n)
{
	for (unsigned gap = n / 2; gap; gap = gap == 2 ? 1 : gap * 5 / 11)
		for (unsigned i = gap; i < n; i++) {
			const uint32_t t = took[i];
			unsigned k = i;
			for (; k >= gap && took[k - gap] > t; k -= gap)
				took[k] = took[k - gap];
			took[k] = t;
		}
}

static void measure(const char *what, uint64_t at, unsigned n)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < n; i++) {
		const uint64_t begin = ticks();
		read32(at);
		took[i] = (uint32_t)(ticks() - begin);
		sum += took[i];
	}
	sort(n);
	print("READS %s %u p50 %u p99 %u sum %lu\n", what, n, took[n / 2], took[n - 1 - n / 100], sum);
}

static void reads(void)
{
	const unsigned n = (unsigned)option("reads", 0);
	unsigned slot = 1;
	while (slot < 32 && config_read32(slot, 0) != ID_OF_EXAMPLE)
		slot++;
	CHECK(slot < 32 && n <= READS_MAX);
	config_write16(slot, PCI_COMMAND, COMMAND_MEMORY);
	const uint64_t only = option("only", 0); // 1: the register is read often, 2: the page is
	measure("exit", ecam(slot, 0, 0), only ? 1 : n);
	measure("trapped", bar_get(slot, 0), only == 2 ? 1 : n);
	measure("mapped", bar_get(slot, 0) + SHARED_PAGE, only == 1 ? 1 : n);
}

void guest_main(void)
{
	static const struct test tests[] = { { "reads", reads } };
	tests_run(tests, option("reads", 0) > 0);
}
