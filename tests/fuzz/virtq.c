// SPDX-License-Identifier: BSD-2-Clause
// A virtqueue of either layout over guest memory that is the input: whatever lies there, every piece of a request is guest memory, and
// the walk ends.  The first byte chooses the features and whether there is a record of what is in flight, which lies in that memory, too;
// the rest is memory from address 0.
#include "devices/sdk/virtq.h"
#include "tests/fuzz/disk.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IOVECS 16
#define RECORD 512u // offset in guest memory

#define CHOOSE_RING   3u // INDIRECT_DESC, EVENT_IDX
#define CHOOSE_WRITE  4u
#define CHOOSE_SINGLY 8u
#define CHOOSE_PACKED 16u
#define CHOOSE_ORDER  32u
#define CHOOSE_RECORD 64u
#define CHOOSE_UNPOP  128u

static void check_pieces(const struct guest_mem *m, const struct vq_chain *c, const struct iovec *iov)
{
	uint64_t readable = 0, writable = 0;
	for (unsigned i = 0; i < c->readable + c->writable; i++) {
		uintptr_t at = (uintptr_t)iov[i].iov_base, ram = (uintptr_t)m->region[0].host;
		disk_must(at >= ram && iov[i].iov_len <= GUEST_LEN &&
				  at - ram <= GUEST_LEN - iov[i].iov_len && iov[i].iov_len,
			  "a piece outside guest memory");
		*(i < c->readable ? &readable : &writable) += iov[i].iov_len;
	}
	disk_must(readable == c->readable_len && writable == c->writable_len, "lengths do not add up");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct disk k;
	struct vq_place place = { .size = GUEST_QUEUE,
				  .desc = GUEST_UVA,
				  .avail = GUEST_UVA + GUEST_AVAIL,
				  .used = GUEST_UVA + GUEST_USED };
	if (!k.ram) {
		log_init("fuzz", LOG_ERROR);
		disk_open(&k);
		disk_must(guest_mem_add(&k.d.mem, k.guest_fd, 0, 0, GUEST_UVA, GUEST_LEN) == 0,
			  "guest memory");
	}
	if (size < 1)
		return 0;
	disk_fresh(&k, data + 1, size - 1);
	struct vq *q = &k.q[0];
	uint64_t features = (uint64_t)(data[0] & CHOOSE_RING) << VIRTIO_RING_F_INDIRECT_DESC;
	if (data[0] & CHOOSE_PACKED) {
		features |= VQ_FEATURE_PACKED;
		place.base = 0x80008000;
	}
	if (data[0] & CHOOSE_ORDER)
		features |= VQ_FEATURE_IN_ORDER;
	if (data[0] & CHOOSE_RECORD) {
		place.log = (struct inflight_region *)(void *)(k.ram + RECORD);
		place.log_size = GUEST_QUEUE;
	}
	disk_must(vq_start(q, &k.d.mem, &place, features) == 0, "vq_start");
	for (unsigned i = 0; i < 64; i++) {
		struct vq_chain c;
		struct iovec iov[IOVECS];
		vq_notify_disable(q);
		if (vq_pop(q, &c, iov, IOVECS) <= 0)
			break;
		disk_must(c.head < GUEST_QUEUE && c.readable + c.writable <= IOVECS, "a chain too long");
		check_pieces(&k.d.mem, &c, iov);
		if (data[0] & CHOOSE_WRITE && c.writable) // the device's own writes may hit the rings
			memset(iov[c.readable].iov_base, data[0], iov[c.readable].iov_len);
		if (data[0] & CHOOSE_UNPOP && i % 4 == 3)
			vq_unpop(q, &c);
		else
			vq_push(q, c.head, 1);
		if (data[0] & CHOOSE_SINGLY)
			vq_publish(q);
		vq_notify_enable(q);
	}
	vq_publish(q);
	disk_must(q->in_flight == 0, "a request was lost");
	vq_stop(q);
	return 0;
}
