// SPDX-License-Identifier: BSD-2-Clause
// How a peer that went away is got back: from where, after what pause, and for how long.
//
// Called by the thread that a carrier keeps for that (vhost_user_again.c, vfio_user_again.c), which may wait: every wait here ends when the
// machine or the device does.  Knows no protocol: what comes out is a connected socket, and the process behind it.
#ifndef MINIVMM_BRIDGES_AGAIN_H
#define MINIVMM_BRIDGES_AGAIN_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct child;

// What is done when the peer is gone.
enum again_source {
	AGAIN_NOWHERE,	// nothing: dead is dead
	AGAIN_SOCKET,	// connect again, through the spawner
	AGAIN_LISTENER, // wait for it to connect again
	AGAIN_PROGRAM,	// start the program again, through the spawner
};

struct again_how {
	enum again_source source;
	int64_t limit_ms;	    // how long to wait for it, 0: for ever
	int64_t back_off_ms;	    // before a second attempt in a row, then twice that and so on; 0: 1000
	bool only_failures;	    // AGAIN_PROGRAM: one that ends with status 0 is done
	int line;		    // to the spawner; closed by who waits
	int listener;		    // stays the caller's
	int leave;		    // eventfd, signalled when the machine ends; stays the caller's
	int (*seal)(struct err *e); // of the thread that is made; NULL: none
};

// One that lived this long is not thought to die of its start.
#define AGAIN_SERVED_MS 1000

// The thread of a carrier's that waits, with a small stack and all signals blocked.  0, or an errno value.
int again_thread_make(pthread_t *thread, void *(*run)(void *), void *arg);
// "starting it again": for the line in the log.
const char *again_next_step(const struct again_how *how);
// When the next attempt begins, 0, 1, 2, 4 ... 60 s after the one before; counts it in *tries.
deadline_ns again_pause(const struct again_how *how, unsigned *tries);
// Until `fd` (or -1) is readable or the time is over (0: never).  1, 0 for the time, -ECANCELED when there is nothing to wait for any
// more: `leave`, an eventfd of the device's, or how->leave is signalled.
int again_wait(const struct again_how *how, int leave, int fd, deadline_ns until);
// A new connection, the caller's, of the device `id`, and where a program is started, it in *child, not watched yet.  0; -ECANCELED;
// -ETIMEDOUT: not by `until`; -EPIPE with the sentence: never more; another -errno with the sentence of one attempt.
int again_connect(const struct again_how *how, int leave, const char *id, deadline_ns until, int *sock,
		  struct child *child, struct err *e);

#endif
