// SPDX-License-Identifier: BSD-2-Clause
// The switch's parts: its table of addresses, the work that it does for drivers which do not, and ports that forward to each other.
#include "devices/switch/switch.h"
#include "devices/switch/offload.h"
#include "tests/unit/test.h"
#include "vmm/base/log.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// ---- addresses --------------------------------------------------------------------------------------------------

static struct mac_table *table_new(void)
{
	struct mac_table *t = calloc(1, sizeof(*t));
	if (!t)
		abort();
	t->key = UINT64_C(0x123456789abcdef);
	return t;
}

TEST(an_address_is_learned_moves_and_is_forgotten)
{
	struct mac_table *t = table_new();
	CHECK_EQ(mac_table_find(t, 7, 0), -1);
	CHECK(mac_table_learn(t, 7, 3, 100));
	CHECK_EQ(mac_table_find(t, 7, 100), 3);
	// While its owner uses it nobody else gets it, then anybody does.
	CHECK(!mac_table_learn(t, 7, 4, 100 + MAC_HOLD_S));
	CHECK_EQ(mac_table_find(t, 7, 100 + MAC_HOLD_S), 3);
	CHECK(mac_table_learn(t, 7, 4, 101 + MAC_HOLD_S));
	CHECK_EQ(mac_table_find(t, 7, 101 + MAC_HOLD_S), 4);
	CHECK_EQ(t->count[3], 0);
	CHECK_EQ(t->count[4], 1);
	CHECK_EQ(mac_table_find(t, 7, 101 + MAC_HOLD_S + MAC_AGE_S), 4);
	CHECK_EQ(mac_table_find(t, 7, 102 + MAC_HOLD_S + MAC_AGE_S), -1);
	CHECK_EQ(t->count[4], 0);
	free(t);
}

TEST(a_pinned_address_stays)
{
	struct mac_table *t = table_new();
	CHECK(mac_table_learn(t, 9, 1, 0)); // somebody was quicker
	mac_table_pin(t, 9, 2);
	CHECK_EQ(mac_table_find(t, 9, 0), 2);
	CHECK(!mac_table_learn(t, 9, 1, 1000000));
	CHECK_EQ(mac_table_find(t, 9, 1000000), 2);
	CHECK(mac_table_learn(t, 9, 2, 1000000));
	mac_table_forget(t, 2);
	CHECK_EQ(mac_table_find(t, 9, 0), -1);
	CHECK(mac_table_learn(t, 9, 1, 1000001));
	free(t);
}

TEST(a_port_has_its_share_and_no_more)
{
	struct mac_table *t = table_new();
	for (uint64_t mac = 1; mac <= 100000; mac++)
		CHECK(mac_table_learn(t, mac, 5, 10));
	CHECK_EQ(t->count[5], MAC_PER_PORT);
	CHECK_EQ(t->made, MAC_PER_PORT);
	CHECK_EQ(mac_table_find(t, MAC_PER_PORT, 10), 5);
	CHECK_EQ(mac_table_find(t, MAC_PER_PORT + 1, 10), -1);
	// All ports at once find room, every one of theirs is found again.
	for (unsigned port = 0; port < MAC_PORTS_MAX; port++)
		for (uint64_t i = 0; i < MAC_PER_PORT && port != 5; i++)
			CHECK(mac_table_learn(t, (port + UINT64_C(1)) << 32 | i, port, 20));
	CHECK_EQ(t->made, MAC_ENTRIES);
	for (unsigned port = 0; port < MAC_PORTS_MAX; port++)
		for (uint64_t i = 0; i < MAC_PER_PORT && port != 5; i++)
			CHECK_EQ(mac_table_find(t, (port + UINT64_C(1)) << 32 | i, 20), (int)port);
	// Old ones make room for new ones of the same port.
	CHECK(mac_table_learn(t, 200000, 5, 11 + MAC_AGE_S));
	CHECK_EQ(mac_table_find(t, 200000, 11 + MAC_AGE_S), 5);
	CHECK_EQ(t->count[5], 1);
	for (unsigned port = 0; port < MAC_PORTS_MAX; port++)
		mac_table_forget(t, port);
	for (unsigned port = 0; port < MAC_PORTS_MAX; port++)
		CHECK_EQ(t->count[port], 0);
	for (uint64_t mac = 0; mac < 1000; mac++)
		CHECK(mac_table_learn(t, mac, (unsigned)mac % MAC_PORTS_MAX, 30));
	CHECK_EQ(t->made, MAC_ENTRIES);
	free(t);
}

