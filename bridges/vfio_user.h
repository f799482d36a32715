// SPDX-License-Identifier: BSD-2-Clause
// A PCI function in another process, over a vfio-user socket: a carrier of passthrough.c (bridges/vfio_ops.h).
//
// The server gets guest RAM by descriptor (or not, and then asks for what it wants to read and write), interrupts as eventfds, and
// addresses that are the guest's: no pointer of ours leaves the process.  Nothing that it sends can do more than end it.
#ifndef MINIVMM_BRIDGES_VFIO_USER_H
#define MINIVMM_BRIDGES_VFIO_USER_H

#include "bridges/again.h"
#include "bridges/vfio_ops.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>

struct child;
struct loop;

struct vfio_user_params {
	const char *id;	     // device id; must outlive the link
	const char *peer;    // what to call it in messages: socket path or program; must outlive the link
	int sock;	     // connected Unix stream socket
	struct child *child; // the process behind it, from malloc(), not watched yet; or NULL
	struct loop *loop;
	bool keep_memory;  // guest RAM is not handed over: the server asks for each access
	bool no_doorbells; // it is not asked for eventfds to signal writes with
	bool replug;	   // struct vfio_link
	// For the whole handshake; what it leaves is for all that is asked before vfio_user_serve().
	deadline_ns start_deadline;
	int64_t control_ms; // deadlines of later exchanges; 0: DEADLINE_CONTROL_MS
	int64_t reset_ms;   // of a reset, and of all that a return takes together; 0: DEADLINE_START_MS
};

// Shakes hands, asks for all that does not change, and makes the link.  `sock` and `child` belong to it from the call on, also when
// the call fails (the child is then stopped, reaped and freed).  Called, and ops->close() too, on the loop's thread or before the loop
// runs.  -errno with a sentence that names the device; when a child died during the handshake, its last words are that sentence.
int vfio_user_open(struct vfio_link **out, const struct vfio_user_params *p, struct err *e);

// Makes the thread that serves the server's own commands; before, whoever waits for it does.  When every thread that is there is
// sealed or about to be; `seal` is that of the new one, NULL: none.  -errno with the sentence.
int vfio_user_serve(struct vfio_link *l, int (*seal)(struct err *e), struct err *e);

// From now on a server that goes away is waited for, by a thread of its own, which calls the owner's `returned`; one that comes as another
// device is refused, and no other is waited for.  After vfio_user_serve(), on the loop's thread, before the loop runs.
int vfio_user_keep(struct vfio_link *l, const struct again_how *how, struct err *e);

#endif
