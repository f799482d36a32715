// SPDX-License-Identifier: BSD-2-Clause
// Whether an interface of the host is still there: one netlink socket, opened before the seal, read by the loop.
//
// A tap that is deleted under its reader says so to a poll() of its descriptor only; that would be woken by each frame.
#ifndef MINIVMM_BRIDGES_TAP_LINK_H
#define MINIVMM_BRIDGES_TAP_LINK_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

struct tap_link {
	struct loop_source source; // .fd: -1 when not watched
	unsigned index;
	void (*gone)(struct tap_link *l);
};

// Calls gone() once, on the loop's thread, when the interface is deleted.  One that is not in this network name space (handed over as a
// descriptor) is not watched.  0, or -errno with the sentence.
int tap_link_watch(struct tap_link *l, const char *name, struct loop *loop, void (*gone)(struct tap_link *l),
		   struct err *e);
void tap_link_close(struct tap_link *l, struct loop *loop);

#endif
