// SPDX-License-Identifier: BSD-2-Clause
// The state of a function that moved here, from a source that means harm: a disk that is in use is stopped and saved, the fuzzer writes into
// that state, and what is taken of it must run, be stopped, saved and reset without harm to anything but its own guest.
//
// An input is pieces of four bytes: where in the state (16 bits), what is written there, and whether that is a byte, a word of two of them,
// one bit, or all from there on is cut off.
#include "devices/sdk/pdev_impl.h"
#include "tests/fuzz/disk.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_pci_regs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PIECE 4

static struct disk k;
static uint8_t *state;
static size_t state_max;

static size_t disk_dev_save(struct vdev *d, void *to)
{
	return vblk_state_save(disk_of(d), to);
}

static int disk_dev_load(struct vdev *d, const void *from, size_t len)
{
	return vblk_state_load(disk_of(d), from, len);
}

static const struct vdev_ops ops = {
	.program = "fuzz",
	.virtio_type = 2,
	.start = disk_dev_start,
	.kick = disk_dev_kick,
	.drain = disk_dev_drain,
	.stop = disk_dev_stop,
	.config_write = disk_dev_config_write,
	.state_save = disk_dev_save,
	.state_load = disk_dev_load,
};

static void put(uint64_t offset, unsigned size, uint64_t val)
{
	pdev_bar_access(k.d.pci, VP_BAR, offset, (uint8_t *)&val, size, true);
}

static uint8_t status(void)
{
	uint8_t val = 0;
	pdev_bar_access(k.d.pci, VP_BAR, VC_DEVICE_STATUS, &val, 1, false);
	return val;
}

static void first_open(void)
{
	struct err e = { { 0 } };
	log_init("fuzz", LOG_ERROR);
	disk_open(&k);
	k.d.ops = &ops;
	disk_queues_fresh(&k);
	disk_must(virtio_fn_create(&k.d.pci, &k.d, &e) == 0 && pdev_attach(k.d.pci) == 0 &&
			  guest_mem_add(&k.d.mem, k.guest_fd, 0, 0, 0, GUEST_LEN) == 0,
		  e.text);
	state_max = pdev_state_max(k.d.pci);
	state = malloc(state_max);
	disk_must(state != NULL, "memory");
}

// A driver with one request under way.
static void in_use(void)
{
	disk_with_request(&k);
	put(VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE);
	put(VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER);
	put(VC_DRIVER_FEATURE_SELECT, 4, 1);
	put(VC_DRIVER_FEATURE, 4, VF_VERSION_1 >> 32);
	put(VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK);
	put(VC_QUEUE_SIZE, 2, GUEST_QUEUE);
	put(VC_QUEUE_DESC, 8, 0);
	put(VC_QUEUE_DRIVER, 8, GUEST_AVAIL);
	put(VC_QUEUE_DEVICE, 8, GUEST_USED);
	put(VC_QUEUE_ENABLE, 2, 1);
	put(VC_DEVICE_STATUS, 1, VS_ACKNOWLEDGE | VS_DRIVER | VS_FEATURES_OK | VS_DRIVER_OK);
	disk_must(status() == 15, "the driver did not get to work");
}

static size_t spoil(size_t len, const uint8_t *data, size_t size)
{
	for (; size >= PIECE && len > 0; data += PIECE, size -= PIECE) {
		uint16_t at;
		memcpy(&at, data, sizeof(at));
		at = (uint16_t)(at % len);
		if (data[3] % 4 == 0)
			state[at] = data[2];
		else if (data[3] % 4 == 1)
			state[at] ^= (uint8_t)(1u << data[2] % 8);
		else if (data[3] % 4 == 2)
			memset(state + at, data[2], MIN(len - at, (size_t)8));
		else
			len = at;
	}
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!state)
		first_open();
	struct pdev *p = k.d.pci;
	in_use();
	pdev_stop(p);
	size_t len = spoil(pdev_state_save(p, state), data, size);
	if (pdev_state_load(p, state, len) == 0) {
		pdev_run(p);
		put(VP_NOTIFY, 2, 0);
		put(VP_NOTIFY + VP_NOTIFY_STEP, 2, 1);
		for (unsigned i = 0; i < 2; i++)
			if (k.d.again >> i & 1 && k.q[i].running)
				ops.kick(&k.d, &k.q[i]);
		pdev_stop(p);
		disk_must(pdev_state_save(p, state) <= state_max, "a state that is too long");
	} else {
		disk_must(status() == 0, "it was refused and left something");
	}
	p->stopped = false;
	pdev_reset(p);
	disk_check(&k);
	disk_must(status() == 0 && !k.q[0].running && !k.q[1].running, "something was left");
	return 0;
}
