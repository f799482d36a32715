// SPDX-License-Identifier: BSD-2-Clause
// virtio-net without a tap: headers, commands, scatter lists, and queues whose "tap" is a socket that keeps packets apart.
#include "devices/net/virtio_net.h"
#include "devices/sdk/scatter.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/log.h"
#include "vmm/base/parse.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT	  VRING_DESC_F_NEXT
#define WRITE	  VRING_DESC_F_WRITE
#define BIT(name) NET_BIT(VIRTIO_NET_F_##name)
#define V1	  NET_BIT(VIRTIO_F_VERSION_1)
#define CSUM	  VIRTIO_NET_HDR_F_NEEDS_CSUM

// ---- headers ----------------------------------------------------------------------------------------------------

static bool settles(struct virtio_net_hdr_v1 h, uint64_t features, uint64_t len)
{
	return net_header_settle(&h, features, len);
}

TEST(headers_ask_for_what_was_negotiated_only)
{
	const struct virtio_net_hdr_v1 none = { .flags = 0 };
	const struct virtio_net_hdr_v1 csum = { .flags = CSUM, .csum_start = 34, .csum_offset = 6 };
	struct virtio_net_hdr_v1 h = { .flags = CSUM,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = 1448,
				       .csum_start = 34,
				       .csum_offset = 16 };
	CHECK(settles(none, 0, 60));
	CHECK(!settles(none, 0, NET_FRAME_MIN - 1));
	CHECK(settles(none, 0, NET_FRAME_MIN));
	CHECK(settles(none, 0, NET_FRAME_MAX));
	CHECK(!settles(none, 0, NET_FRAME_MAX + 1));
	CHECK(!settles(csum, 0, 60));
	CHECK(settles(csum, BIT(CSUM), 42));
	CHECK(!settles(csum, BIT(CSUM), 41));
	CHECK(!settles(h, BIT(CSUM) | BIT(HOST_TSO6), 3000));
	CHECK(settles(h, BIT(CSUM) | BIT(HOST_TSO4), 3000));
	h.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	CHECK(!settles(h, BIT(CSUM) | BIT(HOST_TSO4), 3000));
	CHECK(settles(h, BIT(CSUM) | BIT(HOST_TSO4) | BIT(HOST_ECN), 3000));
	h.gso_type = VIRTIO_NET_HDR_GSO_UDP | VIRTIO_NET_HDR_GSO_ECN;
	CHECK(!settles(h, UINT64_MAX, 3000));
	h.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	CHECK(settles(h, UINT64_MAX, 3000));
	h.gso_size = 0;
	CHECK(!settles(h, UINT64_MAX, 3000));
	h.gso_size = 8;
	h.flags = 0;
	CHECK(!settles(h, UINT64_MAX, 3000));
	h.flags = CSUM;
	h.gso_type = VIRTIO_NET_HDR_GSO_ECN; // on nothing
	CHECK(!settles(h, UINT64_MAX, 3000));
	for (unsigned type = 6; type < 128; type++) {
		h.gso_type = (uint8_t)type;
		CHECK(!settles(h, UINT64_MAX, 3000));
	}
}

TEST(headers_lose_what_the_kernel_should_not_see)
{
	struct virtio_net_hdr_v1 h = { .flags = 0xfe,
				       .hdr_len = 9,
				       .gso_size = 7,
				       .csum_start = 6,
				       .csum_offset = 5,
				       .num_buffers = 4 };
	CHECK(net_header_settle(&h, 0, 60));
	CHECK(memcmp(&h, &(struct virtio_net_hdr_v1){ .flags = 0 }, sizeof(h)) == 0);
	h = (struct virtio_net_hdr_v1){
		.flags = 0xff, .gso_type = NET_GSO_UDP_L4, .gso_size = 100, .hdr_len = 0xffff
	};
	CHECK(net_header_settle(&h, UINT64_MAX, 1000));
	CHECK_EQ(h.flags, CSUM);
	CHECK_EQ(h.hdr_len, 1000);
	CHECK_EQ(h.gso_size, 100);
}

