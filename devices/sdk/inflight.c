// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/inflight.h"

#include "vmm/base/check.h"

#include <stddef.h>
#include <string.h>

_Static_assert(sizeof(struct inflight_desc) == 16, "inflight descriptor");
_Static_assert(offsetof(struct inflight_region, desc) == 16, "inflight region");

struct taken {
	bool inflight;
	uint64_t counter;
};

static struct taken taken_at(const struct inflight *f, unsigned i)
{
	if (f->packed)
		return (struct taken){ f->packed->desc[i].inflight == 1, f->packed->desc[i].counter };
	return (struct taken){ f->region->desc[i].inflight == 1, f->region->desc[i].counter };
}

// The compiler may not move writes across: who is killed between two of them must leave them in order.
static void barrier(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void clear_batch(struct inflight *f, uint16_t count)
{
	struct inflight_region *g = f->region;
	uint16_t head =
		__atomic_load_n(&g->last_batch_head, __ATOMIC_RELAXED); // read once: the peer may write it
	for (unsigned i = 0; i < MIN(count, f->size) && head < f->size; i++) {
		g->desc[head].inflight = 0;
		head = __atomic_load_n(&g->desc[head].next, __ATOMIC_RELAXED);
	}
}

unsigned inflight_open(struct inflight *f, struct inflight_region *region, uint16_t size, uint16_t used_idx)
{
	*f = (struct inflight){ .region = region, .size = size, .counter = 1 };
	if (region->version != 1 || region->desc_count != size) {
		memset(region, 0, sizeof(*region) + size * sizeof(region->desc[0]));
		region->used_idx = used_idx;
		region->desc_count = size;
		barrier();
		region->version = 1;
		return 0;
	}
	// Killed after the used index was written and before the batch was cleared.
	uint16_t missing = (uint16_t)(used_idx - region->used_idx);
	if (missing)
		clear_batch(f, missing);
	region->used_idx = used_idx;
	for (unsigned i = 0; i < size; i++) {
		if (region->desc[i].inflight != 1)
			continue;
		uint64_t counter = region->desc[i].counter;
		f->redo++;
		if (counter >= f->counter && counter < UINT64_MAX)
			f->counter = counter + 1;
	}
	return f->redo;
}

int inflight_redo(struct inflight *f)
{
	int best = -1;
	uint64_t lowest = UINT64_MAX;
	for (unsigned i = 0; i < f->size && f->redo; i++) {
		struct taken t = taken_at(f, i);
		if (t.inflight && t.counter > f->redone && t.counter < lowest) {
			lowest = t.counter;
			best = (int)i;
		}
	}
	f->redone = lowest;
	f->redo = best < 0 ? 0 : f->redo - 1;
	return best;
}

void inflight_redo_later(struct inflight *f, uint16_t head)
{
	f->redone = taken_at(f, head).counter - 1;
	f->redo++;
}

void inflight_untake(struct inflight *f, uint16_t head)
{
	f->region->desc[head].inflight = 0;
	barrier();
}

void inflight_take(struct inflight *f, uint16_t head)
{
	struct inflight_desc *d = &f->region->desc[head];
	d->counter = f->counter++;
	barrier();
	d->inflight = 1;
	barrier();
}

void inflight_give(struct inflight *f, uint16_t head)
{
	f->region->desc[head].next = f->region->last_batch_head;
	barrier();
	f->region->last_batch_head = head;
	barrier();
}

void inflight_published(struct inflight *f, uint16_t count, uint16_t used_idx)
{
	barrier();
	clear_batch(f, count);
	barrier();
	f->region->used_idx = used_idx;
}
