// SPDX-License-Identifier: BSD-2-Clause
// Bytes with file descriptors over a stream socket, by a deadline.
//
// Knows no protocol: the vhost-user and vfio-user layers (both ends) put their headers on top.  Every call
// ends by its deadline whatever the peer does, never raises SIGPIPE, and leaves no received descriptor
// unowned: on an error all of them are closed.  The socket may be blocking or not.
#ifndef MINIVMM_BASE_MSG_H
#define MINIVMM_BASE_MSG_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

// More than any message of the protocols carries; a peer that sends more has truncated its own (MSG_CTRUNC).
#define MSG_FDS_MAX 32

struct msg_fds {
	unsigned count;
	int fd[MSG_FDS_MAX];
};

// Sends all bytes of the vector; the descriptors travel with the first byte and stay the caller's.
// 0, or -ETIMEDOUT, -EPIPE (the peer is gone), -errno.
int msg_send(int sock, const struct iovec *iov, unsigned iov_count, const int *fds, unsigned fd_count,
	     deadline_ns deadline);

// Receives exactly `len` bytes, and adds the descriptors that came with them to *fds (close-on-exec; the
// caller owns them; NULL where none are due).  0, or with nothing left open: -ETIMEDOUT, -ECONNRESET (end of
// stream), -EMSGSIZE (more descriptors than `fds` has room for, or MSG_CTRUNC), -EPROTO (out-of-band data),
// -errno.
int msg_recv(int sock, void *buf, size_t len, struct msg_fds *fds, deadline_ns deadline);

// What is there at once, at most `len` bytes (> 0): the number received, -EAGAIN when there is nothing yet,
// or as msg_recv().  For readers on a loop, which must not wait.
int msg_recv_now(int sock, void *buf, size_t len, struct msg_fds *fds);

// Waits until something can be received, or the peer is gone.  0, or -ETIMEDOUT, -EPROTO (out-of-band data), -errno.
int msg_wait(int sock, deadline_ns deadline);

// Closes what is in the list and empties it.  How many went to the bin (bin.h).
unsigned msg_fds_close(struct msg_fds *fds);

// Takes the only descriptor of a list, or -1 (and closes everything) if there is not exactly one.
int msg_fds_take_one(struct msg_fds *fds);

// A connected AF_UNIX stream socket to `path` (of "fd:N" and "fd:NAME" a duplicate; the original stays open), by the deadline:
// -ETIMEDOUT also for a listener whose queue is full.  The caller owns it.
int msg_connect(const char *path, deadline_ns deadline, struct err *e);

// A listening AF_UNIX socket at `path`, mode 0600.  A socket file that nobody listens on is replaced; any
// other file is left alone and refused.
int msg_listen(const char *path, struct err *e);

#endif
