// SPDX-License-Identifier: BSD-2-Clause
// minivmm-console: a console and other ports of bytes, for any VMM.
//
// The command line and the SDK's callbacks; the device is devices/console/virtio_console.c's.
#include "devices/console/virtio_console.h"
#include "devices/sdk/dev.h"
#include "vmm/base/check.h"
#include "vmm/base/virtio_id.h"

#include <sys/ioctl.h>
#include <termios.h>

static struct vcon console;

static const struct vdev_option options[] = {
	{ "port", "NAME=TARGET", "stdio, pty, socket:PATH, file:PATH, fd:N; first the console" },
	{ NULL, NULL, NULL },
};

static const struct sandbox_rule rules[] = {
	SANDBOX_CALL(readv, "bytes from the host's end to the guest"),
	SANDBOX_CALL(writev, "bytes from the guest to the host's end"),
	SANDBOX_IOCTL(TIOCGWINSZ, "the size of a terminal"),
	SANDBOX_RARE_IOCTL(TCGETS, "our own terminal is given back"),
	SANDBOX_RARE_IOCTL(TCSETS, "our own terminal is given back"),
};

static int console_option(struct vdev *d, const char *name, const char *value, struct err *e)
{
	(void)d;
	(void)name;
	return vcon_add_port(&console, value, e);
}

static int console_open(struct vdev *d, struct err *e)
{
	int rc = vcon_init(&console, d, e);
	if (rc < 0)
		vcon_destroy(&console);
	return rc;
}

static int console_start(struct vdev *d, uint64_t features)
{
	(void)d;
	vcon_start(&console, features);
	return 0;
}

static void console_kick(struct vdev *d, struct vq *q)
{
	(void)d;
	vcon_kick(&console, q);
}

static void console_stop(struct vdev *d)
{
	(void)d;
	vcon_stop(&console);
}

static void console_close(struct vdev *d)
{
	(void)d;
	vcon_destroy(&console);
}

static size_t console_state_save(struct vdev *d, void *to)
{
	(void)d;
	return vcon_state_save(&console, to);
}

static int console_state_load(struct vdev *d, const void *from, size_t len)
{
	(void)d;
	return vcon_state_load(&console, from, len);
}

static const struct vdev_ops ops = {
	.program = "minivmm-console",
	.summary = "A console and other ports of bytes.",
	.capabilities = "{\"type\": \"console\", \"features\": []}",
	.virtio_type = VIRTIO_CONSOLE,
	.options = options,
	.rules = rules,
	.rule_count = ARRAY_LEN(rules),
	.fds_max = 8 * VCON_PORTS_MAX, // its own, and a client's two
	.option = console_option,
	.open = console_open,
	.start = console_start,
	.kick = console_kick,
	.stop = console_stop,
	.close = console_close,
	// The one field of its configuration that can be written is not offered (virtio 1.2 §5.3.4).
	.state_save = console_state_save,
	.state_load = console_state_load,
};

int main(int argc, char **argv)
{
	return vdev_main(&ops, argc, argv);
}
