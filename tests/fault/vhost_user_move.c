// SPDX-License-Identifier: BSD-2-Clause
// What the SDK's vhost-user server does for a guest that moves, and says of its own accord: the log of dirty pages,
// the device's state, configuration changes; and the same asked for wrongly.
#include "devices/sdk/vhost_user_impl.h"
#include "tests/fault/vu_front.h"

#include <fcntl.h>
#include <linux/virtio_ring.h>

#define LOG_ALL	 (UINT64_C(1) << VHOST_F_LOG_ALL)
#define LOG_SIZE 0x10000u	     // enough for 2 GiB
#define USED_LOG UINT64_C(0x7000000) // where the front-end wants the used ring noted

static struct {
	int fd, event;
	uint8_t *bits;
} lg;

static bool page_noted(uint64_t gpa)
{
	return lg.bits[gpa >> 15] >> (gpa >> 12 & 7) & 1;
}

static unsigned pages_noted(void)
{
	unsigned n = 0;
	for (unsigned i = 0; i < LOG_SIZE; i++)
		n += (unsigned)__builtin_popcount(lg.bits[i]);
	return n;
}

static bool log_open(void)
{
	lg.fd = memfd_create("log", MFD_CLOEXEC);
	lg.event = fd_eventfd();
	if (lg.fd < 0 || ftruncate(lg.fd, LOG_SIZE + 4096) < 0)
		return false;
	lg.bits = mmap(NULL, LOG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, lg.fd, 4096);
	return lg.bits != MAP_FAILED;
}

static void log_close(void)
{
	munmap(lg.bits, LOG_SIZE);
	close(lg.fd);
	close(lg.event);
}

// 0 or 1 as the server says, -1 if it closed.
static int log_base(uint64_t size, uint64_t off, int fd)
{
	struct vhost_user_log l = { .size = size, .fd_offset = off };
	uint64_t v = 7;
	if (send_raw(VHOST_USER_SET_LOG_BASE, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, sizeof(l), &l,
		     sizeof(l), &fd, fd >= 0) < 0 ||
	    !reply(VHOST_USER_SET_LOG_BASE, &v, sizeof(v)))
		return -1;
	return v != 0;
}

static int address_flags(uint32_t flags)
{
	struct vhost_user_vring_addr a = { .index = 0,
					   .flags = flags,
					   .desc_user = fx.dr.place.desc,
					   .avail_user = fx.dr.place.avail,
					   .used_user = fx.dr.place.used,
					   .log_gpa = USED_LOG };
	return set(VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), NULL, 0);
}

SERVED(writes_are_logged_when_asked_for_while_running, {
	CHECK(log_open());
	CHECK(queue_up());
	CHECK(disk_works());
	// Empty replies, as QEMU has them.
	struct vhost_user_log l = { .size = LOG_SIZE, .fd_offset = 4096 };
	CHECK_EQ(send_raw(VHOST_USER_SET_LOG_BASE, VHOST_USER_VERSION, sizeof(l), &l, sizeof(l), &lg.fd, 1),
		 0);
	CHECK(reply(VHOST_USER_SET_LOG_BASE, NULL, 0));
	CHECK_EQ(set(VHOST_USER_SET_LOG_FD, NULL, 0, &lg.event, 1), 0);
	CHECK(disk_works());
	CHECK_EQ(pages_noted(), 0); // not yet: nobody took the feature
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, FEATURES | LOG_ALL), 0);
	CHECK(disk_works());
	CHECK(fd_event_take(lg.event));
	CHECK(page_noted(DRIVER_GPA + DRIVER_DATA)); // sector and status
	CHECK_EQ(pages_noted(), 1);		     // and the used ring is not logged by itself
	CHECK_EQ(address_flags(VHOST_USER_VRING_F_LOG), 0);
	memset(lg.bits, 0, LOG_SIZE);
	CHECK(disk_works());
	CHECK(page_noted(DRIVER_GPA + DRIVER_DATA) && page_noted(USED_LOG));
	CHECK_EQ(pages_noted(), 2);
	// A buffer over a page's border, and one that is only read.
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_IN };
	memcpy(fx.dr.ram + DRIVER_DATA, &h, sizeof(h));
	driver_desc(&fx.dr, 0, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 1);
	driver_desc(&fx.dr, 1, 0x20e00, 1024, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	driver_desc(&fx.dr, 2, 0x30000, 1, VRING_DESC_F_WRITE, 0);
	memset(lg.bits, 0, LOG_SIZE);
	driver_offer(&fx.dr, 0);
	fd_event_signal(fx.kick);
	CHECK(wait_for(fx.call));
	CHECK(page_noted(DRIVER_GPA + 0x20000) && page_noted(DRIVER_GPA + 0x21000) &&
	      page_noted(DRIVER_GPA + 0x30000) && !page_noted(DRIVER_GPA + DRIVER_DATA));
	CHECK_EQ(pages_noted(), 4);
	// Off again.
	CHECK_EQ(address_flags(0), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, FEATURES), 0);
	memset(lg.bits, 0, LOG_SIZE);
	CHECK(disk_works());
	CHECK_EQ(pages_noted(), 0);
	log_close();
})

