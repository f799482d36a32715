// SPDX-License-Identifier: BSD-2-Clause
// A front-end whose back-end goes away and comes back: what the one that comes is told, at whichever message it leaves again, and
// what the guest's side pays for it.  Back-ends connect to us, so that no process is needed; the other ways are tests/guest's.
#include "tests/unit/test.h"

#include "bridges/vhost_user_impl.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include "tests/fault/peer_again.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>

#define SHORT_MS 200

struct front_again {
	struct front f;
	struct mem_table ram;
	struct place place;
	int kick, call;
	struct vhost_user *vu;
};

// Guest memory that a test writes: the rings that front_run() names.
static uint16_t *avail_index(const struct front_again *a)
{
	return (uint16_t *)mem_table_ptr(&a->ram, 0x2000, 4) + 1;
}
static uint16_t *used_index(const struct front_again *a)
{
	return (uint16_t *)mem_table_ptr(&a->ram, 0x100003000, 4) + 1;
}

// A front-end on its first peer, which is told everything, and waits for others from now on.
static bool again_open(struct front_again *a, struct peer *p, int64_t limit_ms)
{
	struct err e;
	memset(a, 0, sizeof(*a));
	if (!place_open(&a->place))
		return false;
	a->kick = fd_eventfd();
	a->call = fd_eventfd();
	a->ram = front_memory();
	front_open(&a->f, p);
	if (a->f.rc < 0)
		return false;
	a->vu = CONTAINER_OF(a->f.b, struct vhost_user, backend);
	const struct again_how how = place_how(&a->place, limit_ms);
	return vhost_user_keep(a->f.b, &how, &e) == 0;
}

static void again_close(struct front_again *a)
{
	front_close(&a->f);
	place_close(&a->place);
	close(a->kick);
	close(a->call);
	front_memory_free(&a->ram);
}

static bool is_connected(struct front_again *a)
{
	pthread_mutex_lock(&a->vu->lock);
	bool connected = a->vu->connected;
	pthread_mutex_unlock(&a->vu->lock);
	return connected;
}

// Runs the loop until the back-end is (or is not) there.
static bool await(struct front_again *a, bool connected)
{
	deadline_ns end = deadline_in_ms(5000);
	while (is_connected(a) != connected && deadline_left_ms(end) > 0)
		loop_once(&a->f.loop, 5);
	loop_once(&a->f.loop, 20); // it watches the new one
	return is_connected(a) == connected;
}

// A front-end whose first peer had a driver's queue, with these indices, and is gone.
static bool again_after(struct front_again *a, struct peer *p, uint16_t avail, uint16_t used)
{
	if (!again_open(a, p, 0) || front_run(&a->f, &a->ram, a->kick, a->call) != 0)
		return false;
	*avail_index(a) = avail;
	*used_index(a) = used;
	peer_end(p);
	return await(a, false);
}

static void peers_init(struct peer *p, int count)
{
	peer_init(p);
	for (int i = 1; i < count; i++)
		next_init(&p[i]);
}

static void peers_free(struct peer *p, int count)
{
	for (int i = 0; i < count; i++)
		peer_free(&p[i]);
}

static const char *said(const struct peer *p)
{
	static char text[2048];
	size_t n = 0;
	text[0] = '\0';
	for (unsigned i = 0; i < p->count; i++) {
		const struct vhost_user_row *row = vhost_user_request_row(p->log[i].h.request);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", n ? " " : "",
				      row ? row->name + 11 : "?");
	}
	return text;
}

static const struct peer_message *find(const struct peer *p, uint32_t request)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->log[i].h.request == request)
			return &p->log[i];
	return NULL;
}

static uint32_t base_told(const struct peer *p)
{
	struct vhost_user_vring_state s = { .num = UINT32_MAX };
	const struct peer_message *m = find(p, VHOST_USER_SET_VRING_BASE);
	if (m)
		memcpy(&s, m->payload, sizeof(s));
	return s.num;
}

#define HANDSHAKE                                                                                      \
	"SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_CONFIG " \
	"SET_BACKEND_REQ_FD"
#define RING                                                                                       \
	"SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR SET_VRING_ERR SET_VRING_CALL SET_VRING_KICK " \
	"SET_VRING_ENABLE"

