// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/vdpa_netlink.h"
#include "devices/sdk/vduse_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CONTROL	      "/dev/vduse/control"
#define OPEN_PAUSE_MS 20
#define CONFIG_MAX    4096 // the kernel's limit
#define RING_ALIGN    4096 // of legacy rings, which nobody has here; virtio_vdpa wants one nevertheless

#define BIT(name) (UINT64_C(1) << (name))

// ---- what VDUSE can carry ---------------------------------------------------------------------------------------

// Configuration space is the kernel's, and drivers cannot write it, nor is there a control queue: what needs one or the other is
// refused by the kernel.  Queues are not reset one by one: nobody would tell us.
uint64_t vduse_features(const struct vdev *d)
{
	uint64_t without = BIT(VIRTIO_F_RING_RESET);
	if (d->ops->virtio_type == VIRTIO_BLK)
		without |= BIT(VIRTIO_BLK_F_CONFIG_WCE);
	if (d->ops->virtio_type == VIRTIO_NET)
		without |= BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |
			   BIT(VIRTIO_NET_F_CTRL_VLAN) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |
			   BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
			   BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | BIT(VIRTIO_NET_F_MQ);
	return (d->features & ~without) | BIT(VIRTIO_F_ACCESS_PLATFORM);
}

// Without a control queue a network driver has one pair.
uint16_t vduse_queues(const struct vdev *d)
{
	return d->ops->virtio_type == VIRTIO_NET ? MIN(d->queue_count, (uint16_t)2) : d->queue_count;
}

// ---- the kernel's device ----------------------------------------------------------------------------------------

struct node {
	const char *name;
	int control;
	bool made, found;
};

static int create(const struct node *n, const struct vdev *d)
{
	const size_t len = offsetof(struct vduse_dev_config, config) + d->config_len;
	struct vduse_dev_config *c = calloc(1, MAX(len, sizeof(*c)));
	if (!c)
		return -ENOMEM;
	snprintf(c->name, sizeof(c->name), "%s", n->name);
	c->vendor_id = 0x1af4;
	c->device_id = d->ops->virtio_type;
	c->features = vduse_features(d);
	c->vq_num = vduse_queues(d);
	c->vq_align = RING_ALIGN;
	c->config_size = d->config_len;
	if (d->config_len)
		memcpy(c->config, d->config, d->config_len);
	int rc = ioctl(n->control, VDUSE_CREATE_DEV, c) < 0 ? -errno : 0;
	free(c);
	return rc;
}

static int destroy(const struct node *n)
{
	char name[VDUSE_NAME_MAX] = { 0 };
	snprintf(name, sizeof(name), "%s", n->name);
	return ioctl(n->control, VDUSE_DESTROY_DEV, name) < 0 ? -errno : 0;
}

static int create_error(int rc, const struct vdev *d, const struct node *n, struct err *e)
{
	if (rc == -EINVAL)
		return err_set(e, EINVAL,
			       "VDUSE device %s: this kernel takes none of virtio type %u (Linux 6.12 takes "
			       "blk and net)",
			       n->name, d->ops->virtio_type);
	return err_sys(e, -rc, "VDUSE device %s%s", n->name,
		       rc == -EPERM ? " (network devices need CAP_NET_ADMIN)" : "");
}

// A device of that name that nobody uses is of no use to us either: it may be another one than we are.
static int make_or_find(struct node *n, const struct vdev *d, struct err *e)
{
	const uint64_t version = VDUSE_API_VERSION;
	n->control = open(CONTROL, O_RDWR | O_CLOEXEC);
	if (n->control < 0)
		return err_sys(e, errno, "%s%s", CONTROL, errno == ENOENT ? " (modprobe vduse)" : "");
	if (ioctl(n->control, VDUSE_SET_API_VERSION, &version) < 0)
		return err_sys(e, errno, "%s: VDUSE version %d", CONTROL, VDUSE_API_VERSION);
	int rc = create(n, d);
	if (rc == -EEXIST && destroy(n) == 0)
		rc = create(n, d);
	if (rc < 0 && rc != -EEXIST)
		return create_error(rc, d, n, e);
	n->made = rc == 0;
	n->found = rc == -EEXIST;
	return 0;
}

// udev may yet have to make the file; a process that served it before us may yet have to die.
static int node_open(const struct node *n, struct err *e)
{
	char path[32 + VDUSE_NAME_MAX];
	const deadline_ns deadline = deadline_in_ms(DEADLINE_CONTROL_MS);
	snprintf(path, sizeof(path), "/dev/vduse/%s", n->name);
	for (;;) {
		int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if ((errno != EBUSY && errno != ENOENT) || !deadline_left_ms(deadline))
			return err_sys(e, errno, "%s%s", path,
				       errno == EBUSY ? " (another process serves it)" : "");
		poll(NULL, 0, OPEN_PAUSE_MS);
	}
}

static int queues_declare(int fd, const struct vdev *d, const struct node *n, struct err *e)
{
	for (unsigned i = 0; i < vduse_queues(d); i++) {
		const struct vduse_vq_config c = { .index = i, .max_size = d->queue_size_max };
		if (ioctl(fd, VDUSE_VQ_SETUP, &c) < 0)
			return err_sys(e, errno, "VDUSE device %s: queue %u", n->name, i);
	}
	return 0;
}

