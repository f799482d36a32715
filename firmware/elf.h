// SPDX-License-Identifier: BSD-2-Clause
// ELF64 kernels for x86_64: a Linux vmlinux, or any freestanding program that speaks one of the two entry
// protocols.
//
// With a PVH note (name "Xen", type 18) the entry is PVH's; without one it is e_entry, a physical address, in
// long mode. Segments are loaded at their physical addresses, which have to lie in RAM and off what
// boot_x86.c puts there.
#ifndef MINIVMM_FIRMWARE_ELF_H
#define MINIVMM_FIRMWARE_ELF_H

#include "firmware/bootfile.h"
#include "firmware/guest_ram.h"
#include "firmware/kernel.h"

#include <stdbool.h>

bool elf_recognise(const uint8_t *head, size_t len);

// Checks the ELF header in `head` (the file's first `len` bytes, recognised), the program headers and notes,
// and loads the segments straight into RAM.  0, or -errno with the sentence set.
int elf_load(struct kernel *k, const struct boot_file *f, const uint8_t *head, size_t len,
	     const struct guest_ram *ram, struct err *e);

#endif
