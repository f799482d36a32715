// SPDX-License-Identifier: BSD-2-Clause
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/fd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define VECTOR_LEN    16u
#define VECTOR_MASKED 1u

// ---- description --------------------------------------------------------------------------------------------------

int pdev_create(struct pdev **out, struct vdev *d, const struct pdev_ops *ops, struct err *e)
{
	struct pdev *p = calloc(1, sizeof(*p));
	if (!p)
		return err_sys(e, ENOMEM, "PCI function");
	p->ops = ops;
	p->d = d;
	p->next_cap = PCI_STD_HEADER_SIZEOF;
	p->intx_fd = -1;
	p->intx_unmask = (struct loop_source){ .fd = -1, .ready = pdev_intx_unmasked };
	for (unsigned i = 0; i < PDEV_BARS; i++)
		p->bar[i].map_fd = -1;
	for (unsigned i = 0; i < PDEV_VECTORS_MAX; i++)
		p->vector[i].fd = -1;
	p->writable[PCI_COMMAND] = PCI_COMMAND_MASTER;
	p->writable[PCI_COMMAND + 1] = PCI_COMMAND_INTX_DISABLE >> 8;
	p->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	p->writable[PCI_INTERRUPT_LINE] = 0xff;
	*out = p;
	return 0;
}

void pdev_destroy(struct pdev *p)
{
	if (!p)
		return;
	pdev_detach(p);
	for (unsigned i = 0; i < PDEV_BARS; i++) {
		if (p->bar[i].mapped)
			munmap(p->bar[i].mapped, p->bar[i].map_len);
		fd_close(&p->bar[i].map_fd);
	}
	free(p);
}

void pdev_set_identity(struct pdev *p, uint16_t vendor, uint16_t device, uint32_t class_code,
		       uint8_t revision)
{
	pdev_config_set16(p, PCI_VENDOR_ID, vendor);
	pdev_config_set16(p, PCI_DEVICE_ID, device);
	pdev_config_set32(p, PCI_CLASS_REVISION, class_code << 8 | revision);
}

void pdev_set_subsystem(struct pdev *p, uint16_t vendor, uint16_t device)
{
	pdev_config_set16(p, PCI_SUBSYSTEM_VENDOR_ID, vendor);
	pdev_config_set16(p, PCI_SUBSYSTEM_ID, device);
}

static void bar_add(struct pdev *p, unsigned index, uint64_t size, bool is_64bit, bool io)
{
	assert(index + is_64bit < PDEV_BARS && is_power_of_two(size) && size >= 16);
	p->bar[index].size = size;
	p->bar[index].io = io;
	p->bar[index].is_64bit = is_64bit;
	const unsigned at = PCI_BASE_ADDRESS_0 + 4 * index;
	const uint64_t mask = ~(size - 1);
	pdev_config_set32(p, at,
			  io	     ? PCI_BASE_ADDRESS_SPACE_IO
			  : is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64
				     : 0u);
	for (unsigned i = 0; i < (is_64bit ? 8u : 4u); i++)
		p->writable[at + i] = (uint8_t)(mask >> (8 * i));
	p->writable[PCI_COMMAND] |= io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
}

void pdev_add_bar(struct pdev *p, unsigned index, uint64_t size, bool is_64bit)
{
	bar_add(p, index, size, is_64bit, false);
}

void pdev_add_io_bar(struct pdev *p, unsigned index, uint64_t size)
{
	bar_add(p, index, size, false, true);
}

unsigned pdev_add_capability(struct pdev *p, uint8_t id, unsigned len)
{
	const unsigned at = p->next_cap;
	assert(range_in(at, len, PDEV_CONFIG_SIZE));
	p->config[at + PCI_CAP_LIST_ID] = id;
	p->config[p->last_cap ? p->last_cap : PCI_CAPABILITY_LIST] = (uint8_t)at;
	p->last_cap = at + PCI_CAP_LIST_NEXT;
	p->next_cap = (unsigned)align_up(at + len, 4);
	p->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return at;
}

