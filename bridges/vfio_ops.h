// SPDX-License-Identifier: BSD-2-Clause
// What a carrier of a whole PCI function must do: the seam between passthrough.c and kernel VFIO, vfio-user, and one in memory for tests.
// No code.
//
// Regions and interrupts are numbered as in <linux/vfio.h> (VFIO_PCI_*_REGION_INDEX, VFIO_PCI_*_IRQ_INDEX); vfio-user has the same numbers.
// A carrier is made by its bridge's open function, already connected, and has asked by then for all that does not change: region_info() and
// irq_info() answer from that and never exchange anything.  What comes from a peer was checked by the carrier only as far as this header
// says; passthrough.c checks what it uses.
//
// All other operations are called under the function's lock by a vCPU's thread, or by the main thread while the guest does not run
// (set-up, reboot, end); each ends within DEADLINE_CONTROL_MS (reset: DEADLINE_START_MS) and may be refused with -errno.  Two may be
// called on the loop's thread, too, and must not wait for an answer there: irq_set() without descriptors, and close().
// A carrier whose peer broke its protocol or missed a deadline is dead: that call and all later ones return -EPIPE at once, and `died` is
// called once.  Kernel VFIO has no peer and never dies; that its device failed or shall be given back are interrupts (ERR, REQ).
// REQ is not asked for of carriers with a peer, which can end the connection.
#ifndef MINIVMM_BRIDGES_VFIO_OPS_H
#define MINIVMM_BRIDGES_VFIO_OPS_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vfio_link;
struct mem_region; // vmm/memmap.h

#define VFIO_LINK_AREAS_MAX 16 // in one region

// Bytes of a region that may be mapped.
struct vfio_area {
	uint64_t offset,
		size; // within the region; ascending, not overlapping (the carrier sorts and checks); size > 0
};

struct vfio_region {
	uint64_t size; // 0: there is none.  Any other value is the peer's word
	bool readable, writable;
	int fd;		    // where its areas are mapped from; stays the carrier's; -1: nothing can be mapped
	uint64_t fd_offset; // of the region's first byte in fd
	unsigned area_count;
	struct vfio_area area[VFIO_LINK_AREAS_MAX];
};

// A place in a region where a write may signal an eventfd instead of being carried (vfio-user's ioeventfds).
struct vfio_doorbell {
	uint64_t offset;
	unsigned size;	 // of the write: 1, 2, 4, 8; 0: any
	bool match_data; // only if `data` is written
	uint64_t data;
	int fd; // stays the carrier's
};

struct vfio_irq {
	uint32_t count;	 // 0: there is none.  Any other value is the peer's word
	bool eventfd;	 // can signal one
	bool automasked; // masks itself when it is raised, until it is unmasked (INTx)
	bool noresize;	 // vectors beyond those of the first irq_set() need all to be given up before
};

enum vfio_irq_action { VFIO_LINK_MASK, VFIO_LINK_UNMASK, VFIO_LINK_TRIGGER };

struct vfio_link_ops {
	const char *kind; // "vfio", "vfio-user": for log lines

	// 0 with *out filled; -errno for an index that the device does not have, as for one of size or count 0.  Any thread.
	int (*region_info)(struct vfio_link *l, unsigned index, struct vfio_region *out);
	int (*irq_info)(struct vfio_link *l, unsigned index, struct vfio_irq *out);

	// [offset, offset + len) lies within the region and is one access of the guest's: len is 1, 2, 4 or 8, little-endian bytes.  The
	// configuration region is also read in longer pieces.  0 only if all of it was carried.
	// posted: the write is one to memory, which on a bus is on its way when the processor goes on: it may be, too, when this returns 0,
	// and nobody hears of it if the device refuses it.  Whatever is asked for later comes to the device after it.
	int (*region_read)(struct vfio_link *l, unsigned index, uint64_t offset, void *buf, size_t len);
	int (*region_write)(struct vfio_link *l, unsigned index, uint64_t offset, const void *buf, size_t len,
			    bool posted);
	// The doorbells of a region, at most `room`: their number, 0 where there are none.  No exchange, like region_info().
	int (*region_doorbells)(struct vfio_link *l, unsigned index, struct vfio_doorbell *out,
				unsigned room);

	// As VFIO_DEVICE_SET_IRQS, for the vectors [start, start + count) of an index.
	//   fds given: TRIGGER: each vector signals its eventfd from now on, -1: none.  UNMASK: each is unmasked when its eventfd is signalled;
	//   -ENOTTY or so from a device that cannot.  MASK: not asked for.  The descriptors stay the caller's, for as long as they are set.
	//   fds NULL: it is done now.  TRIGGER with count 0: the index is disabled, all its eventfds are given up.
	int (*irq_set)(struct vfio_link *l, unsigned index, enum vfio_irq_action action, unsigned start,
		       unsigned count, const int *fds);

	// Guest memory that the device may read and write at r->gpa; all of RAM, region by region, before the guest runs.  A region whose
	// fd is -1 is memory at r->hva of another device (its BAR): -ENOTSUP where the carrier cannot.  A refusal's sentence says how much
	// would have been needed.  e may be NULL.
	int (*dma_map)(struct vfio_link *l, const struct mem_region *r, struct err *e);
	// Exactly what was mapped.  No access by the device after this returned 0.
	int (*dma_unmap)(struct vfio_link *l, uint64_t gpa, uint64_t size);

	// The function as after power-on; called with INTx, MSI and MSI-X disabled.  Mappings of memory, and the eventfds of ERR and REQ,
	// stay.  -ENOTSUP: it cannot.
	int (*reset)(struct vfio_link *l);
	// Ends the connection, all that was mapped with it, and frees the carrier.  Never fails; good on a dead one.
	void (*close)(struct vfio_link *l);
};

// Upcalls, without the function's lock.
struct vfio_link_events {
	// On the loop's thread; must not block.
	void (*died)(void *owner, const char *why);
	// The device is there again after `died`, reached by the same link, with regions and interrupts of the same sizes.  It has been told
	// nothing: neither of memory nor of interrupts.  The descriptors of its regions and doorbells are others; those before are closed
	// when this has returned 0.  On a thread of the carrier's own, which may wait.  -ENODEV with the sentence, without the device's id:
	// it is another device, none is waited for any more; another -errno: the carrier tries again.
	int (*returned)(void *owner, struct err *e);
	// After `died`: it is not waited for, or no more.  Any thread; must not block.
	void (*gone)(void *owner);
};

struct vfio_link {
	const struct vfio_link_ops *ops;
	const char *id; // the device's id in the configuration
	bool can_reset;
	bool replug; // one that returned without its state is, to the guest, pulled out and plugged in again
	bool pins_memory; // what is mapped are pages, not a file: they have to stay the same (struct memmap)
	const struct vfio_link_events *events; // set by the owner before it runs the loop
	void *owner;
};

#endif
