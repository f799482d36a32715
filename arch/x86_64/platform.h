// SPDX-License-Identifier: BSD-2-Clause
// The platform's own devices on x86: serial port, CMOS clock, keyboard controller's reset line, power registers.
#ifndef MINIVMM_ARCH_X86_64_PLATFORM_H
#define MINIVMM_ARCH_X86_64_PLATFORM_H

#include "arch/x86_64/cmos.h"
#include "firmware/boot_x86.h"
#include "vmm/bus.h"
#include "vmm/uart16550.h"
#include "vmm/vm.h"

#include <stdatomic.h>

struct kvm_cpuid2;

struct arch {
	struct vm *vm;
	struct uart16550 uart;
	struct cmos cmos;
	struct bus_range i8042, power;
	atomic_uint events; // ACPI_EVENT_...: read and cleared through the event port
	struct boot_image boot;
	struct kvm_cpuid2 *cpuid; // what this host supports; made by the first vCPU
};

#endif
