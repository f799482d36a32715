// SPDX-License-Identifier: BSD-2-Clause
// The operations of a vhost-user back-end, each one exchange; those of queues and memory are in vhost_user_queue.c and
// vhost_user_memory.c, the handshake is in vhost_user_open.c.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_NET_F_MTU 3

// virtio 1.2 §2.1
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER	   2u
#define STATUS_DRIVER_OK   4u
#define STATUS_FEATURES_OK 8u

static struct vhost_user *vu_of(struct backend *b)
{
	return CONTAINER_OF(b, struct vhost_user, backend);
}

static void order_u64(struct vu_exchange *x, uint32_t request, uint64_t value)
{
	vu_order(x, request, &value, sizeof(value), NULL, 0);
}

static void tell_u64(struct vu_exchange *x, uint32_t request, uint64_t value)
{
	vu_tell(x, request, &value, sizeof(value), -1);
}

// A start or stop of the device is many operations with one deadline.
static deadline_ns stop_deadline(const struct vhost_user *vu)
{
	deadline_ns own = deadline_in_ms(vu->stop_ms);
	return vu->backend.deadline ? MIN(own, vu->backend.deadline) : own;
}

static deadline_ns control_deadline(const struct vhost_user *vu)
{
	return deadline_in_ms(vu->control_ms);
}

// An operation begins: true if there is somebody to talk to.
static bool op_begin(struct vhost_user *vu)
{
	pthread_mutex_lock(&vu->lock);
	return vu->connected;
}

// The same, for what makes sense only to one who was told all that came before.
static bool op_begin_live(struct vhost_user *vu)
{
	return op_begin(vu) && vu->live;
}

// What was noted for one who is gone and expected back will be said when it is.
static int noted(const struct vhost_user *vu, int rc)
{
	return rc == -EPIPE && vu->again.has_thread && !atomic_load(&vu->death.gone) ? 0 : rc;
}

static int op_end(struct vhost_user *vu, int rc)
{
	vu->answered |= rc == 0;
	rc = noted(vu, rc);
	pthread_mutex_unlock(&vu->lock);
	return rc;
}

// ---- features -----------------------------------------------------------------------------------

static int op_features(struct backend *b, uint64_t *out)
{
	struct vhost_user *vu = vu_of(b);
	*out = vu->offered;
	return 0;
}

