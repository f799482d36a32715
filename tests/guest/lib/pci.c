// SPDX-License-Identifier: BSD-2-Clause
#include "pci.h"

uint32_t port_config_read(uint32_t address, unsigned offset, unsigned size)
{
	outl(0xcf8, address);
	uint16_t port = (uint16_t)(0xcfc + offset % 4);
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void port_config_write(uint32_t address, unsigned offset, unsigned size, uint32_t v)
{
	outl(0xcf8, address);
	uint16_t port = (uint16_t)(0xcfc + offset % 4);
	if (size == 1)
		outb(port, (uint8_t)v);
	else if (size == 2)
		outw(port, (uint16_t)v);
	else
		outl(port, v);
}

unsigned capability_find(unsigned slot, uint8_t id, unsigned from)
{
	unsigned at = config_read8(slot, from ? from + 1 : PCI_CAPS), seen = 0;
	for (; at >= 0x40 && seen < 48; seen++) {
		if (config_read8(slot, at) == id)
			return at;
		at = config_read8(slot, at + 1);
	}
	return 0;
}

uint64_t bar_get(unsigned slot, unsigned bar)
{
	uint32_t low = config_read32(slot, PCI_BAR0 + 4 * bar);
	uint64_t gpa = low & ~15u;
	if ((low & 7) == 4)
		gpa |= (uint64_t)config_read32(slot, PCI_BAR0 + 4 * bar + 4) << 32;
	return gpa;
}

void bar_set(unsigned slot, unsigned bar, uint64_t gpa)
{
	unsigned at = PCI_BAR0 + 4 * bar;
	if ((config_read32(slot, at) & 7) == 4)
		config_write32(slot, at + 4, (uint32_t)(gpa >> 32));
	config_write32(slot, at, (uint32_t)gpa);
}

uint64_t bar_size(unsigned slot, unsigned bar)
{
	unsigned at = PCI_BAR0 + 4 * bar;
	uint64_t old = bar_get(slot, bar);
	uint16_t command = config_read16(slot, PCI_COMMAND);
	config_write16(slot, PCI_COMMAND, (uint16_t)(command & ~COMMAND_MEMORY));
	bar_set(slot, bar, ~0ul);
	uint32_t low = config_read32(slot, at);
	uint64_t mask = low & ~15u;
	mask |= (low & 7) == 4 ? (uint64_t)config_read32(slot, at + 4) << 32 : 0xffffffff00000000ul;
	bar_set(slot, bar, old);
	config_write16(slot, PCI_COMMAND, command);
	return low ? ~mask + 1 : 0;
}
