// SPDX-License-Identifier: BSD-2-Clause
// The event loop of one thread: epoll, level-triggered.
//
// A source is embedded in its owner, who keeps it in place from loop_add() to loop_remove().  Both, and every callback,
// run on the loop's thread; a source removed inside a callback gets no further event, even of the same batch.
// The loop never owns a descriptor.
#ifndef MINIVMM_BASE_LOOP_H
#define MINIVMM_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop_source {
	int fd;
	void (*ready)(struct loop_source *s, uint32_t events); // EPOLLIN, EPOLLHUP, ... as epoll_wait(2) says
	bool added;					       // the loop's own
};

#define LOOP_BATCH 16
struct loop {
	int epoll_fd;
	bool stopped;
	int pending_count, pending_next; // the batch being delivered
	struct epoll_event pending[LOOP_BATCH];
};

// 0 or -errno.
int loop_init(struct loop *l);
void loop_destroy(struct loop *l);

// Watches s->fd for `events` (EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLONESHOT).  0 or -errno.
int loop_add(struct loop *l, struct loop_source *s, uint32_t events);

// Changes what is watched, or arms an EPOLLONESHOT source again.  The only call that is good on any thread.
int loop_modify(struct loop *l, struct loop_source *s, uint32_t events);

// Nothing happens if the source is not in the loop.  The descriptor must still be open.
void loop_remove(struct loop *l, struct loop_source *s);

// Delivers events until loop_stop().  Survives EINTR; returns -errno if epoll itself fails.
int loop_run(struct loop *l);

// Delivers what is ready within `timeout_ms` (-1: waits).  Returns the number of events or -errno.
int loop_once(struct loop *l, int timeout_ms);

// Makes loop_run() return once the events that are already at hand have been delivered.
void loop_stop(struct loop *l);

#endif
