// SPDX-License-Identifier: BSD-2-Clause
// A virtio 1.2 driver by hand: discovery, negotiation, split rings, and requests to a block device.
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "pci.h"

// Common configuration, §4.1.4.3
enum {
	VC_DEVICE_FEATURE_SELECT = 0x00,
	VC_DEVICE_FEATURE = 0x04,
	VC_DRIVER_FEATURE_SELECT = 0x08,
	VC_DRIVER_FEATURE = 0x0c,
	VC_CONFIG_VECTOR = 0x10,
	VC_NUM_QUEUES = 0x12,
	VC_STATUS = 0x14,
	VC_GENERATION = 0x15,
	VC_QUEUE_SELECT = 0x16,
	VC_QUEUE_SIZE = 0x18,
	VC_QUEUE_VECTOR = 0x1a,
	VC_QUEUE_ENABLE = 0x1c,
	VC_QUEUE_NOTIFY_OFF = 0x1e,
	VC_QUEUE_DESC = 0x20,
	VC_QUEUE_DRIVER = 0x28,
	VC_QUEUE_DEVICE = 0x30,
	VC_SIZE = 0x38,
};

enum { VCAP_COMMON = 1, VCAP_NOTIFY, VCAP_ISR, VCAP_DEVICE, VCAP_PCI };

#define S_ACKNOWLEDGE 1
#define S_DRIVER      2
#define S_DRIVER_OK   4
#define S_FEATURES_OK 8
#define S_NEEDS_RESET 0x40
#define S_FAILED      0x80

#define F_VERSION_1   (1ul << 32)
#define F_INDIRECT    (1ul << 28)
#define F_EVENT_IDX   (1ul << 29)
#define F_RING_PACKED (1ul << 34) // this driver has none; packed.c does
#define F_BLK_RO      (1ul << 5)
#define F_BLK_FLUSH   (1ul << 9)
#define F_BLK_WCE     (1ul << 11)
#define F_BLK_MQ      (1ul << 12)

#define NO_VECTOR 0xffff

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct desc {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, idx, ring[];
};

struct used {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[];
};

struct vq {
	uint16_t size, seen; // used entries taken
	volatile struct desc *desc;
	volatile struct avail *avail;
	volatile struct used *used;
	uint64_t doorbell; // gpa
};

#define QUEUES 4

struct vdev {
	unsigned slot, msix_cap, window_cap, notify_cap;
	uint64_t bar, common, isr, device, notify; // gpa
	uint32_t notify_step, device_len;
	uint64_t msix_table, msix_pba;
	unsigned msix_count, queue_count;
	unsigned vector; // IDT vector of queue 0; that of the configuration is the one before
	struct vq q[QUEUES];
};

// The n-th virtio function: maps it, finds its parts, and enables memory and MSI-X.  False if there is none.
bool vdev_find(struct vdev *v, unsigned n);
// Reads again where the BAR is.
void vdev_locate(struct vdev *v);

static inline uint8_t vdev_status(struct vdev *v)
{
	return read8(v->common + VC_STATUS);
}
static inline void vdev_set_status(struct vdev *v, uint8_t s)
{
	write8(v->common + VC_STATUS, s);
}
uint64_t vdev_offered(struct vdev *v);
void vdev_take(struct vdev *v, uint64_t features);
void vdev_select(struct vdev *v, unsigned q);

// Status 0, and waits until it reads back.
bool vdev_reset(struct vdev *v);
// From reset to FEATURES_OK with those of the `wanted` features that are offered, and VERSION_1.
bool vdev_negotiate(struct vdev *v, uint64_t wanted);
// One MSI-X table entry, to IDT vector `irq` of `cpu`, unmasked.
void msix_set(struct vdev *v, unsigned entry, unsigned cpu, unsigned irq);
void msix_mask(struct vdev *v, unsigned entry, bool masked);
void msix_control(struct vdev *v, uint16_t bits);
// Memory for a ring; tells the device and enables it.  With MSI-X entry q + 1 (NO_VECTOR if that is wanted).
void vdev_queue(struct vdev *v, unsigned q, uint16_t size, uint16_t entry);
// The same, where the three parts are given and nothing is enabled.
void vdev_queue_registers(struct vdev *v, unsigned q, uint16_t size, uint64_t desc, uint64_t driver,
			  uint64_t device);
// All of it: `queues` queues of `size`, MSI-X, DRIVER_OK.
bool vdev_start(struct vdev *v, uint64_t wanted, unsigned queues, uint16_t size);

// Makes `head` available and rings.
void vq_offer(struct vq *q, uint16_t head);
void vq_kick(struct vq *q, unsigned index);
// Waits for the next used entry: its id and length.
bool vq_take(struct vq *q, uint32_t *id, uint32_t *len, unsigned ms);

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2, BLK_NOTHING = 0x55 };

struct blk_header {
	uint32_t type, zero;
	uint64_t sector;
};

// Fills descriptors from `first` on (3, or 2 without data): header, data, status.  The place of the status.
volatile uint8_t *blk_fill(struct vq *q, uint16_t first, uint32_t type, uint64_t sector, void *data,
			   uint32_t len);
// A whole request on an idle queue: its status, or BLK_NOTHING when none came within two seconds.
uint8_t blk_request(struct vdev *v, unsigned q, uint32_t type, uint64_t sector, void *data, uint32_t len);
// True if the disk does a write and reads it back.
bool blk_works(struct vdev *v, unsigned q, uint64_t sector);

#endif
