// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/dirty.h"

#include "devices/sdk/virtq.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define LOG_MOST (UINT64_C(1) << 33) // a bit for each page of 256 TiB

int dirty_open(struct dirty_log *l, int fd, uint64_t offset, uint64_t len)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR)
		return -EBADF;
	if (len == 0 || len > LOG_MOST || st.st_size < 0 || !range_in(offset, len, (uint64_t)st.st_size))
		return -ERANGE;
	const uint64_t align = guest_mem_align(&st), skip = offset & (align - 1);
	const size_t map_len = (size_t)align_up(len + skip, align);
	void *p = mmap(NULL, map_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - skip));
	if (p == MAP_FAILED)
		return -errno;
	if (l->bits)
		munmap(l->map, l->map_len);
	l->map = p;
	l->map_len = map_len;
	l->bits = (uint8_t *)p + skip;
	l->len = len;
	return 0;
}

int dirty_open_own(struct dirty_log *l, uint64_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	if (l->bits)
		munmap(l->map, l->map_len);
	l->map = l->bits = p;
	l->map_len = l->len = len;
	return 0;
}

void dirty_close(struct dirty_log *l)
{
	if (l->bits)
		munmap(l->map, l->map_len);
	l->bits = NULL;
	l->len = 0;
	fd_close(&l->event_fd);
}

void dirty_mark(struct dirty_log *l, uint64_t gpa, uint64_t len)
{
	uint64_t last;
	if (len == 0 || __builtin_add_overflow(gpa, len - 1, &last))
		return;
	for (uint64_t page = gpa >> DIRTY_PAGE_SHIFT; page <= last >> DIRTY_PAGE_SHIFT && page / 8 < l->len;
	     page++)
		__atomic_fetch_or(&l->bits[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_SEQ_CST);
}

void dirty_take(struct dirty_log *l, uint64_t gpa, uint64_t len, uint64_t page_size, uint8_t *bits)
{
	const uint64_t first = gpa >> DIRTY_PAGE_SHIFT, count = len >> DIRTY_PAGE_SHIFT;
	for (uint64_t i = 0; i < count && (first + i) / 8 < l->len; i++) {
		uint8_t *at = &l->bits[(first + i) / 8];
		const uint8_t bit = (uint8_t)(1u << (first + i) % 8);
		if (!*at && (first + i) % 8 == 0) {
			i += 7; // mostly there is nothing
			continue;
		}
		if (!(*at & bit))
			continue;
		__atomic_fetch_and(at, (uint8_t)~bit, __ATOMIC_SEQ_CST);
		const uint64_t page = (i << DIRTY_PAGE_SHIFT) / page_size;
		bits[page / 8] |= (uint8_t)(1u << page % 8);
	}
}

void dirty_mark_request(struct dirty_log *l, const struct vq *q, uint16_t head)
{
	const struct vring_desc *table = q->desc;
	uint64_t count = q->size;
	bool indirect = false;
	unsigned at = head;
	// The driver may have made it longer since: no more work than what was taken.
	uint64_t left = q->slot[head].len;
	// As many as the longest request that virtq.c takes, with an indirect table's entries.
	for (unsigned seen = 0; seen < 2 * VQ_SIZE_MAX && at < count; seen++) {
		struct vring_desc d;
		memcpy(&d, &table[at], sizeof(d));
		__asm__ volatile("" ::: "memory"); // the copy is what is used
		if (d.flags & VRING_DESC_F_INDIRECT) {
			table = indirect ? NULL : guest_mem_at(q->mem, GUEST_PHYSICAL, d.addr, d.len);
			if (!table)
				return;
			count = d.len / sizeof(d);
			indirect = true;
			at = 0;
			continue;
		}
		if (d.flags & VRING_DESC_F_WRITE) {
			dirty_mark(l, d.addr, MIN(left, d.len));
			left -= MIN(left, d.len);
		}
		if (!(d.flags & VRING_DESC_F_NEXT))
			return;
		at = d.next;
	}
}

static void mark_table(struct dirty_log *l, const struct vq *q, const struct vq_kept *k)
{
	const struct vring_packed_desc *table = guest_mem_at(q->mem, GUEST_PHYSICAL, k->gpa, k->len);
	for (unsigned i = 0; table && i < k->len / sizeof(*table); i++) {
		struct vring_packed_desc d;
		memcpy(&d, &table[i], sizeof(d));
		__asm__ volatile("" ::: "memory"); // the copy is what is used
		if (d.flags & VRING_DESC_F_WRITE)
			dirty_mark(l, d.addr, d.len);
	}
}

void dirty_mark_kept(struct dirty_log *l, const struct vq *q, uint16_t kept)
{
	for (; kept != VQ_NONE; kept = q->kept[kept].next) {
		const struct vq_kept *k = &q->kept[kept];
		if (k->indirect)
			mark_table(l, q, k);
		else
			dirty_mark(l, k->gpa, k->len);
	}
}
