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
#include <string.h>

#define PAGE 4096u

enum {			     // registers of BAR 0, each of its own width
	REG_ID = 0x00,	     // 4, read-only
	REG_ADDRESS = 0x08,  // 8: of the guest's memory
	REG_OFFSET = 0x10,   // 4: in the shared page
	REG_LENGTH = 0x14,   // 4
	REG_CONTROL = 0x18,  // 4: 0 from the guest's memory to the page, 1 from there to it
	REG_STATUS = 0x1c,   // 4: of the last copy; a write takes the interrupt back
	REG_DOORBELL = 0x20, // 4: any value starts one
};

enum { STATUS_IDLE, STATUS_DONE, STATUS_FAILED };
enum { BAR_REGISTERS = 0, BAR_PORTS = 2, BAR_MSIX = 4 };

static struct {
	uint64_t address;
	uint32_t offset, length, control, status;
	uint8_t port[16];
	uint8_t *page;
} ex;

static void copy(struct pdev *p)
{
	// What the driver wrote is looked at once, here: the page's own bounds by us, the guest's memory by the SDK.
	int rc = -EINVAL;
	if (range_in(ex.offset, ex.length, PAGE))
		rc = ex.control & 1 ? pdev_dma_write(p, ex.address, ex.page + ex.offset, ex.length)
				    : pdev_dma_read(p, ex.address, ex.page + ex.offset, ex.length);
	ex.status = rc == 0 ? STATUS_DONE : STATUS_FAILED;
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

static uint64_t ex_bar_read(struct pdev *p, unsigned bar, uint64_t offset, unsigned size)
{
	uint64_t val = 0;
	(void)p;
	if (bar == BAR_PORTS)
		memcpy(&val, ex.port + offset, size);
	else if (bar == BAR_REGISTERS && offset >= PAGE) // from a client that does not map it
		memcpy(&val, ex.page + (offset - PAGE), size);
	else if (bar == BAR_REGISTERS && offset == REG_ADDRESS && size == 8)
		val = ex.address;
	else if (bar == BAR_REGISTERS && size == 4)
		val = offset == REG_ID		  ? 0x31584550 // "PEX1"
		      : offset == REG_ADDRESS	  ? (uint32_t)ex.address
		      : offset == REG_ADDRESS + 4 ? ex.address >> 32
		      : offset == REG_OFFSET	  ? ex.offset
		      : offset == REG_LENGTH	  ? ex.length
		      : offset == REG_CONTROL	  ? ex.control
		      : offset == REG_STATUS	  ? ex.status
						  : 0;
	return val;
}

static void register_write(struct pdev *p, uint64_t offset, uint32_t val)
{
	if (offset == REG_ADDRESS) {
		ex.address = (ex.address & ~(uint64_t)UINT32_MAX) | val;
	} else if (offset == REG_ADDRESS + 4) {
		ex.address = (uint32_t)ex.address | (uint64_t)val << 32;
	} else if (offset == REG_OFFSET) {
		ex.offset = val;
	} else if (offset == REG_LENGTH) {
		ex.length = val;
	} else if (offset == REG_CONTROL) {
		ex.control = val;
	} else if (offset == REG_STATUS) {
		ex.status = STATUS_IDLE;
		pdev_set_intx(p, false);
	}
}

static void ex_bar_write(struct pdev *p, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	if (bar == BAR_PORTS)
		memcpy(ex.port + offset, &val, size);
	else if (bar == BAR_REGISTERS && offset >= PAGE)
		memcpy(ex.page + (offset - PAGE), &val, size);
	else if (bar == BAR_REGISTERS && offset == REG_ADDRESS && size == 8)
		ex.address = val;
	else if (bar == BAR_REGISTERS && size == 4)
		register_write(p, offset, (uint32_t)val);
}

static void ex_reset(struct pdev *p)
{
	(void)p;
	uint8_t *page = ex.page;
	memset(page, 0, PAGE);
	memset(&ex, 0, sizeof(ex));
	ex.page = page;
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
	pdev_add_doorbell(p, BAR_REGISTERS, REG_DOORBELL, 4);
	return pdev_share(p, BAR_REGISTERS, PAGE, PAGE, &ex.page, e);
}

int main(int argc, char **argv)
{
	static const struct vdev_option options[] = { { NULL, NULL, NULL } };
	static const struct pdev_ops pci = {
		.bar_read = ex_bar_read, .bar_write = ex_bar_write, .doorbell = ex_doorbell, .reset = ex_reset
	};
	static const struct vdev_ops ops = { .program = "minivmm-pci-example",
					     .summary = "A PCI function with a DMA engine, for tests.",
					     .options = options,
					     .open = ex_open,
					     .pci = &pci };
	return vdev_main(&ops, argc, argv);
}
