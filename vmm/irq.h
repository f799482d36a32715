// SPDX-License-Identifier: BSD-2-Clause
// Global interrupt numbers (GSIs) and the routes that KVM follows from each.
//
// GSIs below IRQ_MSI_FIRST are the interrupt controller's pins with fixed routes; those above are allotted to MSI vectors when a
// function is made, so that running out is found before the guest runs.  All calls are good on any thread.
#ifndef MINIVMM_VMM_IRQ_H
#define MINIVMM_VMM_IRQ_H

#include "vmm/base/err.h"
#include "vmm/kvm.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define IRQ_MSI_FIRST 24   // after the pins of the IOAPIC
#define IRQ_GSI_MAX   4096 // KVM_MAX_IRQ_ROUTES

struct kvm_irq_routing;

struct irq {
	struct kvm *kvm;
	pthread_mutex_t lock;
	uint32_t next_gsi;
	bool wide_destinations; // more than 255 CPUs: MSI address bits 11-5 hold destination bits 14-8
	unsigned route_count, route_room;
	struct kvm_irq_routing *table;
};

int irq_init(struct irq *q, struct kvm *kvm, struct err *e);
void irq_destroy(struct irq *q);

// `count` GSIs in a row for a function's vectors, for the machine's whole life: the first, or -ENOSPC.
int irq_msi_allot(struct irq *q, unsigned count);

// Sends signals of `gsi` to the MSI address and data.  0; -EINVAL for an address that is no local APIC; -errno of KVM.
int irq_msi_route(struct irq *q, uint32_t gsi, uint64_t address, uint32_t data);

// Drives a pin of the interrupt controller.
void irq_pin_set(struct irq *q, uint32_t pin, bool high);
// One edge.
void irq_pin_pulse(struct irq *q, uint32_t pin);

// Forgets all MSI routes: the KVM that knew them is gone (vm.c, at reboot).
void irq_reset(struct irq *q);

#endif
