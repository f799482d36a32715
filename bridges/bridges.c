// SPDX-License-Identifier: BSD-2-Clause
// The table `via` -> functions; the only file that names every bridge.
#include "bridges/bridges.h"

#include "bridges/builtin.h"
#include "bridges/foreign.h"
#include "bridges/launch.h"
#include "bridges/vfio.h"
#include "bridges/vfio_user.h"
#include "bridges/vhost_kernel.h"
#include "bridges/vhost_user.h"
#include "bridges/vhost_vdpa.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/msg.h"
#include "vmm/base/socket_file.h"
#include "vmm/cgroup.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// A listening socket that was handed over.
static int listener_from_reference(const char *ref, struct err *e)
{
	int listens = 0, domain = 0;
	socklen_t len = sizeof(listens), domain_len = sizeof(domain);
	FD_AUTO fd = fd_open_path(ref, O_RDWR, e);
	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 || !listens ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) < 0 || domain != AF_UNIX)
		return err_set(e, ENOTSOCK, "%s: not a listening Unix socket", ref);
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(e, errno, "%s", ref);
	return fd_steal(&fd);
}

static int start_listening(struct bridge_pending *p, struct err *e)
{
	const char *path = p->cfg->listen;
	p->peer = path;
	p->kept.listener = fd_is_reference(path) ? listener_from_reference(path, e)
						 : socket_file_listen(path, &p->kept.keeper, e);
	return p->kept.listener < 0 ? p->kept.listener : 0;
}

// The first start of a program.
static int start_launch(struct bridge_pending *p, struct err *e)
{
	p->child = malloc(sizeof(*p->child));
	if (!p->child)
		return err_sys(e, ENOMEM, "start %s", p->kept.launch->program);
	p->peer = p->kept.launch->argv[0];
	int rc = launch_program(p->kept.launch, &p->sock, p->child, e);
	if (rc < 0) {
		free(p->child);
		p->child = NULL;
		return rc;
	}
	// What one host could not do at first it is not asked for again.
	p->kept.launch->isolate = p->child->isolated;
	p->kept.launch->deadline = 0;
	p->kept.pidfd = p->child->pidfd;
	return 0;
}

static int start_program(struct bridge_pending *p, struct err *e)
{
	struct arena texts = { 0 };
	struct profile *profile = malloc(sizeof(*profile));
	int rc = profile ? foreign_prepare(&p->kept.launch, profile, &texts, p->cfg, p->host->memory,
					   p->host->insecure, e)
			 : err_sys(e, ENOMEM, "start %s", p->cfg->exec[0]);
	free(profile);
	arena_free(&texts);
	if (rc < 0)
		return rc;
	p->kept.launch->deadline = p->host->start_deadline;
	if (p->host->cgroups)
		p->kept.launch->cgroup = cgroups_of(p->host->cgroups, p->host->config, p->cfg);
	p->kept.launch->keeper = p->host->keeper;
	return start_launch(p, e);
}

static int start_peer(struct bridge_pending *p, struct err *e)
{
	const struct device_config *cfg = p->cfg;
	if (cfg->listen)
		return start_listening(p, e);
	if (cfg->socket) {
		p->peer = cfg->socket;
		p->sock = msg_connect(cfg->socket, p->host->start_deadline, e);
		return p->sock < 0 ? p->sock : 0;
	}
	return start_program(p, e);
}

static int start_builtin(struct bridge_pending *p, struct err *e)
{
	int rc = builtin_prepare(&p->kept.launch, p->cfg, p->host->program_dir, p->host->insecure, e);
	return rc < 0 ? rc : start_launch(p, e);
}

