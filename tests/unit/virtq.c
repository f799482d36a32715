// SPDX-License-Identifier: BSD-2-Clause
// Split virtqueues from the device's side, against a driver that keeps the rules and one that does not.
#include "devices/sdk/virtq.h"
#include "devices/sdk/dirty.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>

#define F_INDIRECT  (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define F_EVENT_IDX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define NEXT	    VRING_DESC_F_NEXT
#define WRITE	    VRING_DESC_F_WRITE
#define INDIRECT    VRING_DESC_F_INDIRECT
#define IOVECS	    20

struct rig {
	struct driver dr;
	struct guest_mem mem;
	struct vq q;
	struct iovec iov[IOVECS];
	struct vq_chain c;
};

static struct rig r;

static bool set_up(uint64_t features)
{
	log_init("virtq", LOG_ERROR);
	r = (struct rig){
		.q = { .index = 0, .enabled = true, .call_fd = fd_eventfd(), .err_fd = fd_eventfd() }
	};
	return driver_open(&r.dr) &&
	       guest_mem_add(&r.mem, r.dr.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&r.q, &r.mem, &r.dr.place, features) == 0;
}

static void tear_down(void)
{
	fd_close(&r.q.call_fd);
	fd_close(&r.q.err_fd);
	guest_mem_clear(&r.mem);
	driver_close(&r.dr);
}

static int pop(void)
{
	return vq_pop(&r.q, &r.c, r.iov, IOVECS);
}

// One hostile layout in descriptor 0: popped, it must fail the queue, signal the error eventfd and leave the ring alone.
#define REFUSED(features, ...)                    \
	do {                                      \
		CHECK(set_up(features));          \
		__VA_ARGS__;                      \
		driver_offer(&r.dr, 0);           \
		CHECK_EQ(pop(), -EPROTO);         \
		CHECK(r.q.failed);                \
		CHECK(fd_event_take(r.q.err_fd)); \
		CHECK_EQ(pop(), -EPROTO);         \
		vq_publish(&r.q);                 \
		CHECK_EQ(r.dr.used->idx, 0);      \
		CHECK(!vq_notify_enable(&r.q));   \
		CHECK_EQ(vq_stop(&r.q), 0);       \
		tear_down();                      \
	} while (0)

TEST(empty_queue_gives_nothing)
{
	CHECK(set_up(0));
	CHECK_EQ(pop(), 0);
	CHECK(!vq_has_more(&r.q));
	tear_down();
}

TEST(chain_is_taken_apart_and_given_back)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 3, DRIVER_DATA, 16, NEXT, 7);
	driver_desc(&r.dr, 7, DRIVER_DATA + 4096, 512, NEXT | WRITE, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA + 8192, 1, WRITE, 0);
	driver_offer(&r.dr, 3);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.head, 3);
	CHECK_EQ(r.c.readable, 1);
	CHECK_EQ(r.c.writable, 2);
	CHECK_EQ(r.c.readable_len, 16);
	CHECK_EQ(r.c.writable_len, 513);
	CHECK_EQ(r.iov[1].iov_len, 512);
	*(uint8_t *)r.iov[2].iov_base = 0x5a;
	CHECK_EQ(r.dr.ram[DRIVER_DATA + 8192], 0x5a);
	CHECK_EQ(pop(), 0);
	vq_push(&r.q, r.c.head, 513);
	CHECK_EQ(r.dr.used->idx, 0);
	vq_publish(&r.q);
	CHECK_EQ(r.dr.used->idx, 1);
	CHECK_EQ(r.dr.used->ring[0].id, 3);
	CHECK_EQ(r.dr.used->ring[0].len, 513);
	CHECK(fd_event_take(r.q.call_fd));
	CHECK_EQ(vq_stop(&r.q), 1);
	tear_down();
}

TEST(indexes_wrap)
{
	CHECK(set_up(0));
	vq_stop(&r.q);
	r.dr.place.base = 0xfffe;
	r.dr.avail->idx = r.dr.used->idx = 0xfffe;
	CHECK_EQ(vq_start(&r.q, &r.mem, &r.dr.place, 0), 0);
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	for (unsigned i = 0; i < 4; i++) {
		driver_offer(&r.dr, 0);
		CHECK_EQ(pop(), 1);
		vq_push(&r.q, 0, i);
		vq_publish(&r.q);
	}
	CHECK_EQ(r.dr.used->idx, 2);
	CHECK_EQ(r.dr.used->ring[(uint16_t)0xffff % DRIVER_SIZE].len, 1);
	CHECK_EQ(r.dr.used->ring[1].len, 3);
	CHECK_EQ(vq_stop(&r.q), 2);
	tear_down();
}

