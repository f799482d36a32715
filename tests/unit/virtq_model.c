// SPDX-License-Identifier: BSD-2-Clause
// Virtqueues of both layouts against a driver that keeps the rules (ring_model.h): random requests, in and out of order, wrapping, put
// back, with every kind of notification; and a back-end that is killed at any moment and comes again.
#include "tests/unit/ring_model.h"
#include "tests/unit/test.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#define PACKED	  MODEL_BIT(VIRTIO_F_RING_PACKED)
#define INDIRECT  MODEL_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX MODEL_BIT(VIRTIO_RING_F_EVENT_IDX)
#define IN_ORDER  MODEL_BIT(VIRTIO_F_IN_ORDER)

struct work {
	struct vq_chain c;
	struct iovec iov[MODEL_PIECES];
};

static struct vq q;
static struct guest_mem mem;
static struct work work[MODEL_SIZE_MAX];
static unsigned work_count;

// Fills what is writable of a request with its number, which each piece that is not begins with or, where all are, memory tells.
static void fill(const struct model *m, const struct work *w)
{
	for (unsigned p = w->c.readable; p < w->c.readable + w->c.writable; p++) {
		size_t request = (size_t)((uint8_t *)w->iov[p].iov_base - mem.region[0].host - MODEL_DATA) /
				 (MODEL_PIECES * MODEL_STEP);
		memcpy(w->iov[p].iov_base, &m->req[request].number, sizeof(uint64_t));
	}
}

static void complete(const struct model *m, unsigned at)
{
	struct work w = work[at];
	fill(m, &w);
	memmove(&work[at], &work[at + 1], (--work_count - at) * sizeof(work[0]));
	vq_push(&q, w.c.head, (uint32_t)w.c.writable_len);
}

static bool start(const struct model *m)
{
	work_count = 0;
	return vq_start(&q, &mem, &m->place, m->features) == 0;
}

static bool open_all(struct model *m, uint64_t features, uint16_t size, uint32_t seed)
{
	log_init("virtq_model", LOG_ERROR);
	q.enabled = true;
	q.call_fd = fd_eventfd();
	q.err_fd = -1;
	return model_open(m, features, size, seed) &&
	       guest_mem_add(&mem, m->fd, 0, MODEL_GPA, MODEL_UVA, MODEL_MEM) == 0 && start(m);
}

static void close_all(struct model *m)
{
	vq_stop(&q);
	fd_close(&q.call_fd);
	guest_mem_clear(&mem);
	model_close(m);
}

static bool take_one(void)
{
	struct work *w = &work[work_count];
	int rc = vq_pop(&q, &w->c, w->iov, MODEL_PIECES);
	work_count += rc == 1;
	return rc == 1;
}

// `steps` things that happen to a queue, in any order.  Either side that sleeps has to be woken by the other.
static void play(uint64_t features, uint16_t size, unsigned steps, uint64_t least)
{
	struct model m;
	uint64_t done = 0;
	bool device_sleeps = false, driver_sleeps = false;
	const bool order = features & IN_ORDER;
	CHECK(open_all(&m, features, size, (uint32_t)(size + features % 1000003)));
	for (unsigned n = 0; n < steps && !q.failed; n++) {
		switch (model_random(&m, 8)) {
		case 0:
		case 1: { // the driver offers
			unsigned count = model_offer(&m);
			if (count && device_sleeps)
				CHECK(model_kick_wanted(&m, m.packed ? count : 1));
			device_sleeps &= !count;
			break;
		}
		case 2: // the device takes
		case 3:
			while (!device_sleeps && model_random(&m, 4) && take_one())
				;
			break;
		case 4: // and gives back
			for (unsigned k = model_random(&m, work_count + 1); k > 0; k--)
				complete(&m, order ? 0 : model_random(&m, work_count));
			break;
		case 5: {
			bool news = m.packed ? q.given_first != UINT16_MAX : q.next_used != q.published;
			vq_publish(&q);
			bool rang = fd_event_take(q.call_fd);
			if (driver_sleeps)
				CHECK_EQ(rang, news);
			driver_sleeps &= !news;
			break;
		}
		case 6: // puts back what it took last, or goes to sleep
			if (order && work_count && model_random(&m, 2)) {
				vq_unpop(&q, &work[--work_count].c);
				device_sleeps = false; // it knows of that one
			} else if (!vq_notify_enable(&q)) {
				device_sleeps = true;
			} else {
				vq_notify_disable(&q);
			}
			break;
		case 7: { // the driver takes what came back, or goes to sleep
			int got;
			while ((got = model_take(&m)) > 0)
				done += (unsigned)got;
			CHECK_EQ(got, 0);
			model_want_interrupt(&m, model_random(&m, 2));
			driver_sleeps = !m.packed && model_has(&m, VIRTIO_RING_F_EVENT_IDX)
						? model_avail(&m)->ring[size] == m.used
					: m.packed ? *model_event(&m, MODEL_DRIVER) >> 16 != 1
						   : !model_avail(&m)->flags;
			break;
		}
		default:
			break;
		}
	}
	while (take_one())
		;
	while (work_count)
		complete(&m, 0);
	vq_publish(&q);
	for (int got; (got = model_take(&m)) > 0;)
		done += (unsigned)got;
	CHECK_EQ(done, m.number - 1);
	CHECK_EQ(m.room, size);
	CHECK_EQ(q.in_flight, 0);
	uint32_t base = vq_stop(&q);
	if (m.packed)
		CHECK_EQ(base, (m.avail | (uint32_t)m.avail_wrap << 15) * 0x10001u);
	else
		CHECK_EQ(base, m.avail);
	CHECK(done >= least);
	close_all(&m);
}

