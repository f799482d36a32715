// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/inflight.h"

#include "vmm/base/check.h"

#include <stddef.h>
#include <string.h>

_Static_assert(sizeof(struct inflight_packed_desc) == 32, "inflight descriptor");
_Static_assert(sizeof(struct inflight_packed_region) == 32, "inflight region");
_Static_assert(offsetof(struct inflight_packed_region, version) ==
			       offsetof(struct inflight_region, version) &&
		       offsetof(struct inflight_packed_region, desc_count) ==
			       offsetof(struct inflight_region, desc_count),
	       "inflight regions begin alike");

#define AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED  (1u << VRING_PACKED_DESC_F_USED)

// The compiler may not move writes across: who is killed between two of them must leave them in order.
static void barrier(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

// An index out of memory that the peer may write at any time.
static uint16_t load(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static bool is_used(uint16_t flags, bool wrap)
{
	return !(flags & AVAIL) == !wrap && !(flags & USED) == !wrap;
}

static bool is_available(uint16_t flags, bool wrap)
{
	return !(flags & AVAIL) == !wrap && !(flags & USED) == wrap;
}

static void begin(struct inflight_packed_region *g, uint16_t size, struct inflight_place used)
{
	memset(g, 0, sizeof(*g) + size * sizeof(g->desc[0]));
	g->desc_count = size;
	for (uint16_t i = 0; i < size; i++)
		g->desc[i].next = (uint16_t)(i + 1); // the last one's is beyond the end
	g->used_idx = g->old_used_idx = used.at;
	g->used_wrap = g->old_used_wrap = used.wrap;
	barrier();
	g->version = 1;
}

// A batch was being given back.  The driver looks at the ring in order and the batch's first descriptor was written last, so that one
// tells whether all of it is done: it is no longer available, but used, or already what the driver made of it since.  If it is, what else
// is there already must not be found later.
static void settle(struct inflight *f, struct vring_packed_desc *ring, struct inflight_place old,
		   struct inflight_place new)
{
	struct inflight_packed_region *g = f->packed;
	if (old.at == new.at && old.wrap == new.wrap)
		return;
	// Where the lists of free entries agree, the end of the batch was being recorded.
	if (load(&g->free_head) == load(&g->old_free_head) ||
	    !is_available(load(&ring[old.at].flags), old.wrap)) {
		inflight_packed_published(f);
		return;
	}
	for (unsigned i = 0; i < f->size && (old.at != new.at || old.wrap != new.wrap); i++) {
		uint16_t flags = load(&ring[old.at].flags);
		if (is_used(flags, old.wrap))
			__atomic_store_n(&ring[old.at].flags, flags ^ USED, __ATOMIC_RELAXED);
		if (++old.at == f->size) {
			old.at = 0;
			old.wrap = !old.wrap;
		}
	}
}

// Marks the entries of a request.  How many, or 0 if it makes no sense.
static unsigned mark(const struct inflight_packed_region *g, uint16_t size, uint16_t head, uint8_t *marked)
{
	unsigned num = load(&g->desc[head].num);
	uint16_t at = head;
	for (unsigned n = 0; n < num; n++) {
		if (at >= size || marked[at])
			return 0;
		marked[at] = 1;
		at = load(&g->desc[at].next);
	}
	return num;
}

// Finds what is in flight and, if the free entries are not exactly the others, puts those in a new list.
static unsigned take_over(struct inflight *f)
{
	struct inflight_packed_region *g = f->packed;
	uint8_t marked[INFLIGHT_SIZE_MAX] = { 0 };
	unsigned taken = 0, free = 0;
	uint16_t at = load(&g->old_free_head);
	for (; at < f->size && free <= f->size; free++) {
		g->desc[at].inflight = 0; // taken halfway
		at = load(&g->desc[at].next);
	}
	for (uint16_t i = 0; i < f->size; i++) {
		if (g->desc[i].inflight != 1)
			continue;
		unsigned num = mark(g, f->size, i, marked);
		uint64_t counter = g->desc[i].counter;
		if (num == 0) {
			g->desc[i].inflight = 0;
			continue;
		}
		taken += num;
		f->redo++;
		if (counter >= f->counter && counter < UINT64_MAX)
			f->counter = counter + 1;
	}
	if (free + taken != f->size) {
		uint16_t *link = &g->old_free_head;
		for (uint16_t i = 0; i < f->size; i++)
			if (!marked[i]) {
				*link = i;
				link = &g->desc[i].next;
			}
		*link = f->size;
	}
	g->free_head = g->old_free_head;
	return taken;
}

void inflight_packed_open(struct inflight *f, struct inflight_region *region, uint16_t size,
			  struct vring_packed_desc *ring, struct inflight_place *used, unsigned *taken)
{
	struct inflight_packed_region *g = (void *)region;
	*f = (struct inflight){ .region = region, .packed = g, .size = size, .counter = 1 };
	*taken = 0;
	const struct inflight_place old = { load(&g->old_used_idx), g->old_used_wrap & 1 };
	const struct inflight_place new = { load(&g->used_idx), g->used_wrap & 1 };
	if (g->version != 1 || g->desc_count != size || old.at >= size || new.at >= size) {
		begin(g, size, *used);
		return;
	}
	settle(f, ring, old, new);
	used->at = MIN(load(&g->old_used_idx), (uint16_t)(size - 1));
	used->wrap = g->old_used_wrap & 1;
	g->used_idx = used->at;
	g->used_wrap = used->wrap;
	*taken = take_over(f);
}

int inflight_packed_add(struct inflight *f, const struct vring_packed_desc *d, bool last, uint16_t *end)
{
	struct inflight_packed_region *g = f->packed;
	const uint16_t head = load(&g->old_free_head), at = load(&g->free_head);
	if (head >= f->size || at >= f->size) {
		inflight_close(f); // it is worth nothing any more
		return -1;
	}
	struct inflight_packed_desc *h = &g->desc[head], *e = &g->desc[at];
	if (head == at) {
		h->num = 0;
		h->counter = f->counter++;
		barrier();
		h->inflight = 1;
	}
	h->num++;
	e->addr = d->addr;
	e->len = d->len;
	e->flags = d->flags;
	e->id = d->id;
	barrier();
	g->free_head = load(&e->next);
	if (!last)
		return -1;
	h->last = at;
	barrier();
	g->old_free_head = g->free_head;
	barrier();
	*end = at;
	return head;
}

bool inflight_packed_read(const struct inflight *f, uint16_t *entry, struct vring_packed_desc *d)
{
	if (*entry >= f->size)
		return false;
	const struct inflight_packed_desc *e = &f->packed->desc[*entry];
	*d = (struct vring_packed_desc){ .addr = e->addr, .len = e->len, .flags = e->flags, .id = e->id };
	__asm__ volatile("" ::: "memory"); // the copy is what gets checked
	*entry = load(&e->next);
	return true;
}

void inflight_packed_untake(struct inflight *f, uint16_t head, uint16_t end)
{
	struct inflight_packed_region *g = f->packed;
	g->desc[end].next = load(&g->free_head);
	barrier();
	g->old_free_head = head;
	barrier();
	g->free_head = head;
	g->desc[head].inflight = 0;
	barrier();
}

void inflight_packed_give(struct inflight *f, uint16_t head, uint16_t end)
{
	struct inflight_packed_region *g = f->packed;
	g->desc[end].next = load(&g->free_head);
	barrier();
	g->free_head = head;
	barrier();
}

void inflight_packed_giving(struct inflight *f, struct inflight_place used)
{
	f->packed->used_wrap = used.wrap;
	f->packed->used_idx = used.at;
	barrier();
}

void inflight_packed_given(struct inflight *f, uint16_t head)
{
	f->packed->desc[head].inflight = 0;
}

void inflight_packed_published(struct inflight *f)
{
	struct inflight_packed_region *g = f->packed;
	barrier();
	g->old_free_head = load(&g->free_head);
	g->old_used_wrap = g->used_wrap;
	g->old_used_idx = load(&g->used_idx);
	barrier();
}
