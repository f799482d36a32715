// SPDX-License-Identifier: BSD-2-Clause
// The record of requests in flight that outlives a back-end (vhost-user.rst, "Inflight I/O tracking", split queues).
//
// It lies in memory shared with the front-end, one region a queue.  virtq.c keeps it; the carrier maps it.  A back-end
// that starts after one that was killed learns here which requests were taken and never given back, and does them
// again, in their old order.  What is read from it is checked like anything from a peer.
#ifndef MINIVMM_SDK_INFLIGHT_H
#define MINIVMM_SDK_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

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

struct inflight {
	struct inflight_region *region; // NULL: none is kept
	uint16_t size;
	uint64_t counter; // for the next request taken
	uint64_t redone;  // counter of the last one handed out again
	unsigned redo;	  // how many are still to be done again
};

// Bytes of the region of a queue of `size` entries.
static inline uint64_t inflight_region_len(uint16_t size)
{
	return (sizeof(struct inflight_region) + size * sizeof(struct inflight_desc) + 63) & ~UINT64_C(63);
}

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

#endif
