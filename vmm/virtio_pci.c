// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/virtio_pci.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"
#include "vmm/virtio_pci_impl.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

// Posted to the function (pci_func_post).
#define EVENT_DIED	     1u
#define EVENT_CONFIG_CHANGED 2u
#define EVENT_QUEUE_FAILED   4u
#define EVENT_DOORBELL_PAGE  8u

static struct virtio_pci *vp_of(struct pci_func *f)
{
	return CONTAINER_OF(f, struct virtio_pci, func);
}

// ---- device configuration ---------------------------------------------------------------------------------------

static void device_config_refresh(struct virtio_pci *vp)
{
	vp->config_stale = false;
	vp->backend->ops->config_read(vp->backend, 0, vp->config, vp->backend->config_len);
}

static uint64_t device_config_read(struct virtio_pci *vp, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	if (vp->config_stale)
		device_config_refresh(vp);
	for (unsigned i = 0; i < size; i++)
		if (offset + i < vp->backend->config_len)
			val |= (uint64_t)vp->config[offset + i] << (8 * i);
	return val;
}

static void device_config_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
{
	if (vp->regs.state == VIRTIO_RESET || vp->regs.state == VIRTIO_BROKEN ||
	    !range_in(offset, size, vp->backend->config_len))
		return;
	uint8_t bytes[8];
	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(val >> (8 * i));
	if (vp->backend->ops->config_write(vp->backend, (uint32_t)offset, bytes, size) == 0) {
		memcpy(vp->config + offset, bytes, size);
		vp->config_stale = true; // of some devices a write chooses what is read (virtio 1.2 §5.8.4)
	}
}

// On the loop's thread: the back-end is asked when the driver looks, by the driver's own CPU.
static void device_config_changed(struct virtio_pci *vp)
{
	vp->config_stale = vp->backend->config_len > 0;
	vp->regs.generation++;
	if (vp->regs.status & VS_DRIVER_OK)
		vp_config_interrupt(vp);
}

// ---- the BAR ----------------------------------------------------------------------------------------------------

static void notify_write(struct virtio_pci *vp, uint64_t offset)
{
	// KVM takes a running queue's doorbells; what arrives here came before it was started, or between two places of the BAR.
	uint64_t index = offset / vp->notify_step;
	if (offset % vp->notify_step == 0 && index < vp_queue_count(vp) && vp->queue[index].started)
		fd_peer_signal(vp->queue[index].kick_fd);
}

static void vp_bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	struct virtio_pci *vp = vp_of(f);
	*val = bar == VP_BAR ? 0 : UINT64_MAX;
	if (bar != VP_BAR)
		return;
	if (range_in(offset, size, VC_SIZE))
		*val = virtio_regs_read(&vp->regs, offset, size);
	else if (offset == VP_ISR)
		*val = virtio_regs_isr_take(&vp->regs);
	else if (offset >= VP_DEVICE && range_in(offset - VP_DEVICE, size, VP_DEVICE_ROOM))
		*val = device_config_read(vp, offset - VP_DEVICE, size);
	else if (offset >= VP_MSIX_TABLE && offset < VP_MSIX_PBA)
		*val = msix_table_read(&vp->msix, offset - VP_MSIX_TABLE, size);
	else if (offset >= VP_MSIX_PBA)
		*val = msix_pba_read(&vp->msix, offset - VP_MSIX_PBA, size);
}

static void vp_bar_write(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	struct virtio_pci *vp = vp_of(f);
	if (bar != VP_BAR)
		return;
	if (range_in(offset, size, VC_SIZE))
		virtio_regs_write(&vp->regs, offset, size, val);
	else if (offset >= VP_DEVICE && range_in(offset - VP_DEVICE, size, VP_DEVICE_ROOM))
		device_config_write(vp, offset - VP_DEVICE, size, val);
	else if (offset >= vp->notify &&
		 range_in(offset - vp->notify, size, (uint64_t)vp->notify_step * vp_queue_count(vp)))
		notify_write(vp, offset - vp->notify);
	else if (offset >= VP_MSIX_TABLE && offset < VP_MSIX_PBA) {
		msix_table_write(&vp->msix, offset - VP_MSIX_TABLE, size, val);
		vp_interrupts_check(vp);
	}
}

