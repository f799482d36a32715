// SPDX-License-Identifier: BSD-2-Clause
// load blk SOCKET QUEUES DEPTH SECONDS - 4 KiB random reads from a vhost-user disk of 64 MiB, DEPTH at a time in each queue.
// load net SOCKET SOCKET LENGTH SEGMENT SECONDS - TCP frames of LENGTH bytes from a driver on the first network device to one on the
//     second; SEGMENT: bytes of a segment where LENGTH is more than the other may be sent in one frame, or 0.
//
// A front-end and its driver in one, with no virtual machine, for any back-end: split rings, interrupts by eventfd, kicks where the
// device wants them.  Prints "done=N lost=N seconds=S": requests that were answered, or frames that arrived.
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SIZE	   512 // entries of a queue
#define QUEUES_MAX 8
#define AREA	   (32u << 20) // of memory, for each queue; rings first
#define DATA	   (64u << 10)
#define SLOT	   ((AREA - DATA) / SIZE & ~4095u)
#define USER	   UINT64_C(0x100000000)
#define BIT(n)	   (UINT64_C(1) << (n))
#define PROTOCOL   (BIT(0) | BIT(3) | BIT(9)) // MQ, REPLY_ACK, CONFIG

struct queue {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint8_t *data;
	uint64_t gpa; // of data
	int kick, call;
	uint16_t next, seen;
};

struct device {
	int sock;
	uint64_t features;
	uint8_t config[64];
	uint8_t *ram;
	struct queue queue[QUEUES_MAX];
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void send_message(int sock, uint32_t request, const void *p, uint32_t len, int fd)
{
	uint32_t head[3] = { request, 1, len };
	struct iovec iov[] = { { head, sizeof(head) }, { (void *)(uintptr_t)p, len } };
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
	if (fd >= 0) {
		m.msg_control = &c;
		m.msg_controllen = sizeof(c);
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.align), &fd, sizeof(fd));
	}
	if (sendmsg(sock, &m, 0) != (ssize_t)(sizeof(head) + len))
		fail("send");
}

static void read_all(int sock, void *p, size_t len)
{
	if (recv(sock, p, len, MSG_WAITALL) != (ssize_t)len)
		fail("the back-end does not answer");
}

static uint64_t ask_u64(int sock, uint32_t request)
{
	uint32_t head[3];
	uint64_t v;
	send_message(sock, request, NULL, 0, -1);
	read_all(sock, head, sizeof(head));
	read_all(sock, &v, sizeof(v));
	return v;
}

static void queue_start(struct device *d, unsigned i)
{
	struct queue *q = &d->queue[i];
	uint64_t at = (uint64_t)i * AREA;
	q->desc = (void *)(d->ram + at);
	q->avail = (void *)(d->ram + at + 8192);
	q->used = (void *)(d->ram + at + 16384);
	q->data = d->ram + at + DATA;
	q->gpa = at + DATA;
	q->kick = eventfd(0, EFD_NONBLOCK);
	q->call = eventfd(0, EFD_NONBLOCK);
	uint32_t state[2] = { i, SIZE };
	send_message(d->sock, 8, state, sizeof(state), -1); // SET_VRING_NUM
	state[1] = 0;
	send_message(d->sock, 10, state, sizeof(state), -1); // BASE
	struct {
		uint32_t index, flags;
		uint64_t desc, used, avail, log;
	} addr = { i, 0, USER + at, USER + at + 16384, USER + at + 8192, 0 };
	send_message(d->sock, 9, &addr, sizeof(addr), -1);
	uint64_t index = i;
	send_message(d->sock, 13, &index, sizeof(index), q->call);
	send_message(d->sock, 12, &index, sizeof(index), q->kick);
	state[1] = 1;
	send_message(d->sock, 18, state, sizeof(state), -1); // ENABLE
}

