// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/check.h"
#include "vmm/base/deadline.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/virtio_pci_impl.h"

#include <errno.h>
#include <string.h>

// ---- start, stop, break -----------------------------------------------------------------------------------------

void vp_config_interrupt(struct virtio_pci *vp)
{
	vp->isr |= VP_ISR_CONFIG;
	if (vp->config_vector != MSIX_NO_VECTOR)
		msix_signal(&vp->msix, vp->config_vector);
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
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	vp_doorbells_remove(vp, vp->func.bar[VP_BAR].range.start);
	for (unsigned i = 0; i < vp_queue_count(vp); i++)
		any |= queue_stop(vp, i);
	if (any || vp->ran)
		vp->backend->ops->run(vp->backend, false);
	vp->ran = false;
	vp->backend->deadline = 0;
}

void vp_break(struct virtio_pci *vp, const char *why)
{
	log_limited(LOG_WARN, "%s: %s; the device needs a reset by its driver", vp->func.id, why);
	vp_doorbells_remove(vp, vp->func.bar[VP_BAR].range.start);
	vp->state = VP_BROKEN;
	vp->status |= VS_NEEDS_RESET;
	vp_config_interrupt(vp);
}

void vp_interrupts_check(struct virtio_pci *vp)
{
	int rc = msix_take_error(&vp->msix);
	if (rc < 0 && vp->state == VP_RUNNING)
		vp_break(vp, strerror(-rc));
}

static bool ring_part_valid(const struct virtio_pci *vp, uint64_t gpa, uint64_t len, uint64_t align)
{
	return gpa % align == 0 && memmap_ptr(vp->host.memory, gpa, len);
}

bool vp_queue_size_valid(const struct virtio_pci *vp, uint64_t size)
{
	return size > 0 && size <= vp->backend->queue_size_max &&
	       ((vp->taken & VF_RING_PACKED) || is_power_of_two(size));
}

// The one check of what a driver wrote into a queue's registers (virtio 1.2 §2.7, packed: §2.8.10.1).
static const char *queue_check(const struct virtio_pci *vp, const struct vp_queue *q)
{
	const bool packed = vp->taken & VF_RING_PACKED;
	uint64_t desc_len = UINT64_C(16) * q->size;
	uint64_t driver_len = packed ? 4 : 6 + UINT64_C(2) * q->size;
	uint64_t device_len = packed ? 4 : 6 + UINT64_C(8) * q->size;
	if (!vp_queue_size_valid(vp, q->size)) // the features came after it
		return "a split ring whose size is no power of two";
	if (!ring_part_valid(vp, q->desc, desc_len, 16))
		return packed ? "descriptor ring misaligned or outside RAM"
			      : "descriptor table misaligned or outside RAM";
	if (!ring_part_valid(vp, q->driver, driver_len, packed ? 4 : 2))
		return packed ? "driver event suppression misaligned or outside RAM"
			      : "available ring misaligned or outside RAM";
	if (!ring_part_valid(vp, q->device, device_len, 4))
		return packed ? "device event suppression misaligned or outside RAM"
			      : "used ring misaligned or outside RAM";
	if (range_overlaps(q->desc, desc_len, q->driver, driver_len) ||
	    range_overlaps(q->desc, desc_len, q->device, device_len) ||
	    range_overlaps(q->driver, driver_len, q->device, device_len))
		return "the parts of a ring overlap";
	return NULL;
}

