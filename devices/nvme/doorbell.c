// SPDX-License-Identifier: BSD-2-Clause
// How far the driver is in each queue: by its writes to the doorbell registers or, once it has said where (Doorbell Buffer Config,
// NVM Express 1.4 §5.7, §7.13), by two pages of its memory.
//
// In one page the driver says what it would write to the registers, in the other we say from which value on it is to write
// them all the same.  Called by controller.c, which looks while there is work, and asks for writes before it sleeps.  Both
// pages are the guest's: looked up each time, each value copied once and held against its queue.
#include "devices/nvme/nvme.h"
#include "vmm/base/log.h"

// The entries of a queue in both pages, and in the registers: CAP.DSTRD is 0.
static unsigned sq_index(unsigned qid)
{
	return 2 * qid;
}

static unsigned cq_index(unsigned qid)
{
	return 2 * qid + 1;
}

static uint32_t *page(const struct nvme *n, uint64_t gpa)
{
	return n->shadowed ? pdev_memory(n->p, gpa, NVME_PAGE) : NULL;
}

// ---- what the driver says ---------------------------------------------------------------------------------------------

static void said(struct nvme *n, unsigned index, uint32_t val)
{
	const unsigned qid = index / 2;
	const bool is_cq = index % 2;
	const uint16_t size = qid > n->io_queues ? 0 : is_cq ? n->cq[qid].size : n->sq[qid].size;
	if (val >= size) {
		log_limited(LOG_INFO, "doorbell %u: %u is not within its queue", index, val);
		return;
	}
	if (is_cq) {
		struct nvme_cq *q = &n->cq[qid];
		const uint16_t taken = (uint16_t)(val >= q->head ? val - q->head : val + q->size - q->head);
		if (taken <= nvme_entries_held(q)) // else more than there is
			n->record->cq[qid].said = q->head = (uint16_t)val;
	} else {
		n->record->sq[qid].said = n->sq[qid].tail = (uint16_t)val;
	}
}

static void event_write(struct nvme *n, uint32_t *event, uint16_t at)
{
	__atomic_store_n(event, at, __ATOMIC_RELAXED);
	pdev_wrote(n->p, event, sizeof(*event));
}

// An index that is ahead of where the driver is would have it ring when it gets there, so that it is moved on: by half a round, for
// the driver may just be comparing what is near.
static void stand_back(struct nvme *n, struct nvme_doorbell *b, uint32_t *event, uint16_t size)
{
	const uint32_t ahead = b->event >= b->seen ? b->event - b->seen : b->event + size - b->seen;
	if (ahead < size / 4u && b->seen < size) {
		b->event = (b->seen + size / 2u) % size;
		event_write(n, event, (uint16_t)b->event);
	}
}

static bool look_at(struct nvme *n, struct nvme_doorbell *b, uint16_t size, unsigned index,
		    const uint32_t *shadow, uint32_t *event)
{
	const uint32_t val = __atomic_load_n(&shadow[index], __ATOMIC_ACQUIRE);
	if (val == b->seen)
		return false;
	b->seen = val;
	b->in_memory = true;
	(index % 2 ? n->record->cq : n->record->sq)[index / 2].in_memory = true;
	stand_back(n, b, &event[index], size);
	said(n, index, val);
	return true;
}

bool nvme_doorbells_look(struct nvme *n)
{
	const uint32_t *shadow = page(n, n->shadow);
	uint32_t *event = page(n, n->event_index);
	bool new = false;
	for (unsigned i = 0; i <= n->io_queues && shadow && event; i++) {
		struct nvme_sq *sq = &n->sq[i];
		struct nvme_cq *cq = &n->cq[i];
		if (cq->size)
			new |= look_at(n, &cq->bell, cq->size, cq_index(i), shadow, event);
		if (sq->size)
			new |= look_at(n, &sq->bell, sq->size, sq_index(i), shadow, event);
	}
	return new;
}

void nvme_doorbell_ring(struct nvme *n, unsigned index, uint32_t val)
{
	const unsigned qid = index / 2;
	nvme_doorbells_look(n);
	// What is in memory may be newer.
	if (qid <= n->io_queues && (index % 2 ? n->cq[qid].bell.in_memory : n->sq[qid].bell.in_memory))
		return;
	said(n, index, val);
}

// ---- what we ask of it ------------------------------------------------------------------------------------------------

static void ask(struct nvme *n, struct nvme_doorbell *b, uint32_t *event, uint16_t at)
{
	if (b->event != at)
		event_write(n, event, at);
	b->event = at;
}

bool nvme_doorbells_ask(struct nvme *n)
{
	uint32_t *event = page(n, n->event_index);
	const bool pin = !pdev_msix_on(n->p);
	if (!event)
		return false;
	for (unsigned i = 0; i <= n->io_queues; i++) {
		struct nvme_sq *sq = &n->sq[i];
		struct nvme_cq *cq = &n->cq[i];
		if (sq->size)
			ask(n, &sq->bell, &event[sq_index(i)], sq->tail);
		// For the pin to go down, or for room.
		if (cq->size && (pin || nvme_cq_full(cq)))
			ask(n, &cq->bell, &event[cq_index(i)], cq->head);
	}
	// The driver writes its entry and then reads ours, with a barrier between: one of us sees what the other wrote.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return nvme_doorbells_look(n);
}

void nvme_doorbell_begin(struct nvme *n, unsigned index)
{
	const uint32_t *shadow = page(n, n->shadow);
	uint32_t *event = page(n, n->event_index);
	struct nvme_sq *sq = &n->sq[index / 2];
	struct nvme_cq *cq = &n->cq[index / 2];
	struct nvme_doorbell *b = index % 2 ? &cq->bell : &sq->bell;
	const uint16_t at = index % 2 ? cq->head : sq->tail;
	struct nvme_progress *p = &(index % 2 ? n->record->cq : n->record->sq)[index / 2];
	if (!shadow || !event)
		return;
	*b = (struct nvme_doorbell){ .seen = __atomic_load_n(&shadow[index], __ATOMIC_RELAXED), .event = at };
	p->seen = b->seen;
	p->in_memory = false;
	event_write(n, &event[index], at);
}

unsigned nvme_doorbells_set(struct nvme *n, const struct nvme_command *c)
{
	_Static_assert(8 * NVME_QUEUES_MAX <= NVME_PAGE, "a page has the entries of all queues");
	// Of one page for both each side would take the other's word for its own.
	if (c->flags & 0xc0 || (c->prp1 | c->prp2) % NVME_PAGE || c->prp1 == c->prp2 ||
	    !pdev_memory(n->p, c->prp1, NVME_PAGE) || !pdev_memory(n->p, c->prp2, NVME_PAGE))
		return NVME_INVALID_FIELD | NVME_DNR;
	n->shadowed = true;
	n->shadow = c->prp1;
	n->event_index = c->prp2;
	for (unsigned i = 0; i < 2 * (n->io_queues + 1); i++)
		nvme_doorbell_begin(n, i);
	return NVME_OK;
}
