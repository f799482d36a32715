// SPDX-License-Identifier: BSD-2-Clause
// Packed virtqueues from the device's side, against a driver that breaks the rules; what the descriptors say when it keeps them, and
// the record of what is in flight, cut off at each place that matters.
#include "devices/sdk/virtq.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>

#define PACKED	    (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define F_INDIRECT  (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define F_EVENT_IDX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define F_IN_ORDER  (UINT64_C(1) << VIRTIO_F_IN_ORDER)
#define NEXT	    VRING_DESC_F_NEXT
#define WRITE	    VRING_DESC_F_WRITE
#define INDIRECT    VRING_DESC_F_INDIRECT
#define AVAIL	    (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED	    (1u << VRING_PACKED_DESC_F_USED)
#define IOVECS	    20
#define FRESH	    0x80008000u // both wrap counters are 1
#define TABLE	    0x8000u

static struct {
	struct driver dr;
	struct guest_mem mem;
	struct vq q;
	struct iovec iov[IOVECS];
	struct vq_chain c;
} r;

static struct vring_packed_desc *ring(void)
{
	return (void *)r.dr.ram;
}

static uint32_t *driver_event(void)
{
	return (void *)r.dr.avail;
}

static uint32_t *device_event(void)
{
	return (void *)r.dr.used;
}

static bool start(uint64_t features)
{
	return vq_start(&r.q, &r.mem, &r.dr.place, features | PACKED) == 0;
}

static bool set_up(uint64_t features)
{
	log_init("virtq_packed", LOG_ERROR);
	memset(&r, 0, sizeof(r));
	r.q.enabled = true;
	r.q.call_fd = fd_eventfd();
	r.q.err_fd = fd_eventfd();
	if (!driver_open(&r.dr) || guest_mem_add(&r.mem, r.dr.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) < 0)
		return false;
	r.dr.place.base = FRESH;
	return start(features);
}

static void tear_down(void)
{
	vq_stop(&r.q);
	fd_close(&r.q.call_fd);
	fd_close(&r.q.err_fd);
	guest_mem_clear(&r.mem);
	driver_close(&r.dr);
}

static int pop(void)
{
	return vq_pop(&r.q, &r.c, r.iov, IOVECS);
}

// Descriptor `at`, available in the first lap unless `flags` says otherwise.
static void desc(unsigned at, uint64_t off, uint32_t len, unsigned id, unsigned flags)
{
	if (!(flags & (AVAIL | USED)))
		flags |= AVAIL;
	ring()[at] = (struct vring_packed_desc){
		.addr = DRIVER_GPA + off, .len = len, .id = (uint16_t)id, .flags = (uint16_t)flags
	};
}

static void table(unsigned i, uint64_t off, uint32_t len, unsigned flags)
{
	struct vring_packed_desc d = { .addr = DRIVER_GPA + off, .len = len, .flags = (uint16_t)flags };
	memcpy(r.dr.ram + TABLE + i * sizeof(d), &d, sizeof(d));
}

// One hostile layout from descriptor 0 on: popped, it must fail the queue, signal the error eventfd and leave the ring alone.
#define REFUSED(features, ...)                                                                \
	do {                                                                                  \
		CHECK(set_up(features));                                                      \
		__VA_ARGS__;                                                                  \
		uint8_t before[DRIVER_SIZE * sizeof(struct vring_packed_desc)];               \
		memcpy(before, r.dr.ram, sizeof(before));                                     \
		CHECK_EQ(pop(), -EPROTO);                                                     \
		CHECK(r.q.failed);                                                            \
		CHECK(fd_event_take(r.q.err_fd));                                             \
		CHECK_EQ(pop(), -EPROTO);                                                     \
		vq_publish(&r.q);                                                             \
		CHECK(!vq_notify_enable(&r.q));                                               \
		CHECK(memcmp(before, r.dr.ram, sizeof(before)) == 0 && *device_event() == 0); \
		CHECK_EQ(vq_stop(&r.q), FRESH);                                               \
		tear_down();                                                                  \
	} while (0)

TEST(an_empty_ring_gives_nothing)
{
	CHECK(set_up(0));
	CHECK_EQ(pop(), 0);
	CHECK(!vq_has_more(&r.q));
	desc(0, DRIVER_DATA, 1, 0, USED | AVAIL); // as if it were used already
	CHECK_EQ(pop(), 0);
	desc(0, DRIVER_DATA, 1, 0, USED); // of another lap
	CHECK_EQ(pop(), 0);
	tear_down();
}

