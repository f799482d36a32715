// SPDX-License-Identifier: BSD-2-Clause
// virtio-blk requests on a real image, by io_uring and by plain system calls: what they do, and what malformed ones get.
#include "devices/block/virtio_blk.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define NEXT	   VRING_DESC_F_NEXT
#define WRITE	   VRING_DESC_F_WRITE
#define IMAGE_SIZE (1u << 20)
#define HEADER	   DRIVER_DATA
#define STATUS	   (DRIVER_DATA + 64)
#define DATA	   (DRIVER_DATA + 4096)
#define UNTOUCHED  0xee
#define F_FLUSH	   (UINT64_C(1) << VIRTIO_BLK_F_FLUSH)

struct rig {
	struct driver dr;
	struct vdev d;
	struct vq q;
	struct vblk b;
	char path[64];
	int check_fd;
	uint16_t seen; // used entries looked at
};

static struct rig r;
static enum blk_engine_kind engine_kind;
static bool direct;

static bool set_up(bool readonly)
{
	struct err e = { { 0 } };
	log_init("virtio_blk", LOG_ERROR);
	r = (struct rig){ .q = { .enabled = true, .call_fd = -1, .err_fd = -1 } };
	snprintf(r.path, sizeof(r.path), "%s/minivmm-blk.XXXXXX", direct ? "/var/tmp" : "/tmp");
	r.check_fd = mkstemp(r.path);
	struct blk_image_options o = { .path = r.path, .readonly = readonly, .direct = direct };
	if (r.check_fd < 0 || ftruncate(r.check_fd, IMAGE_SIZE) < 0 || blk_image_open(&r.b.img, &o, &e) < 0 ||
	    vblk_init(&r.b, &r.d, 1, DRIVER_SIZE, &e) < 0 ||
	    blk_engine_open(&r.b.engine, &r.b.img, engine_kind, r.b.request_count, &e) < 0) {
		printf("%s\n", e.text);
		return false;
	}
	r.d.queues = &r.q;
	r.d.queue_count = 1;
	vblk_start(&r.b, F_FLUSH);
	return driver_open(&r.dr) &&
	       guest_mem_add(&r.d.mem, r.dr.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&r.q, &r.d.mem, &r.dr.place, UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC) == 0;
}

static void tear_down(void)
{
	vblk_drain(&r.b, NULL);
	vblk_destroy(&r.b);
	guest_mem_clear(&r.d.mem);
	driver_close(&r.dr);
	fd_close(&r.check_fd);
	unlink(r.path);
}

static void header(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr h = { .type = type, .sector = sector };
	memcpy(r.dr.ram + HEADER, &h, sizeof(h));
	r.dr.ram[STATUS] = UNTOUCHED;
}

// Serves what is offered until nothing is in flight.  The status, or -1 if nothing came back.
static int serve(void)
{
	driver_offer(&r.dr, 0);
	vblk_kick(&r.b, &r.q);
	vblk_drain(&r.b, NULL);
	if (r.dr.used->idx == r.seen)
		return -1;
	r.seen++;
	return r.dr.ram[STATUS];
}

static uint32_t used_len(void)
{
	return r.dr.used->ring[(uint16_t)(r.seen - 1) % DRIVER_SIZE].len;
}

// header, data, status in three descriptors.
static int request(uint32_t type, uint64_t sector, uint32_t len, bool in)
{
	header(type, sector);
	driver_desc(&r.dr, 0, HEADER, 16, NEXT, len ? 1 : 2);
	driver_desc(&r.dr, 1, DATA, len, NEXT | (in ? WRITE : 0), 2);
	driver_desc(&r.dr, 2, STATUS, 1, WRITE, 0);
	return serve();
}

static int range(uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes z = { .sector = sector, .num_sectors = count, .flags = flags };
	memcpy(r.dr.ram + DATA, &z, sizeof(z));
	return request(type, 0, sizeof(z), false);
}

static bool image_is(uint64_t off, uint8_t byte, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t b;
		if (pread(r.check_fd, &b, 1, (off_t)(off + i)) != 1 || b != byte)
			return false;
	}
	return true;
}