TEST(indirect_table_alone_and_after_direct_descriptors)
{
	CHECK(set_up(F_INDIRECT));
	driver_desc(&r.dr, 0, 0x8000, 32, INDIRECT, 0);
	driver_indirect(&r.dr, 0x8000, 0, DRIVER_DATA, 16, NEXT, 1);
	driver_indirect(&r.dr, 0x8000, 1, DRIVER_DATA + 64, 1, WRITE, 0);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable_len, 16);
	CHECK_EQ(r.c.writable_len, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA, 8, NEXT, 0);
	driver_offer(&r.dr, 1);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.head, 1);
	CHECK_EQ(r.c.readable, 2);
	CHECK_EQ(r.c.readable_len, 24);
	tear_down();
}

TEST(indirect_table_longer_than_the_queue)
{
	CHECK(set_up(F_INDIRECT));
	driver_desc(&r.dr, 0, 0x8000, IOVECS * 16, INDIRECT, 0);
	for (unsigned i = 0; i < IOVECS; i++)
		driver_indirect(&r.dr, 0x8000, i, DRIVER_DATA + i, 1, i + 1 < IOVECS ? NEXT : 0, i + 1);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.readable, IOVECS);
	tear_down();
}

TEST(descriptor_loop)
{
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT, 1),
		driver_desc(&r.dr, 1, DRIVER_DATA, 1, NEXT, 0));
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT, 0));
}

TEST(loop_in_an_indirect_table)
{
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 32, INDIRECT, 0),
		driver_indirect(&r.dr, 0x8000, 0, DRIVER_DATA, 1, NEXT, 1),
		driver_indirect(&r.dr, 0x8000, 1, DRIVER_DATA, 1, NEXT, 0));
}

TEST(next_beyond_the_table)
{
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT, DRIVER_SIZE));
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT, 0xffff));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 32, INDIRECT, 0),
		driver_indirect(&r.dr, 0x8000, 0, DRIVER_DATA, 1, NEXT, 2));
}

TEST(head_beyond_the_table)
{
	CHECK(set_up(0));
	driver_offer(&r.dr, DRIVER_SIZE);
	CHECK_EQ(pop(), -EPROTO);
	CHECK(r.q.failed);
	tear_down();
}

TEST(lengths_and_addresses_that_are_not_memory)
{
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 0, 0, 0));
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 0xffffffff, 0, 0));
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_MEM, 1, 0, 0));
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_MEM - 1, 2, 0, 0));
	REFUSED(0, driver_desc(&r.dr, 0, UINT64_MAX - DRIVER_GPA - 3, 8, 0, 0));
	REFUSED(0, r.dr.desc[0] = ((struct vring_desc){ .addr = UINT64_MAX, .len = 1 }));
	// A host's or front-end's address is not a guest's.
	REFUSED(0, r.dr.desc[0] = ((struct vring_desc){ .addr = DRIVER_UVA + DRIVER_DATA, .len = 1 }));
	REFUSED(0, r.dr.desc[0] = ((struct vring_desc){ .addr = (uintptr_t)r.dr.ram, .len = 1 }));
}

TEST(bad_indirect_descriptors)
{
	REFUSED(0, driver_desc(&r.dr, 0, 0x8000, 32, INDIRECT, 0)); // not negotiated
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 24, INDIRECT, 0));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 0, INDIRECT, 0));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, (IOVECS + 1) * 16, INDIRECT, 0));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 0xfffffff0, INDIRECT, 0));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 32, INDIRECT | NEXT, 1));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, DRIVER_MEM - 16, 32, INDIRECT, 0));
	REFUSED(F_INDIRECT, driver_desc(&r.dr, 0, 0x8000, 16, INDIRECT, 0),
		driver_indirect(&r.dr, 0x8000, 0, 0x8000, 16, INDIRECT, 0));
}

TEST(readable_after_writable)
{
	REFUSED(0, driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT | WRITE, 1),
		driver_desc(&r.dr, 1, DRIVER_DATA, 1, 0, 0));
}

TEST(more_segments_than_there_is_room)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, NEXT, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA, 1, 0, 0);
	driver_offer(&r.dr, 0);
	CHECK_EQ(vq_pop(&r.q, &r.c, r.iov, 1), -EPROTO);
	tear_down();
}

