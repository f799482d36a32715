// SPDX-License-Identifier: BSD-2-Clause
// Interrupts of a passthrough function: from the device's eventfds to the guest.
//
// MSI-X and MSI are tables of vectors (vmm/msix.h); an MSI capability is one whose rows differ in the low bits of their data.  The device
// is told of a vector's eventfd when the guest first unmasks it, and keeps it: what is masked later stays pending in the eventfd.
// The pin is passthrough_intx.c's.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS_AT_ONCE 64 // a table of so many is told as a whole, unused ones without an eventfd

static int device_irqs(struct passthrough *pt, unsigned index, unsigned start, unsigned count, const int *fds)
{
	int rc = pt->link->ops->irq_set(pt->link, index, VFIO_LINK_TRIGGER, start, count, fds);
	if (rc < 0 && rc != -EPIPE) // which its owner hears of
		log_limited(LOG_WARN, "%s: interrupts %u to %u of kind %u: %s", pt->func.id, start,
			    start + count - 1, index, err_text(-rc));
	return rc;
}

// ---- MSI and MSI-X ----------------------------------------------------------------------------------------------

static bool vector_used(const struct pt_vectors *v, unsigned i)
{
	return !v->table.masked && !(v->table.vector[i].control & 1);
}

static void vectors_forget(struct pt_vectors *v)
{
	v->armed = 0;
	if (v->given)
		memset(v->given, 0, v->table.count * sizeof(v->given[0]));
}

static void vectors_disarm(struct passthrough *pt, struct pt_vectors *v)
{
	if (v->armed && pt_alive(pt))
		device_irqs(pt, v->index, 0, 0, NULL);
	vectors_forget(v);
}

// Enables the first `count` vectors, those with an eventfd that are in use.
static void vectors_arm(struct passthrough *pt, struct pt_vectors *v, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		pt->fds[i] = vector_used(v, i) ? msix_eventfd(&v->table, i) : -1;
	if (device_irqs(pt, v->index, 0, count, pt->fds) < 0)
		return;
	v->armed = count;
	for (unsigned i = 0; i < count; i++)
		v->given[i] = pt->fds[i] >= 0;
}

static void raise_all(struct pt_vectors *v)
{
	for (unsigned n = 0; n < v->armed; n++)
		if (v->given[n])
			msix_signal(&v->table, n);
}

// One more, of a device that is enabled.  One that cannot have more vectors than it began with begins anew, if need be with those
// that it had, and whatever it raised in between is raised for it: drivers bear an interrupt too many, and not one too few.
static bool vector_give(struct passthrough *pt, struct pt_vectors *v, unsigned i)
{
	const int fd = msix_eventfd(&v->table, i);
	if (fd < 0)
		return false;
	if (i < v->armed || !v->noresize) {
		v->given[i] = device_irqs(pt, v->index, i, 1, &fd) == 0;
		v->armed = MAX(v->armed, v->given[i] ? i + 1 : 0);
		return v->given[i];
	}
	const unsigned before = v->armed;
	unsigned count = before;
	while (count <= i)
		count *= 2;
	vectors_disarm(pt, v);
	vectors_arm(pt, v, MIN(count, v->table.count));
	if (!v->armed)
		vectors_arm(pt, v, before);
	raise_all(v);
	return v->given[i];
}

