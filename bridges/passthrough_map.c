// SPDX-License-Identifier: BSD-2-Clause
// Which pages of a device's BARs the monitor maps, to show them to the guest: those that the carrier lets be mapped, from a device or from a
// memory file that nobody can cut short, and none with the MSI-X table or its pending bits.  Called by passthrough_bar.c.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

// NULL, or why an area is not mapped but trapped.
static const char *area_refused(const struct vfio_region *r, uint64_t offset, uint64_t size)
{
	struct stat st;
	if (r->fd_offset > INT64_MAX - r->size || (r->fd_offset + offset) % page_size())
		return "its place in the descriptor makes no sense";
	if (fstat(r->fd, &st) < 0)
		return "its descriptor cannot be looked at";
	if (!S_ISREG(st.st_mode))
		return S_ISCHR(st.st_mode) || !(st.st_mode & S_IFMT)
			       ? NULL
			       : "its descriptor is no device and no memfd";
	const int seals = fcntl(r->fd, F_GET_SEALS);
	if (seals >= 0 && (seals & F_SEAL_SHRINK))
		return range_in(r->fd_offset + offset, size, (uint64_t)st.st_size)
			       ? NULL
			       : "it lies beyond its file's end";
	// VFIO's own descriptors are anonymous, and on some kernels look like files; those have no length.
	return seals < 0 && st.st_size == 0 ? NULL : "its owner can truncate it: seal it (F_SEAL_SHRINK)";
}

static void area_map(struct passthrough *pt, unsigned index, struct pt_map *m, const struct vfio_region *r,
		     uint64_t start, uint64_t end)
{
	struct pt_bar_map *b = &m->bar[index];
	struct pt_area *a = &b->area[b->count];
	if (start >= end)
		return;
	if (b->count == PT_AREAS_MAX || m->slot_count == PCI_MEMORY_SLOTS) {
		log_info("%s: BAR %u: too many pieces; what is behind %#llx is trapped", pt->func.id, index,
			 (unsigned long long)start);
		return;
	}
	const char *refused = area_refused(r, start, end - start);
	void *hva = MAP_FAILED;
	const int prot = (r->readable ? PROT_READ : 0) | (r->writable ? PROT_WRITE : 0);
	if (!refused)
		hva = mmap(NULL, (size_t)(end - start), prot, MAP_SHARED, r->fd,
			   (off_t)(r->fd_offset + start));
	if (hva == MAP_FAILED) {
		log_limited(LOG_INFO, "%s: BAR %u: bytes %#llx to %#llx are trapped and not mapped: %s",
			    pt->func.id, index, (unsigned long long)start, (unsigned long long)end - 1,
			    refused ? refused : err_text(errno));
		return;
	}
	madvise(hva, (size_t)(end - start), MADV_DONTDUMP);
	madvise(hva, (size_t)(end - start), MADV_DONTFORK);
	*a = (struct pt_area){ .offset = start, .size = end - start, .hva = hva, .readonly = !r->writable };
	b->count++;
	m->slot_count++;
}

struct hole {
	uint64_t start, end;
};

// The pages of [start, end) that are not in a hole; holes ascend.
static void area_split(struct passthrough *pt, unsigned index, struct pt_map *m, const struct vfio_region *r,
		       uint64_t start, uint64_t end, const struct hole hole[2])
{
	for (unsigned i = 0; i < 2; i++) {
		if (!range_overlaps(start, end - start, hole[i].start, hole[i].end - hole[i].start))
			continue;
		area_map(pt, index, m, r, start, MAX(start, hole[i].start));
		start = MAX(start, hole[i].end);
		if (start >= end)
			return;
	}
	area_map(pt, index, m, r, start, end);
}

static struct hole hole_of(bool here, uint64_t offset, uint64_t size)
{
	const uint64_t page = page_size();
	if (!here)
		return (struct hole){ 0, 0 };
	return (struct hole){ offset & ~(page - 1), align_up(offset + size, page) };
}

static void bar_map(struct passthrough *pt, unsigned index, struct pt_map *m, const struct vfio_region *r)
{
	const uint64_t page = page_size();
	const bool any = pt->msix.table.count;
	struct hole hole[2] = {
		hole_of(any && pt->table_bar == index, pt->table_offset, msix_table_size(&pt->msix.table)),
		hole_of(any && pt->pba_bar == index, pt->pba_offset, msix_pba_size(&pt->msix.table)),
	};
	if (hole[0].start > hole[1].start) {
		const struct hole first = hole[1];
		hole[1] = hole[0];
		hole[0] = first;
	}
	if (r->fd < 0 || !r->readable || pt->bar_size[index] < page || index == PCI_ROM_BAR ||
	    pt->func.bar[index].is_io)
		return;
	for (unsigned i = 0; i < r->area_count && i < VFIO_LINK_AREAS_MAX; i++) {
		const struct vfio_area *a = &r->area[i];
		if (!range_in(a->offset, a->size, pt->bar_size[index]))
			continue;
		const uint64_t start = align_up(a->offset, page), end = (a->offset + a->size) & ~(page - 1);
		if (start < end)
			area_split(pt, index, m, r, start, end, hole);
	}
}

// What is not there any more is trapped, if there is still a device.
void pt_map_fill(struct passthrough *pt, struct pt_map *m, const struct vfio_region regions[PCI_BARS])
{
	*m = (struct pt_map){ 0 };
	for (unsigned i = 0; i < PCI_BARS; i++) {
		m->bar[i].slot = m->slot_count;
		if (pt->bar_size[i])
			bar_map(pt, i, m, &regions[i]);
	}
}

void pt_map_free(struct pt_map *m)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pt_bar_map *b = &m->bar[i];
		while (b->count > 0) {
			const struct pt_area *a = &b->area[--b->count];
			munmap(a->hva, (size_t)a->size);
		}
	}
}
