// SPDX-License-Identifier: BSD-2-Clause
// The bus: enumeration, masks, BARs.  Two CPUs, two disks; the second one is in use while the BAR of the
// first moves.
#include "lib/virtio.h"

#define ONES32 0xffffffffu

static struct vdev disk, other;

static void enumeration(void)
{
	unsigned devices = 0;
	for (unsigned slot = 0; slot < 32; slot++) {
		uint32_t id = config_read32(slot, 0);
		CHECK_EQ(port_config_read(pci_address(0, slot, 0, 0), 0, 4), id);
		if (id == ONES32)
			continue;
		devices++;
		CHECK_EQ(config_read8(slot, 0x0e) & 0x7f, 0);
		for (unsigned at = 0; at < 256; at += 4)
			CHECK_EQ(port_config_read(pci_address(0, slot, 0, at), at, 4),
				 config_read32(slot, at));
	}
	CHECK_EQ(devices, 1 + option("disks", 2));
	CHECK_EQ(config_read32(0, PCI_CLASS) >> 8, 0x060000);
	CHECK_EQ(config_read32(disk.slot, 0), 0x10421af4);
	CHECK_EQ(config_read32(disk.slot, PCI_CLASS) >> 8, 0x018000);
	CHECK_EQ(config_read8(disk.slot, PCI_CLASS), 1);
	CHECK_EQ(config_read32(disk.slot, 0x2c) & 0xffff, 0x1af4);
	CHECK(config_read16(disk.slot, PCI_STATUS) & 0x10);
}

static void capabilities(void)
{
	unsigned kinds = 0;
	for (unsigned cap = 0; (cap = capability_find(disk.slot, CAP_VENDOR, cap)) != 0;) {
		unsigned type = config_read8(disk.slot, cap + 3), len = config_read8(disk.slot, cap + 2);
		CHECK(len >= 16);
		kinds |= 1u << type;
		if (type == VCAP_PCI)
			continue;
		CHECK_EQ(config_read8(disk.slot, cap + 4), 0);
		CHECK(config_read32(disk.slot, cap + 8) + config_read32(disk.slot, cap + 12) <=
		      bar_size(disk.slot, 0));
	}
	CHECK_EQ(kinds,
		 1u << VCAP_COMMON | 1u << VCAP_NOTIFY | 1u << VCAP_ISR | 1u << VCAP_DEVICE | 1u << VCAP_PCI);
	CHECK(disk.msix_cap != 0);
	CHECK_EQ(disk.msix_count, disk.queue_count + 1);
}

static void g01_absent(void)
{
	static const uint32_t absent[] = { 0x80010000, 0x80ff0000, 0x80000100,
					   0x80000700, 0x8000f800, 0x8000ff00 };
	for (unsigned i = 0; i < ARRAY_LEN(absent); i++) {
		CHECK_EQ(port_config_read(absent[i], 0, 4), ONES32);
		CHECK_EQ(port_config_read(absent[i], 2, 2), 0xffff);
		CHECK_EQ(port_config_read(absent[i], 1, 1), 0xff);
		port_config_write(absent[i], 0, 4, 0);
		CHECK_EQ(port_config_read(absent[i], 0, 4), ONES32);
	}
	// Enable bit off: nothing answers at the data port.
	outl(0xcf8, 0);
	CHECK_EQ(inl(0xcfc), ONES32);
	for (unsigned function = 1; function < 8; function++)
		CHECK_EQ(read32(ecam(disk.slot, function, 0)), ONES32);
	write32(ecam(31, 0, 4), 0);
	CHECK_EQ(read32(ecam(31, 0, 4)), ONES32);
	CHECK_EQ(read32(ecam(disk.slot, 0, 256)), ONES32);
	CHECK_EQ(read32(ecam(disk.slot, 0, 4092)), ONES32);
	write32(ecam(disk.slot, 0, 256), 0x12345678);
	CHECK_EQ(read32(ECAM_BASE + 0x100000), ONES32); // no second bus
}