SERVED(a_log_that_is_too_short_notes_what_it_can, {
	CHECK(log_open());
	CHECK(queue_up());
	CHECK_EQ(log_base(16, 4096, lg.fd), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, FEATURES | LOG_ALL), 0);
	CHECK_EQ(address_flags(VHOST_USER_VRING_F_LOG), 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK(disk_works());
	CHECK_EQ(pages_noted(), 0);
	CHECK_EQ(log_base(LOG_SIZE, 4096, lg.fd), 0); // a larger one in its place
	CHECK(disk_works());
	CHECK_EQ(pages_noted(), 2);
	log_close();
})

#define REFUSED_LOG(name, size, off, fd)               \
	SERVED(name, {                                 \
		CHECK(log_open());                     \
		CHECK(negotiate());                    \
		CHECK_EQ(log_base(size, off, fd), -1); \
		CHECK(closed());                       \
		log_close();                           \
	})
REFUSED_LOG(a_log_beyond_its_file, LOG_SIZE + 1, 4096, lg.fd)
REFUSED_LOG(a_log_of_no_size, 0, 0, lg.fd)
REFUSED_LOG(a_log_that_wraps, UINT64_MAX, 4096, lg.fd)
REFUSED_LOG(a_log_in_an_eventfd, 4096, 0, fx.kick)
REFUSED_LOG(a_log_without_a_descriptor, 4096, 0, -1)

// A read of a sector by a packed ring of four descriptors, the `n`th of its kind; true if it comes back well.
static bool packed_disk_works(unsigned n)
{
	static const uint16_t available[] = { 1u << VRING_PACKED_DESC_F_AVAIL,
					      1u << VRING_PACKED_DESC_F_USED };
	struct vring_packed_desc *ring = (void *)fx.dr.ram;
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_IN };
	memcpy(fx.dr.ram + DRIVER_DATA, &h, sizeof(h));
	fx.dr.ram[DRIVER_DATA + 0x2000] = 0xee;
	const uint64_t at[] = { DRIVER_DATA, DRIVER_DATA + 0x1000, DRIVER_DATA + 0x2000 };
	const uint32_t len[] = { 16, 512, 1 };
	const unsigned first = n * 3;
	uint16_t flags[3];
	for (unsigned i = 0; i < 3; i++) {
		struct vring_packed_desc *d = &ring[(first + i) % 4];
		flags[i] = (uint16_t)(available[(first + i) / 4 % 2] | (i ? VRING_DESC_F_WRITE : 0) |
				      (i < 2 ? VRING_DESC_F_NEXT : 0));
		d->addr = DRIVER_GPA + at[i];
		d->len = len[i];
		d->id = (uint16_t)n;
		if (i)
			d->flags = flags[i];
	}
	__atomic_store_n(&ring[first % 4].flags, flags[0], __ATOMIC_RELEASE);
	fd_event_signal(fx.kick);
	return wait_for(fx.call) && fx.dr.ram[DRIVER_DATA + 0x2000] == VIRTIO_BLK_S_OK;
}

