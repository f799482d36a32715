// SPDX-License-Identifier: BSD-2-Clause
// Back-ends that misbehave on a vhost-user socket: each must end as refused or dead within its deadline, with
// no descriptor left.  Test names begin with the row of the fault list that they show.
#include "tests/unit/test.h"

#include "bridges/backend.h"
#include "tests/fault/bridge_open.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

// What fails by a deadline has to have failed after it, plus what a busy machine adds.
#define LATE_MS (front_deadline_ms + 400)

// Every request of the handshake that is answered.
static const uint32_t answered[] = { VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES,
				     VHOST_USER_GET_QUEUE_NUM, VHOST_USER_GET_CONFIG,
				     VHOST_USER_SET_BACKEND_REQ_FD };
#define ANSWERED (sizeof(answered) / sizeof(answered[0]))

static uint64_t more_features; // of a peer

typedef bool fault_fn(struct peer *p, const struct peer_message *m);

// One attempt of refused().  *shown: the peer came to do what it was to do before its time was over.
static bool refused_once(fault_fn *fault, uint32_t request, int arg, const char *because, bool *shown)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	peer_init(&p);
	p.features |= more_features;
	p.at = request;
	p.fault = fault;
	p.fault_arg = arg;
	deadline_ns start = own_now();
	front_open(&f, &p);
	int64_t took = own_ms_since(start);
	front_close(&f);
	peer_join(&p);
	*shown = p.seen_at > 0 || !strstr(f.e.text, "deadline missed");
	bool good = f.rc < 0 && strncmp(f.e.text, "disk0: ", 7) == 0 && took < LATE_MS && p.seen_at &&
		    strstr(f.e.text, because) && count_fds() == fds;
	if (!good && *shown)
		printf("at request %u (%d): rc %d, \"%s\", %lld ms, %u fds more, fault reached %u times\n",
		       request, arg, f.rc, f.e.text, (long long)took, count_fds() - fds, p.seen_at);
	peer_free(&p);
	return good;
}

// Opens a back-end whose peer does `fault` at `request`: true if it was refused with a sentence about disk0
// that says `because`, in time, with nothing left.  A peer that got no processor within the deadline was refused, too, but for
// nothing that it did: another one is asked.
static bool refused(fault_fn *fault, uint32_t request, int arg, const char *because)
{
	bool good = false, shown = false;
	for (unsigned i = 0; !shown && i < 20; i++)
		good = refused_once(fault, request, arg, because, &shown);
	return good && shown;
}

static bool refused_everywhere(fault_fn *fault, int arg, const char *because)
{
	bool good = true;
	for (size_t i = 0; i < ANSWERED; i++)
		good &= refused(fault, answered[i], arg, because);
	return good;
}

// ---- B01 ----------------------------------------------------------------------------------------

// What bridge_open() says to a socket path or reference; "" if it opens.
static const char *open_path(const char *path, int64_t deadline_ms)
{
	static struct err e;
	struct loop loop;
	struct backend *b;
	const struct device_config cfg = {
		.id = "disk0", .via = VIA_VHOST_USER, .virtio_type = 2, .socket = path
	};
	if (loop_init(&loop) < 0)
		return "";
	struct bridge_host host = { .loop = &loop, .start_deadline = deadline_in_ms(deadline_ms) };
	bridges_init(&host);
	e.text[0] = '\0';
	if (bridge_open(&b, &cfg, &host, &e) == 0) {
		b->ops->close(b);
		e.text[0] = '\0';
	}
	bridges_free(&host);
	loop_destroy(&loop);
	return e.text;
}

static bool refused_path(const char *path, const char *because)
{
	unsigned fds = count_fds();
	deadline_ns start = own_now();
	const char *text = open_path(path, front_deadline_ms);
	int64_t took = own_ms_since(start);
	bool good = strncmp(text, "disk0: ", 7) == 0 && strstr(text, because) && took < LATE_MS &&
		    count_fds() == fds;
	if (!good)
		printf("%s: \"%s\" after %lld ms\n", path, text, (long long)took);
	return good;
}

TEST(b01_nobody_there)
{
	front_deadline_ms = FRONT_SHORT_MS;
	char dir[] = "/tmp/vu-fault-XXXXXX", path[64], far[200];
	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	CHECK(refused_path(path, "No such file"));
	CHECK(symlink("/nowhere/at/all", path) == 0);
	CHECK(refused_path(path, "No such file"));
	unlink(path);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	CHECK(refused_path(path, "Connection refused"));
	unlink(path);
	memset(far, 'x', sizeof(far));
	far[0] = '/';
	far[sizeof(far) - 1] = '\0';
	CHECK(refused_path(far, "at most"));
	CHECK(refused_path("", "empty"));

	struct err e;
	int listener = msg_listen(path, &e);
	CHECK(listener >= 0);
	CHECK(refused_path(path, "does not answer")); // connected, and nobody accepts
	int fill[64], n = 0;
	while (n < 64 && (fill[n] = msg_connect(path, 0, &e)) >= 0)
		n++;
	CHECK(n > 0 && n < 64);
	CHECK(refused_path(path, "nobody accepts")); // the queue is full
	fd_close_all(fill, (size_t)n);
	close(listener);
	CHECK(refused_path(path, "Connection refused"));
	unlink(path);
	rmdir(dir);
	front_deadline_ms = FRONT_LONG_MS;
}

TEST(b08_descriptor_of_the_wrong_kind)
{
	int kinds[5], pair[2];
	struct err e;
	kinds[0] = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	kinds[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	kinds[2] = open("/tmp", O_PATH | O_CLOEXEC);
	kinds[3] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
	kinds[4] = pair[0];
	for (int i = 0; i < 5; i++) {
		char ref[16];
		snprintf(ref, sizeof(ref), "fd:%d", kinds[i]);
		CHECK(refused_path(ref, ref));
	}
	CHECK(refused_path("fd:900", "fd:900"));
	CHECK(refused_path("fd:nobody", "LISTEN_FDNAMES"));
	CHECK(msg_connect("fd:x", 0, &e) < 0);
	fd_close_all(kinds, 5);
	close(pair[1]);
}

// ---- B02-B07
// ----------------------------------------------------------------------------------------------------

// From this request on, for good.
static bool keep_silent(struct peer *p, const struct peer_message *m)
{
	(void)m;
	p->every = true;
	return true;
}

static bool drip(struct peer *p, const struct peer_message *m)
{
	const struct vhost_user_header h = { m->h.request, 5, 8 };
	char bytes[20] = { 0 };
	memcpy(bytes, &h, sizeof(h));
	for (int i = 0; i < 19; i++) {
		if (send(p->sock, bytes + i, 1, MSG_NOSIGNAL) != 1)
			return false;
		poll(NULL, 0, 40);
	}
	return true;
}

TEST(b02_mute_or_dripping)
{
	front_deadline_ms = FRONT_SHORT_MS;
	CHECK(refused_everywhere(keep_silent, 0, "does not answer"));
	CHECK(refused(drip, VHOST_USER_GET_FEATURES, 0, "does not answer"));
	CHECK(refused(drip, VHOST_USER_GET_CONFIG, 0, "does not answer"));
	front_deadline_ms = FRONT_LONG_MS;
}

// Sends the first fault_arg bytes of a good answer and closes.
static bool cut_off(struct peer *p, const struct peer_message *m)
{
	const struct vhost_user_header h = { m->h.request, 5, 8 };
	char bytes[20] = { 0 };
	memcpy(bytes, &h, sizeof(h));
	if (p->fault_arg)
		peer_send(p, bytes, (size_t)p->fault_arg);
	return false;
}

TEST(b03_b04_closes_in_the_middle)
{
	const int cuts[] = { 0, 1, 11, 12, 13, 19 };
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++)
		CHECK(refused_everywhere(cut_off, cuts[i], "closed its connection"));
	CHECK(refused(cut_off, VHOST_USER_GET_FEATURES, 20, "PROTOCOL_FEATURES")); // right after an answer
}

