// SPDX-License-Identifier: BSD-2-Clause
// A vfio-user server in a thread: a small well-behaved PCI device that records what it gets, until it is told where to
// misbehave.
//
// Serves one end of a socket pair with its own framing, not with the project's, so that a mistake there is not made twice.
// Everything is set before peer_start(); what was recorded is read after peer_join().
#ifndef MINIVMM_TESTS_FAULT_VFU_PEER_H
#define MINIVMM_TESTS_FAULT_VFU_PEER_H

#include "bridges/vfio_user.h"
#include "bridges/vfio_user_wire.h"
#include "tests/fault/peer.h"
#include "vmm/base/deadline.h"
#include "vmm/base/loop.h"
#include "vmm/memmap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_LOG_MAX	 512
#define PEER_PAYLOAD_MAX 8192
#define PEER_REGIONS	 9
#define PEER_IRQS	 5
#define PEER_BAR_SIZE	 0x4000

// struct vfio_region_info_cap_sparse_mmap with two areas.
struct peer_sparse {
	struct vfio_info_cap_header header;
	uint32_t nr_areas, reserved;
	struct vfio_region_sparse_mmap_area areas[2];
};

struct peer_message {
	struct vfio_user_header h;
	unsigned fds;
	uint8_t payload[PEER_PAYLOAD_MAX];
};

struct peer {
	int sock;  // its end
	int front; // ours, until a link is opened on it
	int twin;  // its end of a twin socket, or -1
	char json[512];
	bool offer_twin;
	struct vfio_user_device_info info;
	struct vfio_user_region_info region[PEER_REGIONS];
	int region_fd[PEER_REGIONS];		     // handed over with it, or -1
	_Alignas(8) uint8_t caps[PEER_REGIONS][256]; // behind it
	uint32_t caps_len[PEER_REGIONS];
	struct vfio_user_irq_info irq[PEER_IRQS];
	struct vfio_user_io_fd io_fd[4]; // of BAR 0
	unsigned io_fd_count;
	int io_fds[2];
	uint8_t config[256];
	uint8_t bar[PEER_BAR_SIZE]; // of BAR 0
	uint16_t refuse;	    // command that is refused
	uint32_t refuse_errno;
	// Misbehaviour: called instead of answering command `at` (0: none).  Returns false to end the connection.
	uint16_t at;
	unsigned at_nth; // at its how manieth arrival, from 0
	bool every;	 // at every message instead
	bool (*fault)(struct peer *p, const struct peer_message *m);
	int fault_arg;
	atomic_bool release; // ends a fault that waits
	int trigger[8];	     // eventfds of MSI-X
	int unmask;	     // of INTx
	_Atomic unsigned count;
	unsigned seen_at;
	struct peer_message *log;
	pthread_t thread;
};

// ---- wire ---------------------------------------------------------------------------------------

static inline void peer_send_fds(struct peer *p, const void *buf, size_t len, const int *fds,
				 unsigned fd_count)
{
	peer_send_to(p->sock, buf, len, fds, fd_count);
}

static inline void peer_message_to(int sock, struct vfio_user_header h, const void *payload, size_t len,
				   const int *fds, unsigned fd_count)
{
	uint8_t *out = malloc(16 + len);
	if (!out)
		abort();
	memcpy(out, &h, 16);
	if (len)
		memcpy(out + 16, payload, len);
	peer_send_to(sock, out, 16 + len, fds, fd_count);
	free(out);
}

static inline void peer_reply_fds(struct peer *p, const struct peer_message *m, const void *payload,
				  size_t len, const int *fds, unsigned fd_count)
{
	const struct vfio_user_header h = {
		.id = m->h.id, .command = m->h.command, .size = (uint32_t)(16 + len), .flags = VFIO_USER_REPLY
	};
	if (!(m->h.flags & VFIO_USER_NO_REPLY))
		peer_message_to(p->sock, h, payload, len, fds, fd_count);
}

static inline void peer_reply(struct peer *p, const struct peer_message *m, const void *payload, size_t len)
{
	peer_reply_fds(p, m, payload, len, NULL, 0);
}

static inline void peer_reply_error(struct peer *p, const struct peer_message *m, uint32_t error)
{
	const struct vfio_user_header h = { .id = m->h.id,
					    .command = m->h.command,
					    .size = 16,
					    .flags = VFIO_USER_REPLY | VFIO_USER_ERROR,
					    .error = error };
	if (!(m->h.flags & VFIO_USER_NO_REPLY))
		peer_message_to(p->sock, h, NULL, 0, NULL, 0);
}

// ---- good behaviour -----------------------------------------------------------------------------

