// SPDX-License-Identifier: BSD-2-Clause
// A driver whose commands come from the fuzzer, in front of the NVMe controller: every command ends, nothing is in flight after a
// drain, the image keeps its size.
//
// An input is blocks of 65 bytes: which queue (0 admin, 1 and 2 I/O, 3: the next page of memory gets these 64 bytes all over, 4: a
// register is written, 255: the controller moves, and these bytes are written into its state on the way), and a command.  All of the guest's memory is 64 KiB from 0 on.
#include "devices/nvme/nvme.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_LEN	  65536u
#define IMAGE_LEN 32768
#define ENTRIES	  16u
#define BLOCK	  65u

static struct nvme n = { .io_queues = 2, .ns_count = 1, .engine = BLK_ENGINE_SYNC };
static const struct vdev_ops ops = { .program = "fuzz", .pci = &nvme_pci_ops };
static struct vdev d = { .ops = &ops };
static int image_fd, ram_fd;
static uint8_t *ram;
static unsigned tail[3];

static void must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static void put(uint64_t offset, uint32_t val)
{
	pdev_bar_access(d.pci, 0, offset, (uint8_t *)&val, sizeof(val), true);
}

static void give(unsigned q, const void *command)
{
	memcpy(ram + q * 0x2000 + tail[q] * 64, command, 64);
	tail[q] = (tail[q] + 1) % ENTRIES;
	put(NVME_DOORBELLS + 8 * q, tail[q]);
	// Whatever was completed is taken.
	put(NVME_DOORBELLS + 8 * q + 4, n.cq[q].tail);
	// Of a driver that has both pages in one piece of memory with a queue there is no end.
	for (unsigned i = 0; i < 100 && (loop_once(&d.loop, 0) > 0 || d.pci->again); i++) {
		d.pci->again = false;
		d.pci->ops->again(d.pci);
	}
}

static void first_open(void)
{
	struct err e = { { 0 } };
	static char path[32];
	log_init("fuzz", LOG_ERROR);
	image_fd = memfd_create("image", 0);
	ram_fd = memfd_create("ram", 0);
	must(ftruncate(image_fd, IMAGE_LEN) == 0 && ftruncate(ram_fd, RAM_LEN) == 0, "memfd");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", image_fd);
	n.ns[0].options.path = path;
	must(loop_init(&d.loop) == 0 && pdev_create(&d.pci, &d, &nvme_pci_ops, &e) == 0 &&
		     nvme_open(&n, &d, &e) == 0 && pdev_attach(d.pci) == 0,
	     e.text);
	ram = mmap(NULL, RAM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	must(ram != MAP_FAILED && guest_mem_add(&d.mem, ram_fd, 0, 0, 0, RAM_LEN) == 0, "memory");
}

// Admin and I/O queues: submission at 0x2000 * q, completion a page behind it.
static void queues_open(void)
{
	memset(ram, 0, RAM_LEN);
	memset(tail, 0, sizeof(tail));
	n.p->ops->reset(n.p);
	put(NVME_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	put(NVME_ACQ, 0x1000);
	put(NVME_CC, 0x460001);
	for (unsigned q = 1; q <= 2; q++) {
		struct nvme_command c = { .opcode = NVME_CREATE_CQ,
					  .prp1 = q * 0x2000 + 0x1000,
					  .cdw10 = (ENTRIES - 1) << 16 | q,
					  .cdw11 = 3 | q << 16 };
		give(0, &c);
		c.opcode = NVME_CREATE_SQ;
		c.prp1 = q * 0x2000;
		give(0, &c);
		must(n.sq[q].size == ENTRIES, "no queue");
	}
}

// To another process and back: each four bytes say where in the state, which bits are turned there, and whether.
static void move(const uint8_t *data)
{
	static uint8_t state[1 << 18];
	must(pdev_state_max(n.p) <= sizeof(state), "a longer state");
	pdev_stop(n.p);
	const size_t len = pdev_state_save(n.p, state);
	for (unsigned i = 0; i < 64; i += 4) {
		uint16_t at;
		memcpy(&at, data + i, sizeof(at));
		if (data[i + 3])
			state[at % len] ^= data[i + 2];
	}
	const bool taken = pdev_state_load(n.p, state, len) == 0;
	must(taken || (n.csts == 0 && n.cq[0].size == 0), "it was refused and left something");
	pdev_run(n.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ram)
		first_open();
	queues_open();
	for (unsigned page = 8; size >= BLOCK; data += BLOCK, size -= BLOCK) {
		const unsigned what = data[0] % 5;
		uint32_t at, val;
		if (data[0] == 255) {
			move(data + 1);
		} else if (what < 3) {
			give(what, data + 1);
		} else if (what == 3) {
			for (unsigned i = 0; i < 4096; i += 64)
				memcpy(ram + page * 4096 + i, data + 1, 64);
			page = page == 15 ? 8 : page + 1;
		} else {
			memcpy(&at, data + 1, 4);
			memcpy(&val, data + 5, 4);
			put(at % 0x2000 & ~3u, val);
		}
	}
	n.p->ops->drain(n.p);
	struct stat st;
	must(n.ns[0].engine.in_flight == 0, "something is in flight");
	must(fstat(image_fd, &st) == 0 && st.st_size == IMAGE_LEN, "the image changed its size");
	for (unsigned q = 0; q <= 2; q++)
		must(n.cq[q].size == 0 || (n.cq[q].due == 0 && n.cq[q].head < n.cq[q].size),
		     "a command was lost");
	for (unsigned i = 0; i <= NVME_REQUESTS; i++)
		must(n.record->slot[i].state == NVME_SLOT_FREE, "the record has a command under way");
	for (unsigned q = 0; q <= 2; q++)
		must(n.sq[q].size == 0 || n.sq[q].tail < n.sq[q].size, "a doorbell outside its queue");
	return 0;
}
