// SPDX-License-Identifier: BSD-2-Clause
// What the files of the VDUSE carrier share; nobody else includes this.
//
// vduse_node.c makes or finds the kernel's device, vduse_record.c keeps what outlives this process, vduse_keeper.c is the process beside it
// that may do what the sandbox forbids; all of that is before the sandbox.  serve_vduse.c answers the kernel's messages,
// vduse_iotlb.c maps guest memory, vduse_ring.c starts, kicks and stops the virtqueues.
#ifndef MINIVMM_SDK_VDUSE_IMPL_H
#define MINIVMM_SDK_VDUSE_IMPL_H

#include "devices/sdk/carrier.h"
#include "devices/sdk/record_file.h"
#include "devices/sdk/vduse.h"
#include "vmm/base/deadline.h"

#include <linux/vduse.h>
#include <linux/virtio_config.h>
#include <stdbool.h>
#include <stdint.h>

// ---- vduse_record.c ---------------------------------------------------------------------------------------------

#define VDUSE_HEAD_LEN 4096

// What a process that takes the device over has to know.  Followed, VDUSE_HEAD_LEN further on, by each queue's record of requests
// in flight.
struct vduse_head {
	char magic[16];
	char name[VDUSE_NAME_MAX];
	uint32_t type, queue_count, queue_size, config_len;
	uint64_t features; // offered
	uint8_t status;	   // the driver's, as far as it was acted on
};

struct vduse_record {
	struct vduse_head *head; // mapped, shared with who comes after us
	uint64_t region_len;
	struct record_file file;
};

// Opens or makes the file and locks it.  Whoever held it may be dying: waits DEADLINE_CONTROL_MS.  0 or -errno with the sentence.
int vduse_record_open(struct vduse_record *r, const char *path, uint32_t queue_count, uint32_t queue_size,
		      struct err *e);
void vduse_record_close(struct vduse_record *r);

// True if the file is about this very device.
bool vduse_record_matches(const struct vduse_record *r, const struct vduse_head *is);

// It is about this device from now on, and nothing is in flight.
void vduse_record_begin(struct vduse_record *r, const struct vduse_head *is);

// The driver's status; whatever the moment of a kill, a status without DRIVER_OK says that nothing is in flight.
void vduse_record_status(struct vduse_record *r, uint8_t status);

struct inflight_region *vduse_record_queue(const struct vduse_record *r, unsigned queue);

// ---- vduse_node.c -----------------------------------------------------------------------------------------------

// What VDUSE can carry of the device's features, and of its queues.
uint64_t vduse_features(const struct vdev *d);
uint16_t vduse_queues(const struct vdev *d);

// ---- vduse_keeper.c ---------------------------------------------------------------------------------------------

enum vduse_ask {
	VDUSE_SERVING = 's', // the device is served: makes the vDPA device, if that was asked for
	VDUSE_REMOVE = 'r',  // removes it, if nobody uses it
	VDUSE_DESTROY = 'd', // the node is closed: removes the device and its record
};

struct vduse_keeper {
	const char *name, *record;
	bool vdpa_add;
	bool made;   // the device is new: it goes if it is never served
	int control; // /dev/vduse/control
	int netlink; // or -1
	uint16_t family;
};

// Returns our end of a socket pair: each byte sent (enum vduse_ask) is answered by an int, 0 or a positive errno value.  It ends with us.
int vduse_keeper_start(const struct vduse_keeper *k, struct err *e);

// ---- the session ------------------------------------------------------------------------------------------------

struct vduse;

struct vduse_ring {
	struct vduse *s;
	struct vq *vq;
	struct vq_place at;
	struct loop_source kick; // its eventfd is there from before the sandbox on
	bool owed;		 // an interrupt that the kernel did not take yet
};

struct vduse {
	struct vdev *d;
	struct vduse_record record;
	struct loop_source node, keeper; // keeper.fd: -1 once it is gone
	char name[VDUSE_NAME_MAX];
	uint64_t features; // negotiated
	uint16_t queue_count;
	bool found; // the device was there already: its driver may be in the middle of something
	bool started, closing;
	bool broken; // the kernel gave it up
	bool asked;  // the keeper owes an answer to `ask`
	enum vduse_ask ask;
	int answer;
	int error;		// why it ends, 0: somebody wished it
	deadline_ns owed_until; // of interrupts
	struct vduse_ring ring[VDEV_QUEUES_MAX];
};

static inline bool vduse_running(const struct vduse *s)
{
	return s->record.head->status & VIRTIO_CONFIG_S_DRIVER_OK;
}

// ---- vduse_iotlb.c ----------------------------------------------------------------------------------------------

// For struct guest_mem: asks the IOTLB for what lies at an address, and maps all of that region.
bool vduse_iova_missing(struct guest_mem *m, uint64_t at);

// The range has other memory now, or none: what is in flight is completed, and queues go on when their rings are there.
int vduse_iotlb_update(struct vduse *s, const struct vduse_iova_range *range);

// ---- vduse_ring.c -----------------------------------------------------------------------------------------------

// Starts the queue if its driver has made it ready, and lets the device look at it.  0, also if it is not ready; -errno: logged.
int vduse_ring_start(struct vduse_ring *r);

// Its eventfd becomes the kernel's to signal.  0 or -errno.
int vduse_ring_watch(struct vduse_ring *r);

// Nothing of the queue is touched after it; nothing is in flight.  What it may be started with again is in the record.
void vduse_ring_leave(struct vduse_ring *r);

// After memory went away: the queue goes on if its ring is still there, or waits until it is.
void vduse_ring_relocate(struct vduse_ring *r);

// The callback of struct vq, and what is done about the interrupts that it could not bring.
void vduse_ring_interrupt(struct vq *q);
bool vduse_interrupts_owed(struct vduse *s);

// The base (struct vq_place) in the kernel's words, and back.
struct vduse_vq_state vduse_state_of(uint32_t base, bool packed);
uint32_t vduse_base_of(const struct vduse_vq_info *info, bool packed);

#endif
