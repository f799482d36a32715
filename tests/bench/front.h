// SPDX-License-Identifier: BSD-2-Clause
// A front-end and its driver in one, with no virtual machine, for any back-end: split rings, interrupts by eventfd, kicks where the
// device wants them.  For the programs of this folder that put load on a device; each includes it once.
#ifndef MINIVMM_TESTS_BENCH_FRONT_H
#define MINIVMM_TESTS_BENCH_FRONT_H

#include <errno.h>
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

static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}

static inline void send_message(int sock, uint32_t request, const void *p, uint32_t len, int fd)
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

static inline void read_all(int sock, void *p, size_t len)
{
	if (recv(sock, p, len, MSG_WAITALL) != (ssize_t)len)
		fail("the back-end does not answer");
}

static inline uint64_t ask_u64(int sock, uint32_t request)
{
	uint32_t head[3];
	uint64_t v;
	send_message(sock, request, NULL, 0, -1);
	read_all(sock, head, sizeof(head));
	read_all(sock, &v, sizeof(v));
	return v;
}

static inline void queue_start(struct device *d, unsigned i)
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

static inline void device_open(struct device *d, const char *path, uint64_t wanted, unsigned queues)
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
static inline void offer(struct queue *q, uint16_t head)
{
	q->avail->ring[q->next++ % SIZE] = head;
	__atomic_store_n(&q->avail->idx, q->next, __ATOMIC_RELEASE);
}

static inline void kick(struct queue *q)
{
	uint64_t one = 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) &&
	    write(q->kick, &one, sizeof(one)) < 0 && errno != EAGAIN)
		fail("kick");
}

static inline bool take(struct queue *q, struct vring_used_elem *e)
{
	if (q->seen == __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE))
		return false;
	*e = q->used->ring[q->seen++ % SIZE];
	return true;
}

static inline void wait_for_any(struct device **d, unsigned devices, unsigned queues)
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

static inline double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline void report(uint64_t done, uint64_t lost, double begin)
{
	printf("done=%llu lost=%llu seconds=%.6f\n", (unsigned long long)done, (unsigned long long)lost,
	       now() - begin);
}

// ---- frames -----------------------------------------------------------------------------------------------------

static inline void frame_offer(struct queue *q, unsigned slot, uint32_t len, uint16_t flags)
{
	q->desc[slot] = (struct vring_desc){ q->gpa + slot * SLOT, len, flags, 0 };
	offer(q, (uint16_t)slot);
}

// Takes what has arrived and gives the buffers back: frames.
static inline uint64_t receive(struct queue *rx)
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

#endif
