// SPDX-License-Identifier: BSD-2-Clause
// What vhost_user.c and vhost_user_queue.c (operations), vhost_user_open.c (handshake), vhost_user_death.c and vhost_user_again.c
// (what follows a death) share.
#ifndef MINIVMM_BRIDGES_VHOST_USER_IMPL_H
#define MINIVMM_BRIDGES_VHOST_USER_IMPL_H

#include "bridges/backend.h"
#include "bridges/vhost_user.h"
#include "bridges/vhost_user_channel.h"
#include "bridges/vhost_user_link.h"
#include "bridges/vhost_user_objects.h"
#include "bridges/vhost_user_type.h"
#include "bridges/vhost_user_wire.h"
#include "vmm/memmap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// Protocol features that are used where offered.
#define VU_PROTOCOL_FEATURES                                                                               \
	(VHOST_USER_PF_BIT(MQ) | VHOST_USER_PF_BIT(REPLY_ACK) | VHOST_USER_PF_BIT(BACKEND_REQ) |           \
	 VHOST_USER_PF_BIT(CONFIG) | VHOST_USER_PF_BIT(INFLIGHT_SHMFD) | VHOST_USER_PF_BIT(RESET_DEVICE) | \
	 VHOST_USER_PF_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PF_BIT(STATUS) | VHOST_USER_PF_BIT(NET_MTU) | \
	 VHOST_USER_PF_BIT(GPA_ADDRESSES) | VHOST_USER_PF_BIT(BACKEND_SEND_FD) |                           \
	 VHOST_USER_PF_BIT(HOST_NOTIFIER) | VHOST_USER_PF_BIT(SHMEM) | VHOST_USER_PF_BIT(SHARED_OBJECT))

// What nobody needs who has no request channel.
#define VU_CHANNEL_FEATURES                                                    \
	(VHOST_USER_PF_BIT(BACKEND_REQ) | VHOST_USER_PF_BIT(BACKEND_SEND_FD) | \
	 VHOST_USER_PF_BIT(HOST_NOTIFIER) | VHOST_USER_PF_BIT(SHARED_OBJECT))

// What doorbell pages need.
#define VU_DOORBELL_FEATURES                                                   \
	(VHOST_USER_PF_BIT(BACKEND_REQ) | VHOST_USER_PF_BIT(BACKEND_SEND_FD) | \
	 VHOST_USER_PF_BIT(HOST_NOTIFIER) | VHOST_USER_PF_BIT(REPLY_ACK))

// What shared memory needs.
#define VU_SHARED_FEATURES \
	(VHOST_USER_PF_BIT(BACKEND_REQ) | VHOST_USER_PF_BIT(BACKEND_SEND_FD) | VHOST_USER_PF_BIT(SHMEM))

// Bits of the virtio features that mean something to the two ends only.
#define VU_PRIVATE_FEATURES \
	((UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES) | (UINT64_C(1) << VHOST_F_LOG_ALL))

// What is added to a guest address to make the "user address" that names ring addresses.  Never 0, never a
// pointer of ours, and far above any guest address so that the two cannot be mistaken for each other.
#define VU_USER_OFFSET (UINT64_C(1) << 44)

#define VU_CONFIG_MAX 4096 // of configuration space; more is no device that anybody has seen

struct vu_ring {
	bool started;
	bool served;  // a back-end has had it since
	bool on_link; // the one that is connected, or was last
	bool idle;    // when that was gone nothing was under way, up to:
	uint16_t idle_at;
	struct vring_cfg cfg;
	uint32_t trace; // vu_queue_trace() when the connection began to serve it
};

// The record of requests in flight, which the back-end made and is shown again when it comes back
// (vhost-user.rst, "Inflight I/O tracking").  Never mapped here.
struct vu_inflight {
	int fd; // -1: none
	struct vhost_user_inflight place;
};

// Somebody asks a back-end for one of its objects; vhost_user_objects.c.
#define VU_LOOKUPS 8
enum {
	VU_LOOKUP_NONE,
	VU_LOOKUP_ASKED,
	VU_LOOKUP_DONE
}; // the loop's thread's, the thread's of struct again, the loop's again
struct vu_lookup {
	atomic_int state;
	struct vhost_user_uuid uuid;
	int fd;			  // when done: what it handed over, or -1
	struct vhost_user *asker; // the loop's thread's; NULL: it is gone
};

