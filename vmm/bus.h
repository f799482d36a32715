// SPDX-License-Identifier: BSD-2-Clause
// Who answers at a guest-physical address or an I/O port.
//
// Ranges are embedded in their owners and sorted; no two overlap.  Access may come from any vCPU thread while another thread adds or
// removes ranges: the handler is called without the bus's lock, so a call that began before bus_remove() may
// still run after it, and owners live as long as the machine's vCPUs do.
#ifndef MINIVMM_VMM_BUS_H
#define MINIVMM_VMM_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct bus_range {
	uint64_t start, size;
	const char *name;
	// offset + size lies within the range; size is 1 to 8.  read: the value goes to *val, upper bytes are ignored.
	void (*read)(struct bus_range *r, uint64_t offset, unsigned size, uint64_t *val);
	void (*write)(struct bus_range *r, uint64_t offset, unsigned size, uint64_t val);
	// Memory that is shown in the range's place (a KVM memory slot) cannot be had any more; true if it is shown no more, so that
	// the access may be done again and come here.  NULL: there is none.
	bool (*fault)(struct bus_range *r);
};

#define BUS_RANGES_MAX 512 // 31 functions with 6 BARs and a ROM each, the platform's own, and room

struct bus {
	pthread_mutex_t
		lock; // not a reader-writer lock: readers that never pause would keep that one for ever
	unsigned count;
	struct bus_range *range[BUS_RANGES_MAX]; // ascending by start
};

void bus_init(struct bus *b);
void bus_destroy(struct bus *b);

// 0; -EEXIST if a byte of the range is taken; -EINVAL for an empty range or one that wraps; -ENOSPC.
int bus_add(struct bus *b, struct bus_range *r);
// Nothing happens if the range is not on the bus.
void bus_remove(struct bus *b, struct bus_range *r);

// An access that no single range covers reads as all ones and is not written: false then.
bool bus_read(struct bus *b, uint64_t addr, unsigned size, uint64_t *val);
bool bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t val);

// Whoever answers at the address takes its memory away (bus_range's fault); false if nobody does.
bool bus_fault(struct bus *b, uint64_t addr);

#endif
