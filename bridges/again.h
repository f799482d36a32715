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

// The thread of a carrier's that waits.
struct again {
	struct again_how how;
	bool has_thread;
	pthread_t thread;
	const char *id;
	bool (*serve)(void *arg);
	void *arg;
	int leave, lost;   // eventfds to the thread: it shall end; it has to do
	unsigned tries;	   // in a row that came to nothing
	deadline_ns since; // when the peer was lost
	deadline_ns back;  // when it last came back
	// The loop's thread's:
	bool child_up, killed; // the process behind it: it lives; by us, for the connection's end
	deadline_ns down_at;
};

#define AGAIN_INIT ((struct again){ .leave = -1, .lost = -1, .how.line = -1 })

// Makes the thread, with a small stack and all signals blocked.  It calls serve(arg) whenever `lost` was signalled, until that is
// false or there is nothing to wait for any more.  0, or -errno with the sentence; again_end() is due in any case.
int again_begin(struct again *a, const struct again_how *how, const char *id, bool (*serve)(void *arg),
		void *arg, struct err *e);
// Ends the thread.
void again_end(struct again *a);
// "starting it again": for the line in the log.
const char *again_next_step(const struct again_how *how);
// True: it does not come back, whoever waits.  `child`: the process behind it, which has ended, or NULL.
bool again_stays_dead(const struct again *a, const struct child *child);
// On the thread: a new connection, the caller's, and where a program is started, it in *child, not watched yet; 0, 1, 2, 4 ... 60 s after
// the attempt before.  0; -ECANCELED: the machine or the device ends; -ETIMEDOUT, -EPIPE with the sentence: never more; another -errno
// with the sentence of one attempt.
int again_connect(struct again *a, struct child *child, int *sock, struct err *e);

#endif
