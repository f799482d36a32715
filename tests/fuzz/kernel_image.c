// SPDX-License-Identifier: BSD-2-Clause
// Any bytes as a kernel file: either refused with a sentence, or entered within the memory it was given, the
// initrd clear of it.
#include "firmware/boot_x86.h"
#include "firmware/layout_x86.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE    (UINT64_C(20) << 20)
#define FILE_MAX    (1u << 20)
#define INITRD_SIZE 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *ram;
static int kernel_fd, initrd_fd;

static void start(void)
{
	const size_t guard = 4096;
	char *p = mmap(NULL, RAM_SIZE + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
	if (p == MAP_FAILED || mprotect(p + guard, RAM_SIZE, PROT_READ | PROT_WRITE) || kernel_fd < 0 ||
	    initrd_fd < 0 || ftruncate(initrd_fd, INITRD_SIZE))
		abort();
	ram = (uint8_t *)p + guard;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ram)
		start();
	if (size > FILE_MAX)
		return 0;
	if (ftruncate(kernel_fd, 0) || pwrite(kernel_fd, data, size, 0) != (ssize_t)size)
		abort();
	struct err e = { "" };
	struct boot_image out;
	struct boot_request rq = {
		.ram = { .low = ram, .low_size = RAM_SIZE, .low_fd = -1 },
		.kernel_fd = kernel_fd,
		.kernel_name = "kernel",
		.initrd_fd = initrd_fd,
		.initrd_name = "initrd",
		.cmdline = "x",
		.rsdp_gpa = LAYOUT_ACPI,
	};
	int rc = firmware_load(&out, &rq, &e);
	if (rc) {
		if (rc != -EINVAL || (strncmp(e.text, "kernel kernel: ", 15) != 0 &&
				      strncmp(e.text, "initrd initrd: ", 15) != 0))
			abort();
		return 0;
	}
	if (out.kernel_gpa < LAYOUT_LOW_FREE || out.kernel_end > RAM_SIZE || out.rip < out.kernel_gpa ||
	    out.rip >= out.kernel_end || out.initrd_gpa < out.kernel_end || out.initrd_gpa < LAYOUT_HIGH ||
	    out.initrd_gpa + INITRD_SIZE > RAM_SIZE || out.initrd_gpa % 4096)
		abort();
	return 0;
}
