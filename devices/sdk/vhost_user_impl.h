// SPDX-License-Identifier: BSD-2-Clause
// What the files of the vhost-user carrier share; nobody else includes this.
//
// serve_vhost_user.c receives, checks and answers messages; vhost_user_handlers.c acts on most, vhost_user_dirty.c and
// vhost_user_state.c on those for a guest that moves or a process that is killed; vhost_user_ring.c starts, kicks and stops the vrings; vhost_user_channel.c asks the front-end.
#ifndef MINIVMM_SDK_VHOST_USER_IMPL_H
#define MINIVMM_SDK_VHOST_USER_IMPL_H

#include "bridges/vhost_user_wire.h"
#include "devices/sdk/carrier.h"
#include "devices/sdk/dirty.h"
#include "vmm/base/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bits of the virtio features that are between the two ends; a device is not told.
#define PRIVATE_FEATURES (UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES | UINT64_C(1) << VHOST_F_LOG_ALL)

struct ring {
	struct server *server;
	struct vq *vq;
	struct vq_place at;
	bool has_size, has_addr;
	bool kicked;	       // a kick came before the ring was complete
	uint64_t used_log_gpa; // where the used ring lies in the log of dirty pages, UINT64_MAX: not there
	struct loop_source kick;
};

#define STATE_MAX (VDEV_STATE_MAX + 64) // with its header

// What outlives a process, in the memory that the front-end keeps: the state in slot[current - 1].
struct state_record {
	uint32_t current; // 1 or 2; else there is none
	uint32_t padding;
	struct state_slot {
		uint32_t len;
		uint8_t bytes[STATE_MAX];
	} slot[2];
};

// A device's state on its way (DEVICE_STATE): what a load brought so far; it ends with CHECK_DEVICE_STATE.
struct transfer {
	struct loop_source source; // the front-end's pipe, while there may be more in it
	bool loading, ended, failed;
	size_t len;
	uint8_t bytes[STATE_MAX];
};

union payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_mem_table table;
	struct vhost_user_mem_reg reg;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
	struct vhost_user_log log;
	struct vhost_user_device_state state_fd;
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
	unsigned wrong_fds; // that came and were of no use here
	struct request rq; // being received
	size_t got;	   // bytes of it
	deadline_ns due;   // when it is to be complete, once it has begun
	uint8_t *log;	   // mapped record of what is in flight, or NULL
	size_t log_len;
	struct dirty_log dirty;
	struct transfer transfer;
	struct state_record *record; // within `log`, or NULL
	bool state_given;	     // by the front-end; the record's is older
	struct loop_source channel;  // what we may ask the front-end, or -1
	bool config_pending;	     // it is yet to hear of a change
	struct ring ring[];
};

// The front-end took packed rings; it is to say so before anything whose layout depends on it.
static inline bool vu_packed(const struct server *s)
{
	return s->features & VQ_FEATURE_PACKED;
}

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
#define VU_HANDLERS (VHOST_USER_GET_SHMEM_CONFIG + 1)
extern int (*const vu_handlers[VU_HANDLERS])(struct server *s, struct request *rq);

static inline void vu_reply_u64(struct request *rq, uint64_t v)
{
	rq->p.u64 = v;
	rq->reply_len = sizeof(rq->p.u64);
}

// Lets go of the record of requests in flight.
void vu_log_drop(struct server *s);

// ---- vhost_user_dirty.c: the log of dirty pages ---------------------------------------------------------------------

int vu_on_set_log_base(struct server *s, struct request *rq);
int vu_on_set_log_fd(struct server *s, struct request *rq);
// Rings note what they write from here on, or no longer: after the features, the log or a ring's address changed.
void vu_dirty_apply(struct server *s);
void vu_dirty_init(struct server *s);
void vu_dirty_close(struct server *s);

// ---- vhost_user_state.c: the device's state -------------------------------------------------------------------------

int vu_on_set_device_state_fd(struct server *s, struct request *rq);
int vu_on_check_device_state(struct server *s, struct request *rq);
// Bytes that the state takes of the record of requests in flight.
uint64_t vu_state_record_len(const struct server *s);
// The device is about to start: it goes on from the record's state, if there is one.
void vu_state_recall(struct server *s);
// A state that was loaded and not gone on from is not wanted any more.
void vu_state_forget(struct server *s);
void vu_state_init(struct server *s);
void vu_state_close(struct server *s);
// carrier.prepare: finds out what this kernel's pipes can do.
int vu_state_prepare(struct vdev *d, struct err *e);

// ---- vhost_user_channel.c: what we tell the front-end of our own accord -------------------------------------------

int vu_on_set_backend_req_fd(struct server *s, struct request *rq);
// Tells what is yet to be told, if the front-end can hear it now.
void vu_channel_flush(struct server *s);
// Asks no file system, as fstat(2) might.
bool vu_is_socket(int fd);
void vu_channel_init(struct server *s);
void vu_channel_close(struct server *s);

#endif
