// SPDX-License-Identifier: BSD-2-Clause
// The transport: negotiation, queue registers, the configuration window, doorbells, resets.  Two disks, the
// first with two queues.
#include "lib/virtio.h"

#define S_READY (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK)

static struct vdev disk, other;

static bool others_work(void)
{
	return blk_works(&other, 0, 8);
}

static void negotiation(void)
{
	CHECK(vdev_reset(&disk));
	CHECK(vdev_offered(&disk) & F_VERSION_1);
	CHECK(vdev_offered(&disk) & F_BLK_FLUSH);
	write32(disk.common + VC_DEVICE_FEATURE_SELECT, 2);
	CHECK_EQ(read32(disk.common + VC_DEVICE_FEATURE), 0);
	CHECK_EQ(disk.queue_count, 2);
	CHECK(vdev_start(&disk, ~F_RING_PACKED, 2, 16));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(blk_works(&disk, 1, 24));
	CHECK(vdev_reset(&disk));
}

static uint32_t window_read(uint8_t bar, uint32_t offset, uint32_t len)
{
	unsigned cap = disk.window_cap;
	config_write8(disk.slot, cap + 4, bar);
	config_write32(disk.slot, cap + 8, offset);
	config_write32(disk.slot, cap + 12, len);
	uint64_t data = ecam(disk.slot, 0, cap + 16);
	return len == 1 ? read8(data) : len == 2 ? read16(data) : read32(data);
}

static void window(void)
{
	uint32_t common = (uint32_t)(disk.common - disk.bar);
	CHECK_EQ(window_read(0, common + VC_NUM_QUEUES, 2), disk.queue_count);
	window_read(0, common + VC_STATUS, 1);
	write8(ecam(disk.slot, 0, disk.window_cap + 16), S_ACKNOWLEDGE);
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE);
	CHECK(vdev_reset(&disk));
}

static void g07_window(void)
{
	static const struct {
		uint8_t bar;
		uint32_t offset, len;
	} wrong[] = { { 1, 0, 4 },	{ 5, 0, 4 },	      { 255, 0, 4 },	      { 0, 0x10000, 4 },
		      { 0, 0xfffe, 4 }, { 0, 0xfffffffc, 4 }, { 0, 0x12, 3 },	      { 0, 0x12, 0 },
		      { 0, 0x12, 8 },	{ 0, 0x13, 2 },	      { 0, 0x14, 0xffffffff } };
	unsigned cap = disk.window_cap;
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		write32(ecam(disk.slot, 0, cap + 16), 0);
		window_read(wrong[i].bar, wrong[i].offset, wrong[i].len);
		write32(ecam(disk.slot, 0, cap + 16), 0xffffffff);
		write16(ecam(disk.slot, 0, cap + 16), 0xffff);
		write8(ecam(disk.slot, 0, cap + 16), 0x01);
		CHECK_EQ(vdev_status(&disk), 0);
	}
	config_write8(disk.slot, cap + 4, 0);
	CHECK(others_work());
}

static void g08_select(void)
{
	static const uint16_t absent[] = { 2, 3, 64, 1022, 1023, 1024, 0x7fff, 0xffff };
	CHECK(vdev_negotiate(&disk, 0));
	for (unsigned i = 0; i < ARRAY_LEN(absent); i++) {
		vdev_queue_registers(&disk, absent[i], 16, 0x200000, 0x201000, 0x202000);
		write16(disk.common + VC_QUEUE_VECTOR, 0);
		write16(disk.common + VC_QUEUE_ENABLE, 1);
		CHECK_EQ(read16(disk.common + VC_QUEUE_SELECT), absent[i]);
		for (unsigned at = VC_QUEUE_SIZE; at < VC_QUEUE_DESC; at += 2)
			CHECK_EQ(read16(disk.common + at), 0);
		for (unsigned at = VC_QUEUE_DESC; at < VC_SIZE; at += 8)
			CHECK_EQ(read64(disk.common + at), 0);
	}
	vdev_select(&disk, 0);
	CHECK_EQ(read16(disk.common + VC_QUEUE_SIZE), option("queue_size", 256));
	CHECK_EQ(read16(disk.common + VC_QUEUE_ENABLE), 0);
	CHECK(vdev_reset(&disk));
}