TEST(chains_come_back_out_of_order)
{
	CHECK(set_up(0));
	desc(0, DRIVER_DATA, 16, 0, NEXT);
	desc(1, DRIVER_DATA + 4096, 512, 0, NEXT | WRITE);
	desc(2, DRIVER_DATA + 8192, 1, 0xfffe, WRITE); // the last one's number counts, and may be anything
	desc(3, DRIVER_DATA, 8, 7, 0);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable, 1);
	CHECK_EQ(r.c.writable, 2);
	CHECK_EQ(r.c.readable_len, 16);
	CHECK_EQ(r.c.writable_len, 513);
	struct vq_chain first = r.c;
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable_len, 8);
	vq_push(&r.q, r.c.head, 0);
	vq_push(&r.q, first.head, 513);
	CHECK_EQ(ring()[0].flags, AVAIL | NEXT); // not before it is published
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].id, 7);
	CHECK_EQ(ring()[0].flags, AVAIL | USED);
	CHECK_EQ(ring()[1].id, 0xfffe); // where the first one ended
	CHECK_EQ(ring()[1].len, 513);
	CHECK_EQ(ring()[1].flags, AVAIL | USED | WRITE);
	CHECK_EQ(ring()[2].flags, AVAIL | WRITE);
	CHECK(fd_event_take(r.q.call_fd));
	CHECK_EQ(vq_stop(&r.q), FRESH + 0x40004);
	tear_down();
}

TEST(the_first_of_a_batch_is_shown_last)
{
	CHECK(set_up(F_IN_ORDER));
	for (unsigned i = 0; i < 4; i++)
		desc(i, DRIVER_DATA, 8, i, i == 3 ? WRITE : 0);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(pop(), 1);
		vq_push(&r.q, r.c.head, i == 3 ? 8 : 0);
	}
	vq_publish(&r.q);
	// Three that were only read are one descriptor, with the last one's number; what was written says how much.
	CHECK_EQ(ring()[0].id, 2);
	CHECK_EQ(ring()[0].flags, AVAIL | USED);
	CHECK_EQ(ring()[1].flags, AVAIL);
	CHECK_EQ(ring()[3].id, 3);
	CHECK_EQ(ring()[3].len, 8);
	tear_down();
}

TEST(indirect_tables)
{
	CHECK(set_up(F_INDIRECT));
	desc(0, TABLE, 32, 5, INDIRECT | WRITE);	    // WRITE says nothing there
	table(0, DRIVER_DATA, 16, NEXT | INDIRECT | AVAIL); // and in the table nothing else does
	table(1, DRIVER_DATA + 64, 1, WRITE);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable_len, 16);
	CHECK_EQ(r.c.writable_len, 1);
	vq_push(&r.q, r.c.head, 1);
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].id, 5);
	CHECK_EQ(vq_stop(&r.q), FRESH + 0x10001);
	tear_down();
	REFUSED(0, desc(0, TABLE, 32, 0, INDIRECT)); // not negotiated
	REFUSED(F_INDIRECT, desc(0, TABLE, 24, 0, INDIRECT));
	REFUSED(F_INDIRECT, desc(0, TABLE, 0, 0, INDIRECT));
	REFUSED(F_INDIRECT, desc(0, TABLE, (IOVECS + 1) * 16, 0, INDIRECT));
	REFUSED(F_INDIRECT, desc(0, TABLE, 0xfffffff0, 0, INDIRECT));
	REFUSED(F_INDIRECT, desc(0, DRIVER_MEM - 16, 32, 0, INDIRECT));
	REFUSED(F_INDIRECT, desc(0, TABLE, 16, 0, INDIRECT | NEXT), table(0, DRIVER_DATA, 1, 0));
	REFUSED(F_INDIRECT, desc(0, DRIVER_DATA, 1, 0, NEXT), desc(1, TABLE, 16, 0, INDIRECT),
		table(0, DRIVER_DATA, 1, 0));
	REFUSED(F_INDIRECT, desc(0, TABLE, 32, 0, INDIRECT), table(0, DRIVER_DATA, 1, WRITE),
		table(1, DRIVER_DATA, 1, 0)); // readable after writable
}

