// SPDX-License-Identifier: BSD-2-Clause
// virtio-vsock: the arithmetic of credit, and what packets make of a connection; tests/native/vsock.bats has the rest.
#include "devices/vsock/virtio_vsock.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WRITE VRING_DESC_F_WRITE
#define CID   77
#define PORT  5000u
#define RX_AT (DRIVER_DATA + 0x40000u)

// The driver's receive and transmit queues; a listening socket at PATH_5000; `host` is what it accepted.
static struct {
	struct driver rx, tx;
	struct vdev d;
	struct vq q[3];
	struct vsock *v;
	char dir[32], path[64];
	int listener, host;
	unsigned sent, got;
} r;

static int listen_at(unsigned port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", r.path, port);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0 ? fd : -1;
}

static bool set_up(void)
{
	struct err e = { { 0 } };
	log_init("virtio_vsock", LOG_ERROR);
	signal(SIGPIPE, SIG_IGN); // as vdev_main() has it
	memset(&r, 0, sizeof(r));
	r.host = -1;
	strcpy(r.dir, "/tmp/vsock.XXXXXX");
	r.v = calloc(1, sizeof(*r.v));
	if (!r.v || !mkdtemp(r.dir) || loop_init(&r.d.loop) < 0)
		return false;
	snprintf(r.path, sizeof(r.path), "%s/v", r.dir);
	r.listener = listen_at(PORT);
	r.d.queues = r.q;
	for (unsigned i = 0; i < 3; i++)
		r.q[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	if (r.listener < 0 ||
	    vsock_init(r.v, &r.d, &(struct vsock_options){ .cid = CID, .path = r.path }, &e) < 0 ||
	    !driver_open(&r.rx))
		return false;
	// Both queues lie in one memory, the second one's rings behind the first one's.
	r.tx = r.rx;
	r.tx.desc = (void *)(r.rx.ram + 0x4000);
	r.tx.avail = (void *)(r.rx.ram + 0x5000);
	r.tx.used = (void *)(r.rx.ram + 0x6000);
	r.tx.place.desc += 0x4000;
	r.tx.place.avail += 0x4000;
	r.tx.place.used += 0x4000;
	vsock_start(r.v);
	return guest_mem_add(&r.d.mem, r.rx.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) == 0 &&
	       vq_start(&r.q[0], &r.d.mem, &r.rx.place, 0) == 0 &&
	       vq_start(&r.q[1], &r.d.mem, &r.tx.place, 0) == 0;
}

static void tear_down(void)
{
	char name[80];
	vsock_stop(r.v);
	vsock_destroy(r.v);
	loop_destroy(&r.d.loop);
	guest_mem_clear(&r.d.mem);
	driver_close(&r.rx);
	close(r.listener);
	if (r.host >= 0)
		close(r.host);
	snprintf(name, sizeof(name), "%s_%u", r.path, PORT);
	unlink(name);
	rmdir(r.dir);
	free(r.v);
}

// What is at hand happens; the connector is waited for.
static void run(void)
{
	const deadline_ns end = deadline_in_ms(DEADLINE_START_MS);
	for (unsigned quiet = 0; quiet < 2 || (r.v->asked && deadline_now() < end);) {
		quiet = loop_once(&r.d.loop, r.d.again ? 0 : 20) > 0 || r.d.again ? 0 : quiet + 1;
		uint64_t again = r.d.again;
		r.d.again = 0;
		for (unsigned i = 0; i < 2; i++)
			if (again >> i & 1)
				vsock_kick(r.v, &r.q[i]);
	}
}

static void send_packet(uint32_t guest_port, uint16_t op, uint32_t len, uint32_t flags)
{
	const struct virtio_vsock_hdr h = { .src_cid = CID,
					    .dst_cid = VSOCK_HOST_CID,
					    .src_port = guest_port,
					    .dst_port = PORT,
					    .len = len,
					    .type = VIRTIO_VSOCK_TYPE_STREAM,
					    .op = op,
					    .flags = flags,
					    .buf_alloc = 1000 };
	memcpy(r.tx.ram + DRIVER_DATA, &h, sizeof(h));
	driver_desc(&r.tx, 0, DRIVER_DATA, (uint32_t)sizeof(h) + (op == VIRTIO_VSOCK_OP_RW ? len : 0), 0, 0);
	driver_offer(&r.tx, 0);
	r.sent++;
	vsock_kick(r.v, &r.q[1]);
	run();
}

static void buffers(unsigned count, uint32_t len)
{
	for (unsigned i = 0; i < count; i++) {
		unsigned at = r.rx.avail->idx % DRIVER_SIZE;
		driver_desc(&r.rx, at, RX_AT + at * 4096, len, WRITE, 0);
		driver_offer(&r.rx, at);
	}
	vsock_kick(r.v, &r.q[0]);
	run();
}

// The next packet that came, or one with op 0.
static struct virtio_vsock_hdr got(void)
{
	struct virtio_vsock_hdr h = { .op = 0 };
	if (r.got == r.rx.used->idx)
		return h;
	memcpy(&h, r.rx.ram + RX_AT + r.rx.used->ring[r.got++ % DRIVER_SIZE].id * 4096, sizeof(h));
	return h;
}

static bool open_one(uint32_t guest_port)
{
	buffers(1, 4096);
	send_packet(guest_port, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
	r.host = accept4(r.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	return got().op == VIRTIO_VSOCK_OP_RESPONSE && r.host >= 0;
}

TEST(credit_of_the_guest_is_what_it_was_told)
{
	struct flow f = { .rx_cnt = 0xfffffff0, .fwd_cnt = 0xfffffff0, .told_cnt = 0xfffffff0 };
	CHECK(flow_receive(&f, 0));
	CHECK(!flow_receive(&f, VSOCK_BUF + 1));
	CHECK(!flow_receive(&f, UINT32_MAX));
	CHECK(flow_receive(&f, VSOCK_BUF));
	CHECK_EQ(f.rx_cnt, VSOCK_BUF - 16); // past 2^32
	CHECK_EQ(flow_held(&f), VSOCK_BUF);
	f.fwd_cnt = f.rx_cnt; // all of it went on, and the guest does not know
	CHECK(flow_stale(&f));
	CHECK(!flow_receive(&f, 1));
	f.told_cnt += 100;
	CHECK(!flow_receive(&f, 101));
	CHECK(flow_receive(&f, 100));
	f = (struct flow){ .fwd_cnt = VSOCK_BUF / 2 - 1, .rx_cnt = VSOCK_BUF / 2 };
	CHECK(!flow_stale(&f));
	f.fwd_cnt++;
	CHECK(flow_stale(&f));
}

TEST(credit_that_the_guest_gives)
{
	struct flow f = { .tx_cnt = 0xffffff00, .peer_fwd = 0xffffff00 };
	CHECK_EQ(flow_credit(&f), 0);
	flow_heard(&f, 1000, 0xffffff00);
	CHECK_EQ(flow_credit(&f), 1000);
	f.tx_cnt += 900; // past 2^32
	CHECK_EQ(flow_credit(&f), 100);
	flow_heard(&f, 1000, 0xffffff00 + 300);
	CHECK_EQ(flow_credit(&f), 400);
	flow_heard(&f, 1000, 0xffffff00 + 200); // one that was overtaken
	CHECK_EQ(flow_credit(&f), 400);
	flow_heard(&f, 1000, 0xffffff00 + 901); // more than was sent
	CHECK_EQ(flow_credit(&f), 400);
	flow_heard(&f, 1000, 0x80000000);
	CHECK_EQ(flow_credit(&f), 400);
	flow_heard(&f, 600, 0xffffff00 + 300); // a smaller buffer: all of it under way
	CHECK_EQ(flow_credit(&f), 0);
	flow_heard(&f, 10, 0xffffff00 + 300);
	CHECK_EQ(flow_credit(&f), 0);
	flow_heard(&f, UINT32_MAX, 0xffffff00 + 900);
	CHECK_EQ(flow_credit(&f), UINT32_MAX);
}

TEST(counts_go_past_two_to_the_32)
{
	CHECK(set_up());
	CHECK(open_one(9));
	struct vsock_conn *c = vsock_conn_find(r.v, PORT, 9);
	CHECK(c && c->state == VSOCK_OPEN);
	c->flow.rx_cnt = c->flow.fwd_cnt = c->flow.told_cnt = 0xfffff000;
	static uint8_t back[1 << 20];
	size_t n = 0;
	uint32_t total = 0;
	// Until the socket takes no more, and the ring of what is held wraps, too.
	while (!c->held || flow_held(&c->flow) < 50000) {
		for (unsigned i = 0; i < 40000; i++)
			r.tx.ram[DRIVER_DATA + 44 + i] = (uint8_t)((total + i) % 251);
		buffers(1, 64);
		send_packet(9, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, 0);
		CHECK(got().op == VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		send_packet(9, VIRTIO_VSOCK_OP_RW, 40000, 0);
		total += 40000;
		CHECK(total <= sizeof(back) && c->state == VSOCK_OPEN);
	}
	for (ssize_t k; n < total;) {
		k = read(r.host, back + n, sizeof(back) - n);
		n += k > 0 ? (size_t)k : 0;
		run();
	}
	CHECK_EQ(n, total);
	for (unsigned i = 0; i < total; i++)
		CHECK(back[i] == i % 251);
	CHECK(!c->held);
	CHECK_EQ(c->flow.fwd_cnt, 0xfffff000 + total);
	tear_down();
}

// Its ports are free then, and the guest may have given them to another connection: that one's credit is not this one's to tell.
TEST(a_connection_that_drains_says_no_more)
{
	CHECK(set_up());
	CHECK(open_one(9));
	struct vsock_conn *c = vsock_conn_find(r.v, PORT, 9);
	const int small = 20000; // what is held goes on in several pieces
	CHECK_EQ(setsockopt(c->host.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	while (!c->held || flow_held(&c->flow) < VSOCK_BUF - 1000) {
		buffers(1, 64);
		send_packet(9, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, 0);
		CHECK(got().op == VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		send_packet(9, VIRTIO_VSOCK_OP_RW, MIN(40000u, VSOCK_BUF - flow_held(&c->flow)), 0);
	}
	buffers(4, 64);
	send_packet(9, VIRTIO_VSOCK_OP_SHUTDOWN, 0, VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
	while (got().op != VIRTIO_VSOCK_OP_RST)
		CHECK(r.got < r.rx.used->idx);
	CHECK(c->state == VSOCK_DRAINING && !vsock_conn_find(r.v, PORT, 9));
	// The host's end reads some, so that more than half of what was held goes on, and then all.
	static uint8_t back[4096];
	while (read(r.host, back, sizeof(back)) > 0 && c->state == VSOCK_DRAINING) {
		run();
		CHECK_EQ(got().op, 0);
	}
	CHECK_EQ(c->state, VSOCK_FREE);
	tear_down();
}

TEST(a_guest_that_exceeds_its_credit_is_reset)
{
	CHECK(set_up());
	CHECK(open_one(9));
	struct vsock_conn *c = vsock_conn_find(r.v, PORT, 9);
	c->flow.told_cnt = c->flow.rx_cnt - VSOCK_BUF + 10; // ten bytes are left
	buffers(2, 64);
	send_packet(9, VIRTIO_VSOCK_OP_RW, 10, 0);
	CHECK_EQ(c->state, VSOCK_OPEN);
	c->flow.told_cnt = c->flow.rx_cnt - VSOCK_BUF;
	send_packet(9, VIRTIO_VSOCK_OP_RW, 1, 0);
	struct virtio_vsock_hdr h;
	while ((h = got()).op == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
		;
	CHECK_EQ(h.op, VIRTIO_VSOCK_OP_RST);
	CHECK(!vsock_conn_find(r.v, PORT, 9));
	CHECK_EQ(r.v->count, 0);
	tear_down();
}

TEST(data_fills_buffers_of_all_sizes_as_far_as_credit_goes)
{
	CHECK(set_up());
	CHECK(open_one(9));
	static const uint32_t sizes[] = { 45, 144, 1044, 1044 };
	static const uint32_t due[] = { 1, 100, 899, 0 }; // 1000 in all
	uint8_t bytes[3000] = { 0 };
	for (unsigned i = 0; i < 4; i++)
		buffers(1, sizes[i]);
	CHECK_EQ(write(r.host, bytes, sizeof(bytes)), sizeof(bytes));
	run();
	for (unsigned i = 0; i < 4; i++) {
		struct virtio_vsock_hdr h = got();
		CHECK_EQ(h.op, due[i] ? VIRTIO_VSOCK_OP_RW : VIRTIO_VSOCK_OP_CREDIT_REQUEST);
		CHECK_EQ(h.len, due[i]);
	}
	tear_down();
}

TEST(a_pool_that_is_used_up_and_given_back)
{
	CHECK(set_up());
	for (unsigned turn = 0; turn < 3; turn++) {
		for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++) {
			struct vsock_conn *c = vsock_conn_new(r.v, VSOCK_CONNECTING);
			CHECK(c);
			vsock_conn_key(c, i % 7, i);
		}
		CHECK(!vsock_conn_new(r.v, VSOCK_HELLO));
		for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++) {
			uint32_t one = (i * 577 + turn) % VSOCK_CONNS_MAX; // 577 is odd: each once
			struct vsock_conn *c = vsock_conn_find(r.v, one % 7, one);
			CHECK(c && c->guest_port == one);
			vsock_conn_free(c);
			CHECK(!vsock_conn_find(r.v, one % 7, one));
		}
		CHECK_EQ(r.v->count, 0);
		CHECK_EQ(r.v->used_once, VSOCK_CONNS_MAX);
		CHECK(!r.v->timed.first && !r.v->timed.last);
	}
	tear_down();
}

TEST(short_packets_and_wrong_buffers_stop_their_queue)
{
	CHECK(set_up());
	driver_desc(&r.tx, 0, DRIVER_DATA, 43, 0, 0);
	driver_offer(&r.tx, 0);
	vsock_kick(r.v, &r.q[1]);
	CHECK(r.q[1].failed && !r.q[0].failed);
	tear_down();
	CHECK(set_up());
	send_packet(1, VIRTIO_VSOCK_OP_RW, 0, 0);
	buffers(1, 43);
	CHECK(r.q[0].failed && !r.q[1].failed);
	tear_down();
}
