// SPDX-License-Identifier: BSD-2-Clause
// load blk SOCKET QUEUES DEPTH SECONDS - 4 KiB random reads from a vhost-user disk of 64 MiB, DEPTH at a time in each queue.
// load net SOCKET SOCKET LENGTH SEGMENT SECONDS - TCP frames of LENGTH bytes from a driver on the first network device to one on the
//     second; SEGMENT: bytes of a segment where LENGTH is more than the other may be sent in one frame, or 0.
//
// Prints "done=N lost=N seconds=S": requests that were answered, or frames that arrived.
#include "tests/bench/front.h"

#include <linux/virtio_blk.h>

// ---- blk --------------------------------------------------------------------------------------------------------

static uint32_t seed = 12345;

static void read_block(struct queue *q, unsigned slot)
{
	struct vring_desc *d = &q->desc[4 * slot];
	uint8_t *p = q->data + slot * SLOT;
	uint64_t at = q->gpa + slot * SLOT;
	seed = seed * 1103515245 + 12345;
	struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_IN, .sector = (seed >> 8 & 16383) * 8ull };
	memcpy(p, &h, sizeof(h));
	p[16] = 0xff;
	uint16_t n = (uint16_t)(4 * slot);
	d[0] = (struct vring_desc){ at, sizeof(h), VRING_DESC_F_NEXT, (uint16_t)(n + 1) };
	d[1] = (struct vring_desc){ at + 4096, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
				    (uint16_t)(n + 2) };
	d[2] = (struct vring_desc){ at + 16, 1, VRING_DESC_F_WRITE, 0 };
	offer(q, n);
}

static int blk(char **argv)
{
	static struct device d;
	struct device *list[] = { &d };
	unsigned queues = (unsigned)atoi(argv[1]), depth = (unsigned)atoi(argv[2]);
	double seconds = atof(argv[3]);
	if (queues < 1 || queues > QUEUES_MAX || depth < 1 || depth > SIZE / 4)
		return 2;
	device_open(&d, argv[0], 0, queues);
	double begin = now();
	uint64_t done = 0, asked = 0;
	for (unsigned i = 0; i < queues; i++) {
		for (unsigned k = 0; k < depth; k++, asked++)
			read_block(&d.queue[i], k);
		kick(&d.queue[i]);
	}
	for (bool on = true; done < asked;) {
		bool any = false;
		for (unsigned i = 0; i < queues; i++) {
			struct queue *q = &d.queue[i];
			struct vring_used_elem e;
			bool more = false;
			while (take(q, &e)) {
				if (q->data[e.id / 4 * SLOT + 16] != VIRTIO_BLK_S_OK)
					fail("a read failed");
				done++;
				any = true;
				if (on) {
					read_block(q, e.id / 4);
					asked++;
					more = true;
				}
			}
			if (more)
				kick(q);
		}
		if (!any)
			wait_for_any(list, 1, queues);
		else if (on && now() - begin >= seconds)
			on = false;
	}
	report(done, 0, begin);
	return 0;
}

// ---- net --------------------------------------------------------------------------------------------------------

// An Ethernet frame with TCP in IPv4, its checksum left open.
static void frame_make(uint8_t *f, const uint8_t *to, const uint8_t *by, uint32_t len)
{
	static const uint8_t ip[] = {
		8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2
	};
	memcpy(f, to, 6);
	memcpy(f + 6, by, 6);
	memcpy(f + 12, ip, sizeof(ip));
	f[16] = (uint8_t)((len - 14) >> 8);
	f[17] = (uint8_t)(len - 14);
	uint32_t sum = 0;
	for (unsigned i = 14; i < 34; i += 2)
		sum += (uint32_t)f[i] << 8 | f[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	f[24] = (uint8_t)(sum >> 8);
	f[25] = (uint8_t)sum;
	memset(f + 34, 0, 20);
	f[46] = 0x50;
	f[47] = 0x10;
	memset(f + 54, 0x55, len - 54);
}

static int net(char **argv)
{
	static struct device a, b;
	struct device *list[] = { &a, &b };
	uint32_t len = (uint32_t)atoi(argv[2]), segment = (uint32_t)atoi(argv[3]);
	double seconds = atof(argv[4]);
	const uint64_t wanted = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CSUM) |
				BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |
				BIT(VIRTIO_NET_F_GUEST_TSO4);
	if (len < 60 || len > 60000)
		return 2;
	device_open(&a, argv[0], wanted, 2);
	device_open(&b, argv[1], wanted, 2);
	struct queue *tx = &a.queue[1], *rx = &b.queue[0];
	for (unsigned i = 0; i < SIZE; i++)
		frame_offer(rx, i, 4096, VRING_DESC_F_WRITE);
	kick(rx);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .csum_start = 34,
				       .csum_offset = 16 };
	if (segment) {
		h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		h.gso_size = (uint16_t)segment;
		h.hdr_len = 54;
	}
	// In flight only what the receiver has room for: nothing is lost that a driver with flow control would not lose.
	const unsigned window = segment ? SIZE / (2 * (len / 4096 + 1)) : SIZE / 2;
	for (unsigned i = 0; i < SIZE; i++) {
		memcpy(tx->data + i * SLOT, &h, sizeof(h));
		frame_make(tx->data + i * SLOT + sizeof(h), b.config, a.config, len);
	}
	double begin = now(), last = begin;
	uint64_t sent = 0, done = 0, lost = 0;
	unsigned out = 0; // not given back
	for (;;) {
		struct vring_used_elem e;
		bool any = false;
		uint64_t got = receive(rx);
		done += got;
		while (take(tx, &e)) {
			out--;
			any = true;
		}
		double t = now();
		if (got)
			last = t;
		if (sent > done + lost && out == 0 && t - last > 0.05) {
			lost = sent - done; // what did not come in that long does not come
			last = t;
		}
		if (t - begin >= seconds) {
			if (done + lost >= sent)
				break;
		} else {
			bool more = false;
			while (out < window && sent - done - lost < window) {
				frame_offer(tx, (unsigned)(sent % SIZE), (uint32_t)sizeof(h) + len, 0);
				out++;
				sent++;
				more = true;
			}
			if (more)
				kick(tx);
			any |= more;
		}
		if (!any && !got && sent - done - lost > 0 && out > 0)
			wait_for_any(list, 2, 2);
	}
	report(done, lost, begin);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "blk") == 0)
		return blk(argv + 2);
	if (argc == 7 && strcmp(argv[1], "net") == 0)
		return net(argv + 2);
	fprintf(stderr,
		"usage: load blk SOCKET QUEUES DEPTH SECONDS | load net SOCKET SOCKET LENGTH SEGMENT SECONDS\n");
	return 2;
}