int vu_do_negotiate(struct vhost_user *vu, deadline_ns deadline)
{
	const bool status = vu_has(vu, VHOST_USER_PF_BIT(STATUS));
	struct vu_exchange x;
	vu_begin(&x, &vu->link, deadline);
	if (status) {
		tell_u64(&x, VHOST_USER_SET_STATUS, 0);
		tell_u64(&x, VHOST_USER_SET_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	}
	// Bit 30 is what makes rings start disabled and SET_VRING_ENABLE meaningful.
	// ACCESS_PLATFORM would tell the back-end to ask for each address; without an IOMMU there is nothing to ask for.
	order_u64(&x, VHOST_USER_SET_FEATURES,
		  (vu->features & ~(UINT64_C(1) << VIRTIO_F_ACCESS_PLATFORM)) |
			  UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES);
	if (status) {
		tell_u64(&x, VHOST_USER_SET_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
		vu_ask(&x, VHOST_USER_GET_STATUS, NULL, 0);
		uint64_t now = vu_answer_u64(&x, VHOST_USER_GET_STATUS);
		if (x.rc == 0 && !(now & STATUS_FEATURES_OK)) {
			x.rc = -EIO;
			x.refused = "the features that the driver took (FEATURES_OK)";
		}
	}
	// Only to one whose driver is told it, too.
	if (vu->own.mtu && vu->features >> VIRTIO_NET_F_MTU & 1)
		order_u64(&x, VHOST_USER_NET_SET_MTU, vu->own.mtu);
	return vu_end(&x);
}

static int op_negotiate(struct backend *b, uint64_t features)
{
	struct vhost_user *vu = vu_of(b);
	if (features & ~vu->offered)
		return -EINVAL;
	int rc = -EPIPE;
	const bool there = op_begin(vu);
	vu->features = features;
	vu->negotiated = true;
	if (there && (features & ~vu->link.features)) {
		log_limited(LOG_WARN,
			    "%s: the driver takes features that this back-end does not have; the "
			    "one before had them",
			    b->id);
		rc = -EINVAL;
	} else if (there) {
		vu->live = true;
		rc = vu_do_negotiate(vu, control_deadline(vu));
	}
	if (rc < 0 && rc != -EPIPE)
		vu->negotiated = false;
	return op_end(vu, rc);
}

// ---- configuration space ------------------------------------------------------------------------

static int op_config_read(struct backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct vhost_user *vu = vu_of(b);
	if (!range_in(off, len, b->config_len))
		return -EINVAL;
	int rc = 0;
	const bool ask = op_begin(vu) && !vu->config_own && atomic_exchange(&vu->config_stale, false);
	if (ask) {
		struct vu_exchange x;
		vu_begin(&x, &vu->link, control_deadline(vu));
		vu_ask_config(&x, vu);
		vu_answer_config(&x, vu, vu->config);
		rc = vu_end(&x);
		if (rc < 0)
			atomic_store(&vu->config_stale, true);
	}
	if (noted(vu, rc) == 0)
		memcpy(buf, vu->config + off, len); // while nobody is there, as it was last known
	if (ask)
		return op_end(vu, rc);
	pthread_mutex_unlock(&vu->lock);
	return rc;
}

static int op_config_write(struct backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct vhost_user *vu = vu_of(b);
	if (!range_in(off, len, b->config_len))
		return -EINVAL;
	if (vu->config_own)
		return 0;
	int rc = op_begin(vu) ? vu_do_config_write(vu, off, buf, len, control_deadline(vu)) : -EPIPE;
	if (rc == 0 || rc == -EPIPE) {
		memcpy(vu->config + off, buf, len);
		for (uint32_t i = off; i < off + len; i++)
			vu->written[i / 8] |= (uint8_t)(1u << i % 8);
	}
	atomic_store(&vu->config_stale, true);
	return op_end(vu, rc);
}

// ---- memory -------------------------------------------------------------------------------------

static int op_memory(struct backend *b, const struct mem_table *t)
{
	struct vhost_user *vu = vu_of(b);
	const bool there = op_begin_live(vu);
	vu->memory = *t;
	return op_end(vu, there ? vu_do_memory(vu, stop_deadline(vu)) : -EPIPE);
}

// ---- queues -------------------------------------------------------------------------------------

static bool any_started(const struct vhost_user *vu)
{
	for (unsigned q = 0; q < vu->backend.queue_count; q++)
		if (vu->ring[q].started)
			return true;
	return false;
}

static int op_queue_stop(struct backend *b, unsigned q, uint32_t *base)
{
	struct vhost_user *vu = vu_of(b);
	int rc = op_begin_live(vu) ? 0 : -EPIPE;
	*base = 0;
	if (q >= b->queue_count || !vu->ring[q].started) {
		pthread_mutex_unlock(&vu->lock);
		return -EINVAL;
	}
	*base = vu_used_index(vu, q);
	if (vu->stopping) {
		vu_resume(&vu->stop);
		vu->stop.deadline = stop_deadline(vu);
		vu_answer_queue_stop(&vu->stop, vu, q, base);
		rc = vu->stop.rc;
		vu_pause(&vu->stop);
	} else if (rc == 0) {
		rc = vu_do_queue_stop(vu, q, base, stop_deadline(vu));
	}
	vu->ring[q].started = false;
	return op_end(vu, rc);
}

static int op_queue_start(struct backend *b, unsigned q, const struct vring_cfg *cfg)
{
	struct vhost_user *vu = vu_of(b);
	int rc = op_begin_live(vu) ? 0 : -EPIPE;
	if (q >= b->queue_count || vu->ring[q].started) {
		pthread_mutex_unlock(&vu->lock);
		return -EINVAL;
	}
	vu->ring[q].cfg = *cfg;
	vu->ring[q].served = vu->ring[q].on_link = false;
	if (rc == 0 && !any_started(vu))
		rc = vu_do_inflight(vu, stop_deadline(vu));
	if (rc == 0)
		rc = vu_do_queue_start(vu, q, cfg->base, stop_deadline(vu));
	vu->ring[q].started = noted(vu, rc) == 0;
	return op_end(vu, rc);
}

int vu_do_run(struct vhost_user *vu, deadline_ns deadline)
{
	struct vu_exchange x;
	fd_event_take(vu->err_fd); // what an earlier run left
	vu_begin(&x, &vu->link, deadline);
	for (unsigned q = 0; q < vu->backend.queue_count; q++)
		if (vu->ring[q].started)
			vu_send_enable(&x, q, true);
	if (vu_has(vu, VHOST_USER_PF_BIT(STATUS)))
		order_u64(&x, VHOST_USER_SET_STATUS,
			  STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	int rc = vu_end(&x);
	if (rc == 0)
		loop_modify(vu->link.loop, &vu->err_source, (uint32_t)EPOLLIN | (uint32_t)EPOLLONESHOT);
	return rc;
}

static void send_reset(struct vu_exchange *x, const struct vhost_user *vu)
{
	if (vu_has(vu, VHOST_USER_PF_BIT(STATUS)))
		order_u64(x, VHOST_USER_SET_STATUS, 0);
	if (vu_has(vu, VHOST_USER_PF_BIT(RESET_DEVICE)))
		vu_order(x, VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0);
}

static int device_reset(struct vhost_user *vu)
{
	const bool reset = vu_has(vu, VHOST_USER_PF_BIT(RESET_DEVICE));
	if (!vu->stopping && !reset && !vu_has(vu, VHOST_USER_PF_BIT(STATUS)))
		return vu_link_dead(&vu->link) ? -EPIPE : 0;
	if (vu->stopping) {
		vu_resume(&vu->stop);
	} else {
		vu_begin(&vu->stop, &vu->link, stop_deadline(vu));
		send_reset(&vu->stop, vu);
	}
	vu->stop.deadline = stop_deadline(vu);
	vu->stopping = false;
	int rc = vu_end(&vu->stop);
	// Some back-ends take the memory table for a part of what is reset.  A table may be sent again at no
	// harm; a slot that is still there may not.
	if (reset && !vu_has(vu, VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS)))
		vu->sent.count = 0;
	return rc;
}

// The connection is one open exchange until run(false) ends it.  The loop's thread, with the guest's CPUs at rest: nobody else has
// something to say, and who might (vu_objects_serve()) looks at `stopping`.
//
// As many queues as have room in any socket: nothing here may wait.
#define STOP_AT_ONCE_MAX 64

static bool op_stop_begin(struct backend *b)
{
	struct vhost_user *vu = vu_of(b);
	unsigned started = 0;
	const bool there = op_begin_live(vu);
	for (unsigned q = 0; q < b->queue_count; q++)
		started += vu->ring[q].started;
	// Unacknowledged orders end in a question that comes after all answers, and so in a wait.
	const bool acked = vu_has(vu, VHOST_USER_PF_BIT(REPLY_ACK)) ||
			   !vu_has(vu, VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(RESET_DEVICE));
	vu->stopping = there && acked && started > 0 && started <= STOP_AT_ONCE_MAX;
	if (vu->stopping) {
		const deadline_ns now_or_never = 0;
		vu_begin(&vu->stop, &vu->link, now_or_never);
		for (unsigned q = 0; q < b->queue_count; q++)
			if (vu->ring[q].started)
				vu_ask_queue_stop(&vu->stop, q);
		send_reset(&vu->stop, vu);
		vu->stopping = vu->stop.rc == 0;
		if (vu->stopping)
			vu_pause(&vu->stop);
		else // nothing is under way while others may get it a new connection
			vu_end(&vu->stop);
	}
	const bool begun = vu->stopping;
	pthread_mutex_unlock(&vu->lock);
	return begun;
}

static int op_run(struct backend *b, bool on)
{
	struct vhost_user *vu = vu_of(b);
	int rc = (on ? op_begin_live(vu) : op_begin(vu)) ? 0 : -EPIPE;
	if (rc == 0)
		rc = on ? vu_do_run(vu, stop_deadline(vu)) : device_reset(vu);
	for (unsigned q = 0; on && q < b->queue_count; q++)
		if (vu->ring[q].started)
			vu->ring[q].trace = vu_queue_trace(vu, q);
	if (!on) {
		vu_inflight_drop(vu);
		vu->negotiated = false;
		vu->features = 0;
		atomic_store(&vu->shared_lost, false);
		memset(vu->written, 0, sizeof(vu->written)); // what the driver wrote there is gone
		atomic_store(&vu->config_stale, true);
	}
	vu->running = on && noted(vu, rc) == 0;
	return op_end(vu, rc);
}

#define CHILD_GRACE_MS 1000

static void op_close(struct backend *b)
{
	struct vhost_user *vu = vu_of(b);
	if (vu->stopping) {
		vu_resume(&vu->stop);
		vu_end(&vu->stop);
	}
	vu_again_close(vu);
	vu_objects_close(vu);
	loop_remove(vu->link.loop, &vu->err_source);
	fd_close(&vu->err_fd);
	vu_channel_close(&vu->channel);
	const bool cut_off = vu->link.sock < 0 || vu_link_dead(&vu->link);
	vu_link_close(&vu->link); // the child sees the end of its socket before it is signalled
	if (vu->child) {
		spawn_stop(vu->child, cut_off ? 0 : CHILD_GRACE_MS); // it has had its time
		free(vu->child);
	}
	vu_inflight_drop(vu);
	pthread_mutex_destroy(&vu->lock);
	free(vu);
}

const struct backend_ops vu_ops = {
	.kind = "vhost-user",
	.features = op_features,
	.negotiate = op_negotiate,
	.config_read = op_config_read,
	.config_write = op_config_write,
	.memory = op_memory,
	.queue_start = op_queue_start,
	.queue_stop = op_queue_stop,
	.run = op_run,
	.stop_begin = op_stop_begin,
	.close = op_close,
};
