// SPDX-License-Identifier: BSD-2-Clause
// Configuration space by both mechanisms, BARs that are sized, moved and placed where they must not be, capabilities, slots, events.
#include "tests/unit/child.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/pci_host.h"

#include <linux/pci_regs.h>
#include <stdatomic.h>

#define ECAM  UINT64_C(0xe8000000)
#define WIN32 UINT64_C(0xc0000000)
#define WIN64 UINT64_C(0x4000000000)
#define RAM   UINT64_C(0x80000000) // a range of somebody else's on the bus, outside the windows

static struct bus mmio, pio;
static struct pci_host host;
static struct err err;

// A function that notes what it is asked.
struct note {
	struct pci_func func;
	unsigned resets, destroyed, config_writes, moves;
	uint64_t mapped_at[PCI_BARS]; // 0: not mapped
	uint64_t last_offset, last_val;
	unsigned last_bar, last_size;
	unsigned events, event_calls;
	unsigned destroy_order;
};

static unsigned destroys;

static struct note *note_of(struct pci_func *f)
{
	return CONTAINER_OF(f, struct note, func);
}

static void note_config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	(void)f;
	if (offset == 0xf0 && size == 4)
		*val = 0x600df00d;
}

static void note_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	(void)offset, (void)size, (void)val;
	note_of(f)->config_writes++;
}

static void note_bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	if (!range_in(offset, size, f->bar[bar].size))
		abort();
	*val = offset | (uint64_t)bar << 32;
}

static void note_bar_write(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	struct note *n = note_of(f);
	if (!range_in(offset, size, f->bar[bar].size))
		abort();
	n->last_bar = bar;
	n->last_offset = offset;
	n->last_size = size;
	n->last_val = val;
}

static void note_bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped)
{
	struct note *n = note_of(f);
	if (mapped ? n->mapped_at[bar] != 0 : n->mapped_at[bar] != gpa)
		abort(); // the old place goes before the new one comes
	n->mapped_at[bar] = mapped ? gpa : 0;
	n->moves++;
}

static void note_event(struct pci_func *f, unsigned bits)
{
	struct note *n = note_of(f);
	n->events |= bits;
	n->event_calls++;
}

static void note_reset(struct pci_func *f)
{
	note_of(f)->resets++;
}

static void note_destroy(struct pci_func *f)
{
	note_of(f)->destroyed++;
	note_of(f)->destroy_order = ++destroys;
	pthread_mutex_destroy(&f->lock);
}

static const struct pci_func_ops note_ops = {
	.config_read = note_config_read,
	.config_write = note_config_write,
	.bar_read = note_bar_read,
	.bar_write = note_bar_write,
	.bar_moved = note_bar_moved,
	.event = note_event,
	.reset = note_reset,
	.destroy = note_destroy,
};

static int start(void)
{
	static const struct pci_window win32 = { WIN32, 0x20000000 }, win64 = { WIN64, UINT64_C(1) << 36 },
				       io = { 0x1000, 0xf000 };
	bus_init(&mmio);
	bus_init(&pio);
	destroys = 0;
	return pci_host_init(&host, &mmio, &pio, ECAM, win32, win64, io, &err);
}

static bool finish(void)
{
	pci_host_destroy(&host);
	bool empty = mmio.count == 0 && pio.count == 0;
	bus_destroy(&mmio);
	bus_destroy(&pio);
	return empty;
}

static void note_init(struct note *n, const char *id)
{
	*n = (struct note){ 0 };
	pci_func_init(&n->func, &note_ops, id, 0x1234, 0x5678, 0x0180aa);
	pci_func_set_subsystem(&n->func, 0x1111, 0x2222);
}

static uint64_t ecam(unsigned slot, unsigned offset)
{
	return ECAM + (slot << 15) + offset;
}

static uint64_t rd(unsigned slot, unsigned offset, unsigned size)
{
	uint64_t val;
	bus_read(&mmio, ecam(slot, offset), size, &val);
	return val;
}

