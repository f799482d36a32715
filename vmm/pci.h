// SPDX-License-Identifier: BSD-2-Clause
// One PCI bus: host bridge, configuration space by 0xcf8 and ECAM, and the functions on it.
//
// pci.c owns every function's configuration space and its BARs: what a guest may write is a mask, a BAR that the guest moves is moved
// on the MMIO bus (the old place first goes away, then the new one appears), and it only ever lies within the host bridge's
// windows, so it cannot shadow RAM or the platform.  Each function has a lock; its operations are called with it held, by
// whichever thread the access came from.  What happens elsewhere (a back-end died) is posted: pci_func_post() never waits.
#ifndef MINIVMM_VMM_PCI_H
#define MINIVMM_VMM_PCI_H

#include "vmm/base/err.h"
#include "vmm/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PCI_SLOTS       32
#define PCI_BARS        6
#define PCI_CONFIG_SIZE 256
#define PCI_ECAM_FUNC_SIZE 4096
#define PCI_ECAM_BUS_SIZE  (UINT64_C(1) << 20)

struct pci_func;

struct pci_func_ops {
	// Configuration accesses, after pci.c's own.  read: *val holds what the space says; write: the space holds the new value already.
	void (*config_read)(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val);
	void (*config_write)(struct pci_func *f, unsigned offset, unsigned size, uint32_t val);
	// offset + size lies within the BAR.
	void (*bar_read)(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val);
	void (*bar_write)(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val);
	// The BAR is about to leave `gpa` (mapped false) or has just come to it (true).
	void (*bar_moved)(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped);
	// The bits that were posted since the last call.
	void (*event)(struct pci_func *f, unsigned bits);
	// As after power-on; the configuration space has been reset already, BARs are unmapped.
	void (*reset)(struct pci_func *f);
	// Ends and frees the function; without the lock, when no vCPU runs any more.
	void (*destroy)(struct pci_func *f);
};

struct pci_bar {
	uint64_t size;          // power of two; 0: none
	uint64_t address;       // that the monitor gave it, and reset restores
	bool is_64bit, is_io, prefetch;
	bool mapped;            // `range` is on the bus
	struct bus_range range;
	struct pci_func *func;
};

struct pci_func {
	const struct pci_func_ops *ops;
	const char *id;
	struct pci_host *host;  // NULL until plugged
	unsigned slot;
	pthread_mutex_t lock;
	atomic_uint events;
	unsigned next_cap;      // offset of the next capability
	unsigned last_cap;      // offset of the last one's next pointer
	struct pci_bar bar[PCI_BARS];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; // mask of the bits that the guest may change
	uint8_t initial[PCI_CONFIG_SIZE];  // what reset restores; taken when it is plugged
};

struct pci_window {
	uint64_t start, size;
};

struct pci_host {
	struct bus *mmio, *pio;
	struct pci_window window32, window64, window_io;
	uint64_t next32, next64, next_io; // where the next BAR is put
	struct bus_range ecam, port;
	pthread_mutex_t lock;             // of the address register
	uint32_t config_address;          // 0xcf8
	struct pci_func *func[PCI_SLOTS];
	struct pci_func bridge;           // slot 0
};

// Windows and the ECAM address are the architecture's.  `pio` may be NULL: no 0xcf8 then.
int pci_host_init(struct pci_host *h, struct bus *mmio, struct bus *pio, uint64_t ecam_gpa,
                  struct pci_window window32, struct pci_window window64, struct pci_window window_io,
                  struct err *e);
// Destroys every function, last plugged first.
void pci_host_destroy(struct pci_host *h);
// Resets every function.
void pci_host_reset(struct pci_host *h);

// Prepares a function: identity in the configuration space, nothing plugged.  `id` stays the caller's.
void pci_func_init(struct pci_func *f, const struct pci_func_ops *ops, const char *id, uint16_t vendor,
                   uint16_t device, uint32_t class_code);
void pci_func_set_subsystem(struct pci_func *f, uint16_t vendor, uint16_t device);
// Memory BAR; size is a power of two >= 16.  A 64-bit BAR takes index + 1 too.
void pci_func_add_bar(struct pci_func *f, unsigned index, uint64_t size, bool is_64bit, bool prefetch);
// `len` bytes for a capability, id and next pointer included: its offset.  Contents are the caller's to fill.
unsigned pci_func_add_capability(struct pci_func *f, uint8_t id, unsigned len);

// Puts the function into `slot` (-1: the next free one) and its BARs into the windows.  -errno with the sentence set.
int pci_host_plug(struct pci_host *h, struct pci_func *f, int slot, struct err *e);

void pci_func_lock(struct pci_func *f);
// Delivers posted events first.
void pci_func_unlock(struct pci_func *f);
// Has ops->event called with these bits, now or by the present holder of the lock.  Any thread, never waits for the lock.
void pci_func_post(struct pci_func *f, unsigned bits);

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
