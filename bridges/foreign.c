// SPDX-License-Identifier: BSD-2-Clause
#include "bridges/foreign.h"

#include "bridges/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int foreign_prepare(struct launch **out, struct profile *profile, struct arena *a,
		    const struct device_config *cfg, uint64_t memory, bool insecure, struct err *e)
{
	const bool jailed = strcmp(cfg->sandbox, "none") != 0;
	struct launch *l = calloc(1, sizeof(*l));
	if (!l)
		return err_sys(e, ENOMEM, "start %s", cfg->exec[0]);
	*l = (struct launch){
		.id = cfg->id,
		.program = cfg->exec[0],
		.argv = (const char *const *)cfg->exec,
		.isolate = jailed,
		.learn = cfg->learn,
		.insecure = insecure,
	};
	int rc = 0;
	if (jailed) {
		l->jail = malloc(sizeof(*l->jail));
		rc = l->jail ? jail_of_device(l->jail, profile, a, cfg, memory, e)
			     : err_sys(e, ENOMEM, "start %s: make a jail", cfg->exec[0]);
	}
	if (rc < 0)
		launch_free(l);
	else
		*out = l;
	return rc;
}
