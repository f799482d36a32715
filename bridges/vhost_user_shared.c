// SPDX-License-Identifier: BSD-2-Clause
// Shared memory regions of a vhost-user back-end: which there are (GET_SHMEM_CONFIG), and what it shows in them (SHMEM_MAP, SHMEM_UNMAP).
//
// Requests come on the loop's thread.  The configuration says how much of it there may be, so that neither the guest's addresses nor
// the monitor's are a back-end's to fill.  What is mapped is sealed against shrinking: a page that goes away ends the vCPU that uses it.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

static bool whole_pages(uint64_t bytes)
{
	return bytes % (uint64_t)sysconf(_SC_PAGESIZE) == 0;
}

// NULL, or what is wrong with it.
static const char *regions_of(const struct vhost_user_shmem_config *c, size_t len, struct backend_shared *out,
			      unsigned *count)
{
	const size_t head = offsetof(struct vhost_user_shmem_config, size);
	unsigned n = 0;
	if (len < head || (len - head) % sizeof(c->size[0]))
		return "half a number";
	for (unsigned id = 0; id < (len - head) / sizeof(c->size[0]); id++) {
		if (c->size[id] == 0)
			continue;
		if (n == BACKEND_SHARED_MAX)
			return "more than 3 regions";
		if (!whole_pages(c->size[id]))
			return "a region that is not whole pages";
		out[n++] = (struct backend_shared){ .id = (uint8_t)id, .size = c->size[id] };
	}
	if (n == 0 || n != c->count)
		return n == 0 ? "none" : "another number of regions than have a size";
	*count = n;
	return NULL;
}

int vu_shared_check(const struct vhost_user *vu, const struct vhost_user_shmem_config *c, size_t len,
		    struct backend_shared *out, unsigned *count, struct err *e)
{
	const char *wrong = regions_of(c, len, out, count);
	uint64_t left = vu->own.shared_memory;
	if (wrong)
		return err_set(e, EPROTO, "%s: handshake with %s: of its shared memory the back-end says: %s",
			       vu->backend.id, vu->peer, wrong);
	for (unsigned i = 0; i < *count; i++) {
		if (out[i].size > left)
			return err_set(
				e, EINVAL,
				"%s: handshake with %s: region %u of its shared memory has %llu bytes, "
				"%llu of shared_memory are left for it: write more",
				vu->backend.id, vu->peer, out[i].id, (unsigned long long)out[i].size,
				(unsigned long long)left);
		left -= out[i].size;
	}
	return 0;
}

bool vu_shared_same(const struct backend *b, const struct backend_shared *with, unsigned count)
{
	bool same = b->shared_count == count;
	for (unsigned i = 0; same && i < count; i++)
		same = b->shared[i].id == with[i].id && b->shared[i].size == with[i].size;
	return same;
}

// NULL and the part, or why there is no such.
static const char *part_of(const struct vhost_user *vu, const struct vhost_user_shmem_map *m,
			   struct backend_shared_part *part)
{
	const struct backend *b = &vu->backend;
	unsigned i = 0;
	while (i < b->shared_count && b->shared[i].id != m->shmid)
		i++;
	*part = (struct backend_shared_part){
		.region = i,
		.offset = m->shm_offset,
		.len = m->len,
		.readonly = !(m->flags & VHOST_USER_SHMEM_WRITABLE),
	};
	if (i == b->shared_count)
		return "there is no such region";
	if (m->len == 0 || !whole_pages(m->len) || !whole_pages(m->shm_offset))
		return "no whole pages";
	return range_in(m->shm_offset, m->len, b->shared[i].size) ? NULL : "beyond its region's end";
}

static const char *fd_refused(const struct vhost_user_shmem_map *m, int fd)
{
	if (fd < 0)
		return "a descriptor is missing";
	if (m->flags & ~VHOST_USER_SHMEM_WRITABLE)
		return "unknown flags";
	if (!whole_pages(m->fd_offset) || m->fd_offset > INT64_MAX)
		return "no whole pages";
	return vu_memfd_refused(fd, m->fd_offset, m->len);
}

static int refuse(const struct vhost_user *vu, const struct vhost_user_shmem_map *m, const char *why)
{
	log_limited(LOG_INFO, "%s: the back-end's shared memory at %#llx of region %u is not taken: %s",
		    vu->backend.id, (unsigned long long)m->shm_offset, m->shmid, why);
	return -EINVAL;
}

int vu_shared_map(struct vu_channel *c, const struct vhost_user_shmem_map *m, int fd)
{
	struct vhost_user *vu = CONTAINER_OF(c, struct vhost_user, channel);
	const struct backend_events *to = vu->backend.events;
	struct backend_shared_part part;
	const char *refused = part_of(vu, m, &part);
	if (!refused)
		refused = fd_refused(m, fd);
	if (refused || !to || !to->shared_given)
		return refuse(vu, m, refused ? refused : "nobody takes it");
	void *hva = mmap(NULL, (size_t)part.len, part.readonly ? PROT_READ : PROT_READ | PROT_WRITE,
			 MAP_SHARED, fd, (off_t)m->fd_offset);
	if (hva == MAP_FAILED)
		return refuse(vu, m, "it cannot be mapped for that");
	int rc = to->shared_given(vu->backend.owner, &part, hva);
	if (rc == 0)
		return 0;
	munmap(hva, (size_t)part.len);
	return refuse(vu, m,
		      rc == -EEXIST ? "something is there" : "too many parts, or KVM does not take it");
}

int vu_shared_unmap(struct vu_channel *c, const struct vhost_user_shmem_map *m)
{
	struct vhost_user *vu = CONTAINER_OF(c, struct vhost_user, channel);
	const struct backend_events *to = vu->backend.events;
	struct backend_shared_part part;
	const char *refused = part_of(vu, m, &part);
	if (!refused && (!to || !to->shared_withdrawn || to->shared_withdrawn(vu->backend.owner, &part) == 0))
		refused = "nothing of that place and length is mapped";
	return refused ? refuse(vu, m, refused) : 0;
}

void vu_shared_end(struct vhost_user *vu)
{
	const struct backend_events *to = vu->backend.events;
	if (vu->backend.shared_count && to && to->shared_withdrawn &&
	    to->shared_withdrawn(vu->backend.owner, NULL))
		atomic_store(&vu->shared_lost, true);
}
