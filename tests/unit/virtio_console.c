// SPDX-License-Identifier: BSD-2-Clause
// virtio-console: names and targets of ports, bytes that a reader takes in pieces, control messages, and what malformed requests do.
#include "devices/console/virtio_console.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT  VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE

// Two ports; the first one's end is a socket whose other end is `host`.
static struct {
	struct driver dr;
	struct vdev d;
	struct vq q[6];
	struct vcon c;
	int host;
} r;

// Starts one queue.
static bool set_up(unsigned queue, bool multiport)
{
	struct err e = { { 0 } };
	int ends[2], small = 1;
	char port[32];
	log_init("virtio_console", LOG_ERROR);
	signal(SIGPIPE, SIG_IGN); // as vdev_main() has it
	memset(&r, 0, sizeof(r));
	r.d.queues = r.q;
	for (unsigned i = 0; i < 6; i++)
		r.q[i] = (struct vq){ .index = (uint16_t)i, .enabled = true, .call_fd = -1, .err_fd = -1 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ||
	    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) < 0)
		return false;
	r.host = ends[0];
	fcntl(r.host, F_SETFL, O_NONBLOCK);
	snprintf(port, sizeof(port), "con=fd:%d", ends[1]);
	bool good = loop_init(&r.d.loop) == 0 && vcon_add_port(&r.c, port, &e) == 0 &&
		    vcon_add_port(&r.c, "agent=file:/dev/null", &e) == 0 && vcon_init(&r.c, &r.d, &e) == 0;
	close(ends[1]);
	if (!good || !driver_open(&r.dr) ||
	    guest_mem_add(&r.d.mem, r.dr.fd, 0, DRIVER_GPA, DRIVER_UVA, DRIVER_MEM) < 0)
		return false;
	vcon_start(&r.c, multiport ? UINT64_C(1) << VIRTIO_CONSOLE_F_MULTIPORT : 0);
	return vq_start(&r.q[queue], &r.d.mem, &r.dr.place, 0) == 0;
}

static void tear_down(void)
{
	vcon_stop(&r.c);
	vcon_destroy(&r.c);
	loop_destroy(&r.d.loop);
	guest_mem_clear(&r.d.mem);
	driver_close(&r.dr);
	close(r.host);
}

// Everything that the host's end has got, at most `len` bytes.
static size_t drain(uint8_t *out, size_t len)
{
	size_t n = 0;
	for (ssize_t got; n < len && (got = read(r.host, out + n, len - n)) > 0;)
		n += (size_t)got;
	return n;
}

static void order(unsigned at, uint32_t port, uint16_t event, uint16_t value)
{
	struct virtio_console_control m = { .id = port, .event = event, .value = value };
	memcpy(r.dr.ram + DRIVER_DATA + at, &m, sizeof(m));
}

TEST(ports_have_names_and_targets)
{
	static const char *const wrong[] = { "",	"=pty",	   "con",	"con=",	       "c/n=pty",
					     "con=tty", "con=fd:", "con=file:", "con=socket:", "con=stdio:x",
					     "c n=pty" };
	static struct vcon c;
	struct err e = { { 0 } };
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		e.text[0] = 0;
		CHECK_EQ(vcon_add_port(&c, wrong[i], &e), -EINVAL);
		CHECK(e.text[0]);
	}
	CHECK_EQ(c.port_count, 0);
	CHECK_EQ(vcon_add_port(&c, "org.example.0=socket:/x=y", &e), 0);
	CHECK_STR(c.port[0].name, "org.example.0");
	CHECK_STR(c.port[0].where, "/x=y");
	CHECK_EQ(vcon_add_port(&c, "b=stdio", &e), 0);
	CHECK_EQ(vcon_add_port(&c, "c=stdio", &e), -EINVAL);
	CHECK_EQ(vcon_add_port(&c, "b=pty", &e), -EINVAL);
	char name[16];
	for (unsigned i = 2; i < VCON_PORTS_MAX; i++) {
		snprintf(name, sizeof(name), "p%u=fd:%u", i, i);
		CHECK_EQ(vcon_add_port(&c, name, &e), 0);
	}
	CHECK_EQ(vcon_add_port(&c, "more=pty", &e), -EINVAL);
	CHECK_EQ(c.port_count, VCON_PORTS_MAX);
}

