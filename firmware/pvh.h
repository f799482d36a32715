// SPDX-License-Identifier: BSD-2-Clause
// struct hvm_start_info version 1, with its module list and memory map (Xen,
// public/arch-x86/hvm/start_info.h).
#ifndef MINIVMM_FIRMWARE_PVH_H
#define MINIVMM_FIRMWARE_PVH_H

#include "firmware/e820.h"
#include "firmware/zeropage.h"

#include <stdint.h>

// Bytes that pvh_write() fills at most.
#define PVH_SIZE	(PVH_START_SIZE + PVH_MODULE_SIZE + E820_MAX * PVH_ENTRY_SIZE)
#define PVH_START_SIZE	56 // struct hvm_start_info, then of a module, of an entry of the memory map
#define PVH_MODULE_SIZE 32
#define PVH_ENTRY_SIZE	24

// Writes the structures one after the other, PVH_SIZE bytes; `gpa` is where the guest sees `buf`.
void pvh_write(uint8_t *buf, uint64_t gpa, const struct handover *h, const struct e820_map *map);

#endif