static void vp_bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped)
{
	struct virtio_pci *vp = vp_of(f);
	if (bar == VP_SHARED_BAR) {
		vp_shared_moved(vp, gpa, mapped);
	} else if (!mapped) {
		vp_doorbells_remove(vp, gpa);
	} else if (vp->regs.state == VIRTIO_RUNNING) {
		int rc = vp_doorbells_add(vp);
		if (rc < 0)
			vp_break(vp, err_text(-rc));
	}
}

// ---- configuration space ----------------------------------------------------------------------------------------

// The window into the BAR (§4.1.4.9): true if the guest has pointed it at something that can be accessed.
static bool window_target(const struct virtio_pci *vp, uint32_t *offset, uint32_t *len)
{
	*offset = pci_config_get32(&vp->func, vp->window_cap + VCAP_OFFSET_OFF);
	*len = pci_config_get32(&vp->func, vp->window_cap + VCAP_LENGTH_OFF);
	return vp->func.config[vp->window_cap + VCAP_BAR_OFF] == VP_BAR &&
	       (*len == 1 || *len == 2 || *len == 4) && *offset % *len == 0 &&
	       range_in(*offset, *len, vp->func.bar[VP_BAR].size);
}

static void vp_config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	struct virtio_pci *vp = vp_of(f);
	uint32_t target, len;
	uint64_t v;
	if (offset != vp->window_cap + VCAP_DATA_OFF || !window_target(vp, &target, &len) || size != len)
		return;
	vp_bar_read(f, VP_BAR, target, len, &v);
	*val = (uint32_t)v;
}

static void vp_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	struct virtio_pci *vp = vp_of(f);
	uint32_t target, len;
	if (range_overlaps(offset, size, vp->msix_cap + PCI_MSIX_FLAGS, 2)) {
		msix_control_write(&vp->msix, pci_config_get16(f, vp->msix_cap + PCI_MSIX_FLAGS));
		vp_interrupts_check(vp);
	}
	if (offset == vp->window_cap + VCAP_DATA_OFF && window_target(vp, &target, &len) && size == len)
		vp_bar_write(f, VP_BAR, target, len, val);
}

static void add_virtio_capability(struct pci_func *f, uint8_t type, uint32_t offset, uint32_t len)
{
	unsigned cap = pci_func_add_capability(f, PCI_CAP_ID_VNDR, VCAP_LEN);
	f->config[cap + PCI_CAP_FLAGS] = VCAP_LEN;
	f->config[cap + VCAP_TYPE_OFF] = type;
	f->config[cap + VCAP_BAR_OFF] = VP_BAR;
	pci_config_set32(f, cap + VCAP_OFFSET_OFF, offset);
	pci_config_set32(f, cap + VCAP_LENGTH_OFF, len);
}

