// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/virtq.h"

#include "devices/sdk/dirty.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

// Rings are little-endian (virtio 1.2 §1.4).
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "big-endian hosts need conversions here"
#endif

static uint16_t load_u16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store_u16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

// The two event fields live behind the rings (virtio 1.2 §2.7.6, §2.7.8).
static uint16_t *used_event(const struct vq *q)
{
	return &q->avail->ring[q->size];
}

static uint16_t *avail_event(const struct vq *q)
{
	return (uint16_t *)(void *)&q->used->ring[q->size];
}

// [off, off + len) of the used ring was written.
static void used_written(struct vq *q, size_t off, size_t len)
{
	if (q->dirty && q->dirty_used_gpa != UINT64_MAX)
		dirty_mark(q->dirty, q->dirty_used_gpa + off, len);
}

static size_t used_offset(const struct vq *q, const void *p)
{
	return (size_t)((const uint8_t *)p - (const uint8_t *)q->used);
}

static void *ring_part(struct guest_mem *mem, uint64_t uva, uint64_t len, uintptr_t align)
{
	void *p = guest_mem_at(mem, GUEST_USER, uva, len);
	return p && ((uintptr_t)p & (align - 1)) == 0 ? p : NULL;
}

static int ring_locate(struct vq *q, const struct vq_place *at)
{
	uint64_t n = at->size;
	void *desc = ring_part(q->mem, at->desc, n * sizeof(struct vring_desc), 16);
	void *avail = ring_part(q->mem, at->avail, 6 + 2 * n, 2);
	void *used = ring_part(q->mem, at->used, 6 + n * sizeof(struct vring_used_elem), 4);
	if (!desc || !avail || !used)
		return -EFAULT;
	q->desc = desc;
	q->avail = avail;
	q->used = used;
	return 0;
}

int vq_start(struct vq *q, struct guest_mem *mem, const struct vq_place *at, uint64_t features)
{
	if (!is_power_of_two(at->size) || at->size > VQ_SIZE_MAX)
		return -EINVAL;
	q->mem = mem;
	int rc = ring_locate(q, at);
	if (rc < 0)
		return rc;
	q->size = at->size;
	q->event_idx = features & (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
	q->indirect = features & (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC);
	q->next_avail = at->base;
	q->next_used = q->published = q->signalled = load_u16(&q->used->idx);
	q->log.region = NULL;
	// With a record, what was taken is known better than by a front-end whose back-end was killed.
	if (at->log && at->log_size >= at->size)
		q->next_avail =
			(uint16_t)(q->next_used + inflight_open(&q->log, at->log, at->size, q->next_used));
	q->seen_avail = q->next_avail;
	q->in_flight = 0;
	q->failed = false;
	q->notify_on = true;
	q->running = true;
	return 0;
}

int vq_relocate(struct vq *q, const struct vq_place *at)
{
	int rc = ring_locate(q, at);
	if (rc < 0)
		q->running = false;
	return rc;
}

uint16_t vq_stop(struct vq *q)
{
	q->running = false;
	q->failed = false;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
	q->log.region = NULL;
	return q->next_avail;
}

int vq_fail(struct vq *q, const char *fmt, ...)
{
	if (q->failed)
		return -EPROTO;
	q->failed = true;
	char why[160];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	log_limited(LOG_WARN, "queue %u stopped: %s", q->index, why);
	if (q->err_fd >= 0)
		fd_event_signal(q->err_fd);
	if (q->on_fail)
		q->on_fail(q);
	return -EPROTO;
}

bool vq_has_more(struct vq *q)
{
	if (!q->running || !q->enabled || q->failed)
		return false;
	if (q->log.region && q->log.redo)
		return true;
	if (q->seen_avail == q->next_avail)
		q->seen_avail = __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);
	return q->seen_avail != q->next_avail;
}

// One table of descriptors: the ring's own or an indirect one.
struct table {
	const struct vring_desc *desc;
	unsigned count;
	bool indirect;
};

static int add_segment(struct vq *q, const struct vring_desc *d, struct vq_chain *c, struct iovec *iov,
		       unsigned iov_max)
{
	bool writable = d->flags & VRING_DESC_F_WRITE;
	if (!writable && c->writable)
		return vq_fail(q, "readable descriptor after a writable one");
	if (d->len == 0)
		return vq_fail(q, "descriptor of length 0");
	unsigned used = c->readable + c->writable;
	int n = guest_mem_iov(q->mem, d->addr, d->len, iov + used, iov_max - used);
	if (n == -ENOBUFS)
		return vq_fail(q, "request of more than %u segments", iov_max);
	if (n < 0)
		return vq_fail(q, "descriptor outside guest memory: %#llx + %#x", (unsigned long long)d->addr,
			       d->len);
	*(writable ? &c->writable : &c->readable) += (unsigned)n;
	*(writable ? &c->writable_len : &c->readable_len) += d->len;
	return 0;
}

// Follows an indirect descriptor; *t and *next become its table.
static int enter_indirect(struct vq *q, const struct vring_desc *d, struct table *t, unsigned limit)
{
	if (!q->indirect)
		return vq_fail(q, "indirect descriptor that was not negotiated");
	if (t->indirect)
		return vq_fail(q, "indirect descriptor in an indirect table");
	if (d->flags & VRING_DESC_F_NEXT)
		return vq_fail(q, "indirect descriptor with NEXT");
	if (d->len == 0 || d->len % sizeof(struct vring_desc) != 0 ||
	    d->len / sizeof(struct vring_desc) > limit)
		return vq_fail(q, "indirect table of %u bytes", d->len);
	const void *p = guest_mem_at(q->mem, GUEST_PHYSICAL, d->addr, d->len);
	if (!p)
		return vq_fail(q, "indirect table outside guest memory: %#llx", (unsigned long long)d->addr);
	*t = (struct table){ .desc = p,
			     .count = d->len / (unsigned)sizeof(struct vring_desc),
			     .indirect = true };
	return 0;
}

