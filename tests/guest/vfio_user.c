// SPDX-License-Identifier: BSD-2-Clause
// A driver of the function of tests/native/vfio_user_server.py: registers, ports, mapped memory, eventfds, interrupts of both kinds,
// DMA of both kinds, BARs that move, and the server's end.
#include "lib/pci.h"

#define ID_OF_SERVER 0x56551234u
#define MAGIC	     0x56465344u
#define ONES32	     0xffffffffu
#define NO_VECTOR    0xffffffffu
#define LEAVE	     0x100u
#define COMMAND_IO   1
#define COMMAND_ALL  (COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER)

enum {
	R_ID = 0x00,
	R_SCRATCH = 0x04,
	R_DMA_FROM = 0x08,
	R_DMA_TO = 0x10,
	R_DMA_LEN = 0x18,
	R_DMA_DO = 0x1c,
	R_DMA_STATUS = 0x20,
	R_VECTOR = 0x24,
	R_RAISE = 0x28,
	R_INTX = 0x2c,
	R_RINGS_7 = 0x30,
	R_RINGS_ANY = 0x34,
	R_MEM_AT = 0x3c,
	R_MEM = 0x40,
	R_REFUSED = 0x48,
	R_DIE = 0x4c,
	R_RESETS = 0x44,
	R_TRAPS = 0x50,
	R_POSTED = 0x54,
	R_DOORBELL_7 = 0x100,
	R_DOORBELL_ANY = 0x104,
	TABLE = 0x2000,
	PBA = 0x3000,
};
enum { DMA_COPY = 1, DMA_MESSAGES = 2, DMA_STRAY = 3 };
enum { DMA_DONE = 1, DMA_FAILED = 2 };

#define MEM_SIZE   0x10000u
#define MEM_MIDDLE 0x8000u // not mapped, whatever the rest is
#define MEM_END	   0xc000u // mapped

static unsigned slot, msix;
static bool slot_find(void);
static uint64_t regs, mem;
static uint16_t port;

static void locate(void)
{
	regs = bar_get(slot, 0);
	port = (uint16_t)(config_read32(slot, PCI_BAR0 + 4) & ~3u);
	mem = bar_get(slot, 2);
}

static uint32_t reg(unsigned at)
{
	return read32(regs + at);
}

static void find(void)
{
	CHECK(slot_find());
	CHECK_EQ(config_read32(slot, PCI_CLASS) >> 8, 0xff0000);
	CHECK_EQ(bar_size(slot, 0), 0x4000);
	CHECK_EQ(bar_size(slot, 2), MEM_SIZE);
	CHECK_EQ(config_read32(slot, PCI_BAR0) & 15, 0);
	CHECK_EQ(config_read32(slot, PCI_BAR0 + 4) & 3, 1);
	CHECK_EQ(config_read32(slot, PCI_BAR0 + 8) & 15, 12);
	CHECK_EQ(config_read8(slot, 0x3d), 1);
	CHECK_EQ(config_read16(slot, msix + 2) & 0x7ff, 3);
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	locate();
	CHECK_EQ(reg(R_ID), MAGIC);
}

static void registers(void)
{
	for (unsigned size = 1; size <= 8; size *= 2) {
		uint64_t v = 0x8877665544332211ul & (size == 8 ? ~0ul : (1ul << 8 * size) - 1);
		mmio_write(regs + 0x200 + 8 * size, size, v);
		CHECK_EQ(mmio_read(regs + 0x200 + 8 * size, size), v);
	}
	write32(regs + R_ID, 0);
	CHECK_EQ(reg(R_ID), MAGIC);
}

static void ports(void)
{
	outb(port, 0x5a);
	CHECK_EQ(inb(port), 0xa5);
	CHECK_EQ(inl(port), 0xa5);
	outb(port, 0x81);
	CHECK_EQ(inw(port), 0x7e);
}

// What the server finds in its memory.
static uint32_t seen(uint32_t at)
{
	write32(regs + R_MEM_AT, at);
	return reg(R_MEM);
}

