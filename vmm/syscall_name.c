// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/syscall_name.h"

#include "vmm/base/check.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Sorted.  Arrays and not pointers, which a program that is loaded anywhere would have to adjust at each start.
static const struct call {
	char name[30];
	int16_t number;
} calls[] = {
#include <syscalls.inc> // made by vmm/syscall_names
};

static int compare(const void *name, const void *call)
{
	return strcmp(name, ((const struct call *)call)->name);
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
			return calls[i].name;
	return NULL;
}