static int walk_chain(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	struct table t = { .desc = q->desc, .count = q->size };
	// Linux fills indirect tables up to the device's segment limit even where that is above the queue's size.
	unsigned limit = MAX((unsigned)q->size, iov_max), at = c->head;
	for (unsigned seen = 0; seen < limit + 1; seen++) {
		struct vring_desc d;
		memcpy(&d, &t.desc[at], sizeof(d));
		__asm__ volatile("" ::: "memory"); // the copy is what gets checked: it must not be read again
		if (d.flags & VRING_DESC_F_INDIRECT) {
			int rc = enter_indirect(q, &d, &t, limit);
			if (rc < 0)
				return rc;
			at = 0;
			continue;
		}
		int rc = add_segment(q, &d, c, iov, iov_max);
		if (rc < 0)
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		if (d.next >= t.count)
			return vq_fail(q, "next descriptor %u of %u", d.next, t.count);
		at = d.next;
	}
	return vq_fail(q, "descriptor chain without end");
}

// A request that a back-end before us took and did not give back.
static int redo(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	int head = inflight_redo(&q->log);
	if (head < 0)
		return 0;
	*c = (struct vq_chain){ .head = (uint16_t)head };
	int rc = walk_chain(q, c, iov, iov_max);
	if (rc < 0)
		return rc;
	q->in_flight++;
	return 1;
}

int vq_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	if (!vq_has_more(q))
		return q->failed ? -EPROTO : 0;
	if (q->log.region && q->log.redo) {
		int rc = redo(q, c, iov, iov_max);
		if (rc != 0 || !vq_has_more(q))
			return rc;
	}
	uint16_t waiting = (uint16_t)(q->seen_avail - q->next_avail);
	if (waiting > q->size)
		return vq_fail(q, "avail index jumps by %u in a queue of %u", waiting, q->size);
	*c = (struct vq_chain){ .head = load_u16(&q->avail->ring[q->next_avail & (q->size - 1)]) };
	if (c->head >= q->size)
		return vq_fail(q, "head descriptor %u of %u", c->head, q->size);
	// More requests than descriptors: the driver offers a head again that it did not get back.
	if (q->in_flight >= q->size)
		return vq_fail(q, "more than %u requests at a time", q->size);
	int rc = walk_chain(q, c, iov, iov_max);
	if (rc < 0)
		return rc;
	if (q->log.region)
		inflight_take(&q->log, c->head);
	q->next_avail++;
	q->in_flight++;
	return 1;
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
	q->in_flight--;
	if (!q->running || q->failed)
		return;
	// While some of what another back-end took waits to be done again, so does this; next_avail is past all of it.
	if (q->log.region && q->log.redo) {
		inflight_redo_later(&q->log, c->head);
		return;
	}
	if (q->log.region)
		inflight_untake(&q->log, c->head);
	q->next_avail--;
}

void vq_push(struct vq *q, uint16_t head, uint32_t len)
{
	q->in_flight--;
	if (!q->running || q->failed)
		return;
	if (q->log.region)
		inflight_give(&q->log, head);
	struct vring_used_elem *e = &q->used->ring[q->next_used++ & (q->size - 1)];
	e->id = head;
	e->len = len;
	if (q->dirty) {
		dirty_mark_request(q->dirty, q, head);
		used_written(q, used_offset(q, e), sizeof(*e));
	}
}

static bool wants_interrupt(const struct vq *q, uint16_t old)
{
	if (!q->event_idx)
		return !(load_u16(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	return vring_need_event(load_u16(used_event(q)), q->published, old);
}

void vq_publish(struct vq *q)
{
	if (!q->running || q->failed || q->next_used == q->published)
		return;
	uint16_t count = (uint16_t)(q->next_used - q->published);
	q->published = q->next_used;
	__atomic_store_n(&q->used->idx, q->published, __ATOMIC_RELEASE);
	used_written(q, offsetof(struct vring_used, idx), sizeof(q->used->idx));
	if (q->dirty && q->dirty->event_fd >= 0)
		fd_event_signal(q->dirty->event_fd);
	if (q->log.region)
		inflight_published(&q->log, count, q->published);
	// The driver writes its wish and then reads used.idx; we wrote used.idx and now read its wish.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint16_t old = q->signalled;
	q->signalled = q->published;
	if (q->call_fd >= 0 && wants_interrupt(q, old))
		fd_event_signal(q->call_fd);
}

bool vq_notify_enable(struct vq *q)
{
	if (!q->running || q->failed)
		return false;
	if (q->event_idx)
		store_u16(avail_event(q), q->next_avail);
	else if (!q->notify_on)
		store_u16(&q->used->flags, 0);
	used_written(q, q->event_idx ? used_offset(q, avail_event(q)) : 0, 2);
	q->notify_on = true;
	// The driver publishes avail.idx and then reads our wish; we wrote the wish and now read avail.idx.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return vq_has_more(q);
}

void vq_notify_disable(struct vq *q)
{
	if (!q->running || q->failed || !q->notify_on)
		return;
	q->notify_on = false;
	// With EVENT_IDX an event index that lies behind asks for nothing.
	if (!q->event_idx) {
		store_u16(&q->used->flags, VRING_USED_F_NO_NOTIFY);
		used_written(q, 0, sizeof(q->used->flags));
	}
}
