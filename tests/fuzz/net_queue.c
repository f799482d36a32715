// SPDX-License-Identifier: BSD-2-Clause
// The network device with guest memory that is the input, a socket for a tap: the first byte says which queue the rings are of and what was
// negotiated.  Packets and commands of every kind of wrongness end, no request is lost, and what the tap gets was checked.
#include "devices/net/virtio_net.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vdev d;
static struct vq queues[3];
static struct vnet n;
static uint8_t *ram;
static int far;

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
	int pair[2], guest = memfd_create("guest", 0);
	log_init("fuzz", LOG_ERROR);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0, "socketpair");
	must(ftruncate(guest, GUEST_LEN) == 0, "memfd");
	ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, guest, 0);
	must(ram != MAP_FAILED && loop_init(&d.loop) == 0, "mmap");
	far = pair[1];
	n.pair[0].tap.fd = pair[0];
	n.pairs_max = 1;
	must(vnet_init(&n, &d, &(struct vnet_options){ .mtu = 1500 }, &e) == 0, e.text);
	d.queues = queues;
	must(guest_mem_add(&d.mem, guest, 0, 0, GUEST_UVA, GUEST_LEN) == 0, "guest memory");
}

static uint64_t features_of(uint8_t choice)
{
	uint64_t features = NET_BIT(VIRTIO_NET_F_CTRL_VQ) | NET_BIT(VIRTIO_NET_F_CTRL_RX) |
			    NET_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | NET_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
			    (uint64_t)(choice & 3) << VIRTIO_RING_F_INDIRECT_DESC;
	if (choice & 4)
		features |= NET_BIT(VIRTIO_NET_F_MRG_RXBUF);
	if (choice & 8)
		features |= NET_BIT(VIRTIO_F_VERSION_1);
	if (choice & 16)
		features |= net_offload_features(~0u);
	return features;
}

// What the kernel would get.
static void check_sent(void)
{
	static uint8_t packet[NET_HEADER_MAX + NET_FRAME_MAX + 1];
	ssize_t len;
	while ((len = recv(far, packet, sizeof(packet), 0)) > 0) {
		struct virtio_net_hdr_v1 h = { .flags = 0 };
		size_t frame = (size_t)len - n.header_len;
		must(len >= (ssize_t)n.header_len + NET_FRAME_MIN && frame <= NET_FRAME_MAX,
		     "a frame's length");
		memcpy(&h, packet, n.header_len);
		must(!(h.flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM) && h.hdr_len <= frame, "a header");
		must(!h.flags || ((n.features & NET_BIT(VIRTIO_NET_F_CSUM)) &&
				  h.csum_start + h.csum_offset + 2u <= frame),
		     "a checksum's place");
		must(h.gso_type == VIRTIO_NET_HDR_GSO_NONE || (h.gso_size && h.flags), "segments");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct vq_place place = { .size = GUEST_QUEUE,
					       .desc = GUEST_UVA,
					       .avail = GUEST_UVA + GUEST_AVAIL,
					       .used = GUEST_UVA + GUEST_USED };
	static const uint8_t packet[3000] = { 1 };
	if (!ram)
		open_once();
	if (size < 1)
		return 0;
	memset(ram, 0, GUEST_LEN);
	memcpy(ram, data + 1, size - 1 < GUEST_LEN ? size - 1 : GUEST_LEN);
	unsigned index = (data[0] >> 5) % 3;
	for (unsigned i = 0; i < 3; i++)
		queues[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	d.again = 0;
	vnet_settle(&n, features_of(data[0]));
	must(vq_start(&queues[index], &d.mem, &place, n.features) == 0, "vq_start");
	for (unsigned i = 0; i < 4 && (i == 0 || d.again); i++) {
		d.again = 0;
		if (index == 0)
			must(send(far, packet, 60 + 700 * i, 0) > 0, "send");
		vnet_kick(&n, &queues[index]);
		loop_once(&d.loop, 0);
		check_sent();
	}
	vnet_drain(&n, NULL);
	must(queues[index].in_flight == 0, "a request was lost");
	vq_stop(&queues[index]);
	vnet_stop(&n);
	uint8_t rest[4];
	while (index == 0 && recv(n.pair[0].tap.fd, rest, sizeof(rest), 0) > 0)
		;
	return 0;
}
