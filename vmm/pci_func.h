// SPDX-License-Identifier: BSD-2-Clause
// One function on the PCI bus: its configuration space, its BARs, its lock.
//
// What a guest may write into the configuration space is a mask.  A BAR that the guest moves is moved on the bus: the old place first goes away,
// then the new one appears, and only within the host bridge's windows, so it cannot shadow RAM or the platform.
// Operations are called with the function's lock held, by whichever thread the access came from.  What happens elsewhere (a
// back-end died) is posted: pci_func_post() never waits.
#ifndef MINIVMM_VMM_PCI_FUNC_H
#define MINIVMM_VMM_PCI_FUNC_H

#include "vmm/base/deadline.h"
#include "vmm/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PCI_BARS	 7 // the last one is the expansion ROM's
#define PCI_ROM_BAR	 6
#define PCI_CONFIG_SIZE	 256
#define PCI_CONFIG_LARGE 4096 // PCI Express'
#define PCI_MEMORY_SLOTS 320  // of KVM's, that a function may use: from pci_func_memory_slot() on

struct pci_func;
struct pci_host;

// What a guest says that it has done (vmm/pci_hotplug.h).
enum pci_hotplug_end {
	PCI_HOTPLUG_EJECTED, // it let go of the function; may come unasked
	PCI_HOTPLUG_LOOKED,  // it looked at the bus after pci_hotplug_look()
};

struct pci_func_ops {
	// Configuration accesses, after pci_func.c's own.  read: *val holds what the space says; write: the space holds the new value already.
	// From 256 on the space is the function's alone, and there are accesses only if it has set config_size: *val is 0.
	void (*config_read)(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val);
	void (*config_write)(struct pci_func *f, unsigned offset, unsigned size, uint32_t val);
	// offset + size lies within the BAR.
	void (*bar_read)(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val);
	void (*bar_write)(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val);
	// The BAR is about to leave `gpa` (mapped false) or has just come to it (true).
	void (*bar_moved)(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped);
	// Memory that the function shows in the BAR's place cannot be had any more: it is to be hidden.  NULL for one that shows none.
	void (*bar_lost)(struct pci_func *f, unsigned bar);
	// The bits that were posted since the last call.
	void (*event)(struct pci_func *f, unsigned bits);
	// NULL, or: begins, without waiting, what takes time in the reset or the destroy that comes next, and has to be over by `deadline`.
	void (*end_begin)(struct pci_func *f, deadline_ns deadline);
	// As after power-on; the configuration space has been reset already, BARs are unmapped.
	void (*reset)(struct pci_func *f);
	// For the user, how it is, as "running".
	const char *(*state)(struct pci_func *f);
	// The guest is stopped, and goes on.  NULL: what the function has begun goes on meanwhile.
	void (*pause)(struct pci_func *f, bool on);
	// NULL: the function never leaves the bus.
	void (*hotplug)(struct pci_func *f, enum pci_hotplug_end end);
	// Ends and frees the function; without the lock, when no vCPU runs any more.
	void (*destroy)(struct pci_func *f);
};

struct pci_bar {
	uint64_t size;	  // power of two; 0: none
	uint64_t address; // that the monitor gave it, and reset restores
	bool is_64bit, is_io, is_rom, prefetch;
	bool mapped; // `range` is on the bus
	struct bus_range range;
	struct pci_func *func;
};

struct pci_func {
	const struct pci_func_ops *ops;
	const char *id;
	struct pci_host *host; // NULL until plugged
	unsigned slot;
	pthread_mutex_t lock;
	atomic_uint events;
	unsigned config_size; // PCI_CONFIG_SIZE or PCI_CONFIG_LARGE
	unsigned next_cap;    // offset of the next capability
	unsigned last_cap;    // offset of the last one's next pointer
	struct pci_bar bar[PCI_BARS];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; // mask of the bits that the guest may change
	uint8_t initial[PCI_CONFIG_SIZE];  // what reset restores; taken when it is plugged
};

// Prepares a function: identity in the configuration space, nothing plugged.  `id` stays the caller's.
void pci_func_init(struct pci_func *f, const struct pci_func_ops *ops, const char *id, uint16_t vendor,
		   uint16_t device, uint32_t class_code);
void pci_func_set_subsystem(struct pci_func *f, uint16_t vendor, uint16_t device);
// Memory BAR; size is a power of two >= 16.  A 64-bit BAR takes index + 1 too.
void pci_func_add_bar(struct pci_func *f, unsigned index, uint64_t size, bool is_64bit, bool prefetch);
// I/O ports; size is a power of two >= 4.
void pci_func_add_io_bar(struct pci_func *f, unsigned index, uint64_t size);
// The expansion ROM, BAR PCI_ROM_BAR; size is a power of two >= 2048.
void pci_func_add_rom(struct pci_func *f, uint64_t size);
// The function raises INTA: level, on the interrupt controller's pin that the guest finds for its slot (pci_func_intx_gsi).
void pci_func_add_intx(struct pci_func *f);
// `len` bytes for a capability, id and next pointer included: its offset.  Contents are the caller's to fill.
unsigned pci_func_add_capability(struct pci_func *f, uint8_t id, unsigned len);

void pci_func_lock(struct pci_func *f);
// Delivers posted events first.
void pci_func_unlock(struct pci_func *f);
// Has ops->event called with these bits, now or by the present holder of the lock.  Any thread, never waits for the lock.
void pci_func_post(struct pci_func *f, unsigned bits);

// ops->state(), or "busy" while somebody holds the lock.  Never waits.
const char *pci_func_state(struct pci_func *f);

// For the host bridge (pci_host.c): accesses that lie within the space and are naturally aligned; with the lock.
uint32_t pci_func_config_read(struct pci_func *f, unsigned offset, unsigned size);
void pci_func_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val);
// As after power-on; with the lock.
void pci_func_reset(struct pci_func *f);
void pci_func_unmap_bars(struct pci_func *f);

// Of a function that is plugged.
uint32_t pci_func_intx_gsi(const struct pci_func *f);
unsigned pci_func_memory_slot(const struct pci_func *f);

// Where BAR `index` stands in the configuration space (PCI 3.0 §6.2.5).
static inline unsigned pci_bar_register(unsigned index)
{
	return index == PCI_ROM_BAR ? 0x30 : 0x10 + 4 * index;
}

static inline uint16_t pci_config_get16(const struct pci_func *f, unsigned offset)
{
	return (uint16_t)(f->config[offset] | f->config[offset + 1] << 8);
}

static inline uint32_t pci_config_get32(const struct pci_func *f, unsigned offset)
{
	return pci_config_get16(f, offset) | (uint32_t)pci_config_get16(f, offset + 2) << 16;
}

static inline void pci_config_set16(struct pci_func *f, unsigned offset, uint16_t val)
{
	f->config[offset] = (uint8_t)val;
	f->config[offset + 1] = (uint8_t)(val >> 8);
}

static inline void pci_config_set32(struct pci_func *f, unsigned offset, uint32_t val)
{
	pci_config_set16(f, offset, (uint16_t)val);
	pci_config_set16(f, offset + 2, (uint16_t)(val >> 16));
}

#endif
