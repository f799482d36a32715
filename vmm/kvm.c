// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/kvm.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define KVM_API 12

static const struct {
	int capability;
	const char *name;
} kvm_needed[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
};

static const char *kvm_mend(int error)
{
	switch (error) {
	case ENOENT:
		return " (load kvm_intel or kvm_amd; is virtualization on in the firmware?)";
	case EACCES:
		return " (add yourself to the group that owns it, often \"kvm\")";
	case EMFILE:
		return " (raise ulimit -n)";
	default:
		return "";
	}
}

int kvm_open(struct kvm *k, const char *path, struct err *e)
{
	*k = (struct kvm){ .fd = -1, .vm_fd = -1, .vfio_fd = -1 };
	FD_AUTO fd = fd_open_path(path, O_RDWR, e);
	if (fd < 0)
		return err_set(e, -fd, "open %s: %s%s", path, err_text(-fd), kvm_mend(-fd));
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return err_set(e, ENOTTY, "%s: it is not KVM: %s", path, err_text(errno));
	if (version != KVM_API)
		return err_set(e, ENOTSUP, "%s: its KVM API has version %d, this program is for %d", path,
			       version, KVM_API);
	for (size_t i = 0; i < ARRAY_LEN(kvm_needed); i++)
		if (ioctl(fd, KVM_CHECK_EXTENSION, kvm_needed[i].capability) <= 0)
			return err_set(e, ENOTSUP, "%s: this host's KVM lacks %s", path, kvm_needed[i].name);
	k->vcpu_map_size = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (k->vcpu_map_size < (int)sizeof(struct kvm_run))
		return err_set(e, EIO, "%s: KVM_GET_VCPU_MMAP_SIZE says %d", path, k->vcpu_map_size);
	k->fd = fd_steal(&fd);
	return 0;
}

void kvm_close(struct kvm *k)
{
	kvm_vm_destroy(k);
	fd_close(&k->fd);
}

static int vfio_device_make(struct kvm *k)
{
	struct kvm_create_device make = { .type = KVM_DEV_TYPE_VFIO };
	if (k->vfio_fd >= 0)
		return 0;
	if (ioctl(k->vm_fd, KVM_CREATE_DEVICE, &make) < 0)
		return -errno;
	k->vfio_fd = (int)make.fd;
	return 0;
}

static int vfio_file_set(struct kvm *k, int fd, uint64_t attribute)
{
	int32_t file = fd;
	struct kvm_device_attr a = {
		.group = KVM_DEV_VFIO_GROUP, // "FILE" in newer headers: devices, too
		.attr = attribute,
		.addr = (uint64_t)(uintptr_t)&file,
	};
	int rc = vfio_device_make(k);
	if (rc < 0)
		return rc;
	return ioctl(k->vfio_fd, KVM_SET_DEVICE_ATTR, &a) < 0 ? -errno : 0;
}

int kvm_vfio_add(struct kvm *k, int fd)
{
	if (k->vfio_file_count == KVM_VFIO_FILES_MAX)
		return -ENOSPC;
	int rc = vfio_file_set(k, fd, KVM_DEV_VFIO_GROUP_ADD);
	if (rc == 0)
		k->vfio_file[k->vfio_file_count++] = fd;
	return rc;
}

void kvm_vfio_remove(struct kvm *k, int fd)
{
	for (unsigned i = 0; i < k->vfio_file_count; i++) {
		if (k->vfio_file[i] != fd)
			continue;
		k->vfio_file[i] = k->vfio_file[--k->vfio_file_count];
		if (k->vfio_fd >= 0)
			vfio_file_set(k, fd, KVM_DEV_VFIO_GROUP_DEL);
		return;
	}
}

int kvm_vm_create(struct kvm *k, struct err *e)
{
	int fd;
	do {
		fd = ioctl(k->fd, KVM_CREATE_VM, 0);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return err_sys(e, errno, "KVM_CREATE_VM");
	k->vm_fd = fd;
	for (unsigned i = 0; i < k->vfio_file_count; i++) {
		int rc = vfio_file_set(k, k->vfio_file[i], KVM_DEV_VFIO_GROUP_ADD);
		if (rc < 0)
			return err_sys(e, -rc, "KVM_DEV_VFIO_GROUP_ADD");
	}
	return 0;
}

void kvm_vm_destroy(struct kvm *k)
{
	fd_close(&k->vfio_fd);
	fd_close(&k->vm_fd);
}

int kvm_capability(const struct kvm *k, int capability)
{
	int rc = ioctl(k->vm_fd >= 0 ? k->vm_fd : k->fd, KVM_CHECK_EXTENSION, capability);
	return rc < 0 ? 0 : rc;
}

int kvm_memory_slot(const struct kvm *k, uint32_t slot, uint64_t gpa, uint64_t size, void *hva,
		    uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uint64_t)(uintptr_t)hva,
	};
	return ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

int kvm_doorbell(const struct kvm *k, const struct kvm_doorbell *d, int eventfd, bool on)
{
	struct kvm_ioeventfd io = {
		.addr = d->where,
		.len = d->size,
		.datamatch = d->match_data ? d->data : 0,
		.fd = eventfd,
		.flags = (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN) | (d->port ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
			 (d->match_data ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u),
	};
	return ioctl(k->vm_fd, KVM_IOEVENTFD, &io) < 0 ? -errno : 0;
}

int kvm_ioeventfd(const struct kvm *k, uint64_t gpa, int eventfd, bool on)
{
	// Any length: also the one that needs no instruction decoding where the hardware allows.
	const struct kvm_doorbell d = { .where = gpa };
	return kvm_doorbell(k, &d, eventfd, on);
}

int kvm_irqfd(const struct kvm *k, int eventfd, uint32_t gsi, bool on)
{
	struct kvm_irqfd irq = {
		.fd = (uint32_t)eventfd,
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};
	return ioctl(k->vm_fd, KVM_IRQFD, &irq) < 0 ? -errno : 0;
}

int kvm_irqfd_level(const struct kvm *k, int eventfd, uint32_t gsi, int resample_fd, bool on)
{
	struct kvm_irqfd irq = {
		.fd = (uint32_t)eventfd,
		.gsi = gsi,
		.flags = on ? KVM_IRQFD_FLAG_RESAMPLE : KVM_IRQFD_FLAG_DEASSIGN,
		.resamplefd = (uint32_t)resample_fd,
	};
	return ioctl(k->vm_fd, KVM_IRQFD, &irq) < 0 ? -errno : 0;
}
