// SPDX-License-Identifier: BSD-2-Clause
// A client whose vfio-user server goes away and comes back: what the one that comes is told, at whichever message it leaves again, and the
// ones that come as another device.  Servers connect to us, so that no process is needed; the other ways are tests/guest's.
#include "tests/unit/test.h"

#include "bridges/vfio_user_impl.h"
#include "tests/fault/vfu_peer.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include "tests/fault/peer_again.h"

#define SHORT_MS 200

static int64_t back_off_ms = 1;

struct front_again {
	struct front f; // first: the owner of the link
	struct mem_table ram;
	struct place place;
	int vector;
	atomic_uint returns;
	unsigned refuse; // so many returns fail
};

// What an owner says again: memory, a vector, a register.
static int say_all(struct front_again *a)
{
	const struct vfio_link_ops *ops = a->f.l->ops;
	uint32_t word;
	int rc = 0;
	for (unsigned i = 0; rc == 0 && i < a->ram.count; i++)
		rc = ops->dma_map(a->f.l, &a->ram.region[i], NULL);
	if (rc == 0)
		rc = ops->irq_set(a->f.l, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_LINK_TRIGGER, 0, 1, &a->vector);
	return rc < 0 ? rc : ops->region_read(a->f.l, VFIO_PCI_CONFIG_REGION_INDEX, 0, &word, 4);
}

static int on_returned(void *owner, struct err *e)
{
	struct front_again *a = owner;
	int rc = say_all(a);
	if (a->refuse && a->refuse--)
		rc = -EAGAIN;
	if (rc < 0)
		return err_set(e, rc == -EPIPE ? EAGAIN : -rc, "the owner says so");
	atomic_fetch_add(&a->returns, 1);
	return 0;
}

static const struct vfio_link_events events = { .died = front_died, .returned = on_returned };

// A client of its first server, which is told everything, and waits for others from now on.
static bool again_open(struct front_again *a, struct peer *p, int64_t limit_ms)
{
	struct err e;
	memset(a, 0, sizeof(*a));
	if (!place_open(&a->place))
		return false;
	a->vector = fd_eventfd();
	a->ram = front_memory();
	front_open(&a->f, p);
	if (a->f.rc < 0)
		return false;
	a->f.l->events = &events;
	struct again_how how = place_how(&a->place, limit_ms);
	how.back_off_ms = back_off_ms;
	return say_all(a) == 0 && vfio_user_serve(a->f.l, NULL, &e) == 0 &&
	       vfio_user_keep(a->f.l, &how, &e) == 0;
}

static void again_close(struct front_again *a)
{
	front_close(&a->f);
	place_close(&a->place);
	close(a->vector);
	front_memory_free(&a->ram);
}

static bool await_returns(struct front_again *a, unsigned n)
{
	deadline_ns end = deadline_in_ms(5000);
	while (atomic_load(&a->returns) < n && deadline_left_ms(end) > 0)
		loop_once(&a->f.loop, 5);
	loop_once(&a->f.loop, 50); // it watches the new one
	return atomic_load(&a->returns) == n;
}

static bool await_deaths(struct front_again *a, unsigned n)
{
	deadline_ns end = deadline_in_ms(5000);
	while (a->f.died < n && deadline_left_ms(end) > 0)
		loop_once(&a->f.loop, 5);
	return a->f.died == n;
}

static void peer_end_free(struct peer *p)
{
	peer_end(p);
	peer_free(p);
}

static unsigned told(const struct peer *p, uint16_t command)
{
	unsigned n = 0;
	for (unsigned i = 0; i < p->count; i++)
		n += p->log[i].h.command == command;
	return n;
}

static uint32_t config_word(struct front_again *a)
{
	uint32_t word = 0;
	return a->f.l->ops->region_read(a->f.l, VFIO_PCI_CONFIG_REGION_INDEX, 0, &word, 4) == 0 ? word : 0;
}

