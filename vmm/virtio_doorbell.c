// SPDX-License-Identifier: BSD-2-Clause
// Doorbells: an eventfd for each queue that runs, and over it, where the back-end gives one, a page of its own as a KVM memory slot.
//
// The eventfd stays behind the page, so that a doorbell finds one or the other at any time; and because one may have been
// written into a page that nobody looks at any more, the eventfd is signalled whenever a queue loses its page and runs on.
// What a back-end may give is checked before it comes here (bridges/vhost_user_doorbell.c), or is the kernel's (vhost-vdpa); the monitor
// never touches it.
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/virtio_pci_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static char page_withdrawn; // posted: the queue has none any more
_Static_assert(VP_PAGED_QUEUES <= PCI_MEMORY_SLOTS, "each page is a slot");

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static uint64_t doorbell_gpa(const struct virtio_pci *vp, unsigned index, uint64_t bar_gpa)
{
	return bar_gpa + vp->notify + (uint64_t)vp->notify_step * index;
}

// ---- pages ------------------------------------------------------------------------------------------------------

static uint32_t page_slot(const struct virtio_pci *vp, unsigned index)
{
	return pci_func_memory_slot(&vp->func) + index;
}

static void page_hide(struct virtio_pci *vp, unsigned index, uint64_t bar_gpa)
{
	struct vp_page *p = &vp->page[index];
	if (p->shown)
		kvm_memory_slot(vp->host.kvm, page_slot(vp, index), doorbell_gpa(vp, index, bar_gpa), 0,
				p->mapped, 0);
	p->shown = false;
}

// One that KVM does not take costs its speed only.
static void page_show(struct virtio_pci *vp, unsigned index)
{
	struct vp_page *p = &vp->page[index];
	if (!p->mapped || p->shown || !vp->func.bar[VP_BAR].mapped)
		return;
	int rc = kvm_memory_slot(vp->host.kvm, page_slot(vp, index),
				 doorbell_gpa(vp, index, vp->func.bar[VP_BAR].range.start), page_size(),
				 p->mapped, 0);
	p->shown = rc == 0;
	if (rc < 0)
		log_limited(LOG_INFO, "%s: queue %u: KVM takes no doorbell page: %s", vp->func.id, index,
			    err_text(-rc));
}

static void page_unmap(void *page)
{
	if (page && page != &page_withdrawn)
		munmap(page, page_size());
}

static void page_drop(struct virtio_pci *vp, unsigned index)
{
	page_hide(vp, index, vp->func.bar[VP_BAR].range.start);
	if (!vp->backend->doorbell_fixed)
		page_unmap(vp->page[index].mapped);
	vp->page[index].mapped = NULL;
}

void vp_page_post(struct virtio_pci *vp, unsigned index, void *page)
{
	page_unmap(atomic_exchange(&vp->page[index].posted, page ? page : &page_withdrawn));
}

void vp_pages_take(struct virtio_pci *vp)
{
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		void *page = atomic_exchange(&vp->page[i].posted, NULL);
		const bool had = vp->page[i].mapped,
			   runs = vp->regs.state == VIRTIO_RUNNING && vp->queue[i].started;
		if (!page)
			continue;
		page_drop(vp, i);
		if (runs && page != &page_withdrawn) {
			vp->page[i].mapped = page;
			page_show(vp, i);
		} else {
			page_unmap(page);
		}
		if (runs && had)
			fd_peer_signal(vp->queue[i].kick_fd);
	}
}

int vp_pages_init(struct virtio_pci *vp, struct err *e)
{
	vp->notify = VP_NOTIFY;
	vp->notify_step = VP_NOTIFY_STEP;
	if (!vp->backend->doorbell_pages)
		return 0;
	if (vp_queue_count(vp) > VP_PAGED_QUEUES)
		return err_set(e, EINVAL,
			       "%s: doorbell pages (host_notifier) are for %d queues at most, it has %u",
			       vp->backend->id, VP_PAGED_QUEUES, vp_queue_count(vp));
	vp->notify = VP_PAGES;
	vp->notify_step = (uint32_t)page_size();
	vp->page_count = vp_queue_count(vp);
	vp->page = calloc(vp->page_count, sizeof(vp->page[0]));
	return vp->page ? 0 : err_set(e, ENOMEM, "%s: out of memory", vp->backend->id);
}

void vp_pages_free(struct virtio_pci *vp)
{
	for (unsigned i = 0; vp->page && i < vp->page_count; i++)
		page_unmap(atomic_exchange(&vp->page[i].posted, NULL));
	free(vp->page);
}

// ---- all of it --------------------------------------------------------------------------------------------------

static void doorbell_remove(struct virtio_pci *vp, unsigned index, uint64_t bar_gpa)
{
	struct vp_queue *q = &vp->queue[index];
	if (vp->page)
		page_hide(vp, index, bar_gpa);
	if (q->doorbell)
		kvm_ioeventfd(vp->host.kvm, doorbell_gpa(vp, index, bar_gpa), q->kick_fd, false);
	q->doorbell = false;
}

void vp_doorbell_end(struct virtio_pci *vp, unsigned index)
{
	doorbell_remove(vp, index, vp->func.bar[VP_BAR].range.start);
	if (vp->page)
		page_drop(vp, index);
}

void vp_doorbells_remove(struct virtio_pci *vp, uint64_t bar_gpa)
{
	for (unsigned i = 0; i < vp_queue_count(vp); i++)
		doorbell_remove(vp, i, bar_gpa);
}

int vp_doorbells_add(struct virtio_pci *vp)
{
	const struct pci_bar *bar = &vp->func.bar[VP_BAR];
	if (!bar->mapped)
		return 0;
	for (unsigned i = 0; i < vp_queue_count(vp); i++) {
		struct vp_queue *q = &vp->queue[i];
		if (!q->started || q->doorbell)
			continue;
		int rc = kvm_ioeventfd(vp->host.kvm, doorbell_gpa(vp, i, bar->range.start), q->kick_fd, true);
		if (rc < 0)
			return rc;
		q->doorbell = true;
		if (vp->backend->doorbell_fixed)
			vp->page[i].mapped = vp->backend->doorbell_fixed[i];
		if (vp->page)
			page_show(vp, i);
	}
	return 0;
}
