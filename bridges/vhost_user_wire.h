// SPDX-License-Identifier: BSD-2-Clause
// vhost-user on the wire: layouts, bits and one table of what each request may look like.
//
// Both ends include this and nothing else of each other: the front-end (vhost_user.c) builds requests and
// checks replies by it, the back-end side (devices/sdk) checks what a hostile front-end sends.  Source:
// vhost-user.rst of the QEMU documentation.  No state, no I/O; all numbers are in host byte order.
#ifndef MINIVMM_BRIDGES_VHOST_USER_WIRE_H
#define MINIVMM_BRIDGES_VHOST_USER_WIRE_H

#include "vmm/base/check.h"

#include <stdbool.h>
#include <stdint.h>

// ---- header -------------------------------------------------------------------------------------

struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; // of the payload that follows, bytes
};

#define VHOST_USER_VERSION	0x1u
#define VHOST_USER_VERSION_MASK 0x3u
#define VHOST_USER_REPLY	0x4u // this is a reply
#define VHOST_USER_NEED_REPLY	0x8u // with REPLY_ACK: answer with a u64, 0 for success

// ---- features -----------------------------------------------------------------------------------

// Bit of the virtio features that stands for "has protocol features"; never shown to a driver.
#define VHOST_USER_F_PROTOCOL_FEATURES 30
// Bit of the virtio features that turns dirty logging on; never shown to a driver.
#define VHOST_F_LOG_ALL 26

enum vhost_user_protocol_feature {
	VHOST_USER_PF_MQ = 0,
	VHOST_USER_PF_LOG_SHMFD = 1,
	VHOST_USER_PF_RARP = 2,
	VHOST_USER_PF_REPLY_ACK = 3,
	VHOST_USER_PF_NET_MTU = 4,
	VHOST_USER_PF_BACKEND_REQ = 5,
	VHOST_USER_PF_CROSS_ENDIAN = 6,
	VHOST_USER_PF_CRYPTO_SESSION = 7,
	VHOST_USER_PF_PAGEFAULT = 8,
	VHOST_USER_PF_CONFIG = 9,
	VHOST_USER_PF_BACKEND_SEND_FD = 10,
	VHOST_USER_PF_HOST_NOTIFIER = 11,
	VHOST_USER_PF_INFLIGHT_SHMFD = 12,
	VHOST_USER_PF_RESET_DEVICE = 13,
	VHOST_USER_PF_INBAND_NOTIFICATIONS = 14,
	VHOST_USER_PF_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PF_STATUS = 16,
	VHOST_USER_PF_XEN_MMAP = 17,
	VHOST_USER_PF_SHARED_OBJECT = 18,
	VHOST_USER_PF_DEVICE_STATE = 19,
	VHOST_USER_PF_GET_VRING_BASE_INFLIGHT = 20,
	VHOST_USER_PF_GPA_ADDRESSES = 21,
	VHOST_USER_PF_SHMEM = 22,
	VHOST_USER_PF_GET_VRING_BASE_SKIP_DRAIN = 23,
	VHOST_USER_PF_COUNT,
	VHOST_USER_PF_NONE = 0xff, // in the table: belongs to the base protocol
};

#define VHOST_USER_PF_BIT(name) (UINT64_C(1) << VHOST_USER_PF_##name)

// ---- requests -----------------------------------------------------------------------------------

enum vhost_user_request { // front-end to back-end
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_LOG_BASE = 6,
	VHOST_USER_SET_LOG_FD = 7,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SEND_RARP = 19,
	VHOST_USER_NET_SET_MTU = 20,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_IOTLB_MSG = 22,
	VHOST_USER_SET_VRING_ENDIAN = 23,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_CREATE_CRYPTO_SESSION = 26,
	VHOST_USER_CLOSE_CRYPTO_SESSION = 27,
	VHOST_USER_POSTCOPY_ADVISE = 28,
	VHOST_USER_POSTCOPY_LISTEN = 29,
	VHOST_USER_POSTCOPY_END = 30,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_GPU_SET_SOCKET = 33,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_VRING_KICK = 35,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
	VHOST_USER_GET_SHARED_OBJECT = 41,
	VHOST_USER_SET_DEVICE_STATE_FD = 42,
	VHOST_USER_CHECK_DEVICE_STATE = 43,
	VHOST_USER_GET_SHMEM_CONFIG = 44,
	VHOST_USER_GET_VRING_BASE_SKIP_DRAIN = 45,
};

