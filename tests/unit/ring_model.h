// SPDX-License-Identifier: BSD-2-Clause
// A driver that keeps the rules, over a queue of either layout: it offers requests of random shape and checks everything that comes
// back.  Request `i` owns PIECES pieces of MODEL_PIECE bytes of guest memory, each in a page of its own, writable ones are to be filled with its number.
#ifndef MINIVMM_TESTS_UNIT_RING_MODEL_H
#define MINIVMM_TESTS_UNIT_RING_MODEL_H

#include "devices/sdk/virtq.h"

#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MODEL_SIZE_MAX 64
#define MODEL_PIECES   4
#define MODEL_PIECE    32u
#define MODEL_STEP     4096u // from one to the next
#define MODEL_GPA      UINT64_C(0x40000000)
#define MODEL_UVA      UINT64_C(0x7f0000000000)
#define MODEL_DRIVER   0x2000u
#define MODEL_DEVICE   0x3000u
#define MODEL_TABLES   0x8000u
#define MODEL_DATA     0x10000u
#define MODEL_MEM      (MODEL_DATA + MODEL_SIZE_MAX * MODEL_PIECES * MODEL_STEP)
#define MODEL_BIT(b)   (UINT64_C(1) << (b))
#define P_AVAIL	       (1u << VRING_PACKED_DESC_F_AVAIL)
#define P_USED	       (1u << VRING_PACKED_DESC_F_USED)

struct model_request {
	bool out;
	uint16_t id; // in the ring; split: the first descriptor
	unsigned count, pieces, writable;
	uint64_t number;
	uint16_t desc[MODEL_PIECES];
};

struct model {
	int fd;
	uint8_t *ram;
	struct vq_place place;
	uint64_t features;
	bool packed;
	uint16_t size;
	uint16_t avail, used; // split: indexes; packed: places
	bool avail_wrap, used_wrap;
	unsigned room; // free descriptors
	uint16_t free[MODEL_SIZE_MAX];
	struct model_request req[MODEL_SIZE_MAX];
	uint16_t order[MODEL_SIZE_MAX]; // of those that are out, oldest first
	unsigned out_count;
	uint64_t number; // of the next request
	uint32_t seed;
};

static inline unsigned model_random(struct model *m, unsigned below)
{
	m->seed = m->seed * 1664525u + 1013904223u;
	return (unsigned)((uint64_t)(m->seed >> 8) * below >> 24);
}

static inline bool model_has(const struct model *m, unsigned bit)
{
	return m->features >> bit & 1;
}

static inline struct vring_packed_desc *model_ring(const struct model *m)
{
	return (void *)m->ram;
}

static inline struct vring_avail *model_avail(const struct model *m)
{
	return (void *)(m->ram + MODEL_DRIVER);
}

static inline struct vring_used *model_used(const struct model *m)
{
	return (void *)(m->ram + MODEL_DEVICE);
}

static inline uint32_t *model_event(const struct model *m, uint32_t at)
{
	return (void *)(m->ram + at);
}

