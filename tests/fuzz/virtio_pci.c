// SPDX-License-Identifier: BSD-2-Clause
// Any sequence of accesses by a guest, and of faults behind its back, to a virtio function on a PCI bus: nothing reaches the back-end
// that must not, KVM is never asked for what it would refuse, and a reset always brings the device back to rest.
//
// An input is a list of commands: one byte says which, its operands follow.
#include "vmm/virtio_pci.h"
#include "tests/unit/fake_backend.h"
#include "tests/unit/fake_kvm.h"
#include "vmm/base/log.h"
#include "vmm/pci_host.h"
#include "vmm/base/virtio_pci_regs.h"

#include <linux/pci_regs.h>
#include <stdlib.h>

#define ECAM  UINT64_C(0xe8000000)
#define WIN32 UINT64_C(0xc0000000)
#define HIGH  (UINT64_C(1) << 32)
#define LOW   (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *next, *end;

static uint64_t take(unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)(next < end ? *next++ : 0) << (8 * i);
	return v;
}

static struct bus mmio, pio;
static struct pci_host host;
static struct kvm kvm = { .fd = -1, .vm_fd = -1 };
static struct irq irq;
static struct memmap memory;
static struct fake_backend fb;

static void require(bool good)
{
	if (!good)
		abort();
}

static void make(void)
{
	static const struct pci_window win32 = { WIN32, 0x1000000 }, none;
	const struct virtio_pci_host vh = { .kvm = &kvm, .irq = &irq, .memory = &memory };
	struct pci_func *f;
	fake_reset();
	bus_init(&mmio);
	bus_init(&pio);
	require(irq_init(&irq, &kvm, NULL) == 0);
	require(pci_host_init(&host, &mmio, &pio, ECAM, win32, none, none, NULL) == 0);
	fb_init(&fb, &memory, 3, 24);
	require(virtio_pci_create(&f, &fb.b, &vh, NULL) == 0);
	require(pci_host_plug(&host, f, 1, NULL) == 0);
	bus_write(&mmio, ECAM + 0x8000 + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
}

// A driver's whole start, so that what lies behind it is reached soon.
static void drive(uint8_t how)
{
	static const uint8_t steps[] = { 0, 1, 3, 0x0b };
	uint64_t bar = host.func[1]->bar[0].range.start;
	for (size_t i = 0; i < sizeof(steps); i++) {
		if (steps[i] == 0x0b) {
			bus_write(&mmio, bar + VC_DRIVER_FEATURE_SELECT, 4, 1);
			bus_write(&mmio, bar + VC_DRIVER_FEATURE, 4, 1);
		}
		bus_write(&mmio, bar + VC_DEVICE_STATUS, 1, steps[i]);
	}
	for (unsigned q = 0; q < 3; q++) {
		if (!(how >> q & 1))
			continue;
		bus_write(&mmio, bar + VC_QUEUE_SELECT, 2, q);
		bus_write(&mmio, bar + VC_QUEUE_MSIX_VECTOR, 2, how >> 4 & 3);
		bus_write(&mmio, bar + VC_QUEUE_DESC, 8, 0x4000 * q);
		bus_write(&mmio, bar + VC_QUEUE_DRIVER, 8, 0x4000 * q + 0x1000);
		bus_write(&mmio, bar + VC_QUEUE_DEVICE, 8, 0x4000 * q + 0x2000);
		bus_write(&mmio, bar + VC_QUEUE_ENABLE, 2, 1);
	}
	if (how & 8)
		bus_write(&mmio, bar + VC_DEVICE_STATUS, 1, 0x0f);
}

static const unsigned sizes[] = { 1, 2, 4, 8 };

static void command(uint8_t op)
{
	unsigned width = sizes[op >> 4 & 3];
	uint64_t bar = host.func[1]->bar[0].range.start, val;
	switch (op & 15) {
	case 0:
		val = take(1);
		bus_write(&mmio, ECAM + 0x8000 + val, width, take(width));
		return;
	case 1:
		bus_read(&mmio, ECAM + 0x8000 + take(1), width, &val);
		return;
	case 2: // the common registers
		val = take(1) & 0x3f;
		bus_write(&mmio, bar + val, width, take(width));
		return;
	case 3:
		val = take(2);
		bus_write(&mmio, bar + val, width, take(width));
		return;
	case 4:
		bus_read(&mmio, bar + take(2), width, &val);
		return;
	case 5: // the MSI-X table
		val = take(1) & 0x3f;
		bus_write(&mmio, bar + VP_MSIX_TABLE + val, width, take(width));
		return;
	case 6:
		bus_write(&pio, 0xcf8 + (take(1) & 7), width, take(width));
		return;
	case 7:
		bus_read(&pio, 0xcf8 + (take(1) & 7), width, &val);
		return;
	case 8:
		drive((uint8_t)take(1));
		return;
	case 9:
		fb.fail = (enum fb_op)(take(1) % FB_OPS);
		fb.fail_queue = op >> 4 & 3;
		fb.die_on_fail = op >> 6 & 1;
		return;
	case 10:
		fb.dead = false;
		return;
	case 11:
		fb.b.events->config_changed(fb.b.owner);
		return;
	case 12:
		fb.b.events->queue_failed(fb.b.owner);
		return;
	case 13:
		fb.b.events->died(fb.b.owner, "fuzz");
		return;
	case 14: // of KVM only the making of something fails, never its end
		pci_host_reset(&host);
		irq_reset(&irq);
		bus_write(&mmio, ECAM + 0x8000 + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
		return;
	default: // an address for a vector, unmasked
		bus_write(&mmio, bar + VP_MSIX_TABLE + 16 * (op >> 4 & 3), 8, 0xfee00000);
		bus_write(&mmio, bar + VP_MSIX_TABLE + 16 * (op >> 4 & 3) + 8, 8, take(1));
		return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!memory.ram.count) {
		log_init("fuzz", LOG_ERROR);
		require(memmap_create(&memory, 2 * LOW, MEM_BACKING_MEMFD, LOW, HIGH, NULL) == 0);
	}
	next = data;
	end = data + size;
	make();
	while (next < end)
		command((uint8_t)take(1));
	fb.fail = FB_NONE;
	pci_host_reset(&host);
	require(fake.doorbell_count == 0 && fake.irqfd_count == 0 && !fb.started[0] && !fb.started[1] &&
		!fb.started[2]);
	pci_host_destroy(&host);
	require(fb.closed && fb.mistakes == 0 && fake.mistakes == 0);
	irq_destroy(&irq);
	bus_destroy(&mmio);
	bus_destroy(&pio);
	return 0;
}
