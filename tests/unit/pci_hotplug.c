// SPDX-License-Identifier: BSD-2-Clause
// The hot-plug register: what a guest reads, what it writes and when, which function hears of it, and guests that write anything.
#include "vmm/pci_hotplug.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/base/loop.h"
#include "vmm/pci_host.h"

#include <pthread.h>
#include <stdatomic.h>

#define PORT 0x604

static struct bus mmio, pio;
static struct pci_host host;
static struct loop loop;
static struct pci_hotplug hotplug;
static struct err err;
static unsigned raised;

// A function that counts what it is told.
struct note {
	struct pci_func func;
	unsigned ejected, looked;
};

static void note_config(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	(void)f, (void)offset, (void)size, (void)val;
}

static void note_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	(void)f, (void)offset, (void)size, (void)val;
}

static void note_nothing(struct pci_func *f)
{
	(void)f;
}

static void note_destroy(struct pci_func *f)
{
	pthread_mutex_destroy(&f->lock);
}

static void note_hotplug(struct pci_func *f, enum pci_hotplug_end end)
{
	struct note *n = CONTAINER_OF(f, struct note, func);
	if (pthread_mutex_trylock(&f->lock) == 0)
		abort(); // it is called with the lock
	if (end == PCI_HOTPLUG_EJECTED)
		n->ejected++;
	else
		n->looked++;
}

static const struct pci_func_ops stays = { .config_read = note_config,
					   .config_write = note_config_write,
					   .reset = note_nothing,
					   .destroy = note_destroy };
static const struct pci_func_ops leaves = { .config_read = note_config,
					    .config_write = note_config_write,
					    .reset = note_nothing,
					    .hotplug = note_hotplug,
					    .destroy = note_destroy };
static struct note note[4]; // in slots 1, 2 (which stays), 5 and 31

static void on_raise(void *owner)
{
	*(unsigned *)owner += 1;
}

static int start(bool with_any)
{
	static const struct pci_window win = { 0xc0000000, 0x10000000 }, io = { 0x1000, 0xf000 };
	static const int slots[] = { 1, 2, 5, 31 };
	raised = 0;
	bus_init(&mmio);
	bus_init(&pio);
	if (loop_init(&loop) < 0 || pci_host_init(&host, &mmio, &pio, 0xe8000000, win, win, io, &err) < 0)
		abort();
	for (unsigned i = 0; i < ARRAY_LEN(note); i++) {
		note[i] = (struct note){ 0 };
		pci_func_init(&note[i].func, with_any && i != 1 ? &leaves : &stays, "note", 1, 2, 0);
		if (pci_host_plug(&host, &note[i].func, slots[i], &err) < 0)
			abort();
	}
	hotplug = (struct pci_hotplug){ 0 };
	const struct pci_hotplug_place place = {
		.bus = &pio, .at = PORT, .raise = on_raise, .owner = &raised
	};
	return pci_hotplug_start(&hotplug, &host, &place, &loop, &err);
}

static void finish(void)
{
	pci_host_destroy(&host);
	pci_hotplug_stop(&hotplug);
	loop_destroy(&loop);
	bus_destroy(&mmio);
	bus_destroy(&pio);
}

static uint64_t get(void)
{
	uint64_t val;
	bus_read(&pio, PORT, 4, &val);
	return val;
}

static void put(uint32_t val)
{
	bus_write(&pio, PORT, 4, val);
}

static bool ask(bool (*what)(struct pci_func *f), unsigned i)
{
	pci_func_lock(&note[i].func);
	bool good = what(&note[i].func);
	pci_func_unlock(&note[i].func);
	return good;
}

TEST(no_register_where_nothing_leaves)
{
	uint64_t val;
	CHECK_EQ(start(false), 0);
	CHECK_EQ(pci_hotplug_slots(&host), 0);
	CHECK(!bus_read(&pio, PORT, 4, &val));
	CHECK(!ask(pci_hotplug_eject, 0) && !ask(pci_hotplug_look, 0));
	pci_host_reset(&host);
	finish();
}

