// SPDX-License-Identifier: BSD-2-Clause
// Interrupts of a PCI function: the device raises them, the client's eventfds carry them.
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <linux/pci_regs.h>

// ---- MSI-X --------------------------------------------------------------------------------------------------------

void pdev_interrupt(struct pdev *p, unsigned vector)
{
	if (vector >= p->vector_count)
		return;
	struct pdev_vector *v = &p->vector[vector];
	if (v->fd >= 0 && !v->masked && !p->stopped)
		fd_peer_signal(v->fd);
	else
		v->pending = true;
}

void pdev_vector_deliver(struct pdev *p, unsigned vector)
{
	struct pdev_vector *v = &p->vector[vector];
	if (v->pending && v->fd >= 0 && !v->masked && !p->stopped) {
		v->pending = false;
		fd_peer_signal(v->fd);
	}
}

void pdev_vector_set(struct pdev *p, unsigned vector, int fd)
{
	fd_close(&p->vector[vector].fd);
	p->vector[vector].fd = fd;
	pdev_vector_deliver(p, vector);
}

void pdev_vectors_changed(struct pdev *p)
{
	if (p->ops->vectors_changed)
		p->ops->vectors_changed(p);
}

void pdev_vector_mask(struct pdev *p, unsigned vector, bool masked)
{
	p->vector[vector].masked = masked;
	pdev_vector_deliver(p, vector);
}

bool pdev_msix_on(const struct pdev *p)
{
	if (p->msix_cap && pdev_config_get16(p, p->msix_cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_ENABLE)
		return true;
	// A client may keep the capability's control to itself.
	for (unsigned i = 0; i < p->vector_count; i++)
		if (p->vector[i].fd >= 0)
			return true;
	return false;
}

// ---- INTx: masks itself when it has interrupted, as level-triggered interrupts of VFIO do -------------------------

void pdev_intx_deliver(struct pdev *p)
{
	if (!p->intx_level || p->intx_masked || p->intx_fd < 0 || p->stopped ||
	    pdev_config_get16(p, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE)
		return;
	p->intx_masked = true;
	fd_peer_signal(p->intx_fd);
}

void pdev_set_intx(struct pdev *p, bool level)
{
	p->intx_level = level && p->config[PCI_INTERRUPT_PIN];
	p->config[PCI_STATUS] = (uint8_t)((p->config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) |
					  (p->intx_level ? PCI_STATUS_INTERRUPT : 0));
	pdev_intx_deliver(p);
}

void pdev_intx_set(struct pdev *p, int fd)
{
	fd_close(&p->intx_fd);
	p->intx_fd = fd;
	p->intx_masked = false;
	pdev_intx_deliver(p);
}

void pdev_intx_mask(struct pdev *p, bool masked)
{
	p->intx_masked = masked;
	pdev_intx_deliver(p);
}

void pdev_intx_unmasked(struct loop_source *src, uint32_t events)
{
	struct pdev *p = CONTAINER_OF(src, struct pdev, intx_unmask);
	if (events & ((uint32_t)EPOLLHUP | (uint32_t)EPOLLERR))
		loop_remove(&p->d->loop, src);
	else
		pdev_intx_mask(p, false);
}

int pdev_intx_set_unmask(struct pdev *p, int fd)
{
	loop_remove(&p->d->loop, &p->intx_unmask);
	fd_close(&p->intx_unmask.fd);
	if (fd < 0)
		return 0;
	p->intx_unmask.fd = fd;
	int rc = loop_add(&p->d->loop, &p->intx_unmask, (uint32_t)EPOLLIN | (uint32_t)EPOLLET);
	if (rc < 0)
		p->intx_unmask.fd = -1;
	return rc;
}
