// SPDX-License-Identifier: BSD-2-Clause
// Ranges in order, accesses that no range covers, and readers beside a thread that adds and removes.
#include "vmm/bus.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

static struct bus bus;
static atomic_uint reads, writes;
static uint64_t last_offset, last_val;
static unsigned last_size;

static void range_read(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val)
{
	if (!range_in(offset, size, r->size))
		abort();
	atomic_fetch_add(&reads, 1);
	*val = UINT64_C(0x1122334455667788) + r->start;
}

static void range_write(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val)
{
	if (!range_in(offset, size, r->size))
		abort();
	atomic_fetch_add(&writes, 1);
	last_offset = offset;
	last_size = size;
	last_val = val;
}

static struct bus_range range_of(uint64_t start, uint64_t size)
{
	return (struct bus_range){
		.start = start, .size = size, .name = "r", .read = range_read, .write = range_write
	};
}

static bool in_order(void)
{
	for (unsigned i = 1; i < bus.count; i++)
		if (bus.range[i - 1]->start + bus.range[i - 1]->size > bus.range[i]->start)
			return false;
	return true;
}

TEST(order_does_not_depend_on_the_order_of_adding)
{
	static const uint64_t starts[] = { 0x500, 0x100, 0x900, 0x300, 0x700, 0 };
	struct bus_range r[ARRAY_LEN(starts)];
	bus_init(&bus);
	for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
		r[i] = range_of(starts[i], 0x10);
		CHECK_EQ(bus_add(&bus, &r[i]), 0);
		CHECK(in_order());
	}
	uint64_t val;
	for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
		CHECK(bus_read(&bus, starts[i] + 0xc, 4, &val));
		CHECK_EQ(val, 0x55667788 + starts[i]);
		bus_remove(&bus, &r[i]);
		bus_remove(&bus, &r[i]); // a second time: nothing
		CHECK_EQ(bus.count, ARRAY_LEN(starts) - 1 - i);
		CHECK(!bus_read(&bus, starts[i], 4, &val));
	}
	bus_destroy(&bus);
}

TEST(overlaps_are_refused)
{
	static const struct {
		uint64_t start, size;
		int rc;
	} cases[] = {
		{ 0x1000, 0x100, -EEXIST }, // the same
		{ 0x0fff, 1, 0 },	    // touches from below
		{ 0x1100, 1, 0 },	    // and from above
		{ 0x0fff, 2, -EEXIST },
		{ 0x10ff, 1, -EEXIST },
		{ 0x10ff, 0x100, -EEXIST },
		{ 0x1010, 0x10, -EEXIST }, // within
		{ 0, 0x10000, -EEXIST },   // around
		{ 0x500, 0, -EINVAL },
		{ UINT64_MAX, 2, -EINVAL },
		{ UINT64_MAX - 0xf, 0x11, -EINVAL },
		{ 1, UINT64_MAX, -EEXIST },
		{ 2, UINT64_MAX, -EINVAL },
		{ UINT64_MAX, 1, 0 },
		{ UINT64_MAX - 0xf, 0x10, 0 },
	};
	bus_init(&bus);
	struct bus_range base = range_of(0x1000, 0x100);
	CHECK_EQ(bus_add(&bus, &base), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bus_range r = range_of(cases[i].start, cases[i].size);
		CHECK_EQ(bus_add(&bus, &r), cases[i].rc);
		if (cases[i].rc == 0)
			bus_remove(&bus, &r);
		CHECK_EQ(bus.count, 1);
	}
	bus_destroy(&bus);
}

TEST(accesses_must_lie_in_one_range)
{
	struct bus_range a = range_of(0x10, 6), b = range_of(0x16, 2), top = range_of(UINT64_MAX - 3, 4);
	uint64_t val;
	bus_init(&bus);
	CHECK_EQ(bus_add(&bus, &a) | bus_add(&bus, &b) | bus_add(&bus, &top), 0);
	CHECK(bus_write(&bus, 0x14, 2, 0xabcdef));
	CHECK_EQ(last_offset, 4);
	CHECK_EQ(last_size, 2);
	CHECK_EQ(last_val, 0xcdef); // no more than was accessed
	unsigned before = writes;
	CHECK(!bus_write(&bus, 0x14, 4, 1)); // from a into b
	CHECK(!bus_write(&bus, 0x0f, 2, 1));
	CHECK(!bus_write(&bus, 0x17, 2, 1));
	CHECK_EQ(writes, before);
	CHECK(!bus_read(&bus, 0x14, 4, &val));
	CHECK_EQ(val, 0xffffffff);
	CHECK(!bus_read(&bus, 0, 1, &val));
	CHECK_EQ(val, 0xff);
	CHECK(!bus_read(&bus, 0, 8, &val));
	CHECK_EQ(val, UINT64_MAX);
	CHECK(bus_read(&bus, 0x16, 1, &val));
	CHECK_EQ(val, (0x88 + 0x16) & 0xff);
	CHECK(bus_read(&bus, UINT64_MAX, 1, &val));
	CHECK(bus_read(&bus, UINT64_MAX - 3, 4, &val));
	CHECK(!bus_read(&bus, UINT64_MAX - 3, 8, &val)); // would wrap
	CHECK(!bus_read(&bus, UINT64_MAX, 2, &val));
	bus_destroy(&bus);
}