TEST(one_that_comes_back_is_told_all_of_it_again)
{
	struct front_again a;
	struct peer p[2];
	unsigned fds = 0;
	peer_init(&p[0]);
	peer_add_file(&p[0], F_SEAL_SHRINK);
	peer_add_doorbells(&p[0]);
	CHECK(again_open(&a, &p[0], 0));
	for (unsigned round = 1; round <= 20; round++) {
		struct peer *old = &p[(round + 1) % 2], *new = &p[round % 2];
		struct vfio_doorbell d[4];
		struct vfio_region r;
		peer_end_free(old);
		CHECK(await_deaths(&a, round));
		CHECK_EQ(config_word(&a), 0);
		next_init(new);
		peer_add_file(new, F_SEAL_SHRINK);
		peer_add_doorbells(new);
		new->offer_twin = round % 3 == 0;
		if (new->offer_twin)
			snprintf(new->json, sizeof(new->json),
				 "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}");
		CHECK(next_start(&a.place, new));
		CHECK(await_returns(&a, round));
		CHECK_EQ(config_word(&a), 0x1234);
		CHECK_EQ(told(new, VFIO_USER_VERSION), 1);
		CHECK_EQ(told(new, VFIO_USER_DMA_MAP), 2);
		CHECK_EQ(told(new, VFIO_USER_DEVICE_SET_IRQS), 1);
		fd_event_signal(new->trigger[0]);
		CHECK(fd_event_take(a.vector));
		// What it handed over is its own, and not the last one's.
		CHECK_EQ(a.f.l->ops->region_doorbells(a.f.l, 0, d, 4), 2);
		fd_event_signal(d[0].fd);
		CHECK(fd_event_take(new->io_fds[1]));
		CHECK(a.f.l->ops->region_info(a.f.l, 0, &r) == 0 && r.fd >= 0 && r.area_count == 2);
		if (new->offer_twin) {
			char data[8] = "12345678";
			CHECK_EQ(peer_dma(new->twin, VFIO_USER_DMA_WRITE, 0x1000, 8, data), 0);
			CHECK(memcmp((char *)a.ram.region[0].hva + 0x1000, "12345678", 8) == 0);
			CHECK_EQ(peer_dma(new->twin, VFIO_USER_DMA_READ, 0x300000, 8, data), EFAULT);
		}
		if (round == 6)
			fds = count_fds();
		if (round == 12 || round == 18)
			CHECK_EQ(count_fds(), fds);
	}
	CHECK_EQ(a.f.died, 20);
	shutdown(p[0].sock, SHUT_RDWR);
	again_close(&a);
	peer_join(&p[0]);
	peer_free(&p[0]);
}

static bool fault_close(struct peer *p, const struct peer_message *m)
{
	(void)p;
	(void)m;
	return false;
}

static bool fault_garbage(struct peer *p, const struct peer_message *m)
{
	(void)m;
	uint8_t bytes[64];
	memset(bytes, 0xa5, sizeof(bytes));
	peer_send_fds(p, bytes, sizeof(bytes), NULL, 0);
	return true;
}

static const uint16_t phases[] = { VFIO_USER_VERSION,
				   VFIO_USER_DEVICE_GET_INFO,
				   VFIO_USER_DEVICE_GET_REGION_INFO,
				   VFIO_USER_DEVICE_GET_IRQ_INFO,
				   VFIO_USER_DEVICE_GET_REGION_IO_FDS,
				   VFIO_USER_DMA_MAP,
				   VFIO_USER_DEVICE_SET_IRQS,
				   VFIO_USER_REGION_READ };

// One that does `fault` wherever it is in coming back; the one after it is taken.
static void leaves_in_each_phase(bool (*fault)(struct peer *p, const struct peer_message *m))
{
	struct front_again a;
	struct peer first, bad, good;
	const unsigned fds = count_fds();
	for (unsigned i = 0; i < ARRAY_LEN(phases); i++) {
		peer_init(&first);
		CHECK(again_open(&a, &first, 0));
		peer_end_free(&first);
		CHECK(await_deaths(&a, 1));
		next_init(&bad);
		bad.at = phases[i];
		bad.fault = fault;
		CHECK(next_start(&a.place, &bad));
		next_init(&good);
		CHECK(next_start(&a.place, &good));
		CHECK(await_returns(&a, 1));
		CHECK_EQ(config_word(&a), 0x1234);
		CHECK_EQ(a.f.died, 1); // the owner never knew the bad one
		again_close(&a);
		peer_join(&bad);
		peer_join(&good);
		CHECK_EQ(bad.seen_at, 1);
		CHECK_EQ(told(&good, VFIO_USER_DMA_MAP), 2);
		peer_free(&bad);
		peer_free(&good);
	}
	CHECK_EQ(count_fds(), fds);
}

TEST(b03_leaves_again_in_each_phase)
{
	leaves_in_each_phase(fault_close);
}

TEST(b02_is_mute_in_each_phase)
{
	front_deadline_ms =
		4 * SHORT_MS; // the whole handshake of the good one has to fit in, on a busy machine, too
	leaves_in_each_phase(fault_mute);
	front_deadline_ms = FRONT_LONG_MS;
}

TEST(b05_speaks_another_language_in_each_phase)
{
	leaves_in_each_phase(fault_garbage);
}

// ---- another device -----------------------------------------------------------------------------

