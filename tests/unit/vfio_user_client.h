// SPDX-License-Identifier: BSD-2-Clause
// A client for unit tests of the vfio-user server: one connection at a time, each message and its answer in one call.
#ifndef MINIVMM_TESTS_UNIT_VFIO_USER_CLIENT_H
#define MINIVMM_TESTS_UNIT_VFIO_USER_CLIENT_H

#include "bridges/vfio_user_wire.h"
#include "devices/sdk/carrier.h"
#include "devices/sdk/pdev_impl.h"
#include "tests/unit/test.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX

static struct vdev d;
static struct session *session;
static int client = -1;

static void client_connect(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	client = pair[0];
	session = carrier_vfio_user.open(&d, pair[1]);
	if (!session)
		abort();
}

static void client_leave(void)
{
	fd_close(&client);
	carrier_vfio_user.close(session);
}

struct answer {
	struct vfio_user_header h;
	_Alignas(8) uint8_t bytes[8192];
	struct msg_fds fds;
};

static struct answer a;

static void turn(void)
{
	while (loop_once(&d.loop, 0) > 0)
		;
}

static bool alive(void)
{
	int ms;
	turn();
	return carrier_vfio_user.alive(session, &ms);
}

// Sends it; the server has not looked yet.
static void post(uint16_t command, const void *payload, size_t len, const int *fds, unsigned fd_count,
		 uint32_t flags)
{
	struct vfio_user_header h = {
		.id = 0x4711, .command = command, .size = (uint32_t)(sizeof(h) + len), .flags = flags
	};
	uint8_t none = 0;
	union {
		const void *c;
		void *v;
	} p = { .c = len ? payload : &none };
	struct iovec iov[] = { { &h, sizeof(h) }, { p.v, len } };
	if (msg_send(client, iov, len ? 2 : 1, fds, fd_count, deadline_in_ms(1000)) < 0)
		abort();
}

static void say(uint16_t command, const void *payload, size_t len, const int *fds, unsigned fd_count,
		uint32_t flags)
{
	post(command, payload, len, fds, fd_count, flags);
	turn();
}

// What the server answered: 0, or the errno.  -1: nothing; *a has the rest.
static int hear(void)
{
	msg_fds_close(&a.fds);
	if (msg_recv(client, &a.h, sizeof(a.h), &a.fds, deadline_now()) < 0)
		return -1;
	if (a.h.id != 0x4711 || (a.h.flags & VFIO_USER_TYPE_MASK) != VFIO_USER_REPLY)
		abort();
	size_t len = a.h.size - sizeof(a.h);
	if (len > sizeof(a.bytes) || (len && msg_recv(client, a.bytes, len, &a.fds, deadline_now()) < 0))
		abort();
	if (a.h.flags & VFIO_USER_ERROR)
		return len || a.fds.count ? -2 : (int)a.h.error;
	return 0;
}

static int ask_fds(uint16_t command, const void *payload, size_t len, const int *fds, unsigned fd_count)
{
	say(command, payload, len, fds, fd_count, 0);
	return hear();
}

static int ask(uint16_t command, const void *payload, size_t len)
{
	return ask_fds(command, payload, len, NULL, 0);
}

static int version(const char *json)
{
	uint8_t bytes[4096] = { 0, 0, 1, 0 };
	size_t len = json ? strlen(json) + 1 : 0;
	memcpy(bytes + 4, json ? json : "", len);
	return ask(VFIO_USER_VERSION, bytes, 4 + len);
}

static void hello(void)
{
	if (version("{\"capabilities\":{\"max_msg_fds\":8,\"write_multiple\":true}}") != 0)
		abort();
}

static int put(uint32_t region, uint64_t offset, unsigned size, uint64_t val)
{
	struct {
		struct vfio_user_region_access a;
		uint64_t val;
	} m = { { offset, region, size }, val };
	return ask(VFIO_USER_REGION_WRITE, &m, sizeof(m.a) + size);
}

static int get_rc(uint32_t region, uint64_t offset, uint32_t size)
{
	struct vfio_user_region_access m = { offset, region, size };
	return ask(VFIO_USER_REGION_READ, &m, sizeof(m));
}

static uint64_t get(uint32_t region, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	if (get_rc(region, offset, size) != 0 || a.h.size != 32 + size)
		return UINT64_MAX;
	memcpy(&val, a.bytes + 16, size);
	return val;
}

static int map(uint64_t iova, uint64_t size, uint32_t flags, int fd, uint64_t offset)
{
	struct vfio_user_dma_map m = { sizeof(m), flags, offset, iova, size };
	return ask_fds(VFIO_USER_DMA_MAP, &m, sizeof(m), &fd, fd >= 0);
}

static int unmap(uint64_t iova, uint64_t size, uint32_t flags)
{
	struct vfio_user_dma_unmap m = { sizeof(m), flags, iova, size };
	return ask(VFIO_USER_DMA_UNMAP, &m, sizeof(m));
}

static int set_irqs(uint32_t index, uint32_t flags, uint32_t start, uint32_t count, const int *fds,
		    unsigned fd_count)
{
	struct vfio_user_irq_set m = { sizeof(m), flags, index, start, count };
	return ask_fds(VFIO_USER_DEVICE_SET_IRQS, &m, sizeof(m), fds, fd_count);
}

#define SET_EVENTFD (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)
#define SET_NONE    (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)

static int memory(uint64_t len)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
		abort();
	return fd;
}

#endif
