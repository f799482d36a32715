// SPDX-License-Identifier: BSD-2-Clause
// Starts a back-end program with a connection to it, by the back-end program conventions of vhost-user.rst.
//
// How it gets its end stands in its command: "{fd}", the number of a connected socket; "{listen}", of a listening one, to which our
// end is connected already; "{socket}", a path in its jail where it will listen.
#ifndef MINIVMM_BRIDGES_LAUNCH_H
#define MINIVMM_BRIDGES_LAUNCH_H

#include "vmm/base/deadline.h"
#include "vmm/base/err.h"

#include <stdbool.h>

struct child;
struct jail;

#define LAUNCH_WORDS_MAX     64
#define LAUNCH_RESOURCES_MAX 16

struct launch {
	const char *id;
	const char *program;
	const char *const *argv;	    // NULL-terminated; see above for what is replaced in it
	int resource[LAUNCH_RESOURCES_MAX]; // follow the socket: LAUNCH_RESOURCE_FD, ...; stay the caller's
	unsigned resource_count;
	bool isolate, insecure;	 // as in struct spawn_request
	const struct jail *jail; // or NULL
	deadline_ns deadline;	 // by when one with "{socket}" listens; 0: DEADLINE_START_MS from its start
};

enum launch_end { LAUNCH_NO_END, LAUNCH_FD, LAUNCH_LISTEN, LAUNCH_PATH };
// How a command gets its end; of several placeholders the first kind in the order above, which is none of use.
enum launch_end launch_end_of(const char *const *argv);
#define LAUNCH_PATH_FOLDER "/run/vhost-user"

#define LAUNCH_SOCKET_FD   3
#define LAUNCH_RESOURCE_FD 4

// *sock: our end; *child: from malloc().  -errno with a sentence that does not name the device yet.
int launch_program(const struct launch *l, int *sock, struct child **child, struct err *e);

#endif