static bool wrong_size(struct peer *p, const struct peer_message *m)
{
	static const uint8_t junk[64];
	const uint32_t sizes[] = { 1, 7, 9, 16, 0x7fffffff, 0xffffffff };
	uint32_t size = sizes[p->fault_arg];
	peer_reply_raw(p, m->h.request, 5, size, junk, size < sizeof(junk) ? size : sizeof(junk));
	return true;
}

static bool empty_answer(struct peer *p, const struct peer_message *m)
{
	peer_reply(p, m->h.request, NULL, 0);
	return true;
}

TEST(b04_sizes)
{
	for (int i = 0; i < 6; i++)
		CHECK(refused_everywhere(wrong_size, i, ""));
	CHECK(refused_everywhere(empty_answer, 0, ""));
}

static bool wrong_header(struct peer *p, const struct peer_message *m)
{
	const uint32_t flags[] = { 1, 0, 4, 6, 7, 0x15, 0x80000005 };
	const uint64_t zero = 0;
	if (p->fault_arg < 7)
		peer_reply_raw(p, m->h.request, flags[p->fault_arg], 8, &zero, 8);
	else
		peer_reply_u64(p,
			       p->fault_arg == 7   ? m->h.request + 1
			       : p->fault_arg == 8 ? 0
						   : UINT32_MAX,
			       0);
	return true;
}

TEST(b05_headers)
{
	for (int i = 0; i < 10; i++)
		CHECK(refused_everywhere(wrong_header, i, "broke the protocol"));
}

static bool answer_twice(struct peer *p, const struct peer_message *m)
{
	peer_answer(p, m);
	peer_answer(p, m);
	return true;
}

// Opens, and checks that the back-end dies of what the peer does then.
static bool dies(struct front *f, struct peer *p, const char *because)
{
	deadline_ns start = own_now();
	bool told = loop_until(&f->loop, &f->died, LATE_MS);
	int64_t took = own_ms_since(start);
	for (int i = 0; i < 5; i++)
		loop_once(&f->loop, 1);
	uint8_t byte;
	uint32_t base;
	uint64_t v;
	const struct backend_ops *ops = f->b->ops;
	deadline_ns ops_start = own_now();
	bool all_refuse = ops->negotiate(f->b, 0) == -EPIPE && ops->config_write(f->b, 0, "", 1) == -EPIPE &&
			  ops->run(f->b, true) == -EPIPE && ops->features(f->b, &v) == 0;
	ops->queue_stop(f->b, 0, &base);
	ops->config_read(f->b, 0, &byte, 1);
	bool good = told && f->died == 1 && took < LATE_MS && strstr(f->why, because) && all_refuse &&
		    own_ms_since(ops_start) < 50;
	if (!good)
		printf("died %u times after %lld ms: \"%s\"; operations refuse: %d\n", f->died,
		       (long long)took, f->why, all_refuse);
	front_close(f);
	shutdown(p->sock, SHUT_RDWR);
	return good;
}

TEST(b06_unasked_or_twice)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	for (size_t i = 0; i + 1 < ANSWERED; i++)
		CHECK(refused(answer_twice, answered[i], 0,
			      i == 1 ? "" : "broke the protocol")); // 1: end of an exchange

	peer_init(&p);
	p.at = VHOST_USER_SET_BACKEND_REQ_FD; // the last answer of the handshake
	p.fault = answer_twice;
	front_open(&f, &p);
	if (f.rc == 0) // else the second one was there before the handshake was over
		CHECK(dies(&f, &p, "nobody asked"));
	front_close(&f);
	peer_join(&p);
	peer_free(&p);

	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	peer_reply_u64(&p, VHOST_USER_GET_FEATURES, 0);
	CHECK(dies(&f, &p, "nobody asked"));
	peer_join(&p);
	peer_free(&p);

	// The same, met by an exchange before the loop has a chance to see it.
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	peer_reply_u64(&p, VHOST_USER_SET_FEATURES, 0);
	CHECK_EQ(-f.b->ops->negotiate(f.b, PEER_BIT(32)), EPIPE);
	CHECK(dies(&f, &p, "nobody asked"));
	peer_join(&p);
	peer_free(&p);
	CHECK_EQ(count_fds(), fds);
}

static bool with_fds(struct peer *p, const struct peer_message *m)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), fds[253];
	for (int i = 0; i < 253; i++)
		fds[i] = null;
	struct {
		struct vhost_user_header h;
		uint8_t v[8];
	} out = { { m->h.request, 5, 8 }, { 0 } };
	peer_send_fds(p, &out, 20, fds, (unsigned)p->fault_arg);
	close(null);
	return true;
}

TEST(b07_descriptors)
{
	const int counts[] = { 1, 2, 28, 33, 253 };
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		CHECK(refused_everywhere(with_fds, counts[i], "descriptors where none are due"));
	// At the limit of descriptors the kernel drops them and says so.
	struct rlimit old, tight;
	CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	struct peer p;
	struct front f;
	peer_init(&p);
	p.at = VHOST_USER_GET_QUEUE_NUM;
	p.fault = with_fds;
	p.fault_arg = 20;
	tight = old;
	tight.rlim_cur = count_fds() + 12;
	CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
	front_open(&f, &p);
	CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
	front_close(&f);
	peer_join(&p);
	CHECK(f.rc < 0);
	peer_free(&p);
}

// ---- B09-B11, B15
// -----------------------------------------------------------------------------------------------

static bool offer_refused(uint64_t features, uint64_t protocol, uint64_t slots, const char *because)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	peer_init(&p);
	p.features = features;
	p.protocol = protocol;
	p.mem_slots = slots;
	front_open(&f, &p);
	bool good = because ? f.rc < 0 && strstr(f.e.text, because) && strstr(f.e.text, "disk0") : f.rc == 0;
	if (!good)
		printf("rc %d: \"%s\"\n", f.rc, f.e.text);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	return good && count_fds() == fds;
}

TEST(b09_offers)
{
	const uint64_t good = PEER_BIT(32) | PEER_BIT(30), slots = VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS);
	CHECK(offer_refused(good, PEER_PROTOCOL, 8, NULL));
	CHECK(offer_refused(PEER_BIT(30), PEER_PROTOCOL, 8, "VERSION_1"));
	CHECK(offer_refused(PEER_BIT(32), PEER_PROTOCOL, 8, "PROTOCOL_FEATURES"));
	CHECK(offer_refused(0, 0, 8, "PROTOCOL_FEATURES"));
	CHECK(offer_refused(good, PEER_PROTOCOL & ~VHOST_USER_PF_BIT(CONFIG), 8, "PROTOCOL_F_CONFIG"));
	CHECK(offer_refused(good, 0, 8, "PROTOCOL_F_CONFIG"));
	CHECK(offer_refused(good, PEER_PROTOCOL | slots, 0, "no memory")); // B10
	CHECK(offer_refused(good, PEER_PROTOCOL | slots, UINT64_C(1) << 63, NULL));
	CHECK(offer_refused(good, PEER_PROTOCOL | slots, UINT64_MAX, NULL));
}

TEST(b09_features_change)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol = VHOST_USER_PF_BIT(CONFIG);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	p.features |= PEER_BIT(40);
	CHECK_EQ(-f.b->ops->negotiate(f.b, PEER_BIT(32)), EPIPE);
	CHECK(dies(&f, &p, "changed the features"));
	peer_join(&p);
	peer_free(&p);
}

