// SPDX-License-Identifier: BSD-2-Clause
#include "devices/nvme/record.h"

#include "devices/nvme/nvme.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char magic[16] = "minivmm-nvme-1";

// ---- what is set up ---------------------------------------------------------------------------------------------------

static void set_up_write(const struct nvme *n, struct nvme_set_up *to)
{
	*to = (struct nvme_set_up){
		.cc = n->cc,
		.csts = n->csts,
		.aqa = n->aqa,
		.int_mask = n->int_mask,
		.asq = n->asq,
		.acq = n->acq,
		.event_count = n->event_count,
		.shadowed = n->shadowed,
		.shadow = n->shadow,
		.event_index = n->event_index,
	};
	memcpy(to->feature, n->feature, sizeof(to->feature));
	for (unsigned i = 0; i < NVME_QUEUES_MAX; i++) {
		to->sq[i].base = n->sq[i].base;
		to->sq[i].size = n->sq[i].size;
		to->sq[i].cqid = n->sq[i].cqid;
		to->cq[i].base = n->cq[i].base;
		to->cq[i].size = n->cq[i].size;
		to->cq[i].vector = n->cq[i].vector;
		to->cq[i].interrupts = n->cq[i].interrupts;
	}
}

static bool queues_valid(const struct nvme *n, const struct nvme_set_up *s)
{
	for (unsigned i = 0; i < NVME_QUEUES_MAX; i++) {
		const bool there = s->sq[i].size || s->cq[i].size;
		if (there && (i > n->io_queues || s->sq[i].size == 1 || s->cq[i].size == 1 ||
			      s->cq[i].vector > n->io_queues))
			return false;
		// Also of one that is not there: a command in a slot may name it.
		if (s->sq[i].cqid > n->io_queues || s->sq[i].size > 4096 || s->cq[i].size > 4096)
			return false;
		if (s->sq[i].size && !s->cq[s->sq[i].cqid].size)
			return false;
		if (there && (s->sq[i].base | s->cq[i].base) % NVME_PAGE)
			return false;
	}
	return s->event_count <= NVME_EVENTS_MAX && (s->shadow | s->event_index) % NVME_PAGE == 0;
}

static struct nvme_doorbell bell_read(const struct nvme_progress *p)
{
	// What was seen of one that is in memory, and perhaps not acted on, is to be seen again; of the index nothing is known.
	return (struct nvme_doorbell){ .seen = p->in_memory ? UINT32_MAX : p->seen,
				       .event = UINT32_MAX,
				       .in_memory = p->in_memory };
}

static void set_up_read(struct nvme *n, const struct nvme_set_up *s)
{
	n->cc = s->cc;
	n->csts = s->csts;
	n->aqa = s->aqa;
	n->int_mask = s->int_mask;
	n->asq = s->asq;
	n->acq = s->acq;
	memcpy(n->feature, s->feature, sizeof(n->feature));
	n->event_count = s->event_count;
	n->shadowed = s->shadowed;
	n->shadow = s->shadow;
	n->event_index = s->event_index;
	for (unsigned i = 0; i <= n->io_queues; i++) {
		const struct nvme_progress *sp = &n->record->sq[i], *cp = &n->record->cq[i];
		const uint16_t sq_size = s->sq[i].size, cq_size = s->cq[i].size;
		n->sq[i] = (struct nvme_sq){
			.base = s->sq[i].base, .size = sq_size, .cqid = s->sq[i].cqid, .bell = bell_read(sp)
		};
		n->cq[i] = (struct nvme_cq){ .base = s->cq[i].base,
					     .size = cq_size,
					     .vector = s->cq[i].vector,
					     .interrupts = s->cq[i].interrupts,
					     .bell = bell_read(cp) };
		if (sq_size) {
			n->sq[i].head = (uint16_t)(sp->done % sq_size);
			n->sq[i].tail = (uint16_t)(sp->said % sq_size);
		}
		if (cq_size) {
			n->cq[i].tail = (uint16_t)(cp->done % cq_size);
			n->cq[i].head = (uint16_t)(cp->said % cq_size);
			n->cq[i].phase = cp->done / cq_size % 2 == 0;
		}
	}
}

