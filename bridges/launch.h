// SPDX-License-Identifier: BSD-2-Clause
// Starts a back-end program with a connection to it, by the back-end program conventions of vhost-user.rst; the same one
// as often as is needed.
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
	int resource[LAUNCH_RESOURCES_MAX]; // follow the socket: LAUNCH_RESOURCE_FD, ...; the launch's own
	unsigned resource_count;
	unsigned resource_planned; // how many there are once they are open, and what each is
	const char *resource_name;
	bool isolate, insecure; // as in struct spawn_request
	struct jail *jail;	// from malloc(), or NULL
	int cgroup, keeper;	// as in struct spawn_request; somebody else's
	const char *learn;	// as in struct spawn_request
	deadline_ns deadline;	// by when one with "{socket}" listens; 0: DEADLINE_START_MS from its start
	void *text;		// what program and argv live in, from malloc(), or NULL
};

enum launch_end { LAUNCH_NO_END, LAUNCH_FD, LAUNCH_LISTEN, LAUNCH_PATH };
// How a command gets its end; of several placeholders the first kind in the order above, which is none of use.
enum launch_end launch_end_of(const char *const *argv);
// A word of the command as the program gets it, from malloc(), or NULL.
char *launch_word(const char *word);
#define LAUNCH_PATH_FOLDER "/run/vhost-user"

#define LAUNCH_SOCKET_FD   3
#define LAUNCH_RESOURCE_FD 4

// *sock: our end; *c: the program.  -errno with a sentence that does not name the device yet.
int launch_program(const struct launch *l, int *sock, struct child *c, struct err *e);
// The same in spawner.c: struct spawner_job.
int launch_again(const void *launch, int alive_fd, int *sock, struct child *c, struct err *e);
// Closes the resources and frees the jail: it is another process that will start it.
void launch_forget(struct launch *l);
// That, and frees the launch, which came from malloc(); NULL is none.
void launch_free(struct launch *l);

#endif
