// SPDX-License-Identifier: BSD-2-Clause
#include "virtio.h"

// ---- discovery
// --------------------------------------------------------------------------------------------------

static void take_capability(struct vdev *v, unsigned cap)
{
	uint64_t gpa = v->bar + config_read32(v->slot, cap + 8);
	switch (config_read8(v->slot, cap + 3)) {
	case VCAP_COMMON:
		v->common = gpa;
		break;
	case VCAP_NOTIFY:
		v->notify = gpa;
		v->notify_cap = cap;
		v->notify_step = config_read32(v->slot, cap + 16);
		break;
	case VCAP_ISR:
		v->isr = gpa;
		break;
	case VCAP_DEVICE:
		v->device = gpa;
		v->device_len = config_read32(v->slot, cap + 12);
		break;
	case VCAP_PCI:
		v->window_cap = cap;
		break;
	default:
		break;
	}
}

void vdev_locate(struct vdev *v)
{
	v->bar = bar_get(v->slot, 0);
	for (unsigned cap = 0; (cap = capability_find(v->slot, CAP_VENDOR, cap)) != 0;)
		take_capability(v, cap);
	v->msix_cap = capability_find(v->slot, CAP_MSIX, 0);
	v->msix_count = (config_read16(v->slot, v->msix_cap + 2) & 0x7ffu) + 1;
	v->msix_table = v->bar + (config_read32(v->slot, v->msix_cap + 4) & ~7u);
	v->msix_pba = v->bar + (config_read32(v->slot, v->msix_cap + 8) & ~7u);
	for (unsigned i = 0; i < QUEUES; i++)
		v->q[i].doorbell = v->notify + (uint64_t)i * v->notify_step;
}

bool vdev_find(struct vdev *v, unsigned n)
{
	for (unsigned slot = 1; slot < 32; slot++) {
		uint32_t id = config_read32(slot, PCI_VENDOR);
		if ((id & 0xffff) != 0x1af4 || id >> 16 < 0x1040 || id >> 16 > 0x107f || n-- > 0)
			continue;
		*v = (struct vdev){ .slot = slot, .vector = VECTOR_FIRST + 1 + 8 * slot };
		config_write16(slot, PCI_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
		vdev_locate(v);
		v->queue_count = read16(v->common + VC_NUM_QUEUES);
		msix_control(v, MSIX_ENABLE);
		return true;
	}
	return false;
}

// ---- MSI-X
// ------------------------------------------------------------------------------------------------------

void msix_control(struct vdev *v, uint16_t bits)
{
	config_write16(v->slot, v->msix_cap + 2, bits);
}

void msix_set(struct vdev *v, unsigned entry, unsigned cpu, unsigned irq)
{
	uint64_t at = v->msix_table + 16ul * entry;
	write32(at + 12, 1);
	write32(at, (uint32_t)MSI_ADDRESS(cpu));
	write32(at + 4, 0);
	write32(at + 8, irq);
	write32(at + 12, 0);
}

void msix_mask(struct vdev *v, unsigned entry, bool masked)
{
	write32(v->msix_table + 16ul * entry + 12, masked);
}

// ---- negotiation
// ------------------------------------------------------------------------------------------------

uint64_t vdev_offered(struct vdev *v)
{
	write32(v->common + VC_DEVICE_FEATURE_SELECT, 0);
	uint64_t low = read32(v->common + VC_DEVICE_FEATURE);
	write32(v->common + VC_DEVICE_FEATURE_SELECT, 1);
	return low | (uint64_t)read32(v->common + VC_DEVICE_FEATURE) << 32;
}

void vdev_take(struct vdev *v, uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		write32(v->common + VC_DRIVER_FEATURE_SELECT, i);
		write32(v->common + VC_DRIVER_FEATURE, (uint32_t)(features >> 32 * i));
	}
}

void vdev_select(struct vdev *v, unsigned q)
{
	write16(v->common + VC_QUEUE_SELECT, (uint16_t)q);
}

bool vdev_reset(struct vdev *v)
{
	vdev_set_status(v, 0);
	return WAIT(vdev_status(v) == 0, 100);
}

