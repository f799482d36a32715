// SPDX-License-Identifier: BSD-2-Clause
// minivmm-pci-example: a PCI function that is no virtio device, to learn from and to test clients of vfio-user with.
//
// BAR 0: a page of registers, and a page of memory that guest and device share; a DMA engine copies between that page and the guest's
// memory, starts with a doorbell and interrupts when it is done, by MSI-X or, where the driver does not use that, by the pin.
// BAR 2: 16 I/O ports that keep what is written.  BAR 4: the MSI-X table.  docs/device.md goes through it.
#include "devices/sdk/dev.h"
#include "devices/sdk/pdev.h"
#include "vmm/base/check.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define PAGE	 4096u
#define ID	 0x31584550u // "PEX1"
#define DOORBELL 0x20u	     // 4 bytes, behind the registers: any value starts a copy

enum { STATUS_IDLE, STATUS_DONE, STATUS_FAILED };
enum { BAR_REGISTERS = 0, BAR_PORTS = 2, BAR_MSIX = 4 };

static struct {
	struct registers {	   // of BAR 0, as the driver sees them
		uint32_t id, zero; // read-only
		uint64_t address;  // of the guest's memory
		uint32_t offset;   // in the shared page
		uint32_t length;
		uint32_t control; // 0 from the guest's memory to the page, 1 from there to it
		uint32_t status;  // of the last copy; a write takes the interrupt back
	} reg;
	uint8_t port[16];
} ex = { .reg.id = ID };
static uint8_t *page; // shared

static void copy(struct pdev *p)
{
	// What the driver wrote is looked at once, here: the page's own bounds by us, the guest's memory by the SDK.
	int rc = -EINVAL;
	if (range_in(ex.reg.offset, ex.reg.length, PAGE))
		rc = ex.reg.control & 1
			     ? pdev_dma_write(p, ex.reg.address, page + ex.reg.offset, ex.reg.length)
			     : pdev_dma_read(p, ex.reg.address, page + ex.reg.offset, ex.reg.length);
	ex.reg.status = rc == 0 ? STATUS_DONE : STATUS_FAILED;
	if (pdev_msix_on(p))
		pdev_interrupt(p, 0);
	else
		pdev_set_intx(p, true);
}

static void ex_doorbell(struct pdev *p, unsigned index)
{
	(void)index;
	copy(p);
}

// Where an access goes; NULL: nowhere.  The shared page is accessed so by clients that do not map it.
static uint8_t *place(unsigned bar, uint64_t offset, unsigned size)
{
	if (bar == BAR_PORTS && offset < sizeof(ex.port))
		return ex.port + offset;
	if (bar == BAR_REGISTERS && offset >= PAGE)
		return page + (offset - PAGE);
	return bar == BAR_REGISTERS && range_in(offset, size, sizeof(ex.reg)) ? (uint8_t *)&ex.reg + offset
									      : NULL;
}

static uint64_t ex_bar_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	const uint8_t *at = place(bar, offset, size);
	(void)p;
	if (at)
		memcpy(&val, at, size);
	return val;
}

static void ex_bar_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	const uint64_t first = offsetof(struct registers, address), last = offsetof(struct registers, status);
	uint8_t *at = place(bar, offset, size);
	if (bar == BAR_REGISTERS && offset == last) {
		ex.reg.status = STATUS_IDLE;
		pdev_set_intx(p, false);
	} else if (at && (bar == BAR_PORTS || offset >= PAGE || (offset >= first && offset + size <= last))) {
		memcpy(at, &val, size);
	}
}

static void ex_reset(struct pdev *p)
{
	(void)p;
	memset(page, 0, PAGE);
	memset(&ex, 0, sizeof(ex));
	ex.reg.id = ID;
}

static size_t ex_save(struct pdev *p, void *to)
{
	(void)p;
	memcpy(to, &ex, sizeof(ex));
	return sizeof(ex);
}

// A driver may have written anything into most of it: it is looked at when it is used.
static int ex_load(struct pdev *p, const void *from, size_t len)
{
	(void)p;
	if (len != sizeof(ex))
		return -EINVAL;
	memcpy(&ex, from, len);
	return ex.reg.id == ID && ex.reg.status <= STATUS_FAILED ? 0 : -EINVAL;
}

static int ex_open(struct vdev *d, struct err *e)
{
	struct pdev *p = d->pci;
	pdev_set_identity(p, 0x1af4, 0x10f0, 0xff0000, 1);
	pdev_add_bar(p, BAR_REGISTERS, UINT64_C(2) * PAGE, false);
	pdev_add_io_bar(p, BAR_PORTS, sizeof(ex.port));
	pdev_add_bar(p, BAR_MSIX, PAGE, true);
	pdev_add_intx(p);
	pdev_add_msix(p, 1, BAR_MSIX, 0, PAGE / 2);
	pdev_add_doorbell(p, BAR_REGISTERS, DOORBELL, 4);
	return pdev_share(p, BAR_REGISTERS, PAGE, PAGE, &page, e);
}

int main(int argc, char **argv)
{
	static const struct vdev_option options[] = { { NULL, NULL, NULL } };
	static const struct pdev_ops pci = { .bar_read = ex_bar_read,
					     .bar_write = ex_bar_write,
					     .doorbell = ex_doorbell,
					     .reset = ex_reset,
					     .save = ex_save,
					     .load = ex_load };
	static const struct vdev_ops ops = { .program = "minivmm-pci-example",
					     .summary = "A PCI function with a DMA engine, for tests.",
					     .options = options,
					     .open = ex_open,
					     .pci = &pci };
	return vdev_main(&ops, argc, argv);
}
