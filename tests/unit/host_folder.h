// SPDX-License-Identifier: BSD-2-Clause
// For unit tests: a host that is a folder, with /sys, /dev and /proc below it as a kernel shows them.
#ifndef MINIVMM_TESTS_UNIT_HOST_FOLDER_H
#define MINIVMM_TESTS_UNIT_HOST_FOLDER_H

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/minivmm-host-XXXXXX"; // mkdtemp() begins a host, host_end() ends it

static inline int host_removed(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

static inline void host_end(void)
{
	nftw(root, host_removed, 16, FTW_DEPTH | FTW_PHYS);
	strcpy(root + sizeof(root) - 7, "XXXXXX");
}

// The path's folders are made; its name below the root, until the next call.
static inline const char *host_place(const char *path)
{
	static char full[512];
	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		mkdir(full, 0755);
	}
	return full;
}

static inline bool host_file(const char *path, const char *text)
{
	FILE *f = fopen(host_place(path), "we");
	return f && fputs(text, f) >= 0 && fclose(f) == 0;
}

static inline bool host_link(const char *path, const char *target)
{
	return symlink(target, host_place(path)) == 0;
}

#endif
