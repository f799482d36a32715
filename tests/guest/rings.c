// SPDX-License-Identifier: BSD-2-Clause
// Hostile rings: what the device behind must survive.  Two CPUs, two disks, the first with two queues.
//
// After each: either the request got an answer, or the device has stopped and asks for a reset, of which the
// driver is told; the second disk has gone on; a reset revives the first.
#include "lib/virtio.h"

static struct vdev disk, other;
static struct vq *q;
static uint8_t data[8192] __attribute__((aligned(4096)));

static bool setup(uint64_t features)
{
	q = &disk.q[0];
	return vdev_start(&disk, features, 2, 16);
}

static void offer(uint16_t head)
{
	vq_offer(q, head);
	vq_kick(q, 0);
}

// The device has stopped: nothing used, NEEDS_RESET, and the configuration interrupt.
static bool stopped(void)
{
	if (!WAIT(vdev_status(&disk) & S_NEEDS_RESET, 1000) || !WAIT(irq_count[disk.vector - 1] > 0, 500))
		return false;
	irq_count[disk.vector - 1] = 0;
	return q->used->idx == q->seen;
}

static bool rest_works(void)
{
	return blk_works(&other, 0, 8);
}

static bool revived(void)
{
	return rest_works() && setup(0) && blk_works(&disk, 0, 16) && blk_works(&disk, 1, 24);
}

#define MUST_STOP(what)                                                                             \
	do {                                                                                        \
		if (!stopped())                                                                     \
			FAIL("%s: the queue goes on, status %x, used %u", what, vdev_status(&disk), \
			     q->used->idx);                                                         \
		else if (!revived())                                                                \
			FAIL("%s: not revived", what);                                              \
		if (test_failed())                                                                  \
			return;                                                                     \
	} while (0)

// An answer, or a queue that has stopped: either is right.
#define MUST_SURVIVE(what)                                                                \
	do {                                                                              \
		WAIT(vdev_status(&disk) & S_NEEDS_RESET || q->used->idx != q->seen, 300); \
		if (!revived()) {                                                         \
			FAIL("%s: not revived", what);                                    \
			return;                                                           \
		}                                                                         \
	} while (0)

static void g22_loops(void)
{
	CHECK(setup(0));
	blk_fill(q, 0, BLK_IN, 0, data, 512);
	q->desc[1].next = 1; // onto itself
	offer(0);
	MUST_STOP("a descriptor that follows itself");

	CHECK(setup(0));
	for (uint16_t i = 0; i < 16; i++) { // all of them, in a circle
		q->desc[i].gpa = (uint64_t)data;
		q->desc[i].len = 16;
		q->desc[i].flags = D_NEXT;
		q->desc[i].next = (uint16_t)((i + 1) % 16);
	}
	offer(0);
	MUST_STOP("a circle of descriptors");
}

static void g22_next_head(void)
{
	static const uint16_t wrong[] = { 16, 17, 255, 0x8000, 0xffff };
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		CHECK(setup(0));
		blk_fill(q, 0, BLK_IN, 0, data, 512);
		q->desc[1].next = wrong[i];
		offer(0);
		MUST_STOP("next beyond the table");
		CHECK(setup(0));
		offer(wrong[i]);
		MUST_STOP("head beyond the table");
	}
}

static void g23_addresses(void)
{
	const struct {
		uint64_t gpa;
		uint32_t len;
	} wrong[] = {
		{ (uint64_t)data, 0 },
		{ (uint64_t)data, 0xffffffff },
		{ ~0ul - 255, 512 },
		{ ~0ul, 512 },
		{ 1ul << 63, 512 },
		{ option("memory", 64) << 20, 512 },
		{ (option("memory", 64) << 20) - 256, 512 },
		{ other.bar, 512 },
		{ ECAM_BASE, 512 },
		{ LAPIC, 512 },
		{ disk.notify, 4 },
		{ 1ul << 44, 512 },
		{ (1ul << 44) + (uint64_t)data, 512 },
	};
	for (unsigned part = 0; part < 3; part++)
		for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
			if (part != 1 && i % 3 != part)
				continue; // all of them as data, some as header or status
			CHECK(setup(0));
			blk_fill(q, 0, BLK_IN, 0, data, 512);
			q->desc[part].gpa = wrong[i].gpa;
			q->desc[part].len = wrong[i].len;
			offer(0);
			MUST_STOP("a descriptor outside RAM");
		}
}

// Reading into the ring itself is the driver's loss and nobody else's.
static void g23_ring_itself(void)
{
	volatile void *places[] = { q->desc, q->avail, q->used };
	for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
		CHECK(setup(0));
		places[0] = q->desc, places[1] = q->avail, places[2] = q->used;
		blk_fill(q, 0, BLK_IN, 0, data, 512);
		q->desc[1].gpa = (uint64_t)places[i];
		offer(0);
		MUST_SURVIVE("data over the ring");
	}
}

