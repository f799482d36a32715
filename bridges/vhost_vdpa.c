// SPDX-License-Identifier: BSD-2-Clause
// The operations of a vDPA device.  How long each may take is the kernel's and, behind VDUSE, a daemon's that the kernel gives 30 s.
#include "bridges/vhost_vdpa_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STATUS_BEGUN (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

static struct vhost_vdpa *vdpa_of(struct backend *b)
{
	return CONTAINER_OF(b, struct vhost_vdpa, backend);
}

static int alive(const struct vhost_vdpa *v)
{
	return atomic_load(&v->gone.is) ? -EPIPE : 0;
}

// What failed, once in a while; a device that is gone has said so.
static int told(const struct vhost_vdpa *v, const char *what, int rc)
{
	if (rc < 0 && alive(v) == 0)
		log_limited(LOG_WARN, "%s: %s: %s: %s", v->backend.id, v->path, what, err_text(-rc));
	return rc;
}

// -EIO: the device did not take a bit of it.
static int set_status(struct vhost_vdpa *v, uint8_t status)
{
	uint8_t now = 0;
	int rc = vhost_call(v->fd, VHOST_VDPA_SET_STATUS, &status);
	if (rc == 0)
		rc = vhost_call(v->fd, VHOST_VDPA_GET_STATUS, &now);
	if (rc == 0 && ((now & VIRTIO_CONFIG_S_NEEDS_RESET) || (now & status) != status))
		rc = -EIO;
	return rc;
}

// The end of all use of the rings, and of what was set up.
static int reset(struct vhost_vdpa *v)
{
	v->running = false;
	v->standing = true;
	int rc = set_status(v, 0);
	return rc < 0 ? rc : vdpa_map_after_reset(v);
}

static int op_features(struct backend *b, uint64_t *out)
{
	*out = vdpa_of(b)->offered;
	return 0;
}

static int op_negotiate(struct backend *b, uint64_t features)
{
	struct vhost_vdpa *v = vdpa_of(b);
	// A device behind an IOMMU of the host's, or a bounce buffer, needs it; for the driver there is none.
	uint64_t taken = features | (v->translated ? VDPA_BIT(VIRTIO_F_ACCESS_PLATFORM) : 0);
	if (features & ~v->offered)
		return -EINVAL;
	int rc = alive(v);
	if (rc == 0)
		rc = reset(v);
	if (rc == 0)
		rc = set_status(v, STATUS_BEGUN);
	if (rc == 0)
		rc = vhost_call(v->fd, VHOST_SET_FEATURES, &taken);
	if (rc == 0)
		rc = set_status(v, STATUS_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK);
	for (uint32_t g = 0; g < v->groups && rc == 0; g++) {
		struct vhost_vring_state s = { .index = g, .num = 0 };
		rc = vhost_call(v->fd, VHOST_VDPA_SET_GROUP_ASID, &s);
	}
	v->standing = false;
	return told(v, "it refuses the features that the driver took", rc);
}

// A buffer of the C library's choosing would be an allocation: pieces on the stack.
#define PIECE 256

static int config_copy(struct vhost_vdpa *v, unsigned long request, uint32_t off, uint8_t *buf, uint32_t len)
{
	union {
		struct vhost_vdpa_config c;
		uint8_t room[sizeof(struct vhost_vdpa_config) + PIECE];
	} piece;
	int rc = alive(v);
	for (uint32_t at = 0; at < len && rc == 0; at += PIECE) {
		const uint32_t n = MIN(len - at, (uint32_t)PIECE);
		uint8_t *bytes = piece.room + offsetof(struct vhost_vdpa_config, buf);
		memset(&piece, 0, sizeof(piece));
		piece.c.off = off + at;
		piece.c.len = n;
		if (request == VHOST_VDPA_SET_CONFIG)
			memcpy(bytes, buf + at, n);
		rc = vhost_call(v->fd, request, &piece);
		if (rc == 0 && request == VHOST_VDPA_GET_CONFIG)
			memcpy(buf + at, bytes, n);
	}
	return rc;
}

