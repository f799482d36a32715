// SPDX-License-Identifier: BSD-2-Clause
// Where things lie below 1 MiB when the first instruction of an x86 guest runs.
//
//      0x00500  GDT                          (one for the entry mode)
//      0x06000  hvm_start_info, module list, memory map      (PVH entry)
//      0x07000  boot_params, the "zero page"                 (64-bit Linux entry)
//      0x09000  page tables: PML4, PDPT, four page directories (64-bit entry)
//      0x20000  command line
//      0x30000  free for an ELF kernel that wants to lie this low
//      0x9fc00  end of the first E820 RAM entry; from here to 1 MiB is reserved, there is no EBDA
//      0xe0000  ACPI: RSDP first, then the tables
//      0xffff0  the reset vector: 16 bytes of real-mode code that reset the machine
//     0x100000  kernel; initrd as high as it may go
//
// None of it has to survive but the reset vector: Linux copies what it needs before it hands out memory.
#ifndef MINIVMM_FIRMWARE_LAYOUT_X86_H
#define MINIVMM_FIRMWARE_LAYOUT_X86_H

#define LAYOUT_GDT	    UINT64_C(0x500)
#define LAYOUT_PVH_START    UINT64_C(0x6000)
#define LAYOUT_PVH_SIZE	    UINT64_C(0x1000)
#define LAYOUT_ZERO_PAGE    UINT64_C(0x7000)
#define LAYOUT_PAGE_TABLES  UINT64_C(0x9000)
#define LAYOUT_CMDLINE	    UINT64_C(0x20000)
#define LAYOUT_CMDLINE_SIZE UINT64_C(0x10000)
#define LAYOUT_LOW_FREE	    UINT64_C(0x30000)
#define LAYOUT_LOW_END	    UINT64_C(0x9fc00)
#define LAYOUT_ACPI	    UINT64_C(0xe0000)
#define LAYOUT_ACPI_SIZE    UINT64_C(0x1fff0)
#define LAYOUT_RESET_VECTOR UINT64_C(0xffff0)
#define LAYOUT_HIGH	    UINT64_C(0x100000)

// A guest with less RAM than this is refused: nothing could run in it.
#define LAYOUT_RAM_MIN UINT64_C(0x200000)

#endif