SERVED(writes_of_packed_rings_are_logged, {
	const uint64_t packed = FEATURES | UINT64_C(1) << VIRTIO_F_RING_PACKED;
	CHECK(log_open());
	CHECK(negotiate());
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, packed), 0);
	CHECK(share_memory() == 0 && set_state(VHOST_USER_SET_VRING_NUM, 0, 4) == 0 &&
	      set_state(VHOST_USER_SET_VRING_BASE, 0, 0x80008000u) == 0 && set_addresses(0) == 0 &&
	      set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call) == 0 &&
	      set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick) == 0 &&
	      set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1) == 0);
	CHECK(packed_disk_works(0));
	CHECK_EQ(log_base(LOG_SIZE, 4096, lg.fd), 0);
	CHECK_EQ(set(VHOST_USER_SET_LOG_FD, NULL, 0, &lg.event, 1), 0);
	CHECK(packed_disk_works(1));
	CHECK_EQ(pages_noted(), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, packed | LOG_ALL), 0);
	CHECK(packed_disk_works(2));
	CHECK(fd_event_take(lg.event));
	CHECK(page_noted(DRIVER_GPA + DRIVER_DATA + 0x1000) && page_noted(DRIVER_GPA + DRIVER_DATA + 0x2000));
	CHECK_EQ(pages_noted(), 2);
	// The ring where it lies, and what the device wishes of the driver where the front-end wants it noted.
	CHECK_EQ(address_flags(VHOST_USER_VRING_F_LOG), 0);
	memset(lg.bits, 0, LOG_SIZE);
	CHECK(packed_disk_works(3));
	CHECK(page_noted(DRIVER_GPA + DRIVER_DESC) && page_noted(USED_LOG));
	CHECK_EQ(pages_noted(), 4);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, packed), 0);
	memset(lg.bits, 0, LOG_SIZE);
	CHECK(packed_disk_works(4));
	CHECK_EQ(pages_noted(), 0);
	log_close();
})

// ---- the device's state -------------------------------------------------------------------------------------------

static struct {
	char loaded[64];
	size_t len;
	bool has;
} st;

static size_t test_save(struct vdev *d, void *to)
{
	(void)d;
	memcpy(to, "what the driver said", 20);
	return 20;
}

static int test_load(struct vdev *d, const void *from, size_t len)
{
	(void)d;
	if (len > sizeof(st.loaded))
		return -EINVAL;
	if (len) {
		memcpy(st.loaded, from, len);
		st.len = len;
		st.has = true;
	}
	return 0;
}

static uint64_t state_fd(uint32_t direction, uint32_t phase, int fd)
{
	struct vhost_user_device_state p = { .direction = direction, .phase = phase };
	uint64_t v = UINT64_MAX;
	if (send_raw(VHOST_USER_SET_DEVICE_STATE_FD, VHOST_USER_VERSION, sizeof(p), &p, sizeof(p), &fd, 1) <
		    0 ||
	    !reply(VHOST_USER_SET_DEVICE_STATE_FD, &v, sizeof(v)))
		return UINT64_MAX;
	return v;
}

static uint64_t state_check(void)
{
	uint64_t v = UINT64_MAX;
	return get_u64(VHOST_USER_CHECK_DEVICE_STATE, &v) ? v : UINT64_MAX;
}

static uint64_t load_bytes(const void *p, size_t len)
{
	int pipes[2];
	if (pipe2(pipes, O_CLOEXEC) < 0 ||
	    state_fd(VHOST_USER_STATE_LOAD, 0, pipes[0]) != VHOST_USER_STATE_NO_FD)
		return UINT64_MAX;
	close(pipes[0]);
	ssize_t n = write(pipes[1], p, len);
	close(pipes[1]);
	return n == (ssize_t)len ? state_check() : UINT64_MAX;
}

