// SPDX-License-Identifier: BSD-2-Clause
// What the guest's processors say they are.
#ifndef MINIVMM_ARCH_X86_64_CPUID_H
#define MINIVMM_ARCH_X86_64_CPUID_H

#include "vmm/base/err.h"
#include "vmm/kvm.h"

#include <stdbool.h>

struct kvm_cpuid2;

// What this host's KVM can give a guest (KVM_GET_SUPPORTED_CPUID); the caller frees it.
int cpuid_host(const struct kvm *k, struct kvm_cpuid2 **out, struct err *e);

struct cpuid_topology {
	unsigned cpus;	// one socket, one thread a core
	unsigned index; // this CPU, which is its APIC id
	bool tsc_deadline;
};

// Makes the host's list that of one CPU.  May be applied again, for another one.
void cpuid_personalize(struct kvm_cpuid2 *list, const struct cpuid_topology *t);

#endif
