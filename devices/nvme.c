// SPDX-License-Identifier: BSD-2-Clause
// minivmm-nvme: an NVM Express controller over vfio-user, with a namespace for each image.
//
// The command line and the SDK's callbacks; the controller is devices/nvme/, I/O is devices/block/engine.c's.
#include "devices/nvme/nvme.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <string.h>

// One controller a process.  Zeros until main(): what is initialised lies in the program's file, all of it.
static struct nvme nvme;
static bool readonly, direct;
static uint32_t block_size;

static const struct vdev_option options[] = {
	{ "image", "PATH", "raw file or block device, or fd:N; for each one a namespace" },
	{ "readonly", NULL, "the driver may not write" },
	{ "block-size", "N", "512 or 4096 (default: what suits the image)" },
	{ "queues", "N", "pairs of I/O queues (default 8)" },
	{ "serial", "TEXT", "serial number, up to 20 bytes" },
	{ "direct", NULL, "go around the host's page cache" },
	{ "engine", "KIND", "auto, uring or sync (default auto)" },
	{ "poll-idle", "US", "microseconds without work before it sleeps (50; 0: at once)" },
	{ "cpus", "LIST", "processors to run on, as in 2-3,5" },
	{ "record", "FILE", "its state, for a program that is killed and started again" },
	{ "doorbells", "KIND", "message, or eventfd: all drivers have theirs in memory" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	BLK_ENGINE_RULES,
};

static int nvme_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	uint64_t number;
	int rc = 0;
	(void)d;
	if (strcmp(name, "image") == 0) {
		if (nvme.ns_count == NVME_NAMESPACES_MAX)
			return err_set(e, EINVAL, "--image: more than %d", NVME_NAMESPACES_MAX);
		nvme.ns[nvme.ns_count++].options.path = value;
	} else if (strcmp(name, "readonly") == 0) {
		readonly = true;
	} else if (strcmp(name, "direct") == 0) {
		direct = true;
	} else if (strcmp(name, "engine") == 0) {
		return blk_engine_by_name(value, &nvme.engine, e);
	} else if (strcmp(name, "serial") == 0) {
		if (strlen(value) > sizeof(nvme.serial))
			return err_set(e, EINVAL, "--serial: longer than %zu bytes", sizeof(nvme.serial));
		memset(nvme.serial, 0, sizeof(nvme.serial));
		memcpy(nvme.serial, value, strlen(value));
	} else if (strcmp(name, "queues") == 0) {
		rc = vdev_number(name, value, 1, NVME_QUEUES_MAX - 1, &number, e);
		nvme.io_queues = rc < 0 ? nvme.io_queues : (unsigned)number;
		return rc;
	} else if (strcmp(name, "poll-idle") == 0) {
		nvme.poller.on = strcmp(value, "0") != 0;
		if (nvme.poller.on)
			poller_option(&nvme.poller, name, value, &rc, e);
	} else if (strcmp(name, "record") == 0) {
		nvme.record_path = value;
	} else if (strcmp(name, "doorbells") == 0) {
		nvme.eventfds = strcmp(value, "eventfd") == 0;
		if (!nvme.eventfds && strcmp(value, "message") != 0)
			return err_set(e, EINVAL, "--doorbells: \"%s\" is neither message nor eventfd",
				       value);
	} else if (strcmp(name, "block-size") == 0) {
		return blk_image_block_size(value, &block_size, e);
	} else {
		poller_option(&nvme.poller, name, value, &rc, e);
	}
	return rc;
}

static int device_open(struct vdev *d, struct err *e)
{
	if (nvme.ns_count == 0)
		return err_set(e, EINVAL, "--image is missing");
	for (unsigned i = 0; i < nvme.ns_count; i++) {
		nvme.ns[i].options.readonly = readonly;
		nvme.ns[i].options.direct = direct;
		nvme.ns[i].options.block_size = block_size;
	}
	return nvme_open(&nvme, d, e);
}

static void device_close(struct vdev *d)
{
	(void)d;
	nvme_close(&nvme);
}

static const struct vdev_ops ops = {
	.program = "minivmm-nvme",
	.summary = "An NVM Express controller, with a namespace for each image.",
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.fds_max = 4 * NVME_NAMESPACES_MAX + 1,
	.option = nvme_option,
	.open = device_open,
	.close = device_close,
	.pci = &nvme_pci_ops,
};

int main(int argc, char **argv)
{
	nvme.io_queues = 8;
	strcpy(nvme.serial, "minivmm");
	nvme.poller = POLLER_ON;
	return vdev_main(&ops, argc, argv);
}