static void stop_queue(void)
{
	struct vhost_user_vring_state s = { .index = 0 };
	CHECK_EQ(send_raw(VHOST_USER_GET_VRING_BASE, VHOST_USER_VERSION, 8, &s, 8, NULL, 0), 0);
	CHECK(reply(VHOST_USER_GET_VRING_BASE, &s, 8));
}

static size_t save_bytes(uint8_t *to, size_t cap)
{
	int pipes[2];
	if (pipe2(pipes, O_CLOEXEC) < 0 ||
	    state_fd(VHOST_USER_STATE_SAVE, 0, pipes[1]) != VHOST_USER_STATE_NO_FD)
		return 0;
	close(pipes[1]);
	size_t len = 0;
	ssize_t n;
	while ((n = read(pipes[0], to + len, cap - len)) > 0) // it ends: the server has closed its end
		len += (size_t)n;
	close(pipes[0]);
	return state_check() == 0 ? len : 0;
}

SERVED(a_state_is_saved_and_loaded, {
	uint8_t bytes[8192];
	st.has = false;
	ops.state_save = test_save;
	ops.state_load = test_load;
	CHECK(queue_up());
	CHECK(disk_works());
	FD_AUTO null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK_EQ(state_fd(VHOST_USER_STATE_SAVE, 0, null), VHOST_USER_STATE_NO_FD | 1); // it runs
	stop_queue();
	size_t len = save_bytes(bytes, sizeof(bytes));
	CHECK(len > 20 && memcmp(bytes + len - 20, "what the driver said", 20) == 0);
	CHECK_EQ(load_bytes(bytes, len), 0);
	CHECK(st.has && st.len == 20 && memcmp(st.loaded, "what the driver said", 20) == 0);
	// None of these is a state of this device.
	st.has = false;
	CHECK_EQ(load_bytes(bytes, len - 1), 1);
	CHECK_EQ(load_bytes(bytes, 10), 1);
	CHECK_EQ(load_bytes(bytes, 0), 1);
	bytes[len] = 0;
	CHECK_EQ(load_bytes(bytes, len + 1), 1);
	bytes[0] ^= 1;
	CHECK_EQ(load_bytes(bytes, len), 1);
	bytes[0] ^= 1;
	bytes[9] ^= 1; // another program's
	CHECK_EQ(load_bytes(bytes, len), 1);
	bytes[9] ^= 1;
	CHECK_EQ(load_bytes(bytes, sizeof(bytes)), 1); // longer than any
	CHECK(!st.has);
	CHECK_EQ(load_bytes(bytes, len), 0);
	CHECK(st.has);
	ops.state_save = NULL;
	ops.state_load = NULL;
})

SERVED(a_device_without_state_has_an_empty_one, {
	uint8_t bytes[256];
	CHECK(negotiate());
	size_t len = save_bytes(bytes, sizeof(bytes));
	CHECK(len > 0 && len < 64);
	CHECK_EQ(load_bytes(bytes, len), 0);
})

SERVED(transfers_that_are_refused, {
	int pipes[2];
	CHECK(negotiate());
	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	CHECK_EQ(state_fd(2, 0, pipes[1]), VHOST_USER_STATE_NO_FD | 1);
	CHECK_EQ(state_check(), 1);
	CHECK_EQ(state_fd(VHOST_USER_STATE_SAVE, 1, pipes[1]), VHOST_USER_STATE_NO_FD | 1);
	CHECK_EQ(state_fd(VHOST_USER_STATE_SAVE, 0, pipes[0]), VHOST_USER_STATE_NO_FD | 1); // the wrong end
	CHECK_EQ(state_fd(VHOST_USER_STATE_LOAD, 0, fx.dr.fd), VHOST_USER_STATE_NO_FD | 1); // a file
	// A full pipe, whose reader does not read: nobody waits.
	fcntl(pipes[1], F_SETFL, O_NONBLOCK);
	char full[4096];
	memset(full, 0, sizeof(full));
	while (write(pipes[1], full, sizeof(full)) > 0)
		;
	CHECK_EQ(state_fd(VHOST_USER_STATE_SAVE, 0, pipes[1]), VHOST_USER_STATE_NO_FD | 1);
	CHECK_EQ(state_check(), 1);
	close(pipes[0]);
	close(pipes[1]);
})

