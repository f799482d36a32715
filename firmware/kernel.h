// SPDX-License-Identifier: BSD-2-Clause
// What is known about a kernel once its file has been read and checked: filled by bzimage.c or elf.c, used by
// boot_x86.c.
#ifndef MINIVMM_FIRMWARE_KERNEL_H
#define MINIVMM_FIRMWARE_KERNEL_H

#include <stdint.h>

enum boot_mode {
	BOOT_LINUX64, // long mode, identity map of 4 GiB, RSI = boot_params (Linux x86 boot protocol, "64-bit
		      // boot protocol")
	BOOT_PVH32,   // 32-bit protected mode, no paging, EBX = hvm_start_info (Xen, docs/misc/pvh.pandoc)
};

#define SETUP_HEADER_START 0x1f1 // in the file and in boot_params alike
#define SETUP_HEADER_LIMIT 0x290 // where boot_params goes on with other things

struct kernel {
	enum boot_mode mode;
	uint64_t entry;	      // gpa
	uint64_t start, end;  // gpa: the memory that is the kernel's, from its lowest byte on
	uint64_t initrd_end;  // gpa: an initrd may reach up to here at most
	uint32_t cmdline_max; // bytes, less the NUL
	uint8_t header[SETUP_HEADER_LIMIT - SETUP_HEADER_START];
	uint32_t header_len; // 0: the format has none
};

#endif
