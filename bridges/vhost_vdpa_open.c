// SPDX-License-Identifier: BSD-2-Clause
// What a vDPA device is, all of it asked from the device, and what keeps it from being used.
#include "bridges/vhost_vdpa_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/virtio_id.h"
#include "vmm/config.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define QUEUE_SIZE_DEFAULT 256
#define QUEUE_SIZE_LIMIT   32768 // virtio 1.2 §2.7
#define KERNEL_FEATURES                                                                                 \
	(VDPA_BIT(VDPA_F_MSG_V2) | VDPA_BIT(VDPA_F_BATCH) | VDPA_BIT(VDPA_F_ASID) |                     \
	 VDPA_BIT(VDPA_F_SUSPEND) | VDPA_BIT(VDPA_F_RESUME) | VDPA_BIT(VDPA_F_ENABLE_AFTER_DRIVER_OK) | \
	 VDPA_BIT(VDPA_F_PERSIST))

static void config_changed(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vhost_vdpa *v = CONTAINER_OF(s, struct vhost_vdpa, config_source);
	if (fd_event_take(s->fd) && v->backend.events)
		v->backend.events->config_changed(v->backend.owner);
}

// ---- questions --------------------------------------------------------------------------------------------------

static int ask(const struct vhost_vdpa *v, unsigned long request, void *out, const char *name, struct err *e)
{
	int rc = vhost_call(v->fd, request, out);
	if (rc == -ENOTTY)
		return err_set(e, ENOTTY, "%s: it does not know %s: not a vhost-vdpa device", v->path, name);
	return rc < 0 ? err_sys(e, -rc, "%s: %s", v->path, name) : 0;
}
#define ASK(v, request, out, e) ask(v, request, out, #request, e)

static int ask_identity(struct vhost_vdpa *v, const struct device_config *cfg, struct err *e)
{
	uint32_t type = 0;
	int rc = ASK(v, VHOST_VDPA_GET_DEVICE_ID, &type, e);
	if (rc == 0)
		rc = ASK(v, VHOST_GET_FEATURES, &v->offered, e);
	if (rc < 0)
		return rc;
	const char *name = virtio_id_name((uint16_t)type);
	if (type == 0 || type > VIRTIO_TYPE_MAX)
		return err_set(e, EPROTO,
			       "%s: it says that it is of virtio type %u, which PCI has no room for", v->path,
			       type);
	if (cfg->virtio_type && cfg->virtio_type != type)
		return err_set(e, EINVAL, "%s: virtio = \"%s\", but it is a %s (%u): leave the key out",
			       v->path, cfg->virtio_name, name ? name : "device without a name", type);
	if (!(v->offered >> VIRTIO_F_VERSION_1 & 1))
		return err_set(e, ENOTSUP, "%s: it offers legacy virtio only (no VIRTIO_F_VERSION_1)",
			       v->path);
	v->backend.virtio_type = (uint16_t)type;
	v->translated = v->offered >> VIRTIO_F_ACCESS_PLATFORM & 1;
	// One queue alone cannot be stopped by vhost-vdpa.
	v->offered &= ~(VDPA_BIT(VIRTIO_F_ACCESS_PLATFORM) | VDPA_BIT(40));
	return 0;
}

static int agree_with_kernel(struct vhost_vdpa *v, struct err *e)
{
	uint64_t theirs = 0;
	int rc = ASK(v, VHOST_GET_BACKEND_FEATURES, &theirs, e);
	if (rc < 0)
		return rc;
	v->kernel = theirs & KERNEL_FEATURES;
	if (!vdpa_has(v, VDPA_F_MSG_V2))
		return err_set(e, ENOTSUP,
			       "%s: it takes no mappings (VHOST_BACKEND_F_IOTLB_MSG_V2); use a newer kernel",
			       v->path);
	return ASK(v, VHOST_SET_BACKEND_FEATURES, &v->kernel, e);
}