static void add_capabilities(struct virtio_pci *vp)
{
	struct pci_func *f = &vp->func;
	add_virtio_capability(f, VCAP_COMMON, VP_COMMON, VC_SIZE);
	add_virtio_capability(f, VCAP_ISR, VP_ISR, 1);
	if (vp->backend->config_len)
		add_virtio_capability(f, VCAP_DEVICE, VP_DEVICE, vp->backend->config_len);

	unsigned cap = pci_func_add_capability(f, PCI_CAP_ID_VNDR, VCAP_LEN_DATA);
	f->config[cap + PCI_CAP_FLAGS] = VCAP_LEN_DATA;
	f->config[cap + VCAP_TYPE_OFF] = VCAP_NOTIFY;
	f->config[cap + VCAP_BAR_OFF] = VP_BAR;
	pci_config_set32(f, cap + VCAP_OFFSET_OFF, vp->notify);
	pci_config_set32(f, cap + VCAP_LENGTH_OFF, vp_queue_count(vp) * vp->notify_step);
	pci_config_set32(f, cap + VCAP_DATA_OFF, vp->notify_step);

	cap = pci_func_add_capability(f, PCI_CAP_ID_VNDR, VCAP_LEN_DATA);
	f->config[cap + PCI_CAP_FLAGS] = VCAP_LEN_DATA;
	f->config[cap + VCAP_TYPE_OFF] = VCAP_PCI;
	f->writable[cap + VCAP_BAR_OFF] = 0xff;
	memset(&f->writable[cap + VCAP_OFFSET_OFF], 0xff, VCAP_LEN_DATA - VCAP_OFFSET_OFF);
	vp->window_cap = cap;

	cap = pci_func_add_capability(f, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	pci_config_set16(f, cap + PCI_MSIX_FLAGS, (uint16_t)(vp->msix.count - 1));
	pci_config_set32(f, cap + PCI_MSIX_TABLE, VP_MSIX_TABLE | VP_BAR);
	pci_config_set32(f, cap + PCI_MSIX_PBA, VP_MSIX_PBA | VP_BAR);
	f->writable[cap + PCI_MSIX_FLAGS + 1] = (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK) >> 8;
	vp->msix_cap = cap;
	vp_shared_capabilities(vp);
}

// ---- function ---------------------------------------------------------------------------------------------------

static void vp_event(struct pci_func *f, unsigned bits)
{
	struct virtio_pci *vp = vp_of(f);
	if ((bits & EVENT_DOORBELL_PAGE) && vp->page)
		vp_pages_take(vp);
	if (bits & EVENT_DIED) {
		if (vp->regs.state == VIRTIO_RUNNING)
			vp_break(vp, "its back-end is gone");
	} else if ((bits & EVENT_QUEUE_FAILED) && vp->regs.state == VIRTIO_RUNNING) {
		vp_break(vp, "its back-end stopped a queue");
	} else if (bits & EVENT_CONFIG_CHANGED) {
		device_config_changed(vp);
	}
}

static void vp_func_reset(struct pci_func *f)
{
	struct virtio_pci *vp = vp_of(f);
	virtio_regs_reset(&vp->regs);
	msix_reset(&vp->msix);
}

static void vp_end_begin(struct pci_func *f, deadline_ns deadline)
{
	vp_stop_begin(vp_of(f), deadline);
}

static const char *vp_state(struct pci_func *f)
{
	static const char *const states[] = { [VIRTIO_RESET] = "no driver",
					      [VIRTIO_CONFIG] = "its driver begins",
					      [VIRTIO_RUNNING] = "running",
					      [VIRTIO_BROKEN] = "needs a reset by its driver" };
	const struct virtio_pci *vp = vp_of(f);
	return atomic_load(&vp->backend->away) ? "waits for its back-end" : states[vp->regs.state];
}

static void vp_pause(struct pci_func *f, bool on)
{
	struct virtio_pci *vp = vp_of(f);
	if (!vp->ran || !vp->backend->ops->pause)
		return;
	int rc = vp->backend->ops->pause(vp->backend, on);
	if (rc < 0 && !on && vp->regs.state == VIRTIO_RUNNING)
		vp_break(vp, "it does not go on after a pause");
	else if (rc < 0)
		log_limited(LOG_WARN, "%s: it goes on during the pause: %s", f->id, err_text(-rc));
}

static void vp_destroy(struct pci_func *f)
{
	struct virtio_pci *vp = vp_of(f);
	// With the lock, so that a back-end that dies of being stopped posts it and does not come back in the middle.
	pci_func_lock(f);
	vp_stop(vp);
	vp->regs.state = VIRTIO_RESET;
	pci_func_unlock(f);
	vp->backend->ops->close(vp->backend);
	msix_destroy(&vp->msix);
	pthread_mutex_destroy(&f->lock);
	vp_pages_free(vp);
	vp_shared_free(vp);
	free(vp->config);
	free(vp->regs.queue);
	free(vp);
}

static const struct pci_func_ops vp_ops = {
	.config_read = vp_config_read,
	.config_write = vp_config_write,
	.bar_read = vp_bar_read,
	.bar_write = vp_bar_write,
	.bar_moved = vp_bar_moved,
	.event = vp_event,
	.end_begin = vp_end_begin,
	.reset = vp_func_reset,
	.state = vp_state,
	.pause = vp_pause,
	.destroy = vp_destroy,
};

static void backend_died(void *owner, const char *why)
{
	struct virtio_pci *vp = owner;
	log_limited(LOG_WARN, "%s: %s back-end: %s", vp->func.id, vp->backend->ops->kind, why);
	pci_func_post(&vp->func, EVENT_DIED);
}

static void backend_config_changed(void *owner)
{
	struct virtio_pci *vp = owner;
	pci_func_post(&vp->func, EVENT_CONFIG_CHANGED);
}

static void backend_queue_failed(void *owner)
{
	struct virtio_pci *vp = owner;
	pci_func_post(&vp->func, EVENT_QUEUE_FAILED);
}

static void backend_doorbell_page(void *owner, unsigned queue, void *page)
{
	struct virtio_pci *vp = owner;
	vp_page_post(vp, queue, page);
	pci_func_post(&vp->func, EVENT_DOORBELL_PAGE);
}

static int backend_shared_given(void *owner, const struct backend_shared_part *part, void *hva)
{
	return vp_shared_give(owner, part, hva);
}

static unsigned backend_shared_withdrawn(void *owner, const struct backend_shared_part *part)
{
	return vp_shared_withdraw(owner, part);
}

static const struct backend_events vp_backend_events = {
	.config_changed = backend_config_changed,
	.died = backend_died,
	.queue_failed = backend_queue_failed,
	.doorbell_page = backend_doorbell_page,
	.shared_given = backend_shared_given,
	.shared_withdrawn = backend_shared_withdrawn,
};

int virtio_pci_create(struct pci_func **out, struct backend *b, const struct virtio_pci_host *host,
		      struct err *e)
{
	unsigned queues = b->queue_count;
	if (queues == 0 || queues > VP_QUEUES_MAX || b->config_len > VP_DEVICE_ROOM)
		return err_set(
			e, EINVAL,
			"%s: %u queues and %u bytes of configuration; 1 to %d and up to %d are possible",
			b->id, queues, b->config_len, VP_QUEUES_MAX, VP_DEVICE_ROOM);
	if (!is_power_of_two(b->queue_size_max) || b->queue_size_max > VP_QUEUE_SIZE_MAX)
		return err_set(e, EINVAL, "%s: queues of %u entries; a power of two up to %d is possible",
			       b->id, b->queue_size_max, VP_QUEUE_SIZE_MAX);
	struct virtio_pci *vp = calloc(1, sizeof(*vp) + queues * sizeof(vp->queue[0]));
	struct virtio_reg_queue *regs = calloc(queues, sizeof(*regs));
	uint8_t *config = calloc(1, b->config_len + 1);
	int rc = -ENOMEM;
	if (!vp || !regs || !config) {
		err_set(e, ENOMEM, "%s: out of memory", b->id);
		goto fail_memory;
	}
	vp->backend = b;
	vp->host = *host;
	vp->config = config;
	vp->regs = (struct virtio_regs){ .ops = &vp_regs_ops,
					 .queue = regs,
					 .queue_count = (uint16_t)queues,
					 .vector_count = (uint16_t)(queues + 1),
					 .queue_size_max = (uint16_t)b->queue_size_max };
	for (unsigned i = 0; i < queues; i++)
		vp->queue[i].kick_fd = -1;

	rc = vp_pages_init(vp, e);
	if (rc == 0)
		rc = vp_shared_init(vp, e);
	if (rc < 0)
		goto fail_memory;
	rc = b->ops->features(b, &vp->regs.offered);
	if (rc == 0 && b->config_len)
		rc = b->ops->config_read(b, 0, config, b->config_len);
	if (rc < 0) {
		err_sys(e, -rc, "%s: asking the back-end for features and configuration", b->id);
		goto fail_memory;
	}
	vp->regs.offered &= VF_CARRIED;
	rc = msix_init(&vp->msix, b->id, host->irq, queues + 1, e);
	if (rc < 0)
		goto fail_memory;

	pci_func_init(&vp->func, &vp_ops, b->id, VIRTIO_PCI_VENDOR,
		      (uint16_t)(VIRTIO_PCI_DEVICE_BASE + b->virtio_type),
		      virtio_id_pci_class(b->virtio_type));
	vp->func.config[PCI_REVISION_ID] = 1; // §4.1.2.1: not a transitional device
	pci_func_set_subsystem(&vp->func, VIRTIO_PCI_VENDOR, (uint16_t)(0x40 + b->virtio_type));
	uint64_t bar_size = VP_BAR_SIZE;
	while (vp->page && bar_size < vp->notify + (uint64_t)vp->notify_step * queues)
		bar_size *= 2;
	pci_func_add_bar(&vp->func, VP_BAR, bar_size, true, false);
	if (vp->shared)
		pci_func_add_bar(&vp->func, VP_SHARED_BAR, vp->shared->size, true, true);
	add_capabilities(vp);
	virtio_regs_reset(&vp->regs);
	b->events = &vp_backend_events;
	b->owner = vp;
	*out = &vp->func;
	return 0;

fail_memory:
	if (vp) {
		vp_pages_free(vp);
		vp_shared_free(vp);
	}
	free(config);
	free(regs);
	free(vp);
	return rc;
}
