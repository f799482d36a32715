// SPDX-License-Identifier: BSD-2-Clause
// The configuration space of a passthrough function: a shadow of the device's.
//
// Each byte is the shadow's or, where the device alone gives it a meaning, the device's; each bit that a write carries to the device is in
// a mask.  Capabilities that this monitor handles keep their place and are its own; of the others those are shown that work
// without it, and the rest is left out:
//   extended: serial number and vendor's own are shown.  Not SR-IOV, ARI, Resizable BAR (they change what the bus looks like), not ATS,
//   PRI, PASID (there is no guest IOMMU to go with them), not AER, LTR, L1 substates, TPH, ACS, DPC, VC (the host's, or a port's).
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>

#define COMMAND_CARRIED (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

int pt_device_read(struct passthrough *pt, unsigned offset, void *buf, unsigned len)
{
	return pt->link->ops->region_read(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, offset, buf, len);
}

static int device_write(struct passthrough *pt, unsigned offset, const void *buf, unsigned len)
{
	return pt->link->ops->region_write(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, offset, buf, len, false);
}

static void device_write16(struct passthrough *pt, unsigned offset, uint16_t val)
{
	const uint8_t bytes[] = { (uint8_t)val, (uint8_t)(val >> 8) };
	int rc = device_write(pt, offset, bytes, sizeof(bytes));
	if (rc < 0)
		log_limited(LOG_WARN, "%s: write %#x to its configuration at %#x: %s", pt->func.id, val,
			    offset, err_text(-rc));
}

// ---- accesses ---------------------------------------------------------------------------------------------------

static const struct pt_ext_cap *extended_at(const struct passthrough *pt, unsigned offset, unsigned size)
{
	for (unsigned i = 0; i < pt->ext_count; i++)
		if (offset >= pt->ext[i].offset && range_in(offset - pt->ext[i].offset, size, pt->ext[i].len))
			return &pt->ext[i];
	return NULL;
}

static uint32_t device_value(struct passthrough *pt, unsigned offset, unsigned size)
{
	uint8_t b[4] = { 0 };
	uint32_t val = 0;
	if (pt_device_read(pt, offset, b, size) < 0)
		return UINT32_MAX;
	for (unsigned i = 0; i < size; i++)
		val |= (uint32_t)b[i] << (8 * i);
	return val;
}

static void extended_read(struct passthrough *pt, unsigned offset, unsigned size, uint32_t *val)
{
	const struct pt_ext_cap *c = extended_at(pt, offset, size);
	if (c && offset - c->offset < 4)
		*val = c->header >> (8 * (offset - c->offset));
	else if (c)
		*val = device_value(pt, offset, size);
}

void pt_config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	struct passthrough *pt = pt_of(f);
	if (!pt_alive(pt)) {
		*val = UINT32_MAX;
		return;
	}
	if (offset >= PCI_CONFIG_SIZE) {
		extended_read(pt, offset, size, val);
		return;
	}
	uint32_t mask = 0;
	for (unsigned i = 0; i < size; i++)
		if (pt->from_device[offset + i])
			mask |= UINT32_C(0xff) << (8 * i);
	if (offset <= PCI_STATUS && PCI_STATUS < offset + size) // of which one bit is the list's
		mask &= ~((uint32_t)PCI_STATUS_CAP_LIST << (8 * (PCI_STATUS - offset)));
	if (mask)
		*val = (*val & ~mask) | (device_value(pt, offset, size) & mask);
}

static void carry(struct passthrough *pt, unsigned offset, unsigned size, uint32_t val)
{
	uint8_t now[4] = { 0 }, any = 0, all = 0xff;
	for (unsigned i = 0; i < size; i++) {
		any |= pt->to_device[offset + i];
		all &= pt->to_device[offset + i];
	}
	if (!any || (all != 0xff && pt_device_read(pt, offset, now, size) < 0))
		return;
	for (unsigned i = 0; i < size; i++) {
		const uint8_t mask = pt->to_device[offset + i];
		now[i] = (uint8_t)((now[i] & ~mask) | ((uint8_t)(val >> (8 * i)) & mask));
	}
	device_write(pt, offset, now, size);
}

