// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vfio.h"

#include "bridges/vfio_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/config.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INFO_MAX 4096 // bytes of a region's description

static struct vfio_device *device_of(struct vfio_link *l)
{
	return CONTAINER_OF(l, struct vfio_device, link);
}

// ---- operations -------------------------------------------------------------------------------------------------

static int op_region_info(struct vfio_link *l, unsigned index, struct vfio_region *out)
{
	if (index >= VFIO_REGIONS || device_of(l)->region[index].size == 0)
		return -ENOENT;
	*out = device_of(l)->region[index];
	return 0;
}

static int op_irq_info(struct vfio_link *l, unsigned index, struct vfio_irq *out)
{
	if (index >= VFIO_IRQS || device_of(l)->irq[index].count == 0)
		return -ENOENT;
	*out = device_of(l)->irq[index];
	return 0;
}

static int carried(ssize_t n, size_t len)
{
	return n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
}

static int op_region_read(struct vfio_link *l, unsigned index, uint64_t offset, void *buf, size_t len)
{
	const struct vfio_device *d = device_of(l);
	return carried(pread(d->fd, buf, len, (off_t)(d->region[index].fd_offset + offset)), len);
}

static int op_region_write(struct vfio_link *l, unsigned index, uint64_t offset, const void *buf, size_t len,
			   bool posted)
{
	const struct vfio_device *d = device_of(l);
	(void)posted;
	return carried(pwrite(d->fd, buf, len, (off_t)(d->region[index].fd_offset + offset)), len);
}

static int op_region_doorbells(struct vfio_link *l, unsigned index, struct vfio_doorbell *out, unsigned room)
{
	(void)l, (void)index, (void)out, (void)room;
	return 0; // whoever serves them is the device itself
}

