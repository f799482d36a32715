// SPDX-License-Identifier: BSD-2-Clause
// virtio-rng requests: what they get, what a turn and a period give, and what malformed ones do.
#include "devices/entropy/virtio_rng.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/log.h"

#define NEXT  VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE

struct rig {
	struct driver dr;
	struct vdev d;
	struct vq q;
	struct vrng r;
};

static struct rig r;

static bool set_up(uint64_t rate)
{
	struct err e = { { 0 } };
	log_init("virtio_rng", LOG_ERROR);
	r = (struct rig){ .q = { .enabled = true, .call_fd = -1, .err_fd = -1 } };
	r.d.queues = &r.q;
	r.d.queue_count = 1;
	return loop_init(&r.d.loop) == 0 && vrng_init(&r.r, &r.d, rate, &e) == 0 && driver_open(&r.dr) &&
	       guest_mem_add(&r.d.mem, r.dr.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&r.q, &r.d.mem, &r.dr.place, 0) == 0;
}

static void tear_down(void)
{
	vrng_destroy(&r.r);
	loop_destroy(&r.d.loop);
	guest_mem_clear(&r.d.mem);
	driver_close(&r.dr);
}

static bool zeros(uint32_t off, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		if (r.dr.ram[off + i])
			return false;
	return true;
}

TEST(buffers_are_filled_and_nothing_beyond_them)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 100, WRITE | NEXT, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA + 4096, 50, WRITE, 0);
	driver_offer(&r.dr, 0);
	vrng_kick(&r.r, &r.q);
	CHECK_EQ(r.dr.used->idx, 1);
	CHECK_EQ(r.dr.used->ring[0].len, 150);
	CHECK(!zeros(DRIVER_DATA, 100));
	CHECK(zeros(DRIVER_DATA + 100, 4096 - 100));
	CHECK(!zeros(DRIVER_DATA + 4096, 50));
	CHECK(zeros(DRIVER_DATA + 4096 + 50, 4096));
	tear_down();
}

TEST(a_turn_gives_only_so_much)
{
	CHECK(set_up(0));
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + i * 50000, 50000, WRITE, 0);
		driver_offer(&r.dr, i);
	}
	vrng_kick(&r.r, &r.q);
	CHECK_EQ(r.dr.used->idx, 2);
	CHECK_EQ(r.dr.used->ring[0].len, 50000);
	CHECK_EQ(r.dr.used->ring[1].len, VRNG_TURN_BYTES - 50000);
	CHECK_EQ(r.d.again, 1);
	vrng_kick(&r.r, &r.q);
	CHECK_EQ(r.dr.used->ring[2].len, 50000);
	tear_down();
}

TEST(a_period_gives_only_so_much)
{
	CHECK(set_up(1000)); // 100 bytes a period
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + i * 4096, 80, WRITE, 0);
		driver_offer(&r.dr, i);
	}
	vrng_kick(&r.r, &r.q);
	CHECK_EQ(r.dr.used->idx, 2);
	CHECK_EQ(r.dr.used->ring[1].len, 20);
	CHECK_EQ(r.d.again, 1); // to learn that there is no more, and to wait
	r.d.again = 0;
	vrng_kick(&r.r, &r.q);
	CHECK(r.r.waiting || r.dr.used->idx == 3); // a slow machine may be in the next period already
	for (unsigned i = 0; i < 5 && r.dr.used->idx < 3; i++) {
		CHECK_EQ(r.q.in_flight, 0); // who waits is still the driver's
		loop_once(&r.d.loop, 1000);
		if (r.d.again)
			vrng_kick(&r.r, &r.q);
	}
	CHECK_EQ(r.dr.used->ring[2].len, 80);
	tear_down();
}

TEST(requests_with_something_to_read_stop_the_queue)
{
	CHECK(set_up(0));
	driver_desc(&r.dr, 0, DRIVER_DATA, 16, NEXT, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA + 4096, 16, WRITE, 0);
	driver_offer(&r.dr, 0);
	vrng_kick(&r.r, &r.q);
	CHECK(r.q.failed);
	CHECK_EQ(r.q.in_flight, 0);
	CHECK_EQ(r.dr.used->idx, 0);
	CHECK(zeros(DRIVER_DATA, 8192));
	tear_down();
}
