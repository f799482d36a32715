// SPDX-License-Identifier: BSD-2-Clause
// The table `via` -> functions; the only file that names every bridge.
#include "bridges/bridges.h"

#include "bridges/builtin.h"
#include "bridges/launch.h"
#include "bridges/vhost_user.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"
#include "vmm/base/msg.h"
#include "vmm/jail.h"
#include "vmm/spawn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int start_program(struct bridge_pending *p, struct err *e)
{
	const struct device_config *cfg = p->cfg;
	const bool jailed = strcmp(cfg->sandbox, "none") != 0;
	struct arena texts = { 0 };
	struct profile *profile = NULL;
	struct jail *jail = NULL;
	int rc = 0;
	if (jailed) {
		jail = malloc(sizeof(*jail));
		profile = malloc(sizeof(*profile));
		rc = jail && profile ? jail_of_device(jail, profile, &texts, cfg, p->host->memory, e)
				     : err_sys(e, ENOMEM, "make a jail");
	}
	const struct launch l = {
		.id = cfg->id,
		.program = cfg->exec[0],
		.argv = (const char *const *)cfg->exec,
		.isolate = jailed,
		.insecure = p->host->insecure,
		.jail = jail,
		.deadline = p->host->start_deadline,
	};
	if (rc == 0)
		rc = launch_program(&l, &p->sock, &p->child, e);
	free(jail);
	free(profile);
	arena_free(&texts);
	return rc;
}

static int start_vhost_user(struct bridge_pending *p, struct err *e)
{
	const struct device_config *cfg = p->cfg;
	if (cfg->socket) {
		p->peer = cfg->socket;
		p->sock = msg_connect(cfg->socket, p->host->start_deadline, e);
		return p->sock < 0 ? p->sock : 0;
	}
	p->peer = cfg->exec[0];
	return start_program(p, e);
}

static int start_builtin(struct bridge_pending *p, struct err *e)
{
	return builtin_start(p->cfg, p->host->program_dir, p->host->insecure, &p->peer, &p->sock, &p->child,
			     e);
}

static int finish_vhost_user(struct backend **out, struct bridge_pending *p, struct err *e)
{
	const struct vhost_user_params params = {
		.id = p->cfg->id,
		.peer = p->peer,
		.virtio_type = p->cfg->virtio_type,
		// Ours have been told, and know how many virtqueues that makes.
		.queues = p->cfg->via == VIA_BUILTIN ? 0 : p->cfg->queues,
		.queue_size = p->cfg->queue_size,
		.sock = fd_steal(&p->sock),
		.child = p->child,
		.loop = p->host->loop,
		.start_deadline = p->host->start_deadline,
	};
	p->child = NULL;
	return vhost_user_open(out, &params, e);
}

static const struct bridge {
	const char *name;
	int (*start)(struct bridge_pending *p,
		     struct err *e); // fills peer, sock, child; an error names no device yet
	int (*finish)(struct backend **out, struct bridge_pending *p, struct err *e);
} bridges[VIA_COUNT] = {
	[VIA_BUILTIN] = { "minivmm", start_builtin, finish_vhost_user },
	[VIA_VHOST_USER] = { "vhost-user", start_vhost_user, finish_vhost_user },
};

int bridge_start(struct bridge_pending *p, const struct device_config *cfg, const struct bridge_host *host,
		 struct err *e)
{
	*p = (struct bridge_pending){ .cfg = cfg, .host = host, .sock = -1 };
	int rc = bridges[cfg->via].start(p, e);
	if (rc < 0) {
		p->sock = -1;
		err_prefix(e, "%s", cfg->id);
	}
	return rc;
}

int bridge_finish(struct backend **out, struct bridge_pending *p, struct err *e)
{
	return bridges[p->cfg->via].finish(out, p, e);
}

void bridge_abandon(struct bridge_pending *p)
{
	fd_close(&p->sock);
	if (p->child)
		spawn_stop(p->child, 0);
	free(p->child);
	p->child = NULL;
}

int bridge_open(struct backend **out, const struct device_config *cfg, const struct bridge_host *host,
		struct err *e)
{
	struct bridge_pending p;
	int rc = bridge_start(&p, cfg, host, e);
	return rc < 0 ? rc : bridge_finish(out, &p, e);
}

const char *bridge_name(enum device_via via)
{
	return bridges[via].name;
}
