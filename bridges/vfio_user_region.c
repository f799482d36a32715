// SPDX-License-Identifier: BSD-2-Clause
// What a server says of a region: its size, what of it may be mapped and from which file, and which writes are eventfds.
//
// Every number is checked here, once.  What is against the protocol ends the server; a file that it could cut short is not mapped.
#include "bridges/vfio_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CAPS_MAX 16

// ---- capabilities -------------------------------------------------------------------------------

struct answer { // to DEVICE_GET_REGION_INFO
	struct vfio_user_region_info info;
	uint32_t len; // of all of it
	const uint8_t *bytes;
};

static const char *read_sparse(struct vfio_region *r, const struct answer *a, uint32_t at)
{
	struct vfio_region_info_cap_sparse_mmap cap;
	if (!range_in(at, sizeof(cap), a->len))
		return "a capability reaches beyond the reply";
	memcpy(&cap, a->bytes + at, sizeof(cap));
	if (cap.nr_areas > VFIO_LINK_AREAS_MAX)
		return "too many sparse areas";
	if (!range_in(at + sizeof(cap), cap.nr_areas * sizeof(struct vfio_region_sparse_mmap_area), a->len))
		return "a capability reaches beyond the reply";
	r->area_count = 0;
	for (unsigned i = 0; i < cap.nr_areas; i++) {
		struct vfio_region_sparse_mmap_area area;
		memcpy(&area, a->bytes + at + sizeof(cap) + i * sizeof(area), sizeof(area));
		if (area.size == 0)
			continue;
		if (!range_in(area.offset, area.size, a->info.size))
			return "a sparse area outside of the region";
		r->area[r->area_count++] = (struct vfio_area){ .offset = area.offset, .size = area.size };
	}
	return NULL;
}

static const char *read_caps(struct vfio_region *r, const struct answer *a)
{
	uint32_t at = a->info.flags & VFIO_REGION_INFO_FLAG_CAPS ? a->info.cap_offset : 0;
	for (unsigned n = 0; at; n++) {
		struct vfio_info_cap_header cap;
		if (n == CAPS_MAX)
			return "a chain of capabilities without an end";
		if (at < sizeof(a->info) || !range_in(at, sizeof(cap), a->len))
			return "a capability reaches beyond the reply";
		memcpy(&cap, a->bytes + at, sizeof(cap));
		const char *wrong = NULL;
		if (cap.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP && cap.version == 1)
			wrong = read_sparse(r, a, at);
		if (wrong)
			return wrong;
		at = cap.next;
	}
	return NULL;
}

