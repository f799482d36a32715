// SPDX-License-Identifier: BSD-2-Clause
// Starts a back-end program with one end of a socket pair, by the back-end program conventions of
// vhost-user.rst.
#ifndef MINIVMM_BRIDGES_LAUNCH_H
#define MINIVMM_BRIDGES_LAUNCH_H

#include "vmm/base/err.h"

#include <stdbool.h>

struct child;

#define LAUNCH_WORDS_MAX     64
#define LAUNCH_RESOURCES_MAX 16

struct launch {
	const char *id;
	const char *program;
	const char *const
		*argv; // NULL-terminated; "{fd}" in a word is replaced by the socket's number in the child
	int resource[LAUNCH_RESOURCES_MAX]; // follow the socket: LAUNCH_RESOURCE_FD, ...; stay the caller's
	unsigned resource_count;
	bool isolate, insecure; // as in struct spawn_request
};

#define LAUNCH_SOCKET_FD   3
#define LAUNCH_RESOURCE_FD 4

// *sock: our end; *child: from malloc().  -errno with a sentence that does not name the device yet.
int launch_program(const struct launch *l, int *sock, struct child **child, struct err *e);

#endif
