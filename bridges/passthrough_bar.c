// SPDX-License-Identifier: BSD-2-Clause
// The BARs of a passthrough function: what of them is mapped into the guest, and what becomes of accesses to the rest.
//
// All mappings of the monitor's are made before the seal, and once more by a carrier's thread when it returned.  A piece is a KVM
// memory slot while its BAR decodes and the device is awake; it is taken away before the device hears that its BAR shall not decode any
// more (CVE-2020-12888).  Pages with the MSI-X table or its pending bits are never mapped.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <unistd.h>

#define BAR_MAX	   (UINT64_C(1) << 44) // more fits no processor's address bits
#define IO_BAR_MAX UINT64_C(0x1000)
#define ROM_MAX	   (UINT64_C(1) << 24)

// ---- to the guest and away from it ------------------------------------------------------------------------------

static bool place_of(const struct passthrough *pt, unsigned index, uint64_t *gpa)
{
	*gpa = pt->func.bar[index].range.start;
	return pt->func.bar[index].mapped;
}

static void area_slot(struct passthrough *pt, unsigned index, unsigned area, uint64_t gpa, bool on)
{
	struct pt_area *a = &pt->map.bar[index].area[area];
	if (a->shown == on)
		return;
	const uint32_t slot = pci_func_memory_slot(&pt->func) + pt->map.bar[index].slot + area;
	int rc = kvm_memory_slot(pt->host.kvm, slot, gpa + a->offset, on ? a->size : 0, a->hva,
				 on && a->readonly ? KVM_MEM_READONLY : 0);
	if (rc < 0) // then every access exits, which is slower and right
		log_limited(LOG_INFO, "%s: BAR %u: KVM takes no memory at %#llx: %s", pt->func.id, index,
			    (unsigned long long)(gpa + a->offset), err_text(-rc));
	a->shown = on && rc == 0;
}

static void doorbell_set(struct passthrough *pt, struct pt_doorbell *d, uint64_t gpa, bool on)
{
	if (d->shown == on)
		return;
	const struct kvm_doorbell k = { .where = gpa + d->place.offset,
					.size = d->place.size,
					.match_data = d->place.match_data,
					.data = d->place.data,
					.port = pt->func.bar[d->bar].is_io };
	int rc = kvm_doorbell(pt->host.kvm, &k, d->place.fd, on);
	if (rc < 0)
		log_limited(LOG_INFO, "%s: BAR %u: KVM takes no doorbell at %#llx: %s", pt->func.id, d->bar,
			    (unsigned long long)k.where, err_text(-rc));
	d->shown = on && rc == 0;
}

static void bar_show(struct passthrough *pt, unsigned index, uint64_t gpa, bool on)
{
	if (on && (!pt_alive(pt) || pt->asleep || pt->intx_raised))
		return;
	for (unsigned i = 0; i < pt->map.bar[index].count; i++)
		area_slot(pt, index, i, gpa, on);
	for (unsigned i = 0; i < pt->doorbell_count; i++)
		if (pt->doorbell[i].bar == index)
			doorbell_set(pt, &pt->doorbell[i], gpa, on);
}

static void bars_show(struct passthrough *pt, bool on)
{
	uint64_t gpa;
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (place_of(pt, i, &gpa))
			bar_show(pt, i, gpa, on);
}

void pt_bars_hide(struct passthrough *pt)
{
	bars_show(pt, false);
}

void pt_bars_show(struct passthrough *pt)
{
	bars_show(pt, true);
}

void pt_bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped)
{
	struct passthrough *pt = pt_of(f);
	if (mapped)
		pt_command_carry(pt); // the device decodes before the guest can reach it
	bar_show(pt, bar, gpa, mapped);
}

// ---- accesses that exit -----------------------------------------------------------------------------------------

// The largest access of 1, 2, 4 or 8 bytes that begins at `offset`, is aligned and no longer than `size`.
static unsigned piece_of(uint64_t offset, unsigned size)
{
	unsigned piece = 8;
	while (piece > size || offset % piece)
		piece /= 2;
	return piece;
}

static bool region_read(struct passthrough *pt, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	uint8_t b[8] = { 0 };
	for (unsigned done = 0, n; done < size; done += n) {
		n = piece_of(offset + done, size - done);
		if (pt->link->ops->region_read(pt->link, bar, offset + done, &b[done], n) < 0)
			return false;
	}
	*val = 0;
	for (unsigned i = 0; i < size; i++)
		*val |= (uint64_t)b[i] << (8 * i);
	return true;
}