void nvme_record_set_up(struct nvme *n)
{
	struct nvme_record *r = n->record;
	set_up_write(n, &r->set_up[(r->generation + 1) % 2]);
	record_barrier();
	r->generation++;
	record_barrier();
}

void nvme_record_begin(struct nvme_progress *p)
{
	*p = (struct nvme_progress){ 0 };
}

// ---- commands under way -----------------------------------------------------------------------------------------------

void nvme_record_forget(struct nvme *n)
{
	for (unsigned i = 0; i <= NVME_REQUESTS; i++)
		n->record->slot[i].state = NVME_SLOT_FREE;
	n->recovers = false;
}

void nvme_record_take(struct nvme *n, unsigned slot, unsigned sqid, const struct nvme_command *c)
{
	struct nvme_slot *s = &n->record->slot[slot];
	s->sqid = (uint16_t)sqid;
	s->taken = n->record->sq[sqid].done;
	s->command = *c;
	record_barrier();
	s->state = NVME_SLOT_TAKEN;
	record_barrier();
	n->record->sq[sqid].done++;
	record_barrier();
}

static struct nvme_progress *completion_of(struct nvme *n, const struct nvme_slot *s)
{
	return &n->record->cq[n->sq[s->sqid].cqid];
}

void nvme_record_completes(struct nvme *n, unsigned slot)
{
	struct nvme_slot *s = &n->record->slot[slot];
	s->posted = completion_of(n, s)->done;
	if (slot == NVME_SLOT_ADMIN) {
		s->generation = n->record->generation + 1;
		set_up_write(n, &n->record->set_up[s->generation % 2]);
	}
	record_barrier();
	s->state = NVME_SLOT_COMPLETES;
	record_barrier();
}

void nvme_record_completed(struct nvme *n, unsigned slot)
{
	struct nvme_slot *s = &n->record->slot[slot];
	record_barrier();
	if (slot == NVME_SLOT_ADMIN)
		n->record->generation = s->generation;
	record_barrier();
	completion_of(n, s)->done = s->posted + 1;
	record_barrier();
	s->state = NVME_SLOT_FREE;
	record_barrier();
}

void nvme_record_stays(struct nvme *n, unsigned slot)
{
	struct nvme_slot *s = &n->record->slot[slot];
	s->generation = n->record->generation + 1;
	set_up_write(n, &n->record->set_up[s->generation % 2]);
	record_barrier();
	s->state = NVME_SLOT_STAYS;
	record_barrier();
	n->record->generation = s->generation;
	record_barrier();
	s->state = NVME_SLOT_FREE;
	record_barrier();
}

// ---- after a kill -----------------------------------------------------------------------------------------------------

// 1, 0: it is the driver's or not; -1: nobody knows, for its memory is not there now.
static int entry_posted(struct nvme *n, const struct nvme_slot *s)
{
	const struct nvme_cq *q = &n->cq[n->sq[s->sqid].cqid];
	struct nvme_completion *c = pdev_memory(n->p, q->base + q->tail * sizeof(*c), sizeof(*c));
	return c ? (__atomic_load_n(&c->status, __ATOMIC_ACQUIRE) & 1) == q->phase : -1;
}

bool nvme_record_settle(struct nvme *n)
{
	for (unsigned i = 0; i <= NVME_REQUESTS; i++) {
		struct nvme_slot *s = &n->record->slot[i];
		if (s->state != NVME_SLOT_COMPLETES)
			continue;
		const int posted = entry_posted(n, s);
		if (posted < 0)
			return false;
		if (posted) {
			nvme_record_completed(n, i);
			set_up_read(n, &n->record->set_up[n->record->generation % 2]);
		} else {
			s->state = NVME_SLOT_TAKEN;
		}
	}
	return true;
}