static unsigned vectors_wanted(const struct passthrough *pt, const struct pt_vectors *v)
{
	if (v == &pt->msi) // the driver said how many
		return 1u << ((pci_config_get16(&pt->func, v->cap + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_QSIZE) >>
			      4);
	unsigned count = MIN(v->table.count, VECTORS_AT_ONCE);
	for (unsigned i = count; i < v->table.count; i++)
		if (vector_used(v, i))
			count = i + 1;
	return count;
}

static void vectors_sync(struct passthrough *pt, struct pt_vectors *v)
{
	if (!v->table.count)
		return;
	if (!v->table.enabled) {
		vectors_disarm(pt, v);
		return;
	}
	if (!v->armed) {
		vectors_arm(pt, v, MIN(vectors_wanted(pt, v), v->table.count));
		return;
	}
	for (unsigned i = 0; i < v->table.count; i++)
		if (vector_used(v, i) && !v->given[i] && (v == &pt->msix || i < v->armed) &&
		    !vector_give(pt, v, i))
			return; // the others fare no better, and none might be left to begin anew with
}

void pt_irqs_table_write(struct passthrough *pt, uint64_t offset, unsigned size, uint64_t val)
{
	struct pt_vectors *v = &pt->msix;
	const unsigned i = (unsigned)(offset / MSIX_ENTRY_SIZE);
	msix_table_write(&v->table, offset, size, val);
	if (v->armed && vector_used(v, i) && !v->given[i])
		vector_give(pt, v, i);
}

uint64_t pt_irqs_pba_read(struct passthrough *pt, uint64_t offset, unsigned size)
{
	const struct pt_vectors *v = &pt->msix;
	uint64_t bits = msix_pba_read(&v->table, offset, size);
	uint8_t own[8] = { 0 };
	if ((size != 4 && size != 8) || offset % size ||
	    pt->link->ops->region_read(pt->link, pt->pba_bar, pt->pba_offset + offset, own, size) < 0)
		return bits;
	// A vector that was never unmasked is pending in the device itself.
	for (unsigned n = 0; n < size * 8; n++) {
		const uint64_t i = offset * 8 + n;
		if (i < v->table.count && !v->given[i] && own[n / 8] & 1u << n % 8)
			bits |= UINT64_C(1) << n;
	}
	return bits;
}

// The capability as a table: each vector's row, with its number in the low bits of the data.
void pt_irqs_msi_write(struct passthrough *pt)
{
	const struct pci_func *f = &pt->func;
	struct pt_vectors *v = &pt->msi;
	const uint16_t flags = pci_config_get16(f, v->cap + PCI_MSI_FLAGS);
	const bool wide = flags & PCI_MSI_FLAGS_64BIT;
	uint64_t address = pci_config_get32(f, v->cap + PCI_MSI_ADDRESS_LO);
	uint32_t masked = 0;
	if (!v->table.count)
		return;
	if (wide)
		address |= (uint64_t)pci_config_get32(f, v->cap + PCI_MSI_ADDRESS_HI) << 32;
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		masked = pci_config_get32(f, v->cap + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32));
	const uint32_t data = pci_config_get16(f, v->cap + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32));
	const unsigned used = MIN(vectors_wanted(pt, v), v->table.count);
	const bool enabled = flags & PCI_MSI_FLAGS_ENABLE;
	for (unsigned i = 0; i < v->table.count && enabled; i++) {
		const uint32_t own = (data & ~(used - 1)) | (i & (used - 1));
		const uint64_t control = i >= used || masked & UINT32_C(1) << i;
		const uint64_t row = (uint64_t)i * MSIX_ENTRY_SIZE;
		msix_table_write(&v->table, row, 8, address);
		msix_table_write(&v->table, row + 8, 8, own | control << 32);
	}
	msix_control_write(&v->table, enabled ? MSIX_CONTROL_ENABLE : 0);
	pt_irqs_sync(pt);
}

void pt_irqs_msix_write(struct passthrough *pt)
{
	if (!pt->msix.table.count)
		return;
	msix_control_write(&pt->msix.table, pci_config_get16(&pt->func, pt->msix.cap + PCI_MSIX_FLAGS));
	pt_irqs_sync(pt);
}

// ---- all of them ------------------------------------------------------------------------------------------------

// What ends goes first: a device has one kind at a time.
void pt_irqs_sync(struct passthrough *pt)
{
	if (!pt_alive(pt))
		return;
	if (pt->intx_on && !pt_intx_wanted(pt))
		pt_intx_sync(pt);
	struct pt_vectors *first = pt->msi.table.enabled ? &pt->msix : &pt->msi;
	vectors_sync(pt, first);
	vectors_sync(pt, first == &pt->msi ? &pt->msix : &pt->msi);
	pt_intx_sync(pt);
}

void pt_irqs_stop(struct passthrough *pt)
{
	struct pt_vectors *both[] = { &pt->msi, &pt->msix };
	if (pt->intx_on)
		pt_intx_stop(pt, pt_alive(pt));
	for (unsigned i = 0; i < ARRAY_LEN(both); i++) {
		vectors_disarm(pt, both[i]);
		if (both[i]->table.count)
			msix_control_write(&both[i]->table, 0);
	}
}

void pt_irqs_reset(struct passthrough *pt)
{
	struct pt_vectors *both[] = { &pt->msi, &pt->msix };
	pt_irqs_stop(pt);
	for (unsigned i = 0; i < ARRAY_LEN(both); i++)
		if (both[i]->table.count)
			msix_reset(&both[i]->table);
}

void pt_irqs_raise(struct passthrough *pt)
{
	raise_all(&pt->msi);
	raise_all(&pt->msix);
}

static void failed_ready(struct loop_source *s, uint32_t events)
{
	struct passthrough *pt = CONTAINER_OF(s, struct passthrough, failed);
	(void)events;
	if (fd_event_take(s->fd))
		pci_func_post(&pt->func, PT_EVENT_FAILED);
}

