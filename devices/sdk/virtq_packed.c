// SPDX-License-Identifier: BSD-2-Clause
// Packed rings, virtio 1.2 §2.8.
#include "devices/sdk/dirty.h"
#include "devices/sdk/virtq_impl.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <string.h>

#define AVAIL	 (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED	 (1u << VRING_PACKED_DESC_F_USED)
#define WRAP_BIT VRING_PACKED_EVENT_F_WRAP_CTR

// ---- places -----------------------------------------------------------------------------------------------------

static uint16_t place(uint16_t at, bool wrap)
{
	return (uint16_t)(at | (unsigned)wrap << WRAP_BIT);
}

static void forward(const struct vq *q, uint16_t *at, bool *wrap, unsigned count)
{
	unsigned next = *at + count;
	if (next >= q->size) {
		next -= q->size;
		*wrap = !*wrap;
	}
	*at = (uint16_t)next;
}

static void backward(const struct vq *q, uint16_t *at, bool *wrap, unsigned count)
{
	unsigned next = *at + q->size - count;
	if (next >= q->size)
		next -= q->size;
	else
		*wrap = !*wrap;
	*at = (uint16_t)next;
}

// §2.8.1: available is the driver's wrap counter and its inverse.
static bool is_available(unsigned flags, bool wrap)
{
	return (bool)(flags & AVAIL) == wrap && (bool)(flags & USED) != wrap;
}

// ---- start ------------------------------------------------------------------------------------------------------

int vq_packed_locate(struct vq *q, const struct vq_place *at)
{
	void *ring = vq_ring_part(q->mem, at->desc, UINT64_C(1) * at->size * sizeof(*q->ring), 16);
	void *driver = vq_ring_part(q->mem, at->avail, sizeof(*q->driver_event), 4);
	void *device = vq_ring_part(q->mem, at->used, sizeof(*q->device_event), 4);
	if (!ring || !driver || !device)
		return -EFAULT;
	q->ring = ring;
	q->driver_event = driver;
	q->device_event = device;
	q->ring_gpa = guest_mem_gpa(q->mem, at->desc);
	return 0;
}

int vq_packed_start(struct vq *q, const struct vq_place *at)
{
	const uint16_t avail = (uint16_t)at->base, used = (uint16_t)(at->base >> 16);
	struct inflight_place p = { .at = avail & ((1u << WRAP_BIT) - 1), .wrap = avail >> WRAP_BIT };
	unsigned taken = 0;
	const bool recorded = at->log && at->log_size >= at->size;
	// Some front-ends know only the first half.  Where both are told and differ, requests are in flight, and only a record has them.
	if (p.at >= at->size || (used && used != avail && !q->resumed))
		return -EINVAL;
	int rc = vq_packed_locate(q, at);
	if (rc < 0)
		return rc;
	q->resumed |= p.at != 0 || !p.wrap;
	if (recorded)
		inflight_packed_open(&q->log, at->log, at->size, q->ring, &p, &taken);
	q->next_used = q->next_avail = p.at;
	q->used_wrap = q->avail_wrap = p.wrap;
	forward(q, &q->next_avail, &q->avail_wrap, taken);
	q->taken = (uint16_t)taken;
	q->slot_free = q->kept_free = q->given_first = VQ_NONE;
	q->slot_fresh = q->kept_fresh = 0;
	return 0;
}

uint32_t vq_packed_base(const struct vq *q)
{
	return place(q->next_avail, q->avail_wrap) | (uint32_t)place(q->next_used, q->used_wrap) << 16;
}

// ---- the log of dirty pages --------------------------------------------------------------------------------------

// What the device may write of a request is kept in any case: the log may begin while that is in flight.
static int keep(struct vq *q, const struct vring_packed_desc *d, uint16_t **end)
{
	if (!(d->flags & (VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT)))
		return 0;
	uint16_t at = q->kept_free;
	if (at != VQ_NONE)
		q->kept_free = q->kept[at].next;
	else if (q->kept_fresh < VQ_SIZE_MAX)
		at = q->kept_fresh++;
	else // the ring has not so many, but a record may say so
		return vq_fail(q, "more than %u descriptors in flight", VQ_SIZE_MAX);
	struct vq_kept *k = &q->kept[at];
	*k = (struct vq_kept){
		.gpa = d->addr, .len = d->len, .next = VQ_NONE, .indirect = d->flags & VRING_DESC_F_INDIRECT
	};
	**end = at;
	*end = &k->next;
	return 0;
}

