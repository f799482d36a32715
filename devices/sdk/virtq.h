// SPDX-License-Identifier: BSD-2-Clause
// A virtqueue from the device's side: split rings (virtio 1.2 §2.7) and packed ones (§2.8).
//
// Set up and torn down by the carrier; a device calls vq_pop(), vq_push(), vq_publish() and the two notification calls, and nothing of
// it shows the ring's format.  Everything the driver wrote is copied once and checked before it is used; a driver
// that breaks the rules gets its queue failed (vq_fail), after which the queue's memory is not touched again.
// One thread.  Nothing here blocks or allocates.
#ifndef MINIVMM_SDK_VIRTQ_H
#define MINIVMM_SDK_VIRTQ_H

#include "devices/sdk/guest_mem.h"
#include "devices/sdk/inflight.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VQ_SIZE_MAX INFLIGHT_SIZE_MAX

#define VQ_FEATURE_PACKED (UINT64_C(1) << VIRTIO_F_RING_PACKED)
// What every device on this can offer: the rules of these are kept here, not by devices.
#define VQ_FEATURES                                                                            \
	(UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX | \
	 UINT64_C(1) << VIRTIO_F_VERSION_1 | VQ_FEATURE_PACKED | UINT64_C(1) << VIRTIO_F_RING_RESET)
// For a device that gives requests back in the order in which it took them.
#define VQ_FEATURE_IN_ORDER (UINT64_C(1) << VIRTIO_F_IN_ORDER)

// A request that was taken from a packed ring; the driver's name for it need not be unique nor small.  Of a split ring's, by its head: `len`,
// the bytes that the device might write.
struct vq_slot {
	uint16_t id;
	uint16_t count;		    // descriptors that it takes up
	uint16_t next;		    // free slot, or the request given back after this one
	uint16_t log_head, log_end; // its first and last entry in the record
	uint16_t kept;		    // its first entry of vq.kept, or VQ_NONE
	bool read_only;		    // nothing of it is writable
	uint32_t len;
};

#define VQ_NONE UINT16_MAX

// What a packed ring said of memory that the device may write; used descriptors overwrite it there before the request is done.
struct vq_kept {
	uint64_t gpa;
	uint32_t len;
	uint16_t next; // of the same request, or of the free ones, or VQ_NONE
	bool indirect; // a table of such
};

struct dirty_log; // dirty.h

struct vq {
	uint16_t index;
	uint16_t size;
	bool running; // the pointers below are good
	bool enabled; // the front-end wants it served
	bool failed;  // the driver broke the rules
	bool packed, event_idx, indirect, in_order;
	bool notify_on; // the driver was asked to kick
	bool resumed;	// it was in use before it was started here
	struct guest_mem *mem;
	union {
		struct { // split
			const struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
		};
		struct { // packed; the events are the two halves of struct vring_packed_desc_event
			struct vring_packed_desc *ring;
			uint32_t *driver_event, *device_event;
		};
	};
	uint16_t next_avail; // the next avail entry to take; packed: a place in the ring, below `size`
	uint16_t next_used;  // the next used entry to write; likewise
	unsigned in_flight;  // popped and not yet pushed
	// Split only.
	uint16_t seen_avail; // avail.idx as last read
	uint16_t published;  // used.idx as the driver sees it
	uint16_t signalled;  // used.idx when the driver was last considered for an interrupt
	// Packed only.
	bool avail_wrap, used_wrap;	  // the wrap counters that belong to next_avail and next_used
	uint16_t taken;			  // descriptors between next_used and next_avail
	uint16_t slot_free, slot_fresh;	  // a list, and the first that was never used
	uint16_t given_first, given_last; // what was pushed and not yet published
	uint16_t kept_free, kept_fresh;	  // as of slots
	uint64_t ring_gpa;		  // where the ring lies in the log of dirty pages
	struct inflight log;		  // what is in flight, if the front-end wants that recorded
	struct dirty_log *dirty;	  // notes what is written to guest memory, or NULL; the carrier's
	// Where the used ring (packed: the device's event suppression) lies in that log; UINT64_MAX: rings are not noted.  The carrier's.
	uint64_t dirty_used_gpa;
	int call_fd, err_fd; // eventfds or -1; the carrier's
	void (*on_fail)(struct vq *q);
	void (*on_call)(struct vq *q); // interrupts the driver instead of call_fd, or NULL
	void *carrier;		       // the carrier's own
	struct vq_slot slot[VQ_SIZE_MAX];
	struct vq_kept kept[VQ_SIZE_MAX];
};

// Where the ring lies: addresses in the GUEST_USER space.
struct vq_place {
	uint16_t size;
	uint32_t base;		     // where to begin, as vq_stop() says it
	uint64_t desc, avail, used;  // packed: the ring, the driver's and the device's event suppression
	struct inflight_region *log; // of a queue of log_size entries; NULL: nothing is recorded
	uint16_t log_size;
};

// A request.  iov[0 .. readable) is for reading, iov[readable .. readable + writable) for writing.
struct vq_chain {
	uint16_t head; // what vq_push() wants to know
	unsigned readable, writable;
	uint64_t readable_len, writable_len;
};

// Whether a queue may be of that size with these features.
bool vq_size_valid(uint32_t size, uint64_t features);

// Checks the place against guest memory and begins.  `features` are the negotiated ones.  0 or -errno, the queue then as before.
int vq_start(struct vq *q, struct guest_mem *mem, const struct vq_place *at, uint64_t features);

// Looks the ring up again, after guest memory changed or at another place.  -EFAULT if it is not there; the queue is then as before,
// and to be stopped before anything else if its memory is gone.
int vq_relocate(struct vq *q, const struct vq_place *at);

// The ring's memory is not touched after this.  Returns where to go on: the next avail index that would have been taken; packed:
// the places (bits 0-14 and 16-30) and wrap counters (15 and 31) of the next descriptor to take and to use.
uint32_t vq_stop(struct vq *q);

// The same number while it runs.
uint32_t vq_base(const struct vq *q);

// Takes the next request.  1 and *c filled, 0 if there is none, -EPROTO if the queue is (now) failed.
int vq_pop(struct vq *q, struct vq_chain *c, struct iovec *iov, unsigned iov_max);

// Puts back the request that was taken last and not given back, as if vq_pop() had not taken it.  For devices that hold buffers
// in advance and give them back in the order in which they took them.
void vq_unpop(struct vq *q, const struct vq_chain *c);

// Gives a request back; `len` bytes of its writable part are known to be written.  Any order.
void vq_push(struct vq *q, uint16_t head, uint32_t len);

// Shows the driver what was pushed, and interrupts it if it wants that.  Once a batch.
void vq_publish(struct vq *q);

// Asks the driver for kicks again (true: requests came in meanwhile, call vq_pop() first), or not to kick.
bool vq_notify_enable(struct vq *q);
void vq_notify_disable(struct vq *q);

// True if vq_pop() would find something; reads one index or descriptor.
bool vq_has_more(struct vq *q);

// The driver broke a rule: says so once, signals err_fd, and stops the queue for good (until vq_stop()).
__attribute__((format(printf, 2, 3))) int vq_fail(struct vq *q, const char *fmt, ...);

#endif
