// SPDX-License-Identifier: BSD-2-Clause
// The SDK's vhost-user server and the block device against front-ends, good and bad.
//
// Each test talks over a socketpair to a thread that serves a small disk.  After each, whatever was sent: the
// server has ended, nothing is in flight, no memory is mapped, and the process has as many descriptors as before.
#include "bridges/vhost_user_wire.h"
#include "devices/block/virtio_blk.h"
#include "devices/sdk/carrier.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <dirent.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <sys/socket.h>

#define IMAGE_SIZE (1u << 20)
#define PF_ALL                                                                              \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(CONFIG) | \
	 VHOST_USER_PF_BIT(RESET_DEVICE) | VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) |         \
	 VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(INFLIGHT_SHMFD))
#define PF_VIRTIO_BIT (UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES)
#define FEATURES      (PF_VIRTIO_BIT | UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_BLK_F_FLUSH)

static struct {
	struct vdev d;
	struct vq q[2];
	struct vblk b;
	struct loop_source completions;
	pthread_t thread;
	bool stop;
	int sock; // ours
	int peer; // the server's, until it closes it
	char path[64];
	struct driver dr;
	int kick, call, err;
	unsigned fds_before;
} fx;

static unsigned fds_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

// ---- the device, on a thread ------------------------------------------------------------------------------------

static int dev_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vblk_start(&fx.b, features);
	return 0;
}

static void dev_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_kick(&fx.b, q);
}

static void dev_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_drain(&fx.b, q);
}

static void dev_stop(struct vdev *d)
{
	(void)d;
}

static int dev_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	return vblk_config_write(&fx.b, off, p, len);
}

static const struct vdev_ops ops = {
	.program = "test",
	.start = dev_start,
	.kick = dev_kick,
	.drain = dev_drain,
	.stop = dev_stop,
	.config_write = dev_config_write,
};

static void completed(struct loop_source *s, uint32_t events)
{
	(void)s;
	(void)events;
	vblk_complete(&fx.b, false);
}

static void *serve_thread(void *arg)
{
	(void)arg;
	struct err e;
	// io_uring belongs to the thread that makes it.
	if (blk_engine_open(&fx.b.engine, &fx.b.img, BLK_ENGINE_AUTO, fx.b.request_count, &e) < 0)
		return NULL;
	fx.completions = (struct loop_source){ .fd = blk_engine_fd(&fx.b.engine), .ready = completed };
	if (fx.completions.fd >= 0)
		loop_add(&fx.d.loop, &fx.completions, EPOLLIN);
	carrier_serve(&carrier_vhost_user, &fx.d, fx.peer, &fx.stop);
	loop_remove(&fx.d.loop, &fx.completions);
	return NULL;
}

static bool set_up(void)
{
	struct err e = { { 0 } };
	int pair[2];
	log_init("frontend", LOG_ERROR);
	memset(&fx, 0, sizeof(fx));
	fx.fds_before = fds_open();
	strcpy(fx.path, "/tmp/minivmm-fe.XXXXXX");
	FD_AUTO fd = mkstemp(fx.path);
	struct blk_image_options o = { .path = fx.path };
	if (fd < 0 || ftruncate(fd, IMAGE_SIZE) < 0 || blk_image_open(&fx.b.img, &o, &e) < 0 ||
	    loop_init(&fx.d.loop) < 0 || vblk_init(&fx.b, &fx.d, 2, 64, &e) < 0 || !driver_open(&fx.dr) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return false;
	fx.d.ops = &ops;
	fx.d.queues = fx.q;
	fx.d.queue_count = 2;
	fx.d.queue_size_max = 64;
	for (unsigned i = 0; i < 2; i++)
		fx.q[i] = (struct vq){ .index = (uint16_t)i, .call_fd = -1, .err_fd = -1 };
	fx.sock = pair[0];
	fx.peer = pair[1];
	fx.kick = fd_eventfd();
	fx.call = fd_eventfd();
	fx.err = fd_eventfd();
	return pthread_create(&fx.thread, NULL, serve_thread, NULL) == 0;
}

// The server ends, and has left nothing behind.
static void tear_down(void)
{
	fd_close(&fx.sock);
	struct timespec limit;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 5;
	if (pthread_timedjoin_np(fx.thread, NULL, &limit) != 0) {
		printf("the server did not end\n");
		abort();
	}
	CHECK_EQ(fx.b.engine.in_flight, 0);
	CHECK_EQ(fx.d.mem.count, 0);
	CHECK(!fx.q[0].running && !fx.q[1].running);
	vblk_destroy(&fx.b);
	loop_destroy(&fx.d.loop);
	driver_close(&fx.dr);
	fd_close(&fx.kick);
	fd_close(&fx.call);
	fd_close(&fx.err);
	unlink(fx.path);
	CHECK_EQ(fds_open(), fx.fds_before);
}

// ---- the front-end ----------------------------------------------------------------------------------------------

static int send_raw(uint32_t request, uint32_t flags, uint32_t size, const void *p, uint32_t len,
		    const int *fds, unsigned n)
{
	struct vhost_user_header h = { .request = request, .flags = flags, .size = size };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)p, len } };
	return msg_send(fx.sock, iov, len ? 2 : 1, fds, n, deadline_in_ms(2000));
}