// A device that is in use: are we the one that can go on with it?
static int node_take_over(int fd, const struct vduse *s, const struct vduse_head *is, struct err *e)
{
	struct vduse_vq_info info = { .index = 0 };
	if (ioctl(fd, VDUSE_VQ_GET_INFO, &info) < 0)
		return errno == EPERM
			       ? err_set(e, EIO,
					 "VDUSE device %s: the kernel gave it up, for a message was not answered in "
					 "time: vdpa dev del %s, and start again",
					 s->name, s->name)
			       : err_sys(e, errno, "VDUSE device %s", s->name);
	if (!vduse_record_matches(&s->record, is))
		return err_set(
			e, EEXIST,
			"VDUSE device %s is there and in use, and the record is not about it, so nobody "
			"knows what was in flight: vdpa dev del %s, and start again",
			s->name, s->name);
	return 0;
}

// ---- the whole --------------------------------------------------------------------------------------------------

static int options_check(const struct vdev *d, const struct vduse_options *o, struct err *e)
{
	const size_t len = strlen(o->name);
	if (len == 0 || len >= VDUSE_NAME_MAX || strchr(o->name, '/') || o->name[0] == '.' ||
	    strcmp(o->name, "control") == 0)
		return err_set(e, EINVAL, "--vduse: \"%s\" is no name for a device", o->name);
	if (d->ops->serve || d->ops->virtio_type == 0)
		return err_set(e, EINVAL, "--vduse: %s is no device of one driver", d->ops->program);
	if (d->config_len > CONFIG_MAX)
		return err_set(e, EINVAL, "--vduse: a configuration space of %u bytes", d->config_len);
	if (d->ops->virtio_type == VIRTIO_NET && d->queue_count > 3)
		log_warn("VDUSE has no control queue, so the driver uses one pair of queues of %u",
			 d->queue_count / 2u);
	return 0;
}

static int kickfds_make(struct vduse *s, struct err *e)
{
	for (unsigned i = 0; i < s->queue_count; i++) {
		int fd = fd_eventfd();
		if (fd < 0)
			return err_sys(e, -fd, "eventfd");
		s->ring[i].kick.fd = fd;
	}
	return 0;
}

static void session_free(struct vduse *s)
{
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		fd_close(&s->ring[i].kick.fd);
	vduse_record_close(&s->record);
	free(s);
}

static struct vduse *session_new(struct vdev *d, const struct vduse_options *o)
{
	struct vduse *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->d = d;
	s->queue_count = vduse_queues(d);
	s->record.file.fd = s->node.fd = s->keeper.fd = -1;
	snprintf(s->name, sizeof(s->name), "%s", o->name);
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		s->ring[i].kick.fd = -1;
	return s;
}

static void head_of(const struct vduse *s, struct vduse_head *h)
{
	memset(h, 0, sizeof(*h));
	memcpy(h->name, s->name, sizeof(h->name));
	h->type = s->d->ops->virtio_type;
	h->queue_count = s->queue_count;
	h->queue_size = s->d->queue_size_max;
	h->config_len = s->d->config_len;
	h->features = vduse_features(s->d);
}

static int keeper_start(struct vduse *s, const struct node *n, const struct vduse_options *o,
			const char *record, struct err *e)
{
	struct vduse_keeper k = { .name = s->name,
				  .record = record,
				  .vdpa_add = o->vdpa_add,
				  .made = n->made,
				  .control = n->control,
				  .netlink = -1 };
	if (o->vdpa_add && (k.netlink = vdpa_netlink_open(&k.family, e)) < 0)
		return k.netlink;
	s->keeper.fd = vduse_keeper_start(&k, e);
	fd_close(&k.netlink);
	return MIN(s->keeper.fd, 0);
}

static int device_bring(struct vduse *s, struct node *n, struct err *e)
{
	struct vduse_head is;
	head_of(s, &is);
	int rc = make_or_find(n, s->d, e);
	if (rc < 0)
		return rc;
	rc = s->node.fd = node_open(n, e);
	if (rc < 0)
		return rc;
	s->found = n->found;
	if (n->found)
		return node_take_over(s->node.fd, s, &is, e);
	vduse_record_begin(&s->record, &is);
	return queues_declare(s->node.fd, s->d, n, e);
}

int vduse_open(struct vdev *d, const struct vduse_options *o, struct err *e)
{
	char record[PATH_MAX];
	int rc = options_check(d, o, e);
	if (rc < 0)
		return rc;
	struct node n = { .name = o->name, .control = -1 };
	struct vduse *s = session_new(d, o);
	if (!s)
		return err_sys(e, ENOMEM, "--vduse");
	if (o->record)
		snprintf(record, sizeof(record), "%s", o->record);
	else
		snprintf(record, sizeof(record), "/run/minivmm-vduse-%s", o->name);
	rc = vduse_record_open(&s->record, record, s->queue_count, d->queue_size_max, e);
	if (rc == 0)
		rc = kickfds_make(s, e);
	if (rc == 0)
		rc = device_bring(s, &n, e);
	if (rc == 0)
		rc = keeper_start(s, &n, o, record, e);
	if (rc < 0) {
		fd_close(&s->node.fd);
		if (n.made)
			destroy(&n);
		if (s->record.file.fresh)
			unlink(record);
		session_free(s);
	}
	fd_close(&n.control);
	if (rc < 0)
		return rc;
	d->session = s;
	return s->node.fd;
}