enum vhost_user_backend_request { // back-end to front-end, on the channel of SET_BACKEND_REQ_FD
	VHOST_USER_BACKEND_IOTLB_MSG = 1,
	VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2,
	VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG = 3,
	VHOST_USER_BACKEND_VRING_CALL = 4,
	VHOST_USER_BACKEND_VRING_ERR = 5,
	VHOST_USER_BACKEND_SHARED_OBJECT_ADD = 6,
	VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE = 7,
	VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP = 8,
	VHOST_USER_BACKEND_SHMEM_MAP = 9,
	VHOST_USER_BACKEND_SHMEM_UNMAP = 10,
};

// ---- payloads -----------------------------------------------------------------------------------

struct vhost_user_vring_state { // SET_VRING_NUM, _BASE, _ENABLE, GET_VRING_BASE
	uint32_t index;
	uint32_t num;
};

#define VHOST_USER_VRING_F_LOG 1u // of `flags`: writes to the used ring are logged, from log_gpa on
struct vhost_user_vring_addr {	  // user addresses, as the memory table defines them
	uint32_t index;
	uint32_t flags;
	uint64_t desc_user;
	uint64_t used_user;
	uint64_t avail_user;
	uint64_t log_gpa;
};

// The u64 of SET_VRING_KICK, _CALL, _ERR.
#define VHOST_USER_VRING_INDEX_MASK 0xffu
#define VHOST_USER_VRING_NO_FD	    0x100u
#define VHOST_USER_VRINGS_MAX	    256 // that an index of 8 bits can name

struct vhost_user_mem_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user;	    // where the front-end says it has the region; only used to name ring addresses
	uint64_t fd_offset; // of the region's first byte
};

#define VHOST_USER_MEM_TABLE_MAX 8
struct vhost_user_mem_table { // SET_MEM_TABLE: only `count` regions travel, one descriptor each
	uint32_t count;
	uint32_t padding;
	struct vhost_user_mem_region region[VHOST_USER_MEM_TABLE_MAX];
};

struct vhost_user_mem_reg { // ADD_MEM_REG, REM_MEM_REG
	uint64_t padding;
	struct vhost_user_mem_region region;
};

// What front-ends and back-ends agree on as the most that one exchange carries.
#define VHOST_USER_CONFIG_CHUNK 256
#define VHOST_USER_CONFIG_HEAD	12 // bytes before data
struct vhost_user_config {	   // GET_CONFIG, SET_CONFIG
	uint32_t off;
	uint32_t len;
	uint32_t flags;
	uint8_t data[VHOST_USER_CONFIG_CHUNK];
};
#define VHOST_USER_CONFIG_WRITABLE  0u // the driver changed a writable field
#define VHOST_USER_CONFIG_MIGRATION 1u

struct vhost_user_log { // SET_LOG_BASE
	uint64_t size;
	uint64_t fd_offset;
};

#define VHOST_USER_STATE_SAVE 0u
#define VHOST_USER_STATE_LOAD 1u
struct vhost_user_device_state { // SET_DEVICE_STATE_FD
	uint32_t direction;
	uint32_t phase; // 0: the device is suspended
};
// The u64 of its reply: no descriptor comes with it; what is below says whether it failed.
#define VHOST_USER_STATE_NO_FD 0x100u

struct vhost_user_uuid { // SHARED_OBJECT_*, GET_SHARED_OBJECT
	uint8_t bytes[16];
};

#define VHOST_USER_SHMEM_WRITABLE UINT64_C(1) // of `flags`
struct vhost_user_shmem_map {		      // SHMEM_MAP, SHMEM_UNMAP
	uint8_t shmid;
	uint8_t padding[7];
	uint64_t fd_offset;
	uint64_t shm_offset;
	uint64_t len;
	uint64_t flags;
};

#define VHOST_USER_SHMEM_REGIONS 256
struct vhost_user_shmem_config { // GET_SHMEM_CONFIG: `size` by shmid, 0: no such region
	uint32_t count;
	uint32_t padding;
	uint64_t size[VHOST_USER_SHMEM_REGIONS];
};

