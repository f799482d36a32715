// SPDX-License-Identifier: BSD-2-Clause
#include "devices/nvme/nvme.h"
#include "vmm/base/check.h"
#include "vmm/base/log.h"

#include <linux/pci_regs.h>
#include <string.h>

#define BATCH 64 // commands taken from a queue before others get their turn

static void fatal(struct nvme *n, const char *why)
{
	log_limited(LOG_WARN, "%s; the controller needs a reset by its driver", why);
	n->csts |= NVME_CSTS_CFS;
	nvme_record_set_up(n);
}

static bool works(const struct nvme *n)
{
	return (n->csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) == NVME_CSTS_RDY && !n->away && !n->p->stopped;
}

// ---- completions ----------------------------------------------------------------------------------------------------

void nvme_complete(struct nvme *n, unsigned slot, uint16_t sqid, uint16_t cid, unsigned status, uint32_t dw0)
{
	const struct nvme_sq *sq = &n->sq[sqid];
	struct nvme_cq *q = &n->cq[sq->cqid];
	const struct nvme_completion c = {
		.dw0 = dw0,
		.sq_head = sq->head,
		.sqid = sqid,
		.cid = cid,
		.status = (uint16_t)(status << 1),
	};
	const uint64_t at = q->base + q->tail * sizeof(c);
	const uint16_t status_phase = (uint16_t)(c.status | q->phase);
	q->due--;
	// The phase last: it is what makes the entry the driver's.
	struct nvme_completion *there = pdev_memory(n->p, at, sizeof(c));
	if (!there) {
		n->record->slot[slot].state = NVME_SLOT_FREE; // nobody will ever hear of it
		fatal(n, "a completion queue outside memory");
		return;
	}
	memcpy(there, &c, offsetof(struct nvme_completion, status));
	nvme_record_completes(n, slot);
	__atomic_store_n(&there->status, status_phase, __ATOMIC_RELEASE);
	pdev_wrote(n->p, there, sizeof(*there));
	nvme_record_completed(n, slot);
	q->fresh = true;
	if (++q->tail == q->size) {
		q->tail = 0;
		q->phase = !q->phase;
	}
}

void nvme_pin_update(struct nvme *n)
{
	bool level = false;
	for (unsigned i = 0; i <= n->io_queues; i++)
		level |= n->cq[i].size && n->cq[i].interrupts && nvme_entries_held(&n->cq[i]) > 0;
	pdev_set_intx(n->p, level && !(n->int_mask & 1) && !pdev_msix_on(n->p));
}

// True: there were any.
static bool announce(struct nvme *n)
{
	bool any = false;
	for (unsigned i = 0; i <= n->io_queues; i++) {
		struct nvme_cq *q = &n->cq[i];
		if (q->fresh && q->interrupts && pdev_msix_on(n->p))
			pdev_interrupt(n->p, q->vector);
		any |= q->fresh;
		q->fresh = false;
	}
	nvme_pin_update(n);
	return any;
}

// ---- commands -------------------------------------------------------------------------------------------------------

static struct nvme_request *request_take(struct nvme *n)
{
	struct nvme_request *r = n->free;
	if (r)
		n->free = r->next_free;
	else if (n->request_made < NVME_REQUESTS)
		r = &n->request[n->request_made++];
	return r;
}

static void request_give_back(struct nvme *n, struct nvme_request *r)
{
	r->next_free = n->free;
	n->free = r;
}

static void command_do(struct nvme *n, unsigned sqid, struct nvme_request *r, const struct nvme_command *c)
{
	unsigned status;
	uint32_t dw0;
	struct nvme_cq *q = &n->cq[n->sq[sqid].cqid];
	q->due++;
	if (r) { // of an I/O queue
		r->sqid = (uint16_t)sqid;
		r->cid = c->cid;
		nvme_io(n, r, c);
	} else if (nvme_admin(n, c, &status, &dw0)) {
		nvme_complete(n, NVME_SLOT_ADMIN, 0, c->cid, status, dw0);
	} else {
		nvme_record_stays(n, NVME_SLOT_ADMIN);
		q->due--;
	}
}