TEST(lengths_and_addresses_that_are_not_memory)
{
	REFUSED(0, desc(0, DRIVER_DATA, 0, 0, 0));
	REFUSED(0, desc(0, DRIVER_DATA, 0xffffffff, 0, 0));
	REFUSED(0, desc(0, DRIVER_MEM, 1, 0, 0));
	REFUSED(0, desc(0, DRIVER_MEM - 1, 2, 0, 0));
	REFUSED(0, desc(0, UINT64_MAX - DRIVER_GPA - 3, 8, 0, 0));
	REFUSED(0, desc(0, DRIVER_UVA - DRIVER_GPA + DRIVER_DATA, 1, 0,
			0)); // a front-end's address is no guest's
	REFUSED(0, desc(0, DRIVER_DATA, 1, 0, WRITE | NEXT), desc(1, DRIVER_DATA, 1, 0, 0));
}

TEST(chains_without_end)
{
	// All of the ring, and again.
	REFUSED(0, for (unsigned i = 0; i < DRIVER_SIZE; i++) desc(i, DRIVER_DATA + i, 1, 0, NEXT));
	// A descriptor that the driver has not made available, and one of the last lap.
	REFUSED(0, desc(0, DRIVER_DATA, 1, 0, NEXT), desc(1, DRIVER_DATA, 1, 0, AVAIL | USED));
	REFUSED(0, desc(0, DRIVER_DATA, 1, 0, NEXT), desc(1, DRIVER_DATA, 1, 0, USED));
	CHECK(set_up(0));
	desc(0, DRIVER_DATA, 1, 0, NEXT);
	desc(1, DRIVER_DATA, 1, 0, 0);
	CHECK_EQ(vq_pop(&r.q, &r.c, r.iov, 1), -EPROTO); // more segments than there is room
	tear_down();
}

TEST(more_requests_than_descriptors)
{
	CHECK(set_up(0));
	for (unsigned lap = 0; lap < 2; lap++) {
		for (unsigned i = 0; i < DRIVER_SIZE; i++)
			desc(i, DRIVER_DATA, 1, 3, lap ? WRITE | USED : WRITE); // all of one name
		for (unsigned i = 0; lap == 0 && i < DRIVER_SIZE; i++)
			CHECK_EQ(pop(), 1);
	}
	CHECK_EQ(pop(), -EPROTO); // the second lap, with nothing given back
	CHECK_EQ(r.q.in_flight, DRIVER_SIZE);
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		vq_push(&r.q, (uint16_t)i, 1); // completions of a failed queue go nowhere
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].flags, USED | WRITE);
	CHECK_EQ(r.q.in_flight, 0);
	tear_down();
}

TEST(places_and_sizes_are_checked)
{
	CHECK(set_up(0));
	vq_stop(&r.q);
	const struct vq_place good = r.dr.place;
	struct vq_place bad[] = { good, good, good, good, good, good, good, good, good };
	bad[0].size = 0;
	bad[1].size = VQ_SIZE_MAX + 1;
	bad[2].desc += 8;
	bad[3].avail += 2;
	bad[4].used += 1;
	bad[5].used = DRIVER_UVA + DRIVER_MEM - 2;
	bad[6].desc = UINT64_MAX - 15;
	bad[7].base = 0x8000 | DRIVER_SIZE;
	bad[8].base = 0x80018003; // two requests in flight, and nobody knows which
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK(vq_start(&r.q, &r.mem, &bad[i], PACKED) < 0);
		CHECK(!r.q.running);
	}
	struct vq_place odd = good;
	odd.size = 13;
	odd.base = 0x8000 | 12; // a front-end that knows no second half
	CHECK_EQ(vq_start(&r.q, &r.mem, &odd, PACKED), 0);
	CHECK(r.q.resumed);
	desc(12, DRIVER_DATA, 1, 9, 0);
	CHECK_EQ(pop(), 1);
	vq_push(&r.q, r.c.head, 0);
	vq_publish(&r.q);
	CHECK_EQ(ring()[12].flags, AVAIL | USED);
	CHECK_EQ(vq_stop(&r.q), 0); // both wrap counters have changed
	tear_down();
}