static void larger_bar(struct peer *p)
{
	p->region[0].size *= 2;
}
static void no_bar(struct peer *p)
{
	p->region[0].size = 0;
}
static void more_bars(struct peer *p)
{
	p->region[2] = p->region[0];
	p->region[2].index = 2;
}
static void not_writable(struct peer *p)
{
	p->region[0].flags = VFIO_REGION_INFO_FLAG_READ;
}
static void fewer_regions(struct peer *p)
{
	p->info.num_regions = 8;
	p->region[8].size = 4096;
	p->region[6].size = 4096;
}
static void fewer_vectors(struct peer *p)
{
	p->irq[VFIO_PCI_MSIX_IRQ_INDEX].count = 3;
}
static void no_pin(struct peer *p)
{
	p->info.num_irqs = 0;
}
static void no_eventfds(struct peer *p)
{
	p->irq[VFIO_PCI_MSIX_IRQ_INDEX].flags &= ~(uint32_t)VFIO_IRQ_INFO_EVENTFD;
}
static void no_reset(struct peer *p)
{
	p->info.flags = VFIO_DEVICE_FLAGS_PCI;
}

TEST(another_device_is_refused_and_none_is_waited_for)
{
	void (*const others[])(struct peer * p) = { larger_bar,	  no_bar,	 more_bars,
						    not_writable, fewer_regions, fewer_vectors,
						    no_pin,	  no_eventfds,	 no_reset };
	struct front_again a;
	struct peer first, other, late;
	const unsigned fds = count_fds();
	for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
		peer_init(&first);
		CHECK(again_open(&a, &first, 0));
		peer_end_free(&first);
		CHECK(await_deaths(&a, 1));
		next_init(&other);
		others[i](&other);
		CHECK(next_start(&a.place, &other));
		peer_join(&other); // it is let go
		CHECK_EQ(told(&other, VFIO_USER_DMA_MAP), 0);
		CHECK_EQ(told(&other, VFIO_USER_VERSION), 1);
		next_init(&late);
		CHECK(next_start(&a.place, &late));
		poll(NULL, 0, 50);
		CHECK_EQ(atomic_load(&a.returns), 0);
		CHECK_EQ(config_word(&a), 0);
		CHECK_EQ(a.f.died, 1);
		again_close(&a);
		shutdown(late.sock, SHUT_RDWR);
		peer_join(&late);
		CHECK_EQ(late.count, 0);
		peer_free(&other);
		peer_free(&late);
	}
	CHECK_EQ(count_fds(), fds);
}

// ---- the waiting --------------------------------------------------------------------------------

TEST(an_owner_that_could_not_say_it_all_gets_another_one)
{
	struct front_again a;
	struct peer first, second, third;
	peer_init(&first);
	CHECK(again_open(&a, &first, 0));
	a.refuse = 1;
	peer_end_free(&first);
	CHECK(await_deaths(&a, 1));
	next_init(&second);
	CHECK(next_start(&a.place, &second));
	peer_join(&second);
	CHECK_EQ(config_word(&a), 0);
	next_init(&third);
	CHECK(next_start(&a.place, &third));
	CHECK(await_returns(&a, 1));
	CHECK_EQ(config_word(&a), 0x1234);
	again_close(&a);
	peer_join(&third);
	peer_free(&second);
	peer_free(&third);
}

// Answers in time, but takes long for all that its owner says again, to whom a vCPU may be waiting.
static bool fault_slow(struct peer *p, const struct peer_message *m)
{
	const bool again = m->h.command == VFIO_USER_DMA_MAP || m->h.command == VFIO_USER_DEVICE_SET_IRQS ||
			   m->h.command == VFIO_USER_REGION_READ;
	poll(NULL, 0, again ? p->fault_arg : 0);
	peer_answer(p, m);
	return true;
}

TEST(one_that_takes_long_for_all_of_its_return_is_not_taken)
{
	struct front_again a;
	struct peer first, slow, second;
	front_deadline_ms = FRONT_SHORT_MS;
	peer_init(&first);
	CHECK(again_open(&a, &first, 0));
	peer_end_free(&first);
	CHECK(await_deaths(&a, 1));
	next_init(&slow);
	slow.every = true;
	slow.fault = fault_slow;
	slow.fault_arg = FRONT_SHORT_MS / 2 - 50; // of four commands
	const deadline_ns start = deadline_now();
	CHECK(next_start(&a.place, &slow));
	peer_join(&slow);
	CHECK(ms_since(start) < FRONT_SHORT_MS + 1000);
	CHECK_EQ(atomic_load(&a.returns), 0);
	next_init(&second);
	CHECK(next_start(&a.place, &second));
	CHECK(await_returns(&a, 1));
	CHECK_EQ(config_word(&a), 0x1234);
	again_close(&a);
	peer_join(&second);
	peer_free(&slow);
	peer_free(&second);
	front_deadline_ms = FRONT_LONG_MS;
}

