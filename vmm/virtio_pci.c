// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/virtio_pci.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/msix.h"
#include "vmm/virtio_pci_regs.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

// Posted to the function (pci_func_post).
#define EVENT_DIED           1u
#define EVENT_CONFIG_CHANGED 2u
#define EVENT_QUEUE_FAILED   4u

// A write is looked at by state first; what a state does not expect has no effect.
enum vp_state {
	VP_RESET,   // status 0
	VP_CONFIG,  // the driver negotiates and sets up queues
	VP_RUNNING, // DRIVER_OK, the back-end serves
	VP_BROKEN,  // DEVICE_NEEDS_RESET: only a reset helps
};

struct vp_queue {
	uint16_t size;
	uint16_t vector;
	bool enabled;   // the driver enabled it: its fields are frozen until reset
	bool started;   // the back-end has it
	bool doorbell;  // KVM signals kick_fd
	int kick_fd;
	uint64_t desc, driver, device; // gpa
};

struct virtio_pci {
	struct pci_func func;
	struct backend *backend;
	struct virtio_pci_host host;
	struct msix msix;
	enum vp_state state;
	uint64_t offered, taken;
	uint32_t offered_select, taken_select;
	uint8_t status, isr, generation;
	uint16_t queue_select, config_vector;
	unsigned msix_cap, window_cap; // offsets in the configuration space
	uint8_t *config;               // the device configuration as last read
	struct vp_queue queue[];
};

static struct virtio_pci *vp_of(struct pci_func *f)
{
	return CONTAINER_OF(f, struct virtio_pci, func);
}

static uint16_t vp_queue_count(const struct virtio_pci *vp)
{
	return vp->backend->queue_count;
}

// ---- doorbells --------------------------------------------------------------------------------------------------

static void doorbells_remove(struct virtio_pci *vp, uint64_t bar_gpa)
{
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		struct vp_queue *q = &vp->queue[i];
		if (q->doorbell)
			kvm_ioeventfd(vp->host.kvm, bar_gpa + VP_NOTIFY + (uint64_t)VP_NOTIFY_STEP * i, q->kick_fd, false);
		q->doorbell = false;
	}
}

// The doorbells of all started queues, at the place where the BAR is now.
static int doorbells_add(struct virtio_pci *vp)
{
	const struct pci_bar *bar = &vp->func.bar[VP_BAR];
	if (!bar->mapped)
		return 0;
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		struct vp_queue *q = &vp->queue[i];
		if (!q->started || q->doorbell)
			continue;
		int rc = kvm_ioeventfd(vp->host.kvm, bar->range.start + VP_NOTIFY + (uint64_t)VP_NOTIFY_STEP * i, q->kick_fd,
		                       true);
		if (rc < 0)
			return rc;
		q->doorbell = true;
	}
	return 0;
}

// ---- start, stop, break -----------------------------------------------------------------------------------------

static void config_interrupt(struct virtio_pci *vp)
{
	vp->isr |= VP_ISR_CONFIG;
	if (vp->config_vector != MSIX_NO_VECTOR)
		msix_signal(&vp->msix, vp->config_vector);
}

// Ends all use of the queues.  A back-end that does not answer is dead after its deadline and costs nothing further.
static void vp_stop(struct virtio_pci *vp)
{
	bool any = false;
	doorbells_remove(vp, vp->func.bar[VP_BAR].range.start);
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		struct vp_queue *q = &vp->queue[i];
		uint16_t base;
		if (q->started) {
			vp->backend->ops->queue_stop(vp->backend, i, &base);
			any = true;
		}
		q->started = false;
		fd_close(&q->kick_fd);
	}
	if (any || vp->state == VP_RUNNING)
		vp->backend->ops->run(vp->backend, false);
}

// virtio 1.2 §2.1.1: the driver is told, and must reset.
static void vp_break(struct virtio_pci *vp, const char *why)
{
	log_limited(LOG_WARN, "%s: %s; the device needs a reset by its driver", vp->func.id, why);
	vp_stop(vp);
	vp->state = VP_BROKEN;
	vp->status |= VS_NEEDS_RESET;
	config_interrupt(vp);
}

// An interrupt that KVM cannot carry would be lost without a word.
static void interrupts_check(struct virtio_pci *vp)
{
	int rc = msix_take_error(&vp->msix);
	if (rc < 0 && vp->state == VP_RUNNING)
		vp_break(vp, strerror(-rc));
}