// A reply of `len` bytes; false if the server closed instead or sent something else.
static bool reply(uint32_t request, void *p, uint32_t len)
{
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	return msg_recv(fx.sock, &h, sizeof(h), &fds, deadline_in_ms(2000)) == 0 && h.request == request &&
	       h.size == len && h.flags == (VHOST_USER_VERSION | VHOST_USER_REPLY) &&
	       (len == 0 || msg_recv(fx.sock, p, len, &fds, deadline_in_ms(2000)) == 0) && fds.count == 0;
}

// Sends with NEED_REPLY: 0 or 1 as the server says, -1 if it closed.
static int set(uint32_t request, const void *p, uint32_t len, const int *fds, unsigned n)
{
	uint64_t ack;
	if (send_raw(request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, len, p, len, fds, n) < 0 ||
	    !reply(request, &ack, sizeof(ack)))
		return -1;
	return ack != 0;
}

static int set_u64(uint32_t request, uint64_t v)
{
	return set(request, &v, sizeof(v), NULL, 0);
}

static bool get_u64(uint32_t request, uint64_t *v)
{
	return send_raw(request, VHOST_USER_VERSION, 0, NULL, 0, NULL, 0) == 0 &&
	       reply(request, v, sizeof(*v));
}

static int set_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { .index = index, .num = num };
	return set(request, &s, sizeof(s), NULL, 0);
}

static int set_fd(uint32_t request, uint32_t index, int fd)
{
	uint64_t v = index | (fd < 0 ? VHOST_USER_VRING_NO_FD : 0);
	return set(request, &v, sizeof(v), &fd, fd >= 0);
}

static bool closed(void)
{
	char byte;
	struct timeval tv = { .tv_sec = 4 };
	setsockopt(fx.sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	ssize_t n = recv(fx.sock, &byte, 1, 0);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static bool negotiate(void)
{
	uint64_t v;
	uint64_t pf = PF_ALL;
	return get_u64(VHOST_USER_GET_FEATURES, &v) && (v & FEATURES) == FEATURES &&
	       get_u64(VHOST_USER_GET_PROTOCOL_FEATURES, &v) && (v & PF_ALL) == PF_ALL &&
	       send_raw(VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_VERSION, 8, &pf, 8, NULL, 0) == 0 &&
	       set(VHOST_USER_SET_OWNER, NULL, 0, NULL, 0) == 0 &&
	       set_u64(VHOST_USER_SET_FEATURES, FEATURES) == 0;
}

static int share_memory(void)
{
	struct vhost_user_mem_table m = {
		.count = 1, .region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	return set(VHOST_USER_SET_MEM_TABLE, &m, 8 + 32, &fx.dr.fd, 1);
}

static int set_addresses(uint32_t index)
{
	struct vhost_user_vring_addr a = { .index = index,
					   .desc_user = fx.dr.place.desc,
					   .avail_user = fx.dr.place.avail,
					   .used_user = fx.dr.place.used };
	return set(VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), NULL, 0);
}

static bool ring_up(void)
{
	return share_memory() == 0 && set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE) == 0 &&
	       set_state(VHOST_USER_SET_VRING_BASE, 0, 0) == 0 && set_addresses(0) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_ERR, 0, fx.err) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick) == 0 &&
	       set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1) == 0;
}

