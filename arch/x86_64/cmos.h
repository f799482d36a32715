// SPDX-License-Identifier: BSD-2-Clause
// The CMOS clock (MC146818): UTC, read by the second.  No alarm and no periodic interrupt.
//
// The guest's kernel reads it once at boot; without one Linux waits for seconds before it gives up.  What the guest writes into the time
// registers is forgotten: the clock is the host's.
#ifndef MINIVMM_ARCH_X86_64_CMOS_H
#define MINIVMM_ARCH_X86_64_CMOS_H

#include "vmm/bus.h"

#include <pthread.h>
#include <stdint.h>

#define CMOS_BYTES   128
#define CMOS_CENTURY 0x32

struct cmos {
	struct bus_range range;
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t ram[CMOS_BYTES];
};

void cmos_init(struct cmos *c, uint64_t port);
void cmos_destroy(struct cmos *c);

#endif