// What vhost_user_death.c and vhost_user_again.c tell each other.
struct vu_death {
	atomic_bool down; // with again.lost: the connection and the process behind it are gone
	atomic_bool gone; // for good: operations fail from now on
	// The loop's thread's:
	struct loop_source wake;
	atomic_uint posted;
	bool link_down;
	char reason[700];
};

struct vhost_user {
	struct backend backend;
	struct vu_link link; // of the thread in vu_again while `connected` is false
	struct vu_channel channel;
	const char *peer;
	const struct vu_type *type; // NULL: one without a row
	struct child *child;	    // or NULL
	int64_t control_ms, stop_ms;
	uint64_t offered;      // virtio features for the driver
	uint64_t mem_slots;    // UINT64_MAX: no limit told
	struct mem_table sent; // regions that the back-end has
	int err_fd;	       // eventfd, signalled by the back-end when a queue fails
	struct loop_source err_source;
	atomic_bool config_stale; // the loop's thread saw a change
	atomic_bool shared_lost;  // the driver had memory of one that is gone
	struct again again;
	struct vu_death death;
	struct vu_objects *objects; // NULL: it has none of others
	struct vu_lookup lookup[VU_LOOKUPS];
	struct vu_lookup *asks; // of another one's; the loop's thread's

	// Held by an operation and by a replay; never by the loop's thread, which must not wait.
	pthread_mutex_t lock;
	bool connected;
	bool live;     // the back-end has the features, memory and rings below
	bool answered; // an operation since it was connected
	bool stopping; // op_stop_begin() has opened `stop`, which run(false) closes
	struct vu_exchange stop;
	// What the driver has set up, kept so that it can be said again:
	bool negotiated, running;
	uint64_t features;
	struct mem_table memory;
	struct vu_ring ring[VU_QUEUES_MAX];
	struct vu_inflight inflight;
	struct vhost_user_own own;
	bool config_own;		    // all of `config` is ours: the back-end has none to show
	uint8_t written[VU_CONFIG_MAX / 8]; // bit per byte of `config` that the driver wrote
	uint8_t config[VU_CONFIG_MAX];
};

extern const struct backend_ops vu_ops;

static inline bool vu_has(const struct vhost_user *vu, uint64_t protocol_feature_bit)
{
	return vu_link_has(&vu->link, protocol_feature_bit);
}

// What names memory besides the guest's address: nothing does where both ends use that alone.  Older back-ends mean SHMEM by
// the same bit; to them it is an offset of 0 like any other, and what they ask for is refused (vhost_user_channel.c).
static inline uint64_t vu_user_offset(const struct vhost_user *vu)
{
	return vu_has(vu, VHOST_USER_PF_BIT(GPA_ADDRESSES)) ? 0 : VU_USER_OFFSET;
}

// ---- vhost_user.c: one exchange each, on a connection that is there; with the lock (or before anybody else has it)

int vu_do_negotiate(struct vhost_user *vu, deadline_ns deadline);
int vu_do_run(struct vhost_user *vu, deadline_ns deadline);

// ---- vhost_user_memory.c: the same

int vu_do_memory(struct vhost_user *vu, deadline_ns deadline);

// ---- vhost_user_config.c

int vu_do_config_write(struct vhost_user *vu, uint32_t off, const uint8_t *buf, uint32_t len,
		       deadline_ns deadline);
// Asks for all of the configuration space, piece by piece; and puts it into `config` when all of it is right.
void vu_ask_config(struct vu_exchange *x, const struct vhost_user *vu);
void vu_answer_config(struct vu_exchange *x, const struct vhost_user *vu, uint8_t *config);
// What the back-end shows when it is asked for the first `len` bytes, at most that; 0 when it refuses.
uint16_t vu_try_config(struct vu_exchange *x, uint8_t *config, uint32_t len);
// Where no table tells how long the configuration space is: the most that the back-end shows, found by asking, into
// `config` of VU_CONFIG_MAX bytes.  Its length, 0 for none at all.
uint16_t vu_find_config(struct vu_exchange *x, uint8_t *config);
// Whether the configuration file gives what a device cannot do without.
bool vu_config_is_ours(const struct vhost_user *vu);
// Puts in what the configuration file says.
void vu_config_own(const struct vhost_user *vu, uint8_t *config);

// ---- vhost_user_queue.c: the same for queues