TEST(a_full_bus_says_so)
{
	static struct bus_range r[BUS_RANGES_MAX + 1];
	bus_init(&bus);
	for (unsigned i = 0; i < BUS_RANGES_MAX; i++) {
		r[i] = range_of(UINT64_C(0x1000) * ((i * 7) % BUS_RANGES_MAX),
				0x800); // 7 and 512 share no factor
		CHECK_EQ(bus_add(&bus, &r[i]), 0);
	}
	CHECK(in_order());
	r[BUS_RANGES_MAX] = range_of(0x800, 0x800);
	CHECK_EQ(bus_add(&bus, &r[BUS_RANGES_MAX]), -ENOSPC);
	bus_remove(&bus, &r[100]);
	CHECK_EQ(bus_add(&bus, &r[BUS_RANGES_MAX]), 0);
	CHECK(in_order());
	bus_destroy(&bus);
}

// ---- at once ----

#define MOVERS 2
#define ROUNDS 500
static atomic_bool done;

static void *mover(void *arg)
{
	unsigned n = *(unsigned *)arg;
	static struct bus_range moving[MOVERS];
	struct bus_range *r = &moving[n];
	for (unsigned i = 0; i < ROUNDS; i++) {
		*r = range_of(UINT64_C(0x10000) * (n + 1) + i % 16 * 0x100, 0x100);
		if (bus_add(&bus, r))
			abort();
		bus_remove(&bus, r);
		// A call may still be in it: the owner may change the range only when it knows better.  Handlers here read r->start and
		// r->size, so the next place is given to it only after the readers have come round.
		unsigned seen = atomic_load(&reads);
		while (atomic_load(&reads) < seen + 8 && !atomic_load(&done))
			sched_yield();
	}
	return NULL;
}

static void *reader(void *arg)
{
	(void)arg;
	uint64_t val;
	for (uint64_t i = 0; !atomic_load(&done); i++) {
		bus_read(&bus, 0x8000, 4, &val); // the one that stays
		if (val != 0x55667788 + 0x8000)
			abort();
		bus_read(&bus, 0x20000000, 4, &val);
		if (val != 0xffffffff)
			abort();
	}
	return NULL;
}

static void *toucher(void *arg)
{
	(void)arg;
	uint64_t val;
	for (uint64_t i = 0; !atomic_load(&done); i++)
		bus_read(&bus, 0x40000 + i % 16 * 0x100, 4, &val); // comes and goes
	return NULL;
}

TEST(readers_beside_adding_and_removing)
{
	static unsigned numbers[MOVERS] = { 0, 1 };
	struct bus_range stays = range_of(0x8000, 0x10);
	static struct bus_range blink[16];
	pthread_t movers[MOVERS], readers[2], touch;
	bus_init(&bus);
	atomic_store(&done, false);
	CHECK_EQ(bus_add(&bus, &stays), 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&readers[i], NULL, reader, NULL), 0);
	CHECK_EQ(pthread_create(&touch, NULL, toucher, NULL), 0);
	for (unsigned i = 0; i < MOVERS; i++)
		CHECK_EQ(pthread_create(&movers[i], NULL, mover, &numbers[i]), 0);
	for (unsigned i = 0; i < 16; i++)
		blink[i] = range_of(0x40000 + i * 0x100, 0x80);
	for (unsigned i = 0; i < ROUNDS * 4; i++) {
		CHECK_EQ(bus_add(&bus, &blink[i * 5 % 16]), 0);
		bus_remove(&bus, &blink[i * 5 % 16]);
	}
	for (unsigned i = 0; i < MOVERS; i++)
		pthread_join(movers[i], NULL);
	atomic_store(&done, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	pthread_join(touch, NULL);
	CHECK_EQ(bus.count, 1);
	bus_destroy(&bus);
}