static void wr(unsigned slot, unsigned offset, unsigned size, uint64_t val)
{
	bus_write(&mmio, ecam(slot, offset), size, val);
}

static uint64_t port_rd(unsigned port, unsigned size)
{
	uint64_t val;
	bus_read(&pio, port, size, &val);
	return val;
}

TEST(identity)
{
	struct note n;
	CHECK_EQ(start(), 0);
	note_init(&n, "n");
	CHECK_EQ(pci_host_plug(&host, &n.func, -1, &err), 0);
	CHECK_EQ(rd(0, 0, 4), 0x00081b36); // the bridge
	CHECK_EQ(rd(0, PCI_CLASS_REVISION, 4), 0x06000000);
	CHECK_EQ(rd(1, 0, 4), 0x56781234);
	CHECK_EQ(rd(1, 0, 2), 0x1234);
	CHECK_EQ(rd(1, 2, 2), 0x5678);
	CHECK_EQ(rd(1, 3, 1), 0x56);
	CHECK_EQ(rd(1, PCI_CLASS_REVISION, 4), 0x0180aa00);
	CHECK_EQ(rd(1, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x22221111);
	CHECK_EQ(rd(1, PCI_HEADER_TYPE, 1), 0); // one function
	CHECK_EQ(rd(1, 0xf0, 4), 0x600df00d);	// the function's own word on it
	CHECK(finish());
	CHECK_EQ(n.destroyed, 1);
}

// G01
TEST(absent_or_beyond_reads_as_ones)
{
	struct note n;
	CHECK_EQ(start(), 0);
	note_init(&n, "n");
	CHECK_EQ(pci_host_plug(&host, &n.func, 5, &err), 0);
	for (unsigned slot = 0; slot < 32; slot++)
		for (unsigned size = 1; size <= 4; size *= 2)
			if (slot != 0 && slot != 5) {
				CHECK_EQ(rd(slot, 0, size), size_mask(size));
				wr(slot, 4, size, 0xffffffff);
			}
	for (unsigned function = 1; function < 8; function++) {
		CHECK_EQ(rd(5, function << 12, 4), 0xffffffff);
		wr(5, function << 12 | PCI_COMMAND, 2, 0x406);
	}
	CHECK_EQ(rd(5, PCI_COMMAND, 2), 0);
	for (unsigned offset = 256; offset < 4096; offset += 4)
		CHECK_EQ(rd(5, offset, 4), 0xffffffff);
	wr(5, 0x104, 4, 0xffffffff);
	static const struct {
		unsigned offset, size;
	} odd[] = { { 0, 8 },	{ 1, 2 },   { 2, 4 },	{ 3, 2 },   { 0, 3 },
		    { 253, 4 }, { 254, 4 }, { 255, 2 }, { 248, 8 }, { 0xffe, 4 } };
	for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
		CHECK_EQ(rd(5, odd[i].offset, odd[i].size), size_mask(odd[i].size));
		wr(5, odd[i].offset, odd[i].size, 0);
	}
	CHECK_EQ(n.config_writes, 0);
	uint64_t val;
	CHECK(!bus_read(&mmio, ECAM + PCI_ECAM_BUS_SIZE, 4, &val)); // bus 1 is not there
	CHECK(finish());
}

