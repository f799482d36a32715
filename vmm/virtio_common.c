// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/check.h"
#include "vmm/virtio_pci_impl.h"

static struct vp_queue *selected_queue(struct virtio_pci *vp)
{
	return vp->queue_select < vp_queue_count(vp) ? &vp->queue[vp->queue_select] : NULL;
}

// The queue's address register that `offset` lies in; *shift: bits below the part that is accessed.
static uint64_t *queue_address(struct vp_queue *q, uint64_t offset, unsigned size, unsigned *shift)
{
	if ((size != 4 && size != 8) || offset % size)
		return NULL;
	*shift = 8 * (unsigned)(offset % 8);
	switch (offset & ~UINT64_C(7)) {
	case VC_QUEUE_DESC:
		return &q->desc;
	case VC_QUEUE_DRIVER:
		return &q->driver;
	case VC_QUEUE_DEVICE:
		return &q->device;
	default:
		return NULL;
	}
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select == 0 ? (uint32_t)features : select == 1 ? (uint32_t)(features >> 32) : 0;
}

static uint64_t queue_register_read(struct virtio_pci *vp, uint64_t offset, unsigned size)
{
	struct vp_queue *q = selected_queue(vp);
	unsigned shift;
	if (!q)
		return 0;
	if (size == 2)
		switch (offset) {
		case VC_QUEUE_SIZE:
			return q->size;
		case VC_QUEUE_MSIX_VECTOR:
			return q->vector;
		case VC_QUEUE_ENABLE:
			return q->enabled;
		case VC_QUEUE_NOTIFY_OFF:
			return vp->queue_select;
		default: // queue_reset among them: when a write to it returns the queue has been reset
			return 0;
		}
	const uint64_t *address = queue_address(q, offset, size, &shift);
	return address ? *address >> shift : 0;
}

// (offset, size) as one case label: registers are accessed with their own width, §4.1.3.1.
#define REG(offset, size) ((offset) << 4 | (size))

uint64_t vp_common_read(struct virtio_pci *vp, uint64_t offset, unsigned size)
{
	switch (REG(offset, size)) {
	case REG(VC_DEVICE_FEATURE_SELECT, 4):
		return vp->offered_select;
	case REG(VC_DEVICE_FEATURE, 4):
		return feature_word(vp->offered, vp->offered_select);
	case REG(VC_DRIVER_FEATURE_SELECT, 4):
		return vp->taken_select;
	case REG(VC_DRIVER_FEATURE, 4):
		return feature_word(vp->taken, vp->taken_select);
	case REG(VC_CONFIG_MSIX_VECTOR, 2):
		return vp->config_vector;
	case REG(VC_NUM_QUEUES, 2):
		return vp_queue_count(vp);
	case REG(VC_DEVICE_STATUS, 1):
		return vp->status;
	case REG(VC_CONFIG_GENERATION, 1):
		return vp->generation;
	case REG(VC_QUEUE_SELECT, 2):
		return vp->queue_select;
	default:
		return queue_register_read(vp, offset, size);
	}
}

static uint16_t vector_checked(const struct virtio_pci *vp, uint64_t val)
{
	return val < vp->msix.count ? (uint16_t)val : MSIX_NO_VECTOR;
}

// Queue registers: only while the driver sets up, the device or a queue that it has reset, and only until the queue is enabled.
static void queue_register_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
{
	struct vp_queue *q = selected_queue(vp);
	unsigned shift;
	if (!q || (vp->state != VP_CONFIG && vp->state != VP_RUNNING))
		return;
	if (REG(offset, size) == REG(VC_QUEUE_RESET, 2)) {
		if (val == 1 && q->enabled && (vp->taken & VF_RING_RESET))
			vp_queue_reset(vp, vp->queue_select);
		return;
	}
	if (q->enabled || (vp->state == VP_RUNNING && !q->reset))
		return;
	switch (REG(offset, size)) {
	case REG(VC_QUEUE_SIZE, 2):
		if (vp_queue_size_valid(vp, val))
			q->size = (uint16_t)val;
		return;
	case REG(VC_QUEUE_MSIX_VECTOR, 2):
		q->vector = vector_checked(vp, val);
		return;
	case REG(VC_QUEUE_ENABLE, 2):
		q->enabled = val == 1 && (vp->status & VS_FEATURES_OK);
		if (q->enabled && vp->state == VP_RUNNING)
			vp_queue_enable(vp, vp->queue_select);
		return;
	default:
		break;
	}
	uint64_t *address = queue_address(q, offset, size, &shift);
	if (address)
		*address = (*address & ~(size_mask(size) << shift)) | val << shift;
}

static void driver_feature_write(struct virtio_pci *vp, uint32_t val)
{
	if (vp->state != VP_CONFIG || (vp->status & VS_FEATURES_OK) || vp->taken_select > 1)
		return;
	unsigned shift = 32 * vp->taken_select;
	vp->taken = (vp->taken & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)val << shift;
}

void vp_common_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
{
	switch (REG(offset, size)) {
	case REG(VC_DEVICE_FEATURE_SELECT, 4):
		vp->offered_select = (uint32_t)val;
		return;
	case REG(VC_DRIVER_FEATURE_SELECT, 4):
		vp->taken_select = (uint32_t)val;
		return;
	case REG(VC_DRIVER_FEATURE, 4):
		driver_feature_write(vp, (uint32_t)val);
		return;
	case REG(VC_CONFIG_MSIX_VECTOR, 2):
		vp->config_vector = vector_checked(vp, val);
		return;
	case REG(VC_DEVICE_STATUS, 1):
		vp_status_write(vp, (uint8_t)val);
		return;
	case REG(VC_QUEUE_SELECT, 2):
		vp->queue_select = (uint16_t)val;
		return;
	default:
		queue_register_write(vp, offset, size, val);
	}
}