static void reads_and_writes(void)
{
	CHECK(set_up(false));
	memset(r.dr.ram + DATA, 0x5a, 4096);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, 8, 4096, false), VIRTIO_BLK_S_OK);
	CHECK_EQ(used_len(), 1);
	CHECK(image_is(4096, 0x5a, 4096));
	CHECK(image_is(4095, 0, 1));
	CHECK(image_is(8192, 0, 1));
	memset(r.dr.ram + DATA, 0, 4096);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 8, 4096, true), VIRTIO_BLK_S_OK);
	CHECK_EQ(used_len(), 4097);
	CHECK_EQ(r.dr.ram[DATA], 0x5a);
	CHECK_EQ(r.dr.ram[DATA + 4095], 0x5a);
	CHECK_EQ(request(VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 0, 0, true), VIRTIO_BLK_S_OK);
	// The last sector, and one that is not the device's.
	CHECK_EQ(request(VIRTIO_BLK_T_IN, IMAGE_SIZE / 512 - 1, 512, true), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, IMAGE_SIZE / 512 - 1, 1024, true), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, IMAGE_SIZE / 512, 512, false), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 512, true), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 0, 511, true), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_SCSI_CMD, 0, 512, true), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(request(0xffffffff, 0, 512, true), VIRTIO_BLK_S_UNSUPP);
	tear_down();
}

static void durable_writes(void)
{
	CHECK(set_up(false));
	CHECK_EQ(vblk_config_write(&r.b, offsetof(struct virtio_blk_config, wce), "\2", 1), -EINVAL);
	CHECK_EQ(vblk_config_write(&r.b, 0, "\0\0\0\0\0\0\0", 8), -EINVAL);
	CHECK_EQ(vblk_config_write(&r.b, offsetof(struct virtio_blk_config, wce), "\0", 1), 0);
	CHECK(r.b.write_through);
	memset(r.dr.ram + DATA, 0x77, 1024);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, 1, 1024, false), VIRTIO_BLK_S_OK);
	CHECK(image_is(512, 0x77, 1024));
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 1, 0), VIRTIO_BLK_S_OK);
	CHECK(image_is(512, 0, 512));
	vblk_start(&r.b, F_FLUSH);
	CHECK(!r.b.write_through);
	vblk_start(&r.b, 0); // a driver that cannot flush
	CHECK(r.b.write_through);
	tear_down();
}

// What the driver said of the cache holds for who goes on in our place, once.
static void durable_writes_elsewhere(void)
{
	uint8_t state[VDEV_STATE_MAX], other[VDEV_STATE_MAX];
	CHECK(set_up(false));
	CHECK_EQ(vblk_config_write(&r.b, offsetof(struct virtio_blk_config, wce), "\0", 1), 0);
	const size_t len = vblk_state_save(&r.b, state);
	vblk_start(&r.b, F_FLUSH);
	CHECK(!r.b.write_through && r.b.config.wce == 1);
	CHECK_EQ(vblk_state_load(&r.b, state, len), 0);
	vblk_start(&r.b, F_FLUSH);
	CHECK(r.b.write_through && r.b.config.wce == 0);
	vblk_start(&r.b, F_FLUSH);
	CHECK(!r.b.write_through && r.b.config.wce == 1);
	CHECK_EQ(vblk_state_load(&r.b, state, len), 0);
	CHECK_EQ(vblk_state_load(&r.b, NULL, 0), 0);
	vblk_start(&r.b, F_FLUSH);
	CHECK(!r.b.write_through);
	CHECK_EQ(vblk_state_load(&r.b, state, len - 1), -EINVAL);
	CHECK_EQ(vblk_state_load(&r.b, state, len + 1), -EINVAL);
	for (size_t i = 0; i < len; i++) { // another disk, or none at all
		memcpy(other, state, len);
		other[i] ^= 0x10;
		CHECK_EQ(vblk_state_load(&r.b, other, len), -EINVAL);
	}
	vblk_start(&r.b, F_FLUSH);
	CHECK(!r.b.write_through);
	tear_down();
}