// G02: every bit that is not named here is read-only.
TEST(write_mask)
{
	struct note n;
	uint8_t before[256], after[256];
	CHECK_EQ(start(), 0);
	note_init(&n, "n");
	pci_func_add_bar(&n.func, 0, 0x4000, false, false);
	pci_func_add_capability(&n.func, PCI_CAP_ID_VNDR, 16);
	CHECK_EQ(pci_host_plug(&host, &n.func, 1, &err), 0);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < 256; i++)
			before[i] = (uint8_t)rd(1, i, 1);
		for (unsigned i = 0; i < 256; i++)
			wr(1, i, 1, pass ? 0 : 0xff);
		for (unsigned i = 0; i < 256; i++) {
			after[i] = (uint8_t)rd(1, i, 1);
			uint8_t may = i == 4 ? 6 : // MASTER, MEMORY
					      i == 5 ? 4
						     : // INTX_DISABLE
					      i == 0x0c ? 0xff
							: // cache line size
					      i == 0x3c ? 0xff
							: // interrupt line
					      i == 0x11 ? 0xc0
							: // the BAR
					      i == 0x12 || i == 0x13 ? 0xff
								     : 0;
			CHECK_EQ((before[i] ^ after[i]) & ~may, 0);
			CHECK_EQ(after[i] & may, pass ? 0 : may);
		}
	}
	CHECK(finish());
}

TEST(configuration_mechanism_1)
{
	struct note n;
	CHECK_EQ(start(), 0);
	note_init(&n, "n");
	CHECK_EQ(pci_host_plug(&host, &n.func, 3, &err), 0);
	CHECK_EQ(port_rd(0xcfc, 4), 0xffffffff); // no address yet
	bus_write(&pio, 0xcf8, 4, 0xffffffff);
	CHECK_EQ(port_rd(0xcf8, 4), 0x80fffffc); // reserved bits do not stick
	CHECK_EQ(port_rd(0xcfc, 4), 0xffffffff); // bus 255
	bus_write(&pio, 0xcf8, 4, 0x80001800);
	CHECK_EQ(port_rd(0xcfc, 4), 0x56781234);
	CHECK_EQ(port_rd(0xcfe, 2), 0x5678);
	CHECK_EQ(port_rd(0xcff, 1), 0x56);
	CHECK_EQ(port_rd(0xcfd, 2), 0xffff); // not aligned
	CHECK_EQ(port_rd(0xcfe, 4), 0xffffffff);
	bus_write(&pio, 0xcf8, 4, 0x80001804);
	bus_write(&pio, 0xcfc, 2, 0x404);
	CHECK_EQ(rd(3, PCI_COMMAND, 2), 0x404);
	bus_write(&pio, 0xcf8, 4, 0x00001804); // not enabled
	bus_write(&pio, 0xcfc, 2, 0);
	CHECK_EQ(port_rd(0xcfc, 2), 0xffff);
	CHECK_EQ(rd(3, PCI_COMMAND, 2), 0x404);
	static const uint32_t nowhere[] = { 0x80011800, 0x80001900, 0x80002000 }; // bus 1, function 1, slot 4
	for (size_t i = 0; i < ARRAY_LEN(nowhere); i++) {
		bus_write(&pio, 0xcf8, 4, nowhere[i]);
		CHECK_EQ(port_rd(0xcfc, 4), 0xffffffff);
		bus_write(&pio, 0xcfc, 4, 0);
	}
	// Narrow accesses to the address register are none of it; 0xcf9 is the reset port of other machines.
	bus_write(&pio, 0xcf8, 4, 0x80001800);
	bus_write(&pio, 0xcf8, 1, 0x55);
	bus_write(&pio, 0xcf9, 1, 0x06);
	bus_write(&pio, 0xcfa, 2, 0x5555);
	CHECK_EQ(port_rd(0xcf8, 4), 0x80001800);
	CHECK_EQ(port_rd(0xcf8, 1), 0xff);
	pci_host_reset(&host);
	CHECK_EQ(port_rd(0xcf8, 4), 0);
	CHECK(finish());
}

