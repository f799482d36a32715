// SPDX-License-Identifier: BSD-2-Clause
// What the files of the virtio transport share: virtio_pci.c (the PCI function), virtio_state.c
// (what follows from its registers, vmm/base/virtio_regs.h), virtio_doorbell.c and virtio_shared.c.  All of it runs under the function's lock.
#ifndef MINIVMM_VMM_VIRTIO_PCI_IMPL_H
#define MINIVMM_VMM_VIRTIO_PCI_IMPL_H

#include "vmm/base/virtio_regs.h"
#include "vmm/msix.h"
#include "vmm/virtio_pci.h"

// What stands behind a queue's registers.
struct vp_queue {
	bool started;  // the back-end has it
	bool doorbell; // KVM signals kick_fd
	int kick_fd;
};

// A back-end's page in the place of a queue's doorbell.
struct vp_page {
	_Atomic(void *) posted; // by the loop's thread; virtio_doorbell.c
	void *mapped;		// ours, until the queue is stopped
	bool shown;		// to the guest, where the BAR is
};

// Memory of a back-end's in a shared memory region.
struct vp_shared_part {
	struct backend_shared_part at;
	void *hva; // NULL: none
	bool shown;
};

// What a back-end gives is in place when it is told so, even while a CPU of the guest holds the function's lock and waits for that
// back-end: hence a lock of its own, under which nobody waits.
struct vp_shared {
	pthread_mutex_t lock;
	uint64_t start[BACKEND_SHARED_MAX], size; // of each region, and of all of them, in the BAR
	bool placed;				  // the BAR is mapped,
	uint64_t bar_gpa;			  // there
	struct vp_shared_part part[VP_SHARED_PARTS];
};

struct virtio_pci {
	struct pci_func func;
	struct backend *backend;
	struct virtio_pci_host host;
	struct msix msix;
	struct virtio_regs regs;
	deadline_ns stop_begun; // the deadline of a stop that has begun, or 0
	bool ran; // the back-end was told to run; so it may be with no queue at all, and in a device that broke since
	unsigned msix_cap, window_cap; // offsets in the configuration space
	uint8_t *config;	       // the device configuration as last read
	bool config_stale;	       // it has changed since
	uint32_t notify, notify_step;  // place of the doorbells in the BAR, and from one to the next
	unsigned page_count;
	struct vp_page *page;	  // one for each queue, or NULL: the back-end gives none
	struct vp_shared *shared; // NULL: there are no such regions
	struct vp_queue queue[];
};

static inline uint16_t vp_queue_count(const struct virtio_pci *vp)
{
	return vp->backend->queue_count;
}

// ---- virtio_state.c

extern const struct virtio_regs_ops vp_regs_ops;

// Ends all use of the queues.  A back-end that does not answer is dead after its deadline and costs nothing further.
void vp_stop(struct virtio_pci *vp);
// Begins that, without waiting; vp_stop() or what calls it comes next.
void vp_stop_begin(struct virtio_pci *vp, deadline_ns deadline);
// virtio 1.2 §2.1.1: doorbells end, the driver is told, and must reset.  Says nothing to the back-end, so that it is good on the loop's
// thread, which no back-end may hold up; the reset that follows stops the queues.
void vp_break(struct virtio_pci *vp, const char *why);
// Raises the configuration interrupt.
void vp_config_interrupt(struct virtio_pci *vp);
// An interrupt that KVM cannot carry would be lost without a word: breaks the device instead.
void vp_interrupts_check(struct virtio_pci *vp);

// ---- virtio_doorbell.c

// The doorbells of all started queues, at the place where the BAR is now (0 or -errno); and away from where it was.
int vp_doorbells_add(struct virtio_pci *vp);
void vp_doorbells_remove(struct virtio_pci *vp, uint64_t bar_gpa);
// A queue is stopped: its doorbell is gone, and the back-end's page with it.
void vp_doorbell_end(struct virtio_pci *vp, unsigned index);
// 0 or -errno with a sentence: settles where doorbells are.  vp_pages_free(): when the back-end is closed.
int vp_pages_init(struct virtio_pci *vp, struct err *e);
void vp_pages_free(struct virtio_pci *vp);
// The loop's thread, without the lock: notes a page of a back-end's (struct backend_events); what was noted is done by
// vp_pages_take(), with the lock.
void vp_page_post(struct virtio_pci *vp, unsigned index, void *page);
void vp_pages_take(struct virtio_pci *vp);

// ---- virtio_shared.c

// 0 or -errno with a sentence: settles where the regions are.  vp_shared_free(): when the back-end is closed.
int vp_shared_init(struct virtio_pci *vp, struct err *e);
void vp_shared_free(struct virtio_pci *vp);
void vp_shared_capabilities(struct virtio_pci *vp);
// Their BAR has come to `gpa`, or leaves it.
void vp_shared_moved(struct virtio_pci *vp, uint64_t gpa, bool mapped);
// The loop's thread, without the function's lock: as struct backend_events has it.  The second is good with it, too.
int vp_shared_give(struct virtio_pci *vp, const struct backend_shared_part *part, void *hva);
unsigned vp_shared_withdraw(struct virtio_pci *vp, const struct backend_shared_part *part);

#endif
