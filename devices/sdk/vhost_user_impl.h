// SPDX-License-Identifier: BSD-2-Clause
// What the files of the vhost-user carrier share; nobody else includes this.
//
// serve_vhost_user.c receives, checks and answers messages; vhost_user_handlers.c acts on each; vhost_user_ring.c starts, kicks and stops
// the vrings.
#ifndef MINIVMM_SDK_VHOST_USER_IMPL_H
#define MINIVMM_SDK_VHOST_USER_IMPL_H

#include "bridges/vhost_user_wire.h"
#include "devices/sdk/carrier.h"
#include "vmm/base/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OFFERED_PROTOCOL_FEATURES                                                           \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(CONFIG) | \
	 VHOST_USER_PF_BIT(RESET_DEVICE) | VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) |         \
	 VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(INFLIGHT_SHMFD))

struct ring {
	struct server *server;
	struct vq *vq;
	struct vq_place at;
	bool has_size, has_addr;
	bool kicked; // a kick came before the ring was complete
	struct loop_source kick;
};

union payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_mem_table table;
	struct vhost_user_mem_reg reg;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
	uint8_t bytes[VHOST_USER_PAYLOAD_MAX];
};

struct request {
	struct vhost_user_header h;
	union payload p;    // of the request; a handler with a reply of its own writes that here
	struct msg_fds fds; // what a handler leaves in it is closed
	uint32_t reply_len;
	int reply_fd; // -1, or travels with the reply and is closed
};

struct server {
	struct vdev *d;
	struct loop_source sock;
	uint64_t features;	    // negotiated, with the vhost-user bit
	uint64_t protocol_features; // negotiated
	uint8_t status;
	bool has_features, started, closing;
	struct request rq; // being received
	size_t got;	   // bytes of it
	deadline_ns due;   // when it is to be complete, once it has begun
	uint8_t *log;	   // mapped record of what is in flight, or NULL
	size_t log_len;
	struct ring ring[];
};

// ---- vhost_user_ring.c ------------------------------------------------------------------------------------------

// NULL if the device has no such queue.
struct ring *vu_ring(struct server *s, uint64_t index);

// Starts the ring if all that it needs is there.  0 (also if not), or -errno: its place is not in guest memory.
int vu_ring_start(struct ring *r);

// Lets the device look at the queue.
void vu_ring_kick(struct ring *r);

// Nothing of the ring is in flight or touched after this; its kick descriptor is closed.
void vu_ring_stop(struct ring *r);

void vu_ring_drop_kick(struct ring *r);

// All rings stopped and disabled, the device told.
void vu_stop_all(struct server *s);

// After the memory table changed: rings that lost their memory fail, the others go on.
void vu_relocate_all(struct server *s);

// Callbacks of a ring's queue and of its kick descriptor.
void vu_ring_failed(struct vq *q);
void vu_ring_kicked(struct loop_source *src, uint32_t events);

// ---- vhost_user_handlers.c --------------------------------------------------------------------------------------

// By request number; 0, or -errno: refused.
#define VU_HANDLERS (VHOST_USER_GET_STATUS + 1)
extern int (*const vu_handlers[VU_HANDLERS])(struct server *s, struct request *rq);

// Lets go of the record of requests in flight.
void vu_log_drop(struct server *s);

#endif