static int op_irq_set(struct vfio_link *l, unsigned index, enum vfio_irq_action action, unsigned start,
		      unsigned count, const int *fds)
{
	static const uint32_t actions[] = {
		[VFIO_LINK_MASK] = VFIO_IRQ_SET_ACTION_MASK,
		[VFIO_LINK_UNMASK] = VFIO_IRQ_SET_ACTION_UNMASK,
		[VFIO_LINK_TRIGGER] = VFIO_IRQ_SET_ACTION_TRIGGER,
	};
	union {
		struct vfio_irq_set set;
		uint8_t room[sizeof(struct vfio_irq_set) + PCI_IRQS_MAX * sizeof(int32_t)];
	} call = { .set = { .argsz = sizeof(call.set),
			    .flags = actions[action] |
				     (fds ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
			    .index = index,
			    .start = start,
			    .count = count } };
	if (count > PCI_IRQS_MAX)
		return -EINVAL;
	if (fds) {
		memcpy(call.set.data, fds, count * sizeof(int32_t));
		call.set.argsz += count * (uint32_t)sizeof(int32_t);
	}
	return ioctl(device_of(l)->fd, VFIO_DEVICE_SET_IRQS, &call.set) < 0 ? -errno : 0;
}

static int op_dma_map(struct vfio_link *l, const struct mem_region *r, struct err *e)
{
	const struct vfio_device *d = device_of(l);
	pthread_mutex_lock(&d->all->lock);
	int rc = vfio_container_map(d->all, d->container, r, e);
	pthread_mutex_unlock(&d->all->lock);
	if (rc < 0)
		err_prefix(e, "%s", l->id);
	return rc;
}

static int op_dma_unmap(struct vfio_link *l, uint64_t gpa, uint64_t size)
{
	const struct vfio_device *d = device_of(l);
	pthread_mutex_lock(&d->all->lock);
	int rc = vfio_container_unmap(d->container, gpa, size);
	pthread_mutex_unlock(&d->all->lock);
	return rc;
}

static int op_reset(struct vfio_link *l)
{
	return ioctl(device_of(l)->fd, VFIO_DEVICE_RESET) < 0 ? -errno : 0;
}

// The kernel resets the device.
static void device_leave(struct vfio_device *d)
{
	pthread_mutex_lock(&d->all->lock);
	if (d->group) {
		fd_close(&d->fd);
		vfio_group_leave(d->all, d->group);
	} else {
		vfio_cdev_leave(d);
	}
	pthread_mutex_unlock(&d->all->lock);
}

// Its memory stays until the machine ends: this may be a vCPU's thread, in which free() would be the C library's first call and make an arena.
static void op_close(struct vfio_link *l)
{
	struct vfio_device *d = device_of(l);
	device_leave(d);
	pthread_mutex_lock(&d->all->lock);
	d->next_closed = d->all->closed;
	d->all->closed = d;
	pthread_mutex_unlock(&d->all->lock);
}

static const struct vfio_link_ops device_ops = {
	.kind = "vfio",
	.region_info = op_region_info,
	.irq_info = op_irq_info,
	.region_read = op_region_read,
	.region_write = op_region_write,
	.region_doorbells = op_region_doorbells,
	.irq_set = op_irq_set,
	.dma_map = op_dma_map,
	.dma_unmap = op_dma_unmap,
	.reset = op_reset,
	.close = op_close,
};

// ---- what the kernel says of it ---------------------------------------------------------------------------------

static void sparse_areas(struct vfio_region *r, const uint8_t *info, uint32_t len, uint32_t at)
{
	struct vfio_region_info_cap_sparse_mmap sparse;
	if (!range_in(at, sizeof(sparse), len))
		return;
	memcpy(&sparse, info + at, sizeof(sparse));
	r->area_count = 0;
	at += (uint32_t)sizeof(sparse);
	for (uint32_t i = 0; i < sparse.nr_areas && r->area_count < VFIO_LINK_AREAS_MAX; i++) {
		struct vfio_region_sparse_mmap_area a;
		if (!range_in(at, sizeof(a), len))
			return;
		memcpy(&a, info + at, sizeof(a));
		at += (uint32_t)sizeof(a);
		if (a.size && range_in(a.offset, a.size, r->size))
			r->area[r->area_count++] = (struct vfio_area){ .offset = a.offset, .size = a.size };
	}
}

// The whole region may be mapped, unless a capability says which parts.
static void region_areas(struct vfio_region *r, const uint8_t *info, const struct vfio_region_info *i)
{
	r->area_count = 1;
	r->area[0] = (struct vfio_area){ .offset = 0, .size = r->size };
	uint32_t at = i->flags & VFIO_REGION_INFO_FLAG_CAPS ? i->cap_offset : 0;
	for (unsigned seen = 0; at && seen < 16; seen++) {
		struct vfio_info_cap_header h;
		if (!range_in(at, sizeof(h), i->argsz))
			return;
		memcpy(&h, info + at, sizeof(h));
		if (h.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP)
			sparse_areas(r, info, i->argsz, at);
		at = h.next;
	}
}

static int region_ask(struct vfio_device *d, unsigned index, struct err *e)
{
	union {
		struct vfio_region_info info;
		uint8_t room[INFO_MAX];
	} call = { .info = { .argsz = sizeof(call.info), .index = index } };
	struct vfio_region *r = &d->region[index];
	r->fd = -1;
	int rc = ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &call.info);
	if (rc == 0 && call.info.argsz > sizeof(call.info) && call.info.argsz <= sizeof(call)) {
		call.info.index = index;
		rc = ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &call.info);
	}
	if (rc < 0 && errno == EINVAL)
		return 0; // not there
	if (rc < 0)
		return err_sys(e, errno, "region %u: VFIO_DEVICE_GET_REGION_INFO", index);
	r->size = call.info.size;
	r->readable = call.info.flags & VFIO_REGION_INFO_FLAG_READ;
	r->writable = call.info.flags & VFIO_REGION_INFO_FLAG_WRITE;
	r->fd_offset = call.info.offset;
	if (call.info.flags & VFIO_REGION_INFO_FLAG_MMAP) {
		r->fd = d->fd;
		if (call.info.argsz > sizeof(call))
			call.info.flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_CAPS;
		region_areas(r, call.room, &call.info);
	}
	return 0;
}

