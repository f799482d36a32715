// SPDX-License-Identifier: BSD-2-Clause
// Puts a kernel, its initrd, its command line and what it expects to find into guest RAM, and says how the
// boot vCPU starts.
//
// The monitor's only way into the loaders.  Called before the first instruction of every boot, the first and
// each after a reset, on RAM that reads as zeros.  Opens nothing, closes nothing, keeps nothing: fstat(2),
// pread(2), and lseek(2) and sendfile(2) to the file behind RAM are all it asks of the kernel.
#ifndef MINIVMM_FIRMWARE_BOOT_X86_H
#define MINIVMM_FIRMWARE_BOOT_X86_H

#include "firmware/e820.h"
#include "firmware/guest_ram.h"
#include "firmware/kernel.h"
#include "vmm/base/err.h"

struct boot_request {
	struct guest_ram ram;
	int kernel_fd;		 // a regular file, readable; stays the caller's
	const char *kernel_name; // for messages
	int initrd_fd;		 // or -1
	const char *initrd_name;
	const char *cmdline;
	uint64_t rsdp_gpa;		   // the tables are the caller's to write, too, at each boot (acpi.h)
	const struct boot_range *reserved; // outside RAM, at most 12: what the memory map calls so (ECAM)
	unsigned reserved_count;
};

// A segment register as VMX and SVM hold it, hidden part included.
struct boot_segment {
	uint16_t selector;
	uint32_t base;
	uint32_t limit; // bytes, already scaled
	uint8_t type;	// 4 bits
	bool s;		// code or data (else system)
	bool l, db, g;	// present is always 1, dpl 0
};

struct boot_image {
	enum boot_mode mode;
	uint64_t rip, rsi, rbx; // all other general registers 0, RFLAGS 2, interrupts off
	uint64_t cr0, cr3, cr4, efer;
	struct boot_segment cs, data, tr; // `data` is for DS, ES, FS, GS and SS
	uint64_t gdt_gpa;
	uint16_t gdt_limit; // IDT: base 0, limit 0
	// What lies where, for messages and tests
	uint64_t kernel_gpa, kernel_end;
	uint64_t initrd_gpa, initrd_size;
};

// The format is told by its magic number.  0; or -errno with one sentence that names the file, and the guest
// must not be started.
int firmware_load(struct boot_image *out, const struct boot_request *rq, struct err *e);

#endif
