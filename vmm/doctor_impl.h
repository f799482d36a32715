// SPDX-License-Identifier: BSD-2-Clause
// What the files of the doctor share: doctor.c (order, lines, files), doctor_kvm.c (KVM, memory, isolation), doctor_vhost.c
// (taps, vhost, vDPA, VDUSE) and doctor_vfio.c (IOMMU groups, mediated devices).
#ifndef MINIVMM_VMM_DOCTOR_IMPL_H
#define MINIVMM_VMM_DOCTOR_IMPL_H

#include "vmm/doctor.h"

#include <dirent.h>
#include <limits.h>

enum finding {
	GOOD,	 // "ok"
	ABSENT,	 // "-": only those who want it miss it
	LIMITED, // "!": it is there and will disappoint
	FATAL,	 // "NO": no machine runs
};

struct doctor {
	const char *root;
	FILE *out;
	bool can_run;
};

// One line: what was looked at, what was found, and what to do about it (mend "": nothing).
void doctor_say(struct doctor *d, enum finding found, const char *what, const char *mend, const char *fmt,
		...) __attribute__((format(printf, 5, 6)));

// ---- files below the root; a path that does not fit is a file that is not there

bool doctor_exists(const struct doctor *d, const char *path);
// May be opened for reading and writing by this process: 0 or an errno.
int doctor_access(const struct doctor *d, const char *path);
// The first line, without its end; false: no such file.
bool doctor_line(const struct doctor *d, const char *path, char *buf, size_t room);
// A decimal number; `otherwise` if the file does not hold one.
long long doctor_number(const struct doctor *d, const char *path, long long otherwise);
// The last part of what a symbolic link points to, as in .../driver; false: no such link.
bool doctor_link(const struct doctor *d, const char *path, char buf[NAME_MAX + 1]);
// Calls back for each entry of a folder, in order of names ("2" before "10"); the number of them.
unsigned doctor_each(struct doctor *d, const char *path,
		     void (*entry)(struct doctor *d, const char *name, void *arg), void *arg);
// A node of /dev that a module makes, in a line; true if it is there for us.
bool doctor_node(struct doctor *d, const char *what, const char *path, const char *module, const char *use);
// What would make the module's node appear, as a mend: loading it, or another kernel.  Lives in `buf`.
const char *doctor_module(const struct doctor *d, const char *module, char *buf, size_t room);

// ---- the parts of the report

void doctor_kvm(struct doctor *d);
void doctor_memory(struct doctor *d);
void doctor_isolation(struct doctor *d);
void doctor_vhost(struct doctor *d);
void doctor_vdpa(struct doctor *d);
void doctor_vfio(struct doctor *d);

#endif
