// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/builtin.h"

#include "bridges/host_ends.h"
#include "bridges/launch.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/tap.h"
#include "vmm/base/virtio_id.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS_MAX  32
#define SERIAL_MAX 20 // virtio 1.2 §5.2.6.1

// A command line in the making, and what it lives in afterwards.
struct command {
	const char *words[WORDS_MAX + 1];
	unsigned count;
	size_t used;
	char text[1024];
	char path[];
};

__attribute__((format(printf, 2, 3))) static void command_add(struct command *c, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(c->text + c->used, sizeof(c->text) - c->used, fmt, ap);
	va_end(ap);
	if (c->count == WORDS_MAX || n < 0 || (size_t)n >= sizeof(c->text) - c->used)
		return; // no value from the configuration is long enough for this
	c->words[c->count++] = c->text + c->used;
	c->used += (size_t)n + 1;
}

static unsigned plan_image(struct launch *l, const struct device_config *cfg)
{
	l->resource_name = cfg->image;
	return 1;
}

static unsigned plan_taps(struct launch *l, const struct device_config *cfg)
{
	l->resource_name = cfg->tap;
	return MAX(cfg->queues, 1u);
}

static unsigned plan_nothing(struct launch *l, const struct device_config *cfg)
{
	(void)cfg;
	l->resource_name = NULL;
	return 0;
}

static unsigned plan_ports(struct launch *l, const struct device_config *cfg)
{
	int next = 0;
	char word[CONFIG_PORT_NAME_MAX + 32];
	for (char **port = cfg->ports; *port; port++)
		host_ends_port_word(word, sizeof(word), *port, &next);
	l->resource_name = "what is behind its ports";
	return (unsigned)next;
}

static unsigned plan_vsock(struct launch *l, const struct device_config *cfg)
{
	l->resource_name = cfg->path;
	return fd_is_reference(cfg->path) ? 1 : 2; // with what keeps its file
}

// Opens a disk image: a regular file or a block device.
static int open_image(struct launch *l, const struct device_config *cfg, struct err *e)
{
	const int flags = (cfg->readonly ? O_RDONLY : O_RDWR) | (cfg->direct ? O_DIRECT : 0);
	FD_AUTO fd = fd_open_path(cfg->image, flags | O_NONBLOCK, e); // a FIFO must not make us wait
	if (fd < 0)
		return fd;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "open %s", cfg->image);
	const char *kind = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? NULL
			   : S_ISDIR(st.st_mode)		      ? "a directory"
			   : S_ISFIFO(st.st_mode)		      ? "a FIFO"
			   : S_ISCHR(st.st_mode)		      ? "a character device"
								      : "a socket";
	if (kind)
		return err_set(e, EINVAL, "open %s: it is %s; an image is a file or a block device",
			       cfg->image, kind);
	int now = fcntl(fd, F_GETFL);
	if (now < 0 || fcntl(fd, F_SETFL, (now & ~O_NONBLOCK) | (cfg->direct ? O_DIRECT : 0)) < 0)
		return err_sys(e, errno, "open %s%s", cfg->image,
			       cfg->direct ? " past the page cache (direct = true)" : "");
	l->resource[l->resource_count++] = fd_steal(&fd);
	return 0;
}

static void blk_command(struct command *c, const struct device_config *cfg)
{
	command_add(c, "--image=fd:%d", LAUNCH_RESOURCE_FD);
	if (cfg->readonly)
		command_add(c, "--readonly");
	if (cfg->block_size)
		command_add(c, "--block-size=%u", cfg->block_size);
	if (cfg->poll)
		command_add(c, "--poll");
	if (cfg->cpus)
		command_add(c, "--cpus=%s", cfg->cpus);
	command_add(c, "--serial=%.*s", SERIAL_MAX, cfg->serial ? cfg->serial : cfg->id);
	if (cfg->queues)
		command_add(c, "--queues=%u", cfg->queues);
	if (cfg->queue_size)
		command_add(c, "--queue-size=%u", cfg->queue_size);
}

_Static_assert(CONFIG_NET_PAIRS_MAX <= LAUNCH_RESOURCES_MAX, "a descriptor for each pair");

// A descriptor for each pair of queues.
static int open_taps(struct launch *l, const struct device_config *cfg, struct err *e)
{
	struct tap t;
	int rc = 0;
	const unsigned pairs = l->resource_planned;
	while (l->resource_count < pairs && (rc = tap_open(&t, cfg->tap, pairs > 1, e)) == 0)
		l->resource[l->resource_count++] = t.fd;
	return rc;
}

static void net_command(struct command *c, const struct device_config *cfg)
{
	for (int i = 0; i < MAX(cfg->queues, 1); i++)
		command_add(c, "--tap=fd:%d", LAUNCH_RESOURCE_FD + i);
	if (cfg->mac)
		command_add(c, "--mac=%s", cfg->mac);
	if (cfg->mtu)
		command_add(c, "--mtu=%u", cfg->mtu);
	if (cfg->queue_size)
		command_add(c, "--queue-size=%u", cfg->queue_size);
}