static bool queue_up(void)
{
	return negotiate() && ring_up();
}

static bool wait_for(int eventfd)
{
	deadline_ns end = deadline_in_ms(3000);
	while (!fd_event_take(eventfd)) {
		if (deadline_left_ms(end) == 0)
			return false;
		usleep(500);
	}
	return true;
}

// One read of a sector with a kick; true if it comes back well.
static bool disk_works(void)
{
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_IN };
	memcpy(fx.dr.ram + DRIVER_DATA, &h, sizeof(h));
	fx.dr.ram[DRIVER_DATA + 1024] = 0xee;
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
	driver_desc(&fx.dr, 1, DRIVER_DATA + 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	driver_desc(&fx.dr, 2, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
	driver_offer(&fx.dr, 0);
	fd_event_signal(fx.kick);
	return wait_for(fx.call) && fx.dr.ram[DRIVER_DATA + 1024] == VIRTIO_BLK_S_OK;
}

#define SERVED(name, ...)                                       \
	static void name##_body(void){ __VA_ARGS__ } TEST(name) \
	{                                                       \
		CHECK(set_up());                                \
		name##_body();                                  \
		tear_down();                                    \
	}

// ---- front-ends that keep the rules -----------------------------------------------------------------------------

SERVED(a_disk_is_served, {
	CHECK(queue_up());
	for (unsigned i = 0; i < 50; i++)
		CHECK(disk_works());
})

SERVED(counts_and_configuration, {
	uint64_t v;
	CHECK(negotiate());
	CHECK(get_u64(VHOST_USER_GET_QUEUE_NUM, &v));
	CHECK_EQ(v, 2);
	CHECK(get_u64(VHOST_USER_GET_MAX_MEM_SLOTS, &v));
	CHECK_EQ(v, GUEST_REGIONS_MAX);
	struct vhost_user_config c = { .off = 0, .len = 8 };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 20, &c, 20, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 20));
	uint64_t capacity;
	memcpy(&capacity, c.data, 8);
	CHECK_EQ(capacity, IMAGE_SIZE / 512);
	// Beyond what there is: zeros.  Beyond what can be: no payload.
	c = (struct vhost_user_config){ .off = 200, .len = 56, .data = { 1 } };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 68, &c, 68, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 68));
	CHECK_EQ(c.data[0], 0);
	c = (struct vhost_user_config){ .off = 0xfffffff0, .len = 32 };
	CHECK_EQ(send_raw(VHOST_USER_GET_CONFIG, VHOST_USER_VERSION, 44, &c, 44, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_CONFIG, &c, 0));
	c = (struct vhost_user_config){ .off = offsetof(struct virtio_blk_config, wce), .len = 1 };
	CHECK_EQ(set(VHOST_USER_SET_CONFIG, &c, 13, NULL, 0), 0);
	c = (struct vhost_user_config){ .off = 0, .len = 8 };
	CHECK_EQ(set(VHOST_USER_SET_CONFIG, &c, 20, NULL, 0), 1);
})

SERVED(stop_and_go_on, {
	CHECK(queue_up());
	CHECK(disk_works());
	struct vhost_user_vring_state s = { .index = 0 };
	CHECK_EQ(send_raw(VHOST_USER_GET_VRING_BASE, VHOST_USER_VERSION, 8, &s, 8, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_VRING_BASE, &s, 8));
	CHECK_EQ(s.num, 1);
	fd_event_signal(fx.kick); // nobody listens
	usleep(20000);
	CHECK_EQ(fx.dr.used->idx, 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, s.num), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK(disk_works());
	CHECK_EQ(fx.dr.used->idx, 2);
})

SERVED(memory_changes_under_a_running_queue, {
	CHECK(queue_up());
	CHECK(disk_works());
	CHECK_EQ(share_memory(), 0); // the same again
	CHECK(disk_works());
	struct vhost_user_mem_reg more = { .region = { .gpa = 0x1000, .size = 4096, .user = 0x1000 } };
	CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &more, sizeof(more), &fx.dr.fd, 1), 0);
	CHECK(disk_works());
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &more, sizeof(more), &fx.dr.fd, 1),
		 0); // with a descriptor, as old ones do
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &more, sizeof(more), NULL, 0), 1);
	CHECK(disk_works());
})

