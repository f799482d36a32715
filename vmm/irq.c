// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/irq.h"

#include "arch/arch.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define MSI_LAPIC_BASE UINT64_C(0xfee00000)
#define MSI_LAPIC_MASK UINT64_C(0xfffffffffff00000)
#define ROUTES_FIRST   64

int irq_init(struct irq *q, struct kvm *kvm, struct err *e)
{
	*q = (struct irq){ .kvm = kvm, .next_gsi = IRQ_MSI_FIRST, .route_room = ROUTES_FIRST };
	pthread_mutex_init(&q->lock, NULL);
	q->table = calloc(1, sizeof(*q->table) + q->route_room * sizeof(q->table->entries[0]));
	if (!q->table)
		return err_set(e, ENOMEM, "out of memory");
	irq_reset(q);
	return 0;
}

void irq_destroy(struct irq *q)
{
	free(q->table);
	pthread_mutex_destroy(&q->lock);
	*q = (struct irq){ 0 };
}

void irq_reset(struct irq *q)
{
	pthread_mutex_lock(&q->lock);
	q->route_count = arch_pin_routes(q->table->entries, q->route_room);
	pthread_mutex_unlock(&q->lock);
}

int irq_msi_allot(struct irq *q, unsigned count)
{
	if (count == 0 || count > IRQ_GSI_MAX - q->next_gsi)
		return -ENOSPC;
	// Room for all routes now, so that nothing is allocated while the guest runs.
	unsigned want = q->next_gsi - IRQ_MSI_FIRST + count + ROUTES_FIRST;
	if (want > q->route_room) {
		struct kvm_irq_routing *t = realloc(q->table, sizeof(*t) + want * sizeof(t->entries[0]));
		if (!t)
			return -ENOMEM;
		q->table = t;
		q->route_room = want;
	}
	uint32_t first = q->next_gsi;
	q->next_gsi += count;
	return (int)first;
}

static struct kvm_irq_routing_entry *irq_route_find(struct irq *q, uint32_t gsi)
{
	for (unsigned i = 0; i < q->route_count; i++)
		if (q->table->entries[i].gsi == gsi && q->table->entries[i].type == KVM_IRQ_ROUTING_MSI)
			return &q->table->entries[i];
	return NULL;
}

// `route` is the GSI's present one, or NULL.  What KVM refuses leaves the table as it was: it is refused as a whole, and one bad
// entry would keep all other vectors from changing.
static int irq_route_set(struct irq *q, struct kvm_irq_routing_entry *route,
			 const struct kvm_irq_routing_entry *want)
{
	const unsigned old_count = q->route_count;
	if (!route) {
		if (q->route_count == q->route_room)
			return -ENOSPC;
		route = &q->table->entries[q->route_count++];
	}
	const struct kvm_irq_routing_entry old = *route;
	*route = *want;
	q->table->nr = q->route_count;
	if (ioctl(q->kvm->vm_fd, KVM_SET_GSI_ROUTING, q->table) == 0)
		return 0;
	int rc = -errno;
	*route = old;
	q->route_count = old_count;
	return rc;
}

int irq_msi_route(struct irq *q, uint32_t gsi, uint64_t address, uint32_t data)
{
	if ((address & MSI_LAPIC_MASK) != MSI_LAPIC_BASE)
		return -EINVAL;
	struct kvm_irq_routing_entry want = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };
	want.u.msi.address_lo = (uint32_t)address;
	want.u.msi.data = data;
	if (q->wide_destinations) {
		// KVM_FEATURE_MSI_EXT_DEST_ID puts the high bits where KVM's x2APIC format does not look for them.
		want.u.msi.address_hi = (uint32_t)((address >> 5) & 0x7f) << 8;
		want.u.msi.address_lo &= ~UINT32_C(0xfe0);
	}
	int rc = 0;
	pthread_mutex_lock(&q->lock);
	struct kvm_irq_routing_entry *route = irq_route_find(q, gsi);
	if (!route || route->u.msi.address_lo != want.u.msi.address_lo ||
	    route->u.msi.address_hi != want.u.msi.address_hi || route->u.msi.data != want.u.msi.data)
		rc = irq_route_set(q, route, &want);
	pthread_mutex_unlock(&q->lock);
	return rc;
}

void irq_pin_set(struct irq *q, uint32_t pin, bool high)
{
	struct kvm_irq_level line = { .irq = pin, .level = high };
	if (ioctl(q->kvm->vm_fd, KVM_IRQ_LINE, &line) < 0)
		log_limited(LOG_WARN, "interrupt pin %u: %s", pin, err_text(errno));
}

void irq_pin_pulse(struct irq *q, uint32_t pin)
{
	irq_pin_set(q, pin, true);
	irq_pin_set(q, pin, false);
}
