// SPDX-License-Identifier: BSD-2-Clause
// The names of the virtio device types (virtio 1.2 §5).
#ifndef MINIVMM_BASE_VIRTIO_ID_H
#define MINIVMM_BASE_VIRTIO_ID_H

#include <stdint.h>

enum virtio_id {
	VIRTIO_NET = 1,
	VIRTIO_BLK = 2,
	VIRTIO_CONSOLE = 3,
	VIRTIO_RNG = 4,
	VIRTIO_SCSI = 8,
	VIRTIO_VSOCK = 19,
	VIRTIO_FS = 26,
};

// PCI device ids 0x1040 to 0x107f have room for no more (virtio 1.2 §4.1.2).
#define VIRTIO_TYPE_MAX 63

// The type with a name, or 0.
uint16_t virtio_id_by_name(const char *name);

// The name of a type, or NULL where it has none here.  Static.
const char *virtio_id_name(uint16_t type);

// The PCI class code of a type: what a guest shows in lspci, and how some loaders pick a disk.
uint32_t virtio_id_pci_class(uint16_t type);

#endif