static bool ring_part_valid(const struct virtio_pci *vp, uint64_t gpa, uint64_t len, uint64_t align)
{
	return gpa % align == 0 && memmap_ptr(vp->host.memory, gpa, len);
}

// The one check of what a driver wrote into a queue's registers (split ring, virtio 1.2 §2.7).
static const char *queue_check(const struct virtio_pci *vp, const struct vp_queue *q)
{
	uint64_t desc_len = UINT64_C(16) * q->size;
	uint64_t driver_len = 6 + UINT64_C(2) * q->size;
	uint64_t device_len = 6 + UINT64_C(8) * q->size;
	if (!ring_part_valid(vp, q->desc, desc_len, 16))
		return "descriptor table misaligned or outside RAM";
	if (!ring_part_valid(vp, q->driver, driver_len, 2))
		return "available ring misaligned or outside RAM";
	if (!ring_part_valid(vp, q->device, device_len, 4))
		return "used ring misaligned or outside RAM";
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
	msix_take_error(&vp->msix); // of what was refused before: each vector in use is asked for again
	int rc = vp->backend->ops->memory(vp->backend, &vp->host.memory->ram);
	for (unsigned i = 0; rc == 0 && i < vp_queue_count(vp); i++)
		if (vp->queue[i].enabled)
			rc = queue_start(vp, i);
	if (rc == 0)
		rc = vp->backend->ops->run(vp->backend, true);
	if (rc == 0)
		rc = doorbells_add(vp);
	if (rc < 0) {
		vp_break(vp, strerror(-rc));
		return;
	}
	vp->state = VP_RUNNING;
	interrupts_check(vp);
}

static void vp_reset(struct virtio_pci *vp)
{
	vp_stop(vp);
	vp->state = VP_RESET;
	vp->status = vp->isr = 0;
	vp->taken = 0;
	vp->offered_select = vp->taken_select = 0;
	vp->queue_select = 0;
	vp->config_vector = MSIX_NO_VECTOR;
	for (unsigned i = 0; i < vp_queue_count(vp); i++)
		vp->queue[i] = (struct vp_queue){
			.size = vp->backend->queue_size_max,
			.vector = MSIX_NO_VECTOR,
			.kick_fd = -1,
		};
}

static void status_write(struct virtio_pci *vp, uint8_t val)
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
		bool good = (vp->status & VS_DRIVER) && (vp->taken & VF_VERSION_1) && !(vp->taken & ~vp->offered);
		if (!good || vp->backend->ops->negotiate(vp->backend, vp->taken) < 0)
			return;
		vp->status |= VS_FEATURES_OK;
	}
	if ((added & VS_DRIVER_OK) && (vp->status & VS_FEATURES_OK)) {
		vp->status |= VS_DRIVER_OK;
		vp_start(vp);
	}
}

// ---- common configuration ---------------------------------------------------------------------------------------

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
		default:
			return 0;
		}
	const uint64_t *address = queue_address(q, offset, size, &shift);
	return address ? *address >> shift : 0;
}

// (offset, size) as one case label: registers are accessed with their own width, §4.1.3.1.
#define REG(offset, size) ((offset) << 4 | (size))

static uint64_t common_read(struct virtio_pci *vp, uint64_t offset, unsigned size)
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

// Queue registers: only while the driver sets up, and only until the queue is enabled.
static void queue_register_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
{
	struct vp_queue *q = selected_queue(vp);
	unsigned shift;
	if (!q || q->enabled || vp->state != VP_CONFIG)
		return;
	switch (REG(offset, size)) {
	case REG(VC_QUEUE_SIZE, 2):
		if (is_power_of_two(val) && val <= vp->backend->queue_size_max)
			q->size = (uint16_t)val;
		return;
	case REG(VC_QUEUE_MSIX_VECTOR, 2):
		q->vector = vector_checked(vp, val);
		return;
	case REG(VC_QUEUE_ENABLE, 2):
		q->enabled = val == 1 && (vp->status & VS_FEATURES_OK);
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

static void common_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
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
		status_write(vp, (uint8_t)val);
		return;
	case REG(VC_QUEUE_SELECT, 2):
		vp->queue_select = (uint16_t)val;
		return;
	default:
		queue_register_write(vp, offset, size, val);
	}
}

// ---- device configuration ---------------------------------------------------------------------------------------

static uint64_t device_config_read(const struct virtio_pci *vp, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	for (unsigned i = 0; i < size; i++)
		if (offset + i < vp->backend->config_len)
			val |= (uint64_t)vp->config[offset + i] << (8 * i);
	return val;
}