TEST(the_next_one_is_told_all_that_the_first_was)
{
	unsigned fds = count_fds();
	struct front_again a;
	struct peer p[2];
	peers_init(p, 2);
	CHECK(again_after(&a, p, 0x1234, 0x1234));
	CHECK_EQ(a.f.died, 0);
	fd_event_take(a.kick);
	fd_event_take(a.call);
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	// The doorbell and the interrupt that may have been lost.
	CHECK(fd_event_take(a.kick) && fd_event_take(a.call));
	CHECK_EQ(a.f.changed + a.f.failed + a.f.died, 0);
	// And what follows goes to it.
	uint32_t base;
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	again_close(&a);
	peer_join(&p[1]);
	CHECK_STR(said(&p[1]), HANDSHAKE " SET_FEATURES SET_MEM_TABLE " RING
					 " SET_VRING_ENABLE GET_VRING_BASE SET_VRING_ENABLE");
	CHECK_EQ(base_told(&p[1]), 0x1234);
	peers_free(p, 2);
	CHECK_EQ(count_fds(), fds);
}

// Both ends of a queue are eventfds that the back-end has, too: its counter has no room, and its file is blocking.
static bool fill(int fd)
{
	const uint64_t full = UINT64_MAX - 1;
	uint64_t had;
	ssize_t n = read(fd, &had, sizeof(had));
	(void)n;
	return write(fd, &full, sizeof(full)) == sizeof(full) && fcntl(fd, F_SETFL, 0) == 0;
}

// B16, B17: a back-end that died has left a companion behind, who keeps what it was given of the queue.
TEST(b16_b17_doorbell_and_interrupt_that_would_wait)
{
	struct front_again a;
	struct peer p[2];
	struct err e;
	CHECK_EQ(fd_peer_signals_open(&e), 0);
	peers_init(p, 2);
	CHECK(again_after(&a, p, 7, 7));
	CHECK(fill(a.kick) && fill(a.call));
	alarm(30); // one that waits does not end by itself
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	// Signalled is what they are anyway; the lock is free, and so is the thread for the next death.
	CHECK(fd_event_take(a.kick) && fd_event_take(a.call));
	uint32_t base;
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	again_close(&a);
	alarm(0);
	peer_join(&p[1]);
	CHECK_EQ(base_told(&p[1]), 7);
	peers_free(p, 2);
}

TEST(what_is_done_while_nobody_is_there_is_noted)
{
	struct front_again a;
	struct peer p[2];
	uint32_t base;
	uint8_t config[60], writeback = 1;
	peers_init(p, 2);
	CHECK(again_after(&a, p, 0, 77));
	const struct backend_ops *ops = a.f.b->ops;
	deadline_ns start = own_now();
	CHECK_EQ(ops->config_read(a.f.b, 0, config, 60), 0);
	CHECK_EQ(config[1], 8);
	CHECK_EQ(ops->queue_stop(a.f.b, 0, &base), 0);
	CHECK_EQ(base, 77);
	CHECK_EQ(ops->run(a.f.b, false), 0);
	*used_index(&a) = 0;
	*avail_index(&a) = 5; // requests of a driver that starts now are nobody's yet
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	CHECK_EQ(ops->config_write(a.f.b, 32, &writeback, 1), 0);
	CHECK(ops->negotiate(a.f.b, PEER_BIT(40)) < 0); // never offered
	CHECK(own_ms_since(start) < 100);
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	CHECK_EQ(a.f.failed, 0);
	again_close(&a);
	peer_join(&p[1]);
	CHECK_STR(said(&p[1]), HANDSHAKE " SET_FEATURES SET_CONFIG SET_MEM_TABLE " RING " SET_VRING_ENABLE");
	CHECK_EQ(base_told(&p[1]), 0);
	peers_free(p, 2);
}

static bool leave(struct peer *p, const struct peer_message *m)
{
	if (p->seen_at++ < (unsigned)p->fault_arg) {
		peer_answer(p, m);
		return true;
	}
	return false;
}

