// SPDX-License-Identifier: BSD-2-Clause
// A virtio device in another process, over a vhost-user socket (front-end side of vhost-user.rst).
//
// The back-end gets guest RAM by descriptor, doorbells and interrupts as eventfds, and addresses that are
// made up (guest address plus a constant): no pointer of ours leaves the process.  Nothing that it sends can
// do more than end it.
#ifndef MINIVMM_BRIDGES_VHOST_USER_H
#define MINIVMM_BRIDGES_VHOST_USER_H

#include "bridges/again.h"
#include "bridges/backend.h"
#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct child;
struct loop;

// What the configuration file says of the device itself.
struct vhost_user_own {
	const char *tag;	// of a file system, at most 36 bytes; NULL: what the back-end shows
	uint16_t mtu;		// of a network device; 0: what the back-end shows, if it shows one
	bool host_notifier;	// its doorbell pages are mapped for the guest
	uint64_t shared_memory; // of it is mapped for the guest, at most that; 0: none
};

struct vu_objects;

struct vhost_user_params {
	const char *id;	  // device id; must outlive the back-end
	const char *peer; // what to call it in messages: socket path or program; must outlive the back-end
	uint16_t virtio_type; // virtio 1.2 §5
	uint16_t queues;      // 0: what the back-end says, else the type's own
	uint16_t queue_size;  // largest size of a queue, a power of two; 0: default
	struct vhost_user_own own;
	struct vu_objects *objects; // of the machine; outlives the back-end; NULL: objects are not shared
	int sock;		    // connected Unix stream socket
	struct child *child;	    // the process behind it, from malloc(), not watched yet; or NULL
	struct loop *loop;
	deadline_ns start_deadline; // for the whole handshake
	int64_t control_ms;	    // deadlines of later exchanges; 0: DEADLINE_CONTROL_MS
	int64_t stop_ms;	    // 0: DEADLINE_START_MS
};

// Shakes hands and makes the back-end.  `sock` and `child` belong to it from the call on, also when the call
// fails (the child is then stopped, reaped and freed).  Called, and (*out)->ops->close() too, on the loop's
// thread or before the loop runs. -errno with a sentence that names the device; when a child died during the
// handshake, its last words are that sentence.
int vhost_user_open(struct backend **out, const struct vhost_user_params *p, struct err *e);

// From now on a back-end that goes away is waited for, by a thread of its own: operations are noted and return
// at once meanwhile, and all that was noted is said to the one that comes.  On the loop's thread, before the loop runs.
int vhost_user_keep(struct backend *b, const struct again_how *how, struct err *e);

#endif
