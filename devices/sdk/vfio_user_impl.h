// SPDX-License-Identifier: BSD-2-Clause
// What the files of the vfio-user carrier share; nobody else includes this.
//
// serve_vfio_user.c receives, checks and answers messages; vfio_user_handlers.c acts on most, vfio_user_irqs.c on those about
// interrupts, vfio_user_version.c on the first one, vfio_user_migration.c on those for a guest that moves; vfio_user_dma.c asks the
// client.  What they act on is a struct pdev.
#ifndef MINIVMM_SDK_VFIO_USER_IMPL_H
#define MINIVMM_SDK_VFIO_USER_IMPL_H

#include "bridges/vfio_user_wire.h"
#include "devices/sdk/carrier.h"
#include "devices/sdk/dirty.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/look.h"
#include "vmm/base/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFS_XFER_MAX	4096u	   // data of one REGION_READ or _WRITE: what is stated in VERSION's reply
#define VFS_FDS_MAX	16u	   // likewise
#define VFS_DMA_MAX	(1u << 20) // of one DMA_READ or DMA_WRITE
#define VFS_PAYLOAD_MAX (8 + 24 * VFIO_USER_MULTI_MAX)
#define VFS_REPLY_MAX	(16 + VFS_XFER_MAX)
#define VFS_BITMAP_MAX	(VFS_XFER_MAX / 2) // of one report of pages written
#define VFS_DOORBELLS	MIN(VFIO_USER_IO_FDS_MAX, VFIO_USER_FDS_MAX)

_Static_assert(VFS_PAYLOAD_MAX >= 4 + VFIO_USER_JSON_MAX && VFS_PAYLOAD_MAX >= 16 + VFS_XFER_MAX &&
		       VFS_PAYLOAD_MAX >= 8 + VFIO_USER_FEATURE_MAX,
	       "room for every command");
_Static_assert(VFS_REPLY_MAX >= 16 + 40 * VFIO_USER_IO_FDS_MAX, "room for every reply");

#define VFS_MAPS_MAX GUEST_REGIONS_MAX

// Memory of the guest that we may not map: without a descriptor, or not for reading and writing.
struct vfs_unmapped {
	uint64_t iova, size;
	uint32_t flags; // VFIO_USER_DMA_*
};

struct vfs_request {
	struct vfio_user_header h;
	_Alignas(8) uint8_t payload[VFS_PAYLOAD_MAX];
	size_t len;	    // of the payload
	struct msg_fds fds; // what a handler leaves in it is closed
	_Alignas(8) uint8_t reply[VFS_REPLY_MAX];
	size_t reply_len;
	unsigned reply_fd_count;
	int reply_fd[VFIO_USER_FDS_MAX]; // stay their owners'
};

// What the client does to move its guest (vfio-user.rst, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE").
struct vfs_migration {
	enum vfio_device_mig_state state;
	uint8_t *data; // of the function, in STOP_COPY and RESUMING
	size_t len, at, most;
	struct dirty_log log;
};

struct vfs {
	struct vdev *d;
	struct pdev *p;
	struct loop_source sock;
	bool versioned, closing;
	unsigned client_fds;   // most descriptors that the client takes in a message
	uint32_t client_xfer;  // most bytes of data
	int twin, twin_theirs; // ours; theirs, until it has been sent; or -1
	uint64_t dma_iova;     // what was asked for on it
	struct vfs_request rq;
	size_t got;	 // bytes of it
	deadline_ns due; // when it is to be complete, once it has begun
	struct look look;
	deadline_ns
		look_until; // the next message is looked for until then, without sleeping; 0: it is not, or not any more
	bool looked;	 // in vain
	deadline_ns did; // the last one
	struct vfs_migration migration;
	unsigned unmapped_count;
	struct vfs_unmapped unmapped[VFS_MAPS_MAX];
};

// Copies a fixed structure out of the payload, which the table has found long enough.
#define VFS_GET(rq, type) (*(const type *)(const void *)(rq)->payload)
// The reply begins with this structure.
#define VFS_REPLY(rq, value)                                     \
	do {                                                     \
		_Static_assert(sizeof(value) <= 40, "a struct"); \
		memcpy((rq)->reply, &(value), sizeof(value));    \
		(rq)->reply_len = sizeof(value);                 \
	} while (0)

// Each answers in rq->reply.  0, or -errno: refused, and that is the answer.
typedef int vfs_handler(struct vfs *s, struct vfs_request *rq);

vfs_handler vfs_on_version;
vfs_handler vfs_on_irq_info, vfs_on_set_irqs;
vfs_handler vfs_on_feature, vfs_on_mig_read, vfs_on_mig_write;

// ---- vfio_user_migration.c

void vfs_migration_init(struct vfs *s);
// The client has reset the function: it runs, whatever became of it.
void vfs_migration_reset(struct vfs *s);
// The client left.
void vfs_migration_close(struct vfs *s);
// False: the log, which there is, would say nothing of writes there.
bool vfs_loggable(const struct vfs *s, uint64_t iova, uint64_t size);

// ---- vfio_user_dma.c

// 0 or -errno.
int vfs_twin_make(struct vfs *s);
void vfs_twin_close(struct vfs *s);
// pdev.far.
int vfs_dma(struct pdev *p, bool write, uint64_t iova, void *bytes, uint64_t len, uint64_t *got);

// By command; a hole is something that is not offered.
#define VFS_HANDLERS (VFIO_USER_MIG_DATA_WRITE + 1)
extern vfs_handler *const vfs_handlers[VFS_HANDLERS];

#endif
