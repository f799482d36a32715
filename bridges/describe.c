// SPDX-License-Identifier: BSD-2-Clause
// What a device would be, for `minivmm explain`: the launches that bridges.c would start, told instead.
#include "bridges/bridges.h"
#include "bridges/builtin.h"
#include "bridges/choice.h"
#include "bridges/foreign.h"
#include "bridges/launch.h"
#include "bridges/vfio.h"
#include "bridges/vhost_kernel.h"
#include "vmm/base/fd.h"
#include "vmm/base/virtio_id.h"
#include "vmm/explain.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char *say_again(const struct device_config *cfg, bool *needs_spawner, struct arena *a)
{
	static const char *const programs[] = {
		[RESTART_ALWAYS] = "started again, always, at growing intervals up to 60 s",
		[RESTART_ON_FAILURE] = "started again after a failure, at growing intervals up to 60 s",
		[RESTART_NEVER] = "stays dead (restart = \"never\")",
	};
	if (!cfg->socket && !cfg->listen) {
		*needs_spawner = cfg->restart != RESTART_NEVER;
		return programs[cfg->restart];
	}
	if (cfg->reconnect_ms == CONFIG_NEVER || (cfg->socket && fd_is_reference(cfg->socket)))
		return "stays dead";
	*needs_spawner = cfg->socket != NULL;
	return cfg->reconnect_ms ? arena_printf(a, "connected again within %lld s",
						(long long)(cfg->reconnect_ms / 1000))
				 : "connected again whenever it comes back";
}

static const char *say_socket(enum launch_end end, struct arena *a)
{
	switch (end) {
	case LAUNCH_LISTEN:
		return "a listening Unix socket, to which minivmm is connected";
	case LAUNCH_PATH:
		return arena_printf(a, "/dev/null; it listens in %s itself", LAUNCH_PATH_FOLDER);
	case LAUNCH_FD:
	case LAUNCH_NO_END:
		break;
	}
	return "a Unix socket, connected to minivmm";
}

static int say_listener(struct explain_device *d, const char *path, struct arena *a)
{
	d->fd[d->fd_count++] = fd_is_reference(path) ? "a listening socket, which somebody else made"
						     : arena_printf(a, "a socket that listens at %s", path);
	if (!d->fd[d->fd_count - 1])
		return -ENOMEM;
	if (!fd_is_reference(path))
		d->fd[d->fd_count++] = "a socket: as long as it is open, that file stays";
	return 0;
}

// What the program is handed over besides its own end, as host_ends.c and builtin.c open it.
static int describe_resources(struct explain_device *d, const struct launch *l, struct arena *a)
{
	const struct device_config *cfg = d->cfg;
	if (!d->own || (cfg->virtio_type != VIRTIO_VSOCK && cfg->virtio_type != VIRTIO_CONSOLE)) {
		for (unsigned i = 0; i < l->resource_planned; i++)
			d->fd[d->fd_count++] = l->resource_name;
		return 0;
	}
	if (cfg->virtio_type == VIRTIO_VSOCK)
		return say_listener(d, cfg->path, a);
	int rc = 0;
	for (char **port = cfg->ports; *port && rc == 0; port++) {
		const char *to = strchr(*port, '=') + 1;
		if (strncmp(to, "socket:", 7) == 0)
			rc = say_listener(d, to + 7, a);
		else if (strncmp(to, "file:", 5) == 0)
			d->fd[d->fd_count++] = to + 5;
		else if (strcmp(to, "pty") == 0)
			d->opens =
				"/dev/ptmx: a pseudoterminal for each port that is one, before its walls stand";
		else
			d->fd[d->fd_count++] = "what somebody else opened";
	}
	return rc;
}

