// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vfio_user_impl.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)

// ---- memory of the guest ------------------------------------------------------------------------------------------

static bool mapped_somewhere(const struct vfs *s, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < s->unmapped_count; i++)
		if (range_overlaps(s->unmapped[i].iova, s->unmapped[i].size, iova, size))
			return true;
	for (unsigned i = 0; i < s->d->mem.count; i++)
		if (range_overlaps(s->d->mem.region[i].base[GUEST_PHYSICAL], s->d->mem.region[i].len, iova,
				   size))
			return true;
	return false;
}

static int on_dma_map(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_dma_map m = VFS_GET(rq, struct vfio_user_dma_map);
	const uint32_t both = VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE;
	if (m.argsz < sizeof(m) || m.flags & ~both || m.size == 0 ||
	    (m.iova | m.size | (rq->fds.count ? m.offset : 0)) % PAGE ||
	    !range_in(m.iova, m.size, UINT64_MAX))
		return -EINVAL;
	if (mapped_somewhere(s, m.iova, m.size))
		return -EEXIST;
	if (!vfs_loggable(s, m.iova, m.size))
		return -ERANGE;
	if (s->unmapped_count + s->d->mem.count >= VFS_MAPS_MAX)
		return -ENOSPC;
	int rc = 0;
	if (rq->fds.count && m.flags == both) {
		rc = guest_mem_add(&s->d->mem, rq->fds.fd[0], m.offset, m.iova, m.iova, m.size);
	} else {
		// Reached by messages: rings and buffers there are refused.
		log_debug("memory %#llx + %#llx is not shared%s", (unsigned long long)m.iova,
			  (unsigned long long)m.size, rq->fds.count ? " for reading and writing" : "");
		s->unmapped[s->unmapped_count++] =
			(struct vfs_unmapped){ .iova = m.iova, .size = m.size, .flags = m.flags };
	}
	if (rc == 0 && s->p->ops->memory_changed)
		s->p->ops->memory_changed(s->p);
	return rc;
}

static void drain(struct vfs *s)
{
	if (s->p->ops->drain)
		s->p->ops->drain(s->p);
}

static int unmap_one(struct vfs *s, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < s->unmapped_count; i++) {
		if (s->unmapped[i].iova != iova || s->unmapped[i].size != size)
			continue;
		s->unmapped[i] = s->unmapped[--s->unmapped_count];
		return 0;
	}
	drain(s);
	return guest_mem_remove(&s->d->mem, iova, iova, size);
}

static int on_dma_unmap(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_dma_unmap u = VFS_GET(rq, struct vfio_user_dma_unmap);
	int rc = 0;
	if (u.argsz < sizeof(u))
		return -EINVAL;
	if (u.flags == VFIO_DMA_UNMAP_FLAG_ALL && u.iova == 0 && u.size == 0) {
		drain(s);
		s->unmapped_count = 0;
		guest_mem_clear(&s->d->mem);
	} else if (u.flags == 0) {
		rc = unmap_one(s, u.iova, u.size);
	} else {
		return -EOPNOTSUPP; // a bitmap of dirty pages
	}
	if (s->p->ops->memory_changed)
		s->p->ops->memory_changed(s->p);
	VFS_REPLY(rq, u);
	return rc;
}

// ---- the device and its regions -----------------------------------------------------------------------------------

static int on_device_info(struct vfs *s, struct vfs_request *rq)
{
	struct vfio_user_device_info i = VFS_GET(rq, struct vfio_user_device_info);
	(void)s;
	if (i.argsz < sizeof(i))
		return -EINVAL;
	i = (struct vfio_user_device_info){ .argsz = sizeof(i),
					    .flags = VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI,
					    .num_regions = VFIO_PCI_NUM_REGIONS,
					    .num_irqs = VFIO_PCI_NUM_IRQS };
	VFS_REPLY(rq, i);
	return 0;
}

static uint64_t region_size(const struct pdev *p, uint32_t index)
{
	return index < PDEV_BARS		       ? p->bar[index].size
	       : index == VFIO_PCI_CONFIG_REGION_INDEX ? PDEV_CONFIG_SIZE
						       : 0;
}

