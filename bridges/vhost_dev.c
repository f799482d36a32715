// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_dev.h"

#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

int vhost_call(int fd, unsigned long request, void *arg)
{
	int rc = ioctl(fd, request, arg);
	return rc < 0 ? -errno : rc;
}

int vhost_dev_open(const char *path, const char *module, struct err *e)
{
	struct stat st;
	FD_AUTO fd = fd_open_path(path, O_RDWR, e);
	switch (-fd) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return err_set(e, -fd, "%s: there is no such device (modprobe %s)", path, module);
	case EBUSY:
		return err_set(e, EBUSY, "%s: another program uses it (fuser %s names it)", path, path);
	case EACCES:
	case EPERM:
		return err_set(e, -fd,
			       "%s: you may not open it (chown it to this user, or hand it over as fd:N)",
			       path);
	default:
		break;
	}
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
		return err_set(e, ENOTTY, "%s: not a character device", path);
	return fd_steal(&fd);
}

int vhost_dev_own(int fd, const char *path, struct err *e)
{
	int rc = vhost_call(fd, VHOST_SET_OWNER, NULL);
	if (rc == -ENOTTY)
		return err_set(e, ENOTTY, "%s: not a device of the vhost family", path);
	if (rc == -EBUSY)
		return err_set(e, EBUSY, "%s: it has an owner already: one descriptor serves one machine",
			       path);
	return rc < 0 ? err_sys(e, -rc, "%s: VHOST_SET_OWNER", path) : 0;
}

// ---- memory -----------------------------------------------------------------------------------------------------

int vhost_memory_set(int fd, const struct mem_table *t)
{
	union {
		struct vhost_memory m;
		uint8_t room[sizeof(struct vhost_memory) +
			     MEM_REGIONS_MAX * sizeof(struct vhost_memory_region)];
	} table;
	memset(&table, 0, sizeof(table));
	struct vhost_memory_region *last = NULL;
	for (unsigned i = 0; i < t->count; i++) {
		const struct mem_region *r = &t->region[i];
		const uint64_t user = (uint64_t)(uintptr_t)r->hva;
		if (last && last->guest_phys_addr + last->memory_size == r->gpa &&
		    last->userspace_addr + last->memory_size == user) {
			last->memory_size += r->size;
			continue;
		}
		last = &table.m.regions[table.m.nregions++];
		last->guest_phys_addr = r->gpa;
		last->memory_size = r->size;
		last->userspace_addr = user;
	}
	return vhost_call(fd, VHOST_SET_MEM_TABLE, &table.m);
}

// ---- queues -----------------------------------------------------------------------------------------------------

static int set_state(int fd, unsigned long request, unsigned index, uint32_t num)
{
	struct vhost_vring_state s = { .index = index, .num = num };
	return vhost_call(fd, request, &s);
}

static int set_file(int fd, unsigned long request, unsigned index, int file)
{
	struct vhost_vring_file f = { .index = index, .fd = file };
	return vhost_call(fd, request, &f);
}

static uint64_t user_address(const struct mem_table *t, uint64_t gpa)
{
	return t ? (uint64_t)(uintptr_t)mem_table_ptr(t, gpa, 1) : gpa;
}

int vhost_queue_set(int fd, unsigned index, const struct vring_cfg *cfg, const struct mem_table *t,
		    int err_fd)
{
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = user_address(t, cfg->desc_gpa),
		.avail_user_addr = user_address(t, cfg->avail_gpa),
		.used_user_addr = user_address(t, cfg->used_gpa),
	};
	int rc = set_state(fd, VHOST_SET_VRING_NUM, index, cfg->size);
	if (rc == 0)
		rc = set_state(fd, VHOST_SET_VRING_BASE, index, cfg->base);
	if (rc == 0)
		rc = vhost_call(fd, VHOST_SET_VRING_ADDR, &addr);
	if (rc == 0)
		rc = set_file(fd, VHOST_SET_VRING_CALL, index, cfg->call_fd);
	if (rc == 0)
		rc = set_file(fd, VHOST_SET_VRING_ERR, index, err_fd);
	if (rc == 0)
		rc = set_file(fd, VHOST_SET_VRING_KICK, index, cfg->kick_fd);
	return rc;
}

int vhost_queue_clear(int fd, unsigned index, uint32_t *base)
{
	struct vhost_vring_state s = { .index = index };
	int rc = vhost_call(fd, VHOST_GET_VRING_BASE, &s);
	*base = s.num;
	set_file(fd, VHOST_SET_VRING_KICK, index, VHOST_FILE_UNBIND);
	set_file(fd, VHOST_SET_VRING_CALL, index, VHOST_FILE_UNBIND);
	set_file(fd, VHOST_SET_VRING_ERR, index, VHOST_FILE_UNBIND);
	return rc;
}
