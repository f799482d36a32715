// SPDX-License-Identifier: BSD-2-Clause
// What each protocol feature is for here, or why it is left alone: one table for the handshake, `minivmm probe` and the
// README, which a test compares with it.
#ifndef MINIVMM_BRIDGES_VHOST_USER_FEATURES_H
#define MINIVMM_BRIDGES_VHOST_USER_FEATURES_H

#include <stdint.h>

struct vu_protocol_feature {
	const char *name; // the specification's
	const char *why;
};

// Where the specification has none: a name of "?".
const struct vu_protocol_feature *vu_protocol_feature(unsigned bit);

#endif
