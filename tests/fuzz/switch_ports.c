// SPDX-License-Identifier: BSD-2-Clause
// Two ports of a switch whose guests' memories are the input: the rings and frames of one that sends and of one that receives, both
// ways.  Two bytes say what each negotiated, then come 2048 bytes of the first memory and the rest for the second.  Rounds end, no
// buffer is lost, and a driver gets no header that it did not ask for.
#include "devices/switch/switch.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_LEN  65536u
#define GUEST_UVA  UINT64_C(0x100000) // physical addresses start at 0
#define FIRST_LEN  2048u
#define QUEUE	   8
#define RING(q)	   (512u * (q)) // descriptors; then the avail ring at 128, the used ring at 192
#define ROUNDS_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vswitch *sw;
static struct vdev program;
static uint8_t session;
static struct {
	int fd;
	uint8_t *ram;
} guest[2];

static void must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static struct session *fake_open(struct vdev *d, int sock)
{
	(void)d;
	(void)sock;
	return (struct session *)(void *)&session;
}

static bool fake_alive(struct session *s, int *wake_ms)
{
	(void)s;
	*wake_ms = -1;
	return true;
}

static int fake_close(struct session *s)
{
	(void)s;
	return 0;
}

static const struct carrier fake = { .open = fake_open, .alive = fake_alive, .close = fake_close };

static void open_once(void)
{
	log_init("fuzz", LOG_ERROR);
	sw = calloc(1, sizeof(*sw));
	must(sw && loop_init(&program.loop) == 0, "switch");
	for (unsigned i = 0; i < 2; i++) {
		guest[i].fd = memfd_create("guest", 0);
		must(ftruncate(guest[i].fd, GUEST_LEN) == 0, "memfd");
		guest[i].ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, guest[i].fd, 0);
		must(guest[i].ram != MAP_FAILED, "mmap");
	}
	sw->d = &program;
	sw->carrier = &fake;
	sw->ports_max = 2;
	sw->queue_size = 256;
	sw->mac[0] = 2;
	sw->uplink.tap.fd = -1;
}

static struct port *port_new(unsigned i, uint8_t choice)
{
	struct port *p = port_open(sw, -1);
	must(p && guest_mem_add(&p->d.mem, guest[i].fd, 0, 0, GUEST_UVA, GUEST_LEN) == 0, "port");
	uint64_t features = (uint64_t)(choice & 3) << VIRTIO_RING_F_INDIRECT_DESC;
	if (choice & 4)
		features |= NET_BIT(VIRTIO_NET_F_MRG_RXBUF);
	if (choice & 8)
		features |= NET_BIT(VIRTIO_F_VERSION_1);
	if (choice & 16)
		features |= NET_BIT(VIRTIO_NET_F_CSUM) | NET_BIT(VIRTIO_NET_F_HOST_TSO4) |
			    NET_BIT(VIRTIO_NET_F_HOST_TSO6) | NET_BIT(VIRTIO_NET_F_HOST_ECN);
	if (choice & 32)
		features |= NET_BIT(VIRTIO_NET_F_GUEST_CSUM) | NET_BIT(VIRTIO_NET_F_GUEST_TSO4);
	if (choice & 64)
		features |= NET_BIT(VIRTIO_NET_F_GUEST_TSO6) | NET_BIT(VIRTIO_NET_F_GUEST_ECN);
	p->d.ops->start(&p->d, features);
	for (unsigned q = 0; q < SWITCH_QUEUES; q++) {
		uint64_t at = GUEST_UVA + RING(q);
		struct vq_place place = { .size = QUEUE, .desc = at, .avail = at + 128, .used = at + 192 };
		must(vq_start(&p->queue[q], &p->d.mem, &place, features) == 0, "vq_start");
		p->queue[q].enabled = true;
	}
	return p;
}

// Where the input left the receive rings alone, every buffer given back says how much of it was written.
static void check(const struct port *p)
{
	for (unsigned q = 0; q < SWITCH_QUEUES; q++)
		must(p->queue[q].in_flight == 0, "a buffer was lost");
	must(p->counts.received + p->counts.no_buffer + p->counts.worked_on <=
		     ROUNDS_MAX * SWITCH_BUDGET * 256ul,
	     "counts");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!sw)
		open_once();
	if (size < 2)
		return 0;
	size_t first = size - 2 < FIRST_LEN ? size - 2 : FIRST_LEN;
	size_t second = size - 2 - first < GUEST_LEN ? size - 2 - first : GUEST_LEN;
	for (unsigned i = 0; i < 2; i++)
		memset(guest[i].ram, 0, GUEST_LEN);
	memcpy(guest[0].ram, data + 2, first);
	memcpy(guest[1].ram, data + 2 + first, second);
	sw->made = 0;
	struct port *ports[2] = { port_new(0, data[0]), port_new(1, data[1]) };
	for (unsigned i = 0; i < ROUNDS_MAX && switch_round(sw); i++)
		for (unsigned k = 0; k < 2; k++)
			check(ports[k]);
	for (unsigned k = 0; k < 2; k++) {
		check(ports[k]);
		guest_mem_clear(&ports[k]->d.mem);
		port_close(ports[k]);
	}
	return 0;
}