SERVED(a_state_that_has_not_ended_is_none_and_nobody_waits, {
	int pipes[2];
	CHECK(negotiate());
	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	CHECK_EQ(state_fd(VHOST_USER_STATE_LOAD, 0, pipes[0]), VHOST_USER_STATE_NO_FD);
	deadline_ns begin = deadline_now();
	CHECK_EQ(state_check(), 1);
	CHECK(deadline_now() - begin < 500 * NS_PER_MS);
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, FEATURES), 0); // and it goes on
	close(pipes[0]);
	close(pipes[1]);
})

// ---- and in the record of requests in flight ------------------------------------------------------------------------

static void noting_kick(struct vdev *d, struct vq *q)
{
	vdev_state_changed(d);
	dev_kick(d, q);
}

static struct record { // what the front-end keeps, seen from its side
	struct vhost_user_inflight place;
	int fd;
	uint8_t *map;
	struct state_record *state;
} rec;

static bool record_begin(void)
{
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	rec.place = (struct vhost_user_inflight){ .queue_count = 2, .queue_size = DRIVER_SIZE };
	if (send_raw(VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_VERSION, sizeof(rec.place), &rec.place,
		     sizeof(rec.place), NULL, 0) < 0 ||
	    msg_recv(fx.sock, &h, sizeof(h), &fds, deadline_in_ms(2000)) < 0 ||
	    msg_recv(fx.sock, &rec.place, sizeof(rec.place), &fds, deadline_in_ms(2000)) < 0)
		return false;
	rec.fd = msg_fds_take_one(&fds);
	const uint64_t queues = 2 * inflight_region_len(DRIVER_SIZE, false);
	if (rec.fd < 0 || rec.place.mmap_size != queues + sizeof(*rec.state))
		return false;
	rec.map = mmap(NULL, rec.place.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, rec.fd, 0);
	rec.state = (struct state_record *)(void *)(rec.map + queues);
	return rec.map != MAP_FAILED;
}

static int record_give(void)
{
	return set(VHOST_USER_SET_INFLIGHT_FD, &rec.place, sizeof(rec.place), &rec.fd, 1);
}

static bool ring_anew(void)
{
	memset(fx.dr.ram + (fx.dr.place.avail - DRIVER_UVA), 0, 4);
	memset(fx.dr.ram + (fx.dr.place.used - DRIVER_UVA), 0, 4);
	st.has = false;
	return ring_up();
}

// The queue begins as with a driver that is new.  1 if the device went on from the state, 0 if afresh, -1: it did not begin.
static int goes_on_from(const struct state_record *r)
{
	if (set(VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0) != 0)
		return -1;
	*rec.state = *r;
	return ring_anew() ? st.has : -1;
}

