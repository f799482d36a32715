// SPDX-License-Identifier: BSD-2-Clause
// Devices beside each other.  hostile: the first disk's back-end (bad-back-end) does what it likes, the second is ours and works all the
// while.  all: as many devices and queues as there can be, and a reset of everything at once (R05).  objects: one disk's back-end finds
// the other's memory (object-back-end), which is killed and comes again.
#include "lib/virtio.h"

#define BOOTS_REGISTER 0x40 // a byte of CMOS memory, which outlives a reset

static struct vdev disk, other;

static bool disk_reads(bool start)
{
	static uint8_t data[512];
	uint32_t id, len;
	if (start && !vdev_start(&disk, 0, 1, 16))
		return false;
	memset(data, 0, sizeof(data));
	// Descriptors that the other disk does not use: what this one does late is not its business.
	volatile uint8_t *status = blk_fill(&disk.q[0], 4, BLK_IN, 0, data, sizeof(data));
	vq_offer(&disk.q[0], 4);
	vq_kick(&disk.q[0], 0);
	return vq_take(&disk.q[0], &id, &len, 300) && *status == BLK_OK && id == 4 &&
	       starts_with((char *)data, "rom ");
}

// Its shared memory, if it has some, is anywhere or nowhere: to touch it is harmless.
static void touch_shared(void)
{
	static uint32_t at;
	const uint64_t bar = bar_get(disk.slot, 2);
	for (unsigned i = 0; bar && i < 64; i++) {
		at = at * 1664525 + 1013904223;
		read32(bar + (at >> 12) % 64 * 4096);
		write32(bar + (at >> 20) % 64 * 4096 + 64, at);
	}
}

// The doorbell, by the window in the configuration space: a CPU that rings so leaves the guest for it.
static void ring_trapped(void)
{
	config_write8(disk.slot, disk.window_cap + 4, 0);
	config_write32(disk.slot, disk.window_cap + 8, (uint32_t)(disk.q[0].doorbell - disk.bar));
	config_write32(disk.slot, disk.window_cap + 12, 2);
	write16(ecam(disk.slot, 0, disk.window_cap + 16), 0);
}

static void hostile(void)
{
	char line[16];
	unsigned good = 0, bad = 0, left = 800;
	bool reads = true;
	CHECK(vdev_find(&disk, 0) && vdev_find(&other, 1));
	other.vector = disk.vector + 8;
	CHECK(vdev_start(&other, 0, 1, 16));
	CHECK(disk_reads(true));
	print("ready\n");
	while (!read_line(line, sizeof(line), 2)) {
		reads = disk_reads(!reads || good % 8 == 0);
		reads ? good++ : bad++;
		touch_shared();
		ring_trapped();
		CHECK(blk_works(&other, 0, 8));
	}
	while (!disk_reads(true) && left-- > 0)
		sleep_ms(50);
	print("settled: %u good, %u bad\n", good, bad);
	CHECK(read_line(line, sizeof(line), 10000));
	CHECK(disk_reads(true));
	CHECK(blk_works(&other, 0, 8));
}

static void all(void)
{
	static struct vdev v[31];
	const unsigned count = (unsigned)option("disks", 31), queues = (unsigned)option("queues", 64);
	const unsigned mute = (unsigned)option("mute", 0); // so many are, from "mute?" on
	char line[16];
	outb(0x70, BOOTS_REGISTER);
	const unsigned boots = inb(0x71);
	outb(0x71, (uint8_t)(boots + 1));
	for (unsigned i = 0; i < count; i++) {
		CHECK(vdev_find(&v[i], i));
		CHECK_EQ(vdev_status(&v[i]), 0);
		CHECK_EQ(v[i].queue_count, queues);
		CHECK(vdev_reset(&v[i]));
		if (boots && i < mute) {
			CHECK(!vdev_negotiate(&v[i], F_BLK_MQ));
			continue;
		}
		CHECK(vdev_negotiate(&v[i], F_BLK_MQ));
		for (unsigned q = 0; q < queues; q++) {
			const uint64_t ring = (uint64_t)alloc(512, 64);
			vdev_queue_registers(&v[i], q, 4, ring, ring + 128, ring + 256);
			write16(v[i].common + VC_QUEUE_ENABLE, 1);
		}
		vdev_set_status(&v[i], S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
		CHECK_EQ(vdev_status(&v[i]), S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
	}
	if (boots == 0) {
		if (mute) {
			print("mute?\n");
			CHECK(read_line(line, sizeof(line), 10000));
		}
		print("resetting\n");
		outb(0x64, 0xfe);
		halt_forever();
	}
}

static bool disk_says(struct vdev *v, uint8_t *data)
{
	uint32_t id, len;
	for (unsigned i = 0; i < 512; i++)
		data[i] = 0;
	volatile uint8_t *status = blk_fill(&v->q[0], 0, BLK_IN, 0, data, 512);
	vq_offer(&v->q[0], 0);
	vq_kick(&v->q[0], 0);
	return vq_take(&v->q[0], &id, &len, 3000) && *status == BLK_OK;
}

// What the asker's disk shows is what the owner's showed last, and no two are the same.
static bool shows_the_same(void)
{
	static uint8_t last[512], owner[512], asker[512];
	unsigned same = 0, as_last = 0;
	if (!disk_says(&disk, owner) || !disk_says(&other, asker) || !starts_with((char *)owner, "object "))
		return false;
	for (unsigned i = 0; i < 512; i++) {
		same += asker[i] == owner[i];
		as_last += last[i] == owner[i];
		last[i] = owner[i];
	}
	return same == 512 && as_last < 512;
}

static void objects(void)
{
	static uint8_t data[512];
	char line[16];
	unsigned tries = 200;
	CHECK(vdev_find(&disk, 0) && vdev_find(&other, 1));
	other.vector = disk.vector + 8;
	CHECK(vdev_start(&disk, 0, 1, 16) && vdev_start(&other, 0, 1, 16));
	CHECK(disk_says(&other, data) && starts_with((char *)data, "nothing"));
	for (unsigned i = 0; i < 50; i++)
		CHECK(shows_the_same());
	print("kill\n");
	CHECK(read_line(line, sizeof(line), 10000));
	// Its objects are gone with it.
	do
		CHECK(disk_says(&other, data));
	while (!starts_with((char *)data, "nothing") && tries-- > 0);
	CHECK(starts_with((char *)data, "nothing"));
	print("start\n");
	CHECK(read_line(line, sizeof(line), 10000));
	for (unsigned i = 0; i < 50; i++)
		CHECK(shows_the_same());
}

static const struct test tests[] = {
	{ "a hostile back-end, and the device beside it", hostile },
	{ "R05 all functions with all queues run, are reset at once, and run again", all },
	{ "one back-end's objects are found by another, and are gone with it", objects },
};

void guest_main(void)
{
	tests_run(&tests[option_is("do", "all") ? 1 : option_is("do", "objects") ? 2 : 0], 1);
}
