// SPDX-License-Identifier: BSD-2-Clause
// minivmm-blk: a disk from a raw file or a block device, for any VMM.
//
// The command line and the SDK's callbacks; requests are devices/block/virtio_blk.c's, I/O is devices/block/engine.c's.
#include "devices/block/virtio_blk.h"
#include "devices/sdk/dev.h"
#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <string.h>

struct blk {
	struct vblk vblk;
	struct loop_source completions;
	struct blk_image_options image;
	enum blk_engine_kind engine;
	uint16_t queues, queue_size;
};

// One disk a process.
static struct blk blk = { .queues = 1, .queue_size = VQ_SIZE_MAX };

static const struct vdev_option options[] = {
	{ "image", "PATH", "raw file or block device, or fd:N" },
	{ "blk-file", "PATH", NULL },
	{ "readonly", NULL, "the driver may not write" },
	{ "read-only", NULL, NULL },
	{ "block-size", "N", "512 or 4096 (default: what suits the image)" },
	{ "queues", "N", "number of queues (default 1)" },
	{ "queue-size", "N", "entries of a queue, at most (default 1024)" },
	{ "serial", "TEXT", "what the guest reads as serial number, up to 20 bytes" },
	{ "direct", NULL, "go around the host's page cache" },
	{ "engine", "KIND", "auto, uring or sync (default auto)" },
	POLLER_OPTIONS("look for requests instead of waiting for kicks"),
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = { BLK_ENGINE_RULES };

static int set_serial(const char *value, struct err *e)
{
	size_t len = strlen(value);
	if (len > sizeof(blk.vblk.serial))
		return err_set(e, EINVAL, "--serial: longer than %zu bytes", sizeof(blk.vblk.serial));
	memcpy(blk.vblk.serial, value, len);
	return 0;
}

static int blk_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	int rc;
	(void)d;
	if (poller_option(&blk.vblk.poller, name, value, &rc, e))
		return rc;
	if (strcmp(name, "image") == 0 || strcmp(name, "blk-file") == 0)
		blk.image.path = value;
	else if (strcmp(name, "readonly") == 0 || strcmp(name, "read-only") == 0)
		blk.image.readonly = true;
	else if (strcmp(name, "direct") == 0)
		blk.image.direct = true;
	else if (strcmp(name, "engine") == 0)
		return blk_engine_by_name(value, &blk.engine, e);
	else if (strcmp(name, "serial") == 0)
		return set_serial(value, e);
	else if (strcmp(name, "queues") == 0)
		return vdev_number16(name, value, 1, VDEV_QUEUES_MAX, &blk.queues, e);
	else if (strcmp(name, "queue-size") == 0)
		return vdev_queue_size(value, &blk.queue_size, e);
	else if (strcmp(name, "block-size") == 0)
		return blk_image_block_size(value, &blk.image.block_size, e);
	return 0;
}

static void completed(struct loop_source *s, uint32_t events)
{
	(void)s;
	(void)events;
	vblk_complete(&blk.vblk, false);
}

static int blk_open(struct vdev *d, struct err *e)
{
	struct vblk *b = &blk.vblk;
	if (!blk.image.path)
		return err_set(e, EINVAL, "--image is missing");
	int rc = blk_image_open(&b->img, &blk.image, e);
	if (rc < 0)
		return rc;
	rc = vblk_init(b, d, blk.queues, blk.queue_size, e);
	if (rc == 0)
		rc = blk_engine_open(&b->engine, &b->img, blk.engine, b->request_count, e);
	if (rc < 0) {
		vblk_destroy(b);
		return rc;
	}
	d->queue_count = blk.queues;
	d->queue_size_max = blk.queue_size;
	int fd = blk_engine_fd(&b->engine);
	if (fd < 0)
		return 0;
	blk.completions = (struct loop_source){ .fd = fd, .ready = completed };
	rc = loop_add(&d->loop, &blk.completions, EPOLLIN);
	return rc < 0 ? err_sys(e, -rc, "watch io_uring") : 0;
}

static int blk_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vblk_start(&blk.vblk, features);
	return 0;
}

static void blk_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_kick(&blk.vblk, q);
}

static void blk_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vblk_drain(&blk.vblk, q);
}

static void blk_close(struct vdev *d)
{
	(void)d;
	vblk_destroy(&blk.vblk);
}

static int blk_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	return vblk_config_write(&blk.vblk, off, p, len);
}

static size_t blk_state_save(struct vdev *d, void *to)
{
	(void)d;
	return vblk_state_save(&blk.vblk, to);
}

static int blk_state_load(struct vdev *d, const void *from, size_t len)
{
	(void)d;
	return vblk_state_load(&blk.vblk, from, len);
}

static const struct vdev_ops ops = {
	.program = "minivmm-blk",
	.summary = "A disk from a raw file or a block device.",
	.capabilities = "{\"type\": \"block\", \"features\": [\"read-only\", \"blk-file\"]}",
	.virtio_type = VIRTIO_BLK,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.option = blk_option,
	.open = blk_open,
	.start = blk_start,
	.kick = blk_kick,
	.drain = blk_drain,
	.close = blk_close,
	.config_write = blk_config_write,
	.state_save = blk_state_save,
	.state_load = blk_state_load,
};

int main(int argc, char **argv)
{
	return vdev_main(&ops, argc, argv);
}