static void device_config_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint64_t val)
{
	if (vp->state == VP_RESET || vp->state == VP_BROKEN || !range_in(offset, size, vp->backend->config_len))
		return;
	uint8_t bytes[8];
	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(val >> (8 * i));
	if (vp->backend->ops->config_write(vp->backend, (uint32_t)offset, bytes, size) == 0)
		memcpy(vp->config + offset, bytes, size);
}

static void device_config_refresh(struct virtio_pci *vp)
{
	uint32_t len = vp->backend->config_len;
	if (len == 0 || vp->backend->ops->config_read(vp->backend, 0, vp->config, len) < 0)
		return;
	vp->generation++;
	if (vp->status & VS_DRIVER_OK)
		config_interrupt(vp);
}

// ---- the BAR ----------------------------------------------------------------------------------------------------

static void notify_write(struct virtio_pci *vp, uint64_t offset)
{
	// KVM takes a running queue's doorbells; what arrives here came before it was started, or between two places of the BAR.
	uint64_t index = offset / VP_NOTIFY_STEP;
	if (offset % VP_NOTIFY_STEP == 0 && index < vp_queue_count(vp) && vp->queue[index].started)
		fd_event_signal(vp->queue[index].kick_fd);
}

static uint64_t isr_read(struct virtio_pci *vp)
{
	uint8_t isr = vp->isr;
	vp->isr = 0; // §4.1.4.5: read to clear
	return isr;
}

static void vp_bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	struct virtio_pci *vp = vp_of(f);
	(void)bar;
	*val = 0;
	if (range_in(offset, size, VC_SIZE))
		*val = common_read(vp, offset, size);
	else if (offset == VP_ISR)
		*val = isr_read(vp);
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
	(void)bar;
	if (range_in(offset, size, VC_SIZE))
		common_write(vp, offset, size, val);
	else if (offset >= VP_DEVICE && range_in(offset - VP_DEVICE, size, VP_DEVICE_ROOM))
		device_config_write(vp, offset - VP_DEVICE, size, val);
	else if (offset >= VP_NOTIFY && range_in(offset - VP_NOTIFY, size, VP_NOTIFY_ROOM))
		notify_write(vp, offset - VP_NOTIFY);
	else if (offset >= VP_MSIX_TABLE && offset < VP_MSIX_PBA) {
		msix_table_write(&vp->msix, offset - VP_MSIX_TABLE, size, val);
		interrupts_check(vp);
	}
}

static void vp_bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped)
{
	struct virtio_pci *vp = vp_of(f);
	(void)bar;
	if (!mapped) {
		doorbells_remove(vp, gpa);
	} else if (vp->state == VP_RUNNING) {
		int rc = doorbells_add(vp);
		if (rc < 0)
			vp_break(vp, strerror(-rc));
	}
}

// ---- configuration space ----------------------------------------------------------------------------------------

// The window into the BAR (§4.1.4.9): true if the guest has pointed it at something that can be accessed.
static bool window_target(const struct virtio_pci *vp, uint32_t *offset, uint32_t *len)
{
	*offset = pci_config_get32(&vp->func, vp->window_cap + VCAP_OFFSET_OFF);
	*len = pci_config_get32(&vp->func, vp->window_cap + VCAP_LENGTH_OFF);
	return vp->func.config[vp->window_cap + VCAP_BAR_OFF] == VP_BAR && (*len == 1 || *len == 2 || *len == 4) &&
	       *offset % *len == 0 && range_in(*offset, *len, VP_BAR_SIZE);
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
		interrupts_check(vp);
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
	pci_config_set32(f, cap + VCAP_OFFSET_OFF, VP_NOTIFY);
	pci_config_set32(f, cap + VCAP_LENGTH_OFF, (uint32_t)vp_queue_count(vp) * VP_NOTIFY_STEP);
	pci_config_set32(f, cap + VCAP_DATA_OFF, VP_NOTIFY_STEP);

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
}

// ---- function ---------------------------------------------------------------------------------------------------

static void vp_event(struct pci_func *f, unsigned bits)
{
	struct virtio_pci *vp = vp_of(f);
	if (bits & EVENT_DIED) {
		if (vp->state == VP_RUNNING)
			vp_break(vp, "its back-end is gone");
	} else if ((bits & EVENT_QUEUE_FAILED) && vp->state == VP_RUNNING) {
		vp_break(vp, "its back-end stopped a queue");
	} else if (bits & EVENT_CONFIG_CHANGED) {
		device_config_refresh(vp);
	}
}