TEST(b10_too_few_slots_for_the_memory)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.protocol |= VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS);
	p.mem_slots = 1;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	CHECK_EQ(-f.b->ops->memory(f.b, &ram), E2BIG);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	close(ram.region[0].fd);
}

static bool bad_config(struct peer *p, const struct peer_message *m)
{
	struct vhost_user_config c;
	memcpy(&c, m->payload, sizeof(c));
	size_t len = 12 + c.len;
	switch (p->fault_arg) {
	case 0:
		len += 4;
		break;
	case 1:
		c.off = 1;
		break;
	case 2:
		c.len -= 1;
		break;
	case 3:
		len -= 1;
		break;
	case 4:
		len = 12;
		break;
	case 5:
		len = 0;
		break;
	case 6:
		c.len = 0xffffffff;
		break;
	default:
		len = 12 + 256;
		break;
	}
	peer_reply(p, m->h.request, &c, len);
	return true;
}

// The same when the machine runs: what the guest had read stays as it was.
static bool config_kept(int fault)
{
	struct peer p;
	struct front f;
	uint8_t buf[64] = { 0 };
	peer_init(&p);
	p.features |= more_features;
	p.at = VHOST_USER_GET_CONFIG;
	p.at_nth = 1;
	p.fault = bad_config;
	p.fault_arg = fault;
	front_open(&f, &p);
	bool good = f.rc == 0 && f.b->config_len > 0 && f.b->config_len <= sizeof(buf) &&
		    f.b->ops->run(f.b, false) == 0 && // makes it be asked for again
		    f.b->ops->config_read(f.b, 0, buf, f.b->config_len) == -EPIPE;
	for (size_t k = 0; k < sizeof(buf); k++)
		good &= buf[k] == 0;
	good = good && dies(&f, &p, "");
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	return good;
}

TEST(b11_configuration_space)
{
	static const struct {
		uint16_t type;
		uint64_t features; // that have something to show
	} devices[] = { { 2, 0 }, { 1, PEER_BIT(5) | PEER_BIT(16) }, { 3, PEER_BIT(0) }, { 19, 0 } };
	for (size_t t = 0; t < sizeof(devices) / sizeof(devices[0]); t++)
		for (int i = 0; i < 8; i++) {
			front_type = devices[t].type;
			more_features = devices[t].features;
			const bool refusal = i == 4 || i == 5;
			const bool good = refused(bad_config, VHOST_USER_GET_CONFIG, i,
						  refusal ? "refuses to show" : "broke the protocol") &&
					  config_kept(i);
			front_type = 2;
			more_features = 0;
			CHECK(good);
		}
	// A source of random numbers has none, and is not asked for any.
	struct peer p;
	struct front f;
	peer_init(&p);
	front_type = 4;
	front_open(&f, &p);
	front_type = 2;
	CHECK(f.rc == 0 && f.b->config_len == 0);
	front_close(&f);
	peer_join(&p);
	for (unsigned i = 0; i < p.count; i++)
		CHECK(p.log[i].h.request != VHOST_USER_GET_CONFIG);
	peer_free(&p);
}

static bool driver_ok_refused(struct peer *p, const struct peer_message *m)
{
	peer_reply_u64(p, m->h.request, (m->payload[0] & 4) != 0);
	return true;
}

static bool shrunk(struct peer *p, const struct peer_message *m)
{
	(void)m;
	peer_reply(p, VHOST_USER_GET_CONFIG, NULL, 0);
	return true;
}

// B29, its part on a socket: a device whose status never comes, that refuses to begin, or whose configuration space is not what it was.
// What is refused is refused that time, and the device lives; of a configuration space that is gone it does not.
TEST(b29_status_and_configuration_refused)
{
	static const uint16_t types[] = { 2, 1, 4, 3, 19 }; // blk, net, rng, console, vsock
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	uint8_t buf[64];
	for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
		for (int kind = 0; kind < 3; kind++) {
			struct peer p;
			struct front f;
			uint32_t base;
			peer_init(&p);
			p.protocol |= VHOST_USER_PF_BIT(STATUS);
			p.features |= types[t] == 1 ? PEER_BIT(5) : types[t] == 3 ? PEER_BIT(0) : 0;
			front_type = types[t];
			front_open(&f, &p);
			front_type = 2;
			CHECK_EQ(f.rc, 0);
			const struct backend_ops *ops = f.b->ops;
			if (kind == 0) {
				p.status_mask = 0xff & ~8ull; // FEATURES_OK
				CHECK_EQ(-ops->negotiate(f.b, PEER_BIT(32)), EIO);
				p.status_mask = 0xff;
			} else if (kind == 1) {
				p.fault = driver_ok_refused;
				p.at_nth = 3; // after 0, ACKNOWLEDGE with DRIVER, and FEATURES_OK
				p.at = VHOST_USER_SET_STATUS;
				CHECK_EQ(-front_run(&f, &ram, kick, -1), EIO);
				p.at = 0;
				CHECK_EQ(ops->queue_stop(f.b, 0, &base), 0);
			} else if (f.b->config_len) {
				p.fault = shrunk;
				p.at = VHOST_USER_GET_CONFIG;
				p.at_nth = 0;
				CHECK_EQ(ops->run(f.b, false), 0); // makes it be asked for again
				CHECK_EQ(-ops->config_read(f.b, 0, buf, 1), EPIPE);
			}
			if (kind < 2 || !f.b->config_len) {
				CHECK_EQ(ops->run(f.b, false), 0);
				CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
				CHECK_EQ(f.died, 0);
			}
			front_close(&f);
			peer_join(&p);
			peer_free(&p);
		}
	close(kick);
	close(ram.region[0].fd);
}

static bool base_of_another_queue(struct peer *p, const struct peer_message *m)
{
	const struct vhost_user_vring_state s = { .index = 3 };
	peer_reply(p, m->h.request, &s, sizeof(s));
	return true;
}

TEST(b15_ring_base)
{
	for (int wrong = 0; wrong < 2; wrong++) {
		struct peer p;
		struct front f;
		uint32_t base = 1;
		peer_init(&p);
		p.vring_base = 0xdeadbeef;
		p.at = wrong ? VHOST_USER_GET_VRING_BASE : 0;
		p.fault = base_of_another_queue;
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		struct mem_table ram = front_memory();
		int kick = fd_eventfd();
		CHECK_EQ(front_run(&f, &ram, kick, -1), 0);
		CHECK_EQ(-f.b->ops->queue_stop(f.b, 0, &base), wrong ? EPIPE : 0);
		CHECK_EQ(base, wrong ? 0 : 0xbeef);
		if (wrong)
			CHECK(dies(&f, &p, "another queue"));
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
		close(kick);
		close(ram.region[0].fd);
	}
}

// ---- B12, B13: the request channel --------------------------------------------------------------

struct flood {
	int fd;
	uint32_t request, flags;
	unsigned sent;
	atomic_bool stop;
};