int pdev_share(struct pdev *p, unsigned bar, uint64_t offset, uint64_t len, uint8_t **to, struct err *e)
{
	struct pdev_bar *b = &p->bar[bar];
	assert(bar < PDEV_BARS && !b->io && b->map_fd < 0 && range_in(offset, len, b->size));
	b->map_fd = memfd_create("bar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->map_fd < 0 || ftruncate(b->map_fd, (off_t)b->size) < 0 ||
	    fcntl(b->map_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(e, errno, "memory of BAR %u", bar);
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, b->map_fd, (off_t)offset);
	if (at == MAP_FAILED)
		return err_sys(e, errno, "memory of BAR %u", bar);
	b->map_offset = offset;
	b->map_len = len;
	b->mapped = at;
	*to = at;
	return 0;
}

void pdev_add_intx(struct pdev *p)
{
	p->config[PCI_INTERRUPT_PIN] = 1;
}

void pdev_add_msix(struct pdev *p, unsigned count, unsigned bar, uint64_t table_at, uint64_t pba_at)
{
	assert(count > 0 && count <= PDEV_VECTORS_MAX && bar < PDEV_BARS && table_at % 8 == 0 &&
	       pba_at % 8 == 0);
	const unsigned at = pdev_add_capability(p, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	pdev_config_set16(p, at + PCI_MSIX_FLAGS, (uint16_t)(count - 1));
	pdev_config_set32(p, at + PCI_MSIX_TABLE, (uint32_t)table_at | bar);
	pdev_config_set32(p, at + PCI_MSIX_PBA, (uint32_t)pba_at | bar);
	p->writable[at + PCI_MSIX_FLAGS + 1] = (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	p->msix_cap = at;
	p->msix_bar = bar;
	p->vector_count = count;
	p->msix_table_at = table_at;
	p->msix_pba_at = pba_at;
	for (unsigned i = 0; i < count; i++)
		p->msix_table[i][3] = VECTOR_MASKED;
}

static void doorbell_ring(struct pdev *p, unsigned index)
{
	if (p->stopped)
		p->rung |= UINT64_C(1) << index;
	else
		p->ops->doorbell(p, index);
}

static void doorbell_rang(struct loop_source *src, uint32_t events)
{
	(void)events;
	struct pdev_doorbell *b = CONTAINER_OF(src, struct pdev_doorbell, source);
	doorbell_ring(b->pdev, (unsigned)(b - b->pdev->doorbell));
}

void pdev_add_doorbell(struct pdev *p, unsigned bar, uint64_t offset, uint32_t size)
{
	assert(p->doorbell_count < PDEV_DOORBELLS_MAX);
	p->doorbell[p->doorbell_count++] =
		(struct pdev_doorbell){ .source = { .fd = -1, .ready = doorbell_rang },
					.pdev = p,
					.bar = bar,
					.offset = offset,
					.size = size };
}

// ---- accesses -----------------------------------------------------------------------------------------------------

static void config_write(struct pdev *p, unsigned offset, const uint8_t *bytes, unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		const uint8_t mask = p->writable[offset + i];
		p->config[offset + i] = (uint8_t)((p->config[offset + i] & ~mask) | (bytes[i] & mask));
	}
	if (range_overlaps(offset, len, PCI_COMMAND, 2))
		pdev_intx_deliver(p);
	if (p->ops->config)
		p->ops->config(p, offset, len, true);
}

// The largest naturally aligned access at `offset` that has no more than `len` bytes.
static unsigned access_size(uint64_t offset, uint64_t len)
{
	unsigned size = 8;
	while (size > len || offset % size)
		size /= 2;
	return size;
}

void pdev_config_access(struct pdev *p, unsigned offset, uint8_t *bytes, unsigned len, bool write)
{
	while (len > 0) {
		const unsigned size = MIN(access_size(offset, len), 4u);
		if (write) {
			config_write(p, offset, bytes, size);
		} else {
			if (p->ops->config)
				p->ops->config(p, offset, size, false);
			memcpy(bytes, p->config + offset, size);
		}
		offset += size;
		bytes += size;
		len -= size;
	}
}

static uint64_t le_get(const uint8_t *bytes, unsigned size)
{
	uint64_t v = 0;
	memcpy(&v, bytes, size);
	return v;
}

// The table is storage, the pending bits are of vectors that were masked or that the client has not set yet.
static uint64_t table_len_of(const struct pdev *p)
{
	return (uint64_t)p->vector_count * VECTOR_LEN;
}

static void msix_access(struct pdev *p, uint64_t offset, uint8_t *bytes, unsigned size, bool write)
{
	const uint64_t table_len = table_len_of(p);
	memset(bytes, 0, write ? 0 : size);
	if (offset >= p->msix_table_at && range_in(offset - p->msix_table_at, size, table_len)) {
		uint8_t *at = (uint8_t *)p->msix_table + (offset - p->msix_table_at);
		if (size >= 4)
			memcpy(write ? at : bytes, write ? bytes : at, size);
		return;
	}
	for (unsigned i = 0; i < 8 * size && !write; i++) {
		const uint64_t vector = 8 * (offset - p->msix_pba_at) + i;
		if (vector < p->vector_count && p->vector[vector].pending)
			bytes[i / 8] |= (uint8_t)(1u << i % 8);
	}
}

static bool is_msix(const struct pdev *p, unsigned bar, uint64_t offset)
{
	return p->vector_count && bar == p->msix_bar &&
	       ((offset >= p->msix_table_at && offset - p->msix_table_at < table_len_of(p)) ||
		(offset >= p->msix_pba_at && offset - p->msix_pba_at < align_up(p->vector_count, 64) / 8));
}

static bool doorbell_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	for (unsigned i = 0; i < p->doorbell_count; i++) {
		const struct pdev_doorbell *b = &p->doorbell[i];
		if (b->bar != bar || b->offset != offset || (b->size && b->size != size))
			continue;
		doorbell_ring(p, i);
		return true;
	}
	return false;
}

static int bar_access_one(struct pdev *p, unsigned bar, uint64_t offset, uint8_t *bytes, unsigned size,
			  bool write)
{
	uint64_t val = 0;
	if (is_msix(p, bar, offset)) {
		msix_access(p, offset, bytes, size, write);
	} else if (write && p->stopped) {
		return -EBUSY; // what it would do is for the other side to do
	} else if (write) {
		if (!doorbell_write(p, bar, offset, size) && p->ops->bar_write)
			p->ops->bar_write(p, bar, offset, size, le_get(bytes, size));
	} else {
		if (p->ops->bar_read)
			val = p->ops->bar_read(p, bar, offset, size);
		memcpy(bytes, &val, size);
	}
	return 0;
}

int pdev_bar_access(struct pdev *p, unsigned bar, uint64_t offset, uint8_t *bytes, uint64_t len, bool write)
{
	while (len > 0) {
		const unsigned size = access_size(offset, len);
		int rc = bar_access_one(p, bar, offset, bytes, size, write);
		if (rc < 0)
			return rc;
		offset += size;
		bytes += size;
		len -= size;
	}
	return 0;
}

// ---- life ---------------------------------------------------------------------------------------------------------

void pdev_reset(struct pdev *p)
{
	memcpy(p->config, p->initial, sizeof(p->config));
	memset(p->msix_table, 0, sizeof(p->msix_table));
	for (unsigned i = 0; i < p->vector_count; i++) {
		p->msix_table[i][3] = VECTOR_MASKED;
		p->vector[i].pending = p->vector[i].masked = false;
	}
	p->rung = 0;
	if (p->ops->reset)
		p->ops->reset(p);
	pdev_set_intx(p, false);
	p->intx_masked = false;
}

void pdev_stop(struct pdev *p)
{
	if (p->ops->drain)
		p->ops->drain(p);
	p->stopped = true;
	if (p->ops->memory_changed)
		p->ops->memory_changed(p);
}

void pdev_run(struct pdev *p)
{
	p->stopped = false;
	for (unsigned i = 0; i < p->vector_count; i++)
		pdev_vector_deliver(p, i);
	pdev_intx_deliver(p);
	if (p->ops->memory_changed)
		p->ops->memory_changed(p);
	for (unsigned i = 0; i < p->doorbell_count; i++)
		if (p->rung >> i & 1)
			p->ops->doorbell(p, i);
	p->rung = 0;
}

static void doorbells_close(struct pdev *p)
{
	for (unsigned i = 0; i < p->doorbell_count; i++) {
		loop_remove(&p->d->loop, &p->doorbell[i].source);
		fd_close(&p->doorbell[i].source.fd);
	}
}

// New ones for each client: the last one may still hold, and ring, those that it got.
static int doorbells_open(struct pdev *p)
{
	for (unsigned i = 0; i < p->doorbell_count; i++) {
		struct loop_source *s = &p->doorbell[i].source;
		s->fd = fd_eventfd();
		// Edge-triggered: every signal is an event, and the counter need never be read.
		int rc = s->fd < 0 ? s->fd : loop_add(&p->d->loop, s, (uint32_t)EPOLLIN | (uint32_t)EPOLLET);
		if (rc < 0) {
			doorbells_close(p);
			return rc;
		}
	}
	return 0;
}

int pdev_attach(struct pdev *p)
{
	if (!p->described)
		memcpy(p->initial, p->config, sizeof(p->config));
	p->described = true;
	int rc = doorbells_open(p);
	if (rc < 0)
		return rc;
	p->attached = true;
	if (p->ops->attached)
		p->ops->attached(p, true);
	return 0;
}

void pdev_detach(struct pdev *p)
{
	if (p->attached && p->ops->attached)
		p->ops->attached(p, false);
	p->attached = p->stopped = false;
	p->rung = 0;
	doorbells_close(p);
	for (unsigned i = 0; i < p->vector_count; i++) {
		fd_close(&p->vector[i].fd);
		p->vector[i].masked = false;
	}
	fd_close(&p->intx_fd);
	p->intx_masked = false;
	pdev_intx_set_unmask(p, -1);
}
