// SPDX-License-Identifier: BSD-2-Clause
// The vsock device with guest memory that is the input: its first byte says which queue the rings are of and what was negotiated.  There
// is a host program that listens and one that connects; whatever the packets say, no request is lost, no more is held of a
// connection than may be, and the books balance.
#include "devices/vsock/virtio_vsock.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GUEST_LEN   65536u
#define GUEST_UVA   UINT64_C(0x100000) // its physical addresses start at 0
#define GUEST_QUEUE 8
#define GUEST_AVAIL 128u // descriptors come first
#define GUEST_USED  192u
#define GUEST_ROOM  32768u // where the other queue has its rings and buffers
#define CID	    3
#define PORT	    1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vdev d;
static struct vq queues[3];
static struct vsock v;
static uint8_t *ram;
static char path[64];
static int listener;

static void must(bool good, const char *what)
{
	if (!good) {
		perror(what);
		abort();
	}
}

static int unix_socket(struct sockaddr_un *at, const char *end)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(at->sun_path, sizeof(at->sun_path), "%s%s", path, end);
	return fd;
}

static void remove_files(void)
{
	char name[80];
	snprintf(name, sizeof(name), "%s_1", path);
	unlink(name);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
}

static void open_once(void)
{
	static char dir[] = "/tmp/fuzz-vsock.XXXXXX";
	struct err e = { { 0 } };
	struct sockaddr_un at;
	log_init("fuzz", LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	must(mkdtemp(dir) != NULL, "mkdtemp");
	snprintf(path, sizeof(path), "%s/v", dir);
	atexit(remove_files);
	listener = unix_socket(&at, "_1");
	must(bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(listener, 64) == 0, "listen");
	int guest = memfd_create("guest", 0);
	must(ftruncate(guest, GUEST_LEN) == 0, "memfd");
	ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, guest, 0);
	must(ram != MAP_FAILED && loop_init(&d.loop) == 0, "mmap");
	d.queues = queues;
	must(vsock_init(&v, &d, &(struct vsock_options){ .cid = CID, .path = path }, &e) == 0, e.text);
	must(guest_mem_add(&d.mem, guest, 0, 0, GUEST_UVA, GUEST_LEN) == 0, "guest memory");
}

// A receive queue with buffers of 4000 bytes, for inputs that are another one's.
static void lend_buffers(void)
{
	struct vring_desc *desc = (void *)(ram + GUEST_ROOM);
	uint16_t *avail = (void *)(ram + GUEST_ROOM + GUEST_AVAIL);
	for (uint16_t i = 0; i < GUEST_QUEUE; i++) {
		desc[i] = (struct vring_desc){ .addr = GUEST_ROOM + 512 + 4000u * i,
					       .len = 4000,
					       .flags = VRING_DESC_F_WRITE };
		avail[2 + i] = i;
	}
	memset(ram + GUEST_ROOM + GUEST_USED, 0, 4);
	avail[1] = GUEST_QUEUE;
}

static void start(unsigned index, uint64_t at, uint64_t features)
{
	const struct vq_place place = { .size = GUEST_QUEUE,
					.desc = GUEST_UVA + at,
					.avail = GUEST_UVA + at + GUEST_AVAIL,
					.used = GUEST_UVA + at + GUEST_USED };
	must(vq_start(&queues[index], &d.mem, &place, features) == 0, "vq_start");
}

static void turn(void)
{
	uint64_t again = d.again;
	d.again = 0;
	for (unsigned i = 0; i < 3; i++)
		if (again >> i & 1 && queues[i].running)
			vsock_kick(&v, &queues[i]);
	loop_once(&d.loop, v.asked ? 1 : 0);
}

static void check_books(void)
{
	unsigned used = 0, timed = 0;
	for (unsigned i = 1; i <= v.used_once; i++) {
		const struct vsock_conn *c = &v.conn[i];
		used += c->state != VSOCK_FREE;
		must(flow_held(&c->flow) <= VSOCK_BUF, "more is held than may be");
		must(c->held || flow_held(&c->flow) == 0, "something is held nowhere");
		must(!c->keyed || vsock_conn_find(&v, c->host_port, c->guest_port) == c, "it is not found");
		timed += c->link[LINK_TIME].list == &v.timed;
	}
	must(used == v.count && timed <= used, "the number of connections");
	must(v.refusal_next - v.refusal_first <= VSOCK_REFUSALS, "refusals");
	for (unsigned i = 0; i < 3; i++)
		must(queues[i].in_flight == 0, "a request was lost");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char hello[] = "CONNECT 5\nhello";
	struct sockaddr_un at;
	if (!ram)
		open_once();
	if (size < 1)
		return 0;
	memset(ram, 0, GUEST_LEN);
	memcpy(ram, data + 1, MIN(size - 1, (size_t)GUEST_ROOM));
	const unsigned index = (data[0] >> 4) % 3;
	const uint64_t features = (uint64_t)(data[0] & 3) << VIRTIO_RING_F_INDIRECT_DESC;
	for (unsigned i = 0; i < 3; i++)
		queues[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	d.again = 0;
	vsock_start(&v);
	v.tell_reset = index == 2;
	int client = unix_socket(&at, "");
	must(connect(client, (struct sockaddr *)&at, sizeof(at)) == 0, "connect");
	must(write(client, hello, sizeof(hello) - 1) == (ssize_t)sizeof(hello) - 1, "write");
	v.next_port = VSOCK_PORT_FIRST; // so that inputs can name it
	turn();
	turn();
	start(index, 0, features);
	if (index != 0 && data[0] & 4) {
		lend_buffers();
		start(0, GUEST_ROOM, features);
	}
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned q = 0; q < 3; q++)
			if (queues[q].running)
				vsock_kick(&v, &queues[q]);
		turn();
		check_books();
		int taken = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (taken >= 0)
			close(taken);
	}
	close(client);
	for (unsigned i = 0; i < 20 && v.asked; i++)
		turn();
	for (unsigned i = 0; i < 3; i++)
		vq_stop(&queues[i]);
	vsock_stop(&v);
	turn(); // what is left without ports goes when it sees that nobody is there
	check_books();
	for (int taken; (taken = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
		close(taken);
	return 0;
}
