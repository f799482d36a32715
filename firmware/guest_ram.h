// SPDX-License-Identifier: BSD-2-Clause
// Guest RAM as the loaders see it: one block from address 0 up, and perhaps one above the 32-bit hole.
//
// Loaders write into the low block only; the high one appears in the memory map.  Where the low block is a mapping
// of a file, what is loaded may be written into that file instead: it is the same memory.
#ifndef MINIVMM_FIRMWARE_GUEST_RAM_H
#define MINIVMM_FIRMWARE_GUEST_RAM_H

#include "vmm/base/check.h"

struct guest_ram {
	void *low;	   // gpa 0
	uint64_t low_size; // at most 4 GiB
	int low_fd;	   // the file that `low` maps, writable, or -1; its offset is the loaders' to move
	uint64_t low_fd_offset; // of gpa 0
	uint64_t high_gpa;	// of the second block; ignored if high_size is 0
	uint64_t high_size;
};

// The bytes [gpa, gpa + len) of the low block, or NULL if not all of them are RAM.
static inline void *guest_ram_ptr(const struct guest_ram *r, uint64_t gpa, uint64_t len)
{
	return range_in(gpa, len, r->low_size) ? (char *)r->low + gpa : NULL;
}

#endif
