// SPDX-License-Identifier: BSD-2-Clause
// Profiles: what a program needs from its host, each line with its reason.
//
// TOML texts.  Those in vmm/profiles are compiled in, so that a jail does not depend on where minivmm is installed; others are files of the
// same form, for example written by sandbox = { learn = "FILE" }.  A profile only ever adds to nothing.
//
//	about  = "one line"
//	like   = "default"             # begin with what that profile shows and limits; its system calls are not taken over
//	net    = "host"                # the host's network; left out: none
//	landlock = false               # the program mounts something itself, which Landlock never allows
//	[why]                          # a reason for each of net, landlock
//	[limits]                       # nofile, processes, address_space (beyond guest RAM), file_size
//	[[show]]                       # path, why; kind = "proc", "tmpfs" (with size) or what the host has there; writable, executable, optional
//	[[keep]]                       # capability, why: over its own name spaces, never over the host
//	[[allow]]                      # calls, why; when = "arg1 & 0xff == 0x5421", or a list of those; refuse = "ENOSYS" instead of death
#ifndef MINIVMM_VMM_JAIL_PROFILE_H
#define MINIVMM_VMM_JAIL_PROFILE_H

#include "vmm/base/arena.h"
#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROFILE_SHOWS_MAX 64
#define PROFILE_KEEPS_MAX 16
#define PROFILE_RULES_MAX 768
#define PROFILE_NO_LIMIT  UINT64_MAX

enum show_kind { SHOW_BIND, SHOW_PROC, SHOW_TMPFS };

struct profile_show {
	const char *path, *why;
	enum show_kind kind;
	bool writable, executable, optional;
	uint64_t size;
};

struct profile_keep {
	unsigned capability;
	const char *name, *why;
};

struct profile {
	const char *name, *about; // as the user wrote it
	bool host_net, no_landlock;
	const char *net_why, *landlock_why;
	uint64_t nofile, processes, address_space, file_size;
	struct profile_show show[PROFILE_SHOWS_MAX];
	unsigned show_count;
	struct profile_keep keep[PROFILE_KEEPS_MAX];
	unsigned keep_count;
	struct sandbox_rule rules[PROFILE_RULES_MAX];
	unsigned rule_count;
};

// A name, or a file: what has a slash or ends in ".toml".  Texts live in the arena.  -errno with the sentence, "FILE:LINE:COLUMN: ..." for what is
// wrong in a file.
int profile_read(struct profile *p, struct arena *a, const char *name, struct err *e);

// The names of those that are compiled in, NULL-terminated; true if `name` is one, or is a file's.
extern const char *const profile_names[];
bool profile_is_file(const char *name);

#endif
