// SPDX-License-Identifier: BSD-2-Clause
// virtio-rng (virtio 1.2 §5.4): fills the driver's buffers from the kernel's random number generator.
//
// Owned by rng.c, which has the command line and the SDK's callbacks.  Nothing is ever in flight: a request
// is taken only when it is answered.  With a rate, what may be given out is counted in periods of a tenth of
// a second; a driver that wants more waits for the next one, woken by a timer.
#ifndef MINIVMM_ENTROPY_VIRTIO_RNG_H
#define MINIVMM_ENTROPY_VIRTIO_RNG_H

#include "devices/sdk/dev.h"
#include "vmm/base/deadline.h"

#include <stdbool.h>
#include <stdint.h>

#define VRNG_TURN_BYTES 65536u // in one turn, so that a driver's huge buffers hold nobody up
#define VRNG_PERIODS	10     // in a second
#define VRNG_IOVECS	64
#define VRNG_RATE_MAX	(UINT64_C(1) << 40)

struct vrng {
	struct vdev *d;
	uint64_t rate;		  // bytes a second, 0: no limit
	uint64_t left;		  // of this period
	deadline_ns until;	  // its end
	bool waiting;		  // for the next one
	struct loop_source timer; // .fd is -1 without a rate
	struct iovec iov[VRNG_IOVECS];
};

// Features and the timer.  0 or -errno.
int vrng_init(struct vrng *r, struct vdev *d, uint64_t rate, struct err *e);
void vrng_destroy(struct vrng *r);

// Serves what is in the queue, see vdev_ops.kick.
void vrng_kick(struct vrng *r, struct vq *q);

#endif
