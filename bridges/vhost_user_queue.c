// SPDX-License-Identifier: BSD-2-Clause
// Queues of a vhost-user back-end: start, stop, and from where one goes on that was cut off.
//
// Called by vhost_user.c and vhost_user_again.c with the lock.  Of guest memory it reads two indices, and believes neither further
// than to tell a back-end where to begin; the guest can only fool its own device.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/stat.h>

static bool is_packed(const struct vhost_user *vu)
{
	return vu->features >> VIRTIO_F_RING_PACKED & 1;
}

static void send_event_fd(struct vu_exchange *x, uint32_t request, unsigned q, int fd, bool must_succeed)
{
	uint64_t value = q | (fd < 0 ? VHOST_USER_VRING_NO_FD : 0);
	if (must_succeed)
		vu_order(x, request, &value, sizeof(value), &fd, fd >= 0);
	else
		vu_tell(x, request, &value, sizeof(value), fd);
}

void vu_send_enable(struct vu_exchange *x, unsigned q, bool on)
{
	struct vhost_user_vring_state s = { .index = q, .num = on };
	if (on)
		vu_order(x, VHOST_USER_SET_VRING_ENABLE, &s, sizeof(s), NULL, 0);
	else
		vu_tell(x, VHOST_USER_SET_VRING_ENABLE, &s, sizeof(s), -1);
}

