// SPDX-License-Identifier: BSD-2-Clause
// Interrupts: which there are, and which eventfds of the client's stand for them.
#include "devices/sdk/vfio_user_impl.h"
#include "vmm/base/fd.h"

#include <errno.h>
#include <linux/pci_regs.h>

static uint32_t irq_count(const struct pdev *p, uint32_t index)
{
	return index == VFIO_PCI_INTX_IRQ_INDEX	  ? p->config[PCI_INTERRUPT_PIN] != 0
	       : index == VFIO_PCI_MSIX_IRQ_INDEX ? p->vector_count
						  : 0;
}

int vfs_on_irq_info(struct vfs *s, struct vfs_request *rq)
{
	struct vfio_user_irq_info i = VFS_GET(rq, struct vfio_user_irq_info);
	if (i.argsz < sizeof(i) || i.index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	i.argsz = sizeof(i);
	i.count = irq_count(s->p, i.index);
	i.flags = i.count ? VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE : 0;
	if (i.count && i.index == VFIO_PCI_INTX_IRQ_INDEX)
		i.flags |= VFIO_IRQ_INFO_AUTOMASKED;
	VFS_REPLY(rq, i);
	return 0;
}

// The one check of what SET_IRQS says: its parts with each other, and with the descriptors and bytes that came along.
static int set_check(const struct pdev *p, const struct vfs_request *rq, const struct vfio_user_irq_set *set)
{
	const uint32_t data = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
	const uint32_t action = set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
	const bool eventfds = data == VFIO_IRQ_SET_DATA_EVENTFD;
	if (set->flags & ~(uint32_t)(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK) ||
	    !is_power_of_two(data) || !is_power_of_two(action) || set->argsz < sizeof(*set) ||
	    set->index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	if (!range_in(set->start, set->count, irq_count(p, set->index)))
		return -EINVAL;
	if (set->count == 0 && (data != VFIO_IRQ_SET_DATA_NONE || action != VFIO_IRQ_SET_ACTION_TRIGGER))
		return -EINVAL;
	if (rq->len - sizeof(*set) != (data == VFIO_IRQ_SET_DATA_BOOL ? set->count : 0) ||
	    (rq->fds.count && (!eventfds || rq->fds.count != set->count)))
		return -EINVAL;
	// Who asks to be told of masking would never be: we do not mask of our own accord what the client does not know of.
	if (eventfds && action != VFIO_IRQ_SET_ACTION_TRIGGER &&
	    !(action == VFIO_IRQ_SET_ACTION_UNMASK && set->index == VFIO_PCI_INTX_IRQ_INDEX))
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < rq->fds.count; i++) {
		int rc = fd_peer_event_check(rq->fds.fd[i]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void disable(struct pdev *p, uint32_t index)
{
	if (index == VFIO_PCI_INTX_IRQ_INDEX) {
		pdev_intx_set(p, -1);
		pdev_intx_set_unmask(p, -1);
	}
	if (index != VFIO_PCI_MSIX_IRQ_INDEX)
		return;
	for (unsigned i = 0; i < p->vector_count; i++) {
		pdev_vector_set(p, i, -1);
		p->vector[i].masked = p->vector[i].pending = false;
	}
	pdev_vectors_changed(p);
}

static int intx_assign(struct pdev *p, struct vfs_request *rq, uint32_t action)
{
	int fd = rq->fds.count ? msg_fds_take_one(&rq->fds) : -1;
	if (action == VFIO_IRQ_SET_ACTION_TRIGGER) {
		pdev_intx_set(p, fd);
		return 0;
	}
	int rc = pdev_intx_set_unmask(p, fd);
	if (rc < 0)
		fd_close(&fd);
	return rc;
}

static void vectors_assign(struct pdev *p, struct vfs_request *rq, const struct vfio_user_irq_set *set)
{
	for (unsigned i = 0; i < set->count; i++)
		pdev_vector_set(p, set->start + i, rq->fds.count ? rq->fds.fd[i] : -1);
	rq->fds.count = 0; // all taken
	pdev_vectors_changed(p);
}

// One interrupt, as the client says it for the device.
static void act(struct pdev *p, const struct vfio_user_irq_set *set, uint32_t action, unsigned i)
{
	if (set->index == VFIO_PCI_INTX_IRQ_INDEX) {
		if (action != VFIO_IRQ_SET_ACTION_TRIGGER)
			pdev_intx_mask(p, action == VFIO_IRQ_SET_ACTION_MASK);
		else if (p->intx_fd >= 0)
			fd_peer_signal(p->intx_fd);
	} else if (action == VFIO_IRQ_SET_ACTION_TRIGGER) {
		pdev_interrupt(p, i);
	} else {
		pdev_vector_mask(p, i, action == VFIO_IRQ_SET_ACTION_MASK);
	}
}

int vfs_on_set_irqs(struct vfs *s, struct vfs_request *rq)
{
	const struct vfio_user_irq_set set = VFS_GET(rq, struct vfio_user_irq_set);
	const uint32_t data = set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
	const uint32_t action = set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
	int rc = set_check(s->p, rq, &set);
	if (rc < 0)
		return rc;
	if (set.count == 0) {
		disable(s->p, set.index);
	} else if (data != VFIO_IRQ_SET_DATA_EVENTFD) {
		for (unsigned i = 0; i < set.count; i++)
			if (data == VFIO_IRQ_SET_DATA_NONE || rq->payload[sizeof(set) + i])
				act(s->p, &set, action, set.start + i);
	} else if (set.index == VFIO_PCI_INTX_IRQ_INDEX) {
		return intx_assign(s->p, rq, action);
	} else {
		vectors_assign(s->p, rq, &set);
	}
	return 0;
}
