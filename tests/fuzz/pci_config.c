// SPDX-License-Identifier: BSD-2-Clause
// Any sequence of configuration accesses, by both mechanisms, to a bus of functions with all kinds of BARs: read-only bits stay, BARs lie
// within the windows and nowhere twice, and every function knows where its BARs are.
//
// An input is a list of accesses: a byte of kind and size, the place, the value.
#include "vmm/base/check.h"
#include "vmm/base/log.h"
#include "vmm/pci_host.h"

#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#define ECAM	   UINT64_C(0xe8000000)
#define WIN32	   UINT64_C(0xc0000000)
#define WIN32_SIZE UINT64_C(0x1000000)
#define WIN64	   UINT64_C(0x4000000000)
#define WIN64_SIZE UINT64_C(0x100000000)
#define FUNCTIONS  3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bus mmio, pio;
static struct pci_host host;

struct noted {
	struct pci_func func;
	uint64_t mapped_at[PCI_BARS];
};

static void require(bool good)
{
	if (!good)
		abort();
}

static void config_read(struct pci_func *f, unsigned offset, unsigned size, uint32_t *val)
{
	(void)f, (void)val;
	require(range_in(offset, size, PCI_CONFIG_SIZE));
}

static void config_write(struct pci_func *f, unsigned offset, unsigned size, uint32_t val)
{
	(void)f, (void)val;
	require(range_in(offset, size, PCI_CONFIG_SIZE));
}

static void bar_read(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t *val)
{
	require(range_in(offset, size, f->bar[bar].size));
	*val = 0;
}

static void bar_write(struct pci_func *f, unsigned bar, uint64_t offset, unsigned size, uint64_t val)
{
	(void)val;
	require(range_in(offset, size, f->bar[bar].size));
}

static void bar_moved(struct pci_func *f, unsigned bar, uint64_t gpa, bool mapped)
{
	struct noted *n = CONTAINER_OF(f, struct noted, func);
	uint64_t size = f->bar[bar].size;
	require(mapped ? !n->mapped_at[bar] : n->mapped_at[bar] == gpa);
	require(gpa % size == 0);
	require((gpa >= WIN32 && range_in(gpa - WIN32, size, WIN32_SIZE)) ||
		(f->bar[bar].is_64bit && gpa >= WIN64 && range_in(gpa - WIN64, size, WIN64_SIZE)));
	n->mapped_at[bar] = mapped ? gpa : 0;
}

static void ignore(struct pci_func *f)
{
	(void)f;
}

static void ignore_event(struct pci_func *f, unsigned bits)
{
	(void)f, (void)bits;
}

static const struct pci_func_ops ops = {
	.config_read = config_read,
	.config_write = config_write,
	.bar_read = bar_read,
	.bar_write = bar_write,
	.bar_moved = bar_moved,
	.event = ignore_event,
	.reset = ignore,
	.destroy = ignore,
};

static struct noted noted[FUNCTIONS];

static void make(void)
{
	static const struct pci_window win32 = { WIN32, WIN32_SIZE }, win64 = { WIN64, WIN64_SIZE }, none;
	bus_init(&mmio);
	bus_init(&pio);
	require(pci_host_init(&host, &mmio, &pio, ECAM, win32, win64, none, NULL) == 0);
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		struct pci_func *f = &noted[i].func;
		memset(&noted[i], 0, sizeof(noted[i]));
		pci_func_init(f, &ops, "f", 0x1234, (uint16_t)i, 0xff0000);
		pci_func_add_bar(f, 0, 16, false, false);
		pci_func_add_bar(f, 1, 0x10000, true, false);
		pci_func_add_bar(f, 3, 0x1000, false, false);
		pci_func_add_bar(f, 4, 0x800000, true, true);
		pci_func_add_capability(f, PCI_CAP_ID_VNDR, 20);
		require(pci_host_plug(&host, f, -1, NULL) == 0);
	}
}

// The bus holds exactly what is mapped, in order and without overlap.
static void check(void)
{
	unsigned mapped = 0;
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		const struct pci_func *f = &noted[i].func;
		for (unsigned b = 0; b < PCI_BARS; b++) {
			require(f->bar[b].mapped == (noted[i].mapped_at[b] != 0));
			mapped += f->bar[b].mapped;
		}
		for (unsigned o = 0; o < PCI_CONFIG_SIZE; o++)
			require(!((f->config[o] ^ f->initial[o]) & ~f->writable[o]));
	}
	require(mmio.count == 1 + mapped);
	for (unsigned i = 1; i < mmio.count; i++)
		require(mmio.range[i]->start - mmio.range[i - 1]->start >= mmio.range[i - 1]->size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	log_init("fuzz", LOG_ERROR);
	make();
	for (; size >= 8; data += 8, size -= 8) {
		unsigned width = sizes[data[0] & 3];
		uint64_t where = data[1] | (uint64_t)(data[2] & 7) << 15 | (uint64_t)(data[2] & 0xc0) << 2,
			 val = 0;
		for (unsigned i = 0; i < 4; i++)
			val |= (uint64_t)data[4 + i] << (8 * i);
		if (data[3] & 1) // the top of a window, for short
			val = (val & 0xffff) << 16 | 0xc0000000;
		switch (data[0] >> 2 & 7) {
		case 0:
			bus_read(&mmio, ECAM + where, width, &val);
			break;
		case 1:
		case 2:
		case 3:
			bus_write(&mmio, ECAM + where, width, val);
			break;
		case 4:
			bus_write(&pio, 0xcf8, 4, val | 0x80000000);
			break;
		case 5:
			bus_write(&pio, 0xcf8 + (data[1] & 7), width, val);
			break;
		case 6:
			bus_read(&mmio, data[3] & 2 ? WIN64 + val : val, width, &val);
			break;
		default:
			if (data[1] == 0xff)
				pci_host_reset(&host);
			else
				bus_write(&mmio, data[3] & 2 ? WIN64 + val : val, width, where);
		}
		check();
	}
	pci_host_destroy(&host);
	require(mmio.count == 0 && pio.count == 0);
	bus_destroy(&mmio);
	bus_destroy(&pio);
	return 0;
}