TEST(a_reader_takes_a_request_in_pieces)
{
	CHECK(set_up(1, false));
	static uint8_t got[300000];
	const uint32_t len = 150000;
	for (uint32_t i = 0; i < 2 * len; i++)
		r.dr.ram[DRIVER_DATA + i] = (uint8_t)(i * 7 + i / 251);
	driver_desc(&r.dr, 0, DRIVER_DATA, len, NEXT, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA + len, len, 0, 0);
	driver_offer(&r.dr, 0);
	vcon_kick(&r.c, &r.q[1]);
	CHECK_EQ(r.dr.used->idx, 0);
	CHECK_EQ(r.q[1].in_flight, 0); // nothing is held
	CHECK(r.c.port[0].tx_done > 0 && r.c.port[0].tx_done <= VCON_TURN_BYTES);
	size_t n = 0;
	for (unsigned turns = 0; n < 2 * len && turns < 10000; turns++) {
		n += drain(got + n, sizeof(got) - n);
		CHECK_EQ(n, r.c.port[0].tx_done ? r.c.port[0].tx_done : 2 * len);
		vcon_kick(&r.c, &r.q[1]);
	}
	CHECK_EQ(n, 2 * len);
	CHECK(memcmp(got, r.dr.ram + DRIVER_DATA, n) == 0);
	CHECK_EQ(r.dr.used->idx, 1);
	CHECK_EQ(r.c.port[0].sent, 2 * len);
	tear_down();
}

TEST(a_request_that_shrinks_under_way_is_done)
{
	CHECK(set_up(1, false));
	uint8_t got[1000];
	driver_desc(&r.dr, 0, DRIVER_DATA, 500000, 0, 0);
	driver_offer(&r.dr, 0);
	vcon_kick(&r.c, &r.q[1]);
	CHECK(r.c.port[0].tx_done > 10);
	driver_desc(&r.dr, 0, DRIVER_DATA, 10, 0, 0);
	vcon_kick(&r.c, &r.q[1]);
	CHECK_EQ(r.dr.used->idx, 1);
	CHECK_EQ(r.c.port[0].tx_done, 0);
	CHECK(drain(got, sizeof(got)) == sizeof(got));
	tear_down();
}

TEST(without_a_reader_output_is_dropped)
{
	CHECK(set_up(1, false));
	close(r.host);
	r.host = -1;
	for (unsigned i = 0; i < 3; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA, 100, 0, 0);
		driver_offer(&r.dr, i);
	}
	vcon_kick(&r.c, &r.q[1]);
	CHECK_EQ(r.dr.used->idx, 3);
	CHECK_EQ(r.c.port[0].dropped, 300);
	CHECK(!r.c.port[0].connected);
	tear_down();
}

TEST(input_fills_buffers_and_waits_for_more)
{
	CHECK(set_up(0, false));
	CHECK_EQ(write(r.host, "0123456789abcdef", 16), 16);
	driver_desc(&r.dr, 0, DRIVER_DATA, 3, WRITE | NEXT, 1);
	driver_desc(&r.dr, 1, DRIVER_DATA + 100, 7, WRITE, 0);
	driver_offer(&r.dr, 0);
	vcon_kick(&r.c, &r.q[0]);
	CHECK_EQ(r.dr.used->idx, 1);
	CHECK_EQ(r.dr.used->ring[0].len, 10);
	CHECK(memcmp(r.dr.ram + DRIVER_DATA, "012\0", 4) == 0);
	CHECK(memcmp(r.dr.ram + DRIVER_DATA + 100, "3456789\0", 8) == 0);
	CHECK_EQ(r.c.port[0].in_events, 0); // nobody looks before there is a buffer
	driver_desc(&r.dr, 2, DRIVER_DATA + 200, 100, WRITE, 0);
	driver_desc(&r.dr, 3, DRIVER_DATA + 300, 100, WRITE, 0);
	driver_offer(&r.dr, 2);
	driver_offer(&r.dr, 3);
	vcon_kick(&r.c, &r.q[0]);
	CHECK_EQ(r.dr.used->idx, 2);
	CHECK_EQ(r.dr.used->ring[1].len, 6);
	CHECK_EQ(r.q[0].in_flight, 0);
	CHECK_EQ(r.c.port[0].in_events, EPOLLIN);
	CHECK_EQ(write(r.host, "x", 1), 1);
	CHECK_EQ(loop_once(&r.d.loop, 1000), 1);
	CHECK_EQ(r.dr.used->idx, 3);
	CHECK_EQ(r.dr.ram[DRIVER_DATA + 300], 'x');
	tear_down();
}

