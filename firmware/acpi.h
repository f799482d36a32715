// SPDX-License-Identifier: BSD-2-Clause
// ACPI tables (6.4) of an x86 machine: RSDP, XSDT, FADT, MADT, MCFG, DSDT.
//
// The machine is "hardware-reduced" (§4.1): no PM timer, no SCI, no fixed events, and Linux then leaves the
// PIT and the 8259s alone, too. Its power button and whatever comes to it at run time are events of one
// Generic Event Device; sleeping is one register.
//
// CPUs are listed in the MADT only.  A processor device in the DSDT is for C-states, frequencies and
// hot-plug, none of which exist here, and each would cost the guest the interpretation of its AML at boot and
// us some 40 bytes.
//
// There are no interrupt source overrides: no device sits on a legacy interrupt whose number is not its GSI,
// and nothing is on IRQ 0.
#ifndef MINIVMM_FIRMWARE_ACPI_H
#define MINIVMM_FIRMWARE_ACPI_H

#include "vmm/base/err.h"

#include <stddef.h>
#include <stdint.h>

// Bits of the event register.
#define ACPI_EVENT_POWER_BUTTON 0x01
#define ACPI_EVENT_PCI		0x02 // there is something in the hot-plug register

// The hot-plug register, 32 bits.  Read, which clears it: what the guest shall do.  Written: what it has done.
#define ACPI_HOTPLUG_LOOK	0x01			// look at the bus anew
#define ACPI_HOTPLUG_SLOT(slot) (UINT32_C(1) << (slot)) // 1 to 31: let go of the function there

// What to expect in the sleep control register when the guest powers off: SLP_EN with SLP_TYP 5 (§4.8.3.7).
#define ACPI_SLEEP_S5 (0x20 | 5 << 2)

struct acpi_window {
	uint64_t gpa; // or port
	uint64_t size;
};

struct acpi_machine {
	uint32_t cpu_count; // APIC ids and processor UIDs are 0 ... cpu_count - 1
	uint32_t lapic_gpa;
	uint32_t ioapic_gpa; // its id is 0, its first GSI 0

	uint64_t ecam_gpa;	       // below 4 GiB; bus_count MiB from there on
	unsigned bus_count;	       // 1 to 256, from bus 0 on
	struct acpi_window pci_io;     // ports; size 0: none
	struct acpi_window pci_mmio32; // below 4 GiB
	struct acpi_window pci_mmio64; // size 0: none

	uint16_t com1_port; // 8 ports
	uint32_t com1_gsi;
	uint16_t rtc_port; // 2 ports
	uint32_t rtc_gsi;
	uint8_t rtc_century; // CMOS index of the century; 0: none

	// Ports of one byte each.
	uint16_t reset_port;
	uint8_t reset_value;	// written there: reset
	uint16_t sleep_control; // ACPI_SLEEP_S5 is written there: power off
	uint16_t sleep_status;	// reads as 0 (never slept); writes have no effect
	uint16_t event_port;	// a read returns the pending ACPI_EVENT_... bits and clears them
	uint32_t event_gsi;	// edge: raised after a bit has been set

	// Slots of bus 0 whose function raises INTA, a bit each; slot N on GSI intx_first + N % intx_count: level.
	uint32_t intx_slots, intx_first, intx_count;

	// Slots of bus 0 whose function may be unplugged, a bit each.  0: there is no hot-plug register, and no word of it in the tables.
	uint32_t hotplug_slots;
	uint16_t hotplug_port; // 4 ports
};

// Writes the RSDP at the start of `buf` (the guest sees it at `gpa`, a multiple of 16) and the tables behind
// it.  Needs less than 2 KiB, 64 bytes for each slot of hot plug, and 8 bytes for each CPU below 255 and 16 for each from there on, so that
// LAYOUT_ACPI_SIZE (128 KiB) is enough for 8000 CPUs. -ENOSPC with the sentence set if `room` is too small.
int acpi_build(const struct acpi_machine *m, void *buf, size_t room, uint64_t gpa, uint64_t *rsdp_gpa,
	       struct err *e);

#endif
