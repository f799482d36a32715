// SPDX-License-Identifier: BSD-2-Clause
// A back-end that writes down what it is asked, refuses what it is told to refuse, and counts what a transport must never ask of one:
// a queue started twice or with addresses outside RAM, features that were not offered, an operation out of order.
#ifndef MINIVMM_TESTS_UNIT_FAKE_BACKEND_H
#define MINIVMM_TESTS_UNIT_FAKE_BACKEND_H

#include "bridges/backend.h"
#include "vmm/base/check.h"
#include "vmm/memmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FB_QUEUES 8
#define FB_CONFIG 64

enum fb_op {
	FB_NONE,
	FB_FEATURES,
	FB_NEGOTIATE,
	FB_CONFIG_READ,
	FB_CONFIG_WRITE,
	FB_MEMORY,
	FB_START,
	FB_STOP,
	FB_RUN,
	FB_IDLE,
	FB_OPS
};

struct fake_backend {
	struct backend b;
	uint64_t features, negotiated;
	uint8_t config[FB_CONFIG];
	const struct memmap *memory;
	char log[1024];	     // one letter an operation; those of a queue with its number
	enum fb_op fail;     // this operation is refused
	unsigned fail_queue; // FB_START, FB_STOP: of this queue
	bool die_on_fail;    // and the back-end is dead then
	bool dead, running, closed, has_memory;
	bool started[FB_QUEUES];
	struct vring_cfg ring[FB_QUEUES];
	unsigned mistakes;
};

static inline void fb_note(struct fake_backend *f, const char *what)
{
	size_t len = strlen(f->log);
	snprintf(f->log + len, sizeof(f->log) - len, "%s ", what);
}

static inline void fb_expect(struct fake_backend *f, bool good, const char *what)
{
	if (good)
		return;
	f->mistakes++;
	printf("back-end: %s\n", what);
}

// What an operation answers before it does anything.
static inline int fb_answer(struct fake_backend *f, enum fb_op op, unsigned queue)
{
	fb_expect(f, !f->closed, "asked after close()");
	if (f->dead)
		return -EPIPE;
	if (f->fail != op || ((op == FB_START || op == FB_STOP) && queue != f->fail_queue))
		return 0;
	if (!f->die_on_fail)
		return -EIO;
	f->dead = true;
	if (f->b.events)
		f->b.events->died(f->b.owner, "told to die");
	return -EPIPE;
}

static inline struct fake_backend *fb_of(struct backend *b)
{
	return CONTAINER_OF(b, struct fake_backend, b);
}

static inline int fb_features(struct backend *b, uint64_t *out)
{
	*out = fb_of(b)->features;
	return fb_answer(fb_of(b), FB_FEATURES, 0);
}

static inline int fb_negotiate(struct backend *b, uint64_t features)
{
	struct fake_backend *f = fb_of(b);
	int rc = fb_answer(f, FB_NEGOTIATE, 0);
	fb_note(f, "negotiate");
	fb_expect(f, !(features & ~f->features), "features that were not offered");
	if (rc == 0)
		f->negotiated = features;
	return rc;
}

static inline int fb_config_read(struct backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct fake_backend *f = fb_of(b);
	int rc = fb_answer(f, FB_CONFIG_READ, 0);
	fb_expect(f, range_in(off, len, b->config_len), "configuration read beyond its end");
	if (rc == 0)
		memcpy(buf, f->config + off, len);
	return rc;
}

static inline int fb_config_write(struct backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct fake_backend *f = fb_of(b);
	int rc = fb_answer(f, FB_CONFIG_WRITE, 0);
	fb_expect(f, range_in(off, len, b->config_len), "configuration written beyond its end");
	if (rc == 0)
		memcpy(f->config + off, buf, len);
	return rc;
}

static inline int fb_memory(struct backend *b, const struct mem_table *t)
{
	struct fake_backend *f = fb_of(b);
	int rc = fb_answer(f, FB_MEMORY, 0);
	fb_note(f, "memory");
	fb_expect(f, t->count > 0, "no memory");
	f->has_memory = rc == 0;
	return rc;
}