struct vhost_user_inflight { // 20 bytes by the specification, 24 by the C compilers of some peers
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t queue_count;
	uint16_t queue_size;
};

struct vhost_user_iotlb {
	uint64_t iova;
	uint64_t size;
	uint64_t user;
	uint8_t perm;
	uint8_t type;
};

struct vhost_user_vring_area { // VRING_HOST_NOTIFIER_MSG
	uint64_t index_and_flags;
	uint64_t size;
	uint64_t fd_offset;
};

// The longest payload that any row of the tables allows (GET_SHMEM_CONFIG's reply: count, padding, 256
// sizes).
#define VHOST_USER_PAYLOAD_MAX (8 + 256 * 8)

_Static_assert(sizeof(struct vhost_user_header) == 12, "header");
_Static_assert(sizeof(struct vhost_user_vring_state) == 8, "vring state");
_Static_assert(sizeof(struct vhost_user_vring_addr) == 40, "vring addr");
_Static_assert(sizeof(struct vhost_user_mem_table) == 8 + 8 * 32, "memory table");
_Static_assert(sizeof(struct vhost_user_mem_reg) == 40, "memory region");
_Static_assert(sizeof(struct vhost_user_config) == 12 + 256, "config");
_Static_assert(sizeof(struct vhost_user_iotlb) == 32, "iotlb");
_Static_assert(sizeof(struct vhost_user_shmem_map) == 40, "shmem map");
_Static_assert(sizeof(struct vhost_user_shmem_config) == VHOST_USER_PAYLOAD_MAX, "shmem config");

// ---- the table ----------------------------------------------------------------------------------

enum vhost_user_reply_kind {
	VHOST_USER_REPLY_ACK_ONLY, // no reply of its own; a u64 if REPLY_ACK is negotiated and NEED_REPLY set
	VHOST_USER_REPLY_DEFINED,  // always answered, NEED_REPLY changes nothing
};

// A size range means "within it"; what the numbers inside say about the size is for the handler to check.
struct vhost_user_row {
	const char *name; // NULL: no such request
	uint16_t size_min, size_max;
	uint8_t fds_min, fds_max;
	uint8_t reply; // enum vhost_user_reply_kind
	uint16_t reply_min, reply_max;
	uint8_t reply_fds_max;
	uint8_t feature; // protocol feature that must have been negotiated, or VHOST_USER_PF_NONE
};