static void *flood_run(void *arg)
{
	struct flood *fl = arg;
	const struct vhost_user_header h = { fl->request, fl->flags, 0 };
	while (!atomic_load(&fl->stop)) {
		struct pollfd p = { .fd = fl->fd, .events = POLLOUT };
		if (poll(&p, 1, 5) == 1 && send(fl->fd, &h, sizeof(h), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
			fl->sent++;
		if (p.revents & POLLERR)
			break;
	}
	return NULL;
}

static int64_t thread_cpu_us(void)
{
	struct rusage r;
	getrusage(RUSAGE_THREAD, &r);
	return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000 + r.ru_utime.tv_usec + r.ru_stime.tv_usec;
}

TEST(b12_flood_of_config_changes)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct flood fl = { .fd = p.channel, .request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, .flags = 1 };
	pthread_t t;
	CHECK(pthread_create(&t, NULL, flood_run, &fl) == 0);
	int64_t cpu = thread_cpu_us();
	const deadline_ns start = deadline_now(), end = deadline_in_ms(400), last = deadline_in_ms(10000);
	while (deadline_left_ms(end) > 0 || (f.changed < 5 && deadline_left_ms(last) > 0))
		loop_once(&f.loop, 5);
	const int64_t run_ms = ms_since(start);
	cpu = thread_cpu_us() - cpu;
	atomic_store(&fl.stop, true);
	pthread_join(t, NULL);
	if (f.changed > run_ms / 10 + 2 || cpu > run_ms * 1000 / 4)
		printf("%u upcalls, %lld us of CPU, %u messages sent\n", f.changed, (long long)cpu, fl.sent);
	CHECK(f.changed >= 5 && f.changed <= run_ms / 10 + 2);
	CHECK(fl.sent > f.changed);
	CHECK(cpu < run_ms * 1000 / 4);
	CHECK_EQ(f.died, 0);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

// Sends one message on the channel, lets the loop run, returns the code of the answer, or UINT64_MAX if there
// is none.
static uint64_t channel_ask(struct front *f, struct peer *p, const void *msg, size_t len, const int *fds,
			    unsigned fd_count)
{
	struct peer as = { .sock = p->channel };
	peer_send_fds(&as, msg, len, fds, fd_count);
	for (int i = 0; i < 8; i++)
		loop_once(&f->loop, 15);
	uint8_t in[20];
	uint64_t code = UINT64_MAX;
	if (recv(p->channel, in, sizeof(in), MSG_DONTWAIT) == 20)
		memcpy(&code, in + 12, 8);
	return code;
}

TEST(b13_b14_channel_requests)
{
	struct peer p;
	struct front f;
	unsigned fds = count_fds();
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct {
		struct vhost_user_header h;
		uint8_t payload[64];
	} m = { { 77, 1 | 8, 16 }, { 0 } };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CHECK_EQ(channel_ask(&f, &p, &m, 28, NULL, 0), 1); // unknown
	CHECK_EQ(channel_ask(&f, &p, &m, 28, &null, 1), 1);
	m.h = (struct vhost_user_header){ VHOST_USER_BACKEND_SHMEM_MAP, 1 | 8, 40 };
	CHECK_EQ(channel_ask(&f, &p, &m, 52, &null, 1), 1); // known, not negotiated
	m.h = (struct vhost_user_header){ VHOST_USER_BACKEND_IOTLB_MSG, 1, 32 };
	CHECK_EQ(channel_ask(&f, &p, &m, 44, NULL, 0), UINT64_MAX); // no answer asked for
	m.h = (struct vhost_user_header){ VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 1 | 8, 8 };
	CHECK_EQ(channel_ask(&f, &p, &m, 20, NULL, 0), 1); // wrong size
	CHECK_EQ(f.changed, 0);
	m.h = (struct vhost_user_header){ VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 1 | 8, 0 };
	CHECK_EQ(channel_ask(&f, &p, &m, 12, NULL, 0), 0);
	CHECK_EQ(f.changed, 1);
	// A back-end that gives the channel up has done nothing wrong.
	shutdown(p.channel, SHUT_RDWR);
	for (int i = 0; i < 5; i++)
		loop_once(&f.loop, 10);
	CHECK_EQ(f.died, 0);
	CHECK_EQ(f.b->ops->negotiate(f.b, PEER_BIT(32)), 0);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	close(null);
	CHECK_EQ(count_fds(), fds);
}

static struct {
	unsigned calls, queue;
	void *page;
} given;

static void page_given(void *owner, unsigned q, void *page)
{
	(void)owner;
	given.calls++;
	given.queue = q;
	if (given.page)
		munmap(given.page, 4096);
	given.page = page;
}

#define PAGES_ALL \
	(PEER_PF(BACKEND_SEND_FD) | PEER_PF(HOST_NOTIFIER) | PEER_PF(REPLY_ACK) | PEER_PF(BACKEND_REQ))
#define PEER_PF(name) VHOST_USER_PF_BIT(name)

static int page_fd(unsigned flags, off_t size, int seals)
{
	int fd = memfd_create("page", flags | MFD_CLOEXEC);
	if (fd >= 0 && (ftruncate(fd, size) < 0 || (seals && fcntl(fd, F_ADD_SEALS, seals) < 0))) {
		close(fd);
		return -1;
	}
	return fd;
}

struct page_message {
	struct vhost_user_header h;
	struct vhost_user_vring_area area;
} __attribute__((packed));

static uint64_t page_ask(struct front *f, struct peer *p, uint64_t index, uint64_t size, uint64_t offset,
			 int fd)
{
	const struct page_message m = { { VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG, 1 | 8, 24 },
					{ index, size, offset } };
	return channel_ask(f, p, &m, sizeof(m), &fd, fd >= 0);
}

TEST(b14_b20_doorbell_pages)
{
	static struct backend_events events;
	struct peer p;
	struct front f;
	const unsigned before = count_fds();
	peer_init(&p);
	p.protocol |= PAGES_ALL;
	front_own.host_notifier = true;
	front_open(&f, &p);
	front_own.host_notifier = false;
	CHECK_EQ(f.rc, 0);
	events = front_events;
	events.doorbell_page = page_given;
	f.b->events = &events;
	const unsigned queues = f.b->queue_count;
	const int good = page_fd(MFD_ALLOW_SEALING, 8192, F_SEAL_SHRINK),
		  loose = page_fd(MFD_ALLOW_SEALING, 8192, 0),
		  grow = page_fd(MFD_ALLOW_SEALING, 8192, F_SEAL_GROW), never = page_fd(0, 8192, 0),
		  fixed = page_fd(MFD_ALLOW_SEALING, 8192, F_SEAL_SHRINK | F_SEAL_WRITE),
		  null = open("/dev/null", O_RDWR | O_CLOEXEC), zero = open("/dev/zero", O_RDWR | O_CLOEXEC),
		  zero_ro = open("/dev/zero", O_RDONLY | O_CLOEXEC), folder = open("/", O_RDONLY | O_CLOEXEC),
		  self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), event = fd_eventfd();
	const struct {
		uint64_t index, size, offset;
		int fd;
	} bad[] = {
		{ queues, 4096, 0, good },
		{ 255, 4096, 0, good },
		{ 0x100, 4096, 0, good }, // says that there is none
		{ 0, 4096, 0, -1 },	  // and the other way round
		{ 0x200, 4096, 0, good },
		{ UINT64_C(1) << 63, 4096, 0, good },
		{ 0, 0, 0, good },
		{ 0, 1, 0, good },
		{ 0, 8192, 0, good },
		{ 0, UINT64_MAX - 4095, 0, good },
		{ 0, 4096, 1, good },
		{ 0, 4096, 8192, good },
		{ 0, 4096, INT64_MAX - 4095, good },
		{ 0, 4096, UINT64_MAX - 4095, good },
		{ 0, 4096, 0, loose },
		{ 0, 4096, 0, grow },
		{ 0, 4096, 0, never },
		{ 0, 4096, 0, fixed },
		{ 0, 4096, 0, null },
		{ 0, 4096, 0, zero_ro },
		{ 0, 4096, 0, folder },
		{ 0, 4096, 0, self },
		{ 0, 4096, 0, event },
	};
	log_init("peer", LOG_ERROR);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t code = page_ask(&f, &p, bad[i].index, bad[i].size, bad[i].offset, bad[i].fd);
		if (code != 1)
			printf("case %zu: %llu\n", i, (unsigned long long)code);
		CHECK_EQ(code, 1);
	}
	CHECK_EQ(given.calls, 0);
	CHECK_EQ(page_ask(&f, &p, 0, 4096, 4096, good), 0);
	CHECK(given.calls == 1 && given.queue == 0 && given.page);
	CHECK(pwrite(good, "rung", 4, 4096) == 4 && memcmp(given.page, "rung", 4) == 0);
	CHECK_EQ(ftruncate(good, 0), -1);
	CHECK_EQ(page_ask(&f, &p, queues - 1, 4096, 0, zero), 0); // a device's
	CHECK(given.calls == 2 && given.queue == queues - 1 && given.page);
	CHECK_EQ(page_ask(&f, &p, 0x100, 0, 0, -1), 0);
	CHECK(given.calls == 3 && given.queue == 0 && !given.page);
	CHECK_EQ(page_ask(&f, &p, 0, 4096, 0, good), 0);
	CHECK(given.page != NULL);
	const unsigned calls = given.calls;
	// Its end withdraws the pages of all queues.
	shutdown(p.sock, SHUT_RDWR);
	CHECK(loop_until(&f.loop, &f.died, 3000));
	CHECK_EQ(given.calls, calls + queues);
	CHECK(!given.page);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	const int all[] = { good, loose, grow, never, fixed, null, zero, zero_ro, folder, self, event };
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		CHECK(close(all[i]) == 0);
	CHECK_EQ(count_fds(), before);
}

