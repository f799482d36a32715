// SPDX-License-Identifier: BSD-2-Clause
// A virtio device's part of its function's state (pdev_state.c): the registers, where each queue goes on, and what the device itself
// was told (state_save() of struct vdev_ops, which vhost-user's DEVICE_STATE moves, too).
//
// Saved while the function rests: nothing is in flight, so that a queue's place is all that there is to say of it.  What is loaded
// comes from anywhere: state_check() looks at all of it.  Where the rings lie is held against memory when the queues start.
#include "devices/sdk/virtio_fn_impl.h"

#include <errno.h>
#include <string.h>

struct queue_state {
	uint64_t desc, driver, device;
	uint32_t base;
	uint16_t size, vector;
	uint8_t enabled, reset, live;
	uint8_t zero[5];
};

struct fn_state {
	uint64_t taken;
	uint32_t queue_count, device_len; // device_len bytes behind this
	uint32_t offered_select, taken_select;
	uint16_t queue_select, config_vector;
	uint8_t state, status, isr, generation;
	struct queue_state queue[VDEV_QUEUES_MAX];
};

_Static_assert(sizeof(struct queue_state) == 40 && sizeof(struct fn_state) == 32 + 40 * VDEV_QUEUES_MAX,
	       "no padding, which would carry what was in memory");
_Static_assert(sizeof(struct fn_state) + VDEV_STATE_MAX <= PDEV_STATE_MAX, "room for it");

size_t virtio_fn_save(struct pdev *p, void *to)
{
	const struct virtio_fn *f = p->priv;
	const struct virtio_regs *r = &f->regs;
	struct fn_state s = { .taken = r->taken,
			      .queue_count = r->queue_count,
			      .device_len = (uint32_t)f->state_len,
			      .offered_select = r->offered_select,
			      .taken_select = r->taken_select,
			      .queue_select = r->queue_select,
			      .config_vector = r->config_vector,
			      .state = (uint8_t)r->state,
			      .status = r->status,
			      .isr = r->isr,
			      .generation = r->generation };
	for (unsigned i = 0; i < r->queue_count; i++)
		s.queue[i] = (struct queue_state){ .desc = r->queue[i].desc,
						   .driver = r->queue[i].driver,
						   .device = r->queue[i].device,
						   .base = f->queue[i].base,
						   .size = r->queue[i].size,
						   .vector = r->queue[i].vector,
						   .enabled = r->queue[i].enabled,
						   .reset = r->queue[i].reset,
						   .live = f->queue[i].live };
	memcpy(to, &s, sizeof(s));
	memcpy((uint8_t *)to + sizeof(s), f->state, f->state_len);
	return sizeof(s) + f->state_len;
}

static bool vector_valid(const struct virtio_regs *r, uint16_t vector)
{
	return vector < r->vector_count || vector == VIRTIO_NO_VECTOR;
}

static bool base_valid(const struct queue_state *q, bool packed)
{
	return packed ? (q->base & 0x7fff) < q->size && (q->base >> 16 & 0x7fff) < q->size
		      : q->base <= UINT16_MAX;
}

static bool queue_check(const struct virtio_regs *r, const struct fn_state *s, const struct queue_state *q)
{
	static const uint8_t zero[sizeof(q->zero)];
	const bool packed = s->taken & VF_RING_PACKED;
	if (q->enabled > 1 || q->reset > 1 || q->live > 1 || memcmp(q->zero, zero, sizeof(zero)) != 0)
		return false;
	if (q->size == 0 || q->size > r->queue_size_max || !vector_valid(r, q->vector))
		return false;
	if (!q->live)
		return true;
	// A device that broke may have been about to start it.
	return q->enabled && (s->state == VIRTIO_RUNNING || s->state == VIRTIO_BROKEN) &&
	       vq_size_valid(q->size, s->taken) && base_valid(q, packed);
}

// The status that goes with each state, bit by bit (virtio_regs.c).
static bool status_check(const struct virtio_regs *r, const struct fn_state *s)
{
	const bool settled = s->status & VS_FEATURES_OK;
	if (settled && (!(s->taken & VF_VERSION_1) || s->taken & ~r->offered))
		return false;
	switch (s->state) {
	case VIRTIO_RESET:
		return !(s->status & ~VS_FAILED);
	case VIRTIO_CONFIG:
		return s->status & VS_ACKNOWLEDGE && !(s->status & (VS_DRIVER_OK | VS_NEEDS_RESET));
	case VIRTIO_RUNNING:
		return settled && s->status & VS_DRIVER_OK && !(s->status & VS_NEEDS_RESET);
	case VIRTIO_BROKEN:
		return s->status & VS_NEEDS_RESET;
	default:
		return false;
	}
}

static bool state_check(const struct virtio_fn *f, const struct fn_state *s, size_t len)
{
	const struct virtio_regs *r = &f->regs;
	const struct vdev_ops *ops = f->d->ops;
	static const struct queue_state none;
	const uint8_t known =
		VS_ACKNOWLEDGE | VS_DRIVER | VS_DRIVER_OK | VS_FEATURES_OK | VS_NEEDS_RESET | VS_FAILED;
	if (s->queue_count != r->queue_count || s->device_len > VDEV_STATE_MAX ||
	    len != sizeof(*s) + s->device_len)
		return false;
	if (s->status & ~known || s->isr & ~(VP_ISR_QUEUE | VP_ISR_CONFIG) ||
	    !vector_valid(r, s->config_vector) || !status_check(r, s))
		return false;
	for (unsigned i = 0; i < r->queue_count; i++)
		if (!queue_check(r, s, &s->queue[i]))
			return false;
	for (unsigned i = r->queue_count; i < VDEV_QUEUES_MAX; i++)
		if (memcmp(&s->queue[i], &none, sizeof(none)) != 0)
			return false;
	// One that has begun knows what it was told.
	return s->device_len == 0 || (ops->state_load && s->state == VIRTIO_RUNNING);
}

int virtio_fn_load(struct pdev *p, const void *from, size_t len)
{
	struct virtio_fn *f = p->priv;
	struct virtio_regs *r = &f->regs;
	struct fn_state s;
	if (len < sizeof(s))
		return -EINVAL;
	memcpy(&s, from, sizeof(s));
	if (!state_check(f, &s, len))
		return -EINVAL;
	memcpy(f->state, (const uint8_t *)from + sizeof(s), s.device_len);
	if (s.device_len) {
		// It is loaded again when the device starts, which it may never do.
		int rc = f->d->ops->state_load(f->d, f->state, s.device_len);
		f->d->ops->state_load(f->d, NULL, 0);
		if (rc < 0)
			return rc;
	}
	f->state_len = s.device_len;
	r->taken = s.taken;
	r->offered_select = s.offered_select;
	r->taken_select = s.taken_select;
	r->queue_select = s.queue_select;
	r->config_vector = s.config_vector;
	r->state = (enum virtio_state)s.state;
	r->status = s.status;
	r->isr = s.isr;
	r->generation = s.generation;
	for (unsigned i = 0; i < r->queue_count; i++) {
		const struct queue_state *q = &s.queue[i];
		r->queue[i] = (struct virtio_reg_queue){ .size = q->size,
							 .vector = q->vector,
							 .enabled = q->enabled,
							 .reset = q->reset,
							 .desc = q->desc,
							 .driver = q->driver,
							 .device = q->device };
		f->queue[i] = (struct fn_queue){ .live = q->live, .base = q->base };
	}
	return 0;
}
