// SPDX-License-Identifier: BSD-2-Clause
// The virtio 1.2 PCI transport (§4.1): what a guest's driver talks to.
//
// A state machine in front of a back-end that it knows by bridges/backend.h only.  The data path is set up here and never seen again:
// doorbells are ioeventfds, interrupts are irqfds, rings and buffers are shared memory.  Modern interface only, MSI-X only (no INTx).
#ifndef MINIVMM_VMM_VIRTIO_PCI_H
#define MINIVMM_VMM_VIRTIO_PCI_H

#include "bridges/backend.h"
#include "vmm/base/err.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/memmap.h"
#include "vmm/pci_func.h"

// What the transport needs from the machine; outlives the function.
struct virtio_pci_host {
	struct kvm *kvm;
	struct irq *irq;
	const struct memmap *memory;
};

// Makes a PCI function of a back-end, not plugged yet.  On success it owns the back-end; ops->destroy closes it.
int virtio_pci_create(struct pci_func **out, struct backend *b, const struct virtio_pci_host *host,
		      struct err *e);

#endif