static void device_open(struct device *d, const char *path, uint64_t wanted, unsigned queues)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	d->sock = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(d->sock, (void *)&sun, sizeof(sun)) < 0)
		fail(path);
	uint64_t offered = ask_u64(d->sock, 1), protocol = ask_u64(d->sock, 15) & PROTOCOL;
	send_message(d->sock, 16, &protocol, sizeof(protocol), -1);
	send_message(d->sock, 3, NULL, 0, -1); // SET_OWNER
	d->features = offered & (wanted | BIT(VIRTIO_F_VERSION_1) | BIT(30));
	send_message(d->sock, 2, &d->features, sizeof(d->features), -1);
	if (protocol & BIT(9)) {
		uint32_t head[3], request[3 + 15] = { 0, 60, 0 };
		send_message(d->sock, 24, request, sizeof(request), -1);
		read_all(d->sock, head, sizeof(head));
		read_all(d->sock, request, sizeof(request));
		memcpy(d->config, request + 3, 60);
	}
	int fd = memfd_create("ram", 0);
	uint64_t len = (uint64_t)queues * AREA;
	if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
		fail("memory");
	d->ram = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	struct {
		uint32_t count, padding;
		uint64_t gpa, size, user, offset;
	} table = { 1, 0, 0, len, USER, 0 };
	send_message(d->sock, 5, &table, sizeof(table), fd);
	for (unsigned i = 0; i < queues; i++)
		queue_start(d, i);
	ask_u64(d->sock, 1); // all of it has been done
}

// Slot `s` becomes available; its descriptors are at 4 * s or s.
static void offer(struct queue *q, uint16_t head)
{
	q->avail->ring[q->next++ % SIZE] = head;
	__atomic_store_n(&q->avail->idx, q->next, __ATOMIC_RELEASE);
}

static void kick(struct queue *q)
{
	uint64_t one = 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) &&
	    write(q->kick, &one, sizeof(one)) < 0 && errno != EAGAIN)
		fail("kick");
}

static bool take(struct queue *q, struct vring_used_elem *e)
{
	if (q->seen == __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE))
		return false;
	*e = q->used->ring[q->seen++ % SIZE];
	return true;
}

static void wait_for_any(struct device **d, unsigned devices, unsigned queues)
{
	struct pollfd p[2 * QUEUES_MAX];
	unsigned n = 0;
	for (unsigned k = 0; k < devices; k++)
		for (unsigned i = 0; i < queues; i++)
			p[n++] = (struct pollfd){ .fd = d[k]->queue[i].call, .events = POLLIN };
	if (poll(p, n, 2000) <= 0) {
		fprintf(stderr, "load: no answer for 2 s\n");
		exit(1);
	}
	uint64_t v;
	for (unsigned i = 0; i < n; i++)
		if (p[i].revents && read(p[i].fd, &v, sizeof(v)) < 0 && errno != EAGAIN)
			fail("interrupt");
}

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void report(uint64_t done, uint64_t lost, double begin)
{
	printf("done=%llu lost=%llu seconds=%.6f\n", (unsigned long long)done, (unsigned long long)lost,
	       now() - begin);
}

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

static void frame_offer(struct queue *q, unsigned slot, uint32_t len, uint16_t flags)
{
	q->desc[slot] = (struct vring_desc){ q->gpa + slot * SLOT, len, flags, 0 };
	offer(q, (uint16_t)slot);
}

// Takes what has arrived and gives the buffers back: frames.
static uint64_t receive(struct queue *rx)
{
	struct vring_used_elem e;
	uint64_t frames = 0;
	bool any = false;
	static unsigned parts; // that belong to the frame at hand
	while (take(rx, &e)) {
		if (parts == 0) {
			struct virtio_net_hdr_v1 h;
			memcpy(&h, rx->data + e.id * SLOT, sizeof(h));
			parts = h.num_buffers;
			frames++;
		}
		parts -= parts > 0;
		frame_offer(rx, e.id, 4096, VRING_DESC_F_WRITE);
		any = true;
	}
	if (any)
		kick(rx);
	return frames;
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
