// SPDX-License-Identifier: BSD-2-Clause
#include "firmware/bootfile.h"

#include "vmm/base/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

// read(2) takes at most 0x7ffff000 bytes a call.
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
