// SPDX-License-Identifier: BSD-2-Clause
// udp SOCKET up|down MAC LENGTH SECONDS - datagrams in frames of LENGTH bytes between a driver on a network device and a socket of this
//     host: from the driver, or to it.  The guest is 169.254.2.1 and the host 169.254.2.2, whose frames go to MAC.
//
// Prints "done=N lost=N seconds=S": datagrams that arrived.  No more are under way than the other side has room for.
#include "tests/bench/front.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#define PORT   5001
#define WINDOW 128
#define BATCH  64
#define HEADS  42 // Ethernet, IPv4, UDP

static struct device d;
static int host;
static struct sockaddr_in peer; // who sends to the host

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

// Without a checksum, which UDP allows in IPv4: neither side is to count in software what the other leaves open.
static void datagram_make(uint8_t *f, const uint8_t *to, uint32_t len)
{
	static const uint8_t by[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
	static const uint8_t ip[] = { 8,  0, 0x45, 0,	0,   0, 0, 1,	0,   0, 64,
				      17, 0, 0,	   169, 254, 2, 1, 169, 254, 2, 2 };
	memset(f, 0x55, len);
	memcpy(f, to, 6);
	memcpy(f + 6, by, 6);
	memcpy(f + 12, ip, sizeof(ip));
	put16(f + 16, len - 14);
	uint32_t sum = 0;
	for (unsigned i = 14; i < 34; i += 2)
		sum += (uint32_t)f[i] << 8 | f[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	put16(f + 24, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
	put16(f + 34, 4000);
	put16(f + 36, PORT);
	put16(f + 38, len - 34);
	put16(f + 40, 0);
}

static uint64_t host_receive(void)
{
	static uint8_t data[BATCH][2048];
	struct mmsghdr m[BATCH];
	struct iovec iov[BATCH];
	for (unsigned i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){ data[i], sizeof(data[i]) };
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &peer,
						      .msg_namelen = sizeof(peer),
						      .msg_iov = &iov[i],
						      .msg_iovlen = 1 } };
	}
	const int n = recvmmsg(host, m, BATCH, MSG_DONTWAIT, NULL);
	return n < 0 ? 0 : (uint64_t)n;
}

static uint64_t host_send(uint32_t len, unsigned count)
{
	static uint8_t data[2048];
	struct iovec iov = { data, len - HEADS };
	struct mmsghdr m[BATCH];
	count = count > BATCH ? BATCH : count;
	for (unsigned i = 0; i < count; i++)
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &peer,
						      .msg_namelen = sizeof(peer),
						      .msg_iov = &iov,
						      .msg_iovlen = 1 } };
	const int n = sendmmsg(host, m, count, MSG_DONTWAIT);
	return n < 0 ? 0 : (uint64_t)n;
}

static unsigned out; // frames of the driver that were not given back

static uint64_t driver_send(uint64_t sent, uint32_t len, unsigned count)
{
	struct queue *tx = &d.queue[1];
	struct vring_used_elem e;
	uint64_t n = 0;
	while (take(tx, &e))
		out--;
	for (; n < count && out < SIZE; n++, out++)
		frame_offer(tx, (unsigned)((sent + n) % SIZE),
			    (uint32_t)sizeof(struct virtio_net_hdr_v1) + len, 0);
	if (n)
		kick(tx);
	return n;
}

static void wait_a_moment(void)
{
	struct pollfd p[] = { { .fd = d.queue[0].call, .events = POLLIN },
			      { .fd = d.queue[1].call, .events = POLLIN },
			      { .fd = host, .events = POLLIN } };
	uint64_t v;
	poll(p, 3, 20);
	for (unsigned i = 0; i < 2; i++)
		if (p[i].revents && read(p[i].fd, &v, sizeof(v)) < 0 && errno != EAGAIN)
			fail("interrupt");
}

static void set_up(const char *path, const char *mac, uint32_t len)
{
	const struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	unsigned m[6];
	uint8_t to[6];
	const int room = 4 << 20;
	if (sscanf(mac, "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6)
		fail("MAC");
	for (unsigned i = 0; i < 6; i++)
		to[i] = (uint8_t)m[i];
	host = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(host, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	if (host < 0 || bind(host, (const void *)&at, sizeof(at)) < 0)
		fail("the host's socket");
	device_open(&d, path, BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MRG_RXBUF), 2);
	for (unsigned i = 0; i < SIZE; i++) {
		uint8_t *p = d.queue[1].data + i * SLOT;
		memset(p, 0, sizeof(struct virtio_net_hdr_v1));
		datagram_make(p + sizeof(struct virtio_net_hdr_v1), to, len);
		frame_offer(&d.queue[0], i, 4096, VRING_DESC_F_WRITE);
	}
	kick(&d.queue[0]);
}

// The first ones settle who is where; then until it is quiet.
static void meet(uint32_t len)
{
	const double begin = now();
	for (double quiet = begin; peer.sin_port == 0 || now() - quiet < 0.1;) {
		if (now() - begin > 5) {
			fprintf(stderr, "udp: nothing comes through\n");
			exit(1);
		}
		driver_send(0, len, peer.sin_port == 0);
		wait_a_moment();
		if (host_receive() | receive(&d.queue[0]))
			quiet = now();
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: udp SOCKET up|down MAC LENGTH SECONDS\n");
		return 2;
	}
	const bool up = strcmp(argv[2], "up") == 0;
	const uint32_t len = (uint32_t)atoi(argv[4]);
	const double seconds = atof(argv[5]);
	if (len < 60 || len > 1514)
		return 2;
	set_up(argv[1], argv[3], len);
	meet(len);
	uint64_t sent = 0, done = 0, lost = 0;
	const double begin = now();
	double last = begin;
	for (;;) {
		const uint64_t got = up ? host_receive() : receive(&d.queue[0]);
		const double t = now();
		const bool on = t - begin < seconds;
		const uint64_t under_way = sent - done - lost - got;
		uint64_t more = 0;
		done += got;
		if (got)
			last = t;
		else if (under_way && t - last > 0.05) {
			lost += under_way; // what did not come in that long does not come
			last = t;
		}
		if (on && sent - done - lost < WINDOW) {
			const unsigned count = (unsigned)(WINDOW - (sent - done - lost));
			more = up ? driver_send(sent, len, count) : host_send(len, count);
			sent += more;
		}
		if (!on && sent == done + lost)
			break;
		if (!got && !more)
			wait_a_moment();
	}
	report(done, lost, begin);
	return 0;
}