SERVED(descriptors_are_replaced_while_running, {
	CHECK(queue_up());
	for (unsigned i = 0; i < 100; i++) {
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call), 0);
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
		CHECK_EQ(set_fd(VHOST_USER_SET_VRING_ERR, 0, i % 2 ? fx.err : -1), 0);
		CHECK(disk_works());
	}
})

SERVED(status_and_reset, {
	uint64_t v;
	CHECK(queue_up());
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 15), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 15);
	// A driver that breaks the rules: the error eventfd, and NEEDS_RESET.
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 0);
	driver_offer(&fx.dr, 0);
	fd_event_signal(fx.kick);
	CHECK(wait_for(fx.err));
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 15 | VIRTIO_CONFIG_S_NEEDS_RESET);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 0), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 0);
	fx.dr.avail->idx = fx.dr.used->idx = 0;
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(disk_works());
	CHECK_EQ(set(VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0), 0);
})

// Two requests that somebody took and did not finish; the back-end does them, and keeps the record.
SERVED(a_record_of_what_is_in_flight, {
	CHECK(negotiate());
	struct vhost_user_inflight i = { .queue_count = 2, .queue_size = DRIVER_SIZE };
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	CHECK_EQ(send_raw(VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_VERSION, sizeof(i), &i, sizeof(i), NULL, 0),
		 0);
	CHECK_EQ(msg_recv(fx.sock, &h, sizeof(h), &fds, deadline_in_ms(2000)), 0);
	CHECK_EQ(msg_recv(fx.sock, &i, sizeof(i), &fds, deadline_in_ms(2000)), 0);
	FD_AUTO fd = msg_fds_take_one(&fds);
	CHECK(fd >= 0);
	CHECK_EQ(i.mmap_size, 2 * inflight_region_len(DRIVER_SIZE));
	struct inflight_region *g = mmap(NULL, i.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(g != MAP_FAILED);
	g->version = 1;
	g->desc_count = DRIVER_SIZE;
	g->desc[0] = (struct inflight_desc){ .inflight = 1, .counter = 7 };
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fx.kick, 1), 1); // no memory
	struct vhost_user_inflight more = i;
	more.queue_count = 3;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	more = i;
	more.queue_size = 64; // longer than the file
	more.mmap_size = UINT64_MAX;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	more = i;
	more.mmap_offset = UINT64_MAX - 4095;
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &more, sizeof(more), &fd, 1), 1);
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 0);
	// The request in the record is header, data, status from descriptor 0 on; offered once, and taken, long ago.
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
	driver_desc(&fx.dr, 1, DRIVER_DATA + 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	driver_desc(&fx.dr, 2, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
	fx.dr.ram[DRIVER_DATA + 1024] = 0xee;
	driver_offer(&fx.dr, 0);
	CHECK(ring_up());
	CHECK(wait_for(fx.call));
	CHECK_EQ(fx.dr.ram[DRIVER_DATA + 1024], VIRTIO_BLK_S_OK);
	CHECK_EQ(fx.dr.used->idx, 1);
	CHECK_EQ(g->desc[0].inflight, 0);
	CHECK(disk_works());
	CHECK_EQ(g->used_idx, 2);
	CHECK_EQ(set(VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 1); // not under a running ring
	munmap(g, i.mmap_size);
})

// Without protocol features a ring is enabled as soon as it is started.
SERVED(an_old_front_end, {
	uint64_t f = FEATURES & ~PF_VIRTIO_BIT;
	struct vhost_user_vring_state n = { 0, DRIVER_SIZE };
	struct vhost_user_mem_table m = {
		.count = 1, .region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	struct vhost_user_vring_addr a = { .desc_user = fx.dr.place.desc,
					   .avail_user = fx.dr.place.avail,
					   .used_user = fx.dr.place.used };
	uint64_t zero = 0;
	CHECK_EQ(send_raw(VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 8, &f, 8, NULL, 0), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_KICK, VHOST_USER_VERSION, 8, &zero, 8, &fx.kick, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_CALL, VHOST_USER_VERSION, 8, &zero, 8, &fx.call, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, 40, &m, 40, &fx.dr.fd, 1), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_NUM, VHOST_USER_VERSION, 8, &n, 8, NULL, 0), 0);
	CHECK_EQ(send_raw(VHOST_USER_SET_VRING_ADDR, VHOST_USER_VERSION, 40, &a, 40, NULL, 0), 0);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_FEATURES, &v)); // all of the above has been read
	CHECK(disk_works());
})

