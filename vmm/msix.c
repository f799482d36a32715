// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/msix.h"

#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <stdlib.h>

#define VECTOR_MASKED 1u

int msix_init(struct msix *m, const char *id, struct irq *irq, unsigned count, struct err *e)
{
	*m = (struct msix){ .irq = irq, .id = id };
	if (count == 0 || count > MSIX_VECTORS_MAX)
		return err_set(e, EINVAL, "%s: %u MSI-X vectors; 1 to %d are possible", id, count,
			       MSIX_VECTORS_MAX);
	int gsi = irq_msi_allot(irq, count);
	if (gsi < 0)
		return err_set(e, -gsi, "%s: no room for %u more interrupt vectors (fewer queues need fewer)",
			       id, count);
	m->vector = calloc(count, sizeof(m->vector[0]));
	if (!m->vector)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	m->first_gsi = (uint32_t)gsi;
	m->count = (uint16_t)count;
	for (unsigned i = 0; i < count; i++)
		m->vector[i] = (struct msix_vector){ .eventfd = -1, .control = VECTOR_MASKED };
	return 0;
}

static void vector_unbind(struct msix *m, unsigned i)
{
	struct msix_vector *v = &m->vector[i];
	if (!v->bound)
		return;
	kvm_irqfd(m->irq->kvm, v->eventfd, m->first_gsi + i, false);
	v->bound = false;
}

static void vector_bind(struct msix *m, unsigned i)
{
	struct msix_vector *v = &m->vector[i];
	int rc = irq_msi_route(m->irq, m->first_gsi + i, v->address, v->data);
	if (rc == 0 && !v->bound)
		rc = kvm_irqfd(m->irq->kvm, v->eventfd, m->first_gsi + i, true);
	if (rc < 0) {
		log_limited(LOG_WARN, "%s: vector %u to address %#llx: interrupts dropped: %s", m->id, i,
			    (unsigned long long)v->address, err_text(-rc));
		vector_unbind(m, i);
		if (rc != -EINVAL) // that is the guest's own mistake, and costs it this interrupt only
			m->error = rc;
		return;
	}
	v->bound = true;
}

static void vector_update(struct msix *m, unsigned i)
{
	struct msix_vector *v = &m->vector[i];
	if (m->enabled && !m->masked && !(v->control & VECTOR_MASKED) && v->eventfd >= 0)
		vector_bind(m, i);
	else
		vector_unbind(m, i);
}

static void msix_update(struct msix *m)
{
	for (unsigned i = 0; i < m->count; i++)
		vector_update(m, i);
}

void msix_reset(struct msix *m)
{
	m->enabled = m->masked = false;
	m->error = 0;
	for (unsigned i = 0; i < m->count; i++) {
		struct msix_vector *v = &m->vector[i];
		vector_unbind(m, i);
		if (v->eventfd >= 0)
			fd_event_take(v->eventfd);
		v->address = v->data = 0;
		v->control = VECTOR_MASKED;
	}
}

void msix_destroy(struct msix *m)
{
	for (unsigned i = 0; i < m->count; i++) {
		vector_unbind(m, i);
		fd_close(&m->vector[i].eventfd);
	}
	free(m->vector);
	*m = (struct msix){ 0 };
}

static bool table_access_valid(uint64_t offset, unsigned size, uint64_t total)
{
	return (size == 4 || size == 8) && offset % size == 0 && range_in(offset, size, total);
}

uint64_t msix_table_read(const struct msix *m, uint64_t offset, unsigned size)
{
	if (!table_access_valid(offset, size, msix_table_size(m)))
		return 0;
	const struct msix_vector *v = &m->vector[offset / MSIX_ENTRY_SIZE];
	uint64_t half = offset % MSIX_ENTRY_SIZE < 8 ? v->address : v->data | (uint64_t)v->control << 32;
	return (half >> (8 * (offset % 8))) & size_mask(size);
}

void msix_table_write(struct msix *m, uint64_t offset, unsigned size, uint64_t val)
{
	if (!table_access_valid(offset, size, msix_table_size(m)))
		return;
	unsigned i = (unsigned)(offset / MSIX_ENTRY_SIZE);
	struct msix_vector *v = &m->vector[i];
	uint64_t mask = size_mask(size) << (8 * (offset % 8));
	val <<= 8 * (offset % 8);
	if (offset % MSIX_ENTRY_SIZE < 8) {
		v->address = (v->address & ~mask) | (val & mask & ~UINT64_C(3));
	} else {
		uint64_t half = v->data | (uint64_t)v->control << 32;
		half = (half & ~mask) | (val & mask);
		v->data = (uint32_t)half;
		v->control = (uint32_t)(half >> 32) & VECTOR_MASKED;
	}
	vector_update(m, i);
}

uint64_t msix_pba_read(const struct msix *m, uint64_t offset, unsigned size)
{
	if (!table_access_valid(offset, size, msix_pba_size(m)))
		return 0;
	uint64_t bits = 0;
	unsigned first = (unsigned)offset * 8;
	for (unsigned i = 0; i < size * 8 && first + i < m->count; i++) {
		const struct msix_vector *v = &m->vector[first + i];
		if (v->eventfd >= 0 && !v->bound && fd_event_pending(v->eventfd))
			bits |= UINT64_C(1) << i;
	}
	return bits;
}

void msix_control_write(struct msix *m, uint16_t control)
{
	bool enabled = control & MSIX_CONTROL_ENABLE, masked = control & MSIX_CONTROL_MASK;
	if (enabled == m->enabled && masked == m->masked)
		return;
	m->enabled = enabled;
	m->masked = masked;
	msix_update(m);
}

int msix_eventfd(struct msix *m, unsigned vector)
{
	if (vector >= m->count)
		return -EINVAL;
	struct msix_vector *v = &m->vector[vector];
	if (v->eventfd < 0) {
		int fd = fd_eventfd();
		if (fd < 0)
			return fd;
		v->eventfd = fd;
	}
	vector_update(m, vector); // also one that KVM refused earlier
	return v->eventfd;
}

int msix_take_error(struct msix *m)
{
	int error = m->error;
	m->error = 0;
	return error;
}

void msix_signal(struct msix *m, unsigned vector)
{
	int fd = msix_eventfd(m, vector);
	if (fd >= 0)
		fd_peer_signal(fd);
}
