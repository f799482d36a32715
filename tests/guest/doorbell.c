// SPDX-License-Identifier: BSD-2-Clause
// A back-end's page as a doorbell (doorbell-back-end): where the guest sees it and where not, that requests are found by it, and that not
// one of them goes the other way, which is how an exit would be seen.
#include "lib/virtio.h"

// The back-end's page: a doorbell, and how often which way was rung.
#define PAGE_IDLE  0xbeef
#define PAGE_RINGS 8
#define PAGE_KICKS 12

static struct vdev disk;

static bool page_is_there(void)
{
	return read16(disk.q[0].doorbell) == PAGE_IDLE;
}

static bool reads(unsigned times)
{
	static uint8_t data[512];
	for (unsigned i = 0; i < times; i++) {
		memset(data, 0, sizeof(data));
		if (blk_request(&disk, 0, BLK_IN, i % 8, data, sizeof(data)) != BLK_OK ||
		    !starts_with((char *)data, "rom "))
			return false;
	}
	return true;
}

// All of them by the page.
static bool reads_by_page(unsigned times)
{
	const uint64_t page = disk.q[0].doorbell;
	const uint32_t rings = read32(page + PAGE_RINGS), kicks = read32(page + PAGE_KICKS);
	return reads(times) && read32(page + PAGE_RINGS) == rings + times &&
	       read32(page + PAGE_KICKS) == kicks;
}

// The eventfd is signalled once when a queue has lost its page or its back-end, which may be heard late.
static void settle(void)
{
	const uint64_t kicks = disk.q[0].doorbell + PAGE_KICKS;
	uint32_t before;
	do {
		before = read32(kicks);
		sleep_ms(200);
	} while (read32(kicks) != before);
}

static void rings_without_exit(void)
{
	CHECK(vdev_find(&disk, 0));
	CHECK_EQ(disk.notify_step, 4096);
	CHECK_EQ(read16(disk.q[0].doorbell), 0);
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(WAIT(page_is_there(), 5000));
	CHECK(reads_by_page(100));
}

static void follows_its_bar(void)
{
	const uint64_t before = disk.q[0].doorbell;
	config_write16(disk.slot, PCI_COMMAND, COMMAND_MASTER);
	CHECK_EQ(read16(before), 0xffff);
	bar_set(disk.slot, 0, disk.bar + 0x8000000);
	config_write16(disk.slot, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
	vdev_locate(&disk);
	CHECK(disk.q[0].doorbell != before && page_is_there());
	CHECK_EQ(read16(before), 0xffff);
	CHECK(reads_by_page(10));
}

static void goes_with_the_queue(void)
{
	for (unsigned i = 0; i < 5; i++) {
		CHECK(vdev_reset(&disk));
		CHECK_EQ(read16(disk.q[0].doorbell), 0);
		CHECK(vdev_start(&disk, 0, 1, 16));
		CHECK(WAIT(page_is_there(), 5000));
		CHECK(reads_by_page(3));
	}
}

static void withdrawn(void)
{
	char line[16];
	print("withdraw\n");
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(WAIT(!page_is_there(), 5000));
	CHECK(reads(10));
	CHECK_EQ(read16(disk.q[0].doorbell), 0);
	print("give\n");
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(WAIT(page_is_there(), 5000));
	settle();
	CHECK(reads_by_page(10));
}

static void goes_with_the_back_end(void)
{
	char line[16];
	print("kill\n");
	CHECK(WAIT(!page_is_there(), 10000));
	CHECK_EQ(read16(disk.q[0].doorbell), 0);
	print("start\n");
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(WAIT(page_is_there(), 10000));
	settle();
	CHECK(reads_by_page(10));
}

static void none_without_being_told(void)
{
	CHECK(vdev_find(&disk, 0));
	CHECK_EQ(disk.notify_step, 4);
	CHECK(vdev_start(&disk, 0, 1, 16));
	CHECK(reads(20));
	CHECK_EQ(read16(disk.q[0].doorbell), 0);
}

static const struct test tests[] = {
	{ "without host_notifier = true there is no page", none_without_being_told },
	{ "100 requests by a back-end's page, none by the eventfd behind it", rings_without_exit },
	{ "the page follows its BAR and is not where decoding is off", follows_its_bar },
	{ "a reset takes the page away, a start brings it", goes_with_the_queue },
	{ "a page that is withdrawn leaves the eventfd", withdrawn },
	{ "the back-end's death takes the page away, its successor has one", goes_with_the_back_end },
};

void guest_main(void)
{
	const size_t count = sizeof(tests) / sizeof(tests[0]);
	tests_run(option("pages", 1) ? tests + 1 : tests, option("pages", 1) ? count - 1 : 1);
}
