// SPDX-License-Identifier: BSD-2-Clause
// Real I/O by hand-driven rings.  Two disks, the first with two queues, the second read-only.
//
// With count=N: nothing but N requests, one after the other, between the lines "begin" and "end", for the
// harness to count what the monitor does meanwhile.
#include "lib/virtio.h"

static struct vdev disk, readonly;

static uint8_t out[64 * 1024] __attribute__((aligned(4096))), in[64 * 1024] __attribute__((aligned(4096)));

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i += 8) {
		seed = seed * 6364136223846793005ul + 1442695040888963407ul;
		memcpy(p + i, &seed, 8);
	}
}

static void write_read(void)
{
	CHECK(vdev_start(&disk, F_BLK_FLUSH, 2, 64));
	for (uint32_t len = 512; len <= 65536; len *= 4) {
		fill(out, len, len);
		CHECK_EQ(blk_request(&disk, 0, BLK_OUT, len / 64, out, len), BLK_OK);
		CHECK_EQ(blk_request(&disk, 0, BLK_FLUSH, 0, NULL, 0), BLK_OK);
		memset(in, 0, len);
		CHECK_EQ(blk_request(&disk, 1, BLK_IN, len / 64, in, len), BLK_OK);
		CHECK(memcmp(in, out, len) == 0);
	}
}

static void get_id(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	memset(in, 0xff, 64);
	CHECK_EQ(blk_request(&disk, 0, BLK_GET_ID, 0, in, 20), BLK_OK);
	CHECK(memcmp(in, "disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20) == 0);
	CHECK_EQ(in[20], 0xff);
}

static void bounds(void)
{
	CHECK(vdev_start(&disk, 0, 1, 16));
	uint64_t sectors = read64(disk.device);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, sectors - 1, in, 512), BLK_OK);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, sectors, in, 512), BLK_IOERR);
	CHECK_EQ(blk_request(&disk, 0, BLK_OUT, sectors - 1, out, 1024), BLK_IOERR);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, ~0ul, in, 512), BLK_IOERR);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 1ul << 55, in, 512), BLK_IOERR);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 0, in, 511), BLK_IOERR);
	CHECK_EQ(blk_request(&disk, 0, 0x7777, 0, in, 512), BLK_UNSUPP);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 0, in, 512), BLK_OK);
}

static void read_only(void)
{
	CHECK(vdev_start(&readonly, 0, 1, 16));
	CHECK(vdev_offered(&readonly) & F_BLK_RO);
	CHECK_EQ(blk_request(&readonly, 0, BLK_OUT, 0, out, 512), BLK_IOERR);
	CHECK_EQ(blk_request(&readonly, 0, BLK_IN, 0, in, 512), BLK_OK);
	CHECK(memcmp(in, "written by the harness", 22) == 0);
}

static void zeroes(void)
{
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} range = { 128, 8, 0 };
	CHECK(vdev_start(&disk, 0, 1, 16));
	memset(out, 0xee, 8192);
	CHECK_EQ(blk_request(&disk, 0, BLK_OUT, 128, out, 8192), BLK_OK);
	CHECK_EQ(blk_request(&disk, 0, BLK_ZEROES, 0, &range, sizeof(range)), BLK_OK);
	CHECK_EQ(blk_request(&disk, 0, BLK_IN, 128, in, 8192), BLK_OK);
	memset(out, 0, 4096);
	CHECK(memcmp(in, out, 8192) == 0);
}

static void indirect(void)
{
	CHECK(vdev_start(&disk, F_INDIRECT, 1, 16));
	fill(out, 4096, 7);
	struct vq table = { .size = 16, .desc = alloc(16 * 16, 16) };
	for (unsigned i = 0; i < 2; i++) {
		uint32_t id, len;
		volatile uint8_t *status = blk_fill(&table, 0, i ? BLK_IN : BLK_OUT, 256, i ? in : out, 4096);
		disk.q[0].desc[5].gpa = (uint64_t)table.desc;
		disk.q[0].desc[5].len = 3 * 16;
		disk.q[0].desc[5].flags = D_INDIRECT;
		vq_offer(&disk.q[0], 5);
		vq_kick(&disk.q[0], 0);
		CHECK(vq_take(&disk.q[0], &id, &len, 2000));
		CHECK_EQ(id, 5);
		CHECK_EQ(*status, BLK_OK);
		CHECK_EQ(len, i ? 4097 : 1);
	}
	CHECK(memcmp(in, out, 4096) == 0);
}

