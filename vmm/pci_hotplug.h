// SPDX-License-Identifier: BSD-2-Clause
// Functions that leave the bus, and come back, while the guest runs.
//
// One register of 32 bits, a bit for each slot, that the guest's ACPI works with (firmware/dsdt.c): read, which clears it, it says what the guest
// shall do (let go of the function in slot N; bit 0: look at the bus anew), written, what the guest has done.  A guest may
// write what it likes when it likes: a function takes an end that it waits for, and nothing else.
// Functions that may leave are those with ops->hotplug; a machine without any has no register.
#ifndef MINIVMM_VMM_PCI_HOTPLUG_H
#define MINIVMM_VMM_PCI_HOTPLUG_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/bus.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct pci_func;
struct pci_host;

#define PCI_HOTPLUG_REGISTER_SIZE 4

// Where the register is, and who tells the guest that there is something in it.
struct pci_hotplug_place {
	struct bus *bus;
	uint64_t at;
	void (*raise)(void *owner); // on the loop's thread
	void *owner;
};

struct pci_hotplug {
	struct pci_host *host; // NULL: there is none
	struct pci_hotplug_place place;
	struct loop *loop;
	struct bus_range range;
	struct loop_source asked; // an eventfd: `ask` has bits
	pthread_mutex_t lock;	  // of what follows; taken last
	uint32_t ask;		  // what the next read gives
	uint32_t leaving;	  // slots whose function the guest was asked to let go of
	uint32_t looking;	  // slots whose function waits for a look at the bus
	// Looks of the guest's, counted: asked for by reads of the register, and done.  One that begins later than a function asked for it
	// is the one that counts.
	uint32_t looks_begun, looks_done;
	uint32_t look_of[32]; // by slot: the look that it waits for
};

// Once all functions are plugged, and before the guest runs.  Does nothing where none may leave.  -errno with the sentence.
int pci_hotplug_start(struct pci_hotplug *h, struct pci_host *host, const struct pci_hotplug_place *place,
		      struct loop *loop, struct err *e);
// When nobody can ask any more.  Good on one that was not started.
void pci_hotplug_stop(struct pci_hotplug *h);
// The guest is reset, vCPUs stand still: it has let go of everything, and will look at the bus.  Before the functions are reset.
void pci_hotplug_reset(struct pci_hotplug *h);

// Bit per slot whose function may leave.
uint32_t pci_hotplug_slots(const struct pci_host *host);

// Asks the guest to let go of the function, or to look at the bus, where this function has gone or come; ops->hotplug is called when
// it says that it has.  Under the function's lock, on any thread; never waits.  False: this machine has no such means.
bool pci_hotplug_eject(struct pci_func *f);
bool pci_hotplug_look(struct pci_func *f);

#endif