TEST(offloads_follow_the_features)
{
	unsigned all = TAP_CSUM | TAP_TSO4 | TAP_TSO6 | TAP_ECN | TAP_UFO | TAP_USO4 | TAP_USO6;
	CHECK_EQ(net_offload_tap(net_offload_features(all)), all);
	CHECK_EQ(net_offload_tap(0), 0);
	CHECK_EQ(net_offload_tap(BIT(GUEST_TSO4)), 0); // needs checksums
	CHECK_EQ(net_offload_tap(BIT(GUEST_CSUM) | BIT(GUEST_TSO4)), TAP_CSUM | TAP_TSO4);
	CHECK_EQ(net_offload_tap(BIT(GUEST_CSUM) | BIT(GUEST_ECN)), TAP_CSUM);
	CHECK_EQ(net_offload_tap(BIT(GUEST_CSUM) | NET_BIT(NET_F_GUEST_USO4)), TAP_CSUM);
	CHECK_EQ(net_offload_features(TAP_CSUM), BIT(CSUM) | BIT(GUEST_CSUM));
	CHECK_EQ(net_header_len(0), 10);
	CHECK_EQ(net_header_len(BIT(MRG_RXBUF)), 12);
	CHECK_EQ(net_header_len(V1), 12);
}

TEST(addresses_as_people_write_them)
{
	uint8_t mac[6];
	CHECK_EQ(parse_mac("52:54:00:aB:Cd:eF", mac), 0);
	CHECK(memcmp(mac, "\x52\x54\x00\xab\xcd\xef", 6) == 0);
	static const char *const wrong[] = { "",
					     "52:54:00:12:34",
					     "52:54:00:12:34:56:",
					     "52-54-00-12-34-56",
					     "52:54:00:12:34:5",
					     "52:54:00:12:34:5g",
					     "53:54:00:12:34:56",
					     "00:00:00:00:00:00",
					     "52:54:00:12:34:56:78",
					     " 52:54:00:12:34:56",
					     "5:254:00:12:34:56" };
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
		CHECK_EQ(parse_mac(wrong[i], mac), -EINVAL);
}

// ---- scatter lists ----------------------------------------------------------------------------------------------

TEST(scatter_lists_are_read_and_written_at_any_offset)
{
	uint8_t a[3] = { 0, 1, 2 }, b[1] = { 3 }, c[4] = { 4, 5, 6, 7 }, out[8];
	const struct iovec iov[] = { { a, 3 }, { b, 1 }, { c, 4 } };
	for (unsigned off = 0; off < 8; off++) {
		for (unsigned len = 0; off + len <= 8; len++) {
			memset(out, 0xff, sizeof(out));
			scatter_read(iov, 3, off, out, len);
			for (unsigned i = 0; i < 8; i++)
				CHECK_EQ(out[i], i < len ? off + i : 0xff);
			scatter_write(iov, 3, off, out, len);
		}
		struct iovec copy[3];
		struct iovec *p = copy;
		unsigned count = 3;
		memcpy(copy, iov, sizeof(copy));
		scatter_drop(&p, &count, off);
		CHECK_EQ(*(uint8_t *)p->iov_base, off);
	}
	CHECK(a[2] == 2 && b[0] == 3 && c[3] == 7);
	scatter_write(iov, 3, 2, "\x12\x13\x14", 3);
	CHECK(a[2] == 0x12 && b[0] == 0x13 && c[0] == 0x14 && a[1] == 1 && c[1] == 5);
	scatter_write(iov, 3, 6, "\x1\x2\x3\x4", 4); // too long: nothing beyond
	CHECK(c[2] == 1 && c[3] == 2);
}

// ---- commands ---------------------------------------------------------------------------------------------------

static uint64_t last;

static int note_mac(void *owner, const uint8_t mac[6])
{
	last = mac[5];
	return owner ? -EIO : 0;
}

static int note_pairs(void *owner, uint16_t pairs)
{
	last = pairs;
	return owner ? -EIO : 0;
}

static int note_offloads(void *owner, uint64_t offloads)
{
	last = offloads;
	return owner ? -EIO : 0;
}

static uint8_t command(uint64_t features, bool fails, const void *bytes, size_t len)
{
	static int owner;
	const struct net_control c = { .owner = fails ? &owner : NULL,
				       .features = features,
				       .pairs_max = 4,
				       .mac = note_mac,
				       .pairs = note_pairs,
				       .offloads = note_offloads };
	uint8_t copy[64];
	struct iovec iov[64];
	memcpy(copy, bytes, len);
	for (unsigned i = 0; i < len; i++) // a byte a piece
		iov[i] = (struct iovec){ .iov_base = &copy[i], .iov_len = 1 };
	last = 0;
	return net_control_do(&c, iov, (unsigned)len, len);
}

#define COMMAND(features, bytes) command(features, false, bytes, sizeof(bytes) - 1)

