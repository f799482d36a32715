// SPDX-License-Identifier: BSD-2-Clause
// A front-end whose messages come from the fuzzer, in front of the SDK's server and a disk: it must come to an end with nothing
// in flight, no memory mapped and no descriptor more than before.
//
// A message is four bytes (request; flags; payload length / 4; low bits: which descriptor travels, high bits: how many)
// and its payload, cut short where the input ends.
#include "bridges/vhost_user_wire.h"
#include "devices/sdk/carrier.h"
#include "tests/fuzz/disk.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <signal.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGES_MAX 64

static struct disk k;

static int dev_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vblk_start(&k.b, features);
	return 0;
}

static void dev_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_kick(&k.b, q);
}

static void dev_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_drain(&k.b, q);
}

static void dev_stop(struct vdev *d)
{
	(void)d;
}

static int dev_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	return vblk_config_write(&k.b, off, p, len);
}

static const struct vdev_ops ops = {
	.start = dev_start,
	.kick = dev_kick,
	.drain = dev_drain,
	.stop = dev_stop,
	.config_write = dev_config_write,
};

// A disk with one good request waiting in queue 0.
static void guest_prepare(void)
{
	disk_fresh(&k, (const uint8_t *)"", 0);
	struct vring_desc desc[] = {
		{ .addr = 0x1000, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 1 },
		{ .addr = 0x2000, .len = 512, .flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, .next = 2 },
		{ .addr = 0x3000, .len = 1, .flags = VRING_DESC_F_WRITE },
	};
	memcpy(k.ram, desc, sizeof(desc));
	k.ram[GUEST_AVAIL + 2] = 1;
}

static void send_all(int sock, const int fds[4], const uint8_t *data, size_t size)
{
	for (unsigned i = 0; i < MESSAGES_MAX && size >= 4; i++) {
		size_t want = (size_t)data[2] * 4, len = want < size - 4 ? want : size - 4;
		struct vhost_user_header h = { .request = data[0], .flags = data[1], .size = (uint32_t)want };
		struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)(data + 4), len } };
		int list[4];
		unsigned count = data[3] >> 4 & 3;
		for (unsigned n = 0; n < count; n++)
			list[n] = fds[(data[3] + n) & 3];
		if (msg_send(sock, iov, len ? 2 : 1, list, count, deadline_in_ms(100)) < 0)
			break;
		data += 4 + len;
		size -= 4 + len;
	}
	shutdown(sock, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!k.ram) {
		log_init("fuzz", LOG_ERROR);
		disk_open(&k);
		k.d.ops = &ops;
		signal(SIGPIPE,
		       SIG_IGN); // as vdev_main() does: what is called a call eventfd may be a socket
	}
	guest_prepare();
	int pair[2], lowest = dup(k.guest_fd);
	close(lowest);
	int kick = fd_eventfd(), call = fd_eventfd();
	disk_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	fd_event_signal(kick);
	send_all(pair[0], (int[]){ k.guest_fd, kick, call, pair[0] }, data, size);
	bool stop = false;
	carrier_serve(&carrier_vhost_user, &k.d, pair[1], &stop);
	disk_check(&k);
	disk_must(k.d.mem.count == 0 && !k.q[0].running && !k.q[1].running, "something was left");
	close(pair[0]);
	close(kick);
	close(call);
	int next[8]; // the lowest free numbers are those from before
	for (int i = 0; i < 8; i++)
		next[i] = dup(k.guest_fd);
	disk_must(next[0] == lowest, "a descriptor was closed or left");
	for (int i = 1; i < 8; i++)
		disk_must(next[i] - next[0] < 16, "descriptors were left");
	fd_close_all(next, 8);
	return 0;
}
