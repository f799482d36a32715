// SPDX-License-Identifier: BSD-2-Clause
// The x86 machine's address map.
//
//            0 ..  3 GiB        RAM, as much as there is
//   0xc0000000 .. 0xe7ffffff    32-bit BARs
//   0xe8000000 .. 0xe80fffff    ECAM of bus 0
//   0xfec00000, 0xfee00000      IOAPIC, local APICs
//   0xfeffc000 .. 0xfeffffff    pages that KVM on Intel wants for real mode
//        4 GiB ..               the rest of RAM, then 64-bit BARs
#ifndef MINIVMM_ARCH_X86_64_LAYOUT_H
#define MINIVMM_ARCH_X86_64_LAYOUT_H

#include <stdint.h>

#define X86_HOLE_START	  UINT64_C(0xc0000000)
#define X86_HIGH_START	  UINT64_C(0x100000000)
#define X86_WINDOW32_SIZE UINT64_C(0x28000000)
#define X86_ECAM	  UINT64_C(0xe8000000)
#define X86_IOAPIC	  UINT32_C(0xfec00000)
#define X86_LAPIC	  UINT32_C(0xfee00000)
#define X86_IDENTITY_MAP  UINT64_C(0xfeffc000)
#define X86_TSS		  UINT64_C(0xfeffd000)
#define X86_WINDOW64_MAX  (UINT64_C(1) << 40)

// Ports
#define X86_PORT_I8042	       0x60 // to 0x64
#define X86_PORT_CMOS	       0x70
#define X86_PORT_COM1	       0x3f8
#define X86_PORT_SLEEP_CONTROL 0x600
#define X86_PORT_SLEEP_STATUS  0x601
#define X86_PORT_RESET	       0x602
#define X86_PORT_EVENT	       0x603
#define X86_PORT_POWER_SIZE    4
#define X86_PORT_HOTPLUG       0x604 // to 0x607
#define X86_RESET_VALUE	       0x01
#define X86_PCI_IO_START       UINT64_C(0x1000)
#define X86_PCI_IO_SIZE	       UINT64_C(0xf000)

// Pins of the IOAPIC
#define X86_GSI_COM1  4
#define X86_GSI_RTC   8
#define X86_GSI_EVENT 9
#define X86_GSI_INTX  16 // and the seven after it, for the PCI slots by turns
#define X86_INTX_PINS 8

#endif