static void g24_indirect(void)
{
	const uint64_t top = option("memory", 64) << 20;
	for (unsigned i = 0; i < 9; i++) {
		CHECK(setup(i == 8 ? 0 : F_INDIRECT));
		struct vq table = { .size = 16, .desc = alloc(16 * 16, 16) };
		blk_fill(&table, 0, BLK_IN, 0, data, 512);
		q->desc[0].gpa = (uint64_t)table.desc;
		q->desc[0].len = 3 * 16;
		q->desc[0].flags = D_INDIRECT;
		if (i == 0) { // nested
			table.desc[1] = q->desc[0];
		} else if (i == 1) {
			q->desc[0].len = 3 * 16 - 1;
		} else if (i == 2) {
			q->desc[0].len = 0;
		} else if (i == 3) {
			q->desc[0].flags = D_INDIRECT | D_NEXT;
			q->desc[0].next = 1;
		} else if (i == 4) {
			q->desc[0].gpa = top;
		} else if (i == 5) {
			q->desc[0].gpa = top - 16;
		} else if (i == 6) {
			table.desc[1].next = 3; // behind the table's end
		} else if (i == 7) {
			q->desc[0].len = 0xfffffff0;
		} // 8: was not negotiated
		offer(0);
		MUST_STOP("indirect");
	}
}

static void g25_order(void)
{
	CHECK(setup(0));
	blk_fill(q, 0, BLK_IN, 0, data, 512);
	q->desc[1].flags = D_NEXT | D_WRITE;
	q->desc[2].flags = 0; // readable after writable
	offer(0);
	MUST_STOP("readable after writable");

	CHECK(setup(0));
	blk_fill(q, 0, BLK_OUT, 0, data, 512);
	q->desc[2].flags = 0; // no room for a status
	offer(0);
	MUST_STOP("no writable status");

	CHECK(setup(0));
	blk_fill(q, 0, BLK_IN, 0, data, 512);
	q->desc[0].flags = D_NEXT | D_WRITE; // no header
	offer(0);
	MUST_SURVIVE("a writable header");
}

static void g25_header(void)
{
	// The header in sixteen pieces works; a shorter one is an error.
	CHECK(vdev_start(&disk, 0, 2, 32));
	q = &disk.q[0];
	struct blk_header h = { .type = BLK_IN, .sector = 3 };
	volatile uint8_t *status = blk_fill(q, 16, BLK_IN, 3, data, 512);
	for (uint16_t i = 0; i < 16; i++) {
		q->desc[i].gpa = (uint64_t)&h + i;
		q->desc[i].len = 1;
		q->desc[i].flags = D_NEXT;
		q->desc[i].next = (uint16_t)(i == 15 ? 17 : i + 1);
	}
	uint32_t id, len;
	offer(0);
	CHECK(vq_take(q, &id, &len, 2000));
	CHECK_EQ(*status, BLK_OK);
	for (unsigned short_by = 1; short_by <= 15; short_by += 7) {
		CHECK(setup(0));
		status = blk_fill(q, 0, BLK_IN, 3, data, 512);
		q->desc[0].len = 16 - short_by;
		offer(0);
		CHECK(vq_take(q, &id, &len, 2000));
		CHECK_EQ(*status, BLK_IOERR);
	}
	// A header of 4 KiB: the rest of it is data that a read has no use for.
	CHECK(setup(0));
	blk_fill(q, 0, BLK_IN, 3, data, 512);
	q->desc[0].len = 4096;
	offer(0);
	CHECK(vq_take(q, &id, &len, 2000));
	CHECK(revived());
}

static void g26_index(void)
{
	static const uint16_t jumps[] = { 17, 18, 100, 0x7fff, 0x8000, 0xffff, 0xfff0 };
	for (unsigned i = 0; i < ARRAY_LEN(jumps); i++) {
		CHECK(setup(0));
		blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
		q->avail->idx = (uint16_t)(q->avail->idx + jumps[i]); // 0xffff: one backwards
		vq_kick(q, 0);
		MUST_STOP("avail index jumps");
	}
}

static volatile bool scribbling;

// Rewrites descriptors while the device reads them.
static void scribble(void *arg)
{
	static const uint64_t places[] = { 0x200000, ~0ul, 0xc0000000, 1ul << 44, 0x100000000 };
	(void)arg;
	volatile struct desc *d = disk.q[0].desc;
	for (unsigned n = 0; scribbling; n++) {
		d[1].gpa = n % 2 ? (uint64_t)data : places[n % ARRAY_LEN(places)];
		d[1].len = n % 3 ? 512 : 0xfffffe00;
		d[1].next = (uint16_t)(n % 5 ? 2 : n);
		d[1].flags = (uint16_t)(n % 7 ? D_NEXT | D_WRITE : n & 7);
	}
}

