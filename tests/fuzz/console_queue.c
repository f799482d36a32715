// SPDX-License-Identifier: BSD-2-Clause
// The console with guest memory that is the input: its first byte says which queue the rings are of and what was negotiated.  At the host's
// end of its two ports are sockets with something to read.  Whatever the driver offers, no request is held or lost, and what the
// host's end gets is not more than what was in memory.
#include "devices/console/virtio_console.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUEST_LEN   65536u
#define GUEST_UVA   UINT64_C(0x100000) // its physical addresses start at 0
#define GUEST_QUEUE 8
#define GUEST_AVAIL 128u // descriptors come first
#define GUEST_USED  192u
#define QUEUES	    6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vdev d;
static struct vq queues[QUEUES];
static struct vcon c;
static uint8_t *ram;
static int far[2];

static void must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static void open_once(void)
{
	struct err e = { { 0 } };
	int guest = memfd_create("guest", 0);
	log_init("fuzz", LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	must(ftruncate(guest, GUEST_LEN) == 0, "memfd");
	ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, guest, 0);
	must(ram != MAP_FAILED && loop_init(&d.loop) == 0, "mmap");
	d.queues = queues;
	for (unsigned i = 0; i < 2; i++) {
		static char port[2][32];
		int pair[2];
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0, "socketpair");
		far[i] = pair[1];
		snprintf(port[i], sizeof(port[i]), "p%u=fd:%d", i, pair[0]);
		must(vcon_add_port(&c, port[i], &e) == 0, e.text);
	}
	must(vcon_init(&c, &d, &e) == 0, e.text);
	must(guest_mem_add(&d.mem, guest, 0, 0, GUEST_UVA, GUEST_LEN) == 0, "guest memory");
}

// All that the host's end has got.
static size_t drain(int fd)
{
	static uint8_t bytes[65536];
	size_t all = 0;
	for (ssize_t n; (n = read(fd, bytes, sizeof(bytes))) > 0;)
		all += (size_t)n;
	return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct vq_place place = { .size = GUEST_QUEUE,
					       .desc = GUEST_UVA,
					       .avail = GUEST_UVA + GUEST_AVAIL,
					       .used = GUEST_UVA + GUEST_USED };
	static const char text[] = "what the host has to say";
	if (!ram)
		open_once();
	if (size < 1)
		return 0;
	memset(ram, 0, GUEST_LEN);
	memcpy(ram, data + 1, MIN(size - 1, (size_t)GUEST_LEN));
	const unsigned index = (data[0] >> 3) % QUEUES;
	const uint64_t features = (uint64_t)(data[0] & 3) << VIRTIO_RING_F_INDIRECT_DESC |
				  (uint64_t)(data[0] >> 2 & 1) << VIRTIO_CONSOLE_F_MULTIPORT;
	for (unsigned i = 0; i < QUEUES; i++)
		queues[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	d.again = 0;
	vcon_start(&c, features);
	for (unsigned i = 0; i < 2; i++) {
		c.port[i].open = c.port[i].ready = true;
		c.port[i].tell = index == 2 ? 0x1f : 0;
		must(write(far[i], text, sizeof(text)) == (ssize_t)sizeof(text), "write");
	}
	must(vq_start(&queues[index], &d.mem, &place, features) == 0, "vq_start");
	vcon_kick(&c, &queues[index]);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t again = d.again;
		d.again = 0;
		if (again >> index & 1)
			vcon_kick(&c, &queues[index]);
		loop_once(&d.loop, 0);
		must(queues[index].in_flight == 0, "a request is held");
		for (unsigned k = 0; k < 2; k++)
			must(drain(far[k]) <= GUEST_QUEUE * (size_t)VCON_TURN_BYTES, "more than was there");
	}
	for (unsigned i = 0; i < 2; i++)
		must(c.port[i].connected, "the host's end is lost");
	vq_stop(&queues[index]);
	vcon_stop(&c);
	for (unsigned i = 0; i < 2; i++) { // what was not read
		uint8_t rest[sizeof(text)];
		while (recv(c.port[i].in.fd, rest, sizeof(rest), MSG_DONTWAIT) > 0)
			;
		drain(far[i]);
	}
	return 0;
}