TEST(avail_index_jumps)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	r.dr.avail->idx = DRIVER_SIZE + 1;
	CHECK_EQ(pop(), -EPROTO);
	tear_down();
	CHECK(set_up(0)); // backwards
	r.dr.avail->idx = 0xffff;
	CHECK_EQ(pop(), -EPROTO);
	tear_down();
}

TEST(the_same_head_again_and_again)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	for (unsigned i = 0; i < DRIVER_SIZE; i++) {
		driver_offer(&r.dr, 0);
		CHECK_EQ(pop(), 1);
	}
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), -EPROTO);
	CHECK_EQ(r.q.in_flight, DRIVER_SIZE);
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		vq_push(&r.q, 0, 1); // completions of a failed queue go nowhere
	vq_publish(&r.q);
	CHECK_EQ(r.dr.used->idx, 0);
	CHECK_EQ(r.q.in_flight, 0);
	tear_down();
}

TEST(used_ring_over_the_descriptors)
{
	CHECK(set_up(0));
	vq_stop(&r.q);
	r.dr.place.used = r.dr.place.desc;
	CHECK_EQ(vq_start(&r.q, &r.mem, &r.dr.place, 0), 0);
	driver_desc(&r.dr, 2, DRIVER_DATA, 1, WRITE, 0);
	driver_offer(&r.dr, 2);
	for (unsigned i = 0; i < 100 && pop() == 1; i++) {
		vq_push(&r.q, r.c.head, 0xffffffff);
		vq_publish(&r.q);
		driver_offer(&r.dr, 2);
	}
	CHECK(r.dr.ram[DRIVER_DATA] == 0); // nothing but the ring was written
	tear_down();
}

TEST(ring_addresses_are_checked)
{
	CHECK(set_up(0));
	vq_stop(&r.q);
	const struct vq_place good = r.dr.place;
	struct vq_place bad[] = { good, good, good, good, good, good, good, good };
	bad[0].size = 3;
	bad[1].size = 0;
	bad[2].size = VQ_SIZE_MAX * 2;
	bad[3].desc += 8;
	bad[4].avail += 1;
	bad[5].used += 2;
	bad[6].used = DRIVER_UVA + DRIVER_MEM - 8;
	bad[7].desc = UINT64_MAX - 15;
	for (unsigned i = 0; i < 8; i++) {
		CHECK(vq_start(&r.q, &r.mem, &bad[i], 0) < 0);
		CHECK(!r.q.running);
	}
	CHECK_EQ(vq_start(&r.q, &r.mem, &good, 0), 0);
	tear_down();
}

TEST(memory_that_goes_away)
{
	CHECK(set_up(0));
	struct vq_place elsewhere = r.dr.place;
	elsewhere.used = DRIVER_UVA + DRIVER_MEM;
	CHECK_EQ(vq_relocate(&r.q, &r.dr.place), 0);
	CHECK_EQ(vq_relocate(&r.q, &elsewhere), -EFAULT);
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, 0, 0);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 1); // where it was
	guest_mem_clear(&r.mem);
	CHECK_EQ(vq_relocate(&r.q, &r.dr.place), -EFAULT);
	vq_stop(&r.q);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 0);
	vq_publish(&r.q);
	tear_down();
}

// What is noted as written is no more than what was taken, whatever the descriptors say by then.
TEST(a_request_that_grows_under_the_log_of_dirty_pages)
{
	static uint8_t bits[(DRIVER_GPA >> DIRTY_PAGE_SHIFT) / 8 + (DRIVER_MEM >> DIRTY_PAGE_SHIFT) / 8];
	struct dirty_log log = { .bits = bits, .len = sizeof(bits), .event_fd = -1 };
	unsigned noted = 0;
	CHECK(set_up(0));
	r.q.dirty = &log;
	r.q.dirty_used_gpa = UINT64_MAX;
	driver_desc(&r.dr, 0, DRIVER_DATA, 4096, VRING_DESC_F_WRITE, 0);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 1);
	driver_desc(&r.dr, 0, DRIVER_DATA, DRIVER_MEM - DRIVER_DATA, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT,
		    0);
	vq_push(&r.q, 0, 4096);
	for (size_t i = 0; i < sizeof(bits); i++)
		noted += (unsigned)__builtin_popcount(bits[i]);
	CHECK_EQ(noted, 1);
	r.q.dirty = NULL;
	tear_down();
}