static void g26_rewritten(void)
{
	CHECK(setup(F_INDIRECT));
	scribbling = true;
	cpu_run(1, scribble, NULL);
	for (unsigned i = 0; i < 300; i++) {
		q->desc[0].flags = D_NEXT;
		offer(0);
		if (i % 8)
			WAIT(q->used->idx == q->avail->idx, 1);
		if (vdev_status(&disk) & S_NEEDS_RESET) {
			vdev_negotiate(&disk, F_INDIRECT);
			write16(disk.common + VC_CONFIG_VECTOR, 0);
			vdev_queue_registers(&disk, 0, 16, (uint64_t)q->desc, (uint64_t)q->avail,
					     (uint64_t)q->used);
			write16(disk.common + VC_QUEUE_ENABLE, 1);
			q->avail->idx = q->used->idx = 0;
			q->seen = 0;
			blk_fill(q, 0, BLK_IN, 0, data, 512);
			vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
		}
	}
	scribbling = false;
	CHECK(cpu_wait(1, 1000));
	CHECK(setup(0));
	CHECK(blk_works(&disk, 0, 16));
	CHECK(rest_works());
}

// The used ring over the descriptors of another queue, and over the guest's own code: the driver's affair.
static void g27_used_over(void)
{
	for (unsigned i = 0; i < 2; i++) {
		CHECK(vdev_negotiate(&disk, 0));
		for (unsigned v = 0; v < 3; v++)
			msix_set(&disk, v, 0, disk.vector + v - 1);
		write16(disk.common + VC_CONFIG_VECTOR, 0);
		vdev_queue(&disk, 1, 16, 2);
		struct vq *victim = &disk.q[1];
		q = &disk.q[0];
		q->size = 16;
		q->seen = 0;
		q->desc = alloc(256, 16);
		q->avail = alloc(64, 16);
		q->used = (volatile struct used *)(i ? (volatile void *)victim->avail
						     : (volatile void *)victim->desc);
		vdev_queue_registers(&disk, 0, 16, (uint64_t)q->desc, (uint64_t)q->avail, (uint64_t)q->used);
		write16(disk.common + VC_QUEUE_VECTOR, 1);
		write16(disk.common + VC_QUEUE_ENABLE, 1);
		vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
		for (unsigned n = 0; n < 16; n++) {
			blk_fill(q, 0, BLK_IN, 0, data, 512);
			offer(0);
			vq_kick(victim, 1);
			sleep_ms(1);
		}
		CHECK(blk_works(&other, 0, 8));
		CHECK(setup(0));
		CHECK(blk_works(&disk, 0, 16));
	}
	CHECK(rest_works());
}

static void g28_event_idx(void)
{
	static const uint16_t far[] = { 0x7fff, 0x8000, 0xffff, 12345, 1000 };
	uint32_t id, len;
	CHECK(setup(F_EVENT_IDX));
	for (unsigned i = 0; i < ARRAY_LEN(far); i++) { // no interrupt is due: the answer comes all the same
		q->avail->ring[q->size] = (uint16_t)(q->used->idx + far[i]);
		blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
		offer(0);
		CHECK(vq_take(q, &id, &len, 2000));
	}
	uint32_t before = irq_count[disk.vector];
	q->avail->ring[q->size] = q->used->idx; // wanted again
	blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
	offer(0);
	CHECK(WAIT(irq_count[disk.vector] == before + 1, 1000));

	CHECK(setup(0)); // suppressed for ever, and then no more
	q->avail->flags = 1;
	before = irq_count[disk.vector];
	for (unsigned i = 0; i < 10; i++) {
		blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
		offer(0);
		CHECK(vq_take(q, &id, &len, 2000));
	}
	CHECK_EQ(irq_count[disk.vector], before);
	q->avail->flags = 0;
	blk_fill(q, 0, BLK_FLUSH, 0, NULL, 0);
	offer(0);
	CHECK(WAIT(irq_count[disk.vector] == before + 1, 1000));
	CHECK(rest_works());
}

static const struct test tests[] = {
	{ "G22 descriptor loops", g22_loops },
	{ "G22 next and head beyond the table", g22_next_head },
	{ "G23 descriptors outside RAM, of no length, wrapping", g23_addresses },
	{ "G23 data over the ring itself", g23_ring_itself },
	{ "G24 indirect tables that are wrong", g24_indirect },
	{ "G25 readable after writable, no status, no header", g25_order },
	{ "G25 headers in pieces, too short, too long", g25_header },
	{ "G26 avail index jumps and runs backwards", g26_index },
	{ "G26 descriptors rewritten by another CPU", g26_rewritten },
	{ "G27 used ring over another queue", g27_used_over },
	{ "G28 event indices far off, interrupts suppressed", g28_event_idx },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0) || !vdev_find(&other, 1) || !vdev_start(&other, 0, 1, 16))
		panic("no disks");
	if (!cpus_start(2))
		panic("no second CPU");
	tests_run(tests, ARRAY_LEN(tests));
}