TEST(a_hundred_thousand_steps_of_a_split_ring)
{
	play(0, 16, 100000, 10000);
	play(INDIRECT, 64, 100000, 10000);
	play(EVENT_IDX, 16, 100000, 10000);
	play(EVENT_IDX | INDIRECT | IN_ORDER, 32, 100000, 10000);
}

TEST(a_hundred_thousand_steps_of_a_packed_ring)
{
	play(PACKED, 16, 100000, 10000);
	play(PACKED | INDIRECT, 64, 100000, 10000);
	play(PACKED | EVENT_IDX, 16, 100000, 10000);
	play(PACKED | EVENT_IDX | INDIRECT, 5, 100000, 5000); // any size will do
	play(PACKED | IN_ORDER, 17, 100000, 10000);
	play(PACKED | IN_ORDER | EVENT_IDX | INDIRECT, 64, 100000, 10000);
	play(PACKED, 1, 20000, 100);
}

// ---- killed -----------------------------------------------------------------------------------------------------

// A back-end of its own: takes, gives back, publishes, as fast as it can, until somebody kills it.
_Noreturn static void back_end(const struct model *m, uint32_t seed)
{
	struct model own = *m; // the driver goes on changing its
	own.seed = seed;
	if (!start(&own))
		_exit(1);
	for (;;) {
		for (unsigned k = model_random(&own, 8); k > 0 && work_count < MODEL_SIZE_MAX; k--)
			take_one();
		if (q.failed)
			_exit(2);
		for (unsigned k = model_random(&own, work_count + 1); k > 0; k--)
			complete(m, model_random(&own, work_count));
		vq_publish(&q);
	}
}

// The driver, which never notices: each request comes back once and right, however often the back-end is killed.
static void kill_again_and_again(uint64_t features, uint16_t size, unsigned kills)
{
	const uint64_t len = inflight_region_len(size, features & PACKED);
	// The children look up numbers there.
	struct model *m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct inflight_region *record =
		mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED && record != MAP_FAILED);
	CHECK(open_all(m, features, size, 1));
	vq_stop(&q);
	m->place.log = record;
	m->place.log_size = size;
	uint64_t done = 0;
	unsigned bad = 0;
	for (unsigned n = 0; n <= kills && !bad; n++) {
		pid_t child = fork();
		if (child == 0)
			back_end(m, n);
		// It is killed a moment after it has given back some; the last one is left to finish.
		const uint64_t enough = n == kills ? UINT64_MAX : done + 1 + n % 17;
		const deadline_ns deadline = deadline_in_ms(5000);
		for (unsigned moment = n * 7 % 64; (done < enough || moment-- > 0) && !bad;) {
			if (n < kills)
				model_offer(m);
			else if (m->out_count == 0)
				break;
			int got = model_take(m);
			bad += got < 0 || deadline_now() > deadline;
			done += got > 0 ? (unsigned)got : 0;
			if (got == 0 && done < enough)
				sched_yield();
		}
		int status;
		kill(child, SIGKILL);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status));
	}
	CHECK_EQ(bad, 0);
	CHECK_EQ(m->out_count, 0);
	CHECK_EQ(done, m->number - 1);
	CHECK(done >= kills * 8);
	close_all(m);
	munmap(record, len);
	munmap(m, sizeof(*m));
}

TEST(a_split_ring_whose_back_end_is_killed_again_and_again)
{
	kill_again_and_again(INDIRECT, 32, 120);
}

TEST(a_packed_ring_whose_back_end_is_killed_again_and_again)
{
	kill_again_and_again(PACKED, 16, 120);
	kill_again_and_again(PACKED | INDIRECT | EVENT_IDX, 64, 120);
}
