// SPDX-License-Identifier: BSD-2-Clause
// minivmm-switch: a network for the machines of one host, a virtio-net port for each VMM that connects.
//
// The command line and the SDK's callbacks; the switch is devices/switch's.
#include "devices/switch/switch.h"
#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define MTU_MIN	      68 // virtio 1.2 §5.1.4.1
#define FDS_OF_A_PORT (2 + 3 * SWITCH_QUEUES + 1)
#define FDS_TO_GO     1024 // in the bin; a message may bring 253

// One switch a process.  Zeros until main(): what is initialised lies in the program's file, all of it.
static struct vswitch sw;
static const char *tap;

static const struct vdev_option options[] = {
	{ "tap", "NAME", "a tap of the host as uplink, or fd:N" },
	{ "ports", "N", "front-ends at a time (default 32)" },
	{ "mtu", "N", "what guests are told as their MTU" },
	{ "queue-size", "N", "entries of a queue, at most (default 1024)" },
	{ "flood", "N", "frames a second from a port to all others (10000; 0: any)" },
	POLLER_OPTIONS("never sleep while a guest has a driver (best with --cpus)"),
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(io_submit, "interrupts: an eventfd is signalled without ever waiting for its counter"),
	SANDBOX_CALL(brk, "memory for ports, which are made when front-ends come"),
	SANDBOX_CALL(epoll_create1, "the events of a port, which come and go with it"),
	SANDBOX_CALL(writev, "frames to the tap"),
};

static int switch_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	int rc;
	(void)d;
	if (poller_option(&sw.poller, name, value, &rc, e)) {
		sw.dedicated |= strcmp(name, "poll") == 0;
		return rc;
	}
	if (strcmp(name, "tap") == 0) {
		tap = value;
		return 0;
	}
	if (strcmp(name, "ports") == 0)
		return vdev_number16(name, value, 1, SWITCH_PORTS_MAX, &sw.ports_max, e);
	if (strcmp(name, "mtu") == 0)
		return vdev_number16(name, value, MTU_MIN, UINT16_MAX, &sw.mtu, e);
	if (strcmp(name, "flood") == 0)
		return vdev_number(name, value, 0, UINT32_MAX, &sw.flood, e);
	return vdev_queue_size(value, &sw.queue_size, e);
}

static int switch_open(struct vdev *d, struct err *e)
{
	sw.d = d;
	if (getrandom(sw.mac, sizeof(sw.mac), 0) != sizeof(sw.mac) ||
	    getrandom(&sw.table.key, sizeof(sw.table.key), 0) != sizeof(sw.table.key))
		return err_sys(e, errno, "random numbers");
	sw.mac[0] = (uint8_t)((sw.mac[0] & 0xfc) | 2); // one interface's, locally given
	guard_install(&sw);
	return tap ? uplink_open(&sw, tap, e) : 0;
}

static int switch_serve_all(struct vdev *d, const struct carrier *c, int sock, bool listening,
			    const bool *stop)
{
	(void)d;
	return switch_serve(&sw, c, sock, listening, stop);
}

static void switch_close(struct vdev *d)
{
	(void)d;
	uplink_close(&sw);
}

// The program's own device has no queue; each port is one (port.c).
static void switch_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	(void)q;
}

static const struct vdev_ops ops = {
	.program = "minivmm-switch",
	.summary = "A network for the machines of this host: a port for each VMM that connects.",
	.capabilities = "{\"type\": \"net\", \"features\": []}",
	.virtio_type = VIRTIO_NET,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.fds_max = SWITCH_PORTS_MAX * FDS_OF_A_PORT + FDS_TO_GO,
	.option = switch_option,
	.open = switch_open,
	.kick = switch_kick,
	.close = switch_close,
	.serve = switch_serve_all,
};

int main(int argc, char **argv)
{
	sw.ports_max = 32;
	sw.queue_size = VQ_SIZE_MAX;
	sw.flood = SWITCH_FLOOD;
	sw.poller = POLLER_ON;
	sw.uplink.tap.fd = -1;
	return vdev_main(&ops, argc, argv);
}
