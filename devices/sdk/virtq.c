// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/virtq_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

// ---- for the ring formats ---------------------------------------------------------------------------------------

void *vq_ring_part(struct guest_mem *mem, uint64_t uva, uint64_t len, uintptr_t align)
{
	void *p = guest_mem_at(mem, GUEST_USER, uva, len);
	return p && ((uintptr_t)p & (align - 1)) == 0 ? p : NULL;
}

int vq_add_segment(struct vq *q, uint64_t gpa, uint32_t len, bool writable, struct vq_chain *c,
		   struct iovec *iov, unsigned iov_max)
{
	if (!writable && c->writable)
		return vq_fail(q, "readable descriptor after a writable one");
	if (len == 0)
		return vq_fail(q, "descriptor of length 0");
	unsigned used = c->readable + c->writable;
	int n = guest_mem_iov(q->mem, writable ? GUEST_WRITE : GUEST_READ, gpa, len, iov + used,
			      iov_max - used);
	if (n == -ENOBUFS)
		return vq_fail(q, "request of more than %u segments", iov_max);
	if (n < 0)
		return vq_fail(q, "descriptor outside guest memory: %#llx + %#x", (unsigned long long)gpa,
			       len);
	*(writable ? &c->writable : &c->readable) += (unsigned)n;
	*(writable ? &c->writable_len : &c->readable_len) += len;
	return 0;
}

const void *vq_indirect_table(struct vq *q, uint64_t gpa, uint32_t len, unsigned limit, unsigned *count)
{
	_Static_assert(sizeof(struct vring_desc) == sizeof(struct vring_packed_desc), "descriptors");
	*count = len / (unsigned)sizeof(struct vring_desc);
	if (!q->indirect) {
		vq_fail(q, "indirect descriptor that was not negotiated");
		return NULL;
	}
	if (len == 0 || len % sizeof(struct vring_desc) != 0 || *count > limit) {
		vq_fail(q, "indirect table of %u bytes", len);
		return NULL;
	}
	const void *p = guest_mem_at(q->mem, GUEST_PHYSICAL, gpa, len);
	if (!p)
		vq_fail(q, "indirect table outside guest memory: %#llx", (unsigned long long)gpa);
	return p;
}

// ---- start and stop ---------------------------------------------------------------------------------------------

static bool has(uint64_t features, unsigned bit)
{
	return features >> bit & 1;
}

bool vq_size_valid(uint32_t size, uint64_t features)
{
	return size > 0 && size <= VQ_SIZE_MAX &&
	       (has(features, VIRTIO_F_RING_PACKED) || is_power_of_two(size));
}

int vq_start(struct vq *q, struct guest_mem *mem, const struct vq_place *at, uint64_t features)
{
	if (!vq_size_valid(at->size, features))
		return -EINVAL;
	q->mem = mem;
	q->size = at->size;
	q->packed = has(features, VIRTIO_F_RING_PACKED);
	q->event_idx = has(features, VIRTIO_RING_F_EVENT_IDX);
	q->indirect = has(features, VIRTIO_RING_F_INDIRECT_DESC);
	q->in_order = has(features, VIRTIO_F_IN_ORDER);
	q->in_flight = 0;
	q->log.region = NULL;
	q->resumed = at->log && at->log_size >= at->size && at->log->version == 1;
	int rc = q->packed ? vq_packed_start(q, at) : vq_split_start(q, at);
	if (rc < 0)
		return rc;
	q->failed = false;
	q->notify_on = true;
	q->running = true;
	return 0;
}

int vq_relocate(struct vq *q, const struct vq_place *at)
{
	return q->packed ? vq_packed_locate(q, at) : vq_split_locate(q, at);
}

uint32_t vq_stop(struct vq *q)
{
	q->running = false;
	q->failed = false;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
	// Who starts it again says where, which may be at its beginning.
	if (q->log.region && q->in_flight == 0 && q->log.redo == 0)
		inflight_close(&q->log);
	q->log.region = NULL;
	return vq_base(q);
}

uint32_t vq_base(const struct vq *q)
{
	return q->packed ? vq_packed_base(q) : q->next_avail;
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
		fd_peer_signal(q->err_fd);
	if (q->on_fail)
		q->on_fail(q);
	return -EPROTO;
}

// ---- requests ---------------------------------------------------------------------------------------------------

bool vq_has_more(struct vq *q)
{
	if (!q->running || !q->enabled || q->failed)
		return false;
	if (q->log.region && q->log.redo)
		return true;
	return q->packed ? vq_packed_has_more(q) : vq_split_has_more(q);
}

int vq_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max)
{
	if (!vq_has_more(q))
		return q->failed ? -EPROTO : 0;
	return q->packed ? vq_packed_pop(q, c, iov, iov_max) : vq_split_pop(q, c, iov, iov_max);
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
	q->in_flight--;
	if (!q->running || q->failed)
		return;
	if (q->packed)
		vq_packed_unpop(q, c);
	else
		vq_split_unpop(q, c);
}

void vq_push(struct vq *q, uint16_t head, uint32_t len)
{
	q->in_flight--;
	if (!q->running || q->failed)
		return;
	if (q->packed)
		vq_packed_push(q, head, len);
	else
		vq_split_push(q, head, len);
}

void vq_publish(struct vq *q)
{
	if (!q->running || q->failed)
		return;
	bool wanted = q->packed ? vq_packed_publish(q) : vq_split_publish(q);
	if (wanted && q->on_call)
		q->on_call(q);
	else if (wanted && q->call_fd >= 0)
		fd_peer_signal(q->call_fd);
}

// ---- notifications ----------------------------------------------------------------------------------------------

bool vq_notify_enable(struct vq *q)
{
	if (!q->running || q->failed)
		return false;
	if (q->packed)
		vq_packed_notify_enable(q);
	else
		vq_split_notify_enable(q);
	q->notify_on = true;
	// The driver makes a request available and then reads our wish; we wrote the wish and now look for requests.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return vq_has_more(q);
}

void vq_notify_disable(struct vq *q)
{
	if (!q->running || q->failed || !q->notify_on)
		return;
	q->notify_on = false;
	// With EVENT_IDX an event index that lies behind asks for nothing.
	if (q->event_idx)
		return;
	if (q->packed)
		vq_packed_notify_disable(q);
	else
		vq_split_notify_disable(q);
}