static void g09_size(void)
{
	static const uint16_t wrong[] = { 0, 3, 5, 100, 255, 257, 512, 1024, 0x8000, 0xffff };
	CHECK(vdev_negotiate(&disk, 0));
	vdev_select(&disk, 0);
	write16(disk.common + VC_QUEUE_SIZE, 64);
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		write16(disk.common + VC_QUEUE_SIZE, wrong[i]);
		CHECK_EQ(read16(disk.common + VC_QUEUE_SIZE), 64);
	}
	write16(disk.common + VC_QUEUE_SIZE, 256);
	CHECK_EQ(read16(disk.common + VC_QUEUE_SIZE), 256);
	CHECK(vdev_reset(&disk));
}

static bool frozen(struct vq *q)
{
	vdev_queue_registers(&disk, 0, 8, 0x300000, 0x301000, 0x302000);
	write16(disk.common + VC_QUEUE_VECTOR, 0);
	write16(disk.common + VC_QUEUE_ENABLE, 0);
	return read16(disk.common + VC_QUEUE_SIZE) == 16 &&
	       read64(disk.common + VC_QUEUE_DESC) == (uint64_t)q->desc &&
	       read64(disk.common + VC_QUEUE_DRIVER) == (uint64_t)q->avail &&
	       read64(disk.common + VC_QUEUE_DEVICE) == (uint64_t)q->used &&
	       read16(disk.common + VC_QUEUE_VECTOR) == 1 && read16(disk.common + VC_QUEUE_ENABLE) == 1;
}

static void g10_frozen(void)
{
	CHECK(vdev_negotiate(&disk, 0));
	msix_set(&disk, 1, 0, disk.vector);
	vdev_queue(&disk, 0, 16, 1);
	CHECK(frozen(&disk.q[0]));
	vdev_set_status(&disk, S_READY | S_DRIVER_OK);
	CHECK(frozen(&disk.q[0]));
	// A queue that is enabled after DRIVER_OK stays off.
	vdev_queue(&disk, 1, 16, 2);
	CHECK_EQ(read16(disk.common + VC_QUEUE_ENABLE), 0);
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
}

// DRIVER_OK with these addresses: NEEDS_RESET, the interrupt of the configuration, and a reset that helps.
static bool refused(uint64_t desc, uint64_t driver, uint64_t device)
{
	if (!vdev_negotiate(&disk, 0))
		return false;
	uint32_t before = irq_count[disk.vector - 1];
	msix_set(&disk, 0, 0, disk.vector - 1);
	write16(disk.common + VC_CONFIG_VECTOR, 0);
	vdev_queue_registers(&disk, 0, 256, desc, driver, device);
	write16(disk.common + VC_QUEUE_ENABLE, 1);
	vdev_set_status(&disk, S_READY | S_DRIVER_OK);
	return vdev_status(&disk) & S_NEEDS_RESET && WAIT(irq_count[disk.vector - 1] > before, 500) &&
	       read8(disk.isr) == 2 && read8(disk.isr) == 0 && vdev_reset(&disk);
}

static void g11_addresses(void)
{
	uint64_t ok = 0x300000, a = 0x310000, u = 0x320000, top = option("memory", 64) << 20, bar = other.bar;
	const uint64_t wrong[][3] = {
		{ 0, 0, 0 },	      { ok + 8, a, u },	    { ok, a + 1, u },	 { ok, a, u + 2 },
		{ top, a, u },	      { ok, top, u },	    { ok, a, top },	 { top - 4080, a, u },
		{ ok, top - 512, u }, { ok, a, top - 64 },  { bar, a, u },	 { ok, bar + 0x3000, u },
		{ ok, a, bar },	      { ECAM_BASE, a, u },  { ok, a, LAPIC },	 { ~15ul, a, u },
		{ ok, ~1ul, u },      { ok, a, ~3ul },	    { 1ul << 52, a, u }, { 1ul << 63, a, u },
		{ ok, ok, u },	      { ok, a, ok },	    { ok, a, a },	 { ok, ok + 4094, u },
		{ ok, a, a + 512 },   { 0xfffffff0, a, u }, { 1ul << 44, a, u },
	};
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
		if (!refused(wrong[i][0], wrong[i][1], wrong[i][2])) {
			FAIL("desc %lx driver %lx device %lx: status %x", wrong[i][0], wrong[i][1],
			     wrong[i][2], vdev_status(&disk));
			vdev_reset(&disk);
			return;
		}
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
	CHECK(others_work());
}