// The first one that connects, by the deadline that all devices share.
static int await_peer(struct bridge_pending *p, struct err *e)
{
	const char *path = p->cfg->listen;
	for (;;) {
		struct pollfd l = { .fd = p->kept.listener, .events = POLLIN };
		int left = deadline_left_ms(p->host->start_deadline);
		if (poll(&l, 1, 0) == 0 && left > 0)
			log_info("%s: waiting for a back-end to connect to %s", p->cfg->id, path);
		if (poll(&l, 1, left) <= 0 && left == 0)
			return err_set(e, ETIMEDOUT, "%s: no back-end has connected to %s within %d s",
				       p->cfg->id, path, DEADLINE_START_MS / 1000);
		p->sock = accept4(p->kept.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (p->sock >= 0)
			return 0;
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return err_sys(e, errno, "%s: listen on %s", p->cfg->id, path);
	}
}

static int finish_vhost_user(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	int rc = p->kept.listener >= 0 ? await_peer(p, e) : 0;
	if (rc < 0)
		return rc;
	const struct vhost_user_params params = {
		.id = p->cfg->id,
		.peer = p->peer,
		.virtio_type = p->cfg->virtio_type,
		// Ours have been told, and know how many virtqueues that makes.
		.queues = p->cfg->via == VIA_VHOST_USER ? p->cfg->queues : 0,
		.queue_size = p->cfg->queue_size,
		.own = { .tag = p->cfg->tag,
			 .mtu = p->cfg->via == VIA_VHOST_USER ? p->cfg->mtu : 0,
			 .host_notifier = p->cfg->host_notifier,
			 .shared_memory = p->cfg->shared_memory },
		.objects = &p->host->objects,
		.sock = fd_steal(&p->sock),
		.child = p->child,
		.loop = p->host->loop,
		.start_deadline = p->host->start_deadline,
	};
	p->child = NULL;
	return vhost_user_open(&out->backend, &params, e);
}

static int finish_vfio_user(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	const struct vfio_user_params params = {
		.id = p->cfg->id,
		.peer = p->peer,
		.sock = fd_steal(&p->sock),
		.child = p->child,
		.loop = p->host->loop,
		.keep_memory = p->cfg->dma == DMA_MESSAGES,
		.no_doorbells = !p->cfg->io_fds,
		.replug = p->cfg->on_return == RETURN_REPLUG,
		.start_deadline = p->host->start_deadline,
	};
	p->child = NULL;
	return vfio_user_open(&out->link, &params, e);
}

// The kernel's devices answer at once: mostly there is nothing to start.
static int start_nothing(struct bridge_pending *p, struct err *e)
{
	(void)p;
	(void)e;
	return 0;
}

static int start_vhost(struct bridge_pending *p, struct err *e)
{
	return vhost_kernel_has_pairs(p->cfg) ? start_builtin(p, e) : 0;
}

static int finish_vhost(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	const struct launch *l = p->kept.launch;
	struct vhost_kernel_pairs pairs;
	struct bridge_end control;
	if (!l)
		return vhost_kernel_open(&out->backend, p->cfg, p->host->loop, p->host->ram, NULL, e);
	int rc = finish_vhost_user(&control, p, e);
	if (rc < 0)
		return rc;
	p->kept.backend = control.backend;
	pairs = (struct vhost_kernel_pairs){ .count = l->resource_count,
					     .tap = l->resource,
					     .control = control.backend };
	return vhost_kernel_open(&out->backend, p->cfg, p->host->loop, p->host->ram, &pairs, e);
}

static int finish_vfio(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	if (!p->host->containers)
		p->host->containers = vfio_containers_make(p->host->kvm, p->host->memory);
	if (!p->host->containers)
		return err_set(e, ENOMEM, "%s: out of memory", p->cfg->id);
	return vfio_open(&out->link, p->cfg, p->host->containers, e);
}

static int finish_vhost_vdpa(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	return vhost_vdpa_open(&out->backend, p->cfg, p->host->loop, p->host->ram, e);
}

static const struct bridge {
	const char *name;
	int (*start)(struct bridge_pending *p,
		     struct err *e); // fills peer, sock, child; an error names no device yet
	int (*finish)(struct bridge_end *out, struct bridge_pending *p, struct err *e);
} bridges[VIA_COUNT] = {
	[VIA_BUILTIN] = { "minivmm", start_builtin, finish_vhost_user },
	[VIA_VHOST_USER] = { "vhost-user", start_peer, finish_vhost_user },
	[VIA_VHOST] = { "vhost", start_vhost, finish_vhost },
	[VIA_VHOST_VDPA] = { "vhost-vdpa", start_nothing, finish_vhost_vdpa },
	[VIA_VFIO] = { "vfio", start_nothing, finish_vfio },
	[VIA_VFIO_USER] = { "vfio-user", start_peer, finish_vfio_user },
};

static void kept_free(struct bridge_kept *k)
{
	launch_free(k->launch);
	k->launch = NULL;
	fd_close(&k->listener);
	fd_close(&k->line);
	socket_file_remove(&k->keeper);
}

int bridge_start(struct bridge_pending *p, const struct device_config *cfg, struct bridge_host *host,
		 struct err *e)
{
	*p = (struct bridge_pending){
		.cfg = cfg,
		.host = host,
		.sock = -1,
		.kept = { .cfg = cfg, .listener = -1, .keeper = -1, .line = -1, .pidfd = -1 },
	};
	int rc = bridges[cfg->via].start(p, e);
	if (rc < 0) {
		p->sock = -1;
		kept_free(&p->kept);
		err_prefix(e, "%s", cfg->id);
	}
	return rc;
}

int bridge_finish(struct bridge_end *out, struct bridge_pending *p, struct err *e)
{
	*out = (struct bridge_end){ 0 };
	int rc = bridges[p->cfg->via].finish(out, p, e);
	if (rc < 0) {
		kept_free(&p->kept);
		return rc;
	}
	if (!p->kept.backend)
		p->kept.backend = out->backend;
	p->kept.link = out->link;
	p->host->kept[p->host->kept_count++] = p->kept;
	return 0;
}

void bridge_abandon(struct bridge_pending *p)
{
	fd_close(&p->sock);
	if (p->child)
		spawn_stop(p->child, 0);
	free(p->child);
	p->child = NULL;
	kept_free(&p->kept);
}

// ---- after a death ------------------------------------------------------------------------------

void bridges_init(struct bridge_host *host)
{
	host->kept_count = 0;
	host->objects.count = 0;
	host->containers = NULL;
	host->spawner = (struct spawner){ .pidfd = -1 };
	host->leave = -1;
}

static struct again_how how_again(const struct bridge_host *host, const struct bridge_kept *k)
{
	struct again_how how = { .line = k->line,
				 .listener = k->listener,
				 .leave = host->leave,
				 .only_failures = k->cfg->restart == RESTART_ON_FAILURE,
				 .seal = k->link ? host->seal_return : host->seal_thread };
	const bool waits = k->cfg->reconnect_ms != CONFIG_NEVER;
	if (k->launch && k->cfg->restart != RESTART_NEVER)
		how.source = AGAIN_PROGRAM;
	else if (k->listener >= 0 && waits)
		how.source = AGAIN_LISTENER;
	else if (k->cfg->socket && !fd_is_reference(k->cfg->socket) && waits)
		how.source = AGAIN_SOCKET;
	if (how.source != AGAIN_PROGRAM && waits)
		how.limit_ms = k->cfg->reconnect_ms;
	return how;
}

static struct spawner_job job_of(const struct bridge_kept *k, enum again_source source)
{
	struct spawner_job j = { .id = k->cfg->id, .pidfd = -1 };
	if (source == AGAIN_SOCKET) {
		j.path = k->cfg->socket;
		return j;
	}
	j.start = launch_again;
	j.launch = k->launch;
	memcpy(j.keep, k->launch->resource, sizeof(k->launch->resource[0]) * k->launch->resource_count);
	j.keep_count = k->launch->resource_count;
	if (k->launch->cgroup)
		j.keep[j.keep_count++] = k->launch->cgroup;
	if (k->launch->keeper)
		j.keep[j.keep_count++] = k->launch->keeper;
	j.pidfd = k->pidfd;
	return j;
}

_Static_assert(LAUNCH_RESOURCES_MAX + 2 <= SPAWNER_KEEP_MAX && CONFIG_DEVICES_MAX <= SPAWNER_JOBS_MAX,
	       "every device may be started again");

int bridges_spawner(struct bridge_host *host, struct err *e)
{
	struct spawner_job job[CONFIG_DEVICES_MAX];
	struct bridge_kept *of[CONFIG_DEVICES_MAX];
	int line[CONFIG_DEVICES_MAX];
	unsigned n = 0;
	for (unsigned i = 0; i < host->kept_count; i++) {
		const enum again_source source = how_again(host, &host->kept[i]).source;
		if (source != AGAIN_SOCKET && source != AGAIN_PROGRAM)
			continue;
		of[n] = &host->kept[i];
		job[n++] = job_of(&host->kept[i], source);
	}
	int rc = n ? spawner_start(&host->spawner, job, n, line, e) : 0;
	if (rc == 0 && (rc = spawner_watch(&host->spawner, host->loop)) < 0)
		err_sys(e, -rc, "watch the process that starts devices again");
	for (unsigned i = 0; i < n && rc == 0; i++)
		of[i]->line = line[i];
	// Images and taps are the spawner's now, and the programs'.
	for (unsigned i = 0; i < host->kept_count && rc == 0; i++)
		if (host->kept[i].launch)
			launch_forget(host->kept[i].launch);
	return rc;
}

int bridges_keep(struct bridge_host *host, struct err *e)
{
	host->leave = fd_eventfd();
	if (host->leave < 0)
		return err_sys(e, -host->leave, "eventfd");
	for (unsigned i = 0; i < host->kept_count; i++) {
		struct bridge_kept *k = &host->kept[i];
		const struct again_how how = how_again(host, k);
		int rc = 0;
		if (k->cfg->via == VIA_VHOST_VDPA)
			rc = vhost_vdpa_keep(k->backend, host->seal_thread, e);
		else if (k->cfg->via == VIA_VFIO_USER)
			rc = vfio_user_serve(k->link, host->seal_carrier, e);
		if (rc < 0)
			return rc;
		if (how.source == AGAIN_NOWHERE)
			continue;
		k->line = -1; // its own
		rc = k->link ? vfio_user_keep(k->link, &how, e) : vhost_user_keep(k->backend, &how, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void bridges_leave(struct bridge_host *host)
{
	if (host->leave >= 0)
		fd_event_signal(host->leave);
}

void bridges_free(struct bridge_host *host)
{
	spawner_stop(&host->spawner);
	for (unsigned i = 0; i < host->kept_count; i++)
		kept_free(&host->kept[i]);
	host->kept_count = 0;
	vfio_containers_free(host->containers);
	host->containers = NULL;
	fd_close(&host->leave);
}

const char *bridge_name(enum device_via via)
{
	return bridges[via].name;
}
