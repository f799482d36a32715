// SPDX-License-Identifier: BSD-2-Clause
// A client whose messages come from the fuzzer, in front of the SDK's vfio-user server and a disk: each must come to an end with
// nothing in flight, no memory mapped and no descriptor more than before.
//
// A message is four bytes (command, 255: the next client comes; flags; length of the payload; low bits: which descriptor travels,
// high bits: how many) and its payload, cut short where the input ends.  VERSION is said before the first.
#include "bridges/vfio_user_wire.h"
#include "devices/sdk/carrier.h"
#include "devices/sdk/pdev_impl.h"
#include "tests/fuzz/disk.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"

#include <signal.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGES_MAX 64
#define CLIENTS_MAX  4
#define NEXT_CLIENT  255

static struct disk k;

static const struct vdev_ops ops = {
	.program = "fuzz",
	.virtio_type = 2,
	.start = disk_dev_start,
	.kick = disk_dev_kick,
	.drain = disk_dev_drain,
	.stop = disk_dev_stop,
	.config_write = disk_dev_config_write,
};

static bool send_one(int sock, uint16_t command, uint32_t flags, const void *payload, size_t want, size_t len,
		     const int *fds, unsigned fd_count)
{
	struct vfio_user_header h = { .command = command,
				      .flags = flags,
				      .size = (uint32_t)(sizeof(h) + want) };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, len } };
	return msg_send(sock, iov, len ? 2 : 1, fds, fd_count, deadline_in_ms(100)) == 0;
}

// One client's messages; what is left of the input.
static const uint8_t *send_all(int sock, const int fds[4], const uint8_t *data, const uint8_t *end)
{
	static const uint8_t version[4] = { 0, 0, 1, 0 };
	bool open = send_one(sock, VFIO_USER_VERSION, 0, version, 4, 4, NULL, 0);
	for (unsigned i = 0; i < MESSAGES_MAX && end - data >= 4; i++) {
		size_t want = data[2], left = (size_t)(end - data) - 4, len = want < left ? want : left;
		int list[4];
		unsigned count = data[3] >> 4 & 3;
		if (data[0] == NEXT_CLIENT) {
			data += 4;
			break;
		}
		for (unsigned n = 0; n < count; n++)
			list[n] = fds[(data[3] + n) & 3];
		// One that never ends costs a deadline each time, which a test shows and a fuzzer cannot afford.
		open = open && send_one(sock, data[0], data[1], data + 4, want, len, list, count);
		data += 4 + len;
	}
	shutdown(sock, SHUT_WR);
	return data;
}

static void serve_one(int sock)
{
	bool stop = false;
	carrier_serve(&carrier_vfio_user, &k.d, sock, &stop);
	disk_check(&k);
	disk_must(k.d.mem.count == 0 && !k.q[0].running && !k.q[1].running, "something was left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!k.ram) {
		log_init("fuzz", LOG_ERROR);
		disk_open(&k);
		k.d.ops = &ops;
		signal(SIGPIPE, SIG_IGN); // as vdev_main() does: what is called an eventfd may be a socket
	}
	disk_with_request(&k);
	int lowest = dup(k.guest_fd);
	close(lowest);
	const uint8_t *end = data + size;
	for (unsigned i = 0; i < CLIENTS_MAX && (i == 0 || data < end); i++) {
		int pair[2], bell = fd_eventfd(), call = fd_eventfd();
		disk_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
		data = send_all(pair[0], (int[]){ k.guest_fd, call, bell, pair[0] }, data, end);
		serve_one(pair[1]);
		close(pair[0]);
		close(bell);
		close(call);
	}
	virtio_fn_destroy(k.d.pci);
	k.d.pci = NULL;
	int next[8]; // the lowest free numbers are those from before
	for (int i = 0; i < 8; i++)
		next[i] = dup(k.guest_fd);
	disk_must(next[0] == lowest, "a descriptor was closed or left");
	for (int i = 1; i < 8; i++)
		disk_must(next[i] - next[0] < 16, "descriptors were left");
	fd_close_all(next, 8);
	return 0;
}
