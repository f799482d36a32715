// SPDX-License-Identifier: BSD-2-Clause
// The record of requests in flight that outlives a back-end (vhost-user.rst, "Inflight I/O tracking").
//
// It lies in memory shared with the front-end, one region a queue.  virtq.c keeps it; the carrier maps it.  A back-end
// that starts after one that was killed learns here which requests were taken and never given back, and does them
// again, in their old order.  What is read from it is checked like anything from a peer.
#ifndef MINIVMM_SDK_INFLIGHT_H
#define MINIVMM_SDK_INFLIGHT_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INFLIGHT_SIZE_MAX 1024 // entries of a queue

struct inflight_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;	  // of the last batch given back
	uint64_t counter; // order in which requests were taken
};

struct inflight_region { // the layout is the specification's
	uint64_t features;
	uint16_t version; // 0: fresh
	uint16_t desc_count;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_desc desc[];
};

struct inflight_packed_desc {
	uint8_t inflight; // this and last, num, counter: of the first one of a request
	uint8_t padding;
	uint16_t next; // free entry, or the next one of the request
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id; // from here on: the descriptor
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

struct inflight_packed_region { // begins like the other one
	uint64_t features;
	uint16_t version;
	uint16_t desc_count;
	uint16_t free_head, old_free_head;
	uint16_t used_idx, old_used_idx;
	uint8_t used_wrap, old_used_wrap;
	uint8_t padding[7];
	struct inflight_packed_desc desc[];
};

struct inflight {
	struct inflight_region *region;	       // NULL: none is kept
	struct inflight_packed_region *packed; // the same, of a packed ring; or NULL
	uint16_t size;
	uint64_t counter; // for the next request taken
	uint64_t redone;  // counter of the last one handed out again
	unsigned redo;	  // how many are still to be done again
};

// Bytes of the region of a queue of `size` entries.
static inline uint64_t inflight_region_len(uint16_t size, bool packed)
{
	uint64_t len = packed ? sizeof(struct inflight_packed_region) +
					UINT64_C(1) * size * sizeof(struct inflight_packed_desc)
			      : sizeof(struct inflight_region) + size * sizeof(struct inflight_desc);
	return (len + 63) & ~UINT64_C(63);
}

// Nothing is in flight, and the next one who opens it shall begin afresh.
static inline void inflight_close(struct inflight *f)
{
	f->region->version = 0;
	f->region = NULL;
	f->packed = NULL;
}

// ---- inflight.c: split rings, and what both have in common

// Begins or takes over a record.  Returns how many requests are to be done again.
unsigned inflight_open(struct inflight *f, struct inflight_region *region, uint16_t size, uint16_t used_idx);

// The head of the next request that is to be done again, or -1 if there is none left.
int inflight_redo(struct inflight *f);

// The request that inflight_redo() gave out last comes again next; a request is taken no more.
void inflight_redo_later(struct inflight *f, uint16_t head);
void inflight_untake(struct inflight *f, uint16_t head);

// A request was taken; is given back (before the used index is written); `count` of them have become visible at `used_idx`.
void inflight_take(struct inflight *f, uint16_t head);
void inflight_give(struct inflight *f, uint16_t head);
void inflight_published(struct inflight *f, uint16_t count, uint16_t used_idx);

// ---- inflight_packed.c: packed rings.  A request is named by its first entry.

// A place in a packed ring and the wrap counter that belongs to it.
struct inflight_place {
	uint16_t at;
	bool wrap;
};

// Begins a record at *used, or takes one over: then *used is where the device was, and *taken how many descriptors lie between
// that and the next one to take.  What a killed back-end wrote into the ring and had not shown to the driver is undone.
void inflight_packed_open(struct inflight *f, struct inflight_region *region, uint16_t size,
			  struct vring_packed_desc *ring, struct inflight_place *used, unsigned *taken);

// A descriptor of the request that is being taken; the request is recorded by the call with `last`: -1, or its first entry, and its
// last one in *end.  -1 also where the record makes no sense: it is given up.
int inflight_packed_add(struct inflight *f, const struct vring_packed_desc *d, bool last, uint16_t *end);

// Descriptor *entry of a request that is to be done again; *entry becomes the next one.  False: it makes no sense.
bool inflight_packed_read(const struct inflight *f, uint16_t *entry, struct vring_packed_desc *d);

// As if never taken.
void inflight_packed_untake(struct inflight *f, uint16_t head, uint16_t end);

// Giving back: each of a batch, where the device will be then; the driver is shown the batch; each again, and the end of it.
void inflight_packed_give(struct inflight *f, uint16_t head, uint16_t end);
void inflight_packed_giving(struct inflight *f, struct inflight_place used);
void inflight_packed_given(struct inflight *f, uint16_t head);
void inflight_packed_published(struct inflight *f);

#endif