// Sends a command of the server's and reads its reply, where the client's replies come: its errno, 0 if it was served; -1: the client is gone.
// Only for a time when the client asks for nothing, or on the twin socket.
static inline int peer_dma(int sock, uint16_t command, uint64_t iova, uint64_t count, void *data)
{
	const struct vfio_user_dma_access a = { .iova = iova, .count = count };
	const bool write = command == VFIO_USER_DMA_WRITE;
	const size_t len = write ? (size_t)count : 0;
	uint8_t *out = malloc(sizeof(a) + len);
	struct vfio_user_header h = { .id = 0x7777, .command = command, .size = (uint32_t)(16 + 16 + len) };
	struct vfio_user_dma_access back;
	if (!out)
		abort();
	memcpy(out, &a, sizeof(a));
	if (len)
		memcpy(out + sizeof(a), data, len);
	peer_message_to(sock, h, out, sizeof(a) + len, NULL, 0);
	free(out);
	if (!peer_read_from(sock, &h, sizeof(h), NULL, NULL))
		return -1;
	if (h.id != 0x7777 || h.command != command || (h.flags & 0xf) != VFIO_USER_REPLY)
		return -1;
	if (h.flags & VFIO_USER_ERROR)
		return h.size == 16 ? (int)h.error : -1;
	if (h.size != 32 + (write ? 0 : count) || !peer_read_from(sock, &back, sizeof(back), NULL, NULL))
		return -1;
	if (back.iova != iova || back.count != count)
		return -1;
	if (!write && !peer_read_from(sock, data, (size_t)count, NULL, NULL))
		return -1;
	return 0;
}

static inline void peer_keep_irqs(struct peer *p, const struct peer_message *m, int *fds)
{
	struct vfio_user_irq_set s;
	memcpy(&s, m->payload, sizeof(s));
	for (unsigned i = 0; i < m->fds; i++) {
		int *slot = s.index == VFIO_PCI_MSIX_IRQ_INDEX && s.start + i < 8  ? &p->trigger[s.start + i]
			    : s.index == 0 && s.flags & VFIO_IRQ_SET_ACTION_UNMASK ? &p->unmask
										   : NULL;
		if (!slot)
			continue;
		if (*slot >= 0)
			close(*slot);
		*slot = fds[i];
		fds[i] = -1;
	}
}

static inline uint8_t *peer_region_bytes(struct peer *p, uint32_t region, uint64_t offset, uint64_t count)
{
	if (region == VFIO_PCI_CONFIG_REGION_INDEX && offset <= 256 && count <= 256 - offset)
		return p->config + offset;
	if (region == 0 && offset <= PEER_BAR_SIZE && count <= PEER_BAR_SIZE - offset)
		return p->bar + offset;
	return NULL;
}

static inline void peer_answer_region_info(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_region_info r;
	uint8_t out[32 + 256];
	memcpy(&r, m->payload, sizeof(r));
	if (r.index >= PEER_REGIONS) {
		peer_reply_error(p, m, EINVAL);
		return;
	}
	memcpy(out, &p->region[r.index], 32);
	memcpy(out + 32, p->caps[r.index], p->caps_len[r.index]);
	peer_reply_fds(p, m, out, 32 + p->caps_len[r.index], &p->region_fd[r.index],
		       p->region_fd[r.index] >= 0);
}

static inline void peer_answer_io_fds(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_region_io_fds r;
	uint8_t out[16 + sizeof(p->io_fd)];
	memcpy(&r, m->payload, sizeof(r));
	r.count = r.index == 0 ? p->io_fd_count : 0;
	r.argsz = 16 + 40 * r.count;
	memcpy(out, &r, 16);
	memcpy(out + 16, p->io_fd, 40 * r.count);
	peer_reply_fds(p, m, out, r.argsz, p->io_fds, r.count ? 2 : 0);
}

static inline void peer_answer_access(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_region_access a;
	uint8_t out[PEER_PAYLOAD_MAX];
	memcpy(&a, m->payload, sizeof(a));
	uint8_t *at = a.count <= 4096 ? peer_region_bytes(p, a.region, a.offset, a.count) : NULL;
	if (!at) {
		peer_reply_error(p, m, EINVAL);
		return;
	}
	memcpy(out, &a, sizeof(a));
	if (m->h.command == VFIO_USER_REGION_READ) {
		memcpy(out + sizeof(a), at, a.count);
		peer_reply(p, m, out, sizeof(a) + a.count);
	} else {
		memcpy(at, m->payload + sizeof(a), a.count);
		peer_reply(p, m, out, sizeof(a));
	}
}

