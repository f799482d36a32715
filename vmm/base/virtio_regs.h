// SPDX-License-Identifier: BSD-2-Clause
// The registers by which a driver and a virtio device agree (virtio 1.2 §2.1, §4.1.4.3), and their state machine.
//
// Both transports of virtio over PCI stand on it: the monitor's (vmm/virtio_pci.c), with a back-end behind it, and the device SDK's
// (devices/sdk/virtio_pci_fn.c), with the device itself.  It knows neither PCI nor queues at work: what follows from a
// register is its owner's to do (struct virtio_regs_ops).  Called under the owner's lock, or on its only thread.
#ifndef MINIVMM_BASE_VIRTIO_REGS_H
#define MINIVMM_BASE_VIRTIO_REGS_H

#include "vmm/base/virtio_pci_regs.h"

#include <stdbool.h>
#include <stdint.h>

// A write is looked at by state first; what a state does not expect has no effect.
enum virtio_state {
	VIRTIO_RESET,	// status 0
	VIRTIO_CONFIG,	// the driver negotiates and sets up queues
	VIRTIO_RUNNING, // DRIVER_OK, the device serves
	VIRTIO_BROKEN,	// DEVICE_NEEDS_RESET: only a reset helps
};

struct virtio_reg_queue {
	uint16_t size;
	uint16_t vector;
	bool enabled; // the driver enabled it: its fields are frozen until reset
	bool reset;   // by itself, while the others ran: may be set up and enabled again (§2.6.1)
	uint64_t desc, driver, device; // gpa
};

struct virtio_regs;

struct virtio_regs_ops {
	// Whether [gpa, gpa + len) is memory, in one piece.
	bool (*is_memory)(struct virtio_regs *r, uint64_t gpa, uint64_t len);
	// The driver settled `taken`, all of it offered.  Not 0: refused, FEATURES_OK stays clear.
	int (*negotiate)(struct virtio_regs *r);
	// DRIVER_OK, all enabled queues are good: start them, and set the state to VIRTIO_RUNNING or VIRTIO_BROKEN.
	void (*start)(struct virtio_regs *r);
	// The driver resets: all use of the queues has ended when this returns.
	void (*stop)(struct virtio_regs *r);
	// One queue of a running device, good and enabled: start it.  And: all use of it has ended when this returns.
	void (*queue_start)(struct virtio_regs *r, unsigned index);
	void (*queue_stop)(struct virtio_regs *r, unsigned index);
	// The driver broke a rule; the owner sets VIRTIO_BROKEN and tells the driver.
	void (*broken)(struct virtio_regs *r, const char *why);
};

struct virtio_regs {
	const struct virtio_regs_ops *ops;
	// The owner's, fixed.
	uint64_t offered;
	uint16_t queue_count, vector_count, queue_size_max;
	struct virtio_reg_queue *queue; // queue_count of them
	// As the driver sees them.
	enum virtio_state state;
	uint64_t taken;
	uint32_t offered_select, taken_select;
	uint8_t status, isr, generation;
	uint16_t queue_select, config_vector;
};

// Everything as after power-on; `stop` is called.
void virtio_regs_reset(struct virtio_regs *r);

// offset + size lies within VC_SIZE.
uint64_t virtio_regs_read(const struct virtio_regs *r, uint64_t offset, unsigned size);
void virtio_regs_write(struct virtio_regs *r, uint64_t offset, unsigned size, uint64_t val);

// The ISR status register: read to clear (§4.1.4.5).
uint8_t virtio_regs_isr_take(struct virtio_regs *r);

#endif
