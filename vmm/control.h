// SPDX-License-Identifier: BSD-2-Clause
// The control socket of a running machine (vm.control): a line asks, lines answer.
//
// A request is a line of at most CONTROL_REQUEST_MAX bytes: a command of the table in control.c.  Its answer is lines of text, the last of
// them "ok" or "error: WHY"; the next request of that client is looked at after it.  Who may connect may do all: the socket's file is its
// owner's alone.  All of it runs on the loop's thread and waits for nobody: a client that does not take its answer, or says more than a
// request, is cut off; of more than CONTROL_CLIENTS the oldest is.
#ifndef MINIVMM_VMM_CONTROL_H
#define MINIVMM_VMM_CONTROL_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"

#include <stdbool.h>
#include <stddef.h>

#define CONTROL_CLIENTS	    4
#define CONTROL_REQUEST_MAX 200

struct vm;

struct control_client {
	struct control *control;
	struct loop_source source; // fd -1: none
	bool waits;		   // for the machine to be paused or to go on
	bool for_pause;
	size_t len;
	char line[CONTROL_REQUEST_MAX];
};

struct control {
	struct vm *vm;
	struct loop_source listener; // fd -1: there is no such socket
	int keeper;		     // of its file
	deadline_ns since;
	unsigned next; // place for the next client
	struct control_client client[CONTROL_CLIENTS];
};

// Nothing yet: control_close() is good on it.
void control_init(struct control *c);

// Makes the socket; `path` is vm.control, or NULL for none.  While the process has one thread.  0, or -errno with the sentence.
int control_open(struct control *c, const char *path, struct err *e);

// Answers from now on.
int control_start(struct control *c, struct vm *vm, struct err *e);

// The socket's file goes, and clients see the end.
void control_close(struct control *c);

#endif