static void memory(void)
{
	static const uint32_t places[] = { 0, 0x3ffc, MEM_END, MEM_SIZE - 4 };
	const uint32_t traps = reg(R_TRAPS);
	for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
		write32(mem + places[i], 0x1000 + i);
		CHECK_EQ(seen(places[i]), 0x1000 + i);
		write32(regs + R_MEM, 0x2000 + i);
		CHECK_EQ(read32(mem + places[i]), 0x2000 + i);
	}
	CHECK_EQ(reg(R_TRAPS), traps + (option("mapped", 1) ? 0 : 2 * ARRAY_LEN(places)));
	write32(mem + MEM_MIDDLE, 0x3000);
	CHECK_EQ(seen(MEM_MIDDLE), 0x3000);
	CHECK_EQ(read32(mem + MEM_MIDDLE), 0x3000);
	CHECK(reg(R_TRAPS) > traps);
}

static void doorbells(void)
{
	const bool eventfds = option("eventfds", 1);
	const uint32_t seven = reg(R_RINGS_7), any = reg(R_RINGS_ANY);
	const uint32_t one = eventfds ? 1 : 0x10000;
	write32(regs + R_DOORBELL_7, 7);
	CHECK_EQ(reg(R_RINGS_7), seven + one);
	write32(regs + R_DOORBELL_7, 8);
	CHECK_EQ(reg(R_RINGS_7), seven + one);
	write32(regs + R_DOORBELL_ANY, 0x12345);
	CHECK_EQ(reg(R_RINGS_ANY), any + one);
	CHECK_EQ(reg(R_RINGS_7), seven + one);
}

static void vector_set(unsigned entry, unsigned irq, bool masked)
{
	write64(regs + TABLE + 16 * entry, MSI_ADDRESS(0));
	write32(regs + TABLE + 16 * entry + 8, irq);
	write32(regs + TABLE + 16 * entry + 12, masked);
}

static void vectors(void)
{
	for (unsigned i = 0; i < 4; i++)
		vector_set(i, 0x60 + i, false);
	config_write16(slot, msix + 2, MSIX_ENABLE);
	for (unsigned i = 0; i < 4; i++) {
		write32(regs + R_RAISE, i);
		CHECK(WAIT(irq_count[0x60 + i] == 1, 2000));
	}
	vector_set(2, 0x62, true);
	write32(regs + R_RAISE, 2);
	sleep_ms(20);
	CHECK_EQ(irq_count[0x62], 1);
	CHECK(read32(regs + PBA) & 4);
	vector_set(2, 0x62, false);
	CHECK(WAIT(irq_count[0x62] == 2, 2000));
	CHECK_EQ(read32(regs + PBA), 0);
	config_write16(slot, msix + 2, 0);
	CHECK_EQ(irq_count[0x60] + irq_count[0x61] + irq_count[0x62] + irq_count[0x63], 5);
}

static volatile uint32_t intx_served;

// As a driver of a shared line does: a KVM that takes an interrupt for ended when it is delivered has the device raise it once more.
static void intx_handler(void)
{
	intx_served += reg(R_INTX);
	write32(regs + R_INTX, 0);
}

static void intx(void)
{
	const unsigned pin = config_read8(slot, 0x3c);
	intx_served = 0;
	irq_hook[0x70] = intx_handler;
	ioapic_route(pin, 0x70, 0, true);
	for (uint32_t i = 1; i <= 5; i++) {
		write32(regs + R_INTX, 1);
		CHECK(WAIT(intx_served == i, 2000));
		sleep_ms(5);
		CHECK_EQ(intx_served, i);
		CHECK_EQ(reg(R_INTX), 0);
		// The line is low: what was raised while it was high may still come, and then no more.
		uint32_t seen, rounds = 0;
		do {
			seen = irq_count[0x70];
			sleep_ms(20);
		} while (irq_count[0x70] != seen && ++rounds < 50);
		CHECK_EQ(irq_count[0x70], seen);
	}
	ioapic_mask(pin);
	irq_hook[0x70] = NULL;
}

static bool dma(uint32_t how, uint64_t from, uint64_t to, uint32_t len)
{
	const uint32_t before = irq_count[0x61];
	write64(regs + R_DMA_FROM, from);
	write64(regs + R_DMA_TO, to);
	write32(regs + R_DMA_LEN, len);
	write32(regs + R_DMA_DO, how);
	return WAIT(irq_count[0x61] == before + 1, 5000);
}

// A word in each page, for a guest that is slow.
static void pages_fill(volatile uint32_t *at, uint32_t len, uint32_t seed)
{
	for (uint32_t i = 0; i < len / 4; i += 1024)
		at[i] = seed ? i * 2654435761u + seed : 0;
}

static bool pages_same(volatile uint32_t *a, volatile uint32_t *b, uint32_t len)
{
	for (uint32_t i = 0; i < len / 4; i += 1024)
		if (a[i] != b[i])
			return false;
	return true;
}

