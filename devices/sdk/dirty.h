// SPDX-License-Identifier: BSD-2-Clause
// The log of guest pages that a device wrote, for a front-end that moves a running guest (vhost-user.rst, "Migration"; vfio-user.rst,
// "VFIO_DEVICE_FEATURE_DMA_LOGGING_START").
//
// A bit for each page of 4096 bytes, in memory shared with the front-end, which reads and clears it meanwhile, or of our own, of which
// a client is told.  Owned by the carrier; virtq.c notes what goes through a queue, always after it was written and before the
// driver may know of it, so that a page copied too early is found again.  What lies beyond the log's end is no memory of the
// guest and is left out.
#ifndef MINIVMM_SDK_DIRTY_H
#define MINIVMM_SDK_DIRTY_H

#include <stddef.h>
#include <stdint.h>

#define DIRTY_PAGE_SHIFT 12

struct vq;

struct dirty_log {
	uint8_t *bits; // NULL: there is none
	uint64_t len;  // bytes of it
	void *map;     // what munmap gets
	size_t map_len;
	int event_fd; // is told of changes, or -1
};

// Maps [offset, offset + len) of the file in place of what was there; the descriptor stays the caller's.  0, or -errno and
// the log as before.
int dirty_open(struct dirty_log *l, int fd, uint64_t offset, uint64_t len);
// One of our own, in place of what was there: `len` bytes of addresses, which become memory where they are written.  0 or -errno.
int dirty_open_own(struct dirty_log *l, uint64_t len);
// Lets go of the log and its event descriptor.
void dirty_close(struct dirty_log *l);

// [gpa, gpa + len) was written.
void dirty_mark(struct dirty_log *l, uint64_t gpa, uint64_t len);

// Sets a bit of `bits`, which are zeros, for each `page_size` bytes (a power of two, at least a page) of [gpa, gpa + len) in which something
// was written, and clears the log there.  Both ends in pages.
void dirty_take(struct dirty_log *l, uint64_t gpa, uint64_t len, uint64_t page_size, uint8_t *bits);

// What the device may write of a request (split rings) was written.  Reads the descriptors again: a driver that changes them
// meanwhile spoils its own guest's copy, nothing else.
void dirty_mark_request(struct dirty_log *l, const struct vq *q, uint16_t head);

// The same of packed rings, whose descriptors are gone by then: what was kept of them, from entry `kept` on.  Reads indirect tables again.
void dirty_mark_kept(struct dirty_log *l, const struct vq *q, uint16_t kept);

#endif