TEST(interrupts)
{
	CHECK(set_up(F_EVENT_IDX));
	static const struct {
		uint32_t event;
		bool interrupt;
	} rows[] = {
		{ VRING_PACKED_EVENT_FLAG_DISABLE << 16, false },
		{ VRING_PACKED_EVENT_FLAG_ENABLE << 16, true },
		{ VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x8002, true },
		{ VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x8002, false }, // behind
		{ VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x8008, false },
		{ VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x0005, false }, // in the next lap
		{ VRING_PACKED_EVENT_FLAG_DESC << 16 | 0xffff, false },
		{ 3u << 16, true },   // reserved
		{ 0xfffc0000, true }, // so are the bits above
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		*driver_event() = rows[i].event;
		desc(i, DRIVER_DATA, 1, i, 0);
		CHECK_EQ(pop(), 1);
		vq_push(&r.q, r.c.head, 0);
		vq_publish(&r.q);
		CHECK_EQ(fd_event_take(r.q.call_fd), rows[i].interrupt);
		vq_publish(&r.q); // nothing new
		CHECK(!fd_event_take(r.q.call_fd));
	}
	tear_down();
	CHECK(set_up(0)); // an event index that was not negotiated
	*driver_event() = VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x8005;
	desc(0, DRIVER_DATA, 1, 0, 0);
	CHECK_EQ(pop(), 1);
	vq_push(&r.q, r.c.head, 0);
	vq_publish(&r.q);
	CHECK(fd_event_take(r.q.call_fd));
	tear_down();
}

TEST(kicks)
{
	CHECK(set_up(0));
	vq_notify_disable(&r.q);
	CHECK_EQ(*device_event(), VRING_PACKED_EVENT_FLAG_DISABLE << 16);
	desc(0, DRIVER_DATA, 1, 0, 0);
	CHECK(vq_notify_enable(&r.q)); // found without a kick
	CHECK_EQ(*device_event(), 0);
	tear_down();
	CHECK(set_up(F_EVENT_IDX));
	desc(0, DRIVER_DATA, 1, 0, 0);
	CHECK_EQ(pop(), 1);
	CHECK(!vq_notify_enable(&r.q));
	CHECK_EQ(*device_event(), VRING_PACKED_EVENT_FLAG_DESC << 16 | 0x8001);
	tear_down();
}

// ---- the record of what is in flight --------------------------------------------------------------------------------

static _Alignas(64) uint8_t
	record[sizeof(struct inflight_packed_region) + DRIVER_SIZE * sizeof(struct inflight_packed_desc)];

static struct inflight_packed_region *record_fresh(void)
{
	memset(record, 0xaa, sizeof(record)); // rubbish of another version
	r.dr.place.log = (void *)record;
	r.dr.place.log_size = DRIVER_SIZE;
	return (void *)record;
}

// The queue as a new process finds it.
static bool restart(void)
{
	int call = r.q.call_fd, err = r.q.err_fd;
	memset(&r.q, 0, sizeof(r.q));
	r.q.enabled = true;
	r.q.call_fd = call;
	r.q.err_fd = err;
	return start(0);
}

// Takes three requests of 1, 2 and 1 descriptors, into `taken`.
static bool take_three(struct vq_chain *taken)
{
	desc(0, DRIVER_DATA, 1, 100, WRITE);
	desc(1, DRIVER_DATA + 1, 1, 0, NEXT);
	desc(2, DRIVER_DATA + 2, 1, 101, WRITE);
	desc(3, DRIVER_DATA + 3, 1, 102, WRITE);
	for (unsigned i = 0; i < 3; i++) {
		if (pop() != 1)
			return false;
		taken[i] = r.c;
	}
	return true;
}

TEST(requests_of_a_killed_back_end_are_done_again)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	struct vq_chain taken[3];
	CHECK(restart());
	CHECK_EQ(g->version, 1);
	CHECK(take_three(taken));
	vq_push(&r.q, taken[2].head, 1); // over the first one's descriptor
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].id, 102);
	CHECK_EQ(g->used_idx, 1);
	CHECK_EQ(g->old_used_idx, 1);
	CHECK(restart());
	CHECK(r.q.resumed);
	CHECK(vq_has_more(&r.q));
	CHECK_EQ(pop(), 1);
	CHECK((uint8_t *)r.iov[0].iov_base - r.mem.region[0].host == DRIVER_DATA);
	vq_push(&r.q, r.c.head, 1);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable, 1);
	CHECK_EQ(r.c.writable, 1);
	vq_push(&r.q, r.c.head, 1);
	CHECK_EQ(pop(), 0);
	vq_publish(&r.q);
	CHECK_EQ(ring()[1].id, 100);
	CHECK_EQ(ring()[2].id, 101);
	desc(4, DRIVER_DATA, 1, 103, 0); // and on
	CHECK_EQ(pop(), 1);
	vq_push(&r.q, r.c.head, 0);
	vq_publish(&r.q);
	CHECK_EQ(ring()[4].flags, AVAIL | USED);
	CHECK_EQ(vq_stop(&r.q), FRESH + 0x50005);
	CHECK_EQ(g->version, 0); // whoever starts it again says where
	tear_down();
}

