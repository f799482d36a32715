// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vfio_impl.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/parse.h"
#include "vmm/kvm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define CONTAINER_NODE "/dev/vfio/vfio"

struct vfio_containers *vfio_containers_make(struct kvm *kvm, uint64_t memory)
{
	struct vfio_containers *all = calloc(1, sizeof(*all));
	if (!all)
		return NULL;
	*all = (struct vfio_containers){ .kvm = kvm, .memory = memory };
	pthread_mutex_init(&all->lock, NULL);
	for (unsigned i = 0; i < VFIO_CONTAINERS_MAX; i++)
		all->container[i].fd = all->group[i].fd = -1;
	return all;
}

void vfio_containers_free(struct vfio_containers *all)
{
	if (!all)
		return;
	while (all->closed) {
		struct vfio_device *d = all->closed;
		all->closed = d->next_closed;
		free(d);
	}
	pthread_mutex_destroy(&all->lock);
	free(all);
}

// The last word of a link ("driver", "iommu_group"): -errno if there is none.
static int sysfs_link(const char *folder, const char *name, char *out, unsigned len)
{
	char path[PATH_MAX], target[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	const char *base = strrchr(target, '/');
	snprintf(out, len, "%s", base ? base + 1 : target);
	return 0;
}

// ---- memory -----------------------------------------------------------------------------------------------------

// What is locked once this container has all of the guest's memory: each container counts it anew.
static uint64_t locked_memory(const struct vfio_containers *all, const struct vfio_container *this)
{
	uint64_t sum = all->memory;
	for (unsigned i = 0; i < VFIO_CONTAINERS_MAX; i++) {
		const struct vfio_container *c = &all->container[i];
		for (unsigned k = 0; c->fd >= 0 && c != this && k < c->map_count; k++)
			sum += c->map[k].size;
	}
	return sum;
}

static int map_refused(const struct vfio_containers *all, const struct vfio_container *c,
		       const struct mem_region *r, int error, struct err *e)
{
	const uint64_t need = locked_memory(all, c);
	const unsigned long long mib = (r->size + (1 << 20) - 1) >> 20;
	struct rlimit l = { 0 };
	getrlimit(RLIMIT_MEMLOCK, &l);
	if (error == ENOMEM && l.rlim_cur < need)
		return err_set(
			e, error,
			"map %llu MiB of guest memory for the device: %s; all of it is locked: raise ulimit -l "
			"from %llu KiB to %llu KiB at least (LimitMEMLOCK= of systemd)",
			mib, err_text(error), (unsigned long long)l.rlim_cur >> 10,
			(unsigned long long)need >> 10);
	if (error == ENOSPC && !c->iommufd)
		return err_set(
			e, error,
			"map %llu MiB of guest memory for the device: no entries left for this region; raise "
			"/sys/module/vfio_iommu_type1/parameters/dma_entry_limit by 1 at least",
			mib);
	return err_sys(e, error, "map %llu MiB of guest memory at %#llx for the device", mib,
		       (unsigned long long)r->gpa);
}

static int type1_map(const struct vfio_container *c, const struct mem_region *r)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uint64_t)(uintptr_t)r->hva,
		.iova = r->gpa,
		.size = r->size,
	};
	return ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &map) < 0 ? -errno : 0;
}

static int type1_unmap(const struct vfio_container *c, uint64_t gpa, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = gpa, .size = size };
	return ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0 ? -errno : 0;
}

int vfio_container_map(struct vfio_containers *all, struct vfio_container *c, const struct mem_region *r,
		       struct err *e)
{
	for (unsigned i = 0; i < c->map_count; i++)
		if (c->map[i].gpa == r->gpa && c->map[i].size == r->size) {
			c->map[i].users++;
			return 0;
		}
	if (c->map_count == VFIO_MAPS_MAX)
		return err_set(e, ENOSPC, "more than %d regions of guest memory", VFIO_MAPS_MAX);
	int rc = c->iommufd ? vfio_ioas_map(c, r) : type1_map(c, r);
	if (rc < 0)
		return map_refused(all, c, r, -rc, e);
	c->map[c->map_count].gpa = r->gpa;
	c->map[c->map_count].size = r->size;
	c->map[c->map_count++].users = 1;
	return 0;
}