static void g01_odd_accesses(void)
{
	CHECK_EQ(read64(ecam(disk.slot, 0, 0)), ~0ul);
	uint16_t command = config_read16(disk.slot, PCI_COMMAND);
	write64(ecam(disk.slot, 0, 0), 0);
	CHECK_EQ(config_read16(disk.slot, PCI_COMMAND), command);
	CHECK_EQ(read16(ecam(disk.slot, 0, 1)), 0xffff);
	CHECK_EQ(read32(ecam(disk.slot, 0, 2)), ONES32);
	write32(ecam(disk.slot, 0, 3), 0);
	CHECK_EQ(config_read16(disk.slot, PCI_COMMAND), command);
	CHECK_EQ(read32(ecam(disk.slot, 0, 254)), ONES32);
	outl(0xcf8, pci_address(0, disk.slot, 0, 0));
	CHECK_EQ(inw(0xcfd), 0xffff);
	CHECK_EQ(inw(0xcff), 0xffff);
	CHECK_EQ(inl(0xcfe), ONES32);
	CHECK_EQ(inb(0xcf9), 0xff);
	outb(0xcf8, 0); // the address register takes 32 bits at a time
	outw(0xcf8, 0);
	CHECK_EQ(inl(0xcf8), pci_address(0, disk.slot, 0, 0));
	CHECK_EQ(inw(0xcfe), 0x1042);
	CHECK_EQ(inb(0xcff), 0x10);
}

static void g02_masks(void)
{
	// Everything but what the specification lets a driver write.
	static const struct {
		uint16_t offset;
		uint32_t writable;
	} known[] = {
		{ 0x04, 0x0406 },     // command: memory, master, INTx disable
		{ 0x0c, 0xff },	      // cache line size
		{ 0x10, 0xffff0000 }, // BAR 0: 64 KiB
		{ 0x14, ONES32 },     // its upper half
		{ 0x3c, 0xff },	      // interrupt line
	};
	unsigned slot = disk.slot, window = disk.window_cap, msix = disk.msix_cap;
	for (unsigned at = 0; at < 256; at += 4) {
		if (at == window + 16)
			continue; // the data of the window: its own test
		uint32_t old = config_read32(slot, at), may = 0;
		for (unsigned i = 0; i < ARRAY_LEN(known); i++)
			if (known[i].offset == at)
				may = known[i].writable;
		if (at == window + 4)
			may = 0xff; // bar
		if (at == window + 8 || at == window + 12)
			may = ONES32;
		if (at == msix)
			may = 0xc0000000;
		config_write32(slot, at, ~old);
		uint32_t now = config_read32(slot, at);
		config_write32(slot, at, old);
		if ((now ^ old) != may || config_read32(slot, at) != old) {
			FAIL("register %x: %x becomes %x, writable should be %x", at, old, now, may);
			return;
		}
	}
}

static void g02_host_bridge(void)
{
	for (unsigned at = 0; at < 256; at += 4) {
		uint32_t old = config_read32(0, at);
		config_write32(0, at, ~old);
		uint32_t now = config_read32(0, at);
		config_write32(0, at, old);
		if (at == PCI_COMMAND || at == 0x0c || at == 0x3c)
			continue;
		CHECK_EQ(now, old);
	}
}

// True if the disk's registers answer at the BAR's place.
static bool answers(uint64_t bar)
{
	return read16(bar + VC_NUM_QUEUES) == disk.queue_count;
}

static void g03_sizing(void)
{
	CHECK_EQ(bar_size(disk.slot, 0), 0x10000);
	CHECK(answers(disk.bar));
	for (unsigned bar = 2; bar < 6; bar++)
		CHECK_EQ(bar_size(disk.slot, bar), 0);
	config_write32(disk.slot, 0x30, ONES32); // no expansion ROM
	CHECK_EQ(config_read32(disk.slot, 0x30), 0);
	// All ones while memory is enabled: kept for reading, mapped nowhere, and back again.
	config_write32(disk.slot, PCI_BAR0, ONES32);
	CHECK_EQ(config_read32(disk.slot, PCI_BAR0), 0xffff0004);
	CHECK(!answers(disk.bar));
	config_write32(disk.slot, PCI_BAR0, (uint32_t)disk.bar);
	CHECK(answers(disk.bar));
}

static volatile uint64_t canary[16] __attribute__((aligned(65536)));

