// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/bootfile.h"

#include "vmm/base/check.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

// read(2) and sendfile(2) take at most 0x7ffff000 bytes a call.
#define READ_MAX (UINT64_C(1) << 30)

int boot_file_refuse(const struct boot_file *f, struct err *e, const char *fmt, ...)
{
	char text[384];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(e, EINVAL, "%s %s: %s", f->what, f->name, text);
}

int boot_file_size(struct boot_file *f, struct err *e)
{
	struct stat st;
	if (fstat(f->fd, &st))
		return err_sys(e, errno, "%s %s: cannot be examined", f->what, f->name);
	if (!S_ISREG(st.st_mode))
		return boot_file_refuse(f, e, "not a regular file");
	if (st.st_size <= 0)
		return boot_file_refuse(f, e, "the file is empty");
	f->size = (uint64_t)st.st_size;
	return 0;
}

int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	if (!range_in(off, len, INT64_MAX))
		return boot_file_refuse(f, e, "no file has %" PRIu64 " bytes at offset %" PRIu64, len, off);
	for (char *p = buf; len > 0;) {
		ssize_t n = pread(f->fd, p, (size_t)MIN(len, READ_MAX), (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "%s %s: reading %" PRIu64 " bytes at offset %" PRIu64,
				       f->what, f->name, len, off);
		if (n == 0)
			return boot_file_refuse(f, e,
						"the file is cut short: %" PRIu64
						" bytes are missing at offset %" PRIu64,
						len, off);
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

// Into the file behind RAM: a page comes to be with its contents, where a read through the mapping has it faulted in and
// zeroed first.  Returns how many bytes got there; not every file can be sent, nor every one be sent to (hugetlbfs).
static uint64_t file_send(const struct boot_file *f, uint64_t off, const struct guest_ram *ram, uint64_t gpa,
			  uint64_t len)
{
	uint64_t sent = 0;
	off_t from = (off_t)off;
	if (ram->low_fd < 0 || lseek(ram->low_fd, (off_t)(ram->low_fd_offset + gpa), SEEK_SET) < 0)
		return 0;
	while (sent < len) {
		ssize_t n = sendfile(ram->low_fd, f->fd, &from, (size_t)MIN(len - sent, READ_MAX));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		sent += (uint64_t)n;
	}
	return sent;
}

int boot_file_load(const struct boot_file *f, uint64_t off, const struct guest_ram *ram, uint64_t gpa,
		   uint64_t len, struct err *e)
{
	char *to = guest_ram_ptr(ram, gpa, len);
	assert(to);
	if (!range_in(off, len, INT64_MAX))
		return boot_file_refuse(f, e, "no file has %" PRIu64 " bytes at offset %" PRIu64, len, off);
	// Whatever is left is read, or it is reading that says why not.
	uint64_t sent = file_send(f, off, ram, gpa, len);
	return sent < len ? boot_file_read(f, off + sent, to + sent, len - sent, e) : 0;
}