static int on_region_info(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_region_info asked = VFS_GET(rq, struct vfio_user_region_info);
	struct vfio_user_region_info i = { .argsz = sizeof(i), .index = asked.index };
	if (asked.argsz < sizeof(i) || asked.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	const struct pdev_bar *bar = asked.index < PDEV_BARS ? &s->p->bar[asked.index] : NULL;
	const struct vfio_region_info_cap_sparse_mmap sparse = {
		.header = { .id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1 }, .nr_areas = 1
	};
	struct vfio_region_sparse_mmap_area area = { 0 };
	i.size = region_size(s->p, asked.index);
	i.flags = i.size ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
	const bool mapped = bar && bar->map_fd >= 0;
	if (mapped) {
		i.flags |= VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
		i.argsz += (uint32_t)(sizeof(sparse) + sizeof(area));
		i.cap_offset = sizeof(i);
		area.offset = bar->map_offset;
		area.size = bar->map_len;
	}
	// What has no room in the reply is left out, and asked for again by who sees how much it needs.
	VFS_REPLY(rq, i);
	if (mapped && asked.argsz >= i.argsz) {
		memcpy(rq->reply + rq->reply_len, &sparse, sizeof(sparse));
		memcpy(rq->reply + rq->reply_len + sizeof(sparse), &area, sizeof(area));
		rq->reply_len += sizeof(sparse) + sizeof(area);
		rq->reply_fd[rq->reply_fd_count++] = bar->map_fd;
	}
	return 0;
}

// Doorbells as eventfds.  Those for which the client has no room in one message are rung by writes.
static int on_region_io_fds(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_region_io_fds asked = VFS_GET(rq, struct vfio_user_region_io_fds);
	struct vfio_user_region_io_fds i = { .index = asked.index };
	struct vfio_user_io_fd sub[VFS_DOORBELLS];
	if (asked.argsz < sizeof(i) || asked.flags || asked.count || asked.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	for (unsigned k = 0; k < s->p->doorbell_count && i.count < MIN(s->client_fds, VFS_DOORBELLS); k++) {
		const struct pdev_doorbell *b = &s->p->doorbell[k];
		if (b->bar != asked.index)
			continue;
		sub[i.count] = (struct vfio_user_io_fd){ .offset = b->offset,
							 .size = b->size,
							 .fd_index = i.count,
							 .type = VFIO_USER_IO_FD_IOEVENTFD };
		rq->reply_fd[i.count++] = b->source.fd;
	}
	const size_t sub_len = i.count * sizeof(sub[0]);
	i.argsz = (uint32_t)(sizeof(i) + sub_len);
	VFS_REPLY(rq, i);
	if (asked.argsz >= i.argsz) {
		memcpy(rq->reply + rq->reply_len, sub, sub_len);
		rq->reply_len += sub_len;
		rq->reply_fd_count = i.count;
	}
	return 0;
}

static int on_reset(struct vfs *s, struct vfs_request *rq)
{
	(void)rq;
	pdev_reset(s->p);
	vfs_migration_reset(s);
	return 0;
}

// ---- accesses -----------------------------------------------------------------------------------------------------

static int region_access(struct vfs *s, uint32_t region, uint64_t offset, uint8_t *bytes, uint32_t len,
			 bool write)
{
	if (!range_in(offset, len, region_size(s->p, region)) || len == 0)
		return -EINVAL;
	if (region != VFIO_PCI_CONFIG_REGION_INDEX)
		return pdev_bar_access(s->p, region, offset, bytes, len, write);
	pdev_config_access(s->p, (unsigned)offset, bytes, len, write);
	return 0;
}

static int on_region_read(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_region_access a = VFS_GET(rq, struct vfio_user_region_access);
	if (a.count > VFS_XFER_MAX)
		return -EINVAL;
	VFS_REPLY(rq, a);
	rq->reply_len += a.count;
	return region_access(s, a.region, a.offset, rq->reply + sizeof(a), a.count, false);
}

static int on_region_write(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_region_access a = VFS_GET(rq, struct vfio_user_region_access);
	if (a.count != rq->len - sizeof(a))
		return -EINVAL;
	VFS_REPLY(rq, a);
	return region_access(s, a.region, a.offset, rq->payload + sizeof(a), a.count, true);
}

static int on_region_write_multi(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_write_multi m = VFS_GET(rq, struct vfio_user_write_multi);
	struct vfio_user_write_multi done = { 0 };
	struct vfio_user_write_one w;
	if (m.count > VFIO_USER_MULTI_MAX || rq->len != sizeof(m) + m.count * sizeof(w))
		return -EINVAL;
	for (; done.count < m.count; done.count++) {
		memcpy(&w, rq->payload + sizeof(m) + done.count * sizeof(w), sizeof(w));
		if (w.count > sizeof(w.data) ||
		    region_access(s, w.region, w.offset, w.data, w.count, true) < 0)
			break;
	}
	VFS_REPLY(rq, done);
	return 0;
}

vfs_handler *const vfs_handlers[VFS_HANDLERS] = {
	[VFIO_USER_VERSION] = vfs_on_version,
	[VFIO_USER_DMA_MAP] = on_dma_map,
	[VFIO_USER_DMA_UNMAP] = on_dma_unmap,
	[VFIO_USER_DEVICE_GET_INFO] = on_device_info,
	[VFIO_USER_DEVICE_GET_REGION_INFO] = on_region_info,
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = on_region_io_fds,
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = vfs_on_irq_info,
	[VFIO_USER_DEVICE_SET_IRQS] = vfs_on_set_irqs,
	[VFIO_USER_REGION_READ] = on_region_read,
	[VFIO_USER_REGION_WRITE] = on_region_write,
	[VFIO_USER_DEVICE_RESET] = on_reset,
	[VFIO_USER_REGION_WRITE_MULTI] = on_region_write_multi,
	[VFIO_USER_DEVICE_FEATURE] = vfs_on_feature,
	[VFIO_USER_MIG_DATA_READ] = vfs_on_mig_read,
	[VFIO_USER_MIG_DATA_WRITE] = vfs_on_mig_write,
};
