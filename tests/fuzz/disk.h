// SPDX-License-Identifier: BSD-2-Clause
// For fuzz targets: a small disk in memory and a guest of 64 KiB whose queue 0 lies at its very start.
#ifndef MINIVMM_TESTS_FUZZ_DISK_H
#define MINIVMM_TESTS_FUZZ_DISK_H

#include "devices/block/virtio_blk.h"
#include "vmm/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GUEST_LEN   65536u
#define GUEST_UVA   UINT64_C(0x100000) // its physical addresses start at 0
#define GUEST_QUEUE 8
#define GUEST_AVAIL 128u // descriptors come first
#define GUEST_USED  192u
#define DISK_LEN    32768

struct disk {
	struct vdev d;
	struct vq q[2];
	struct vblk b;
	int image_fd, guest_fd;
	uint8_t *ram;
};

static inline void disk_must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

// Once a process; disk_fresh() for each input.
static inline void disk_open(struct disk *k)
{
	struct err e = { { 0 } };
	char path[32];
	k->image_fd = memfd_create("image", 0);
	k->guest_fd = memfd_create("guest", 0);
	disk_must(ftruncate(k->image_fd, DISK_LEN) == 0 && ftruncate(k->guest_fd, GUEST_LEN) == 0, "memfd");
	k->ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, k->guest_fd, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", k->image_fd);
	struct blk_image_options o = { .path = path };
	disk_must(k->ram != MAP_FAILED && loop_init(&k->d.loop) == 0 &&
			  blk_image_open(&k->b.img, &o, &e) == 0 && vblk_init(&k->b, &k->d, 2, 64, &e) == 0 &&
			  blk_engine_open(&k->b.engine, &k->b.img, BLK_ENGINE_SYNC, k->b.request_count, &e) ==
				  0,
		  e.text);
	k->d.queues = k->q;
	k->d.queue_count = 2;
	k->d.queue_size_max = 64;
}

static inline void disk_queues_fresh(struct disk *k)
{
	for (unsigned i = 0; i < 2; i++)
		k->q[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	k->d.again = 0;
}

static inline void disk_fresh(struct disk *k, const uint8_t *data, size_t size)
{
	memset(k->ram, 0, GUEST_LEN);
	memcpy(k->ram, data, size < GUEST_LEN ? size : GUEST_LEN);
	disk_queues_fresh(k);
}

// disk_fresh() with one good request waiting in queue 0.
static inline void disk_with_request(struct disk *k)
{
	disk_fresh(k, (const uint8_t *)"", 0);
	struct vring_desc desc[] = {
		{ .addr = 0x1000, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 1 },
		{ .addr = 0x2000, .len = 512, .flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, .next = 2 },
		{ .addr = 0x3000, .len = 1, .flags = VRING_DESC_F_WRITE },
	};
	memcpy(k->ram, desc, sizeof(desc));
	k->ram[GUEST_AVAIL + 2] = 1;
}

// ---- what the SDK calls: the operations of struct vdev_ops -----------------------------------------------------------

static inline struct vblk *disk_of(struct vdev *d)
{
	return &CONTAINER_OF(d, struct disk, d)->b;
}

static inline int disk_dev_start(struct vdev *d, uint64_t features)
{
	vblk_start(disk_of(d), features);
	return 0;
}

static inline void disk_dev_kick(struct vdev *d, struct vq *q)
{
	vdev_config_changed(d);
	vblk_kick(disk_of(d), q);
}

static inline void disk_dev_drain(struct vdev *d, struct vq *q)
{
	vblk_drain(disk_of(d), q);
}

static inline void disk_dev_stop(struct vdev *d)
{
	(void)d;
}

static inline int disk_dev_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	return vblk_config_write(disk_of(d), off, p, len);
}

static inline void disk_check(const struct disk *k)
{
	struct stat st;
	disk_must(fstat(k->image_fd, &st) == 0 && st.st_size == DISK_LEN, "the image changed its size");
	disk_must(k->b.engine.in_flight == 0, "something is in flight");
	disk_must(k->q[0].in_flight == 0 && k->q[1].in_flight == 0, "a request was lost");
}

#endif