static int describe_launch(struct explain_device *d, const struct launch *l, struct arena *a, struct err *e)
{
	char path[PATH_MAX];
	size_t words = 0;
	int rc = spawn_find_program(l->program, path, sizeof(path), e);
	if (rc < 0)
		return rc;
	while (l->argv[words])
		words++;
	const char **argv = arena_alloc(a, (words + 1) * sizeof(*argv));
	for (size_t i = 0; argv && i < words; i++) {
		char *word = launch_word(l->argv[i]);
		argv[i] = word ? arena_copy(a, word, strlen(word)) : NULL;
		free(word);
	}
	d->argv = argv;
	d->program = arena_copy(a, path, strlen(path));
	d->peer = d->program;
	d->isolated = l->isolate;
	d->fd[d->fd_count++] = say_socket(launch_end_of(l->argv), a);
	rc = describe_resources(d, l, a);
	if (rc < 0)
		return err_sys(e, -rc, "explain");
	return argv && d->program ? 0 : err_sys(e, ENOMEM, "explain");
}

// Sockets of the host that the monitor makes for this device.
static void describe_sockets(struct explain_device *d)
{
	static const char on_socket[] = "socket:";
	const struct device_config *cfg = d->cfg;
	if (cfg->listen && !fd_is_reference(cfg->listen))
		d->socket[d->socket_count++] = cfg->listen;
	if (cfg->via != VIA_BUILTIN)
		return;
	if (cfg->path && !fd_is_reference(cfg->path))
		d->socket[d->socket_count++] = cfg->path;
	for (char **port = cfg->ports; port && *port; port++) {
		const char *to = strchr(*port, '=') + 1;
		if (strncmp(to, on_socket, strlen(on_socket)) == 0 &&
		    !fd_is_reference(to + strlen(on_socket)))
			d->socket[d->socket_count++] = to + strlen(on_socket);
	}
}

static int describe_aside(struct explain_device *d, struct arena *a, struct err *e)
{
	if (d->cfg->virtio_type != VIRTIO_VSOCK)
		return 0;
	d->aside = "vsock-connector";
	d->aside_does = arena_printf(
		a, "connects to %s_PORT for the guest's programs, on a port's number and nothing else",
		d->cfg->path);
	return d->aside_does ? 0 : err_sys(e, ENOMEM, "explain");
}

// The kernel does the rest.
static int describe_control(struct explain_device *d, const struct bridge_host *host, struct arena *a,
			    struct err *e)
{
	const struct device_config *cfg = d->cfg;
	const char *kernel = d->peer;
	struct launch *l = NULL;
	int rc = builtin_plan(&l, cfg, host->program_dir, host->insecure, e);
	if (rc == 0)
		rc = describe_launch(d, l, a, e);
	launch_free(l);
	if (rc < 0) {
		err_prefix(e, "%s", cfg->id);
		return rc;
	}
	d->own = true;
	d->peer = arena_printf(a, "%s; for commands %s", kernel, d->program);
	d->gives =
		"data and doorbells pass the monitor by; of other processes one takes part, and in commands only";
	d->restart = say_again(cfg, &d->needs_spawner, a);
	d->again = arena_printf(a, "%s; its process: %s", d->again, d->restart);
	return d->peer && d->again ? 0 : err_sys(e, ENOMEM, "explain");
}

static int describe_kernel(struct explain_device *d, const struct bridge_host *host, struct arena *a,
			   struct err *e)
{
	const struct device_config *cfg = d->cfg;
	d->interface = bridge_name(cfg->via);
	if (cfg->via == VIA_VHOST_VDPA) {
		d->peer = cfg->path;
		d->gives = "data and doorbells pass the monitor by; the device may be hardware";
		d->costs =
			"what is behind it sees all of the guest's memory: hardware by the host's IOMMU, a process by "
			"VDUSE; the kernel waits up to 30 s for a mute one";
		d->again =
			"one that is removed from the host is dead, and let go of; so is a VDUSE process that the kernel has given up";
		return 0;
	}
	const char *node = vhost_kernel_node(cfg);
	d->peer = cfg->tap    ? arena_printf(a, "%s and tap %s", node, cfg->tap)
		  : cfg->wwpn ? arena_printf(a, "%s and target %s", node, cfg->wwpn)
			      : arena_printf(a, "%s and CID %u", node, cfg->cid);
	d->gives = "data and doorbells pass the monitor by, and no other process takes part";
	d->costs =
		"the host's kernel reads the guest's rings itself: a fault in vhost is a fault of the host, and no "
		"sandbox is around it";
	d->again = cfg->tap ? "a tap that is deleted: the guest's link goes down, for good"
			    : "it does not go away";
	if (!d->peer)
		return err_sys(e, ENOMEM, "explain");
	return vhost_kernel_has_pairs(cfg) ? describe_control(d, host, a, e) : 0;
}

