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
#define COMMAND_UNKNOWN UINT16_MAX

static int device_read(struct passthrough *pt, unsigned offset, void *buf, unsigned len)
{
	return pt->link->ops->region_read(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, offset, buf, len);
}

static int device_write(struct passthrough *pt, unsigned offset, const void *buf, unsigned len)
{
	return pt->link->ops->region_write(pt->link, VFIO_PCI_CONFIG_REGION_INDEX, offset, buf, len);
}

static void device_write16(struct passthrough *pt, unsigned offset, uint16_t val)
{
	const uint8_t bytes[] = { (uint8_t)val, (uint8_t)(val >> 8) };
	int rc = device_write(pt, offset, bytes, sizeof(bytes));
	if (rc < 0)
		log_limited(LOG_WARN, "%s: write %#x to its configuration at %#x: %s", pt->func.id, val,
			    offset, err_text(-rc));
}

// ---- capabilities -----------------------------------------------------------------------------------------------

static void shadow(struct passthrough *pt, unsigned offset, unsigned len)
{
	memset(&pt->from_device[offset], 0, len);
	memset(&pt->to_device[offset], 0, len);
}

// Only the bits that may be kept, and those that the guest may change.
static void register16(struct passthrough *pt, unsigned offset, uint16_t kept, uint16_t writable)
{
	struct pci_func *f = &pt->func;
	pci_config_set16(f, offset, pci_config_get16(f, offset) & kept);
	f->writable[offset] = (uint8_t)writable;
	f->writable[offset + 1] = (uint8_t)(writable >> 8);
}

static void clear(struct passthrough *pt, unsigned offset, unsigned len)
{
	shadow(pt, offset, len);
	memset(&pt->func.config[offset], 0, len);
}

#define PM_CAP_PME 0xf800

static void pm_show(struct passthrough *pt, unsigned at)
{
	pt->pm_cap = at;
	shadow(pt, at, PCI_PM_SIZEOF);
	register16(pt, at + PCI_PM_PMC, (uint16_t)~PM_CAP_PME, 0); // nobody hears a PME
	register16(pt, at + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET, PCI_PM_CTRL_STATE_MASK);
	clear(pt, at + PCI_PM_PPB_EXTENSIONS, 2);
}

static unsigned msi_len(const struct pci_func *f, unsigned at)
{
	const uint16_t flags = pci_config_get16(f, at + PCI_MSI_FLAGS);
	unsigned len = flags & PCI_MSI_FLAGS_64BIT ? 14 : 10;
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		len = flags & PCI_MSI_FLAGS_64BIT ? 24 : 20;
	return len;
}

static void msi_show(struct passthrough *pt, unsigned at, unsigned len)
{
	struct pci_func *f = &pt->func;
	const uint16_t flags = pci_config_get16(f, at + PCI_MSI_FLAGS);
	const bool wide = flags & PCI_MSI_FLAGS_64BIT;
	const unsigned data = at + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32);
	pt->msi.cap = at;
	clear(pt, at + PCI_MSI_ADDRESS_LO, len - PCI_MSI_ADDRESS_LO);
	shadow(pt, at, len);
	register16(pt, at + PCI_MSI_FLAGS, PCI_MSI_FLAGS_QMASK | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT,
		   PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	memset(&f->writable[at + PCI_MSI_ADDRESS_LO], 0xff, wide ? 8 : 4);
	f->writable[at + PCI_MSI_ADDRESS_LO] = 0xfc;
	memset(&f->writable[data], 0xff, 2);
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		memset(&f->writable[at + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32)], 0xff, 4);
}

