// SPDX-License-Identifier: BSD-2-Clause
// The part of the kernel's interface that headers before Linux 6.6 lack: a VFIO device by its own node, and IOMMUFD's address spaces.
#ifndef MINIVMM_BRIDGES_VFIO_IOMMUFD_H
#define MINIVMM_BRIDGES_VFIO_IOMMUFD_H

#include <linux/ioctl.h>
#include <stdint.h>

#define CDEV_BIND   _IO(';', 100 + 18) // VFIO_DEVICE_BIND_IOMMUFD
#define CDEV_ATTACH _IO(';', 100 + 19) // VFIO_DEVICE_ATTACH_IOMMUFD_PT

#define IOAS_ALLOC _IO(';', 0x81) // IOMMU_IOAS_ALLOC
#define IOAS_MAP   _IO(';', 0x85)
#define IOAS_UNMAP _IO(';', 0x86)

struct cdev_bind {
	uint32_t argsz, flags;
	int32_t iommufd;
	uint32_t out_devid;
};

struct cdev_attach {
	uint32_t argsz, flags;
	uint32_t pt_id; // an address space
};

struct ioas_alloc {
	uint32_t size, flags;
	uint32_t out_ioas_id;
};

#define IOAS_MAP_FIXED	  1u
#define IOAS_MAP_WRITABLE 2u
#define IOAS_MAP_READABLE 4u
struct ioas_map {
	uint32_t size, flags;
	uint32_t ioas_id, reserved;
	uint64_t user_va, length, iova;
};

struct ioas_unmap {
	uint32_t size, ioas_id;
	uint64_t iova, length;
};

#endif
