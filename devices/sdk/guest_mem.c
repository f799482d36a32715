// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/guest_mem.h"

#include "vmm/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t guest_mem_align(const struct stat *st)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), block = (uint64_t)st->st_blksize;
	return st->st_blksize > 0 && is_power_of_two(block) && block > page && block <= UINT64_C(1) << 30
		       ? block
		       : page;
}

bool guest_mem_allows(const struct guest_mem *m, int fd)
{
	// A memfd, or a file that is memory as well: others have no seals, and no file system is asked for those.
	return !m->memory_only || fcntl(fd, F_GET_SEALS) >= 0;
}

static uint64_t mapped_len(const struct guest_mem *m)
{
	uint64_t len = 0;
	for (unsigned i = 0; i < m->count; i++)
		len += m->region[i].map_len;
	return len;
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

// Checks numbers and maps; `st` is fstat's word on fd.
static int region_add(struct guest_mem *m, int fd, const struct stat *st, uint64_t file_off,
		      struct guest_region r)
{
	const uint64_t gpa = r.base[GUEST_PHYSICAL], uva = r.base[GUEST_USER];
	uint64_t align = guest_mem_align(st), skip = file_off & (align - 1);
	if (r.len == 0 || r.len > (UINT64_C(1) << 62) || file_off > INT64_MAX - r.len ||
	    !range_in(gpa, r.len, UINT64_MAX) || !range_in(uva, r.len, UINT64_MAX))
		return -ERANGE;
	if (S_ISREG(st->st_mode) && (st->st_size < 0 || !range_in(file_off, r.len, (uint64_t)st->st_size)))
		return -ERANGE;
	if (m->count == GUEST_REGIONS_MAX)
		return -ENOSPC;
	if (overlaps_any(m, gpa, uva, r.len))
		return -EEXIST;
	r.map_len = (size_t)align_up(r.len + skip, align);
	if (m->most && !range_in(mapped_len(m), r.map_len, m->most))
		return -E2BIG;
	r.map = mmap(NULL, r.map_len, r.read_only ? PROT_READ : PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_NORESERVE, fd, (off_t)(file_off - skip));
	if (r.map == MAP_FAILED)
		return -errno;
	madvise(r.map, r.map_len, MADV_DONTDUMP);
	r.host = (uint8_t *)r.map + skip;
	m->region[m->count++] = r;
	return 0;
}

int guest_mem_add(struct guest_mem *m, int fd, uint64_t file_off, uint64_t gpa, uint64_t uva, uint64_t len)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if (!guest_mem_allows(m, fd))
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR)
		return -EBADF;
	return region_add(
		m, fd, &st, file_off,
		(struct guest_region){ .base = { [GUEST_PHYSICAL] = gpa, [GUEST_USER] = uva }, .len = len });
}

int guest_mem_add_iova(struct guest_mem *m, int fd, uint64_t file_off, uint64_t iova, uint64_t len,
		       bool read_only)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	return region_add(m, fd, &st, file_off,
			  (struct guest_region){ .base = { [GUEST_PHYSICAL] = iova, [GUEST_USER] = iova },
						 .len = len,
						 .read_only = read_only });
}

static void region_remove(struct guest_mem *m, unsigned i)
{
	munmap(m->region[i].map, m->region[i].map_len);
	m->region[i] = m->region[--m->count];
	m->hint = 0;
}

int guest_mem_remove(struct guest_mem *m, uint64_t gpa, uint64_t uva, uint64_t len)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct guest_region *r = &m->region[i];
		if (r->base[GUEST_PHYSICAL] != gpa || r->base[GUEST_USER] != uva || r->len != len)
			continue;
		region_remove(m, i);
		return 0;
	}
	return -ENOENT;
}

void guest_mem_remove_range(struct guest_mem *m, uint64_t first, uint64_t last)
{
	for (unsigned i = m->count; i-- > 0;) {
		const struct guest_region *r = &m->region[i];
		if (r->base[GUEST_PHYSICAL] <= last && first <= r->base[GUEST_PHYSICAL] + (r->len - 1))
			region_remove(m, i);
	}
}

void guest_mem_clear(struct guest_mem *m)
{
	for (unsigned i = 0; i < m->count; i++)
		munmap(m->region[i].map, m->region[i].map_len);
	m->count = 0;
	m->hint = 0;
}

static const struct guest_region *region_find(struct guest_mem *m, enum guest_space space, uint64_t at)
{
	for (unsigned i = 0, n = m->hint; i < m->count; i++, n = n + 1 < m->count ? n + 1 : 0) {
		const struct guest_region *r = &m->region[n];
		if (at < r->base[space] || at - r->base[space] >= r->len)
			continue;
		m->hint = n;
		return r;
	}
	return NULL;
}

static const struct guest_region *region_get(struct guest_mem *m, enum guest_space space, uint64_t at)
{
	const struct guest_region *r = region_find(m, space, at);
	if (!r && m->missing && m->missing(m, at))
		r = region_find(m, space, at);
	return r && r->read_only && space == GUEST_USER ? NULL : r;
}

static void *region_piece(const struct guest_region *r, enum guest_space space, uint64_t at, uint64_t len,
			  uint64_t *got)
{
	const uint64_t off = at - r->base[space];
	*got = MIN(len, r->len - off);
	return r->host + off;
}

void *guest_mem_translate(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len,
			  uint64_t *got)
{
	const struct guest_region *r = len == 0 ? NULL : region_get(m, space, at);
	return r ? region_piece(r, space, at, len, got) : NULL;
}

void *guest_mem_at(struct guest_mem *m, enum guest_space space, uint64_t at, uint64_t len)
{
	uint64_t got;
	void *p = guest_mem_translate(m, space, at, len, &got);
	return p && got == len ? p : NULL;
}

uint64_t guest_mem_gpa(struct guest_mem *m, uint64_t uva)
{
	const struct guest_region *r = region_get(m, GUEST_USER, uva);
	return r ? r->base[GUEST_PHYSICAL] + (uva - r->base[GUEST_USER]) : UINT64_MAX;
}

int guest_mem_iov(struct guest_mem *m, enum guest_access access, uint64_t gpa, uint64_t len,
		  struct iovec *iov, unsigned max)
{
	unsigned n = 0;
	while (len > 0) {
		uint64_t got;
		const struct guest_region *r = region_get(m, GUEST_PHYSICAL, gpa);
		if (!r || (r->read_only && access == GUEST_WRITE))
			return -EFAULT;
		if (n == max)
			return -ENOBUFS;
		void *p = region_piece(r, GUEST_PHYSICAL, gpa, len, &got);
		iov[n++] = (struct iovec){ .iov_base = p, .iov_len = (size_t)got };
		// A region ends below 2^64, so the sum wraps to at most 0, which then is looked up like any address.
		gpa += got;
		len -= got;
	}
	return (int)n;
}