// Two requests are given back, and the back-end dies with everything written up to some point.
static void cut_off(bool ring_rest, bool ring_first, bool record_end, unsigned expected)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	struct vq_chain taken[3];
	CHECK(restart());
	CHECK(take_three(taken));
	uint8_t old_record[sizeof(record)];
	struct vring_packed_desc old_ring[4];
	memcpy(old_record, record, sizeof(record));
	memcpy(old_ring, ring(), sizeof(old_ring));
	vq_push(&r.q, taken[0].head, 1);
	vq_push(&r.q, taken[2].head, 1);
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].id, 100);
	CHECK_EQ(ring()[1].id, 102);
	if (!record_end) {
		struct inflight_packed_region *o = (void *)old_record;
		g->old_free_head = o->old_free_head;
		g->old_used_idx = o->old_used_idx;
		g->old_used_wrap = o->old_used_wrap;
		for (unsigned i = 0; i < DRIVER_SIZE; i++)
			g->desc[i].inflight = o->desc[i].inflight;
	}
	if (!ring_first)
		ring()[0] = old_ring[0];
	if (!ring_rest)
		ring()[1] = old_ring[1];
	CHECK(restart());
	unsigned again = 0;
	while (pop() == 1) {
		again++;
		vq_push(&r.q, r.c.head, 1);
		if (again == 1) {
			vq_publish(&r.q); // what it had not shown must not be found behind
			unsigned next = expected == 3 ? 1 : 4;
			CHECK((ring()[next].flags & (AVAIL | USED)) != (AVAIL | USED));
		}
	}
	CHECK_EQ(again, expected);
	vq_publish(&r.q);
	CHECK_EQ(vq_stop(&r.q), FRESH + 0x40004);
	tear_down();
}

TEST(killed_before_the_ring_was_written)
{
	cut_off(false, false, false, 3);
}

TEST(killed_before_the_batch_was_shown)
{
	cut_off(true, false, false, 3);
}

TEST(killed_before_the_record_was_brought_up_to_date)
{
	cut_off(true, true, false, 1);
}

TEST(killed_after_all)
{
	cut_off(true, true, true, 1);
}

// The ring was full, so that the driver has used the place again before the back-end died.
TEST(killed_before_the_record_and_the_driver_has_gone_on)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	CHECK(restart());
	for (unsigned i = 0; i < DRIVER_SIZE; i++) {
		desc(i, DRIVER_DATA + i, 1, i, WRITE);
		CHECK_EQ(pop(), 1);
		if (i == 0)
			vq_push(&r.q, r.c.head, 1);
	}
	struct inflight_packed_region before = *g;
	vq_publish(&r.q);
	g->old_free_head = before.old_free_head;
	g->old_used_idx = before.old_used_idx;
	g->desc[0].inflight = 1;
	desc(0, DRIVER_DATA + 100, 1, 50, WRITE | USED);
	CHECK(restart());
	for (unsigned i = 1; i <= DRIVER_SIZE; i++) {
		CHECK_EQ(pop(), 1);
		CHECK((uint8_t *)r.iov[0].iov_base - r.mem.region[0].host ==
		      DRIVER_DATA + (i == DRIVER_SIZE ? 100 : i));
	}
	CHECK_EQ(pop(), 0);
	tear_down();
}

TEST(killed_while_the_end_of_a_batch_was_recorded)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	CHECK(restart());
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		desc(i, DRIVER_DATA, 1, i, 0);
	for (unsigned i = 0; i < DRIVER_SIZE; i++) {
		CHECK_EQ(pop(), 1);
		vq_push(&r.q, r.c.head, 0);
	}
	vq_publish(&r.q); // a whole lap: only the wrap counters tell
	CHECK_EQ(g->used_idx, 0);
	CHECK_EQ(g->used_wrap, 0);
	g->old_used_wrap = 1;
	desc(0, DRIVER_DATA, 1, 50, USED); // the driver has gone on
	CHECK(restart());
	CHECK_EQ(pop(), 1);
	CHECK_EQ(pop(), 0);
	vq_push(&r.q, r.c.head, 0);
	vq_publish(&r.q);
	CHECK_EQ(ring()[0].id, 50);
	CHECK_EQ(ring()[0].flags, 0);
	tear_down();
}

