// SPDX-License-Identifier: BSD-2-Clause
// The capabilities of a passthrough function: which of the device's the guest sees, and what of them.
//
// Called once, by pt_config_init() (passthrough_config.c), which has copied the device's space into the shadow.  A list that runs in a
// circle, or out of the space, is refused.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"

#include <errno.h>
#include <string.h>

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

unsigned pt_msi_len(const struct pci_func *f, unsigned at)
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
		len = pt_msi_len(f, at);
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

int pt_capabilities_show(struct passthrough *pt, struct err *e)
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

static uint32_t get32(const uint8_t *b)
{
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

// Bytes of one that is shown; 0: it is not.
static unsigned extended_len(const uint8_t *space, unsigned at, uint32_t header)
{
	switch (header & 0xffff) {
	case PCI_EXT_CAP_ID_DSN:
		return PCI_EXT_CAP_DSN_SIZEOF;
	case PCI_EXT_CAP_ID_VNDR:
		return at + 8 > PCI_CONFIG_LARGE ? 0 : MAX(get32(space + at + 4) >> 20, 8u);
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

int pt_extended_show(struct passthrough *pt, struct err *e)
{
	uint8_t seen[PCI_CONFIG_LARGE / 32] = { 0 }, space[PCI_CONFIG_LARGE];
	uint32_t header;
	// In one piece: a list of a thousand would else be as many answers to wait for.
	if (pt_device_read(pt, PCI_CONFIG_SIZE, space + PCI_CONFIG_SIZE, PCI_CONFIG_LARGE - PCI_CONFIG_SIZE) <
	    0)
		memset(space, 0, sizeof(space));
	for (unsigned at = PCI_CONFIG_SIZE; at; at = header >> 20 & 0xffc) {
		if (at < PCI_CONFIG_SIZE || seen[at / 32] & 1u << at / 4 % 8)
			return err_set(e, EPROTO, "%s: the device's list of extended capabilities %s at %#x",
				       pt->func.id,
				       at < PCI_CONFIG_SIZE ? "leads into the header" : "runs in a circle",
				       at);
		seen[at / 32] |= (uint8_t)(1u << at / 4 % 8);
		header = get32(space + at);
		if (header == 0 || header == UINT32_MAX)
			break;
		const unsigned len = extended_len(space, at, header);
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
