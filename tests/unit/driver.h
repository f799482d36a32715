// SPDX-License-Identifier: BSD-2-Clause
// A virtio driver's side of one split queue, for tests of the device's side: guest memory in a memfd, rings that a test
// writes as it likes, legal or not.
#ifndef MINIVMM_TESTS_UNIT_DRIVER_H
#define MINIVMM_TESTS_UNIT_DRIVER_H

#include "devices/sdk/guest_mem.h"
#include "devices/sdk/virtq.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DRIVER_MEM   (1u << 20)
#define DRIVER_GPA   UINT64_C(0x40000000)
#define DRIVER_UVA   UINT64_C(0x7f0000000000)
#define DRIVER_SIZE  16
#define DRIVER_DESC  0x0000u
#define DRIVER_AVAIL 0x1000u
#define DRIVER_USED  0x2000u
#define DRIVER_DATA  0x10000u // from here on: the test's

struct driver {
	int fd;
	uint8_t *ram; // DRIVER_MEM bytes, seen by the device at DRIVER_GPA and DRIVER_UVA
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vq_place place;
};

static inline bool driver_open(struct driver *dr)
{
	*dr = (struct driver){ .fd = memfd_create("guest", MFD_CLOEXEC) };
	if (dr->fd < 0 || ftruncate(dr->fd, DRIVER_MEM) < 0)
		return false;
	dr->ram = mmap(NULL, DRIVER_MEM, PROT_READ | PROT_WRITE, MAP_SHARED, dr->fd, 0);
	if (dr->ram == MAP_FAILED)
		return false;
	dr->desc = (void *)(dr->ram + DRIVER_DESC);
	dr->avail = (void *)(dr->ram + DRIVER_AVAIL);
	dr->used = (void *)(dr->ram + DRIVER_USED);
	dr->place = (struct vq_place){
		.size = DRIVER_SIZE,
		.desc = DRIVER_UVA + DRIVER_DESC,
		.avail = DRIVER_UVA + DRIVER_AVAIL,
		.used = DRIVER_UVA + DRIVER_USED,
	};
	return true;
}

static inline void driver_close(struct driver *dr)
{
	munmap(dr->ram, DRIVER_MEM);
	close(dr->fd);
}

// Sets a descriptor; `off` counts from the start of guest memory.
static inline void driver_desc(struct driver *dr, unsigned i, uint64_t off, uint32_t len, unsigned flags,
			       unsigned next)
{
	dr->desc[i] = (struct vring_desc){
		.addr = DRIVER_GPA + off, .len = len, .flags = (uint16_t)flags, .next = (uint16_t)next
	};
}

// The same in an indirect table at `table` in guest memory.
static inline void driver_indirect(struct driver *dr, uint32_t table, unsigned i, uint64_t off, uint32_t len,
				   unsigned flags, unsigned next)
{
	struct vring_desc d = {
		.addr = DRIVER_GPA + off, .len = len, .flags = (uint16_t)flags, .next = (uint16_t)next
	};
	memcpy(dr->ram + table + i * sizeof(d), &d, sizeof(d));
}

static inline void driver_offer(struct driver *dr, unsigned head)
{
	dr->avail->ring[dr->avail->idx % DRIVER_SIZE] = (uint16_t)head;
	__atomic_store_n(&dr->avail->idx, (uint16_t)(dr->avail->idx + 1), __ATOMIC_RELEASE);
}

#endif