static void zeros_and_discards(void)
{
	CHECK(set_up(false));
	memset(r.dr.ram + DATA, 0xff, 65536);
	for (uint64_t at = 0; at < IMAGE_SIZE / 512; at += 128) {
		memset(r.dr.ram + DATA, 0xff, 65536);
		CHECK_EQ(request(VIRTIO_BLK_T_OUT, at, 65536, false), VIRTIO_BLK_S_OK);
	}
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 3, 5, 0), VIRTIO_BLK_S_OK);
	CHECK(image_is(3 * 512, 0, 5 * 512));
	CHECK(image_is(2 * 512, 0xff, 512));
	CHECK(image_is(8 * 512, 0xff, 512));
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 128, 1024, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		 VIRTIO_BLK_S_OK);
	CHECK(image_is(65536, 0, 4096));
	CHECK(image_is(65536 + 1024 * 512 - 512, 0, 512));
	struct stat before, after;
	CHECK_EQ(fstat(r.check_fd, &before), 0);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, 1280, 256, 0), VIRTIO_BLK_S_OK);
	CHECK_EQ(fstat(r.check_fd, &after), 0);
	CHECK(after.st_blocks < before.st_blocks);
	CHECK_EQ(after.st_size, IMAGE_SIZE);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 0, 0), VIRTIO_BLK_S_OK);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, IMAGE_SIZE / 512, 1, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, UINT64_MAX, 1, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_DISCARD, 0, 15, false), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_DISCARD, 0, 32, false), VIRTIO_BLK_S_IOERR); // one range is allowed
	CHECK_EQ(request(VIRTIO_BLK_T_DISCARD, 0, 0, false), VIRTIO_BLK_S_IOERR);
	tear_down();
}

static void readonly_images(void)
{
	CHECK(set_up(true));
	CHECK(r.d.features & UINT64_C(1) << VIRTIO_BLK_F_RO);
	CHECK(!(r.d.features & UINT64_C(1) << VIRTIO_BLK_F_DISCARD));
	memset(r.dr.ram + DATA, 0x5a, 512);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
	CHECK_EQ(r.dr.ram[DATA], 0);
	tear_down();
}

static void identity(void)
{
	CHECK(set_up(false));
	memcpy(r.b.serial, "serial-of-20-bytes-!", 20);
	CHECK_EQ(request(VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK);
	CHECK(memcmp(r.dr.ram + DATA, "serial-of-20-bytes-!", 20) == 0);
	CHECK_EQ(used_len(), 21);
	memset(r.dr.ram + DATA, UNTOUCHED, 64);
	CHECK_EQ(request(VIRTIO_BLK_T_GET_ID, 0, 4, true), VIRTIO_BLK_S_OK);
	CHECK_EQ(r.dr.ram[DATA + 4], UNTOUCHED);
	CHECK_EQ(request(VIRTIO_BLK_T_GET_ID, 0, 64, true), VIRTIO_BLK_S_OK);
	CHECK_EQ(r.dr.ram[DATA + 20], UNTOUCHED);
	tear_down();
}

// A header in four pieces, data in three odd ones, data and status in one.
static void split_anyhow(void)
{
	CHECK(set_up(false));
	header(VIRTIO_BLK_T_OUT, 2);
	memset(r.dr.ram + DATA, 0x21, 512);
	for (unsigned i = 0; i < 4; i++)
		driver_desc(&r.dr, i, HEADER + 4 * i, 4, NEXT, i + 1);
	driver_desc(&r.dr, 4, DATA, 1, NEXT, 5);
	driver_desc(&r.dr, 5, DATA + 1, 500, NEXT, 6);
	driver_desc(&r.dr, 6, DATA + 501, 11, NEXT, 7);
	driver_desc(&r.dr, 7, STATUS, 1, WRITE, 0);
	CHECK_EQ(serve(), VIRTIO_BLK_S_OK);
	CHECK(image_is(1024, 0x21, 512));
	CHECK(image_is(1536, 0, 1));

	// Header and data in one, status alone.
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_OUT, .sector = 7 };
	memcpy(r.dr.ram + DATA, &h, sizeof(h));
	memset(r.dr.ram + DATA + 16, 0x33, 512);
	driver_desc(&r.dr, 0, DATA, 16 + 512, NEXT, 1);
	driver_desc(&r.dr, 1, STATUS, 1, WRITE, 0);
	r.dr.ram[STATUS] = UNTOUCHED;
	CHECK_EQ(serve(), VIRTIO_BLK_S_OK);
	CHECK(image_is(7 * 512, 0x33, 512));

	header(VIRTIO_BLK_T_IN, 2);
	driver_desc(&r.dr, 0, HEADER, 16, NEXT, 1);
	driver_desc(&r.dr, 1, STATUS - 10, 10, NEXT | WRITE, 2);
	driver_desc(&r.dr, 2, DATA, 502, NEXT | WRITE, 3);
	driver_desc(&r.dr, 3, STATUS, 1, WRITE, 0);
	CHECK_EQ(serve(), VIRTIO_BLK_S_OK);
	CHECK_EQ(r.dr.ram[STATUS - 1], 0x21);
	CHECK_EQ(r.dr.ram[DATA + 501], 0x21);

	header(VIRTIO_BLK_T_IN, 2);
	driver_desc(&r.dr, 0, HEADER, 16, NEXT, 1);
	driver_desc(&r.dr, 1, DATA, 513, WRITE, 0);
	r.dr.ram[DATA + 512] = UNTOUCHED;
	serve();
	CHECK_EQ(r.dr.ram[DATA + 512], VIRTIO_BLK_S_OK);
	CHECK_EQ(r.dr.ram[DATA + 511], 0x21);
	CHECK_EQ(used_len(), 513);
	tear_down();
}

