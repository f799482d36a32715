// SPDX-License-Identifier: BSD-2-Clause
// Exchanges on the main socket of a vhost-user connection, and its death.
//
// An exchange is opened, requests are sent one after the other without waiting, answers are read in order,
// and it is closed; the first failure makes the rest of it do nothing.  Exchanges come from any thread, one
// at a time; between them the loop watches the socket, on which nothing may arrive then.  Used by
// vhost_user.c only.
#ifndef MINIVMM_BRIDGES_VHOST_USER_LINK_H
#define MINIVMM_BRIDGES_VHOST_USER_LINK_H

#include "vmm/base/deadline.h"
#include "vmm/base/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vu_link {
	const char *id;
	int sock;
	struct loop *loop;
	struct loop_source source;
	atomic_bool watched;		 // in the loop, or was until its death
	pthread_mutex_t lock;		 // held during an exchange
	bool dead, told;		 // under the lock
	bool paused;			 // likewise: an exchange is under way that does not hold it
	char why[256];			 // one clause, "closed its connection"; set when dead
	_Atomic(const char *) verdict;	 // why the socket was shut without the lock
	uint64_t protocol_features;	 // negotiated
	uint64_t features;		 // virtio features as first answered
	void (*died)(struct vu_link *l); // on the loop's thread, once
};

// Takes over the socket.
void vu_link_init(struct vu_link *l, const char *id, int sock, struct loop *loop,
		  void (*died)(struct vu_link *l));
// From here on the loop watches for the peer's end.  0 or -errno.
int vu_link_watch(struct vu_link *l);
// Whether operations are refused.  Any thread.
bool vu_link_dead(struct vu_link *l);
// Closes the socket.  Loop's thread, or any if the link is not watched (any more).  Good on one that is closed.
void vu_link_close(struct vu_link *l);
// Ends the connection without waiting for an exchange under way.  `why` is a literal.  Any thread.
void vu_link_condemn(struct vu_link *l, const char *why);

static inline bool vu_link_has(const struct vu_link *l, uint64_t protocol_feature_bit)
{
	return (l->protocol_features & protocol_feature_bit) != 0;
}

#define VU_OWED_MAX 320 // more than the requests of any exchange

struct vu_exchange {
	struct vu_link *link;
	deadline_ns deadline;
	int rc;		     // 0, -EPIPE: the peer is dead, -EIO: it refused
	const char *refused; // the request that it refused first, or NULL
	bool unsure;	     // something was sent whose success cannot be seen: end with a barrier
	unsigned owed_next, owed_count;
	uint8_t owed[VU_OWED_MAX]; // requests whose answers are still to come
};

void vu_begin(struct vu_exchange *x, struct vu_link *l, deadline_ns deadline);
// Sends a request that is not acknowledged.  fd: -1 or a descriptor that travels along.
void vu_tell(struct vu_exchange *x, uint32_t request, const void *payload, size_t len, int fd);
// Sends one whose failure matters: acknowledged if REPLY_ACK was negotiated, else followed by a barrier at
// the exchange's end.
void vu_order(struct vu_exchange *x, uint32_t request, const void *payload, size_t len, const int *fds,
	      unsigned fd_count);
// Sends one that has a reply of its own; vu_answer() must follow, in the same order.
void vu_ask(struct vu_exchange *x, uint32_t request, const void *payload, size_t len);
// Reads the answers up to that of `request`; its payload, at most `cap` bytes, goes to `buf`.  Returns its
// length, 0 after a failure (x->rc says which).
size_t vu_answer(struct vu_exchange *x, uint32_t request, void *buf, size_t cap);
// The same; *fd becomes the one descriptor that came along, which is the caller's, or -1.
size_t vu_answer_fd(struct vu_exchange *x, uint32_t request, void *buf, size_t cap, int *fd);
// The same for a u64.
uint64_t vu_answer_u64(struct vu_exchange *x, uint32_t request);
// The peer broke the protocol in a way that only the caller can see.
__attribute__((format(printf, 2, 3))) void vu_broken(struct vu_exchange *x, const char *fmt, ...);
// An exchange that goes on over many operations of its owner, who takes locks of its own before this one: nothing but vu_resume()
// may follow, by the one thread that could begin another.
void vu_pause(struct vu_exchange *x);
void vu_resume(struct vu_exchange *x);
// Reads the acknowledgements still owed.  0, -EPIPE, or -EIO (logged; the connection lives).
int vu_end(struct vu_exchange *x);

#endif
