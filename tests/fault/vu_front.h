// SPDX-License-Identifier: BSD-2-Clause
// A front-end for tests of the SDK's vhost-user server: talks over a socketpair to a thread that serves a small disk.
//
// SERVED(name, { body }) is a test.  After each, whatever was sent: the server has ended, nothing is in flight, no memory is
// mapped, and the process has as many descriptors as before.
#ifndef MINIVMM_TESTS_FAULT_VU_FRONT_H
#define MINIVMM_TESTS_FAULT_VU_FRONT_H

#include "bridges/vhost_user_wire.h"
#include "devices/block/virtio_blk.h"
#include "devices/sdk/carrier.h"
#include "tests/unit/count_fds.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <sys/socket.h>

#define IMAGE_SIZE (1u << 20)
#define PF_ALL                                                                                          \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(CONFIG) |             \
	 VHOST_USER_PF_BIT(RESET_DEVICE) | VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) |                     \
	 VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(INFLIGHT_SHMFD) | VHOST_USER_PF_BIT(LOG_SHMFD) | \
	 VHOST_USER_PF_BIT(DEVICE_STATE) | VHOST_USER_PF_BIT(BACKEND_REQ))
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

// ---- the device, on a thread ------------------------------------------------------------------------------------

static inline int dev_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vblk_start(&fx.b, features);
	return 0;
}

static inline void dev_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_kick(&fx.b, q);
}

static inline void dev_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_drain(&fx.b, q);
}

static inline void dev_stop(struct vdev *d)
{
	(void)d;
}

static inline int dev_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	return vblk_config_write(&fx.b, off, p, len);
}

static struct vdev_ops ops = {
	.program = "test",
	.start = dev_start,
	.kick = dev_kick,
	.drain = dev_drain,
	.stop = dev_stop,
	.config_write = dev_config_write,
};

static inline void completed(struct loop_source *s, uint32_t events)
{
	(void)s;
	(void)events;
	vblk_complete(&fx.b, false);
}

static inline void *serve_thread(void *arg)
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

static inline bool set_up(void)
{
	struct err e = { { 0 } };
	int pair[2];
	log_init("frontend", getenv("V") ? LOG_DEBUG : LOG_ERROR);
	memset(&fx, 0, sizeof(fx));
	fx.fds_before = count_fds();
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
static inline void tear_down(void)
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
	CHECK_EQ(count_fds(), fx.fds_before);
}

// ---- the front-end ----------------------------------------------------------------------------------------------

static inline int send_raw(uint32_t request, uint32_t flags, uint32_t size, const void *p, uint32_t len,
			   const int *fds, unsigned n)
{
	struct vhost_user_header h = { .request = request, .flags = flags, .size = size };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)p, len } };
	return msg_send(fx.sock, iov, len ? 2 : 1, fds, n, deadline_in_ms(2000));
}

// A reply of `len` bytes; false if the server closed instead or sent something else.
static inline bool reply(uint32_t request, void *p, uint32_t len)
{
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	return msg_recv(fx.sock, &h, sizeof(h), &fds, deadline_in_ms(2000)) == 0 && h.request == request &&
	       h.size == len && h.flags == (VHOST_USER_VERSION | VHOST_USER_REPLY) &&
	       (len == 0 || msg_recv(fx.sock, p, len, &fds, deadline_in_ms(2000)) == 0) && fds.count == 0;
}

// Sends with NEED_REPLY: 0 or 1 as the server says, -1 if it closed.
static inline int set(uint32_t request, const void *p, uint32_t len, const int *fds, unsigned n)
{
	uint64_t ack;
	if (send_raw(request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, len, p, len, fds, n) < 0 ||
	    !reply(request, &ack, sizeof(ack)))
		return -1;
	return ack != 0;
}

static inline int set_u64(uint32_t request, uint64_t v)
{
	return set(request, &v, sizeof(v), NULL, 0);
}

static inline bool get_u64(uint32_t request, uint64_t *v)
{
	return send_raw(request, VHOST_USER_VERSION, 0, NULL, 0, NULL, 0) == 0 &&
	       reply(request, v, sizeof(*v));
}

static inline int set_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { .index = index, .num = num };
	return set(request, &s, sizeof(s), NULL, 0);
}

static inline int set_fd(uint32_t request, uint32_t index, int fd)
{
	uint64_t v = index | (fd < 0 ? VHOST_USER_VRING_NO_FD : 0);
	return set(request, &v, sizeof(v), &fd, fd >= 0);
}

static inline bool closed(void)
{
	char byte;
	struct timeval tv = { .tv_sec = 4 };
	setsockopt(fx.sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	ssize_t n = recv(fx.sock, &byte, 1, 0);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static inline bool negotiate(void)
{
	uint64_t v;
	uint64_t pf = PF_ALL;
	return get_u64(VHOST_USER_GET_FEATURES, &v) && (v & FEATURES) == FEATURES &&
	       get_u64(VHOST_USER_GET_PROTOCOL_FEATURES, &v) && (v & PF_ALL) == PF_ALL &&
	       send_raw(VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_VERSION, 8, &pf, 8, NULL, 0) == 0 &&
	       set(VHOST_USER_SET_OWNER, NULL, 0, NULL, 0) == 0 &&
	       set_u64(VHOST_USER_SET_FEATURES, FEATURES) == 0;
}

static inline int share_memory(void)
{
	struct vhost_user_mem_table m = {
		.count = 1, .region = { { .gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } }
	};
	return set(VHOST_USER_SET_MEM_TABLE, &m, 8 + 32, &fx.dr.fd, 1);
}

static inline int set_addresses(uint32_t index)
{
	struct vhost_user_vring_addr a = { .index = index,
					   .desc_user = fx.dr.place.desc,
					   .avail_user = fx.dr.place.avail,
					   .used_user = fx.dr.place.used };
	return set(VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), NULL, 0);
}

static inline bool ring_up(void)
{
	return share_memory() == 0 && set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE) == 0 &&
	       set_state(VHOST_USER_SET_VRING_BASE, 0, 0) == 0 && set_addresses(0) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_ERR, 0, fx.err) == 0 &&
	       set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick) == 0 &&
	       set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1) == 0;
}

static inline bool queue_up(void)
{
	return negotiate() && ring_up();
}

static inline bool wait_for(int eventfd)
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
static inline bool disk_works(void)
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

#endif