// Takes what it may from one queue.  True: there is more.
static bool queue_work(struct nvme *n, unsigned sqid)
{
	struct nvme_sq *sq = &n->sq[sqid];
	// There is always room for the completion of what is taken.
	for (unsigned left = BATCH;
	     works(n) && sq->size && sq->head != sq->tail && !nvme_cq_full(&n->cq[sq->cqid]); left--) {
		struct nvme_command c;
		struct nvme_request *r = sqid ? request_take(n) : NULL;
		if (left == 0 || (sqid && !r)) {
			if (r)
				request_give_back(n, r);
			return left == 0;
		}
		if (pdev_dma_read(n->p, sq->base + sq->head * sizeof(c), &c, sizeof(c)) < 0) {
			if (r)
				request_give_back(n, r);
			return false; // until memory changes: a client may be about to map it again
		}
		nvme_record_take(n, r ? (unsigned)(r - n->request) : NVME_SLOT_ADMIN, sqid, &c);
		sq->head = (uint16_t)(sq->head + 1 == sq->size ? 0 : sq->head + 1);
		n->commands++;
		command_do(n, sqid, r, &c);
	}
	return false;
}

// Does again what a process before this one had taken and not completed.  False: not yet.
static bool recover(struct nvme *n)
{
	if (!nvme_record_settle(n))
		return false;
	for (unsigned i = 0; i <= NVME_REQUESTS; i++) {
		const struct nvme_slot *s = &n->record->slot[i];
		const struct nvme_command c = s->command;
		if (s->state == NVME_SLOT_TAKEN)
			command_do(n, s->sqid, i == NVME_SLOT_ADMIN ? NULL : &n->request[i], &c);
	}
	n->recovers = false;
	return true;
}

static void work(struct nvme *n)
{
	if (n->recovers && works(n) && !recover(n))
		return;
	bool more = false, new = works(n) && nvme_doorbells_look(n);
	for (unsigned i = 0; i <= n->io_queues; i++)
		more |= queue_work(n, i);
	for (unsigned i = 0; i < n->ns_count; i++)
		blk_engine_run(&n->ns[i].engine, false);
	if (announce(n) || new)
		poller_worked(&n->poller);
	if (!works(n))
		return;
	// Looks again as long as there is something to see, and for a while longer; then it is to be told.
	n->p->again = more || (n->shadowed && poller_awake(&n->poller)) || nvme_doorbells_ask(n);
}

static void nvme_again(struct pdev *p)
{
	work(p->priv);
}

void nvme_completed(struct loop_source *s, uint32_t events)
{
	struct nvme_namespace *ns = CONTAINER_OF(s, struct nvme_namespace, completions);
	(void)events;
	blk_engine_run(&ns->engine, false);
	work(ns->nvme); // commands may have waited for room
}

static void nvme_drain(struct pdev *p)
{
	struct nvme *n = p->priv;
	for (unsigned i = 0; i < n->ns_count; i++)
		while (n->ns[i].engine.in_flight)
			blk_engine_run(&n->ns[i].engine, true);
	announce(n);
}

// The client is there again, and the driver is the one that was: interrupts may have been lost with who was to get them.
static void come_back(struct nvme *n)
{
	for (unsigned i = 0; i <= n->io_queues && n->away; i++)
		n->cq[i].fresh = n->cq[i].size > 0;
	n->away = false;
}

static void nvme_attached(struct pdev *p, bool on)
{
	struct nvme *n = p->priv;
	n->away |= !on && n->csts & NVME_CSTS_RDY;
	if (!on || !n->restored)
		return;
	// By this a client tells that the state was kept.
	p->config[PCI_COMMAND] |= (uint8_t)(n->record->command & p->writable[PCI_COMMAND]);
	p->config[PCI_COMMAND + 1] |= (uint8_t)(n->record->command >> 8 & p->writable[PCI_COMMAND + 1]);
	p->config[p->msix_cap + PCI_MSIX_FLAGS + 1] |=
		(uint8_t)(n->record->msix_control >> 8 & p->writable[p->msix_cap + PCI_MSIX_FLAGS + 1]);
	n->restored = false;
}

static void nvme_config(struct pdev *p, unsigned offset, unsigned size, bool written)
{
	struct nvme *n = p->priv;
	(void)offset;
	(void)size;
	if (!written)
		return;
	n->record->command = pdev_config_get16(p, PCI_COMMAND);
	n->record->msix_control = pdev_config_get16(p, p->msix_cap + PCI_MSIX_FLAGS);
}

// By a client that does not reset first what it finds: it knows it.
static void nvme_vectors_changed(struct pdev *p)
{
	if (!pdev_msix_on(p))
		return;
	come_back(p->priv);
	work(p->priv);
}