static void region_write(struct passthrough *pt, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	uint8_t b[8];
	for (unsigned i = 0; i < size; i++)
		b[i] = (uint8_t)(val >> (8 * i));
	for (unsigned done = 0, n; done < size; done += n) {
		n = piece_of(offset + done, size - done);
		int rc = pt->link->ops->region_write(pt->link, bar, offset + done, &b[done], n,
						     bar != PCI_ROM_BAR && !pt->func.bar[bar].is_io);
		if (rc < 0)
			log_limited(LOG_INFO, "%s: BAR %u: write of %u bytes at %#llx: %s", pt->func.id, bar,
				    n, (unsigned long long)(offset + done), err_text(-rc));
	}
}

// True if all of the access is of the MSI-X table (or its pending bits); *touches: if a part of it is.
static bool in_table(const struct passthrough *pt, unsigned bar, uint64_t offset, unsigned size,
		     uint64_t *within, bool *touches)
{
	const uint64_t len = msix_table_size(&pt->msix.table);
	*touches = len && bar == pt->table_bar && range_overlaps(offset, size, pt->table_offset, len);
	*within = offset - pt->table_offset;
	return *touches && offset >= pt->table_offset && range_in(*within, size, len);
}

static bool in_pba(const struct passthrough *pt, unsigned bar, uint64_t offset, unsigned size,
		   uint64_t *within, bool *touches)
{
	const uint64_t len = pt->msix.table.count ? msix_pba_size(&pt->msix.table) : 0;
	*touches = len && bar == pt->pba_bar && range_overlaps(offset, size, pt->pba_offset, len);
	*within = offset - pt->pba_offset;
	return *touches && offset >= pt->pba_offset && range_in(*within, size, len);
}

void pt_bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	struct passthrough *pt = pt_of(f);
	uint64_t within;
	bool table, pba;
	*val = ~UINT64_C(0);
	if (!pt_alive(pt) || pt->asleep)
		return;
	if (in_table(pt, bar, offset, size, &within, &table))
		*val = msix_table_read(&pt->msix.table, within, size);
	else if (in_pba(pt, bar, offset, size, &within, &pba))
		*val = pt_irqs_pba_read(pt, within, size);
	else if (!table && !pba && range_in(offset, size, pt->bar_size[bar]) &&
		 !region_read(pt, bar, offset, size, val))
		log_limited(LOG_INFO, "%s: BAR %u: read of %u bytes at %#llx failed", f->id, bar, size,
			    (unsigned long long)offset);
	pt_irqs_touched(pt);
}

void pt_bar_write(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	struct passthrough *pt = pt_of(f);
	uint64_t within;
	bool table, pba;
	if (!pt_alive(pt) || pt->asleep)
		return;
	if (in_table(pt, bar, offset, size, &within, &table))
		pt_irqs_table_write(pt, within, size, val);
	else if (!in_pba(pt, bar, offset, size, &within, &pba) && !table && !pba &&
		 range_in(offset, size, pt->bar_size[bar]))
		// Also a doorbell's that KVM did not take: the eventfd is the server's, and might have us wait.
		region_write(pt, bar, offset, size, val);
	pt_irqs_touched(pt);
}

// ---- set-up -----------------------------------------------------------------------------------------------------