static void wanted_ready(struct loop_source *s, uint32_t events)
{
	struct passthrough *pt = CONTAINER_OF(s, struct passthrough, wanted);
	(void)events;
	if (fd_event_take(s->fd))
		pci_func_post(&pt->func, PT_EVENT_WANTED);
}

int pt_irq_ask(const struct passthrough *pt, unsigned index, struct vfio_irq *irq)
{
	int rc = pt->link->ops->irq_info(pt->link, index, irq);
	if (rc < 0 || !irq->eventfd)
		*irq = (struct vfio_irq){ 0 };
	return (int)MIN(irq->count, (uint32_t)MSIX_VECTORS_MAX);
}

// An interrupt for the monitor itself.
static int notice_init(struct passthrough *pt, struct loop_source *s, unsigned index,
		       void (*ready)(struct loop_source *s, uint32_t events), struct err *e)
{
	struct vfio_irq irq;
	if (pt_irq_ask(pt, index, &irq) == 0)
		return 0;
	int fd = fd_eventfd();
	if (fd < 0)
		return err_sys(e, -fd, "%s: eventfd", pt->func.id);
	*s = (struct loop_source){ .fd = fd, .ready = ready };
	int rc = loop_add(pt->host.loop, s, EPOLLIN);
	if (rc < 0)
		return err_sys(e, -rc, "%s: epoll", pt->func.id);
	rc = pt->link->ops->irq_set(pt->link, index, VFIO_LINK_TRIGGER, 0, 1, &fd);
	if (rc < 0) // it is to be had without: of a driver that unbinds the host then waits
		log_info("%s: %s does not tell of errors or of being wanted back: %s", pt->func.id,
			 pt->link->ops->kind, err_text(-rc));
	return 0;
}

static int vectors_init(struct passthrough *pt, struct pt_vectors *v, unsigned index, unsigned count,
			struct err *e)
{
	struct vfio_irq irq;
	const unsigned most = (unsigned)pt_irq_ask(pt, index, &irq);
	v->index = index;
	v->noresize = irq.noresize;
	if (count == 0)
		return 0;
	if (most < count)
		return err_set(e, EPROTO, "%s: it shows %u %s vectors and can signal %u", pt->func.id, count,
			       index == VFIO_PCI_MSI_IRQ_INDEX ? "MSI" : "MSI-X", most);
	int rc = msix_init(&v->table, pt->func.id, pt->host.irq, count, e);
	if (rc < 0)
		return rc;
	v->given = calloc(count, sizeof(v->given[0]));
	return v->given ? 0 : err_set(e, ENOMEM, "%s: out of memory", pt->func.id);
}

int pt_irqs_init(struct passthrough *pt, struct err *e)
{
	const struct pci_func *f = &pt->func;
	pt->intx_done = pt->intx.fd = pt->failed.fd = pt->wanted.fd = -1;
	unsigned msi = 0, msix = 0;
	if (pt->msi.cap)
		msi = 1u << MIN((pci_config_get16(f, pt->msi.cap + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_QMASK) >> 1,
				5);
	if (pt->msix.cap)
		msix = (pci_config_get16(f, pt->msix.cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u;
	pt->fds = calloc(MAX(msi, msix) + 1u, sizeof(pt->fds[0]));
	if (!pt->fds)
		return err_set(e, ENOMEM, "%s: out of memory", f->id);
	int rc = vectors_init(pt, &pt->msi, VFIO_PCI_MSI_IRQ_INDEX, msi, e);
	if (rc == 0)
		rc = vectors_init(pt, &pt->msix, VFIO_PCI_MSIX_IRQ_INDEX, msix, e);
	if (rc == 0)
		rc = pt_intx_init(pt, e);
	if (rc == 0)
		rc = notice_init(pt, &pt->failed, VFIO_PCI_ERR_IRQ_INDEX, failed_ready, e);
	if (rc == 0 && pt->link->pins_memory) // a server that wants its device back ends the connection
		rc = notice_init(pt, &pt->wanted, VFIO_PCI_REQ_IRQ_INDEX, wanted_ready, e);
	return rc;
}

void pt_irqs_free(struct passthrough *pt)
{
	struct loop_source *sources[] = { &pt->intx, &pt->failed, &pt->wanted };
	struct pt_vectors *both[] = { &pt->msi, &pt->msix };
	for (unsigned i = 0; i < ARRAY_LEN(sources); i++) {
		loop_remove(pt->host.loop, sources[i]);
		fd_close(&sources[i]->fd);
	}
	for (unsigned i = 0; i < ARRAY_LEN(both); i++) {
		if (both[i]->table.vector)
			msix_destroy(&both[i]->table);
		free(both[i]->given);
		both[i]->given = NULL;
	}
	fd_close(&pt->intx_done);
	free(pt->fds);
	pt->fds = NULL;
}
