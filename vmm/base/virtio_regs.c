// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/virtio_regs.h"

#include "vmm/base/check.h"

#include <stddef.h>

static struct virtio_reg_queue *selected_queue(const struct virtio_regs *r)
{
	return r->queue_select < r->queue_count ? &r->queue[r->queue_select] : NULL;
}

// The queue's address register that `offset` lies in; *shift: bits below the part that is accessed.
static uint64_t *queue_address(struct virtio_reg_queue *q, uint64_t offset, unsigned size, unsigned *shift)
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

static uint64_t queue_register_read(const struct virtio_regs *r, uint64_t offset, unsigned size)
{
	struct virtio_reg_queue *q = selected_queue(r);
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
			return r->queue_select;
		default: // queue_reset among them: when a write to it returns the queue has been reset
			return 0;
		}
	const uint64_t *address = queue_address(q, offset, size, &shift);
	return address ? *address >> shift : 0;
}

// (offset, size) as one case label: registers are accessed with their own width, §4.1.3.1.
#define REG(offset, size) ((offset) << 4 | (size))

uint64_t virtio_regs_read(const struct virtio_regs *r, uint64_t offset, unsigned size)
{
	switch (REG(offset, size)) {
	case REG(VC_DEVICE_FEATURE_SELECT, 4):
		return r->offered_select;
	case REG(VC_DEVICE_FEATURE, 4):
		return feature_word(r->offered, r->offered_select);
	case REG(VC_DRIVER_FEATURE_SELECT, 4):
		return r->taken_select;
	case REG(VC_DRIVER_FEATURE, 4):
		return feature_word(r->taken, r->taken_select);
	case REG(VC_CONFIG_MSIX_VECTOR, 2):
		return r->config_vector;
	case REG(VC_NUM_QUEUES, 2):
		return r->queue_count;
	case REG(VC_DEVICE_STATUS, 1):
		return r->status;
	case REG(VC_CONFIG_GENERATION, 1):
		return r->generation;
	case REG(VC_QUEUE_SELECT, 2):
		return r->queue_select;
	default:
		return queue_register_read(r, offset, size);
	}
}

// ---- queues -----------------------------------------------------------------------------------------------------

// Whether a queue may have that many entries, by the features taken (§2.7, §2.8).
static bool queue_size_valid(const struct virtio_regs *r, uint64_t size)
{
	return size > 0 && size <= r->queue_size_max &&
	       ((r->taken & VF_RING_PACKED) || is_power_of_two(size));
}

static bool ring_part_valid(struct virtio_regs *r, uint64_t gpa, uint64_t len, uint64_t align)
{
	return gpa % align == 0 && r->ops->is_memory(r, gpa, len);
}

// The one check of what a driver wrote into a queue's registers (virtio 1.2 §2.7, packed: §2.8.10.1).
static const char *queue_check(struct virtio_regs *r, const struct virtio_reg_queue *q)
{
	const bool packed = r->taken & VF_RING_PACKED;
	uint64_t desc_len = UINT64_C(16) * q->size;
	uint64_t driver_len = packed ? 4 : 6 + UINT64_C(2) * q->size;
	uint64_t device_len = packed ? 4 : 6 + UINT64_C(8) * q->size;
	if (!queue_size_valid(r, q->size)) // the features came after it
		return "a split ring whose size is no power of two";
	if (!ring_part_valid(r, q->desc, desc_len, 16))
		return packed ? "descriptor ring misaligned or outside RAM"
			      : "descriptor table misaligned or outside RAM";
	if (!ring_part_valid(r, q->driver, driver_len, packed ? 4 : 2))
		return packed ? "driver event suppression misaligned or outside RAM"
			      : "available ring misaligned or outside RAM";
	if (!ring_part_valid(r, q->device, device_len, 4))
		return packed ? "device event suppression misaligned or outside RAM"
			      : "used ring misaligned or outside RAM";
	if (range_overlaps(q->desc, desc_len, q->driver, driver_len) ||
	    range_overlaps(q->desc, desc_len, q->device, device_len) ||
	    range_overlaps(q->driver, driver_len, q->device, device_len))
		return "the parts of a ring overlap";
	return NULL;
}

static void queue_defaults(const struct virtio_regs *r, struct virtio_reg_queue *q)
{
	*q = (struct virtio_reg_queue){ .size = r->queue_size_max, .vector = VIRTIO_NO_VECTOR };
}

static void queue_reset(struct virtio_regs *r, unsigned index)
{
	r->ops->queue_stop(r, index);
	queue_defaults(r, &r->queue[index]);
	r->queue[index].reset = true;
}

static void queue_enable(struct virtio_regs *r, unsigned index)
{
	const char *wrong = queue_check(r, &r->queue[index]);
	if (wrong)
		r->ops->broken(r, wrong);
	else
		r->ops->queue_start(r, index);
}

static uint16_t vector_checked(const struct virtio_regs *r, uint64_t val)
{
	return val < r->vector_count ? (uint16_t)val : VIRTIO_NO_VECTOR;
}