static void msix_show(struct passthrough *pt, unsigned at)
{
	pt->msix.cap = at;
	shadow(pt, at, PCI_CAP_MSIX_SIZEOF);
	register16(pt, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_QSIZE,
		   PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
}

// What the driver may ask of the device itself; the rest of DEVCTL is remembered and has no effect, as the host settles it.
#define DEVCTL_CARRIED (PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ)
#define DEVCTL_KEPT    (DEVCTL_CARRIED | PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_EXT_TAG | 0x000f)

#define EXPRESS_LEN_MIN 0x14
#define EXPRESS_LEN	0x3c

static unsigned express_len(const struct pci_func *f, unsigned at)
{
	return (pci_config_get16(f, at + PCI_EXP_FLAGS) & PCI_EXP_FLAGS_VERS) > 1 ? EXPRESS_LEN
										  : EXPRESS_LEN_MIN;
}

// On the root bus an endpoint has no link above it, so it is shown as one that is integrated (PCI Express 4.0 §1.3.2.3).
static void express_show(struct passthrough *pt, unsigned at, unsigned len)
{
	struct pci_func *f = &pt->func;
	pt->express_cap = at;
	shadow(pt, at, len);
	register16(pt, at + PCI_EXP_FLAGS, PCI_EXP_FLAGS_VERS, 0);
	f->config[at + PCI_EXP_FLAGS] |= PCI_EXP_TYPE_RC_END << 4;
	uint32_t cap = pci_config_get32(f, at + PCI_EXP_DEVCAP) & ~(uint32_t)PCI_EXP_DEVCAP_PHANTOM;
	if (!pt->link->can_reset)
		cap &= ~(uint32_t)PCI_EXP_DEVCAP_FLR;
	pci_config_set32(f, at + PCI_EXP_DEVCAP, cap);
	register16(pt, at + PCI_EXP_DEVCTL, DEVCTL_KEPT, DEVCTL_KEPT);
	pt->to_device[at + PCI_EXP_DEVCTL] = DEVCTL_CARRIED & 0xff;
	pt->to_device[at + PCI_EXP_DEVCTL + 1] = DEVCTL_CARRIED >> 8;
	memset(&pt->from_device[at + PCI_EXP_DEVSTA], 1, 2); // transactions pending
	clear(pt, at + PCI_EXP_LNKCAP, len - PCI_EXP_LNKCAP);
}

#define AF_LEN 6

static bool af_show(struct passthrough *pt, unsigned at)
{
	if (!pt->link->can_reset)
		return false;
	pt->af_cap = at;
	shadow(pt, at, AF_LEN);
	register16(pt, at + PCI_AF_CTRL, 0, 0);
	pt->from_device[at + PCI_AF_STATUS] = 1;
	return true;
}

// False for one that is left out.  `room`: bytes up to the next one.
static bool capability_show(struct passthrough *pt, unsigned at, unsigned room)
{
	const struct pci_func *f = &pt->func;
	static const struct {
		uint8_t id, len;
	} fixed[] = { { PCI_CAP_ID_PM, PCI_PM_SIZEOF },
		      { PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF },
		      { PCI_CAP_ID_AF, AF_LEN },
		      { PCI_CAP_ID_MSI, 24 },
		      { PCI_CAP_ID_EXP, EXPRESS_LEN } };
	const uint8_t id = f->config[at];
	unsigned len = 0;
	for (unsigned i = 0; i < ARRAY_LEN(fixed); i++)
		if (fixed[i].id == id)
			len = fixed[i].len;
	if (id == PCI_CAP_ID_MSI && room >= 4)
		len = msi_len(f, at);
	if (id == PCI_CAP_ID_EXP && room >= EXPRESS_LEN_MIN)
		len = MIN(express_len(f, at), room); // shorter without registers of slots
	if (len > room)
		return false;
	shadow(pt, at, 2);
	switch (id) {
	case PCI_CAP_ID_PM:
		pm_show(pt, at);
		return true;
	case PCI_CAP_ID_MSI:
		msi_show(pt, at, len);
		return true;
	case PCI_CAP_ID_MSIX:
		msix_show(pt, at);
		return true;
	case PCI_CAP_ID_EXP:
		express_show(pt, at, len);
		return true;
	case PCI_CAP_ID_AF:
		return af_show(pt, at);
	case PCI_CAP_ID_VPD:
	case PCI_CAP_ID_VNDR:
		return true; // the device's own
	case PCI_CAP_ID_SATA:
		memset(&pt->to_device[at], 0, MIN(room, 8u));
		return true;
	default:
		return false;
	}
}

// The place of the capability that follows `at` in memory, or the end.
static unsigned capability_end(const uint64_t starts, unsigned at)
{
	for (unsigned end = at + 4; end < PCI_CONFIG_SIZE; end += 4)
		if (starts & UINT64_C(1) << end / 4)
			return end;
	return PCI_CONFIG_SIZE;
}

static int capabilities_show(struct passthrough *pt, struct err *e)
{
	struct pci_func *f = &pt->func;
	uint64_t starts = 0; // bit per four bytes
	uint8_t list[PCI_CONFIG_SIZE / 4];
	unsigned count = 0, last = PCI_CAPABILITY_LIST;
	const bool any = f->config[PCI_STATUS] & PCI_STATUS_CAP_LIST;
	for (unsigned at = any ? f->config[PCI_CAPABILITY_LIST] & 0xfcu : 0; at;
	     at = f->config[at + PCI_CAP_LIST_NEXT] & 0xfcu) {
		if (at < PCI_STD_HEADER_SIZEOF || starts & UINT64_C(1) << at / 4)
			return err_set(e, EPROTO, "%s: the device's list of capabilities %s at %#x", f->id,
				       at < PCI_STD_HEADER_SIZEOF ? "leads into the header"
								  : "runs in a circle",
				       at);
		starts |= UINT64_C(1) << at / 4;
		list[count++] = (uint8_t)at;
	}
	f->config[PCI_CAPABILITY_LIST] = 0;
	f->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_CAP_LIST;
	for (unsigned i = 0; i < count; i++) {
		const unsigned at = list[i], room = capability_end(starts, at) - at;
		const uint8_t id = f->config[at];
		if (!capability_show(pt, at, room)) {
			log_info("%s: capability %#x at %#x is not shown to the guest", f->id, id, at);
			clear(pt, at, room);
			continue;
		}
		f->config[last] = (uint8_t)at;
		f->config[at + PCI_CAP_LIST_NEXT] = 0;
		f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
		last = at + PCI_CAP_LIST_NEXT;
	}
	return 0;
}

// ---- extended capabilities --------------------------------------------------------------------------------------

static int read32(struct passthrough *pt, unsigned offset, uint32_t *out)
{
	uint8_t b[4];
	int rc = device_read(pt, offset, b, sizeof(b));
	*out = rc < 0 ? 0
		      : (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
	return rc;
}

// Bytes of one that is shown; 0: it is not.
static unsigned extended_len(struct passthrough *pt, unsigned at, uint32_t header)
{
	uint32_t vendor;
	switch (header & 0xffff) {
	case PCI_EXT_CAP_ID_DSN:
		return PCI_EXT_CAP_DSN_SIZEOF;
	case PCI_EXT_CAP_ID_VNDR:
		if (at + 8 > PCI_CONFIG_LARGE || read32(pt, at + 4, &vendor) < 0)
			return 0;
		return MAX(vendor >> 20, 8u);
	default:
		return 0;
	}
}

static void extended_add(struct passthrough *pt, unsigned at, unsigned len, uint32_t header)
{
	struct pt_ext_cap *c = &pt->ext[pt->ext_count];
	*c = (struct pt_ext_cap){ .offset = (uint16_t)at, .len = (uint16_t)len, .header = header & 0xfffff };
	c->writable = (header & 0xffff) == PCI_EXT_CAP_ID_VNDR;
	if (pt->ext_count)
		c[-1].header |= (uint32_t)at << 20;
	pt->ext_count++;
}

static int extended_show(struct passthrough *pt, struct err *e)
{
	uint8_t seen[PCI_CONFIG_LARGE / 32] = { 0 };
	uint32_t header;
	for (unsigned at = PCI_CONFIG_SIZE; at; at = header >> 20 & 0xffc) {
		if (at < PCI_CONFIG_SIZE || seen[at / 32] & 1u << at / 4 % 8)
			return err_set(e, EPROTO, "%s: the device's list of extended capabilities %s at %#x",
				       pt->func.id,
				       at < PCI_CONFIG_SIZE ? "leads into the header" : "runs in a circle",
				       at);
		seen[at / 32] |= (uint8_t)(1u << at / 4 % 8);
		if (read32(pt, at, &header) < 0 || header == 0 || header == UINT32_MAX)
			break;
		const unsigned len = extended_len(pt, at, header);
		if (len && at + len <= PCI_CONFIG_LARGE && pt->ext_count < PT_EXT_CAPS_MAX) {
			if (at != PCI_CONFIG_SIZE && pt->ext_count == 0)
				extended_add(pt, PCI_CONFIG_SIZE, 4, 0); // the list has to begin there
			extended_add(pt, at, len, header);
		} else {
			log_info("%s: extended capability %#x at %#x is not shown to the guest", pt->func.id,
				 header & 0xffff, at);
		}
	}
	pt->func.config_size = PCI_CONFIG_LARGE;
	return 0;
}

static const struct pt_ext_cap *extended_at(const struct passthrough *pt, unsigned offset, unsigned size)
{
	for (unsigned i = 0; i < pt->ext_count; i++)
		if (offset >= pt->ext[i].offset && range_in(offset - pt->ext[i].offset, size, pt->ext[i].len))
			return &pt->ext[i];
	return NULL;
}

// ---- accesses ---------------------------------------------------------------------------------------------------

static uint32_t device_value(struct passthrough *pt, unsigned offset, unsigned size)
{
	uint8_t b[4] = { 0 };
	uint32_t val = 0;
	if (device_read(pt, offset, b, size) < 0)
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
	if (!any || (all != 0xff && device_read(pt, offset, now, size) < 0))
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
	pt->command = COMMAND_UNKNOWN;
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

static void messages_write(struct passthrough *pt, unsigned offset, unsigned size)
{
	if (pt->msi.cap &&
	    range_overlaps(offset, size, pt->msi.cap + 2, msi_len(&pt->func, pt->msi.cap) - 2)) {
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
	if (!pt_alive(pt))
		return;
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
	rc = device_read(pt, 0, dev, len);
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
	rc = capabilities_show(pt, e);
	if (rc == 0 && pt->config_size == PCI_CONFIG_LARGE && pt->express_cap)
		rc = extended_show(pt, e);
	if (rc < 0)
		return rc;
	pt_config_reset(pt);
	pt_command_carry(pt);
	return 0;
}