static int irq_ask(struct vfio_device *d, unsigned index, struct err *e)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };
	if (ioctl(d->fd, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0)
		return errno == EINVAL ? 0
				       : err_sys(e, errno, "interrupt %u: VFIO_DEVICE_GET_IRQ_INFO", index);
	d->irq[index] = (struct vfio_irq){
		.count = MIN(info.count, (uint32_t)PCI_IRQS_MAX),
		.eventfd = info.flags & VFIO_IRQ_INFO_EVENTFD,
		.automasked = info.flags & VFIO_IRQ_INFO_AUTOMASKED,
		.noresize = info.flags & VFIO_IRQ_INFO_NORESIZE,
	};
	return 0;
}

static int device_ask(struct vfio_device *d, struct err *e)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	if (ioctl(d->fd, VFIO_DEVICE_GET_INFO, &info) < 0)
		return err_sys(e, errno, "VFIO_DEVICE_GET_INFO");
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI))
		return err_set(e, ENOTSUP, "the device is no PCI function");
	d->link.can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	int rc = 0;
	for (unsigned i = 0; rc == 0 && i < MIN(info.num_regions, (uint32_t)VFIO_REGIONS); i++)
		rc = region_ask(d, i, e);
	for (unsigned i = 0; rc == 0 && i < MIN(info.num_irqs, (uint32_t)VFIO_IRQS); i++)
		rc = irq_ask(d, i, e);
	return rc;
}

// ---- open -------------------------------------------------------------------------------------------------------

const char *vfio_sysfs_path(const struct device_config *cfg, char *room, unsigned len)
{
	if (cfg->sysfsdev)
		return cfg->sysfsdev;
	if (!cfg->host && !cfg->mdev)
		return NULL;
	if (cfg->host)
		snprintf(room, len, "/sys/bus/pci/devices/%s%s", strlen(cfg->host) == 7 ? "0000:" : "",
			 cfg->host);
	else
		snprintf(room, len, "/sys/bus/mdev/devices/%s", cfg->mdev);
	return room;
}

static int by_group(struct vfio_device *d, const char *sysfs, struct err *e)
{
	char real[PATH_MAX];
	if (!realpath(sysfs, real))
		return errno == ENOENT ? err_set(e, ENOENT, "%s: this host has no such device (%s)", sysfs,
						 strstr(sysfs, "/mdev/") ? "minivmm doctor" : "lspci -D")
				       : err_sys(e, errno, "%s", sysfs);
	int rc = vfio_group_take(&d->group, d->all, sysfs, e);
	if (rc < 0)
		return rc;
	const char *name = basename(real);
	d->fd = ioctl(d->group->fd, VFIO_GROUP_GET_DEVICE_FD, name);
	d->container = d->group->container;
	if (d->fd >= 0)
		return 0;
	rc = err_sys(e, errno, "%s: VFIO_GROUP_GET_DEVICE_FD", name);
	vfio_group_leave(d->all, d->group);
	return rc;
}

static int device_open(struct vfio_device *d, const struct device_config *cfg, struct err *e)
{
	char room[PATH_MAX];
	int rc = cfg->cdev ? vfio_cdev_take(d, cfg->cdev, e)
			   : by_group(d, vfio_sysfs_path(cfg, room, sizeof(room)), e);
	if (rc == 0 && (rc = device_ask(d, e)) < 0)
		device_leave(d);
	return rc;
}

int vfio_open(struct vfio_link **out, const struct device_config *cfg, struct vfio_containers *all,
	      struct err *e)
{
	struct vfio_device *d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, ENOMEM, "%s: out of memory", cfg->id);
	d->link = (struct vfio_link){ .ops = &device_ops, .id = cfg->id, .pins_memory = true };
	d->all = all;
	d->fd = -1;
	for (unsigned i = 0; i < VFIO_REGIONS; i++)
		d->region[i].fd = -1;
	int rc = device_open(d, cfg, e);
	if (rc < 0) {
		err_prefix(e, "%s", cfg->id);
		free(d);
		return rc;
	}
	*out = &d->link;
	return 0;
}