TEST(a_record_full_of_lies)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	for (unsigned seed = 0; seed < 2000; seed++) {
		for (unsigned i = 0; i < DRIVER_SIZE; i++)
			desc(i, DRIVER_DATA + i, 1, i, WRITE | (seed & 1 ? USED : AVAIL));
		for (unsigned i = 0; i < sizeof(record); i++)
			record[i] = (uint8_t)((seed * 2654435761u + i * 40503u) >> (i % 13));
		for (unsigned i = 0; i < DRIVER_SIZE; i++) {
			g->desc[i].inflight = (seed >> (i % 8)) & 1;
			g->desc[i].addr = DRIVER_GPA + DRIVER_DATA;
			g->desc[i].len = 1;
			g->desc[i].num %= 3;
			if (seed & 0x100)
				g->desc[i].next %= 2 * DRIVER_SIZE;
		}
		g->version = 1;
		g->desc_count = DRIVER_SIZE;
		g->used_idx %= DRIVER_SIZE + 1;
		g->old_used_idx %= DRIVER_SIZE;
		g->free_head = g->old_free_head = (uint16_t)(seed % (DRIVER_SIZE + 2));
		CHECK(restart());
		for (unsigned n = 0; n < 3 * DRIVER_SIZE && pop() == 1; n++) {
			vq_push(&r.q, r.c.head, 1);
			if (seed & 2)
				memset(record + seed % sizeof(record), (int)seed, 1); // and it changes
			vq_publish(&r.q);
		}
		vq_stop(&r.q);
	}
	CHECK(r.dr.ram[DRIVER_DATA + 4096] == 0);
	tear_down();
}

TEST(what_was_put_back_is_not_recorded_as_taken)
{
	CHECK(set_up(0));
	struct inflight_packed_region *g = record_fresh();
	struct vq_chain taken[3];
	CHECK(restart());
	CHECK(take_three(taken));
	CHECK(restart());
	CHECK_EQ(pop(), 1);
	vq_unpop(&r.q, &r.c); // in the middle: it comes again next
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(pop(), 1);
		CHECK((uint8_t *)r.iov[0].iov_base - r.mem.region[0].host == DRIVER_DATA + i + (i == 2));
		taken[i] = r.c;
	}
	CHECK_EQ(pop(), 0);
	for (unsigned i = 3; i-- > 0;)
		vq_unpop(&r.q, &taken[i]);
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		CHECK_EQ(g->desc[i].inflight, 0);
	CHECK(restart()); // a new one finds all in the ring
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pop(), 1);
	CHECK_EQ(pop(), 0);
	tear_down();
}

// A record that says of a request at one time that it is one descriptor, and at another that it is many: when that one is given
// back, there is room in the ring for more requests than the queue can hold.
TEST(a_record_that_grows_a_request)
{
	enum { SIZE = VQ_SIZE_MAX, LONG = IOVECS };
	static uint8_t
		large[sizeof(struct inflight_packed_region) + SIZE * sizeof(struct inflight_packed_desc)];
	struct inflight_packed_region *g = (void *)large;
	CHECK(set_up(0));
	vq_stop(&r.q);
	r.dr.place = (struct vq_place){ .size = SIZE,
					.base = FRESH,
					.desc = DRIVER_UVA,
					.avail = DRIVER_UVA + DRIVER_DATA,
					.used = DRIVER_UVA + DRIVER_DATA + 4,
					.log = (void *)large,
					.log_size = SIZE };
	g->version = 1;
	g->desc_count = g->free_head = g->old_free_head = SIZE;
	g->used_wrap = g->old_used_wrap = 1;
	for (unsigned i = 0; i < SIZE; i++)
		g->desc[i] = (struct inflight_packed_desc){ .inflight = 1,
							    .num = 1,
							    .next = (uint16_t)(i + 1),
							    .counter = i + 1,
							    .addr = DRIVER_GPA + DRIVER_DATA + 4096,
							    .len = 1 };
	CHECK(start(0));
	for (unsigned i = 0; i + 1 < LONG; i++)
		g->desc[i].flags = NEXT;
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable, LONG);
	const uint16_t first = r.c.head;
	for (unsigned i = 0; i + 1 < LONG; i++)
		g->desc[i].flags = 0;
	for (unsigned i = 1; i < SIZE; i++)
		CHECK_EQ(pop(), 1);
	vq_push(&r.q, first, 0);
	vq_publish(&r.q);
	for (unsigned i = 0; i < LONG; i++) // of the second lap
		desc(i, DRIVER_DATA + 4096, 1, i, USED);
	CHECK_EQ(pop(), 1); // where the first one was
	CHECK_EQ(pop(), -EPROTO);
	CHECK(r.q.failed && r.q.in_flight == SIZE);
	tear_down();
}
