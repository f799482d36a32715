// SPDX-License-Identifier: BSD-2-Clause
// Linux bzImages for x86_64 (Documentation/arch/x86/boot.rst, protocol 2.12 and later).
//
// Called by boot_x86.c.  The real-mode part of the file is never run; only its header is read.
#ifndef MINIVMM_FIRMWARE_BZIMAGE_H
#define MINIVMM_FIRMWARE_BZIMAGE_H

#include "firmware/bootfile.h"
#include "firmware/guest_ram.h"
#include "firmware/kernel.h"

#include <stdbool.h>

// True if the first `len` bytes of a file carry the magic numbers.
bool bzimage_recognise(const uint8_t *head, size_t len);

// Checks the header in `head` (the file's first `len` bytes, read once, recognised) and loads the
// protected-mode code straight into RAM at its preferred address.  0, or -errno with the sentence set.
int bzimage_load(struct kernel *k, const struct boot_file *f, const uint8_t *head, size_t len,
		 const struct guest_ram *ram, struct err *e);

#endif