static int queue_start(struct virtio_pci *vp, unsigned index)
{
	struct vp_queue *q = &vp->queue[index];
	struct vring_cfg cfg = {
		.size = q->size,
		.base = vp->taken & VF_RING_PACKED ? VRING_BASE_PACKED : 0,
		.desc_gpa = q->desc,
		.avail_gpa = q->driver,
		.used_gpa = q->device,
		.call_fd = -1,
	};
	if (q->vector != MSIX_NO_VECTOR) {
		cfg.call_fd = msix_eventfd(&vp->msix, q->vector);
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

static void vp_start(struct virtio_pci *vp)
{
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		const char *wrong = vp->queue[i].enabled ? queue_check(vp, &vp->queue[i]) : NULL;
		if (wrong) {
			vp_break(vp, wrong);
			return;
		}
	}
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	msix_take_error(&vp->msix); // of what was refused before: each vector in use is asked for again
	int rc = vp->backend->ops->memory(vp->backend, &vp->host.memory->ram);
	for (unsigned i = 0; rc == 0 && i < vp_queue_count(vp); i++)
		if (vp->queue[i].enabled)
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
		vp_break(vp, strerror(-rc));
		return;
	}
	vp->state = VP_RUNNING;
	vp_interrupts_check(vp);
}

// ---- one queue of a running device ------------------------------------------------------------------------------

static void queue_defaults(const struct virtio_pci *vp, struct vp_queue *q)
{
	*q = (struct vp_queue){
		.size = vp->backend->queue_size_max,
		.vector = MSIX_NO_VECTOR,
		.kick_fd = -1,
	};
}

void vp_queue_enable(struct virtio_pci *vp, unsigned index)
{
	const char *wrong = queue_check(vp, &vp->queue[index]);
	if (wrong) {
		vp_break(vp, wrong);
		return;
	}
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	int rc = queue_start(vp, index);
	vp->backend->deadline = 0;
	if (rc == 0)
		rc = vp_doorbells_add(vp);
	if (rc < 0)
		vp_break(vp, strerror(-rc));
	vp_interrupts_check(vp);
}

void vp_queue_reset(struct virtio_pci *vp, unsigned index)
{
	vp->backend->deadline = deadline_in_ms(DEADLINE_START_MS);
	queue_stop(vp, index);
	vp->backend->deadline = 0;
	queue_defaults(vp, &vp->queue[index]);
	vp->queue[index].reset = true;
}

// ---- the device status ------------------------------------------------------------------------------------------

void vp_reset(struct virtio_pci *vp)
{
	vp_stop(vp);
	vp_shared_withdraw(vp, NULL);
	vp->state = VP_RESET;
	vp->status = vp->isr = 0;
	vp->taken = 0;
	vp->offered_select = vp->taken_select = 0;
	vp->queue_select = 0;
	vp->config_vector = MSIX_NO_VECTOR;
	for (unsigned i = 0; i < vp_queue_count(vp); i++)
		queue_defaults(vp, &vp->queue[i]);
}

void vp_status_write(struct virtio_pci *vp, uint8_t val)
{
	if (val == 0) {
		vp_reset(vp);
		return;
	}
	// Bits are only ever added (§2.1.1); NEEDS_RESET is ours.
	uint8_t added = (uint8_t)(val & ~vp->status & ~VS_NEEDS_RESET);
	if ((val & vp->status & ~VS_NEEDS_RESET) != (vp->status & ~VS_NEEDS_RESET))
		return;
	if (vp->state == VP_RESET && (added & VS_ACKNOWLEDGE))
		vp->state = VP_CONFIG;
	if (vp->state != VP_CONFIG) {
		vp->status |= added & VS_FAILED;
		return;
	}
	vp->status |= added & (VS_ACKNOWLEDGE | VS_DRIVER | VS_FAILED);
	if (added & VS_FEATURES_OK) {
		bool good =
			(vp->status & VS_DRIVER) && (vp->taken & VF_VERSION_1) && !(vp->taken & ~vp->offered);
		if (!good || vp->backend->ops->negotiate(vp->backend, vp->taken) < 0)
			return;
		vp->status |= VS_FEATURES_OK;
	}
	if ((added & VS_DRIVER_OK) && (vp->status & VS_FEATURES_OK)) {
		vp->status |= VS_DRIVER_OK;
		vp_start(vp);
	}
}