static void malformed(void)
{
	CHECK(set_up(false));
	// Shorter than a header, but with room for a status.
	header(VIRTIO_BLK_T_IN, 0);
	driver_desc(&r.dr, 0, HEADER, 15, NEXT, 1);
	driver_desc(&r.dr, 1, STATUS, 1, WRITE, 0);
	CHECK_EQ(serve(), VIRTIO_BLK_S_IOERR);
	header(VIRTIO_BLK_T_IN, 0);
	driver_desc(&r.dr, 0, STATUS, 1, WRITE, 0);
	CHECK_EQ(serve(), VIRTIO_BLK_S_IOERR);
	// A read of what is to be written, a write of what is to be read.
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
	CHECK_EQ(used_len(), 1);
	CHECK_EQ(request(VIRTIO_BLK_T_OUT, 0, 512, true), VIRTIO_BLK_S_OK);
	CHECK(!r.q.failed);
	// No room for a status at all.
	header(VIRTIO_BLK_T_IN, 0);
	driver_desc(&r.dr, 0, HEADER, 16, NEXT, 1);
	driver_desc(&r.dr, 1, DATA, 512, 0, 0);
	CHECK_EQ(serve(), -1);
	CHECK(r.q.failed);
	CHECK_EQ(r.b.engine.in_flight, 0);
	tear_down();
}

// The image becomes shorter, or the file system refuses: the driver hears of it.
static void host_failures(void)
{
	CHECK(set_up(false));
	CHECK_EQ(ftruncate(r.check_fd, 4096), 0);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 8, 512, true), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 4, 4096, true), VIRTIO_BLK_S_IOERR); // the first half could be read
	CHECK_EQ(request(VIRTIO_BLK_T_IN, 0, 4096, true), VIRTIO_BLK_S_OK);
	struct rlimit old, small = { 8192, RLIM_INFINITY };
	CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
	int status = request(VIRTIO_BLK_T_OUT, 64, 512, false);
	setrlimit(RLIMIT_FSIZE, &old);
	// io_uring's workers may not be bound by it, but then the write has happened.
	CHECK(status == VIRTIO_BLK_S_IOERR || (status == VIRTIO_BLK_S_OK && engine_kind == BLK_ENGINE_URING));
	tear_down();
}

