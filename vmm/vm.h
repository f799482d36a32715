// SPDX-License-Identifier: BSD-2-Clause
// The machine: what it consists of, and the order in which it is built, run, restarted and stopped.
//
// One loop thread (the main thread) and one thread a vCPU.  vm_build() spells out the order of set-up, vm_destroy() mirrors
// it.  At a guest reboot the KVM VM and its vCPUs are made anew while RAM, back-end connections and threads stay.
#ifndef MINIVMM_VMM_VM_H
#define MINIVMM_VMM_VM_H

#include "arch/arch.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/bus.h"
#include "vmm/config.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/memmap.h"
#include "vmm/pci_host.h"
#include "vmm/pci_hotplug.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct vcpu;

// Why the machine stops running; the highest wins.
enum vm_event {
	VM_RUNNING,
	VM_REBOOT,   // the guest reset itself, or its boot CPU shut down (triple fault)
	VM_POWEROFF, // the guest powered off
	VM_QUIT,     // the user ended it
	VM_CRASH,    // KVM or the host failed; the reason is in the log
};

struct vm {
	const struct vm_config *config;
	struct arch_layout layout;
	struct loop loop;
	struct kvm kvm;
	struct memmap memory;
	struct irq irq;
	struct bus mmio, pio;
	struct pci_host pci;
	struct pci_hotplug hotplug;
	struct console console;
	struct control control;
	struct arch *arch;
	int kernel_fd, initrd_fd; // kept open: a reboot loads them again

	struct vcpu *vcpus;
	unsigned vcpu_count;	  // those whose thread exists
	pthread_mutex_t run_lock; // of the next six
	pthread_cond_t run_changed;
	bool run, leave;     // vCPU threads shall run the guest; shall end
	unsigned generation; // of `run`: a CPU that stopped by itself waits for the next one
	unsigned parked;     // vCPU threads that wait
	bool tell_parked;    // the one that makes them all tells the loop

	bool pause_wanted, paused; // the loop's thread's
	// The machine is as vm_pause() or vm_resume(), the last one of them, wants it: on the loop's thread.  NULL: nobody waits.
	void (*pause_settled)(void *owner);
	void *pause_owner;

	_Atomic int event; // enum vm_event
	struct loop_source event_source;
};

// The loop and what posts events to it: enough to start device processes with, which then start while we build.
int vm_init(struct vm *vm, const struct vm_config *config, struct err *e);

// Everything but the PCI functions of the devices: those are plugged by main(), between vm_build() and vm_prepare().
int vm_build(struct vm *vm, struct err *e);

// Loads the kernel and makes the vCPUs and their threads, which wait.
int vm_prepare(struct vm *vm, struct err *e);

// Runs until something other than a reboot that the configuration lets happen: the event.  On the loop's thread.
enum vm_event vm_run(struct vm *vm);

// Stops the vCPU threads if they run, then takes everything down in reverse order.  Good on a machine built half-way, once vm_init() was called.
void vm_destroy(struct vm *vm);

// Asks vm_run() to end, or to reboot.  Any thread.
void vm_post_event(struct vm *vm, enum vm_event event);

// Stops the guest: its CPUs, then what its devices can hold back by themselves (struct pci_func_ops, `pause`).  Takes some time, in
// which the loop goes on; pause_settled() then says that it is done.  On the loop's thread.
void vm_pause(struct vm *vm);
// The guest goes on; it is told that it was stopped, where it can be (KVM_KVMCLOCK_CTRL).
void vm_resume(struct vm *vm);

// Every vCPU logs its registers.  On the loop's thread.
void vm_dump(struct vm *vm);

#endif