void vu_ask_queue_stop(struct vu_exchange *x, unsigned q)
{
	const struct vhost_user_vring_state s = { .index = q };
	vu_ask(x, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	// Only after it is stopped: a ring that runs disabled may drop what it finds.
	vu_send_enable(x, q, false);
}

void vu_answer_queue_stop(struct vu_exchange *x, const struct vhost_user *vu, unsigned q, uint32_t *base)
{
	struct vhost_user_vring_state s = { .index = q };
	vu_answer(x, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	if (x->rc == 0 && s.index != q)
		vu_broken(x, "broke the protocol (answer to GET_VRING_BASE: another queue)");
	if (x->rc == 0)
		*base = is_packed(vu) ? s.num : (uint16_t)s.num; // of a split ring the rest is noise
}

int vu_do_queue_stop(struct vhost_user *vu, unsigned q, uint32_t *base, deadline_ns deadline)
{
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	vu_ask_queue_stop(&x, q);
	vu_answer_queue_stop(&x, vu, q, base);
	return vu_end(&x);
}

int vu_do_queue_start(struct vhost_user *vu, unsigned q, uint32_t first, deadline_ns deadline)
{
	const struct vring_cfg *cfg = &vu->ring[q].cfg;
	const struct vhost_user_vring_state num = { .index = q, .num = cfg->size };
	const struct vhost_user_vring_state base = { .index = q, .num = first };
	const uint64_t user = vu_user_offset(vu);
	const struct vhost_user_vring_addr addr = {
		.index = q,
		.desc_user = cfg->desc_gpa + user,
		.used_user = cfg->used_gpa + user,
		.avail_user = cfg->avail_gpa + user,
	};
	struct vu_exchange x;
	vu->ring[q].served = vu->ring[q].on_link = true;
	vu_begin(&x, &vu->link, deadline);
	vu_tell(&x, VHOST_USER_SET_VRING_NUM, &num, sizeof(num), -1);
	vu_tell(&x, VHOST_USER_SET_VRING_BASE, &base, sizeof(base), -1);
	vu_order(&x, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
	send_event_fd(&x, VHOST_USER_SET_VRING_ERR, q, vu->err_fd, false);
	send_event_fd(&x, VHOST_USER_SET_VRING_CALL, q, cfg->call_fd, false);
	// The kick starts the ring, so everything else about it comes before.
	send_event_fd(&x, VHOST_USER_SET_VRING_KICK, q, cfg->kick_fd, true);
	if (vu->running)
		vu_send_enable(&x, q, true);
	int rc = vu_end(&x);
	if (rc < 0 && rc != -EPIPE) {
		// It refused a part of the ring and may have taken the rest: nothing of it is to stay in use.
		uint32_t unused;
		vu_do_queue_stop(vu, q, &unused, deadline);
	}
	return rc;
}

// ---- where to go on ---------------------------------------------------------------------------------------------

// The index of an available or used ring, both of which begin with 16 bits of flags.
static uint16_t ring_index(const struct vhost_user *vu, uint64_t gpa)
{
	const uint16_t *ring = mem_table_ptr(&vu->memory, gpa, 4);
	return ring ? __atomic_load_n(ring + 1, __ATOMIC_ACQUIRE) : 0;
}

uint16_t vu_used_index(const struct vhost_user *vu, unsigned q)
{
	return is_packed(vu) ? 0 : ring_index(vu, vu->ring[q].cfg.used_gpa);
}

// A packed ring counts nothing: its descriptors as a whole tell.  What the driver puts there changes them, too, but
// not for long when nobody serves it.
uint32_t vu_queue_trace(const struct vhost_user *vu, unsigned q)
{
	const struct vring_cfg *cfg = &vu->ring[q].cfg;
	const uint32_t *word = mem_table_ptr(&vu->memory, cfg->desc_gpa, UINT64_C(16) * cfg->size);
	uint32_t trace = 2166136261u; // FNV-1a, by words
	if (!is_packed(vu))
		return vu_used_index(vu, q);
	for (unsigned i = 0; word && i < 4u * cfg->size; i++)
		trace = (trace ^ __atomic_load_n(&word[i], __ATOMIC_RELAXED)) * 16777619u;
	return trace;
}

void vu_queues_lost(struct vhost_user *vu)
{
	for (unsigned q = 0; q < vu->backend.queue_count; q++) {
		struct vu_ring *r = &vu->ring[q];
		if (!r->started || !r->on_link)
			continue;
		r->on_link = false;
		r->idle_at = vu_used_index(vu, q);
		r->idle = !is_packed(vu) && r->idle_at == ring_index(vu, r->cfg.avail_gpa);
	}
}

bool vu_queue_base(const struct vhost_user *vu, unsigned q, uint32_t *base)
{
	const uint16_t used = vu_used_index(vu, q);
	*base = vu->ring[q].cfg.base;
	if (!vu->ring[q].served)
		return true;
	if (is_packed(vu))
		return vu->inflight.fd >= 0; // the record tells where the device was, memory does not
	*base = used;
	if (vu->inflight.fd >= 0 || (vu->features >> VIRTIO_F_IN_ORDER & 1) ||
	    (vu->type && vu->type->keeps_order))
		return true;
	return vu->ring[q].idle && vu->ring[q].idle_at == used;
}

// ---- requests in flight -----------------------------------------------------------------------------------------

void vu_inflight_drop(struct vhost_user *vu)
{
	fd_close(&vu->inflight.fd);
}

static bool record_is_sound(int fd, const struct vhost_user_inflight *in)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && in->mmap_size > 0 &&
	       range_in(in->mmap_offset, in->mmap_size, (uint64_t)st.st_size);
}

static void inflight_get(struct vu_exchange *x, struct vhost_user *vu)
{
	struct vhost_user_inflight in = { .queue_count = vu->backend.queue_count,
					  .queue_size = vu->backend.queue_size_max };
	const uint16_t queues = in.queue_count, size = in.queue_size;
	FD_AUTO fd = -1;
	vu_ask(x, VHOST_USER_GET_INFLIGHT_FD, &in, sizeof(in));
	vu_answer_fd(x, VHOST_USER_GET_INFLIGHT_FD, &in, sizeof(in), &fd);
	if (x->rc < 0 || (fd < 0 && in.mmap_size == 0)) // it offers the feature and keeps no record
		return;
	if (fd < 0 || !record_is_sound(fd, &in)) {
		vu_broken(x, "broke the protocol (answer to GET_INFLIGHT_FD: no memory of that size)");
		return;
	}
	in.queue_count = queues;
	in.queue_size = size;
	vu->inflight.place = in;
	vu->inflight.fd = fd_steal(&fd);
}

int vu_do_inflight(struct vhost_user *vu, deadline_ns deadline)
{
	if (!vu_has(vu, VHOST_USER_PF_BIT(INFLIGHT_SHMFD))) {
		vu_inflight_drop(vu);
		return 0;
	}
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	if (vu->inflight.fd < 0)
		inflight_get(&x, vu);
	if (vu->inflight.fd >= 0)
		vu_order(&x, VHOST_USER_SET_INFLIGHT_FD, &vu->inflight.place, sizeof(vu->inflight.place),
			 &vu->inflight.fd, 1);
	int rc = vu_end(&x);
	if (rc == -EIO)
		vu_inflight_drop(vu); // then the rings alone have to tell
	return rc == -EIO ? 0 : rc;
}
