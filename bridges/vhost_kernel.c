// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/vhost_kernel_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE_DEFAULT 256
#define QUEUE_SIZE_LIMIT   1024 // of entries that one request may have (the kernel's UIO_MAXIOV)

static const struct vhost_kind *const kinds[] = { &vhost_kind_net, &vhost_kind_scsi, &vhost_kind_vsock };

static struct vhost_kernel *vk_of(struct backend *b)
{
	return CONTAINER_OF(b, struct vhost_kernel, backend);
}

// ---- operations -------------------------------------------------------------------------------------------------

static int op_features(struct backend *b, uint64_t *out)
{
	*out = vk_of(b)->offered;
	return 0;
}

static int op_negotiate(struct backend *b, uint64_t features)
{
	struct vhost_kernel *vk = vk_of(b);
	uint64_t carried = features & vk->kind->carried;
	if (features & ~vk->offered)
		return -EINVAL;
	int rc = 0;
	for (unsigned i = 0; i < vk->fd_count && rc == 0; i++)
		rc = vhost_call(vk->fd[i], VHOST_SET_FEATURES, &carried);
	if (rc == 0)
		rc = vk->kind->negotiate(vk, features);
	if (rc < 0)
		log_limited(LOG_WARN, "%s: %s refuses the features that the driver took: %s", b->id,
			    vk->kind->node, err_text(-rc));
	return rc < 0 ? rc : vk_pairs_settle(vk, features);
}

static int op_config_read(struct backend *b, uint32_t off, void *buf, uint32_t len)
{
	memcpy(buf, vk_of(b)->config + off, len);
	return 0;
}

static int op_config_write(struct backend *b, uint32_t off, const void *buf, uint32_t len)
{
	(void)b;
	(void)off;
	(void)buf;
	(void)len;
	return -EINVAL; // sizes of scsi are as they are, and nothing else may be written
}

static int op_memory(struct backend *b, const struct mem_table *t)
{
	struct vhost_kernel *vk = vk_of(b);
	struct backend *c = vk_control(vk);
	int rc = 0;
	for (unsigned i = 0; i < vk->fd_count && rc == 0; i++)
		rc = vhost_memory_set(vk->fd[i], t);
	if (rc < 0) {
		log_limited(LOG_WARN, "%s: %s refuses the guest's memory (%u regions): %s", b->id,
			    vk->kind->node, t->count, err_text(-rc));
		return rc;
	}
	vk->memory = *t;
	return c ? c->ops->memory(c, t) : 0;
}

// Of the queues that the kernel serves.
static int fd_of(const struct vhost_kernel *vk, unsigned q)
{
	return vk->fd[q / vk->kind->served];
}

static int op_queue_start(struct backend *b, unsigned q, const struct vring_cfg *cfg)
{
	struct vhost_kernel *vk = vk_of(b);
	struct backend *c = vk_control(vk);
	if (c && q == vk->served)
		return c->ops->queue_start(c, q, cfg);
	if (q >= vk->served)
		return 0;
	int rc = vhost_queue_set(fd_of(vk, q), q % vk->kind->served, cfg, &vk->memory, vk->err_source.fd);
	vk->set[q] = rc == 0;
	if (rc < 0)
		log_limited(LOG_WARN, "%s: %s refuses queue %u: %s", b->id, vk->kind->node, q, err_text(-rc));
	return rc;
}

static void stop(struct vhost_kernel *vk)
{
	if (vk->running)
		vk->kind->stop(vk);
	vk->running = false;
}

static int op_queue_stop(struct backend *b, unsigned q, uint32_t *base)
{
	struct vhost_kernel *vk = vk_of(b);
	struct backend *c = vk_control(vk);
	*base = 0;
	stop(vk); // no kind stops one queue alone, and none offers RING_RESET
	if (c && q == vk->served)
		return c->ops->queue_stop(c, q, base);
	if (q >= vk->served || !vk->set[q])
		return 0;
	vk->set[q] = false;
	return vhost_queue_clear(fd_of(vk, q), q % vk->kind->served, base);
}

static int op_run(struct backend *b, bool on)
{
	struct vhost_kernel *vk = vk_of(b);
	struct backend *c = vk_control(vk);
	if (!on) {
		stop(vk);
		return c ? c->ops->run(c, false) : 0;
	}
	fd_event_take(vk->err_source.fd); // what an earlier run left
	loop_modify(vk->loop, &vk->err_source, (uint32_t)EPOLLIN | (uint32_t)EPOLLONESHOT);
	int rc = vk->kind->start(vk);
	vk->running = rc == 0;
	if (rc < 0)
		log_limited(LOG_WARN, "%s: %s does not start: %s", b->id, vk->kind->node, err_text(-rc));
	else if (c) // whose first command may come at once
		rc = c->ops->run(c, true);
	return rc;
}

// The kernel's queues take no time.
static bool op_stop_begin(struct backend *b)
{
	struct backend *c = vk_control(vk_of(b));
	return c && c->ops->stop_begin && c->ops->stop_begin(c);
}

static void op_close(struct backend *b)
{
	struct vhost_kernel *vk = vk_of(b);
	stop(vk);
	if (vk->control)
		vk->control->ops->close(vk->control);
	vk->kind->close(vk);
	loop_remove(vk->loop, &vk->err_source);
	fd_close(&vk->err_source.fd);
	fd_close_all(vk->fd, vk->fd_count); // the end of the kernel's threads for it
	free(vk);
}

