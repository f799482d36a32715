// SPDX-License-Identifier: BSD-2-Clause
// A kernel or initrd on the host: a descriptor that the caller keeps, with a name for messages.
//
// Only fstat(2), pread(2) and sendfile(2) are used, so that the file offset does not matter and a file that shrinks
// meanwhile is an error, not a SIGBUS.
#ifndef MINIVMM_FIRMWARE_BOOTFILE_H
#define MINIVMM_FIRMWARE_BOOTFILE_H

#include "firmware/guest_ram.h"
#include "vmm/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct boot_file {
	int fd;		  // the caller's
	const char *what; // "kernel" or "initrd"
	const char *name;
	uint64_t size; // set by boot_file_size()
};

// Finds out the size.  Anything but a regular file is refused.  0 or -errno with the sentence set.
int boot_file_size(struct boot_file *f, struct err *e);

// Reads exactly [off, off + len) into buf.  0, or -errno with the sentence set; the range may lie outside the
// file.
int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len, struct err *e);

// Reads exactly [off, off + len) to gpa, whose len bytes the caller has found to lie in low RAM.  Otherwise as above.
int boot_file_load(const struct boot_file *f, uint64_t off, const struct guest_ram *ram, uint64_t gpa,
		   uint64_t len, struct err *e);

// "kernel NAME: TEXT".  Returns -EINVAL.
__attribute__((format(printf, 3, 4))) int boot_file_refuse(const struct boot_file *f, struct err *e,
							   const char *fmt, ...);

#endif