static void control_command(struct command *c, const struct device_config *cfg)
{
	for (int i = 0; i < cfg->queues; i++)
		command_add(c, "--tap=fd:%d", LAUNCH_RESOURCE_FD + i);
}

static int open_nothing(struct launch *l, const struct device_config *cfg, struct err *e)
{
	(void)l;
	(void)cfg;
	(void)e;
	return 0;
}

static void rng_command(struct command *c, const struct device_config *cfg)
{
	if (cfg->rate)
		command_add(c, "--rate=%llu", (unsigned long long)cfg->rate);
}

_Static_assert(HOST_ENDS_MAX <= LAUNCH_RESOURCES_MAX, "descriptors for each port");

static int open_ports(struct launch *l, const struct device_config *cfg, struct err *e)
{
	return host_ends_open_ports(l->resource, &l->resource_count, cfg, e);
}

static void console_command(struct command *c, const struct device_config *cfg)
{
	char word[CONFIG_PORT_NAME_MAX + 32];
	int next = LAUNCH_RESOURCE_FD;
	for (char **port = cfg->ports; *port; port++) {
		host_ends_port_word(word, sizeof(word), *port, &next);
		command_add(c, "--port=%s", word);
	}
}

static int open_vsock(struct launch *l, const struct device_config *cfg, struct err *e)
{
	return host_ends_open_vsock(l->resource, &l->resource_count, cfg, e);
}

static void vsock_command(struct command *c, const struct device_config *cfg)
{
	command_add(c, "--cid=%u", cfg->cid);
	command_add(c, "--socket=fd:%d", LAUNCH_RESOURCE_FD);
}

static const struct builtin {
	enum device_via via;
	uint16_t virtio_type;
	const char *program;
	unsigned (*plan)(struct launch *l, const struct device_config *cfg); // how many open() opens
	int (*open)(struct launch *l, const struct device_config *cfg, struct err *e);
	void (*command)(struct command *c, const struct device_config *cfg);
} builtins[] = {
	{ VIA_BUILTIN, VIRTIO_BLK, "minivmm-blk", plan_image, open_image, blk_command },
	{ VIA_BUILTIN, VIRTIO_NET, "minivmm-net", plan_taps, open_taps, net_command },
	{ VIA_BUILTIN, VIRTIO_RNG, "minivmm-rng", plan_nothing, open_nothing, rng_command },
	{ VIA_BUILTIN, VIRTIO_CONSOLE, "minivmm-console", plan_ports, open_ports, console_command },
	{ VIA_BUILTIN, VIRTIO_VSOCK, "minivmm-vsock", plan_vsock, open_vsock, vsock_command },
	{ VIA_VHOST, VIRTIO_NET, "minivmm-net-control", plan_taps, open_taps, control_command },
};

static const struct builtin *builtin_of(const struct device_config *cfg)
{
	for (size_t i = 0; i < ARRAY_LEN(builtins); i++)
		if (builtins[i].via == cfg->via && builtins[i].virtio_type == cfg->virtio_type)
			return &builtins[i];
	return NULL;
}

static int command_write(struct launch *l, const struct builtin *b, const struct device_config *cfg,
			 const char *dir, bool insecure, struct err *e)
{
	const size_t room = (dir ? strlen(dir) : 0) + strlen(b->program) + 2;
	struct command *c = calloc(1, sizeof(*c) + room);
	if (!c)
		return err_sys(e, ENOMEM, "start %s", b->program);
	c->words[c->count++] = b->program;
	command_add(c, "--fd=%d", LAUNCH_SOCKET_FD);
	if (insecure)
		command_add(c, "--insecure");
	b->command(c, cfg);
	snprintf(c->path, room, "%s/%s", dir ? dir : "", b->program);
	l->text = c;
	l->argv = c->words;
	l->program = dir && access(c->path, X_OK) == 0 ? c->path : b->program;
	return 0;
}

int builtin_plan(struct launch **out, const struct device_config *cfg, const char *dir, bool insecure,
		 struct err *e)
{
	const struct builtin *b = builtin_of(cfg);
	if (!b)
		return err_set(
			e, ENOTSUP,
			"no program of ours is a virtio device of type %u: write via = and where it is",
			cfg->virtio_type);
	struct launch *l = calloc(1, sizeof(*l));
	if (!l)
		return err_sys(e, ENOMEM, "start %s", b->program);
	l->id = cfg->id;
	l->isolate = true;
	l->insecure = insecure;
	l->resource_planned = b->plan(l, cfg);
	int rc = command_write(l, b, cfg, dir, insecure, e);
	if (rc < 0)
		launch_free(l);
	else
		*out = l;
	return rc;
}

int builtin_prepare(struct launch **out, const struct device_config *cfg, const char *dir, bool insecure,
		    struct err *e)
{
	const struct builtin *b = builtin_of(cfg);
	struct launch *l = NULL;
	int rc = builtin_plan(&l, cfg, dir, insecure, e);
	if (rc < 0 || !b || !l)
		return rc;
	rc = b->open(l, cfg, e);
	assert(rc < 0 || l->resource_count == l->resource_planned);
	if (rc < 0)
		launch_free(l);
	else
		*out = l;
	return rc;
}