int vu_do_queue_start(struct vhost_user *vu, unsigned q, uint32_t base, deadline_ns deadline);
int vu_do_queue_stop(struct vhost_user *vu, unsigned q, uint32_t *base, deadline_ns deadline);
// Its two halves, in an exchange that the caller opens and closes.
void vu_ask_queue_stop(struct vu_exchange *x, unsigned q);
void vu_answer_queue_stop(struct vu_exchange *x, const struct vhost_user *vu, unsigned q, uint32_t *base);
void vu_send_enable(struct vu_exchange *x, unsigned q, bool on);
// Before the first queue of a start: has the back-end make a record, or shows it the one that is there.
int vu_do_inflight(struct vhost_user *vu, deadline_ns deadline);
void vu_inflight_drop(struct vhost_user *vu);
// The connection is gone: what can be known of the rings has to be looked at now, before the driver goes on.
void vu_queues_lost(struct vhost_user *vu);
// The used index of a started queue as the guest sees it; 0 of a packed ring, which has none.
uint16_t vu_used_index(const struct vhost_user *vu, unsigned q);
// Of a started queue: a number that changes when a device gives a request back.
uint32_t vu_queue_trace(const struct vhost_user *vu, unsigned q);
// From where a back-end that knows nothing of what was before can go on with a started queue: true and *base; false
// where requests may have been under way and nobody knows which.
bool vu_queue_base(const struct vhost_user *vu, unsigned q, uint32_t *base);

// ---- vhost_user_doorbell.c; on the loop's thread

// A back-end's request: `fd` (or -1) stays the caller's.  0 or -errno.
int vu_doorbell_page(struct vu_channel *c, const struct vhost_user_vring_area *area, int fd);
// Why `len` bytes of a descriptor may not be mapped into the guest, or NULL: they have to stay where they are, for a page that is
// gone ends the vCPU that touches it.
const char *vu_memfd_refused(int fd, uint64_t offset, uint64_t len);
// It is gone, and nobody looks at its pages.
void vu_doorbell_lost(struct vhost_user *vu);

// ---- vhost_user_shared.c

// The regions (out[BACKEND_SHARED_MAX]) that a back-end says it has in `len` bytes.  0, or -errno with a sentence.
int vu_shared_check(const struct vhost_user *vu, const struct vhost_user_shmem_config *c, size_t len,
		    struct backend_shared *out, unsigned *count, struct err *e);
bool vu_shared_same(const struct backend *b, const struct backend_shared *with, unsigned count);
// A back-end's request, on the loop's thread: `fd` (or -1) stays the caller's.  0 or -errno.
int vu_shared_map(struct vu_channel *c, const struct vhost_user_shmem_map *m, int fd);
int vu_shared_unmap(struct vu_channel *c, const struct vhost_user_shmem_map *m);
// It is gone, and what was mapped of it is nobody's.
void vu_shared_end(struct vhost_user *vu);

// ---- vhost_user_objects.c; on the loop's thread but vu_objects_serve()

// A back-end's request: 0, -errno, or 1: vu_objects_answer() of another one will answer it.
int vu_object_request(struct vu_channel *c, uint32_t request, const struct vhost_user_uuid *u);
// What was asked of this one and is done.
void vu_objects_answer(struct vhost_user *vu);
// Its connection is gone, and its objects with it; or all of it.
void vu_objects_end(struct vhost_user *vu);
void vu_objects_close(struct vhost_user *vu);
// The thread of struct again: asks for what others asked for.
void vu_objects_serve(struct vhost_user *vu);

// ---- vhost_user_open.c

// Shakes hands anew on vu->link with what must be the same device as before.  *config: its configuration space.
int vu_shake_again(struct vhost_user *vu, uint8_t *config, deadline_ns deadline, struct err *e);

// ---- vhost_user_death.c; on the loop's thread but vu_again_post()

int vu_again_init(struct vhost_user *vu);
int vu_again_watch(struct vhost_user *vu);
void vu_link_lost(struct vu_link *l);
void vu_child_exited(struct child *c, const char *how);
void vu_config_changed(struct vu_channel *c);
// Any thread; said by the loop's.
enum vu_post {
	VU_POST_WATCH = 1,   // there is a connection
	VU_POST_CONFIG = 2,  // its configuration space is not what it was
	VU_POST_FAILED = 4,  // the device needs a reset
	VU_POST_GONE = 8,    // nothing comes any more
	VU_POST_OBJECT = 16, // an answer to another's question
};
void vu_again_post(struct vhost_user *vu, unsigned bits);

// ---- vhost_user_again.c

void vu_again_close(struct vhost_user *vu);

#endif
