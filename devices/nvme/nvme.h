// SPDX-License-Identifier: BSD-2-Clause
// An NVM Express 1.4 controller with one or more namespaces, each an image.
//
// devices/nvme.c is the program; open.c opens, controller.c has queues and completions, registers.c BAR 0, doorbell.c what the driver says of
// its queues, admin.c the admin commands, io.c those of the NVM command set on the block engine.  What lies in guest memory (commands,
// PRP lists, ranges, doorbells) is copied once and then checked.  One thread; nothing is allocated once the device is open.
#ifndef MINIVMM_NVME_NVME_H
#define MINIVMM_NVME_NVME_H

#include "devices/block/engine.h"
#include "devices/block/image.h"
#include "devices/nvme/nvme_wire.h"
#include "devices/nvme/record.h"
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev.h"
#include "devices/sdk/poller.h"

#define NVME_PAGE	 4096u
#define NVME_ENTRIES_MAX 1024u
#define NVME_MDTS	 5 // log2 of pages that one command transfers at most
#define NVME_IOVECS	 ((1u << NVME_MDTS) + 1)
#define NVME_EVENTS_MAX	 4
#define NVME_MSIX_TABLE	 0x2000u // of BAR 0, behind the doorbells

struct nvme;

struct nvme_namespace {
	struct nvme *nvme;
	uint32_t nsid;
	struct blk_image_options options;
	struct blk_image img;
	struct blk_engine engine;
	struct loop_source completions;
};

// One direction of a queue, where the driver may use memory for it.
struct nvme_doorbell {
	uint32_t seen;	// in memory, when it was looked at last
	uint32_t event; // by our word there: at which value the driver is to write its register, too
	bool in_memory; // it has changed there, so that a register's value may be an older one
};

struct nvme_sq {
	uint64_t base; // gpa
	uint16_t size; // 0: there is none
	uint16_t head, tail;
	uint16_t cqid;
	struct nvme_doorbell bell;
};

struct nvme_cq {
	uint64_t base;
	uint16_t size; // 0: there is none
	uint16_t head, tail;
	uint16_t vector;
	uint16_t due;		       // commands whose completion it is to take
	bool phase, interrupts, fresh; // fresh: entries that were not announced
	struct nvme_doorbell bell;
};

struct nvme_request {
	struct blk_io io;
	struct nvme_namespace *ns;
	struct nvme_request *next_free;
	uint16_t sqid, cid;
	unsigned range, ranges; // of a DSM: the next one, and how many
	unsigned iov_count;
	struct iovec iov[NVME_IOVECS];
};

struct nvme {
	struct vdev *d;
	struct pdev *p;
	// By the command line.
	unsigned ns_count, io_queues;
	bool eventfds; // I/O queues are rung without a value
	struct poller poller;
	const char *record_path;
	enum blk_engine_kind engine;
	char serial[20];
	struct nvme_namespace ns[NVME_NAMESPACES_MAX];
	// As the driver set it.
	uint32_t cc, csts, aqa, int_mask;
	uint64_t asq, acq;
	uint32_t feature[NVME_FEATURES];
	unsigned event_count; // asynchronous event requests that wait, for ever
	struct nvme_sq sq[NVME_QUEUES_MAX];
	struct nvme_cq cq[NVME_QUEUES_MAX];
	struct nvme_record *record; // the same, for who comes after us
	struct record_file record_file;
	bool restored; // from there; the configuration space is yet to be
	bool recovers; // commands of before are yet to be done
	bool away;     // its client left: nothing is taken until its driver shows that it goes on
	bool shadowed; // it said where its doorbells are in memory
	uint64_t shadow, event_index;
	uint64_t commands, rings; // since it was enabled: taken; register writes for them
	struct nvme_request *free;
	unsigned request_made; // those behind it were never used
	struct nvme_request request[NVME_REQUESTS];
};

// ---- controller.c

extern const struct pdev_ops nvme_pci_ops;
// With ns and options filled in: opens images and describes the function.  0 or -errno and the sentence.
int nvme_open(struct nvme *n, struct vdev *d, struct err *e);
void nvme_close(struct nvme *n);

// Completions of the engine's.
void nvme_completed(struct loop_source *s, uint32_t events);
// One command is done, of the queue that it came from.
void nvme_complete(struct nvme *n, unsigned slot, uint16_t sqid, uint16_t cid, unsigned status, uint32_t dw0);

static inline uint16_t nvme_entries_held(const struct nvme_cq *q)
{
	return (uint16_t)(q->tail >= q->head ? q->tail - q->head : q->tail + q->size - q->head);
}

// No completion may be promised any more until the driver has taken some.
static inline bool nvme_cq_full(const struct nvme_cq *q)
{
	return nvme_entries_held(q) + q->due + 1 >= q->size;
}

// The pin is up as long as a queue has entries that the driver has not taken.
void nvme_pin_update(struct nvme *n);
// CC was written.
void nvme_configure(struct nvme *n, uint32_t val);
// A doorbell register was; index as of doorbell.c.
void nvme_rung(struct nvme *n, unsigned index, uint32_t val);

// ---- registers.c; pdev_ops

uint64_t nvme_bar_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size);
void nvme_bar_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val);

// ---- doorbell.c; index: 2 * queue for submission, 1 more for completion

// A register was written.
void nvme_doorbell_ring(struct nvme *n, unsigned index, uint32_t val);
// Takes what is new in memory.  True: something was.
bool nvme_doorbells_look(struct nvme *n);
// Asks the driver to write registers from here on.  True: it has gone on meanwhile, perhaps without.
bool nvme_doorbells_ask(struct nvme *n);
// The command: from now on doorbells are in memory.  A status.
unsigned nvme_doorbells_set(struct nvme *n, const struct nvme_command *c);
// A queue was made.
void nvme_doorbell_begin(struct nvme *n, unsigned index);

// ---- admin.c: does one command.  True: it is done, with *status and *dw0; false: it stays.

bool nvme_admin(struct nvme *n, const struct nvme_command *c, unsigned *status, uint32_t *dw0);
void nvme_features_reset(struct nvme *n);

// ---- io.c

// Begins one command, which nvme_complete() ends; `r` is the request's from here on.
void nvme_io(struct nvme *n, struct nvme_request *r, const struct nvme_command *c);
// What the two PRP entries of a command say about `len` bytes, as at most NVME_IOVECS pieces.  0 (*count set) or a status.
unsigned nvme_prp(struct nvme *n, const struct nvme_command *c, uint64_t len, struct iovec *iov,
		  unsigned *count);

#endif
