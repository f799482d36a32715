// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/syscall_name.h"

#include "vmm/base/check.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Made by vmm/syscall_names, sorted: CALL(name, number).  All names are one string, which numbers point into: pointers a program that
// is loaded anywhere would have to adjust at each start, and the longest name is three times the usual.
#define CALL(name, number) char name_##name[sizeof(#name)];
static const struct names {
#include <syscalls.inc>
#undef CALL
#define CALL(name, number) #name,
} names = {
#include <syscalls.inc>
#undef CALL
};

#define CALL(name, number) { offsetof(struct names, name_##name), number },
static const struct call {
	uint16_t name;
	int16_t number;
} calls[] = {
#include <syscalls.inc>
};

static const char *name_of(const struct call *c)
{
	return (const char *)&names + c->name;
}

static int compare(const void *name, const void *call)
{
	return strcmp(name, name_of(call));
}

bool syscall_number(const char *name, int *number)
{
	const struct call *c = bsearch(name, calls, ARRAY_LEN(calls), sizeof(calls[0]), compare);
	if (c)
		*number = c->number;
	return c != NULL;
}

const char *syscall_name(int number)
{
	for (unsigned i = 0; i < ARRAY_LEN(calls); i++)
		if (calls[i].number == number)
			return name_of(&calls[i]);
	return NULL;
}
