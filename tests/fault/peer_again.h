// SPDX-License-Identifier: BSD-2-Clause
// Where peers of either protocol come again: a listener of ours, by which no process is needed, and those who connect to it.
//
// After vfu_peer.h or vu_peer.h, which have said what a peer is.
#ifndef MINIVMM_TESTS_FAULT_PEER_AGAIN_H
#define MINIVMM_TESTS_FAULT_PEER_AGAIN_H

#include "bridges/again.h"
#include "vmm/base/fd.h"

#include <sys/socket.h>
#include <sys/un.h>

struct place {
	int listener, leave;
	struct sockaddr_un at;
	socklen_t at_len;
};

static inline bool place_open(struct place *w)
{
	w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	w->leave = fd_eventfd();
	w->at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	w->at_len = sizeof(w->at);
	// Without a path the kernel chooses an abstract name.
	return bind(w->listener, (struct sockaddr *)&w->at, sizeof(w->at.sun_family)) == 0 &&
	       listen(w->listener, 4) == 0 &&
	       getsockname(w->listener, (struct sockaddr *)&w->at, &w->at_len) == 0;
}

static inline struct again_how place_how(const struct place *w, int64_t limit_ms)
{
	return (struct again_how){ .source = AGAIN_LISTENER,
				   .limit_ms = limit_ms,
				   .back_off_ms = 1,
				   .line = -1,
				   .listener = w->listener,
				   .leave = w->leave };
}

static inline void place_close(struct place *w)
{
	close(w->listener);
	close(w->leave);
}

// A peer that is prepared, not started.
static inline void next_init(struct peer *p)
{
	peer_init(p);
	close(p->sock);
	close(p->front);
	p->sock = p->front = -1;
}

static inline bool next_start(const struct place *w, struct peer *p)
{
	p->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(p->sock, (const struct sockaddr *)&w->at, w->at_len) < 0)
		return false;
	peer_start(p);
	return true;
}

static inline void peer_end(struct peer *p)
{
	shutdown(p->sock, SHUT_RDWR);
	peer_join(p);
}

#endif