// Every request in flight at the same time, on both queues, the indices wrapping.
static void deep(void)
{
	enum { DEPTH = 16, ROUNDS = 20 };
	CHECK(vdev_start(&disk, 0, 2, 64));
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct vq *q = &disk.q[round % 2];
		volatile uint8_t *status[DEPTH];
		uint32_t id, len, seen = 0;
		for (uint16_t i = 0; i < DEPTH; i++) {
			status[i] = blk_fill(q, (uint16_t)(3 * i), BLK_IN, 8u * i, in + 4096 * i, 4096);
			vq_offer(q, (uint16_t)(3 * i));
		}
		vq_kick(q, round % 2);
		for (unsigned i = 0; i < DEPTH; i++) {
			CHECK(vq_take(q, &id, &len, 2000));
			CHECK(id % 3 == 0 && id < 3 * DEPTH && !(seen & 1u << id / 3));
			seen |= 1u << id / 3;
			CHECK_EQ(len, 4097);
			CHECK_EQ(*status[id / 3], BLK_OK);
		}
	}
}

// The index wraps at 65536; a used event asks for one interrupt a request.
static void event_index(void)
{
	CHECK(vdev_start(&disk, F_EVENT_IDX, 1, 16));
	struct vq *q = &disk.q[0];
	volatile uint16_t *used_event = &q->avail->ring[q->size];
	for (unsigned i = 0; i < 100; i++) {
		uint32_t before = irq_count[disk.vector], id, len;
		*used_event = (uint16_t)(q->used->idx + (i % 2 ? 0 : 5)); // every other one is wanted
		blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
		vq_offer(q, 0);
		vq_kick(q, 0);
		CHECK(vq_take(q, &id, &len, 2000));
		if (i % 2)
			CHECK(WAIT(irq_count[disk.vector] == before + 1, 500));
		else
			CHECK_EQ(irq_count[disk.vector], before);
	}
}

static void after_reset(void)
{
	for (unsigned i = 0; i < 20; i++) {
		CHECK(vdev_start(&disk, F_BLK_FLUSH, 2, (uint16_t)(16u << i % 3)));
		CHECK(blk_works(&disk, i % 2, 32));
	}
	CHECK(vdev_reset(&disk));
}

static void many(uint64_t count)
{
	uint32_t id, len;
	uint64_t bad = 0;
	if (!vdev_start(&disk, F_BLK_FLUSH, 1, 16))
		panic("the disk does not start");
	print("begin\n");
	for (uint64_t i = 0; i < count && !bad; i++) {
		volatile uint8_t *status =
			blk_fill(&disk.q[0], 0, i % 2 ? BLK_IN : BLK_OUT, i % 512, in, 512);
		vq_offer(&disk.q[0], 0);
		vq_kick(&disk.q[0], 0);
		bad += !vq_take(&disk.q[0], &id, &len, 2000) || *status != BLK_OK;
	}
	print("end: %lu requests, %lu bad, %u interrupts\n", count, bad, irq_count[disk.vector]);
}

static const struct test tests[] = {
	{ "write, flush, read back", write_read },
	{ "get-id", get_id },
	{ "requests beyond the disk's end, and of no kind", bounds },
	{ "a read-only disk", read_only },
	{ "write zeroes", zeroes },
	{ "indirect descriptors", indirect },
	{ "sixteen requests in flight on two queues", deep },
	{ "EVENT_IDX: interrupts when asked for", event_index },
	{ "I/O after each of twenty resets", after_reset },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0))
		panic("no disk");
	if (option("count", 0)) {
		many(option("count", 0));
		return;
	}
	if (!vdev_find(&readonly, 1))
		panic("no second disk");
	tests_run(tests, ARRAY_LEN(tests));
}