static int describe_vfio(struct explain_device *d, struct arena *a, struct err *e)
{
	char room[PATH_MAX];
	const struct device_config *cfg = d->cfg;
	const char *path = cfg->cdev ? cfg->cdev : vfio_sysfs_path(cfg, room, sizeof(room));
	d->interface = bridge_name(cfg->via);
	d->peer = arena_printf(a, "%s", path);
	d->gives =
		"the device itself: its BARs are mapped, its interrupts injected by KVM, its DMA goes to guest memory";
	d->costs =
		"all of the guest's memory is locked for it; behind its IOMMU it reaches that and nothing else; a "
		"trapped register costs an exit and a system call";
	d->again = "it reads as all ones; the machine goes on without it";
	return d->peer ? 0 : err_sys(e, ENOMEM, "explain");
}

static void describe_vfio_user(struct explain_device *d)
{
	const bool messages = d->cfg->dma == DMA_MESSAGES;
	d->interface = bridge_name(d->cfg->via);
	d->gives =
		messages
			? "a whole PCI function in a process of its own, which sees no memory of the guest's: it "
			  "asks for each access"
			: "a whole PCI function in a process of its own, with interrupts by KVM, and without exits "
			  "where it gives pages or eventfds for its registers";
	d->costs =
		messages
			? "two messages for each access of the device's, besides the exit and the two for each "
			  "access to a register"
			: "an exit and two messages for each access to a register that is neither";
}

int bridge_describe(struct explain_device *d, const struct device_config *cfg, const struct bridge_host *host,
		    struct arena *a, struct err *e)
{
	*d = (struct explain_device){ .cfg = cfg, .choice = choice_of(cfg), .interface = "vhost-user" };
	struct launch *l = NULL;
	int rc = 0;
	d->peer = cfg->listen ? arena_printf(a, "whoever connects to %s", cfg->listen) : cfg->socket;
	if (cfg->via == VIA_VHOST || cfg->via == VIA_VHOST_VDPA)
		return describe_kernel(d, host, a, e);
	if (cfg->via == VIA_VFIO)
		return describe_vfio(d, a, e);
	d->again = say_again(cfg, &d->needs_spawner, a);
	if (cfg->via == VIA_VFIO_USER)
		describe_vfio_user(d);
	describe_sockets(d);
	if (cfg->via == VIA_BUILTIN) {
		d->own = true;
		rc = builtin_plan(&l, cfg, host->program_dir, host->insecure, e);
		if (rc == 0)
			rc = describe_aside(d, a, e);
	} else if (cfg->exec) {
		d->profile = arena_alloc(a, sizeof(*d->profile));
		rc = d->profile ? foreign_prepare(&l, d->profile, a, cfg, host->memory, host->insecure, e)
				: err_sys(e, ENOMEM, "explain");
	}
	if (rc == 0 && l)
		rc = describe_launch(d, l, a, e);
	if (rc == 0 && l && l->jail) {
		d->jail = arena_alloc(a, sizeof(*d->jail));
		if (d->jail)
			*d->jail = *l->jail;
	}
	launch_free(l);
	if (rc < 0)
		err_prefix(e, "%s", cfg->id);
	return rc;
}
