// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/guest_mem.h"

#include "vmm/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

// What a mapping's offset and length must be multiples of: the page size, or the huge page size of a hugetlb file, which
// fstat gives as its block size.
static uint64_t map_align(const struct stat *st)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), block = (uint64_t)st->st_blksize;
	return st->st_blksize > 0 && is_power_of_two(block) && block > page && block <= UINT64_C(1) << 30
		       ? block
		       : page;
}

bool guest_mem_allows(const struct guest_mem *m, int fd)
{
	struct statfs st;
	// A memfd, or a file that is memory as well.
	return !m->memory_only ||
	       (fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == HUGETLBFS_MAGIC));
}

static bool overlaps_any(const struct guest_mem *m, uint64_t gpa, uint64_t uva, uint64_t len)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct guest_region *r = &m->region[i];
		if (range_overlaps(r->base[GUEST_PHYSICAL], r->len, gpa, len) ||
		    range_overlaps(r->base[GUEST_USER], r->len, uva, len))
			return true;
	}
	return false;
}

int guest_mem_add(struct guest_mem *m, int fd, uint64_t file_off, uint64_t gpa, uint64_t uva, uint64_t len)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR)
		return -EBADF;
	if (!guest_mem_allows(m, fd))
		return -EPERM;
	if (len == 0 || st.st_size < 0 || !range_in(file_off, len, (uint64_t)st.st_size) ||
	    !range_in(gpa, len, UINT64_MAX) || !range_in(uva, len, UINT64_MAX))
		return -ERANGE;
	if (m->count == GUEST_REGIONS_MAX)
		return -ENOSPC;
	if (overlaps_any(m, gpa, uva, len))
		return -EEXIST;
	uint64_t align = map_align(&st), skip = file_off & (align - 1);
	if (len > (UINT64_C(1) << 62))
		return -ERANGE;
	size_t map_len = (size_t)align_up(len + skip, align);
	void *map = mmap(NULL, map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
			 (off_t)(file_off - skip));
	if (map == MAP_FAILED)
		return -errno;
	madvise(map, map_len, MADV_DONTDUMP);
	m->region[m->count++] = (struct guest_region){
		.base = { [GUEST_PHYSICAL] = gpa, [GUEST_USER] = uva },
		.len = len,
		.host = (uint8_t *)map + skip,
		.map = map,
		.map_len = map_len,
	};
	return 0;
}

int guest_mem_remove(struct guest_mem *m, uint64_t gpa, uint64_t uva, uint64_t len)
{
	for (unsigned i = 0; i < m->count; i++) {
		struct guest_region *r = &m->region[i];
		if (r->base[GUEST_PHYSICAL] != gpa || r->base[GUEST_USER] != uva || r->len != len)
			continue;
		munmap(r->map, r->map_len);
		*r = m->region[--m->count];
		m->hint = 0;
		return 0;
	}
	return -ENOENT;
}

void guest_mem_clear(struct guest_mem *m)
{
	for (unsigned i = 0; i < m->count; i++)
		munmap(m->region[i].map, m->region[i].map_len);
	m->count = 0;
	m->hint = 0;
}

void *guest_mem_translate(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len,
			  uint64_t *got)
{
	if (len == 0)
		return NULL;
	for (unsigned i = 0, n = m->hint; i < m->count; i++, n = n + 1 < m->count ? n + 1 : 0) {
		const struct guest_region *r = &m->region[n];
		uint64_t off = at - r->base[space];
		if (at < r->base[space] || off >= r->len)
			continue;
		m->hint = n;
		*got = MIN(len, r->len - off);
		return r->host + off;
	}
	return NULL;
}

void *guest_mem_at(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len)
{
	uint64_t got;
	void *p = guest_mem_translate(m, space, at, len, &got);
	return p && got == len ? p : NULL;
}

int guest_mem_iov(struct guest_mem *m, uint64_t gpa, uint64_t len, struct iovec *iov, unsigned max)
{
	unsigned n = 0;
	while (len > 0) {
		uint64_t got;
		void *p = guest_mem_translate(m, GUEST_PHYSICAL, gpa, len, &got);
		if (!p)
			return -EFAULT;
		if (n == max)
			return -ENOBUFS;
		iov[n++] = (struct iovec){ .iov_base = p, .iov_len = (size_t)got };
		// A region ends below 2^64, so the sum wraps to at most 0, which then is looked up like any address.
		gpa += got;
		len -= got;
	}
	return (int)n;
}
