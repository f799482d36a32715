// SPDX-License-Identifier: BSD-2-Clause
// The command line of a device program: the options that all have, and the device's own.
#include "devices/sdk/main_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/base/virtio_id.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

// Of all programs.  Those without a text are for the line at the end of --help, another spelling, or the tests.
static const struct vdev_option common_options[] = {
	{ "vfio-user", "PATH", "listen for vfio-user clients; they see a PCI function" },
	{ "connect", "PATH", "connect to a front-end that listens; end when it leaves" },
	{ "fd", "N", "serve on this socket, connected or listening" },
	{ "insecure", NULL, "go on where the host refuses a part of the sandbox" },
	{ "print-syscalls", NULL, NULL },
	{ "verbose", NULL, NULL },
	{ "quiet", NULL, NULL },
	{ "version", NULL, NULL },
	{ "help", NULL, NULL },
	{ NULL, NULL, NULL },
};

// Of virtio devices; PCI functions of their own are served over vfio-user only.
static const struct vdev_option virtio_options[] = {
	{ "vhost-user", "PATH", "listen for vhost-user front-ends (also --socket-path)" },
	{ "socket-path", "PATH", NULL },
	{ "print-capabilities", NULL, NULL },
	{ NULL, NULL, NULL },
};

// Of those, too; said of the types that Linux's VDUSE takes.
static const struct vdev_option vduse_options[] = {
	{ "vduse", "NAME", "be this VDUSE device, for vDPA: of this host or of a guest" },
	{ "vdpa-add", NULL, "and make its vDPA device, until SIGTERM" },
	{ "record", "FILE", "what outlives this program (/run/minivmm-vduse-NAME)" },
	{ NULL, NULL, NULL },
};

