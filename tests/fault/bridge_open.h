// SPDX-License-Identifier: BSD-2-Clause
// A virtio back-end by both halves of bridges.h, for tests that have one device and no machine.
#ifndef MINIVMM_TESTS_FAULT_BRIDGE_OPEN_H
#define MINIVMM_TESTS_FAULT_BRIDGE_OPEN_H

#include "bridges/bridges.h"

static inline int bridge_open(struct backend **out, const struct device_config *cfg, struct bridge_host *host,
			      struct err *e)
{
	struct bridge_pending p;
	struct bridge_end end;
	int rc = bridge_start(&p, cfg, host, e);
	if (rc == 0)
		rc = bridge_finish(&end, &p, e);
	if (rc == 0)
		*out = end.backend;
	return rc;
}

#endif
