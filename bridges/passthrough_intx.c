// SPDX-License-Identifier: BSD-2-Clause
// The pin of a passthrough function: a level that KVM holds until the guest ends the interrupt; then the device may raise it again, told by
// an eventfd.  A device that takes none has its pin driven by hand.  Called by passthrough_irq.c.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/kvm.h"

#include <errno.h>

bool pt_intx_wanted(const struct passthrough *pt)
{
	const uint16_t command = pci_config_get16(&pt->func, PCI_COMMAND);
	return pt->has_intx && !pt->msi.table.enabled && !pt->msix.table.enabled &&
	       (command & (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)) &&
	       !(command & PCI_COMMAND_INTX_DISABLE);
}

static int intx_set(struct passthrough *pt, enum vfio_irq_action action, unsigned count, const int *fds)
{
	return pt->link->ops->irq_set(pt->link, VFIO_PCI_INTX_IRQ_INDEX, action, 0, count, fds);
}

static int intx_irqfd(struct passthrough *pt, bool on)
{
	return kvm_irqfd_level(pt->host.kvm, pt->intx.fd, pci_func_intx_gsi(&pt->func), pt->intx_done, on);
}

static int intx_start(struct passthrough *pt)
{
	fd_event_take(pt->intx.fd);
	fd_event_take(pt->intx_done);
	int rc = intx_irqfd(pt, true);
	if (rc < 0)
		return rc;
	rc = intx_set(pt, VFIO_LINK_TRIGGER, 1, &pt->intx.fd);
	if (rc < 0) {
		intx_irqfd(pt, false);
		return rc;
	}
	pt->intx_by_hand = intx_set(pt, VFIO_LINK_UNMASK, 1, &pt->intx_done) < 0;
	if (pt->intx_by_hand) {
		intx_irqfd(pt, false);
		loop_modify(pt->host.loop, &pt->intx, EPOLLIN);
	}
	return 0;
}

// The loop's thread, without the lock.
static void intx_ready(struct loop_source *s, uint32_t events)
{
	struct passthrough *pt = CONTAINER_OF(s, struct passthrough, intx);
	(void)events;
	if (fd_event_take(s->fd))
		pci_func_post(&pt->func, PT_EVENT_INTX);
}

// By hand: the pin is held until the guest touches the device, as its handler does first, and is raised again if the device still has
// something to say.  Nothing is mapped meanwhile, so that the touch is seen.  Such a device has its pin for itself.
void pt_irqs_intx_raised(struct passthrough *pt)
{
	if (!pt->intx_on || !pt->intx_by_hand || pt->intx_raised)
		return;
	pt_bars_hide(pt);
	pt->intx_raised = true;
	irq_pin_set(pt->host.irq, pci_func_intx_gsi(&pt->func), true);
}

static void intx_lower(struct passthrough *pt)
{
	pt->intx_raised = false;
	irq_pin_set(pt->host.irq, pci_func_intx_gsi(&pt->func), false);
}

void pt_irqs_touched(struct passthrough *pt)
{
	if (!pt->intx_raised)
		return;
	intx_lower(pt);
	intx_set(pt, VFIO_LINK_UNMASK, 1, NULL);
	pt_bars_show(pt);
}

void pt_intx_stop(struct passthrough *pt, bool tell)
{
	pt->intx_on = false;
	if (tell)
		intx_set(pt, VFIO_LINK_TRIGGER, 0, NULL);
	if (!pt->intx_by_hand) {
		intx_irqfd(pt, false);
		return;
	}
	loop_modify(pt->host.loop, &pt->intx, 0);
	if (pt->intx_raised) {
		intx_lower(pt);
		pt_bars_show(pt);
	}
}

void pt_intx_sync(struct passthrough *pt)
{
	const bool want = pt_intx_wanted(pt);
	if (want == pt->intx_on)
		return;
	if (!want) {
		pt_intx_stop(pt, true);
		return;
	}
	int rc = intx_start(pt);
	pt->intx_on = rc == 0;
	if (rc < 0)
		log_limited(LOG_WARN,
			    "%s: INTx: %s; its interrupts are lost (does it share a line of the host's?)",
			    pt->func.id, err_text(-rc));
}

int pt_intx_init(struct passthrough *pt, struct err *e)
{
	struct vfio_irq irq;
	if (pt_irq_ask(pt, VFIO_PCI_INTX_IRQ_INDEX, &irq) == 0)
		return 0;
	pt->intx_done = fd_eventfd();
	pt->intx = (struct loop_source){ .fd = fd_eventfd(), .ready = intx_ready };
	if (pt->intx_done < 0 || pt->intx.fd < 0)
		return err_sys(e, EMFILE, "%s: eventfd", pt->func.id);
	int rc = loop_add(pt->host.loop, &pt->intx, 0);
	if (rc < 0)
		return err_sys(e, -rc, "%s: epoll", pt->func.id);
	pci_func_add_intx(&pt->func);
	pt->has_intx = true;
	return 0;
}
