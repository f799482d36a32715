// SPDX-License-Identifier: BSD-2-Clause
// File descriptors with an owner.
//
// FD_AUTO declares a local that is closed when its scope ends; fd_steal() takes the number out, leaving -1.
// -1 is "none" everywhere.
#ifndef MINIVMM_BASE_FD_H
#define MINIVMM_BASE_FD_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stddef.h>

// Closes *fd unless it is -1, and sets it to -1.  Keeps errno.
void fd_close(int *fd);

// Closes every descriptor of a list and sets each to -1.
void fd_close_all(int *fds, size_t count);

static inline int fd_steal(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

#define FD_AUTO __attribute__((cleanup(fd_close))) int

// A close-on-exec, non-blocking eventfd with count 0, or -errno.
int fd_eventfd(void);

// Adds 1 to the count of an eventfd of ours that no peer has.  A full counter is already "signalled".
void fd_event_signal(int eventfd);

// write(2) to an eventfd waits while its counter is full, unless its file is non-blocking; whoever shares one can fill it and make it
// blocking, at any moment.  What the kernel signals by itself never waits: here that is the completion of an io_submit(2).  A process
// that has a context for that ends some 30 ms later, its descriptors included (exit_aio() waits for RCU), so one has it that must
// not be held up by a peer, and no other: a program of one client harms nobody else, and its restart is waited for by a guest.

// Makes it now; the kernel has a limited number (fs.aio-max-nr).  By the process that is to signal (no child has it), before its threads
// and its seccomp filter; after that it needs io_submit alone.  0, or -errno with the sentence.
int fd_peer_signals_open(struct err *e);

// Or with the first fd_peer_signal(), for a process in which that is rare; io_setup then has to be in the filter, too.  One that is
// refused then is a write(2).  Before the process has threads.
void fd_peer_signals_at_need(void);

// Adds 1 to the count of an eventfd that a peer has, too.  Never fails, and after one of the two functions above never waits, whatever
// the peer does; without them it is fd_event_signal().  Any thread.
void fd_peer_signal(int eventfd);

// Takes an eventfd's count down to 0; true if it was signalled.  Never blocks, even if a peer that has it, too, made it blocking.
bool fd_event_take(int eventfd);

// True if the eventfd is signalled; leaves the count as it is.
bool fd_event_pending(int eventfd);

// For a descriptor from a peer that is to be signalled, or to signal: 0, or -EBADF for what is no eventfd.  Asks no file system.
// Without fd_peer_signals_open() it knows less: no file, device or folder, and it is made non-blocking.
int fd_peer_event_check(int fd);

// Opens what the user wrote where a path is expected: a path, or "fd:N", or "fd:NAME" with NAME one of
// LISTEN_FDNAMES (sd_listen_fds(3) convention).  `flags` as for open(2), O_CLOEXEC is added; a handed-over
// descriptor must allow the access mode in `flags`.  Returns a descriptor that the caller owns, or -errno with the sentence set.
int fd_open_path(const char *path, int flags, struct err *e);

// True if the text is of the form "fd:...".
bool fd_is_reference(const char *path);

#endif