TEST(slots)
{
	static struct note n[33];
	CHECK_EQ(start(), 0);
	note_init(&n[0], "seven");
	CHECK_EQ(pci_host_plug(&host, &n[0].func, 7, &err), 0);
	note_init(&n[1], "also");
	CHECK_EQ(pci_host_plug(&host, &n[1].func, 7, &err), (unsigned long long)-EBUSY);
	CHECK_STR(err.text, "also: PCI slot 7 is taken by seven");
	CHECK_EQ(pci_host_plug(&host, &n[1].func, 0, &err), (unsigned long long)-EBUSY);
	CHECK_EQ(pci_host_plug(&host, &n[1].func, 32, &err), (unsigned long long)-ENOSPC);
	for (unsigned i = 1; i <= 30; i++) {
		note_init(&n[i], "next");
		CHECK_EQ(pci_host_plug(&host, &n[i].func, -1, &err), 0);
		CHECK_EQ(n[i].func.slot, i < 7 ? i : i + 1);
	}
	note_init(&n[31], "late");
	CHECK_EQ(pci_host_plug(&host, &n[31].func, -1, &err), (unsigned long long)-ENOSPC);
	CHECK_STR(err.text, "late: all 31 PCI slots are taken");
	CHECK_EQ(n[31].destroyed, 0); // stays its maker's
	CHECK(finish());
	for (unsigned i = 0; i <= 30; i++)
		CHECK_EQ(n[i].destroyed, 1);
	CHECK_EQ(n[30].destroy_order, 1); // the highest slot first
}