static void vp_func_reset(struct pci_func *f)
{
	struct virtio_pci *vp = vp_of(f);
	vp_reset(vp);
	msix_reset(&vp->msix);
}

static void vp_destroy(struct pci_func *f)
{
	struct virtio_pci *vp = vp_of(f);
	// With the lock, so that a back-end that dies of being stopped posts it and does not come back in the middle.
	pci_func_lock(f);
	vp_stop(vp);
	vp->state = VP_RESET;
	pci_func_unlock(f);
	vp->backend->ops->close(vp->backend);
	msix_destroy(&vp->msix);
	pthread_mutex_destroy(&f->lock);
	free(vp->config);
	free(vp);
}

static const struct pci_func_ops vp_ops = {
	.config_read = vp_config_read,
	.config_write = vp_config_write,
	.bar_read = vp_bar_read,
	.bar_write = vp_bar_write,
	.bar_moved = vp_bar_moved,
	.event = vp_event,
	.reset = vp_func_reset,
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

static const struct backend_events vp_backend_events = {
	.config_changed = backend_config_changed,
	.died = backend_died,
	.queue_failed = backend_queue_failed,
};

// PCI class by virtio type: what a guest shows in lspci, and how some loaders pick a disk.
static uint32_t class_of(uint16_t virtio_type)
{
	switch (virtio_type) {
	case 1:
		return 0x020000; // network, Ethernet
	case 2:
	case 8:
	case 26:
		return 0x018000; // storage, other
	case 3:
		return 0x078000; // communication, other
	case 16:
		return 0x038000; // display, other
	case 18:
		return 0x098000; // input, other
	case 25:
		return 0x040100; // multimedia, audio
	default:
		return 0xff0000;
	}
}

int virtio_pci_create(struct pci_func **out, struct backend *b, const struct virtio_pci_host *host, struct err *e)
{
	unsigned queues = b->queue_count;
	if (queues == 0 || queues > VP_QUEUES_MAX || b->config_len > VP_DEVICE_ROOM)
		return err_set(e, EINVAL, "%s: %u queues and %u bytes of configuration; 1 to %d and up to %d are possible",
		               b->id, queues, b->config_len, VP_QUEUES_MAX, VP_DEVICE_ROOM);
	if (!is_power_of_two(b->queue_size_max) || b->queue_size_max > VP_QUEUE_SIZE_MAX)
		return err_set(e, EINVAL, "%s: queues of %u entries; a power of two up to %d is possible", b->id,
		               b->queue_size_max, VP_QUEUE_SIZE_MAX);
	struct virtio_pci *vp = calloc(1, sizeof(*vp) + queues * sizeof(vp->queue[0]));
	uint8_t *config = calloc(1, b->config_len + 1);
	int rc = -ENOMEM;
	if (!vp || !config) {
		err_set(e, ENOMEM, "%s: out of memory", b->id);
		goto fail_memory;
	}
	vp->backend = b;
	vp->host = *host;
	vp->config = config;
	for (unsigned i = 0; i < queues; i++)
		vp->queue[i].kick_fd = -1;

	rc = b->ops->features(b, &vp->offered);
	if (rc == 0 && b->config_len)
		rc = b->ops->config_read(b, 0, config, b->config_len);
	if (rc < 0) {
		err_sys(e, -rc, "%s: asking the back-end for features and configuration", b->id);
		goto fail_memory;
	}
	vp->offered &= VF_CARRIED;
	rc = msix_init(&vp->msix, b->id, host->irq, queues + 1, e);
	if (rc < 0)
		goto fail_memory;

	pci_func_init(&vp->func, &vp_ops, b->id, VIRTIO_PCI_VENDOR, (uint16_t)(VIRTIO_PCI_DEVICE_BASE + b->virtio_type),
	              class_of(b->virtio_type));
	vp->func.config[PCI_REVISION_ID] = 1; // §4.1.2.1: not a transitional device
	pci_func_set_subsystem(&vp->func, VIRTIO_PCI_VENDOR, (uint16_t)(0x40 + b->virtio_type));
	pci_func_add_bar(&vp->func, VP_BAR, VP_BAR_SIZE, true, false);
	add_capabilities(vp);
	vp_reset(vp);
	b->events = &vp_backend_events;
	b->owner = vp;
	*out = &vp->func;
	return 0;

fail_memory:
	free(config);
	free(vp);
	return rc;
}
