// SPDX-License-Identifier: BSD-2-Clause
// Second processors: start, identity, interrupts to and between them.  Run with 2, 4 and 8.
#include "lib/guest.h"

static unsigned cpus;
static volatile uint32_t seen_id[CPUS_MAX], cpuid_id[CPUS_MAX], topology_id[CPUS_MAX];

static void start(void)
{
	CHECK_EQ(cpus_online, 1);
	CHECK(cpus_start(cpus));
	CHECK_EQ(cpus_online, cpus);
}

static void identify(void *arg)
{
	unsigned i = (unsigned)(uint64_t)arg;
	seen_id[i] = cpu_index();
	cpuid_id[i] = cpuid(1, 0).b >> 24;
	topology_id[i] = cpuid(0, 0).a >= 0xb ? cpuid(0xb, 0).d : i;
}

static void identity(void)
{
	for (unsigned i = 1; i < cpus; i++) {
		cpu_run(i, identify, (void *)(uint64_t)i);
		CHECK(cpu_wait(i, 1000));
		CHECK_EQ(seen_id[i], i);
		CHECK_EQ(cpuid_id[i], i);
		CHECK_EQ(topology_id[i], i);
	}
}

static void forward(void *arg)
{
	unsigned next = (unsigned)(uint64_t)arg;
	ipi_send(next, VECTOR_FIRST);
}

static void ring_of_interrupts(void)
{
	for (unsigned i = 1; i < cpus; i++) {
		uint32_t before = irq_count[VECTOR_FIRST];
		unsigned to = (i + 1) % cpus;
		cpu_run(i, forward, (void *)(uint64_t)to);
		CHECK(cpu_wait(i, 1000));
		CHECK(WAIT(irq_count[VECTOR_FIRST] == before + 1, 1000));
		CHECK_EQ(irq_cpu[VECTOR_FIRST], to);
	}
}

// The serial port's interrupt goes to each CPU in turn.
static void ioapic_to_each(void)
{
	for (unsigned i = 0; i < cpus; i++) {
		uint32_t before = irq_count[VECTOR_FIRST];
		ioapic_route(4, VECTOR_FIRST, i, false);
		outb(0x3f9, 2);
		bool came = WAIT(irq_count[VECTOR_FIRST] > before, 1000);
		ioapic_mask(4);
		outb(0x3f9, 0);
		inb(0x3fa);
		CHECK(came);
		CHECK_EQ(irq_cpu[VECTOR_FIRST], i);
	}
}

static volatile uint32_t counter;

static void count(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 1000; i++)
		__atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
}

static void all_at_once(void)
{
	for (unsigned i = 1; i < cpus; i++)
		cpu_run(i, count, NULL);
	for (unsigned i = 1; i < cpus; i++)
		CHECK(cpu_wait(i, 5000));
	CHECK_EQ(counter, 1000 * (cpus - 1));
}

static const struct test tests[] = {
	{ "INIT and SIPI start every CPU", start },
	{ "every CPU knows its APIC id", identity },
	{ "interrupts from CPU to CPU", ring_of_interrupts },
	{ "IOAPIC delivers to every CPU", ioapic_to_each },
	{ "all CPUs at the same time", all_at_once },
};

void guest_main(void)
{
	cpus = (unsigned)option("cpus", 1);
	tests_run(tests, ARRAY_LEN(tests));
}
