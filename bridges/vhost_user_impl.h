// SPDX-License-Identifier: BSD-2-Clause
// What vhost_user.c (operations) and vhost_user_open.c (handshake) share.
#ifndef MINIVMM_BRIDGES_VHOST_USER_IMPL_H
#define MINIVMM_BRIDGES_VHOST_USER_IMPL_H

#include "bridges/backend.h"
#include "bridges/vhost_user.h"
#include "bridges/vhost_user_channel.h"
#include "bridges/vhost_user_link.h"
#include "bridges/vhost_user_type.h"
#include "bridges/vhost_user_wire.h"
#include "vmm/memmap.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// Protocol features that are used where offered.
#define VU_PROTOCOL_FEATURES                                                                     \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(BACKEND_REQ) | \
	 VHOST_USER_PF_BIT(CONFIG) | VHOST_USER_PF_BIT(RESET_DEVICE) |                           \
	 VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PF_BIT(STATUS))

// Bits of the virtio features that mean something to the two ends only.
#define VU_PRIVATE_FEATURES \
	((UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES) | (UINT64_C(1) << VHOST_F_LOG_ALL))

struct vhost_user {
	struct backend backend;
	struct vu_link link;
	struct vu_channel channel;
	const char *peer;
	const struct vu_type *type; // NULL: one without a row
	struct child *child;	    // or NULL
	int64_t control_ms, stop_ms;
	uint64_t offered;      // virtio features for the driver
	uint64_t mem_slots;    // UINT64_MAX: no limit told
	struct mem_table sent; // regions that the back-end has
	bool running;
	bool started[VU_QUEUES_MAX];
	int err_fd; // eventfd, signalled by the back-end when a queue fails
	struct loop_source err_source;
	atomic_bool config_stale; // the loop's thread saw a change
	uint8_t config[VHOST_USER_CONFIG_CHUNK];
};

extern const struct backend_ops vu_ops;

void vu_ask_config(struct vu_exchange *x, const struct vhost_user *vu);
// Checks and keeps what the back-end answers.
void vu_answer_config(struct vu_exchange *x, struct vhost_user *vu);
// What the back-end shows when it is asked for the first `len` bytes, at most that; 0 when it refuses.
uint16_t vu_try_config(struct vu_exchange *x, uint8_t *config, uint32_t len);
// Where no table tells how long the configuration space is: the most that the back-end shows, found by asking
// (nine questions at most), into `config` of VHOST_USER_CONFIG_CHUNK bytes.  Its length, 0 for none at all.
uint16_t vu_find_config(struct vu_exchange *x, uint8_t *config);

#endif
