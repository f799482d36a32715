// SPDX-License-Identifier: BSD-2-Clause
// What differs by machine architecture: everything the monitor asks of arch/X.  arch_* functions are implemented once for each.
#ifndef MINIVMM_ARCH_ARCH_H
#define MINIVMM_ARCH_ARCH_H

#include "vmm/base/err.h"
#include "vmm/pci_host.h"

#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vcpu;
struct arch; // the platform's own devices and its tables; one a machine
struct kvm_irq_routing_entry;

// Guest-physical address space: where RAM is split and where PCI lives.
struct arch_layout {
	uint64_t ram_hole_start; // RAM from 0 to here at most
	uint64_t ram_high_start; // the rest of it from here on
	uint64_t ecam_gpa;
	struct pci_window window32, window64, window_io;
	uint32_t intx_first, intx_count; // pins of the interrupt controller
	uint16_t hotplug_port;		 // of the hot-plug register (vmm/pci_hotplug.h), on vm->pio
};

// For `ram_size` bytes of RAM on this host; -errno if they do not fit its physical address bits.
int arch_layout_plan(struct arch_layout *out, uint64_t ram_size, struct err *e);

// Makes the platform devices and puts them on vm->mmio and vm->pio.
int arch_create(struct vm *vm, struct err *e);
void arch_destroy(struct vm *vm);

// Prepares a KVM VM that was just made: interrupt controller, clocks.
int arch_vm_setup(struct vm *vm, struct err *e);

// Writes the kernel and all tables into guest RAM, which reads as zeros.
int arch_boot_load(struct vm *vm, struct err *e);

// A vCPU that was just made: CPUID, MSRs, and for the first one the entry state.
int arch_vcpu_setup(struct vcpu *c, struct err *e);

// Platform devices as after power-on.
void arch_reset(struct vm *vm);

// Takes an exit that only this architecture has; false if the reason is not one of them.  On the vCPU's thread.
bool arch_vcpu_exit(struct vcpu *c);

// Logs the registers of a vCPU.  On its own thread, or when it does not run.
void arch_vcpu_dump(struct vcpu *c);

// Instructions a second of a guest's kernel mode, measured for a fraction of one, on a VM (kvm_vm_create()) that is used for nothing else.
// -errno with a sentence.
struct kvm;
int arch_kvm_speed(const struct kvm *k, uint64_t *per_s, struct err *e);

// The guest is told that somebody pressed the power button.
void arch_power_button(struct vm *vm);

// The guest is told that the hot-plug register has something for it.
void arch_pci_event(struct vm *vm);

// The fixed routes of the interrupt controller's pins; the number written.
unsigned arch_pin_routes(struct kvm_irq_routing_entry *entries, unsigned room);

#endif