static void keep_no_more(struct vq *q, struct vq_slot *s)
{
	uint16_t *end = &s->kept;
	while (*end != VQ_NONE)
		end = &q->kept[*end].next;
	*end = q->kept_free;
	q->kept_free = s->kept;
	s->kept = VQ_NONE;
}

// `count` descriptors from `at` on were written.
static void ring_written(struct vq *q, uint16_t at, unsigned count)
{
	if (!q->dirty || q->dirty_used_gpa == UINT64_MAX || q->ring_gpa == UINT64_MAX)
		return;
	const unsigned left = q->size, first = at + count > left ? left - at : count;
	dirty_mark(q->dirty, q->ring_gpa + at * sizeof(*q->ring), first * sizeof(*q->ring));
	dirty_mark(q->dirty, q->ring_gpa, (count - first) * sizeof(*q->ring));
}

// ---- taking -----------------------------------------------------------------------------------------------------

bool vq_packed_has_more(struct vq *q)
{
	return is_available(__atomic_load_n(&q->ring[q->next_avail].flags, __ATOMIC_ACQUIRE), q->avail_wrap);
}

// All of a table belongs to the request, and of the flags in it only WRITE means something (§2.8.7).
static int add_table(struct vq *q, const struct vring_packed_desc *d, struct vq_chain *c, struct iovec *iov,
		     unsigned iov_max)
{
	unsigned count;
	const struct vring_packed_desc *table =
		vq_indirect_table(q, d->addr, d->len, vq_chain_limit(q, iov_max), &count);
	if (!table)
		return -EPROTO;
	for (unsigned i = 0; i < count; i++) {
		struct vring_packed_desc e;
		memcpy(&e, &table[i], sizeof(e));
		__asm__ volatile("" ::: "memory"); // the copy is what gets checked: it must not be read again
		int rc = vq_add_segment(q, e.addr, e.len, e.flags & VRING_DESC_F_WRITE, c, iov, iov_max);
		if (rc < 0)
			return rc;
	}
	return 0;
}

// Descriptor number `n` of a request, a copy.
static int add_descriptor(struct vq *q, const struct vring_packed_desc *d, unsigned n, struct vq_chain *c,
			  struct iovec *iov, unsigned iov_max)
{
	if (!(d->flags & VRING_DESC_F_INDIRECT))
		return vq_add_segment(q, d->addr, d->len, d->flags & VRING_DESC_F_WRITE, c, iov, iov_max);
	if (n > 0 || (d->flags & VRING_DESC_F_NEXT))
		return vq_fail(q, "indirect descriptor in a chain");
	return add_table(q, d, c, iov, iov_max);
}

// Fills in one that is free.
static int take_slot(struct vq *q, struct vq_chain *c, const struct vq_slot *s)
{
	c->head = q->slot_free;
	if (c->head != VQ_NONE)
		q->slot_free = q->slot[c->head].next;
	else if (q->slot_fresh < VQ_SIZE_MAX)
		c->head = q->slot_fresh++;
	else // each request has a descriptor of the ring's for itself, but a record that changes may say otherwise
		return vq_fail(q, "more than %u requests in flight", VQ_SIZE_MAX);
	q->in_flight++;
	q->slot[c->head] = *s;
	return 1;
}

