// SPDX-License-Identifier: BSD-2-Clause
// What was chosen with a device's interface, for `minivmm explain`: the words of one line of its table.  Called by describe.c.
#ifndef MINIVMM_BRIDGES_CHOICE_H
#define MINIVMM_BRIDGES_CHOICE_H

#include "vmm/explain.h"

// From the configuration alone.  The texts are constants.
struct explain_choice choice_of(const struct device_config *cfg);

#endif