TEST(doorbell_pages_are_for_the_configuration_to_allow)
{
	for (unsigned i = 0; i < 2; i++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		p.protocol |= i ? 0 : PAGES_ALL;
		p.protocol &= i ? ~PEER_PF(HOST_NOTIFIER) : UINT64_MAX;
		front_own.host_notifier = i;
		front_open(&f, &p);
		front_own.host_notifier = false;
		if (i) {
			CHECK(f.rc < 0);
			CHECK(strstr(f.e.text, "leave host_notifier out"));
		} else {
			CHECK_EQ(f.rc, 0);
			int fd = page_fd(MFD_ALLOW_SEALING, 8192, F_SEAL_SHRINK);
			CHECK_EQ(page_ask(&f, &p, 0, 4096, 0, fd), 1);
			close(fd);
		}
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
	}
}

// ---- B14, B20: shared memory regions ---------------------------------------------------------------

#define SHARED_ALL (PEER_PF(BACKEND_SEND_FD) | PEER_PF(SHMEM) | PEER_PF(REPLY_ACK) | PEER_PF(BACKEND_REQ))

static struct {
	unsigned calls, withdrawn;
	struct backend_shared_part part;
	void *hva;
	int rc;
} shown;

static int shared_given(void *owner, const struct backend_shared_part *part, void *hva)
{
	(void)owner;
	shown.calls++;
	shown.part = *part;
	if (shown.rc == 0)
		shown.hva = hva;
	return shown.rc;
}

static unsigned shared_withdrawn(void *owner, const struct backend_shared_part *part)
{
	(void)owner;
	const struct backend_shared_part *p = &shown.part;
	if (!shown.hva ||
	    (part && (part->region != p->region || part->offset != p->offset || part->len != p->len)))
		return 0;
	munmap(shown.hva, p->len);
	shown.hva = NULL;
	shown.withdrawn++;
	return 1;
}

static void shared_peer(struct peer *p)
{
	peer_init(p);
	p->protocol |= SHARED_ALL;
	p->shared.count = 2;
	p->shared.size[1] = 0x4000;
	p->shared.size[255] = 0x100000;
}

static void shared_open(struct front *f, struct peer *p, uint64_t allowed)
{
	static struct backend_events events;
	front_own.shared_memory = allowed;
	front_open(f, p);
	front_own.shared_memory = 0;
	events = front_events;
	events.shared_given = shared_given;
	events.shared_withdrawn = shared_withdrawn;
	if (f->b)
		f->b->events = &events;
}

struct shared_message {
	struct vhost_user_header h;
	struct vhost_user_shmem_map m;
} __attribute__((packed));

static uint64_t shared_ask(struct front *f, struct peer *p, uint32_t request,
			   const struct vhost_user_shmem_map *map, int fd)
{
	const struct shared_message m = { { request, 1 | 8, sizeof(*map) }, *map };
	return channel_ask(f, p, &m, sizeof(m), &fd, fd >= 0);
}

TEST(b14_b20_shared_memory)
{
	struct peer p;
	struct front f;
	const unsigned before = count_fds();
	shared_peer(&p);
	shared_open(&f, &p, 0x104000);
	CHECK_EQ(f.rc, 0);
	CHECK_EQ(f.b->shared_count, 2);
	CHECK(f.b->shared[0].id == 1 && f.b->shared[0].size == 0x4000 && f.b->shared[1].id == 255);
	const int good = page_fd(MFD_ALLOW_SEALING, 0x8000, F_SEAL_SHRINK),
		  loose = page_fd(MFD_ALLOW_SEALING, 0x8000, 0),
		  grow = page_fd(MFD_ALLOW_SEALING, 0x8000, F_SEAL_GROW),
		  fixed = page_fd(MFD_ALLOW_SEALING, 0x8000, F_SEAL_SHRINK | F_SEAL_WRITE),
		  zero = open("/dev/zero", O_RDWR | O_CLOEXEC), folder = open("/", O_RDONLY | O_CLOEXEC),
		  self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), event = fd_eventfd();
	const struct {
		struct vhost_user_shmem_map m; // region, padding, in the file, in the region, length, flags
		int fd;
	} bad[] = {
		{ { 0, { 0 }, 0, 0, 4096, 1 }, good }, // no such region
		{ { 2, { 0 }, 0, 0, 4096, 1 }, good },
		{ { 254, { 0 }, 0, 0, 4096, 1 }, good },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, -1 },
		{ { 1, { 0 }, 0, 0, 4096, 2 }, good },
		{ { 1, { 0 }, 0, 0, 4096, UINT64_C(1) << 63 }, good },
		{ { 1, { 0 }, 0, 0, 0, 1 }, good },
		{ { 1, { 0 }, 0, 0, 1, 1 }, good },
		{ { 1, { 0 }, 0, 0, 4097, 1 }, good },
		{ { 1, { 0 }, 0, 0, 0x5000, 1 }, good }, // beyond the region
		{ { 1, { 0 }, 0, 0x4000, 4096, 1 }, good },
		{ { 1, { 0 }, 0, UINT64_MAX - 4095, 4096, 1 }, good },
		{ { 1, { 0 }, 0, 4096, UINT64_MAX - 4095, 1 }, good },
		{ { 1, { 0 }, 0, 0x3001, 4096, 1 }, good },
		{ { 1, { 0 }, 1, 0, 4096, 1 }, good },
		{ { 1, { 0 }, 0x8000, 0, 4096, 1 }, good }, // beyond the file
		{ { 255, { 0 }, 0x7000, 0, 0x2000, 1 }, good },
		{ { 1, { 0 }, INT64_MAX - 4095, 0, 4096, 1 }, good },
		{ { 1, { 0 }, UINT64_MAX - 4095, 0, 4096, 1 }, good },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, loose },
		{ { 1, { 0 }, 0, 0, 4096, 0 }, loose },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, grow },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, fixed },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, zero },
		{ { 1, { 0 }, 0, 0, 4096, 0 }, folder },
		{ { 1, { 0 }, 0, 0, 4096, 0 }, self },
		{ { 1, { 0 }, 0, 0, 4096, 1 }, event },
	};
	log_init("peer", LOG_ERROR);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t code = shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_MAP, &bad[i].m, bad[i].fd);
		if (code != 1)
			printf("case %zu: %llu\n", i, (unsigned long long)code);
		CHECK_EQ(code, 1);
	}
	CHECK_EQ(shown.calls, 0);
	struct vhost_user_shmem_map map = { .shmid = 255, .fd_offset = 4096, .len = 0x2000, .flags = 1 };
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_UNMAP, &map, -1), 1);
	shown.rc = -EEXIST; // what the function does not take is unmapped again
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_MAP, &map, good), 1);
	shown.rc = 0;
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_MAP, &map, good), 0);
	CHECK(shown.calls == 2 && shown.part.region == 1 && shown.part.len == 0x2000 && !shown.part.readonly);
	CHECK(pwrite(good, "here", 4, 4096) == 4 && memcmp(shown.hva, "here", 4) == 0);
	CHECK_EQ(ftruncate(good, 0), -1);
	map.len = 0x1000;
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_UNMAP, &map, -1), 1);
	map.len = 0x2000;
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_UNMAP, &map, -1), 0);
	CHECK(!shown.hva);
	// What may not be written is mapped to be read.
	map.flags = 0;
	map.shmid = 1;
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_MAP, &map, fixed), 0);
	CHECK(shown.part.readonly && shown.part.region == 0);
	// Its end is that of its memory.
	shutdown(p.sock, SHUT_RDWR);
	CHECK(loop_until(&f.loop, &f.died, 3000));
	CHECK(!shown.hva && shown.withdrawn == 2);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
	const int all[] = { good, loose, grow, fixed, zero, folder, self, event };
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		CHECK(close(all[i]) == 0);
	CHECK_EQ(count_fds(), before);
}