// ---- work for drivers -------------------------------------------------------------------------------------------

static uint32_t word_sum(const uint8_t *p, size_t len)
{
	uint32_t total = 0;
	for (size_t i = 0; i < len; i++)
		total += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return total;
}

TEST(an_open_checksum_is_closed)
{
	uint8_t frame[99];
	for (unsigned i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)(i * 37);
	for (uint16_t start = 14; start < 40; start++) {
		struct virtio_net_hdr_v1 h = { .csum_start = start, .csum_offset = 16 };
		frame[start + 16] = frame[start + 17] = 0;
		offload_checksum(frame, sizeof(frame), &h);
		CHECK_EQ(word_sum(frame + start, sizeof(frame) - start), 0xffff);
	}
	// A sum of which nothing is left is written the other way, as UDP needs it.
	struct virtio_net_hdr_v1 h = { .csum_start = 14, .csum_offset = 6 };
	memset(frame, 0, sizeof(frame));
	frame[20] = frame[21] = 0xff;
	offload_checksum(frame, sizeof(frame), &h);
	CHECK_EQ(frame[20] << 8 | frame[21], 0xffff);
}

struct segments {
	unsigned count;
	uint32_t bytes;
};

static void count_segment(void *to, const struct iovec iov[2], uint32_t len)
{
	struct segments *s = to;
	CHECK_EQ(iov[0].iov_len + iov[1].iov_len, len);
	s->count++;
	s->bytes += (uint32_t)iov[1].iov_len;
}

// An Ethernet, an IPv4 and a TCP header, and `len` bytes in all.
static void tcp_frame(uint8_t *f, uint32_t len, struct virtio_net_hdr_v1 *h)
{
	memset(f, 0x55, len);
	f[12] = 8;
	f[13] = 0;
	f[14] = 0x45;
	f[23] = 6;
	f[46] = 0x50;
	*h = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					 .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					 .gso_size = 1000,
					 .csum_start = 34,
					 .csum_offset = 16 };
}

TEST(only_what_is_a_tcp_frame_is_cut)
{
	static uint8_t f[65000];
	struct virtio_net_hdr_v1 h;
	struct segments s = { 0 };
	tcp_frame(f, 10054, &h);
	CHECK(offload_segment(f, 10054, &h, count_segment, &s));
	CHECK_EQ(s.count, 10);
	CHECK_EQ(s.bytes, 10000);
	s = (struct segments){ 0 };
	tcp_frame(f, 10055, &h);
	CHECK(offload_segment(f, 10055, &h, count_segment, &s));
	CHECK_EQ(s.count, 11);
	s = (struct segments){ 0 };
	for (unsigned i = 0; i < 9; i++) {
		uint32_t len = 10054;
		tcp_frame(f, len, &h);
		if (i == 0)
			f[13] = 6; // ARP
		else if (i == 1)
			f[14] = 0x65;
		else if (i == 2)
			f[14] = 0x44; // 16 bytes of IP header
		else if (i == 3)
			f[14] = 0x46; // TCP elsewhere than the header says
		else if (i == 4)
			f[23] = 17;
		else if (i == 5)
			f[46] = 0x40;
		else if (i == 6)
			h.csum_offset = 6;
		else if (i == 7)
			len = 54; // no data
		else
			h.gso_size = 10000 / OFFLOAD_SEGMENTS_MAX - 1;
		CHECK(!offload_segment(f, len, &h, count_segment, &s));
	}
	CHECK_EQ(s.count, 0);
	for (uint32_t len = 0; len < 60; len++) { // read no further than there is
		uint8_t *exact = malloc(len ? len : 1);
		static uint8_t whole[60];
		tcp_frame(whole, sizeof(whole), &h);
		memcpy(exact, whole, len);
		CHECK_EQ(offload_segment(exact, len, &h, count_segment, &s), len > 54);
		free(exact);
	}
}

// ---- ports ------------------------------------------------------------------------------------------------------

#define GUEST_LEN 65536u
#define GUEST_UVA UINT64_C(0x100000)
#define QUEUE	  8u

static uint8_t fake_session;