static void g12_order(void)
{
	CHECK(vdev_reset(&disk));
	vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER);
	// DRIVER_OK alone does nothing.
	vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER | S_DRIVER_OK);
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE | S_DRIVER);
	// VERSION_1 missing
	vdev_take(&disk, 0);
	vdev_set_status(&disk, S_READY);
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE | S_DRIVER);
	// Bits that were not offered
	vdev_take(&disk, ~vdev_offered(&disk) | F_VERSION_1);
	vdev_set_status(&disk, S_READY);
	CHECK_EQ(vdev_status(&disk), S_ACKNOWLEDGE | S_DRIVER);
	// What is right is taken, and then stays.
	vdev_take(&disk, F_VERSION_1 | F_BLK_FLUSH);
	vdev_set_status(&disk, S_READY);
	CHECK_EQ(vdev_status(&disk), S_READY);
	vdev_take(&disk, F_VERSION_1 | F_EVENT_IDX);
	write32(disk.common + VC_DRIVER_FEATURE_SELECT, 0);
	CHECK_EQ(read32(disk.common + VC_DRIVER_FEATURE), F_BLK_FLUSH);
	write32(disk.common + VC_DRIVER_FEATURE_SELECT, 2);
	write32(disk.common + VC_DRIVER_FEATURE, 0xffffffff);
	CHECK_EQ(read32(disk.common + VC_DRIVER_FEATURE), 0);
	CHECK(vdev_reset(&disk));
}

static void g13_status(void)
{
	CHECK(vdev_reset(&disk));
	// Without ACKNOWLEDGE nothing begins.
	vdev_set_status(&disk, S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
	CHECK_EQ(vdev_status(&disk) & (S_FEATURES_OK | S_DRIVER_OK), 0);
	CHECK(vdev_reset(&disk));
	CHECK(vdev_start(&disk, 0, 1, 16));
	// Bits are not cleared singly, and NEEDS_RESET is the device's.
	static const uint8_t garbage[] = { 0x01, 0x03, 0x0b, 0x0e, 0x40, 0x4f, 0x10, 0x20, 0x3f };
	for (unsigned i = 0; i < ARRAY_LEN(garbage); i++) {
		vdev_set_status(&disk, garbage[i]);
		CHECK_EQ(vdev_status(&disk), S_READY | S_DRIVER_OK);
	}
	CHECK(blk_works(&disk, 0, 16));
	for (unsigned i = 1; i < 256; i++) {
		vdev_set_status(&disk, (uint8_t)(i * 37));
		if (i * 37 % 256 == 0)
			break;
	}
	CHECK(vdev_reset(&disk));
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
}

static void g14_during_io(void)
{
	static uint8_t data[8][4096];
	for (unsigned round = 0; round < 30; round++) {
		CHECK(vdev_start(&disk, 0, 1, 32));
		for (unsigned i = 0; i < 8; i++) {
			blk_fill(&disk.q[0], (uint16_t)(3 * i), i % 2 ? BLK_IN : BLK_OUT, 64 + 8 * i, data[i],
				 4096);
			vq_offer(&disk.q[0], (uint16_t)(3 * i));
		}
		vq_kick(&disk.q[0], 0);
		vdev_set_status(&disk, 0);
		CHECK_EQ(vdev_status(&disk), 0);
		// Nothing is written after the reset.
		uint16_t used = disk.q[0].used->idx;
		sleep_ms(1);
		CHECK_EQ(disk.q[0].used->idx, used);
	}
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
}

static void g14_storm(void)
{
	CHECK(vdev_negotiate(&disk, 0));
	for (unsigned i = 0; i < 2000; i++) {
		vdev_set_status(&disk, 0);
		vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER);
	}
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
	CHECK(others_work());
}