// Queue registers: only while the driver sets up, the device or a queue that it has reset, and only until the queue is enabled.
static void queue_register_write(struct virtio_regs *r, uint64_t offset, unsigned size, uint64_t val)
{
	struct virtio_reg_queue *q = selected_queue(r);
	unsigned shift;
	if (!q || (r->state != VIRTIO_CONFIG && r->state != VIRTIO_RUNNING))
		return;
	if (REG(offset, size) == REG(VC_QUEUE_RESET, 2)) {
		if (val == 1 && q->enabled && (r->taken & VF_RING_RESET))
			queue_reset(r, r->queue_select);
		return;
	}
	if (q->enabled || (r->state == VIRTIO_RUNNING && !q->reset))
		return;
	switch (REG(offset, size)) {
	case REG(VC_QUEUE_SIZE, 2):
		if (queue_size_valid(r, val))
			q->size = (uint16_t)val;
		return;
	case REG(VC_QUEUE_MSIX_VECTOR, 2):
		q->vector = vector_checked(r, val);
		return;
	case REG(VC_QUEUE_ENABLE, 2):
		q->enabled = val == 1 && (r->status & VS_FEATURES_OK);
		if (q->enabled && r->state == VIRTIO_RUNNING)
			queue_enable(r, r->queue_select);
		return;
	default:
		break;
	}
	uint64_t *address = queue_address(q, offset, size, &shift);
	if (address)
		*address = (*address & ~(size_mask(size) << shift)) | val << shift;
}

// ---- the device status ------------------------------------------------------------------------------------------

void virtio_regs_reset(struct virtio_regs *r)
{
	r->ops->stop(r);
	r->state = VIRTIO_RESET;
	r->status = r->isr = 0;
	r->taken = 0;
	r->offered_select = r->taken_select = 0;
	r->queue_select = 0;
	r->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < r->queue_count; i++)
		queue_defaults(r, &r->queue[i]);
}

static void start(struct virtio_regs *r)
{
	for (unsigned i = 0; i < r->queue_count; i++) {
		const char *wrong = r->queue[i].enabled ? queue_check(r, &r->queue[i]) : NULL;
		if (wrong) {
			r->ops->broken(r, wrong);
			return;
		}
	}
	r->ops->start(r);
}

static void status_write(struct virtio_regs *r, uint8_t val)
{
	if (val == 0) {
		virtio_regs_reset(r);
		return;
	}
	// Bits are only ever added (§2.1.1); NEEDS_RESET is ours.
	uint8_t added = (uint8_t)(val & ~r->status & ~VS_NEEDS_RESET);
	if ((val & r->status & ~VS_NEEDS_RESET) != (r->status & ~VS_NEEDS_RESET))
		return;
	if (r->state == VIRTIO_RESET && (added & VS_ACKNOWLEDGE))
		r->state = VIRTIO_CONFIG;
	if (r->state != VIRTIO_CONFIG) {
		r->status |= added & VS_FAILED;
		return;
	}
	r->status |= added & (VS_ACKNOWLEDGE | VS_DRIVER | VS_FAILED);
	if (added & VS_FEATURES_OK) {
		bool good = (r->status & VS_DRIVER) && (r->taken & VF_VERSION_1) && !(r->taken & ~r->offered);
		if (!good || r->ops->negotiate(r) < 0)
			return;
		r->status |= VS_FEATURES_OK;
	}
	if ((added & VS_DRIVER_OK) && (r->status & VS_FEATURES_OK)) {
		r->status |= VS_DRIVER_OK;
		start(r);
	}
}

static void driver_feature_write(struct virtio_regs *r, uint32_t val)
{
	if (r->state != VIRTIO_CONFIG || (r->status & VS_FEATURES_OK) || r->taken_select > 1)
		return;
	unsigned shift = 32 * r->taken_select;
	r->taken = (r->taken & ~(UINT64_C(0xffffffff) << shift)) | (uint64_t)val << shift;
}

void virtio_regs_write(struct virtio_regs *r, uint64_t offset, unsigned size, uint64_t val)
{
	switch (REG(offset, size)) {
	case REG(VC_DEVICE_FEATURE_SELECT, 4):
		r->offered_select = (uint32_t)val;
		return;
	case REG(VC_DRIVER_FEATURE_SELECT, 4):
		r->taken_select = (uint32_t)val;
		return;
	case REG(VC_DRIVER_FEATURE, 4):
		driver_feature_write(r, (uint32_t)val);
		return;
	case REG(VC_CONFIG_MSIX_VECTOR, 2):
		r->config_vector = vector_checked(r, val);
		return;
	case REG(VC_DEVICE_STATUS, 1):
		status_write(r, (uint8_t)val);
		return;
	case REG(VC_QUEUE_SELECT, 2):
		r->queue_select = (uint16_t)val;
		return;
	default:
		queue_register_write(r, offset, size, val);
	}
}

uint8_t virtio_regs_isr_take(struct virtio_regs *r)
{
	uint8_t isr = r->isr;
	r->isr = 0;
	return isr;
}