void pt_command_carry(struct passthrough *pt)
{
	const uint16_t command = pci_config_get16(&pt->func, PCI_COMMAND) & COMMAND_CARRIED;
	if (command == pt->command || !pt_alive(pt))
		return;
	device_write16(pt, PCI_COMMAND, command);
	pt->command = command;
}

void pt_config_reset(struct passthrough *pt)
{
	pt->command = PT_COMMAND_UNKNOWN;
	pt->asleep = false;
}

// The byte that an access writes at `at`, 0 if it writes none there.
static uint32_t written(unsigned offset, unsigned size, uint32_t val, unsigned at)
{
	return at >= offset && at - offset < size ? val >> (8 * (at - offset)) & 0xff : 0;
}

static void power_write(struct passthrough *pt)
{
	struct pci_func *f = &pt->func;
	const unsigned ctrl = pt->pm_cap + PCI_PM_CTRL;
	const uint16_t can = pci_config_get16(f, pt->pm_cap + PCI_PM_PMC);
	const unsigned state = f->config[ctrl] & PCI_PM_CTRL_STATE_MASK;
	if ((state == 1 && !(can & PCI_PM_CAP_D1)) || (state == 2 && !(can & PCI_PM_CAP_D2))) {
		f->config[ctrl] &= (uint8_t)~PCI_PM_CTRL_STATE_MASK; // no such state: it stays awake
		return;
	}
	if (state) {
		pt_bars_hide(pt);
		pt->asleep = true;
	}
	device_write16(pt, ctrl, (uint16_t)state);
	if (!state && pt->asleep) {
		pt_config_reset(pt); // it may have forgotten
		pt_command_carry(pt);
		pt_bars_show(pt);
	}
}

