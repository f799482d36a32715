// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/virtio_pci_impl.h"

#include <string.h>

// ---- start, stop, break -----------------------------------------------------------------------------------------

void vp_config_interrupt(struct virtio_pci *vp)
{
	vp->regs.isr |= VP_ISR_CONFIG;
	if (vp->regs.config_vector != VIRTIO_NO_VECTOR)
		msix_signal(&vp->msix, vp->regs.config_vector);
}

// True: it was started.
static bool queue_stop(struct virtio_pci *vp, unsigned index)
{
	struct vp_queue *q = &vp->queue[index];
	const bool was_started = q->started;
	uint32_t base;
	vp_doorbell_end(vp, index);
	if (was_started)
		vp->backend->ops->queue_stop(vp->backend, index, &base);
	q->started = false;
	fd_close(&q->kick_fd);
	return was_started;
}

void vp_stop(struct virtio_pci *vp)
{
	bool any = false;
	vp->backend->deadline = vp->stop_begun ? vp->stop_begun : deadline_in_ms(DEADLINE_START_MS);
	vp->stop_begun = 0;
	vp_doorbells_remove(vp, vp->func.bar[VP_BAR].range.start);
	for (unsigned i = 0; i < vp_queue_count(vp); i++)
		any |= queue_stop(vp, i);
	if (any || vp->ran)
		vp->backend->ops->run(vp->backend, false);
	vp->ran = false;
	vp->backend->deadline = 0;
}

void vp_stop_begin(struct virtio_pci *vp, deadline_ns deadline)
{
	if (vp->backend->ops->stop_begin && vp->backend->ops->stop_begin(vp->backend))
		vp->stop_begun = deadline;
}

void vp_break(struct virtio_pci *vp, const char *why)
{
	log_limited(LOG_WARN, "%s: %s; the device needs a reset by its driver", vp->func.id, why);
	vp_doorbells_remove(vp, vp->func.bar[VP_BAR].range.start);
	vp->regs.state = VIRTIO_BROKEN;
	vp->regs.status |= VS_NEEDS_RESET;
	vp_config_interrupt(vp);
}

void vp_interrupts_check(struct virtio_pci *vp)
{
	int rc = msix_take_error(&vp->msix);
	if (rc < 0 && vp->regs.state == VIRTIO_RUNNING)
		vp_break(vp, err_text(-rc));
}

static int queue_start(struct virtio_pci *vp, unsigned index)
{
	struct vp_queue *q = &vp->queue[index];
	const struct virtio_reg_queue *regs = &vp->regs.queue[index];
	struct vring_cfg cfg = {
		.size = regs->size,
		.base = vp->regs.taken & VF_RING_PACKED ? VRING_BASE_PACKED : 0,
		.desc_gpa = regs->desc,
		.avail_gpa = regs->driver,
		.used_gpa = regs->device,
		.call_fd = -1,
	};
	if (regs->vector != VIRTIO_NO_VECTOR) {
		cfg.call_fd = msix_eventfd(&vp->msix, regs->vector);
		if (cfg.call_fd < 0)
			return cfg.call_fd;
	}
	// A new one at each start: a back-end that kept the last one cannot take this driver's doorbells.
	q->kick_fd = fd_eventfd();
	if (q->kick_fd < 0)
		return q->kick_fd;
	cfg.kick_fd = q->kick_fd;
	int rc = vp->backend->ops->queue_start(vp->backend, index, &cfg);
	q->started = rc == 0;
	return rc;
}

// ---- what follows from the registers ----------------------------------------------------------------------------

static struct virtio_pci *vp_of(struct virtio_regs *r)
{
	return CONTAINER_OF(r, struct virtio_pci, regs);
}

static bool on_is_memory(struct virtio_regs *r, uint64_t gpa, uint64_t len)
{
	return memmap_ptr(vp_of(r)->host.memory, gpa, len);
}

static int on_negotiate(struct virtio_regs *r)
{
	struct virtio_pci *vp = vp_of(r);
	return vp->backend->ops->negotiate(vp->backend, r->taken);
}

static void on_start(struct virtio_regs *r)
{
	struct virtio_pci *vp = vp_of(r);
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	msix_take_error(&vp->msix); // of what was refused before: each vector in use is asked for again
	int rc = vp->backend->ops->memory(vp->backend, &vp->host.memory->ram);
	for (unsigned i = 0; rc == 0 && i < vp_queue_count(vp); i++)
		if (r->queue[i].enabled)
			rc = queue_start(vp, i);
	if (rc == 0) {
		rc = vp->backend->ops->run(vp->backend, true);
		vp->ran = rc == 0;
	}
	vp->backend->deadline = 0;
	if (rc == 0)
		rc = vp_doorbells_add(vp);
	if (rc < 0) {
		vp_stop(vp);
		vp_break(vp, err_text(-rc));
		return;
	}
	r->state = VIRTIO_RUNNING;
	vp_interrupts_check(vp);
}

static void on_stop(struct virtio_regs *r)
{
	vp_stop(vp_of(r));
	vp_shared_withdraw(vp_of(r), NULL);
}

static void on_queue_start(struct virtio_regs *r, unsigned index)
{
	struct virtio_pci *vp = vp_of(r);
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	int rc = queue_start(vp, index);
	vp->backend->deadline = 0;
	if (rc == 0)
		rc = vp_doorbells_add(vp);
	if (rc < 0)
		vp_break(vp, err_text(-rc));
	vp_interrupts_check(vp);
}

static void on_queue_stop(struct virtio_regs *r, unsigned index)
{
	struct virtio_pci *vp = vp_of(r);
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	queue_stop(vp, index);
	vp->backend->deadline = 0;
}

static void on_broken(struct virtio_regs *r, const char *why)
{
	vp_break(vp_of(r), why);
}

const struct virtio_regs_ops vp_regs_ops = {
	.is_memory = on_is_memory,
	.negotiate = on_negotiate,
	.start = on_start,
	.stop = on_stop,
	.queue_start = on_queue_start,
	.queue_stop = on_queue_stop,
	.broken = on_broken,
};
