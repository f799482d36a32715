// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/bus.h"

#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

void bus_init(struct bus *b)
{
	pthread_mutex_init(&b->lock, NULL);
	b->count = 0;
}

void bus_destroy(struct bus *b)
{
	pthread_mutex_destroy(&b->lock);
}

// Index of the first range that starts above `addr`.
static unsigned bus_above(const struct bus *b, uint64_t addr)
{
	unsigned lo = 0, hi = b->count;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		if (b->range[mid]->start <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool ranges_touch(const struct bus_range *a, const struct bus_range *b)
{
	return range_overlaps(a->start, a->size, b->start, b->size);
}

int bus_add(struct bus *b, struct bus_range *r)
{
	if (r->size == 0 || r->start + (r->size - 1) < r->start)
		return -EINVAL;
	int rc = 0;
	pthread_mutex_lock(&b->lock);
	unsigned i = bus_above(b, r->start);
	if ((i > 0 && ranges_touch(b->range[i - 1], r)) || (i < b->count && ranges_touch(b->range[i], r))) {
		rc = -EEXIST;
	} else if (b->count == BUS_RANGES_MAX) {
		rc = -ENOSPC;
	} else {
		memmove(&b->range[i + 1], &b->range[i], (b->count - i) * sizeof(b->range[0]));
		b->range[i] = r;
		b->count++;
	}
	pthread_mutex_unlock(&b->lock);
	return rc;
}

void bus_remove(struct bus *b, struct bus_range *r)
{
	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < b->count; i++) {
		if (b->range[i] != r)
			continue;
		b->count--;
		memmove(&b->range[i], &b->range[i + 1], (b->count - i) * sizeof(b->range[0]));
		break;
	}
	pthread_mutex_unlock(&b->lock);
}

static struct bus_range *bus_find(struct bus *b, uint64_t addr, unsigned size, uint64_t *offset)
{
	struct bus_range *found = NULL;
	pthread_mutex_lock(&b->lock);
	unsigned i = bus_above(b, addr);
	if (i > 0) {
		struct bus_range *r = b->range[i - 1];
		*offset = addr - r->start;
		if (range_in(*offset, size, r->size))
			found = r;
	}
	pthread_mutex_unlock(&b->lock);
	return found;
}

bool bus_read(struct bus *b, uint64_t addr, unsigned size, uint64_t *val)
{
	uint64_t offset;
	struct bus_range *r = bus_find(b, addr, size, &offset);
	*val = size_mask(size);
	if (!r)
		return false;
	r->read(r, offset, size, val);
	*val &= size_mask(size);
	return true;
}

bool bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t val)
{
	uint64_t offset;
	struct bus_range *r = bus_find(b, addr, size, &offset);
	if (!r)
		return false;
	r->write(r, offset, size, val & size_mask(size));
	return true;
}

bool bus_fault(struct bus *b, uint64_t addr)
{
	uint64_t offset;
	struct bus_range *r = bus_find(b, addr, 1, &offset);
	return r && r->fault && r->fault(r);
}
