// SPDX-License-Identifier: BSD-2-Clause
// Packed rings (virtio 1.2 §2.8) and RING_RESET (§2.6.1) through the monitor: requests, hostile rings, one queue that is set up anew while
// the other goes on.
#include "lib/virtio.h"

#define F_RING_RESET   (1ul << 40)
#define VC_QUEUE_RESET 0x3a
#define P_AVAIL	       (1u << 7)
#define P_USED	       (1u << 15)
#define EVENT_DISABLE  (1u << 16)
#define EVENT_DESC     (2u << 16)
#define WANTED	       (F_RING_PACKED | F_RING_RESET | F_INDIRECT | F_EVENT_IDX)

struct pdesc {
	uint64_t gpa;
	uint32_t len;
	uint16_t id, flags;
};

struct pring {
	uint16_t size, at, used;
	bool wrap, used_wrap;
	volatile struct pdesc *desc;
	volatile uint32_t *driver, *device; // event suppression
};

static struct vdev disk, other;
static struct pring ring[2];
static uint8_t data[4096] __attribute__((aligned(4096)));
static struct blk_header header;
static volatile uint8_t status;

static void queue_new(unsigned q, uint16_t size)
{
	struct pring *r = &ring[q];
	*r = (struct pring){ .size = size, .wrap = true, .used_wrap = true };
	r->desc = alloc(16ul * size, 16);
	r->driver = alloc(4, 4);
	r->device = alloc(4, 4);
	vdev_queue_registers(&disk, q, size, (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device);
	write16(disk.common + VC_QUEUE_VECTOR, (uint16_t)(q + 1));
	write16(disk.common + VC_QUEUE_ENABLE, 1);
}

static bool setup(uint64_t features, uint16_t size)
{
	if (!vdev_negotiate(&disk, features))
		return false;
	for (unsigned i = 0; i < 3; i++)
		msix_set(&disk, i, 0, disk.vector + i - 1);
	write16(disk.common + VC_CONFIG_VECTOR, 0);
	irq_count[disk.vector - 1] = 0;
	queue_new(0, size);
	queue_new(1, size);
	vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
	return vdev_status(&disk) == (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

// Descriptor number i from the next one on.  Number 0 is written last: it makes the others available.
static void put(struct pring *r, unsigned i, uint64_t gpa, uint32_t len, unsigned flags)
{
	unsigned at = r->at + i;
	bool wrap = r->wrap ^ (at >= r->size);
	volatile struct pdesc *d = &r->desc[at % r->size];
	d->gpa = gpa;
	d->len = len;
	d->id = 7;
	barrier();
	d->flags = (uint16_t)(flags ^ (wrap ? P_AVAIL : P_USED));
}

static void forward(struct pring *r, unsigned count)
{
	r->at = (uint16_t)(r->at + count);
	if (r->at >= r->size) {
		r->at = (uint16_t)(r->at - r->size);
		r->wrap = !r->wrap;
	}
}

static bool came_back(const struct pring *r)
{
	unsigned flags = r->desc[r->used].flags;
	return !(flags & P_AVAIL) == !r->used_wrap && !(flags & P_USED) == !r->used_wrap;
}

static void ring_bell(unsigned q)
{
	barrier();
	write16(disk.notify + (uint64_t)q * disk.notify_step, (uint16_t)q);
}

static uint8_t request(unsigned q, uint32_t type, uint64_t sector, void *buf, uint32_t len)
{
	struct pring *r = &ring[q];
	header = (struct blk_header){ .type = type, .sector = sector };
	status = BLK_NOTHING;
	put(r, 2, (uint64_t)&status, 1, D_WRITE);
	put(r, 1, (uint64_t)buf, len, type == BLK_IN ? D_NEXT | D_WRITE : D_NEXT);
	put(r, 0, (uint64_t)&header, sizeof(header), D_NEXT);
	forward(r, 3);
	ring_bell(q);
	if (!WAIT(came_back(r), 2000) || r->desc[r->used].id != 7)
		return BLK_NOTHING;
	r->used = (uint16_t)(r->used + 3);
	if (r->used >= r->size) {
		r->used = (uint16_t)(r->used - r->size);
		r->used_wrap = !r->used_wrap;
	}
	return status;
}

static bool works(unsigned q, uint64_t sector)
{
	static uint8_t out[512], in[512], seed;
	memset(out, ++seed, sizeof(out));
	memset(in, 0, sizeof(in));
	return request(q, BLK_OUT, sector, out, 512) == BLK_OK &&
	       request(q, BLK_IN, sector, in, 512) == BLK_OK && memcmp(out, in, 512) == 0;
}

static void requests(void)
{
	static const uint16_t sizes[] = { 3, 7, 16, 77, 256 };
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++)
		for (unsigned with = 0; with < 2; with++) {
			CHECK(setup(with ? WANTED : F_RING_PACKED, sizes[i]));
			for (unsigned n = 0; n < 60; n++)
				CHECK(works(n & 1, n));
		}
}

// Interrupts for one descriptor, for none, and event indexes that lie far off.
static void g28_events(void)
{
	static const uint32_t far[] = { 0x7fff, 0xffff, 0x8005, 0x0001, 15 };
	CHECK(setup(WANTED, 16));
	for (unsigned i = 0; i < ARRAY_LEN(far); i++) {
		*ring[0].driver = EVENT_DESC | far[i];
		CHECK(works(0, 1));
	}
	*ring[0].driver = EVENT_DISABLE;
	CHECK(works(0, 1));
	uint32_t before = irq_count[disk.vector];
	CHECK(works(0, 1));
	CHECK_EQ(irq_count[disk.vector], before);
	*ring[0].driver = EVENT_DESC | ring[0].used | (uint32_t)ring[0].used_wrap << 15; // wanted again
	CHECK(works(0, 1));
	CHECK(WAIT(irq_count[disk.vector] == before + 1, 1000));
}

static bool stopped(void)
{
	return WAIT(vdev_status(&disk) & S_NEEDS_RESET, 1000) && WAIT(irq_count[disk.vector - 1] > 0, 500) &&
	       !came_back(&ring[0]);
}

static void hostile(void)
{
	const uint64_t top = option("memory", 64) << 20;
	for (unsigned row = 0; row < 15; row++) {
		CHECK(setup(row == 14 ? F_RING_PACKED : WANTED, 16));
		struct pring *r = &ring[0];
		uint64_t gpa = (uint64_t)data, at = gpa;
		uint32_t len = 512;
		unsigned flags = D_WRITE;
		volatile struct pdesc *table = (volatile struct pdesc *)(void *)data;
		table[0] = (struct pdesc){ .gpa = gpa + 2048, .len = 16, .flags = D_WRITE };
		table[1] = (struct pdesc){ .gpa = gpa + 2048, .len = 16 };
		switch (row) {
		case 0: // G22: all of the ring is one chain
			for (unsigned i = 15; i > 0; i--)
				put(r, i, gpa, 16, D_NEXT);
			flags = D_NEXT;
			break;
		case 1: // a chain into what is not available
			flags = D_NEXT;
			break;
		case 2: // G23
			len = 0;
			break;
		case 3:
			len = 0xffffffff;
			break;
		case 4:
			at = ~0ul - 255;
			break;
		case 5:
			at = top - 256;
			break;
		case 6:
			at = other.bar;
			break;
		case 7: // the monitor's name for it
			at = (1ul << 44) + gpa;
			break;
		case 8: // G24
			flags = D_INDIRECT;
			len = 15;
			break;
		case 9:
			flags = D_INDIRECT | D_NEXT;
			len = 16;
			break;
		case 10:
			flags = D_INDIRECT;
			at = top - 16;
			len = 32;
			break;
		case 11: // G25: readable after writable
			flags = D_INDIRECT;
			len = 32;
			break;
		case 12:
			put(r, 1, gpa, 16, 0);
			flags = D_NEXT | D_WRITE;
			break;
		case 13: // no room for a status
			flags = 0;
			break;
		default: // indirect was not negotiated
			flags = D_INDIRECT;
			len = 16;
			break;
		}
		put(r, 0, at, len, flags);
		ring_bell(0);
		if (!stopped())
			FAIL("row %u: the queue goes on, status %x", row, vdev_status(&disk));
		CHECK(blk_works(&other, 0, 8));
		CHECK(setup(WANTED, 8));
		CHECK(works(0, 3));
		CHECK(works(1, 4));
	}
}

static void bad_places(void)
{
	static const struct {
		uint64_t desc, driver, device;
	} rows[] = {
		{ 0x200008, 0x201000, 0x202000 },  { 0x200000, 0x201002, 0x202000 },
		{ 0x200000, 0x201000, 0x202001 },  { 0x200000, 0x200010, 0x202000 },
		{ 0x200000, 0x201000, 0x201000 },  { 0x200000, 0x201000, ~0ul - 3 },
		{ 1ul << 44, 0x201000, 0x202000 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		CHECK(vdev_negotiate(&disk, WANTED));
		vdev_queue_registers(&disk, 0, 16, rows[i].desc, rows[i].driver, rows[i].device);
		write16(disk.common + VC_QUEUE_ENABLE, 1);
		vdev_set_status(&disk, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
		CHECK(vdev_status(&disk) & S_NEEDS_RESET);
	}
	CHECK(setup(WANTED, 16));
	CHECK(works(0, 5));
}

static void one_queue_anew(void)
{
	CHECK(setup(WANTED, 16));
	for (unsigned n = 0; n < 50; n++) {
		CHECK(works(0, n));
		vdev_select(&disk, 0);
		write16(disk.common + VC_QUEUE_RESET, 1);
		CHECK_EQ(read16(disk.common + VC_QUEUE_RESET), 0);
		CHECK_EQ(read16(disk.common + VC_QUEUE_ENABLE), 0);
		CHECK_EQ(read64(disk.common + VC_QUEUE_DESC), 0);
		ring_bell(0); // rings nothing
		CHECK(works(1, n));
		if (n < 49)
			queue_new(0, (uint16_t)(5 + n));
	}
	// Still reset: then with a ring that is none.
	vdev_queue_registers(&disk, 0, 16, 0x200008, 0x201000, 0x202000);
	write16(disk.common + VC_QUEUE_ENABLE, 1);
	CHECK(vdev_status(&disk) & S_NEEDS_RESET);
	CHECK(setup(F_RING_PACKED, 16)); // and where it was not negotiated
	vdev_select(&disk, 0);
	write16(disk.common + VC_QUEUE_RESET, 1);
	CHECK_EQ(read16(disk.common + VC_QUEUE_ENABLE), 1);
	CHECK(works(0, 1));
	CHECK(blk_works(&other, 0, 8));
}

static const struct test tests[] = {
	{ "requests over packed rings of any size", requests },
	{ "G28 event suppression far off, and off", g28_events },
	{ "G22-G25 packed rings that break the rules", hostile },
	{ "G11 packed rings at bad places", bad_places },
	{ "a queue is reset and set up anew while the other goes on", one_queue_anew },
};

void guest_main(void)
{
	if (!vdev_find(&disk, 0) || !vdev_find(&other, 1) || !vdev_start(&other, 0, 1, 16))
		panic("no disks");
	tests_run(tests, ARRAY_LEN(tests));
}