int vdev_number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out, struct err *e)
{
	uint64_t v = 0;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			break;
	}
	if (*p || p == text || v < min || v > max)
		return err_set(e, EINVAL, "--%s: \"%s\" is not a number from %llu to %llu", name, text,
			       (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

int vdev_number16(const char *name, const char *text, uint16_t min, uint16_t max, uint16_t *out,
		  struct err *e)
{
	uint64_t v;
	int rc = vdev_number(name, text, min, max, &v, e);
	if (rc == 0)
		*out = (uint16_t)v;
	return rc;
}

int vdev_queue_size(const char *text, uint16_t *out, struct err *e)
{
	int rc = vdev_number16("queue-size", text, 2, VQ_SIZE_MAX, out, e);
	return rc < 0 || is_power_of_two(*out) ? rc : err_set(e, EINVAL, "--queue-size: not a power of two");
}

static void help_options(const struct vdev_option *o)
{
	for (; o->name; o++) {
		char left[64];
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		if (o->help)
			printf("  %-18s %s\n", left, o->help);
	}
}

static bool vduse_takes(const struct vdev_ops *ops)
{
	return (ops->virtio_type == VIRTIO_NET || ops->virtio_type == VIRTIO_BLK) && !ops->serve;
}

// A screen: 24 lines of 80 columns for our own programs (tests/native/help.bats).
static void help(const struct vdev_ops *ops)
{
	printf("usage: %s %s | ... [OPTION]...\n%s\n\n", ops->program,
	       ops->pci ? "--vfio-user PATH" : "--vhost-user PATH", ops->summary);
	help_options(ops->options);
	printf("%s", ops->options->name ? "\n" : "");
	if (!ops->pci)
		help_options(virtio_options);
	if (vduse_takes(ops))
		help_options(vduse_options);
	help_options(common_options);
	printf("  %s--verbose (-v), --quiet (-q), --version, --help\n",
	       ops->pci ? "" : "--print-capabilities, ");
}

static const struct vdev_option *option_find(const struct vdev_option *o, const char *name, size_t len)
{
	for (; o->name; o++)
		if (strlen(o->name) == len && memcmp(o->name, name, len) == 0)
			return o;
	return NULL;
}

static int option_common(struct settings *s, const char *name, const char *value, struct err *e)
{
	uint64_t fd;
	if (strcmp(name, "vhost-user") == 0 || strcmp(name, "socket-path") == 0) {
		s->path = value;
		s->carrier = &carrier_vhost_user;
	} else if (strcmp(name, "vfio-user") == 0) {
		s->path = value;
		s->carrier = &carrier_vfio_user;
	} else if (strcmp(name, "connect") == 0) {
		s->front_end = value;
	} else if (strcmp(name, "fd") == 0) {
		int rc = vdev_number(name, value ? value : "", 0, 1 << 20, &fd, e);
		if (rc < 0)
			return rc;
		s->fd = (int)fd;
	} else if (strcmp(name, "vduse") == 0) {
		s->vduse.name = value;
		s->carrier = &carrier_vduse;
	} else if (strcmp(name, "vdpa-add") == 0) {
		s->vduse.vdpa_add = true;
	} else if (strcmp(name, "record") == 0) {
		s->vduse.record = value;
	} else if (strcmp(name, "insecure") == 0) {
		s->insecure = true;
	} else if (strcmp(name, "verbose") == 0) {
		s->level = MIN(s->level + 1, LOG_DEBUG);
	} else if (strcmp(name, "quiet") == 0) {
		s->level = LOG_ERROR;
	}
	return 0;
}

bool sdk_options_answer(const struct vdev_ops *ops, int argc, char **argv)
{
	const struct carrier *c = NULL;
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--vduse") == 0 || strncmp(argv[i], "--vduse=", 8) == 0)
			c = &carrier_vduse;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--print-capabilities") == 0 && !ops->pci)
			printf("%s\n", ops->capabilities);
		else if (strcmp(argv[i], "--print-syscalls") == 0)
			sdk_rules_print(ops, c);
		else if (strcmp(argv[i], "--version") == 0)
			printf("%s %s\n", ops->program, MINIVMM_VERSION);
		else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			help(ops);
		else
			continue;
		return true;
	}
	return false;
}

static int places_check(const struct vdev_ops *ops, const struct settings *s, struct err *e)
{
	const int places =
		(s->path != NULL) + (s->front_end != NULL) + (s->fd >= 0) + (s->vduse.name != NULL);
	if (places == 0)
		return err_set(e, EINVAL,
			       "where to serve is missing: %s--vfio-user PATH, --connect PATH or --fd N",
			       ops->pci ? "" : "--vhost-user PATH, --vduse NAME, ");
	if (places > 1)
		return err_set(e, EINVAL, "--fd, --connect, --vduse and a socket path exclude each other");
	if (!s->vduse.name && (s->vduse.record || s->vduse.vdpa_add))
		return err_set(e, EINVAL, "--record and --vdpa-add are for --vduse");
	return 0;
}

int sdk_options_parse(struct vdev *d, struct settings *s, int argc, char **argv, struct err *e)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = strcmp(argv[i], "-v") == 0   ? "--verbose"
				  : strcmp(argv[i], "-q") == 0 ? "--quiet"
							       : argv[i];
		if (strncmp(arg, "--", 2) != 0)
			return err_set(e, EINVAL, "\"%s\": not an option (see --help)", arg);
		const char *name = arg + 2, *value = strchr(name, '=');
		size_t len = value ? (size_t)(value - name) : strlen(name);
		const struct vdev_option *own = option_find(d->ops->options, name, len);
		const struct vdev_option *o = own ? own : option_find(common_options, name, len);
		if (!o && !d->ops->pci)
			o = option_find(virtio_options, name, len);
		if (!o && !d->ops->pci)
			o = option_find(vduse_options, name, len);
		if (!o)
			return err_set(e, EINVAL, "--%.*s: no such option (see --help)", (int)len, name);
		if (!o->value && value)
			return err_set(e, EINVAL, "--%s takes no value", o->name);
		if (o->value && !value && i + 1 == argc)
			return err_set(e, EINVAL, "--%s: %s is missing", o->name, o->value);
		value = !o->value ? NULL : value ? value + 1 : argv[++i];
		int rc = own ? d->ops->option(d, o->name, value, e) : option_common(s, o->name, value, e);
		if (rc < 0)
			return rc;
	}
	return places_check(d->ops, s, e);
}