static void g15_notify(void)
{
	// Before anything is set up, with every size, at every doorbell and between them.
	CHECK(vdev_reset(&disk));
	for (uint64_t at = 0; at < 0x1000; at += 61)
		for (unsigned size = 1; size <= 8; size *= 2)
			mmio_write(disk.notify + at, size, at);
	CHECK(vdev_start(&disk, 0, 1, 16));
	write16(disk.notify + disk.notify_step, 1); // a queue that is off
	write16(disk.notify + 2 * disk.notify_step, 2);
	write16(disk.notify + 1, 0);
	write32(disk.notify, 0xffffffff); // the value says nothing
	for (unsigned i = 0; i < 2000; i++)
		write16(disk.notify, 0);
	CHECK(blk_works(&disk, 0, 16));
	CHECK_EQ(vdev_status(&disk), S_READY | S_DRIVER_OK);
	CHECK_EQ(read16(disk.notify), 0);
	CHECK(vdev_reset(&disk));
	CHECK(others_work());
}

static void g16_config(void)
{
	CHECK(vdev_negotiate(&disk, F_BLK_WCE));
	uint64_t sectors = option("sectors", 8192);
	CHECK_EQ(read64(disk.device), sectors);
	CHECK_EQ(read32(disk.device), sectors);
	CHECK_EQ(read32(disk.device + 4), 0);
	for (unsigned size = 1; size <= 8; size *= 2)
		for (uint64_t at = disk.device_len; at + size <= 0x1000; at += 97)
			CHECK_EQ(mmio_read(disk.device + at, size), 0);
	uint64_t edge = disk.device_len - 2; // what lies beyond the end reads as 0
	CHECK_EQ(read32(disk.device + edge) >> 16, 0);
	for (unsigned size = 1; size <= 8; size *= 2)
		for (uint64_t at = 0; at < 0x1000; at += 31)
			mmio_write(disk.device + at, size, ~0ul);
	CHECK_EQ(read64(disk.device), sectors);
	CHECK_EQ(read8(disk.device + 32), 1); // wce
	write8(disk.device + 32, 0);
	CHECK_EQ(read8(disk.device + 32), 0);
	CHECK(vdev_reset(&disk));
}

static void g18_vectors(void)
{
	static const uint16_t wrong[] = { 3, 4, 5, 63, 1024, 0x7fff, 0xfffe, 0xffff };
	CHECK(vdev_negotiate(&disk, 0));
	vdev_select(&disk, 0);
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		write16(disk.common + VC_CONFIG_VECTOR, 1);
		CHECK_EQ(read16(disk.common + VC_CONFIG_VECTOR), 1);
		write16(disk.common + VC_CONFIG_VECTOR, wrong[i]);
		CHECK_EQ(read16(disk.common + VC_CONFIG_VECTOR), NO_VECTOR);
		write16(disk.common + VC_QUEUE_VECTOR, 2);
		CHECK_EQ(read16(disk.common + VC_QUEUE_VECTOR), 2);
		write16(disk.common + VC_QUEUE_VECTOR, wrong[i]);
		CHECK_EQ(read16(disk.common + VC_QUEUE_VECTOR), NO_VECTOR);
	}
	// A queue without a vector works, silently.
	CHECK(vdev_reset(&disk));
	CHECK(vdev_negotiate(&disk, 0));
	vdev_queue(&disk, 0, 16, NO_VECTOR);
	vdev_set_status(&disk, S_READY | S_DRIVER_OK);
	CHECK(blk_works(&disk, 0, 16));
	CHECK(vdev_reset(&disk));
}

static const struct test tests[] = {
	{ "negotiation, two queues, all features", negotiation },
	{ "configuration window reaches the registers", window },
	{ "G07 configuration window beyond its range", g07_window },
	{ "G08 queues that do not exist", g08_select },
	{ "G09 queue sizes that are none", g09_size },
	{ "G10 an enabled queue is frozen", g10_frozen },
	{ "G11 ring addresses outside RAM, misaligned, overlapping", g11_addresses },
	{ "G12 FEATURES_OK and DRIVER_OK out of order", g12_order },
	{ "G13 garbage in the status register", g13_status },
	{ "G14 reset during I/O", g14_during_io },
	{ "G14 reset storm", g14_storm },
	{ "G15 doorbells of every kind", g15_notify },
	{ "G16 device configuration and beyond", g16_config },
	{ "G18 vectors that do not exist", g18_vectors },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0) || !vdev_find(&other, 1) || !vdev_start(&other, 0, 1, 16))
		panic("no disks");
	tests_run(tests, ARRAY_LEN(tests));
}