SERVED(a_state_is_kept_in_the_record, {
	static struct state_record good;
	static struct state_record bad;
	ops.state_save = test_save;
	ops.state_load = test_load;
	ops.kick = noting_kick;
	CHECK(negotiate());
	CHECK(record_begin());
	CHECK_EQ(record_give(), 0);
	CHECK(ring_up());
	CHECK_EQ(rec.state->current, 1); // the kick when it was enabled
	CHECK(disk_works());
	CHECK_EQ(rec.state->current, 2); // by turns
	CHECK(disk_works());
	CHECK_EQ(rec.state->current, 1);
	good = *rec.state;
	CHECK(good.slot[0].len == good.slot[1].len && good.slot[0].len > 20);
	CHECK(memcmp(good.slot[0].bytes + good.slot[0].len - 20, "what the driver said", 20) == 0);
	// A reset forgets it.
	CHECK_EQ(set(VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0), 0);
	CHECK_EQ(rec.state->current, 0);
	ops.kick = dev_kick;
	CHECK_EQ(goes_on_from(&good), 1);
	CHECK(st.len == 20 && memcmp(st.loaded, "what the driver said", 20) == 0);
	bad = good;
	bad.current = 2;
	CHECK_EQ(goes_on_from(&bad), 1);
	// None of these is a state of this device, and it starts all the same.
	bad.current = 0;
	CHECK_EQ(goes_on_from(&bad), 0);
	bad.current = 3;
	CHECK_EQ(goes_on_from(&bad), 0);
	bad.current = UINT32_MAX;
	CHECK_EQ(goes_on_from(&bad), 0);
	bad = good;
	for (uint32_t len = 0; len < good.slot[0].len; len++) {
		bad.slot[0].len = len;
		CHECK_EQ(goes_on_from(&bad), 0);
	}
	bad.slot[0].len = STATE_MAX + 1;
	CHECK_EQ(goes_on_from(&bad), 0);
	bad.slot[0].len = UINT32_MAX;
	CHECK_EQ(goes_on_from(&bad), 0);
	bad = good;
	bad.slot[0].bytes[9] ^= 1; // another program's
	CHECK_EQ(goes_on_from(&bad), 0);
	CHECK_EQ(goes_on_from(&good), 1);
	CHECK(disk_works());
	// A record without room for it is one without it.
	CHECK_EQ(set(VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0), 0);
	*rec.state = good;
	rec.place.mmap_size--;
	CHECK_EQ(record_give(), 0);
	CHECK(ring_anew() && !st.has);
	ops.state_save = NULL;
	ops.state_load = NULL;
	munmap(rec.map, rec.place.mmap_size + 1);
	fd_close(&rec.fd);
})

// ---- said of its own accord ---------------------------------------------------------------------------------------

static _Atomic unsigned changes; // to be told at the next kick: it comes on the device's thread

static void changing_kick(struct vdev *d, struct vq *q)
{
	for (; changes > 0; changes--)
		vdev_config_changed(d);
	dev_kick(d, q);
}

static bool told(int sock, int ms)
{
	struct vhost_user_header h;
	struct msg_fds fds = { 0 };
	return msg_recv(sock, &h, sizeof(h), &fds, deadline_in_ms(ms)) == 0 &&
	       h.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG && h.flags == VHOST_USER_VERSION &&
	       h.size == 0;
}

