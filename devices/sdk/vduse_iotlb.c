// SPDX-License-Identifier: BSD-2-Clause
//
// Guest memory by the kernel's IOTLB: mapped when an address of it comes up, unmapped when the kernel says that it changed.  Behind it are the
// memory files of a VMM, or of the kernel itself where the host is the driver (bounce pages, and its rings).
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <sys/ioctl.h>

bool vduse_iova_missing(struct guest_mem *m, uint64_t at)
{
	const struct vduse *s = CONTAINER_OF(m, struct vdev, mem)->session;
	struct vduse_iotlb_entry en = { .start = at, .last = at };
	FD_AUTO fd = ioctl(s->node.fd, VDUSE_IOTLB_GET_FD, &en);
	if (fd < 0)
		return false;
	int rc = -EPROTO;
	if (en.start <= at && at <= en.last && en.last - en.start < UINT64_MAX &&
	    (en.perm & VDUSE_ACCESS_RW) != 0 && (en.perm & ~VDUSE_ACCESS_RW) == 0)
		rc = guest_mem_add_iova(m, fd, en.offset, en.start, en.last - en.start + 1,
					en.perm == VDUSE_ACCESS_RO);
	if (rc < 0)
		log_limited(LOG_WARN, "%s: memory %#llx to %#llx cannot be mapped: %s", s->name,
			    (unsigned long long)en.start, (unsigned long long)en.last, err_text(-rc));
	return rc == 0;
}

int vduse_iotlb_update(struct vduse *s, const struct vduse_iova_range *range)
{
	if (range->start > range->last)
		return -EINVAL;
	s->d->ops->drain(s->d, NULL);
	guest_mem_remove_range(&s->d->mem, range->start, range->last);
	for (unsigned i = 0; i < s->queue_count; i++)
		vduse_ring_relocate(&s->ring[i]);
	return 0;
}