SERVED(a_kick_before_the_ring_is_complete, {
	CHECK(negotiate());
	CHECK_EQ(share_memory(), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	fd_event_signal(fx.kick);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call), 0);
	usleep(10000);
	CHECK_EQ(set_addresses(0), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE), 0);
	CHECK(disk_works());
})

// ---- refused, and the connection goes on ------------------------------------------------------------------------

SERVED(values_that_are_refused, {
	CHECK(negotiate());
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, UINT64_C(1) << 63), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_PROTOCOL_FEATURES, UINT64_C(1) << 40), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 256), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 0), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 3), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 128), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 2, 16), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, UINT32_MAX, 16), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 65536), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 2), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 9, 1), 1);
	CHECK_EQ(set_addresses(2), 1);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 7, fx.kick), 1);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, -1), 1);	     // polling
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.dr.fd), 1); // no eventfd
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 255, fx.call), 1);
	uint64_t both = VHOST_USER_VRING_NO_FD;
	CHECK_EQ(set(VHOST_USER_SET_VRING_CALL, &both, 8, &fx.call, 1), 1);
	uint64_t neither = 0;
	CHECK_EQ(set(VHOST_USER_SET_VRING_CALL, &neither, 8, NULL, 0), 1);
})

SERVED(memory_tables_that_are_refused, {
	CHECK(negotiate());
	struct vhost_user_mem_table m = {
		.count = 2,
		.region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA },
			    { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	int two[] = { fx.dr.fd, fx.dr.fd };
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 2), 1); // overlap
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 1), 1); // a descriptor is missing
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 2), 1); // a region is missing
	m.count = UINT32_MAX;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 72, two, 2), 1);
	m.count = 1;
	m.region[0].size = DRIVER_MEM + 1;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].size = UINT64_MAX;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].size = DRIVER_MEM;
	m.region[0].fd_offset = UINT64_MAX - 4095;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 1);
	m.region[0].fd_offset = 0;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, &fx.kick, 1), 1); // no memory
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 40, two, 1), 0);
	m.count = 0;
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &m, 8, NULL, 0), 0);
})

SERVED(rings_outside_memory, {
	CHECK(negotiate());
	CHECK_EQ(share_memory(), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE), 0);
	fx.dr.place.used = DRIVER_UVA + DRIVER_MEM - 4;
	CHECK_EQ(set_addresses(0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 1);
	fd_event_signal(fx.kick);
	usleep(10000);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, VIRTIO_CONFIG_S_NEEDS_RESET);
})

SERVED(changes_that_a_running_ring_does_not_take, {
	CHECK(queue_up());
	CHECK(disk_works());
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, 32), 1);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 9), 1);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, PF_VIRTIO_BIT), 1);
	fx.dr.place.used += 1;
	CHECK_EQ(set_addresses(0), 1);
	CHECK(disk_works());
	// Its memory is taken away: the ring stops, the connection stays.
	struct vhost_user_mem_table none = { .count = 0 };
	CHECK_EQ(set(VHOST_USER_SET_MEM_TABLE, &none, 8, NULL, 0), 0);
	fd_event_signal(fx.kick);
	uint64_t v;
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, VIRTIO_CONFIG_S_NEEDS_RESET);
})

// ---- dropped ----------------------------------------------------------------------------------------------------

#define DROPPED(name, ...)          \
	SERVED(name, {              \
		CHECK(negotiate()); \
		__VA_ARGS__;        \
		CHECK(closed());    \
	})