TEST(shared_memory_is_for_the_configuration_to_allow)
{
	struct peer p;
	struct front f;
	const struct vhost_user_shmem_map map = { .shmid = 1, .len = 4096 };
	shared_peer(&p);
	shared_open(&f, &p, 0);
	CHECK(f.rc == 0 && f.b->shared_count == 0);
	int fd = page_fd(MFD_ALLOW_SEALING, 8192, F_SEAL_SHRINK);
	CHECK_EQ(shared_ask(&f, &p, VHOST_USER_BACKEND_SHMEM_MAP, &map, fd), 1);
	close(fd);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);

	const struct {
		uint64_t without, with, allowed;
		const char *because;
	} bad[] = {
		{ PEER_PF(SHMEM), 0, 0x104000, "leave shared_memory out" },
		{ PEER_PF(BACKEND_SEND_FD), 0, 0x104000, "leave shared_memory out" },
		{ PEER_PF(BACKEND_REQ), 0, 0x104000, "leave shared_memory out" },
		{ PEER_PF(SHMEM), PEER_PF(GPA_ADDRESSES), 0x104000, "means it by bit 21" },
		{ 0, 0, 0x103000, "1048576 bytes, 1044480 of shared_memory are left" },
		{ 0, 0, 0x1000, "16384 bytes, 4096 of shared_memory" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		shared_peer(&p);
		p.protocol = (p.protocol & ~bad[i].without) | bad[i].with;
		shared_open(&f, &p, bad[i].allowed);
		CHECK(f.rc < 0);
		CHECK(strstr(f.e.text, bad[i].because));
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
	}
}

TEST(b14_shared_memory_that_is_none)
{
	struct peer p;
	struct front f;
	for (int i = 0; i < 8; i++) {
		shared_peer(&p);
		switch (i) {
		case 0:
			p.shared.count = 1;
			break;
		case 1:
			p.shared.count = UINT32_MAX;
			break;
		case 2:
			p.shared.size[1] = 4095;
			break;
		case 3:
			p.shared.size[2] = p.shared.size[3] = 4096;
			p.shared.count = 4;
			break;
		case 4:
			p.shared_len -= 4;
			break;
		case 5:
			p.shared_len -= 8; // the size of the last one
			break;
		case 6:
			memset(&p.shared, 0, sizeof(p.shared));
			break;
		default:
			p.shared.size[1] = p.shared.size[255] = UINT64_C(1) << 63;
			break;
		}
		shared_open(&f, &p, UINT64_C(1) << 40);
		CHECK(f.rc < 0);
		CHECK(strstr(f.e.text, "shared memory"));
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
	}
}

TEST(b13_channel_broken)
{
	const struct {
		struct vhost_user_header h;
		unsigned fds;
	} cases[] = {
		{ { 2, 0, 0 }, 0 },	      { { 2, 5, 0 }, 0 },    { { 2, 1, 257 }, 0 },
		{ { 77, 1, UINT32_MAX }, 0 }, { { 2, 0x11, 0 }, 0 }, { { 2, 1, 0 }, 1 },
		{ { 77, 1, 0 }, 253 },	      { { 9, 1, 0 }, 2 },
	};
	unsigned fds = count_fds();
	int null[253];
	null[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 1; i < 253; i++)
		null[i] = null[0];
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		struct peer as = { .sock = p.channel };
		peer_send_fds(&as, &cases[i].h, 12, null, cases[i].fds);
		CHECK(dies(&f, &p, "request channel"));
		peer_join(&p);
		peer_free(&p);
	}
	close(null[0]);
	CHECK_EQ(count_fds(), fds);
}

TEST(b13_channel_answers_never_read)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct flood fl = { .fd = p.channel, .request = 99, .flags = 1 | 8 };
	pthread_t t;
	CHECK(pthread_create(&t, NULL, flood_run, &fl) == 0);
	int small = 2048;
	setsockopt(f.b ? p.channel : -1, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	bool told = loop_until(&f.loop, &f.died, 5000);
	atomic_store(&fl.stop, true);
	pthread_join(t, NULL);
	CHECK(told && strstr(f.why, "does not read"));
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

// ---- B27, B28, B30 ------------------------------------------------------------------------------

static bool read_no_more(struct peer *p, const struct peer_message *m)
{
	(void)m;
	while (!atomic_load(&p->release))
		poll(NULL, 0, 5);
	return false;
}

TEST(b27_does_not_read)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	const uint16_t many = 64;
	memcpy(p.config + 34, &many, 2);
	p.queue_num = many;
	int small = 1; // the kernel makes it its minimum
	setsockopt(p.front, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	p.at = VHOST_USER_SET_VRING_ENABLE;
	p.fault = read_no_more;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	const struct vring_cfg cfg = { .size = 8, .kick_fd = kick, .call_fd = -1 };
	for (unsigned q = 0; q < many; q++)
		CHECK_EQ(f.b->ops->queue_start(f.b, q, &cfg), 0);
	// The first of 64 requests is the last that is read; the buffer takes a few more.
	front_deadline_ms = FRONT_SHORT_MS;
	deadline_ns start = deadline_now(), own_start = own_now();
	f.b->deadline = deadline_in_ms(front_deadline_ms);
	CHECK_EQ(-f.b->ops->run(f.b, true), EPIPE);
	CHECK(ms_since(start) >= front_deadline_ms - 10 && own_ms_since(own_start) < LATE_MS);
	bool dead = dies(&f, &p, "does not read");
	atomic_store(&p.release, true);
	peer_join(&p);
	CHECK(dead);
	peer_free(&p);
	close(kick);
	close(ram.region[0].fd);
	front_deadline_ms = FRONT_LONG_MS;
}

static bool with_credentials(struct peer *p, const struct peer_message *m)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} c;
	memset(&c, 0, sizeof(c));
	struct {
		struct vhost_user_header h;
		uint64_t v;
	} __attribute__((packed)) out = { { m->h.request, 5, 8 }, p->features };
	struct iovec iov = { .iov_base = &out, .iov_len = 20 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.bytes, .msg_controllen = sizeof(c.bytes)
	};
	const struct ucred me = { .pid = getpid(), .uid = getuid(), .gid = getgid() };
	c.align.cmsg_level = SOL_SOCKET;
	c.align.cmsg_type = SCM_CREDENTIALS;
	c.align.cmsg_len = CMSG_LEN(sizeof(me));
	memcpy(CMSG_DATA(&c.align), &me, sizeof(me));
	return sendmsg(p->sock, &msg, MSG_NOSIGNAL) == 20;
}

