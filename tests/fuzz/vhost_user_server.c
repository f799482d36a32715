// SPDX-License-Identifier: BSD-2-Clause
// A front-end whose messages come from the fuzzer, in front of the SDK's server and a disk: it must come to an end with nothing
// in flight, no memory mapped and no descriptor more than before.
//
// A message is four bytes (request; flags; payload length / 4; low bits: which descriptor travels, high bits: how many)
// and its payload, cut short where the input ends.  A log of dirty pages is the guest's memory, the channel for requests our own
// socket.
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

static size_t dev_state_save(struct vdev *d, void *to)
{
	(void)d;
	memset(to, 's', VDEV_STATE_MAX);
	return VDEV_STATE_MAX;
}

static int dev_state_load(struct vdev *d, const void *from, size_t len)
{
	(void)d;
	for (size_t i = 0; i < len; i++)
		if (((const char *)from)[i] != 's')
			return -1;
	return 0;
}

static int dev_announce(struct vdev *d, const uint8_t mac[6])
{
	(void)d;
	return mac[0] & 1 ? -1 : 0;
}

static int dev_set_mtu(struct vdev *d, uint16_t mtu)
{
	(void)d;
	return mtu & 1 ? -1 : 0;
}

static const struct vdev_ops ops = {
	.program = "fuzz",
	.state_save = dev_state_save,
	.state_load = dev_state_load,
	.announce = dev_announce,
	.set_mtu = dev_set_mtu,
	.start = disk_dev_start,
	.kick = disk_dev_kick,
	.drain = disk_dev_drain,
	.stop = disk_dev_stop,
	.config_write = disk_dev_config_write,
};

// A pipe that holds the head of a good state and has no writer; the whole of one is what a save gives.
static void fill_pipe(int pipes[2])
{
	char bytes[512] = "vdevst1";
	strcpy(bytes + 8, "fuzz");
	bytes[32] = 100;
	memset(bytes + 36, 's', 100);
	disk_must(pipe(pipes) == 0 && write(pipes[1], bytes, 136) == 136, "pipe");
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
		// One that never ends costs a deadline each time, which a test shows and a fuzzer cannot afford.
		int pipes[2] = { -1, -1 };
		if (h.request == VHOST_USER_SET_DEVICE_STATE_FD && count) {
			fill_pipe(pipes);
			list[0] = pipes[data[3] & 1];
		}
		int rc = msg_send(sock, iov, len ? 2 : 1, list, count, deadline_in_ms(100));
		fd_close_all(pipes, 2);
		if (rc < 0)
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
	disk_with_request(&k);
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
