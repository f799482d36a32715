// SPDX-License-Identifier: BSD-2-Clause
// Back-ends that share objects through their front-end (SHARED_OBJECT): who may add, find and remove what, and what a lying one costs others.
#include "tests/unit/test.h"

#include "bridges/vhost_user_impl.h"
#include "tests/fault/vu_peer.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <fcntl.h>
#include <sys/un.h>

#define N	 3
#define WAIT_MS	 3000
#define SHORT_MS 300

static struct loop loop;
static struct vu_objects objects;
static struct peer p[N];
static struct front f[N];
static int listener, leave;
static unsigned fds;

static const struct vhost_user_uuid one = { { 1 } }, two = { { 2 } }, nil;

static bool open_all(bool threads)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct err e;
	fds = count_fds();
	objects.count = 0;
	log_init("objects", LOG_ERROR);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	leave = fd_eventfd();
	if (loop_init(&loop) < 0 || bind(listener, (struct sockaddr *)&at, sizeof(at.sun_family)) < 0 ||
	    listen(listener, 1) < 0)
		return false;
	for (int i = 0; i < N; i++) {
		peer_init(&p[i]);
		p[i].protocol |= VHOST_USER_PF_BIT(SHARED_OBJECT);
		memset(&f[i], 0, sizeof(f[i]));
		const struct vhost_user_params params = { .id = "gpu0",
							  .peer = "p",
							  .virtio_type = 2,
							  .objects = &objects,
							  .sock = p[i].front,
							  .loop = &loop,
							  .start_deadline = deadline_in_ms(WAIT_MS),
							  .control_ms = SHORT_MS };
		peer_start(&p[i]);
		if (vhost_user_open(&f[i].b, &params, &e) < 0)
			return false;
		f[i].b->events = &front_events;
		f[i].b->owner = &f[i];
		const struct again_how how = {
			.source = AGAIN_LISTENER, .line = -1, .listener = listener, .leave = leave
		};
		if (threads && vhost_user_keep(f[i].b, &how, &e) < 0)
			return false;
	}
	return true;
}

// In this order, which is also that of a machine's end.
static bool close_all(void)
{
	for (int i = 0; i < N; i++) {
		f[i].b->ops->close(f[i].b);
		peer_join(&p[i]);
		peer_free(&p[i]);
	}
	loop_destroy(&loop);
	close(listener);
	close(leave);
	return count_fds() == fds;
}

static void loop_for(int ms)
{
	for (deadline_ns end = deadline_in_ms(ms); deadline_left_ms(end) > 0;)
		loop_once(&loop, deadline_left_ms(end));
}

static void tell(int i, uint32_t request, const struct vhost_user_uuid *u, uint32_t flags)
{
	struct {
		struct vhost_user_header h;
		struct vhost_user_uuid u;
	} m = { { request, 1 | flags, sizeof(*u) }, *u };
	struct peer as = { .sock = p[i].channel };
	peer_send(&as, &m, sizeof(m));
}

// The next answer on a channel: its code, or UINT64_MAX for none in time; *fd: what came along.
static uint64_t answer(int i, int *fd)
{
	struct {
		struct vhost_user_header h;
		uint64_t code;
	} __attribute__((packed)) m;
	struct msg_fds came = { .count = 0 };
	*fd = -1;
	for (deadline_ns end = deadline_in_ms(WAIT_MS); deadline_left_ms(end) > 0;) {
		struct pollfd in = { .fd = p[i].channel, .events = POLLIN };
		if (poll(&in, 1, 0) == 1)
			break;
		loop_once(&loop, 5);
	}
	if (msg_recv(p[i].channel, &m, sizeof(m), &came, deadline_in_ms(100)) < 0 || m.h.flags != 5)
		return UINT64_MAX;
	*fd = msg_fds_take_one(&came);
	return m.code;
}

static uint64_t ask(int i, uint32_t request, const struct vhost_user_uuid *u)
{
	int fd;
	tell(i, request, u, VHOST_USER_NEED_REPLY);
	uint64_t code = answer(i, &fd);
	if (fd >= 0)
		close(fd);
	return fd < 0 ? code : UINT64_MAX;
}

static uint64_t add(int i, const struct vhost_user_uuid *u)
{
	return ask(i, VHOST_USER_BACKEND_SHARED_OBJECT_ADD, u);
}

static uint64_t remove_of(int i, const struct vhost_user_uuid *u)
{
	return ask(i, VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE, u);
}

// Whether `i` gets an object that holds `text`.  A lookup has its answer without being asked for one.
static bool finds(int i, const struct vhost_user_uuid *u, const char *text)
{
	char buf[8] = "";
	int fd;
	tell(i, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, u, 0);
	if (answer(i, &fd) != 0)
		return false;
	bool good = pread(fd, buf, sizeof(buf) - 1, 0) >= 0 && strcmp(buf, text) == 0;
	close(fd);
	return good;
}

// It is told that there is none.
static bool finds_none(int i, const struct vhost_user_uuid *u)
{
	int fd;
	tell(i, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, u, 0);
	return answer(i, &fd) == 1 && fd < 0;
}

static int object(const char *text)
{
	int fd = memfd_create("object", MFD_CLOEXEC);
	if (write(fd, text, strlen(text)) < 0)
		abort();
	return fd;
}

