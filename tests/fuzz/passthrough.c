// SPDX-License-Identifier: BSD-2-Clause
// A device whose configuration space says anything, made a passthrough function, and any sequence of accesses to its configuration space and
// its BARs: what may not reach the device does not, nothing of it is mapped that does not decode, and nothing is left at the end.
//
// An input is a byte N, N changes to the device of three bytes each (place, value), then accesses: a byte of kind and size, the place, the
// value.
#include "bridges/passthrough.h"
#include "tests/unit/fake_vfio.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/pci_host.h"
#include "vmm/pci_hotplug.h"

#define ECAM	   UINT64_C(0xe8000000)
#define WIN32	   UINT64_C(0xc0000000)
#define WIN32_SIZE UINT64_C(0x1000000)
#define WIN64	   UINT64_C(0x4000000000)
#define WIN64_SIZE UINT64_C(0x100000000)
#define HOTPLUG	   0x604
#define ALLOWED	   (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bus mmio, pio;
static struct pci_host host;
static struct loop loop;
static struct kvm kvm = { .fd = -1, .vm_fd = -1, .vfio_fd = -1 };
static struct irq irq;
static struct memmap memory;
static struct pci_hotplug hotplug;
static struct fake_link dev;
static struct pci_func *func;
static bool table_known; // it is where fake_vfio.h put it

static void require(bool good)
{
	if (!good)
		abort();
}

static void raise_nothing(void *owner)
{
	(void)owner;
}

static int make(void)
{
	const struct pci_hotplug_place place = { .bus = &pio, .at = HOTPLUG, .raise = raise_nothing };
	static const struct pci_window win32 = { WIN32, WIN32_SIZE }, win64 = { WIN64, WIN64_SIZE },
				       io = { 0x1000, 0x1000 };
	const struct passthrough_host h = { .kvm = &kvm, .irq = &irq, .loop = &loop, .memory = &memory };
	memory.ram.count = 1;
	memory.ram.region[0] = (struct mem_region){ .size = 0x1000000, .fd = -1 };
	bus_init(&mmio);
	bus_init(&pio);
	require(loop_init(&loop) == 0 && irq_init(&irq, &kvm, NULL) == 0);
	require(pci_host_init(&host, &mmio, &pio, ECAM, win32, win64, io, NULL) == 0);
	pci_host_set_intx(&host, 16, 8);
	int rc = passthrough_create(&func, &dev.link, &h, NULL);
	if (rc == 0 && (rc = pci_host_plug(&host, func, 1, NULL)) < 0)
		func->ops->destroy(func);
	return rc < 0 ? rc : pci_hotplug_start(&hotplug, &host, &place, &loop, NULL);
}

// What is shown lies where a BAR decodes; the device's command register is what the guest's says, as far as it may.
static void check(void)
{
	for (unsigned i = 0; i < fake.slot_count; i++) {
		bool found = false;
		for (unsigned b = 0; b < PCI_BARS; b++)
			found |= func->bar[b].mapped && fake.slot[i].where >= func->bar[b].range.start &&
				 fake.slot[i].where - func->bar[b].range.start < func->bar[b].size;
		require(found);
	}
	require(!(dev.command & ~ALLOWED) && !dev.slots_when_off);
	require(dev.dma_count == 1 && !fake.mistakes);
	for (unsigned i = 0; table_known && i < FV_MSIX_COUNT * 16; i++)
		require(dev.memory[3][FV_TABLE + i] == 0); // the table is ours
}

static void access_one(const uint8_t *d)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	const unsigned width = sizes[d[0] & 3];
	const uint64_t at = (d[1] | (uint64_t)d[2] << 8) & 0xfff;
	uint64_t val = d[4] | (uint64_t)d[5] << 8 | (uint64_t)d[6] << 16 | (uint64_t)d[7] << 24;
	const unsigned bar = d[3] % PCI_BARS;
	struct bus *bus = func->bar[bar].is_io ? &pio : &mmio;
	const uint64_t place = func->bar[bar].range.start + ((d[1] | (uint64_t)d[2] << 8) & 0x3fff);
	switch (d[0] >> 2 & 7) {
	case 0:
		bus_read(&mmio, ECAM + 0x8000 + at, width, &val);
		break;
	case 1:
	case 2:
	case 3:
		bus_write(&mmio, ECAM + 0x8000 + at, width, val);
		break;
	case 4:
		bus_read(bus, place, width, &val);
		break;
	case 5:
		bus_write(bus, place, width, val);
		break;
	case 6: // decode all
		bus_write(&mmio, ECAM + 0x8000 + PCI_COMMAND, 2, 7);
		break;
	default:
		if (d[1] == 0)
			pci_host_reset(&host);
		else if (d[1] == 1)
			fd_event_signal(dev.fd[VFIO_PCI_ERR_IRQ_INDEX + (d[2] & 1)][0]);
		else if (d[1] == 2)
			loop_once(&loop, 0);
		else if (d[1] == 0x80)
			bus_write(&pio, HOTPLUG, d[2] & 7 ? 4 : width, val);
		else if (d[1] == 0x82)
			bus_read(&pio, HOTPLUG, d[2] & 7 ? 4 : width, &val);
		else
			dev.fails_access = d[1] & 1;
	}
}

static void run(const uint8_t *data, size_t size)
{
	bool given_back = false;
	for (; size >= 8; data += 8, size -= 8) {
		access_one(data);
		given_back |= dev.closes > 0;
		if (given_back)
			continue;
		check();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	log_init("fuzz", LOG_ERROR);
	fake_reset();
	kvm.vm_fd = memfd_create("vm", MFD_CLOEXEC);
	fv_init(&dev);
	dev.link.pins_memory = true; // so that it may be wanted back
	unsigned changes = 0;
	if (size > 0) {
		changes = *data++;
		size--;
	}
	for (; changes > 0 && size >= 3; changes--, data += 3, size -= 3)
		dev.config[(data[0] | (unsigned)data[1] << 8) & 0xfff] = data[2];
	if (make() == 0) {
		table_known = func->writable[FV_MSIX + 3] == 0xc0 &&
			      pci_config_get16(func, FV_MSIX + PCI_MSIX_FLAGS) == FV_MSIX_COUNT - 1 &&
			      pci_config_get32(func, FV_MSIX + PCI_MSIX_TABLE) == (FV_TABLE | 3);
		run(data, size);
	}
	pci_host_destroy(&host);
	pci_hotplug_stop(&hotplug);
	require(!fake.mistakes && !fake.slot_count && !fake.irqfd_count && !dev.dma_count &&
		!dev.dma_mistakes);
	irq_destroy(&irq);
	loop_destroy(&loop);
	bus_destroy(&mmio);
	bus_destroy(&pio);
	close(kvm.vm_fd);
	fv_free(&dev);
	return 0;
}