static int bar_add(struct passthrough *pt, unsigned i, const struct vfio_region *r, struct err *e)
{
	struct pci_func *f = &pt->func;
	uint8_t flags;
	int rc = pt->link->ops->region_read(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, pci_bar_register(i),
					    &flags, 1);
	if (rc < 0)
		return err_sys(e, -rc, "%s: BAR %u: read its register", f->id, i);
	const bool io = flags & PCI_BASE_ADDRESS_SPACE_IO,
		   wide = !io && (flags & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (!is_power_of_two(r->size) || r->size < (io ? 4 : 16) || r->size > (io ? IO_BAR_MAX : BAR_MAX))
		return err_set(e, EPROTO, "%s: BAR %u of %llu bytes; a power of two from %d on is possible",
			       f->id, i, (unsigned long long)r->size, io ? 4 : 16);
	if (wide && i == PCI_ROM_BAR - 1)
		return err_set(e, EPROTO, "%s: BAR %u has 64 bits, of which 32 are another's", f->id, i);
	if (io)
		pci_func_add_io_bar(f, i, r->size);
	else
		pci_func_add_bar(f, i, r->size, wide, flags & PCI_BASE_ADDRESS_MEM_PREFETCH);
	pt->bar_size[i] = r->size;
	return 0;
}

// A ROM is no power of two where its host says how long the image is.
static void rom_add(struct passthrough *pt, const struct vfio_region *r)
{
	uint64_t size = 2048;
	if (!r->readable || r->size > ROM_MAX)
		return;
	while (size < r->size)
		size *= 2;
	pci_func_add_rom(&pt->func, size);
	pt->bar_size[PCI_ROM_BAR] = r->size;
}

static int doorbells_add(struct passthrough *pt, unsigned bar, struct err *e)
{
	struct vfio_doorbell d[PT_DOORBELLS_MAX];
	const unsigned room = PT_DOORBELLS_MAX - pt->doorbell_count;
	int n = pt->link->ops->region_doorbells(pt->link, bar, d, room);
	for (int i = 0; i < n && (unsigned)i < room; i++) {
		if (!range_in(d[i].offset, MAX(d[i].size, 1u), pt->bar_size[bar]))
			return err_set(e, EPROTO, "%s: BAR %u: a doorbell at %#llx, beyond its end",
				       pt->func.id, bar, (unsigned long long)d[i].offset);
		pt->doorbell[pt->doorbell_count++] = (struct pt_doorbell){ .place = d[i], .bar = bar };
	}
	return 0;
}

// Where the table is has to be settled before anything is mapped.
static int table_place(struct passthrough *pt, struct err *e)
{
	const struct pci_func *f = &pt->func;
	if (!pt->msix.table.count)
		return 0;
	const uint32_t table = pci_config_get32(f, pt->msix.cap + PCI_MSIX_TABLE),
		       pba = pci_config_get32(f, pt->msix.cap + PCI_MSIX_PBA);
	pt->table_bar = table & PCI_MSIX_TABLE_BIR;
	pt->pba_bar = pba & PCI_MSIX_PBA_BIR;
	pt->table_offset = table & PCI_MSIX_TABLE_OFFSET;
	pt->pba_offset = pba & PCI_MSIX_PBA_OFFSET;
	if (pt->table_bar >= PCI_ROM_BAR || pt->pba_bar >= PCI_ROM_BAR ||
	    !range_in(pt->table_offset, msix_table_size(&pt->msix.table), pt->bar_size[pt->table_bar]) ||
	    !range_in(pt->pba_offset, msix_pba_size(&pt->msix.table), pt->bar_size[pt->pba_bar]) ||
	    (pt->table_bar == pt->pba_bar &&
	     range_overlaps(pt->table_offset, msix_table_size(&pt->msix.table), pt->pba_offset,
			    msix_pba_size(&pt->msix.table))))
		return err_set(
			e, EPROTO,
			"%s: its MSI-X table (BAR %u, %#llx) or pending bits (BAR %u, %#llx) lie in no "
			"BAR, or in each other",
			f->id, pt->table_bar, (unsigned long long)pt->table_offset, pt->pba_bar,
			(unsigned long long)pt->pba_offset);
	return 0;
}

static void regions_ask(struct passthrough *pt, struct vfio_region regions[PCI_BARS])
{
	_Static_assert(VFIO_PCI_BAR5_REGION_INDEX + 1 == VFIO_PCI_ROM_REGION_INDEX &&
			       VFIO_PCI_ROM_REGION_INDEX == PCI_ROM_BAR,
		       "regions and BARs have the same numbers");
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (pt->link->ops->region_info(pt->link, i, &regions[i]) < 0)
			regions[i] = (struct vfio_region){ .fd = -1 };
}

int pt_bars_init(struct passthrough *pt, struct err *e)
{
	struct vfio_region regions[PCI_BARS];
	regions_ask(pt, regions);
	for (unsigned i = 0; i < PCI_ROM_BAR; i++) {
		if (!regions[i].size)
			continue;
		int rc = bar_add(pt, i, &regions[i], e);
		if (rc == 0)
			rc = doorbells_add(pt, i, e);
		if (rc < 0)
			return rc;
		if (pt->func.bar[i].is_64bit && regions[++i].size)
			return err_set(e, EPROTO, "%s: BAR %u lies in the upper half of the one before",
				       pt->func.id, i);
	}
	if (regions[PCI_ROM_BAR].size)
		rom_add(pt, &regions[PCI_ROM_BAR]);
	int rc = table_place(pt, e);
	if (rc == 0)
		pt_map_fill(pt, &pt->map, regions);
	return rc;
}

int pt_bars_again(struct passthrough *pt, struct err *e)
{
	struct vfio_region regions[PCI_BARS];
	int rc = 0;
	pt_map_free(&pt->map);
	regions_ask(pt, regions);
	pt_map_fill(pt, &pt->map, regions);
	pt->doorbell_count = 0;
	for (unsigned i = 0; i < PCI_ROM_BAR && rc == 0; i++)
		if (pt->bar_size[i])
			rc = doorbells_add(pt, i, e);
	return rc;
}

void pt_bars_free(struct passthrough *pt)
{
	pt_map_free(&pt->map);
}