TEST(commands_need_their_feature_and_their_length)
{
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\0\3\0"), VIRTIO_NET_OK);
	CHECK_EQ(last, 3);
	CHECK_EQ(COMMAND(~BIT(MQ), "\4\0\3\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\0\0\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\0\5\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\0\3\1"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\0\3"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4\1\3\0"), VIRTIO_NET_ERR); // RSS
	CHECK_EQ(last, 0);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\1\2\0\0\0\0\7"), VIRTIO_NET_OK);
	CHECK_EQ(last, 7);
	CHECK_EQ(COMMAND(~BIT(CTRL_MAC_ADDR), "\1\1\2\0\0\0\0\7"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\1\3\0\0\0\0\7"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\5\0\2\0\0\0\0\0\0\0"), VIRTIO_NET_OK);
	CHECK_EQ(last, BIT(GUEST_CSUM));
	CHECK_EQ(COMMAND(~BIT(GUEST_CSUM), "\5\0\2\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\5\0\1\0\0\0\0\0\0\0"), VIRTIO_NET_ERR); // not one of the guest's
	CHECK_EQ(COMMAND(UINT64_MAX, "\0\0\1"), VIRTIO_NET_OK);
	CHECK_EQ(COMMAND(~BIT(CTRL_RX), "\0\0\1"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(~BIT(CTRL_RX_EXTRA), "\0\1\1"), VIRTIO_NET_OK);
	CHECK_EQ(COMMAND(~BIT(CTRL_RX_EXTRA), "\0\2\1"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\0\0\0\0\0\1\0\0\0abcdef"), VIRTIO_NET_OK);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\0\0\0\0\0\1\0\0\0abcde"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\0\0\0\0\0\1\0\0\0abcdefg"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\1\0\xff\xff\xff\xff\0\0\0\0"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, "\4"), VIRTIO_NET_ERR);
	CHECK_EQ(COMMAND(UINT64_MAX, ""), VIRTIO_NET_ERR);
	CHECK_EQ(command(UINT64_MAX, true, "\4\0\3\0", 4), VIRTIO_NET_ERR); // the tap refuses
}

// ---- queues -----------------------------------------------------------------------------------------------------

struct rig {
	struct driver rx, tx;
	struct vdev d;
	struct vq q[3];
	struct vnet n;
	int far; // the other end of the "tap"
};

static struct rig r;

// The transmit queue's memory lies elsewhere in the guest.
#define TX_GPA (DRIVER_GPA + DRIVER_MEM)
#define TX_UVA (DRIVER_UVA + DRIVER_MEM)

static bool set_up(uint64_t features)
{
	struct err e = { { 0 } };
	int pair[2];
	log_init("net", LOG_ERROR);
	memset(&r, 0, sizeof(r));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) < 0)
		return false;
	r.far = pair[1];
	r.n.pair[0].tap = (struct tap){ .fd = pair[0], .name = "socket" };
	r.n.pairs_max = 1;
	if (loop_init(&r.d.loop) < 0 ||
	    vnet_init(&r.n, &r.d, &(struct vnet_options){ .mtu = 1500 }, &e) < 0) {
		printf("%s\n", e.text);
		return false;
	}
	r.d.queues = r.q;
	for (unsigned i = 0; i < 3; i++)
		r.q[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	vnet_settle(&r.n, features);
	if (!driver_open(&r.rx) || !driver_open(&r.tx))
		return false;
	r.tx.place.desc += DRIVER_MEM;
	r.tx.place.avail += DRIVER_MEM;
	r.tx.place.used += DRIVER_MEM;
	return guest_mem_add(&r.d.mem, r.rx.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       guest_mem_add(&r.d.mem, r.tx.fd, 0, TX_GPA, TX_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&r.q[0], &r.d.mem, &r.rx.place, features) == 0 &&
	       vq_start(&r.q[1], &r.d.mem, &r.tx.place, features) == 0;
}

static void tear_down(void)
{
	vnet_drain(&r.n, NULL);
	vnet_stop(&r.n);
	vnet_destroy(&r.n);
	close(r.far);
	loop_destroy(&r.d.loop);
	guest_mem_clear(&r.d.mem);
	driver_close(&r.rx);
	driver_close(&r.tx);
}

// Offers a receive buffer of one piece.
static void buffer(unsigned i, uint32_t len)
{
	driver_desc(&r.rx, i, DRIVER_DATA + i * 4096, len, WRITE, 0);
	driver_offer(&r.rx, i);
}

static bool arrives(size_t len)
{
	static uint8_t packet[70000];
	for (size_t i = 0; i < len; i++)
		packet[i] = (uint8_t)(i * 7);
	return send(r.far, packet, len, 0) == (ssize_t)len;
}

static void turns(void)
{
	for (unsigned i = 0; i < 8; i++) {
		loop_once(&r.d.loop, 0);
		uint64_t again = r.d.again;
		r.d.again = 0;
		for (unsigned q = 0; q < 2; q++)
			if (again >> q & 1)
				vnet_kick(&r.n, &r.q[q]);
	}
}

static uint32_t used_len(unsigned i)
{
	return r.rx.used->ring[i % DRIVER_SIZE].len;
}

TEST(packets_fill_as_many_buffers_as_they_need)
{
	CHECK(set_up(V1 | BIT(MRG_RXBUF)));
	for (unsigned i = 0; i < 8; i++)
		buffer(i, 100);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(arrives(100) && arrives(101) && arrives(350));
	turns();
	CHECK_EQ(r.rx.used->idx, 7);
	static const unsigned lens[] = { 100, 100, 1, 100, 100, 100, 50 };
	for (unsigned i = 0; i < 7; i++) {
		CHECK_EQ(r.rx.used->ring[i].id, i);
		CHECK_EQ(used_len(i), lens[i]);
	}
	uint16_t buffers;
	static const struct {
		unsigned first, count;
	} packets[] = { { 0, 1 }, { 1, 2 }, { 3, 4 } };
	for (unsigned i = 0; i < 3; i++) {
		memcpy(&buffers, r.rx.ram + DRIVER_DATA + packets[i].first * 4096 + 10, 2);
		CHECK_EQ(buffers, packets[i].count);
	}
	CHECK_EQ(r.rx.ram[DRIVER_DATA + 6 * 4096 + 49], (uint8_t)(349 * 7));
	CHECK_EQ(r.rx.ram[DRIVER_DATA + 6 * 4096 + 50], 0);
	vnet_drain(&r.n, &r.q[0]);
	CHECK_EQ(r.q[0].in_flight, 0);
	CHECK_EQ(vq_stop(&r.q[0]), 7); // the eighth is the driver's again
	tear_down();
}

TEST(a_packet_waits_for_buffers_that_are_missing)
{
	CHECK(set_up(V1 | BIT(MRG_RXBUF)));
	buffer(0, 100);
	buffer(1, 100);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(arrives(500) && arrives(60));
	turns();
	CHECK_EQ(r.rx.used->idx, 0);
	CHECK_EQ(r.n.pair[0].held->spilled, 300);
	CHECK_EQ(r.n.pair[0].events, 0); // it waits for the driver, not for the tap
	for (unsigned i = 2; i < 6; i++) {
		buffer(i, 100);
		vnet_kick(&r.n, &r.q[0]);
	}
	turns();
	CHECK_EQ(r.rx.used->idx, 6);
	CHECK_EQ(used_len(4), 100);
	CHECK_EQ(used_len(5), 60);
	for (unsigned i = 12; i < 500; i++)
		CHECK_EQ(r.rx.ram[DRIVER_DATA + i / 100 * 4096 + i % 100], (uint8_t)(i * 7));
	// The same again, but the driver goes away: the packet is lost, no buffer is.
	buffer(6, 100);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(arrives(300));
	turns();
	vnet_drain(&r.n, NULL);
	CHECK_EQ(r.n.counts.rx_dropped, 1);
	CHECK_EQ(vq_stop(&r.q[0]), 6);
	tear_down();
}

TEST(a_packet_larger_than_the_whole_queue_is_dropped)
{
	CHECK(set_up(V1 | BIT(MRG_RXBUF)));
	for (unsigned i = 0; i < DRIVER_SIZE; i++)
		buffer(i, 20);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(arrives(20 * DRIVER_SIZE + 1) && arrives(20 * DRIVER_SIZE));
	turns();
	CHECK_EQ(r.n.counts.rx_dropped, 1);
	CHECK_EQ(r.rx.used->idx, DRIVER_SIZE);
	tear_down();
}

TEST(without_merging_a_packet_has_one_buffer)
{
	CHECK(set_up(V1));
	for (unsigned i = 0; i < 4; i++)
		buffer(i, 100);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(arrives(101) && arrives(100) && arrives(99));
	turns();
	CHECK_EQ(r.rx.used->idx, 2);
	CHECK_EQ(used_len(0), 100);
	CHECK_EQ(used_len(1), 99);
	CHECK_EQ(r.n.counts.rx_dropped, 1);
	tear_down();
}

TEST(a_disabled_queue_gets_nothing)
{
	CHECK(set_up(V1 | BIT(MRG_RXBUF)));
	buffer(0, 100);
	vnet_kick(&r.n, &r.q[0]);
	r.q[0].enabled = false;
	CHECK(arrives(60));
	turns();
	CHECK_EQ(r.rx.used->idx, 0);
	CHECK_EQ(r.n.pair[0].events, 0);
	r.q[0].enabled = true;
	vnet_kick(&r.n, &r.q[0]);
	turns();
	CHECK_EQ(r.rx.used->idx, 1);
	tear_down();
}

TEST(receive_buffers_that_are_to_be_read_stop_the_queue)
{
	CHECK(set_up(V1 | BIT(MRG_RXBUF)));
	buffer(0, 100);
	driver_desc(&r.rx, 1, DRIVER_DATA, 100, 0, 0);
	driver_offer(&r.rx, 1);
	vnet_kick(&r.n, &r.q[0]);
	CHECK(r.q[0].failed);
	CHECK(arrives(60));
	turns();
	CHECK_EQ(r.rx.used->idx, 0);
	vnet_drain(&r.n, &r.q[0]);
	CHECK_EQ(r.q[0].in_flight, 0);
	tear_down();
}

static void offer_packet(unsigned i, uint32_t len)
{
	r.tx.desc[i] = (struct vring_desc){ .addr = TX_GPA + DRIVER_DATA + i * 4096, .len = len };
	driver_offer(&r.tx, i);
}

TEST(packets_are_sent_with_a_header_of_ours)
{
	CHECK(set_up(V1));
	uint8_t got[200];
	memset(r.tx.ram + DRIVER_DATA, 0x5a, 100);
	memcpy(r.tx.ram + DRIVER_DATA, "\xfe\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
	offer_packet(0, 100);
	vnet_kick(&r.n, &r.q[1]);
	CHECK_EQ(recv(r.far, got, sizeof(got), 0), 100);
	for (unsigned i = 0; i < 100; i++)
		CHECK_EQ(got[i], i < 12 ? 0 : 0x5a);
	for (unsigned len = 1; len < 12 + NET_FRAME_MIN; len++) { // too short
		offer_packet(1, len);
		vnet_kick(&r.n, &r.q[1]);
	}
	CHECK_EQ(recv(r.far, got, sizeof(got), 0), -1);
	CHECK_EQ(r.n.counts.tx_dropped, 12 + NET_FRAME_MIN - 1);
	CHECK_EQ(r.tx.used->idx, 12 + NET_FRAME_MIN);
	CHECK_EQ(r.n.counts.tx, 1);
	tear_down();
}

TEST(a_tap_that_is_full_holds_the_queue)
{
	CHECK(set_up(V1));
	int small = 1;
	CHECK_EQ(setsockopt(r.n.pair[0].tap.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	unsigned sent = 0;
	while (r.n.pair[0].events == 0 && sent < 1000) {
		offer_packet(sent++ % DRIVER_SIZE, 3000);
		vnet_kick(&r.n, &r.q[1]);
	}
	CHECK(r.n.pair[0].events == EPOLLOUT);
	CHECK_EQ(r.tx.used->idx, sent - 1);
	CHECK_EQ(r.q[1].in_flight, 0);
	uint8_t got[4000];
	while (recv(r.far, got, sizeof(got), 0) > 0)
		turns();
	CHECK_EQ(r.tx.used->idx, sent);
	CHECK_EQ(r.n.counts.tx, sent);
	CHECK_EQ(r.n.pair[0].events, 0);
	tear_down();
}

TEST(a_tap_that_is_gone_takes_the_link_down)
{
	CHECK(set_up(V1 | BIT(STATUS)));
	buffer(0, 100);
	vnet_kick(&r.n, &r.q[0]);
	CHECK_EQ(r.n.config.status, VIRTIO_NET_S_LINK_UP);
	shutdown(r.far, SHUT_RDWR);
	turns();
	CHECK_EQ(r.n.config.status, 0);
	CHECK_EQ(r.n.pair[0].events, 0);
	offer_packet(0, 100);
	vnet_kick(&r.n, &r.q[1]);
	CHECK_EQ(r.tx.used->idx, 1);
	CHECK_EQ(r.n.counts.tx_dropped, 1);
	tear_down();
}
