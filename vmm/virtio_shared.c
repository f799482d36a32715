// SPDX-License-Identifier: BSD-2-Clause
// Shared memory regions (virtio 1.2 §2.10, §4.1.4.7): memory of the back-end's that the driver finds in a BAR.
//
// Each part that a back-end gives is a KVM memory slot in the BAR's place, and follows it.  Where there is none an access ends in the
// monitor, as any other to nothing: ones are read, what is written is lost.  The monitor itself never touches the memory; that its owner
// cannot take it away is checked before it comes here (bridges/vhost_user_shared.c).
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/virtio_pci_impl.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <sys/mman.h>

_Static_assert(VP_PAGED_QUEUES + VP_SHARED_PARTS <= PCI_MEMORY_SLOTS, "each part is a slot");

static uint32_t part_slot(const struct virtio_pci *vp, unsigned index)
{
	return pci_func_memory_slot(&vp->func) + VP_PAGED_QUEUES + index;
}

static uint64_t part_gpa(const struct vp_shared *s, const struct vp_shared_part *p)
{
	return s->bar_gpa + s->start[p->at.region] + p->at.offset;
}

static void part_hide(struct virtio_pci *vp, unsigned index)
{
	struct vp_shared_part *p = &vp->shared->part[index];
	if (p->shown)
		kvm_memory_slot(vp->host.kvm, part_slot(vp, index), part_gpa(vp->shared, p), 0, p->hva, 0);
	p->shown = false;
}

static int part_show(struct virtio_pci *vp, unsigned index)
{
	struct vp_shared_part *p = &vp->shared->part[index];
	if (!vp->shared->placed)
		return 0;
	int rc = kvm_memory_slot(vp->host.kvm, part_slot(vp, index), part_gpa(vp->shared, p), p->at.len,
				 p->hva, p->at.readonly ? KVM_MEM_READONLY : 0);
	p->shown = rc == 0;
	if (rc < 0)
		log_limited(LOG_WARN, "%s: KVM takes no shared memory at %#llx: %s", vp->func.id,
			    (unsigned long long)part_gpa(vp->shared, p), err_text(-rc));
	return rc;
}

static bool part_overlaps(const struct vp_shared_part *p, const struct backend_shared_part *with)
{
	return p->hva && p->at.region == with->region &&
	       range_overlaps(p->at.offset, p->at.len, with->offset, with->len);
}

static int part_add(struct virtio_pci *vp, const struct backend_shared_part *part, void *hva)
{
	struct vp_shared *s = vp->shared;
	unsigned room = VP_SHARED_PARTS;
	for (unsigned i = 0; i < VP_SHARED_PARTS; i++) {
		if (part_overlaps(&s->part[i], part))
			return -EEXIST;
		if (!s->part[i].hva && room == VP_SHARED_PARTS)
			room = i;
	}
	if (room == VP_SHARED_PARTS)
		return -ENOSPC;
	s->part[room] = (struct vp_shared_part){ .at = *part, .hva = hva };
	int rc = part_show(vp, room);
	if (rc < 0)
		s->part[room].hva = NULL;
	return rc;
}

int vp_shared_give(struct virtio_pci *vp, const struct backend_shared_part *part, void *hva)
{
	if (part->region >= vp->backend->shared_count || part->len == 0 ||
	    !range_in(part->offset, part->len, vp->backend->shared[part->region].size))
		return -EINVAL;
	pthread_mutex_lock(&vp->shared->lock);
	int rc = part_add(vp, part, hva);
	pthread_mutex_unlock(&vp->shared->lock);
	return rc;
}

unsigned vp_shared_withdraw(struct virtio_pci *vp, const struct backend_shared_part *part)
{
	unsigned n = 0;
	if (!vp->shared)
		return 0;
	pthread_mutex_lock(&vp->shared->lock);
	for (unsigned i = 0; i < VP_SHARED_PARTS; i++) {
		struct vp_shared_part *p = &vp->shared->part[i];
		if (!p->hva || (part && (p->at.region != part->region || p->at.offset != part->offset ||
					 p->at.len != part->len)))
			continue;
		part_hide(vp, i);
		munmap(p->hva, (size_t)p->at.len);
		p->hva = NULL;
		n++;
	}
	pthread_mutex_unlock(&vp->shared->lock);
	return n;
}

void vp_shared_moved(struct virtio_pci *vp, uint64_t gpa, bool mapped)
{
	struct vp_shared *s = vp->shared;
	pthread_mutex_lock(&s->lock);
	s->placed = mapped;
	if (mapped)
		s->bar_gpa = gpa;
	for (unsigned i = 0; i < VP_SHARED_PARTS; i++) {
		if (!s->part[i].hva)
			continue;
		if (mapped)
			part_show(vp, i);
		else
			part_hide(vp, i);
	}
	pthread_mutex_unlock(&s->lock);
}

// ---- where they are ---------------------------------------------------------------------------------------------

int vp_shared_init(struct virtio_pci *vp, struct err *e)
{
	const struct backend *b = vp->backend;
	if (b->shared_count == 0)
		return 0;
	struct vp_shared *s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, ENOMEM, "%s: out of memory", b->id);
	pthread_mutex_init(&s->lock, NULL);
	uint64_t end = 0;
	for (unsigned i = 0; i < b->shared_count; i++) {
		s->start[i] = end;
		end += b->shared[i].size;
	}
	for (s->size = 16; s->size < end;)
		s->size *= 2;
	vp->shared = s;
	return 0;
}

void vp_shared_free(struct virtio_pci *vp)
{
	if (!vp->shared)
		return;
	vp_shared_withdraw(vp, NULL);
	pthread_mutex_destroy(&vp->shared->lock);
	free(vp->shared);
}

void vp_shared_capabilities(struct virtio_pci *vp)
{
	struct pci_func *f = &vp->func;
	for (unsigned i = 0; vp->shared && i < vp->backend->shared_count; i++) {
		const struct backend_shared *r = &vp->backend->shared[i];
		const unsigned cap = pci_func_add_capability(f, PCI_CAP_ID_VNDR, VCAP_LEN_64);
		f->config[cap + PCI_CAP_FLAGS] = VCAP_LEN_64;
		f->config[cap + VCAP_TYPE_OFF] = VCAP_SHARED;
		f->config[cap + VCAP_BAR_OFF] = VP_SHARED_BAR;
		f->config[cap + VCAP_ID_OFF] = r->id;
		pci_config_set32(f, cap + VCAP_OFFSET_OFF, (uint32_t)vp->shared->start[i]);
		pci_config_set32(f, cap + VCAP_LENGTH_OFF, (uint32_t)r->size);
		pci_config_set32(f, cap + VCAP_OFFSET_HI, (uint32_t)(vp->shared->start[i] >> 32));
		pci_config_set32(f, cap + VCAP_LENGTH_HI, (uint32_t)(r->size >> 32));
	}
}