SERVED(a_change_of_the_configuration_is_told, {
	int pair[2];
	ops.kick = changing_kick;
	CHECK(negotiate());
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_EQ(set(VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
	close(pair[1]);
	changes = 1; // told when the ring runs, at its first look
	CHECK(ring_up());
	CHECK(told(pair[0], 2000));
	CHECK(!told(pair[0], 50));
	// Many, and nobody reads: coalesced, and nobody waits.
	changes = 100000;
	CHECK(disk_works());
	unsigned n = 0;
	while (told(pair[0], 100))
		n++;
	CHECK(n >= 1 && n < 5000);
	CHECK(disk_works());
	// A new channel takes the old one's place; an answer that nobody asked for ends it, and only it.
	close(pair[0]);
	CHECK(disk_works());
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_EQ(set(VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
	close(pair[1]);
	changes = 1;
	CHECK(disk_works());
	CHECK(told(pair[0], 2000));
	CHECK_EQ(write(pair[0], "?", 1), 1);
	char byte;
	CHECK_EQ(read(pair[0], &byte, 1) <= 0, 1);
	close(pair[0]);
	changes = 1;
	CHECK(disk_works());
	CHECK_EQ(set(VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &fx.kick, 1), 1); // no socket
	CHECK(disk_works());
	ops.kick = dev_kick;
})

SERVED(a_suspended_device_keeps_it_to_itself, {
	int pair[2];
	ops.kick = changing_kick;
	CHECK(queue_up());
	changes = 1;
	CHECK(disk_works()); // nobody to tell
	stop_queue();
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_EQ(set(VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
	close(pair[1]);
	CHECK(!told(pair[0], 50));
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_BASE, 0, 1), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	fd_event_signal(fx.kick);
	CHECK(told(pair[0], 2000));
	close(pair[0]);
	ops.kick = dev_kick;
})

// ---- addresses and slots ------------------------------------------------------------------------------------------

SERVED(rings_are_named_by_guest_addresses, {
	uint64_t pf = PF_ALL | VHOST_USER_PF_BIT(GPA_ADDRESSES);
	CHECK(negotiate());
	CHECK_EQ(set_u64(VHOST_USER_SET_PROTOCOL_FEATURES, pf), 0);
	CHECK_EQ(share_memory(), 1); // the two addresses of its region differ
	struct vhost_user_mem_reg r = { .region = {
						.gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_GPA } };
	CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &r, sizeof(r), &fx.dr.fd, 1), 0);
	struct vhost_user_vring_addr a = { .desc_user = DRIVER_GPA + DRIVER_DESC,
					   .avail_user = DRIVER_GPA + DRIVER_AVAIL,
					   .used_user = DRIVER_GPA + DRIVER_USED };
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_NUM, 0, DRIVER_SIZE), 0);
	CHECK_EQ(set(VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), NULL, 0), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_CALL, 0, fx.call), 0);
	CHECK_EQ(set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick), 0);
	CHECK_EQ(set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	CHECK(disk_works());
})

SERVED(as_many_slots_as_it_says, {
	uint64_t most;
	CHECK(queue_up());
	CHECK(get_u64(VHOST_USER_GET_MAX_MEM_SLOTS, &most));
	CHECK_EQ(most, 509);
	struct vhost_user_mem_reg r = { .region = { .size = 4096 } };
	for (uint64_t i = 1; i < most; i++) { // one is there
		r.region.gpa = r.region.user = i * 8192;
		CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &r, sizeof(r), &fx.dr.fd, 1), 0);
	}
	r.region.gpa = r.region.user = most * 8192;
	CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &r, sizeof(r), &fx.dr.fd, 1), 1);
	CHECK(disk_works());
	// A buffer in the last one.
	r.region.gpa = r.region.user = 508 * 8192;
	driver_desc(&fx.dr, 4, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 5);
	driver_desc(&fx.dr, 5, 0, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 6);
	fx.dr.desc[5].addr = r.region.gpa + 512;
	driver_desc(&fx.dr, 6, DRIVER_DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
	fx.dr.ram[DRIVER_DATA + 1024] = 0xee;
	driver_offer(&fx.dr, 4);
	fd_event_signal(fx.kick);
	CHECK(wait_for(fx.call));
	CHECK_EQ(fx.dr.ram[DRIVER_DATA + 1024], VIRTIO_BLK_S_OK);
	// Taken away, requests for it fail as any outside memory; the others go on until then.
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &r, sizeof(r), NULL, 0), 0);
	CHECK(disk_works());
	driver_desc(&fx.dr, 4, DRIVER_DATA, 16, VRING_DESC_F_NEXT, 5);
	driver_offer(&fx.dr, 4);
	fd_event_signal(fx.kick);
	CHECK(wait_for(fx.err));
})