static bool asks_for_reset(const struct passthrough *pt, unsigned offset, unsigned size, uint32_t val)
{
	const unsigned devctl = pt->express_cap + PCI_EXP_DEVCTL;
	if (pt->express_cap && written(offset, size, val, devctl + 1) & PCI_EXP_DEVCTL_BCR_FLR >> 8)
		return pci_config_get32(&pt->func, pt->express_cap + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR;
	return pt->af_cap && written(offset, size, val, pt->af_cap + PCI_AF_CTRL) & PCI_AF_CTRL_FLR;
}

// Message Control is ours; a server may want to know it nevertheless.
static void message_control_carry(struct passthrough *pt, unsigned cap, uint16_t mask)
{
	const uint16_t flags = pci_config_get16(&pt->func, cap + PCI_CAP_FLAGS) & mask;
	device_write16(pt, cap + PCI_CAP_FLAGS, flags);
}

void pt_config_carry(struct passthrough *pt)
{
	pt_command_carry(pt);
	if (pt->msi.cap)
		message_control_carry(pt, pt->msi.cap, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	if (pt->msix.cap)
		message_control_carry(pt, pt->msix.cap, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	if (pt->express_cap) {
		const unsigned at = pt->express_cap + PCI_EXP_DEVCTL;
		carry(pt, at, 2, pci_config_get16(&pt->func, at));
	}
}

static void messages_write(struct passthrough *pt, unsigned offset, unsigned size)
{
	if (pt->msi.cap &&
	    range_overlaps(offset, size, pt->msi.cap + 2, pt_msi_len(&pt->func, pt->msi.cap) - 2)) {
		pt_irqs_msi_write(pt);
		if (range_overlaps(offset, size, pt->msi.cap + PCI_MSI_FLAGS, 2))
			message_control_carry(pt, pt->msi.cap, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	}
	if (pt->msix.cap && range_overlaps(offset, size, pt->msix.cap + PCI_MSIX_FLAGS, 2)) {
		pt_irqs_msix_write(pt);
		message_control_carry(pt, pt->msix.cap, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	}
}

void pt_config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	struct passthrough *pt = pt_of(f);
	if (!pt_alive(pt)) { // its BARs may be moved, its capabilities take nothing
		if (offset >= PCI_STD_HEADER_SIZEOF && offset < PCI_CONFIG_SIZE)
			memcpy(&f->config[offset], &pt->frozen[offset], size);
		return;
	}
	if (offset >= PCI_CONFIG_SIZE) {
		const struct pt_ext_cap *c = extended_at(pt, offset, size);
		const uint8_t b[] = { (uint8_t)val, (uint8_t)(val >> 8), (uint8_t)(val >> 16),
				      (uint8_t)(val >> 24) };
		if (c && c->writable && offset - c->offset >= 8)
			device_write(pt, offset, b, size);
		return;
	}
	if (asks_for_reset(pt, offset, size, val)) {
		pci_func_reset(f);
		return;
	}
	if (range_overlaps(offset, size, PCI_COMMAND, 2)) {
		pt_command_carry(pt);
		pt_irqs_sync(pt);
	}
	if (pt->pm_cap && range_overlaps(offset, size, pt->pm_cap + PCI_PM_CTRL, 1))
		power_write(pt);
	messages_write(pt, offset, size);
	carry(pt, offset, size, val);
}

// ---- set-up -----------------------------------------------------------------------------------------------------

// What is as the device says, of the header.
static void header_show(struct passthrough *pt, const uint8_t *dev)
{
	static const uint8_t kept[][2] = { { PCI_VENDOR_ID, 4 },	   { PCI_REVISION_ID, 4 },
					   { PCI_CACHE_LINE_SIZE, 2 },	   { PCI_CARDBUS_CIS, 4 },
					   { PCI_SUBSYSTEM_VENDOR_ID, 4 }, { PCI_MIN_GNT, 2 } };
	for (unsigned i = 0; i < ARRAY_LEN(kept); i++)
		memcpy(&pt->func.config[kept[i][0]], &dev[kept[i][0]], kept[i][1]);
	memset(&pt->from_device[PCI_STATUS], 1, 2);
}

int pt_config_init(struct passthrough *pt, struct err *e)
{
	struct pci_func *f = &pt->func;
	struct vfio_region r;
	uint8_t dev[PCI_CONFIG_SIZE] = { 0 };
	int rc = pt->link->ops->region_info(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, &r);
	if (rc < 0 || r.size < PCI_STD_HEADER_SIZEOF || !r.readable || !r.writable)
		return err_set(e, EPROTO, "%s: the device has no PCI configuration space", f->id);
	pt->config_size = r.size >= PCI_CONFIG_LARGE ? PCI_CONFIG_LARGE : PCI_CONFIG_SIZE;
	const unsigned len =
		(unsigned)MIN(r.size, PCI_CONFIG_SIZE) & ~3u; // of the kernel's mtty it has 255 bytes
	rc = pt_device_read(pt, 0, dev, len);
	if (rc < 0)
		return err_sys(e, -rc, "%s: read its configuration space", f->id);
	if ((dev[PCI_HEADER_TYPE] & 0x7f) != PCI_HEADER_TYPE_NORMAL || (dev[0] & dev[1]) == 0xff)
		return err_set(e, ENOTSUP, "%s: the device is no endpoint (header type %#x, vendor %02x%02x)",
			       f->id, dev[PCI_HEADER_TYPE], dev[1], dev[0]);
	header_show(pt, dev);
	memcpy(&f->config[PCI_STD_HEADER_SIZEOF], &dev[PCI_STD_HEADER_SIZEOF],
	       PCI_CONFIG_SIZE - PCI_STD_HEADER_SIZEOF);
	memset(&pt->from_device[PCI_STD_HEADER_SIZEOF], 1, len - PCI_STD_HEADER_SIZEOF);
	memset(&pt->to_device[PCI_STD_HEADER_SIZEOF], 0xff, len - PCI_STD_HEADER_SIZEOF);
	f->config[PCI_CAPABILITY_LIST] = dev[PCI_CAPABILITY_LIST];
	f->config[PCI_STATUS] = dev[PCI_STATUS] & PCI_STATUS_CAP_LIST;
	rc = pt_capabilities_show(pt, e);
	if (rc == 0 && pt->config_size == PCI_CONFIG_LARGE && pt->express_cap)
		rc = pt_extended_show(pt, e);
	if (rc < 0)
		return rc;
	pt_config_reset(pt);
	pt_command_carry(pt);
	return 0;
}
