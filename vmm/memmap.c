// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/memmap.h"

#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_4K UINT64_C(0x1000)
#define PAGE_2M UINT64_C(0x200000)
#define PAGE_1G UINT64_C(0x40000000)

uint64_t memmap_page_size(enum mem_backing backing)
{
	switch (backing) {
	case MEM_BACKING_HUGETLB_2M:
		return PAGE_2M;
	case MEM_BACKING_HUGETLB_1G:
		return PAGE_1G;
	case MEM_BACKING_MEMFD:
		break;
	}
	return PAGE_4K;
}

static unsigned memfd_flags(enum mem_backing backing)
{
	switch (backing) {
	case MEM_BACKING_HUGETLB_2M:
		return MFD_HUGETLB | MFD_HUGE_2MB;
	case MEM_BACKING_HUGETLB_1G:
		return MFD_HUGETLB | MFD_HUGE_1GB;
	case MEM_BACKING_MEMFD:
		break;
	}
	return 0;
}

// A sealed memfd: whoever gets it can neither shrink it under our mappings nor lift the seals.
static int ram_fd_create(uint64_t size, enum mem_backing backing, struct err *e)
{
	FD_AUTO fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | memfd_flags(backing));
	if (fd < 0)
		return err_sys(e, errno, "guest RAM: memfd_create%s",
			       backing == MEM_BACKING_MEMFD ? ""
							    : " (huge pages; see /proc/sys/vm/nr_hugepages)");
	if (ftruncate(fd, (off_t)size) < 0)
		return err_sys(e, errno, "guest RAM: %llu MiB", (unsigned long long)(size >> 20));
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(e, errno, "guest RAM: seal");
	return fd_steal(&fd);
}

// Where the host gives huge pages to shared memory (shmem_enabled), it and KVM want gpa, hva and file offset to agree
// within one.
static void *map_aligned(uint64_t size, int fd, uint64_t fd_offset)
{
	char *room =
		mmap(NULL, size + PAGE_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return MAP_FAILED;
	uint64_t before = -(uint64_t)(uintptr_t)room & (PAGE_2M - 1), after = PAGE_2M - before;
	void *hva = mmap(room + before, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
			 fd, (off_t)fd_offset);
	if (hva == MAP_FAILED) {
		int error = errno;
		munmap(room, size + PAGE_2M);
		errno = error;
		return MAP_FAILED;
	}
	if (before)
		munmap(room, before);
	munmap(room + before + size, after);
	return hva;
}

static int region_map(struct memmap *m, uint64_t gpa, uint64_t size, uint64_t fd_offset,
		      enum mem_backing backing, struct err *e)
{
	void *hva = backing == MEM_BACKING_MEMFD ? map_aligned(size, m->fd, fd_offset)
						 : mmap(NULL, size, PROT_READ | PROT_WRITE,
							MAP_SHARED | MAP_NORESERVE, m->fd, (off_t)fd_offset);
	if (hva == MAP_FAILED)
		return err_sys(
			e, errno, "guest RAM: map %llu MiB%s", (unsigned long long)(size >> 20),
			backing == MEM_BACKING_MEMFD ? "" : " of huge pages (see /proc/sys/vm/nr_hugepages)");
	madvise(hva, size, MADV_HUGEPAGE); // the host decides
	// A core dump of the monitor must not hold the guest's memory.
	madvise(hva, size, MADV_DONTDUMP);
	madvise(hva, size, MADV_DONTFORK); // nor a process that is forked later and lives longer
	m->ram.region[m->ram.count++] = (struct mem_region){
		.gpa = gpa, .size = size, .hva = hva, .fd = m->fd, .fd_offset = fd_offset
	};
	return 0;
}

// Huge pages are few: find out now, and not by a SIGBUS when the guest touches the one that is missing.
static int huge_pages_take(const struct memmap *m)
{
	if (m->backing != MEM_BACKING_MEMFD && fallocate(m->fd, 0, 0, (off_t)m->size) < 0)
		return -errno;
	return 0;
}

int memmap_create(struct memmap *m, uint64_t size, enum mem_backing backing, uint64_t hole_start,
		  uint64_t high_start, struct err *e)
{
	*m = (struct memmap){ .fd = -1, .size = size, .backing = backing };
	uint64_t page = memmap_page_size(backing);
	if (size == 0 || size % page || size > INT64_MAX)
		return err_set(e, EINVAL, "guest RAM: %llu bytes is not a multiple of the page size %llu",
			       (unsigned long long)size, (unsigned long long)page);
	int fd = ram_fd_create(size, backing, e);
	if (fd < 0)
		return fd;
	m->fd = fd;

	uint64_t low = MIN(size, hole_start & ~(page - 1));
	int rc = region_map(m, 0, low, 0, backing, e);
	if (rc == 0 && size > low)
		rc = region_map(m, high_start, size - low, low, backing, e);
	if (rc == 0 && (rc = huge_pages_take(m)) < 0)
		err_sys(e, -rc, "guest RAM: %llu MiB of huge pages (see /proc/sys/vm/nr_hugepages)",
			(unsigned long long)(size >> 20));
	if (rc < 0)
		memmap_destroy(m);
	return rc;
}

void memmap_destroy(struct memmap *m)
{
	while (m->ram.count > 0) {
		const struct mem_region *r = &m->ram.region[--m->ram.count];
		munmap(r->hva, r->size);
	}
	fd_close(&m->fd);
}

void *mem_table_ptr(const struct mem_table *t, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < t->count; i++) {
		const struct mem_region *r = &t->region[i];
		if (gpa >= r->gpa && range_in(gpa - r->gpa, len, r->size))
			return (char *)r->hva + (gpa - r->gpa);
	}
	return NULL;
}

void *memmap_ptr(const struct memmap *m, uint64_t gpa, uint64_t len)
{
	return mem_table_ptr(&m->ram, gpa, len);
}

int memmap_clear(struct memmap *m)
{
	for (unsigned i = 0; m->pinned && i < m->ram.count; i++)
		memset(m->ram.region[i].hva, 0, m->ram.region[i].size);
	if (m->pinned)
		return 0;
	if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)m->size) < 0)
		return -errno;
	return huge_pages_take(m); // somebody else may have been quicker
}
