// SPDX-License-Identifier: BSD-2-Clause
// The second kind of PCI function: a whole one that somebody else has, whatever carries it (bridges/vfio_ops.h).
//
// The guest sees the device's own identity, capabilities and BARs.  The configuration space is a shadow (passthrough_config.c): what a guest
// writes reaches the device only where this says so.  BARs are mapped into the guest where the device lets that be done, and trapped
// elsewhere (passthrough_bar.c).  Interrupts are eventfds that KVM injects (passthrough_irq.c).  All of guest RAM is mapped for the
// device's DMA before the guest runs.
//
// A device that fails or whose carrier died is marked dead: it reads as all ones, as one that was pulled out does, and the machine goes on.
// One that its host wants back is ejected by the guest, or marked dead (passthrough_plug.c).  A carrier that returns finds what the guest
// had set up (passthrough_return.c).
#ifndef MINIVMM_BRIDGES_PASSTHROUGH_H
#define MINIVMM_BRIDGES_PASSTHROUGH_H

#include "bridges/vfio_ops.h"
#include "vmm/base/err.h"

struct irq;
struct kvm;
struct loop;
struct memmap;
struct pci_func;

// What a function needs from the machine; all of it outlives the function.
struct passthrough_host {
	struct kvm *kvm;
	struct irq *irq;
	struct loop *loop;
	const struct memmap *memory;
	int64_t guest_ms; // the guest's time to do what it is asked to; 0: 5000
};

// Makes a PCI function of a device, not plugged yet.  On success it owns the link; ops->destroy closes it.  -errno with the sentence for
// one that makes no sense (each of faults B21, B23 by its name), or whose memory cannot be mapped.  On the loop's thread, before the
// seal: what is mapped is mapped here.
int passthrough_create(struct pci_func **out, struct vfio_link *l, const struct passthrough_host *host,
		       struct err *e);

#endif
