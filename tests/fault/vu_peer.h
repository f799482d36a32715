// SPDX-License-Identifier: BSD-2-Clause
// A vhost-user back-end in a thread: well-behaved, recording what it gets, until it is told where to
// misbehave.
//
// Serves one end of a socket pair with its own framing, not with the project's, so that a mistake there is
// not made twice. Everything is set before peer_start(); what was recorded is read after peer_join().
#ifndef MINIVMM_TESTS_FAULT_VU_PEER_H
#define MINIVMM_TESTS_FAULT_VU_PEER_H

#include "bridges/vhost_user.h"
#include "bridges/vhost_user_wire.h"
#include "tests/fault/peer.h"
#include "vmm/base/deadline.h"
#include "vmm/base/loop.h"
#include "vmm/memmap.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_LOG_MAX 1024
#define PEER_BIT(n)  (UINT64_C(1) << (n))
#define PEER_PROTOCOL                                                                       \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(CONFIG) | \
	 VHOST_USER_PF_BIT(BACKEND_REQ))

struct peer_message {
	struct vhost_user_header h;
	unsigned fds;
	uint8_t payload[VHOST_USER_PAYLOAD_MAX];
};

struct peer {
	int sock;						    // its end
	int front;						    // ours, until a back-end is opened on it
	uint64_t features, protocol, queue_num, mem_slots, nack_of; // nack_of: request that is refused
	uint8_t config[1024]; // the first config_len of them; more is refused
	uint32_t config_len;
	uint64_t status, status_mask; // bits of the status that it is willing to set
	uint32_t vring_base;
	int object_fd; // its answer to GET_SHARED_OBJECT; -1: none
	struct vhost_user_shmem_config shared;
	size_t shared_len;     // of it that is answered
	uint64_t inflight_len; // of the record that it makes; 0: none
	int inflight_fd;       // handed over instead of a good one; -1: a good one
	// Misbehaviour: called instead of answering request `at` (0: none).  Returns false to end the
	// connection.
	uint32_t at;
	unsigned at_nth; // at its how manieth arrival, from 0
	bool every;	 // at every message instead
	bool (*fault)(struct peer *p, const struct peer_message *m);
	int fault_arg;
	atomic_bool release; // ends a fault that waits
	_Atomic int channel; // the request channel that it was given, or -1
	int kick, call, err; // last ones received
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

static inline void peer_send(struct peer *p, const void *buf, size_t len)
{
	peer_send_fds(p, buf, len, NULL, 0);
}

static inline void peer_reply_raw(struct peer *p, uint32_t request, uint32_t flags, uint32_t size,
				  const void *payload, size_t len)
{
	uint8_t out[12 + VHOST_USER_PAYLOAD_MAX];
	const struct vhost_user_header h = { .request = request, .flags = flags, .size = size };
	memcpy(out, &h, 12);
	if (len)
		memcpy(out + 12, payload, len);
	peer_send(p, out, 12 + len);
}

static inline void peer_reply(struct peer *p, uint32_t request, const void *payload, size_t len)
{
	peer_reply_raw(p, request, 0x5, (uint32_t)len, payload, len);
}

static inline void peer_reply_u64(struct peer *p, uint32_t request, uint64_t v)
{
	peer_reply(p, request, &v, sizeof(v));
}

// ---- good behaviour -----------------------------------------------------------------------------

// Keeps the descriptors that matter, closes the rest.
static inline void peer_keep_fds(struct peer *p, const struct peer_message *m, const int *fds)
{
	for (unsigned i = 0; i < m->fds; i++) {
		int *slot = m->h.request == VHOST_USER_SET_VRING_KICK	? &p->kick
			    : m->h.request == VHOST_USER_SET_VRING_CALL ? &p->call
			    : m->h.request == VHOST_USER_SET_VRING_ERR	? &p->err
									: NULL;
		if (m->h.request == VHOST_USER_SET_BACKEND_REQ_FD) {
			atomic_store(&p->channel, fds[i]);
		} else if (slot) {
			if (*slot >= 0)
				close(*slot);
			*slot = fds[i];
		} else {
			close(fds[i]);
		}
	}
}

static inline void peer_answer_inflight(struct peer *p)
{
	struct {
		struct vhost_user_header h;
		uint32_t len[6];
	} reply = { .h = { VHOST_USER_GET_INFLIGHT_FD, 5, 24 } };
	memcpy(reply.len, &p->inflight_len, sizeof(p->inflight_len));
	int fd = p->inflight_fd >= 0 ? dup(p->inflight_fd) : memfd_create("inflight", MFD_CLOEXEC);
	if (fd < 0 || (p->inflight_fd < 0 && ftruncate(fd, (off_t)p->inflight_len) < 0))
		abort();
	peer_send_fds(p, &reply, 12 + 24, &fd, p->inflight_len > 0);
	close(fd);
}

static inline void peer_answer(struct peer *p, const struct peer_message *m)
{
	uint64_t value = 0;
	struct vhost_user_config c;
	struct vhost_user_vring_state s;
	memcpy(&value, m->payload, 8);
	switch (m->h.request) {
	case VHOST_USER_GET_FEATURES:
		peer_reply_u64(p, m->h.request, p->features);
		return;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		peer_reply_u64(p, m->h.request, p->protocol);
		return;
	case VHOST_USER_GET_QUEUE_NUM:
		peer_reply_u64(p, m->h.request, p->queue_num);
		return;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		peer_reply_u64(p, m->h.request, p->mem_slots);
		return;
	case VHOST_USER_GET_STATUS:
		peer_reply_u64(p, m->h.request, p->status);
		return;
	case VHOST_USER_GET_CONFIG:
		memcpy(&c, m->payload, sizeof(c));
		if (c.len > sizeof(c.data) || c.off > p->config_len || c.len > p->config_len - c.off) {
			peer_reply(p, m->h.request, NULL, 0);
			return;
		}
		memcpy(c.data, p->config + c.off, c.len);
		peer_reply(p, m->h.request, &c, 12 + c.len);
		return;
	case VHOST_USER_GET_VRING_BASE:
		memcpy(&s, m->payload, sizeof(s));
		s.num = p->vring_base;
		peer_reply(p, m->h.request, &s, sizeof(s));
		return;
	case VHOST_USER_GET_INFLIGHT_FD:
		peer_answer_inflight(p);
		return;
	case VHOST_USER_GET_SHARED_OBJECT: {
		const struct vhost_user_header h = { m->h.request, 5, 0 };
		peer_send_fds(p, &h, sizeof(h), &p->object_fd, p->object_fd >= 0);
		return;
	}
	case VHOST_USER_GET_SHMEM_CONFIG:
		peer_reply(p, m->h.request, &p->shared, p->shared_len);
		return;
	case VHOST_USER_SET_STATUS:
		p->status = value & p->status_mask;
		break;
	default:
		break;
	}
	if (m->h.flags & 0x8)
		peer_reply_u64(p, m->h.request, m->h.request == p->nack_of);
}

static inline void *peer_run(void *arg)
{
	struct peer *p = arg;
	for (;;) {
		int fds[PEER_FDS_MAX] = { 0 };
		struct peer_message *m = &p->log[p->count < PEER_LOG_MAX ? p->count : PEER_LOG_MAX - 1];
		m->fds = 0;
		if (!peer_read_from(p->sock, &m->h, 12, fds, &m->fds))
			break;
		if (m->h.size > sizeof(m->payload) ||
		    !peer_read_from(p->sock, m->payload, m->h.size, fds, &m->fds))
			break;
		p->count += p->count < PEER_LOG_MAX;
		peer_keep_fds(p, m, fds);
		if (p->every || (p->at && m->h.request == p->at && p->seen_at++ == p->at_nth)) {
			if (!p->fault(p, m))
				break;
			continue;
		}
		peer_answer(p, m);
	}
	shutdown(p->sock, SHUT_RDWR);
	return NULL;
}

// A block device of 1 MiB with 4 queues.
static inline void peer_init(struct peer *p)
{
	int pair[2];
	memset(p, 0, sizeof(*p));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	p->sock = pair[0];
	p->front = pair[1];
	p->channel = p->kick = p->call = p->err = p->inflight_fd = p->object_fd = -1;
	p->features = PEER_BIT(32) | PEER_BIT(30) | PEER_BIT(28) | PEER_BIT(12) | PEER_BIT(13) | PEER_BIT(14);
	p->protocol = PEER_PROTOCOL;
	p->queue_num = 4;
	p->mem_slots = 32;
	p->config_len = 256;
	p->status_mask = 0xff;
	p->shared_len = sizeof(p->shared);
	p->config[1] = 8;  // capacity: 2048 sectors
	p->config[34] = 4; // num_queues
	p->log = calloc(PEER_LOG_MAX, sizeof(p->log[0]));
}

static inline void peer_start(struct peer *p)
{
	if (pthread_create(&p->thread, NULL, peer_run, p) != 0)
		abort();
}

// Waits for its thread (the front-end has closed its end, or the peer has ended the connection) and closes
// what it holds.
static inline void peer_join(struct peer *p)
{
	pthread_join(p->thread, NULL);
	int fds[] = { p->sock, p->channel, p->kick, p->call, p->err };
	for (unsigned i = 0; i < 5; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	p->sock = p->kick = p->call = p->err = -1;
	atomic_store(&p->channel, -1);
}

static inline void peer_free(struct peer *p)
{
	free(p->log);
	p->log = NULL;
}

// ---- the front-end under test
// -----------------------------------------------------------------------------------

struct front {
	struct loop loop;
	struct backend *b;
	struct err e;
	int rc;
	unsigned died, changed, failed;
	int64_t died_at; // deadline_now()
	char why[256];
};

static void front_died(void *owner, const char *why)
{
	struct front *f = owner;
	f->died++;
	f->died_at = deadline_now();
	snprintf(f->why, sizeof(f->why), "%s", why);
}

static void front_changed(void *owner)
{
	((struct front *)owner)->changed++;
}

static void front_failed(void *owner)
{
	((struct front *)owner)->failed++;
}

static const struct backend_events front_events = {
	.config_changed = front_changed,
	.died = front_died,
	.queue_failed = front_failed,
};

// What stands for the seconds of real life: long, for a busy machine, except where a test waits for it to
// pass.
#define FRONT_LONG_MS  3000
#define FRONT_SHORT_MS 400
static int front_deadline_ms = FRONT_LONG_MS;
static uint16_t front_type = 2;
static struct vhost_user_own front_own;

// Starts the peer and opens a back-end on it; f->rc says how that went.
static inline void front_open(struct front *f, struct peer *p)
{
	memset(f, 0, sizeof(*f));
	f->rc = loop_init(&f->loop);
	const struct vhost_user_params params = {
		.id = "disk0",
		.peer = "peer.sock",
		.virtio_type = front_type,
		.own = front_own,
		.sock = p->front,
		.loop = &f->loop,
		.start_deadline = deadline_in_ms(front_deadline_ms),
		.control_ms = front_deadline_ms,
		.stop_ms = front_deadline_ms,
	};
	peer_start(p);
	f->rc = vhost_user_open(&f->b, &params, &f->e);
	if (f->rc == 0) {
		f->b->events = &front_events;
		f->b->owner = f;
	}
}

static inline void front_close(struct front *f)
{
	if (f->b)
		f->b->ops->close(f->b);
	f->b = NULL;
	loop_destroy(&f->loop);
}

// Brings queue 0 to life: negotiate, memory, queue, run.
static inline int front_run(struct front *f, const struct mem_table *ram, int kick, int call)
{
	const struct backend_ops *ops = f->b->ops;
	const struct vring_cfg cfg = { .size = 128,
				       .desc_gpa = 0x1000,
				       .avail_gpa = 0x2000,
				       .used_gpa = 0x100003000,
				       .kick_fd = kick,
				       .call_fd = call };
	int rc = ops->negotiate(f->b, PEER_BIT(32) | PEER_BIT(28));
	if (rc == 0)
		rc = ops->memory(f->b, ram);
	if (rc == 0)
		rc = ops->queue_start(f->b, 0, &cfg);
	return rc == 0 ? ops->run(f->b, true) : rc;
}

#endif