static bool out_of_band(struct peer *p, const struct peer_message *m)
{
	(void)m;
	return send(p->sock, "x", 1, MSG_OOB | MSG_NOSIGNAL) == 1;
}

TEST(b28_other_ancillary_data)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	p.at = VHOST_USER_GET_FEATURES;
	p.fault = with_credentials;
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0); // ignored
	int64_t cpu = thread_cpu_us();
	if (send(p.sock, "x", 1, MSG_OOB | MSG_NOSIGNAL) != 1) {
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
		SKIP("this kernel has no out-of-band data on Unix sockets");
	}
	CHECK(dies(&f, &p, ""));
	CHECK(thread_cpu_us() - cpu < 50000);
	peer_join(&p);
	peer_free(&p);
	// What recvmsg() meets first it drops, and the answer stays out.
	front_deadline_ms = FRONT_SHORT_MS;
	cpu = thread_cpu_us();
	CHECK(refused_everywhere(out_of_band, 0, ""));
	front_deadline_ms = FRONT_LONG_MS;
	CHECK(thread_cpu_us() - cpu < 200000);
}

TEST(b30_mute_ones_share_one_deadline)
{
	front_deadline_ms = FRONT_SHORT_MS;
	enum { N = 16 };
	char path[N][64], dir[] = "/tmp/vu-fault-XXXXXX";
	int listener[N];
	struct bridge_pending pending[N];
	struct device_config cfg[N];
	struct loop loop;
	struct err e;
	unsigned fds = count_fds();
	CHECK(mkdtemp(dir));
	CHECK_EQ(loop_init(&loop), 0);
	deadline_ns start = own_now();
	struct bridge_host host = { .loop = &loop, .start_deadline = deadline_in_ms(front_deadline_ms) };
	bridges_init(&host);
	for (int i = 0; i < N; i++) {
		snprintf(path[i], sizeof(path[i]), "%s/%d", dir, i);
		listener[i] = msg_listen(path[i], &e);
		cfg[i] = (struct device_config){
			.id = "disk0", .via = VIA_VHOST_USER, .virtio_type = 2, .socket = path[i]
		};
		CHECK_EQ(bridge_start(&pending[i], &cfg[i], &host, &e), 0);
	}
	for (int i = 0; i < N - 1; i++) {
		struct bridge_end end;
		CHECK(bridge_finish(&end, &pending[i], &e) < 0);
	}
	bridge_abandon(&pending[N - 1]);
	CHECK(own_ms_since(start) < LATE_MS);
	for (int i = 0; i < N; i++) {
		close(listener[i]);
		unlink(path[i]);
	}
	rmdir(dir);
	loop_destroy(&loop);
	CHECK_EQ(count_fds(), fds);
	front_deadline_ms = FRONT_LONG_MS;
}

// Many that are stopped at once, as when the machine is reset: those that are mute share one deadline, and it is not the others' loss.
TEST(b30_mute_ones_share_one_deadline_when_stopped)
{
	enum { N = 8 };
	const int common_ms = 1000;
	struct peer p[N];
	struct front f[N];
	struct mem_table ram = front_memory();
	int kick = fd_eventfd();
	uint32_t base;
	unsigned fds = count_fds();
	for (int i = 0; i < N; i++) {
		const struct vring_cfg cfg = {
			.size = 8, .desc_gpa = 0x1000, .kick_fd = kick, .call_fd = -1
		};
		peer_init(&p[i]);
		p[i].protocol |= VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(RESET_DEVICE);
		p[i].protocol &= i == 7 ? ~VHOST_USER_PF_BIT(REPLY_ACK) : UINT64_MAX;
		p[i].vring_base = 0x70 + (unsigned)i;
		p[i].at = i % 4 < 3 ? VHOST_USER_GET_VRING_BASE : 0;
		p[i].at_nth = i == 1; // the second queue's
		p[i].fault = keep_silent;
		front_open(&f[i], &p[i]);
		CHECK_EQ(f[i].rc, 0);
		CHECK_EQ(front_run(&f[i], &ram, kick, -1), 0);
		CHECK_EQ(f[i].b->ops->queue_start(f[i].b, 2, &cfg), 0);
	}
	const deadline_ns start = own_now(), deadline = deadline_in_ms(common_ms);
	for (int i = 0; i < N; i++)
		CHECK_EQ(f[i].b->ops->stop_begin(f[i].b),
			 i != 7); // whose answers would have to be waited for
	CHECK(own_ms_since(start) < 100);
	for (int i = 0; i < N; i++) {
		const struct backend_ops *ops = f[i].b->ops;
		f[i].b->deadline = i == 7 ? 0 : deadline;
		CHECK_EQ(-ops->queue_stop(f[i].b, 0, &base), i % 4 < 3 && i != 1 ? EPIPE : 0);
		CHECK(i % 4 < 3 && i != 1 ? base == 0 : base == 0x70 + (unsigned)i);
		CHECK_EQ(-ops->queue_stop(f[i].b, 2, &base), i % 4 < 3 ? EPIPE : 0);
		CHECK_EQ(-ops->run(f[i].b, false), i % 4 < 3 ? EPIPE : 0);
		f[i].b->deadline = 0;
	}
	CHECK(own_ms_since(start) < common_ms + 400);
	// The others are as good as new.
	CHECK_EQ(front_run(&f[3], &ram, kick, -1), 0);
	CHECK_EQ(f[3].b->ops->stop_begin(f[3].b), 1); // and one that is closed in the middle
	for (int i = 0; i < N; i++) {
		CHECK(i % 4 == 3 || loop_until(&f[i].loop, &f[i].died, 1000));
		CHECK_EQ(f[i].died, i % 4 < 3);
		front_close(&f[i]);
		peer_join(&p[i]);
		peer_free(&p[i]);
	}
	CHECK_EQ(count_fds(), fds);
	close(kick);
	close(ram.region[0].fd);
}

// ---- death --------------------------------------------------------------------------------------

// Milliseconds from the death of a back-end's process to the upcall, or -1.
static int64_t kill_and_wait(void)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	pid_t pid = fork();
	if (pid == 0) {
		close(p.front);
		peer_run(&p);
		_exit(0);
	}
	close(p.sock);
	p.sock = -1;
	memset(&f, 0, sizeof(f));
	loop_init(&f.loop);
	const struct vhost_user_params params = { .id = "disk0",
						  .peer = "p",
						  .virtio_type = 2,
						  .sock = p.front,
						  .loop = &f.loop,
						  .start_deadline = deadline_in_ms(2000) };
	if (vhost_user_open(&f.b, &params, &f.e) < 0)
		return -1;
	f.b->events = &front_events;
	f.b->owner = &f;
	kill(pid, SIGKILL);
	siginfo_t gone; // dying takes a processor
	waitid(P_PID, (id_t)pid, &gone, WEXITED | WNOWAIT);
	deadline_ns start = own_now();
	bool told = loop_until(&f.loop, &f.died, 1000);
	int64_t took = own_ms_since(start);
	bool refuses = f.b->ops->run(f.b, true) == -EPIPE;
	front_close(&f);
	waitpid(pid, NULL, 0);
	free(p.log);
	return told && f.died == 1 && refuses ? took : -1;
}

