// SPDX-License-Identifier: BSD-2-Clause
// The host's side of a serial port: a terminal, a pseudo-terminal, a file or a socket.
//
// Output goes through a ring that a slow or blocked reader can fill: then bytes are dropped and counted, and neither a vCPU nor the loop
// ever waits.  A line is written as one; a lone character after 2 ms.  A terminal is put in raw mode and restored whatever way the
// process ends, short of SIGKILL; Ctrl-A x then quits, Ctrl-A h helps, Ctrl-A Ctrl-A is Ctrl-A.
#ifndef MINIVMM_VMM_CONSOLE_H
#define MINIVMM_VMM_CONSOLE_H

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_RING 16384 // power of two

enum console_kind { CONSOLE_NONE, CONSOLE_STDIO, CONSOLE_PTY, CONSOLE_FILE, CONSOLE_UNIX };

struct console {
	enum console_kind kind;
	struct loop *loop;
	int in_fd, out_fd; // -1: none (now)
	int slave_fd;	   // pty: held open so that nobody at the other end is no hang-up
	int listen_fd;	   // unix
	bool own_fds;	   // in_fd and out_fd are ours to close
	bool raw;	   // the terminal is in raw mode
	bool escape;	   // Ctrl-A was typed
	int keeper_fd;	   // unix: of the socket's file
	struct loop_source in_source, listen_source, timer_source;

	pthread_mutex_t lock; // of the rest
	uint32_t head, tail;  // of the ring, free-running
	bool timer_armed;
	bool blocked; // the reader did not take all: tried again by the timer only
	bool muted;   // the guest takes no more input for now: the source is not armed
	uint64_t dropped;
	uint8_t *ring; // CONSOLE_RING bytes, NULL for CONSOLE_NONE

	size_t (*input)(void *owner, const uint8_t *bytes, size_t len); // returns how many it took
	void *owner;
	void (*quit)(void *quit_owner); // Ctrl-A x
	void *quit_owner;
};

// A console of kind none: console_close() and console_write() are good on it.
void console_init(struct console *c);

// `to` is serial.to of the configuration.  Opens it; a terminal stays as it is until console_start().
int console_open(struct console *c, const char *to, struct err *e);

// Takes the terminal over and watches for input on the loop.
int console_start(struct console *c, struct loop *l, struct err *e);

// Writes what is left as far as the reader takes it, restores the terminal, closes.
void console_close(struct console *c);

// Any thread; never waits.
void console_write(struct console *c, const uint8_t *bytes, size_t len);

// The guest takes input again after it took less than was offered.  Any thread.
void console_unmute(struct console *c);

#endif
