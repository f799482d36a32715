// SPDX-License-Identifier: BSD-2-Clause
// `minivmm bind` and `unbind`: functions of the host's PCI bus go to vfio-pci, and back to the drivers that they had.
//
// What the host would lose is shown first, with all of the IOMMU group, for a group is given whole or not at all.  A disk that is
// mounted or swapped to, itself or what is built on it, is never taken.  By the kernel's driver_override, which lasts until the next boot.
#ifndef MINIVMM_VMM_BIND_H
#define MINIVMM_VMM_BIND_H

#include "vmm/base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct bind_params {
	const char *root; // "" but in tests: what /sys and /proc lie in
	FILE *out;
	bool dry_run; // only shows
	const char *const *addresses;
	unsigned count;
};

// -errno with the sentence: nothing has changed, but for those that were done and are said to be.
int bind_run(const struct bind_params *p, struct err *e);
int unbind_run(const struct bind_params *p, struct err *e);

#endif
