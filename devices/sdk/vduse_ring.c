// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <sys/ioctl.h>

// ---- state ------------------------------------------------------------------------------------------------------

#define PLACE_MASK 0x7fffu
#define WRAP_SHIFT 15

struct vduse_vq_state vduse_state_of(uint32_t base, bool packed)
{
	struct vduse_vq_state st = { .index = 0 };
	if (!packed) {
		st.split.avail_index = (uint16_t)base;
		return st;
	}
	st.packed.last_avail_idx = base & PLACE_MASK;
	st.packed.last_avail_counter = base >> WRAP_SHIFT & 1;
	st.packed.last_used_idx = base >> 16 & PLACE_MASK;
	st.packed.last_used_counter = (uint16_t)(base >> 31);
	return st;
}

static uint32_t place(uint16_t at, uint16_t wrap)
{
	return (at & PLACE_MASK) | (wrap & 1u) << WRAP_SHIFT;
}

uint32_t vduse_base_of(const struct vduse_vq_info *info, bool packed)
{
	if (!packed)
		return info->split.avail_index;
	return place(info->packed.last_avail_idx, info->packed.last_avail_counter) |
	       place(info->packed.last_used_idx, info->packed.last_used_counter) << 16;
}

// ---- interrupts -------------------------------------------------------------------------------------------------

static int inject(const struct vduse_ring *r)
{
	const uint32_t index = r->vq->index;
	return ioctl(r->s->node.fd, VDUSE_VQ_INJECT_IRQ, &index) < 0 ? -errno : 0;
}

// The kernel takes none until it has noted DRIVER_OK, which is a moment after we have answered that message.
void vduse_ring_interrupt(struct vq *q)
{
	struct vduse_ring *r = q->carrier;
	if (inject(r) != -EINVAL)
		return; // EPERM: the device is broken, which its node says, too
	if (!r->owed)
		r->s->owed_until = deadline_in_ms(DEADLINE_CONTROL_MS);
	r->owed = true;
}

bool vduse_interrupts_owed(struct vduse *s)
{
	bool any = false;
	for (unsigned i = 0; i < s->queue_count; i++) {
		struct vduse_ring *r = &s->ring[i];
		if (!r->owed)
			continue;
		r->owed = inject(r) == -EINVAL;
		if (r->owed && !deadline_left_ms(s->owed_until)) {
			log_limited(LOG_WARN, "%s: queue %u: the kernel takes no interrupt", s->name, i);
			r->owed = false;
		}
		any |= r->owed;
	}
	return any;
}

// ---- start and stop ---------------------------------------------------------------------------------------------

static bool place_read(struct vduse_ring *r, const struct vduse_vq_info *info)
{
	const struct vduse *s = r->s;
	if (info->num > s->d->queue_size_max || !vq_size_valid(info->num, s->features))
		return false;
	r->at = (struct vq_place){
		.size = (uint16_t)info->num,
		.base = vduse_base_of(info, s->features & VQ_FEATURE_PACKED),
		.desc = info->desc_addr,
		.avail = info->driver_addr,
		.used = info->device_addr,
		.log = vduse_record_queue(&s->record, r->vq->index),
		.log_size = s->d->queue_size_max,
	};
	return true;
}

int vduse_ring_start(struct vduse_ring *r)
{
	struct vduse *s = r->s;
	struct vduse_vq_info info = { .index = r->vq->index };
	if (r->vq->running || !s->started)
		return 0;
	if (ioctl(s->node.fd, VDUSE_VQ_GET_INFO, &info) < 0)
		return -errno;
	if (!info.ready)
		return 0;
	int rc = place_read(r, &info) ? vq_start(r->vq, &s->d->mem, &r->at, s->features) : -EINVAL;
	if (rc < 0) {
		log_limited(LOG_WARN, "%s: queue %u of %u entries: %s", s->name, r->vq->index, info.num,
			    rc == -EFAULT ? "its rings are not in mapped memory" : err_text(-rc));
		return rc;
	}
	r->vq->enabled = true;
	log_debug("queue %u runs: %u entries%s", r->vq->index, r->at.size,
		  r->vq->resumed ? ", taken over" : "");
	vdev_again(s->d, r->vq);
	return 0;
}

static void ring_drop(struct vduse_ring *r)
{
	// vq_stop() would close a record with nothing in flight, and who starts the queue again would begin where the driver once did.
	r->vq->log.region = NULL;
	vq_stop(r->vq);
	r->vq->enabled = false;
}

void vduse_ring_leave(struct vduse_ring *r)
{
	r->owed = false;
	if (r->vq->running)
		ring_drop(r);
}

void vduse_ring_relocate(struct vduse_ring *r)
{
	if (!r->vq->running) {
		vduse_ring_start(r);
		return;
	}
	if (vq_relocate(r->vq, &r->at) == 0) {
		vdev_again(r->s->d, r->vq);
		return;
	}
	log_info("%s: queue %u waits: its rings are not in mapped memory", r->s->name, r->vq->index);
	ring_drop(r);
}

// ---- kicks ------------------------------------------------------------------------------------------------------

static void kicked(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct vduse_ring *r = CONTAINER_OF(src, struct vduse_ring, kick);
	if (r->vq->running)
		r->s->d->ops->kick(r->s->d, r->vq);
	else
		vduse_ring_start(r);
}

int vduse_ring_watch(struct vduse_ring *r)
{
	const struct vduse_vq_eventfd e = { .index = r->vq->index, .fd = r->kick.fd };
	if (!r->kick.added) {
		r->kick.ready = kicked;
		// Edge-triggered: every signal is an event, and the counter need never be read.
		int rc = loop_add(&r->s->d->loop, &r->kick, EPOLLIN | EPOLLET);
		if (rc < 0)
			return rc;
	}
	return ioctl(r->s->node.fd, VDUSE_VQ_SETUP_KICKFD, &e) < 0 ? -errno : 0;
}
