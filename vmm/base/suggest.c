// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/suggest.h"

#include "vmm/base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define WORD_MAX 32

// The number of single changes between two words (optimal string alignment).
static unsigned distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	unsigned row[3][WORD_MAX + 1]; // for i - 2, i - 1 and i letters of a
	for (size_t j = 0; j <= b_len; j++)
		row[0][j] = row[1][j] = row[2][j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned *now = row[i % 3], *above = row[(i + 2) % 3], *above2 = row[(i + 1) % 3];
		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			unsigned d = above[j - 1] + (a[i - 1] != b[j - 1]);
			d = MIN(d, MIN(above[j], now[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d = MIN(d, above2[j - 2] + 1);
			now[j] = d;
		}
	}
	return row[a_len % 3][b_len];
}

// What other machine monitors and other files call it.
static bool is_elsewhere(const char *word, const char *known)
{
	static const char *const names[][2] = {
		{ "ram", "memory" },
		{ "mem", "memory" },
		{ "vcpus", "cpus" },
		{ "smp", "cpus" },
		{ "append", "cmdline" },
		{ "params", "cmdline" },
		{ "command_line", "cmdline" },
		{ "initramfs", "initrd" },
		{ "ramdisk", "initrd" },
		{ "type", "virtio" },
		{ "model", "virtio" },
		{ "name", "id" },
		{ "file", "image" },
		{ "disk", "image" },
		{ "drive", "device" },
		{ "disk", "device" },
		{ "net", "device" },
		{ "network", "device" },
		{ "nic", "device" },
		{ "ifname", "tap" },
		{ "interface", "tap" },
		{ "block", "blk" },
		{ "disk", "blk" },
		{ "network", "net" },
		{ "nic", "net" },
		{ "virtiofs", "fs" },
		{ "virtiofsd", "fs" },
		{ "vfio-pci", "vfio" },
		{ "vdpa", "vhost-vdpa" },
		{ "vhost-net", "vhost" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i][0], word) == 0 && strcmp(names[i][1], known) == 0)
			return true;
	return strncmp(word, "virtio-", 7) == 0 && strcmp(word + 7, known) == 0;
}

void suggest_offer(struct suggest *s, const char *known)
{
	size_t a_len = strlen(s->word), b_len = strlen(known);
	if (a_len == 0 || a_len > WORD_MAX || b_len > WORD_MAX)
		return;
	unsigned d = is_elsewhere(s->word, known) ? 0 : distance(s->word, a_len, known, b_len);
	unsigned near = MIN(a_len, b_len) <= 3 ? 1 : 2;
	if (d > near || d >= b_len || (s->best && d >= s->distance))
		return;
	s->best = known;
	s->distance = d;
}
