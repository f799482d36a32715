// SPDX-License-Identifier: BSD-2-Clause
// The PCI bus: host bridge, configuration accesses by 0xcf8 and ECAM, and where functions and their BARs first go.
#ifndef MINIVMM_VMM_PCI_HOST_H
#define MINIVMM_VMM_PCI_HOST_H

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/pci_func.h"

#define PCI_SLOTS	  32
#define PCI_ECAM_BUS_SIZE (UINT64_C(1) << 20)

struct pci_hotplug;

struct pci_window {
	uint64_t start, size;
};

struct pci_host {
	struct bus *mmio, *pio;
	struct pci_window window32, window64, window_io;
	uint64_t next32, next64, next_io; // where the next BAR is put
	struct bus_range ecam, port;
	pthread_mutex_t lock;		 // of the address register
	uint32_t config_address;	 // 0xcf8
	uint32_t intx_first, intx_count; // pins that INTx of the slots go to, by turns
	struct pci_hotplug *hotplug;	 // NULL: what is on the bus stays there
	struct pci_func *func[PCI_SLOTS];
	struct pci_func bridge; // slot 0
};

// Windows and the ECAM address are the architecture's.  `pio` may be NULL: no 0xcf8 then.
int pci_host_init(struct pci_host *h, struct bus *mmio, struct bus *pio, uint64_t ecam_gpa,
		  struct pci_window window32, struct pci_window window64, struct pci_window window_io,
		  struct err *e);
// Before any function with INTx is plugged: the pins [first, first + count) of the interrupt controller are for them.
void pci_host_set_intx(struct pci_host *h, uint32_t first, uint32_t count);
// Bit per slot whose function has INTx.
uint32_t pci_host_intx_slots(const struct pci_host *h);
// Destroys every function, last plugged first.
void pci_host_destroy(struct pci_host *h);
// Resets every function.
void pci_host_reset(struct pci_host *h);

// The guest's CPUs stand still from now on, or until now.
void pci_host_pause(struct pci_host *h, bool on);

// Puts the function into `slot` (-1: the next free one) and its BARs into the windows.  -errno with the sentence set.
int pci_host_plug(struct pci_host *h, struct pci_func *f, int slot, struct err *e);

static inline bool pci_window_holds(const struct pci_window *w, uint64_t gpa, uint64_t size)
{
	return gpa >= w->start && range_in(gpa - w->start, size, w->size);
}

#endif