TEST(wrong_buffers_stop_their_queue)
{
	for (unsigned queue = 0; queue < 6; queue++) {
		CHECK(set_up(queue, true));
		r.c.port[0].open = r.c.port[1].open = true;
		r.c.port[0].tell = 1;
		driver_desc(&r.dr, 0, DRIVER_DATA, 100, queue & 1 ? WRITE : 0, 0);
		driver_offer(&r.dr, 0);
		vcon_kick(&r.c, &r.q[queue]);
		CHECK_EQ(r.q[queue].failed, queue != 4); // a port without input looks at no buffer
		CHECK_EQ(r.q[queue].in_flight, 0);
		CHECK_EQ(r.dr.used->idx, 0);
		tear_down();
	}
}

TEST(messages_to_the_driver_in_their_order_each_once)
{
	CHECK(set_up(2, true));
	r.c.port[1].tell = 0x1f; // all that there is
	r.c.config.cols = 80;
	r.c.config.rows = 25;
	for (unsigned i = 0; i < 6; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + 100 * i, 100, WRITE, 0);
		driver_offer(&r.dr, i);
	}
	vcon_kick(&r.c, &r.q[2]);
	CHECK_EQ(r.dr.used->idx, 5);
	static const struct {
		uint16_t event, value;
		uint32_t len;
	} expected[] = { { VIRTIO_CONSOLE_PORT_ADD, 0, 8 },
			 { VIRTIO_CONSOLE_CONSOLE_PORT, 1, 8 },
			 { VIRTIO_CONSOLE_RESIZE, 0, 12 },
			 { VIRTIO_CONSOLE_PORT_NAME, 0, 13 },
			 { VIRTIO_CONSOLE_PORT_OPEN, 1, 8 } };
	for (unsigned i = 0; i < 5; i++) {
		const struct virtio_console_control *m = (void *)(r.dr.ram + DRIVER_DATA + 100 * i);
		CHECK_EQ(m->id, 1);
		CHECK_EQ(m->event, expected[i].event);
		CHECK_EQ(m->value, expected[i].value);
		CHECK_EQ(r.dr.used->ring[i].len, expected[i].len);
	}
	CHECK(memcmp(r.dr.ram + DRIVER_DATA + 208, "\x50\0\x19\0", 4) == 0); // columns first
	CHECK(memcmp(r.dr.ram + DRIVER_DATA + 308, "agent\0", 6) == 0);
	CHECK_EQ(r.c.port[1].tell, 0);
	tear_down();
}

TEST(orders_of_the_driver)
{
	CHECK(set_up(3, true));
	static const uint32_t lengths[] = { 8, 8, 8, 8, 7, 9 };
	order(0, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	order(100, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	order(200, 2, VIRTIO_CONSOLE_PORT_OPEN, 1); // no such port
	order(300, 1, VIRTIO_CONSOLE_PORT_NAME, 1); // not a driver's
	order(400, 1, VIRTIO_CONSOLE_PORT_OPEN, 1); // too short
	order(500, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	for (unsigned i = 0; i < 6; i++) {
		driver_desc(&r.dr, i, DRIVER_DATA + 100 * i, lengths[i], 0, 0);
		driver_offer(&r.dr, i);
	}
	vcon_kick(&r.c, &r.q[3]);
	CHECK_EQ(r.dr.used->idx, 6);
	CHECK(!r.q[3].failed);
	CHECK(r.c.port[0].ready && r.c.port[0].open);
	CHECK(r.c.port[1].ready && !r.c.port[1].open);
	CHECK_EQ(r.c.port[0].tell, 2 | 8 | 16);
	CHECK_EQ(r.c.port[1].tell, 8 | 16);
	vcon_stop(&r.c);
	CHECK(!r.c.port[0].ready && !r.c.port[0].open);
	CHECK_EQ(r.c.port[0].tell, 0);
	tear_down();
}
