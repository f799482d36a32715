// SPDX-License-Identifier: BSD-2-Clause
// A device whose carrier died and is there again.
//
// Its server says nothing of whether it still has its state, so it is asked for what tells: a command register that stands as it was left is one
// that was not reset.  Such a device goes on, with an interrupt too many.  Any other is reset, to be sure, and told again what the
// guest keeps in the configuration space, as after a function-level reset; its driver finds out by its own means.  Or, where the link says so
// (replug), it stays away until the guest has seen that it is gone, and is then a new one to the guest.
// One that is not the same device is refused, and stays dead.
#include "bridges/passthrough_impl.h"
#include "vmm/base/check.h"
#include "vmm/base/err.h"
#include "vmm/base/log.h"
#include "vmm/pci_hotplug.h"

#include <errno.h>
#include <string.h>

// Registers that make a function what it is; those of MSI-X say where our vectors are.
static int same(struct passthrough *pt, struct err *e)
{
	const struct {
		unsigned at, len;
		bool any;
		uint8_t mask; // of the last byte
		const char *what;
	} regs[] = {
		{ PCI_VENDOR_ID, 4, true, 0xff, "identity" },
		{ PCI_REVISION_ID, 4, true, 0xff, "class" },
		{ PCI_SUBSYSTEM_VENDOR_ID, 4, true, 0xff, "subsystem" },
		{ pt->msix.cap + PCI_CAP_FLAGS, 2, pt->msix.cap, PCI_MSIX_FLAGS_QSIZE >> 8,
		  "MSI-X capability" },
		{ pt->msix.cap + PCI_MSIX_TABLE, 8, pt->msix.cap, 0xff, "MSI-X table" },
		{ pt->msi.cap, 1, pt->msi.cap, 0xff, "MSI capability" },
		{ pt->pm_cap, 1, pt->pm_cap, 0xff, "power management" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(regs); i++) {
		uint8_t now[8];
		const unsigned last = regs[i].len - 1;
		if (!regs[i].any)
			continue;
		int rc = pt_device_read(pt, regs[i].at, now, regs[i].len);
		if (rc < 0)
			return err_set(e, EAGAIN, "read its configuration space: %s", err_text(-rc));
		if (memcmp(now, &pt->func.config[regs[i].at], last) != 0 ||
		    ((now[last] ^ pt->func.config[regs[i].at + last]) & regs[i].mask))
			return err_set(e, ENODEV, "another device: its %s is another one", regs[i].what);
	}
	return 0;
}

static int ended(struct err *e)
{
	return err_set(e, ECANCELED, "the machine ends");
}

static bool kept_its_state(struct passthrough *pt)
{
	uint8_t b[2];
	if (pt->command == PT_COMMAND_UNKNOWN || pt->command == 0 ||
	    pt_device_read(pt, PCI_COMMAND, b, sizeof(b)) < 0)
		return false;
	return (b[0] | b[1] << 8) == pt->command;
}

// The guest saw the device go, and is told to look at what is in its place.
static void plug_in(struct passthrough *pt)
{
	pt->dead = false;
	pci_func_reset(&pt->func);
	pci_hotplug_look(&pt->func);
	log_limited(LOG_WARN, "%s: the guest saw the device go, and sees it plugged in anew", pt->func.id);
}

// All is as the guest has set it up.
static void go_on(struct passthrough *pt, bool kept)
{
	pt->dead = false;
	log_limited(LOG_WARN, "%s: the device is there again, %s", pt->func.id,
		    kept ? "as it was" : "as after a reset: its driver has to set it up anew");
	pt_config_carry(pt);
	pt_irqs_msi_write(pt);
	pt_irqs_msix_write(pt);
	pt_irqs_sync(pt);
	if (kept)
		pt_irqs_raise(pt);
	pt_bars_show(pt);
}

static int revive(struct passthrough *pt, struct err *e)
{
	struct err why;
	int rc = same(pt, e);
	if (rc == 0 && pt_bars_again(pt, &why) < 0)
		rc = err_set(e, ENODEV, "another device: %s", why.text);
	if (rc < 0)
		return rc;
	if (pt_dma_map(pt, &why) < 0)
		return err_set(e, EAGAIN, "%s", why.text);
	const bool kept = kept_its_state(pt);
	if (!kept && pt->link->can_reset && (rc = pt->link->ops->reset(pt->link)) < 0)
		return err_set(e, EAGAIN, "reset: %s", err_text(-rc));
	if (!kept)
		pt->command = PT_COMMAND_UNKNOWN;
	const bool pulled = !kept && pt->link->replug && pt_plug_pull(pt);
	if (pt->ending)
		return ended(e);
	if (pulled)
		plug_in(pt);
	else
		go_on(pt, kept);
	return 0;
}

int pt_returned(void *owner, struct err *e)
{
	struct passthrough *pt = owner;
	int rc = ended(e);
	pci_func_lock(&pt->func);
	// Of the connection before; there is none yet of this one.
	atomic_fetch_and(&pt->func.events, ~PT_EVENT_DIED);
	pt_die(pt, "what carried it is gone");
	pt->mapped = false;
	if (!pt->ending && pt->link)
		rc = revive(pt, e);
	pci_func_unlock(&pt->func);
	return rc;
}
