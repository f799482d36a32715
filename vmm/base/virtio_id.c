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