static int ask_queues(struct vhost_vdpa *v, const struct device_config *cfg, struct err *e)
{
	uint32_t count = 0;
	uint16_t size = 0;
	int rc = ASK(v, VHOST_VDPA_GET_VQS_COUNT, &count, e);
	if (rc == 0)
		rc = ASK(v, VHOST_VDPA_GET_VRING_NUM, &size, e);
	if (rc < 0)
		return rc;
	if (count == 0 || count > VDPA_QUEUES_MAX)
		return err_set(e, EPROTO, "%s: it has %u queues; 1 to %d are possible", v->path, count,
			       VDPA_QUEUES_MAX);
	if (cfg->queues && cfg->queues != count)
		return err_set(e, EINVAL, "%s: queues = %u, but it has %u: leave the key out", v->path,
			       cfg->queues, count);
	if (cfg->queue_size > size)
		return err_set(e, EINVAL, "%s: queue_size = %u, but it has at most %u", v->path,
			       cfg->queue_size, size);
	uint16_t most = QUEUE_SIZE_LIMIT;
	while (most > size)
		most >>= 1;
	if (most == 0)
		return err_set(e, EPROTO, "%s: it says that a queue has no entries", v->path);
	v->backend.queue_count = (uint16_t)count;
	v->backend.queue_size_max =
		cfg->queue_size ? cfg->queue_size : (uint16_t)MIN(most, QUEUE_SIZE_DEFAULT);
	return 0;
}

static int ask_spaces(struct vhost_vdpa *v, struct err *e)
{
	struct vhost_vdpa_iova_range range = { 0 };
	uint32_t len = 0, spaces = 0;
	int rc = ASK(v, VHOST_VDPA_GET_CONFIG_SIZE, &len, e);
	if (rc == 0)
		rc = ASK(v, VHOST_VDPA_GET_IOVA_RANGE, &range, e);
	if (rc == 0 && len > VDPA_CONFIG_MAX)
		rc = err_set(e, EPROTO, "%s: a configuration space of %u bytes; up to %d are possible",
			     v->path, len, VDPA_CONFIG_MAX);
	if (rc == 0 && vdpa_has(v, VDPA_F_ASID))
		rc = ASK(v, VHOST_VDPA_GET_AS_NUM, &spaces, e);
	// With one space there is nothing to choose, and many a device then refuses to be told.
	if (rc == 0 && spaces > 1)
		rc = ASK(v, VHOST_VDPA_GET_GROUP_NUM, &v->groups, e);
	if (rc == 0 && v->groups > VDPA_QUEUES_MAX)
		rc = err_set(e, EPROTO, "%s: %u groups of queues", v->path, v->groups);
	v->backend.config_len = len;
	v->iova_first = range.first;
	v->iova_last = range.last;
	return rc;
}

// ---- what may be in the way -------------------------------------------------------------------------------------

// A device in hardware pins what it sees, also of a process with CAP_IPC_LOCK.  Whether this one does cannot be asked: the limit is raised as
// far as it may be.  True: it is not enough.
static bool memlock_short_of(uint64_t need)
{
	struct rlimit own;
	if (getrlimit(RLIMIT_MEMLOCK, &own) < 0 || own.rlim_cur >= need)
		return false;
	const struct rlimit wanted = { .rlim_cur = need, .rlim_max = MAX(own.rlim_max, need) };
	if (setrlimit(RLIMIT_MEMLOCK, &wanted) == 0)
		return false;
	own.rlim_cur = own.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &own);
	return own.rlim_cur < need;
}

static int map_first(struct vhost_vdpa *v, const struct mem_table *ram, struct err *e)
{
	uint64_t size = 0, end = 0;
	for (unsigned i = 0; i < ram->count; i++) {
		size += ram->region[i].size;
		end = MAX(end, ram->region[i].gpa + ram->region[i].size);
	}
	const uint64_t need = size + (UINT64_C(1) << 20);
	const bool short_of = memlock_short_of(need);
	int rc = vdpa_map(v, ram);
	if (rc == -ERANGE)
		return err_set(e, ERANGE,
			       "%s: it reaches addresses from %#" PRIx64 " to %#" PRIx64
			       ", the guest's memory ends at %#" PRIx64 "; give the guest less",
			       v->path, v->iova_first, v->iova_last, end);
	// The kernel says EFAULT whatever it was.
	if (rc < 0 && short_of)
		return err_set(e, ENOMEM,
			       "%s: it locks the %" PRIu64
			       "M of the guest in memory, and RLIMIT_MEMLOCK does not allow it "
			       "(ulimit -l %" PRIu64 ", or LimitMEMLOCK= of the service)",
			       v->path, size >> 20, need >> 10);
	return rc < 0 ? err_sys(e, -rc, "%s: map the guest's memory for it", v->path) : 0;
}

