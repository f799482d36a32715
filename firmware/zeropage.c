// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/zeropage.h"

#include "firmware/le.h"

#include <string.h>

#define ACPI_RSDP_ADDR	  0x070
#define EXT_RAMDISK_IMAGE 0x0c0
#define EXT_RAMDISK_SIZE  0x0c4
#define EXT_CMD_LINE_PTR  0x0c8
#define E820_ENTRIES	  0x1e8
#define BOOT_FLAG	  0x1fe
#define HEADER_MAGIC	  0x202
#define VERSION		  0x206
#define TYPE_OF_LOADER	  0x210
#define LOADFLAGS	  0x211
#define RAMDISK_IMAGE	  0x218
#define RAMDISK_SIZE	  0x21c
#define CMD_LINE_PTR	  0x228
#define KERNEL_ALIGNMENT  0x230
#define CMDLINE_SIZE	  0x238
#define SETUP_DATA	  0x250
#define E820_TABLE	  0x2d0
#define E820_ENTRY_SIZE	  20

#define LOADER_UNDEFINED 0xff
#define LOADED_HIGH	 0x01

static void put_split(uint8_t *page, unsigned low, unsigned high, uint64_t v)
{
	le32_put(page + low, (uint32_t)v);
	le32_put(page + high, (uint32_t)(v >> 32));
}

void zeropage_write(uint8_t *page, const struct kernel *k, const struct handover *h,
		    const struct e820_map *map)
{
	memset(page, 0, ZERO_PAGE_SIZE);
	if (k->header_len > 0) {
		memcpy(page + SETUP_HEADER_START, k->header, k->header_len);
	} else {
		// An ELF vmlinux brings no header; these are the fields that Linux looks at when it starts
		// from there.
		le16_put(page + BOOT_FLAG, 0xaa55);
		memcpy(page + HEADER_MAGIC, "HdrS", 4);
		le16_put(page + VERSION, 0x020c);
		le32_put(page + KERNEL_ALIGNMENT, 0x1000000);
		le32_put(page + CMDLINE_SIZE, k->cmdline_max);
	}
	page[TYPE_OF_LOADER] = LOADER_UNDEFINED;
	page[LOADFLAGS] |= LOADED_HIGH;
	le64_put(page + SETUP_DATA, 0);
	le64_put(page + ACPI_RSDP_ADDR, h->rsdp_gpa);
	put_split(page, CMD_LINE_PTR, EXT_CMD_LINE_PTR, h->cmdline_gpa);
	put_split(page, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, h->initrd_size ? h->initrd_gpa : 0);
	put_split(page, RAMDISK_SIZE, EXT_RAMDISK_SIZE, h->initrd_size);
	page[E820_ENTRIES] = (uint8_t)map->count;
	for (unsigned i = 0; i < map->count; i++) {
		uint8_t *p = page + E820_TABLE + (size_t)i * E820_ENTRY_SIZE;
		le64_put(p, map->entry[i].gpa);
		le64_put(p + 8, map->entry[i].size);
		le32_put(p + 16, map->entry[i].type);
	}
}