// P01, P02: the n-th message is the last that it hears, for each n.
TEST(gone_again_at_each_message)
{
	unsigned fds = count_fds();
	struct front_again a;
	struct peer p[2];
	peer_init(&p[0]);
	CHECK(again_open(&a, &p[0], 0));
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	unsigned open_before = count_fds(), last = 0;
	for (int n = 0; n < 40; n++) {
		struct peer *old = &p[n % 2], *new = &p[(n + 1) % 2];
		peer_end(old);
		peer_free(old);
		CHECK(await(&a, false));
		struct peer bad;
		next_init(&bad);
		bad.every = true;
		bad.fault = leave;
		bad.fault_arg = n;
		CHECK(next_start(&a.place, &bad));
		deadline_ns end = deadline_in_ms(3000);
		while (!is_connected(&a) && deadline_left_ms(end) > 0 && bad.count <= (unsigned)n)
			loop_once(&a.f.loop, 2);
		peer_end(&bad);
		last = bad.count;
		peer_free(&bad);
		CHECK(await(&a, false)); // it may have heard everything and left after that
		next_init(new);
		CHECK(next_start(&a.place, new));
		CHECK(await(&a, true));
		CHECK_EQ(a.f.died, 0);
		if (last <= (unsigned)n) { // it would have heard more
			peer_end(new);
			peer_free(new);
			break;
		}
	}
	CHECK(last >= 16 && last < 39);
	CHECK(await(&a, false));
	CHECK(count_fds() <= open_before);
	again_close(&a);
	CHECK_EQ(count_fds(), fds);
}

static bool stay_mute(struct peer *p, const struct peer_message *m)
{
	(void)m;
	while (!atomic_load(&p->release))
		usleep(1000);
	return false;
}

// B30: one that connects and says nothing costs a guest's CPU nothing, and is left for the next.
TEST(b30_mute_on_return)
{
	struct front_again a;
	struct peer p[3];
	uint32_t base;
	peers_init(p, 3);
	CHECK(again_after(&a, p, 0, 0));
	a.vu->control_ms = SHORT_MS;
	p[1].every = true;
	p[1].fault = stay_mute;
	deadline_ns start = deadline_now(), end = deadline_in_ms(5000);
	CHECK(next_start(&a.place, &p[1]));
	while (p[1].count == 0 && deadline_left_ms(end) > 0)
		usleep(1000);
	CHECK(p[1].count > 0); // the handshake is under way, with its deadline
	a.vu->control_ms = FRONT_LONG_MS;
	deadline_ns own_start = own_now();
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	CHECK_EQ(a.f.b->ops->run(a.f.b, false), 0);
	CHECK(own_ms_since(own_start) < SHORT_MS / 2);
	CHECK(next_start(&a.place, &p[2]));
	CHECK(await(&a, true));
	CHECK(ms_since(start) >= SHORT_MS);
	atomic_store(&p[1].release, true);
	again_close(&a);
	peer_join(&p[1]);
	peer_join(&p[2]);
	CHECK_STR(said(&p[2]), HANDSHAKE);
	peers_free(p, 3);
}

// Another device is not taken for the one that was there.
TEST(b09_b10_not_the_same_device)
{
	struct front_again a;
	struct peer p[5];
	peers_init(p, 5);
	p[1].features &= ~PEER_BIT(28); // which the driver took
	p[2].queue_num = 1;
	p[3].protocol &= ~VHOST_USER_PF_BIT(CONFIG);
	p[4].features &= ~PEER_BIT(13); // which it did not
	CHECK(again_after(&a, p, 0, 0));
	for (int i = 1; i < 5; i++) {
		CHECK(next_start(&a.place, &p[i]));
		if (i < 4) {
			peer_join(&p[i]); // it was shown the door
			CHECK(!is_connected(&a));
			CHECK(!find(&p[i], VHOST_USER_SET_FEATURES));
		}
	}
	CHECK(await(&a, true));
	// A driver that wants, after its reset, what only the first had.
	uint32_t base;
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	CHECK_EQ(a.f.b->ops->run(a.f.b, false), 0);
	CHECK(a.f.b->ops->negotiate(a.f.b, PEER_BIT(32) | PEER_BIT(13)) < 0);
	CHECK_EQ(a.f.b->ops->negotiate(a.f.b, PEER_BIT(32)), 0);
	CHECK_EQ(a.f.died, 0);
	again_close(&a);
	peer_join(&p[4]);
	peers_free(p, 5);
}

static bool hang_up(struct peer *p, const struct peer_message *m)
{
	(void)p, (void)m;
	return false;
}