// Its configuration interrupt may also mean that it gave up (virtio 1.2 §2.1.1); the loop, where it arrives, asks no device.
static void look_after(struct vhost_vdpa *v)
{
	uint8_t status = 0;
	if (!v->running || vhost_call(v->fd, VHOST_VDPA_GET_STATUS, &status) < 0 ||
	    !(status & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	if (v->backend.events && v->backend.events->queue_failed)
		v->backend.events->queue_failed(v->backend.owner);
}

static int op_config_read(struct backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct vhost_vdpa *v = vdpa_of(b);
	int rc = config_copy(v, VHOST_VDPA_GET_CONFIG, off, buf, len);
	if (rc == 0)
		look_after(v);
	return told(v, "read its configuration", rc);
}

static int op_config_write(struct backend *b, uint32_t off, const void *buf, uint32_t len)
{
	uint8_t copy[8];
	if (len > sizeof(copy))
		return -EINVAL;
	memcpy(copy, buf, len);
	return told(vdpa_of(b), "write its configuration",
		    config_copy(vdpa_of(b), VHOST_VDPA_SET_CONFIG, off, copy, len));
}

static int op_memory(struct backend *b, const struct mem_table *t)
{
	struct vhost_vdpa *v = vdpa_of(b);
	int rc = alive(v);
	return told(v, "map the guest's memory", rc < 0 ? rc : vdpa_map(v, t));
}

static int op_queue_start(struct backend *b, unsigned q, const struct vring_cfg *cfg)
{
	struct vhost_vdpa *v = vdpa_of(b);
	struct vhost_vring_state on = { .index = q, .num = 1 };
	int rc = alive(v);
	if (rc == 0 && v->running && !vdpa_has(v, VDPA_F_ENABLE_AFTER_DRIVER_OK))
		rc = -ENOTSUP;
	if (rc == 0)
		rc = vhost_queue_set(v->fd, q, cfg, NULL, -1);
	if (rc == 0)
		rc = vhost_call(v->fd, VHOST_VDPA_SET_VRING_ENABLE, &on);
	if (rc == 0)
		v->set |= VDPA_BIT(q);
	return told(v, "set up a queue", rc);
}

// All queues at once: by a suspension, after which they say where they are, or else by the reset that is to come anyway.
static int stand_still(struct vhost_vdpa *v)
{
	if (v->standing)
		return 0;
	v->standing = true;
	if (v->running && vdpa_has(v, VDPA_F_SUSPEND) && vhost_call(v->fd, VHOST_VDPA_SUSPEND, NULL) == 0)
		return 0;
	return reset(v);
}

static int op_queue_stop(struct backend *b, unsigned q, uint32_t *base)
{
	struct vhost_vdpa *v = vdpa_of(b);
	*base = 0;
	int rc = alive(v);
	if (rc < 0)
		return rc;
	rc = stand_still(v);
	if (v->set & VDPA_BIT(q)) {
		int one = vhost_queue_clear(v->fd, q, base);
		rc = rc < 0 ? rc : one;
	}
	v->set &= ~VDPA_BIT(q);
	return rc;
}

static int op_run(struct backend *b, bool on)
{
	struct vhost_vdpa *v = vdpa_of(b);
	int rc = alive(v);
	if (rc < 0)
		return rc;
	if (!on)
		return told(v, "reset it", reset(v));
	rc = set_status(v, STATUS_BEGUN | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	v->running = rc == 0;
	return told(v, "it does not start (DRIVER_OK)", rc);
}

// A device that could not go on is not suspended: it finishes what it has.
static int op_pause(struct backend *b, bool on)
{
	struct vhost_vdpa *v = vdpa_of(b);
	int rc = alive(v);
	if (rc < 0 || !v->running || v->standing == on || !vdpa_has(v, VDPA_F_SUSPEND) ||
	    !vdpa_has(v, VDPA_F_RESUME))
		return 0;
	rc = vhost_call(v->fd, on ? VHOST_VDPA_SUSPEND : VHOST_VDPA_RESUME, NULL);
	if (rc == 0)
		v->standing = on;
	return told(v, on ? "suspend it" : "resume it", rc);
}

// The node's close resets the device, but what was mapped may stay (Linux 6.12's VDUSE): whoever drives it next, the host itself by virtio_vdpa,
// would have its requests read from a dead guest's memory.
static void forget_guest(struct vhost_vdpa *v)
{
	static const struct mem_table none;
	if (alive(v) < 0)
		return;
	if (v->running)
		set_status(v, 0);
	vdpa_map(v, &none);
}

static void op_close(struct backend *b)
{
	struct vhost_vdpa *v = vdpa_of(b);
	vdpa_gone_close(v);
	forget_guest(v);
	loop_remove(v->loop, &v->config_source);
	for (unsigned q = 0; v->doorbells && q < b->queue_count; q++)
		munmap(v->doorbell[q], (size_t)sysconf(_SC_PAGESIZE));
	fd_close(&v->fd);
	fd_close(&v->config_source.fd);
	free(v);
}

const struct backend_ops vdpa_ops = {
	.kind = "vhost-vdpa",
	.features = op_features,
	.negotiate = op_negotiate,
	.config_read = op_config_read,
	.config_write = op_config_write,
	.memory = op_memory,
	.queue_start = op_queue_start,
	.queue_stop = op_queue_stop,
	.run = op_run,
	.pause = op_pause,
	.close = op_close,
};