// The memory of a ring goes away under it.
SERVED(a_slot_that_a_ring_lies_in, {
	uint64_t v;
	CHECK(queue_up());
	CHECK(disk_works());
	struct vhost_user_mem_reg r = { .region = {
						.gpa = DRIVER_GPA, .size = DRIVER_MEM, .user = DRIVER_UVA } };
	CHECK_EQ(set(VHOST_USER_REM_MEM_REG, &r, sizeof(r), NULL, 0), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK(v & VIRTIO_CONFIG_S_NEEDS_RESET);
	fd_event_signal(fx.kick);
	CHECK_EQ(set(VHOST_USER_ADD_MEM_REG, &r, sizeof(r), &fx.dr.fd, 1), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 0), 0);
	fx.dr.avail->idx = fx.dr.used->idx = 0;
	CHECK(set_state(VHOST_USER_SET_VRING_BASE, 0, 0) == 0 &&
	      set_fd(VHOST_USER_SET_VRING_KICK, 0, fx.kick) == 0 &&
	      set_state(VHOST_USER_SET_VRING_ENABLE, 0, 1) == 0);
	CHECK(disk_works());
})

SERVED(a_driver_without_virtio_1_is_not_taken, {
	uint64_t v;
	CHECK(negotiate());
	CHECK_EQ(set_u64(VHOST_USER_SET_FEATURES, PF_VIRTIO_BIT), 0);
	CHECK_EQ(set_u64(VHOST_USER_SET_STATUS, 11), 0);
	CHECK(get_u64(VHOST_USER_GET_STATUS, &v));
	CHECK_EQ(v, 3);
})

// What a disk does not have, it does not offer, and asked for it all the same it hangs up.
#define NOT_OFFERED(name, ...)                                                                       \
	SERVED(name, {                                                                               \
		uint64_t v;                                                                          \
		CHECK(negotiate());                                                                  \
		CHECK(get_u64(VHOST_USER_GET_PROTOCOL_FEATURES, &v));                                \
		CHECK_EQ(v &(VHOST_USER_PF_BIT(RARP) | VHOST_USER_PF_BIT(NET_MTU) |                  \
			     VHOST_USER_PF_BIT(SHMEM) | VHOST_USER_PF_BIT(GET_VRING_BASE_INFLIGHT) | \
			     VHOST_USER_PF_BIT(GET_VRING_BASE_SKIP_DRAIN)),                          \
			 0);                                                                         \
		CHECK_EQ(__VA_ARGS__, 0);                                                            \
		CHECK(closed());                                                                     \
	})
NOT_OFFERED(rarp_of_a_disk, send_raw(VHOST_USER_SEND_RARP, 1, 8, "12345678", 8, NULL, 0))
NOT_OFFERED(mtu_of_a_disk, send_raw(VHOST_USER_NET_SET_MTU, 1, 8, "12345678", 8, NULL, 0))
NOT_OFFERED(shared_memory_of_a_disk, send_raw(VHOST_USER_GET_SHMEM_CONFIG, 1, 0, NULL, 0, NULL, 0))
NOT_OFFERED(a_stop_that_leaves_requests_under_way,
	    send_raw(VHOST_USER_GET_VRING_BASE_SKIP_DRAIN, 1, 8, "\0\0\0\0\0\0\0", 8, NULL, 0))

// O_NONBLOCK belongs to both ends' descriptors, and the front-end has them, too.
SERVED(a_pipe_that_the_front_end_makes_blocking_holds_nobody, {
	int pipes[2];
	uint8_t bytes[8192];
	CHECK(negotiate());
	CHECK_EQ(pipe2(pipes, O_CLOEXEC), 0);
	CHECK_EQ(state_fd(VHOST_USER_STATE_LOAD, 0, pipes[0]), VHOST_USER_STATE_NO_FD);
	CHECK_EQ(fcntl(pipes[0], F_SETFL, 0), 0);
	CHECK_EQ(state_check(), 1);
	CHECK(save_bytes(bytes, sizeof(bytes)) > 0);
	int pair[2];
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_EQ(state_fd(VHOST_USER_STATE_LOAD, 0, pair[0]), VHOST_USER_STATE_NO_FD);
	CHECK_EQ(fcntl(pair[0], F_SETFL, 0), 0);
	CHECK_EQ(state_check(), 1);
	for (unsigned i = 0; i < 2; i++) {
		close(pipes[i]);
		close(pair[i]);
	}
})
