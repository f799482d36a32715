// SPDX-License-Identifier: BSD-2-Clause
// Interrupt table, local APIC, second processors.
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

// On the boot processor, before anything that can trap.
void cpu_init_first(void);

#endif