TEST(p01_killed_is_noticed_at_once)
{
	unsigned fds = count_fds();
	int64_t best = INT64_MAX; // of three: this machine has other work
	for (int i = 0; i < 3; i++) {
		int64_t took = kill_and_wait();
		CHECK(took >= 0);
		best = took < best ? took : best;
	}
	CHECK(best < 100);
	CHECK_EQ(count_fds(), fds);
}

static bool wait_then_close(struct peer *p, const struct peer_message *m)
{
	(void)m;
	poll(NULL, 0, 30);
	shutdown(p->sock, SHUT_RDWR);
	return false;
}

struct vcpu {
	struct front *f;
	int rc;
};

static void *vcpu_run(void *arg)
{
	struct vcpu *v = arg;
	v->rc = v->f->b->ops->negotiate(v->f->b, PEER_BIT(32));
	return NULL;
}

TEST(death_on_another_thread_is_told_by_the_loop)
{
	for (int round = 0; round < 20; round++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		p.at = VHOST_USER_SET_FEATURES;
		p.fault = wait_then_close;
		front_open(&f, &p);
		CHECK_EQ(f.rc, 0);
		struct vcpu v = { .f = &f };
		pthread_t t;
		CHECK(pthread_create(&t, NULL, vcpu_run, &v) == 0);
		bool told = loop_until(&f.loop, &f.died, 1000);
		pthread_join(t, NULL);
		CHECK(told && f.died == 1);
		CHECK_EQ(-v.rc, EPIPE);
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
	}
}

// The loop runs while a vCPU makes exchanges: no answer is taken for an unasked message.
static atomic_bool exchanging;
static void *vcpu_busy(void *arg)
{
	struct vcpu *v = arg;
	for (int i = 0; i < 3000 && v->rc == 0; i++)
		v->rc = v->f->b->ops->negotiate(v->f->b, PEER_BIT(32));
	atomic_store(&exchanging, false);
	return NULL;
}

TEST(exchanges_and_the_loop_do_not_collide)
{
	struct peer p;
	struct front f;
	peer_init(&p);
	front_open(&f, &p);
	CHECK_EQ(f.rc, 0);
	struct vcpu v = { .f = &f };
	pthread_t t;
	atomic_store(&exchanging, true);
	CHECK(pthread_create(&t, NULL, vcpu_busy, &v) == 0);
	while (atomic_load(&exchanging))
		loop_once(&f.loop, 1);
	pthread_join(t, NULL);
	CHECK_EQ(f.died, 0);
	CHECK_EQ(v.rc, 0);
	front_close(&f);
	peer_join(&p);
	peer_free(&p);
}

// ---- programs -----------------------------------------------------------------------------------

// What the user reads when the program behind `exec` does `script`.
static const char *run_program(const char *script, struct err *e)
{
	struct loop loop;
	struct backend *b;
	char shell[] = "/bin/sh", flag[] = "-c", text[256];
	char *exec[] = { shell, flag, text, NULL };
	snprintf(text, sizeof(text), "%s", script);
	const struct device_config cfg = {
		.id = "fs0", .via = VIA_VHOST_USER, .virtio_type = 2, .exec = exec, .sandbox = "none"
	};
	if (loop_init(&loop) < 0)
		return "";
	struct bridge_host host = { .loop = &loop, .start_deadline = deadline_in_ms(1500) };
	bridges_init(&host);
	e->text[0] = '\0';
	if (bridge_open(&b, &cfg, &host, e) == 0)
		b->ops->close(b);
	bridges_free(&host);
	loop_destroy(&loop);
	return e->text;
}

TEST(p07_last_words_become_the_error)
{
	unsigned fds = count_fds();
	struct err e;
	CHECK_STR(run_program("echo first >&2; echo the disk is on fire >&2; exit 3", &e),
		  "fs0: /bin/sh: the disk is on fire");
	CHECK(strstr(run_program("exit 3", &e),
		     "fs0: handshake with /bin/sh: the back-end closed its connection"));
	// {fd} is the number of the socket in the program.
	CHECK_STR(run_program("test -S /proc/self/fd/{fd} && echo socket at {fd} >&2; exit 1", &e),
		  "fs0: /bin/sh: socket at 3");
	deadline_ns start = deadline_now();
	CHECK(strstr(run_program("exec sleep 100", &e), "does not answer"));
	CHECK(ms_since(start) < 3500);
	CHECK_EQ(count_fds(), fds);
	CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); // every child was reaped
}

// ---- exhaustion ---------------------------------------------------------------------------------

TEST(r01_descriptors_run_out)
{
	struct rlimit old, tight;
	CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	unsigned before = count_fds(), opened = 0, refusals = 0;
	for (unsigned room = 0; room < 12; room++) {
		struct peer p;
		struct front f;
		peer_init(&p);
		tight = old;
		tight.rlim_cur = before + room; // one of those counted is the folder itself, and "." and ".."
		CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
		front_open(&f, &p);
		CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
		*(f.rc == 0 ? &opened : &refusals) += 1;
		CHECK(f.rc == 0 || strncmp(f.e.text, "disk0: ", 7) == 0);
		front_close(&f);
		peer_join(&p);
		peer_free(&p);
		CHECK_EQ(count_fds(), before);
	}
	CHECK(opened > 0 && refusals > 0);
}

static const char *open_image(const char *image, bool readonly, struct err *e)
{
	struct loop loop;
	struct backend *b;
	const struct device_config cfg = {
		.id = "disk0", .via = VIA_BUILTIN, .virtio_type = 2, .image = image, .readonly = readonly
	};
	struct bridge_host host = { .loop = &loop,
				    .start_deadline = deadline_in_ms(300),
				    .program_dir = "/nowhere" };
	bridges_init(&host);
	e->text[0] = '\0';
	if (loop_init(&loop) < 0)
		return "";
	if (bridge_open(&b, &cfg, &host, e) == 0)
		b->ops->close(b);
	bridges_free(&host);
	loop_destroy(&loop);
	return e->text;
}

TEST(c05_images)
{
	char dir[] = "/tmp/vu-fault-XXXXXX", path[64];
	struct err e;
	unsigned fds = count_fds();
	CHECK(mkdtemp(dir));
	CHECK(strstr(open_image(dir, false, &e), "directory"));
	CHECK(strstr(open_image(dir, true, &e), "a directory"));
	CHECK(strstr(open_image("/dev/null", false, &e), "a character device"));
	snprintf(path, sizeof(path), "%s/x", dir);
	CHECK(strstr(open_image(path, false, &e), "No such file"));
	CHECK(mkfifo(path, 0600) == 0);
	deadline_ns start = own_now();
	CHECK(strstr(open_image(path, true, &e), "a FIFO"));
	CHECK(strstr(open_image(path, false, &e), "a FIFO"));
	CHECK(own_ms_since(start) < 200);
	unlink(path);
	int fd = open(path, O_CREAT | O_RDONLY | O_CLOEXEC, 0600);
	char ref[16];
	snprintf(ref, sizeof(ref), "fd:%d", fd);
	CHECK(strstr(open_image(ref, false, &e), "not open for reading and writing"));
	close(fd);
	unlink(path);
	rmdir(dir);
	CHECK_EQ(count_fds(), fds);
}