bool vdev_negotiate(struct vdev *v, uint64_t wanted)
{
	if (!vdev_reset(v))
		return false;
	vdev_set_status(v, S_ACKNOWLEDGE);
	vdev_set_status(v, S_ACKNOWLEDGE | S_DRIVER);
	vdev_take(v, (vdev_offered(v) & wanted) | F_VERSION_1);
	vdev_set_status(v, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
	return vdev_status(v) == (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
}

void vdev_queue_registers(struct vdev *v, unsigned q, uint16_t size, uint64_t desc, uint64_t driver,
			  uint64_t device)
{
	vdev_select(v, q);
	write16(v->common + VC_QUEUE_SIZE, size);
	write64(v->common + VC_QUEUE_DESC, desc);
	write64(v->common + VC_QUEUE_DRIVER, driver);
	write64(v->common + VC_QUEUE_DEVICE, device);
}

void vdev_queue(struct vdev *v, unsigned q, uint16_t size, uint16_t entry)
{
	struct vq *vq = &v->q[q];
	vq->size = size;
	vq->seen = 0;
	vq->desc = alloc(16ul * size, 64);
	vq->avail = alloc(6 + 2ul * size, 64);
	vq->used = alloc(6 + 8ul * size, 64);
	vdev_queue_registers(v, q, size, (uint64_t)vq->desc, (uint64_t)vq->avail, (uint64_t)vq->used);
	write16(v->common + VC_QUEUE_VECTOR, entry);
	write16(v->common + VC_QUEUE_ENABLE, 1);
}

bool vdev_start(struct vdev *v, uint64_t wanted, unsigned queues, uint16_t size)
{
	if (!vdev_negotiate(v, wanted))
		return false;
	for (unsigned i = 0; i <= queues && i < v->msix_count; i++)
		msix_set(v, i, 0, v->vector + i - 1);
	write16(v->common + VC_CONFIG_VECTOR, 0);
	for (unsigned q = 0; q < queues; q++)
		vdev_queue(v, q, size, (uint16_t)(q + 1));
	vdev_set_status(v, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
	return vdev_status(v) == (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

// ---- rings
// ------------------------------------------------------------------------------------------------------

void vq_kick(struct vq *q, unsigned index)
{
	barrier();
	write16(q->doorbell, (uint16_t)index);
}

void vq_offer(struct vq *q, uint16_t head)
{
	uint16_t idx = q->avail->idx;
	q->avail->ring[idx % q->size] = head;
	barrier();
	q->avail->idx = (uint16_t)(idx + 1);
}

bool vq_take(struct vq *q, uint32_t *id, uint32_t *len, unsigned ms)
{
	if (!WAIT(q->used->idx != q->seen, ms))
		return false;
	*id = q->used->ring[q->seen % q->size].id;
	*len = q->used->ring[q->seen % q->size].len;
	q->seen++;
	return true;
}

// ---- block
// ------------------------------------------------------------------------------------------------------

// One header and status for each descriptor that may begin a request.
static struct {
	struct blk_header header;
	volatile uint8_t status;
} requests[256] __attribute__((aligned(64)));

volatile uint8_t *blk_fill(struct vq *q, uint16_t first, uint32_t type, uint64_t sector, void *data,
			   uint32_t len)
{
	volatile struct desc *d = &q->desc[first];
	requests[first].header = (struct blk_header){ .type = type, .sector = sector };
	requests[first].status = BLK_NOTHING;
	bool in = type == BLK_IN || type == BLK_GET_ID;
	d->gpa = (uint64_t)&requests[first].header;
	d->len = sizeof(struct blk_header);
	d->flags = D_NEXT;
	d->next = (uint16_t)(first + 1);
	d++;
	if (len) {
		d->gpa = (uint64_t)data;
		d->len = len;
		d->flags = (uint16_t)(D_NEXT | (in ? D_WRITE : 0));
		d->next = (uint16_t)(first + 2);
		d++;
	}
	d->gpa = (uint64_t)&requests[first].status;
	d->len = 1;
	d->flags = D_WRITE;
	d->next = 0;
	return &requests[first].status;
}

uint8_t blk_request(struct vdev *v, unsigned q, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	uint32_t id, written;
	volatile uint8_t *status = blk_fill(&v->q[q], 0, type, sector, data, len);
	vq_offer(&v->q[q], 0);
	vq_kick(&v->q[q], q);
	if (!vq_take(&v->q[q], &id, &written, 2000))
		return BLK_NOTHING;
	return *status;
}

bool blk_works(struct vdev *v, unsigned q, uint64_t sector)
{
	static uint8_t out[512], in[512];
	static uint8_t seed;
	memset(out, ++seed, sizeof(out));
	memset(in, 0, sizeof(in));
	return blk_request(v, q, BLK_OUT, sector, out, 512) == BLK_OK &&
	       blk_request(v, q, BLK_IN, sector, in, 512) == BLK_OK && memcmp(out, in, 512) == 0;
}