static void one_round(void)
{
	driver_offer(&r.dr, 0);
	if (pop() == 1)
		vq_push(&r.q, 0, 1);
	vq_publish(&r.q);
}

TEST(interrupts_by_flag)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	one_round();
	CHECK(fd_event_take(r.q.call_fd));
	r.dr.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	one_round();
	CHECK(!fd_event_take(r.q.call_fd));
	r.dr.avail->flags = 0;
	vq_publish(&r.q); // nothing new
	CHECK(!fd_event_take(r.q.call_fd));
	one_round();
	CHECK(fd_event_take(r.q.call_fd));
	tear_down();
}

TEST(interrupts_by_event_index)
{
	CHECK(set_up(F_EVENT_IDX));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	uint16_t *used_event = &r.dr.avail->ring[DRIVER_SIZE];
	*used_event = 2;
	one_round();
	one_round();
	CHECK(!fd_event_take(r.q.call_fd));
	one_round();
	CHECK(fd_event_take(r.q.call_fd));
	one_round();
	CHECK(!fd_event_take(r.q.call_fd)); // the index lies behind
	*used_event = 0x8000;		    // far off
	for (unsigned i = 0; i < 1000; i++)
		one_round();
	CHECK(!fd_event_take(r.q.call_fd));
	*used_event = r.dr.used->idx;
	one_round();
	CHECK(fd_event_take(r.q.call_fd));
	tear_down();
}

TEST(kicks_by_flag)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	vq_notify_disable(&r.q);
	CHECK_EQ(r.dr.used->flags, VRING_USED_F_NO_NOTIFY);
	driver_offer(&r.dr, 0);
	CHECK(vq_notify_enable(&r.q)); // found without a kick
	CHECK_EQ(r.dr.used->flags, 0);
	CHECK_EQ(pop(), 1);
	CHECK(!vq_notify_enable(&r.q));
	tear_down();
}

TEST(kicks_by_event_index)
{
	CHECK(set_up(F_EVENT_IDX));
	uint16_t *avail_event = (uint16_t *)(void *)&r.dr.used->ring[DRIVER_SIZE];
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	driver_offer(&r.dr, 0);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(*avail_event, 0);
	driver_offer(&r.dr, 0);
	CHECK(vq_notify_enable(&r.q));
	CHECK_EQ(*avail_event, 1);
	CHECK_EQ(pop(), 1);
	CHECK(!vq_notify_enable(&r.q));
	CHECK_EQ(*avail_event, 2);
	CHECK_EQ(r.dr.used->flags, 0);
	tear_down();
}

TEST(a_disabled_queue_rests)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 1, WRITE, 0);
	driver_offer(&r.dr, 0);
	r.q.enabled = false;
	CHECK_EQ(pop(), 0);
	CHECK(!vq_notify_enable(&r.q));
	r.q.enabled = true;
	CHECK_EQ(pop(), 1);
	tear_down();
}

// ---- what is in flight, recorded for a back-end that comes after this one -------------------------------------------

static _Alignas(
	64) uint8_t record[sizeof(struct inflight_region) + DRIVER_SIZE * sizeof(struct inflight_desc)];

static struct inflight_region *record_fresh(void)
{
	memset(record, 0xaa, sizeof(record)); // rubbish of another version
	struct inflight_region *g = (void *)record;
	r.dr.place.log = g;
	r.dr.place.log_size = DRIVER_SIZE;
	return g;
}

// The queue as a new process finds it; the front-end only knows the used index.
static bool restart(void)
{
	r.q = (struct vq){ .enabled = true, .call_fd = r.q.call_fd, .err_fd = r.q.err_fd };
	r.dr.place.base = r.dr.used->idx;
	return vq_start(&r.q, &r.mem, &r.dr.place, 0) == 0;
}