// P02: only an answer makes a death one of a back-end that had served; or a guest that looks at its configuration space again and again
// would have one that always dies started again without a pause.
TEST(p02_what_was_not_answered_was_not_served)
{
	struct front_again a;
	struct peer p[3];
	uint8_t config[60], writeback = 1;
	peers_init(p, 3);
	CHECK(again_after(&a, p, 0, 0));
	p[1].at = VHOST_USER_GET_CONFIG;
	p[1].at_nth = 1; // after its handshake
	p[1].fault = hang_up;
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	CHECK(!a.vu->answered);
	CHECK_EQ(a.f.b->ops->config_read(a.f.b, 0, config, 60), 0); // as it was known: nobody is asked
	CHECK(!a.vu->answered);
	atomic_store(&a.vu->config_stale, true);
	CHECK_EQ(a.f.b->ops->config_read(a.f.b, 0, config, 60), 0); // as it was known: nobody answers
	CHECK(!a.vu->answered);
	CHECK(await(&a, false));
	CHECK_EQ(a.f.b->ops->config_read(a.f.b, 0, config, 60), 0);
	CHECK_EQ(a.f.b->ops->config_write(a.f.b, 32, &writeback, 1), 0);
	CHECK(!a.vu->answered);
	CHECK(next_start(&a.place, &p[2]));
	CHECK(await(&a, true));
	CHECK(!a.vu->answered);
	atomic_store(&a.vu->config_stale, true);
	CHECK_EQ(a.f.b->ops->config_read(a.f.b, 0, config, 60), 0);
	CHECK(a.vu->answered);
	again_close(&a);
	peer_join(&p[1]);
	peer_join(&p[2]);
	peers_free(p, 3);
}

TEST(a_changed_configuration_is_told)
{
	struct front_again a;
	struct peer p[2];
	uint8_t config[60];
	peers_init(p, 2);
	p[1].config[1] = 16; // twice as large
	CHECK(again_after(&a, p, 0, 0));
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	CHECK_EQ(a.f.changed, 1);
	CHECK_EQ(a.f.b->ops->config_read(a.f.b, 0, config, 60), 0);
	CHECK_EQ(config[1], 16);
	again_close(&a);
	peer_join(&p[1]);
	peers_free(p, 2);
}

TEST(the_time_is_over)
{
	struct front_again a;
	struct peer p;
	unsigned fds = count_fds();
	peer_init(&p);
	CHECK(again_open(&a, &p, 300));
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	deadline_ns start = deadline_now();
	peer_end(&p);
	CHECK(loop_until(&a.f.loop, &a.f.died, 3000));
	CHECK(ms_since(start) >= 290 && ms_since(start) < 2000);
	CHECK(strstr(a.f.why, "did not come back"));
	CHECK_EQ(-a.f.b->ops->run(a.f.b, false), EPIPE);
	CHECK_EQ(a.f.died, 1);
	again_close(&a);
	peer_free(&p);
	CHECK_EQ(count_fds(), fds);
}

// Requests that may have been under way, and nobody who knows which: the driver has to start over, and then it works.
TEST(b18_without_a_record_the_device_needs_a_reset)
{
	struct front_again a;
	struct peer p[2];
	uint32_t base;
	peers_init(p, 2);
	CHECK(again_after(&a, p, 10, 7));
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	CHECK_EQ(a.f.failed, 1);
	CHECK(!find(&p[1], VHOST_USER_SET_VRING_KICK));
	*avail_index(&a) = *used_index(&a) = 0;
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	CHECK_EQ(a.f.b->ops->run(a.f.b, false), 0);
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	again_close(&a);
	peer_join(&p[1]);
	CHECK(find(&p[1], VHOST_USER_SET_VRING_KICK));
	CHECK_EQ(a.f.died, 0);
	peers_free(p, 2);
}

// The driver may be looking at memory of the one that is gone.
static unsigned shared_withdrawn(void *owner, const struct backend_shared_part *part)
{
	(void)owner;
	return part ? 0 : 3;
}