TEST(asked_told_and_ejected)
{
	CHECK_EQ(start(true), 0);
	CHECK_EQ(pci_hotplug_slots(&host), UINT32_C(1) << 31 | 1 << 5 | 1 << 1);
	CHECK_EQ(get(), 0);
	CHECK(ask(pci_hotplug_eject, 0) && ask(pci_hotplug_eject, 3));
	CHECK_EQ(raised, 0); // on the loop's thread
	CHECK(loop_once(&loop, 1000) > 0);
	CHECK_EQ(raised, 1);
	CHECK_EQ(get(), UINT32_C(1) << 31 | 1 << 1);
	CHECK_EQ(get(), 0);
	put(UINT32_C(1) << 31);
	CHECK(note[3].ejected == 1 && note[0].ejected == 0);
	put(1 << 1);
	CHECK_EQ(note[0].ejected, 1);
	CHECK_EQ(note[0].looked + note[3].looked, 0);
	finish();
}

TEST(every_size_and_place_but_one_is_nothing)
{
	CHECK_EQ(start(true), 0);
	CHECK(ask(pci_hotplug_eject, 0) && ask(pci_hotplug_look, 0));
	for (unsigned at = 0; at < 4; at++)
		for (unsigned size = 1; at + size <= 4; size++) {
			uint64_t val = 7;
			if (size == 4)
				continue;
			bus_read(&pio, PORT + at, size, &val);
			CHECK_EQ(val, 0);
			bus_write(&pio, PORT + at, size, UINT32_MAX);
		}
	CHECK_EQ(note[0].ejected + note[0].looked, 0);
	CHECK_EQ(get(), 3); // nothing was taken away
	finish();
}

TEST(a_look_counts_if_it_begins_later)
{
	CHECK_EQ(start(true), 0);
	put(1); // of nothing
	CHECK(ask(pci_hotplug_look, 0));
	put(1);
	CHECK_EQ(note[0].looked, 0); // it has not read that it shall
	CHECK_EQ(get(), 1);
	CHECK(ask(pci_hotplug_look, 2)); // while the first look is under way
	put(1);
	CHECK(note[0].looked == 1 && note[2].looked == 0);
	put(1);
	CHECK_EQ(note[2].looked, 0);
	CHECK_EQ(get(), 1);
	put(1);
	CHECK(note[0].looked == 1 && note[2].looked == 1);
	finish();
}

TEST(a_reset_ends_what_was_asked_for)
{
	CHECK_EQ(start(true), 0);
	CHECK(ask(pci_hotplug_eject, 0) && ask(pci_hotplug_look, 2) && ask(pci_hotplug_look, 3));
	CHECK_EQ(get(), 1 << 1 | 1);
	CHECK(ask(pci_hotplug_eject, 3));
	pci_host_reset(&host);
	CHECK(note[0].ejected == 1 && note[3].ejected == 1 && note[2].looked == 1 && note[3].looked == 1);
	CHECK_EQ(get(), 0);
	put(1); // of the time before
	CHECK(ask(pci_hotplug_look, 2));
	CHECK_EQ(get(), 1);
	put(1);
	CHECK_EQ(note[2].looked, 2);
	pci_host_reset(&host);
	CHECK_EQ(note[0].ejected + note[3].ejected, 2);
	finish();
}

static atomic_bool over;

static void *storm(void *arg)
{
	uint32_t x = (uint32_t)(uintptr_t)arg;
	for (unsigned i = 0; i < 20000; i++) {
		x = x * 1664525 + 1013904223;
		if (x >> 30)
			put(x);
		else
			get();
	}
	return NULL;
}

static void *asker(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		ask(pci_hotplug_eject, 0);
		ask(pci_hotplug_look, 2);
	}
	return NULL;
}

// G-rows: two CPUs that write anything, beside functions that ask.  What it comes to is checked by the sanitizers, too.
TEST(two_cpus_write_anything)
{
	pthread_t t[3];
	CHECK_EQ(start(true), 0);
	atomic_store(&over, false);
	CHECK_EQ(pthread_create(&t[0], NULL, storm, (void *)1), 0);
	CHECK_EQ(pthread_create(&t[1], NULL, storm, (void *)2), 0);
	CHECK_EQ(pthread_create(&t[2], NULL, asker, NULL), 0);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	atomic_store(&over, true);
	pthread_join(t[2], NULL);
	CHECK(note[0].ejected > 0 && note[3].ejected > 0);
	CHECK_EQ(note[1].ejected + note[1].looked, 0);
	CHECK_EQ(note[0].looked, 0); // it never asked for one
	finish();
}
