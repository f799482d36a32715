// SPDX-License-Identifier: BSD-2-Clause
// A virtqueue from the device's side (virtio 1.2 §2.7, split rings).
//
// Set up and torn down by the carrier; a device calls vq_pop(), vq_push(), vq_publish() and the two notification calls, and nothing of
// it shows the ring's format.  Everything the driver wrote is copied once and checked before it is used; a driver
// that breaks the rules gets its queue failed (vq_fail), after which the queue's memory is not touched again.
// One thread.  Nothing here blocks or allocates.
#ifndef MINIVMM_SDK_VIRTQ_H
#define MINIVMM_SDK_VIRTQ_H

#include "devices/sdk/guest_mem.h"
#include "devices/sdk/inflight.h"

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VQ_SIZE_MAX 1024

struct dirty_log; // dirty.h

struct vq {
	uint16_t index;
	uint16_t size;
	bool running; // the pointers below are good
	bool enabled; // the front-end wants it served
	bool failed;  // the driver broke the rules
	bool event_idx, indirect;
	bool notify_on; // the driver was asked to kick
	struct guest_mem *mem;
	const struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_avail; // the next avail entry to take
	uint16_t seen_avail; // avail.idx as last read
	uint16_t next_used;  // the next used entry to write
	uint16_t published;  // used.idx as the driver sees it
	uint16_t signalled;  // used.idx when the driver was last considered for an interrupt
	unsigned in_flight;  // popped and not yet pushed
	struct inflight log; // what is in flight, if the front-end wants that recorded
	struct dirty_log *dirty;   // notes what is written to guest memory, or NULL; the carrier's, like the next
	uint64_t dirty_used_gpa;   // where the used ring lies in that log, UINT64_MAX: it is not noted
	int call_fd, err_fd; // eventfds or -1; the carrier's
	void (*on_fail)(struct vq *q);
	void *carrier; // the carrier's own
};

// Where the ring lies: addresses in the GUEST_USER space.
struct vq_place {
	uint16_t size;
	uint16_t base; // first avail entry to take
	uint64_t desc, avail, used;
	struct inflight_region *log; // of a queue of log_size entries; NULL: nothing is recorded
	uint16_t log_size;
};

// A request.  iov[0 .. readable) is for reading, iov[readable .. readable + writable) for writing.
struct vq_chain {
	uint16_t head;
	unsigned readable, writable;
	uint64_t readable_len, writable_len;
};

// Checks the place against guest memory and begins.  `features` are the negotiated ones.  0 or -errno, the queue then as before.
int vq_start(struct vq *q, struct guest_mem *mem, const struct vq_place *at, uint64_t features);

// Looks the ring up again after guest memory changed.  -EFAULT if it is gone; the queue is then stopped.
int vq_relocate(struct vq *q, const struct vq_place *at);

// The ring's memory is not touched after this.  Returns the next avail index that would have been taken.
uint16_t vq_stop(struct vq *q);

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

// True if vq_pop() would find something; reads one index.
bool vq_has_more(struct vq *q);

// The driver broke a rule: says so once, signals err_fd, and stops the queue for good (until vq_stop()).
__attribute__((format(printf, 2, 3))) int vq_fail(struct vq *q, const char *fmt, ...);

#endif