// A request that a back-end before us took and did not give back; what the ring had of it may be overwritten.
static int redo(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	int head = inflight_redo(&q->log);
	if (head < 0)
		return 0;
	*c = (struct vq_chain){ .head = 0 };
	struct vring_packed_desc d;
	uint16_t at, next = (uint16_t)head;
	uint16_t kept = VQ_NONE, *end = &kept;
	unsigned count = 0;
	do {
		at = next;
		if (count == q->size || !inflight_packed_read(&q->log, &next, &d))
			return vq_fail(q, "the record of requests in flight makes no sense");
		int rc = add_descriptor(q, &d, count++, c, iov, iov_max);
		if (rc == 0)
			rc = keep(q, &d, &end);
		if (rc < 0)
			return rc;
	} while (d.flags & VRING_DESC_F_NEXT);
	return take_slot(q, c,
			 &(struct vq_slot){ .id = d.id,
					    .count = (uint16_t)count,
					    .log_head = (uint16_t)head,
					    .log_end = at,
					    .kept = kept,
					    .read_only = c->writable == 0 });
}

int vq_packed_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	if (q->log.region && q->log.redo) {
		int rc = redo(q, c, iov, iov_max);
		if (rc != 0 || !vq_has_more(q))
			return rc;
	}
	*c = (struct vq_chain){ .head = 0 };
	struct vring_packed_desc d;
	uint16_t at = q->next_avail, log_end = 0;
	bool wrap = q->avail_wrap;
	uint16_t kept = VQ_NONE, *end = &kept;
	unsigned count = 0;
	int log_head = 0;
	do {
		if (q->taken + count >= q->size)
			return vq_fail(q, "more descriptors than the %u of the queue", q->size);
		memcpy(&d, &q->ring[at], sizeof(d));
		__asm__ volatile("" ::: "memory"); // the copy is what gets checked: it must not be read again
		if (!is_available(d.flags, wrap))
			return vq_fail(q, "descriptor %u is in a chain and not available", at);
		int rc = add_descriptor(q, &d, count++, c, iov, iov_max);
		if (rc == 0)
			rc = keep(q, &d, &end);
		if (rc < 0)
			return rc;
		if (q->log.packed)
			log_head = inflight_packed_add(&q->log, &d, !(d.flags & VRING_DESC_F_NEXT), &log_end);
		forward(q, &at, &wrap, 1);
	} while (d.flags & VRING_DESC_F_NEXT);
	int rc = take_slot(q, c,
			   &(struct vq_slot){ .id = d.id,
					      .count = (uint16_t)count,
					      .log_head = (uint16_t)log_head,
					      .log_end = log_end,
					      .kept = kept,
					      .read_only = c->writable == 0 });
	if (rc < 0)
		return rc;
	q->next_avail = at;
	q->avail_wrap = wrap;
	q->taken = (uint16_t)(q->taken + count);
	return 1;
}

void vq_packed_unpop(struct vq *q, const struct vq_chain *c)
{
	struct vq_slot *s = &q->slot[c->head];
	const bool later = q->log.packed && q->log.redo;
	keep_no_more(q, s);
	s->next = q->slot_free;
	q->slot_free = c->head;
	// While some of what another back-end took waits to be done again, so does this; next_avail is past all of it.
	if (later) {
		inflight_redo_later(&q->log, s->log_head);
		return;
	}
	if (q->log.packed)
		inflight_packed_untake(&q->log, s->log_head, s->log_end);
	backward(q, &q->next_avail, &q->avail_wrap, s->count);
	q->taken = (uint16_t)(q->taken - s->count);
}

// ---- giving back ------------------------------------------------------------------------------------------------

void vq_packed_push(struct vq *q, uint16_t head, uint32_t len)
{
	if (q->dirty)
		dirty_mark_kept(q->dirty, q, q->slot[head].kept);
	keep_no_more(q, &q->slot[head]);
	q->slot[head].len = len;
	q->slot[head].next = VQ_NONE;
	if (q->given_first == VQ_NONE)
		q->given_first = head;
	else
		q->slot[q->given_last].next = head;
	q->given_last = head;
}

static void write_used(struct vq *q, uint16_t at, const struct vq_slot *s)
{
	q->ring[at].id = s->id;
	q->ring[at].len = s->len;
}

static uint16_t used_flags(const struct vq_slot *s, bool wrap)
{
	return (uint16_t)((wrap ? AVAIL | USED : 0) | (s->len ? VRING_DESC_F_WRITE : 0));
}

