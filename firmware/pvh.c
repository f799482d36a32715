// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/pvh.h"

#include "firmware/layout_x86.h"
#include "firmware/le.h"

#include <assert.h>
#include <string.h>

#define START_MAGIC 0x336ec578
#define VERSION	    4
#define NR_MODULES  12
#define MODLIST	    16
#define CMDLINE	    24
#define RSDP	    32
#define MEMMAP	    40
#define MEMMAP_LEN  48

static_assert(PVH_SIZE <= LAYOUT_PVH_SIZE, "they fit in their place");

void pvh_write(uint8_t *buf, uint64_t gpa, const struct handover *h, const struct e820_map *map)
{
	uint8_t *module = buf + PVH_START_SIZE, *memmap = module + PVH_MODULE_SIZE;
	memset(buf, 0, PVH_SIZE);
	le32_put(buf, START_MAGIC);
	le32_put(buf + VERSION, 1);
	le64_put(buf + CMDLINE, h->cmdline_gpa);
	le64_put(buf + RSDP, h->rsdp_gpa);
	if (h->initrd_size) {
		le32_put(buf + NR_MODULES, 1);
		le64_put(buf + MODLIST, gpa + PVH_START_SIZE);
		le64_put(module, h->initrd_gpa);
		le64_put(module + 8, h->initrd_size);
	}
	le64_put(buf + MEMMAP, gpa + PVH_START_SIZE + PVH_MODULE_SIZE);
	le32_put(buf + MEMMAP_LEN, map->count);
	for (unsigned i = 0; i < map->count; i++) {
		uint8_t *p = memmap + (size_t)i * PVH_ENTRY_SIZE;
		le64_put(p, map->entry[i].gpa);
		le64_put(p + 8, map->entry[i].size);
		le32_put(p + 16, map->entry[i].type);
	}
}
