// SPDX-License-Identifier: BSD-2-Clause
// A VFIO device by its own node (Linux 6.6): no group, and guest memory in an address space of IOMMUFD that all of a machine's devices share.
#include "bridges/vfio_impl.h"
#include "bridges/vfio_iommufd.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#define IOMMU_NODE "/dev/iommu"

// The one that there is, or a new one.
static int address_space(struct vfio_container **out, struct vfio_containers *all, struct err *e)
{
	struct vfio_container *fresh = NULL;
	for (unsigned i = 0; i < VFIO_CONTAINERS_MAX; i++) {
		struct vfio_container *c = &all->container[i];
		if (c->fd < 0) {
			fresh = fresh ? fresh : c;
		} else if (c->iommufd) {
			c->users++;
			*out = c;
			return 0;
		}
	}
	if (!fresh)
		return err_set(e, ENOSPC, "more than %d containers", VFIO_CONTAINERS_MAX);
	FD_AUTO fd = open(IOMMU_NODE, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		const int error = errno;
		const char *mend = "";
		if (error == ENOENT)
			mend = " (modprobe iommufd; a kernel without it has groups only: host = ...)";
		else if (error == EACCES)
			mend = " (chown it to this user)";
		return err_sys(e, error, "open %s%s", IOMMU_NODE, mend);
	}
	struct ioas_alloc alloc = { .size = sizeof(alloc) };
	if (ioctl(fd, IOAS_ALLOC, &alloc) < 0)
		return err_sys(e, errno, "%s: IOMMU_IOAS_ALLOC", IOMMU_NODE);
	*fresh = (struct vfio_container){
		.fd = fd_steal(&fd), .iommufd = true, .ioas = alloc.out_ioas_id, .users = 1
	};
	*out = fresh;
	return 0;
}

int vfio_ioas_map(const struct vfio_container *c, const struct mem_region *r)
{
	struct ioas_map map = { .size = sizeof(map),
				.flags = IOAS_MAP_FIXED | IOAS_MAP_WRITABLE | IOAS_MAP_READABLE,
				.ioas_id = c->ioas,
				.user_va = (uint64_t)(uintptr_t)r->hva,
				.length = r->size,
				.iova = r->gpa };
	return ioctl(c->fd, IOAS_MAP, &map) < 0 ? -errno : 0;
}

int vfio_ioas_unmap(const struct vfio_container *c, uint64_t gpa, uint64_t size)
{
	struct ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = c->ioas, .iova = gpa, .length = size };
	return ioctl(c->fd, IOAS_UNMAP, &unmap) < 0 ? -errno : 0;
}

// KVM has to know the device before it is bound.
static int bind_and_attach(struct vfio_device *d, const char *path, struct err *e)
{
	int rc = kvm_vfio_add(d->all->kvm, d->fd);
	if (rc < 0)
		log_info("%s: KVM is not told of it: %s", path, err_text(-rc));
	struct cdev_bind bind = { .argsz = sizeof(bind), .iommufd = d->container->fd };
	if (ioctl(d->fd, CDEV_BIND, &bind) < 0)
		return err_sys(e, errno, "%s: VFIO_DEVICE_BIND_IOMMUFD%s", path,
			       errno == EBUSY || errno == EINVAL
				       ? " (another program has it, or a device of its group)"
				       : "");
	struct cdev_attach attach = { .argsz = sizeof(attach), .pt_id = d->container->ioas };
	if (ioctl(d->fd, CDEV_ATTACH, &attach) < 0)
		return err_sys(e, errno, "%s: VFIO_DEVICE_ATTACH_IOMMUFD_PT", path);
	return 0;
}

int vfio_cdev_take(struct vfio_device *d, const char *path, struct err *e)
{
	d->fd = fd_open_path(path, O_RDWR, e);
	if (d->fd == -ENOENT)
		return err_set(e, ENOENT,
			       "open %s: no such device (give it to vfio-pci: minivmm bind; its node is "
			       "named in /sys/bus/pci/devices/ADDRESS/vfio-dev)",
			       path);
	if (d->fd == -EACCES)
		return err_sys(e, EACCES, "open %s (chown it to this user)", path);
	if (d->fd < 0)
		return d->fd;
	int rc = address_space(&d->container, d->all, e);
	if (rc < 0) {
		fd_close(&d->fd);
		return rc;
	}
	rc = bind_and_attach(d, path, e);
	if (rc < 0)
		vfio_cdev_leave(d);
	return rc;
}

void vfio_cdev_leave(struct vfio_device *d)
{
	kvm_vfio_remove(d->all->kvm, d->fd);
	fd_close(&d->fd);
	vfio_container_leave(d->container);
}