static int by_offset(const void *a, const void *b)
{
	const struct vfio_area *x = a, *y = b;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static const char *check_areas(struct vfio_region *r)
{
	qsort(r->area, r->area_count, sizeof(r->area[0]), by_offset);
	for (unsigned i = 1; i < r->area_count; i++)
		if (r->area[i - 1].offset + r->area[i - 1].size > r->area[i].offset)
			return "sparse areas overlap";
	return NULL;
}

// ---- the file -----------------------------------------------------------------------------------

// NULL, or why nothing is mapped from it.  One that can be cut short would be a SIGBUS of the monitor's.
static const char *file_refused(const struct vfio_region *r, int fd)
{
	struct stat st;
	struct statfs fs;
	const int due = r->writable ? O_RDWR : O_RDONLY;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return "its descriptor is no file";
	const int mode = fcntl(fd, F_GETFL);
	if (mode < 0 || (mode & O_PATH) || ((mode & O_ACCMODE) != O_RDWR && (mode & O_ACCMODE) != due))
		return "its file is not open for that";
	const int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return "its file is not sealed against shrinking (F_SEAL_SHRINK of a memfd)";
	// Of huge pages nothing smaller can be unmapped.
	if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return "its file is of huge pages";
	for (unsigned i = 0; i < r->area_count; i++) {
		const uint64_t end = r->area[i].offset + r->area[i].size;
		if (r->fd_offset > (uint64_t)st.st_size || end > (uint64_t)st.st_size - r->fd_offset)
			return "its file is shorter than what shall be mapped";
	}
	return NULL;
}

static void take_file(struct vfio_user *v, unsigned index, struct vfio_region *r, struct msg_fds *fds)
{
	r->fd = -1;
	if (!fds->count)
		return;
	v->said.trapped[index] = file_refused(r, fds->fd[0]);
	if (!v->said.trapped[index])
		r->fd = msg_fds_take_one(fds);
	else
		msg_fds_close(fds);
}

static const char *read_info(struct vfio_region *r, const struct answer *a, unsigned fd_count)
{
	const struct vfio_user_region_info *i = &a->info;
	if (i->argsz > a->len)
		return "it needs more room than a reply may have";
	if (i->size > (uint64_t)INT64_MAX || i->offset > (uint64_t)INT64_MAX - i->size)
		return "a size or offset beyond reason";
	if (fd_count && !(i->flags & VFIO_REGION_INFO_FLAG_MMAP))
		return "a descriptor for a region that cannot be mapped";
	*r = (struct vfio_region){ .size = i->size,
				   .readable = i->flags & VFIO_REGION_INFO_FLAG_READ,
				   .writable = i->flags & VFIO_REGION_INFO_FLAG_WRITE,
				   .fd = -1,
				   .fd_offset = i->offset };
	if (fd_count && i->size) {
		r->area[0] = (struct vfio_area){ .size = i->size };
		r->area_count = 1;
	}
	const char *wrong = read_caps(r, a);
	if (!wrong)
		wrong = check_areas(r);
	if (!fd_count)
		r->area_count = 0;
	return wrong;
}

int vfu_ask_region(struct vfio_user *v, unsigned index, deadline_ns deadline)
{
	const struct vfio_user_region_info ask = { .argsz = VFIO_USER_REGION_INFO_MAX, .index = index };
	uint8_t bytes[VFIO_USER_REGION_INFO_MAX] = { 0 };
	struct vfio_region *r = &v->said.region[index];
	struct msg_fds fds = { .count = 0 };
	int len = vfu_call(&v->io, &(struct vfu_call){ .command = VFIO_USER_DEVICE_GET_REGION_INFO,
						       .head = &ask,
						       .head_len = sizeof(ask),
						       .reply = bytes,
						       .reply_cap = sizeof(bytes),
						       .reply_fds = &fds,
						       .deadline = deadline });
	if (len < 0)
		return len;
	struct answer a = { .len = (uint32_t)len, .bytes = bytes };
	memcpy(&a.info, bytes, sizeof(a.info));
	const char *wrong = a.info.index != index ? "it is about another one" : read_info(r, &a, fds.count);
	if (!wrong)
		take_file(v, index, r, &fds);
	msg_fds_close(&fds);
	if (!wrong)
		return 0;
	*r = (struct vfio_region){ .fd = -1 };
	vfu_broken(&v->io, "describes its region %u wrongly: %s", index, wrong);
	return -EPIPE;
}

// ---- eventfds -----------------------------------------------------------------------------------

static const char *read_doorbell(struct vfio_doorbell *d, const struct vfio_user_io_fd *i,
				 const struct vfio_region *r, const struct msg_fds *fds)
{
	if (i->size > 8 || (i->size && !is_power_of_two(i->size)))
		return "a size that no write has";
	if (!range_in(i->offset, i->size ? i->size : 1, r->size))
		return "it lies outside of the region";
	if (i->fd_index >= fds->count)
		return "no such descriptor came along";
	*d = (struct vfio_doorbell){ .offset = i->offset,
				     .size = (unsigned)i->size,
				     .match_data = i->flags & KVM_IOEVENTFD_FLAG_DATAMATCH,
				     .data = i->datamatch,
				     .fd = fds->fd[i->fd_index] };
	return NULL;
}

static const char *read_doorbells(struct vfu_doorbells *to, const uint8_t *bytes, size_t len, unsigned index,
				  const struct vfio_region *r)
{
	struct vfio_user_region_io_fds head;
	memcpy(&head, bytes, sizeof(head));
	if (head.index != index)
		return "it is about another one";
	if (head.argsz > len)
		return "there are more than are taken";
	if (head.count > VFU_DOORBELLS_MAX ||
	    head.count * sizeof(struct vfio_user_io_fd) != len - sizeof(head))
		return "its number is not that of the data";
	for (unsigned i = 0; i < head.count; i++) {
		struct vfio_user_io_fd one;
		memcpy(&one, bytes + sizeof(head) + i * sizeof(one), sizeof(one));
		if (one.type != VFIO_USER_IO_FD_IOEVENTFD)
			continue; // such a place is still written to by messages
		const char *wrong = read_doorbell(&to->doorbell[to->count], &one, r, &to->fds);
		if (wrong)
			return wrong;
		to->count++;
	}
	return NULL;
}

int vfu_ask_doorbells(struct vfio_user *v, unsigned index, deadline_ns deadline)
{
	enum {
		LEN = sizeof(struct vfio_user_region_io_fds) +
		      VFU_DOORBELLS_MAX * sizeof(struct vfio_user_io_fd)
	};
	const struct vfio_user_region_io_fds ask = { .argsz = LEN, .index = index };
	struct vfu_doorbells *to = &v->said.doorbells[index];
	uint8_t bytes[LEN] = { 0 };
	int len = vfu_call(&v->io, &(struct vfu_call){ .command = VFIO_USER_DEVICE_GET_REGION_IO_FDS,
						       .head = &ask,
						       .head_len = sizeof(ask),
						       .reply = bytes,
						       .reply_cap = sizeof(bytes),
						       .reply_fds = &to->fds,
						       .deadline = deadline });
	if (len < 0)
		return len;
	to->count = 0;
	const char *wrong = read_doorbells(to, bytes, (size_t)len, index, &v->said.region[index]);
	if (!wrong)
		return 0;
	to->count = 0;
	msg_fds_close(&to->fds);
	vfu_broken(&v->io, "describes the eventfds of its region %u wrongly: %s", index, wrong);
	return -EPIPE;
}
