// SPDX-License-Identifier: BSD-2-Clause
// PCI configuration by ports and by ECAM, capabilities, BARs, MSI-X.
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include "guest.h"

#define ECAM_BASE      0xe8000000ul
#define WINDOW32_START 0xc0000000ul
#define WINDOW32_END   0xe8000000ul

#define PCI_VENDOR     0x00
#define PCI_DEVICE     0x02
#define PCI_COMMAND    0x04
#define PCI_STATUS     0x06
#define PCI_CLASS      0x08
#define PCI_BAR0       0x10
#define PCI_CAPS       0x34
#define COMMAND_MEMORY 2
#define COMMAND_MASTER 4

#define CAP_VENDOR 0x09
#define CAP_MSIX   0x11

#define MSIX_ENABLE 0x8000
#define MSIX_MASK   0x4000

static inline uint64_t ecam(unsigned slot, unsigned function, unsigned offset)
{
	return ECAM_BASE + ((uint64_t)slot << 15 | (uint64_t)function << 12 | offset);
}

static inline uint32_t pci_address(unsigned bus, unsigned slot, unsigned function, unsigned offset)
{
	return 0x80000000u | bus << 16 | slot << 11 | function << 8 | (offset & 0xfc);
}

// By ports 0xcf8 and 0xcfc.
uint32_t port_config_read(uint32_t address, unsigned offset, unsigned size);
void port_config_write(uint32_t address, unsigned offset, unsigned size, uint32_t v);

// By ECAM, function 0.
static inline uint8_t config_read8(unsigned slot, unsigned offset)
{
	return read8(ecam(slot, 0, offset));
}
static inline uint16_t config_read16(unsigned slot, unsigned offset)
{
	return read16(ecam(slot, 0, offset));
}
static inline uint32_t config_read32(unsigned slot, unsigned offset)
{
	return read32(ecam(slot, 0, offset));
}
static inline void config_write8(unsigned slot, unsigned offset, uint8_t v)
{
	write8(ecam(slot, 0, offset), v);
}
static inline void config_write16(unsigned slot, unsigned offset, uint16_t v)
{
	write16(ecam(slot, 0, offset), v);
}
static inline void config_write32(unsigned slot, unsigned offset, uint32_t v)
{
	write32(ecam(slot, 0, offset), v);
}

// The next capability of that kind after offset `from` (0: the first one); 0 if there is none.
unsigned capability_find(unsigned slot, uint8_t id, unsigned from);

uint64_t bar_get(unsigned slot, unsigned bar);
void bar_set(unsigned slot, unsigned bar, uint64_t gpa); // a 64-bit one: upper half first
uint64_t bar_size(unsigned slot, unsigned bar);		 // by writing all ones; restores it

#endif