#define VU_ROW_(id, min, max, fmin, fmax, rep, rmin, rmax, rfds, pf) \
	[id] = { .name = #id,                                        \
		 .size_min = (min),                                  \
		 .size_max = (max),                                  \
		 .fds_min = (fmin),                                  \
		 .fds_max = (fmax),                                  \
		 .reply = (rep),                                     \
		 .reply_min = (rmin),                                \
		 .reply_max = (rmax),                                \
		 .reply_fds_max = (rfds),                            \
		 .feature = VHOST_USER_PF_##pf }
// size, descriptors: of the request.  Acknowledged only, or with a reply of its own.
#define VU_SET_(id, min, max, fmin, fmax, pf) \
	VU_ROW_(VHOST_USER_##id, min, max, fmin, fmax, VHOST_USER_REPLY_ACK_ONLY, 8, 8, 0, pf)
#define VU_GET_(id, min, max, fmin, fmax, rmin, rmax, rfds, pf) \
	VU_ROW_(VHOST_USER_##id, min, max, fmin, fmax, VHOST_USER_REPLY_DEFINED, rmin, rmax, rfds, pf)

// The row of a front-end's request, or NULL if the specification has none.
static inline const struct vhost_user_row *vhost_user_request_row(uint32_t request)
{
	static const struct vhost_user_row rows[] = {
		VU_GET_(GET_FEATURES, 0, 0, 0, 0, 8, 8, 0, NONE),
		VU_SET_(SET_FEATURES, 8, 8, 0, 0, NONE),
		VU_SET_(SET_OWNER, 0, 0, 0, 0, NONE),
		VU_SET_(RESET_OWNER, 0, 0, 0, 0, NONE),
		VU_SET_(SET_MEM_TABLE, 8, 8 + 8 * 32, 0, 8, NONE),
		VU_GET_(SET_LOG_BASE, 8, 16, 0, 1, 0, 8, 0, LOG_SHMFD),
		VU_SET_(SET_LOG_FD, 0, 0, 1, 1, NONE),
		VU_SET_(SET_VRING_NUM, 8, 8, 0, 0, NONE),
		VU_SET_(SET_VRING_ADDR, 40, 40, 0, 0, NONE),
		VU_SET_(SET_VRING_BASE, 8, 8, 0, 0, NONE),
		VU_GET_(GET_VRING_BASE, 8, 8, 0, 0, 8, 8, 0, NONE),
		VU_SET_(SET_VRING_KICK, 8, 8, 0, 1, NONE),
		VU_SET_(SET_VRING_CALL, 8, 8, 0, 1, NONE),
		VU_SET_(SET_VRING_ERR, 8, 8, 0, 1, NONE),
		VU_GET_(GET_PROTOCOL_FEATURES, 0, 0, 0, 0, 8, 8, 0, NONE),
		VU_SET_(SET_PROTOCOL_FEATURES, 8, 8, 0, 0, NONE),
		VU_GET_(GET_QUEUE_NUM, 0, 0, 0, 0, 8, 8, 0, MQ),
		VU_SET_(SET_VRING_ENABLE, 8, 8, 0, 0, NONE),
		VU_SET_(SEND_RARP, 8, 8, 0, 0, RARP),
		VU_SET_(NET_SET_MTU, 8, 8, 0, 0, NET_MTU),
		VU_SET_(SET_BACKEND_REQ_FD, 0, 0, 1, 1, BACKEND_REQ),
		VU_GET_(IOTLB_MSG, 32, 32, 0, 0, 8, 8, 0, NONE),
		VU_SET_(SET_VRING_ENDIAN, 8, 8, 0, 0, CROSS_ENDIAN),
		// A reply without data says that the back-end refuses the range.
		VU_GET_(GET_CONFIG, 12, 12 + 256, 0, 0, 0, 12 + 256, 0, CONFIG),
		VU_SET_(SET_CONFIG, 12, 12 + 256, 0, 0, CONFIG),
		VU_GET_(CREATE_CRYPTO_SESSION, 8, 2048, 0, 0, 8, 2048, 0, CRYPTO_SESSION),
		VU_SET_(CLOSE_CRYPTO_SESSION, 8, 8, 0, 0, CRYPTO_SESSION),
		VU_GET_(POSTCOPY_ADVISE, 0, 0, 0, 0, 0, 8, 1, PAGEFAULT),
		VU_SET_(POSTCOPY_LISTEN, 0, 0, 0, 0, PAGEFAULT),
		VU_GET_(POSTCOPY_END, 0, 0, 0, 0, 8, 8, 0, PAGEFAULT),
		VU_GET_(GET_INFLIGHT_FD, 20, 24, 0, 0, 20, 24, 1, INFLIGHT_SHMFD),
		VU_SET_(SET_INFLIGHT_FD, 20, 24, 1, 1, INFLIGHT_SHMFD),
		VU_SET_(GPU_SET_SOCKET, 0, 0, 1, 1, NONE),
		VU_SET_(RESET_DEVICE, 0, 0, 0, 0, RESET_DEVICE),
		VU_SET_(VRING_KICK, 8, 8, 0, 0, INBAND_NOTIFICATIONS),
		VU_GET_(GET_MAX_MEM_SLOTS, 0, 0, 0, 0, 8, 8, 0, CONFIGURE_MEM_SLOTS),
		VU_SET_(ADD_MEM_REG, 40, 40, 1, 1, CONFIGURE_MEM_SLOTS),
		// Old front-ends send a descriptor along, which is to be closed.
		VU_SET_(REM_MEM_REG, 40, 40, 0, 1, CONFIGURE_MEM_SLOTS),
		VU_SET_(SET_STATUS, 8, 8, 0, 0, STATUS),
		VU_GET_(GET_STATUS, 0, 0, 0, 0, 8, 8, 0, STATUS),
		VU_GET_(GET_SHARED_OBJECT, 16, 16, 0, 0, 0, 16, 1, SHARED_OBJECT),
		VU_GET_(SET_DEVICE_STATE_FD, 8, 8, 1, 1, 8, 8, 1, DEVICE_STATE),
		VU_GET_(CHECK_DEVICE_STATE, 0, 0, 0, 0, 8, 8, 0, DEVICE_STATE),
		VU_GET_(GET_SHMEM_CONFIG, 0, 0, 0, 0, 8, 8 + 256 * 8, 0, SHMEM),
		VU_GET_(GET_VRING_BASE_SKIP_DRAIN, 8, 8, 0, 0, 8, 8, 0, GET_VRING_BASE_SKIP_DRAIN),
	};
	return request < ARRAY_LEN(rows) && rows[request].name ? &rows[request] : NULL;
}

// The row of a back-end's request on its own channel, or NULL.
static inline const struct vhost_user_row *vhost_user_backend_row(uint32_t request)
{
	static const struct vhost_user_row rows[] = {
		VU_SET_(BACKEND_IOTLB_MSG, 32, 32, 0, 0, BACKEND_REQ),
		VU_SET_(BACKEND_CONFIG_CHANGE_MSG, 0, 0, 0, 0, CONFIG),
		VU_SET_(BACKEND_VRING_HOST_NOTIFIER_MSG, 24, 24, 0, 1, HOST_NOTIFIER),
		VU_SET_(BACKEND_VRING_CALL, 8, 8, 0, 0, INBAND_NOTIFICATIONS),
		VU_SET_(BACKEND_VRING_ERR, 8, 8, 0, 0, INBAND_NOTIFICATIONS),
		VU_SET_(BACKEND_SHARED_OBJECT_ADD, 16, 16, 0, 0, SHARED_OBJECT),
		VU_SET_(BACKEND_SHARED_OBJECT_REMOVE, 16, 16, 0, 0, SHARED_OBJECT),
		VU_GET_(BACKEND_SHARED_OBJECT_LOOKUP, 16, 16, 0, 0, 8, 8, 1, SHARED_OBJECT),
		VU_SET_(BACKEND_SHMEM_MAP, 40, 40, 1, 1, SHMEM),
		VU_SET_(BACKEND_SHMEM_UNMAP, 40, 40, 0, 0, SHMEM),
	};
	return request < ARRAY_LEN(rows) && rows[request].name ? &rows[request] : NULL;
}

#undef VU_ROW_
#undef VU_SET_
#undef VU_GET_

// ---- the checks ---------------------------------------------------------------------------------

// Whether a request's header may stand as it is: NULL, or what is wrong with it in a few words.  To be called
// before its payload is read.  `features` are the negotiated protocol features.
static inline const char *vhost_user_request_error(const struct vhost_user_header *h,
						   const struct vhost_user_row *row, uint64_t features)
{
	if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return "wrong version";
	if (h->flags & ~(VHOST_USER_VERSION_MASK | VHOST_USER_NEED_REPLY))
		return "unknown flags, or a reply where a request is due";
	if (!row)
		return h->size <= VHOST_USER_PAYLOAD_MAX ? "unknown request"
							 : "unknown request of absurd size";
	if (h->size < row->size_min || h->size > row->size_max)
		return "wrong size";
	if (row->feature != VHOST_USER_PF_NONE && !(features >> row->feature & 1))
		return "belongs to a protocol feature that was not negotiated";
	return NULL;
}

// Whether the number of descriptors that came with a request is right: NULL or what is wrong.
static inline const char *vhost_user_request_fds_error(const struct vhost_user_row *row, unsigned fd_count)
{
	return fd_count < row->fds_min	 ? "a descriptor is missing"
	       : fd_count > row->fds_max ? "too many descriptors"
					 : NULL;
}

// The same for the header of a reply to `request`.
static inline const char *vhost_user_reply_error(const struct vhost_user_header *h, uint32_t request,
						 const struct vhost_user_row *row)
{
	if (h->request != request)
		return "a reply to another request";
	if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return "wrong version";
	if (!(h->flags & VHOST_USER_REPLY))
		return "not marked as a reply";
	if (h->flags & ~(VHOST_USER_VERSION_MASK | VHOST_USER_REPLY | VHOST_USER_NEED_REPLY))
		return "unknown flags";
	if (h->size < row->reply_min || h->size > row->reply_max)
		return "wrong size";
	return NULL;
}

#endif