static void many_at_a_time(void)
{
	CHECK(set_up(false));
	for (unsigned round = 0; round < 200; round++) {
		unsigned n = 1 + round % (DRIVER_SIZE / 3);
		r.b.engine.at_once_after = round % 2 ? INT64_MAX : 0; // small writes through io_uring, too
		for (unsigned i = 0; i < n; i++) {
			struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_OUT,
						       .sector = (round * 7 + i) % 1000 };
			uint32_t at = DRIVER_DATA + 4096 * (i + 1);
			memcpy(r.dr.ram + at, &h, sizeof(h));
			memset(r.dr.ram + at + 512, (int)(round + i) & 0xff, 512);
			r.dr.ram[at + 1024] = UNTOUCHED;
			driver_desc(&r.dr, 3 * i, at, 16, NEXT, 3 * i + 1);
			driver_desc(&r.dr, 3 * i + 1, at + 512, 512, NEXT, 3 * i + 2);
			driver_desc(&r.dr, 3 * i + 2, at + 1024, 1, WRITE, 0);
			driver_offer(&r.dr, 3 * i);
		}
		vblk_kick(&r.b, &r.q);
		vblk_drain(&r.b, &r.q);
		r.seen = (uint16_t)(r.seen + n);
		CHECK_EQ(r.dr.used->idx, r.seen);
		for (unsigned i = 0; i < n; i++) {
			CHECK_EQ(r.dr.ram[DRIVER_DATA + 4096 * (i + 1) + 1024], VIRTIO_BLK_S_OK);
			CHECK(image_is((round * 7 + i) % 1000 * 512, (uint8_t)(round + i), 1));
		}
	}
	CHECK_EQ(r.q.in_flight, 0);
	tear_down();
}

