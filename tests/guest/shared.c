// SPDX-License-Identifier: BSD-2-Clause
// Memory of a back-end's in a shared memory region (shared-back-end, a disk that also shows its contents so): where the driver finds it,
// that both ends have the same bytes, and when it is not there.
#include "lib/virtio.h"

#define VCAP_SHARED 8
#define REGION	    3
#define REGION_SIZE 0x200000
#define WRITABLE    0x10000 // pages 1 and 2 of the disk
#define READONLY    0x20000 // page 4

static struct vdev disk;
static uint64_t region; // gpa

static bool region_find(void)
{
	for (unsigned cap = 0; (cap = capability_find(disk.slot, CAP_VENDOR, cap)) != 0;) {
		if (config_read8(disk.slot, cap + 3) != VCAP_SHARED)
			continue;
		region = bar_get(disk.slot, config_read8(disk.slot, cap + 4)) +
			 config_read32(disk.slot, cap + 8);
		return config_read8(disk.slot, cap + 2) == 24 && config_read8(disk.slot, cap + 5) == REGION &&
		       config_read32(disk.slot, cap + 12) == REGION_SIZE &&
		       config_read32(disk.slot, cap + 20) == 0;
	}
	return false;
}

static bool holds(uint64_t offset, const char *text)
{
	for (; *text; offset++, text++)
		if (read8(region + offset) != (uint8_t)*text)
			return false;
	return true;
}

static bool nothing_at(uint64_t offset)
{
	return read16(region + offset) == 0xffff && read32(region + offset + 4) == 0xffffffff;
}

static bool all_there(void)
{
	return holds(WRITABLE, "page 1") && holds(WRITABLE + 4096, "page 2") && holds(READONLY, "page 4");
}

static bool all_gone(void)
{
	return nothing_at(WRITABLE) && nothing_at(WRITABLE + 4096) && nothing_at(READONLY);
}

static void is_found(void)
{
	CHECK(vdev_find(&disk, 0));
	CHECK(region_find());
	CHECK(all_gone() && nothing_at(0) && nothing_at(REGION_SIZE - 8));
	CHECK(vdev_start(&disk, 0, 1, 16));
	// The back-end had its answer before it gave ours.
	CHECK(all_there());
	CHECK(nothing_at(0) && nothing_at(WRITABLE - 8) && nothing_at(WRITABLE + 0x2000) &&
	      nothing_at(READONLY + 4096));
}

static void is_one_memory(void)
{
	static uint8_t data[512];
	for (uint32_t i = 0; i < 1000; i++)
		write32(region + WRITABLE + 16 + 4 * (i % 64), 0x10000 + i);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 8, data, sizeof(data)), BLK_OK);
	CHECK(starts_with((char *)data, "page 1"));
	uint32_t v;
	memcpy(&v, data + 16 + 4 * (999 % 64), 4);
	CHECK_EQ(v, 0x10000 + 999);
	// What is for reading stays as it is, and writes to it are lost.
	write32(region + READONLY, 0x12345678);
	write8(region + READONLY + 4095, 1);
	CHECK(holds(READONLY, "page 4"));
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 32, data, sizeof(data)), BLK_OK);
	CHECK(starts_with((char *)data, "page 4"));
}

static void follows_its_bar(void)
{
	const uint64_t before = region, bar = bar_get(disk.slot, 2);
	for (unsigned i = 1; i < 20; i++) {
		config_write16(disk.slot, PCI_COMMAND, COMMAND_MASTER);
		CHECK(all_gone());
		bar_set(disk.slot, 2, bar + (i % 4) * 0x10000000);
		config_write16(disk.slot, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
		CHECK(region_find() && all_there());
	}
	bar_set(disk.slot, 2, bar);
	CHECK(region_find() && region == before && all_there());
}

static void goes_with_a_reset(void)
{
	for (unsigned i = 0; i < 5; i++) {
		CHECK(vdev_reset(&disk));
		CHECK(all_gone());
		CHECK(vdev_start(&disk, 0, 1, 16));
		CHECK(all_there());
	}
}

static void taken_back(void)
{
	char line[16];
	print("withdraw\n");
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(WAIT(nothing_at(WRITABLE), 5000));
	CHECK(nothing_at(WRITABLE + 4096) && holds(READONLY, "page 4"));
	print("give\n");
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(WAIT(all_there(), 5000));
}

static void goes_with_the_back_end(void)
{
	char line[16];
	print("kill\n");
	CHECK(WAIT(all_gone(), 10000));
	print("start\n");
	CHECK(read_line(line, sizeof(line), 10000));
	// The driver may have had it in use, and so has to begin anew.
	CHECK(WAIT((vdev_status(&disk) & S_NEEDS_RESET) != 0, 10000));
	CHECK(all_gone());
	CHECK(vdev_reset(&disk) && vdev_start(&disk, 0, 1, 16));
	CHECK(all_there());
	is_one_memory();
}

static void none_without_being_told(void)
{
	CHECK(vdev_find(&disk, 0));
	CHECK(!region_find());
	CHECK_EQ(config_read32(disk.slot, PCI_BAR0 + 8), 0);
}

static const struct test tests[] = {
	{ "without shared_memory there is no region", none_without_being_told },
	{ "a region with a capability; what the back-end maps is there, and nothing else", is_found },
	{ "the guest and the back-end have the same bytes; what is read-only stays", is_one_memory },
	{ "it follows its BAR and is not where decoding is off", follows_its_bar },
	{ "a reset takes it away, a start brings it", goes_with_a_reset },
	{ "a part that is taken back", taken_back },
	{ "the back-end's death takes it away, and the device needs a reset", goes_with_the_back_end },
};

void guest_main(void)
{
	const size_t count = sizeof(tests) / sizeof(tests[0]);
	tests_run(option("shared", 1) ? tests + 1 : tests, option("shared", 1) ? count - 1 : 1);
}
