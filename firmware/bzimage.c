// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/bzimage.h"

#include "firmware/layout_x86.h"
#include "firmware/le.h"

#include <inttypes.h>
#include <string.h>

// Offsets in the file: boot.rst, "The Real-Mode Kernel Header".
#define SETUP_SECTS	   0x1f1
#define SYSSIZE		   0x1f4
#define BOOT_FLAG	   0x1fe
#define JUMP_LEN	   0x201
#define HEADER_MAGIC	   0x202
#define VERSION		   0x206
#define LOADFLAGS	   0x211
#define INITRD_ADDR_MAX	   0x22c
#define KERNEL_ALIGNMENT   0x230
#define RELOCATABLE_KERNEL 0x234
#define XLOADFLAGS	   0x236
#define CMDLINE_SIZE	   0x238
#define PREF_ADDRESS	   0x258
#define INIT_SIZE	   0x260
#define HEADER_NEEDED	   0x264 // up to here a 2.12 header must reach

#define PROTOCOL_MIN  0x020c
#define LOADED_HIGH   0x01
#define XLF_KERNEL_64 0x0001
#define ENTRY_64      0x200
#define SECTOR	      512
#define PARAGRAPH     16
#define ALIGNMENT_MAX (UINT32_C(1) << 30)

bool bzimage_recognise(const uint8_t *head, size_t len)
{
	return len >= HEADER_MAGIC + 4 && le16(head + BOOT_FLAG) == 0xaa55 &&
	       memcmp(head + HEADER_MAGIC, "HdrS", 4) == 0;
}

static int header_check(const struct boot_file *f, const uint8_t *head, size_t len, struct kernel *k,
			struct err *e)
{
	if (len < HEADER_NEEDED)
		return boot_file_refuse(f, e, "the file is cut short: it ends within the setup header");
	unsigned version = le16(head + VERSION);
	if (version < PROTOCOL_MIN)
		return boot_file_refuse(f, e, "boot protocol %u.%02u is older than 2.12 (Linux 3.8)",
					version >> 8, version & 0xff);
	unsigned end = HEADER_MAGIC + head[JUMP_LEN];
	if (end < HEADER_NEEDED || end > SETUP_HEADER_LIMIT)
		return boot_file_refuse(f, e, "bad header: it claims to end at %#x", end);
	if (end > len)
		return boot_file_refuse(f, e, "the file is cut short: it ends within the setup header");
	if (!(le16(head + XLOADFLAGS) & XLF_KERNEL_64))
		return boot_file_refuse(f, e, "not a 64-bit kernel (no XLF_KERNEL_64)");
	if (!(head[LOADFLAGS] & LOADED_HIGH))
		return boot_file_refuse(f, e, "bad header: a zImage cannot be 64-bit");
	k->initrd_end = (uint64_t)le32(head + INITRD_ADDR_MAX) + 1;
	k->cmdline_max = le32(head + CMDLINE_SIZE);
	k->header_len = end - SETUP_HEADER_START;
	memcpy(k->header, head + SETUP_HEADER_START, k->header_len);
	return 0;
}

// A relocatable kernel, too, moves itself up to its preferred address, so that loading it elsewhere only
// costs a copy.
static int place(const struct boot_file *f, const uint8_t *head, uint64_t code_len, uint64_t ram_size,
		 struct kernel *k, struct err *e)
{
	uint64_t start = le64(head + PREF_ADDRESS);
	uint32_t align = le32(head + KERNEL_ALIGNMENT);
	if (head[RELOCATABLE_KERNEL]) {
		if (!is_power_of_two(align) || align > ALIGNMENT_MAX)
			return boot_file_refuse(f, e, "bad header: kernel_alignment %#x", align);
		if (start < LAYOUT_HIGH)
			start = LAYOUT_HIGH;
		if (start <= UINT32_MAX)
			start = align_up(start, align);
	} else if (start < LAYOUT_HIGH) {
		return boot_file_refuse(f, e, "bad header: load address %#" PRIx64 " is below 1 MiB", start);
	}
	uint64_t need = MAX(code_len, (uint64_t)le32(head + INIT_SIZE));
	if (!range_in(start, need, ram_size))
		return boot_file_refuse(f, e,
					"needs %" PRIu64 " KiB of RAM at address %#" PRIx64
					", but RAM ends at %#" PRIx64 " (vm.memory)",
					need >> 10, start, ram_size);
	k->start = start;
	k->end = start + need;
	k->entry = start + ENTRY_64;
	return 0;
}

int bzimage_load(struct kernel *k, const struct boot_file *f, const uint8_t *head, size_t len,
		 const struct guest_ram *ram, struct err *e)
{
	int rc = header_check(f, head, len, k, e);
	if (rc)
		return rc;

	// What lies behind the code (a signature) is not part of it.
	uint64_t code_off = (uint64_t)((head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) + 1) * SECTOR;
	uint64_t code_len = (uint64_t)le32(head + SYSSIZE) * PARAGRAPH;
	if (code_len <= ENTRY_64)
		return boot_file_refuse(f, e, "bad header: %" PRIu64 " bytes of code", code_len);
	if (code_off > f->size || code_len - MIN(code_len, f->size - code_off) >= PARAGRAPH)
		return boot_file_refuse(
			f, e, "the file is cut short: its header promises %" PRIu64 " bytes, it has %" PRIu64,
			code_off + code_len, f->size);
	code_len = MIN(code_len, f->size - code_off);

	rc = place(f, head, code_len, ram->low_size, k, e);
	if (rc)
		return rc;
	k->mode = BOOT_LINUX64;
	return boot_file_load(f, code_off, ram, k->start, code_len, e);
}