int vfio_container_unmap(struct vfio_container *c, uint64_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < c->map_count; i++) {
		if (c->map[i].gpa != gpa || c->map[i].size != size)
			continue;
		if (--c->map[i].users > 0)
			return 0;
		c->map[i] = c->map[--c->map_count];
		return c->iommufd ? vfio_ioas_unmap(c, gpa, size) : type1_unmap(c, gpa, size);
	}
	return -ENOENT;
}

// ---- containers -------------------------------------------------------------------------------------------------

static int container_open(struct vfio_container *c, struct err *e)
{
	FD_AUTO fd = open(CONTAINER_NODE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "open %s%s", CONTAINER_NODE,
			       errno == ENOENT || errno == ENODEV ? " (modprobe vfio vfio_iommu_type1)" : "");
	int version = ioctl(fd, VFIO_GET_API_VERSION);
	if (version != VFIO_API_VERSION)
		return err_set(e, ENOTSUP, "%s: its API has version %d, this program is for %d",
			       CONTAINER_NODE, version, VFIO_API_VERSION);
	if (ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0)
		return err_set(e, ENOTSUP, "%s: the kernel has no type 1 IOMMU (modprobe vfio_iommu_type1)",
			       CONTAINER_NODE);
	*c = (struct vfio_container){ .fd = fd_steal(&fd) };
	return 0;
}

void vfio_container_leave(struct vfio_container *c)
{
	if (--c->users == 0)
		fd_close(&c->fd);
}

// Into one that there is, or into a new one.
static int container_join(struct vfio_containers *all, struct vfio_group *g, struct err *e)
{
	struct vfio_container *fresh = NULL;
	for (unsigned i = 0; i < VFIO_CONTAINERS_MAX; i++) {
		struct vfio_container *c = &all->container[i];
		if (c->fd < 0) {
			fresh = fresh ? fresh : c;
		} else if (!c->iommufd && ioctl(g->fd, VFIO_GROUP_SET_CONTAINER, &c->fd) == 0) {
			c->users++;
			g->container = c;
			return 0;
		}
	}
	if (!fresh)
		return err_set(e, ENOSPC, "more than %d containers", VFIO_CONTAINERS_MAX);
	int rc = container_open(fresh, e);
	if (rc < 0)
		return rc;
	fresh->users = 1;
	rc = ioctl(g->fd, VFIO_GROUP_SET_CONTAINER, &fresh->fd) < 0 ? -errno : 0;
	if (rc < 0) {
		vfio_container_leave(fresh);
		return err_sys(e, -rc, "group %u: VFIO_GROUP_SET_CONTAINER", g->number);
	}
	rc = ioctl(fresh->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0 ? -errno : 0;
	if (rc < 0) {
		ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER);
		vfio_container_leave(fresh);
		return err_sys(e, -rc, "group %u: VFIO_SET_IOMMU%s", g->number,
			       rc == -EPERM ? " (no interrupt remapping? then only "
					      "vfio_iommu_type1.allow_unsafe_interrupts=1 would do)"
					    : "");
	}
	g->container = fresh;
	return 0;
}

// ---- groups -----------------------------------------------------------------------------------------------------

// Who else is in the group, with a driver of the host's.
static void others_of(const char *sysfs, char *out, size_t room)
{
	char folder[PATH_MAX];
	size_t used = 0;
	snprintf(folder, sizeof(folder), "%s/iommu_group/devices", sysfs);
	DIR *d = opendir(folder);
	out[0] = '\0';
	for (struct dirent *entry; d && (entry = readdir(d));) {
		char device[PATH_MAX + 300], driver[64];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(device, sizeof(device), "%s/%s", folder, entry->d_name);
		if (sysfs_link(device, "driver", driver, sizeof(driver)) < 0 ||
		    strncmp(driver, "vfio", 4) == 0 || strcmp(driver, "pcieport") == 0)
			continue;
		int n = snprintf(out + used, room - used, "%s%s has %s", used ? ", " : "", entry->d_name,
				 driver);
		used += n > 0 ? (size_t)n : 0;
		if (used >= room)
			break;
	}
	if (d)
		closedir(d);
}

