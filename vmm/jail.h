// SPDX-License-Identifier: BSD-2-Clause
// The walls around somebody else's program: what it sees, may do and may use up.
//
// A profile (jail_profile.h), the program's own needs (jail_elf.h) and the configuration's `paths` become a struct jail, once, by
// jail_prepare(); the launcher's child walks into it between clone and exec by jail_enter(), any number of times, and `minivmm explain`
// prints it.  The struct holds no pointer, so that it is as good in another process.
//
// What it consists of: name spaces of its own; a root with nothing in it but what is listed, read-only unless said; limits; capabilities
// over its own name spaces only, most often none; Landlock where the kernel has it; an allow-list of system calls that stands before
// the program's first instruction.
#ifndef MINIVMM_VMM_JAIL_H
#define MINIVMM_VMM_JAIL_H

#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"
#include "vmm/jail_profile.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define JAIL_SHOWS_MAX 256
#define JAIL_TEXT_MAX  32768

struct jail_show { // one thing in sight, in the order in which it is mounted: folders before what is in them
	uint16_t from, to; // in text[]: path on the host, without symbolic links; path inside
	uint8_t kind;	   // enum show_kind
	bool folder, writable, executable, device;
	uint64_t size; // of a tmpfs
};

struct jail {
	uint64_t name_spaces; // CLONE_NEW*, for clone3
	bool landlock;
	bool host_net;
	uint64_t capabilities;
	uint64_t nofile, processes, address_space, file_size; // limits; PROFILE_NO_LIMIT: as it is
	unsigned show_count;
	struct jail_show show[JAIL_SHOWS_MAX];
	uint16_t program; // in text[]: what is executed, inside
	uint16_t text_len;
	char text[JAIL_TEXT_MAX];
	struct sandbox_program filter;
};

// From what the user wrote: the program's path, and what `paths` adds ("PATH", "PATH:rw"; NULL: nothing).  `memory` is the size of guest RAM,
// which the program maps.  Looks at the files and changes nothing.  -errno with a sentence that does not name the device.
int jail_prepare(struct jail *j, const struct profile *p, const char *program, const char *const *paths,
		 uint64_t memory, struct err *e);

// The same for a device with `exec`, but for sandbox = "none": its profile, its program, its paths.  *p and what it points to (in `a`) are for
// explain; jail_enter() needs *j only.
struct device_config;
int jail_of_device(struct jail *j, struct profile *p, struct arena *a, const struct device_config *cfg,
		   uint64_t memory, struct err *e);

static inline const char *jail_text(const struct jail *j, uint16_t offset)
{
	return j->text + offset;
}

// Where jail_enter() stopped.
enum jail_step {
	JAIL_OK,
	JAIL_PRIVATE,
	JAIL_ROOT,
	JAIL_SHOW, // jail_failure.show says which
	JAIL_PIVOT,
	JAIL_LIMITS,
	JAIL_CAPABILITIES,
	JAIL_LANDLOCK,
	JAIL_SECCOMP,
};
struct jail_failure {
	int step, show;
	int error; // errno value
};

// For a process that has just been put into j->name_spaces as user 0, with all its descriptors arranged: everything but the filter,
// then, as the last thing before exec, the filter.  Allocates nothing.  0, or -errno with *f filled in; the process is then good for nothing
// but _exit().
int jail_enter(const struct jail *j, struct jail_failure *f);
int jail_filter(const struct jail *j, struct jail_failure *f);

// "show /srv/share inside: Permission denied (MEND)".  True if it is the host that refuses jails, rather than this one being wrong.
bool jail_failure_tell(const struct jail *j, const struct jail_failure *f, char *text, size_t room);

#endif
