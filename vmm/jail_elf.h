// SPDX-License-Identifier: BSD-2-Clause
// Which files a program needs to start: its interpreter and shared libraries, found the way the dynamic loader finds them.
//
// Reads the files and executes nothing (the loader's own --list would run a program's interpreter outside its jail).  What a program loads later by
// dlopen() is not found; a profile shows that.
#ifndef MINIVMM_VMM_JAIL_ELF_H
#define MINIVMM_VMM_JAIL_ELF_H

#include "vmm/base/arena.h"
#include "vmm/base/err.h"

#define ELF_NEEDS_MAX 160

struct elf_needs {
	const char *path[ELF_NEEDS_MAX]; // host paths, absolute, as the loader will ask for them; each once
	unsigned count;
};

// Adds `program` (absolute) and all it needs; for a script the interpreter and what that needs.  Texts live in the arena.  A library that is nowhere
// is left out: the loader then says so itself, in the program's log.  -errno with the sentence.
int elf_needs_add(struct elf_needs *n, struct arena *a, const char *program, struct err *e);

#endif
