// SPDX-License-Identifier: BSD-2-Clause
// struct boot_params, the "zero page" of the Linux x86 boot protocol (Documentation/arch/x86/zero-page.rst).
#ifndef MINIVMM_FIRMWARE_ZEROPAGE_H
#define MINIVMM_FIRMWARE_ZEROPAGE_H

#include "firmware/e820.h"
#include "firmware/kernel.h"

#include <stdint.h>

#define ZERO_PAGE_SIZE 4096

// What a kernel is handed, whichever way it is told: all of it guest addresses.
struct handover {
	uint64_t cmdline_gpa;
	uint64_t initrd_gpa;
	uint64_t initrd_size; // 0: none
	uint64_t rsdp_gpa;    // 0: none
};

// Writes all ZERO_PAGE_SIZE bytes.
void zeropage_write(uint8_t *page, const struct kernel *k, const struct handover *h,
		    const struct e820_map *map);

#endif