TEST(objects_are_found_by_others)
{
	CHECK(open_all(true));
	p[0].object_fd = object("first");
	CHECK(finds_none(1, &one));
	CHECK_EQ(add(0, &one), 0);
	CHECK_EQ(add(2, &two), 0);
	CHECK(finds(1, &one, "first"));
	CHECK(finds(2, &one, "first"));
	CHECK(finds_none(0, &one)); // it has it
	CHECK(finds_none(1, &two)); // whose owner hands nothing over
	CHECK_EQ(add(1, &one), 1);  // somebody else's
	CHECK_EQ(add(0, &one), 1);
	CHECK_EQ(add(1, &nil), 1);
	CHECK_EQ(remove_of(1, &one), 1);
	CHECK(finds(1, &one, "first"));
	CHECK_EQ(remove_of(0, &one), 0);
	CHECK_EQ(remove_of(0, &one), 1);
	CHECK(finds_none(1, &one));
	CHECK_EQ(add(1, &one), 0);
	close(p[0].object_fd);
	for (int i = 0; i < N; i++)
		CHECK_EQ(f[i].died, 0);
	CHECK(close_all());
}

TEST(objects_have_a_number_that_one_may_have)
{
	CHECK(open_all(true));
	for (uint8_t i = 1; i <= VU_OBJECTS_OF + 1; i++)
		CHECK_EQ(add(0, &(struct vhost_user_uuid){ { 0, i } }), i > VU_OBJECTS_OF);
	CHECK_EQ(add(1, &one), 0);
	CHECK_EQ(objects.count, VU_OBJECTS_OF + 1);
	// They go with their connection.
	shutdown(p[0].sock, SHUT_RDWR);
	for (deadline_ns end = deadline_in_ms(WAIT_MS); objects.count > 1 && deadline_left_ms(end) > 0;)
		loop_once(&loop, 5);
	CHECK_EQ(objects.count, 1);
	CHECK(finds_none(1, &(struct vhost_user_uuid){ { 0, 1 } }));
	CHECK_EQ(add(1, &(struct vhost_user_uuid){ { 0, 1 } }), 0);
	CHECK(close_all());
}

// B08: an owner may hand over memory, and nothing else.
TEST(b08_objects_that_are_no_memory)
{
	CHECK(open_all(true));
	CHECK_EQ(add(0, &one), 0);
	const int wrong[] = { open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
			      open("/dev/null", O_RDWR | O_CLOEXEC),
			      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd_eventfd(),
			      open("/proc/self/exe", O_RDONLY | O_CLOEXEC) };
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		p[0].object_fd = wrong[i];
		CHECK(finds_none(1, &one));
		close(wrong[i]);
	}
	p[0].object_fd = object("good");
	CHECK(finds(1, &one, "good"));
	close(p[0].object_fd);
	CHECK(close_all());
}

static bool silent(struct peer *peer, const struct peer_message *m)
{
	(void)m;
	peer->every = true;
	return true;
}

// B02: an owner that does not answer is dead, and who asked hears that there is nothing.
TEST(b02_mute_owner)
{
	CHECK(open_all(true));
	p[0].at = VHOST_USER_GET_SHARED_OBJECT;
	p[0].fault = silent;
	CHECK_EQ(add(0, &one), 0);
	const deadline_ns start = own_now();
	CHECK(finds_none(1, &one));
	CHECK(own_ms_since(start) < SHORT_MS + 400);
	loop_for(50);
	CHECK_EQ(objects.count, 0);
	CHECK(finds_none(1, &one));
	CHECK_EQ(f[1].died, 0);
	CHECK(close_all());
}

// B13: who asks and asks has one answer under way; who waits for an answer is not asked, and so does not die of another's question.
TEST(b13_questions_without_end)
{
	int fd;
	CHECK(open_all(true));
	p[0].object_fd = object("x");
	CHECK_EQ(add(0, &one), 0);
	CHECK_EQ(add(1, &two), 0);
	p[0].at = VHOST_USER_GET_SHARED_OBJECT;
	p[0].fault = silent;
	tell(1, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, &one, 0); // has to wait
	loop_for(20);
	CHECK(finds_none(2, &two)); // of the one that waits
	for (int i = 0; i < 10; i++)
		tell(1, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, &one, 0);
	for (int i = 0; i < 11; i++)
		CHECK_EQ(answer(1, &fd), 1);
	close(p[0].object_fd);
	CHECK_EQ(f[1].died + f[2].died, 0);
	CHECK(close_all());
	CHECK_EQ(p[0].seen_at, 1);
}

// P01: either end is gone while the other waits, at the machine's end too.
TEST(p01_gone_while_an_answer_is_due)
{
	for (int who = 0; who < 3; who++) {
		int fd;
		CHECK(open_all(true));
		p[0].object_fd = object("x");
		CHECK_EQ(add(0, &one), 0);
		p[0].at = VHOST_USER_GET_SHARED_OBJECT;
		p[0].fault = silent;
		tell(1, VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, &one, 0);
		loop_for(20);
		if (who < 2)
			shutdown(p[who].sock, SHUT_RDWR);
		if (who == 0)
			CHECK_EQ(answer(1, &fd), 1);
		else if (who == 1)
			loop_for(SHORT_MS + 50);
		close(p[0].object_fd);
		CHECK(close_all());
	}
}

// Without somebody to ask it, nothing is shared of it.
TEST(one_that_is_not_waited_for_has_none)
{
	CHECK(open_all(false));
	CHECK_EQ(add(0, &one), 1);
	CHECK_EQ(objects.count, 0);
	CHECK(close_all());
}