// A node that is not there may be a vDPA device that another driver has.
static int explain_absence(const struct vhost_vdpa *v, int error, struct err *e)
{
	char first[256] = "";
	DIR *d = error == ENOENT ? opendir("/sys/bus/vdpa/drivers/virtio_vdpa") : NULL;
	for (struct dirent *f; d && (f = readdir(d));)
		if (f->d_type == DT_LNK && strcmp(f->d_name, "module") != 0)
			snprintf(first, sizeof(first), "%s", f->d_name);
	if (d)
		closedir(d);
	if (!*first)
		return -error;
	return err_set(e, error,
		       "%s: there is no such device, and %s is bound to virtio_vdpa, the host's own driver "
		       "(echo %s > /sys/bus/vdpa/drivers/virtio_vdpa/unbind; echo %s > "
		       "/sys/bus/vdpa/drivers/vhost_vdpa/bind)",
		       v->path, first, first, first);
}

static int open_node(struct vhost_vdpa *v, const struct device_config *cfg, struct err *e)
{
	v->fd = vhost_dev_open(v->path, "vhost_vdpa, and vdpa dev add", e);
	if (v->fd < 0)
		return explain_absence(v, -v->fd, e);
	int rc = ask_identity(v, cfg, e);
	if (rc == 0)
		rc = vhost_dev_own(v->fd, v->path, e);
	return rc;
}

static int watch_config(struct vhost_vdpa *v, struct err *e)
{
	v->config_source.fd = fd_eventfd();
	if (v->config_source.fd < 0)
		return err_sys(e, -v->config_source.fd, "make an eventfd");
	int rc = vhost_call(v->fd, VHOST_VDPA_SET_CONFIG_CALL, &v->config_source.fd);
	if (rc == 0)
		rc = loop_add(v->loop, &v->config_source, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "%s: watch its configuration", v->path) : 0;
}

// Pages that are doorbells, where the device has them; only writing to them is allowed.
static void map_doorbells(struct vhost_vdpa *v)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned q = 0;
	for (; q < v->backend.queue_count; q++) {
		v->doorbell[q] = mmap(NULL, page, PROT_WRITE, MAP_SHARED, v->fd, (off_t)(q * page));
		if (v->doorbell[q] == MAP_FAILED)
			break;
	}
	v->doorbells = q == v->backend.queue_count;
	while (!v->doorbells && q-- > 0)
		munmap(v->doorbell[q], page);
	v->backend.doorbell_pages = v->doorbells;
	v->backend.doorbell_fixed = v->doorbells ? v->doorbell : NULL;
}

int vhost_vdpa_open(struct backend **out, const struct device_config *cfg, struct loop *loop,
		    const struct mem_table *ram, struct err *e)
{
	struct vhost_vdpa *v = malloc(sizeof(*v));
	if (!v)
		return err_sys(e, ENOMEM, "%s", cfg->id);
	*v = (struct vhost_vdpa){
		.backend = { .ops = &vdpa_ops, .id = cfg->id },
		.path = cfg->path,
		.fd = -1,
		.loop = loop,
		.config_source = { .fd = -1, .ready = config_changed },
		.gone = { .node = { .fd = -1 }, .let_go = -1 },
	};
	int rc = open_node(v, cfg, e);
	if (rc == 0)
		rc = agree_with_kernel(v, e);
	if (rc == 0)
		rc = ask_queues(v, cfg, e);
	if (rc == 0)
		rc = ask_spaces(v, e);
	if (rc == 0)
		rc = watch_config(v, e);
	if (rc == 0)
		rc = vdpa_gone_watch(v, e);
	if (rc == 0 && ram)
		rc = map_first(v, ram, e);
	if (rc == 0)
		map_doorbells(v);
	if (rc < 0) {
		err_prefix(e, "%s", cfg->id);
		vdpa_ops.close(&v->backend);
		return rc;
	}
	*out = &v->backend;
	return 0;
}