TEST(b14_shared_memory_of_one_that_is_gone)
{
	struct front_again a;
	struct peer p[4];
	uint32_t base;
	peers_init(p, 4);
	for (int i = 0; i < 4; i++) {
		p[i].protocol |= VHOST_USER_PF_BIT(BACKEND_SEND_FD) | VHOST_USER_PF_BIT(SHMEM);
		p[i].shared.count = 1;
		p[i].shared.size[5] = 4096;
	}
	p[1].shared.size[5] = 8192;
	p[2].shared.size[6] = 4096;
	p[2].shared.size[5] = 0;
	static struct backend_events events;
	events = front_events;
	events.shared_withdrawn = shared_withdrawn;
	front_own.shared_memory = 8192;
	CHECK(again_open(&a, &p[0], 0));
	front_own.shared_memory = 0;
	a.f.b->events = &events;
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	peer_end(&p[0]);
	CHECK(await(&a, false));
	for (int i = 1; i < 4; i++) {
		CHECK(next_start(&a.place, &p[i]));
		if (i == 3)
			break;
		peer_join(&p[i]); // its memory is another
		CHECK(!is_connected(&a));
		CHECK(find(&p[i], VHOST_USER_GET_SHMEM_CONFIG) && !find(&p[i], VHOST_USER_SET_FEATURES));
	}
	CHECK(await(&a, true));
	CHECK_EQ(a.f.failed, 1);
	CHECK_EQ(a.f.b->ops->queue_stop(a.f.b, 0, &base), 0);
	CHECK_EQ(a.f.b->ops->run(a.f.b, false), 0);
	CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0);
	again_close(&a);
	peer_join(&p[3]);
	CHECK(find(&p[3], VHOST_USER_SET_VRING_KICK));
	peers_free(p, 4);
}

TEST(the_record_of_requests_goes_from_one_to_the_next)
{
	struct front_again a;
	struct peer p[3];
	unsigned fds = count_fds();
	peers_init(p, 3);
	for (int i = 0; i < 3; i++) {
		p[i].protocol |= VHOST_USER_PF_BIT(INFLIGHT_SHMFD);
		p[i].inflight_len = 8192;
	}
	p[2].nack_of = VHOST_USER_SET_INFLIGHT_FD;
	CHECK(again_after(&a, p, 10, 7));
	CHECK(find(&p[0], VHOST_USER_GET_INFLIGHT_FD) && find(&p[0], VHOST_USER_SET_INFLIGHT_FD));
	CHECK(next_start(&a.place, &p[1]));
	CHECK(await(&a, true));
	CHECK_EQ(a.f.failed, 0);
	peer_end(&p[1]);
	CHECK(!find(&p[1], VHOST_USER_GET_INFLIGHT_FD));
	const struct peer_message *set = find(&p[1], VHOST_USER_SET_INFLIGHT_FD);
	CHECK(set && set->fds == 1);
	CHECK_EQ(base_told(&p[1]), 7);
	// One that refuses it cannot know.
	CHECK(await(&a, false));
	CHECK(next_start(&a.place, &p[2]));
	CHECK(await(&a, true));
	CHECK_EQ(a.f.failed, 1);
	again_close(&a);
	peer_join(&p[2]);
	peers_free(p, 3);
	CHECK_EQ(count_fds(), fds);
}

// B08: what is handed over as the record is looked at.
TEST(b08_a_record_that_is_none)
{
	unsigned fds = count_fds();
	for (int kind = 0; kind < 3; kind++) {
		struct front_again a;
		struct peer p;
		peer_init(&p);
		p.protocol |= VHOST_USER_PF_BIT(INFLIGHT_SHMFD);
		p.inflight_len = 4096;
		p.inflight_fd = kind == 0   ? open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
				: kind == 1 ? fd_eventfd()
					    : memfd_create("short", MFD_CLOEXEC);
		CHECK(again_open(&a, &p, 0));
		CHECK_EQ(front_run(&a.f, &a.ram, a.kick, a.call), 0); // noted for the next
		CHECK(await(&a, false));
		CHECK(!find(&p, VHOST_USER_SET_VRING_KICK));
		peer_end(&p);
		close(p.inflight_fd);
		again_close(&a);
		peer_free(&p);
	}
	CHECK_EQ(count_fds(), fds);
}

static int64_t cpu_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// What waits in a listener's queue keeps it readable: who has no descriptor for it may not look all the time.
TEST(one_that_comes_when_there_are_no_descriptors)
{
	static struct peer p[2];
	struct front_again a;
	struct rlimit before, none;
	peers_init(p, 2);
	CHECK(again_after(&a, &p[0], 0, 0));
	p[1].sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int next = dup(p[1].sock);
	close(next);
	CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){ .rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max };
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	CHECK_EQ(connect(p[1].sock, (struct sockaddr *)&a.place.at, a.place.at_len), 0);
	const int64_t begin = cpu_ms();
	usleep(500000);
	CHECK(cpu_ms() - begin < 100);
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
	peer_start(&p[1]);
	CHECK(await(&a, true));
	again_close(&a);
	peer_end(&p[1]);
	peers_free(p, 2);
}