static const struct backend_ops vk_ops = {
	.kind = "vhost",
	.features = op_features,
	.negotiate = op_negotiate,
	.config_read = op_config_read,
	.config_write = op_config_write,
	.memory = op_memory,
	.queue_start = op_queue_start,
	.queue_stop = op_queue_stop,
	.run = op_run,
	.stop_begin = op_stop_begin,
	.close = op_close,
};

// Armed for one event by ops->run().
static void queue_failed(struct loop_source *s, uint32_t events)
{
	(void)events;
	struct vhost_kernel *vk = CONTAINER_OF(s, struct vhost_kernel, err_source);
	if (!fd_event_take(s->fd))
		return;
	log_limited(LOG_WARN, "%s: the kernel reports an error on a queue", vk->backend.id);
	if (vk->backend.events && vk->backend.events->queue_failed)
		vk->backend.events->queue_failed(vk->backend.owner);
}

// ---- open -------------------------------------------------------------------------------------------------------

static const struct vhost_kind *kind_of(uint16_t virtio_type)
{
	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
		if (kinds[i]->virtio_type == virtio_type)
			return kinds[i];
	return NULL;
}

const char *vhost_kernel_node(const struct device_config *cfg)
{
	const struct vhost_kind *kind = kind_of(cfg->virtio_type);
	return !kind ? NULL : cfg->path ? cfg->path : kind->node;
}

static int open_node(struct vhost_kernel *vk, const char *path, const struct mem_table *ram, struct err *e)
{
	uint64_t theirs = 0;
	const int fd = vhost_dev_open(path, vk->kind->module, e);
	if (fd < 0)
		return fd;
	vk->fd[vk->fd_count++] = fd;
	int rc = vhost_dev_own(fd, path, e);
	if (rc < 0)
		return rc;
	rc = vhost_call(fd, VHOST_GET_FEATURES, &theirs);
	if (rc < 0)
		return err_sys(e, -rc, "%s: VHOST_GET_FEATURES", path);
	vk->offered = theirs & vk->kind->carried;
	if (!(vk->offered & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
		return err_set(e, ENOTSUP, "%s: it offers legacy virtio only; use a newer kernel", path);
	rc = ram ? vhost_memory_set(fd, ram) : 0;
	if (rc == -E2BIG)
		return err_set(e, E2BIG,
			       "%s: it takes fewer than the %u regions of this guest's memory "
			       "(raise /sys/module/vhost/parameters/max_mem_regions)",
			       path, ram->count);
	return rc < 0 ? err_sys(e, -rc, "%s: VHOST_SET_MEM_TABLE", path) : 0;
}

static void vk_init(struct vhost_kernel *vk, const struct vhost_kind *kind, const struct device_config *cfg,
		    struct loop *loop, const struct vhost_kernel_pairs *pairs)
{
	*vk = (struct vhost_kernel){
		.backend = { .ops = &vk_ops,
			     .id = cfg->id,
			     .virtio_type = cfg->virtio_type,
			     .queue_count = kind->queues,
			     .queue_size_max = cfg->queue_size ? cfg->queue_size : QUEUE_SIZE_DEFAULT },
		.kind = kind,
		.pairs = pairs,
		.control = pairs ? pairs->control : NULL,
		.served = kind->served,
		.loop = loop,
		.err_source = { .fd = fd_eventfd(), .ready = queue_failed },
		.link.source.fd = -1,
	};
	for (unsigned i = 0; i < ARRAY_LEN(vk->tap); i++)
		vk->tap[i].fd = -1;
}

static int vk_open(struct vhost_kernel *vk, const struct device_config *cfg, const struct mem_table *ram,
		   struct err *e)
{
	const unsigned fds = vk->pairs ? vk->pairs->count : 1;
	int rc = vk->err_source.fd < 0 ? err_sys(e, -vk->err_source.fd, "make an eventfd") : 0;
	if (rc == 0)
		rc = loop_add(vk->loop, &vk->err_source, (uint32_t)EPOLLIN | (uint32_t)EPOLLONESHOT);
	for (unsigned i = 0; i < fds && rc == 0; i++)
		rc = open_node(vk, vhost_kernel_node(cfg), ram, e);
	if (rc == 0)
		rc = vk->kind->open(vk, cfg, e);
	if (rc == 0)
		rc = vk_pairs_offer(vk, e);
	vk->pairs = NULL;
	return rc;
}

int vhost_kernel_open(struct backend **out, const struct device_config *cfg, struct loop *loop,
		      const struct mem_table *ram, const struct vhost_kernel_pairs *pairs, struct err *e)
{
	const struct vhost_kind *kind = kind_of(cfg->virtio_type);
	struct vhost_kernel *vk = NULL;
	int rc = 0;
	if (!kind)
		rc = err_set(e, ENOTSUP,
			     "%s: the kernel has no vhost \"%s\"; net, scsi and vsock are possible", cfg->id,
			     cfg->virtio_name);
	else if (cfg->queue_size > QUEUE_SIZE_LIMIT)
		rc = err_set(e, EINVAL, "%s: queue_size = %u: kernel vhost has at most %d", cfg->id,
			     cfg->queue_size, QUEUE_SIZE_LIMIT);
	else if (!(vk = malloc(sizeof(*vk))))
		rc = err_sys(e, ENOMEM, "%s", cfg->id);
	if (!vk) {
		if (pairs)
			pairs->control->ops->close(pairs->control);
		return rc;
	}
	vk_init(vk, kind, cfg, loop, pairs);
	rc = vk_open(vk, cfg, ram, e);
	if (rc < 0) {
		err_prefix(e, "%s", cfg->id);
		vk_ops.close(&vk->backend);
		return rc;
	}
	*out = &vk->backend;
	return 0;
}
