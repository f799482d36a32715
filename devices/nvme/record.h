// SPDX-License-Identifier: BSD-2-Clause
// What outlives minivmm-nvme: all that its driver set up, how far each queue is, and which commands were taken and not completed.
//
// In memory of the process, or with --record in a file (record_file.h), where the process finds it that is started after a kill.  The
// controller works with its own copy (struct nvme) and writes here what changes, in an order that leaves no instruction at which a
// kill would lose a command or have one completed twice:
//
//	taken		the slot is filled in; then its queue's count of taken commands makes it good
//	completed	the slot says which entry of the completion queue is its; then the entry's phase makes it the driver's;
//			then the queue's count of entries goes on, and the slot is free.  Killed between, the phase in the driver's
//			memory tells whether it has been completed
//	set up		there are two copies; the other one is written, then a generation makes it the good one.  What an admin command
//			sets up becomes good with its completion
//
// Commands that were under way are done again, from the copy in their slot.  Written by controller.c, admin.c and doorbell.c.
#ifndef MINIVMM_NVME_RECORD_H
#define MINIVMM_NVME_RECORD_H

#include "devices/nvme/nvme_wire.h"
#include "devices/sdk/record_file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVME_NAMESPACES_MAX 8
#define NVME_QUEUES_MAX	    33	// the admin queue's, and of I/O 32
#define NVME_REQUESTS	    256 // in flight
#define NVME_SLOT_ADMIN	    NVME_REQUESTS

struct nvme;

enum nvme_slot_state {
	NVME_SLOT_FREE,
	NVME_SLOT_TAKEN,
	NVME_SLOT_COMPLETES, // its entry is being written
	NVME_SLOT_STAYS,     // an asynchronous event request: there will be no entry
};

struct nvme_slot {
	uint32_t state;
	uint16_t sqid;
	uint64_t taken;	     // which one of its queue's
	uint64_t posted;     // which one of the completion queue's, where state is COMPLETES
	uint64_t generation; // of what it sets up, where it is an admin command's
	struct nvme_command command;
};

// What registers and admin commands say.
struct nvme_set_up {
	uint32_t cc, csts, aqa, int_mask;
	uint64_t asq, acq;
	uint32_t feature[NVME_FEATURES];
	uint32_t event_count, shadowed;
	uint64_t shadow, event_index;
	struct {
		uint64_t base;
		uint16_t size, cqid;
	} sq[NVME_QUEUES_MAX];
	struct {
		uint64_t base;
		uint16_t size, vector;
		uint32_t interrupts;
	} cq[NVME_QUEUES_MAX];
};

// How far a queue is: of what it holds, by us (taken, posted) and by the driver (tail, head).
struct nvme_progress {
	uint64_t done;
	uint32_t said; // by the driver
	uint32_t seen; // of its doorbell in memory (struct nvme_doorbell)
	uint32_t in_memory;
};

// Which device the record is about.
struct nvme_identity {
	char magic[16];
	uint32_t io_queues, ns_count;
	uint64_t ns_size[NVME_NAMESPACES_MAX];
	uint32_t ns_block_size[NVME_NAMESPACES_MAX];
};

struct nvme_record {
	struct nvme_identity is;
	uint64_t generation; // set_up[generation % 2] is the good one
	struct nvme_set_up set_up[2];
	uint16_t command, msix_control; // of the configuration space
	struct nvme_progress sq[NVME_QUEUES_MAX], cq[NVME_QUEUES_MAX];
	struct nvme_slot slot[NVME_REQUESTS + 1];
};

// Opens (path NULL: makes) the record, and takes over what is in it if it is about this device: the controller is then `away`
// and `recovers`.  When images are open.  0 or -errno with the sentence.
int nvme_record_open(struct nvme *n, const char *path, struct err *e);
void nvme_record_close(struct nvme *n);

// Takes over the record of another process, whose controller was stopped (pdev_ops.load): what comes may be anything.  0, or -EINVAL: to be
// reset.
int nvme_record_load(struct nvme *n, const void *from, size_t len);

// What is set up is another now.
void nvme_record_set_up(struct nvme *n);
// A queue begins; which one is no driver's yet.
void nvme_record_begin(struct nvme_progress *p);
// No command is under way.
void nvme_record_forget(struct nvme *n);

void nvme_record_take(struct nvme *n, unsigned slot, unsigned sqid, const struct nvme_command *c);
// Before and after the phase of its entry is written.
void nvme_record_completes(struct nvme *n, unsigned slot);
void nvme_record_completed(struct nvme *n, unsigned slot);
void nvme_record_stays(struct nvme *n, unsigned slot);

// Finds out what became of the command that was being completed.  False: its completion queue is not in memory now.
bool nvme_record_settle(struct nvme *n);

#endif