static void transfers(void)
{
	const uint32_t len = 0x181000; // more than one message carries
	volatile uint32_t *from = (uint32_t *)0x1000000, *to = (uint32_t *)0x1800000; // RAM that nobody uses
	vector_set(1, 0x61, false);
	config_write16(slot, msix + 2, MSIX_ENABLE);
	write32(regs + R_VECTOR, 1);
	for (unsigned how = DMA_COPY; how <= DMA_MESSAGES; how++) {
		const bool good = how == DMA_MESSAGES || option("shared", 1);
		pages_fill(from, len, how);
		pages_fill(to, len + 4096, 0);
		CHECK(dma(how, (uint64_t)from, (uint64_t)to, len));
		CHECK_EQ(reg(R_DMA_STATUS), good ? DMA_DONE : DMA_FAILED);
		CHECK_EQ(pages_same(from, to, len), good);
		CHECK_EQ(to[len / 4], 0);
	}
	// B24
	CHECK(dma(DMA_STRAY, (uint64_t)from, 0, 0));
	CHECK_EQ(reg(R_REFUSED), 10);
	CHECK_EQ(reg(R_DMA_STATUS), DMA_DONE);
	config_write16(slot, msix + 2, 0);
	write32(regs + R_VECTOR, NO_VECTOR);
}

// Of 16 writes to memory all were posted, or none; of the whole connection one, which the server answered all the same.
static void posted(void)
{
	const unsigned how = (unsigned)option("posted", 0);
	const uint32_t before = reg(R_POSTED);
	for (uint32_t i = 0; i < 8; i++) {
		write32(regs + R_SCRATCH, i);
		write32(mem + MEM_MIDDLE, i);
		CHECK_EQ(reg(R_SCRATCH), i);
		CHECK_EQ(read32(mem + MEM_MIDDLE), i);
	}
	outb(port, 0x5a); // of what is no memory the server complains
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	CHECK_EQ(reg(R_POSTED) - before, how == 16 ? 16 : 0);
	CHECK_EQ(reg(R_POSTED) > 0, how > 0);
	CHECK(how != 1 || reg(R_POSTED) == 1);
}

static void decode_off(void)
{
	config_write16(slot, PCI_COMMAND, 0);
	CHECK_EQ(reg(R_ID), ONES32);
	CHECK_EQ(read32(mem), ONES32);
	CHECK_EQ(inb(port), 0xff);
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	CHECK_EQ(reg(R_ID), MAGIC);
}

// Rows G03, G04: what is at the old place is gone, the new one works, by messages, by pages and by eventfds.
static void moves(void)
{
	const uint64_t first_regs = regs, first_mem = mem, step = 0x1000000;
	for (unsigned i = 1; i <= option("moves", 100); i++) {
		const uint64_t was_regs = regs, was_mem = mem;
		if (i % 8 == 0)
			config_write16(slot, PCI_COMMAND, COMMAND_IO);
		regs = first_regs + i % 3 * step;
		mem = first_mem + i % 5 * step;
		config_write32(slot, PCI_BAR0, (uint32_t)regs);
		config_write32(slot, PCI_BAR0 + 8, (uint32_t)mem);
		if (i % 8 == 0)
			config_write16(slot, PCI_COMMAND, COMMAND_ALL);
		CHECK_EQ(read32(i % 2 ? was_regs + R_ID : was_mem), ONES32);
		CHECK_EQ(reg(R_ID), MAGIC);
		write32(mem, i);
		if (i % 32)
			continue;
		CHECK_EQ(seen(0), i);
		doorbells();
		if (test_failed())
			return;
	}
	bar_set(slot, 0, first_regs);
	bar_set(slot, 2, first_mem);
	locate();
	CHECK_EQ(reg(R_ID), MAGIC);
}