static void g03_illegal(void)
{
	const uint64_t illegal[] = { (uint64_t)canary,
				     0x0,
				     0xe8000000,
				     0xe8010000,
				     LAPIC & ~0xfffful,
				     IOAPIC & ~0xfffful,
				     other.bar,
				     0xe7fff000 + 0x1000,
				     0xffff0000,
				     0x000f000000000000ul,
				     0xfff0000000000000ul,
				     0xffffffffffff0000ul,
				     0x80000000 };
	uint64_t home = disk.bar;
	canary[2] = 0x0123456789abcdef;
	uint32_t lapic = read32(LAPIC + 0x30), ecam_id = config_read32(0, 0);
	for (unsigned i = 0; i < ARRAY_LEN(illegal); i++) {
		bar_set(disk.slot, 0, illegal[i]);
		uint64_t kept = bar_get(disk.slot, 0);
		bool ok = kept == (illegal[i] & ~0xfffful) && !answers(home) &&
			  canary[2] == 0x0123456789abcdef && read32(LAPIC + 0x30) == lapic &&
			  config_read32(0, 0) == ecam_id && vdev_status(&other) & S_DRIVER_OK;
		canary[2] = 0xfedcba9876543210;
		ok &= canary[2] == 0xfedcba9876543210;
		canary[2] = 0x0123456789abcdef;
		bar_set(disk.slot, 0, home);
		if (!ok || !answers(home)) {
			FAIL("BAR at %lx", illegal[i]);
			return;
		}
	}
	CHECK(blk_works(&other, 0, 8));
}

static void move_64bit(void)
{
	uint64_t home = disk.bar, high = option("window64", 0x100000000ul);
	bar_set(disk.slot, 0, high);
	CHECK(answers(high));
	CHECK(!answers(home));
	bar_set(disk.slot, 0, home);
	CHECK(answers(home));
	config_write16(disk.slot, PCI_COMMAND, 0);
	CHECK(!answers(home));
	config_write16(disk.slot, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
	CHECK(answers(home));
}

static void g05_half_written(void)
{
	uint64_t home = disk.bar;
	config_write32(disk.slot, PCI_BAR0 + 4, 1); // home + 4 GiB: in the 64-bit window, and so legal
	CHECK(!answers(home));
	CHECK(answers(home + 0x100000000ul));
	config_write32(disk.slot, PCI_BAR0 + 4, 0x7fffffff); // nowhere
	CHECK(!answers(home));
	CHECK(!answers(home + 0x100000000ul));
	config_write32(disk.slot, PCI_BAR0, 0);
	config_write32(disk.slot, PCI_BAR0 + 4, 0); // address 0: RAM
	CHECK(!answers(home));
	config_write32(disk.slot, PCI_BAR0, (uint32_t)home);
	CHECK(answers(home));
	// By bytes: legal only when the last one is there.
	config_write8(disk.slot, PCI_BAR0 + 3, 0x10);
	CHECK(!answers(home));
	config_write8(disk.slot, PCI_BAR0 + 3, (uint8_t)(home >> 24));
	CHECK(answers(home));
}

// ---- G04: a BAR that moves while another CPU uses it
// ------------------------------------------------------------

static volatile bool moving;
static volatile uint32_t touches, strange;

static void toucher(void *arg)
{
	(void)arg;
	uint64_t home = disk.bar, away = home + 0x100000;
	while (moving) {
		uint32_t a = read16(home + VC_NUM_QUEUES), b = read16(away + VC_NUM_QUEUES);
		// What answers is the register or nothing, never something else.
		if ((a != disk.queue_count && a != 0xffff) || (b != disk.queue_count && b != 0xffff))
			strange++;
		write16(home + 0x3000, 0);
		write16(away + 0x3000, 0);
		touches++;
	}
}

static void moves(unsigned count, uint64_t home, uint64_t away)
{
	strange = touches = 0;
	moving = true;
	cpu_run(1, toucher, NULL);
	CHECK(WAIT(touches > 0, 1000));
	for (unsigned i = 0; i < count; i++)
		if (i % 4 == 3) {
			config_write16(disk.slot, PCI_COMMAND, 0);
			config_write16(disk.slot, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
		} else {
			config_write32(disk.slot, PCI_BAR0, (uint32_t)(i % 2 ? home : away));
		}
	config_write32(disk.slot, PCI_BAR0, (uint32_t)away);
	moving = false;
	CHECK(cpu_wait(1, 2000));
	CHECK_EQ(strange, 0);
	CHECK(touches > 10);
	vdev_locate(&disk);
	CHECK_EQ(disk.bar, away);
}

static void g04_moves(void)
{
	uint64_t home = disk.bar;
	CHECK(vdev_reset(&disk));
	moves(10000, home, home + 0x100000);
	bar_set(disk.slot, 0, home);
	vdev_locate(&disk);
	CHECK(answers(home));
}

// KVM waits for the vCPUs at each change of a doorbell, which takes milliseconds where kernel mode is
// interpreted.
static void g04_doorbells(void)
{
	uint64_t home = disk.bar;
	CHECK(vdev_start(&disk, 0, 1, 16));
	moves(100, home, home + 0x100000);
	// At the new place the doorbell works, the old place is nothing.
	CHECK(blk_works(&disk, 0, 16));
	uint32_t id, len;
	blk_fill(&disk.q[0], 0, BLK_FLUSH, 0, NULL, 0);
	vq_offer(&disk.q[0], 0);
	write16(home + 0x3000, 0);
	CHECK(!vq_take(&disk.q[0], &id, &len, 20));
	vq_kick(&disk.q[0], 0);
	CHECK(vq_take(&disk.q[0], &id, &len, 2000));
	bar_set(disk.slot, 0, home);
	vdev_locate(&disk);
	CHECK(blk_works(&disk, 0, 24));
	CHECK(vdev_reset(&disk));
}

// ---- G06
// --------------------------------------------------------------------------------------------------------

static void g06_every_register(void)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	for (unsigned s = 0; s < 4; s++)
		for (uint64_t at = 0; at < 0x10000; at += at < 0x60 ? 1 : 0x7f7) {
			mmio_read(disk.bar + at, sizes[s]);
			if (at != VC_STATUS && at + sizes[s] <= 0x10000)
				mmio_write(disk.bar + at, sizes[s], 0xa5a5a5a5a5a5a5a5);
		}
	// A register answers to its own width only, and what lies across two is nobody's.
	CHECK_EQ(read32(disk.common + VC_NUM_QUEUES), 0);
	CHECK_EQ(read8(disk.common + VC_NUM_QUEUES), 0);
	CHECK_EQ(read16(disk.common + VC_NUM_QUEUES + 1), 0);
	CHECK_EQ(read16(disk.common + VC_STATUS), 0);
	vdev_set_status(&disk, S_ACKNOWLEDGE);
	write16(disk.common + VC_STATUS, 0); // two registers at once: ignored
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE);
	CHECK(vdev_reset(&disk));
}

