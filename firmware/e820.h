// SPDX-License-Identifier: BSD-2-Clause
// The memory map that a kernel is told, as boot_params and hvm_start_info both spell it.
#ifndef MINIVMM_FIRMWARE_E820_H
#define MINIVMM_FIRMWARE_E820_H

#include "firmware/guest_ram.h"
#include "vmm/base/err.h"

#define E820_RAM      1
#define E820_RESERVED 2
#define E820_MAX      16

struct boot_range {
	uint64_t gpa;
	uint64_t size;
};

struct e820_entry {
	uint64_t gpa;
	uint64_t size;
	uint32_t type;
};

struct e820_map {
	unsigned count;
	struct e820_entry entry[E820_MAX]; // ascending, none overlaps another
};

// RAM less the hole below 1 MiB, and the reserved ranges, which lie outside RAM.  -EINVAL with the sentence
// set if ranges overlap, wrap or are too many.
int e820_build(struct e820_map *m, const struct guest_ram *ram, const struct boot_range *reserved,
	       unsigned reserved_count, struct err *e);

#endif
