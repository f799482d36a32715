// SPDX-License-Identifier: BSD-2-Clause
// The guest's memory as a device process sees it.
//
// Owned by the carrier (serve_*.c), which adds and removes regions as the front-end says; virtqueues and devices only look
// addresses up.  All on the device's one thread.  A pointer obtained here is good until the region is
// removed, which happens only while no I/O is in flight.
#ifndef MINIVMM_SDK_GUEST_MEM_H
#define MINIVMM_SDK_GUEST_MEM_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct stat;

#define GUEST_REGIONS_MAX 509 // what other back-ends take: 512 slots of KVM less the three that it keeps

// Which of its two names an address uses.
enum guest_space {
	GUEST_PHYSICAL, // what descriptors carry
	GUEST_USER,	// what the front-end calls it: ring addresses in vhost messages
};

struct guest_region {
	uint64_t base[2]; // by enum guest_space
	uint64_t len;
	uint8_t *host; // of the first byte
	void *map;     // what munmap gets
	size_t map_len;
	bool read_only; // the device may not write; no ring lies there
};

// Memory that the front-end shares and could take away, as it could the guest's.
enum guest_extra { GUEST_INFLIGHT, GUEST_DIRTY_LOG, GUEST_EXTRAS };

struct guest_mem {
	unsigned count;
	unsigned hint;	  // the region found last
	bool memory_only; // refuse files of file systems that may make a reader wait
	uint64_t
		most; // bytes of all regions, which take up addresses of ours whether there is memory or not; 0: any number
	// Asked about an address that no region has: true, and one has it now.  NULL: there is nobody to ask.
	bool (*missing)(struct guest_mem *m, uint64_t at);
	struct guest_region region[GUEST_REGIONS_MAX];
	struct {
		void *map; // NULL: none
		size_t len;
	} extra[GUEST_EXTRAS]; // the carrier's
};

// What offset and length of a mapping must be multiples of: the page size, or the huge page size of a hugetlb file, which fstat(2) gives
// as its block size.  A part of a huge page can neither be unmapped nor replaced.
uint64_t guest_mem_align(const struct stat *st);

// False if `fd` is refused because of memory_only.
bool guest_mem_allows(const struct guest_mem *m, int fd);

// Maps [file_off, file_off + len) of `fd` (which stays the caller's) as guest memory.  Refuses what is no memory file
// opened for reading and writing, what the file does not cover, and what overlaps another region.  0 or -errno.
int guest_mem_add(struct guest_mem *m, int fd, uint64_t file_off, uint64_t gpa, uint64_t uva, uint64_t len);

// The same for what a kernel's IOTLB says, where an address has one name.  Takes files that are no regular ones, too: how long
// those are, and who may map them how, is the kernel's to know.
int guest_mem_add_iova(struct guest_mem *m, int fd, uint64_t file_off, uint64_t iova, uint64_t len,
		       bool read_only);

// Unmaps exactly that region.  0, or -ENOENT.
int guest_mem_remove(struct guest_mem *m, uint64_t gpa, uint64_t uva, uint64_t len);

// Unmaps all regions that have a byte of [first, last] as guest-physical address.
void guest_mem_remove_range(struct guest_mem *m, uint64_t first, uint64_t last);

void guest_mem_clear(struct guest_mem *m);

// THE translation: a pointer to `at`, and in *got how many of the `len` bytes lie behind it in one piece (>= 1).
// NULL if `at` is no guest memory or `len` is 0.  What is read-only has no GUEST_USER address.
void *guest_mem_translate(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len,
			  uint64_t *got);

// A pointer to `len` bytes in one piece, or NULL.
void *guest_mem_at(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len);

// What a byte with a GUEST_USER address is called as GUEST_PHYSICAL, or UINT64_MAX.
uint64_t guest_mem_gpa(struct guest_mem *m, uint64_t uva);

// Describes [gpa, gpa + len), to be read or written, by at most `max` pieces.  Their number, or -EFAULT (not all of it is such
// memory), or -ENOBUFS.
enum guest_access { GUEST_READ, GUEST_WRITE };
int guest_mem_iov(struct guest_mem *m, enum guest_access access, uint64_t gpa, uint64_t len,
		  struct iovec *iov, unsigned max);

#endif
