// SPDX-License-Identifier: BSD-2-Clause
// Guest RAM.
//
// Made once, as one memfd that is sealed against shrinking and growing before anybody else sees it; split in two
// regions of guest-physical addresses, below and above the 32-bit hole.  memmap_ptr() is the only function
// that turns a guest address into a pointer.  RAM does not move or change size while the machine exists.
#ifndef MINIVMM_VMM_MEMMAP_H
#define MINIVMM_VMM_MEMMAP_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEM_REGIONS_MAX 8

struct mem_region {
	uint64_t gpa;
	uint64_t size; // bytes
	void *hva;
	int fd;		    // the memfd, the memory map's
	uint64_t fd_offset; // of the region's first byte in fd
};

struct mem_table {
	unsigned count;
	struct mem_region region[MEM_REGIONS_MAX];
};

enum mem_backing { MEM_BACKING_MEMFD, MEM_BACKING_HUGETLB_2M, MEM_BACKING_HUGETLB_1G };

struct memmap {
	struct mem_table ram; // ascending by gpa
	uint64_t size;	      // all RAM, bytes
	int fd;
	enum mem_backing backing;
	bool pinned; // a device's DMA knows the pages themselves: they are never given back
};

// Makes `size` bytes of RAM (a multiple of the page size of `backing`): [0, hole_start) first, what does not fit there from
// `high_start` on.  -errno with the sentence set; nothing is left behind then.
int memmap_create(struct memmap *m, uint64_t size, enum mem_backing backing, uint64_t hole_start,
		  uint64_t high_start, struct err *e);
void memmap_destroy(struct memmap *m);

// The bytes [gpa, gpa + len) if all of them are RAM of one region, else NULL.  The guest may change them at any time: copy what
// is to be checked.
void *memmap_ptr(const struct memmap *m, uint64_t gpa, uint64_t len);
void *mem_table_ptr(const struct mem_table *t, uint64_t gpa, uint64_t len); // for who has the table only

// RAM reads as zeros afterwards, for whoever has it mapped; all pages go back to the host, unless they are pinned.
int memmap_clear(struct memmap *m);

// The page size of a backing, in bytes.
uint64_t memmap_page_size(enum mem_backing backing);

#endif
