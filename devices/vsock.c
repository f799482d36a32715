// SPDX-License-Identifier: BSD-2-Clause
// minivmm-vsock: connections between programs of the guest and of the host, for any VMM.
//
// The command line and the SDK's callbacks; the device is devices/vsock/'s.
#include "devices/sdk/dev.h"
#include "devices/vsock/virtio_vsock.h"
#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

#include <string.h>

static struct vsock vsock;
static struct vsock_options chosen;

static const struct vdev_option options[] = {
	{ "cid", "N", "the guest's address, 3 or more" },
	{ "socket", "PATH", "host programs say CONNECT PORT here; guests reach PATH_PORT" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(shutdown, "one side of a connection says no more, or listens no more"),
	SANDBOX_CALL(timerfd_settime, "a beginning or an end of a connection takes too long"),
};

static int vsock_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	(void)d;
	uint64_t cid;
	if (strcmp(name, "socket") == 0) {
		chosen.path = value;
		return 0;
	}
	int rc = vdev_number(name, value, VSOCK_CID_MIN, VSOCK_CID_MAX, &cid, e);
	if (rc == 0)
		chosen.cid = (uint32_t)cid;
	return rc;
}

static int device_open(struct vdev *d, struct err *e)
{
	int rc = vsock_init(&vsock, d, &chosen, e);
	if (rc < 0)
		vsock_destroy(&vsock);
	return rc;
}

static int device_start(struct vdev *d, uint64_t features)
{
	(void)d;
	(void)features;
	vsock_start(&vsock);
	return 0;
}

static void device_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vsock_kick(&vsock, q);
}

static void device_stop(struct vdev *d)
{
	(void)d;
	vsock_stop(&vsock);
}

static void device_close(struct vdev *d)
{
	(void)d;
	vsock_destroy(&vsock);
}

static const struct vdev_ops ops = {
	.program = "minivmm-vsock",
	.summary = "Connections between programs of the guest and of the host (AF_VSOCK streams).",
	.capabilities = "{\"type\": \"vsock\", \"features\": []}",
	.virtio_type = VIRTIO_VSOCK,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.fds_max = VSOCK_CONNS_MAX + 8,
	.aside = &connector_spec,
	.option = vsock_option,
	.open = device_open,
	.start = device_start,
	.kick = device_kick, // which holds no request: there is nothing to drain
	.stop = device_stop,
	.close = device_close,
};

int main(int argc, char **argv)
{
	return vdev_main(&ops, argc, argv);
}