// Writes the used descriptors of what was given back, the flags of the first one last: until then the driver sees none of them.  With
// IN_ORDER the last one of some that were only read stands for all (§2.8.8).
static void write_batch(struct vq *q)
{
	const uint16_t first = q->next_used;
	uint16_t first_flags = 0;
	for (uint16_t i = q->given_first; i != VQ_NONE; i = q->slot[i].next) {
		const struct vq_slot *s = &q->slot[i];
		unsigned count = s->count;
		while (q->in_order && s->read_only && s->next != VQ_NONE && q->slot[s->next].read_only) {
			i = s->next;
			s = &q->slot[i];
			count += s->count;
		}
		write_used(q, q->next_used, s);
		if (q->next_used == first)
			first_flags = used_flags(s, q->used_wrap);
		else
			__atomic_store_n(&q->ring[q->next_used].flags, used_flags(s, q->used_wrap),
					 __ATOMIC_RELEASE);
		forward(q, &q->next_used, &q->used_wrap, count);
	}
	__atomic_store_n(&q->ring[first].flags, first_flags, __ATOMIC_RELEASE);
}

// §2.8.10: `count` descriptors have been used since the driver was last considered.
static bool wants_interrupt(const struct vq *q, unsigned count)
{
	uint32_t event = __atomic_load_n(q->driver_event, __ATOMIC_RELAXED);
	unsigned flags = event >> 16 & 3, off = event & ((1u << WRAP_BIT) - 1);
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if ((bool)(event >> WRAP_BIT & 1) != q->used_wrap)
		off -= q->size;
	return vring_need_event((uint16_t)off, q->next_used, (uint16_t)(q->next_used - count));
}

bool vq_packed_publish(struct vq *q)
{
	if (q->given_first == VQ_NONE)
		return false;
	unsigned count = 0;
	for (uint16_t i = q->given_first; i != VQ_NONE; i = q->slot[i].next) {
		count += q->slot[i].count;
		if (q->log.packed)
			inflight_packed_give(&q->log, q->slot[i].log_head, q->slot[i].log_end);
	}
	if (count > q->taken) { // only a record that changed in the meantime can say so
		vq_fail(q, "more descriptors are given back than were taken");
		return false;
	}
	if (q->log.packed) {
		struct inflight_place p = { q->next_used, q->used_wrap };
		forward(q, &p.at, &p.wrap, count);
		inflight_packed_giving(&q->log, p);
	}
	const uint16_t first = q->next_used;
	write_batch(q);
	ring_written(q, first, count);
	if (q->dirty && q->dirty->event_fd >= 0)
		fd_peer_signal(q->dirty->event_fd);
	q->taken = (uint16_t)(q->taken - count);
	if (q->log.packed) {
		for (uint16_t i = q->given_first; i != VQ_NONE; i = q->slot[i].next)
			inflight_packed_given(&q->log, q->slot[i].log_head);
		inflight_packed_published(&q->log);
	}
	q->slot[q->given_last].next = q->slot_free;
	q->slot_free = q->given_first;
	q->given_first = VQ_NONE;
	// The driver writes its wish and then reads descriptors; we wrote those and now read its wish.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return wants_interrupt(q, count);
}

// ---- notifications ----------------------------------------------------------------------------------------------

static void wish(struct vq *q, unsigned flags, uint16_t at)
{
	__atomic_store_n(q->device_event, flags << 16 | at, __ATOMIC_RELAXED);
	if (q->dirty && q->dirty_used_gpa != UINT64_MAX)
		dirty_mark(q->dirty, q->dirty_used_gpa, sizeof(*q->device_event));
}

void vq_packed_notify_enable(struct vq *q)
{
	if (q->event_idx)
		wish(q, VRING_PACKED_EVENT_FLAG_DESC, place(q->next_avail, q->avail_wrap));
	else if (!q->notify_on)
		wish(q, VRING_PACKED_EVENT_FLAG_ENABLE, 0);
}

void vq_packed_notify_disable(struct vq *q)
{
	wish(q, VRING_PACKED_EVENT_FLAG_DISABLE, 0);
}
