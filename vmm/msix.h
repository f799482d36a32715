// SPDX-License-Identifier: BSD-2-Clause
// The MSI-X table of one function (PCI 3.0 §6.8.2): each vector an eventfd that KVM injects.
//
// A vector's eventfd is made when somebody first asks for it and keeps its number until msix_destroy().  It is bound to KVM (irqfd) only
// while the guest wants interrupts from it; a signal that comes while the vector is masked stays in the eventfd: that
// is the pending bit, and binding delivers it.  Called under the function's lock.
#ifndef MINIVMM_VMM_MSIX_H
#define MINIVMM_VMM_MSIX_H

#include "vmm/base/err.h"
#include "vmm/irq.h"

#include <stdbool.h>
#include <stdint.h>

#define MSIX_ENTRY_SIZE	 16
#define MSIX_VECTORS_MAX 2048 // of the specification; virtio functions have fewer
#define MSIX_NO_VECTOR	 0xffff

// Message Control, PCI 3.0 §6.8.2.3
#define MSIX_CONTROL_ENABLE 0x8000
#define MSIX_CONTROL_MASK   0x4000

struct msix_vector {
	uint64_t address;
	uint32_t data;
	uint32_t control; // bit 0: masked
	int eventfd;	  // -1 until asked for
	bool bound;	  // KVM injects it
};

struct msix {
	struct irq *irq;
	const char *id;
	uint32_t first_gsi;
	uint16_t count;
	bool enabled, masked;
	int error; // of the last vector that KVM refused to carry; 0 or -errno
	struct msix_vector *vector;
};

// 1 <= count <= MSIX_VECTORS_MAX.
int msix_init(struct msix *m, const char *id, struct irq *irq, unsigned count, struct err *e);
void msix_destroy(struct msix *m);

// As after power-on: all vectors masked, the capability disabled, nothing pending, nothing bound.
void msix_reset(struct msix *m);

// The guest's accesses to table and PBA.  Only aligned ones of 4 or 8 bytes have an effect; others read as 0.
uint64_t msix_table_read(const struct msix *m, uint64_t offset, unsigned size);
void msix_table_write(struct msix *m, uint64_t offset, unsigned size, uint64_t val);
uint64_t msix_pba_read(const struct msix *m, uint64_t offset, unsigned size);

// The guest wrote the capability's Message Control.
void msix_control_write(struct msix *m, uint16_t control);

// Why KVM refused to carry a vector that the guest set up properly, since this was last asked: -errno, 0 if it did not.
int msix_take_error(struct msix *m);

// The eventfd that interrupts the guest through `vector`; -EINVAL for a vector that does not exist, -errno.  Stays ours.
int msix_eventfd(struct msix *m, unsigned vector);

// Raises the interrupt (from the monitor itself).  Nothing happens for a vector that does not exist.
void msix_signal(struct msix *m, unsigned vector);

static inline uint64_t msix_table_size(const struct msix *m)
{
	return (uint64_t)m->count * MSIX_ENTRY_SIZE;
}

static inline uint64_t msix_pba_size(const struct msix *m)
{
	return ((uint64_t)m->count + 63) / 64 * 8;
}

#endif