// Its server dies, or leaves with its state kept, and comes back: what the guest has set up is there, without a word of its own.
static void returns(void)
{
	const bool kept = option("kept", 0);
	const uint32_t resets = reg(R_RESETS);
	for (unsigned i = 0; i < 4; i++)
		vector_set(i, 0x60 + i, false);
	config_write16(slot, msix + 2, MSIX_ENABLE);
	for (uint32_t round = 1; round <= option("returns", 0); round++) {
		write32(mem, round);
		write32(regs + R_SCRATCH, round);
		write32(regs + R_DIE, kept ? LEAVE : 4);
		CHECK(WAIT(reg(R_ID) == MAGIC, 20000));
		CHECK_EQ(reg(R_SCRATCH), kept ? round : 0);
		CHECK_EQ(reg(R_RESETS), kept ? resets : 1);
		CHECK_EQ(config_read16(slot, PCI_COMMAND) & 7, COMMAND_ALL);
		CHECK_EQ(config_read16(slot, msix + 2), MSIX_ENABLE | 3);
		CHECK_EQ(seen(0), kept ? round : 0);
		write32(mem, 0x77);
		CHECK_EQ(seen(0), 0x77);
		outb(port, 0x5a);
		CHECK_EQ(inb(port), 0xa5);
		sleep_ms(20); // one that keeps its state may have raised each of them
		const uint32_t before = irq_count[0x62];
		write32(regs + R_RAISE, 2);
		CHECK(WAIT(irq_count[0x62] == before + 1, 2000));
		doorbells();
		if (test_failed())
			return;
	}
	config_write16(slot, msix + 2, 0);
}

enum { PORT_EVENT = 0x603, PORT_HOTPLUG = 0x604, PIN_EVENT = 9, EVENT_PCI = 2, LOOK = 1 };

// The monitor says that the bus is to be looked at.
static bool told_to_look(uint32_t before)
{
	return WAIT(irq_count[0x71] > before, 20000) && inb(PORT_EVENT) & EVENT_PCI &&
	       inl(PORT_HOTPLUG) == LOOK;
}

static void server_ends(void)
{
	const uint32_t told = irq_count[0x71];
	ioapic_route(PIN_EVENT, 0x71, 0, false);
	write32(regs + R_DIE, 3);
	CHECK_EQ(reg(R_ID), ONES32);
	CHECK_EQ(inl(port), ONES32);
	write32(regs + R_SCRATCH, 1);
	write32(mem, 1);
	CHECK(WAIT(config_read32(slot, 0) == ONES32, 3000));
	CHECK_EQ(read32(mem), ONES32);
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	CHECK_EQ(config_read16(slot, PCI_COMMAND), 0xffff);
	CHECK_EQ(config_read32(0, PCI_CLASS) >> 8, 0x060000);
	if (option("gone", 0)) {
		CHECK(told_to_look(told));
		outl(PORT_HOTPLUG, LOOK);
	}
	if (!option("late", 0))
		return;
	sleep_ms(option("late", 0)); // for one that is another device
	CHECK_EQ(config_read32(slot, 0), ONES32);
	CHECK_EQ(reg(R_ID), ONES32);
}

// The same to a guest that is to know of it, which does here what its ACPI would: the function has gone, and is there again as after power-on.
static void replugs(void)
{
	ioapic_route(PIN_EVENT, 0x71, 0, false);
	for (uint32_t round = 1; round <= option("replugs", 0); round++) {
		uint32_t before = irq_count[0x71];
		write32(regs + R_SCRATCH, round);
		write32(regs + R_DIE, 4);
		CHECK(told_to_look(before));
		CHECK_EQ(inl(PORT_HOTPLUG), 0);
		sleep_ms(50);
		CHECK_EQ(config_read32(slot, 0), ONES32); // until the guest has seen it
		CHECK_EQ(reg(R_ID), ONES32);
		before = irq_count[0x71];
		outl(PORT_HOTPLUG, LOOK);
		CHECK(told_to_look(before));
		outl(PORT_HOTPLUG, LOOK);
		CHECK_EQ(config_read32(slot, 0), ID_OF_SERVER);
		CHECK_EQ(config_read16(slot, PCI_COMMAND) & 7, 0);
		CHECK_EQ(config_read16(slot, msix + 2), 3);
		config_write16(slot, PCI_COMMAND, COMMAND_ALL);
		locate();
		CHECK_EQ(reg(R_ID), MAGIC);
		CHECK_EQ(reg(R_SCRATCH), 0);
		vector_set(2, 0x62, false);
		config_write16(slot, msix + 2, MSIX_ENABLE);
		const uint32_t raised = irq_count[0x62];
		write32(regs + R_RAISE, 2);
		CHECK(WAIT(irq_count[0x62] == raised + 1, 2000));
		config_write16(slot, msix + 2, 0);
		doorbells();
		if (test_failed())
			return;
	}
	ioapic_mask(PIN_EVENT);
}

static uint32_t any(uint32_t *x)
{
	*x = *x * 1664525 + 1013904223;
	return *x;
}