TEST(nobody_comes_in_time)
{
	struct front_again a;
	struct peer first, late;
	peer_init(&first);
	CHECK(again_open(&a, &first, 100));
	peer_end_free(&first);
	CHECK(await_deaths(&a, 1));
	poll(NULL, 0, 300);
	next_init(&late);
	CHECK(next_start(&a.place, &late));
	poll(NULL, 0, 100);
	CHECK_EQ(late.count, 0);
	CHECK_EQ(config_word(&a), 0);
	again_close(&a);
	peer_end_free(&late);
}

// What its owner asks when it returns is no use of it: one that is taken and ends at once is waited for like one that is not.
TEST(one_that_returns_to_end_at_once_is_not_taken_at_any_rate)
{
	struct front_again a;
	struct peer first, brief, last;
	back_off_ms = 2 * SHORT_MS;
	peer_init(&first);
	CHECK(again_open(&a, &first, 0));
	peer_end_free(&first);
	CHECK(await_deaths(&a, 1));
	next_init(&brief);
	CHECK(next_start(&a.place, &brief));
	CHECK(await_returns(&a, 1));
	const deadline_ns start = deadline_now();
	peer_end_free(&brief);
	CHECK(await_deaths(&a, 2));
	next_init(&last);
	CHECK(next_start(&a.place, &last));
	CHECK(await_returns(&a, 2));
	CHECK(ms_since(start) >= SHORT_MS);
	CHECK_EQ(config_word(&a), 0x1234); // which is use of it
	peer_end_free(&last);
	CHECK(await_deaths(&a, 3));
	const deadline_ns used = deadline_now();
	next_init(&brief);
	CHECK(next_start(&a.place, &brief));
	CHECK(await_returns(&a, 3));
	CHECK(ms_since(used) < back_off_ms);
	again_close(&a);
	peer_join(&brief);
	peer_free(&brief);
	back_off_ms = 1;
}

// Its end is not kept waiting: neither by one that nobody comes to, nor by one that is mute.
TEST(the_machine_ends_meanwhile)
{
	struct front_again a;
	struct peer first, mute;
	for (unsigned i = 0; i < 2; i++) {
		peer_init(&first);
		CHECK(again_open(&a, &first, 0));
		peer_end_free(&first);
		CHECK(await_deaths(&a, 1));
		next_init(&mute);
		mute.at = VFIO_USER_DEVICE_GET_INFO;
		mute.fault = fault_mute;
		if (i) {
			CHECK(next_start(&a.place, &mute));
			for (unsigned ms = 0; mute.seen_at == 0 && ms < 3000; ms++)
				poll(NULL, 0, 1);
		}
		const deadline_ns start = deadline_now();
		again_close(&a);
		CHECK(ms_since(start) < 1000);
		if (i)
			peer_join(&mute);
		peer_free(&mute);
	}
}

// Calls on many threads while the server comes and goes: each ends, well or with -EPIPE.
static atomic_bool enough;

static void *caller(void *arg)
{
	struct front_again *a = arg;
	unsigned wrong = 0;
	while (!atomic_load(&enough)) {
		uint32_t word = 0;
		int rc = a->f.l->ops->region_read(a->f.l, VFIO_PCI_CONFIG_REGION_INDEX, 0, &word, 4);
		wrong += rc == 0 ? word != 0x1234 : rc != -EPIPE;
		if (rc < 0)
			poll(NULL, 0, 1);
	}
	return wrong ? arg : NULL;
}

TEST(calls_while_it_comes_and_goes)
{
	struct front_again a;
	struct peer p[2];
	pthread_t thread[3];
	atomic_store(&enough, false);
	peer_init(&p[0]);
	CHECK(again_open(&a, &p[0], 0));
	for (unsigned i = 0; i < ARRAY_LEN(thread); i++)
		CHECK(pthread_create(&thread[i], NULL, caller, &a) == 0);
	for (unsigned round = 1; round <= 10; round++) {
		poll(NULL, 0, 5);
		peer_end_free(&p[(round + 1) % 2]);
		CHECK(await_deaths(&a, round));
		next_init(&p[round % 2]);
		CHECK(next_start(&a.place, &p[round % 2]));
		CHECK(await_returns(&a, round));
	}
	atomic_store(&enough, true);
	for (unsigned i = 0; i < ARRAY_LEN(thread); i++) {
		void *wrong = NULL;
		pthread_join(thread[i], &wrong);
		CHECK(!wrong);
	}
	again_close(&a);
	peer_join(&p[0]);
	peer_free(&p[0]);
}