static struct session *fake_open(struct vdev *d, int sock)
{
	(void)d;
	close(sock);
	return (struct session *)(void *)&fake_session;
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

struct guest {
	struct port *p;
	uint8_t *ram;
};

static struct vswitch *sw;
static struct vdev program;

// Without this there is nothing to test.
static void require(bool good)
{
	if (!good)
		abort();
}

// A port with both queues started; the rings of queue i are at i * 512.
static void guest_new(struct guest *g, uint64_t features)
{
	int fd = memfd_create("guest", 0);
	*g = (struct guest){ .p = port_open(sw, dup(0)) };
	require(fd >= 0 && ftruncate(fd, GUEST_LEN) == 0 && g->p);
	g->ram = mmap(NULL, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	require(guest_mem_add(&g->p->d.mem, fd, 0, 0, GUEST_UVA, GUEST_LEN) == 0);
	require(g->ram != MAP_FAILED);
	close(fd);
	features |= NET_BIT(VIRTIO_F_VERSION_1);
	require((features & ~g->p->d.features) == 0);
	require(g->p->d.ops->start(&g->p->d, features) == 0);
	for (unsigned i = 0; i < SWITCH_QUEUES; i++) {
		uint64_t at = GUEST_UVA + 512 * i;
		struct vq_place place = { .size = QUEUE, .desc = at, .avail = at + 128, .used = at + 192 };
		require(vq_start(&g->p->queue[i], &g->p->d.mem, &place, features) == 0);
		g->p->queue[i].enabled = true;
	}
}

static void guest_free(struct guest *g)
{
	guest_mem_clear(&g->p->d.mem);
	port_close(g->p);
	munmap(g->ram, GUEST_LEN);
}

// One buffer at `at`.
static void offer(struct guest *g, unsigned queue, uint32_t at, uint32_t len, bool writable)
{
	uint8_t *ring = g->ram + 512 * queue;
	uint16_t idx;
	memcpy(&idx, ring + 128 + 2, sizeof(idx));
	struct vring_desc d = { .addr = at, .len = len, .flags = writable ? VRING_DESC_F_WRITE : 0 };
	memcpy(ring + (idx % QUEUE) * sizeof(d), &d, sizeof(d));
	uint16_t head = idx % QUEUE;
	memcpy(ring + 128 + 4 + 2 * (idx % QUEUE), &head, sizeof(head));
	idx++;
	memcpy(ring + 128 + 2, &idx, sizeof(idx));
}

static uint16_t used(const struct guest *g, unsigned queue)
{
	uint16_t idx;
	memcpy(&idx, g->ram + 512 * queue + 192 + 2, sizeof(idx));
	return idx;
}

static void send_frame(struct guest *g, const uint8_t *to, uint32_t len)
{
	uint8_t *at = g->ram + 8192;
	memset(at, 0, 12);
	memcpy(at + 12, to, 6);
	memcpy(at + 18, g->p->config.mac, 6);
	offer(g, SWITCH_TX, 8192, 12 + len, false);
}

static void switch_new(void)
{
	log_init("test", LOG_ERROR);
	sw = calloc(1, sizeof(*sw));
	require(sw);
	sw->d = &program;
	sw->carrier = &fake;
	sw->ports_max = SWITCH_PORTS_MAX;
	sw->queue_size = 256;
	sw->mac[0] = 2;
	sw->uplink.tap.fd = -1;
	require(loop_init(&program.loop) == 0);
}

static void switch_free(void)
{
	loop_destroy(&program.loop);
	free(sw);
}

// An address is two bytes of a number that goes round: who connects often enough does not get another's.
TEST(no_two_ports_have_the_same_address)
{
	switch_new();
	struct guest a, b, c;
	guest_new(&a, 0);
	guest_new(&b, 0);
	sw->made = 1u << 16;
	guest_new(&c, 0);
	CHECK(memcmp(c.p->config.mac, a.p->config.mac, 6) != 0 &&
	      memcmp(c.p->config.mac, b.p->config.mac, 6) != 0);
	CHECK_EQ(mac_table_find(&sw->table, mac_number(a.p->config.mac), 0), (int)a.p->number);
	CHECK_EQ(mac_table_find(&sw->table, mac_number(b.p->config.mac), 0), (int)b.p->number);
	guest_free(&c);
	guest_free(&b);
	guest_free(&a);
	switch_free();
}

TEST(a_round_takes_from_all_and_a_bounded_batch_from_each)
{
	switch_new();
	struct guest a, b, c;
	guest_new(&a, 0);
	guest_new(&b, 0);
	guest_new(&c, 0);
	CHECK(!switch_round(sw));
	for (unsigned i = 0; i < QUEUE; i++)
		offer(&b, SWITCH_RX, 16384 + 4096 * i, 2000, true);
	send_frame(&a, b.p->config.mac, 100);
	send_frame(&c, b.p->config.mac, 200);
	CHECK(switch_round(sw));
	CHECK_EQ(used(&a, SWITCH_TX), 1);
	CHECK_EQ(used(&c, SWITCH_TX), 1);
	CHECK_EQ(used(&b, SWITCH_RX), 2);
	CHECK(!switch_round(sw));
	CHECK_EQ(b.p->counts.received, 2);
	// Who has none left loses what comes, and whoever sends does not notice.
	for (unsigned i = 0; i < QUEUE; i++)
		send_frame(&a, b.p->config.mac, 100);
	CHECK(switch_round(sw));
	CHECK_EQ(used(&a, SWITCH_TX), 1 + QUEUE);
	CHECK_EQ(used(&b, SWITCH_RX), QUEUE);
	CHECK_EQ(b.p->counts.no_buffer, 2);
	for (unsigned i = 0; i < SWITCH_QUEUES; i++)
		CHECK_EQ(b.p->queue[i].in_flight, 0);
	guest_free(&a);
	guest_free(&b);
	guest_free(&c);
	CHECK_EQ(sw->ports_used, 0);
	switch_free();
}

TEST(work_of_a_round_is_bounded_in_bytes)
{
	switch_new();
	struct guest a, b;
	guest_new(&a, 0);
	guest_new(&b, 0);
	// As many copies as there are ports: with 62 of them, some frames are all that a round has time for.
	struct guest others[SWITCH_PORTS_MAX - 2];
	for (unsigned i = 0; i < SWITCH_PORTS_MAX - 2; i++)
		guest_new(&others[i], 0);
	CHECK(!port_open(sw, dup(0)));
	for (unsigned i = 0; i < QUEUE; i++)
		send_frame(&a, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 1500 + 8 * i);
	CHECK(switch_round(sw));
	uint16_t done = used(&a, SWITCH_TX);
	CHECK(done >= 1 && done < QUEUE);
	for (unsigned i = 0; i < QUEUE; i++)
		switch_round(sw);
	CHECK_EQ(used(&a, SWITCH_TX), QUEUE);
	CHECK_EQ(a.p->counts.flooded, QUEUE);
	for (unsigned i = 0; i < SWITCH_PORTS_MAX - 2; i++)
		guest_free(&others[i]);
	guest_free(&a);
	guest_free(&b);
	switch_free();
}

// A receiver with buffers of a byte is much work, and whoever sends to it has less of a round.
TEST(buffers_that_are_looked_at_are_work)
{
	switch_new();
	struct guest a, b;
	uint8_t bytes[200] = { 0 };
	guest_new(&a, 0);
	guest_new(&b, NET_BIT(VIRTIO_NET_F_MRG_RXBUF));
	memcpy(bytes, b.p->config.mac, 6);
	memcpy(bytes + 6, a.p->config.mac, 6);
	const struct iovec iov = { bytes, sizeof(bytes) };
	struct frame f = { .iov = &iov, .count = 1, .len = sizeof(bytes), .from = a.p->number };
	CHECK_EQ(forward(sw, &f), sizeof(bytes) + SWITCH_COPY);
	for (unsigned i = 0; i < QUEUE; i++)
		offer(&b, SWITCH_RX, 16384 + i, 1, true);
	CHECK_EQ(forward(sw, &f), sizeof(bytes) + SWITCH_COPY + QUEUE * SWITCH_LOOK);
	CHECK_EQ(b.p->counts.no_buffer, 2);
	guest_free(&a);
	guest_free(&b);
	switch_free();
}

TEST(frames_to_all_are_as_many_as_allowed)
{
	switch_new();
	sw->flood = 10;
	struct guest a, b;
	guest_new(&a, 0);
	guest_new(&b, 0);
	for (unsigned i = 0; i < 8; i++) {
		send_frame(&a, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 60);
		switch_round(sw);
	}
	CHECK_EQ(used(&a, SWITCH_TX), 8);
	CHECK(a.p->counts.flooded >= 1 && a.p->counts.flooded <= 3);
	CHECK_EQ(a.p->counts.flooded + a.p->counts.withheld, 8);
	guest_free(&a);
	guest_free(&b);
	switch_free();
}