#define BOTH_ENGINES(name)                                  \
	TEST(name##_uring)                                  \
	{                                                   \
		engine_kind = BLK_ENGINE_URING;             \
		if (!uring_allowed())                       \
			SKIP("this host forbids io_uring"); \
		name();                                     \
	}                                                   \
	TEST(name##_sync)                                   \
	{                                                   \
		engine_kind = BLK_ENGINE_SYNC;              \
		name();                                     \
	}

static bool uring_allowed(void)
{
	struct uring u;
	static const uint8_t op = IORING_OP_READ;
	int rc = uring_open(&u, 4, 4, (int[]){ 0 }, 1, &op, 1);
	if (rc == 0)
		uring_close(&u);
	return rc != -ENOSYS && rc != -EPERM;
}

BOTH_ENGINES(reads_and_writes)
BOTH_ENGINES(durable_writes)
BOTH_ENGINES(durable_writes_elsewhere)
BOTH_ENGINES(zeros_and_discards)
BOTH_ENGINES(readonly_images)
BOTH_ENGINES(identity)
BOTH_ENGINES(split_anyhow)
BOTH_ENGINES(malformed)
BOTH_ENGINES(host_failures)
BOTH_ENGINES(many_at_a_time)

// Around the page cache: buffers and sectors that suit it, and those that do not.
static void around_the_cache(void)
{
	struct err e;
	struct blk_image img;
	struct blk_image_options o = { .path = "/var/tmp/minivmm-direct-probe", .direct = true };
	FD_AUTO fd = open(o.path, O_CREAT | O_RDWR, 0600);
	CHECK_EQ(ftruncate(fd, 4096), 0);
	int rc = blk_image_open(&img, &o, &e);
	unlink(o.path);
	if (rc < 0)
		SKIP("no O_DIRECT in /var/tmp");
	blk_image_close(&img);
	direct = true;
	reads_and_writes();
	if (!test_failed)
		split_anyhow();
	if (!test_failed)
		many_at_a_time();
	direct = false;
}

BOTH_ENGINES(around_the_cache)

TEST(the_ring_does_nothing_else)
{
	struct uring u;
	static const uint8_t op = IORING_OP_READ;
	FD_AUTO fd = open("/dev/zero", O_RDONLY);
	if (!uring_allowed())
		SKIP("this host forbids io_uring");
	CHECK_EQ(uring_open(&u, 4, 4, &fd, 1, &op, 1), 0);
	char buf[8];
	struct {
		uint8_t opcode, flags;
		int32_t result;
	} t[] = {
		{ IORING_OP_READ, IOSQE_FIXED_FILE, sizeof(buf) }, { IORING_OP_READ, 0, -EACCES },
		{ IORING_OP_WRITE, IOSQE_FIXED_FILE, -EACCES },	   { IORING_OP_OPENAT, 0, -EACCES },
		{ IORING_OP_SOCKET, IOSQE_FIXED_FILE, -EACCES },
	};
	for (unsigned i = 0; i < 5; i++) {
		struct io_uring_sqe *sqe = uring_get(&u);
		CHECK(sqe);
		sqe->opcode = t[i].opcode;
		sqe->flags = t[i].flags;
		sqe->addr = (uintptr_t)buf;
		sqe->len = sizeof(buf);
		sqe->user_data = i;
		CHECK_EQ(uring_enter(&u, true), 0);
		uint64_t data;
		int32_t result;
		CHECK(uring_reap(&u, &data, &result));
		CHECK_EQ(data, i);
		CHECK_EQ(result, t[i].result);
	}
	uring_close(&u);
}

static int open_image(const char *path, bool readonly, uint32_t block_size, struct err *e)
{
	struct blk_image img;
	struct blk_image_options o = { .path = path, .readonly = readonly, .block_size = block_size };
	e->text[0] = 0;
	int rc = blk_image_open(&img, &o, e);
	if (rc == 0)
		blk_image_close(&img);
	return rc;
}

TEST(images_that_are_refused)
{
	struct err e;
	char dir[] = "/tmp/minivmm-image.XXXXXX", fifo[64], file[64];
	CHECK(mkdtemp(dir));
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	CHECK_EQ(open_image(file, false, 0, &e), -ENOENT);
	CHECK(strstr(e.text, file));
	CHECK(open_image(dir, false, 0, &e) < 0);
	CHECK_EQ(open_image(dir, true, 0, &e), -EINVAL);
	CHECK(strstr(e.text, "is a directory"));
	CHECK_EQ(mkfifo(fifo, 0600), 0);
	CHECK_EQ(open_image(fifo, false, 0, &e), -EINVAL);
	CHECK(strstr(e.text, "is a FIFO"));
	CHECK_EQ(open_image(fifo, true, 0, &e), -EINVAL);
	CHECK_EQ(open_image("/dev/null", false, 0, &e), -EINVAL);
	FD_AUTO fd = open(file, O_CREAT | O_RDWR, 0600);
	CHECK_EQ(open_image(file, false, 0, &e), -EINVAL);
	CHECK(strstr(e.text, "not a multiple"));
	CHECK_EQ(ftruncate(fd, 513), 0);
	CHECK_EQ(open_image(file, false, 0, &e), -EINVAL);
	CHECK_EQ(ftruncate(fd, 512 * 9), 0);
	CHECK_EQ(open_image(file, false, 0, &e), 0);
	CHECK_EQ(open_image(file, false, 4096, &e), -EINVAL);
	unlink(file);
	unlink(fifo);
	rmdir(dir);
}

TEST(one_writer_or_many_readers)
{
	struct err e;
	struct blk_image a, b;
	char path[] = "/tmp/minivmm-lock.XXXXXX";
	FD_AUTO fd = mkstemp(path);
	CHECK_EQ(ftruncate(fd, 4096), 0);
	struct blk_image_options rw = { .path = path }, ro = { .path = path, .readonly = true };
	CHECK_EQ(blk_image_open(&a, &rw, &e), 0);
	CHECK_EQ(blk_image_open(&b, &rw, &e), -EBUSY);
	CHECK(strstr(e.text, "in use"));
	CHECK_EQ(blk_image_open(&b, &ro, &e), -EBUSY);
	blk_image_close(&a);
	CHECK_EQ(blk_image_open(&a, &ro, &e), 0);
	CHECK_EQ(blk_image_open(&b, &ro, &e), 0);
	blk_image_close(&b);
	CHECK_EQ(blk_image_open(&b, &rw, &e), -EBUSY);
	blk_image_close(&a);
	CHECK_EQ(blk_image_open(&b, &rw, &e), 0);
	blk_image_close(&b);
	unlink(path);
}