TEST(requests_of_a_killed_back_end_are_done_again)
{
	CHECK(set_up(0));
	struct inflight_region *g = record_fresh();
	CHECK(restart());
	CHECK_EQ(g->version, 1);
	static const unsigned order[] = { 5, 2, 9, 0 };
	for (unsigned i = 0; i < 4; i++) {
		driver_desc(&r.dr, order[i], DRIVER_DATA + i, 1, WRITE, 0);
		driver_offer(&r.dr, order[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pop(), 1);
	vq_push(&r.q, 2, 1); // out of order
	vq_publish(&r.q);
	CHECK(restart());
	CHECK(vq_has_more(&r.q));
	static const unsigned again[] = { 5, 9, 0 };
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(pop(), 1);
		CHECK_EQ(r.c.head, again[i]);
	}
	CHECK_EQ(pop(), 0);
	for (unsigned i = 0; i < 3; i++)
		vq_push(&r.q, (uint16_t)again[i], 1);
	vq_publish(&r.q);
	CHECK_EQ(r.dr.used->idx, 4);
	CHECK(restart());
	CHECK_EQ(pop(), 0);
	CHECK_EQ(vq_stop(&r.q), 4);
	tear_down();
}

TEST(killed_between_the_used_index_and_the_record)
{
	CHECK(set_up(0));
	struct inflight_region *g = record_fresh();
	CHECK(restart());
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + i, 1, WRITE, 0);
		driver_offer(&r.dr, i);
		CHECK_EQ(pop(), 1);
	}
	uint8_t before[sizeof(record)];
	vq_push(&r.q, 0, 1);
	vq_push(&r.q, 2, 1);
	memcpy(before, record, sizeof(record));
	vq_publish(&r.q);
	memcpy(record, before, sizeof(record)); // the last writes are lost
	CHECK_EQ(g->used_idx, 0);
	CHECK(restart());
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.head, 1);
	CHECK_EQ(pop(), 0);
	CHECK_EQ(vq_stop(&r.q), 3);
	tear_down();
}

TEST(a_record_full_of_lies)
{
	CHECK(set_up(0));
	struct inflight_region *g = record_fresh();
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		driver_desc(&r.dr, i, DRIVER_DATA + i, 1, WRITE, 0);
	for (unsigned seed = 0; seed < 500; seed++) {
		for (unsigned i = 0; i < sizeof(record); i++)
			record[i] = (uint8_t)((seed * 2654435761u + i * 40503u) >> (i % 13));
		for (unsigned i = 0; i < DRIVER_SIZE; i++)
			g->desc[i].inflight = (seed >> (i % 8)) & 1;
		g->version = 1;
		g->desc_count = DRIVER_SIZE;
		CHECK(restart());
		unsigned n = 0;
		while (pop() == 1 && n <= DRIVER_SIZE) {
			n++;
			vq_push(&r.q, r.c.head, 1);
			vq_publish(&r.q);
		}
		CHECK(n <= DRIVER_SIZE);
		r.dr.avail->idx = r.dr.used->idx = 0;
		vq_stop(&r.q);
	}
	tear_down();
}

TEST(a_record_for_a_smaller_queue_is_not_used)
{
	CHECK(set_up(0));
	struct inflight_region *g = record_fresh();
	r.dr.place.log_size = DRIVER_SIZE / 2;
	CHECK(restart());
	CHECK(!r.q.log.region);
	CHECK_EQ(g->version, 0xaaaa);
	tear_down();
}

// ---- requests that are put back ---------------------------------------------------------------------------------

TEST(what_was_taken_in_advance_can_be_put_back)
{
	CHECK(set_up(0));
	struct vq_chain taken[3];
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + i, 1, WRITE, 0);
		driver_offer(&r.dr, i);
		CHECK_EQ(pop(), 1);
		taken[i] = r.c;
	}
	vq_push(&r.q, 0, 1);
	vq_unpop(&r.q, &taken[2]);
	vq_unpop(&r.q, &taken[1]);
	CHECK_EQ(r.q.in_flight, 0);
	CHECK_EQ(pop(), 1);
	CHECK_EQ(r.c.head, 1);
	vq_unpop(&r.q, &r.c);
	CHECK_EQ(vq_stop(&r.q), 1);
	tear_down();
}

TEST(what_was_put_back_is_not_recorded_as_taken)
{
	CHECK(set_up(0));
	struct inflight_region *g = record_fresh();
	CHECK(restart());
	struct vq_chain taken[3];
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + i, 1, WRITE, 0);
		driver_offer(&r.dr, i);
		CHECK_EQ(pop(), 1);
	}
	// All three are to be done again: one, put back in the middle of that, comes next; all, put back after, count as never taken.
	CHECK(restart());
	CHECK_EQ(pop(), 1);
	vq_unpop(&r.q, &r.c);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(pop(), 1);
		CHECK_EQ(r.c.head, i);
		taken[i] = r.c;
	}
	CHECK_EQ(pop(), 0);
	for (unsigned i = 3; i-- > 0;)
		vq_unpop(&r.q, &taken[i]);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(g->desc[i].inflight, 0);
	CHECK_EQ(vq_stop(&r.q), 0);
	tear_down();
}