TEST(capabilities_are_a_chain)
{
	struct note n;
	static const uint8_t ids[] = { PCI_CAP_ID_VNDR, PCI_CAP_ID_VNDR, PCI_CAP_ID_MSIX, PCI_CAP_ID_EXP };
	static const unsigned lens[] = { 16, 17, 12, 60 };
	CHECK_EQ(start(), 0);
	note_init(&n, "n");
	CHECK_EQ(n.func.config[PCI_STATUS] & PCI_STATUS_CAP_LIST, 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK(pci_func_add_capability(&n.func, ids[i], lens[i]) >= 0x40);
	CHECK_EQ(pci_host_plug(&host, &n.func, 1, &err), 0);
	CHECK(rd(1, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
	unsigned at = (unsigned)rd(1, PCI_CAPABILITY_LIST, 1), end = 0x40, i = 0;
	for (; at && i < 5; i++) {
		CHECK_EQ(at % 4, 0);
		CHECK(at >= end && at < 256);
		CHECK_EQ(rd(1, at, 1), ids[i]);
		end = at + lens[i];
		at = (unsigned)rd(1, at + 1, 1);
	}
	CHECK_EQ(i, 4);
	CHECK(finish());
}

// ---- BARs -------------------------------------------------------------------------------------------------------

static struct note n, other;

// One function with a 64 KiB 64-bit BAR 0, a 16-byte BAR 2 and a prefetchable 1 GiB 64-bit BAR 4.
static int start_bars(void)
{
	int rc = start();
	note_init(&n, "n");
	pci_func_add_bar(&n.func, 0, 0x10000, true, false);
	pci_func_add_bar(&n.func, 2, 16, false, false);
	pci_func_add_bar(&n.func, 4, UINT64_C(1) << 30, true, true);
	note_init(&other, "other");
	pci_func_add_bar(&other.func, 0, 0x10000, false, false);
	return rc < 0 || pci_host_plug(&host, &n.func, 1, &err) < 0 ||
	       pci_host_plug(&host, &other.func, 2, &err) < 0;
}

static uint64_t bar64(unsigned slot, unsigned index)
{
	return rd(slot, 0x10 + 4 * index, 4) | rd(slot, 0x14 + 4 * index, 4) << 32;
}

static void bar64_set(unsigned slot, unsigned index, uint64_t val)
{
	wr(slot, 0x10 + 4 * index, 4, val & 0xffffffff);
	wr(slot, 0x14 + 4 * index, 4, val >> 32);
}

TEST(bars_are_placed_in_the_windows)
{
	CHECK_EQ(start_bars(), 0);
	CHECK_EQ(bar64(1, 0), WIN32 | 4);
	CHECK_EQ(rd(1, 0x18, 4), WIN32 + 0x10000);
	CHECK_EQ(bar64(1, 4), WIN64 | 0xc);
	CHECK_EQ(rd(2, 0x10, 4), WIN32 + 0x20000); // aligned to its size
	uint64_t val;
	CHECK(!bus_read(&mmio, WIN32, 4, &val)); // not decoded yet
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	CHECK(bus_read(&mmio, WIN32 + 8, 4, &val));
	CHECK_EQ(val, 8);
	CHECK(bus_read(&mmio, WIN32 + 0x10004, 4, &val));
	CHECK_EQ(val, 4);
	CHECK(bus_read(&mmio, WIN64 + 0x3ffffff8, 8, &val));
	CHECK_EQ(val, UINT64_C(0x43ffffff8));
	CHECK(bus_write(&mmio, WIN32 + 0xfff8, 8, UINT64_C(0x1122334455667788)));
	CHECK_EQ(n.last_bar, 0);
	CHECK_EQ(n.last_offset, 0xfff8);
	CHECK_EQ(n.last_size, 8);
	CHECK_EQ(n.last_val, UINT64_C(0x1122334455667788));
	CHECK(!bus_write(&mmio, WIN32 + 0xfffc, 8, 0)); // over the end
	wr(1, PCI_COMMAND, 2, 0);
	CHECK(!bus_read(&mmio, WIN32, 4, &val));
	CHECK_EQ(n.mapped_at[0] | n.mapped_at[2] | n.mapped_at[4], 0);
	CHECK(finish());
}

TEST(sizing)
{
	for (unsigned decoded = 0; decoded < 2; decoded++) {
		CHECK_EQ(start_bars(), 0);
		if (decoded)
			wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
		uint64_t before = bar64(1, 4);
		bar64_set(1, 0, UINT64_MAX);
		CHECK_EQ(bar64(1, 0), ~UINT64_C(0xffff) | 4);
		wr(1, 0x18, 4, 0xffffffff);
		CHECK_EQ(rd(1, 0x18, 4), 0xfffffff0);
		bar64_set(1, 4, UINT64_MAX);
		CHECK_EQ(bar64(1, 4), ~UINT64_C(0x3fffffff) | 0xc);
		CHECK_EQ(n.mapped_at[0] | n.mapped_at[2] | n.mapped_at[4], 0);
		bar64_set(1, 4, before);
		CHECK_EQ(bar64(1, 4), before);
		CHECK_EQ(n.mapped_at[4], decoded ? WIN64 : 0);
		// One byte at a time works, too; what is no BAR stays 0.
		wr(1, 0x11, 1, 0xff);
		wr(1, 0x13, 1, 0x12);
		CHECK_EQ(rd(1, 0x10, 4), 0x12ff0004);
		wr(1, 0x1c, 4, 0xffffffff);
		CHECK_EQ(rd(1, 0x1c, 4), 0);
		wr(1, PCI_ROM_ADDRESS, 4, 0xffffffff);
		CHECK_EQ(rd(1, PCI_ROM_ADDRESS, 4), 0);
		CHECK(finish());
	}
}

// G03: kept for reading, mapping withheld.
TEST(bars_where_they_must_not_be)
{
	static const uint64_t bad[] = { 0,
					RAM,
					ECAM,
					ECAM - 0x8000,
					0xfec00000,
					0xfee00000,
					WIN32 - 0x10000,
					0xdfff8000 + 0x8000,
					WIN64 - 0x10000,
					WIN64 + (UINT64_C(1) << 36),
					UINT64_C(1) << 52,
					UINT64_MAX << 16,
					UINT64_C(0x100000000),
					WIN32 + 0x20000 /* the other's */ };
	CHECK_EQ(start_bars(), 0);
	struct bus_range somebody = { .start = RAM, .size = 0x10000000, .name = "RAM" };
	CHECK_EQ(bus_add(&mmio, &somebody), 0);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	wr(2, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		bar64_set(1, 0, bad[i]);
		CHECK_EQ(bar64(1, 0), (bad[i] & ~UINT64_C(0xffff)) | 4);
		CHECK_EQ(n.mapped_at[0], 0);
		bar64_set(1, 0, WIN32 + 0x100000 * i);
		CHECK_EQ(n.mapped_at[0], i == 0 ? WIN32 : WIN32 + 0x100000 * i);
	}
	// A 32-bit BAR reaches the 32-bit window only; a 64-bit one both.
	wr(1, 0x18, 4, 0x00001000);
	CHECK_EQ(n.mapped_at[2], 0);
	bar64_set(1, 0, WIN64 + (UINT64_C(1) << 36) - 0x10000);
	CHECK_EQ(n.mapped_at[0], WIN64 + (UINT64_C(1) << 36) - 0x10000);
	CHECK_EQ(other.mapped_at[0], WIN32 + 0x20000); // nobody took it away
	bus_remove(&mmio, &somebody);
	CHECK(finish());
}

// A BAR that was withheld because of an overlap appears when it is asked for again.
TEST(overlap_ends)
{
	CHECK_EQ(start_bars(), 0);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	wr(2, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	bar64_set(1, 0, WIN32 + 0x20000);
	CHECK_EQ(n.mapped_at[0], 0);
	wr(2, PCI_COMMAND, 2, 0);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	CHECK_EQ(n.mapped_at[0], WIN32 + 0x20000);
	wr(2, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); // now this one waits
	CHECK_EQ(other.mapped_at[0], 0);
	CHECK(finish());
}

// G05
TEST(half_written_64_bit_bar)
{
	CHECK_EQ(start_bars(), 0);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	wr(1, 0x14, 4, 0x7f); // high half first: 0x7f'c0000000 is nowhere
	CHECK_EQ(n.mapped_at[0], 0);
	wr(1, 0x10, 4, 0x00010000);
	CHECK_EQ(n.mapped_at[0], 0);
	wr(1, 0x14, 4, WIN64 >> 32);
	CHECK_EQ(n.mapped_at[0], 0); // there BAR 4 is
	wr(1, 0x10, 4, 0x40010000);
	CHECK_EQ(n.mapped_at[0], WIN64 + 0x40010000);
	CHECK(finish());
}

TEST(moves)
{
	CHECK_EQ(start_bars(), 0);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	unsigned moves = n.moves;
	uint64_t val;
	for (unsigned i = 1; i < 5000; i++) {
		uint64_t to = WIN32 + 0x100000 + (i * 37 % 1000) * 0x10000;
		wr(1, 0x10, 4, to);
		CHECK(bus_read(&mmio, to + 4, 4, &val));
		CHECK_EQ(val, 4);
		if (i % 5 == 0) {
			wr(1, PCI_COMMAND, 1, 0);
			CHECK(!bus_read(&mmio, to, 4, &val));
			wr(1, PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
		}
	}
	CHECK(n.moves > moves + 2 * 4999);
	unsigned still = n.moves;
	wr(1, 0x10, 4, n.mapped_at[0]); // where it is already
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	CHECK_EQ(n.moves, still);
	CHECK_EQ(mmio.count, 1 + 3);
	CHECK(finish());
}

TEST(reset_restores)
{
	CHECK_EQ(start_bars(), 0);
	uint8_t before[256];
	for (unsigned i = 0; i < 256; i++)
		before[i] = (uint8_t)rd(1, i, 1);
	wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	bar64_set(1, 0, WIN32 + 0x5550000);
	wr(1, PCI_INTERRUPT_LINE, 1, 9);
	pci_host_reset(&host);
	for (unsigned i = 0; i < 256; i++)
		CHECK_EQ(rd(1, i, 1), before[i]);
	CHECK_EQ(n.resets, 1);
	CHECK_EQ(other.resets, 1);
	CHECK_EQ(n.mapped_at[0] | n.mapped_at[2] | n.mapped_at[4], 0);
	CHECK_EQ(mmio.count, 1);
	CHECK(finish());
}

TEST(windows_end)
{
	static struct note big[3];
	CHECK_EQ(start(), 0);
	for (unsigned i = 0; i < 3; i++) {
		note_init(&big[i], "big");
		pci_func_add_bar(&big[i].func, 0, 0x10000000, false, false);
		int rc = pci_host_plug(&host, &big[i].func, -1, &err);
		CHECK_EQ(rc, i < 2 ? 0 : (unsigned long long)-ENOSPC);
	}
	CHECK_STR(err.text, "big: no room for BAR 0 of 268435456 bytes");
	CHECK(host.func[3] == NULL);
	// A 64-bit one goes to the other window.
	note_init(&big[2], "big");
	pci_func_add_bar(&big[2].func, 0, 0x10000000, true, false);
	CHECK_EQ(pci_host_plug(&host, &big[2].func, -1, &err), 0);
	CHECK_EQ(bar64(3, 0), WIN64 | 4);
	CHECK(finish());
}

TEST(a_host_bridge_that_cannot_be)
{
	bus_init(&mmio);
	bus_init(&pio);
	struct bus_range taken = { .start = 0xcfc, .size = 1, .name = "x" };
	struct pci_window w = { 0, 0 };
	CHECK_EQ(bus_add(&pio, &taken), 0);
	CHECK_EQ(pci_host_init(&host, &mmio, &pio, ECAM, w, w, w, &err), (unsigned long long)-EEXIST);
	CHECK_STR(err.text, "PCI host bridge: File exists");
	bus_remove(&pio, &taken);
	CHECK(finish());
	bus_init(&mmio);
	CHECK_EQ(pci_host_init(&host, &mmio, NULL, ECAM, w, w, w, &err), 0); // no ports: ECAM alone
	pci_host_destroy(&host);
	pci_host_destroy(&host);
	bus_destroy(&mmio);
}

// ---- events -----------------------------------------------------------------------------------------------------

TEST(posted_while_the_lock_is_held)
{
	CHECK_EQ(start_bars(), 0);
	pci_func_post(&n.func, 1);
	CHECK_EQ(n.events, 1);
	pci_func_lock(&n.func);
	pci_func_post(&n.func, 2);
	pci_func_post(&n.func, 4);
	CHECK_EQ(n.events, 1); // does not wait, does not come in between
	pci_func_unlock(&n.func);
	CHECK_EQ(n.events, 7);
	CHECK_EQ(n.event_calls, 2);
	CHECK(finish());
}

enum { POSTS = 20000 };
static atomic_bool posting;

static void *poster(void *arg)
{
	unsigned bit = *(unsigned *)arg;
	for (unsigned i = 0; i < POSTS; i++)
		pci_func_post(&n.func, 1u << (bit + 2 * (i % 8)));
	return NULL;
}

static void *locker(void *arg)
{
	(void)arg;
	while (atomic_load(&posting)) {
		wr(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
		wr(1, PCI_COMMAND, 2, 0);
	}
	return NULL;
}

// After the last post and the last unlock nothing is left undelivered.
TEST(no_event_is_lost)
{
	static unsigned bits[2] = { 0, 1 };
	pthread_t posters[2], lockers[2];
	for (unsigned round = 0; round < 5; round++) {
		CHECK_EQ(start_bars(), 0);
		atomic_store(&posting, true);
		for (unsigned i = 0; i < 2; i++) {
			CHECK_EQ(pthread_create(&posters[i], NULL, poster, &bits[i]), 0);
			CHECK_EQ(pthread_create(&lockers[i], NULL, locker, NULL), 0);
		}
		for (unsigned i = 0; i < 2; i++)
			pthread_join(posters[i], NULL);
		atomic_store(&posting, false);
		for (unsigned i = 0; i < 2; i++)
			pthread_join(lockers[i], NULL);
		CHECK_EQ(n.events, 0xffff);
		CHECK_EQ(atomic_load(&n.func.events), 0);
		CHECK(finish());
	}
}