static inline bool model_open(struct model *m, uint64_t features, uint16_t size, uint32_t seed)
{
	*m = (struct model){ .fd = memfd_create("guest", MFD_CLOEXEC),
			     .features = features,
			     .packed = features >> VIRTIO_F_RING_PACKED & 1,
			     .size = size,
			     .avail_wrap = true,
			     .used_wrap = true,
			     .room = size,
			     .number = 1,
			     .seed = seed };
	if (m->fd < 0 || ftruncate(m->fd, MODEL_MEM) < 0)
		return false;
	m->ram = mmap(NULL, MODEL_MEM, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	for (uint16_t i = 0; i < size; i++)
		m->free[i] = i;
	m->place = (struct vq_place){ .size = size,
				      .base = m->packed ? 0x80008000u : 0,
				      .desc = MODEL_UVA,
				      .avail = MODEL_UVA + MODEL_DRIVER,
				      .used = MODEL_UVA + MODEL_DEVICE };
	return m->ram != MAP_FAILED;
}

static inline void model_close(struct model *m)
{
	munmap(m->ram, MODEL_MEM);
	close(m->fd);
}

static inline uint64_t model_piece(unsigned request, unsigned piece)
{
	return MODEL_DATA + UINT64_C(1) * (request * MODEL_PIECES + piece) * MODEL_STEP;
}

// The driver's names are 16 bits that mean nothing to a device of a packed ring.
static inline uint16_t model_id(const struct model *m, unsigned request)
{
	return (uint16_t)(m->packed ? request * 40503u + 12345u : request);
}

// Makes a table of the pieces.  Its place in guest memory.
static inline uint64_t model_table(struct model *m, unsigned i)
{
	const struct model_request *r = &m->req[i];
	const uint64_t at = MODEL_TABLES + i * MODEL_PIECES * sizeof(struct vring_desc);
	for (unsigned p = 0; p < r->pieces; p++) {
		const bool last = p + 1 == r->pieces, writable = p >= r->pieces - r->writable;
		struct vring_desc d = { .addr = MODEL_GPA + model_piece(i, p), .len = MODEL_PIECE };
		unsigned flags = writable ? VRING_DESC_F_WRITE : 0;
		if (m->packed) {
			struct vring_packed_desc e = {
				.addr = d.addr, .len = d.len, .id = 0xabcd, .flags = (uint16_t)flags
			};
			memcpy(m->ram + at + p * sizeof(e), &e, sizeof(e));
			continue;
		}
		d.flags = (uint16_t)(flags | (last ? 0 : VRING_DESC_F_NEXT));
		d.next = (uint16_t)(p + 1);
		memcpy(m->ram + at + p * sizeof(d), &d, sizeof(d));
	}
	return MODEL_GPA + at;
}

static inline void model_write_packed(struct model *m, unsigned i, bool indirect)
{
	struct model_request *r = &m->req[i];
	const uint16_t first = m->avail;
	uint16_t first_flags = 0;
	for (unsigned p = 0; p < r->count; p++) {
		struct vring_packed_desc *d = &model_ring(m)[m->avail];
		unsigned flags = m->avail_wrap ? P_AVAIL : P_USED;
		if (indirect) {
			d->addr = model_table(m, i);
			d->len = r->pieces * (uint32_t)sizeof(*d);
			flags |= VRING_DESC_F_INDIRECT;
		} else {
			d->addr = MODEL_GPA + model_piece(i, p);
			d->len = MODEL_PIECE;
			flags |= p >= r->pieces - r->writable ? VRING_DESC_F_WRITE : 0;
		}
		d->id = p + 1 == r->count ? r->id : 0x5a5a; // counts in the last one only
		flags |= p + 1 == r->count ? 0 : VRING_DESC_F_NEXT;
		if (p == 0)
			first_flags = (uint16_t)flags;
		else
			d->flags = (uint16_t)flags;
		if (++m->avail == m->size) {
			m->avail = 0;
			m->avail_wrap = !m->avail_wrap;
		}
	}
	__atomic_store_n(&model_ring(m)[first].flags, first_flags, __ATOMIC_RELEASE);
}

static inline void model_write_split(struct model *m, unsigned i, bool indirect)
{
	struct model_request *r = &m->req[i];
	struct vring_desc *desc = (void *)m->ram;
	r->desc[0] = (uint16_t)i;
	for (unsigned p = 0; p < r->count; p++) {
		// The request's own number is its first descriptor, the others are any that are free.
		struct vring_desc *d = &desc[r->desc[p]];
		bool last = p + 1 == r->count;
		*d = (struct vring_desc){
			.addr = indirect ? model_table(m, i) : MODEL_GPA + model_piece(i, p),
			.len = indirect ? r->pieces * (uint32_t)sizeof(*d) : MODEL_PIECE,
			.flags = (uint16_t)((indirect ? VRING_DESC_F_INDIRECT
						      : (p >= r->pieces - r->writable ? VRING_DESC_F_WRITE
										      : 0)) |
					    (last ? 0 : VRING_DESC_F_NEXT)),
			.next = last ? 0 : r->desc[p + 1],
		};
	}
	model_avail(m)->ring[m->avail % m->size] = r->id;
	m->avail++;
	__atomic_store_n(&model_avail(m)->idx, m->avail, __ATOMIC_RELEASE);
}

// Offers a request of random shape.  How many descriptors it takes, or 0: there is no room.
static inline unsigned model_offer(struct model *m)
{
	const bool indirect = model_has(m, VIRTIO_RING_F_INDIRECT_DESC) && model_random(m, 3) == 0;
	const unsigned pieces = 1 + model_random(m, MODEL_PIECES);
	const unsigned count = indirect ? 1 : pieces;
	if (m->room < count)
		return 0;
	const uint16_t i = m->free[m->room - 1];
	struct model_request *r = &m->req[i];
	*r = (struct model_request){ .out = true,
				     .id = model_id(m, i),
				     .count = count,
				     .pieces = pieces,
				     .writable = model_random(m, pieces + 1),
				     .number = m->number++ };
	for (unsigned p = 0; p < count; p++)
		r->desc[p] = m->free[--m->room];
	for (unsigned p = 0; p < pieces; p++)
		memcpy(m->ram + model_piece(i, p), &r->number, sizeof(r->number));
	for (unsigned p = pieces - r->writable; p < pieces; p++)
		memset(m->ram + model_piece(i, p), 0, MODEL_PIECE);
	if (m->packed)
		model_write_packed(m, i, indirect);
	else
		model_write_split(m, i, indirect);
	m->order[m->out_count++] = i;
	return count;
}

static inline bool model_finish(struct model *m, unsigned at, uint32_t len)
{
	const uint16_t i = m->order[at];
	struct model_request *r = &m->req[i];
	memmove(&m->order[at], &m->order[at + 1], (--m->out_count - at) * sizeof(m->order[0]));
	r->out = false;
	for (unsigned p = r->count; p-- > 0;)
		m->free[m->room++] = r->desc[p];
	if (m->packed)
		for (m->used = (uint16_t)(m->used + r->count); m->used >= m->size;
		     m->used = (uint16_t)(m->used - m->size))
			m->used_wrap = !m->used_wrap;
	if (len != r->writable * MODEL_PIECE)
		return false;
	for (unsigned p = r->pieces - r->writable; p < r->pieces; p++)
		if (memcmp(m->ram + model_piece(i, p), &r->number, sizeof(r->number)) != 0)
			return false;
	return true;
}

// Takes what came back.  How many requests, or -1: something that is not right.
static inline int model_take(struct model *m)
{
	uint16_t id;
	uint32_t len;
	if (m->packed) {
		const struct vring_packed_desc *d = &model_ring(m)[m->used];
		unsigned flags = __atomic_load_n(&d->flags, __ATOMIC_ACQUIRE);
		if ((bool)(flags & P_AVAIL) != m->used_wrap || (bool)(flags & P_USED) != m->used_wrap)
			return 0;
		id = d->id;
		len = d->len;
		if ((bool)(flags & VRING_DESC_F_WRITE) != (len != 0))
			return -1;
	} else {
		if (__atomic_load_n(&model_used(m)->idx, __ATOMIC_ACQUIRE) == m->used)
			return 0;
		const struct vring_used_elem *e = &model_used(m)->ring[m->used % m->size];
		id = (uint16_t)e->id;
		len = e->len;
		m->used++;
	}
	unsigned at = 0;
	while (at < m->out_count && m->req[m->order[at]].id != id)
		at++;
	if (at == m->out_count)
		return -1;
	if (!model_has(m, VIRTIO_F_IN_ORDER))
		return model_finish(m, at, len) ? 1 : -1;
	if (at > 0 && !m->packed)
		return -1;
	for (unsigned n = at; n-- > 0;) // those that went without saying
		if (!model_finish(m, 0, 0))
			return -1;
	return model_finish(m, 0, len) ? (int)at + 1 : -1;
}

// After `count` descriptors (split: requests) were made available: does the device want to hear of it?
static inline bool model_kick_wanted(const struct model *m, unsigned count)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!m->packed && !model_has(m, VIRTIO_RING_F_EVENT_IDX))
		return !(model_used(m)->flags & VRING_USED_F_NO_NOTIFY);
	if (!m->packed) {
		uint16_t event;
		memcpy(&event, &model_used(m)->ring[m->size], sizeof(event));
		return vring_need_event(event, m->avail, (uint16_t)(m->avail - count));
	}
	uint32_t event = __atomic_load_n(model_event(m, MODEL_DEVICE), __ATOMIC_RELAXED);
	int off = (int)(event & 0x7fff);
	if (event >> 16 != VRING_PACKED_EVENT_FLAG_DESC)
		return event >> 16 != VRING_PACKED_EVENT_FLAG_DISABLE;
	if ((event >> 15 & 1) != m->avail_wrap)
		off -= m->size;
	return vring_need_event((uint16_t)off, m->avail, (uint16_t)(m->avail - count));
}

// Asks for an interrupt by the next thing that comes back, or for none.
static inline void model_want_interrupt(struct model *m, bool on)
{
	const bool event_idx = model_has(m, VIRTIO_RING_F_EVENT_IDX);
	if (m->packed && on && event_idx)
		*model_event(m, MODEL_DRIVER) =
			(uint32_t)m->used | (uint32_t)m->used_wrap << 15 | VRING_PACKED_EVENT_FLAG_DESC << 16;
	else if (m->packed)
		*model_event(m, MODEL_DRIVER) =
			(uint32_t)(on ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE)
			<< 16;
	else if (event_idx)
		model_avail(m)->ring[m->size] = (uint16_t)(on ? m->used : m->used - 1);
	else
		model_avail(m)->flags = on ? 0 : VRING_AVAIL_F_NO_INTERRUPT;
}

#endif
