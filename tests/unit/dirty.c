// SPDX-License-Identifier: BSD-2-Clause
// The log of dirty pages, of both ring layouts: what a device writes while it is on is noted, and nothing else; it goes on and off under way.
#include "devices/sdk/dirty.h"
#include "tests/unit/ring_model.h"
#include "tests/unit/test.h"
#include "vmm/base/log.h"

#define PACKED	  MODEL_BIT(VIRTIO_F_RING_PACKED)
#define INDIRECT  MODEL_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX MODEL_BIT(VIRTIO_RING_F_EVENT_IDX)
#define IN_ORDER  MODEL_BIT(VIRTIO_F_IN_ORDER)

#define PAGES	   (MODEL_MEM >> DIRTY_PAGE_SHIFT)
#define RING_PAGES (MODEL_TABLES >> DIRTY_PAGE_SHIFT)

struct work {
	struct vq_chain c;
	struct iovec iov[MODEL_PIECES];
};

static struct vq q;
static struct guest_mem mem;
static struct model m;
static struct work work[MODEL_SIZE_MAX];
static unsigned work_count;
static struct dirty_log dirty;
static uint8_t bits[(MODEL_GPA >> DIRTY_PAGE_SHIFT) / 8 + PAGES / 8 + 1];
static bool expected[PAGES];
static uint8_t rings[MODEL_TABLES]; // as the device found them

static bool noted(unsigned page)
{
	const uint64_t n = (MODEL_GPA >> DIRTY_PAGE_SHIFT) + page;
	return bits[n / 8] >> n % 8 & 1;
}

static unsigned page_of(const void *p)
{
	return (unsigned)((const uint8_t *)p - mem.region[0].host) >> DIRTY_PAGE_SHIFT;
}

static bool start(void)
{
	work_count = 0;
	dirty = (struct dirty_log){ .bits = bits, .len = sizeof(bits), .event_fd = -1 };
	q.dirty_used_gpa = MODEL_GPA + MODEL_DEVICE;
	return vq_start(&q, &mem, &m.place, m.features) == 0;
}

static bool set_up(uint64_t features, uint16_t size)
{
	log_init("dirty", LOG_ERROR);
	q.enabled = true;
	q.call_fd = q.err_fd = -1;
	return model_open(&m, features, size, (uint32_t)(size + features % 1000003)) &&
	       guest_mem_add(&mem, m.fd, 0, MODEL_GPA, MODEL_UVA, MODEL_MEM) == 0 && start();
}

static void tear_down(void)
{
	vq_stop(&q);
	q.dirty = NULL;
	guest_mem_clear(&mem);
	model_close(&m);
}

static void take_some(void)
{
	while (work_count < MODEL_SIZE_MAX && model_random(&m, 8)) {
		struct work *w = &work[work_count];
		if (vq_pop(&q, &w->c, w->iov, MODEL_PIECES) != 1)
			return;
		work_count++;
	}
}

static void give_back(unsigned at)
{
	struct work w = work[at];
	for (unsigned p = w.c.readable; p < w.c.readable + w.c.writable; p++) {
		const size_t off = (size_t)((uint8_t *)w.iov[p].iov_base - mem.region[0].host) - MODEL_DATA;
		memcpy(w.iov[p].iov_base, &m.req[off / (MODEL_PIECES * MODEL_STEP)].number, sizeof(uint64_t));
		expected[page_of(w.iov[p].iov_base)] = true;
	}
	memmove(&work[at], &work[at + 1], (--work_count - at) * sizeof(work[0]));
	vq_push(&q, w.c.head, (uint32_t)w.c.writable_len);
}

// A page of the rings is noted if it has changed, and only those that a device writes are; pages of data are what was expected.
static void compare(bool on)
{
	for (unsigned page = 0; page < PAGES; page++) {
		const size_t at = (size_t)page << DIRTY_PAGE_SHIFT;
		const bool writes = page == MODEL_DEVICE >> DIRTY_PAGE_SHIFT || (m.packed && page == 0);
		if (page < RING_PAGES && on && memcmp(rings + at, m.ram + at, 1u << DIRTY_PAGE_SHIFT) != 0)
			CHECK(noted(page));
		else if (page < RING_PAGES)
			CHECK(!noted(page) || (on && writes));
		else
			CHECK_EQ(noted(page), on && expected[page]);
	}
}

static void play(uint64_t features, uint16_t size, unsigned rounds, uint64_t least)
{
	uint64_t done = 0;
	CHECK(set_up(features, size));
	for (unsigned n = 0; n < rounds && !q.failed; n++) {
		const bool on = model_random(&m, 3);
		q.dirty = on ? &dirty : NULL;
		memset(bits, 0, sizeof(bits));
		memset(expected, 0, sizeof(expected));
		while (model_random(&m, 4) && model_offer(&m))
			;
		memcpy(rings, m.ram, sizeof(rings));
		if (model_random(&m, 2))
			vq_notify_enable(&q);
		else
			vq_notify_disable(&q);
		take_some();
		if (features & IN_ORDER && work_count && model_random(&m, 4) == 0)
			vq_unpop(&q, &work[--work_count].c);
		for (unsigned k = model_random(&m, work_count + 1); k > 0; k--)
			give_back(features & IN_ORDER ? 0 : model_random(&m, work_count));
		vq_publish(&q);
		compare(on);
		for (int got; (got = model_take(&m)) > 0;)
			done += (unsigned)got;
	}
	CHECK(!q.failed);
	CHECK(done > least);
	tear_down();
}

TEST(what_a_device_writes_of_a_split_ring_is_noted)
{
	play(0, 16, 2000, 1000);
	play(EVENT_IDX | INDIRECT, 64, 2000, 1000);
	play(INDIRECT | IN_ORDER, 32, 2000, 1000);
}

TEST(what_a_device_writes_of_a_packed_ring_is_noted)
{
	play(PACKED, 16, 2000, 1000);
	play(PACKED | EVENT_IDX | INDIRECT, 64, 2000, 1000);
	play(PACKED | INDIRECT | IN_ORDER, 17, 2000, 1000);
	play(PACKED, 1, 500, 50);
}

// What the next back-end does again of a packed ring comes out of the record, and what of it is written is noted as well.
TEST(what_is_done_again_is_noted)
{
	const uint64_t features = PACKED | INDIRECT;
	struct inflight_region *record = calloc(1, inflight_region_len(16, features));
	CHECK(record && set_up(features, 16));
	vq_stop(&q);
	m.place.log = record;
	m.place.log_size = 16;
	CHECK(start());
	uint64_t offered = 0, done = 0;
	while (model_offer(&m))
		offered++;
	while (vq_pop(&q, &work[0].c, work[0].iov, MODEL_PIECES) == 1)
		;
	CHECK(start()); // another, which knows nothing but the record
	memset(bits, 0, sizeof(bits));
	memset(expected, 0, sizeof(expected));
	memcpy(rings, m.ram, sizeof(rings));
	q.dirty = &dirty;
	while (vq_pop(&q, &work[0].c, work[0].iov, MODEL_PIECES) == 1) {
		work_count = 1;
		give_back(0);
	}
	vq_publish(&q);
	compare(true);
	for (int got; (got = model_take(&m)) > 0;)
		done += (unsigned)got;
	CHECK(offered > 2);
	CHECK_EQ(done, offered);
	tear_down();
	free(record);
}
