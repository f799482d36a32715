// SPDX-License-Identifier: BSD-2-Clause
// What a virtio back-end must do: the seam between virtio_pci.c and the vhost family.  No code.
//
// A back-end is made by its bridge's open function (bridges.h), already connected, with its identity in
// struct backend.  Operations are called under the device's lock, by whatever thread holds it; each ends
// within DEADLINE_CONTROL_MS (start and stop: DEADLINE_START_MS) and may be refused with -errno.  A back-end
// that breaks its protocol or misses a deadline is dead: that call and all later ones return -EPIPE at once,
// and `died` is called once.
#ifndef MINIVMM_BRIDGES_BACKEND_H
#define MINIVMM_BRIDGES_BACKEND_H

#include "vmm/base/deadline.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct backend;
struct mem_table; // vmm/memmap.h

// A virtqueue as the driver set it up; every address was checked against guest RAM (virtio 1.2 §4.1.4.3).
struct vring_cfg {
	uint16_t size;
	uint32_t
		base; // where to begin: the first avail index to serve; packed ring: VRING_BASE_PACKED, or as queue_stop() said
	uint64_t desc_gpa;
	uint64_t avail_gpa; // packed ring: driver event suppression
	uint64_t used_gpa;  // packed ring: device event suppression
	int kick_fd;	    // eventfd that a doorbell signals; stays the caller's
	int call_fd;	    // eventfd that interrupts the guest, or -1 for none; stays the caller's
};

// Packed rings begin with both wrap counters 1: bits 0-14 are the place of the next descriptor to take, bit 15 its wrap counter,
// 16-30 and 31 those of the next one to use.
#define VRING_BASE_PACKED UINT32_C(0x80008000)

// A shared memory region of the device (virtio 1.2 §2.10).
#define BACKEND_SHARED_MAX 3
struct backend_shared {
	uint8_t id;    // that the driver knows it by
	uint64_t size; // bytes, whole pages
};

// Whole pages of one, by its place in struct backend's list.
struct backend_shared_part {
	unsigned region;
	uint64_t offset, len; // bytes; within the region
	bool readonly;
};

struct backend_ops {
	const char *kind; // "vhost-user", for log lines

	// The virtio features that the back-end offers (virtio 1.2 §2.2), transport bits included.
	int (*features)(struct backend *b, uint64_t *out);
	// The features that the driver took; a subset of what was offered.
	int (*negotiate)(struct backend *b, uint64_t features);
	// Device configuration space; [off, off + len) lies within b->config_len.
	int (*config_read)(struct backend *b, uint32_t off, void *buf, uint32_t len);
	int (*config_write)(struct backend *b, uint32_t off, const void *buf, uint32_t len);
	// Guest RAM; before the first queue_start, and again whenever it changes.
	int (*memory)(struct backend *b, const struct mem_table *t);
	int (*queue_start)(struct backend *b, unsigned q, const struct vring_cfg *cfg);
	// No access to the queue's memory after this.  *base: where it would have gone on, as in struct vring_cfg.
	int (*queue_stop)(struct backend *b, unsigned q, uint32_t *base);
	// All queues are set up (true), or the device is being reset and all are stopped (false).
	int (*run)(struct backend *b, bool on);
	// NULL, or: begins without waiting what queue_stop() of all started queues, in ascending order, and run(false) end: true, and
	// these come next, with one deadline.  For who stops many back-ends, that each of them has all of that deadline.
	bool (*stop_begin)(struct backend *b);
	// NULL, or: while it runs, no queue is looked at and nothing in the guest's memory changes from now on (true), or again (false),
	// where it went on without a pause.
	int (*pause)(struct backend *b, bool on);
	// Ends the connection and frees the back-end.  Never fails; good on a dead one.
	void (*close)(struct backend *b);
};

// Upcalls, on the loop's thread, without the device's lock; they must not block.
struct backend_events {
	void (*config_changed)(void *owner);
	void (*died)(void *owner, const char *why);
	// The back-end stopped a queue because of what the driver put there: the device needs a reset by its
	// driver (virtio 1.2 §2.1.1).  At most once between two ops->run(b, true); from within ops->config_read(), too.  NULL: not wanted.
	void (*queue_failed)(void *owner);
	// A page, mapped, whose first bytes are the queue's doorbell from now on if the queue runs; the owner unmaps it.  NULL: what
	// was given before is not looked at any more.  Only where doorbell_pages is set.
	void (*doorbell_page)(void *owner, unsigned q, void *page);
	// Memory that the driver sees there from now on, until it is withdrawn or the device is reset.  0, and the owner unmaps it; or
	// -errno, and it stays the caller's.  Only where there are such regions.
	int (*shared_given)(void *owner, const struct backend_shared_part *part, void *hva);
	// A part as it was given is no more, or, part NULL, all of them.  How many that were.
	unsigned (*shared_withdrawn)(void *owner, const struct backend_shared_part *part);
};

struct backend {
	const struct backend_ops *ops;
	const char *id;	      // the device's id in the configuration
	uint16_t virtio_type; // device type, virtio 1.2 §5
	uint16_t queue_count; // queues that the device has
	uint16_t queue_size_max;
	uint32_t config_len;
	atomic_bool away;    // its peer went, and is waited for
	bool doorbell_pages; // it may give some
	// Or it has one for each queue, mapped from its opening to its close by itself; NULL: no.
	void *const *doorbell_fixed;
	unsigned shared_count;
	struct backend_shared shared[BACKEND_SHARED_MAX];
	deadline_ns deadline; // what the owner gave a start or stop of all queues together; 0: none
	const struct backend_events *events; // set by the owner before it runs the loop
	void *owner;
};

#endif