static inline void peer_answer_version(struct peer *p, const struct peer_message *m)
{
	uint8_t out[4 + sizeof(p->json)] = { 0, 0, 1, 0 };
	int pair[2] = { -1, -1 };
	memcpy(out + 4, p->json, strlen(p->json) + 1);
	if (p->offer_twin && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	peer_reply_fds(p, m, out, 4 + strlen(p->json) + 1, &pair[1], p->offer_twin);
	if (p->offer_twin)
		close(pair[1]);
	p->twin = pair[0];
}

static inline void peer_answer(struct peer *p, const struct peer_message *m)
{
	struct vfio_user_irq_info irq;
	if (p->refuse && m->h.command == p->refuse) {
		peer_reply_error(p, m, p->refuse_errno);
		return;
	}
	switch (m->h.command) {
	case VFIO_USER_VERSION:
		peer_answer_version(p, m);
		return;
	case VFIO_USER_DEVICE_GET_INFO:
		peer_reply(p, m, &p->info, sizeof(p->info));
		return;
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		peer_answer_region_info(p, m);
		return;
	case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
		peer_answer_io_fds(p, m);
		return;
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		memcpy(&irq, m->payload, sizeof(irq));
		if (irq.index < PEER_IRQS)
			peer_reply(p, m, &p->irq[irq.index], sizeof(irq));
		else
			peer_reply_error(p, m, EINVAL);
		return;
	case VFIO_USER_REGION_READ:
	case VFIO_USER_REGION_WRITE:
		peer_answer_access(p, m);
		return;
	case VFIO_USER_DMA_UNMAP:
		peer_reply(p, m, m->payload, 24);
		return;
	default:
		peer_reply(p, m, NULL, 0);
	}
}

static inline void *peer_run(void *arg)
{
	struct peer *p = arg;
	for (;;) {
		int fds[PEER_FDS_MAX] = { 0 };
		struct peer_message *m = &p->log[p->count < PEER_LOG_MAX ? p->count : PEER_LOG_MAX - 1];
		m->fds = 0;
		if (!peer_read_from(p->sock, &m->h, 16, fds, &m->fds))
			break;
		if (m->h.size < 16 || m->h.size - 16 > sizeof(m->payload) ||
		    !peer_read_from(p->sock, m->payload, m->h.size - 16, fds, &m->fds))
			break;
		p->count += p->count < PEER_LOG_MAX;
		if (m->h.command == VFIO_USER_DEVICE_SET_IRQS)
			peer_keep_irqs(p, m, fds);
		for (unsigned i = 0; i < m->fds; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		if (p->every || (p->at && m->h.command == p->at && p->seen_at++ == p->at_nth)) {
			if (!p->fault(p, m))
				break;
			continue;
		}
		peer_answer(p, m);
	}
	shutdown(p->sock, SHUT_RDWR);
	return NULL;
}

// A BAR 0 of 16 KiB that is trapped but for 8 KiB of a sealed memfd, a configuration space, 4 MSI-X vectors and INTx.
static inline void peer_init(struct peer *p)
{
	int pair[2];
	memset(p, 0, sizeof(*p));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	p->sock = pair[0];
	p->front = pair[1];
	p->twin = p->unmask = -1;
	for (unsigned i = 0; i < 8; i++)
		p->trigger[i] = -1;
	snprintf(
		p->json, sizeof(p->json),
		"{\"capabilities\":{\"max_msg_fds\":2,\"max_data_xfer_size\":1048576,\"write_multiple\":true}}");
	p->info = (struct vfio_user_device_info){ .argsz = 16,
						  .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
						  .num_regions = PEER_REGIONS,
						  .num_irqs = PEER_IRQS };
	for (unsigned i = 0; i < PEER_REGIONS; i++) {
		p->region[i] = (struct vfio_user_region_info){ .argsz = 32, .index = i };
		p->region_fd[i] = -1;
	}
	p->region[0].size = PEER_BAR_SIZE;
	p->region[0].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	p->region[7].size = 256;
	p->region[7].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	for (unsigned i = 0; i < PEER_IRQS; i++)
		p->irq[i] = (struct vfio_user_irq_info){ .argsz = 16,
							 .index = i,
							 .flags = VFIO_IRQ_INFO_EVENTFD };
	p->irq[VFIO_PCI_INTX_IRQ_INDEX].count = 1;
	p->irq[VFIO_PCI_INTX_IRQ_INDEX].flags |= VFIO_IRQ_INFO_AUTOMASKED | VFIO_IRQ_INFO_MASKABLE;
	p->irq[VFIO_PCI_MSIX_IRQ_INDEX].count = 4;
	p->irq[VFIO_PCI_MSIX_IRQ_INDEX].flags |= VFIO_IRQ_INFO_NORESIZE;
	p->io_fds[0] = p->io_fds[1] = -1;
	p->config[0] = 0x34;
	p->config[1] = 0x12;
	p->log = calloc(PEER_LOG_MAX, sizeof(p->log[0]));
	if (!p->log)
		abort();
}

// BAR 0 may be mapped in two areas of a memfd, given in the wrong order.
static inline void peer_add_file(struct peer *p, int seals)
{
	const struct peer_sparse sparse = {
		.header = { .id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1 },
		.nr_areas = 2,
		.areas = { { .offset = 0x3000, .size = 0x1000 }, { .offset = 0x1000, .size = 0x1000 } },
	};
	p->region_fd[0] = memfd_create("bar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->region_fd[0] < 0 || ftruncate(p->region_fd[0], 0x1000 + PEER_BAR_SIZE) < 0 ||
	    (seals && fcntl(p->region_fd[0], F_ADD_SEALS, seals) < 0))
		abort();
	memcpy(p->caps[0], &sparse, sizeof(sparse));
	p->caps_len[0] = sizeof(sparse);
	p->region[0].flags |= VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
	p->region[0].cap_offset = 32;
	p->region[0].argsz = 32 + sizeof(sparse);
	p->region[0].offset = 0x1000;
}

// Two doorbells in BAR 0.
static inline void peer_add_doorbells(struct peer *p)
{
	p->io_fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->io_fds[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->io_fd_count = 2;
	p->io_fd[0] = (struct vfio_user_io_fd){
		.offset = 0x100, .size = 4, .fd_index = 1, .flags = 1, .datamatch = 7
	};
	p->io_fd[1] = (struct vfio_user_io_fd){ .offset = 0x104, .size = 0, .fd_index = 0 };
}

static inline void peer_start(struct peer *p)
{
	if (pthread_create(&p->thread, NULL, peer_run, p) != 0)
		abort();
}

// Waits for its thread (the client has closed its end, or the peer has ended the connection) and closes what it holds.
static inline void peer_join(struct peer *p)
{
	pthread_join(p->thread, NULL);
	int *fds[] = { &p->sock, &p->twin, &p->unmask, &p->region_fd[0], &p->io_fds[0], &p->io_fds[1] };
	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	for (unsigned i = 0; i < 8; i++) {
		if (p->trigger[i] >= 0)
			close(p->trigger[i]);
		p->trigger[i] = -1;
	}
}

static inline void peer_free(struct peer *p)
{
	free(p->log);
	p->log = NULL;
}

static inline bool fault_mute(struct peer *p, const struct peer_message *m)
{
	(void)m;
	while (!atomic_load(&p->release)) {
		struct pollfd gone = { .fd = p->sock, .events = POLLRDHUP };
		if (poll(&gone, 1, 10) == 1)
			return false;
	}
	return false;
}

// ---- the client under test ----------------------------------------------------------------------

struct front {
	struct loop loop;
	struct vfio_link *l;
	struct err e;
	int rc;
	unsigned died;
	char why[700];
};

static void front_died(void *owner, const char *why)
{
	struct front *f = owner;
	f->died++;
	snprintf(f->why, sizeof(f->why), "%s", why);
}

static const struct vfio_link_events front_events = { .died = front_died };

// Long, for a busy machine, except where a test waits for it to pass.
#define FRONT_LONG_MS  3000
#define FRONT_SHORT_MS 400
static int front_deadline_ms = FRONT_LONG_MS;
static bool front_keep_memory;

// Starts the peer and opens a link on it; f->rc says how that went.
static inline void front_open(struct front *f, struct peer *p)
{
	memset(f, 0, sizeof(*f));
	f->rc = loop_init(&f->loop);
	const struct vfio_user_params params = {
		.id = "dev0",
		.peer = "peer.sock",
		.sock = p->front,
		.loop = &f->loop,
		.keep_memory = front_keep_memory,
		.start_deadline = deadline_in_ms(front_deadline_ms),
		.control_ms = front_deadline_ms,
		.reset_ms = front_deadline_ms,
	};
	peer_start(p);
	f->rc = vfio_user_open(&f->l, &params, &f->e);
	if (f->rc == 0) {
		f->l->events = &front_events;
		f->l->owner = f;
	}
}

static inline void front_close(struct front *f)
{
	if (f->l)
		f->l->ops->close(f->l);
	f->l = NULL;
	loop_destroy(&f->loop);
}

#endif
