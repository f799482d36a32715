// SPDX-License-Identifier: BSD-2-Clause
// Split rings, virtio 1.2 §2.7.
#include "devices/sdk/dirty.h"
#include "devices/sdk/virtq_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

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

int vq_split_locate(struct vq *q, const struct vq_place *at)
{
	uint64_t n = at->size;
	void *desc = vq_ring_part(q->mem, at->desc, n * sizeof(struct vring_desc), 16);
	void *avail = vq_ring_part(q->mem, at->avail, 6 + 2 * n, 2);
	void *used = vq_ring_part(q->mem, at->used, 6 + n * sizeof(struct vring_used_elem), 4);
	if (!desc || !avail || !used)
		return -EFAULT;
	q->desc = desc;
	q->avail = avail;
	q->used = used;
	return 0;
}

int vq_split_start(struct vq *q, const struct vq_place *at)
{
	if (at->base > UINT16_MAX)
		return -EINVAL;
	int rc = vq_split_locate(q, at);
	if (rc < 0)
		return rc;
	q->next_avail = (uint16_t)at->base;
	q->next_used = q->published = q->signalled = vq_load_u16(&q->used->idx);
	// With a record, what was taken is known better than by a front-end whose back-end was killed.
	if (at->log && at->log_size >= at->size)
		q->next_avail =
			(uint16_t)(q->next_used + inflight_open(&q->log, at->log, at->size, q->next_used));
	q->seen_avail = q->next_avail;
	q->resumed |= q->next_avail != 0;
	return 0;
}

bool vq_split_has_more(struct vq *q)
{
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

// Follows an indirect descriptor; *t becomes its table.
static int enter_indirect(struct vq *q, const struct vring_desc *d, struct table *t, unsigned limit)
{
	if (t->indirect)
		return vq_fail(q, "indirect descriptor in an indirect table");
	if (d->flags & VRING_DESC_F_NEXT)
		return vq_fail(q, "indirect descriptor with NEXT");
	t->desc = vq_indirect_table(q, d->addr, d->len, limit, &t->count);
	t->indirect = true;
	return t->desc ? 0 : -EPROTO;
}

static int walk_descriptors(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	struct table t = { .desc = q->desc, .count = q->size };
	unsigned limit = vq_chain_limit(q, iov_max), at = c->head;
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
		int rc = vq_add_segment(q, d.addr, d.len, d.flags & VRING_DESC_F_WRITE, c, iov, iov_max);
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

static int walk_chain(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	int rc = walk_descriptors(q, c, iov, iov_max);
	q->slot[c->head].len = (uint32_t)MIN(c->writable_len, (uint64_t)UINT32_MAX);
	return rc;
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

int vq_split_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	if (q->log.region && q->log.redo) {
		int rc = redo(q, c, iov, iov_max);
		if (rc != 0 || !vq_has_more(q))
			return rc;
	}
	uint16_t waiting = (uint16_t)(q->seen_avail - q->next_avail);
	if (waiting > q->size)
		return vq_fail(q, "avail index jumps by %u in a queue of %u", waiting, q->size);
	*c = (struct vq_chain){ .head = vq_load_u16(&q->avail->ring[q->next_avail & (q->size - 1)]) };
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

void vq_split_unpop(struct vq *q, const struct vq_chain *c)
{
	// While some of what another back-end took waits to be done again, so does this; next_avail is past all of it.
	if (q->log.region && q->log.redo) {
		inflight_redo_later(&q->log, c->head);
		return;
	}
	if (q->log.region)
		inflight_untake(&q->log, c->head);
	q->next_avail--;
}

void vq_split_push(struct vq *q, uint16_t head, uint32_t len)
{
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
		return !(vq_load_u16(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	return vring_need_event(vq_load_u16(used_event(q)), q->published, old);
}

bool vq_split_publish(struct vq *q)
{
	if (q->next_used == q->published)
		return false;
	uint16_t count = (uint16_t)(q->next_used - q->published);
	q->published = q->next_used;
	__atomic_store_n(&q->used->idx, q->published, __ATOMIC_RELEASE);
	used_written(q, offsetof(struct vring_used, idx), sizeof(q->used->idx));
	if (q->dirty && q->dirty->event_fd >= 0)
		fd_peer_signal(q->dirty->event_fd);
	if (q->log.region)
		inflight_published(&q->log, count, q->published);
	// The driver writes its wish and then reads used.idx; we wrote used.idx and now read its wish.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint16_t old = q->signalled;
	q->signalled = q->published;
	return wants_interrupt(q, old);
}

void vq_split_notify_enable(struct vq *q)
{
	if (q->event_idx)
		vq_store_u16(avail_event(q), q->next_avail);
	else if (!q->notify_on)
		vq_store_u16(&q->used->flags, 0);
	used_written(q, q->event_idx ? used_offset(q, avail_event(q)) : 0, 2);
}

void vq_split_notify_disable(struct vq *q)
{
	vq_store_u16(&q->used->flags, VRING_USED_F_NO_NOTIFY);
	used_written(q, 0, sizeof(q->used->flags));
}
