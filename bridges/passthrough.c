// SPDX-License-Identifier: BSD-2-Clause
// The life of a passthrough function: made, reset, dead, ended.
#include "bridges/passthrough_impl.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/kvm.h"
#include "vmm/memmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- DMA --------------------------------------------------------------------------------------------------------

static void dma_unmap(struct passthrough *pt, unsigned count)
{
	const struct mem_table *ram = &pt->host.memory->ram;
	while (count-- > 0) {
		const struct mem_region *r = &ram->region[count];
		pt->link->ops->dma_unmap(pt->link, r->gpa, r->size);
	}
}

void pt_dma_unmap(struct passthrough *pt)
{
	if (pt->mapped)
		dma_unmap(pt, pt->host.memory->ram.count);
	pt->mapped = false;
}

int pt_dma_map(struct passthrough *pt, struct err *e)
{
	const struct mem_table *ram = &pt->host.memory->ram;
	for (unsigned i = 0; i < ram->count; i++) {
		int rc = pt->link->ops->dma_map(pt->link, &ram->region[i], e);
		if (rc < 0) {
			dma_unmap(pt, i);
			return rc;
		}
	}
	pt->mapped = true;
	return 0;
}

// ---- death ------------------------------------------------------------------------------------------------------

void pt_cut(struct passthrough *pt)
{
	if (pt->dead)
		return;
	pt_irqs_stop(pt);
	pt_bars_hide(pt);
	memcpy(pt->frozen, pt->func.config, sizeof(pt->frozen));
	pt->dead = true;
}

void pt_die(struct passthrough *pt, const char *why)
{
	if (!pt->dead)
		log_limited(LOG_WARN, "%s: %s; the guest sees it no more", pt->func.id, why);
	pt_cut(pt);
}

static void link_died(void *owner, const char *why)
{
	struct passthrough *pt = owner;
	log_limited(LOG_WARN, "%s: %s: %s", pt->func.id, pt->link->ops->kind, why);
	pci_func_post(&pt->func, PT_EVENT_DIED);
}

static void link_gone(void *owner)
{
	struct passthrough *pt = owner;
	pci_func_post(&pt->func, PT_EVENT_GONE);
}

static const struct vfio_link_events link_events = { .died = link_died,
						     .returned = pt_returned,
						     .gone = link_gone };

// ---- the function -----------------------------------------------------------------------------------------------

static void pt_event(struct pci_func *f, unsigned bits)
{
	struct passthrough *pt = pt_of(f);
	if (bits & PT_EVENT_DIED)
		pt_die(pt, "what carried it is gone");
	if (bits & PT_EVENT_FAILED)
		pt_die(pt, "the device reports an error that it cannot recover from");
	if (bits & PT_EVENT_WANTED)
		pt_plug_wanted(pt);
	if (bits & PT_EVENT_LATE)
		pt_plug_late(pt);
	if (bits & PT_EVENT_GONE)
		pt_plug_gone(pt);
	if (bits & PT_EVENT_INTX)
		pt_irqs_intx_raised(pt);
}

// The configuration space has been reset and the BARs are unmapped: the device ends its DMA first.
static void pt_reset(struct pci_func *f)
{
	struct passthrough *pt = pt_of(f);
	pt_irqs_reset(pt);
	if (!pt_alive(pt)) {
		pt_config_reset(pt); // one that returns is reset then
		memcpy(pt->frozen, f->config, sizeof(pt->frozen));
		return;
	}
	pt_command_carry(pt);
	int rc = pt->link->can_reset ? pt->link->ops->reset(pt->link) : 0;
	if (rc < 0)
		log_limited(LOG_WARN, "%s: reset: %s", f->id, err_text(-rc));
	pt_config_reset(pt);
}

static void pt_destroy(struct pci_func *f)
{
	struct passthrough *pt = pt_of(f);
	pci_func_lock(f);
	pt->ending = true;
	pt_plug_end(pt);
	pt_irqs_reset(pt);
	pt_bars_hide(pt);
	pci_func_unlock(f);
	pt_bars_free(pt);
	if (pt->link) {
		pt_dma_unmap(pt);
		pt->link->ops->close(pt->link);
	}
	pt_plug_free(pt);
	pt_irqs_free(pt);
	pthread_mutex_destroy(&f->lock);
	free(pt);
}

// By its owner's truncation, its unplugging, an error of its bus: a vCPU met a hole where a BAR is mapped (faults B20).
static void pt_bar_lost(struct pci_func *f, unsigned bar)
{
	(void)bar;
	pt_die(pt_of(f), "memory of its BARs is gone");
}

static const char *pt_state(struct pci_func *f)
{
	const struct passthrough *pt = pt_of(f);
	return pt->gone	     ? "gone"
	       : pt->dead    ? "waits for its server"
	       : pt->leaving ? "waits for the guest to let go of it"
			     : "running";
}

static const struct pci_func_ops pt_ops = {
	.config_read = pt_config_read,
	.config_write = pt_config_write,
	.bar_read = pt_bar_read,
	.bar_write = pt_bar_write,
	.bar_moved = pt_bar_moved,
	.bar_lost = pt_bar_lost,
	.event = pt_event,
	.reset = pt_reset,
	.state = pt_state,
	.hotplug = pt_hotplug,
	.destroy = pt_destroy,
};

int passthrough_create(struct pci_func **out, struct vfio_link *l, const struct passthrough_host *host,
		       struct err *e)
{
	struct passthrough *pt = calloc(1, sizeof(*pt));
	if (!pt)
		return err_set(e, ENOMEM, "%s: out of memory", l->id);
	pt->link = l;
	pt->host = *host;
	pci_func_init(&pt->func, &pt_ops, l->id, 0, 0, 0);
	int rc = pt_config_init(pt, e);
	if (rc < 0)
		goto fail_config;
	rc = pt_irqs_init(pt, e);
	if (rc < 0)
		goto fail_irqs;
	rc = pt_plug_init(pt, e);
	if (rc < 0)
		goto fail_plug;
	rc = pt_bars_init(pt, e);
	if (rc < 0)
		goto fail_bars;
	rc = pt_dma_map(pt, e);
	if (rc < 0)
		goto fail_bars;
	if (!l->can_reset)
		log_info("%s: the device cannot be reset: a guest that starts again finds it as it was left",
			 l->id);
	l->events = &link_events;
	l->owner = pt;
	*out = &pt->func;
	return 0;

fail_bars:
	pt_bars_free(pt);
fail_plug:
	pt_plug_free(pt);
fail_irqs:
	pt_irqs_free(pt);
fail_config:
	pthread_mutex_destroy(&pt->func.lock);
	free(pt);
	return rc;
}
