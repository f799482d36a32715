// SPDX-License-Identifier: BSD-2-Clause
// Bytes out of and into a scatter list at an offset.  Nothing beyond its end is touched; what a list is too short for reads as
// zeros.
#ifndef MINIVMM_SDK_SCATTER_H
#define MINIVMM_SDK_SCATTER_H

#include "vmm/base/check.h"

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

static inline void scatter_read(const struct iovec *iov, unsigned count, uint64_t off, void *to, size_t len)
{
	uint8_t *out = to;
	for (unsigned i = 0; i < count && len > 0; off -= MIN(off, (uint64_t)iov[i].iov_len), i++) {
		if (off >= iov[i].iov_len)
			continue;
		size_t n = MIN(len, iov[i].iov_len - (size_t)off);
		memcpy(out, (const uint8_t *)iov[i].iov_base + off, n);
		out += n;
		len -= n;
	}
	memset(out, 0, len);
}

static inline void scatter_write(const struct iovec *iov, unsigned count, uint64_t off, const void *from,
				 size_t len)
{
	const uint8_t *in = from;
	for (unsigned i = 0; i < count && len > 0; off -= MIN(off, (uint64_t)iov[i].iov_len), i++) {
		if (off >= iov[i].iov_len)
			continue;
		size_t n = MIN(len, iov[i].iov_len - (size_t)off);
		memcpy((uint8_t *)iov[i].iov_base + off, in, n);
		in += n;
		len -= n;
	}
}

// Drops the first `len` bytes.
static inline void scatter_drop(struct iovec **iov, unsigned *count, size_t len)
{
	while (len > 0 && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*count)--;
	}
	if (len > 0) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}

#endif