DROPPED(wrong_version, send_raw(VHOST_USER_GET_FEATURES, 2, 0, NULL, 0, NULL, 0))
DROPPED(a_reply_where_a_request_is_due, send_raw(VHOST_USER_GET_FEATURES, 5, 0, NULL, 0, NULL, 0))
DROPPED(unknown_request, send_raw(99, 1, 0, NULL, 0, NULL, 0))
DROPPED(request_zero, send_raw(0, 1, 0, NULL, 0, NULL, 0))
DROPPED(request_of_a_feature_that_is_not_offered,
	send_raw(VHOST_USER_SEND_RARP, 1, 8, "12345678", 8, NULL, 0))
DROPPED(postcopy_is_not_offered, send_raw(VHOST_USER_POSTCOPY_ADVISE, 1, 0, NULL, 0, NULL, 0))
DROPPED(iotlb_without_an_iommu,
	send_raw(VHOST_USER_IOTLB_MSG, 1, 32, "12345678901234567890123456789012", 32, NULL, 0))
DROPPED(size_too_small, send_raw(VHOST_USER_SET_FEATURES, 1, 4, "1234", 4, NULL, 0))
DROPPED(size_too_large, send_raw(VHOST_USER_SET_FEATURES, 1, 16, "1234567812345678", 16, NULL, 0))
DROPPED(size_absurd, send_raw(VHOST_USER_SET_FEATURES, 1, UINT32_MAX, NULL, 0, NULL, 0))
DROPPED(descriptors_where_none_are_due,
	send_raw(VHOST_USER_GET_FEATURES, 1, 0, NULL, 0, (int[]){ fx.kick, fx.call }, 2))
DROPPED(descriptor_missing,
	send_raw(VHOST_USER_ADD_MEM_REG, 1, 40, &(struct vhost_user_mem_reg){ 0 }, 40, NULL, 0))
DROPPED(a_refusal_without_reply_ack,
	send_raw(VHOST_USER_SET_VRING_NUM, 1, 8, &(struct vhost_user_vring_state){ 0, 3 }, 8, NULL, 0))
DROPPED(bad_index_where_a_reply_is_due,
	send_raw(VHOST_USER_GET_VRING_BASE, 1, 8, &(struct vhost_user_vring_state){ 2, 0 }, 8, NULL, 0))
DROPPED(end_within_a_header, CHECK_EQ(send(fx.sock, "abc", 3, MSG_NOSIGNAL), 3); shutdown(fx.sock, SHUT_WR))
DROPPED(end_within_a_payload, send_raw(VHOST_USER_SET_FEATURES, 1, 8, "1234", 4, NULL, 0);
	shutdown(fx.sock, SHUT_WR))
DROPPED(half_a_message_and_silence, CHECK_EQ(send(fx.sock, "abc", 3, MSG_NOSIGNAL), 3)) // 2 s

SERVED(more_descriptors_than_a_message_can_have, {
	union {
		char bytes[CMSG_SPACE(40 * sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct vhost_user_header h = { .request = VHOST_USER_SET_MEM_TABLE, .flags = 1, .size = 8 };
	struct iovec iov = { &h, sizeof(h) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)
	};
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					       .cmsg_type = SCM_RIGHTS,
					       .cmsg_len = CMSG_LEN(40 * sizeof(int)) };
	for (size_t i = 0; i < 40; i++)
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)) + i * sizeof(int), &fx.kick, sizeof(int));
	CHECK(negotiate());
	CHECK_EQ(sendmsg(fx.sock, &m, MSG_NOSIGNAL), sizeof(h));
	CHECK(closed());
})

SERVED(gone_with_requests_in_flight, {
	CHECK(queue_up());
	CHECK(disk_works());
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_OUT };
	memcpy(fx.dr.ram + DRIVER_DATA, &h, sizeof(h));
	for (unsigned i = 0; i < DRIVER_SIZE - 3; i++) {
		driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
		driver_desc(&fx.dr, 1, DRIVER_DATA + 512, 65536, VRING_DESC_F_NEXT, 2);
		driver_desc(&fx.dr, 2, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
		driver_offer(&fx.dr, 0);
	}
	fd_event_signal(fx.kick);
})

SERVED(gone_at_once, {})

TEST(comes_and_goes_many_times)
{
	for (unsigned i = 0; i < 50 && !test_failed; i++) {
		CHECK(set_up());
		if (i % 3)
			CHECK(queue_up());
		if (i % 3 == 2)
			CHECK(disk_works());
		tear_down();
	}
}