// What needs no memory of the driver's to be known.
static bool slots_read(struct nvme *n)
{
	const struct nvme_set_up *set_up = n->record->set_up;
	for (unsigned i = 0; i <= NVME_REQUESTS; i++) {
		struct nvme_slot *s = &n->record->slot[i];
		if (s->state == NVME_SLOT_FREE)
			continue;
		if (s->state > NVME_SLOT_STAYS || s->sqid > n->io_queues ||
		    (i == NVME_SLOT_ADMIN) != (s->sqid == 0))
			return false;
		if (s->state == NVME_SLOT_STAYS) {
			n->record->generation = s->generation;
			s->state = NVME_SLOT_FREE;
		}
		const struct nvme_set_up *now = &set_up[n->record->generation % 2];
		const unsigned cqid = now->sq[s->sqid].cqid;
		if (now->sq[s->sqid].size == 0 || cqid > n->io_queues ||
		    s->taken >= n->record->sq[s->sqid].done ||
		    (s->state == NVME_SLOT_COMPLETES && s->posted < n->record->cq[cqid].done))
			s->state = NVME_SLOT_FREE;
		if (s->state == NVME_SLOT_COMPLETES && i == NVME_SLOT_ADMIN &&
		    !queues_valid(n, &set_up[s->generation % 2]))
			return false;
	}
	return queues_valid(n, &set_up[n->record->generation % 2]);
}

static void identity_of(const struct nvme *n, struct nvme_identity *is)
{
	*is = (struct nvme_identity){ .io_queues = n->io_queues, .ns_count = n->ns_count };
	memcpy(is->magic, magic, sizeof(magic));
	for (unsigned i = 0; i < n->ns_count; i++) {
		is->ns_size[i] = n->ns[i].img.size;
		is->ns_block_size[i] = n->ns[i].img.block_size;
	}
}

static void requests_sort(struct nvme *n)
{
	n->free = NULL;
	n->request_made = NVME_REQUESTS;
	for (unsigned i = 0; i < NVME_REQUESTS; i++) {
		if (n->record->slot[i].state != NVME_SLOT_FREE)
			continue;
		n->request[i].next_free = n->free;
		n->free = &n->request[i];
	}
}

int nvme_record_open(struct nvme *n, const char *path, struct err *e)
{
	struct nvme_identity is;
	n->record_file.fd = -1;
	n->record = path ? NULL : calloc(1, sizeof(*n->record));
	if (!path && !n->record)
		return err_sys(e, ENOMEM, "record");
	int rc = path ? record_file_open(&n->record_file, path, sizeof(*n->record), e) : 0;
	if (rc < 0)
		return rc;
	if (path)
		n->record = n->record_file.map;
	identity_of(n, &is);
	if (memcmp(&n->record->is, &is, sizeof(is)) == 0 && slots_read(n)) {
		set_up_read(n, &n->record->set_up[n->record->generation % 2]);
		requests_sort(n);
		n->away = n->recovers = n->csts & NVME_CSTS_RDY;
		n->restored = true;
		log_info("record %s: going on with it", path);
		return 0;
	}
	if (path && !n->record_file.fresh)
		log_warn("record %s is not about this device: beginning anew", path);
	memset(n->record, 0, sizeof(*n->record));
	record_barrier();
	nvme_features_reset(n);
	nvme_record_set_up(n);
	n->record->is = is;
	return 0;
}

int nvme_record_load(struct nvme *n, const void *from, size_t len)
{
	struct nvme_identity is, theirs;
	struct nvme_record *r = n->record;
	if (len != sizeof(*r))
		return -EINVAL;
	identity_of(n, &is);
	memcpy(&theirs, from, sizeof(theirs));
	if (memcmp(&theirs, &is, sizeof(is)) != 0)
		return -EINVAL;
	memcpy(r, from, sizeof(*r));
	for (unsigned i = 0; i <= NVME_REQUESTS; i++)
		if (r->slot[i].state != NVME_SLOT_FREE)
			return -EINVAL; // it was drained
	if (!queues_valid(n, &r->set_up[r->generation % 2]))
		return -EINVAL;
	set_up_read(n, &r->set_up[r->generation % 2]);
	requests_sort(n);
	n->away = n->recovers = n->restored = false;
	return 0;
}

void nvme_record_close(struct nvme *n)
{
	if (n->record_file.fd < 0)
		free(n->record);
	record_file_close(&n->record_file);
	n->record = NULL;
}