// KVM cuts an access at a page's end, so that each half is answered by itself.
static void g06_bar_end(void)
{
	uint64_t home = disk.bar, away = home + 0x100000;
	bar_set(disk.slot, 0, away);
	uint64_t over = read32(away + 0xfffe), under = read32(away - 2), wide = read64(away + 0xfffc);
	write64(away + 0xfffc, 0);
	write64(away - 4, 0xffffffff00000000ul);
	bool alive = answers(away);
	bar_set(disk.slot, 0, home);
	CHECK_EQ(over, 0xffff0000);
	CHECK_EQ(under & 0xffff, 0xffff);
	CHECK_EQ(wide, 0xffffffff00000000ul);
	CHECK(alive);
	CHECK(blk_works(&other, 0, 8));
}

static const struct test tests[] = {
	{ "enumeration by ports and by ECAM is the same", enumeration },
	{ "capabilities of a virtio function", capabilities },
	{ "G01 absent functions and offsets read as ones", g01_absent },
	{ "G01 odd sizes and addresses", g01_odd_accesses },
	{ "G02 read-only bits stay", g02_masks },
	{ "G02 the host bridge too", g02_host_bridge },
	{ "G03 BAR sizing", g03_sizing },
	{ "G03 BARs over RAM, ECAM, APICs, each other", g03_illegal },
	{ "BAR above 4 GiB, and memory decoding off", move_64bit },
	{ "G05 a BAR written by halves and bytes", g05_half_written },
	{ "G04 10,000 moves while a CPU uses the BAR", g04_moves },
	{ "G04 doorbells follow a BAR that moves", g04_doorbells },
	{ "G06 every register with every size", g06_every_register },
	{ "G06 accesses across the end of a BAR", g06_bar_end },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0) || !vdev_find(&other, 1) || !vdev_start(&other, 0, 1, 16))
		panic("no disks");
	if (!cpus_start(2))
		panic("no second CPU");
	tests_run(tests, ARRAY_LEN(tests));
}