static inline bool fb_ring_valid(const struct fake_backend *f, const struct vring_cfg *c)
{
	const bool packed = f->negotiated >> 34 & 1;
	uint64_t desc = 16ull * c->size, avail = packed ? 4 : 6 + 2ull * c->size,
		 used = packed ? 4 : 6 + 8ull * c->size;
	return (packed ? c->size > 0 : is_power_of_two(c->size)) && c->base == (packed ? 0x80008000u : 0) &&
	       c->size <= f->b.queue_size_max && c->desc_gpa % 16 == 0 &&
	       c->avail_gpa % (packed ? 4 : 2) == 0 && c->used_gpa % 4 == 0 &&
	       memmap_ptr(f->memory, c->desc_gpa, desc) && memmap_ptr(f->memory, c->avail_gpa, avail) &&
	       memmap_ptr(f->memory, c->used_gpa, used) &&
	       !range_overlaps(c->desc_gpa, desc, c->avail_gpa, avail) &&
	       !range_overlaps(c->desc_gpa, desc, c->used_gpa, used) &&
	       !range_overlaps(c->avail_gpa, avail, c->used_gpa, used);
}

static inline int fb_queue_start(struct backend *b, unsigned q, const struct vring_cfg *cfg)
{
	struct fake_backend *f = fb_of(b);
	char what[16];
	int rc = fb_answer(f, FB_START, q);
	snprintf(what, sizeof(what), "start%u", q);
	fb_note(f, what);
	fb_expect(f, q < b->queue_count, "a queue that does not exist");
	fb_expect(f, f->has_memory || f->dead, "a queue before the memory");
	fb_expect(f, !f->started[q % FB_QUEUES], "a queue that is started already");
	fb_expect(f, fb_ring_valid(f, cfg), "a ring that is no ring");
	fb_expect(f, fcntl(cfg->kick_fd, F_GETFD) >= 0, "no doorbell");
	fb_expect(f, cfg->call_fd == -1 || fcntl(cfg->call_fd, F_GETFD) >= 0, "no interrupt");
	if (rc == 0) {
		f->started[q % FB_QUEUES] = true;
		f->ring[q % FB_QUEUES] = *cfg;
	}
	return rc;
}

static inline int fb_queue_stop(struct backend *b, unsigned q, uint32_t *base)
{
	struct fake_backend *f = fb_of(b);
	char what[16];
	int rc = fb_answer(f, FB_STOP, q);
	snprintf(what, sizeof(what), "stop%u", q);
	fb_note(f, what);
	fb_expect(f, f->started[q % FB_QUEUES], "the end of a queue that is not started");
	f->started[q % FB_QUEUES] = false;
	*base = 7;
	return rc;
}

static inline int fb_run(struct backend *b, bool on)
{
	struct fake_backend *f = fb_of(b);
	int rc = fb_answer(f, on ? FB_RUN : FB_IDLE, 0);
	fb_note(f, on ? "run" : "idle");
	for (unsigned i = 0; i < FB_QUEUES && !on; i++)
		fb_expect(f, !f->started[i], "idle with a queue started");
	fb_expect(f, !on || !f->running, "run twice");
	if (rc == 0 || !on) // one that refuses to be idle has no queue to run, all the same
		f->running = on;
	return rc;
}

static inline void fb_close(struct backend *b)
{
	struct fake_backend *f = fb_of(b);
	for (unsigned i = 0; i < FB_QUEUES; i++)
		fb_expect(f, !f->started[i], "closed with a queue started");
	fb_expect(f, !f->closed, "closed twice");
	f->closed = true;
	b->queue_count = UINT16_MAX; // a real one is freed: nobody may look
}

static const struct backend_ops fb_ops = {
	.kind = "fake",
	.features = fb_features,
	.negotiate = fb_negotiate,
	.config_read = fb_config_read,
	.config_write = fb_config_write,
	.memory = fb_memory,
	.queue_start = fb_queue_start,
	.queue_stop = fb_queue_stop,
	.run = fb_run,
	.close = fb_close,
};

static inline void fb_init(struct fake_backend *f, const struct memmap *memory, unsigned queues,
			   uint32_t config_len)
{
	*f = (struct fake_backend){
		.b = { .ops = &fb_ops,
		       .id = "dev0",
		       .virtio_type = 2,
		       .queue_count = (uint16_t)queues,
		       .queue_size_max = 256,
		       .config_len = config_len },
		.features = UINT64_MAX,
		.memory = memory,
	};
	for (unsigned i = 0; i < FB_CONFIG; i++)
		f->config[i] = (uint8_t)(0x80 + i);
}

#endif
