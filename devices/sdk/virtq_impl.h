// SPDX-License-Identifier: BSD-2-Clause
// What the files of a virtqueue share; nobody else includes this.
//
// virtq.c is what a device calls; virtq_split.c and virtq_packed.c know one ring format each and are called for a queue that
// runs and has not failed.
#ifndef MINIVMM_SDK_VIRTQ_IMPL_H
#define MINIVMM_SDK_VIRTQ_IMPL_H

#include "devices/sdk/virtq.h"

// Rings are little-endian (virtio 1.2 §1.4).
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "big-endian hosts need conversions here"
#endif

static inline uint16_t vq_load_u16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void vq_store_u16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

// ---- virtq.c ----------------------------------------------------------------------------------------------------

// A part of the ring, or NULL.
void *vq_ring_part(struct guest_mem *mem, uint64_t uva, uint64_t len, uintptr_t align);

// Adds what a descriptor points to to the request.  0 or vq_fail().
int vq_add_segment(struct vq *q, uint64_t gpa, uint32_t len, bool writable, struct vq_chain *c,
		   struct iovec *iov, unsigned iov_max);

// The table behind an indirect descriptor of at most `limit` entries, their number in *count.  NULL: failed.
const void *vq_indirect_table(struct vq *q, uint64_t gpa, uint32_t len, unsigned limit, unsigned *count);

// How many descriptors a request may have.  Linux fills indirect tables up to the device's segment limit even where that is above
// the queue's size.
static inline unsigned vq_chain_limit(const struct vq *q, unsigned iov_max)
{
	return q->size > iov_max ? q->size : iov_max;
}

// ---- virtq_split.c ----------------------------------------------------------------------------------------------

int vq_split_locate(struct vq *q, const struct vq_place *at);
int vq_split_start(struct vq *q, const struct vq_place *at);
bool vq_split_has_more(struct vq *q);
int vq_split_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max);
void vq_split_unpop(struct vq *q, const struct vq_chain *c);
void vq_split_push(struct vq *q, uint16_t head, uint32_t len);
// True: the driver wants an interrupt.
bool vq_split_publish(struct vq *q);
void vq_split_notify_enable(struct vq *q);
void vq_split_notify_disable(struct vq *q);

// ---- virtq_packed.c ---------------------------------------------------------------------------------------------

int vq_packed_locate(struct vq *q, const struct vq_place *at);
int vq_packed_start(struct vq *q, const struct vq_place *at);
uint32_t vq_packed_base(const struct vq *q);
bool vq_packed_has_more(struct vq *q);
int vq_packed_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max);
void vq_packed_unpop(struct vq *q, const struct vq_chain *c);
void vq_packed_push(struct vq *q, uint16_t head, uint32_t len);
bool vq_packed_publish(struct vq *q);
void vq_packed_notify_enable(struct vq *q);
void vq_packed_notify_disable(struct vq *q);

#endif
