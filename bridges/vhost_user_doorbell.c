// SPDX-License-Identifier: BSD-2-Clause
// Doorbell pages that a back-end offers (VRING_HOST_NOTIFIER_MSG): which of them are taken.
//
// On the loop's thread.  A page is mapped into the guest and so stays there whatever its owner does: it is of a device, or of a memfd
// that cannot shrink.  One that could be truncated would end the vCPU that rings.
#include "bridges/vhost_user_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

const char *vu_memfd_refused(int fd, uint64_t offset, uint64_t len)
{
	struct stat st;
	struct statfs fs;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return "it is no memfd";
	// Of huge pages nothing smaller can be mapped, or unmapped.
	const int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return "its owner can truncate it: seal it (F_SEAL_SHRINK)";
	return range_in(offset, len, (uint64_t)st.st_size) ? NULL : "it lies beyond its file's end";
}

// NULL, or why it is not taken.
static const char *page_refused(const struct vhost_user *vu, const struct vhost_user_vring_area *area, int fd)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct stat st;
	if ((area->index_and_flags & VHOST_USER_VRING_INDEX_MASK) >= vu->backend.queue_count)
		return "there is no such queue";
	if ((area->index_and_flags & ~(uint64_t)VHOST_USER_VRING_INDEX_MASK) !=
	    (fd < 0 ? VHOST_USER_VRING_NO_FD : 0))
		return "unknown flags, or a descriptor too few or too many";
	if (fd < 0)
		return NULL;
	if (area->size != page || area->fd_offset % page || area->fd_offset > INT64_MAX - page)
		return "it is no page";
	if (fstat(fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISCHR(st.st_mode)))
		return "neither a memfd nor a device";
	return S_ISCHR(st.st_mode) ? NULL : vu_memfd_refused(fd, area->fd_offset, page);
}

int vu_doorbell_page(struct vu_channel *c, const struct vhost_user_vring_area *area, int fd)
{
	struct vhost_user *vu = CONTAINER_OF(c, struct vhost_user, channel);
	const struct backend_events *to = vu->backend.events;
	const unsigned q = (unsigned)(area->index_and_flags & VHOST_USER_VRING_INDEX_MASK);
	const char *refused = page_refused(vu, area, fd);
	void *page = NULL;
	if (!refused && fd >= 0) {
		page = mmap(NULL, (size_t)area->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    (off_t)area->fd_offset);
		if (page == MAP_FAILED)
			refused = "it cannot be mapped for reading and writing";
	}
	if (refused) {
		log_limited(LOG_INFO, "%s: the back-end's doorbell page for queue %u is not taken: %s",
			    vu->backend.id, q, refused);
		return -EINVAL;
	}
	if (to && to->doorbell_page)
		to->doorbell_page(vu->backend.owner, q, page);
	else if (page)
		munmap(page, (size_t)area->size);
	return 0;
}

void vu_doorbell_lost(struct vhost_user *vu)
{
	const struct backend_events *to = vu->backend.events;
	for (unsigned q = 0;
	     vu->backend.doorbell_pages && to && to->doorbell_page && q < vu->backend.queue_count; q++)
		to->doorbell_page(vu->backend.owner, q, NULL);
}