static void nvme_memory_changed(struct pdev *p)
{
	work(p->priv);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------

static void queues_forget(struct nvme *n)
{
	nvme_drain(n->p);
	nvme_record_forget(n);
	n->free = NULL; // those that were to be done again are free, too
	n->request_made = 0;
	memset(n->sq, 0, sizeof(n->sq));
	memset(n->cq, 0, sizeof(n->cq));
	if (n->commands)
		log_limited(LOG_INFO, "%llu commands, %llu writes to doorbell registers",
			    (unsigned long long)n->commands, (unsigned long long)n->rings);
	n->commands = n->rings = 0;
	n->event_count = 0;
	n->away = n->shadowed = false;
	nvme_features_reset(n);
	nvme_pin_update(n);
}

static const char *enable_check(const struct nvme *n)
{
	if (n->cc & NVME_CC_FIXED)
		return "a command set, page size or arbitration that there is not";
	if ((n->aqa & 0xfff) == 0 || (n->aqa >> 16 & 0xfff) == 0)
		return "admin queues of one entry";
	return (n->asq | n->acq) % NVME_PAGE ? "admin queues that are not page-aligned" : NULL;
}

static void enable(struct nvme *n)
{
	const char *wrong = enable_check(n);
	n->csts = 0;
	if (wrong) {
		fatal(n, wrong);
		return;
	}
	n->sq[0] = (struct nvme_sq){ .base = n->asq, .size = (uint16_t)((n->aqa & 0xfff) + 1) };
	n->cq[0] = (struct nvme_cq){ .base = n->acq,
				     .size = (uint16_t)((n->aqa >> 16 & 0xfff) + 1),
				     .phase = true,
				     .interrupts = true };
	nvme_record_begin(&n->record->sq[0]);
	nvme_record_begin(&n->record->cq[0]);
	n->csts = NVME_CSTS_RDY;
}

void nvme_configure(struct nvme *n, uint32_t val)
{
	const uint32_t changed = n->cc ^ val;
	n->cc = val;
	if (changed & NVME_CC_EN) {
		queues_forget(n);
		n->csts = 0;
		if (val & NVME_CC_EN)
			enable(n);
	}
	if (val & NVME_CC_SHN && changed & NVME_CC_SHN) {
		nvme_drain(n->p);
		n->csts |= NVME_CSTS_SHST;
	}
}

// A driver that takes us for one that died and was started again: there is no queue to tell it by (§3.1.6 CFS).
static void rung_in_vain(struct nvme *n)
{
	if (!(n->csts & NVME_CSTS_CFS))
		fatal(n, "a command for a controller that is not enabled");
}

void nvme_rung(struct nvme *n, unsigned index, uint32_t val)
{
	come_back(n);
	if (works(n)) {
		n->rings++;
		nvme_doorbell_ring(n, index, val);
		work(n);
	} else if (!(n->cc & NVME_CC_EN) && index % 2 == 0) {
		rung_in_vain(n);
	}
}

// An I/O queue was rung by an eventfd: what the driver wrote is lost, and has to be in memory as well.
static void nvme_doorbell(struct pdev *p, unsigned index)
{
	struct nvme *n = p->priv;
	come_back(n);
	if (!(n->cc & NVME_CC_EN))
		rung_in_vain(n);
	else if (works(n) && !n->shadowed && n->sq[index + 1].size)
		fatal(n, "--doorbells eventfd, and a driver that has no doorbells in memory");
	work(n);
}

static void nvme_reset(struct pdev *p)
{
	struct nvme *n = p->priv;
	queues_forget(n);
	n->cc = n->csts = n->aqa = n->int_mask = 0;
	n->asq = n->acq = 0;
	n->record->command = n->record->msix_control = 0;
	nvme_record_set_up(n);
}

// What outlives this process is what another one goes on with, too.
static size_t nvme_save(struct pdev *p, void *to)
{
	const struct nvme *n = p->priv;
	_Static_assert(sizeof(*n->record) <= PDEV_STATE_MAX, "room for it");
	memcpy(to, n->record, sizeof(*n->record));
	return sizeof(*n->record);
}

static int nvme_load(struct pdev *p, const void *from, size_t len)
{
	struct nvme *n = p->priv;
	int rc = nvme_record_load(n, from, len);
	for (unsigned i = 0; i <= n->io_queues && rc == 0; i++)
		n->cq[i].fresh = n->cq[i].size > 0; // as who comes back (come_back())
	return rc;
}

const struct pdev_ops nvme_pci_ops = {
	.bar_read = nvme_bar_read,
	.bar_write = nvme_bar_write,
	.doorbell = nvme_doorbell,
	.config = nvme_config,
	.again = nvme_again,
	.drain = nvme_drain,
	.memory_changed = nvme_memory_changed,
	.reset = nvme_reset,
	.attached = nvme_attached,
	.vectors_changed = nvme_vectors_changed,
	.save = nvme_save,
	.load = nvme_load,
};