static int group_open(struct vfio_group *g, const char *sysfs, struct err *e)
{
	char node[32], others[256], copy[PATH_MAX];
	snprintf(node, sizeof(node), "/dev/vfio/%u", g->number);
	snprintf(copy, sizeof(copy), "%s", sysfs);
	FD_AUTO fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		const int error = errno;
		const char *mend = "";
		if (error == ENOENT)
			mend = " (give the device to vfio-pci: minivmm bind)";
		else if (error == EACCES)
			mend = " (chown it to this user)";
		else if (error == EBUSY)
			mend = " (another program has the group)";
		return err_sys(e, error, "%s: open %s%s", basename(copy), node, mend);
	}
	struct vfio_group_status status = { .argsz = sizeof(status) };
	if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0)
		return err_sys(e, errno, "%s: VFIO_GROUP_GET_STATUS", node);
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
		others_of(sysfs, others, sizeof(others));
		return err_set(
			e, EPERM,
			"group %u is not viable: %s; all of a group is given to vfio-pci, or none of it "
			"(minivmm bind)",
			g->number, others[0] ? others : "a device in it has a driver of the host's");
	}
	g->fd = fd_steal(&fd);
	return 0;
}

static int group_number(const char *sysfs, unsigned *out, struct err *e)
{
	char name[32], copy[PATH_MAX], driver[64];
	uint64_t number;
	snprintf(copy, sizeof(copy), "%s", sysfs);
	const char *device = basename(copy);
	if (access(sysfs, F_OK) < 0)
		return err_sys(e, errno, "%s: %s", device, sysfs);
	if (sysfs_link(sysfs, "driver", driver, sizeof(driver)) < 0)
		return err_set(e, ENODEV, "%s has no driver; give it to vfio-pci: minivmm bind %s", device,
			       device);
	if (sysfs_link(sysfs, "iommu_group", name, sizeof(name)) < 0)
		return err_set(e, ENODEV,
			       "%s is in no IOMMU group: there is no IOMMU, or it is off (in the firmware; "
			       "intel_iommu=on on the kernel's command line)",
			       device);
	if (parse_uint(name, UINT32_MAX, &number) < 0)
		return err_set(e, EPROTO, "%s: IOMMU group \"%s\" is no number", device, name);
	if (strncmp(sysfs, "/sys/bus/pci/", 13) == 0 && strncmp(driver, "vfio", 4) != 0 &&
	    !strstr(driver, "vfio"))
		return err_set(e, EBUSY, "%s has the driver %s; give it to vfio-pci: minivmm bind %s", device,
			       driver, device);
	*out = (unsigned)number;
	return 0;
}

int vfio_group_take(struct vfio_group **out, struct vfio_containers *all, const char *sysfs, struct err *e)
{
	struct vfio_group *g = NULL;
	unsigned number = 0;
	int rc = group_number(sysfs, &number, e);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < VFIO_CONTAINERS_MAX; i++) {
		if (all->group[i].users && all->group[i].number == number) {
			*out = &all->group[i];
			all->group[i].users++;
			return 0;
		}
		if (!g && !all->group[i].users)
			g = &all->group[i];
	}
	if (!g)
		return err_set(e, ENOSPC, "more than %d groups", VFIO_CONTAINERS_MAX);
	*g = (struct vfio_group){ .number = number, .fd = -1 };
	rc = group_open(g, sysfs, e);
	if (rc == 0)
		rc = container_join(all, g, e);
	if (rc < 0) {
		fd_close(&g->fd);
		return rc;
	}
	g->users = 1;
	rc = kvm_vfio_add(all->kvm, g->fd);
	if (rc < 0)
		log_info("group %u: KVM is not told of it: %s", number, err_text(-rc));
	*out = g;
	return 0;
}

void vfio_group_leave(struct vfio_containers *all, struct vfio_group *g)
{
	if (--g->users > 0)
		return;
	kvm_vfio_remove(all->kvm, g->fd);
	ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER);
	fd_close(&g->fd);
	vfio_container_leave(g->container);
}
