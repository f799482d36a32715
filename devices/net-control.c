// SPDX-License-Identifier: BSD-2-Clause
// minivmm-net-control: the queue for commands of a network device whose packets the host's kernel moves.
//
// Kernel vhost serves pairs of queues and no commands, which a driver with several pairs needs; started by minivmm for `via = "vhost"`
// with `queues` of 2 or more.  The command line and the SDK's callbacks; commands are devices/net/pairs.c's.
#include "devices/net/pairs.h"
#include "devices/sdk/dev.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

// One interface a process.
static struct net_pairs pairs;
static const char *tap[NET_PAIRS_MAX];
static unsigned taps;

static const struct vdev_option options[] = {
	{ "tap", "fd:N", "a queue of a multi_queue tap, once for each pair of queues" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_IOCTL(TUNSETQUEUE, "pairs that the driver begins or ceases to use"),
	SANDBOX_IOCTL(TUNSETOFFLOAD, "checksums and segments that the driver takes from now on"),
};

static int control_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	(void)d;
	(void)name;
	// By its name the tap would give other queues than those of the data.
	if (!fd_is_reference(value))
		return err_set(e, EINVAL, "--tap: \"%s\" is no descriptor, fd:N", value);
	if (taps == NET_PAIRS_MAX)
		return err_set(e, EINVAL, "--tap: more than %d", NET_PAIRS_MAX);
	tap[taps++] = value;
	return 0;
}

static int control_open(struct vdev *d, struct err *e)
{
	int rc = 0;
	if (taps < 2)
		return err_set(e, EINVAL, "--tap: two or more are needed, one for each pair of queues");
	while (pairs.count < taps && rc == 0) {
		struct tap *t = &pairs.tap[pairs.count];
		rc = tap_open(t, tap[pairs.count], true, e);
		if (rc < 0)
			break;
		pairs.count++;
		if (strcmp(t->name, pairs.tap[0].name) != 0)
			rc = err_set(e, EINVAL, "--tap: %s and %s are two interfaces", pairs.tap[0].name,
				     t->name);
	}
	if (rc < 0)
		net_pairs_destroy(&pairs);
	else
		net_pairs_init(&pairs, d);
	return rc;
}

static int control_start(struct vdev *d, uint64_t features)
{
	(void)d;
	net_pairs_start(&pairs, features);
	return 0;
}

static void control_kick(struct vdev *d, struct vq *q)
{
	net_pairs_kick(&pairs, d, q);
}

static void control_close(struct vdev *d)
{
	(void)d;
	net_pairs_destroy(&pairs);
}

static const struct vdev_ops ops = {
	.program = "minivmm-net-control",
	.summary = "The commands of a network device whose packets the kernel moves.",
	.capabilities = "{\"type\": \"net\", \"features\": []}",
	.virtio_type = VIRTIO_NET,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.option = control_option,
	.open = control_open,
	.start = control_start,
	.kick = control_kick,
	.close = control_close,
};

int main(int argc, char **argv)
{
	return vdev_main(&ops, argc, argv);
}
