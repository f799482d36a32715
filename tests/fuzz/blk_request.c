// SPDX-License-Identifier: BSD-2-Clause
// The block device served with guest memory that is the input: requests of every kind of wrongness end, none is lost, and the
// image keeps its size.
#include "tests/fuzz/disk.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct disk k;
	static const struct vq_place place = { .size = GUEST_QUEUE,
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
	uint64_t features = (uint64_t)(data[0] & 3) << VIRTIO_RING_F_INDIRECT_DESC;
	vblk_start(&k.b, data[0] & 4 ? UINT64_C(1) << VIRTIO_BLK_F_FLUSH : 0);
	disk_must(vq_start(&k.q[0], &k.d.mem, &place, features) == 0, "vq_start");
	for (unsigned i = 0; i < 4 && (i == 0 || k.d.again); i++) {
		k.d.again = 0;
		vblk_kick(&k.b, &k.q[0]);
	}
	vblk_drain(&k.b, NULL);
	vq_stop(&k.q[0]);
	disk_check(&k);
	return 0;
}