static void ejects(void *arg)
{
	uint32_t x = 1;
	(void)arg;
	for (uint32_t i = 0; i < option("storm", 0); i++) {
		const uint32_t bits = any(&x);
		outl(PORT_HOTPLUG, bits >> 30 ? bits & ~(bits >> 31 << slot) : 1u << slot);
		if (bits & 0x100)
			inl(PORT_HOTPLUG);
	}
}

// One CPU ejects what it likes, the other has the function's BARs decode, move and be read meanwhile.
static void storm(void)
{
	const uint64_t home_regs = regs, home_mem = mem;
	uint32_t x = 2;
	if (!option("storm", 0))
		return;
	const uint32_t resets = reg(R_RESETS);
	CHECK(cpus_start(2));
	cpu_run(1, ejects, NULL);
	while (!cpu_wait(1, 0)) {
		config_write32(slot, PCI_BAR0, (uint32_t)home_regs + (any(&x) >> 30) * 0x1000000);
		config_write32(slot, PCI_BAR0 + 8, (uint32_t)home_mem + (any(&x) >> 30) * 0x1000000);
		config_write16(slot, PCI_COMMAND, (uint16_t)(any(&x) >> 29));
		reg(R_ID);
		write32(mem, 1);
		config_write16(slot, msix + 2, any(&x) >> 31 ? MSIX_ENABLE : 0);
	}
	outl(PORT_HOTPLUG, ONES32);
	CHECK_EQ(config_read32(slot, 0), ID_OF_SERVER);
	CHECK_EQ(config_read16(slot, PCI_COMMAND) & 7, 0);
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	locate();
	CHECK_EQ(regs, home_regs);
	CHECK_EQ(mem, home_mem);
	CHECK_EQ(reg(R_ID), MAGIC);
	CHECK(reg(R_RESETS) - resets > option("storm", 0) / 8);
}

// How often the machine has begun: a byte of CMOS memory, which outlives a reset.
static unsigned boots(void)
{
	outb(0x70, 0x40);
	const unsigned n = inb(0x71);
	outb(0x70, 0x40);
	outb(0x71, (uint8_t)(n + 1));
	return n;
}

// Everything that a reset of the machine has to undo is left as far from it as can be.
static void leave_and_reset(void)
{
	for (unsigned i = 0; i < 4; i++)
		vector_set(i, 0x60 + i, false);
	config_write16(slot, msix + 2, MSIX_ENABLE);
	write32(regs + R_SCRATCH, 0x5ca1ab1e);
	write32(regs + R_RAISE, 2);
	bar_set(slot, 0, regs + 0x1000000);
	bar_set(slot, 2, mem + 0x1000000);
	outb(0x64, 0xfe);
	halt_forever();
}

static void as_new(void)
{
	CHECK_EQ(config_read16(slot, PCI_COMMAND) & 7, 0);
	CHECK_EQ(config_read16(slot, msix + 2) & MSIX_ENABLE, 0);
	config_write16(slot, PCI_COMMAND, COMMAND_ALL);
	locate();
	CHECK_EQ(reg(R_ID), MAGIC);
	CHECK_EQ(reg(R_SCRATCH), 0);
	CHECK(reg(R_RESETS) > 0);
}

static bool slot_find(void)
{
	for (slot = 1; slot < 32 && config_read32(slot, 0) != ID_OF_SERVER; slot++)
		;
	msix = slot < 32 ? capability_find(slot, CAP_MSIX, 0) : 0;
	return msix != 0;
}

void guest_main(void)
{
	static const struct test tests[] = {
		{ "find", find },
		{ "registers", registers },
		{ "ports", ports },
		{ "memory", memory },
		{ "doorbells", doorbells },
		{ "posted", posted },
		{ "vectors", vectors },
		{ "intx", intx },
		{ "transfers", transfers },
		{ "decode off", decode_off },
		{ "moves", moves },
		{ "returns", returns },
		{ "replugs", replugs },
		{ "storm", storm },
		{ "intx again", intx },
		{ "vectors again", vectors },
		{ "transfers again", transfers },
		{ "its end", server_ends },
	};
	static const struct test reborn[] = { { "as new", as_new } };
	const unsigned n = boots();
	if (n > 0 && slot_find())
		tests_run(reborn, 1);
	const bool again = n < option("reboots", 0);
	tests_run(tests, ARRAY_LEN(tests) - again);
	if (again)
		leave_and_reset();
}
