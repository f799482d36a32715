// SPDX-License-Identifier: BSD-2-Clause
// One virtual CPU: its KVM descriptor, its thread, and the way from an exit to the one who answers.
#ifndef MINIVMM_VMM_VCPU_H
#define MINIVMM_VMM_VCPU_H

#include "vmm/base/err.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct vm;
struct kvm_run;

struct vcpu {
	struct vm *vm;
	unsigned index;	     // also its APIC id
	int fd;		     // -1 while there is no KVM VM
	struct kvm_run *run; // shared with KVM
	pthread_t thread;
	atomic_int tid;	  // of the thread, once it is there; it parks before anybody kicks it
	atomic_bool dump; // log the registers at the next exit
};

// Makes the vCPU in the machine's present KVM VM and sets it up; vcpu_close() undoes it.
int vcpu_open(struct vcpu *c, struct vm *vm, unsigned index, struct err *e);
void vcpu_close(struct vcpu *c);

// Starts its thread, which parks at once (vm.c).
int vcpu_thread_start(struct vcpu *c, struct err *e);

// Makes KVM_RUN return soon, also if it has not begun.  Any thread.
void vcpu_kick(struct vcpu *c);

// Its guest was stopped for a while and goes on: the guest's watchdogs are told.  While the thread is parked.
void vcpu_tell_paused(struct vcpu *c);

// Prepares the signal that kicks; once, before the first thread.
int vcpu_init_signal(struct err *e);

#endif
