// SPDX-License-Identifier: BSD-2-Clause
// minivmm-net: a network interface on a tap of the host, for any VMM.
//
// The command line and the SDK's callbacks; the device is devices/net/virtio_net.c's.
#include "devices/net/virtio_net.h"
#include "devices/sdk/dev.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/parse.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>

#define MTU_MIN 68 // virtio 1.2 §5.1.4.1

struct net {
	struct vnet vnet;
	struct vnet_options options;
	bool mac_given;
	const char *tap[VNET_PAIRS_MAX];
	uint16_t taps, pairs, queue_size;
};

// One interface a process.  Zeros until main(): what is initialised lies in the program's file, all of it.
static struct net net;

static const struct vdev_option options[] = {
	{ "tap", "NAME", "a tap of the host, or fd:N (one for each pair of queues)" },
	{ "mac", "ADDRESS", "the guest's address (default: a random one)" },
	{ "mtu", "N", "what the guest is told as its MTU" },
	{ "queues", "N", "pairs of queues (default 1); more need a multi_queue tap" },
	{ "queue-size", "N", "entries of a queue, at most (default 1024)" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(readv, "packets from the tap to the guest"),
	SANDBOX_CALL(writev, "packets from the guest to the tap"),
	SANDBOX_IOCTL(TUNSETOFFLOAD, "checksums and segments that this guest can take"),
	SANDBOX_IOCTL(TUNSETVNETHDRSZ, "the header that this guest negotiated"),
	SANDBOX_RARE_IOCTL(TUNSETQUEUE, "queues of a multi_queue tap that the guest begins or ceases to use"),
};

static int set_mac(const char *value, struct err *e)
{
	if (parse_mac(value, net.options.mac) < 0)
		return err_set(e, EINVAL,
			       "--mac: \"%s\" is no address of an interface, such as 52:54:00:12:34:56",
			       value);
	net.mac_given = true;
	return 0;
}

static int net_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	(void)d;
	if (strcmp(name, "mac") == 0)
		return set_mac(value, e);
	if (strcmp(name, "mtu") == 0)
		return vdev_number16(name, value, MTU_MIN, UINT16_MAX, &net.options.mtu, e);
	if (strcmp(name, "queues") == 0)
		return vdev_number16(name, value, 1, VNET_PAIRS_MAX, &net.pairs, e);
	if (strcmp(name, "queue-size") == 0)
		return vdev_queue_size(value, &net.queue_size, e);
	if (net.taps == VNET_PAIRS_MAX)
		return err_set(e, EINVAL, "--tap: more than %d", VNET_PAIRS_MAX);
	net.tap[net.taps++] = value;
	return 0;
}

// One name stands for all its queues, descriptors are one queue each.
static int settle_pairs(struct err *e)
{
	if (net.taps == 0)
		return err_set(e, EINVAL, "--tap is missing");
	bool by_name = !fd_is_reference(net.tap[0]);
	for (unsigned i = 1; i < net.taps; i++)
		if (by_name || !fd_is_reference(net.tap[i]))
			return err_set(e, EINVAL, "--tap: one name, or descriptors only");
	if (net.pairs == 0)
		net.pairs = net.taps;
	if (!by_name && net.pairs != net.taps)
		return err_set(e, EINVAL, "--queues %u with %u descriptors", net.pairs, net.taps);
	for (unsigned i = net.taps; i < net.pairs; i++)
		net.tap[i] = net.tap[0];
	return 0;
}

static int open_taps(struct vnet *n, struct err *e)
{
	for (; n->pairs_max < net.pairs; n->pairs_max++) {
		struct tap *t = &n->pair[n->pairs_max].tap;
		int rc = tap_open(t, net.tap[n->pairs_max], net.pairs > 1, e);
		if (rc < 0)
			return rc;
		if (strcmp(t->name, n->pair[0].tap.name) != 0) {
			fd_close(&t->fd);
			return err_set(e, EINVAL, "--tap: %s and %s are two interfaces", n->pair[0].tap.name,
				       t->name);
		}
	}
	return 0;
}

static int net_open(struct vdev *d, struct err *e)
{
	struct vnet *n = &net.vnet;
	n->d = d;
	int rc = settle_pairs(e);
	if (rc < 0)
		return rc;
	if (!net.mac_given) {
		if (getrandom(net.options.mac, sizeof(net.options.mac), 0) != sizeof(net.options.mac))
			return err_sys(e, errno, "random address");
		net.options.mac[0] =
			(uint8_t)((net.options.mac[0] & 0xfc) | 2); // one interface's, locally given
	}
	rc = open_taps(n, e);
	if (rc == 0)
		rc = vnet_init(n, d, &net.options, e);
	if (rc < 0)
		vnet_destroy(n);
	d->queue_size_max = net.queue_size;
	return rc;
}

static int net_start(struct vdev *d, uint64_t features)
{
	(void)d;
	return vnet_start(&net.vnet, features);
}

static void net_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vnet_kick(&net.vnet, q);
}

static void net_drain(struct vdev *d, struct vq *q)
{
	(void)d;
	vnet_drain(&net.vnet, q);
}

static void net_stop(struct vdev *d)
{
	(void)d;
	vnet_stop(&net.vnet);
}

static void net_close(struct vdev *d)
{
	(void)d;
	vnet_destroy(&net.vnet);
}

static size_t net_state_save(struct vdev *d, void *to)
{
	(void)d;
	return vnet_state_save(&net.vnet, to);
}

static int net_state_load(struct vdev *d, const void *from, size_t len)
{
	(void)d;
	return vnet_state_load(&net.vnet, from, len);
}

static int net_announce(struct vdev *d, const uint8_t mac[6])
{
	(void)d;
	return vnet_announce(&net.vnet, mac);
}

static int net_set_mtu(struct vdev *d, uint16_t mtu)
{
	(void)d;
	return vnet_set_mtu(&net.vnet, mtu);
}

static int net_config_write(struct vdev *d, uint32_t off, const void *p, uint32_t len)
{
	(void)d;
	(void)off;
	(void)p;
	(void)len;
	return -EINVAL; // all of it is read-only (virtio 1.2 §5.1.4)
}

static const struct vdev_ops ops = {
	.program = "minivmm-net",
	.summary = "A network interface on a tap of the host.",
	.capabilities = "{\"type\": \"net\", \"features\": []}",
	.virtio_type = VIRTIO_NET,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.option = net_option,
	.open = net_open,
	.start = net_start,
	.kick = net_kick,
	.drain = net_drain,
	.stop = net_stop,
	.close = net_close,
	.config_write = net_config_write,
	.state_save = net_state_save,
	.state_load = net_state_load,
	.announce = net_announce,
	.set_mtu = net_set_mtu,
};

int main(int argc, char **argv)
{
	net.queue_size = VQ_SIZE_MAX;
	return vdev_main(&ops, argc, argv);
}
