// SPDX-License-Identifier: BSD-2-Clause
#include "vmm/base/virtio_id.h"

#include "vmm/base/check.h"

#include <stddef.h>
#include <string.h>

static const char *const names[VIRTIO_TYPE_MAX + 1] = {
	[VIRTIO_NET] = "net",
	[VIRTIO_BLK] = "blk",
	[VIRTIO_CONSOLE] = "console",
	[VIRTIO_RNG] = "rng",
	[5] = "balloon", // the traditional one; 13 was never specified
	[6] = "iomem",
	[7] = "rpmsg",
	[VIRTIO_SCSI] = "scsi",
	[9] = "9p",
	[10] = "wlan",
	[11] = "rproc-serial",
	[12] = "caif",
	[16] = "gpu",
	[17] = "clock",
	[18] = "input",
	[VIRTIO_VSOCK] = "vsock",
	[20] = "crypto",
	[21] = "signal",
	[22] = "pstore",
	[23] = "iommu",
	[24] = "mem",
	[25] = "sound",
	[26] = "fs",
	[27] = "pmem",
	[28] = "rpmb",
	[29] = "hwsim",
	[30] = "video-encoder",
	[31] = "video-decoder",
	[32] = "scmi",
	[33] = "nsm",
	[34] = "i2c",
	[35] = "watchdog",
	[36] = "can",
	[38] = "parameter",
	[39] = "audio-policy",
	[40] = "bluetooth",
	[41] = "gpio",
	[42] = "rdma",
	[43] = "camera",
	[44] = "ism",
	[45] = "spi",
};

uint16_t virtio_id_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (names[i] && strcmp(names[i], name) == 0)
			return (uint16_t)i;
	return 0;
}

const char *virtio_id_name(uint16_t type)
{
	return type < ARRAY_LEN(names) ? names[type] : NULL;
}

uint32_t virtio_id_pci_class(uint16_t type)
{
	switch (type) {
	case 1:
		return 0x020000; // network, Ethernet
	case 2:
	case 8:
	case 9:
	case 26:
		return 0x018000; // storage, other
	case 10:
	case 29:
		return 0x028000; // network, other
	case 3:
	case 11:
	case 19:
		return 0x078000; // communication, other
	case 16:
		return 0x038000; // display, other
	case 17:
		return 0x080300; // real-time clock
	case 18:
		return 0x098000; // input, other
	case 20:
		return 0x108000; // encryption, other
	case 23:
		return 0x080600; // IOMMU
	case 24:
	case 27:
		return 0x058000; // memory, other
	case 25:
		return 0x040100; // multimedia, audio
	case 30:
	case 31:
	case 43:
		return 0x040000; // multimedia, video
	case 34:
	case 45:
		return 0x0c8000; // serial bus, other
	case 36:
		return 0x0c0900; // CAN
	case 40:
		return 0x0d1100; // Bluetooth
	case 41:
		return 0x088000; // system peripheral, other
	default:
		return 0xff0000;
	}
}
